//! Devices that come and go, against a fake driver domain.

use super::*;
use crate::fake::{Behaviour, Fake};
use crate::testing::TempDir;

const TIMEOUT: Duration = Duration::from_secs(3);
const DRIVER: u16 = 7;
const GUEST: u16 = 8;

struct Bench {
    dir: TempDir,
    fake: Fake,
}

impl Bench {
    /// A guest with two disks.
    fn new() -> Self {
        let bench = Self {
            dir: TempDir::new("hotplug"),
            fake: Fake::new(),
        };
        bench.fake.add(DRIVER, "web-vd", "pvh");
        bench.fake.add(GUEST, "web", "hvm");
        let texts = [
            &b"type=blk,backend=ram:1M"[..],
            b"slot=3,type=blk,backend=module",
        ];
        let devices = Devices::parse(texts).unwrap();
        attach::run(&mut bench.host(), "web-vd", "web", &devices, TIMEOUT).unwrap();
        bench.fake.0.borrow_mut().now += POLL;
        bench
    }

    fn host(&self) -> Host {
        self.fake.host(self.dir.path())
    }

    fn attach(&self, text: &str) -> Result<(), Failure> {
        super::attach(&mut self.host(), "web", text, TIMEOUT)
    }

    fn detach(&self, slot: u8, force: bool) -> Result<(), Failure> {
        let slot = SlotIndex::new(slot).unwrap();
        super::detach(&mut self.host(), "web", slot, force, TIMEOUT)
    }

    fn set_table(&self, text: &str) {
        let path = node(DRIVER, keys::TABLE);
        self.fake.0.borrow_mut().set(&path, text);
    }

    fn of_driver(&self, key: &str) -> Option<String> {
        self.fake.value(&node(DRIVER, key))
    }

    /// What must fail must leave no trace.
    fn must_fail(&self, what: &str, f: impl Fn() -> Result<(), Failure>) {
        self.host().clock.sleep(POLL);
        let before = self.fake.state();
        let failure = f().unwrap_err().to_string();
        assert!(failure.contains(what), "{failure}");
        assert_eq!(self.fake.state(), before, "{failure}");
    }
}

const RAM: &str = "type=blk,backend=ram:8M,serial=LATE";

#[test]
fn a_device_comes_into_the_first_free_slot_and_goes() {
    let bench = Bench::new();
    let before = bench.fake.state();
    bench.attach(RAM).unwrap();
    for (path, value) in [
        ("/local/domain/7/virtio-domain/device/1/backend", "ram:8M"),
        ("/local/domain/7/virtio-domain/device/1/serial", "LATE"),
        ("/local/domain/7/backend/virtio/8/1/state", "2"),
        ("/local/domain/7/backend/virtio/8/1/online", "1"),
        ("/local/domain/7/backend/virtio/8/1/type", "virtio,device2"),
        (
            "/local/domain/7/backend/virtio/8/1/frontend",
            "/local/domain/8/device/virtio/1",
        ),
        (
            "/local/domain/8/device/virtio/1/backend",
            "/local/domain/7/backend/virtio/8/1",
        ),
        ("/local/domain/8/device/virtio/1/backend-id", "7"),
        (
            "/libxl/8/device/virtio/1/backend",
            "/local/domain/7/backend/virtio/8/1",
        ),
        (
            "/libxl/8/device/virtio/1/frontend",
            "/local/domain/8/device/virtio/1",
        ),
    ] {
        assert_eq!(bench.fake.value(path).as_deref(), Some(value), "{path}");
    }
    let state = bench.fake.state();
    let owner = |path: &str| state.permissions.get(path).copied();
    assert_eq!(
        owner("/local/domain/7/backend/virtio/8/1"),
        Some((DRIVER, GUEST))
    );
    assert_eq!(
        owner("/local/domain/8/device/virtio/1"),
        Some((GUEST, DRIVER))
    );
    bench.attach("slot=9,type=rng,backend=cpu").unwrap();
    bench.attach("type=rng,backend=cpu").unwrap();
    assert_eq!(
        bench.of_driver("virtio-domain/device/2/type").as_deref(),
        Some("rng")
    );
    for slot in [1, 9, 2] {
        bench.detach(slot, false).unwrap();
    }
    assert_eq!(
        bench.fake.state().tree.keys().collect::<Vec<_>>(),
        before.tree.keys().collect::<Vec<_>>()
    );
    assert_eq!(bench.fake.state().permissions, before.permissions);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    for (text, what) in [
        ("slot=3,type=blk,backend=ram:1M", "slot 3"),
        ("type=blk,backend=module", "module"),
        ("slot=32,type=blk,backend=ram:1M", "slot"),
        ("type=disk,backend=ram:1M", "type"),
        ("type=blk,backend=ram:1M,interrupt=msi", "interrupt=msi"),
        ("type=blk,backend=vbd:xvdb", "xl block-attach web-vd"),
        (
            "type=net,backend=vif:0,mac=00:16:3e:00:00:01",
            "xl network-attach web-vd",
        ),
    ] {
        bench.must_fail(what, || bench.attach(text));
    }
    bench.must_fail("no device in slot 5", || bench.detach(5, false));
    bench.must_fail("no such domain", || {
        super::attach(&mut bench.host(), "nobody", RAM, TIMEOUT)
    });
    bench.must_fail("no driver domain serves", || {
        super::attach(&mut bench.host(), "Domain-0", RAM, TIMEOUT)
    });
}

