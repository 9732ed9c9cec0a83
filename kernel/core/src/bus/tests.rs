//! Handshakes with a guest's driver, good ones and hostile ones, on a fake xenstored.

use alloc::rc::Rc;
use core::cell::RefCell;
use std::prelude::v1::*;

use vd_xenbus::RingTransport;
use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};
use vd_xenbus::wire::{Header, Op};

use super::*;

const FRONTEND: &str = "/local/domain/7/device/virtio/2";
const BACKEND: &str = "/local/domain/5/backend/virtio/7/2";

struct Bench {
    daemon: Rc<RefCell<FakeXenstored>>,
    store: Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>,
    link: Link,
}

impl Bench {
    fn new(interrupt: Interrupt, doorbell: Doorbell) -> Self {
        let page = Rc::new(FakePage::new());
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
        let signal = FakeSignal::new(daemon.clone());
        let mut bench = Self {
            daemon,
            store: Xenstore::new(RingTransport::attach(page, signal)),
            link: Link::new(Offer {
                guest: 7,
                slot: SlotIndex::new(2).unwrap(),
                interrupt,
                doorbell,
                queues: 2,
                memory: Memory::Foreign,
            }),
        };
        bench.guest("state", "1");
        bench.link.open(&mut bench.store).unwrap();
        bench
    }

    /// The guest writes.
    fn guest(&self, key: &str, value: &str) {
        let path = format!("{FRONTEND}/{key}");
        self.daemon.borrow_mut().set(&path, value.as_bytes());
    }

    /// What the guest reads.
    fn ours(&self, key: &str) -> Option<String> {
        let value = self.daemon.borrow().get(&format!("{BACKEND}/{key}"))?;
        Some(String::from_utf8(value).unwrap())
    }

    fn look(&mut self) -> Result<Step, Trouble> {
        self.link.look(&mut self.store)
    }

    /// The guest says that it is done with its part.
    fn initialised(&mut self) -> Result<Step, Trouble> {
        self.guest("state", "3");
        self.look()
    }
}

