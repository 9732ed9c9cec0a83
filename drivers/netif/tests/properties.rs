//! Any order of what a guest, a back end and a toolstack do, right or wrong: nobody panics, no page is lost or shared, what
//! arrives is what was sent, and the ports of the switch go on.

mod common;

use common::net::{all, ethernet, mac, tcp};
use common::{ALL, BACKEND, FAR, Rig};
use proptest::prelude::*;
use vd_net::header::NetHeader;
use vd_net::{NetFeatures, Takes};
use vd_netif::Properties;
use vd_netif::test_util::{FakeBackend, Received, RingName};
use vd_pv::Front;

#[derive(Clone, Debug)]
enum Step {
    /// A port sends, small or large, to the other one or far away.
    Send {
        port: usize,
        far: bool,
        len: usize,
        large: bool,
    },
    /// A frame comes in, in pieces of so many bytes.
    Give {
        port: usize,
        len: usize,
        piece: usize,
        large: bool,
    },
    /// The back end answers some of what it has, the last first or the first first.
    Answer {
        count: usize,
        backwards: bool,
        status: i16,
    },
    /// A driver gives buffers.
    Post {
        port: usize,
        count: usize,
    },
    Tick,
    /// The back end says anything.
    RawTx(u16, i16),
    RawRx(u16, u16, u16, i16),
    RawExtra([u8; 8]),
    Index(bool, u32),
    /// The connection ends, and another one begins.
    Reconnect(bool),
}

fn steps(hostile: bool) -> impl Strategy<Value = Vec<Step>> {
    let raw = if hostile { 1 } else { 0 };
    let step = prop_oneof![
        8 => (0..2usize, any::<bool>(), 60..3000usize, any::<bool>())
            .prop_map(|(port, far, len, large)| Step::Send { port, far, len, large }),
        8 => (0..2usize, 60..9000usize, 600..4097usize, any::<bool>())
            .prop_map(|(port, len, piece, large)| Step::Give { port, len, piece, large }),
        6 => (0..40usize, any::<bool>(), prop_oneof![Just(0), Just(-1), Just(-2)])
            .prop_map(|(count, backwards, status)| Step::Answer { count, backwards, status }),
        4 => (0..2usize, 0..30usize).prop_map(|(port, count)| Step::Post { port, count }),
        1 => Just(Step::Tick),
        raw => (0..130u16, -2..2i16).prop_map(|(id, status)| Step::RawTx(id, status)),
        raw => (0..330u16, any::<u16>(), 0..32u16, any::<i16>())
            .prop_map(|(id, offset, flags, status)| Step::RawRx(id, offset, flags, status)),
        raw => any::<[u8; 8]>().prop_map(Step::RawExtra),
        raw => (any::<bool>(), any::<u32>()).prop_map(|(tx, value)| Step::Index(tx, value)),
        1 => any::<bool>().prop_map(Step::Reconnect),
    ];
    prop::collection::vec(step, 1..80)
}

struct Model {
    rig: Rig,
    /// With the back end, not answered.
    pending: Vec<Received>,
    properties: Properties,
    hostile: bool,
    /// Buffers that each port has.
    posted: [usize; 2],
    /// Frames that went out and came in while all was right, by the front end's count.
    taken: u64,
}

fn large_header(header: NetHeader) -> NetHeader {
    NetHeader {
        gso_type: 1,
        gso_size: 700,
        ..header
    }
}

