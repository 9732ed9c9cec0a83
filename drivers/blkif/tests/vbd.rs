//! The control plane over a fake xenstore daemon: a toolstack and a back end that behave, and that do not.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use proptest::prelude::*;
use vd_blk::later::{AsyncBackend, Job, Operation};
use vd_blkif::handshake::{MAX_ATTEMPTS, Phase};
use vd_blkif::test_util::{Cut, FakeBackend, FakePlatform, FakeXenbus};
use vd_blkif::{Config, Disk, Notice, vbd};
use vd_xenbus::Op;
use vd_xenbus::wire::Header;

const FRONT: &str = "/local/domain/5/device/vbd/51712";
const BACK: &str = "/local/domain/3/backend/vbd/5/51712";
const SECTORS: usize = 64;

struct World {
    bus: FakeXenbus,
    platform: FakePlatform,
    disk: Disk<FakePlatform>,
    backend: FakeBackend,
}

impl Deref for World {
    type Target = FakeXenbus;

    fn deref(&self) -> &FakeXenbus {
        &self.bus
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut FakeXenbus {
        &mut self.bus
    }
}

impl World {
    /// A device as the toolstack makes it; the back end is not there yet.
    fn new() -> Self {
        let config = Config {
            data_pages: 32,
            list_pages: 2,
            operations: 8,
            ..Config::of_device(51712)
        };
        let platform = FakePlatform::new(config.pages());
        let mut world = Self {
            bus: FakeXenbus::new::<Disk<FakePlatform>>("vbd", 51712),
            disk: Disk::new(platform.clone(), config).unwrap(),
            backend: FakeBackend::new(&platform, 3, SECTORS),
            platform,
        };
        world.make(3, BACK);
        world.bus.control.watch(&mut world.bus.store).unwrap();
        world.run();
        world
    }

    /// Connected with everything that a back end can offer.
    fn connected() -> Self {
        let mut world = Self::new();
        world.offer();
        world.accept();
        world
    }

    fn make(&mut self, domain: u16, back: &str) {
        self.bus.make(domain, back, ("virtual-device", "51712"));
    }

    fn run(&mut self) {
        self.bus.run(&mut self.disk);
    }

    fn try_run(&mut self) -> Result<(), vd_xenbus::Error> {
        let (bus, disk) = (&mut self.bus, &mut self.disk);
        bus.control.run(&mut bus.store, disk, &mut |_| ())
    }

    fn shut_down(&mut self) -> bool {
        self.bus.shut_down(&mut self.disk)
    }

    /// The back end says what it can, and is ready for the front end.
    fn offer(&mut self) {
        for (name, value) in [
            ("max-ring-page-order", "4"),
            ("multi-queue-max-queues", "2"),
            ("feature-max-indirect-segments", "256"),
            ("state", "2"),
        ] {
            self.back(name, value);
        }
        self.run();
    }

    /// The rings that the front end has published, found as a back end finds them.
    fn rings(&self) -> Vec<Vec<u32>> {
        let queues = self
            .front("multi-queue-num-queues")
            .map_or(1, |n| n.parse().unwrap());
        let dirs: Vec<String> = match queues {
            1 => vec![String::new()],
            n => (0..n).map(|n: u32| format!("queue-{n}/")).collect(),
        };
        let order = self
            .front("ring-page-order")
            .map(|order| order.parse::<u32>().unwrap());
        let ring = |dir: &String| {
            let port = self.number(&format!("{dir}event-channel"));
            assert!(port > 0);
            match order {
                None => vec![self.number(&format!("{dir}ring-ref"))],
                Some(order) => (0..1 << order)
                    .map(|page| self.number(&format!("{dir}ring-ref{page}")))
                    .collect(),
            }
        };
        dirs.iter().map(ring).collect()
    }

    /// The back end maps the rings, says what its disk is, and is connected.
    fn accept(&mut self) {
        assert_eq!(self.front("state").unwrap(), "3");
        self.backend.attach(&self.rings());
        let sectors = SECTORS.to_string();
        for (name, value) in [
            ("feature-flush-cache", "1"),
            ("feature-persistent", "1"),
            ("sectors", &sectors),
            ("sector-size", "512"),
            ("info", "0"),
            ("state", "4"),
        ] {
            self.back(name, value);
        }
        self.run();
    }

