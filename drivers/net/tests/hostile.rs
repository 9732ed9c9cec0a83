//! Drivers that break the rules; the numbers are those of the rows that `docs/security.md` has.

mod common;

use common::{SIZE, World, all, ethernet, frame, mac, tcp};
use vd_net::NetFeatures;
use vd_net::header::NetHeader;
use vd_virtio::test_util::WRITE;

fn two() -> World {
    World::new(&[all(), all()]).posted(16, 2048)
}

/// The switch goes on: port 2 and 3 still talk.
fn goes_on(world: &mut World, from: usize, to: usize) {
    let frame = frame(from, to, 100);
    world.received(to);
    world.send(from, NetHeader::default(), &frame);
    world.run();
    let got = world.received(to);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].1, frame);
}

#[test]
fn row07_a_header_that_is_missing_or_cut_short() {
    for len in [1, 11] {
        let mut world = World::new(&[all(), all(), all()]).posted(16, 2048);
        let World { mem, ports, .. } = &mut world;
        let at = ports[0].sent_at(mem, &[0; 64]);
        ports[0].offer(mem, 1, &[(at, len, 0)]);
        world.run();
        assert!(world.is_broken(0), "{len}");
        goes_on(&mut world, 1, 2);
        // A reset heals it.
        let World { mem, ports, .. } = &mut world;
        ports[0].start(mem, all());
        goes_on(&mut world, 0, 2);
    }
}

#[test]
fn row07_a_header_in_pieces_is_legal() {
    let mut world = two();
    let frame = frame(0, 1, 300);
    world.send_on(0, 1, NetHeader::default(), &frame, &[1, 1, 5, 4, 2, 1, 100]);
    world.run();
    assert_eq!(world.received(1)[0].1, frame);
}

#[test]
fn row07_a_transmit_chain_with_writable_buffers_only() {
    let mut world = two();
    let World { mem, ports, .. } = &mut world;
    let at = ports[0].sent_at(mem, &[0; 64]);
    ports[0].offer(mem, 1, &[(at, 64, WRITE)]);
    world.run();
    assert!(world.is_broken(0));
    assert!(!world.is_broken(1));
}

#[test]
fn row07_a_receive_buffer_without_room_for_the_header() {
    for (len, flags) in [(11, WRITE), (64, 0)] {
        let mut world = two();
        let World { mem, ports, .. } = &mut world;
        let at = ports[1].sent_at(mem, &[0; 64]);
        ports[1].offer(mem, 0, &[(at, len, flags)]);
        world.run();
        assert!(world.is_broken(1), "{len}");
        assert!(!world.is_broken(0));
    }
}

#[test]
fn row06_row39_frames_that_are_too_short_or_too_long() {
    let mut world = two();
    for len in [0, 1, 13] {
        world.send(0, NetHeader::default(), &frame(0, 1, 60)[..len]);
    }
    world.send(0, NetHeader::default(), &frame(0, 1, 1515));
    world.send(0, NetHeader::default(), &frame(0, 1, 70_000));
    world.run();
    let counters = world.counters(0);
    assert_eq!(
        [counters.tx_short, counters.tx_long, counters.tx_frames],
        [3, 2, 0]
    );
    assert_eq!(world.returned(0, 1), 5);
    // The longest and the shortest that are allowed, and a tag more.
    let mut tagged = frame(0, 1, 1518);
    tagged[12..14].copy_from_slice(&[0x81, 0]);
    for frame in [frame(0, 1, 1514), frame(0, 1, 14), tagged] {
        world.send(0, NetHeader::default(), &frame);
        world.run();
        assert_eq!(world.received(1)[0].1, frame);
    }
    assert!(!world.is_broken(0));
}

/// What a port may send is not always what another one may get: whole frames, and the parts of large ones.
#[test]
fn row39_frames_longer_than_the_receivers_mtu() {
    let mtu = |port| if port == 1 { 1300 } else { 1500 };
    for features in [all(), NetFeatures::empty()] {
        let mut world = World::each(&[all(), features], 1, mtu).posted(16, 2048);
        world.send(0, NetHeader::default(), &frame(0, 1, 1315));
        world.send(0, NetHeader::default(), &frame(0, 1, 1314));
        let (header, segment) = tcp(0, 1, false, &[7; 1400]);
        for gso_size in [1249, 1248] {
            let large = NetHeader {
                gso_type: 1,
                gso_size,
                ..header
            };
            world.send(0, large, &segment);
        }
        world.run();
        let lens: Vec<usize> = world.received(1).iter().map(|it| it.1.len()).collect();
        let large = if features.is_empty() {
            vec![1314, 66 + 1248, 66 + 1400 - 1248]
        } else {
            vec![1314, 66 + 1400]
        };
        assert_eq!(lens, large);
        assert_eq!(world.counters(1).rx_long, 2);
        assert_eq!(world.counters(0).tx_frames, 4);
    }
}

