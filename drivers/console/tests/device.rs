//! The device as a driver that keeps to the rules sees it, with and without MULTIPORT, and its host.

mod common;

use common::{BUFFER, EMERG, MULTIPORT, Rig, SIZE, SIZE_BIT};
use vd_console::{CONSOLE_BYTES, INPUT_BYTES, NO_PORT, PORT_BYTES, Size, event};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn configuration_and_features() {
    let mut rig = Rig::unstarted(&["a", "b"]);
    assert_eq!(rig.read(8), 3, "a console");
    rig.write(0x14, 0);
    assert_eq!(rig.read(0x10) & 7, 7, "SIZE, MULTIPORT, EMERG_WRITE");
    assert_eq!(rig.read(0x100), 80 | 25 << 16);
    assert_eq!(rig.read(0x104), 3, "ports");
    rig.write(0x30, 7);
    assert_eq!(rig.read(0x34), SIZE.into());
    rig.write(0x30, 8);
    assert_eq!(rig.read(0x34), 0, "two queues a port, and two for control");
}

/// Without MULTIPORT there is a console and nothing else, and no other queue is looked at.
#[test]
fn a_console_without_multiport() {
    let mut rig = Rig::new(&["a"], SIZE_BIT);
    assert!(rig.send(1, b"hello"));
    assert_eq!(rig.used(1).len(), 1);
    assert_eq!(rig.host_reads(0), b"hello");
    assert_eq!(rig.host_writes(0, b"ls\n"), 3);
    assert!(rig.used(0).is_empty(), "no buffer, no input");
    assert!(rig.give(0));
    assert_eq!(rig.used(0), [b"ls\n"]);
    for queue in 2..6 {
        assert!(rig.send(queue, b"nothing"));
        assert!(rig.used(queue).is_empty());
    }
    assert_eq!(rig.device().unread(1), 0);
    let counters = rig.device().counters();
    assert_eq!((counters.out_bytes, counters.in_given), (5, 3));
    // A new size is in the configuration, and the driver is told that something is.
    rig.write(0x64, 3);
    rig.transport.reconfigure(|device| {
        device.set_size(Size {
            columns: 132,
            rows: 50,
        });
    });
    assert_eq!(rig.read(0x60), 2, "the configuration has changed");
    assert_eq!(rig.read(0x100), 132 | 50 << 16);
}

/// The order in which a driver learns of its ports.
#[test]
fn ports_are_announced() {
    let mut rig = Rig::new(&["data", "log"], MULTIPORT);
    for _ in 0..SIZE {
        rig.give(2);
    }
    assert!(rig.messages().is_empty(), "before the driver is ready");
    rig.control(NO_PORT, event::DEVICE_READY, 1);
    let added = |port| (port, event::DEVICE_ADD, 1, vec![]);
    assert_eq!(rig.messages(), [added(0), added(1), added(2)]);
    rig.control(0, event::PORT_READY, 1);
    let [r, c] = [25_u16, 80].map(u16::to_le_bytes);
    assert_eq!(
        rig.messages(),
        [
            (0, event::CONSOLE_PORT, 1, vec![]),
            (0, event::RESIZE, 0, [c, r].concat())
        ]
    );
    rig.control(2, event::PORT_READY, 1);
    assert_eq!(rig.messages(), [(2, event::PORT_NAME, 1, b"log".to_vec())]);
    // What happened meanwhile is told once the driver knows the port.
    rig.host_attaches(1);
    assert!(rig.messages().is_empty());
    rig.control(1, event::PORT_READY, 1);
    assert_eq!(
        rig.messages(),
        [
            (1, event::PORT_NAME, 1, b"data".to_vec()),
            (1, event::PORT_OPEN, 1, vec![])
        ]
    );
    rig.host_detaches(1);
    assert_eq!(rig.messages(), [(1, event::PORT_OPEN, 0, vec![])]);
    rig.transport.reconfigure(|device| {
        device.set_size(Size {
            columns: 100,
            rows: 30,
        });
    });
    rig.run();
    let [r, c] = [30_u16, 100].map(u16::to_le_bytes);
    assert_eq!(rig.messages(), [(0, event::RESIZE, 0, [c, r].concat())]);
    assert_eq!(rig.device().counters().control_bad, 0);
}

/// Messages wait for buffers, one of each kind a port, and in the end say what is true.
#[test]
fn messages_wait_for_buffers() {
    let mut rig = Rig::new(&["a"], MULTIPORT);
    rig.control(NO_PORT, event::DEVICE_READY, 1);
    rig.control(0, event::PORT_READY, 1);
    rig.control(1, event::PORT_READY, 1);
    for _ in 0..100 {
        rig.host_attaches(1);
        rig.host_detaches(1);
    }
    rig.host_attaches(1);
    for _ in 0..SIZE {
        rig.give(2);
    }
    let told: Vec<(u32, u16, u16)> = rig
        .messages()
        .into_iter()
        .map(|(port, event, value, _)| (port, event, value))
        .collect();
    assert_eq!(
        told,
        [
            (0, event::CONSOLE_PORT, 1),
            (0, event::RESIZE, 0),
            (1, event::PORT_NAME, 1),
            (1, event::PORT_OPEN, 1)
        ],
        "the announcement was answered before it could be sent"
    );
}

