//! What a sender leaves to others, for receivers that take it and for ones that do not.

mod common;

use common::{World, all, check_tcp, tcp};
use vd_net::NetFeatures;
use vd_net::header::NetHeader;

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 253) as u8).collect()
}

fn large(header: NetHeader, ipv6: bool, size: u16) -> NetHeader {
    NetHeader {
        gso_type: if ipv6 { 4 } else { 1 },
        gso_size: size,
        ..header
    }
}

#[test]
fn a_checksum_is_left_to_a_driver_that_takes_it() {
    for ipv6 in [false, true] {
        let mut world = World::new(&[all(), all()]).posted(4, 2048);
        let (header, frame) = tcp(0, 1, ipv6, &data(700));
        world.send(0, header, &frame);
        world.run();
        let expected = NetHeader {
            num_buffers: 1,
            ..header
        };
        assert_eq!(world.received(1), [(expected, frame)]);
        assert_eq!(world.counters(1).checksums, 0);
    }
}

/// Whatever the pieces are that it comes in and goes to, also in the middle of a word and of the checksum's field.
#[test]
fn a_checksum_is_computed_for_a_driver_that_does_not() {
    let plain = NetFeatures::MRG_RXBUF;
    for (ipv6, len) in [(false, 700), (true, 701), (false, 0), (true, 1)] {
        for buffer in [2048, 61, 83] {
            let mut world = World::new(&[all(), plain]).posted(40, buffer);
            let (header, frame) = tcp(0, 1, ipv6, &data(len));
            world.send_on(0, 1, header, &frame, &[5, 9, 1, 60, 301, 3]);
            world.run();
            let [(got, bytes)] = &world.received(1)[..] else {
                panic!("one frame")
            };
            assert_eq!((got.flags, got.gso_type, got.csum_start), (0, 0, 0));
            assert_eq!(
                usize::from(got.num_buffers),
                (frame.len() + 12).div_ceil(buffer as usize)
            );
            assert_eq!(check_tcp(bytes), (-3000, true, data(len)));
            assert_eq!(world.counters(1).checksums, 1);
        }
    }
}

#[test]
fn a_large_segment_goes_whole_to_a_driver_that_takes_it() {
    for ipv6 in [false, true] {
        for buffer in [1536, 65562] {
            let mut world = World::new(&[all(), all()]).posted(64, buffer);
            let (header, frame) = tcp(0, 1, ipv6, &data(60_000));
            world.send(0, large(header, ipv6, 1428), &frame);
            world.run();
            let [(got, bytes)] = &world.received(1)[..] else {
                panic!("one frame")
            };
            let expected = NetHeader {
                hdr_len: header.csum_start + 32,
                num_buffers: (frame.len() + 12).div_ceil(buffer as usize) as u16,
                ..large(header, ipv6, 1428)
            };
            assert_eq!(*got, expected);
            assert_eq!(*bytes, frame);
            let counters = world.counters(1);
            assert_eq!(
                [counters.checksums, counters.cut, counters.rx_frames],
                [0, 0, 1]
            );
        }
    }
}