/// Gigabytes in one chain: it is looked at, not copied.
#[test]
fn row06_a_chain_of_four_gigabytes() {
    let mut world = two();
    let World { mem, ports, .. } = &mut world;
    let at = ports[0].sent_at(mem, &[0; 64]);
    ports[0].offer(mem, 1, &[(at, 64, 0), (0, u32::MAX - 64, 0)]);
    world.run();
    assert_eq!(world.counters(0).tx_long, 1);
    assert!(!world.is_broken(0));
}

/// What the header says of the frame lies outside of it, or is not so, or was not negotiated.
#[test]
fn row39_headers_that_lie() {
    let mut world = World::new(&[all(), all(), NetFeatures::empty()]).posted(16, 2048);
    let (checksum, segment) = tcp(0, 1, false, &[7; 1000]);
    let (_, segment6) = tcp(0, 1, true, &[7; 1000]);
    let end = segment.len() as u16;
    let large = NetHeader {
        gso_type: 1,
        gso_size: 100,
        ..checksum
    };
    let at = |start, offset| NetHeader {
        csum_start: start,
        csum_offset: offset,
        ..checksum
    };
    let lies = [
        // The field is not wholly inside of the frame, or the sum of both wraps.
        at(end - 17, 16),
        at(end, 0),
        at(34, u16::MAX),
        at(u16::MAX, u16::MAX),
        at(u16::MAX, 1),
        // It would change the addresses that the switch has looked at.
        at(0, 0),
        at(13, 16),
        // Large segments without a checksum, of no size, of another protocol, with a header that is elsewhere.
        NetHeader { flags: 0, ..large },
        NetHeader {
            gso_size: 0,
            ..large
        },
        NetHeader {
            gso_type: 4,
            ..large
        },
        NetHeader {
            csum_start: 35,
            ..large
        },
        NetHeader {
            csum_offset: 6,
            ..large
        },
        // Kinds that were not offered: UDP, ECN, others.
        NetHeader {
            gso_type: 3,
            ..large
        },
        NetHeader {
            gso_type: 5,
            ..large
        },
        NetHeader {
            gso_type: 0x81,
            ..large
        },
        NetHeader {
            gso_type: 0x80,
            ..checksum
        },
        NetHeader {
            gso_type: 255,
            ..large
        },
    ];
    for lie in &lies {
        world.send(0, *lie, &segment);
    }
    world.run();
    assert_eq!(world.counters(0).tx_bad_offload, lies.len() as u64);
    assert_eq!(world.returned(0, 1), lies.len());
    // Lies of the frame itself: type, version, header length, protocol, TCP's header length, all header and no data.
    let bent = |offset: usize, value: u8| {
        let mut frame = segment.clone();
        frame[offset] = value;
        frame
    };
    let frames = [
        bent(12, 0x09),
        bent(14, 0x65),
        bent(14, 0x44),
        bent(14, 0x4f),
        bent(23, 17),
        bent(34 + 12, 0x40),
        bent(34 + 12, 0xf0)[..34 + 60].to_vec(),
        segment[..34 + 32].to_vec(),
        segment[..34 + 20].to_vec(),
        segment6,
    ];
    for frame in &frames {
        world.send(0, large, frame);
    }
    world.run();
    let count = lies.len() + frames.len();
    assert_eq!(world.counters(0).tx_bad_offload, count as u64);
    // Nothing was negotiated.
    for header in [checksum, large] {
        let (_, segment) = tcp(2, 1, false, &[7; 1000]);
        world.send(2, header, &segment);
    }
    world.run();
    assert_eq!(world.counters(2).tx_bad_offload, 2);
    assert_eq!(world.received(1).len(), 0);
    goes_on(&mut world, 0, 1);
}

/// hdr_len is a hint, and num_buffers, unknown flags and offsets without a flag mean nothing from a driver.
#[test]
fn row39_what_means_nothing_is_not_looked_at() {
    let mut world = two();
    let odd = NetHeader {
        flags: 0xfe,
        gso_type: 0,
        hdr_len: u16::MAX,
        gso_size: 9,
        csum_start: u16::MAX,
        csum_offset: u16::MAX,
        num_buffers: u16::MAX,
    };
    world.send(0, odd, &frame(0, 1, 100));
    world.run();
    let expected = NetHeader {
        num_buffers: 1,
        ..NetHeader::default()
    };
    assert_eq!(world.received(1), [(expected, frame(0, 1, 100))]);
}