    fn start(&mut self, operation: Operation, sector: u64) {
        let job = Job {
            tag: sector as u16,
            queue: 0,
            operation,
            sector,
            sectors: 1,
        };
        let fill = |bytes: &mut [u8]| -> Result<(), ()> {
            bytes.fill(sector as u8 + 1);
            Ok(())
        };
        let _ticket = self.disk.start(job, fill).unwrap();
        self.disk.kick();
    }

    /// What has ended: tag, and whether well.
    fn ended(&mut self) -> Vec<(u16, bool)> {
        let mut list = Vec::new();
        while let Some(done) = self.disk.next_done() {
            list.push((done.tag, done.result.is_ok()));
            self.disk.release(done.ticket);
        }
        list
    }

    /// A write goes through.
    fn works(&mut self) {
        self.start(Operation::Write, 7);
        self.backend.serve_all();
        assert_eq!(self.ended(), [(7, true)]);
        assert_eq!(self.backend.disk[7 * 512..8 * 512], [8; 512]);
    }

    /// Nothing is granted, no event channel is open.
    fn is_clean(&self) -> bool {
        let memory = self.platform.0.borrow();
        memory.grants() == 0 && memory.ports() == 0
    }
}

#[test]
fn from_the_first_node_to_the_first_request() {
    let mut world = World::new();
    assert_eq!(
        (world.bus.control.phase(), world.is_clean()),
        (Phase::Down, true)
    );
    world.offer();
    assert_eq!(world.bus.control.phase(), Phase::Offered);
    assert_eq!(world.front("protocol").unwrap(), "x86_64-abi");
    assert_eq!(world.front("feature-persistent").unwrap(), "1");
    let rings = world.rings();
    assert_eq!(rings.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4]);
    assert_eq!(world.front("ring-ref"), None);
    assert_eq!(world.front("event-channel"), None);
    assert_eq!(world.front("feature-large-sector-size"), None);
    world.accept();
    assert_eq!(world.front("state").unwrap(), "4");
    assert!(world.disk.is_open());
    let expected = Notice::Connected {
        domain: 3,
        queues: 2,
    };
    assert_eq!(world.notices, [expected]);
    world.works();
    assert_eq!(world.daemon.borrow().transaction_count(), 0);
    assert_eq!(world.daemon.borrow().watch_count(), 2);
}

/// A back end that offers nothing, and one that says so.
#[test]
fn one_ring_of_one_page() {
    for said in [false, true] {
        let mut world = World::new();
        if said {
            world.back("max-ring-page-order", "0");
            world.back("multi-queue-max-queues", "1");
            world.back("feature-max-indirect-segments", "0");
        }
        world.back("state", "2");
        world.run();
        assert_eq!(world.rings().iter().map(Vec::len).collect::<Vec<_>>(), [1]);
        for absent in [
            "ring-page-order",
            "ring-ref0",
            "multi-queue-num-queues",
            "queue-0",
        ] {
            assert_eq!(world.front(absent), None, "{absent}");
        }
        world.accept();
        world.works();
    }
    // The older name for larger rings.
    let mut world = World::new();
    world.back("max-ring-pages", "3");
    world.back("state", "2");
    world.run();
    assert_eq!(world.rings().iter().map(Vec::len).collect::<Vec<_>>(), [2]);
}

/// A platform that would rather not have its pages kept mapped.
#[test]
fn without_persistent_grants() {
    let mut world = World::new();
    let config = Config {
        persistent: false,
        ..*world.disk.config()
    };
    world.disk = Disk::new(world.platform.clone(), config).unwrap();
    world.offer();
    assert_eq!(world.front("feature-persistent").unwrap(), "0");
    world.backend.persistent = false;
    world.accept();
    let mapped = world.platform.0.borrow().mapped();
    world.works();
    assert_eq!(world.platform.0.borrow().mapped(), mapped, "only the rings");
}

