use crate::chain::{Chain, MAX_SEGMENTS};
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::{Gpa, MemError};
use crate::queue::{Area, Head, Interrupt, MAX_SIZE, Queue, QueueConfig, is_passed};
use crate::test_util::{DriverRing, FakeMemory, INDIRECT, NEXT, WRITE, descriptor};

const SIZE: u16 = 8;
const DATA: u64 = 0x2000;

struct Rig {
    mem: FakeMemory,
    ring: DriverRing,
    queue: Queue,
    heads: Vec<u64>,
    chain: Chain,
}

fn config(ring: &DriverRing) -> QueueConfig {
    let mut config = QueueConfig::new(MAX_SIZE);
    config.set_size(ring.size.into());
    for (area, at) in [
        (Area::Desc, ring.desc),
        (Area::Driver, ring.avail),
        (Area::Device, ring.used),
    ] {
        config.set_half(area, false, at as u32);
        config.set_half(area, true, (at >> 32) as u32);
    }
    config
}

fn rig_of(size: u16, features: Features, mem: FakeMemory) -> Rig {
    let ring = DriverRing::at(0x1000, size);
    let queue = config(&ring).activate(&mem, features, 1).unwrap();
    Rig {
        mem,
        ring,
        queue,
        heads: vec![0; MAX_SIZE as usize / 64],
        chain: Chain::new(),
    }
}

fn rig(features: Features) -> Rig {
    rig_of(SIZE, features, FakeMemory::new(0x1_0000))
}

impl Rig {
    fn pop(&mut self) -> Result<Option<Head>, FaultKind> {
        self.queue.pop(&self.mem, &mut self.heads, &mut self.chain)
    }

    fn describe(&self, index: u16, len: u32, flags: u16, next: u16) {
        let addr = DATA + u64::from(index) * 0x100;
        self.ring.describe(&self.mem, index, addr, len, flags, next);
    }

    fn offer_one(&mut self, head: u16) -> Result<Option<Head>, FaultKind> {
        self.ring.offer(&self.mem, head);
        self.pop()
    }

    fn give_back(&mut self, head: Head) {
        self.queue
            .add_used(&self.mem, &mut self.heads, head, 7)
            .unwrap();
        self.queue.publish(&self.mem).unwrap();
    }
}

#[test]
fn a_chain_comes_and_goes() {
    let mut rig = rig(Features::empty());
    assert_eq!(rig.pop(), Ok(None));
    rig.describe(3, 16, NEXT, 5);
    rig.describe(5, 32, NEXT | WRITE, 0);
    rig.describe(0, 1, WRITE, 0);
    let head = rig.offer_one(3).unwrap().unwrap();
    assert_eq!(
        (rig.chain.readable().len(), rig.chain.writable().len()),
        (16, 33)
    );
    rig.queue
        .add_used(&rig.mem, &mut rig.heads, head, 33)
        .unwrap();
    assert_eq!(rig.ring.used_idx(&rig.mem), 0, "not published yet");
    rig.queue.publish(&rig.mem).unwrap();
    assert_eq!(rig.ring.used_idx(&rig.mem), 1);
    assert_eq!(rig.ring.used_element(&rig.mem, 0), (3, 33));
    assert_eq!(rig.pop(), Ok(None));
}

/// Every size, several times around, with the 16-bit indices wrapping on the way.
#[test]
fn row09_indices_wrap() {
    for size in [1, 2, 4, 8, 256] {
        let mut rig = rig_of(size, Features::EVENT_IDX, FakeMemory::new(0x1_0000));
        for n in 0..70_000u32 {
            let slot = (n % u32::from(size)) as u16;
            rig.ring.describe(&rig.mem, slot, DATA, 4, WRITE, 0);
            let head = rig.offer_one(slot).unwrap().unwrap();
            rig.give_back(head);
            assert_eq!(rig.ring.used_element(&rig.mem, n as u16), (slot.into(), 7));
            assert_eq!(rig.ring.used_idx(&rig.mem), (n + 1) as u16);
        }
        assert_eq!(rig.pop(), Ok(None));
    }
}

