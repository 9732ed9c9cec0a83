//! A toolstack like libxl, on a fake xenstored.

use alloc::rc::Rc;
use core::cell::RefCell;
use std::prelude::v1::*;

use vd_xenbus::RingTransport;
use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};
use vd_xenbus::wire::{Header, Op};

use super::*;

const GUEST: u16 = 7;

struct Bench {
    daemon: Rc<RefCell<FakeXenstored>>,
    store: Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>,
    plug: Plug,
    now: u64,
}

fn place(number: u32) -> Place {
    Place {
        guest: GUEST,
        number,
    }
}

impl Bench {
    fn new() -> Self {
        let page = Rc::new(FakePage::new());
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
        let signal = FakeSignal::new(daemon.clone());
        let mut store = Xenstore::new(RingTransport::attach(page, signal));
        store.watch(WATCHED, TOKEN).unwrap();
        let mut plug = Plug::default();
        plug.note_all();
        Self {
            daemon,
            store,
            plug,
            now: 1_000_000_000,
        }
    }

    /// What libxl does for a device that a guest is created with.
    fn create(&self, number: u32) {
        let mut daemon = self.daemon.borrow_mut();
        for (key, value) in [
            ("frontend-id", "7"),
            ("online", "1"),
            ("state", "1"),
            ("irq", "0"),
            ("base", "0"),
        ] {
            daemon.set(&place(number).ours(key), value.as_bytes());
        }
        daemon.set(&place(number).theirs("state"), b"1");
    }

    /// What libxl does to take one away, and whether it waits for the guest.
    fn remove(&self, number: u32, waits: bool) {
        let mut daemon = self.daemon.borrow_mut();
        if !waits {
            daemon.remove(&format!("/local/domain/7/device/virtio/{number}"));
        }
        daemon.set(&place(number).ours("online"), b"0");
        daemon.set(&place(number).ours("state"), b"5");
    }

    fn ours(&self, number: u32, key: &str) -> Option<String> {
        let value = self.daemon.borrow().get(&place(number).ours(key))?;
        Some(String::from_utf8(value).unwrap())
    }

    fn state(&self, number: u32) -> Option<String> {
        self.ours(number, "state")
    }

    /// Everything that is asked for now.
    fn asks(&mut self) -> Vec<Ask> {
        self.daemon.borrow_mut().run();
        while let Some(event) = self.store.next_watch().unwrap() {
            assert_eq!(event.token, TOKEN);
            self.plug.note(&event.path);
        }
        self.plug.tick(self.now);
        let mut asks = Vec::new();
        while let Some(ask) = self.plug.service(&mut self.store, self.now).unwrap() {
            if ask != Ask::Nothing {
                asks.push(ask);
            }
        }
        if self.store.take_overflow() {
            self.plug.note_all();
            asks.extend(self.asks());
        }
        asks
    }

    fn serve(&mut self, number: u32, state: Option<BusState>) {
        let pairs = [
            ("base", format!("{:#x}", 0xfea0_0000_u32)),
            ("irq", "18".into()),
        ];
        self.plug
            .serve(&mut self.store, place(number), &pairs, state)
            .unwrap();
    }

    fn served(number: u32) -> Self {
        let mut bench = Self::new();
        bench.create(number);
        assert_eq!(bench.asks(), [Ask::Attach(place(number))]);
        bench.serve(number, Some(BusState::InitWait));
        assert_eq!(bench.asks(), []);
        bench
    }

    fn closed(&mut self, number: u32) {
        self.plug
            .closed(&mut self.store, place(number), self.now)
            .unwrap();
    }
}

#[test]
fn a_device_is_offered_used_and_given_up() {
    let mut bench = Bench::served(2);
    let shown = ["base", "irq", "state"].map(|key| bench.ours(2, key).unwrap());
    assert_eq!(shown, ["0xfea00000", "18", "2"]);
    for (there, state) in [(true, "4"), (true, "4"), (false, "2"), (true, "4")] {
        bench.plug.driver_is(place(2), there);
        assert_eq!(bench.asks(), []);
        assert_eq!(bench.state(2).as_deref(), Some(state));
    }
    bench.remove(2, true);
    let ask = Ask::Detach {
        place: place(2),
        forced: false,
    };
    assert_eq!(bench.asks(), [ask]);
    assert_eq!(bench.plug.leaving().collect::<Vec<_>>(), [place(2)]);
    // What its driver does meanwhile is of no interest any more.
    bench.plug.driver_is(place(2), false);
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.state(2).as_deref(), Some("5"));
    bench.closed(2);
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.state(2).as_deref(), Some("6"));
}

