//! The control plane over a fake xenstore daemon: a toolstack and a back end that behave, and that do not.

mod common;

use std::ops::{Deref, DerefMut};

use common::net::{all, ethernet, mac};
use common::{FAR, Rig};
use vd_net::header::NetHeader;
use vd_netif::Uplink;
use vd_netif::test_util::{FakeBackend, FakePlatform, FakeXenbus, RingName};
use vd_pv::handshake::{MAX_ATTEMPTS, Phase};
use vd_pv::{Notice, control};

const FRONT: &str = "/local/domain/5/device/vif/0";
const BACK: &str = "/local/domain/3/backend/vif/5/0";

struct Net {
    bus: FakeXenbus,
    rig: Rig,
}

impl Deref for Net {
    type Target = FakeXenbus;

    fn deref(&self) -> &FakeXenbus {
        &self.bus
    }
}

impl DerefMut for Net {
    fn deref_mut(&mut self) -> &mut FakeXenbus {
        &mut self.bus
    }
}

impl Net {
    /// A device as the toolstack makes it; the back end is not there yet.
    fn new() -> Self {
        let mut net = Self {
            bus: FakeXenbus::new::<Uplink<FakePlatform>>("vif", 0),
            rig: Rig::unconnected(all(), all()),
        };
        net.make();
        net.bus.control.watch(&mut net.bus.store).unwrap();
        net.run();
        net
    }

    fn make(&mut self) {
        self.bus.make(3, BACK, ("mac", "00:16:3e:aa:bb:cc"));
    }

    fn run(&mut self) {
        self.bus.run(&mut self.rig.uplink);
        self.rig.run();
    }

    /// The back end says what it can, and is ready for the front end.
    fn offer(&mut self, features: &[&str]) {
        for name in features {
            self.back(name, "1");
        }
        self.back("state", "2");
        self.run();
    }

    /// The back end finds the rings, and connects.
    fn accept(&mut self) {
        let (tx, rx) = (self.number("tx-ring-ref"), self.number("rx-ring-ref"));
        self.rig.back = FakeBackend::new(&self.rig.platform, 3);
        self.rig.back.connect(tx, rx);
        self.back("state", "4");
        self.run();
    }

    /// The back end breaks the protocol, and lets go.
    fn end_in_nonsense(&mut self) {
        self.rig.back.set_index(RingName::Rx, 8, 0x8000_0000);
        self.rig.run();
        assert!(!self.rig.uplink.is_up());
        self.run();
        assert_eq!(self.front("state").unwrap(), "6");
        self.rig.back.disconnect();
        self.back("state", "6");
        self.run();
    }

    fn connected() -> Self {
        let mut net = Self::new();
        net.offer(&FEATURES);
        net.accept();
        assert!(net.rig.uplink.is_up());
        net
    }

    /// Frames go both ways.
    fn works(&mut self) {
        let rig = &mut self.rig;
        let far = ethernet(mac(0), mac(FAR), 60);
        rig.world.send(0, NetHeader::default(), &far);
        rig.run();
        assert_eq!(rig.sent().len(), 1);
        rig.give(&ethernet(mac(FAR), mac(0), 60), false, None);
        assert_eq!(rig.world.received(0).len(), 1);
        rig.world.received(1);
        for port in 0..2 {
            rig.world.post(port, 1, 0x1100);
        }
    }
}

const FEATURES: [&str; 6] = [
    "feature-rx-copy",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-ipv6-csum-offload",
    "feature-split-event-channels",
];

