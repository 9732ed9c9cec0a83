//! Frames out and in, while everybody does what is right.

mod common;

use common::net::{all, check_tcp, ethernet, mac, tcp};
use common::{ALL, FAR, Rig};
use vd_net::header::{GSO_TCPV4, GSO_TCPV6, NetHeader};
use vd_net::{AddError, MAX_PORTS, Mac, NetDevice, NetFeatures, PortConfig, Takes};
use vd_netif::test_util::{FakeBackend, FakePlatform};
use vd_netif::{PAGES, Properties, Uplink, Vif};
use vd_pv::Front;

/// A driver that takes and leaves nothing.
fn plain() -> NetFeatures {
    NetFeatures::MAC | NetFeatures::MRG_RXBUF
}

/// The header that makes a large segment of one whose checksum is left out.
fn large(header: NetHeader, ipv6: bool) -> NetHeader {
    NetHeader {
        gso_type: if ipv6 { GSO_TCPV6 } else { GSO_TCPV4 },
        gso_size: 1000,
        ..header
    }
}

#[test]
fn a_frame_goes_out_as_it_is() {
    let mut rig = Rig::new(all(), all());
    let frame = ethernet(mac(0), mac(FAR), 700);
    rig.world.send(0, NetHeader::default(), &frame);
    rig.run();
    let sent = rig.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].bytes, frame);
    assert_eq!((sent[0].blank, sent[0].large), (false, None));
    assert_eq!(sent[0].ids.len(), 1);
    assert_eq!(rig.world.returned(0, 1), 1);
    let counters = rig.uplink.vif().counters();
    assert_eq!((counters.frames_out, counters.bytes_out), (1, 700));
    assert_eq!(rig.uplink.vif().in_flight(), 0);
    // It was not known where to: the other port has it, too.
    assert_eq!(rig.world.received(1).len(), 1);
    let port = rig.uplink.port().counters();
    assert_eq!((port.rx_frames, port.rx_bytes), (1, 700));
}

#[test]
fn a_frame_comes_in_as_it_is_in_any_number_of_pieces() {
    let mut rig = Rig::new(all(), plain());
    for piece in [1514, 700, 100, 90] {
        rig.back.piece = piece;
        let frame = ethernet(mac(FAR), mac(1), 1514);
        rig.give(&frame, false, None);
        let received = rig.world.received(1);
        assert_eq!(received.len(), 1, "{piece}");
        assert_eq!(received[0].1, frame);
        assert_eq!(received[0].0.flags, 0);
        assert!(rig.world.received(0).is_empty(), "it was for one only");
    }
    let counters = rig.uplink.vif().counters();
    assert_eq!((counters.frames_in, counters.bytes_in), (4, 4 * 1514));
    assert_eq!(rig.uplink.port().counters().tx_frames, 4);
}

#[test]
fn stations_behind_it_are_learned() {
    let mut rig = Rig::new(all(), all());
    rig.give(&ethernet(mac(FAR), mac(0), 60), false, None);
    rig.world
        .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
    rig.run();
    assert_eq!(rig.sent().len(), 1);
    assert!(rig.world.received(1).is_empty());
    // What two ports say to one another does not go out.
    rig.world
        .send(0, NetHeader::default(), &ethernet(mac(0), mac(1), 60));
    rig.run();
    assert!(rig.sent().is_empty());
    assert_eq!(rig.world.received(1).len(), 1);
}

/// Who is behind the uplink cannot speak for a port, and a port not for another, there or here.
#[test]
fn addresses_of_ports_are_theirs() {
    let mut rig = Rig::new(all(), all());
    rig.give(&ethernet(mac(0), mac(1), 60), false, None);
    rig.give(&ethernet([0xff; 6], mac(1), 60), false, None);
    assert!(rig.world.received(1).is_empty());
    assert_eq!(rig.uplink.port().counters().tx_spoofed, 2);
    rig.world
        .send(0, NetHeader::default(), &ethernet(mac(1), mac(FAR), 60));
    rig.run();
    assert!(rig.sent().is_empty());
    assert_eq!(rig.world.counters(0).tx_spoofed, 1);
    assert!(!rig.uplink.is_broken());
}

