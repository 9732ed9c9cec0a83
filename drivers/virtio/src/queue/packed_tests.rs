use proptest::prelude::*;

use super::Cursor;
use crate::chain::{Chain, MAX_SEGMENTS};
use crate::fault::FaultKind;
use crate::features::Features;
use crate::queue::{Area, Head, Interrupt, MAX_SIZE, Queue, QueueConfig};
use crate::test_util::{DriverPacked, FakeMemory, INDIRECT, NEXT, WRITE, descriptor};

const DATA: u64 = 0x8000;
const TABLE: u64 = 0x9000;

struct Rig {
    mem: FakeMemory,
    ring: DriverPacked,
    queue: Queue,
    heads: Vec<u64>,
    chain: Chain,
}

fn rig(size: u16, features: Features) -> Rig {
    rig_in(size, features, FakeMemory::new(0x1_0000))
}

fn rig_in(size: u16, features: Features, mem: FakeMemory) -> Rig {
    let ring = DriverPacked::at(0x1000, size);
    let mut config = QueueConfig::new(MAX_SIZE);
    config.set_size(size.into());
    for (area, at) in [
        (Area::Desc, ring.ring),
        (Area::Driver, ring.driver),
        (Area::Device, ring.device),
    ] {
        config.set_half(area, false, at as u32);
    }
    let queue = config
        .activate(&mem, features | Features::RING_PACKED, 1)
        .unwrap();
    Rig {
        mem,
        ring,
        queue,
        heads: vec![0; MAX_SIZE as usize / 64],
        chain: Chain::new(),
    }
}

impl Rig {
    fn pop(&mut self) -> Result<Option<Head>, FaultKind> {
        self.queue.pop(&self.mem, &mut self.heads, &mut self.chain)
    }

    fn offer(&mut self, id: u16, list: &[(u64, u32, u16)]) {
        self.ring.offer(&self.mem, id, list);
    }

    fn give_back(&mut self, head: Head, written: u32) {
        self.queue
            .add_used(&self.mem, &mut self.heads, head, written)
            .unwrap();
        self.queue.publish(&self.mem).unwrap();
    }
}

#[test]
fn a_chain_comes_and_goes() {
    let mut rig = rig(5, Features::empty());
    assert_eq!(rig.pop(), Ok(None));
    rig.offer(
        3,
        &[(DATA, 16, 0), (DATA + 16, 32, WRITE), (DATA + 64, 1, WRITE)],
    );
    let head = rig.pop().unwrap().unwrap();
    assert_eq!(
        (rig.chain.readable().len(), rig.chain.writable().len()),
        (16, 33)
    );
    assert_eq!(rig.ring.take_used(&rig.mem), None);
    assert_eq!(rig.pop(), Ok(None));
    rig.give_back(head, 33);
    assert_eq!(rig.ring.take_used(&rig.mem), Some((3, 33)));
    assert_eq!(rig.ring.take_used(&rig.mem), None);
}

/// Any size, chains of any length, many times around.
#[test]
fn row09_every_size_wraps() {
    for size in [1, 2, 3, 5, 8, 255, 256] {
        let mut rig = rig(size, Features::EVENT_IDX);
        for n in 0..3000u32 {
            let len = n % u32::from(size.min(7)) + 1;
            let list: Vec<_> = (0..len)
                .map(|k| (DATA + u64::from(k) * 8, 8, WRITE))
                .collect();
            let id = (n % u32::from(size)) as u16;
            rig.offer(id, &list);
            let head = rig.pop().unwrap().unwrap();
            assert_eq!(rig.chain.len() as u32, len);
            assert_eq!(rig.pop(), Ok(None), "size {size}, request {n}");
            rig.give_back(head, n);
            assert_eq!(rig.ring.take_used(&rig.mem), Some((id, n)));
        }
    }
}

#[test]
fn row01_the_longest_chain_is_legal_and_a_longer_one_is_not() {
    let mut rig = rig(6, Features::empty());
    rig.offer(0, &[(DATA, 4, 0); 6]);
    assert!(rig.pop().unwrap().is_some());
    assert_eq!(rig.chain.len(), 6);
    let mut rig = self::rig(6, Features::empty());
    rig.offer(
        0,
        &[
            (DATA, 4, 0),
            (DATA, 4, 0),
            (DATA, 4, 0),
            (DATA, 4, 0),
            (DATA, 4, 0),
            (DATA, 4, NEXT),
        ],
    );
    assert_eq!(rig.pop(), Err(FaultKind::ChainTooLong));
}