#[test]
fn both_ends_find_one_another() {
    let mut net = Net::new();
    assert_eq!(control::devices(&mut net.store, "vif").unwrap(), [0]);
    assert_eq!(net.front("state").unwrap(), "1");
    net.offer(&FEATURES);
    assert_eq!(
        net.front("state").unwrap(),
        "4",
        "connected, says the front end"
    );
    assert!(!net.rig.uplink.is_up());
    for name in [
        "request-rx-copy",
        "feature-rx-notify",
        "feature-sg",
        "feature-gso-tcpv4",
        "feature-gso-tcpv6",
        "feature-ipv6-csum-offload",
    ] {
        assert_eq!(net.front(name).unwrap(), "1", "{name}");
    }
    assert_ne!(
        net.number("event-channel-tx"),
        net.number("event-channel-rx")
    );
    assert_eq!(net.front("event-channel"), None);
    net.accept();
    let notice = Notice::Connected {
        domain: 3,
        queues: 1,
    };
    assert_eq!(net.notices, [notice]);
    let address = net.rig.uplink.address(&mut net.bus.store.view()).unwrap();
    assert_eq!(address, Some([0, 0x16, 0x3e, 0xaa, 0xbb, 0xcc]));
    net.works();
}

#[test]
fn one_event_channel_is_enough() {
    let mut net = Net::new();
    net.offer(&["feature-rx-copy"]);
    assert!(net.number("event-channel") > 0);
    assert_eq!(net.front("event-channel-tx"), None);
    assert_eq!(net.rig.platform.0.borrow().ports(), 1);
    net.accept();
    net.works();
}

/// Without scatter-gather a frame fits one page.
#[test]
fn what_a_back_end_cannot_is_not_asked_of_it() {
    let mut net = Net::new();
    net.back("feature-no-csum-offload", "1");
    net.back("mtu", "9000");
    net.offer(&["feature-rx-copy", "feature-gso-tcpv4"]);
    net.accept();
    let (header, frame) = common::net::tcp(0, FAR, false, &[1; 3000]);
    let header = NetHeader {
        gso_type: 1,
        gso_size: 1000,
        ..header
    };
    net.rig.world.send(0, header, &frame);
    net.rig.run();
    let sent = net.rig.sent();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|part| !part.blank && part.ids.len() == 1));
}

#[test]
fn the_mtu_is_what_the_toolstack_says() {
    for (front, back, longest) in [
        (None, None, 1500),
        (Some("9000"), None, 9000),
        (None, Some("2000"), 2000),
        (Some("1400"), Some("9000"), 1400),
        (Some("0"), Some("x"), 1500),
        (Some("100000"), None, 1500),
    ] {
        let mut net = Net::new();
        if let Some(mtu) = front {
            let path = format!("{FRONT}/mtu");
            net.daemon.borrow_mut().set(&path, mtu.as_bytes());
        }
        if let Some(mtu) = back {
            net.back("mtu", mtu);
        }
        net.offer(&FEATURES);
        net.accept();
        for len in [longest, longest + 1] {
            let frame = ethernet(mac(FAR), mac(0), 14 + len);
            net.rig.give(&frame, false, None);
        }
        let port = net.rig.uplink.port().counters();
        assert_eq!(port.tx_long, 1, "{front:?} {back:?}");
    }
}

#[test]
fn a_back_end_that_cannot_copy_is_no_use() {
    let mut net = Net::new();
    net.offer(&["feature-sg"]);
    net.back("state", "4");
    net.run();
    assert_eq!(net.notices[0], Notice::Unusable("feature-rx-copy"));
    assert!(!net.rig.uplink.is_up());
    assert_eq!(net.front("state").unwrap(), "6");
}

#[test]
fn the_toolstack_takes_it_away_and_gives_it_back() {
    let mut net = Net::connected();
    for _ in 0..3 {
        net.works();
        net.back("online", "0");
        net.back("state", "5");
        net.run();
        assert!(!net.rig.uplink.is_up());
        assert_eq!(net.front("state").unwrap(), "6");
        net.rig.back.disconnect();
        net.back("state", "6");
        net.run();
        assert_eq!(net.rig.grants(), 0);
        assert_eq!(net.rig.platform.0.borrow().ports(), 0);
        for path in [FRONT, BACK] {
            net.daemon.borrow_mut().remove(path);
        }
        net.run();
        net.make();
        net.run();
        net.offer(&FEATURES);
        net.accept();
        assert!(net.rig.uplink.is_up());
    }
    net.works();
    assert_eq!(net.rig.uplink.vif().counters().connections, 4);
}