#[test]
fn row08_a_frame_in_the_receivers_own_buffer_and_buffers_over_rings() {
    let mut world = World::new(&[all(), all()]);
    // Port 1's buffer is where port 0's frame is: header over header, and so on.
    let World { mem, ports, .. } = &mut world;
    let mut bytes = vec![0; 12];
    bytes.extend(frame(0, 1, 1000));
    let at = ports[0].sent_at(mem, &bytes);
    ports[1].offer(mem, 0, &[(at + 3, 1024, WRITE)]);
    let ring = ports[1].rings[0];
    ports[1].offer(mem, 0, &[(ring.desc, 2048, WRITE)]);
    ports[0].offer(mem, 1, &[(at, bytes.len() as u32, 0)]);
    world.run();
    world.send(0, NetHeader::default(), &frame(0, 1, 1000));
    world.run();
    assert_eq!(world.counters(1).rx_frames, 2);
}

/// The sender's frame is not RAM: the sender breaks, the receiver keeps its buffer.
#[test]
fn row04_a_frame_that_is_not_ram() {
    for second in [u64::MAX - 100, 1 << 40] {
        let mut world = World::new(&[all(), all(), all()]).posted(4, 2048);
        let World { mem, ports, .. } = &mut world;
        let mut bytes = vec![0; 12];
        bytes.extend(frame(0, 1, 600));
        let at = ports[0].sent_at(mem, &bytes);
        ports[0].offer(mem, 1, &[(at, 612, 0), (second, 100, 0)]);
        world.run();
        assert!(world.is_broken(0));
        assert!(!world.is_broken(1));
        assert_eq!(world.received(1).len(), 0);
        goes_on(&mut world, 2, 1);
    }
}

/// The receiver's buffer is not RAM: the receiver breaks, the sender goes on.
#[test]
fn row04_a_receive_buffer_that_is_not_ram() {
    let mut world = World::new(&[all(), all(), all()]);
    world.post(2, 4, 2048);
    let World { mem, ports, .. } = &mut world;
    ports[1].offer(mem, 0, &[(1 << 40, 2048, WRITE)]);
    world.run();
    assert!(!world.is_broken(1), "it has not been used yet");
    world.send(0, NetHeader::default(), &frame(0, 1, 100));
    world.run();
    assert!(world.is_broken(1));
    assert!(!world.is_broken(0));
    assert_eq!(world.returned(0, 1), 1);
    goes_on(&mut world, 0, 2);
    // Until its driver starts over it is not there.
    world.send(0, NetHeader::default(), &frame(0, 1, 100));
    world.run();
    assert_eq!(world.counters(0).tx_unreachable, 1);
    let World { mem, ports, .. } = &mut world;
    ports[1].start(mem, all());
    world.post(1, 1, 2048);
    world.run();
    goes_on(&mut world, 0, 1);
}

/// The same while the frame has been waiting: then it is the receiver's pass that finds out about the sender.
#[test]
fn row04_a_waiting_frame_that_is_not_ram() {
    let mut world = World::new(&[all(), all(), all()]);
    let World { mem, ports, .. } = &mut world;
    let mut bytes = vec![0; 12];
    bytes.extend(frame(0, 1, 600));
    let at = ports[0].sent_at(mem, &bytes);
    ports[0].offer(mem, 1, &[(at, 612, 0), (1 << 40, 100, 0)]);
    world.run();
    assert!(!world.is_broken(0));
    world.post(1, 2, 2048);
    world.run();
    assert!(world.is_broken(0));
    assert!(!world.is_broken(1));
    goes_on(&mut world, 2, 1);
}

#[test]
fn row10_the_same_receive_buffer_twice() {
    let mut world = World::new(&[all(), all()]);
    world.post(1, 1, 2048);
    world.run();
    let ring = world.ports[1].rings[0];
    ring.offer(&world.mem, 0);
    world.ports[1].transport.notify(0);
    world.run();
    assert!(world.is_broken(1));
    assert!(!world.is_broken(0));
}

#[test]
fn row10_a_waiting_frame_twice() {
    let mut world = two();
    world.ports[1].start(&world.mem, all());
    world.send(0, NetHeader::default(), &frame(0, 1, 100));
    world.run();
    let ring = world.ports[0].rings[1];
    ring.offer(&world.mem, 0);
    world.ports[0].transport.notify(1);
    world.run();
    assert!(world.is_broken(0));
    assert!(!world.is_broken(1));
}