#[test]
fn the_devices_there_are() {
    let mut world = World::new();
    assert_eq!(vbd::devices(&mut world.store).unwrap(), [51712]);
    for name in ["268439552", "5632", "x", "-1", "07", "4294967296"] {
        let path = format!("/local/domain/5/device/vbd/{name}");
        world.daemon.borrow_mut().set(&path, b"");
    }
    assert_eq!(
        vbd::devices(&mut world.store).unwrap(),
        [5632, 51712, 268_439_552]
    );
    world.daemon.borrow_mut().remove("/local/domain/5/device");
    assert_eq!(vbd::devices(&mut world.store).unwrap(), []);
}

/// A back end that passes over InitWait, and one whose states come faster than they are looked at.
#[test]
fn states_that_are_passed_over() {
    let mut world = World::new();
    world.back("state", "3");
    world.run();
    world.accept();
    world.works();
    let mut world = World::connected();
    world.back("state", "5");
    world.back("state", "6");
    world.run();
    assert_eq!(world.front("state").unwrap(), "6");
    assert_eq!(
        world.bus.control.phase(),
        Phase::Closing,
        "it has the rings still"
    );
    assert_eq!(world.disk.counters().lost, 1);
}

/// What an earlier connection has left is not found by a back end that can do less.
#[test]
fn a_back_end_that_comes_back_with_less() {
    let mut world = World::connected();
    world.works();
    world.backend.cut(Cut::Closed, |_| false);
    world.back("state", "6");
    world.run();
    assert_eq!(
        world.front("state").unwrap(),
        "1",
        "it is asked to begin again"
    );
    assert!(world.is_clean());
    for name in ["max-ring-page-order", "multi-queue-max-queues"] {
        world.back(name, "0");
    }
    world.start(Operation::Write, 3);
    world.back("state", "2");
    world.run();
    assert_eq!(world.rings().len(), 1);
    for stale in [
        "ring-page-order",
        "ring-ref0",
        "queue-0",
        "queue-1",
        "multi-queue-num-queues",
    ] {
        assert_eq!(world.front(stale), None, "{stale}");
    }
    assert!(world.front("virtual-device").is_some(), "that is not ours");
    world.accept();
    world.backend.serve_all();
    assert_eq!(world.ended(), [(3, true)], "what waited is done");
    world.works();
}

#[test]
fn closing_in_good_order() {
    let mut world = World::connected();
    world.start(Operation::Write, 1);
    world.backend.take();
    world.back("state", "5");
    world.run();
    assert_eq!(
        (
            world.bus.control.phase(),
            world.front("state").unwrap().as_str()
        ),
        (Phase::Draining, "5")
    );
    world.start(Operation::Write, 2);
    assert_eq!(world.backend.take(), 0, "nothing more is sent");
    world.run();
    assert_eq!(
        world.bus.control.phase(),
        Phase::Draining,
        "a request is under way"
    );
    world.backend.serve(0);
    assert_eq!(world.ended(), [(1, true)]);
    world.run();
    assert_eq!(
        (
            world.bus.control.phase(),
            world.front("state").unwrap().as_str()
        ),
        (Phase::Closing, "6")
    );
    assert!(!world.is_clean());
    // The toolstack takes it away for good.
    world.backend.cut(Cut::Closed, |_| false);
    world.back("online", "0");
    world.back("state", "6");
    world.run();
    assert!(world.is_clean());
    assert_eq!(
        (
            world.bus.control.phase(),
            world.front("state").unwrap().as_str()
        ),
        (Phase::Down, "6")
    );
    let expected = [Notice::Closing, Notice::Disconnected { in_order: true }];
    assert_eq!(world.notices[1..], expected);
    assert_eq!(world.disk.counters().lost, 0);
}

/// This side ends: what was sent is answered, what was not is not, and nothing stays with the back end.
#[test]
fn closing_from_this_side() {
    let mut world = World::connected();
    world.start(Operation::Write, 1);
    world.backend.take();
    assert!(!world.shut_down());
    assert_eq!(world.bus.control.phase(), Phase::Draining);
    assert_eq!(world.front("state").unwrap(), "5");
    world.start(Operation::Write, 2);
    assert_eq!(world.backend.take(), 0, "nothing more is sent");
    world.back("state", "5");
    assert!(!world.shut_down(), "a request is under way");
    world.backend.serve(0);
    assert_eq!(world.ended(), [(1, true)]);
    assert!(!world.shut_down(), "the back end has the rings");
    assert_eq!(world.bus.control.phase(), Phase::Closing);
    assert_eq!(world.front("state").unwrap(), "6");
    world.backend.cut(Cut::Closed, |_| false);
    world.back("state", "6");
    assert!(world.shut_down() && world.is_clean());
    assert!(world.shut_down(), "there is nothing more to do");
    assert_eq!(world.front("state").unwrap(), "6");
    assert_eq!(world.disk.counters().lost, 0);
}