#[test]
fn checksums_are_left_to_a_back_end_that_takes_them() {
    for ipv6 in [false, true] {
        for takes in [ALL, Takes::default()] {
            let mut rig = Rig::unconnected(all(), all());
            rig.connect(Properties { mtu: 1500, takes });
            let data: Vec<u8> = (0..1000).map(|n| n as u8).collect();
            let (header, frame) = tcp(0, FAR, ipv6, &data);
            rig.world.send(0, header, &frame);
            rig.run();
            let sent = rig.sent();
            assert_eq!(sent[0].blank, takes == ALL);
            if takes == ALL {
                assert_eq!(sent[0].bytes, frame);
            } else {
                assert_eq!(check_tcp(&sent[0].bytes).2, data);
            }
        }
    }
}

/// A back end finds checksums by itself, and does not find these.
#[test]
fn other_checksums_are_computed() {
    let mut rig = Rig::new(all(), all());
    let header = |start: u16, offset: u16| NetHeader {
        flags: 1,
        csum_start: start,
        csum_offset: offset,
        ..NetHeader::default()
    };
    let (_, segment) = tcp(0, FAR, false, &[7; 100]);
    let mut tagged = segment.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut fragment = segment.clone();
    fragment[20] = 0x20;
    for (header, frame) in [
        (header(20, 2), ethernet(mac(0), mac(FAR), 80)),
        (header(38, 16), tagged),
        (header(34, 16), fragment),
        (header(34, 14), segment),
    ] {
        rig.world.send(0, header, &frame);
        rig.run();
        let sent = rig.sent();
        assert!(!sent[0].blank);
        let (start, field) = (
            usize::from(header.csum_start),
            usize::from(header.csum_start + header.csum_offset),
        );
        let mut sum = 0u32;
        for pair in sent[0].bytes[start..].chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // The complement of a sum that had the field in it as it was.
        let before = u32::from(frame[field]) << 8 | u32::from(frame[field + 1]);
        assert_eq!((sum + before) % 0xffff, 0, "the sum is in the field");
    }
}

#[test]
fn large_segments_go_out_as_they_are_or_cut() {
    for ipv6 in [false, true] {
        for takes in [ALL, Takes::default()] {
            let mut rig = Rig::unconnected(all(), all());
            rig.connect(Properties { mtu: 1500, takes });
            let data: Vec<u8> = (0..60_000u32).map(|n| (n % 253) as u8).collect();
            let (header, frame) = tcp(0, FAR, ipv6, &data);
            rig.world.send(0, large(header, ipv6), &frame);
            rig.run();
            let sent = rig.sent();
            if takes == ALL {
                assert_eq!(sent.len(), 1);
                assert_eq!(sent[0].bytes, frame);
                assert_eq!((sent[0].blank, sent[0].large), (true, Some((ipv6, 1000))));
                assert_eq!(sent[0].ids.len(), 16, "15 pages and what it is");
                assert_eq!(rig.uplink.vif().counters().large_out, 1);
            } else {
                assert_eq!(sent.len(), 60);
                let mut got = vec![];
                for part in &sent {
                    assert_eq!((part.blank, part.large), (false, None));
                    got.extend(check_tcp(&part.bytes).2);
                }
                assert_eq!(got, data);
            }
            assert_eq!(rig.world.returned(0, 1), 1);
        }
    }
}