/// A frame's start is copied once: what the switch has looked at is what the receiver gets.
#[test]
fn row11_addresses_that_change_while_they_are_looked_at() {
    for moment in 0..12 {
        let mut world = two();
        let World { mem, ports, .. } = &mut world;
        let mut bytes = vec![0; 12];
        bytes.extend(frame(0, 1, 1000));
        let at = ports[0].sent_at(mem, &bytes);
        ports[0].offer(mem, 1, &[(at, bytes.len() as u32, 0)]);
        let begin = mem.reads();
        let place = at as usize + 12;
        mem.interfere(move |n, memory| {
            if n == begin + moment {
                memory[place..place + 12].copy_from_slice(&[0xff; 12]);
            }
        });
        world.run();
        for (_, got) in world.received(1) {
            assert_eq!(&got[..12], &frame(0, 1, 14)[..12], "moment {moment}");
        }
    }
}

#[test]
fn row26_a_port_without_buffers_does_not_stop_others() {
    let mut world = World::new(&[all(), all(), all()]);
    world.post(2, 100, 2048);
    world.run();
    for n in 0..SIZE - 1 {
        let to = 1 + usize::from(n % 2);
        world.send(0, NetHeader::default(), &frame(0, to, 100));
        world.run();
        if n % 64 == 63 {
            world.received(2);
            world.post(2, 32, 2048);
            world.run();
        }
    }
    // 128 frames for port 1: as many wait as may, the rest is dropped.
    let counters = world.counters(1);
    assert_eq!((counters.rx_frames, counters.rx_no_room), (0, 128 - 24));
    assert_eq!(world.counters(2).rx_frames, 127);
    assert_eq!(world.returned(0, 1), 255 - 24);
    // And not for ever.
    world.tick();
    world.tick();
    assert_eq!(world.counters(1).rx_no_room, 128);
    assert_eq!(world.returned(0, 1), 24);
    goes_on(&mut world, 0, 2);
}

/// A pass ends sooner when its frames are large, or go to many.
#[test]
fn row26_what_a_pass_may_cost() {
    let mut world = World::new(&[all(); 5]).posted(40, 65562);
    let (header, segment) = tcp(0, 1, false, &[7; 40_000]);
    let large = NetHeader {
        gso_type: 1,
        gso_size: 1400,
        ..header
    };
    for _ in 0..40 {
        world.send(0, large, &segment);
    }
    let once = |world: &mut World| {
        let before = world.counters(0).tx_frames;
        world.pass(0);
        world.counters(0).tx_frames - before
    };
    // One for the frame, two for its 40 KiB, of 64.
    assert_eq!(once(&mut world), 22);
    world.run();
    let mut to_all = segment;
    to_all[..6].fill(0xff);
    for _ in 0..20 {
        world.send(0, large, &to_all);
    }
    // Two for each of the four that get it.
    assert_eq!(once(&mut world), 8);
}

/// Bounded memory: no port can make the switch hold more than its places.
#[test]
fn row29_frames_that_wait_are_bounded() {
    let mut world = World::new(&[all(); 6]);
    for n in 0..200 {
        world.send(0, NetHeader::default(), &frame(0, 1 + n % 5, 100));
        world.run();
    }
    assert_eq!(world.returned(0, 1), 200 - 32);
    // One in too many pieces does not wait at all.
    let mut world = World::new(&[all(), all()]);
    world.send_on(0, 1, NetHeader::default(), &frame(0, 1, 1400), &[200; 2]);
    world.run();
    assert_eq!(world.returned(0, 1), 0);
    world.send_on(0, 1, NetHeader::default(), &frame(0, 1, 1400), &[40; 30]);
    world.run();
    assert_eq!((world.returned(0, 1), world.counters(1).rx_no_room), (1, 1));
}

#[test]
fn row19_reset_with_frames_waiting() {
    for (waits, sender) in [(1, true), (1, false), (24, true), (24, false)] {
        let mut world = World::new(&[all(), all(), all()]);
        world.post(2, 8, 2048);
        for _ in 0..waits {
            world.send(0, NetHeader::default(), &frame(0, 1, 600));
        }
        world.run();
        let resets = if sender { 0 } else { 1 };
        let World { mem, ports, .. } = &mut world;
        ports[resets].start(mem, all());
        mem.take_written();
        world.run();
        // The one that was reset gets nothing back and nothing delivered; the other loses nothing but the frames.
        world.post(1, 30, 2048);
        world.run();
        assert_eq!(world.received(1).len(), 0);
        assert_eq!(world.returned(0, 1), if sender { 0 } else { waits });
        goes_on(&mut world, 0, 1);
        goes_on(&mut world, 0, 2);
    }
}

