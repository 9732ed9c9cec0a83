//! Frames that wait for room on the ring, or for receive buffers in pages of the uplink.

mod common;

use common::net::{all, check_tcp, ethernet, mac, tcp};
use common::{ALL, FAR, Rig};
use vd_net::Takes;
use vd_net::header::{GSO_TCPV4, NetHeader};
use vd_netif::Properties;

/// A segment for a station behind the uplink.
fn send_large(rig: &mut Rig, port: usize, data: &[u8], size: u16) {
    let (header, frame) = tcp(port, FAR, false, data);
    let header = NetHeader {
        gso_type: GSO_TCPV4,
        gso_size: size,
        ..header
    };
    rig.world.send(port, header, &frame);
}

fn send_short(rig: &mut Rig, port: usize, len: usize) {
    let frame = ethernet(mac(port), mac(FAR), len);
    rig.world.send(port, NetHeader::default(), &frame);
}

/// A rig with a back end that takes all or nothing, and that has said where [`FAR`] is.
fn rig(takes: Takes) -> Rig {
    let mut rig = Rig::unconnected(all(), all());
    rig.connect(Properties { mtu: 1500, takes });
    rig.give(&ethernet(mac(FAR), mac(1), 60), false, None);
    rig
}

#[test]
fn what_is_behind_a_frame_that_has_waited_for_too_long_goes_out() {
    let mut rig = rig(ALL);
    for _ in 0..120 {
        send_short(&mut rig, 0, 60);
    }
    rig.run();
    assert_eq!(rig.back.take().len(), 120);
    send_large(&mut rig, 0, &[3; 60_000], 1400);
    rig.run();
    rig.world.tick();
    for len in [60, 61, 62] {
        send_short(&mut rig, 1, len);
    }
    rig.run();
    assert!(rig.back.take().is_empty(), "they go in order");
    rig.world.tick();
    assert!(rig.uplink.is_due(), "nobody else says that it has work");
    rig.run();
    assert!(!rig.uplink.is_due());
    let sent = rig.back.take();
    let lengths: Vec<_> = sent.iter().map(|frame| frame.bytes.len()).collect();
    assert_eq!(lengths, [60, 61, 62]);
    assert_eq!(rig.uplink.port().counters().rx_no_room, 1);
}

/// A back end may keep some pages for long: what is cut does not wait until there is room for all of its parts.
#[test]
fn the_parts_of_a_large_segment_go_out_as_there_is_room() {
    let mut rig = rig(Takes::default());
    for _ in 0..13 {
        send_short(&mut rig, 0, 60);
    }
    rig.run();
    let kept = rig.back.take();
    let data: Vec<u8> = (0..60_000u32).map(|n| (n % 253) as u8).collect();
    send_large(&mut rig, 0, &data, 500);
    rig.run();
    let mut parts = rig.back.take();
    assert_eq!(parts.len(), 115, "and five that wait");
    assert!(rig.back.answer(&kept[0], 0), "it wants to know");
    for frame in &kept[1..] {
        rig.back.answer(frame, 0);
    }
    rig.run();
    parts.extend(rig.back.take());
    let got = parts.iter().map(|part| check_tcp(&part.bytes).2);
    assert_eq!(got.collect::<Vec<_>>().concat(), data);
}

/// One that sends more than the back end takes leaves room for others.
#[test]
fn a_port_that_sends_without_end_does_not_take_the_whole_uplink() {
    let mut rig = rig(ALL);
    rig.world.received(1);
    let mut unanswered = std::collections::VecDeque::new();
    let mut out = 0;
    for _ in 0..50 {
        for _ in 0..64 {
            send_short(&mut rig, 0, 60);
        }
        send_short(&mut rig, 1, 61);
        // The one is always served before the other.
        rig.world.pass(0);
        rig.world.pass(1);
        rig.uplink.run(&rig.world.mem, 64);
        unanswered.extend(rig.back.take());
        let some = unanswered.len().min(40);
        for frame in unanswered.drain(..some) {
            out += usize::from(frame.bytes.len() == 61);
            rig.back.answer(&frame, 0);
        }
        rig.world.returned(0, 1);
        rig.world.returned(1, 1);
    }
    rig.run();
    let left = rig.back.take().into_iter().chain(unanswered);
    out += left.filter(|frame| frame.bytes.len() == 61).count();
    assert_eq!(out, 50, "none of the other's is lost");
}

/// Whoever does not read has its share of the pages in which frames wait, and the ring has all of its own.
#[test]
fn a_port_that_does_not_read_leaves_the_others_their_frames() {
    let mut rig = rig(ALL);
    let (_, large) = tcp(FAR, 1, false, &vec![7; 64_000]);
    for round in 0..40 {
        rig.give(&large, true, Some((false, 1400)));
        assert_eq!(rig.back.take_buffers(), 256, "{round}");
    }
    let counters = rig.world.counters(1);
    assert!(counters.rx_frames > 0 && counters.rx_no_room > 20);
    // Two segments of 16 pages; then one for which there is no room.
    assert_eq!(rig.uplink.port().counters().parked, 2);
    for _ in 0..20 {
        rig.give(&ethernet(mac(FAR), mac(0), 1000), false, None);
    }
    assert_eq!(rig.world.received(0).len(), 20);
    // Those that waited are given back to the ring, which nobody but the uplink can do.
    rig.world.tick();
    assert!(!rig.uplink.is_due());
    rig.world.tick();
    assert!(rig.uplink.is_due());
    assert_eq!(rig.world.counters(1).rx_no_room, 41 - counters.rx_frames);
}

/// Two that do not read leave some to a third; what is for all is counted for each.
#[test]
fn receivers_share_the_pages_in_which_frames_wait() {
    let mut rig = rig(ALL);
    // One has a frame already.
    for (to, buffers) in [(0, 64), (1, 63)] {
        for _ in 0..buffers {
            rig.give(&ethernet(mac(FAR), mac(to), 1000), false, None);
        }
    }
    rig.back.piece = 125;
    let before = rig.uplink.port().counters().parked;
    let parked = |rig: &mut Rig, to: [u8; 6]| {
        let already = rig.uplink.port().counters().parked;
        for _ in 0..10 {
            rig.give(&ethernet(mac(FAR), to, 1000), false, None);
        }
        rig.uplink.port().counters().parked - already
    };
    assert_eq!(before, 0);
    assert_eq!(parked(&mut rig, mac(1)), 4, "of 8 pages each");
    assert_eq!(parked(&mut rig, mac(0)), 2);
    assert_eq!(parked(&mut rig, [0xff; 6]), 0, "no receiver has more left");
    assert_eq!(rig.back.take_buffers(), 256);
}