/// A host that goes and comes again is told as both, so that a reader sees the end of one and the start of the other.
#[test]
fn a_host_that_comes_again_is_another_one() {
    let mut rig = Rig::ready();
    rig.host_attaches(1);
    rig.messages();
    // No buffers for messages: they were not given again.
    rig.device().detach(1);
    rig.device().attach(1);
    rig.run();
    let open = |value| (1, event::PORT_OPEN, value, vec![]);
    assert_eq!(rig.messages(), [open(0), open(1)]);
}

/// A host that has gone is gone for the guest only when the guest has what it left.
#[test]
fn the_last_words_of_a_host() {
    let mut rig = Rig::ready();
    rig.host_attaches(1);
    rig.host_writes(1, b"words");
    rig.messages();
    rig.host_detaches(1);
    assert!(rig.messages().is_empty());
    rig.give(4);
    assert!(rig.used(4).is_empty(), "nobody has the port open");
    rig.control(1, event::PORT_OPEN, 1);
    assert_eq!(rig.used(4), [b"words"]);
    assert_eq!(rig.messages(), [(1, event::PORT_OPEN, 0, vec![])]);
}

/// What is printed while nobody is there is kept, the youngest of it, and what was lost is counted.
#[test]
fn the_console_keeps_the_youngest() {
    let mut rig = Rig::ready();
    let all = pattern(5 * BUFFER as usize);
    for piece in all.chunks(BUFFER as usize) {
        assert!(rig.send(1, piece));
        assert_eq!(rig.used(1).len(), 1, "the guest never waits");
    }
    let lost = all.len() - CONSOLE_BYTES;
    assert_eq!(rig.device().take_lost(0), lost as u64);
    assert_eq!(rig.device().take_lost(0), 0);
    assert_eq!(rig.host_reads(0), all[lost..]);
    let counters = rig.device().counters();
    assert_eq!(counters.out_lost, lost as u64);
    assert_eq!(counters.out_bytes, all.len() as u64);
    assert_eq!(counters.out_read, CONSOLE_BYTES as u64);
}

/// A buffer larger than everything: its end is kept.
#[test]
fn a_console_buffer_larger_than_the_ring() {
    let mut rig = Rig::new(&[], 0);
    let all = pattern(3 * CONSOLE_BYTES);
    rig.mem.put(0x2_0000, &all);
    rig.offer_at(1, 0, 0x2_0000, all.len() as u32, 0);
    rig.run();
    assert_eq!(rig.host_reads(0), all[2 * CONSOLE_BYTES..]);
    assert_eq!(rig.device().counters().out_lost, 2 * CONSOLE_BYTES as u64);
}

/// A named port loses nothing: the driver gets its buffers back when their bytes have found room.
#[test]
fn a_named_port_holds_back() {
    let mut rig = Rig::ready();
    let all = pattern(4 * BUFFER as usize);
    for piece in all.chunks(BUFFER as usize) {
        assert!(rig.send(5, piece));
    }
    assert_eq!(rig.used(5).len(), 1);
    assert_eq!(rig.device().unread(1), PORT_BYTES);
    assert!(!rig.transport.has_work(), "it does not spin");
    assert_eq!(rig.host_reads(1), all);
    assert_eq!(rig.used(5).len(), 3);
    let counters = rig.device().counters();
    assert_eq!(
        (counters.out_lost, counters.out_read),
        (0, all.len() as u64)
    );
    // Other ports go on while one is full.
    for piece in all.chunks(BUFFER as usize).take(2) {
        assert!(rig.send(5, piece));
    }
    assert!(rig.send(7, b"through"));
    assert_eq!(rig.host_reads(2), b"through");
}

/// Input is taken as far as there is room, and given as far as there are buffers and a reader.
#[test]
fn input_holds_back() {
    let mut rig = Rig::ready();
    let all = pattern(3 * INPUT_BYTES);
    assert_eq!(rig.host_writes(3, &all), INPUT_BYTES);
    assert_eq!(
        (rig.device().room(3), rig.device().capacity(3)),
        (0, INPUT_BYTES)
    );
    rig.control(3, event::PORT_OPEN, 1);
    let (mut sent, mut got) = (INPUT_BYTES, Vec::new());
    while got.len() < all.len() {
        assert!(rig.give(8));
        got.extend(rig.used(8).concat());
        sent += rig.host_writes(3, &all[sent..]);
    }
    assert_eq!(got, all);
    assert_eq!(rig.device().counters().in_given, all.len() as u64);
}