#[test]
fn a_large_segment_is_cut_for_a_driver_that_does_not() {
    let sums = NetFeatures::GUEST_CSUM | NetFeatures::MRG_RXBUF;
    for features in [NetFeatures::empty(), NetFeatures::MRG_RXBUF, sums] {
        for ipv6 in [false, true] {
            let mut world = World::new(&[all(), features]).posted(64, 1526);
            let content = data(60_001);
            let (header, mut frame) = tcp(0, 1, ipv6, &content);
            // CWR, which only the first part keeps, and an identification that wraps.
            let flags = usize::from(header.csum_start) + 13;
            frame[flags] |= 0x80;
            if !ipv6 {
                frame[18..20].copy_from_slice(&[0xff, 0xff]);
            }
            world.send_on(
                0,
                1,
                large(header, ipv6, 1428),
                &frame,
                &[12, 40, 3000, 4097],
            );
            world.run();
            let frames = world.received(1);
            assert_eq!(frames.len(), 60_001usize.div_ceil(1428));
            let mut whole = vec![];
            for (n, (got, bytes)) in frames.iter().enumerate() {
                let mut bytes = bytes.clone();
                assert_eq!(got.gso_type, 0);
                assert_eq!(bytes[flags] & 0x80 != 0, n == 0);
                if !ipv6 {
                    let id = u16::from_be_bytes([bytes[18], bytes[19]]);
                    assert_eq!(id, u16::MAX.wrapping_add(n as u16));
                }
                if features.contains(NetFeatures::GUEST_CSUM) {
                    assert_eq!((got.flags, got.csum_start), (1, header.csum_start));
                    let start = usize::from(got.csum_start);
                    let sum = !sum(&bytes[start..]);
                    bytes[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
                } else {
                    assert_eq!(got.flags, 0);
                }
                let (sequence, push, part) = check_tcp(&bytes);
                assert_eq!(sequence, -3000 + 1428 * n as i32);
                assert_eq!(push, n + 1 == frames.len(), "only the last part");
                whole.extend(part);
            }
            assert!(whole == content);
            let counters = world.counters(1);
            assert_eq!((counters.cut, counters.rx_frames), (1, frames.len() as u64));
        }
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A receiver without GUEST_CSUM has no GUEST_TSO either, whatever it says (5.1.3.1).
#[test]
fn features_without_those_that_they_require_do_not_count() {
    let odd = NetFeatures::GUEST_TSO4 | NetFeatures::MRG_RXBUF;
    let mut world = World::new(&[all(), odd]).posted(64, 1526);
    let (header, frame) = tcp(0, 1, false, &data(5000));
    world.send(0, large(header, false, 1000), &frame);
    world.run();
    assert_eq!(world.received(1).len(), 5);
}

/// A driver may never have as many buffers at once as a segment has parts.
#[test]
fn the_parts_of_a_large_segment_are_given_as_there_is_room() {
    let mut world = World::new(&[all(), NetFeatures::empty()]);
    let (header, frame) = tcp(0, 1, false, &data(9000));
    let mut got = vec![];
    for buffers in [2, 4, 0, 1, 1, 4] {
        world.post(1, buffers, 1526);
        if got.is_empty() {
            world.send(0, large(header, false, 1000), &frame);
        }
        assert_eq!(world.returned(0, 1), 0, "it is still needed");
        world.run();
        let parts = world.received(1);
        assert_eq!(parts.len(), buffers.min(9 - got.len()));
        got.extend(parts);
    }
    assert_eq!(world.returned(0, 1), 1);
    let parts = got.iter().map(|(_, part)| check_tcp(part).2);
    assert_eq!(parts.collect::<Vec<_>>().concat(), data(9000));
    assert_eq!((world.counters(1).cut, world.counters(1).rx_frames), (1, 9));
    // The next one begins at its start.
    world.post(1, 10, 1526);
    world.send(0, large(header, false, 1000), &frame);
    world.run();
    assert_eq!(world.received(1).len(), 9);
}

/// What was given of one that is dropped does not count for the one behind it.
#[test]
fn a_large_segment_that_is_dropped_half_way() {
    let mut world = World::new(&[all(), NetFeatures::empty()]);
    world.post(1, 2, 1526);
    let (header, frame) = tcp(0, 1, false, &data(5000));
    world.send(0, large(header, false, 1000), &frame);
    world.run();
    world.tick();
    world.send(0, large(header, false, 1000), &frame);
    world.run();
    world.tick();
    assert_eq!((world.received(1).len(), world.returned(0, 1)), (2, 1));
    world.post(1, 9, 1526);
    world.run();
    let got = world.received(1);
    let parts = got.iter().map(|(_, part)| check_tcp(part).2);
    assert_eq!(parts.collect::<Vec<_>>().concat(), data(5000));
}

/// 65000 parts of a byte each would be far more work than the frame is worth.
#[test]
fn a_segment_of_too_many_parts_is_not_cut() {
    let mut world = World::new(&[all(), NetFeatures::empty(), all()]).posted(100, 1526);
    let (header, frame) = tcp(0, 1, false, &data(5000));
    world.send(0, large(header, false, 1), &frame);
    world.run();
    assert_eq!(world.received(1).len(), 0);
    assert_eq!(world.counters(1).rx_uncut, 1);
    assert_eq!(world.returned(0, 1), 1);
}
