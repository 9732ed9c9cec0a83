//! The xenstore client against a well-behaved daemon, over the real ring layout.

use std::cell::RefCell;
use std::rc::Rc;

use vd_xenbus::store::{MAX_ATTEMPTS, Perm, PermAccess};
use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};
use vd_xenbus::{Error, Failure, Op, RingTransport, WatchEvent, Xenstore, XsError};

type Store = Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>;

fn connect() -> (Store, Rc<RefCell<FakeXenstored>>) {
    let page = Rc::new(FakePage::new());
    let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
    (
        Xenstore::new(RingTransport::attach(page, FakeSignal::new(daemon.clone()))),
        daemon,
    )
}

fn event(path: &str, token: &str) -> Option<WatchEvent> {
    Some(WatchEvent {
        path: path.into(),
        token: token.into(),
    })
}

/// Lets the daemon run and takes what has come in.
fn next(store: &mut Store, daemon: &RefCell<FakeXenstored>) -> Option<WatchEvent> {
    daemon.borrow_mut().run();
    store.next_watch().unwrap()
}

#[test]
fn reads_and_writes() {
    let (mut store, daemon) = connect();
    store
        .write("virtio-domain/status/state", b"waiting")
        .unwrap();
    assert_eq!(
        daemon
            .borrow()
            .get("/local/domain/5/virtio-domain/status/state")
            .unwrap(),
        b"waiting"
    );
    assert_eq!(
        store.read_string("virtio-domain/status/state", 16).unwrap(),
        "waiting"
    );
    assert_eq!(
        store.read("virtio-domain").unwrap(),
        b"",
        "parents are made"
    );
    store.mkdir("virtio-domain/empty").unwrap();
    assert!(store.view().exists("virtio-domain/empty").unwrap());
    assert_eq!(
        store.directory("virtio-domain").unwrap(),
        ["empty", "status"]
    );
    store.rm("virtio-domain/status").unwrap();
    assert!(!store.view().exists("virtio-domain/status/state").unwrap());
    assert_eq!(store.directory("virtio-domain/empty").unwrap(), [""; 0]);
    assert_eq!(store.get_domain_path(9).unwrap(), "/local/domain/9");
}

#[test]
fn refusals_name_operation_path_and_reason() {
    let (mut store, daemon) = connect();
    let error = store.read("nothing/here").unwrap_err();
    let expected = Failure::Refused {
        op: Op::Read,
        path: "nothing/here".into(),
        error: XsError::ENOENT,
    }
    .into();
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "xenstore: Read nothing/here: ENOENT");
    daemon.borrow_mut().forbidden.push("/local/domain/0".into());
    assert_eq!(
        store
            .write("/local/domain/0/x", b"1")
            .unwrap_err()
            .refusal(),
        Some(XsError::EACCES)
    );
}

#[test]
fn permissions_go_both_ways() {
    let (mut store, _) = connect();
    store.write("a", b"1").unwrap();
    let perms = [
        Perm {
            access: PermAccess::None,
            domain: 5,
        },
        Perm {
            access: PermAccess::Read,
            domain: 0,
        },
        Perm {
            access: PermAccess::Both,
            domain: 65535,
        },
        Perm {
            access: PermAccess::Write,
            domain: 1,
        },
    ];
    store.view().set_perms("a", &perms).unwrap();
    assert_eq!(store.view().get_perms("a").unwrap(), perms);
}

/// Case 37: values that are not what they should be.
#[test]
fn row37_values_are_checked() {
    let (mut store, daemon) = connect();
    let bad: [&[u8]; 9] = [
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1 ",
        b"0x10",
        b"4294967296",
        b"1\n",
        "\u{0661}".as_bytes(),
    ];
    for value in bad {
        daemon.borrow_mut().set("n", value);
        assert!(
            matches!(
                store.read_number::<u32>("n").map_err(Failure::from),
                Err(Failure::BadValue { .. })
            ),
            "{value:?}"
        );
    }
    daemon.borrow_mut().set("n", b"65536");
    assert!(matches!(
        store.read_number::<u16>("n").map_err(Failure::from),
        Err(Failure::BadValue { .. })
    ));
    assert_eq!(store.read_number::<u32>("n"), Ok(65536));
    daemon.borrow_mut().set("text", &[0x66, 0xff, 0xfe]);
    assert!(matches!(
        store.read_string("text", 100).map_err(Failure::from),
        Err(Failure::BadValue { .. })
    ));
    daemon.borrow_mut().set("text", &[b'a'; 101]);
    assert_eq!(
        store.read_string("text", 100),
        Err(Failure::TooLarge {
            path: "text".into()
        }
        .into())
    );
    assert_eq!(store.read_string("text", 101).unwrap().len(), 101);
}