#[test]
fn row03_tables() {
    let with = |len: u32, flags: u16, inner: u16, features: Features| {
        let mut rig = rig(8, features);
        descriptor(&rig.mem, TABLE, DATA, 16, 0, inner);
        descriptor(&rig.mem, TABLE + 16, DATA, 8, 0, WRITE);
        rig.offer(2, &[(TABLE, len, INDIRECT | flags)]);
        rig.pop()
            .map(|head| head.is_some().then_some(rig.chain.len()))
    };
    let on = Features::INDIRECT_DESC;
    assert_eq!(with(32, 0, 0, on), Ok(Some(2)));
    assert_eq!(
        with(32, WRITE, NEXT, on),
        Ok(Some(2)),
        "neither means anything there"
    );
    assert_eq!(with(32, 0, 0, Features::empty()), Err(FaultKind::Indirect));
    assert_eq!(with(32, NEXT, 0, on), Err(FaultKind::Indirect));
    assert_eq!(with(32, 0, INDIRECT, on), Err(FaultKind::Indirect));
    for len in [0, 8, 33, 16 * 1025, 16 * 65536, u32::MAX] {
        assert_eq!(with(len, 0, 0, on), Err(FaultKind::IndirectLength(len)));
    }
}

/// The length counts only with the flag WRITE (2.8.4).
#[test]
fn used_flags_say_whether_something_was_written() {
    for (written, flag) in [(0, 0), (1, WRITE), (u32::MAX, WRITE)] {
        let mut rig = rig(4, Features::empty());
        rig.offer(0, &[(DATA, 4, WRITE)]);
        let head = rig.pop().unwrap().unwrap();
        rig.give_back(head, written);
        let flags = u16::from_le_bytes(rig.mem.get(rig.ring.ring + 14));
        assert_eq!(flags & WRITE, flag, "{written}");
    }
}

/// Several requests that are given back together appear together: the driver, who looks at the first place, sees
/// nothing until they are published.
#[test]
fn a_batch_is_seen_as_one() {
    for start in 0..5 {
        let mut rig = rig(5, Features::EVENT_IDX);
        for _ in 0..start {
            rig.offer(0, &[(DATA, 4, WRITE)]);
            let head = rig.pop().unwrap().unwrap();
            rig.give_back(head, 4);
            assert!(rig.ring.take_used(&rig.mem).is_some());
        }
        let _ = rig.queue.decide_interrupt(&rig.mem).unwrap();
        rig.ring.set_events(&rig.mem, 2, rig.ring.used_word());
        for id in 0..3 {
            rig.offer(id, &[(DATA, 4, WRITE)]);
        }
        for written in 1..=3 {
            let head = rig.pop().unwrap().unwrap();
            assert_eq!(
                rig.queue.add_used(&rig.mem, &mut rig.heads, head, written),
                Ok(true)
            );
            assert_eq!(rig.ring.take_used(&rig.mem), None, "{start}, {written}");
            assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(Interrupt::Nothing));
        }
        rig.queue.publish(&rig.mem).unwrap();
        assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(Interrupt::Wanted));
        assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(Interrupt::Nothing));
        for id in 0..3 {
            assert_eq!(rig.ring.take_used(&rig.mem), Some((id, u32::from(id) + 1)));
        }
        assert_eq!(rig.ring.take_used(&rig.mem), None);
    }
}

#[test]
fn the_largest_queue_is_full_and_wraps() {
    let mut rig = rig_in(MAX_SIZE, Features::empty(), FakeMemory::new(0x9_0000));
    for round in 0..2 {
        for id in 0..MAX_SIZE {
            rig.offer(id, &[(0x10, 4, WRITE)]);
        }
        let mut heads: Vec<_> = (0..MAX_SIZE).map(|_| rig.pop().unwrap().unwrap()).collect();
        assert_eq!(rig.pop(), Ok(None));
        while let Some(head) = heads.pop() {
            rig.queue
                .add_used(&rig.mem, &mut rig.heads, head, 4)
                .unwrap();
        }
        rig.queue.publish(&rig.mem).unwrap();
        for id in (0..MAX_SIZE).rev() {
            assert_eq!(rig.ring.take_used(&rig.mem), Some((id, 4)), "{round}");
        }
    }
}

#[test]
fn row01_no_chain_is_longer_than_the_longest() {
    for (len, fits) in [(MAX_SEGMENTS, true), (MAX_SEGMENTS + 1, false)] {
        let mut rig = rig_in(2048, Features::empty(), FakeMemory::new(0x1_0000));
        rig.offer(0, &vec![(0x10, 1, 0); len]);
        assert_eq!(rig.pop().is_ok(), fits);
    }
}

#[test]
fn kicks_that_say_where_the_driver_is() {
    let mut rig = rig(3, Features::empty());
    for _ in 0..7 {
        let before = rig.ring.avail_word();
        assert!(rig.queue.is_taken(before));
        rig.offer(0, &[(DATA, 4, WRITE)]);
        assert!(!rig.queue.is_taken(rig.ring.avail_word()));
        let head = rig.pop().unwrap().unwrap();
        rig.give_back(head, 4);
        assert!(rig.queue.is_taken(rig.ring.avail_word()) && !rig.queue.is_taken(before));
    }
}

