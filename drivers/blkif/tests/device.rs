//! The whole way of a request, and every way in which it can go wrong.

mod common;

use common::{BACKEND, DISCARD, IN, IOERR, NONE, OK, OUT, Rig, Setup, UNSUPP, ZEROES};
use vd_blk::Room;
use vd_blkif::nodes::{Offer, Properties};
use vd_blkif::test_util::Cut;
use vd_blkif::{Config, Disk};
use vd_virtio::test_util::{FakeMemory, WRITE};

const SECTORS: u64 = 256;

fn rig() -> Rig {
    Rig::new(Setup::new(SECTORS))
}

#[test]
fn reads_and_writes() {
    let mut rig = rig();
    rig.write_bytes(0, 5, 1024, 0xaa);
    assert_eq!((rig.status(0), rig.stored(5)[0]), (NONE, 0), "under way");
    rig.settle();
    assert_eq!((rig.status(0), rig.stored(6)), (OK, [0xaa; 512]));
    rig.read(1, 4, 1536);
    rig.settle();
    let data = rig.data(1, 1536);
    assert_eq!(rig.status(1), OK);
    assert_eq!(data[..512], [0; 512]);
    assert_eq!(data[512..], [0xaa; 1024]);
    assert_eq!(rig.take_used(0), [(0, 1), (1, 1537)]);
    assert_eq!(rig.disk().in_flight(), 0);
    assert_eq!(rig.disk().free_pages(), 64, "nothing is lost");
}

#[test]
fn requests_end_in_any_order() {
    let mut rig = rig();
    for slot in 0..8 {
        rig.write_bytes(slot, slot.into(), 512, slot as u8 + 1);
    }
    assert_eq!(rig.backend.take(), 8);
    for (n, expected) in [(7, 7), (3, 3), (0, 0)] {
        assert_eq!(rig.backend.serve(n), 0);
        rig.run();
        assert_eq!(rig.take_used(0), [(expected, 1)]);
    }
    rig.settle();
    assert_eq!(rig.take_used(0).len(), 5);
    for slot in 0..8 {
        assert_eq!(rig.stored(slot), [slot as u8 + 1; 512]);
    }
}

/// 16 KiB: four pages, one request; with lists of up to 32 segments; without them.
#[test]
fn large_requests_by_list_and_in_parts() {
    for (indirect, len, requests, lists) in [
        (32, 0x1_0000, 1, 1),
        (32, 0x4_0000, 2, 2),
        (0, 0x1_0000, 2, 0),
        (0, 0x4_0000, 6, 0),
        (11, 0x1_0000, 2, 0),
        (32, 0xb000, 1, 0),
        (32, 0xb200, 1, 1),
        (0, 512, 1, 0),
    ] {
        let mut setup = Setup::new(1024);
        setup.bytes = 0x4_0000;
        setup.slots = 2;
        setup.properties.indirect = indirect;
        let mut rig = Rig::new(setup);
        let pattern: Vec<u8> = (0..len).map(|at: u64| (at / 512 * 7 + at) as u8).collect();
        rig.mem.put(rig.data_at(0), &pattern);
        rig.offer(0, 0, OUT, 100, len);
        rig.run();
        let counters = rig.disk().counters();
        assert_eq!(
            (counters.requests, counters.indirect),
            (requests, lists),
            "{indirect} {len}"
        );
        rig.settle();
        assert_eq!(rig.status(0), OK);
        assert_eq!(rig.backend.disk[51200..][..len as usize], pattern);
        rig.read(1, 100, len);
        rig.settle();
        assert_eq!(rig.data(1, len), pattern);
        assert_eq!(rig.disk().free_pages(), 64);
    }
}

/// More than the pool holds: one part of the request after the other.
#[test]
fn row29_a_request_larger_than_the_pool() {
    let mut setup = Setup::new(2048);
    setup.bytes = 0x8_0000;
    setup.slots = 2;
    setup.config.data_pages = 10;
    let mut rig = Rig::new(setup);
    let len = 0x8_0000 - 512;
    let pattern: Vec<u8> = (0..len).map(|at: u64| (at / 512) as u8).collect();
    rig.mem.put(rig.data_at(0), &pattern);
    rig.offer(0, 0, OUT, 9, len);
    rig.run();
    rig.settle();
    assert_eq!(rig.status(0), OK);
    assert_eq!(rig.backend.disk[9 * 512..][..len as usize], pattern);
    rig.read(1, 9, len);
    rig.settle();
    assert!(rig.data(1, len) == pattern);
    assert_eq!(rig.take_used(0), [(0, 1), (1, len as u32 + 1)]);
    assert_eq!(rig.disk().counters().completed, 26, "13 parts each way");
}