/// libxl waits until it sees the state, and then until it sees no directory: in this order.
#[test]
fn the_state_can_be_seen_before_the_directory_goes() {
    let mut bench = Bench::served(0);
    bench.remove(0, false);
    let ask = Ask::Detach {
        place: place(0),
        forced: true,
    };
    assert_eq!(bench.asks(), [ask]);
    bench.closed(0);
    let gone = bench.plug.deadline().unwrap();
    assert_eq!(gone, bench.now + LINGER);
    bench.now = gone - 1;
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.state(0).as_deref(), Some("6"));
    bench.now = gone;
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.state(0), None);
    assert_eq!(bench.ours(0, "online"), None);
    assert_eq!(bench.plug.deadline(), None);
    assert_eq!(bench.asks(), []);
    assert!(!bench.plug.is_due(), "its own removal is the last event");
}

/// The state may have been overwritten by what this side said at the same moment.
#[test]
fn offline_is_enough() {
    for (key, value) in [("online", "0"), ("state", "5")] {
        let mut bench = Bench::served(1);
        let path = place(1).ours(key);
        bench.daemon.borrow_mut().set(&path, value.as_bytes());
        let ask = Ask::Detach {
            place: place(1),
            forced: false,
        };
        assert_eq!(bench.asks(), [ask], "{key}");
    }
}

#[test]
fn patience_can_end_later() {
    let mut bench = Bench::served(1);
    bench.remove(1, true);
    bench.asks();
    bench.remove(1, false);
    let ask = Ask::Detach {
        place: place(1),
        forced: true,
    };
    assert_eq!(bench.asks(), [ask]);
}

#[test]
fn a_directory_that_is_taken_away_takes_the_device_along() {
    for served in [true, false] {
        let mut bench = Bench::served(3);
        // One that is being prepared is taken away as well.
        let number = if served { 3 } else { 4 };
        if !served {
            bench.create(4);
            assert_eq!(bench.asks(), [Ask::Attach(place(4))]);
        }
        let directory = place(number).directory();
        bench.daemon.borrow_mut().remove(&directory);
        let ask = Ask::Detach {
            place: place(number),
            forced: true,
        };
        assert_eq!(bench.asks(), [ask]);
        bench.closed(number);
        assert_eq!(bench.state(number), None, "nothing is made again");
        assert_eq!(bench.asks(), []);
    }
}

#[test]
fn what_cannot_be_had_is_refused_and_may_be_asked_for_again() {
    let mut bench = Bench::new();
    bench.create(40);
    assert_eq!(bench.asks(), [Ask::Attach(place(40))]);
    assert_eq!(place(40).slot(), None);
    bench
        .plug
        .refuse(&mut bench.store, place(40), "there are 32 slots", bench.now)
        .unwrap();
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.state(40).as_deref(), Some("6"));
    assert_eq!(
        bench.ours(40, "error").as_deref(),
        Some("there are 32 slots")
    );
    // It stays there for whoever wants to know, until the toolstack takes it away or tries again.
    bench.now += 10 * LINGER;
    assert_eq!(bench.asks(), []);
    assert!(bench.plug.deadline().is_none());
    bench.create(40);
    assert_eq!(bench.asks(), [Ask::Attach(place(40))]);
    bench.remove(40, false);
    let ask = Ask::Detach {
        place: place(40),
        forced: true,
    };
    assert_eq!(bench.asks(), [ask]);
    bench.closed(40);
    bench.now += LINGER;
    bench.asks();
    assert_eq!(bench.state(40), None);
}

/// As when creation is rolled back before there was a guest to serve.
#[test]
fn a_directory_that_was_never_served_closes_as_well() {
    let mut bench = Bench::new();
    bench.create(0);
    bench.create(1);
    assert_eq!(bench.asks().len(), 2);
    bench.remove(0, false);
    let ask = Ask::Detach {
        place: place(0),
        forced: true,
    };
    assert_eq!(bench.asks(), [ask]);
    // Refused before, and to go now: the time begins now.
    bench
        .plug
        .refuse(&mut bench.store, place(1), "no", 0)
        .unwrap();
    bench.asks();
    bench.remove(1, false);
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.ours(1, "online").as_deref(), Some("0"));
    bench.now += LINGER;
    assert_eq!(bench.asks(), []);
    assert_eq!(bench.ours(1, "online"), None);
}

/// A PVH guest's connection says the states: see `bus`.
#[test]
fn states_that_are_not_this_sides_business_are_left_alone() {
    let mut bench = Bench::new();
    bench.create(4);
    bench.asks();
    bench.serve(4, None);
    for state in ["2", "4", "6", "2", "nonsense", ""] {
        let path = place(4).ours("state");
        bench.daemon.borrow_mut().set(&path, state.as_bytes());
        bench.plug.driver_is(place(4), true);
        assert_eq!(bench.asks(), [], "{state}");
        assert_eq!(bench.state(4).as_deref(), Some(state));
    }
}