/// The same with a back end that is not there yet, goes, or lies.
#[test]
fn closing_from_this_side_at_any_time() {
    let mut world = World::new();
    assert!(world.shut_down(), "nothing was offered");
    world.offer();
    assert!(world.shut_down(), "nobody has mapped anything");
    assert_eq!(world.front("state").unwrap(), "6");

    let mut world = World::connected();
    world.start(Operation::Write, 1);
    world.backend.take();
    assert!(!world.shut_down());
    world.daemon.borrow_mut().remove(BACK);
    world.backend.cut(Cut::Died, |_| false);
    assert!(world.shut_down() && world.is_clean());

    let mut world = World::connected();
    world.disk.give_up();
    world.backend.cut(Cut::Closed, |_| false);
    world.back("state", "6");
    assert!(world.shut_down() && world.is_clean());
    assert_eq!(world.front("state").unwrap(), "6");
}

/// Taken away and attached again, by another domain: what waits is done there.
#[test]
fn row39_a_back_end_in_another_domain() {
    const OTHER: &str = "/local/domain/9/backend/vbd/5/51712";
    let mut world = World::connected();
    world.start(Operation::Write, 1);
    world.backend.take();
    // The storage domain is destroyed; Xen unmaps what it had.
    world.daemon.borrow_mut().remove(BACK);
    world.backend.cut(Cut::Died, |_| false);
    world.run();
    assert_eq!(
        (world.bus.control.phase(), world.is_clean()),
        (Phase::Down, true)
    );
    assert_eq!(
        world.notices.last(),
        Some(&Notice::Disconnected { in_order: false })
    );
    world.daemon.borrow_mut().remove(FRONT);
    world.run();
    world.make(9, OTHER);
    world.run();
    assert_eq!(world.bus.control.phase(), Phase::Down);
    world.backend.domain = 9;
    for (name, value) in [("sectors", "64"), ("state", "2")] {
        world
            .daemon
            .borrow_mut()
            .set(&format!("{OTHER}/{name}"), value.as_bytes());
    }
    world.run();
    world.backend.attach(&world.rings());
    world
        .daemon
        .borrow_mut()
        .set(&format!("{OTHER}/state"), b"4");
    world.run();
    world.backend.serve_all();
    assert_eq!(world.ended(), [(1, true)]);
    assert_eq!(world.backend.disk[512..1024], [2; 512]);
    let expected = Notice::Connected {
        domain: 9,
        queues: 1,
    };
    assert_eq!(world.notices.last(), Some(&expected));
}

/// The device was made anew between two looks: same path, other nodes.
#[test]
fn row39_a_device_that_is_made_anew() {
    let mut world = World::connected();
    world.start(Operation::Write, 1);
    world.backend.take();
    world.daemon.borrow_mut().remove(FRONT);
    world.daemon.borrow_mut().remove(BACK);
    world.backend.unmap();
    world.backend.pending.clear();
    world.make(3, BACK);
    world.back("state", "2");
    world.run();
    assert_eq!(world.bus.control.phase(), Phase::Offered);
    world.accept();
    world.backend.serve_all();
    assert_eq!(world.ended(), [(1, true)]);
}

/// A predecessor in this domain left the back end connected.
#[test]
fn a_back_end_that_is_connected_already() {
    let mut world = World::new();
    world
        .daemon
        .borrow_mut()
        .set(&format!("{FRONT}/state"), b"4");
    world.back("state", "4");
    world.run();
    assert_eq!(world.front("state").unwrap(), "6");
    world.back("state", "6");
    world.run();
    assert_eq!(world.front("state").unwrap(), "1");
    world.offer();
    world.accept();
    world.works();
}