impl Model {
    fn step(&mut self, step: &Step) {
        let rig = &mut self.rig;
        rig.back.has_lied |= matches!(
            step,
            Step::RawTx(..) | Step::RawRx(..) | Step::RawExtra(_) | Step::Index(..)
        );
        match *step {
            Step::Send {
                port,
                far,
                len,
                large,
            } => {
                let to = if far { FAR } else { 1 - port };
                if large {
                    let (header, frame) = tcp(port, to, false, &vec![len as u8; len]);
                    rig.world.send(port, large_header(header), &frame);
                } else {
                    let frame = ethernet(mac(port), mac(to), len.min(1514));
                    rig.world.send(port, NetHeader::default(), &frame);
                }
            }
            Step::Give {
                port,
                len,
                piece,
                large,
            } => {
                rig.back.piece = piece;
                let slots = len.div_ceil(piece) + 2;
                if rig.uplink.is_up() && rig.back.take_buffers() > slots {
                    if large {
                        let (_, frame) = tcp(FAR, port, false, &vec![len as u8; len]);
                        rig.back.give(&frame, true, Some((false, 700)));
                    } else {
                        let frame = ethernet(mac(FAR), mac(port), len.min(1514));
                        rig.back.give(&frame, false, None);
                    }
                }
            }
            Step::Answer {
                count,
                backwards,
                status,
            } => {
                for _ in 0..count.min(self.pending.len()) {
                    let frame = if backwards {
                        self.pending.pop().unwrap()
                    } else {
                        self.pending.remove(0)
                    };
                    rig.back.answer(&frame, status);
                }
            }
            Step::Post { port, count } => {
                let count = count.min(200usize.saturating_sub(self.posted[port]));
                rig.world.post(port, count, 0x900);
                self.posted[port] += count;
            }
            Step::Tick => rig.world.tick(),
            Step::RawTx(id, status) if rig.uplink.is_up() => {
                rig.back.answer_raw(id, status);
            }
            Step::RawRx(id, offset, flags, status) if rig.uplink.is_up() => {
                rig.back.respond_rx(id, offset, flags, status);
            }
            Step::RawExtra(bytes) if rig.uplink.is_up() => {
                rig.back.respond(RingName::Rx, &bytes);
            }
            Step::Index(tx, value) if rig.uplink.is_up() => {
                let name = if tx { RingName::Tx } else { RingName::Rx };
                rig.back.set_index(name, 8, value);
            }
            Step::Reconnect(broken_only) if rig.uplink.is_broken() || !broken_only => {
                self.reconnect();
            }
            _ => {}
        }
        self.settle();
    }

    fn settle(&mut self) {
        let rig = &mut self.rig;
        rig.run();
        if rig.uplink.is_up() {
            let sent = rig.back.take();
            self.taken += sent.len() as u64;
            self.pending.extend(sent);
        }
        for port in 0..2 {
            rig.world.returned(port, 1);
            for (header, frame) in rig.world.received(port) {
                self.posted[port] -= usize::from(header.num_buffers);
                assert_ne!(frame[6..12], mac(port), "nobody gets what is from itself");
            }
            assert!(!rig.world.is_broken(port));
        }
        if !self.hostile {
            assert!(!rig.uplink.is_broken());
            assert_eq!(rig.uplink.vif().counters().frames_out, self.taken);
        }
    }

    fn reconnect(&mut self) {
        self.pending.clear();
        let rig = &mut self.rig;
        rig.platform.0.borrow_mut().unmap_all();
        rig.uplink.disconnect(false);
        assert!(rig.uplink.revoke());
        assert_eq!(rig.grants(), 0, "no page stays granted");
        rig.uplink.take_change();
        rig.back = FakeBackend::new(&rig.platform, BACKEND);
        rig.connect(self.properties);
    }

    /// Afterwards everything is as at the beginning: no page is lost.
    fn end(mut self) {
        self.reconnect();
        for _ in 0..3 {
            self.rig.world.tick();
            self.settle();
        }
        assert_eq!(self.rig.back.take_buffers(), 256, "all buffers are there");
        for _ in 0..128 {
            let frame = ethernet(mac(0), mac(FAR), 60);
            self.rig.world.send(0, NetHeader::default(), &frame);
            self.settle();
        }
        assert_eq!(self.pending.len(), 128, "and all room for what goes out");
    }
}

fn run(steps: &[Step], takes: Takes, features: NetFeatures, hostile: bool) {
    let properties = Properties { mtu: 1500, takes };
    let mut rig = Rig::unconnected(features, all());
    rig.connect(properties);
    let mut model = Model {
        rig,
        pending: vec![],
        properties,
        hostile,
        posted: [64; 2],
        taken: 0,
    };
    for step in steps {
        model.step(step);
    }
    model.end();
}

/// What such a back end took for its buffer has gone back to its owner, and stays untouched.
#[test]
fn row36_a_buffer_that_was_answered_out_of_turn_is_the_back_ends_no_more() {
    let give = |len, piece, large| Step::Give {
        port: 0,
        len,
        piece,
        large,
    };
    let steps = [
        give(60, 600, false),
        give(3640, 618, true),
        Step::RawRx(311, 0, 0, 0),
        give(60, 600, false),
    ];
    run(&steps, ALL, all(), true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_order_things_come_in(steps in steps(false), takes in any::<bool>()) {
        let takes = if takes { ALL } else { Takes::default() };
        run(&steps, takes, all(), false);
    }

    #[test]
    fn row36_whatever_a_back_end_says(steps in steps(true), plain in any::<bool>()) {
        let features = if plain { NetFeatures::MRG_RXBUF } else { all() };
        run(&steps, ALL, features, true);
    }
}