#[test]
fn row01_loops_end() {
    let mut rig = rig(Features::empty());
    rig.describe(0, 4, NEXT, 0);
    assert_eq!(rig.offer_one(0), Err(FaultKind::ChainTooLong));
    let mut rig = self::rig(Features::empty());
    rig.describe(0, 4, NEXT, 1);
    rig.describe(1, 4, NEXT, 0);
    let before = rig.mem.reads();
    assert_eq!(rig.offer_one(0), Err(FaultKind::ChainTooLong));
    assert!(
        rig.mem.reads() - before <= u64::from(SIZE) + 3,
        "the work is bounded"
    );
}

#[test]
fn row01_the_longest_chain_is_legal() {
    let mut rig = rig(Features::empty());
    for index in 0..SIZE {
        rig.describe(index, 4, if index + 1 < SIZE { NEXT } else { 0 }, index + 1);
    }
    assert!(rig.offer_one(0).unwrap().is_some());
    assert_eq!(rig.chain.len(), SIZE.into());
}

#[test]
fn row02_indices_out_of_range() {
    let mut rig = rig(Features::empty());
    assert_eq!(rig.offer_one(SIZE), Err(FaultKind::DescriptorIndex(SIZE)));
    let mut rig = self::rig(Features::empty());
    let beyond_all = rig.offer_one(u16::MAX);
    assert_eq!(beyond_all, Err(FaultKind::DescriptorIndex(u16::MAX)));
    let mut rig = self::rig(Features::empty());
    rig.describe(0, 4, NEXT, u16::MAX);
    assert_eq!(rig.offer_one(0), Err(FaultKind::DescriptorIndex(u16::MAX)));
}

const TABLE: u64 = 0x4000;

fn table_entry(rig: &Rig, index: u16, len: u32, flags: u16, next: u16) {
    descriptor(
        &rig.mem,
        TABLE + u64::from(index) * 16,
        DATA,
        len,
        flags,
        next,
    );
}

fn indirect(rig: &Rig, len: u32, flags: u16) {
    rig.ring
        .describe(&rig.mem, 0, TABLE, len, INDIRECT | flags, 0);
}

#[test]
fn row03_indirect_tables() {
    let good = |len, flags, features| {
        let mut rig = rig(features);
        table_entry(&rig, 0, 16, NEXT, 1);
        table_entry(&rig, 1, 8, WRITE, 0);
        indirect(&rig, len, flags);
        rig.offer_one(0)
            .map(|head| head.is_some().then_some(rig.chain.len()))
    };
    let on = Features::INDIRECT_DESC;
    assert_eq!(good(32, 0, on), Ok(Some(2)));
    assert_eq!(
        good(16 * u32::from(SIZE), WRITE, on),
        Ok(Some(2)),
        "WRITE means nothing here"
    );
    assert_eq!(good(32, 0, Features::empty()), Err(FaultKind::Indirect));
    assert_eq!(good(32, NEXT, on), Err(FaultKind::Indirect));
    for len in [
        0,
        8,
        33,
        16 * 1025,
        16 * u32::from(MAX_SIZE),
        u32::MAX,
        16 * 65536,
    ] {
        assert_eq!(good(len, 0, on), Err(FaultKind::IndirectLength(len)));
    }
}

#[test]
fn row03_inside_of_indirect_tables() {
    let with = |flags, next| {
        let mut rig = rig(Features::INDIRECT_DESC);
        table_entry(&rig, 0, 16, flags, next);
        table_entry(&rig, 1, 16, NEXT, 0);
        indirect(&rig, 32, 0);
        rig.offer_one(0).map(|_| ())
    };
    assert_eq!(with(INDIRECT, 0), Err(FaultKind::Indirect));
    assert_eq!(with(NEXT, 0), Err(FaultKind::ChainTooLong));
    assert_eq!(with(NEXT, 1), Err(FaultKind::ChainTooLong));
    assert_eq!(
        with(NEXT, 2),
        Err(FaultKind::DescriptorIndex(2)),
        "inside the queue, outside the table"
    );
}

#[test]
fn direct_descriptors_may_come_before_an_indirect_one() {
    let mut rig = rig(Features::INDIRECT_DESC);
    rig.describe(1, 16, NEXT, 0);
    table_entry(&rig, 0, 8, WRITE, 0);
    indirect(&rig, 16, 0);
    assert!(rig.offer_one(1).unwrap().is_some());
    assert_eq!(
        (rig.chain.readable().len(), rig.chain.writable().len()),
        (16, 8)
    );
}

