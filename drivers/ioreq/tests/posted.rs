//! The buffered ring: order, wrap, canonicalised pointers, garbage.

use vd_ioreq::buffered::{BufferedPage, Drained, ENTRIES, PostedWrite, RingCorrupt, drain};
use vd_ioreq::test_util::FakeBuffered;
use vd_ioreq::{DomId, Doorbell, DoorbellWidth, Engine, Match, Recipient, Space, Width};

fn take(page: &FakeBuffered, budget: u32) -> (Vec<PostedWrite>, Result<Drained, RingCorrupt>) {
    let mut writes = Vec::new();
    let result = drain(page, budget, |write| writes.push(write));
    (writes, result)
}

#[test]
fn every_width_arrives_whole() {
    let page = FakeBuffered::new(0);
    let value = 0x8877_6655_4433_2211;
    for (size, width) in [
        (1, Width::Byte),
        (2, Width::Word),
        (4, Width::Dword),
        (8, Width::Qword),
    ] {
        assert!(page.post(1, 0xa0050, size, value));
        let (writes, result) = take(&page, 10);
        assert_eq!(
            writes,
            [PostedWrite {
                space: Space::Memory,
                addr: 0xa0050,
                width,
                value: value & width.mask()
            }]
        );
        assert_eq!(
            result,
            Ok(Drained {
                writes: 1,
                strays: 0,
                more: false
            })
        );
    }
}

#[test]
fn order_is_kept_over_many_turns_of_the_ring() {
    let page = FakeBuffered::new(0);
    let (mut posted, mut taken) = (0_u64, 0_u64);
    for round in 0..2000_u64 {
        for _ in 0..=(round * 7 % 13) {
            let size = if posted.is_multiple_of(3) { 8 } else { 4 };
            if page.post(1, 0xa0000, size, posted) {
                posted += 1;
            }
        }
        let (writes, result) = take(&page, (round % 9) as u32);
        assert!(result.is_ok());
        for write in writes {
            assert_eq!(write.value, taken);
            taken += 1;
        }
    }
    assert!(
        taken > 5000,
        "the ring turned {} times",
        taken / u64::from(ENTRIES)
    );
}

#[test]
fn budget_ends_a_drain() {
    let page = FakeBuffered::new(0);
    (0..5).for_each(|n| assert!(page.post(1, 0xa0000, 4, n)));
    assert_eq!(
        take(&page, 2).1,
        Ok(Drained {
            writes: 2,
            strays: 0,
            more: true
        })
    );
    assert_eq!(
        take(&page, 0).1,
        Ok(Drained {
            writes: 0,
            strays: 0,
            more: true
        })
    );
    assert_eq!(
        take(&page, 3).1,
        Ok(Drained {
            writes: 3,
            strays: 0,
            more: false
        })
    );
}

#[test]
fn a_full_ring_is_no_error() {
    let page = FakeBuffered::new(300);
    let mut posted = 0;
    while page.post(1, 0xa0000, 1, 0) {
        posted += 1;
    }
    assert_eq!(posted, ENTRIES);
    assert_eq!(
        take(&page, 1000).1,
        Ok(Drained {
            writes: ENTRIES,
            strays: 0,
            more: false
        })
    );
}

#[test]
fn garbage_pointers_empty_the_ring() {
    for (read, write) in [
        (0, 512),
        (0, u32::MAX),
        (1, 0),
        (5000, 10),
        (u32::MAX, 600),
        (0x8000_0000, 0),
    ] {
        let page = FakeBuffered::new(0);
        page.set_pointers(read, write);
        let (writes, result) = take(&page, 1000);
        assert_eq!(
            result,
            Err(RingCorrupt {
                read_pointer: read,
                write_pointer: write
            })
        );
        assert!(writes.is_empty());
        assert_eq!(take(&page, 1000).1, Ok(Drained::default()));
        assert!(page.post(1, 0xa0000, 4, 77));
        assert_eq!(take(&page, 1000).0.len(), 1, "usable again");
    }
}

#[test]
fn half_an_8_byte_write_is_an_error() {
    let page = FakeBuffered::new(0);
    page.push_raw(1 | 3 << 10 | 0xa0000 << 12);
    assert_eq!(
        take(&page, 10).1,
        Err(RingCorrupt {
            read_pointer: 0,
            write_pointer: 1
        })
    );
    assert_eq!(take(&page, 10).1, Ok(Drained::default()));
}

#[test]
fn reads_and_unknown_types_are_dropped() {
    let page = FakeBuffered::new(0);
    for entry in [1 | 1 << 9, 2, 7, 8, 0xff] {
        page.push_raw(entry);
    }
    assert!(page.post(0, 0x3f8, 1, 0x41));
    let (writes, result) = take(&page, 10);
    assert_eq!(
        writes,
        [PostedWrite {
            space: Space::Port,
            addr: 0x3f8,
            width: Width::Byte,
            value: 0x41
        }]
    );
    assert_eq!(
        result,
        Ok(Drained {
            writes: 1,
            strays: 5,
            more: false
        })
    );
}

/// Whatever is on the page: no panic, no index beyond the page, bounded work.
#[test]
fn random_pages_are_survived() {
    struct Checked(FakeBuffered);
    impl BufferedPage for Checked {
        fn pointers(&self) -> u64 {
            self.0.pointers()
        }
        fn entry(&self, index: u32) -> u64 {
            assert!(index < ENTRIES);
            self.0.entry(index)
        }
        fn advance(&self, entries: u32) {
            self.0.advance(entries);
        }
    }
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..2000 {
        let page = Checked(FakeBuffered::new(random() as u32));
        (0..random() % 600).for_each(|_| page.0.push_raw(random()));
        if random().is_multiple_of(4) {
            page.0.set_pointers(random() as u32, random() as u32);
        }
        let mut writes = 0;
        let _ = drain(&page, u32::MAX, |_| writes += 1);
        assert!(writes <= ENTRIES);
        assert_eq!(drain(&page, u32::MAX, |_| panic!()), Ok(Drained::default()));
    }
}

#[test]
fn a_posted_write_rings_the_doorbell() {
    let mut engine = Engine::<4, 8>::new(None);
    let recipient = Recipient {
        device: 2,
        queue: 0,
    };
    engine
        .doorbells
        .assign(&Doorbell {
            domain: DomId(1),
            vcpus: 1,
            space: Space::Memory,
            addr: 0xa0050,
            width: DoorbellWidth::Any,
            matching: Match::Any,
            recipient,
        })
        .unwrap();
    let page = FakeBuffered::new(0);
    page.post(1, 0xa0050, 4, 3);
    page.post(1, 0xa0070, 4, 1);
    let mut kicks = Vec::new();
    drain(&page, 10, |write| kicks.push(engine.on_posted(&write))).unwrap();
    assert_eq!(
        kicks[0].map(|kick| (kick.recipient, kick.value)),
        Some((recipient, 3))
    );
    assert_eq!(kicks[1], None);
    assert_eq!(engine.counters().posted_doorbells, 1);
}