#[test]
fn the_end_of_this_domain_closes_all() {
    let mut bench = Bench::served(0);
    bench.create(1);
    bench.asks();
    bench.serve(1, None);
    bench.create(2);
    bench.asks();
    bench.plug.close_all(&mut bench.store).unwrap();
    let states = [0, 1, 2].map(|number| bench.state(number).unwrap());
    assert_eq!(states, ["6", "6", "1"]);
}

/// Attack case 37: nothing of what the guest writes is read, only whether it is there.
#[test]
fn row37_a_guests_own_nodes() {
    let huge = [b'9'; 3000];
    for value in [&b""[..], &huge, b"\xff\xfe", b"6", b"-1"] {
        let mut bench = Bench::served(2);
        let state = place(2).theirs("state");
        bench.daemon.borrow_mut().set(&state, value);
        assert_eq!(bench.asks(), []);
        bench.remove(2, true);
        let ask = Ask::Detach {
            place: place(2),
            forced: false,
        };
        assert_eq!(bench.asks(), [ask]);
    }
    // It may take its own away, or forbid to look: that hurts nobody else.
    for forbid in [false, true] {
        let mut bench = Bench::served(2);
        if forbid {
            let theirs = "/local/domain/7/device/virtio/2".into();
            bench.daemon.borrow_mut().forbidden.push(theirs);
        } else {
            bench
                .daemon
                .borrow_mut()
                .remove("/local/domain/7/device/virtio/2");
        }
        assert_eq!(bench.asks(), []);
        bench.remove(2, true);
        let ask = Ask::Detach {
            place: place(2),
            forced: true,
        };
        assert_eq!(bench.asks(), [ask]);
    }
}

/// Attack case 37: names that are no numbers, and more of them than there can be.
#[test]
fn row37_directories_that_make_no_sense() {
    let mut bench = Bench::new();
    for path in [
        "7/x",
        "7/01",
        "7/-1",
        "x/0",
        "07/0",
        "70000/0",
        "7/99999999999",
    ] {
        let path = format!("{WATCHED}/{path}/state");
        bench.daemon.borrow_mut().set(&path, b"1");
    }
    assert_eq!(bench.asks(), []);
    for number in 0..100 {
        bench.create(number);
    }
    bench.asks();
    assert_eq!(bench.plug.entries.0.len(), MOST);
}

/// Attack case 37: xenstored does not answer; what was not looked at is looked at again.
#[test]
fn row37_a_look_that_fails_is_taken_again() {
    let mut bench = Bench::new();
    bench.create(1);
    let daemon = Rc::clone(&bench.daemon);
    daemon.borrow_mut().tamper = Some(Box::new(|header, _| {
        let header = Header {
            kind: Op::Error.number(),
            len: 4,
            ..header
        };
        [&header.encode()[..], b"EIO\0"].concat()
    }));
    assert!(bench.plug.service(&mut bench.store, 0).is_err());
    assert!(bench.plug.is_due());
    daemon.borrow_mut().tamper = None;
    assert_eq!(bench.asks(), [Ask::Attach(place(1))]);
}

/// As when somebody has made it by hand and given it to nobody. What cannot be answered is not asked again and again.
#[test]
fn a_directory_that_is_not_this_domains() {
    let mut bench = Bench::new();
    bench.create(1);
    assert_eq!(bench.asks(), [Ask::Attach(place(1))]);
    bench.daemon.borrow_mut().tamper = Some(Box::new(|header, payload| {
        let refused = header.kind == Op::Write.number();
        let (kind, payload) = match refused {
            true => (Op::Error.number(), &b"EACCES\0"[..]),
            false => (header.kind, payload),
        };
        let len = payload.len() as u32;
        let header = Header {
            kind,
            len,
            ..header
        };
        [&header.encode()[..], payload].concat()
    }));
    let refused = bench
        .plug
        .refuse(&mut bench.store, place(1), "no", bench.now);
    assert_eq!(refused.unwrap_err().refusal(), Some(XsError::EACCES));
    for _ in 0..3 {
        bench.create(1);
        bench.now += LINGER;
        assert_eq!(bench.asks(), []);
    }
    assert!(!bench.plug.is_due() && bench.plug.deadline().is_none());
    bench.daemon.borrow_mut().tamper = None;
    bench.daemon.borrow_mut().remove(&place(1).directory());
    assert_eq!(bench.asks(), []);
    bench.create(1);
    assert_eq!(bench.asks(), [Ask::Attach(place(1))], "a new directory");
}
