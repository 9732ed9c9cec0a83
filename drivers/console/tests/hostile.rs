//! Drivers that break the rules, row by row of the attack cases of docs/security.md.

mod common;

use common::{BUFFER, MEMORY, MULTIPORT, Rig, SIZE};
use vd_console::{NO_PORT, event};
use vd_virtio::test_util::WRITE;

/// After a fault a reset heals.
fn heals(mut rig: Rig) {
    assert!(rig.is_broken());
    assert_eq!(rig.transport.counters().faults, 1);
    rig.start(MULTIPORT);
    assert!(!rig.is_broken());
    assert!(rig.send(1, b"again"));
    assert!(rig.host_reads(0).ends_with(b"again"));
}

#[test]
fn row04_buffers_that_are_not_ram() {
    for queue in [1, 3, 5] {
        let mut rig = Rig::ready();
        rig.offer_at(queue, 7, MEMORY, 8, 0);
        rig.run();
        heals(rig);
    }
    for queue in [0, 2, 4] {
        let mut rig = Rig::new(&["a"], MULTIPORT);
        rig.control(NO_PORT, event::DEVICE_READY, 1);
        for port in 0..2 {
            rig.control(port, event::PORT_READY, 1);
            rig.control(port, event::PORT_OPEN, 1);
            rig.host_writes(port as usize, b"input");
        }
        rig.offer_at(queue, 7, MEMORY, 64, WRITE);
        rig.run();
        assert_eq!(rig.device().counters().in_given, 0);
        heals(rig);
    }
}

/// The part of a buffer that is RAM does not make the rest of it so.
#[test]
fn row04_the_end_of_a_held_buffer_is_not_ram() {
    let mut rig = Rig::ready();
    let len = 0x4000;
    rig.offer_at(5, 0, MEMORY - 0x2800, len, 0);
    rig.run();
    assert!(!rig.is_broken(), "nobody has looked there yet");
    rig.host_reads(1);
    heals(rig);
}

#[test]
fn row07_messages_that_are_cut_short() {
    for len in 1..8 {
        let mut rig = Rig::ready();
        rig.offer(3, &[0; 8], len, 0);
        rig.run();
        heals(rig);
    }
    // Longer ones are of a later version.
    let mut rig = Rig::ready();
    let taken = rig.device().counters().control_taken;
    rig.send(3, &[1, 0, 0, 0, 6, 0, 1, 0, 99, 99]);
    assert!(!rig.is_broken() && rig.device().is_guest_open(1));
    assert_eq!(rig.device().counters().control_taken, taken + 1);
    // No byte at all.
    rig.offer(3, &[], 8, WRITE);
    rig.run();
    heals(rig);
}

/// Messages that mean nothing are counted, and change nothing.
#[test]
fn row39_messages_without_sense() {
    let mut rig = Rig::ready();
    let mut bad = 0;
    let mut expect_bad = |rig: &mut Rig, port, event, value| {
        rig.control(port, event, value);
        bad += 1;
        assert_eq!(rig.device().counters().control_bad, bad);
        assert!(rig.messages().is_empty(), "{port} {event} {value}");
    };
    for event in [
        event::DEVICE_ADD,
        event::DEVICE_REMOVE,
        event::CONSOLE_PORT,
        event::RESIZE,
        event::PORT_NAME,
        8,
        u16::MAX,
    ] {
        expect_bad(&mut rig, 0, event, 1);
    }
    for port in [4, 5, 1 << 16, 1 << 31, NO_PORT] {
        expect_bad(&mut rig, port, event::PORT_READY, 1);
        expect_bad(&mut rig, port, event::PORT_OPEN, 1);
    }
    // A port that the driver has given up, or never took.
    rig.control(2, event::PORT_READY, 0);
    expect_bad(&mut rig, 2, event::PORT_OPEN, 1);
    rig.control(NO_PORT, event::DEVICE_READY, 0);
    expect_bad(&mut rig, 0, event::PORT_READY, 1);
    expect_bad(&mut rig, 0, event::PORT_OPEN, 1);
    assert!(!rig.is_broken());
}

/// Buffers for messages that hold none: the message is lost to the driver, and counted.
#[test]
fn row07_buffers_too_small_for_a_message() {
    let mut rig = Rig::new(&["name"], MULTIPORT);
    rig.offer(2, &[], 7, WRITE);
    rig.offer(2, &[], 8, WRITE);
    rig.control(NO_PORT, event::DEVICE_READY, 1);
    let used = rig.used(2);
    assert_eq!((used[0].len(), used[1].len()), (0, 8));
    rig.offer(2, &[], 11, WRITE);
    rig.control(1, event::PORT_READY, 1);
    assert_eq!(rig.used(2), [vec![]]);
    assert_eq!(rig.device().counters().control_bad, 2);
    assert!(!rig.is_broken());
}

/// Buffers of the wrong direction have no room, or no bytes: they are given back, and counted.
#[test]
fn row07_buffers_of_the_wrong_direction() {
    let mut rig = Rig::ready();
    rig.control(1, event::PORT_OPEN, 1);
    rig.host_writes(1, b"input");
    rig.offer(4, b"", 64, 0);
    rig.offer(5, b"", 64, WRITE);
    rig.run();
    assert_eq!((rig.used(4), rig.used(5)), (vec![vec![]], vec![vec![]]));
    assert_eq!(rig.device().counters().errors, 2);
    assert!(rig.give(4));
    assert_eq!(rig.used(4), [b"input"], "nothing was lost");
}

/// However much a driver sends, what is kept is bounded, and a pass ends.
#[test]
fn row26_row29_floods() {
    let mut rig = Rig::ready();
    for round in 0..200_u32 {
        // Opens and closes, a hundred ports, all ports announced again.
        rig.control(round % 5, event::PORT_OPEN, (round % 2) as u16);
        rig.control(NO_PORT, event::DEVICE_READY, 1);
        rig.control(round % 5, event::PORT_READY, 1);
        for queue in [1, 5, 7, 9] {
            rig.offer(queue, &[round as u8; 64], BUFFER as u32, 0);
        }
        rig.run();
        rig.used(1);
    }
    for port in 1..4 {
        assert_eq!(rig.device().unread(port), 8 << 10);
        let queue = 3 + 2 * port;
        assert!(rig.used(queue).len() < SIZE.into());
    }
    let counters = rig.device().counters();
    assert_eq!(counters.out_lost, 200 * BUFFER - (16 << 10));
    assert!(!rig.is_broken());
    // The longest buffer of all costs a look, not a copy.
    let mut rig = Rig::new(&[], 0);
    rig.offer_at(1, 0, 0, u32::MAX, 0);
    rig.run();
    assert!(rig.is_broken(), "its end is no RAM");
}