/// The first error wins, whatever comes after it; the request ends when all of it is answered.
#[test]
fn row39_one_part_of_a_request_fails() {
    for failing in 0..6 {
        let mut setup = Setup::new(1024);
        setup.bytes = 0x4_0000;
        setup.slots = 1;
        setup.properties.indirect = 0;
        let mut rig = Rig::new(setup);
        rig.write_bytes(0, 0, 0x4_0000, 0xaa);
        assert_eq!(rig.backend.take(), 6);
        rig.backend.refuse(failing, -1);
        rig.run();
        assert_eq!(rig.status(0), NONE, "parts of it are under way");
        for n in (0..5).rev() {
            assert_eq!(rig.backend.serve(n), 0);
            rig.run();
        }
        assert_eq!(rig.status(0), IOERR);
        assert_eq!(rig.disk().free_pages(), 64);
        assert_eq!(rig.transport.device().counters().errors, 1);
        rig.read(0, 0, 512);
        rig.settle();
        assert_eq!(rig.status(0), OK, "and it goes on");
    }
}

#[test]
fn row39_errors_of_the_back_end() {
    let mut rig = rig();
    for (status, expected) in [(-1, IOERR), (-2, UNSUPP), (1, IOERR), (i16::MIN, IOERR)] {
        rig.read(0, 0, 512);
        rig.backend.take();
        rig.backend.refuse(0, status);
        rig.mem.take_written();
        rig.run();
        assert_eq!(rig.status(0), expected);
        assert_eq!(rig.data(0, 512), [0xee; 512], "nothing was copied");
        rig.flush(1);
        rig.backend.take();
        rig.backend.refuse(0, status);
        rig.run();
        assert_eq!(rig.status(1), expected);
    }
    assert_eq!(rig.transport.device().counters().errors, 8);
    assert_eq!(rig.disk().counters().failed, 8);
}

#[test]
fn row39_places_outside_of_the_disk() {
    let mut rig = rig();
    let bad = [
        SECTORS,
        SECTORS - 1,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX - 1,
        1 << 63,
    ];
    for sector in bad {
        rig.read(0, sector, 1024);
        rig.write_bytes(1, sector, 1024, 1);
        assert_eq!((rig.status(0), rig.status(1)), (IOERR, IOERR), "{sector}");
    }
    for len in [1, 511, 513] {
        rig.read(0, 0, len);
        rig.write_bytes(1, 0, len, 1);
        assert_eq!((rig.status(0), rig.status(1)), (IOERR, IOERR), "{len}");
    }
    for kind in [DISCARD, ZEROES] {
        for range in [(SECTORS, 1), (SECTORS - 1, 2), (u64::MAX, 1), (0, u32::MAX)] {
            rig.zero(0, kind, &[(0, 1), range]);
            assert_eq!(rig.status(0), IOERR, "{kind} {range:?}");
        }
        rig.offer(0, 0, kind, 0, 17);
        rig.run();
        assert_eq!(rig.status(0), IOERR);
    }
    assert_eq!(rig.backend.take(), 0, "the back end is not asked");
    rig.read(0, 0, 0);
    assert_eq!(rig.status(0), OK, "nothing is a whole number of sectors");
}

#[test]
fn row39_read_only() {
    let mut setup = Setup::new(SECTORS);
    setup.properties.readonly = true;
    nothing_is_written(setup);
}

/// The back end would let it be written.
#[test]
fn row39_read_only_by_configuration() {
    let mut setup = Setup::new(SECTORS);
    setup.readonly = true;
    nothing_is_written(setup);
}