/// Linux keeps chains without tables to the queue's size, but not tables.
#[test]
fn row03_a_table_may_make_a_chain_longer_than_the_queue() {
    let chain_of = |direct: u16, inner: u16| {
        let mut rig = rig(Features::INDIRECT_DESC);
        for index in 1..=direct {
            rig.describe(index, 4, NEXT, if index == direct { 0 } else { index + 1 });
        }
        for index in 0..inner {
            table_entry(
                &rig,
                index,
                4,
                if index + 1 < inner { NEXT } else { 0 },
                index + 1,
            );
        }
        indirect(&rig, u32::from(inner) * 16, 0);
        let head = if direct == 0 { 0 } else { 1 };
        rig.offer_one(head).map(|_| rig.chain.len())
    };
    assert_eq!(chain_of(7, 1), Ok(8));
    assert_eq!(chain_of(0, 200), Ok(200));
    let longest = MAX_SEGMENTS as u16;
    assert_eq!(chain_of(0, longest), Ok(MAX_SEGMENTS));
    assert_eq!(chain_of(1, longest), Err(FaultKind::ChainTooLong));
    assert_eq!(
        chain_of(0, longest + 1),
        Err(FaultKind::IndirectLength(16 * 1025))
    );
}

#[test]
fn the_largest_queue_is_full_and_wraps() {
    let mem = FakeMemory::new(0x10_0000);
    let mut rig = rig_of(MAX_SIZE, Features::empty(), mem);
    for head in 0..MAX_SIZE {
        rig.ring.describe(&rig.mem, head, 0x10, 4, WRITE, 0);
    }
    for round in 1..=3u16 {
        for head in 0..MAX_SIZE {
            rig.ring.offer(&rig.mem, head);
        }
        let mut heads: Vec<_> = (0..MAX_SIZE).map(|_| rig.pop().unwrap().unwrap()).collect();
        assert_eq!(rig.pop(), Ok(None));
        // Given back in another order than taken.
        while let Some(head) = heads.pop() {
            rig.queue
                .add_used(&rig.mem, &mut rig.heads, head, 4)
                .unwrap();
        }
        rig.queue.publish(&rig.mem).unwrap();
        assert_eq!(rig.ring.used_idx(&rig.mem), MAX_SIZE.wrapping_mul(round));
        assert_eq!(
            rig.ring.used_element(&rig.mem, 0),
            (u32::from(MAX_SIZE) - 1, 4)
        );
    }
    // One more than the ring has, while all are in flight.
    for head in 0..MAX_SIZE {
        rig.ring.offer(&rig.mem, head);
    }
    let _heads: Vec<_> = (0..MAX_SIZE).map(|_| rig.pop().unwrap().unwrap()).collect();
    assert_eq!(rig.offer_one(7), Err(FaultKind::HeadInFlight(7)));
}

#[test]
fn row01_no_chain_is_longer_than_the_longest() {
    for (len, fits) in [(MAX_SEGMENTS, true), (MAX_SEGMENTS + 1, false)] {
        let mut rig = rig_of(2048, Features::empty(), FakeMemory::new(0x2_0000));
        for index in 0..len as u16 {
            let flags = if usize::from(index) + 1 < len {
                NEXT
            } else {
                0
            };
            rig.ring
                .describe(&rig.mem, index, DATA, 1, flags, index + 1);
        }
        let before = rig.mem.reads();
        assert_eq!(rig.offer_one(0).is_ok(), fits);
        assert!(
            rig.mem.reads() - before <= MAX_SEGMENTS as u64 + 4,
            "the work is bounded"
        );
    }
}

#[test]
fn kicks_that_say_where_the_driver_is() {
    let mut rig = rig(Features::empty());
    assert!(rig.queue.is_taken(0));
    rig.describe(0, 4, WRITE, 0);
    rig.ring.offer(&rig.mem, 0);
    assert!(!rig.queue.is_taken(1));
    let head = rig.pop().unwrap().unwrap();
    assert!(rig.queue.is_taken(1), "taken, if not finished");
    rig.give_back(head);
    assert!(rig.queue.is_taken(1) && !rig.queue.is_taken(0));
}