#[test]
fn row38_a_back_end_that_does_not_let_go_in_time() {
    let mut world = World::connected();
    world.works();
    world.daemon.borrow_mut().remove(BACK);
    world.run();
    assert_eq!(world.bus.control.phase(), Phase::Closing);
    for _ in 0..3 {
        world.run();
        assert_eq!(
            world.bus.control.phase(),
            Phase::Closing,
            "its pages are mapped"
        );
    }
    world.backend.unmap();
    world.run();
    assert_eq!(
        (world.bus.control.phase(), world.is_clean()),
        (Phase::Down, true)
    );
}

#[test]
fn row36_a_ring_that_is_broken_is_given_up() {
    let mut world = World::connected();
    world.works();
    world.start(Operation::Read, 1);
    world.backend.take();
    world.backend.set_index(0, 8, 99);
    assert_eq!(world.ended(), [(1, false)]);
    world.run();
    assert_eq!(world.front("state").unwrap(), "6");
    world.backend.cut(Cut::Closed, |_| false);
    world.back("state", "6");
    world.run();
    assert_eq!(world.front("state").unwrap(), "1");
    world.offer();
    world.accept();
    world.works();
}

/// A back end that breaks every ring at once is not tried for ever, until the toolstack makes the device anew.
#[test]
fn row37_a_back_end_that_never_works() {
    let mut world = World::new();
    let mut connections = 0;
    for _ in 0..3 * MAX_ATTEMPTS {
        world.back("state", "2");
        world.run();
        if world.bus.control.phase() != Phase::Offered {
            break;
        }
        connections += 1;
        world.accept();
        world.backend.set_index(0, 8, 99);
        world.start(Operation::Read, 1);
        assert_eq!(world.ended(), [(1, false)]);
        world.run();
        world.backend.cut(Cut::Closed, |_| false);
        world.back("state", "6");
        world.run();
    }
    assert_eq!(connections, MAX_ATTEMPTS);
    assert!(world.is_clean());
    world.daemon.borrow_mut().remove(FRONT);
    world.daemon.borrow_mut().remove(BACK);
    world.make(3, BACK);
    world.offer();
    world.accept();
    world.works();
}

#[test]
fn row39_the_disk_changes_its_size() {
    let mut world = World::connected();
    for (sectors, known) in [
        ("128", 128),
        ("", 128),
        ("-1", 128),
        ("32", 32),
        ("99999999999999999999", 32),
    ] {
        world.back("sectors", sectors);
        world.run();
        assert_eq!(
            AsyncBackend::properties(&world.disk).sectors,
            known,
            "{sectors:?}"
        );
    }
    assert_eq!(
        world.notices[1..],
        [Notice::Resized(128), Notice::Resized(32)]
    );
    assert_eq!(world.bus.control.phase(), Phase::Up);
}

const HOSTILE: [&[u8]; 14] = [
    b"",
    b"0",
    b"-1",
    b"+1",
    b" 1",
    b"1 ",
    b"0x10",
    b"1e3",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999999999999999999",
    b"\xff\xfe\x00\x80",
    b"a value that is no number at all, and much longer than any number would ever be",
];

/// Each node of the back end with each value: the disk can be used as if the node were not there, or not at all.
#[test]
fn row37_values_that_make_no_sense() {
    let huge = vec![b'9'; 4000];
    for name in [
        "max-ring-page-order",
        "max-ring-pages",
        "multi-queue-max-queues",
        "feature-max-indirect-segments",
        "feature-flush-cache",
        "feature-barrier",
        "feature-discard",
        "feature-persistent",
        "discard-granularity",
        "discard-alignment",
        "physical-sector-size",
        "info",
        "sector-size",
        "sectors",
        "online",
    ] {
        for value in HOSTILE.into_iter().chain([&huge[..]]) {
            let mut world = World::new();
            let path = format!("{BACK}/{name}");
            world.offer_with(&path, value);
            assert_eq!(world.front("state").unwrap(), "3", "{name} {value:?}");
            let rings = world.rings();
            assert!((1..=4).contains(&rings.len()));
            assert!(rings.iter().all(|ring| [1, 2, 4].contains(&ring.len())));
            world.accept_with(&path, value);
            let properties = *world.disk.properties();
            match world.bus.control.phase() {
                Phase::Up => {
                    assert!(properties.sector_size.is_power_of_two());
                    assert!(properties.sectors.checked_mul(512).is_some());
                    assert!(properties.indirect <= 256);
                    assert!(properties.physical_sector_size >= properties.sector_size);
                    if properties.sectors == SECTORS as u64 && !properties.readonly {
                        world.works();
                    }
                }
                Phase::Closing => {
                    assert!(
                        ["sectors", "sector-size"].contains(&name),
                        "{name} {value:?}"
                    );
                    assert_eq!(world.front("state").unwrap(), "6");
                    assert!(matches!(world.notices[0], Notice::Unusable(node) if node == name));
                }
                phase => panic!("{name} {value:?}: {phase:?}"),
            }
        }
    }
}

