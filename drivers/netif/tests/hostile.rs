//! Row 36 of the attack cases (docs/security.md) for network interfaces: a back end that says what makes no sense. Its
//! connection ends; the ports of the switch go on, and so does the next connection.

mod common;

use common::net::{all, ethernet, mac};
use common::{ALL, BACKEND, FAR, Rig};
use vd_net::header::NetHeader;
use vd_netif::Properties;
use vd_netif::test_util::{FakeBackend, RingName};
use vd_pv::Front;

const MORE: u16 = 4;
const EXTRA: u16 = 8;
const PREFIX: u16 = 16;
const RSP_PROD: usize = 8;

/// What a back end does once two frames of the guest's are with it.
type Attack = fn(&mut Rig);

fn out(rig: &mut Rig) -> [u16; 2] {
    let sent = rig.back.take();
    [0, 1].map(|n: usize| sent[n].ids[0].unwrap())
}

const ATTACKS: [(&str, &str, Attack); 22] = [
    ("more answers than was sent", "more answers", |rig| {
        rig.back.set_index(RingName::Tx, RSP_PROD, 3);
    }),
    ("answers from the future", "more answers", |rig| {
        rig.back.set_index(RingName::Tx, RSP_PROD, 0x8000_0000);
    }),
    ("answers that go backwards", "more answers", |rig| {
        rig.back.set_index(RingName::Tx, RSP_PROD, u32::MAX);
    }),
    (
        "more comes in than there are buffers",
        "more answers",
        |rig| {
            rig.back.set_index(RingName::Rx, RSP_PROD, 257);
        },
    ),
    ("a page that was not sent", "was not sent", |rig| {
        let [first, second] = out(rig);
        let other = (0..128).find(|id| ![first, second].contains(id)).unwrap();
        rig.back.answer_raw(other, 0);
    }),
    ("a page that does not exist", "was not sent", |rig| {
        rig.back.answer_raw(128, 0);
    }),
    ("a page beyond all", "was not sent", |rig| {
        rig.back.answer_raw(0xffff, 0);
    }),
    ("one page twice", "was not sent", |rig| {
        let [first, _] = out(rig);
        rig.back.answer_raw(first, 0);
        rig.back.answer_raw(first, 0);
    }),
    (
        "extra information that there was none of",
        "extra information than",
        |rig| {
            rig.back.answer_raw(0, 1);
        },
    ),
    ("a page that is still mapped", "still mapped", |rig| {
        let sent = rig.back.take();
        rig.map_all();
        rig.back.answer(&sent[0], 0);
    }),
    ("a buffer that is still mapped", "still mapped", |rig| {
        rig.map_all();
        rig.back.take_buffers();
        let (id, _) = rig.back.buffers[0];
        rig.back.respond_rx(id, 0, 0, 60);
    }),
    ("buffers in another order", "out of order", |rig| {
        rig.back.take_buffers();
        rig.back.buffers.swap(0, 1);
        rig.back.give_raw(&[0; 60], 0, 0, 60);
    }),
    ("data beyond the page", "beyond the end", |rig| {
        rig.back.take_buffers();
        rig.back.give_raw(&[0; 60], 4037, 0, 60);
    }),
    ("data far beyond the page", "beyond the end", |rig| {
        rig.back.take_buffers();
        rig.back.give_raw(&[0; 60], 0xffff, 0, 0x7fff);
    }),
    ("a frame without end", "too many slots", |rig| {
        rig.back.take_buffers();
        for _ in 0..19 {
            rig.back.give_raw(&[0; 60], 0, MORE, 60);
        }
    }),
    ("a frame of errors without end", "too many slots", |rig| {
        rig.back.take_buffers();
        for _ in 0..19 {
            rig.back.give_raw(&[], 0, MORE, -1);
        }
    }),
    ("extra information in the middle", "in the middle", |rig| {
        rig.back.take_buffers();
        rig.back.give_raw(&[0; 60], 0, MORE, 60);
        rig.back.give_raw(&[0; 60], 0, EXTRA, 60);
    }),
    ("the older form of it", "not asked for", |rig| {
        rig.back.take_buffers();
        rig.back.give_raw(&[0; 60], 0, PREFIX, 60);
    }),
    ("of no kind", "unknown kind", |rig| extra(rig, &[[0; 8]])),
    ("of an unknown kind", "unknown kind", |rig| {
        extra(rig, &[[6, 0, 0, 0, 0, 0, 0, 0]]);
    }),
    ("large, in parts of no bytes", "without sense", |rig| {
        extra(rig, &[[1, 0, 0, 0, 1, 0, 0, 0]]);
    }),
    ("extra information without end", "twice", |rig| {
        extra(rig, &[[3, 1, 0, 0, 0, 0, 0, 0]; 2]);
    }),
];

/// A frame with extra information.
fn extra(rig: &mut Rig, list: &[[u8; 8]]) {
    rig.back.take_buffers();
    rig.back.give_raw(&[0; 60], 0, EXTRA, 60);
    for bytes in list {
        rig.back.give_extra(*bytes);
    }
}