/// What the device has kept over a reset of the queue means nothing to the new one.
#[test]
fn row19_requests_of_an_earlier_epoch() {
    let mut rig = rig(Features::empty());
    rig.describe(0, 4, WRITE, 0);
    let old = rig.offer_one(0).unwrap().unwrap();
    rig.mem.put(rig.ring.avail, &[0; 8]);
    rig.heads.fill(0);
    rig.queue = config(&rig.ring)
        .activate(&rig.mem, Features::empty(), 2)
        .unwrap();
    let new = rig.offer_one(0).unwrap().unwrap();
    rig.mem.take_written();
    assert_eq!(
        rig.queue.add_used(&rig.mem, &mut rig.heads, old, 4),
        Ok(false)
    );
    rig.queue.publish(&rig.mem).unwrap();
    assert!(rig.mem.take_written().is_empty());
    assert_eq!(
        rig.queue.add_used(&rig.mem, &mut rig.heads, new, 4),
        Ok(true)
    );
    rig.queue.publish(&rig.mem).unwrap();
    assert_eq!(rig.ring.used_idx(&rig.mem), 1);
}

#[test]
fn a_promise_of_order_is_kept() {
    for (features, kept) in [(Features::IN_ORDER, true), (Features::empty(), false)] {
        let mut rig = rig(features);
        rig.describe(0, 4, WRITE, 0);
        rig.describe(1, 4, WRITE, 0);
        let first = rig.offer_one(0).unwrap().unwrap();
        let second = rig.offer_one(1).unwrap().unwrap();
        let early = rig.queue.add_used(&rig.mem, &mut rig.heads, second, 4);
        if kept {
            assert_eq!(early, Err(FaultKind::NotInOrder(1)));
        } else {
            assert_eq!(early, Ok(true));
        }
        assert_eq!(
            rig.queue.add_used(&rig.mem, &mut rig.heads, first, 4),
            Ok(true)
        );
    }
}

#[test]
fn row04_tables_outside_ram() {
    for at in [0x1_0000 - 16, 0x8000, u64::MAX - 15, u64::MAX - 31] {
        let mem = FakeMemory::new(0x1_0000).hole(0x8000..0x9000);
        let mut rig = rig_of(SIZE, Features::INDIRECT_DESC, mem);
        rig.ring.describe(&rig.mem, 0, at, 32, INDIRECT, 0);
        if at < 0x1_0000 && at != 0x8000 {
            descriptor(&rig.mem, at, DATA, 4, NEXT, 1);
        }
        let result = rig.offer_one(0);
        assert!(
            matches!(
                result,
                Err(FaultKind::Memory(_) | FaultKind::DescriptorIndex(1))
            ),
            "{at:#x}: {result:?}"
        );
    }
}

#[test]
fn row09_the_index_jumps() {
    for idx in [SIZE + 1, 0x8000, u16::MAX] {
        let mut rig = rig(Features::empty());
        rig.ring.set_avail_idx(&rig.mem, idx);
        assert_eq!(rig.pop(), Err(FaultKind::AvailIndex { at: 0, idx }));
    }
    // Backwards is forwards by nearly 2^16.
    let mut rig = rig(Features::empty());
    rig.describe(0, 4, 0, 0);
    let head = rig.offer_one(0).unwrap().unwrap();
    rig.give_back(head);
    rig.ring.set_avail_idx(&rig.mem, 0);
    assert_eq!(rig.pop(), Err(FaultKind::AvailIndex { at: 1, idx: 0 }));
}

#[test]
fn row10_a_head_in_flight() {
    let mut rig = rig(Features::empty());
    rig.describe(2, 4, 0, 0);
    let head = rig.offer_one(2).unwrap().unwrap();
    rig.give_back(head);
    let _kept = rig.offer_one(2).unwrap().unwrap();
    assert_eq!(rig.offer_one(2), Err(FaultKind::HeadInFlight(2)));
}

