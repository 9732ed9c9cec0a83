//! Against a small xenstored behind a real socket, which closes it or refuses things when it is told to.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vd_xenbus::ring::{Consumer, Producer, XENSTORE_REQ, XENSTORE_RSP};
use vd_xenbus::test_util::{FakePage, FakeXenstored};

use super::{Channel, Daemon};
use crate::host::{Change, Store};
use crate::testing::TempDir;

/// A daemon in a thread, until its client hangs up; then what `look` finds in it can be had.
struct Served<T> {
    path: PathBuf,
    thread: JoinHandle<T>,
    _directory: TempDir,
}

fn serve<T: Send + 'static>(
    name: &str,
    prepare: impl FnOnce(&mut FakeXenstored) + Send + 'static,
    mut each_time: impl FnMut(&mut FakeXenstored) + Send + 'static,
    look: impl FnOnce(FakeXenstored) -> T + Send + 'static,
) -> Served<T> {
    let directory = TempDir::new(name);
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let page = Rc::new(FakePage::new());
        let mut daemon = FakeXenstored::new(page.clone(), 0);
        prepare(&mut daemon);
        let mut requests = Producer::attach(&*page, XENSTORE_REQ);
        let mut replies = Consumer::attach(&*page, XENSTORE_RSP);
        let (mut client, _) = listener.accept().unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        let mut bytes = [0; 512];
        loop {
            match client.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => {
                    let mut rest = &bytes[..count];
                    while !rest.is_empty() {
                        let taken = requests.write(&*page, rest).unwrap();
                        rest = &rest[taken..];
                        daemon.run();
                    }
                }
                // Nothing came in that time.
                Err(_) => each_time(&mut daemon),
            }
            daemon.run();
            while let Ok(count @ 1..) = replies.read(&*page, &mut bytes) {
                client.write_all(&bytes[..count]).unwrap();
                daemon.run();
            }
        }
        look(daemon)
    });
    Served {
        path,
        thread,
        _directory: directory,
    }
}

impl<T> Served<T> {
    fn connect(&self) -> Daemon {
        Daemon {
            store: vd_xenbus::store::Xenstore::new(Channel::open(&self.path).unwrap()),
            watching: false,
        }
    }

    fn end(self, client: Daemon) -> T {
        drop(client);
        self.thread.join().unwrap()
    }
}

#[test]
fn what_is_not_there_is_nothing() {
    let prepare = |daemon: &mut FakeXenstored| daemon.set("/local/domain/7/name", b"guest");
    let served = serve("xenstore-read", prepare, |_| (), drop);
    let mut store = served.connect();
    assert_eq!(
        store.read("/local/domain/7/name"),
        Ok(Some(b"guest".to_vec()))
    );
    assert_eq!(store.read("/local/domain/8/name"), Ok(None));
    assert_eq!(
        store.list("/local/domain"),
        Ok(vec!["0".into(), "7".into()])
    );
    assert_eq!(store.list("/local/domain/8"), Ok(Vec::new()));
    served.end(store);
}

#[test]
fn changes_are_made_together_also_when_others_come_between() {
    let prepare = |daemon: &mut FakeXenstored| {
        daemon.set("/old", b"1");
        daemon.collisions = 2;
    };
    let served = serve(
        "xenstore-change",
        prepare,
        |_| (),
        |daemon| {
            (
                daemon.get("/old"),
                daemon.get("/new/key"),
                daemon.perms("/new"),
                daemon.transaction_count(),
            )
        },
    );
    let mut store = served.connect();
    let changes = [
        Change::Remove("/old".into()),
        Change::Remove("/never".into()),
        Change::Directory {
            path: "/new".into(),
            owner: 3,
            reader: 5,
        },
        Change::Write {
            path: "/new/key".into(),
            value: "value".into(),
        },
    ];
    assert_eq!(store.change(&changes), Ok(()));
    let (old, new, perms, open) = served.end(store);
    assert_eq!((old, new, open), (None, Some(b"value".to_vec()), 0));
    assert_eq!(perms.as_deref(), Some(&b"n3\0r5\0"[..]));
}

#[test]
fn a_refusal_says_what_to_do_and_changes_nothing() {
    let prepare = |daemon: &mut FakeXenstored| daemon.forbidden.push("/private".into());
    let served = serve(
        "xenstore-refused",
        prepare,
        |_| (),
        |daemon| daemon.get("/first"),
    );
    let mut store = served.connect();
    let write = |path: &str| Change::Write {
        path: path.into(),
        value: "1".into(),
    };
    let trouble = store
        .change(&[write("/first"), write("/private/key")])
        .unwrap_err();
    assert_eq!(
        trouble.remedy, "run vdom as root in dom0",
        "{}",
        trouble.what
    );
    assert_eq!(store.read("/private").unwrap_err().remedy, trouble.remedy);
    assert_eq!(served.end(store), None);
}

#[test]
fn a_daemon_that_goes_is_reported() {
    let directory = TempDir::new("xenstore-gone");
    let path = directory.path().join("socket");
    assert!(Channel::open(&path).is_err(), "nobody listens");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || drop(listener.accept()));
    let mut store = Daemon {
        store: vd_xenbus::store::Xenstore::new(Channel::open(&path).unwrap()),
        watching: false,
    };
    thread.join().unwrap();
    let trouble = store.read("/local").unwrap_err();
    assert!(
        trouble.remedy.contains("xenstored is running"),
        "{trouble:?}"
    );
}

#[test]
fn the_end_of_a_domain_is_waited_for() {
    const LONG: Duration = Duration::from_secs(60);
    let mut fired = false;
    let fire = move |daemon: &mut FakeXenstored| {
        if daemon.watch_count() == 1 && !fired {
            fired = true;
            daemon.set("@releaseDomain", b"");
        }
    };
    let served = serve("xenstore-wait", |_| (), fire, |daemon| daemon.watch_count());
    let mut store = served.connect();
    let began = Instant::now();
    // The watch fires when it is set, and once more.
    assert_eq!(store.wait_for_an_end(LONG), Ok(()));
    assert_eq!(store.wait_for_an_end(LONG), Ok(()));
    assert!(began.elapsed() < LONG, "it was not told");
    // Nothing more comes.
    assert_eq!(store.wait_for_an_end(Duration::from_millis(20)), Ok(()));
    assert_eq!(served.end(store), 1, "watches that were set");
}