fn nothing_is_written(setup: Setup) {
    let mut rig = Rig::new(setup);
    rig.write_bytes(0, 0, 512, 1);
    rig.zero(1, DISCARD, &[(0, 1)]);
    rig.zero(2, ZEROES, &[(0, 1)]);
    assert_eq!([0, 1, 2].map(|slot| rig.status(slot)), [IOERR; 3]);
    assert_eq!(rig.backend.take(), 0);
    rig.read(0, 0, 512);
    rig.flush(1);
    rig.settle();
    assert_eq!((rig.status(0), rig.status(1)), (OK, OK));
    rig.write(0x14, 0);
    let features = rig.transport.read(0x10, 4);
    assert_eq!(features & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
}

#[test]
fn blocks_of_4096() {
    let mut setup = Setup::new(SECTORS);
    setup.properties.sector_size = 4096;
    setup.properties.physical_sector_size = 4096;
    let mut rig = Rig::new(setup);
    for (sector, len) in [(1, 4096), (8, 512), (4, 8192), (8, 4608)] {
        rig.read(0, sector, len);
        rig.write_bytes(1, sector, len, 1);
        assert_eq!((rig.status(0), rig.status(1)), (IOERR, IOERR));
    }
    rig.zero(0, DISCARD, &[(8, 7)]);
    rig.zero(1, ZEROES, &[(1, 8)]);
    assert_eq!((rig.status(0), rig.status(1)), (IOERR, IOERR));
    assert_eq!(rig.backend.take(), 0);
    rig.write_bytes(0, 8, 8192, 7);
    rig.settle();
    assert_eq!(rig.status(0), OK);
    assert_eq!(
        rig.backend.log,
        [(1, 8, 16)],
        "in sectors of 512 all the same"
    );
    assert_eq!(rig.transport.read(0x100 + 20, 4), 4096);
    assert_eq!(rig.transport.read(0x100, 8), SECTORS);
}

#[test]
fn discards_and_zeroes() {
    let mut rig = rig();
    rig.write_bytes(0, 0, 0x4000, 0x11);
    rig.settle();
    rig.zero(0, DISCARD, &[(1, 2), (7, 0), (8, 1)]);
    rig.settle();
    rig.zero(1, ZEROES, &[(16, 1), (3, 2)]);
    rig.settle();
    assert_eq!((rig.status(0), rig.status(1)), (OK, OK));
    let expected = |sector: usize| match sector {
        1 | 2 | 8 => 0xdd,
        3 | 4 | 16 => 0,
        _ => 0x11,
    };
    for sector in 0..32 {
        assert_eq!(rig.stored(sector), [expected(sector); 512], "{sector}");
    }
    rig.zero(0, DISCARD, &[(1, 0)]);
    assert_eq!(rig.status(0), OK, "nothing to do");
}

/// 2 MiB of zeroes through a pool of a quarter of that.
#[test]
fn row29_zeroes_larger_than_the_pool() {
    let mut rig = Rig::new(Setup::new(8192));
    rig.backend.disk.fill(0x33);
    rig.zero(0, ZEROES, &[(10, 4096), (5000, 3)]);
    rig.settle();
    assert_eq!(rig.status(0), OK);
    for (at, bytes) in rig.backend.disk.chunks(512).enumerate() {
        let zero = (10..4106).contains(&at) || (5000..5003).contains(&at);
        assert!(bytes == [if zero { 0 } else { 0x33 }; 512], "{at}");
    }
    assert_eq!(rig.disk().free_pages(), 64);
}

#[test]
fn a_back_end_without_discards() {
    let mut setup = Setup::new(SECTORS);
    setup.properties.discard = None;
    let mut rig = Rig::new(setup);
    rig.write(0x14, 0);
    assert_eq!(rig.transport.read(0x10, 4) & (1 << 13), 0);
    rig.zero(0, DISCARD, &[(0, 1)]);
    assert_eq!(rig.status(0), UNSUPP);
    assert_eq!(rig.backend.take(), 0);
}

#[test]
fn flushes_and_what_a_back_end_has_for_them() {
    for (flush, barrier, op) in [
        (true, true, Some(3)),
        (false, true, Some(2)),
        (false, false, None),
    ] {
        let mut setup = Setup::new(SECTORS);
        (setup.properties.flush, setup.properties.barrier) = (flush, barrier);
        let mut rig = Rig::new(setup);
        rig.write_bytes(0, 0, 512, 9);
        rig.settle();
        rig.flush(1);
        match op {
            Some(op) => {
                assert_eq!(rig.status(1), NONE);
                rig.settle();
                assert_eq!(rig.backend.log.last(), Some(&(op, 0, 0)));
                assert_eq!(rig.backend.durable[..512], [9; 512]);
            }
            None => assert_eq!(rig.backend.take(), 0),
        }
        assert_eq!(rig.status(1), OK);
    }
}

#[test]
fn row29_no_room_for_more_operations() {
    let mut setup = Setup::new(SECTORS);
    setup.config.operations = 3;
    let mut rig = Rig::new(setup);
    for slot in 0..10 {
        rig.read(slot, slot.into(), 512);
    }
    assert_eq!(rig.backend.take(), 3);
    assert_eq!(rig.rings[0].used_flags(&rig.mem), 1, "no kicks are wanted");
    rig.backend.serve(1);
    rig.run();
    assert_eq!(rig.backend.take(), 1, "one out, one in");
    rig.settle();
    assert!((0..10).all(|slot| rig.status(slot) == OK));
    assert_eq!(
        rig.rings[0].used_flags(&rig.mem),
        0,
        "kicks are wanted again"
    );
}

/// A large request is not starved by small ones that would fit.
#[test]
fn row29_no_room_in_the_pool() {
    let mut setup = Setup::new(SECTORS);
    setup.config.data_pages = 6;
    let mut rig = Rig::new(setup);
    for slot in 0..4 {
        rig.read(slot, 0, 512);
    }
    rig.read(4, 0, 0x4000);
    rig.read(5, 0, 512);
    assert_eq!(rig.backend.take(), 4);
    rig.backend.serve(0);
    rig.run();
    assert_eq!(
        rig.backend.take(),
        0,
        "three pages are not enough for the large one"
    );
    rig.backend.serve(0);
    rig.run();
    assert_eq!(rig.backend.take(), 1);
    assert_eq!(rig.backend.pending.last().unwrap().segments.len(), 4);
    rig.settle();
    assert!((0..6).all(|slot| rig.status(slot) == OK));
}

#[test]
fn row29_more_than_the_ring_holds() {
    let mut setup = Setup::new(SECTORS);
    setup.config.data_pages = 512;
    setup.properties.indirect = 0;
    setup.bytes = 0x2_0000;
    let mut rig = Rig::new(setup);
    for slot in 0..12 {
        rig.write_bytes(slot, 0, 0x1_f000, slot as u8);
    }
    assert_eq!(
        rig.backend.take(),
        32,
        "three for each, and two of the eleventh"
    );
    rig.settle();
    assert!((0..12).all(|slot| rig.status(slot) == OK));
    assert!(rig.backend.disk[..0x1_f000].iter().all(|&byte| byte == 11));
    assert_eq!(rig.disk().free_pages(), 512);
}

#[test]
fn row29_no_room_in_the_table() {
    let mut setup = Setup::new(SECTORS);
    setup.room.requests = 2;
    let mut rig = Rig::new(setup);
    for slot in 0..6 {
        rig.read(slot, 0, 512);
    }
    assert_eq!(rig.transport.device().in_flight(), 2);
    rig.settle();
    assert!((0..6).all(|slot| rig.status(slot) == OK));
}

/// Requests that wait in one queue go on when a request of the other one is finished.
#[test]
fn row29_queues_wait_for_each_other() {
    let mut setup = Setup::new(SECTORS);
    setup.config.operations = 1;
    let mut rig = Rig::new(setup);
    rig.offer(0, 0, IN, 0, 512);
    rig.run();
    rig.offer(1, 1, IN, 0, 512);
    rig.run();
    rig.offer(0, 2, IN, 0, 512);
    rig.run();
    assert_eq!(rig.backend.take(), 1);
    rig.settle();
    assert_eq!([0, 1, 2].map(|slot| rig.status(slot)), [OK; 3]);
    assert_eq!((rig.take_used(0).len(), rig.take_used(1).len()), (2, 1));
}

#[test]
fn several_rings() {
    let mut setup = Setup::new(SECTORS);
    setup.offer = Offer {
        ring_order: 2,
        queues: 2,
    };
    let mut rig = Rig::new(setup);
    assert_eq!((rig.backend.slots(0), rig.backend.slots(1)), (128, 128));
    for slot in 0..8 {
        rig.mem.put(rig.data_at(slot), &[slot as u8 + 1; 512]);
        rig.offer(usize::from(slot % 2), slot, OUT, slot.into(), 512);
    }
    rig.run();
    rig.backend.take();
    let rings: Vec<_> = rig
        .backend
        .pending
        .iter()
        .map(|request| request.ring)
        .collect();
    assert_eq!(rings, [0, 0, 0, 0, 1, 1, 1, 1]);
    rig.settle();
    for slot in 0..8 {
        assert_eq!(
            (rig.status(slot), rig.stored(slot.into())),
            (OK, [slot as u8 + 1; 512])
        );
    }
}

/// Indices and slots go round, over pages.
#[test]
fn a_ring_goes_round() {
    for ring_order in 0..=2 {
        let mut setup = Setup::new(SECTORS);
        setup.offer.ring_order = ring_order;
        let mut rig = Rig::new(setup);
        for n in 0..1000u64 {
            let slot = (n % 16) as u16;
            rig.write_bytes(slot, n % SECTORS, 512, n as u8);
            if n % 7 == 0 {
                rig.settle();
            }
        }
        rig.settle();
        let last = |sector: u64| sector + (999 - sector) / SECTORS * SECTORS;
        for sector in 0..SECTORS {
            assert_eq!(rig.stored(sector as usize), [last(sector) as u8; 512]);
        }
        assert_eq!(rig.disk().counters().completed, 1000);
    }
}

/// Events are sent only where the back end wants one, and asked for once a batch.
#[test]
fn notifications_are_held_back() {
    let mut rig = rig();
    let port = rig.disk().channels().next().unwrap().port;
    let sent = |rig: &Rig| {
        rig.platform
            .0
            .borrow()
            .events
            .get(&port)
            .copied()
            .unwrap_or(0)
    };
    rig.read(0, 0, 512);
    assert_eq!(sent(&rig), 1);
    rig.read(1, 0, 512);
    assert_eq!(sent(&rig), 1, "the back end has not looked yet");
    assert_eq!(rig.backend.take(), 2);
    rig.read(2, 0, 512);
    assert_eq!(sent(&rig), 2);
    rig.backend.take();
    let requests = std::mem::take(&mut rig.backend.pending);
    let wanted: Vec<_> = requests.iter().map(|r| rig.backend.answer(r, 0)).collect();
    assert_eq!(wanted, [true, false, false], "one event for the batch");
    rig.run();
    assert_eq!(rig.take_used(0).len(), 3);
    let counters = rig.disk().counters();
    assert_eq!((counters.notified, counters.suppressed), (2, 1));
}

/// A driver that resets its device is not written to any more, and the next one does not overtake what is under way.
#[test]
fn row19_a_reset_with_requests_in_flight() {
    let mut rig = rig();
    for round in 0..10u8 {
        rig.read(0, 0, 512);
        rig.write_bytes(1, 1, 512, 0x40 + round);
        rig.backend.take();
        rig.set_up();
        rig.mem.take_written();
        rig.write_bytes(2, 1, 512, 0x80 + round);
        assert_eq!(rig.backend.take(), 0, "the old write comes first");
        let written = rig.mem.take_written();
        // The read may end: nobody is told.
        rig.backend.serve(0);
        rig.run();
        assert_eq!(rig.backend.take(), 0);
        rig.backend.serve(0);
        rig.run();
        assert_eq!(rig.backend.take(), 1);
        rig.settle();
        assert_eq!(rig.status(2), OK);
        assert_eq!(rig.stored(1), [0x80 + round; 512]);
        assert_eq!((rig.status(0), rig.status(1)), (NONE, NONE));
        assert_eq!(rig.data(0, 512), [0xee; 512]);
        assert!(
            written.iter().all(|range| range.end <= 0x1_0000),
            "rings only"
        );
        assert_eq!(rig.take_used(0), [(2, 1)]);
    }
    assert_eq!(rig.transport.device().dropped(), 20);
    assert_eq!(rig.transport.device().in_flight(), 0);
    assert_eq!(rig.disk().free_pages(), 64);
}

#[test]
fn row19_many_resets_in_a_row() {
    let mut setup = Setup::new(SECTORS);
    setup.room.requests = 8;
    let mut rig = Rig::new(setup);
    for round in 0..100 {
        for slot in 0..16 {
            rig.read(slot, 0, 512);
        }
        rig.set_up();
        assert!(rig.transport.device().in_flight() <= 8, "{round}");
    }
    rig.settle();
    assert_eq!(rig.transport.device().in_flight(), 0);
    assert_eq!(rig.take_used(0), []);
    rig.read(0, 0, 512);
    rig.settle();
    assert_eq!(rig.status(0), OK);
}

/// One queue is reset: the requests of the other one are finished.
#[test]
fn row19_a_queue_reset_with_requests_in_flight() {
    let mut rig = rig();
    rig.offer(0, 0, IN, 0, 512);
    rig.offer(1, 1, IN, 0, 512);
    rig.run();
    rig.backend.take();
    rig.write(0x30, 0);
    rig.write(0x44, 0);
    rig.mem.take_written();
    rig.settle();
    assert_eq!((rig.status(0), rig.status(1)), (NONE, OK));
    assert_eq!((rig.take_used(0).len(), rig.take_used(1).len()), (0, 1));
    assert_eq!(rig.transport.device().dropped(), 1);
}

/// Whatever the back end writes into the indices, the ring is given up and requests fail.
#[test]
fn row36_garbage_in_the_rings_indices() {
    let values = [1, 2, 0x8000_0000, u32::MAX, 33];
    for value in values {
        let mut rig = rig();
        rig.write_bytes(1, 1, 512, 5);
        rig.settle();
        rig.backend.take();
        // One response was given; anything else cannot be.
        rig.backend.set_index(0, 8, value.wrapping_add(1));
        rig.read(0, 0, 512);
        rig.run();
        assert!(rig.disk().is_broken());
        assert_eq!(rig.status(0), IOERR);
        rig.write_bytes(2, 2, 512, 6);
        assert_eq!(rig.status(2), IOERR, "until there is a new connection");
        assert_eq!(rig.disk().counters().broken, 1);
        assert_eq!(rig.disk().free_pages(), 64);
        // It lets go; there is a new connection.
        rig.cut(Cut::Closed, |_| false);
        rig.connect();
        rig.read(0, 1, 512);
        rig.settle();
        assert_eq!((rig.status(0), rig.data(0, 512)), (OK, vec![5; 512]));
    }
    let mut rig = rig();
    for at in [0, 4] {
        rig.backend.set_index(0, at, 0xdead_beef);
    }
    rig.read(0, 0, 512);
    assert!(
        !rig.disk().is_broken(),
        "what it writes there is its own loss"
    );
}

#[test]
fn row36_responses_that_answer_nothing() {
    type Spoil = fn(&mut (u64, u8));
    let spoils: [Spoil; 7] = [
        |(id, _)| *id ^= 1,
        |(id, _)| *id += 1 << 16,
        |(id, _)| *id = u64::MAX,
        |(id, _)| *id = 0,
        |(_, op)| *op ^= 1,
        |(_, op)| *op = 6,
        |(_, op)| *op = 255,
    ];
    for (n, spoil) in spoils.into_iter().enumerate() {
        let mut rig = rig();
        rig.read(0, 0, 512);
        rig.backend.take();
        let request = &rig.backend.pending[0];
        let mut answer = (request.id, request.op);
        spoil(&mut answer);
        rig.backend.respond(0, answer.0, answer.1, 0);
        rig.run();
        assert!(rig.disk().is_broken(), "{n}");
        assert_eq!(rig.status(0), IOERR);
        assert_eq!(rig.data(0, 512), [0xee; 512]);
    }
}

/// The same answer twice, at once and later.
#[test]
fn row36_responses_given_twice() {
    for later in [false, true] {
        let mut rig = rig();
        rig.read(0, 0, 512);
        rig.read(1, 0, 512);
        rig.backend.take();
        let request = rig.backend.pending[0].clone();
        rig.backend.answer(&request, 0);
        if later {
            rig.run();
            assert_eq!(rig.status(0), OK);
            // Its place is used by another request now.
            rig.read(2, 0, 512);
            rig.backend.take();
        }
        rig.backend.answer(&request, 0);
        rig.run();
        assert!(rig.disk().is_broken());
        assert_eq!(rig.status(1), IOERR);
    }
}

#[test]
fn a_list_may_be_answered_with_either_operation() {
    for inner in [false, true] {
        let mut setup = Setup::new(SECTORS);
        setup.bytes = 0x1_0000;
        let mut rig = Rig::new(setup);
        rig.backend.inner_op = inner;
        rig.read(0, 0, 0x1_0000);
        rig.settle();
        assert_eq!((rig.status(0), rig.disk().counters().indirect), (OK, 1));
    }
}

/// The back end dies in the middle, with some of what it had taken done: everything is asked of the next one.
#[test]
fn row39_a_back_end_that_dies_and_comes_back() {
    for done in 0..4u8 {
        let mut rig = rig();
        rig.write_bytes(0, 0, 512, 1);
        rig.settle();
        rig.flush(0);
        rig.settle();
        rig.write_bytes(0, 0, 1024, 2);
        rig.write_bytes(1, 2, 512, 3);
        rig.read(2, 4, 512);
        rig.cut(Cut::Died, |n| n < done.into());
        assert_eq!([0, 1, 2].map(|slot| rig.status(slot)), [NONE; 3]);
        // What is asked for meanwhile comes after it.
        rig.write_bytes(3, 3, 512, 4);
        rig.backend.log.clear();
        rig.connect();
        rig.backend.take();
        let order: Vec<_> = rig
            .backend
            .pending
            .iter()
            .map(|r| (r.op, r.sector))
            .collect();
        assert_eq!(order, [(1, 0), (1, 2), (0, 4), (1, 3)]);
        rig.settle();
        rig.run();
        assert_eq!([0, 1, 2, 3].map(|slot| rig.status(slot)), [OK; 4]);
        assert_eq!([0, 1, 2, 3].map(|n| rig.stored(n)[0]), [2, 2, 3, 4]);
        let counters = rig.disk().counters();
        assert_eq!(
            (counters.lost, counters.reissued, counters.connections),
            (1, 3, 2)
        );
    }
}

/// A request was sent in part, and one of its parts is answered: all of it is sent again, by the rules of the new back end.
#[test]
fn row39_a_back_end_that_goes_in_the_middle_of_a_request() {
    for indirect in [0, 32] {
        let mut setup = Setup::new(1024);
        setup.bytes = 0x4_0000;
        setup.slots = 2;
        setup.properties.indirect = 0;
        let mut rig = Rig::new(setup);
        rig.write_bytes(0, 0, 0x4_0000, 0xaa);
        rig.backend.take();
        rig.backend.serve(3);
        rig.run();
        rig.cut(Cut::Closed, |_| false);
        rig.setup.properties.indirect = indirect;
        rig.connect();
        rig.settle();
        assert_eq!(rig.status(0), OK);
        assert!(
            rig.backend.disk[..0x4_0000]
                .iter()
                .all(|&byte| byte == 0xaa)
        );
        // One that had failed in part has failed.
        rig.write_bytes(0, 0, 0x4_0000, 0xbb);
        rig.backend.take();
        let last = rig.backend.pending.len() - 1;
        rig.backend.refuse(last, -1);
        rig.run();
        assert_eq!(rig.status(0), NONE);
        rig.cut(Cut::Closed, |_| false);
        assert_eq!(
            {
                rig.run();
                rig.status(0)
            },
            IOERR
        );
        assert_eq!(rig.disk().free_pages(), 64);
    }
}

/// What was written and answered, but not flushed, is lost with the back end's cache. The driver gets to know.
#[test]
fn row39_a_back_end_that_loses_its_cache() {
    // The loss is told by the flush that is under way, and by the next one.
    for under_way in [false, true] {
        let mut rig = rig();
        rig.write_bytes(0, 0, 512, 1);
        rig.settle();
        assert_eq!(rig.status(0), OK);
        if under_way {
            rig.flush(1);
        }
        rig.cut(Cut::Died, |_| false);
        rig.connect();
        assert_eq!(rig.stored(0), [0; 512], "gone");
        rig.run();
        assert_eq!(rig.status(1), if under_way { IOERR } else { 0 });
        for (slot, expected) in [(2, IOERR), (3, OK)] {
            rig.flush(slot);
            rig.settle();
            assert_eq!(rig.status(slot), expected);
        }
        let lost_flushes = rig.disk().counters().lost_flushes;
        assert_eq!(lost_flushes, 1 + u64::from(under_way));
    }
}

/// It goes twice, the second time with what it still had in its cache from before the first.
#[test]
fn row39_a_back_end_that_loses_its_cache_the_second_time() {
    let mut rig = rig();
    rig.write_bytes(0, 0, 512, 1);
    rig.settle();
    for cut in [Cut::Closed, Cut::Died] {
        rig.cut(cut, |_| false);
        rig.connect();
        rig.flush(1);
        rig.settle();
        assert_eq!(rig.status(1), IOERR, "{cut:?}");
    }
    assert_eq!(rig.stored(0), [0; 512]);
    rig.flush(1);
    rig.settle();
    assert_eq!(rig.status(1), OK);
}

/// Nothing is said of a loss where there is none.
#[test]
fn row39_a_back_end_that_has_nothing_to_lose() {
    // Everything was flushed.
    let mut rig = rig();
    rig.write_bytes(0, 0, 512, 1);
    rig.settle();
    rig.flush(1);
    rig.settle();
    rig.cut(Cut::Died, |_| false);
    rig.connect();
    rig.flush(1);
    rig.settle();
    assert_eq!((rig.status(1), rig.stored(0)), (OK, [1; 512]));
    // It closed in good order.
    rig.write_bytes(0, 0, 512, 2);
    rig.settle();
    rig.disk().drain();
    assert!(rig.disk().is_idle());
    rig.backend.cut(Cut::Closed, |_| false);
    rig.disk().disconnect(true);
    assert!(rig.disk().revoke());
    rig.connect();
    rig.flush(1);
    rig.settle();
    assert_eq!((rig.status(1), rig.stored(0)), (OK, [2; 512]));
    // It has no cache.
    let mut setup = Setup::new(SECTORS);
    setup.properties.flush = false;
    let mut rig = Rig::new(setup);
    rig.write_bytes(0, 0, 512, 1);
    rig.settle();
    rig.cut(Cut::Closed, |_| false);
    rig.connect();
    rig.flush(1);
    rig.settle();
    assert_eq!(rig.status(1), OK);
}

/// A flush covers what had ended when it was sent, not what ended while it was under way.
#[test]
fn row39_a_write_that_a_flush_does_not_cover() {
    let mut rig = rig();
    rig.write_bytes(0, 0, 512, 1);
    rig.flush(1);
    rig.backend.take();
    // The flush is carried out first, and answered last.
    let requests = std::mem::take(&mut rig.backend.pending);
    rig.backend.perform(&requests[1]);
    rig.backend.perform(&requests[0]);
    rig.backend.answer(&requests[0], 0);
    rig.run();
    rig.backend.answer(&requests[1], 0);
    rig.run();
    assert_eq!((rig.status(0), rig.status(1)), (OK, OK));
    rig.cut(Cut::Died, |_| false);
    rig.connect();
    assert_eq!(rig.stored(0), [0; 512]);
    rig.flush(2);
    assert_eq!(rig.status(2), IOERR);
}

/// While a back end closes nothing more is sent to it, and everything that was sent is answered.
#[test]
fn a_back_end_that_closes_in_good_order() {
    let mut rig = rig();
    rig.write_bytes(0, 0, 512, 1);
    rig.backend.take();
    rig.disk().drain();
    rig.write_bytes(1, 1, 512, 2);
    assert_eq!(rig.backend.take(), 0);
    assert!(!rig.disk().is_idle());
    rig.backend.serve(0);
    rig.run();
    assert_eq!((rig.status(0), rig.status(1)), (OK, NONE));
    assert!(rig.disk().is_idle());
    rig.backend.cut(Cut::Closed, |_| false);
    rig.disk().disconnect(true);
    assert!(rig.disk().revoke());
    rig.connect();
    rig.settle();
    assert_eq!(rig.status(1), OK);
    assert_eq!(rig.disk().counters().lost, 0);
}

/// A page is not granted to anybody else while a back end has it mapped.
#[test]
fn row38_a_back_end_that_does_not_let_go() {
    let mut rig = rig();
    rig.read(0, 0, 512);
    rig.disk().disconnect(false);
    assert!(!rig.disk().revoke(), "the ring is mapped");
    let offer = rig.setup.offer;
    assert!(rig.disk().connect(BACKEND + 1, &offer).is_err());
    assert!(rig.platform.0.borrow().refused_ends > 0);
    rig.backend.unmap();
    assert!(rig.disk().revoke());
    let memory = rig.platform.0.borrow();
    assert_eq!((memory.grants(), memory.ports()), (0, 0));
}

/// Every grant and event channel in turn cannot be had: what was given before is taken back.
#[test]
fn row38_no_room_for_grants_and_channels() {
    let mut setup = Setup::new(SECTORS);
    setup.offer = Offer {
        ring_order: 1,
        queues: 2,
    };
    let mut rig = Rig::unconnected(setup);
    let needed = 4 + 64 + 4;
    for limit in 0..needed {
        rig.platform.0.borrow_mut().grant_limit = limit;
        assert!(
            rig.disk().connect(BACKEND, &setup.offer).is_err(),
            "{limit}"
        );
        assert!(rig.disk().revoke());
        assert_eq!(rig.platform.0.borrow().grants(), 0);
        assert_eq!(rig.platform.0.borrow().ports(), 0);
    }
    rig.platform.0.borrow_mut().grant_limit = needed;
    for limit in 0..2 {
        rig.platform.0.borrow_mut().port_limit = limit;
        assert!(rig.disk().connect(BACKEND, &setup.offer).is_err());
        assert!(rig.disk().revoke());
    }
    rig.platform.0.borrow_mut().port_limit = 2;
    rig.connect();
    rig.set_up();
    rig.read(0, 0, 512);
    rig.settle();
    assert_eq!(rig.status(0), OK);
    assert!(
        Disk::new(rig.platform.clone(), Config::of_device(0)).is_none(),
        "too few pages"
    );
}

#[test]
fn requests_wait_for_the_first_connection_too() {
    let mut rig = Rig::unconnected(Setup::new(SECTORS));
    assert_eq!(rig.transport.read(0x100, 8), 0);
    rig.set_up();
    rig.read(0, 0, 512);
    assert_eq!(rig.status(0), IOERR, "a disk of no sectors");
    rig.flush(1);
    assert_eq!(rig.status(1), NONE);
    rig.connect();
    assert_eq!(rig.reconfigured, 1);
    rig.run();
    rig.settle();
    assert_eq!(rig.status(1), OK);
}

/// Nobody waits for ever, if the platform says so.
#[test]
fn row39_waiting_is_given_up() {
    for connected in [false, true] {
        let mut rig = rig();
        rig.read(0, 0, 512);
        if !connected {
            rig.cut(Cut::Closed, |_| false);
        }
        assert_eq!(rig.status(0), NONE);
        rig.disk().give_up();
        rig.run();
        rig.write_bytes(1, 0, 512, 1);
        assert_eq!((rig.status(0), rig.status(1)), (IOERR, IOERR));
        assert_eq!(rig.disk().is_broken(), connected);
        // A late answer changes nothing.
        if connected {
            rig.mem.take_written();
            rig.backend.serve_all();
            rig.run();
            assert!(rig.mem.take_written().is_empty());
            rig.cut(Cut::Closed, |_| false);
        }
        rig.connect();
        rig.read(0, 0, 512);
        rig.settle();
        assert_eq!(rig.status(0), OK);
    }
}

#[test]
fn row39_the_disk_changes_its_size() {
    let mut rig = rig();
    rig.disk().resize(SECTORS / 2);
    rig.run();
    assert_eq!(rig.transport.read(0x100, 8), SECTORS / 2);
    assert_eq!((rig.reconfigured, rig.transport.read(0x60, 4) & 2), (2, 2));
    rig.read(0, SECTORS / 2, 512);
    assert_eq!(rig.status(0), IOERR);
    rig.disk().resize(SECTORS);
    rig.read(0, SECTORS / 2, 512);
    rig.settle();
    assert_eq!(rig.status(0), OK);
    // Smaller when it comes back: what waits for its place fails, the rest goes on.
    rig.write_bytes(1, SECTORS - 1, 512, 1);
    rig.write_bytes(2, 1, 512, 1);
    rig.cut(Cut::Closed, |_| false);
    rig.setup.properties.sectors = 16;
    rig.connect();
    rig.run();
    rig.settle();
    assert_eq!((rig.status(1), rig.status(2)), (IOERR, OK));
}

/// The next back end can do less, or its disk is another one.
#[test]
fn row39_a_back_end_that_comes_back_different() {
    let mut rig = rig();
    rig.write_bytes(0, 1, 512, 1);
    rig.zero(1, DISCARD, &[(8, 8)]);
    rig.flush(2);
    rig.read(3, 8, 512);
    rig.cut(Cut::Closed, |_| false);
    rig.setup.properties = Properties {
        sectors: SECTORS,
        readonly: true,
        ..Properties::default()
    };
    rig.connect();
    rig.run();
    rig.settle();
    let status = [0, 1, 2, 3].map(|slot| rig.status(slot));
    assert_eq!(status, [IOERR, IOERR, OK, OK]);
    rig.read(0, 1, 512);
    rig.cut(Cut::Closed, |_| false);
    rig.setup.properties.readonly = false;
    rig.setup.properties.sector_size = 4096;
    rig.connect();
    rig.run();
    assert_eq!(rig.status(0), IOERR, "not a whole block any more");
}

#[test]
fn row04_buffers_that_are_not_ram() {
    for kind in [IN, OUT] {
        let mut rig = rig();
        let size = rig.data_at(16);
        let mem = std::mem::take(&mut rig.mem);
        drop(mem);
        rig.mem = FakeMemory::new(size as usize).hole(0x1_5000..0x1_6000);
        rig.set_up();
        rig.offer(0, 0, kind, 0, 512);
        let ring = rig.rings[0];
        let direction = if kind == IN { WRITE } else { 0 };
        ring.describe(&rig.mem, 2, 0x1_5000, 256, direction | 1, 3);
        rig.run();
        rig.settle();
        assert!(rig.transport.take_fault().is_some(), "the device is broken");
        assert_eq!(rig.transport.read(0x70, 4) & 0x40, 0x40);
        rig.set_up();
        rig.read(1, 0, 512);
        rig.settle();
        assert_eq!(rig.status(1), OK, "and a reset heals it");
        assert_eq!(rig.disk().free_pages(), 64);
        assert_eq!(rig.transport.device().in_flight(), 0);
    }
}

/// The serial number, unknown types, and a request without a place for its status.
#[test]
fn row07_what_needs_no_back_end() {
    let mut rig = Rig::new(Setup {
        room: Room::default(),
        ..Setup::new(SECTORS)
    });
    let base = rig.data_at(0) - 0x200;
    rig.offer(0, 0, 8, 0, 20);
    let ring = rig.rings[0];
    ring.describe(&rig.mem, 1, base + 0x200, 20, WRITE | 1, 3);
    rig.run();
    assert_eq!((rig.status(0), &rig.data(0, 6)[..]), (OK, &b"BLKIF\0"[..]));
    rig.offer(0, 1, 77, 0, 0);
    rig.run();
    assert_eq!(rig.status(1), UNSUPP);
    rig.offer(0, 2, OUT, 0, 512);
    ring.describe(&rig.mem, 10, rig.data_at(2), 512, 0, 0);
    ring.describe(&rig.mem, 8, base, 16, 1, 10);
    rig.run();
    assert_eq!(
        rig.take_used(0).last(),
        Some(&(2, 0)),
        "given back, nothing done"
    );
    assert_eq!(rig.backend.take(), 0);
}
