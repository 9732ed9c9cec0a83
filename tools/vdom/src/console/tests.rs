//! Both ends of a link, with a guest behind the one and the operator before the other; and how a port is found.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proptest::prelude::*;
use vd_config::Devices;
use vd_console::{NO_PORT, event};
use vd_kernel_core::command::{self, Command};
use vd_kernel_core::link::{Farewell, Link, Output};
use vd_xenbus::link::Request;
use vd_xenbus::{Input, LineEditor};

use super::session::{Event, Session};
use super::*;
use crate::fake::Fake;
use crate::testing::TempDir;

/// The guest's driver.
#[path = "../../../../drivers/console/tests/common/mod.rs"]
mod rig;

use rig::{MULTIPORT, Rig};

/// The ring of a PV console, on its way to dom0.
#[derive(Default)]
struct Ring(Vec<u8>);

impl Output for Ring {
    fn room(&self) -> usize {
        2048 - self.0.len()
    }

    fn write(&mut self, text: &str) {
        let text = text.replace('\n', "\r\n");
        assert!(text.len() <= self.room(), "it was said to fit");
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// A guest, its driver domain, and vdom.
struct World {
    guest: Rig,
    editor: LineEditor<80>,
    link: Option<Link>,
    farewell: Option<Farewell>,
    ring: Ring,
    vdom: Session,
    /// What the guest has written and read, and what vdom has.
    guest_wrote: Vec<u8>,
    guest_read: Vec<u8>,
    vdom_wrote: Vec<u8>,
    vdom_read: Vec<u8>,
    lost: u64,
    next: u8,
}

const RECEIVE: [usize; 2] = [0, 4];
const SLOT: u8 = 3;

impl World {
    /// vdom asks for this port of the guest, which has it open.
    fn new(port: usize) -> Self {
        let mut guest = Rig::new(&["data"], MULTIPORT);
        for _ in 0..rig::SIZE {
            guest.give(2);
        }
        guest.control(NO_PORT, event::DEVICE_READY, 1);
        for port in 0..2 {
            guest.control(port, event::PORT_READY, 1);
            guest.control(port, event::PORT_OPEN, 1);
        }
        Self {
            guest,
            editor: LineEditor::new(),
            link: None,
            farewell: None,
            ring: Ring::default(),
            vdom: Session::new(SLOT, port, 77),
            guest_wrote: Vec::new(),
            guest_read: Vec::new(),
            vdom_wrote: Vec::new(),
            vdom_read: Vec::new(),
            lost: 0,
            next: 0,
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| {
                self.next = self.next.wrapping_mul(5).wrapping_add(41);
                self.next
            })
            .collect()
    }

    /// The driver domain reads so much of what vdom has written, and says what there is to say.
    fn serve(&mut self, most: usize) {
        let len = self.vdom.output.len().min(most);
        for byte in self.vdom.output.drain(..len).collect::<Vec<u8>>() {
            let Input::Line(line) = self.editor.feed(byte, |_| ()) else {
                continue;
            };
            let device = self.guest.device();
            match (&mut self.link, Request::parse(line)) {
                (Some(link), Some(Request::Data(data))) => link.take(device, data).unwrap(),
                (Some(link), Some(Request::Credit(bytes))) => link.grant(bytes),
                (Some(_), Some(Request::End)) => {
                    let link = self.link.take().unwrap();
                    self.farewell = Some(link.end(Some(device), "as asked"));
                }
                (None, _) => match command::parse(line) {
                    Command::Link { slot, port, nonce } => {
                        assert_eq!(slot.get(), SLOT);
                        let port = port.parse().unwrap();
                        self.link = Link::new(device, port, nonce);
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        self.farewell.take_if(|it| it.tell(&mut self.ring));
        if let Some(link) = &mut self.link {
            link.pump(self.guest.device(), &mut self.ring);
        }
        self.guest.run();
    }

    /// vdom reads so much.
    fn read(&mut self, most: usize) {
        let len = self.ring.0.len().min(most);
        let bytes: Vec<u8> = self.ring.0.drain(..len).collect();
        let mut output = Vec::new();
        for event in self.vdom.feed(&bytes, &mut output).unwrap() {
            if let Event::Lost(bytes) = event {
                self.lost += bytes;
            }
        }
        self.vdom.shown(output.len());
        self.vdom_read.extend(output);
    }

    fn guest_writes(&mut self, port: usize, len: usize) {
        let bytes = self.bytes(len.min(rig::BUFFER as usize));
        let queue = RECEIVE[port] + 1;
        if !bytes.is_empty() && self.guest.send(queue, &bytes) {
            self.guest_wrote.extend(bytes);
        }
        self.guest.used(queue);
    }

    fn guest_reads(&mut self, port: usize) {
        self.guest.give(RECEIVE[port]);
        let used = self.guest.used(RECEIVE[port]);
        self.guest_read.extend(used.concat());
    }

    fn vdom_writes(&mut self, len: usize) {
        let bytes = self.bytes(len);
        let sent = self.vdom.send(&bytes);
        self.vdom_wrote.extend(&bytes[..sent]);
    }

    fn settle(&mut self, port: usize) {
        for _ in 0..200 {
            if let Some(link) = &mut self.link {
                link.tick();
            }
            self.serve(usize::MAX);
            self.read(usize::MAX);
            self.guest_reads(port);
            self.guest.used(RECEIVE[port] + 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whoever does how much of what when: each byte arrives once, in order. Of a console, what did not is told.
    #[test]
    fn no_byte_is_lost_doubled_or_overtaken(
        port in 0..2_usize,
        steps in prop::collection::vec((0..8_u8, 0..7000_usize), 0..120),
    ) {
        let mut world = World::new(port);
        world.settle(port);
        prop_assert!(world.vdom.is_linked());
        for (what, size) in steps {
            match what {
                0 | 1 => world.guest_writes(port, size),
                2 => world.guest_reads(port),
                3 => world.vdom_writes(size),
                4 => world.serve(size),
                5 | 6 => world.read(size),
                _ => {
                    // The log goes on meanwhile, and does not always fit.
                    let line = format!("[    1.000] line {size}\n");
                    if world.ring.room() > line.len() {
                        world.ring.write(&line);
                    }
                }
            }
        }
        world.settle(port);
        prop_assert_eq!(&world.guest_read, &world.vdom_wrote);
        prop_assert_eq!(world.vdom_read.len() as u64 + world.lost, world.guest_wrote.len() as u64);
        if port == 1 {
            prop_assert_eq!(&world.vdom_read, &world.guest_wrote);
        } else {
            // What is read is what was written without what was lost, in order; and the end of it is never lost.
            let mut written = world.guest_wrote.iter();
            prop_assert!(world.vdom_read.iter().all(|byte| written.any(|it| it == byte)));
            let tail = world.vdom_read.len().min(2000);
            prop_assert!(world.guest_wrote.ends_with(&world.vdom_read[world.vdom_read.len() - tail..]));
        }
        prop_assert_eq!(world.vdom.unread(), 0, "everything is granted again");
        let counters = world.guest.device().counters();
        prop_assert_eq!(counters.out_lost, world.lost);
        prop_assert_eq!(counters.in_given, world.vdom_wrote.len() as u64);
        world.vdom.leave();
        world.settle(port);
        prop_assert!(world.vdom.has_ended());
        // What was lost before the first byte came is older than vdom.
        if let Err((what, _)) = world.vdom.check() {
            prop_assert!(what.ends_with("bytes of the guest's output were lost"), "{}", what);
            prop_assert!(world.lost > 0);
        }
    }
}

/// A reader that stands still is sent no more than the window: nothing on the way has to drop anything.
#[test]
fn no_more_is_sent_than_was_granted() {
    let mut world = World::new(1);
    world.settle(1);
    let mut sent = 0;
    for _ in 0..100 {
        world.guest_writes(1, 5000);
        world.serve(usize::MAX);
        // Taken from the ring, and shown to nobody.
        let mut output = Vec::new();
        let bytes: Vec<u8> = world.ring.0.drain(..).collect();
        world.vdom.feed(&bytes, &mut output).unwrap();
        sent += output.len() as u64;
    }
    assert_eq!(sent, vd_xenbus::link::WINDOW);
}

/// A guest that does not read is sent no more than fits.
#[test]
fn no_more_is_taken_than_fits() {
    let mut world = World::new(1);
    world.settle(1);
    for port in 0..2 {
        world.guest.control(port, event::PORT_OPEN, 0);
    }
    for _ in 0..100 {
        world.vdom_writes(1000);
        world.serve(usize::MAX);
        world.read(usize::MAX);
    }
    assert_eq!(world.vdom_wrote.len(), vd_console::INPUT_BYTES);
    assert_eq!(world.vdom.unread(), vd_console::INPUT_BYTES as u64);
    // It can be left all the same, and the guest gets it later.
    world.vdom.leave();
    world.serve(usize::MAX);
    world.read(usize::MAX);
    assert!(world.vdom.has_ended());
    assert_eq!(world.vdom.check(), Ok(()));
    world.guest.control(1, event::PORT_OPEN, 1);
    world.settle(1);
    assert_eq!(world.guest_read, world.vdom_wrote);
}

/// The end of what the guest says comes behind all of it.
#[test]
fn a_guest_that_closes() {
    let mut world = World::new(1);
    world.settle(1);
    for _ in 0..4 {
        world.guest_writes(1, 6000);
    }
    world.guest.control(1, event::PORT_OPEN, 0);
    while !world.vdom.is_closed() {
        world.serve(usize::MAX);
        world.read(100);
    }
    assert_eq!(world.vdom_read, world.guest_wrote);
}

/// A guest that prints all the time does not keep vdom from leaving.
#[test]
fn leaving_a_guest_that_prints() {
    let mut world = World::new(0);
    world.settle(0);
    for _ in 0..6 {
        world.guest_writes(0, 7000);
        world.serve(usize::MAX);
    }
    world.vdom.leave();
    world.serve(usize::MAX);
    world.read(usize::MAX);
    assert!(world.vdom.has_ended());
}

/// Bytes that the guest's driver throws away have not got through, nor have those that the console could not keep.
#[test]
fn what_the_guest_loses_is_told() {
    let mut world = World::new(0);
    world.settle(0);
    world.guest.control(0, event::PORT_OPEN, 0);
    world.vdom_writes(100);
    world.serve(usize::MAX);
    world.guest.write(0x70, 0);
    world.vdom.leave();
    world.settle(0);
    assert!(world.vdom.has_ended());
    let (error, _) = world.vdom.check().unwrap_err();
    assert!(error.contains("of 100 to it 0"), "{error}");
    // The same of its output; but what was lost while nobody was there is not this link's.
    let mut vdom = Session::new(0, 0, 77);
    let mut output = Vec::new();
    for (line, is_whole) in [("@lost 9\r\n@=Zm9v\r\n", true), ("@lost 5\r\n", false)] {
        vdom.feed(b"@linked 77 9 9\r\n", &mut output).unwrap();
        vdom.feed(line.as_bytes(), &mut output).unwrap();
        vdom.leave();
        vdom.feed(b"@end 3 0 as asked\r\n", &mut output).unwrap();
        assert_eq!(vdom.check().is_ok(), is_whole, "{line}");
    }
}

/// A request that nobody has answered, and one that was refused.
#[test]
fn leaving_before_it_has_begun() {
    let mut vdom = Session::new(3, 1, 77);
    vdom.leave();
    vdom.leave();
    assert_eq!(vdom.output, b"\x1e\x15link 3 1 77\r.\r");
    let mut output = Vec::new();
    vdom.feed(b"@linked 77 9 9\r\n@end 0 0 as asked\r\n", &mut output)
        .unwrap();
    assert!(vdom.has_ended());
    let mut vdom = Session::new(3, 1, 77);
    vdom.output.clear();
    assert!(vdom.feed(b"@refused 77 no\r\n", &mut output).is_err());
    vdom.leave();
    assert!(vdom.has_ended() && vdom.output.is_empty());
}

/// What the console has kept of others' links, and lines in which something was lost, are not this link's.
#[test]
fn what_is_older_does_not_count() {
    let mut vdom = Session::new(0, 0, 77);
    let mut output = Vec::new();
    let old =
        b"@linked 76 9 9\r\n@=Zm9v\r\n[1.0] @linked 77 9 9\r\n@end 1 2 gone\r\n@refused 1 no\r\n";
    assert_eq!(vdom.feed(old, &mut output), Ok(vec![]));
    assert!(!vdom.is_linked() && output.is_empty());
    assert_eq!(vdom.send(b"x"), 0);
    vdom.feed(b"@linked 77 3 9\r\n@=Zm9v\r", &mut output)
        .unwrap();
    assert!(vdom.is_linked());
    assert_eq!(output, b"foo");
    assert_eq!(vdom.send(b"12345"), 3);
    assert_eq!(
        vdom.feed(b"\n@=Zm9\r\n", &mut output),
        Err("a line of its console is garbled".into())
    );
    let mut vdom = Session::new(0, 0, 77);
    let refused = vdom.feed(b"@refused 77 it has no such port\r\n", &mut output);
    let why = "the driver domain refuses: it has no such port";
    assert_eq!(refused, Err(why.into()));
}

/// Both sides count, and a difference is told.
#[test]
fn bytes_that_something_else_has_read_are_missed() {
    let mut vdom = Session::new(0, 0, 77);
    let mut output = Vec::new();
    vdom.feed(b"@linked 77 9 9\r\n@=Zm9v\r\n", &mut output)
        .unwrap();
    vdom.leave();
    vdom.feed(b"@end 6 0 as asked\r\n", &mut output).unwrap();
    let (error, _) = vdom.check().unwrap_err();
    assert!(error.contains("of 6 from the guest came 3"), "{error}");
    // An end that nobody has asked for is one.
    let mut vdom = Session::new(0, 0, 77);
    vdom.feed(b"@linked 77 9 9\r\n", &mut output).unwrap();
    let error = vdom.feed(b"@end 0 0 the guest is gone\r\n", &mut output);
    assert!(error.unwrap_err().contains("the guest is gone"));
}

fn bench(devices: &[&str]) -> (Fake, TempDir) {
    let fake = Fake::new();
    fake.add(7, "web-vd", "pvh");
    fake.add(8, "web", "hvm");
    let dir = TempDir::new("console");
    let devices = Devices::parse(devices.iter().map(|text| text.as_bytes())).unwrap();
    let timeout = Duration::from_secs(5);
    crate::attach::run(
        &mut fake.host(dir.path()),
        "web-vd",
        "web",
        &devices,
        timeout,
    )
    .unwrap();
    let tty = "/local/domain/7/console/tty".to_owned();
    fake.0
        .borrow_mut()
        .state
        .tree
        .insert(tty, b"/dev/pts/3".to_vec());
    (fake, dir)
}

#[test]
fn a_port_is_found_by_number_and_name() {
    let (fake, dir) = bench(&[
        "type=blk,backend=ram:1M",
        "slot=2,type=console,backend=console,ports=data/log",
        "slot=5,type=console,backend=console,ports=log/late",
    ]);
    let mut host = fake.host(dir.path());
    for (port, slot, number, name) in [
        (None, 2, 0, None),
        (Some("0"), 2, 0, None),
        (Some("5:0"), 5, 0, None),
        (Some("data"), 2, 1, Some("data")),
        (Some("log"), 2, 2, Some("log")),
        (Some("5:log"), 5, 1, Some("log")),
        (Some("late"), 5, 2, Some("late")),
        (Some("1"), 2, 1, Some("data")),
    ] {
        for domain in ["web", "web-vd", "7"] {
            let place = find(&mut host, domain, port).unwrap();
            assert_eq!((place.slot.get(), place.port), (slot, number), "{port:?}");
            assert_eq!(place.name.as_deref(), name);
            assert_eq!((&*place.driver, &*place.tty), ("web-vd", "/dev/pts/3"));
            assert_eq!(place.lock, "/var/lock/xenconsole.7");
        }
    }
    for (port, what) in [
        (
            "3",
            "it has no port 3 (there are: slot 2: 0 data log; slot 5: 0 log late)",
        ),
        ("0:0", "it has no port 0"),
        ("5:data", "it has no port data"),
        ("", "it has no port "),
    ] {
        let error = find(&mut host, "web", Some(port)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let error = find(&mut host, "nobody", None).unwrap_err().to_string();
    assert!(error.contains("there is no such domain"), "{error}");
}

#[test]
fn what_has_no_console() {
    let (fake, dir) = bench(&["type=blk,backend=ram:1M"]);
    let error = find(&mut fake.host(dir.path()), "web", None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "web: find port: it has no console device (add \"type=console,backend=console\" to its vdom_devices)"
    );
    let (fake, dir) = bench(&["type=console,backend=console"]);
    let state = "/local/domain/7/virtio-domain/status/state".to_owned();
    let tree = |path: String, value: &[u8]| {
        let mut world = fake.0.borrow_mut();
        world.state.tree.insert(path, value.to_vec());
    };
    tree(state.clone(), b"stopped");
    let error = find(&mut fake.host(dir.path()), "web", None).unwrap_err();
    assert!(error.to_string().contains("serves no guest"), "{error}");
    tree(state, b"ready");
    tree("/local/domain/7/console/tty".into(), b"");
    let error = find(&mut fake.host(dir.path()), "web", None).unwrap_err();
    assert!(error.to_string().contains("no terminal"), "{error}");
}

/// A pseudo terminal: this side, and the terminal's path.
fn terminal() -> (File, String) {
    let (mut master, mut slave) = (-1, -1);
    let mut size = libc::winsize {
        ws_row: 30,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the call writes two descriptors, which are nobody else's yet, and reads a size.
    let status = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &raw mut size,
        )
    };
    assert_eq!(status, 0);
    let path = std::fs::read_link(format!("/proc/self/fd/{slave}")).unwrap();
    // The other one stays open, so that the terminal never counts as hung up.
    // SAFETY: the descriptor is open and nobody else's.
    let master = unsafe { File::from_raw_fd(master) };
    (master, path.to_str().unwrap().to_owned())
}

fn mode(path: &str) -> [libc::tcflag_t; 3] {
    let file = open_both(path);
    let mode = term::attributes(file.as_fd()).unwrap();
    [mode.c_iflag, mode.c_oflag, mode.c_lflag]
}

/// The guest reads, and answers in capital letters.
fn answer(rig: &mut Rig, got: &mut Vec<u8>) {
    rig.run();
    rig.give(0);
    for bytes in rig.used(0) {
        rig.send(1, &bytes.to_ascii_uppercase());
        rig.used(1);
        got.extend(bytes);
    }
}

/// A driver domain behind this side of its terminal, with a guest that answers in capital letters. It ends with the link, and gives
/// what the guest has got, the size of its console, and the terminal's side, which has to stay.
fn driver_domain(mut side: File) -> std::thread::JoinHandle<(Vec<u8>, (u16, u16), File)> {
    // As xenconsoled leaves it.
    term::make_raw(&side).unwrap();
    std::thread::spawn(move || {
        let (mut editor, mut link) = (LineEditor::<80>::new(), None::<Link>);
        let (mut rig, mut got, mut size) = (Rig::new(&[], 0), Vec::new(), (0, 0));
        side.write_all(b"[    1.000] log\r\n@linked 1 2 3\r\n")
            .unwrap();
        let mut bytes = [0; 500];
        loop {
            let read = side.read(&mut bytes).unwrap();
            let mut ring = Ring::default();
            for byte in &bytes[..read] {
                let Input::Line(line) = editor.feed(*byte, |_| ()) else {
                    continue;
                };
                let Some(it) = &mut link else {
                    let Command::Link { nonce, .. } = command::parse(line) else {
                        panic!("{line}");
                    };
                    link = Link::new(rig.device(), 0, nonce);
                    continue;
                };
                match Request::parse(line).expect(line) {
                    Request::Data(data) => it.take(rig.device(), data).unwrap(),
                    Request::Credit(bytes) => it.grant(bytes),
                    Request::Resize(columns, rows) => size = (columns, rows),
                    Request::End => {
                        answer(&mut rig, &mut got);
                        let it = link.take().unwrap();
                        assert!(it.end(Some(rig.device()), "as asked").tell(&mut ring));
                        side.write_all(&ring.0).unwrap();
                        return (got, size, side);
                    }
                }
                rig.run();
            }
            answer(&mut rig, &mut got);
            if let Some(link) = &mut link {
                link.pump(rig.device(), &mut ring);
            }
            side.write_all(&ring.0).unwrap();
        }
    })
}

fn place(tty: &str, dir: &TempDir) -> Place {
    Place {
        driver: "web-vd".into(),
        tty: tty.into(),
        slot: SlotIndex::new(SLOT).unwrap(),
        port: 0,
        name: None,
        lock: dir.path().join("lock").to_str().unwrap().into(),
    }
}

const OPTIONS: Options = Options {
    idle: Duration::from_secs(2),
    size: None,
    patience: Duration::from_secs(4),
};

fn open_both(path: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .unwrap()
}

/// A panic restores all terminals, other tests' too.
static TERMINALS: Mutex<()> = Mutex::new(());

fn alone_with_terminals() -> MutexGuard<'static, ()> {
    TERMINALS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn until_raw(terminal: &str, before: [libc::tcflag_t; 3]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while mode(terminal) == before {
        assert!(Instant::now() < deadline, "it is in raw mode");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is typed and shown, Ctrl-], and a terminal that is what it was.
#[test]
fn a_person_at_a_terminal() {
    let _alone = alone_with_terminals();
    let dir = TempDir::new("console");
    let ((side, tty), (mut person, own)) = (terminal(), terminal());
    let driver = driver_domain(side);
    let before = mode(&own);
    let place = place(&tty, &dir);
    let streams = Streams {
        input: open_both(&own),
        output: open_both(&own),
    };
    let vdom = std::thread::spawn(move || run(&place, OPTIONS, streams));
    until_raw(&own, before);
    // Ctrl-C is a character like others.
    person.write_all(b"hello\x03\r").unwrap();
    let mut shown = Vec::new();
    while !shown.ends_with(b"HELLO\x03\r") {
        let mut bytes = [0; 100];
        let read = person.read(&mut bytes).unwrap();
        shown.extend(&bytes[..read]);
    }
    person.write_all(b"last\x1d").unwrap();
    vdom.join().unwrap().unwrap();
    let (got, size, _) = driver.join().unwrap();
    assert_eq!(got, b"hello\x03\rlast");
    assert_eq!(size, (100, 30));
    assert_eq!(mode(&own), before);
}

/// All of it goes through, whatever it is, and vdom leaves when nothing comes any more.
#[test]
fn a_program_with_a_pipe() {
    let dir = TempDir::new("console");
    let (side, tty) = terminal();
    let driver = driver_domain(side);
    let bytes: Vec<u8> = (0..20_000_u32).map(|at| (at % 251) as u8).collect();
    let out = dir.path().join("out");
    let streams = Streams {
        input: File::open(dir.file("in", &bytes)).unwrap(),
        output: File::create(&out).unwrap(),
    };
    run(&place(&tty, &dir), OPTIONS, streams).unwrap();
    let (got, ..) = driver.join().unwrap();
    assert!(got == bytes);
    assert!(std::fs::read(&out).unwrap() == bytes.to_ascii_uppercase());
}

#[test]
fn two_at_one_console() {
    let dir = TempDir::new("console");
    let (_side, tty) = terminal();
    let place = place(&tty, &dir);
    std::fs::write(&place.lock, "").unwrap();
    for path in [&place.tty, &place.lock] {
        let holder = open_both(path);
        assert!(os::lock(&holder, Lock::Try).unwrap());
        let streams = Streams {
            input: open_both("/dev/null"),
            output: open_both("/dev/null"),
        };
        let error = run(&place, OPTIONS, streams).unwrap_err().to_string();
        assert!(error.contains("somebody else is at"), "{error}");
    }
}

/// A driver domain that says these lines when it is asked for a port, and ends when it is told to, whatever comes. It gives what it was
/// told, and the terminal's side.
fn stubborn_driver_domain(
    mut side: File,
    lines: String,
) -> std::thread::JoinHandle<(String, File)> {
    term::make_raw(&side).unwrap();
    std::thread::spawn(move || {
        let (mut told, mut said) = (String::new(), false);
        let mut bytes = [0; 500];
        while !told.ends_with("\r.\r") {
            let read = side.read(&mut bytes).unwrap();
            told.push_str(str::from_utf8(&bytes[..read]).unwrap());
            if told.ends_with('\r') && !said {
                let nonce = told.trim().rsplit(' ').next().unwrap();
                let lines = lines.replace("NONCE", nonce);
                let mut writer = side.try_clone().unwrap();
                // Both at once: it does not wait for vdom to read.
                std::thread::spawn(move || writer.write_all(lines.as_bytes()).unwrap());
                said = true;
            }
        }
        (told, side)
    })
}

/// A reader that goes away, as `head` does, does not leave the link behind, and what it has not got is counted.
#[test]
fn a_reader_that_goes_away() {
    let dir = TempDir::new("console");
    let (side, tty) = terminal();
    let data = format!("@={}\r\n", vd_xenbus::link::Encoded(&[b'x'; 750]));
    let lines = format!("@linked NONCE 4096 4096\r\n{}", data.repeat(43));
    let driver = stubborn_driver_domain(side, format!("{lines}@end 32250 0 as asked\r\n"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let streams = Streams {
        input: File::open("/dev/null").unwrap(),
        output: File::from(OwnedFd::from(writer)),
    };
    let error = run(&place(&tty, &dir), OPTIONS, streams).unwrap_err();
    assert!(error.to_string().contains("standard output"), "{error}");
    let (told, _) = driver.join().unwrap();
    assert!(told.ends_with("\r.\r"), "{told}");
}

/// Nobody answers: whoever listens later learns that nobody waits.
#[test]
fn nobody_answers() {
    let dir = TempDir::new("console");
    let (side, tty) = terminal();
    let driver = stubborn_driver_domain(side, String::new());
    let streams = Streams {
        input: open_both("/dev/null"),
        output: open_both("/dev/null"),
    };
    let error = run(&place(&tty, &dir), OPTIONS, streams).unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    driver.join().unwrap();
}

/// The last words of a guest are shown, though its end is an error.
#[test]
fn last_words() {
    let dir = TempDir::new("console");
    let (mut side, tty) = terminal();
    term::make_raw(&side).unwrap();
    let driver = std::thread::spawn(move || {
        let (mut told, mut bytes) = (String::new(), [0; 500]);
        while !told.ends_with('\r') {
            let read = side.read(&mut bytes).unwrap();
            told.push_str(str::from_utf8(&bytes[..read]).unwrap());
        }
        let nonce = told.trim().rsplit(' ').next().unwrap();
        let lines = format!("@linked {nonce} 9 9\r\n@=Zm9v\r\n@end 3 0 the guest is gone\r\n");
        side.write_all(lines.as_bytes()).unwrap();
        side
    });
    let out = dir.path().join("out");
    let streams = Streams {
        input: File::open("/dev/null").unwrap(),
        output: File::create(&out).unwrap(),
    };
    let error = run(&place(&tty, &dir), OPTIONS, streams).unwrap_err();
    assert!(error.to_string().contains("the guest is gone"), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"foo");
    driver.join().unwrap();
}

/// A script does not hang on a guest that does not read, and learns of it; nor does a person, whose keys are heard all the same.
#[test]
fn a_guest_that_does_not_read() {
    let _alone = alone_with_terminals();
    let dir = TempDir::new("console");
    let linked = "@linked NONCE 10 10\r\n";
    let (side, tty) = terminal();
    let driver = stubborn_driver_domain(side, linked.into());
    let streams = Streams {
        input: File::open(dir.file("in", [b'x'; 5000])).unwrap(),
        output: open_both("/dev/null"),
    };
    let answer = |driver: std::thread::JoinHandle<(String, File)>| {
        std::thread::spawn(move || {
            let (told, mut side) = driver.join().unwrap();
            side.write_all(b"@end 0 10 as asked\r\n").unwrap();
            (told, side)
        })
    };
    let answered = answer(driver);
    let options = Options {
        patience: Duration::from_secs(1),
        ..OPTIONS
    };
    let error = run(&place(&tty, &dir), options, streams).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("does not read: 4086 bytes or more"),
        "{error}"
    );
    answered.join().unwrap();

    let ((side, tty), (mut person, own)) = (terminal(), terminal());
    let answered = answer(stubborn_driver_domain(side, linked.into()));
    let before = mode(&own);
    let streams = Streams {
        input: open_both(&own),
        output: open_both(&own),
    };
    let there = place(&tty, &dir);
    let vdom = std::thread::spawn(move || run(&there, OPTIONS, streams));
    until_raw(&own, before);
    person.write_all(b"more than ten\r").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    person.write_all(b"\x1d").unwrap();
    let error = vdom.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("4 bytes or more"), "{error}");
    assert_eq!(mode(&own), before);
    answered.join().unwrap();
}

/// A reader that stands still does not keep vdom from hearing the driver domain, nor from leaving.
#[test]
fn a_reader_that_stands_still() {
    let dir = TempDir::new("console");
    let (side, tty) = terminal();
    let data = format!("@={}\r\n", vd_xenbus::link::Encoded(&[b'x'; 750]));
    let lines = format!("@linked NONCE 4096 4096\r\n{}", data.repeat(43));
    let driver = stubborn_driver_domain(side, format!("{lines}@end 32250 0 the guest is gone\r\n"));
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: a plain call; the pipe holds a page.
    assert!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } > 0);
    let streams = Streams {
        input: File::open("/dev/null").unwrap(),
        output: File::from(OwnedFd::from(writer)),
    };
    let options = Options {
        patience: Duration::from_secs(1),
        ..OPTIONS
    };
    let error = run(&place(&tty, &dir), options, streams).unwrap_err();
    assert!(error.to_string().contains("the guest is gone"), "{error}");
    drop((reader, driver));
}

/// A panic, which drops nothing in a release, leaves the terminal as it was.
#[test]
fn a_panic_restores_the_terminal() {
    let _alone = alone_with_terminals();
    let (_person, own) = terminal();
    let before = mode(&own);
    let raw = Raw::of(&open_both(&own)).unwrap();
    assert_ne!(mode(&own), before);
    let panicked = std::thread::spawn(|| panic!("for the terminal's sake")).join();
    assert!(panicked.is_err());
    assert_eq!(mode(&own), before);
    drop(raw);
}