impl Rig {
    /// The back end maps every page that it is let into.
    fn map_all(&mut self) {
        let memory = &mut *self.platform.0.borrow_mut();
        for gref in 0..2000 {
            if memory.page_of(BACKEND, gref).is_some() {
                memory.map(BACKEND, gref);
            }
        }
    }

    /// What two ports say to one another arrives, whatever the uplink does.
    fn ports_go_on(&mut self) {
        self.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(1), 200));
        self.world
            .send(1, NetHeader::default(), &ethernet(mac(1), mac(0), 300));
        self.run();
        assert_eq!(self.world.received(1).len(), 1);
        assert_eq!(self.world.received(0).len(), 1);
        for port in 0..2 {
            assert!(!self.world.is_broken(port));
            self.world.returned(port, 1);
            self.world.post(port, 1, 0x1100);
        }
    }
}

#[test]
fn row36_a_back_end_that_says_nonsense_is_left() {
    for (name, reason, attack) in ATTACKS {
        let mut rig = Rig::new(all(), all());
        rig.ports_go_on();
        for _ in 0..2 {
            let frame = ethernet(mac(0), mac(FAR), 60);
            rig.world.send(0, NetHeader::default(), &frame);
        }
        rig.run();
        for _ in 0..rig.world.received(1).len() {
            rig.world.post(1, 1, 0x1100);
        }
        attack(&mut rig);
        rig.run();
        assert!(rig.uplink.is_broken(), "{name}");
        let said = rig.uplink.take_nonsense().expect(name);
        assert!(said.contains(reason), "{name}: {said}");
        assert_eq!(rig.uplink.take_nonsense(), None, "once");
        assert_eq!(rig.uplink.take_change(), Some(false), "{name}");
        assert_eq!(rig.uplink.vif().counters().broken, 1, "{name}");
        assert!(rig.world.received(0).is_empty(), "{name}");
        rig.ports_go_on();
        // Nothing that it says counts any more, and nothing goes to it.
        let events = rig.platform.0.borrow().events.clone();
        rig.back.set_index(RingName::Rx, RSP_PROD, 77);
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
        rig.run();
        assert_eq!(rig.platform.0.borrow().events, events, "{name}");
        assert_eq!(rig.uplink.vif().counters().broken, 1, "{name}");
        // It does not let go; then it does.
        rig.uplink.disconnect(false);
        assert!(!rig.uplink.revoke(), "{name}: the rings are mapped");
        assert!(!rig.uplink.link_up(BACKEND, false), "{name}");
        rig.platform.0.borrow_mut().unmap_all();
        assert!(rig.uplink.revoke(), "{name}");
        assert_eq!(rig.grants(), 0, "{name}");
        // Another one is served as if nothing had been.
        rig.back = FakeBackend::new(&rig.platform, BACKEND);
        rig.connect(Properties {
            mtu: 1500,
            takes: ALL,
        });
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
        rig.run();
        assert_eq!(rig.sent().len(), 1, "{name}");
        rig.world.received(1);
        rig.give(&ethernet(mac(FAR), mac(0), 60), false, None);
        assert_eq!(rig.world.received(0).len(), 1, "{name}");
    }
}

/// One that answers pages, and leaves out the extra information: the ring has no slot too few.
#[test]
fn row36_answers_that_are_left_out_do_not_overfill_the_ring() {
    let mut rig = Rig::new(all(), all());
    let (header, frame) = common::net::tcp(0, FAR, false, &[3; 2000]);
    let header = NetHeader {
        gso_type: 1,
        gso_size: 1000,
        ..header
    };
    for _ in 0..300 {
        rig.world.send(0, header, &frame);
        rig.run();
        for sent in rig.back.take() {
            for id in sent.ids.iter().flatten() {
                rig.back.answer_raw(*id, 0);
            }
        }
        rig.run();
        rig.world.received(1);
        rig.world.post(1, 1, 0x1100);
    }
    let counters = rig.uplink.vif().counters();
    assert!(!rig.uplink.is_broken());
    // Slots that were never answered: one a frame, until two are left.
    assert_eq!(counters.frames_out, 255);
    assert_eq!(counters.dropped_out, 45);
}

/// What has come in cannot change once it is looked at: the back end has no access to the page any more.
#[test]
fn row11_a_page_that_came_in_is_not_the_back_ends_any_more() {
    let mut rig = Rig::new(all(), all());
    rig.back.take_buffers();
    let (_, gref) = rig.back.buffers[0];
    rig.back.give_raw(&ethernet(mac(FAR), mac(0), 60), 0, 0, 60);
    // The fake platform refuses accesses to pages that are granted.
    rig.run();
    assert_eq!(rig.world.received(0).len(), 1);
    assert_eq!(rig.platform.0.borrow().page_of(BACKEND, gref), None);
}