/// Attack case 11: what is used is what was validated, whenever the driver changes it.
#[test]
fn row11_descriptors_change_underfoot() {
    let reads = {
        let mut rig = rig(Features::INDIRECT_DESC);
        rig.describe(0, 16, NEXT, 1);
        rig.describe(1, 16, WRITE, 0);
        let before = rig.mem.reads();
        rig.offer_one(0).unwrap();
        rig.mem.reads() - before
    };
    assert_eq!(reads, 4, "avail.idx, the entry, two descriptors: each once");
    for change_at in 0..8 {
        let mut rig = rig(Features::INDIRECT_DESC);
        rig.describe(0, 16, NEXT, 1);
        rig.describe(1, 16, WRITE, 0);
        let start = rig.mem.reads();
        let (desc, end) = (rig.ring.desc as usize, rig.ring.avail as usize);
        rig.mem.interfere(move |n, bytes| {
            if n == start + change_at {
                bytes[desc..end].fill(0xff);
            }
        });
        match rig.offer_one(0) {
            Ok(Some(_)) => assert_eq!(rig.chain.readable().len() + rig.chain.writable().len(), 32),
            Ok(None) => panic!("it was there"),
            Err(kind) => assert!(change_at < 4, "{kind:?}"),
        }
    }
}

#[test]
fn row13_sizes() {
    let mem = FakeMemory::new(0x1_0000);
    let ring = DriverRing::at(0x1000, SIZE);
    for (size, shown) in [
        (0, 0),
        (3, 3),
        (0x6000, 0x6000),
        (0x8001, 0x8001),
        (0xffff, 0xffff),
        (0x1_0008, u16::MAX),
        (u32::MAX, u16::MAX),
    ] {
        let mut config = config(&ring);
        config.set_size(size);
        let error = config.activate(&mem, Features::empty(), 1).unwrap_err();
        assert_eq!(error, FaultKind::QueueSize(shown), "{size}");
    }
    let mut small = QueueConfig::new(SIZE);
    small.set_size(u32::from(SIZE) * 2);
    let error = small.activate(&mem, Features::empty(), 1).unwrap_err();
    assert_eq!(error, FaultKind::QueueSize(SIZE * 2), "more than it has");
}

#[test]
fn row14_addresses() {
    let mem = FakeMemory::new(0x1_0000).hole(0x8000..0x8001);
    let with = |area, at: u64| {
        let mut config = config(&DriverRing::at(0x1000, SIZE));
        config.set_half(area, false, at as u32);
        config.set_half(area, true, (at >> 32) as u32);
        config.activate(&mem, Features::empty(), 1).map(|_| ())
    };
    for (area, align) in [(Area::Desc, 16), (Area::Driver, 2), (Area::Device, 4)] {
        assert_eq!(with(area, 0x3000), Ok(()));
        assert_eq!(with(area, 0x3000 + align), Ok(()));
        assert_eq!(
            with(area, 0x3000 + align / 2),
            Err(FaultKind::RingAddress(0x3000 + align / 2))
        );
        let top = !(align - 1);
        assert_eq!(with(area, top), Err(FaultKind::RingAddress(top)));
        for outside in [0x1_0000, 0x8000, 0x7ff0, 0x1_0000_3000, 0xfff0] {
            let error = with(area, outside).unwrap_err();
            assert!(
                matches!(error, FaultKind::Memory(MemError { gpa: Gpa(at), .. }) if at == outside),
                "{area:?} {outside:#x} {error:?}"
            );
        }
    }
    // Only the high half, or nothing at all, was written: the rest is 0, where this guest has RAM.
    let mut half = QueueConfig::new(SIZE);
    half.set_size(SIZE.into());
    assert!(half.activate(&mem, Features::empty(), 1).is_ok());
    half.set_half(Area::Driver, true, 1);
    assert!(half.activate(&mem, Features::empty(), 1).is_err());
}

#[test]
fn interrupts_without_event_idx() {
    let mut rig = rig(Features::empty());
    rig.describe(0, 4, 0, 0);
    assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(Interrupt::Nothing));
    for (flags, expected) in [
        (0, Interrupt::Wanted),
        (1, Interrupt::Unwanted),
        (0xfffe, Interrupt::Wanted),
    ] {
        rig.ring.set_avail_flags(&rig.mem, flags);
        let head = rig.offer_one(0).unwrap().unwrap();
        rig.give_back(head);
        assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(expected));
        assert_eq!(
            rig.queue.decide_interrupt(&rig.mem),
            Ok(Interrupt::Nothing),
            "decided once"
        );
    }
}