impl World {
    fn offer_with(&mut self, path: &str, value: &[u8]) {
        self.daemon.borrow_mut().set(path, value);
        self.back("state", "2");
        self.run();
    }

    fn accept_with(&mut self, path: &str, value: &[u8]) {
        self.backend.attach(&self.rings());
        let sectors = SECTORS.to_string();
        self.back("sectors", &sectors);
        self.daemon.borrow_mut().set(path, value);
        self.back("state", "4");
        self.run();
    }
}

/// The nodes that say where the back end is.
#[test]
fn row37_a_back_end_that_is_nowhere() {
    for (name, values) in [
        (
            "backend",
            &[
                &b"relative/path"[..],
                b"/",
                b"",
                b"/a//b",
                b"/\xff",
                b"/a b",
            ][..],
        ),
        ("backend-id", &[&b"65536"[..], b"-1", b"", b"x"][..]),
        ("state", &[&b""[..], b"0", b"7", b"99", b"x", b"-4"][..]),
    ] {
        for value in values {
            let mut world = World::new();
            let path = format!("{FRONT}/{name}");
            let before = world.daemon.borrow().get(&path).unwrap();
            world.daemon.borrow_mut().set(&path, value);
            world.back("state", "2");
            world.run();
            assert_eq!(
                (world.bus.control.phase(), world.is_clean()),
                (Phase::Down, true),
                "{name}"
            );
            world.daemon.borrow_mut().set(&path, &before);
            world.offer();
            world.accept();
            world.works();
        }
    }
    // Longer than any path of a back end.
    let mut world = World::new();
    let long = format!("/{}", "a".repeat(1000));
    world
        .daemon
        .borrow_mut()
        .set(&format!("{FRONT}/backend"), long.as_bytes());
    world.run();
    assert_eq!(world.bus.control.phase(), Phase::Down);
}

/// Nodes that this domain may not read count as not there.
#[test]
fn row37_nodes_of_somebody_else() {
    let mut world = World::new();
    world.daemon.borrow_mut().forbidden.push(BACK.into());
    world.back("state", "2");
    world.run();
    assert_eq!(world.bus.control.phase(), Phase::Down);
    world.daemon.borrow_mut().forbidden.clear();
    world.run();
    world.accept();
    world.works();
}

#[test]
fn row37_transactions_that_collide() {
    let mut world = World::new();
    world.daemon.borrow_mut().collisions = 3;
    world.offer();
    world.accept();
    world.works();
    // For ever: an error; and then it goes on.
    let mut world = World::new();
    world.daemon.borrow_mut().collisions = u32::MAX;
    world.back("state", "2");
    let result = world.try_run();
    assert!(result.is_err());
    world.daemon.borrow_mut().collisions = 0;
    world.run();
    assert_eq!(world.daemon.borrow().transaction_count(), 0);
    world.accept();
    world.works();
}

/// Every answer of the daemon in turn is a refusal: it is tried again, and nothing is left behind.
#[test]
fn row34_row37_every_call_fails_once() {
    for failing in 0.. {
        let mut world = World::new();
        world.back("state", "2");
        let count = Rc::new(RefCell::new(0));
        let counted = count.clone();
        world.daemon.borrow_mut().tamper = Some(Box::new(move |header: Header, payload: &[u8]| {
            let n = counted.replace_with(|n| *n + 1);
            let (kind, payload) = if n == failing {
                (Op::Error.number(), &b"EIO\0"[..])
            } else {
                (header.kind, payload)
            };
            let len = payload.len() as u32;
            let header = Header {
                kind,
                len,
                ..header
            };
            [&header.encode()[..], payload].concat()
        }));
        let first = world.try_run();
        let calls = *count.borrow();
        if calls <= failing {
            assert!(first.is_ok() && failing > 20, "{failing} calls were tried");
            return;
        }
        world.run();
        world.run();
        assert_eq!(world.front("state").unwrap(), "3", "{failing}");
        world.daemon.borrow_mut().tamper = None;
        world.accept();
        world.works();
        world.daemon.borrow_mut().remove(BACK);
        world.backend.unmap();
        world.run();
        assert!(world.is_clean(), "{failing}");
    }
}