#[test]
fn what_the_driver_domain_refuses_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.fake.0.borrow_mut().refuses = Some("a disk of 8 MiB does not fit");
    bench.must_fail("a disk of 8 MiB does not fit", || bench.attach(RAM));
    bench.fake.0.borrow_mut().behaviour = Behaviour::Silent;
    bench.must_fail("has not answered after 3 s", || bench.attach(RAM));
}

#[test]
fn every_failure_on_the_way_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.host().clock.sleep(POLL);
    let before = bench.fake.state();
    let calls = |bench: &Bench| bench.fake.0.borrow().log.len();
    let start = calls(&bench);
    bench.attach(RAM).unwrap();
    let all = calls(&bench) - start;
    bench.detach(1, false).unwrap();
    bench.host().clock.sleep(POLL);
    assert!(all > 10, "{all}");
    for call in 0..all {
        let now = calls(&bench);
        bench.fake.0.borrow_mut().fail_at = Some(now + call);
        bench.attach(RAM).unwrap_err();
        bench.fake.0.borrow_mut().fail_at = None;
        assert_eq!(bench.fake.state(), before, "call {call} of {all}");
    }
}

#[test]
fn a_driver_that_does_not_let_go() {
    let bench = Bench::new();
    bench.attach(RAM).unwrap();
    bench.fake.0.borrow_mut().clings = true;
    let failure = bench.detach(1, false).unwrap_err().to_string();
    assert!(failure.contains("has not let it go after 3 s"), "{failure}");
    assert!(failure.contains("--force"), "{failure}");
    // The request stands, and the device is described still.
    assert_eq!(
        bench.of_driver("backend/virtio/8/1/online").as_deref(),
        Some("0")
    );
    assert_eq!(
        bench.of_driver("virtio-domain/device/1/type").as_deref(),
        Some("blk")
    );
    assert!(bench.attach("slot=1,type=rng,backend=cpu").is_err());
    bench.detach(1, true).unwrap();
    assert_eq!(bench.of_driver("virtio-domain/device/1/type"), None);
}

/// The toolstack, or the end of a polite wait, has taken it away without this program.
#[test]
fn what_has_gone_by_itself_is_tidied_up_or_replaced() {
    for replace in [false, true] {
        let bench = Bench::new();
        bench.attach(RAM).unwrap();
        let gone = [Change::Remove(node(DRIVER, "backend/virtio/8/1"))];
        bench.host().store.change(&gone).unwrap();
        if replace {
            bench.attach("slot=1,type=rng,backend=cpu").unwrap();
            assert_eq!(
                bench.of_driver("virtio-domain/device/1/type").as_deref(),
                Some("rng")
            );
            assert_eq!(bench.of_driver("virtio-domain/device/1/serial"), None);
        } else {
            bench.detach(1, false).unwrap();
            assert_eq!(bench.of_driver("virtio-domain/device/1/type"), None);
            assert_eq!(bench.fake.value("/libxl/8/device/virtio/1/state"), None);
        }
    }
}

#[test]
fn a_device_is_described_as_its_slot_is_declared() {
    let bench = Bench::new();
    assert_eq!(bench.of_driver(keys::TABLE).unwrap(), "l".repeat(32));
    bench.set_table("llsellllllllllll");
    bench.attach("slot=2,type=rng,backend=cpu").unwrap();
    assert_eq!(
        bench
            .of_driver("virtio-domain/device/2/doorbell")
            .as_deref(),
        Some("posted")
    );
    bench.attach("slot=4,type=rng,backend=cpu").unwrap();
    assert_eq!(bench.of_driver("virtio-domain/device/4/doorbell"), None);
    assert_eq!(bench.of_driver("virtio-domain/device/4/interrupt"), None);
}