/// What a driver says of the size of the parts is not passed on unseen: one part is no large segment, and nobody has to
/// make a frame of each byte.
#[test]
fn sizes_of_parts_that_make_no_sense_do_not_go_out() {
    let mut rig = Rig::new(all(), all());
    for (len, size, expected) in [
        (500, 0xffff, Some(None)),
        (1400, 1401, Some(None)),
        (1400, 1400, Some(None)),
        (1400, 1399, Some(Some((false, 1399)))),
        (60_000, 469, Some(Some((false, 469)))),
        (60_000, 468, None),
        (60_000, 1, None),
        (1, 1, Some(None)),
    ] {
        let (header, frame) = tcp(0, FAR, false, &vec![3; len]);
        let header = NetHeader {
            gso_type: GSO_TCPV4,
            gso_size: size,
            ..header
        };
        rig.world.send(0, header, &frame);
        rig.run();
        let sent = rig.sent();
        assert_eq!(sent.len(), usize::from(expected.is_some()), "{len} {size}");
        if let Some(large) = expected {
            assert_eq!(
                (sent[0].blank, sent[0].large),
                (true, large),
                "{len} {size}"
            );
            assert_eq!(sent[0].bytes, frame);
        }
        rig.world.received(1);
        rig.world.post(1, 20, 0x1100);
        rig.run();
    }
    assert_eq!(rig.uplink.port().counters().rx_uncut, 2);
}

/// A request to send has 16 bits for the length of a frame.
#[test]
fn the_longest_segment_is_cut() {
    let mut rig = Rig::new(all(), all());
    let data = vec![5; 65_535 - 20 - 32];
    let (header, frame) = tcp(0, FAR, false, &data);
    assert!(frame.len() > 65_535);
    rig.world.send(0, large(header, false), &frame);
    rig.run();
    let sent = rig.sent();
    assert_eq!(sent.len(), data.len().div_ceil(1000));
    assert!(sent.iter().all(|part| part.large.is_none()));
}

#[test]
fn what_comes_in_blank_is_left_to_a_driver_that_takes_it() {
    for ipv6 in [false, true] {
        for (features, takes) in [(all(), true), (plain(), false)] {
            // A sender may leave anything in the field.
            for scribble in [false, true] {
                let mut rig = Rig::new(features, all());
                let data: Vec<u8> = (0..1000).map(|n| n as u8).collect();
                let (header, frame) = tcp(FAR, 0, ipv6, &data);
                let field = usize::from(header.csum_start + header.csum_offset);
                let mut given = frame.clone();
                if scribble {
                    given[field..field + 2].fill(0x77);
                }
                rig.give(&given, true, None);
                let received = rig.world.received(0);
                if takes {
                    assert_eq!(received[0].1, frame);
                    let NetHeader {
                        flags,
                        csum_start,
                        csum_offset,
                        ..
                    } = received[0].0;
                    assert_eq!(
                        (flags, csum_start, csum_offset),
                        (1, header.csum_start, header.csum_offset)
                    );
                } else {
                    assert_eq!(check_tcp(&received[0].1).2, data);
                    assert_eq!(received[0].0.flags, 0);
                }
            }
        }
    }
}

#[test]
fn large_segments_come_in_as_they_are_or_cut() {
    for ipv6 in [false, true] {
        for (features, takes) in [(all(), true), (plain(), false)] {
            let mut rig = Rig::new(features, all());
            let data: Vec<u8> = (0..30_000u32).map(|n| (n % 253) as u8).collect();
            let (_, frame) = tcp(FAR, 0, ipv6, &data);
            rig.give(&frame, true, Some((ipv6, 1200)));
            let received = rig.world.received(0);
            if takes {
                assert_eq!(received.len(), 1);
                assert_eq!(received[0].1, frame);
                assert_eq!(received[0].0.gso_size, 1200);
                let kind = if ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
                assert_eq!(received[0].0.gso_type, kind);
            } else {
                let parts = received.iter().map(|(_, part)| check_tcp(part).2);
                assert_eq!(parts.collect::<Vec<_>>().concat(), data);
                assert_eq!(received.len(), 25);
            }
            assert_eq!(rig.uplink.vif().counters().large_in, 1);
        }
    }
}