#[test]
fn row38_no_room_for_a_connection() {
    let mut world = World::new();
    world.platform.0.borrow_mut().grant_limit = 10;
    world.offer();
    assert_eq!(world.notices, [Notice::NoRoom]);
    assert_eq!(
        (world.bus.control.phase(), world.is_clean()),
        (Phase::Down, true)
    );
    assert_eq!(world.front("state").unwrap(), "1");
    world.platform.0.borrow_mut().grant_limit = usize::MAX;
    world.run();
    world.accept();
    world.works();
}

#[derive(Clone, Debug)]
enum Event {
    Back(u8),
    Front(u8),
    Remove(bool),
    Make,
    Value(usize, usize),
    Unmap,
    Garbage(u32),
    Request(bool),
    Run,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (0..9u8).prop_map(Event::Back),
        1 => (0..9u8).prop_map(Event::Front),
        1 => any::<bool>().prop_map(Event::Remove),
        1 => Just(Event::Make),
        2 => (0..6usize, 0..HOSTILE.len()).prop_map(|(n, v)| Event::Value(n, v)),
        3 => Just(Event::Unmap),
        1 => any::<u32>().prop_map(Event::Garbage),
        3 => any::<bool>().prop_map(Event::Request),
        8 => Just(Event::Run),
    ];
    prop::collection::vec(event, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever states and values come in whatever order: nothing panics, nothing is granted while nobody is connected,
    /// and a device that is made anew in the end works.
    #[test]
    fn row37_any_sequence_of_states(events in events()) {
        let mut world = World::new();
        let mut taken = 0;
        for event in events {
            match event {
                Event::Back(state) => world.back("state", &state.to_string()),
                Event::Front(state) => {
                    let path = format!("{FRONT}/state");
                    world.daemon.borrow_mut().set(&path, state.to_string().as_bytes());
                }
                Event::Remove(front) => {
                    let path = if front { FRONT } else { BACK };
                    world.daemon.borrow_mut().remove(path);
                }
                Event::Make => world.make(3, BACK),
                Event::Value(node, value) => {
                    let nodes = ["sectors", "sector-size", "online", "max-ring-page-order",
                        "multi-queue-max-queues", "feature-max-indirect-segments"];
                    let path = format!("{BACK}/{}", nodes[node]);
                    world.daemon.borrow_mut().set(&path, HOSTILE[value]);
                }
                Event::Unmap => world.platform.0.borrow_mut().unmap_all(),
                Event::Garbage(value) if world.disk.is_open() => {
                    let page = 0;
                    let memory = &mut *world.platform.0.borrow_mut();
                    memory.put(page, 8, &value.to_le_bytes());
                }
                Event::Request(flush) if taken < 6 => {
                    let job = Job {
                        tag: taken,
                        queue: taken,
                        operation: if flush { Operation::Flush } else { Operation::Discard },
                        sector: 0,
                        sectors: 0,
                    };
                    if world.disk.start(job, |_| Ok::<_, ()>(())).is_ok() {
                        taken += 1;
                    }
                    world.disk.kick();
                }
                Event::Run => world.run(),
                _ => {}
            }
            taken -= world.ended().len() as u16;
            if world.bus.control.phase() == Phase::Down {
                assert!(world.is_clean());
            }
        }
        for _ in 0..3 {
            world.daemon.borrow_mut().remove(FRONT);
            world.daemon.borrow_mut().remove(BACK);
            world.platform.0.borrow_mut().unmap_all();
            world.run();
        }
        assert_eq!((world.bus.control.phase(), world.is_clean()), (Phase::Down, true));
        world.make(3, BACK);
        world.offer();
        world.accept();
        world.backend.serve_all();
        world.ended();
        world.works();
    }
}