#[test]
fn the_largest_messages_fit_through_the_ring() {
    let (mut store, daemon) = connect();
    let value = vec![b'v'; 4096 - 2];
    store.write("v", &value).unwrap();
    assert_eq!(store.read("v").unwrap(), value);
    daemon.borrow_mut().set("w", &vec![b'w'; 4096]);
    assert_eq!(store.read("w").unwrap().len(), 4096);
    let error = store.write("v", &vec![b'v'; 4095]).unwrap_err();
    assert_eq!(
        error,
        Failure::BadRequest {
            op: Op::Write,
            path: "v".into()
        }
        .into(),
        "never sent: it would kill the connection"
    );
    assert_eq!(store.read("v").unwrap(), value);
}

#[test]
fn row37_bad_paths_are_not_sent() {
    let (mut store, daemon) = connect();
    let long = "x".repeat(2049);
    for path in [
        "",
        "a//b",
        "a/",
        "a b",
        "a\0b",
        "a.b",
        "\u{e9}",
        &long,
        &format!("/{}", "x".repeat(3072)),
    ] {
        let bad = |result: Result<(), Error>| {
            assert!(
                matches!(
                    result.map_err(Failure::from),
                    Err(Failure::BadRequest { .. })
                ),
                "{path:?}"
            )
        };
        bad(store.read(path).map(drop));
        bad(store.write(path, b""));
        bad(store.watch(path, "t"));
        bad(store.directory(path).map(drop));
    }
    assert!(matches!(
        store.watch("a", "to\0ken").map_err(Failure::from),
        Err(Failure::BadRequest { .. })
    ));
    assert_eq!(daemon.borrow().seen, []);
    let longest = "x".repeat(2048);
    store.write(&longest, b"").unwrap();
    assert_eq!(store.directory("/").unwrap(), ["local"]);
}

/// Replies in pieces of any size make the same replies.
#[test]
fn row37_split_replies() {
    for chunk in [1, 2, 7, 15, 16, 17, 100] {
        let (mut store, daemon) = connect();
        daemon.borrow_mut().chunk = chunk;
        daemon.borrow_mut().set("v", &[b'v'; 300]);
        store.watch("v", "token").unwrap();
        assert_eq!(
            store.read("v").unwrap(),
            [b'v'; 300],
            "{chunk} bytes at a time"
        );
        assert_eq!(next(&mut store, &daemon), event("v", "token"));
    }
}

#[test]
fn long_directories_come_in_parts() {
    let (mut store, daemon) = connect();
    let names: Vec<String> = (0..1000).map(|n| format!("child-{n:04}")).collect();
    names
        .iter()
        .for_each(|name| daemon.borrow_mut().set(&format!("many/{name}"), b""));
    assert_eq!(store.directory("many").unwrap(), names);
    assert!(daemon.borrow().seen.contains(&Op::DirectoryPart));
}

/// A directory that changes between two parts is read again from the start.
#[test]
fn row37_directory_that_changes_between_parts() {
    let (mut store, daemon) = connect();
    (0..1000).for_each(|n| daemon.borrow_mut().set(&format!("many/c{n:04}"), b""));
    let mut calls = 0;
    daemon.borrow_mut().between_parts = Some(Box::new(move || {
        calls += 1;
        (calls == 2).then(|| "many/aaa".into())
    }));
    let names = store.directory("many").unwrap();
    assert_eq!((names.len(), names[0].as_str()), (1001, "aaa"));
    let mut calls = 0;
    daemon.borrow_mut().between_parts = Some(Box::new(move || {
        calls += 1;
        Some(format!("many/z{calls}"))
    }));
    let attempts = MAX_ATTEMPTS;
    let result = store.directory("many");
    assert_eq!(
        result,
        Err(Failure::Conflict { attempts }.into()),
        "not for ever"
    );
}

