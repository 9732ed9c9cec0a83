//! Frames that wait, and what becomes of those behind one that cannot be delivered.

mod common;

use common::{World, all, frame, tcp};
use vd_net::header::{GSO_TCPV4, NetHeader};

/// Sends a segment that a receiver with these features gets as it is, in many buffers.
fn send_large(world: &mut World, from: usize, to: usize) {
    let (header, frame) = tcp(from, to, false, &vec![3; 60_000]);
    let header = NetHeader {
        gso_type: GSO_TCPV4,
        gso_size: 1400,
        ..header
    };
    world.send(from, header, &frame);
}

/// A segment for which port 1 has too few buffers, and three frames of port 2 behind it.
fn blocked() -> World {
    let mut world = World::new(&[all(), all(), all()]);
    world.post(1, 5, 1526);
    send_large(&mut world, 0, 1);
    world.run();
    world.tick();
    for len in [60, 61, 62] {
        world.send(2, NetHeader::default(), &frame(2, 1, len));
    }
    world.run();
    assert!(world.received(1).is_empty(), "they come in order");
    world
}

fn lengths(world: &mut World, port: usize) -> Vec<usize> {
    let frames = world.received(port);
    frames.iter().map(|(_, frame)| frame.len()).collect()
}

#[test]
fn what_is_behind_a_frame_that_has_waited_for_too_long_is_delivered() {
    let mut world = blocked();
    world.tick();
    assert_eq!(lengths(&mut world, 1), [60, 61, 62]);
    assert_eq!(world.counters(1).rx_no_room, 1);
    assert_eq!((world.returned(0, 1), world.returned(2, 1)), (1, 3));
}

#[test]
fn what_is_behind_a_frame_whose_sender_starts_over_is_delivered() {
    let mut world = blocked();
    let World { ports, mem, .. } = &mut world;
    ports[0].transport.write(mem, 0x70, 4, 0);
    world.run();
    assert_eq!(lengths(&mut world, 1), [60, 61, 62]);
    assert_eq!(world.returned(2, 1), 3);
}

/// A driver that has given all buffers that its queue holds cannot give more.
#[test]
fn what_can_never_fit_does_not_wait() {
    let mut world = World::new(&[all(), all(), all()]);
    // As many as are taken from a queue at once.
    world.post(1, 128, 300);
    world.run();
    send_large(&mut world, 0, 1);
    world.send(2, NetHeader::default(), &frame(2, 1, 60));
    world.run();
    assert_eq!(lengths(&mut world, 1), [60]);
    let counters = world.counters(1);
    assert_eq!((counters.rx_long, counters.rx_no_room), (1, 0));
    assert_eq!(world.counters(0).parked, 0);
}

/// One that sends without end leaves places for others to wait in.
#[test]
fn senders_share_the_places_in_which_frames_wait() {
    let mut world = World::new(&[all(), all(), all(), all()]);
    for _ in 0..40 {
        world.send(0, NetHeader::default(), &frame(0, 1, 60));
    }
    world.run();
    assert_eq!(world.counters(0).parked, 24, "nobody else wants any");
    for port in [2, 3] {
        for _ in 0..5 {
            world.send(port, NetHeader::default(), &frame(port, 1, 60));
        }
    }
    world.run();
    assert_eq!((world.counters(2).parked, world.counters(3).parked), (2, 2));
    // While there is room again, all get as much as they want, but the one with more than its share.
    world.post(1, 20, 1526);
    world.run();
    for port in [2, 0, 3] {
        for _ in 0..10 {
            world.send(port, NetHeader::default(), &frame(port, 1, 60));
        }
    }
    world.run();
    let of = |port: usize| world.counters(port).parked;
    assert_eq!((of(2), of(3)), (2 + 6, 2 + 6));
    assert_eq!(of(0), 24 + 4, "eight, with the four that wait");
    assert_eq!(world.received(1).len(), 20);
}