#[test]
fn row10_entries_that_are_given_twice() {
    let mut rig = rig(4, Features::empty());
    rig.offer(0, &[(DATA, 4, 0); 3]);
    rig.offer(1, &[(DATA, 4, 0)]);
    let _first = rig.pop().unwrap().unwrap();
    let _second = rig.pop().unwrap().unwrap();
    // The device has given nothing back, and the driver goes round again.
    rig.offer(2, &[(DATA, 4, 0)]);
    assert_eq!(rig.pop(), Err(FaultKind::HeadInFlight(2)));
}

#[test]
fn row11_descriptors_change_underfoot() {
    for change_at in 0..6 {
        let mut rig = rig(8, Features::INDIRECT_DESC);
        rig.offer(5, &[(DATA, 16, 0), (DATA + 64, 16, WRITE)]);
        let (start, ring) = (rig.mem.reads(), rig.ring.ring as usize);
        rig.mem.interfere(move |n, bytes| {
            if n == start + change_at {
                bytes[ring..ring + 128].fill(0xff);
            }
        });
        match rig.pop() {
            Ok(Some(_)) => assert_eq!(rig.chain.readable().len() + rig.chain.writable().len(), 32),
            Ok(None) => assert_eq!(change_at, 0, "the flags said that nothing is there"),
            Err(_) => assert!((1..3).contains(&change_at)),
        }
    }
}

/// The flags that said that the buffer is there are those that count, although the rest is read after them.
#[test]
fn row11_flags_are_read_once() {
    let mut rig = rig(8, Features::empty());
    rig.offer(5, &[(DATA, 16, 0)]);
    let (start, flags) = (rig.mem.reads(), rig.ring.ring as usize + 14);
    rig.mem.interfere(move |n, bytes| {
        if n == start + 1 {
            bytes[flags] |= WRITE as u8;
        }
    });
    assert!(matches!(rig.pop(), Ok(Some(_))));
    assert_eq!(rig.chain.readable().len(), 16);
    assert!(rig.chain.writable().is_empty());
}

#[test]
fn row13_row14_sizes_and_addresses() {
    let mem = FakeMemory::new(0x1_0000).hole(0x8000..0x8001);
    let with = |size: u32, area: Option<(Area, u64)>| {
        let ring = DriverPacked::at(0x1000, 7);
        let mut config = QueueConfig::new(MAX_SIZE);
        config.set_size(size);
        let all = [
            (Area::Desc, ring.ring),
            (Area::Driver, ring.driver),
            (Area::Device, ring.device),
        ];
        for (area, at) in all.into_iter().chain(area) {
            config.set_half(area, false, at as u32);
            config.set_half(area, true, (at >> 32) as u32);
        }
        config
            .activate(&mem, Features::RING_PACKED, 1)
            .map(|queue| queue.size())
    };
    assert_eq!(with(7, None), Ok(7), "no power of two is asked for");
    for size in [0, 32769, 65535, 0x1_0007] {
        assert!(matches!(with(size, None), Err(FaultKind::QueueSize(_))));
    }
    for (area, align) in [(Area::Desc, 16), (Area::Driver, 4), (Area::Device, 4)] {
        assert_eq!(with(7, Some((area, 0x3000 + align))), Ok(7));
        let off = 0x3000 + align / 2;
        assert_eq!(with(7, Some((area, off))), Err(FaultKind::RingAddress(off)));
        for outside in [0x8000, 0x1_0000, 1 << 40] {
            assert!(matches!(
                with(7, Some((area, outside))),
                Err(FaultKind::Memory(_))
            ));
        }
    }
}

#[test]
fn interrupts_and_kicks_by_flags() {
    let mut rig = rig(4, Features::empty());
    for (flags, expected) in [
        (0, Interrupt::Wanted),
        (1, Interrupt::Unwanted),
        (2, Interrupt::Wanted),
    ] {
        rig.ring.set_events(&rig.mem, flags, 0);
        rig.offer(0, &[(DATA, 4, WRITE)]);
        let head = rig.pop().unwrap().unwrap();
        rig.give_back(head, 4);
        rig.ring.take_used(&rig.mem).unwrap();
        assert_eq!(
            rig.queue.decide_interrupt(&rig.mem),
            Ok(expected),
            "{flags}"
        );
        assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(Interrupt::Nothing));
    }
    rig.queue.disable_notifications(&rig.mem).unwrap();
    assert_eq!(rig.ring.device_events(&rig.mem).0, 1);
    assert_eq!(rig.queue.enable_notifications(&rig.mem), Ok(false));
    assert_eq!(rig.ring.device_events(&rig.mem).0, 0);
    rig.offer(0, &[(DATA, 4, WRITE)]);
    assert_eq!(
        rig.queue.enable_notifications(&rig.mem),
        Ok(true),
        "found without a kick"
    );
}