#[test]
fn transactions_are_atomic() {
    let (mut store, daemon) = connect();
    let seen = daemon.clone();
    let result = store.transaction(|tx| {
        tx.write("a", b"1")?;
        assert_eq!(tx.read("a")?, b"1");
        assert_eq!(seen.borrow().get("a"), None, "not visible before the end");
        Ok(42)
    });
    assert_eq!(result, Ok(42));
    assert_eq!(daemon.borrow().get("a").unwrap(), b"1");
}

#[test]
fn a_failing_body_ends_its_transaction() {
    let (mut store, daemon) = connect();
    let result: Result<(), Error> = store.transaction(|tx| {
        tx.write("a", b"1")?;
        tx.read("missing").map(drop)
    });
    assert_eq!(result.unwrap_err().refusal(), Some(XsError::ENOENT));
    assert_eq!(daemon.borrow().transaction_count(), 0);
    assert_eq!(daemon.borrow().get("a"), None);
}

/// Case 37: EAGAIN is retried, but not for ever.
#[test]
fn row37_eagain() {
    let (mut store, daemon) = connect();
    let mut runs = 0;
    daemon.borrow_mut().collisions = 3;
    let mut count = |tx: &mut vd_xenbus::View<'_, _>| {
        runs += 1;
        tx.write("a", runs.to_string().as_bytes())
    };
    store.transaction(&mut count).unwrap();
    assert_eq!(daemon.borrow().get("a").unwrap(), b"4");
    daemon.borrow_mut().collisions = u32::MAX;
    assert_eq!(
        store.transaction(&mut count),
        Err(Failure::Conflict {
            attempts: MAX_ATTEMPTS
        }
        .into())
    );
    assert_eq!(runs, 4 + MAX_ATTEMPTS);
    assert_eq!(daemon.borrow().get("a").unwrap(), b"4");
    assert_eq!(daemon.borrow().transaction_count(), 0);
}

#[test]
fn watches_fire_at_once_and_on_changes_below() {
    let (mut store, daemon) = connect();
    store.watch("virtio-domain/commit", "cfg").unwrap();
    store.watch("/local/domain/5/control", "ctl").unwrap();
    assert_eq!(
        next(&mut store, &daemon),
        event("virtio-domain/commit", "cfg")
    );
    assert_eq!(
        next(&mut store, &daemon),
        event("/local/domain/5/control", "ctl")
    );
    assert_eq!(next(&mut store, &daemon), None);
    daemon.borrow_mut().set("control/shutdown", b"poweroff");
    assert_eq!(
        next(&mut store, &daemon),
        event("/local/domain/5/control/shutdown", "ctl")
    );
    assert_eq!(
        store
            .watch("virtio-domain/commit", "cfg")
            .unwrap_err()
            .refusal(),
        Some(XsError::EEXIST)
    );
    store.unwatch("/local/domain/5/control", "ctl").unwrap();
    daemon.borrow_mut().set("control/shutdown", b"");
    assert_eq!(next(&mut store, &daemon), None);
    store.reset_watches().unwrap();
    assert_eq!(daemon.borrow().watch_count(), 0);
    assert!(!store.take_overflow());
}

#[test]
fn watch_events_before_a_reply_are_kept() {
    let (mut store, daemon) = connect();
    store.watch("w", "t").unwrap();
    daemon.borrow_mut().set("w/1", b"");
    daemon.borrow_mut().set("w/2", b"");
    assert_eq!(store.read("w/1").unwrap(), b"");
    for path in ["w", "w/1", "w/2"] {
        assert_eq!(next(&mut store, &daemon), event(path, "t"));
    }
}