/// The end of what the guest has written is seen behind all of it.
#[test]
fn a_guest_that_closes_is_heard_to_its_end() {
    let mut rig = Rig::ready();
    rig.control(1, event::PORT_OPEN, 1);
    assert!(rig.device().is_guest_open(1));
    let all = pattern(4 * BUFFER as usize);
    for piece in all.chunks(BUFFER as usize) {
        assert!(rig.send(5, piece));
    }
    rig.control(1, event::PORT_OPEN, 0);
    assert!(!rig.device().is_guest_open(1));
    let mut got: Vec<u8> = Vec::new();
    let mut bytes = [0; 700];
    while got.len() < all.len() {
        assert_eq!(rig.device().closes(1), None, "{} bytes", got.len());
        let read = rig.device().read(1, &mut bytes);
        got.extend(&bytes[..read]);
        if got.len() == PORT_BYTES {
            // The ring is empty, and the queue is not.
            assert_eq!(rig.device().closes(1), None);
        }
        rig.run();
    }
    assert_eq!(got, all);
    assert_eq!(rig.device().closes(1), Some(1));
}

/// Both messages and output may be there before the device has looked at either.
#[test]
fn output_that_was_not_looked_at_comes_before_the_end() {
    let mut rig = Rig::ready();
    rig.control(1, event::PORT_OPEN, 1);
    for turn in 0..12 {
        rig.offer(5, b"last", 4, 0);
        let message = [1, 0, 0, 0, 6, 0, 0, 0];
        rig.offer(3, &message, 8, 0);
        // Whichever queue has its turn first.
        rig.transport.run(&rig.mem, 1, &mut rig.chain);
        if let Some(closes) = rig.device().closes(1) {
            assert_eq!(closes, turn, "not before the output was read");
        }
        rig.run();
        assert_eq!(rig.device().closes(1), None);
        assert_eq!(rig.host_reads(1), b"last");
        assert_eq!(rig.device().closes(1), Some(turn + 1));
        rig.used(5);
        rig.used(3);
        rig.control(1, event::PORT_OPEN, 1);
    }
}

#[test]
fn characters_in_an_emergency() {
    let mut rig = Rig::unstarted(&[]);
    rig.write(0x70, 3);
    for character in b"panic" {
        rig.write(0x108, u64::from(*character) | 0x1234_0000);
    }
    assert_eq!(rig.host_reads(0), b"panic");
    assert_eq!(rig.device().counters().emergency, 5);
    // Nothing else of the configuration can be written.
    let before = rig.transport.counters().bad_accesses;
    rig.write(0x100, 1);
    rig.write(0x104, 1);
    rig.write(0x10c, 1);
    assert_eq!(rig.transport.counters().bad_accesses, before + 3);
    rig.start(EMERG);
    for _ in 0..CONSOLE_BYTES + 3 {
        rig.write(0x108, 0x2a);
    }
    assert_eq!(rig.device().take_lost(0), 3);
}

/// Input that is typed before a driver is there is for the first one; what waits when a driver starts over is lost, and
/// counted. Output is kept.
#[test]
fn row19_a_driver_that_starts_over() {
    let mut rig = Rig::unstarted(&["a"]);
    assert_eq!(rig.host_writes(0, b"early"), 5);
    rig.start(0);
    assert!(rig.give(0));
    assert_eq!(rig.used(0), [b"early"]);
    rig.send(1, b"kept");
    rig.host_writes(0, b"lost");
    rig.start(MULTIPORT);
    assert_eq!(rig.device().counters().in_dropped, 4);
    assert_eq!((rig.device().dropped(0), rig.device().dropped(1)), (4, 0));
    assert_eq!(
        rig.device().room(0),
        INPUT_BYTES,
        "the next one gets none of it"
    );
    assert_eq!(rig.host_reads(0), b"kept");
    assert!(!rig.device().is_guest_open(0), "it has to say so");
    // A buffer that was held back belongs to the driver again.
    let mut rig = Rig::ready();
    rig.control(1, event::PORT_OPEN, 1);
    let all = pattern(2 * BUFFER as usize);
    for piece in all.chunks(BUFFER as usize) {
        rig.send(5, piece);
    }
    rig.start(MULTIPORT);
    assert_eq!(rig.host_reads(1), all[..PORT_BYTES]);
    assert_eq!(rig.device().closes(1), Some(1), "nobody has it open now");
    assert_eq!(rig.transport.counters().stale_requests, 0);
}

#[test]
fn row19_a_queue_that_is_reset() {
    let mut rig = Rig::new(&["a"], MULTIPORT | 1 << 40);
    rig.control(NO_PORT, event::DEVICE_READY, 1);
    rig.control(1, event::PORT_READY, 1);
    let all = pattern(2 * BUFFER as usize);
    for piece in all.chunks(BUFFER as usize) {
        rig.send(5, piece);
    }
    rig.write(0x30, 5);
    rig.write(0xc0, 1);
    assert_eq!(rig.read(0xc0), 0);
    rig.run();
    assert_eq!(rig.host_reads(1), all[..PORT_BYTES]);
    assert!(!rig.is_broken());
}