/// A back end that closes and stays, as after an error of its own.
#[test]
fn one_that_closes_and_opens_is_connected_again() {
    let mut net = Net::connected();
    net.works();
    net.rig.back.disconnect();
    net.back("state", "6");
    net.run();
    assert_eq!(net.front("state").unwrap(), "1", "from the beginning");
    net.offer(&FEATURES);
    net.accept();
    net.works();
    let lost = Notice::Disconnected { in_order: false };
    assert!(net.notices.contains(&lost));
}

/// One that breaks the protocol each time is left alone in the end.
#[test]
fn row36_nonsense_again_and_again_does_not_keep_anybody_busy() {
    let mut net = Net::connected();
    for round in 1.. {
        net.end_in_nonsense();
        if round == MAX_ATTEMPTS {
            break;
        }
        assert_eq!(net.front("state").unwrap(), "1", "round {round}");
        net.offer(&FEATURES);
        net.accept();
    }
    assert_eq!(net.control.phase(), Phase::Down);
    net.offer(&FEATURES);
    assert_eq!(net.front("state").unwrap(), "6", "given up");
    // Until the toolstack makes it anew.
    net.make();
    net.run();
    net.offer(&FEATURES);
    net.accept();
    net.works();
}

/// A frame is soon sent and answered: a back end that breaks the protocol is not forgiven for one.
#[test]
fn row36_nonsense_after_a_frame_or_two_is_nonsense() {
    let mut net = Net::connected();
    for round in 1..=MAX_ATTEMPTS {
        for len in [60, 61] {
            let frame = ethernet(mac(0), mac(FAR), len);
            net.rig.world.send(0, NetHeader::default(), &frame);
        }
        net.rig.run();
        assert_eq!(net.rig.sent().len(), 2);
        net.back("sectors", "1");
        net.run();
        net.end_in_nonsense();
        let state = net.front("state").unwrap();
        assert_eq!(state == "1", round < MAX_ATTEMPTS, "round {round}");
        if round < MAX_ATTEMPTS {
            net.offer(&FEATURES);
            net.accept();
        }
    }
    net.offer(&FEATURES);
    assert_eq!(net.front("state").unwrap(), "6", "given up");
}

/// One that closes and opens without end has done what it has answered.
#[test]
fn a_back_end_that_closes_after_a_frame_is_connected_again() {
    let mut net = Net::connected();
    for round in 1..3 * MAX_ATTEMPTS {
        let frame = ethernet(mac(0), mac(FAR), 60);
        net.rig.world.send(0, NetHeader::default(), &frame);
        net.rig.run();
        let sent = net.rig.back.take();
        net.rig.back.answer(&sent[0], 0);
        net.rig.back.disconnect();
        net.back("state", "6");
        net.run();
        assert_eq!(net.front("state").unwrap(), "1", "round {round}");
        net.offer(&FEATURES);
        net.accept();
    }
}

/// What counts against it is what it does for its connections.
#[test]
fn a_back_end_that_works_for_long_may_be_wrong_now_and_then() {
    let mut net = Net::connected();
    for round in 1..3 * MAX_ATTEMPTS {
        // It is known where that is.
        net.rig.give(&ethernet(mac(FAR), mac(0), 60), false, None);
        for _ in 0..255 {
            let frame = ethernet(mac(0), mac(FAR), 60);
            net.rig.world.send(0, NetHeader::default(), &frame);
            net.rig.run();
            assert_eq!(net.rig.sent().len(), 1);
            net.rig.world.returned(0, 1);
        }
        net.end_in_nonsense();
        assert_eq!(net.front("state").unwrap(), "1", "round {round}");
        net.offer(&FEATURES);
        net.accept();
    }
}

#[test]
fn the_end_of_the_domain_closes_it() {
    let mut net = Net::connected();
    let shut_down = |net: &mut Net| net.bus.shut_down(&mut net.rig.uplink);
    assert!(!shut_down(&mut net));
    assert!(!net.rig.uplink.is_up());
    net.back("state", "5");
    shut_down(&mut net);
    assert_eq!(net.front("state").unwrap(), "6");
    net.rig.back.disconnect();
    net.back("state", "6");
    assert!(shut_down(&mut net));
    assert_eq!(net.rig.grants(), 0);
}