/// Case 37: another domain cannot make the queue overflow, whatever it writes below the node of its that is watched: what
/// others have to say is not lost.
#[test]
fn row37_watch_flood_by_another_domain() {
    let (mut store, daemon) = connect();
    let node = "/local/domain/3/backend/vif/5/0";
    store.watch(node, "vif-0").unwrap();
    store.watch("control", "c").unwrap();
    for _ in 0..2 {
        for n in 0..500 {
            daemon
                .borrow_mut()
                .set(&format!("{node}/{n}/{}", "x".repeat(1000)), b"");
        }
        daemon.borrow_mut().set("control/shutdown", b"poweroff");
        store.read("control").unwrap();
        assert!(!store.take_overflow());
        let events: Vec<_> = std::iter::from_fn(|| store.next_watch().unwrap()).collect();
        let of = |token: &str| events.iter().filter(|event| event.token == token).count();
        assert_eq!(of("vif-0"), 1);
        assert!(events.contains(&event("control/shutdown", "c").unwrap()));
    }
}

/// Case 37: a flood of events is bounded and says so.
#[test]
fn row37_watch_flood() {
    let (mut store, daemon) = connect();
    store.watch("w", "t").unwrap();
    for _ in 0..500 {
        daemon.borrow_mut().set("w/same", b"");
    }
    store.read("w").unwrap();
    assert_eq!(next(&mut store, &daemon), event("w", "t"));
    assert_eq!(next(&mut store, &daemon), event("w/same", "t"));
    assert_eq!(next(&mut store, &daemon), None, "the same event waits once");
    assert!(!store.take_overflow());
    for n in 0..500 {
        daemon.borrow_mut().set(&format!("w/{n}"), b"");
    }
    store.read("w").unwrap();
    let events = std::iter::from_fn(|| store.next_watch().unwrap()).count();
    assert_eq!(events, vd_xenbus::watch::MAX_EVENTS);
    assert!(store.take_overflow());
    assert!(!store.take_overflow(), "said once");
    let deep = "x".repeat(1900);
    for n in 0..40 {
        daemon.borrow_mut().set(&format!("w/{deep}/{n}"), b"");
    }
    store.read("w").unwrap();
    let bytes: usize = std::iter::from_fn(|| store.next_watch().unwrap())
        .map(|event| event.path.len())
        .sum();
    assert!((1900..=vd_xenbus::watch::MAX_BYTES).contains(&bytes));
    assert!(store.take_overflow());
}

#[test]
fn posted_writes_do_not_wait_and_are_bounded() {
    use vd_xenbus::store::MAX_POSTED;
    let (mut store, daemon) = connect();
    daemon.borrow_mut().forbidden.push("/tool".into());
    for n in 0..MAX_POSTED {
        assert_eq!(store.post(&format!("counters/c{n}"), b"1"), Ok(true));
    }
    assert_eq!(store.post("counters/late", b"1"), Ok(false), "try again");
    assert!(daemon.borrow().get("/local/domain/5/counters/c0").is_none());
    daemon.borrow_mut().run();
    store.service().unwrap();
    assert_eq!(
        daemon.borrow().get("/local/domain/5/counters/c0").unwrap(),
        b"1"
    );
    assert_eq!(store.post("counters/late", b"2"), Ok(true));
    assert_eq!(store.post("/tool/not-mine", b"2"), Ok(true));
    // A call that waits is not disturbed by posts that are under way.
    assert_eq!(store.read("counters/c1").unwrap(), b"1");
    store.service().unwrap();
    assert_eq!((store.refused_posts(), store.counters().strays), (1, 0));
    assert!(store.post("bad//path", b"1").is_err());
}

/// What does not fit into the ring is kept until the daemon has taken what is there: one message, however many there are.
#[test]
fn posted_writes_that_are_long_wait_for_the_last_one() {
    let (mut store, daemon) = connect();
    let long = [b'1'; 1500];
    assert_eq!(store.post("counters/a", &long), Ok(true));
    assert_eq!(store.post("counters/b", &long), Ok(false), "try again");
    assert_eq!(store.post("counters/c", b"2"), Ok(false), "try again");
    for _ in 0..4 {
        daemon.borrow_mut().run();
        store.service().unwrap();
    }
    let value = |name| {
        let daemon = daemon.borrow();
        daemon.get(&format!("/local/domain/5/counters/{name}"))
    };
    assert_eq!(value("a").unwrap(), long);
    assert_eq!((value("b"), value("c")), (None, None));
    assert_eq!(store.post("counters/b", &long), Ok(true));
}