#[test]
fn the_offer_is_what_the_patch_for_linux_reads() {
    let bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    for (key, value) in [
        ("base", "0xfea02000"),
        ("size", "512"),
        ("state", "2"),
        ("interrupt", "event-channel"),
        ("doorbell", "mmio"),
    ] {
        assert_eq!(bench.ours(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(bench.ours("doorbell-port"), None);
    assert_eq!(bench.link.watched(), format!("{FRONTEND}/state"));
    let bench = Bench::new(Interrupt::Msi, Doorbell::Port);
    assert_eq!(bench.ours("doorbell-port").as_deref(), Some("57360"));
}

#[test]
fn connecting_closing_and_starting_over() {
    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    assert_eq!(bench.look(), Ok(Step::Nothing));
    bench.guest("event-channel", "12");
    let answer = Answer {
        interrupt: Target::Port(12),
        doorbells: Vec::new(),
    };
    assert_eq!(bench.initialised(), Ok(Step::Connect(answer.clone())));
    assert_eq!(
        bench.ours("state").as_deref(),
        Some("2"),
        "not before it is bound"
    );
    bench.link.connected(&mut bench.store).unwrap();
    assert_eq!(bench.ours("state").as_deref(), Some("4"));
    assert_eq!(bench.link.state(), BusState::Connected);
    bench.guest("state", "4");
    assert_eq!(bench.look(), Ok(Step::Nothing));
    // What it writes now is too late.
    bench.guest("event-channel", "99");
    assert_eq!(bench.initialised(), Ok(Step::Nothing));
    bench.guest("state", "5");
    assert_eq!(bench.look(), Ok(Step::Disconnect));
    assert_eq!(bench.ours("state").as_deref(), Some("6"));
    assert_eq!(bench.look(), Ok(Step::Nothing));
    bench.guest("state", "6");
    assert_eq!(bench.look(), Ok(Step::Nothing));
    bench.guest("state", "1");
    assert_eq!(bench.look(), Ok(Step::Nothing));
    assert_eq!(bench.ours("state").as_deref(), Some("2"));
    bench.guest("event-channel", "12");
    assert_eq!(bench.initialised(), Ok(Step::Connect(answer)));
}

#[test]
fn a_driver_that_closes_before_it_has_connected() {
    for state in ["5", "6"] {
        let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
        bench.guest("state", state);
        assert_eq!(bench.look(), Ok(Step::Nothing), "nothing was bound");
        assert_eq!(bench.ours("state").as_deref(), Some("6"));
        bench.guest("state", "1");
        assert_eq!(bench.look(), Ok(Step::Nothing));
        assert_eq!(bench.ours("state").as_deref(), Some("2"), "offered anew");
    }
}

/// The watch fires once for both: whoever looks has to look again.
#[test]
fn a_driver_that_is_back_already() {
    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    bench.guest("event-channel", "12");
    bench.initialised().unwrap();
    bench.link.connected(&mut bench.store).unwrap();
    bench.guest("state", "1");
    assert_eq!(bench.look(), Ok(Step::Disconnect));
    assert_eq!(bench.look(), Ok(Step::Nothing));
    assert_eq!(bench.ours("state").as_deref(), Some("2"), "offered anew");
    assert!(matches!(bench.initialised(), Ok(Step::Connect(_))));
}

#[test]
fn a_guest_that_vanishes_is_disconnected_once() {
    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    bench.guest("event-channel", "12");
    bench.initialised().unwrap();
    bench.link.connected(&mut bench.store).unwrap();
    bench.guest("state", "");
    assert_eq!(bench.look(), Ok(Step::Disconnect));
    assert_eq!(bench.look(), Ok(Step::Nothing));
}

/// Attack case 37: a state that is none is named, and counts as none.
#[test]
fn row37_states_that_make_no_sense() {
    let huge = "9".repeat(3000);
    for value in ["0", "9", "-1", "04", "connected", "4 ", huge.as_str()] {
        let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
        bench.guest("event-channel", "12");
        let nonsense = Trouble::Guest("front end: state is no state".into());
        bench.guest("state", value);
        assert_eq!(bench.look(), Err(nonsense.clone()), "{value}");
        assert_eq!(bench.ours("state").as_deref(), Some("2"), "waits as before");
        bench.initialised().unwrap();
        bench.link.connected(&mut bench.store).unwrap();
        bench.guest("state", value);
        assert_eq!(bench.look(), Ok(Step::Disconnect), "{value}");
        assert_eq!(bench.look(), Err(nonsense), "{value}");
        bench.guest("state", "1");
        assert_eq!(bench.look(), Ok(Step::Nothing));
        assert_eq!(bench.ours("state").as_deref(), Some("2"), "offered anew");
    }
}

#[test]
fn doorbells_are_taken_if_the_driver_has_made_them() {
    for (made, taken) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
        let mut bench = Bench::new(Interrupt::Msi, Doorbell::EventChannel);
        bench.guest("msi-address", "4276092928");
        bench.guest("msi-data", "64");
        for queue in 0..made {
            bench.guest(
                &format!("doorbell-event-channel-{queue}"),
                &(20 + queue).to_string(),
            );
        }
        let Ok(Step::Connect(answer)) = bench.initialised() else {
            std::panic!("{made} doorbells");
        };
        let message = Target::Message {
            address: 0xfee0_0000,
            data: 64,
        };
        assert_eq!(answer.interrupt, message);
        assert_eq!(answer.doorbells, Vec::from_iter(20..20 + taken));
    }
}

#[test]
fn row37_what_a_guest_writes_is_checked_and_refused_until_it_starts_over() {
    let huge = "9".repeat(3000);
    for bad in [
        "",
        "0",
        "-1",
        "+1",
        " 1",
        "1x",
        "4294967296",
        "99999999999999999999",
        &huge,
    ] {
        let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
        bench.guest("event-channel", bad);
        let Err(Trouble::Guest(why)) = bench.initialised() else {
            std::panic!("{bad}");
        };
        assert!(why.len() < 200 && why.contains("event-channel"), "{why}");
        assert_eq!(bench.ours("state").as_deref(), Some("6"));
        bench.guest("event-channel", "3");
        assert_eq!(bench.look(), Ok(Step::Nothing), "closed is closed");
        bench.guest("state", "1");
        bench.look().unwrap();
        assert!(matches!(bench.initialised(), Ok(Step::Connect(_))));
    }
    for (address, data) in [
        ("0", "64"),
        ("4277141504", "64"),
        ("4276092928", "15"),
        ("4276092928", "1088"),
        // Level-triggered, and the level alone.
        ("4276092928", "32832"),
        ("4276092928", "16448"),
        ("4276092928", "4294967360"),
        ("18446744073709551615", "64"),
    ] {
        let mut bench = Bench::new(Interrupt::Msi, Doorbell::Mmio);
        bench.guest("msi-address", address);
        bench.guest("msi-data", data);
        let refused = bench.initialised();
        assert!(
            matches!(refused, Err(Trouble::Guest(_))),
            "{address} {data}"
        );
    }
    let mut bench = Bench::new(Interrupt::Msi, Doorbell::EventChannel);
    bench.guest("msi-address", "4276092928");
    bench.guest("msi-data", "64");
    bench.guest("doorbell-event-channel-0", "x");
    assert!(matches!(bench.initialised(), Err(Trouble::Guest(_))));
}

/// Only what is missing means "no such doorbell", and only a directory that is gone means "no front end": when xenstore
/// fails, nobody is disconnected.
#[test]
fn row37_other_errors_of_xenstore_are_told() {
    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::EventChannel);
    bench.guest("event-channel", "4");
    bench.guest("doorbell-event-channel-0", "5");
    let doorbell = format!("{FRONTEND}/doorbell-event-channel-0");
    bench.daemon.borrow_mut().forbidden.push(doorbell);
    assert!(matches!(bench.initialised(), Err(Trouble::Store(_))));

    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    bench.guest("event-channel", "4");
    bench.initialised().unwrap();
    bench.link.connected(&mut bench.store).unwrap();
    bench.daemon.borrow_mut().tamper = Some(Box::new(|header, _| {
        let failed = b"EIO\0";
        let header = Header {
            kind: Op::Error.number(),
            len: 4,
            ..header
        };
        [&header.encode()[..], failed].concat()
    }));
    assert!(matches!(bench.look(), Err(Trouble::Store(_))));
    assert_eq!(bench.link.state(), BusState::Connected);
    bench.daemon.borrow_mut().tamper = None;
    assert_eq!(bench.look(), Ok(Step::Nothing), "and all is well");
}

#[test]
fn row37_missing_and_forbidden_nodes() {
    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    let missing = bench.initialised().unwrap_err();
    assert!(missing.to_string().contains("event-channel"), "{missing}");
    let mut bench = Bench::new(Interrupt::EventChannel, Doorbell::Mmio);
    bench.daemon.borrow_mut().forbidden.push(FRONTEND.into());
    assert_eq!(bench.look(), Ok(Step::Nothing), "as if it were gone");
    bench.daemon.borrow_mut().forbidden.clear();
    bench.guest("event-channel", "4");
    assert!(matches!(bench.initialised(), Ok(Step::Connect(_))));
}