#[test]
fn interrupts_with_event_idx() {
    let mut rig = rig(Features::EVENT_IDX);
    rig.describe(0, 4, 0, 0);
    rig.ring.set_used_event(&rig.mem, 2);
    for n in 0..6 {
        let head = rig.offer_one(0).unwrap().unwrap();
        rig.give_back(head);
        let expected = if n == 2 {
            Interrupt::Wanted
        } else {
            Interrupt::Unwanted
        };
        assert_eq!(rig.queue.decide_interrupt(&rig.mem), Ok(expected), "{n}");
    }
}

/// Against a definition that walks from `old` to `new`: every step that is no longer than a queue.
#[test]
fn row12_passing_an_event_index() {
    for new in [0u16, 1, 2, 100, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        for steps in 0..=u16::from(u8::MAX) {
            let old = new.wrapping_sub(steps);
            for near in 0..600u16 {
                let event = new.wrapping_add(300).wrapping_sub(near);
                let walked = (0..steps).any(|step| old.wrapping_add(step) == event);
                assert_eq!(is_passed(event, old, new), walked, "{event} {old} {new}");
            }
        }
    }
}

/// Attack case 12: garbage costs interrupts or kicks, and the next kick makes everything go on.
#[test]
fn row12_garbage_event_indices() {
    for garbage in [0, 1, 0x7fff, 0x8000, 0xffff] {
        let mut rig = rig(Features::EVENT_IDX);
        rig.describe(0, 4, 0, 0);
        for _ in 0..20 {
            rig.ring.set_used_event(&rig.mem, garbage);
            let head = rig.offer_one(0).unwrap().unwrap();
            rig.give_back(head);
            rig.queue.decide_interrupt(&rig.mem).unwrap();
            assert_eq!(rig.queue.enable_notifications(&rig.mem), Ok(false));
        }
    }
}

#[test]
fn notifications_without_event_idx() {
    let mut rig = rig(Features::empty());
    rig.describe(0, 4, 0, 0);
    rig.queue.disable_notifications(&rig.mem).unwrap();
    assert_eq!(rig.ring.used_flags(&rig.mem), 1);
    assert_eq!(rig.queue.enable_notifications(&rig.mem), Ok(false));
    assert_eq!(rig.ring.used_flags(&rig.mem), 0);
}

#[test]
fn notifications_with_event_idx() {
    let mut rig = rig(Features::EVENT_IDX);
    rig.describe(0, 4, 0, 0);
    rig.queue.disable_notifications(&rig.mem).unwrap();
    // The driver asks the same question with the roles exchanged: would going from 0 to 1 want a kick?
    assert!(!is_passed(rig.ring.avail_event(&rig.mem), 0, 1));
    assert_eq!(rig.queue.enable_notifications(&rig.mem), Ok(false));
    assert!(is_passed(rig.ring.avail_event(&rig.mem), 0, 1));
    assert_eq!(rig.ring.used_flags(&rig.mem), 0);
    rig.ring.offer(&rig.mem, 0);
    assert_eq!(
        rig.queue.enable_notifications(&rig.mem),
        Ok(true),
        "found without a kick"
    );
}

#[test]
fn a_ring_that_is_no_ram_any_more() {
    for at in [0x1000u64, 0x1080, 0x1096] {
        let mut rig = rig(Features::EVENT_IDX);
        rig.describe(0, 4, 0, 0);
        rig.ring.offer(&rig.mem, 0);
        // The guest gave the page away (a balloon) while the queue was in use.
        rig.mem = FakeMemory::new(0x1_0000).hole(at..0x2000);
        let result = rig.pop().and_then(|head| {
            if let Some(head) = head {
                rig.queue.add_used(&rig.mem, &mut rig.heads, head, 0)?;
                rig.queue.publish(&rig.mem)?;
            }
            rig.queue.decide_interrupt(&rig.mem)?;
            rig.queue.enable_notifications(&rig.mem)
        });
        assert!(
            matches!(result, Err(FaultKind::Memory(_))),
            "{at:#x}: {result:?}"
        );
    }
}