/// Buffers from before a reset are not written to.
#[test]
fn row19_buffers_from_before_a_reset() {
    let mut world = two();
    let World { mem, ports, .. } = &mut world;
    ports[1].start(mem, all());
    mem.take_written();
    world.send(0, NetHeader::default(), &frame(0, 1, 600));
    world.run();
    let base = world.ports[1].base;
    let buffers = base + 0x10_0000..base + 0x60_0000;
    let written = world.mem.take_written();
    assert!(written.iter().all(|range| !buffers.contains(&range.start)));
}

/// QueueReady becomes 0 while the device runs: what that queue had is forgotten, and no other queue's.
#[test]
fn row19_a_queue_that_is_stopped() {
    let stop = |world: &mut World, port: usize, queue: u64| {
        let World { mem, ports, .. } = world;
        ports[port].transport.write(mem, 0x30, 4, queue);
        ports[port].transport.write(mem, 0x44, 4, 0);
    };
    // Of a receiver: its buffers are not written to any more. It still sends.
    let mut world = two();
    stop(&mut world, 1, 0);
    world.send(0, NetHeader::default(), &frame(0, 1, 600));
    world.run();
    assert_eq!(world.counters(1).rx_frames, 0);
    goes_on(&mut world, 1, 0);
    world.tick();
    world.tick();
    assert_eq!(world.returned(0, 1), 1);
    // Of a sender: what waits is not delivered any more. It still receives.
    let mut world = World::new(&[all(), all()]);
    world.post(0, 4, 2048);
    world.send(0, NetHeader::default(), &frame(0, 1, 600));
    world.run();
    stop(&mut world, 0, 1);
    world.post(1, 4, 2048);
    world.run();
    assert_eq!(world.received(1).len(), 0);
    goes_on(&mut world, 1, 0);
}

#[test]
fn commands_that_are_not_understood_or_cut_short() {
    let mut world = two();
    let bad: [&[u8]; 11] = [
        &[0, 0, 1],
        &[1, 0, 0, 0, 0, 0],
        &[1, 1],
        &[1, 1, 2, 0, 0, 0, 9],
        &[1, 1, 2, 0, 0, 0, 0, 9, 9],
        // An address that is another port's, a group's, or nobody's.
        &[1, 1, 2, 0, 0, 0, 0, 2],
        &[1, 1, 3, 0, 0, 0, 0, 9],
        &[1, 1, 0, 0, 0, 0, 0, 0],
        // Several pairs were not negotiated.
        &[4, 0, 1, 0],
        &[4, 0],
        &[255, 255, 1, 2, 3],
    ];
    for command in bad {
        assert_eq!(world.command(0, 2, command), 1, "{command:?}");
    }
    assert_eq!(world.counters(0).bad_commands, bad.len() as u64);
    // No place for the answer: nothing is done.
    let World { mem, ports, .. } = &mut world;
    let at = ports[0].sent_at(mem, &[1, 1, 2, 0, 0, 0, 0, 9]);
    ports[0].offer(mem, 2, &[(at, 8, 0)]);
    world.run();
    let World { mem, ports, .. } = &mut world;
    assert_eq!(ports[0].used(mem, 2).map(|(_, len)| len), Some(0));
    assert_eq!(world.ports[0].transport.device().mac().0, mac(0));
    goes_on(&mut world, 0, 1);
    // Not even a command.
    let World { mem, ports, .. } = &mut world;
    let at = ports[0].sent_at(mem, &[1, 0]);
    ports[0].offer(mem, 2, &[(at, 1, 0), (at + 1, 1, WRITE)]);
    world.run();
    assert!(world.is_broken(0));
}

#[test]
fn a_port_cannot_take_another_ones_address() {
    let mut world = World::new(&[all(), all(), all()]).posted(16, 2048);
    for from in [mac(1), [0xff; 6], [0; 6], [1, 0, 0, 0, 0, 1]] {
        world.send(0, NetHeader::default(), &ethernet(from, mac(2), 100));
    }
    world.run();
    assert_eq!(world.counters(0).tx_spoofed, 4);
    assert_eq!(world.received(2).len(), 0);
    // Port 1 gets its frames all the same.
    goes_on(&mut world, 2, 1);
}