#[test]
fn kicks_by_descriptor() {
    let mut rig = rig(3, Features::EVENT_IDX);
    for _ in 0..10 {
        assert_eq!(rig.queue.enable_notifications(&rig.mem), Ok(false));
        assert_eq!(rig.ring.device_events(&rig.mem), (2, rig.ring.avail_word()));
        rig.offer(0, &[(DATA, 4, WRITE), (DATA, 4, WRITE)]);
        let head = rig.pop().unwrap().unwrap();
        rig.give_back(head, 4);
        rig.ring.take_used(&rig.mem).unwrap();
    }
}

/// Every ring of up to 5 entries, every start, every step, every event: against walking it entry by entry.
#[test]
fn row12_events_by_descriptor_in_small_worlds() {
    for size in 1..=5u16 {
        for start in 0..2 * size {
            let from = Cursor::START.after(start % size, size);
            let from = Cursor {
                wrap: start < size,
                ..from
            };
            for steps in 0..=size {
                let to = from.after(steps, size);
                assert_eq!(to.since(from, size), u32::from(steps));
                for event in 0..2 * size {
                    let event = Cursor {
                        offset: event % size,
                        wrap: event < size,
                    };
                    let walked = (0..steps).any(|step| from.after(step, size) == event);
                    let behind = to.since(event, size);
                    assert_eq!(behind != 0 && behind <= u32::from(steps), walked);
                    assert_eq!(Cursor::from_word(event.word()), event);
                }
            }
        }
    }
}

/// The driver takes requests back and makes them available again while the device is at work: more entries than the
/// ring has, once or twice around, before it is decided whether to interrupt.
#[test]
fn more_entries_than_the_ring_has() {
    for size in [1, 2, 3, 4, 8] {
        for requests in 1..=4 * size {
            let mut rig = rig(size, Features::EVENT_IDX);
            rig.ring.set_events(&rig.mem, 2, rig.ring.used_word());
            for _ in 0..requests {
                rig.offer(0, &[(DATA, 4, WRITE)]);
                let head = rig.pop().unwrap().unwrap();
                rig.give_back(head, 4);
                rig.ring.take_used(&rig.mem).unwrap();
            }
            let decision = rig.queue.decide_interrupt(&rig.mem).unwrap();
            assert_eq!(decision, Interrupt::Wanted, "{size} {requests}");
        }
    }
}

#[test]
fn row12_garbage_events() {
    for word in [5, 0x7fff, 0x8005, 0xffff] {
        let mut rig = rig(4, Features::EVENT_IDX);
        for _ in 0..20 {
            rig.ring.set_events(&rig.mem, 2, word);
            rig.offer(0, &[(DATA, 4, WRITE)]);
            let head = rig.pop().unwrap().unwrap();
            rig.give_back(head, 4);
            assert_eq!(rig.ring.take_used(&rig.mem), Some((0, 4)));
            assert_eq!(
                rig.queue.decide_interrupt(&rig.mem),
                Ok(Interrupt::Unwanted)
            );
        }
    }
}

proptest! {
    /// Both sides sleep whenever they may: whatever the batches, nobody sleeps for ever.
    #[test]
    fn nobody_sleeps_for_ever(
        size in 1u16..9,
        batches in prop::collection::vec((1u16..9, any::<bool>()), 1..60),
    ) {
        let mut rig = rig(size, Features::EVENT_IDX);
        rig.queue.enable_notifications(&rig.mem).unwrap();
        rig.ring.set_events(&rig.mem, 2, rig.ring.used_word());
        for (count, lazy) in batches {
            let count = count.min(size);
            let event = rig.ring.device_events(&rig.mem).1;
            let mut kick = false;
            for id in 0..count {
                kick |= rig.ring.avail_word() == event;
                rig.offer(id, &[(DATA, 4, WRITE)]);
            }
            prop_assert!(kick, "the first after an empty ring wants a kick");
            // The device works as the transport does.
            rig.queue.disable_notifications(&rig.mem).unwrap();
            let mut done = 0;
            loop {
                while let Some(head) = rig.pop().unwrap() {
                    rig.give_back(head, 4);
                    done += 1;
                    if lazy {
                        break;
                    }
                }
                if !rig.queue.enable_notifications(&rig.mem).unwrap() {
                    break;
                }
            }
            prop_assert_eq!(done, count);
            prop_assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(Interrupt::Wanted));
            for id in 0..count {
                prop_assert_eq!(rig.ring.take_used(&rig.mem), Some((id, 4)));
            }
            rig.ring.set_events(&rig.mem, 2, rig.ring.used_word());
        }
    }
}