/// Frames that cannot be what they are said to be are dropped, one by one.
#[test]
fn a_frame_that_is_not_what_it_is_said_to_be_is_dropped() {
    let mut rig = Rig::new(all(), all());
    rig.give(&ethernet(mac(FAR), mac(0), 100), true, None);
    let (_, segment) = tcp(FAR, 0, false, &[1; 100]);
    rig.give(&segment, true, Some((true, 50)));
    rig.give(&segment[..40], true, None);
    let counters = rig.uplink.port().counters();
    assert_eq!(counters.tx_bad_offload, 3);
    rig.give(&segment[..13], false, None);
    assert_eq!(rig.uplink.port().counters().tx_short, 1);
    rig.give(&ethernet(mac(FAR), mac(0), 1600), false, None);
    assert_eq!(rig.uplink.port().counters().tx_long, 1);
    assert!(rig.world.received(0).is_empty());
    assert!(!rig.uplink.is_broken());
    rig.give(&segment, true, Some((false, 50)));
    assert_eq!(rig.world.received(0).len(), 1);
}

#[test]
fn what_a_guest_has_no_buffers_for_waits_and_then_not_any_more() {
    let mut rig = Rig::unconnected(all(), all());
    rig.connect(Properties {
        mtu: 9000,
        takes: ALL,
    });
    let before = rig.back.take_buffers();
    assert_eq!(before, 256);
    // 64 buffers of 0x1100 bytes are there, and 24 frames may wait.
    for _ in 0..64 + 24 + 5 {
        rig.give(&ethernet(mac(FAR), mac(0), 1000), false, None);
    }
    assert_eq!(rig.world.received(0).len(), 64);
    assert_eq!(rig.world.counters(0).rx_no_room, 5);
    assert_eq!(rig.uplink.port().counters().parked, 24);
    rig.world.post(0, 10, 0x1100);
    rig.run();
    assert_eq!(rig.world.received(0).len(), 10);
    for _ in 0..3 {
        rig.world.tick();
        rig.run();
    }
    assert_eq!(rig.world.counters(0).rx_no_room, 5 + 14);
    // All pages are the back end's again.
    assert_eq!(rig.back.take_buffers(), 256);
}

#[test]
fn what_there_is_no_room_for_waits_until_the_back_end_has_answered() {
    let mut rig = Rig::new(all(), all());
    for _ in 0..140 {
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
        rig.run();
        rig.world.received(1);
        rig.world.post(1, 1, 0x1100);
    }
    rig.run();
    let sent = rig.back.take();
    assert_eq!(sent.len(), 128, "as many as there are pages");
    assert_eq!(rig.world.counters(0).parked, 12);
    let mut wanted = false;
    for frame in &sent {
        wanted |= rig.back.answer(frame, 0);
    }
    assert!(wanted, "room is scarce: it wants to know");
    rig.run();
    assert_eq!(rig.sent().len(), 12);
    assert_eq!(rig.world.returned(0, 1), 140);
}

#[test]
fn what_the_back_end_drops_is_counted() {
    let mut rig = Rig::new(all(), all());
    for status in [-1, -2, 5] {
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
        rig.run();
        let sent = rig.back.take();
        rig.back.answer(&sent[0], status);
        rig.run();
    }
    assert_eq!(rig.uplink.vif().counters().refused_out, 3);
    // And an error of its own with what comes in, in the middle of a frame.
    rig.back.take_buffers();
    rig.back.give_raw(&[1; 100], 0, 4, 100);
    rig.back.give_raw(&[], 0, 4, -1);
    rig.back.give_raw(&[1; 100], 0, 0, 100);
    rig.run();
    assert_eq!(rig.uplink.vif().counters().failed_in, 1);
    assert!(!rig.uplink.is_broken());
    rig.give(&ethernet(mac(FAR), mac(0), 60), false, None);
    assert_eq!(rig.world.received(0).len(), 1);
}

#[test]
fn a_connection_ends_and_another_begins() {
    let mut rig = Rig::new(all(), all());
    for round in 1..4u64 {
        // Some is out, and some waits.
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
        for _ in 0..70 {
            rig.give(&ethernet(mac(FAR), mac(0), 1000), false, None);
        }
        rig.run();
        rig.disconnect();
        assert_eq!(rig.grants(), 0);
        assert_eq!(rig.uplink.take_change(), Some(false));
        assert_eq!(rig.uplink.vif().counters().lost_out, round);
        // Without it the two go on.
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(1), 60));
        rig.world
            .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
        rig.run();
        rig.world.received(0);
        rig.world.received(1);
        rig.world.post(0, 64, 0x1100);
        rig.world.post(1, 8, 0x1100);
        rig.connect(Properties {
            mtu: 1500,
            takes: ALL,
        });
        assert!(rig.sent().is_empty(), "what was sent before is gone");
        assert_eq!(rig.back.take_buffers(), 256, "and no page with it");
    }
}

/// A back end is let into whole pages: nothing is in them that was another one's.
#[test]
fn what_went_over_one_connection_is_not_in_the_pages_of_the_next() {
    let mut rig = Rig::new(all(), all());
    let words: [&[u8]; 2] = [b"OUTWARD", b"INWARD!"];
    let with = |mut frame: Vec<u8>, word: &[u8]| {
        frame[900..907].copy_from_slice(word);
        frame
    };
    let frame = with(ethernet(mac(0), mac(FAR), 1000), words[0]);
    rig.world.send(0, NetHeader::default(), &frame);
    rig.run();
    assert_eq!(rig.sent().len(), 1);
    let frame = with(ethernet(mac(FAR), mac(0), 1000), words[1]);
    rig.give(&frame, false, None);
    rig.disconnect();
    let seen = |rig: &Rig, domain: u16| {
        let memory = rig.platform.0.borrow();
        let pages = (0..2000).filter_map(|gref| memory.page_of(domain, gref));
        let pages: Vec<_> = pages.map(|page| memory.get(page, 0, 4096)).collect();
        let secrets = pages.iter().flat_map(|page| page.windows(7));
        let secrets = secrets.filter(|bytes| words.contains(bytes)).count();
        (pages.len(), secrets)
    };
    assert!(rig.uplink.link_up(5, true));
    let [(tx, _), (rx, _)] = rig.uplink.vif().channels().unwrap();
    rig.back = FakeBackend::new(&rig.platform, 5);
    rig.back.connect(tx, rx);
    rig.uplink.open(Properties {
        mtu: 1500,
        takes: ALL,
    });
    rig.run();
    // All pages for what goes out are used again.
    for _ in 0..128 {
        let frame = ethernet(mac(0), mac(FAR), 60);
        rig.world.send(0, NetHeader::default(), &frame);
    }
    rig.run();
    assert_eq!(seen(&rig, 5), (2 + 128 + 256, 0));
}

#[test]
fn without_room_for_grants_or_event_channels_there_is_no_connection() {
    for (grants, ports) in [(0, 9), (1, 9), (9, 0), (9, 1)] {
        let mut rig = Rig::unconnected(all(), all());
        {
            let mut memory = rig.platform.0.borrow_mut();
            memory.grant_limit = grants;
            memory.port_limit = ports;
        }
        assert!(!rig.uplink.link_up(3, true));
        assert_eq!((rig.grants(), rig.platform.0.borrow().ports()), (0, 0));
    }
}

#[test]
fn without_grants_frames_are_dropped_and_counted() {
    let mut rig = Rig::new(all(), all());
    let now = rig.grants();
    rig.platform.0.borrow_mut().grant_limit = now;
    rig.world
        .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
    rig.run();
    assert!(rig.sent().is_empty());
    assert_eq!(rig.uplink.vif().counters().dropped_out, 1);
    rig.platform.0.borrow_mut().grant_limit = usize::MAX;
    rig.world
        .send(0, NetHeader::default(), &ethernet(mac(0), mac(FAR), 60));
    rig.run();
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn a_switch_has_one_uplink_besides_all_its_ports() {
    let rig = Rig::new(all(), all());
    let again = Uplink::new(
        1,
        Vif::new(FakePlatform::new(PAGES)).unwrap(),
        &rig.world.switch,
    );
    assert_eq!(again.err(), Some(AddError::Full));
    for number in 2..=MAX_PORTS {
        let config = PortConfig {
            mac: Mac(mac(number + 20)),
            mtu: 1500,
            pairs: 1,
        };
        let added = NetDevice::new(&rig.world.switch, config);
        assert_eq!(added.is_ok(), number < MAX_PORTS, "{number}");
    }
}
