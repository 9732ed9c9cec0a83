//! The transport, register by register, with a driver that follows the rules and with ones that do not.

use vd_virtio::fault::FaultKind;
use vd_virtio::features::Refusal;
use vd_virtio::mmio::{
    INTERRUPT_CONFIG, INTERRUPT_VRING, MAGIC, Placeholder, QueueInUse, QueueState, Status, VENDOR,
    VERSION,
};
use vd_virtio::test_util::{DriverRing, FakeMemory, INDIRECT, NEXT, WRITE, descriptor};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};

const FEATURE: u64 = 1 << 5;
const GOOD: u64 = FEATURE | 1 << 32;

/// Copies what it is given into what it is to fill.
#[derive(Default)]
struct Echo {
    config: [u8; 6],
    active: Option<Features>,
    order: Vec<u16>,
}

impl Device for Echo {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::from_bits_retain(FEATURE)
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        for (at, byte) in (offset..).zip(into) {
            *byte = self.config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> bool {
        match self
            .config
            .get_mut(offset..offset.saturating_add(from.len()))
        {
            Some(place) => {
                place.copy_from_slice(from);
                true
            }
            None => false,
        }
    }

    fn activate(&mut self, features: Features) {
        self.active = Some(features);
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queues(&self) -> u16 {
        2
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        let queue = pass.number();
        pass.serve_each(chain, |mem, chain| {
            self.order.push(queue);
            let mut bytes = vec![0; chain.readable().len() as usize];
            chain.readable().read(mem, &mut bytes)?;
            chain.writable().write(mem, &bytes)?;
            Ok(bytes.len() as u32)
        })
    }
}

struct Rig {
    mem: FakeMemory,
    transport: MmioTransport<Echo, 2>,
    chain: Chain,
    rings: [DriverRing; 2],
}

fn rig() -> Rig {
    Rig {
        mem: FakeMemory::new(0x1_0000).hole(0x8000..0x9000),
        transport: MmioTransport::new(Echo::default(), 8),
        chain: Chain::new(),
        rings: [DriverRing::at(0x1000, 4), DriverRing::at(0x2000, 4)],
    }
}

impl Rig {
    fn read(&mut self, offset: u64) -> u64 {
        self.transport.read(offset, 4)
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.transport.write(&self.mem, offset, 4, value);
    }

    fn bad(&self) -> u64 {
        self.transport.counters().bad_accesses
    }

    fn features(&mut self, bits: u64) {
        for (select, half) in [(0, bits & 0xffff_ffff), (1, bits >> 32)] {
            self.write(0x24, select);
            self.write(0x20, half);
        }
    }

    fn negotiate(&mut self, bits: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        self.features(bits);
        self.write(0x70, 11);
    }

    fn queue(&mut self, index: usize) {
        let ring = self.rings[index];
        self.write(0x30, index as u64);
        self.write(0x38, ring.size.into());
        for (offset, at) in [(0x80, ring.desc), (0x90, ring.avail), (0xa0, ring.used)] {
            self.write(offset, at & 0xffff_ffff);
            self.write(offset + 4, at >> 32);
        }
        self.write(0x44, 1);
    }

    fn set_up(&mut self) {
        self.negotiate(GOOD);
        self.queue(0);
        self.queue(1);
        self.write(0x70, 15);
        self.run();
    }

    fn run(&mut self) {
        self.transport.run(&self.mem, 100, &mut self.chain);
    }

    /// Puts one request into a queue, without a kick.
    fn offer(&mut self, index: usize, slot: u16) {
        let ring = self.rings[index];
        let data = 0x3000 + u64::from(slot) * 0x100;
        self.mem.put(data, b"hello");
        self.mem.put(data + 0x80, &[0; 5]);
        ring.describe(&self.mem, slot * 2, data, 5, NEXT, slot * 2 + 1);
        ring.describe(&self.mem, slot * 2 + 1, data + 0x80, 5, WRITE, 0);
        ring.offer(&self.mem, slot * 2);
    }

    fn is_served(&self, index: usize, count: u16) -> bool {
        self.rings[index].used_idx(&self.mem) == count
    }
}

#[test]
fn the_whole_way() {
    let mut rig = rig();
    assert_eq!(
        [rig.read(0), rig.read(4), rig.read(8)],
        [MAGIC.into(), VERSION.into(), 42]
    );
    rig.write(0x14, 0);
    assert_eq!(
        rig.read(0x10),
        FEATURE | 3 << 28,
        "INDIRECT_DESC and EVENT_IDX"
    );
    rig.write(0x14, 1);
    assert_eq!(
        rig.read(0x10),
        1 | 1 << 2 | 1 << 6 | 1 << 8,
        "VERSION_1, RING_PACKED, NOTIFICATION_DATA, RING_RESET"
    );
    rig.write(0x14, 2);
    assert_eq!(rig.read(0x10), 0);
    rig.negotiate(GOOD);
    assert_eq!(rig.read(0x70), 11);
    rig.write(0x30, 0);
    assert_eq!([rig.read(0x34), rig.read(0x44)], [8, 0]);
    rig.queue(0);
    assert_eq!(rig.read(0x44), 1);
    rig.write(0x70, 15);
    assert_eq!(
        rig.transport.device().active,
        Some(Features::from_bits_retain(GOOD))
    );
    rig.offer(0, 0);
    rig.write(0x50, 0);
    assert!(rig.transport.has_work() && !rig.transport.interrupt());
    rig.run();
    assert_eq!(rig.mem.get(0x3080), *b"hello");
    assert_eq!(rig.rings[0].used_element(&rig.mem, 0), (0, 5));
    assert!(rig.transport.interrupt());
    assert_eq!(rig.read(0x60), INTERRUPT_VRING.into());
    rig.write(0x64, INTERRUPT_VRING.into());
    assert!(!rig.transport.interrupt() && !rig.transport.has_work());
    assert_eq!(rig.bad(), 0);
}

#[test]
fn the_state_of_a_queue_is_there_to_be_looked_at() {
    let mut rig = rig();
    let unused = QueueState {
        max: 8,
        in_use: None,
        is_kicked: false,
    };
    assert_eq!(rig.transport.queue_state(1), Some(unused));
    assert_eq!(rig.transport.queue_state(2), None);
    rig.set_up();
    let used = QueueState {
        in_use: Some(QueueInUse {
            size: 4,
            is_packed: false,
            in_flight: 0,
        }),
        ..unused
    };
    assert_eq!(rig.transport.queue_state(1), Some(used));
    rig.offer(1, 0);
    rig.write(0x50, 1);
    let kicked = QueueState {
        is_kicked: true,
        ..used
    };
    assert_eq!(rig.transport.queue_state(1), Some(kicked));
    rig.run();
    assert_eq!(rig.transport.queue_state(1), Some(used));
    rig.write(0x70, 0);
    assert_eq!(rig.transport.queue_state(1), Some(unused));
}

#[test]
fn row13_row14_a_bad_queue_breaks_the_device_and_a_reset_heals_it() {
    let mut rig = rig();
    rig.negotiate(GOOD);
    rig.rings[0].avail = 0x8000;
    rig.queue(0);
    assert_eq!(rig.read(0x44), 0);
    assert_eq!(rig.read(0x70), 11 | 64);
    assert_eq!(rig.read(0x60), 0, "no interrupt before DRIVER_OK");
    let fault = rig.transport.take_fault().unwrap();
    assert!(matches!(fault.kind, FaultKind::Memory(_)));
    rig.rings[0].avail = 0x1100;
    rig.queue(0);
    assert_eq!(rig.read(0x44), 0, "broken until reset");
    rig.set_up();
    assert_eq!(rig.read(0x70), 15);
    assert_eq!(rig.transport.counters().faults, 1);
}

#[test]
fn row15_queue_registers_of_a_ready_queue_and_of_a_running_device() {
    let mut rig = rig();
    rig.queue(0);
    assert_eq!(rig.read(0x44), 0, "not before FEATURES_OK");
    rig.negotiate(GOOD);
    rig.write(0x30, 1);
    rig.write(0x44, 1);
    assert_eq!(rig.read(0x70), 11 | 64, "ready without a size");
    rig.negotiate(GOOD);
    rig.queue(0);
    rig.write(0x44, 0);
    rig.write(0x44, 2);
    assert_eq!(rig.read(0x44), 0, "only 1 makes it ready");
    rig.write(0x44, 1);
    let before = rig.bad();
    rig.write(0x44, 1);
    assert_eq!(rig.bad(), before + 1, "it is ready already");
    let before = rig.bad();
    for offset in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        rig.write(offset, 0x5555_5555);
    }
    assert_eq!(rig.bad(), before + 7);
    rig.write(0x70, 15);
    rig.write(0x30, 1);
    for offset in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x44] {
        rig.write(offset, 1);
    }
    assert_eq!(rig.bad(), before + 15);
    assert_eq!(rig.read(0x44), 0, "no new queues after DRIVER_OK");
    rig.write(0x30, 0);
    rig.offer(0, 0);
    rig.write(0x50, 0);
    rig.run();
    assert!(rig.is_served(0, 1), "the ring is where it was");
}

#[test]
fn a_queue_is_stopped_while_the_device_runs() {
    let mut rig = rig();
    rig.set_up();
    rig.offer(0, 0);
    rig.write(0x50, 0);
    rig.write(0x30, 0);
    rig.write(0x44, 0);
    assert_eq!(rig.read(0x44), 0);
    rig.mem.take_written();
    rig.run();
    rig.write(0x50, 0);
    assert!(!rig.transport.has_work() && rig.mem.take_written().is_empty());
    rig.write(0x44, 1);
    assert_eq!(rig.read(0x44), 0, "not again before a reset");
    rig.offer(1, 0);
    rig.write(0x50, 1);
    rig.run();
    assert!(rig.is_served(1, 1), "the other queue goes on");
}

const RING_RESET: u64 = 1 << 40;

#[test]
fn a_queue_is_reset_while_the_other_goes_on() {
    let mut rig = rig();
    rig.negotiate(GOOD | RING_RESET);
    rig.queue(0);
    rig.queue(1);
    rig.write(0x70, 15);
    rig.run();
    rig.offer(0, 0);
    rig.write(0x50, 0);
    rig.write(0x30, 0);
    rig.write(0xc0, 1);
    assert_eq!([rig.read(0xc0), rig.read(0x44)], [0, 0]);
    rig.mem.take_written();
    rig.run();
    assert!(
        rig.mem.take_written().is_empty(),
        "nothing is written to the old ring"
    );
    rig.offer(1, 0);
    rig.write(0x50, 1);
    rig.run();
    assert!(rig.is_served(1, 1), "the other queue goes on");

    // Set up afresh, at another place, filled before it is ready.
    rig.rings[0] = DriverRing::at(0x5000, 2);
    rig.offer(0, 0);
    rig.queue(0);
    assert_eq!(rig.read(0x44), 1);
    rig.run();
    assert!(rig.is_served(0, 1));
    rig.write(0x44, 0);
    rig.queue(0);
    assert_eq!(rig.read(0x44), 0, "stopped is not reset");
    assert_eq!(rig.read(0x70), 15);
}

#[test]
fn a_queue_reset_that_was_not_negotiated_is_ignored() {
    let mut rig = rig();
    rig.set_up();
    let before = rig.bad();
    rig.write(0x30, 0);
    rig.write(0xc0, 1);
    assert_eq!((rig.read(0x44), rig.bad()), (1, before + 1));
    rig.negotiate(GOOD | RING_RESET);
    for (queue, value) in [(0, 0), (0, 2), (7, 1), (u64::from(u32::MAX), 1)] {
        rig.write(0x30, queue);
        rig.write(0xc0, value);
    }
    assert_eq!(rig.bad(), before + 5);
}

#[test]
fn row16_selectors_out_of_range() {
    let mut rig = rig();
    rig.set_up();
    for select in [2, 31, 0xffff, 0xffff_ffff] {
        rig.write(0x30, select);
        assert_eq!([rig.read(0x34), rig.read(0x44)], [0, 0]);
        rig.write(0x50, select);
        assert!(!rig.transport.has_work(), "QueueNotify {select}");
        rig.write(0x14, select);
        assert_eq!(rig.read(0x10), 0);
    }
    assert_eq!(rig.transport.counters().kicks, 0);
}

#[test]
fn row17_widths_and_alignment() {
    let mut rig = rig();
    for offset in 0..0x100 {
        for size in [1, 2, 4, 8] {
            if size != 4 || offset % 4 != 0 {
                assert_eq!(rig.transport.read(offset, size), 0);
                rig.transport.write(&rig.mem, offset, size, u64::MAX);
            }
        }
    }
    for size in [1, 2, 8] {
        // A value that would mean something if the width were right.
        rig.transport.write(&rig.mem, 0x70, size, 1);
        rig.transport.write(&rig.mem, 0x100, 1, 0x77);
    }
    assert_eq!(rig.read(0x70), 0, "nothing has happened");
    assert_eq!(rig.transport.read(0x100, 1), 0, "not before DRIVER");
    rig.write(0x70, 3);
    for (offset, size, value) in [(0x100, 4, 0x0403_0201), (0x104, 2, 0x0605), (0x102, 1, 9)] {
        rig.transport.write(&rig.mem, offset, size, value);
    }
    assert_eq!(rig.transport.read(0x100, 8), 0x0605_0409_0201);
    assert_eq!(rig.transport.read(0x104, 4), 0x0605, "past the end: zeroes");
    assert_eq!(rig.transport.read(0xffc, 4), 0);
    let before = rig.bad();
    rig.transport.write(&rig.mem, 0x104, 4, 0);
    rig.transport.write(&rig.mem, u64::MAX, 8, 0);
    assert_eq!(rig.transport.read(u64::MAX, 8), 0);
    assert_eq!(rig.transport.read(0x104, 4), 0x0605);
    assert_eq!(rig.bad(), before + 2);
}

#[test]
fn row18_features_that_were_not_offered() {
    for bits in [GOOD | 1 << 6, GOOD | 1 << 41, FEATURE] {
        let mut rig = rig();
        rig.negotiate(bits);
        assert_eq!(rig.read(0x70), 3, "{bits:#x}");
        rig.write(0x70, 15);
        assert_eq!(rig.read(0x70), 3, "and no DRIVER_OK either");
        rig.features(GOOD);
        rig.write(0x70, 11);
        assert_eq!(rig.read(0x70), 11, "a driver may try with fewer");
        rig.features(0);
        rig.write(0x70, 15);
        assert_eq!(
            rig.transport.device().active.map(|f| f.bits()),
            Some(GOOD),
            "settled"
        );
    }
}

#[test]
fn row18_a_refusal_is_told_once() {
    let mut rig = rig();
    rig.negotiate(FEATURE);
    assert_eq!(rig.transport.take_refusal(), Some(Refusal::Legacy));
    assert_eq!(rig.transport.take_refusal(), None);
    rig.negotiate(GOOD | 1 << 6);
    let excess = Features::from_bits_retain(1 << 6);
    assert_eq!(
        rig.transport.take_refusal(),
        Some(Refusal::NotOffered(excess))
    );
    rig.negotiate(GOOD);
    assert_eq!(rig.transport.take_refusal(), None);
    assert_eq!(rig.transport.counters().refusals, 2);
}

/// There are 128 feature bits; none of the upper half is offered.
#[test]
fn row18_features_from_64_up() {
    for (select, value, status) in [(2, 1, 3), (3, 1 << 31, 3), (2, 0, 11)] {
        let mut rig = rig();
        rig.write(0x70, 3);
        rig.features(GOOD);
        rig.write(0x24, select);
        rig.write(0x20, value);
        assert_eq!(rig.bad(), u64::from(value != 0));
        rig.write(0x70, 11);
        assert_eq!(rig.read(0x70), status, "{select} {value}");
    }
}

#[test]
fn features_of_the_platform() {
    let translated = Features::ACCESS_PLATFORM;
    let mut rig = rig();
    rig.transport = MmioTransport::new(Echo::default(), 8)
        .with(translated | Features::ORDER_PLATFORM)
        .requiring(translated);
    rig.write(0x14, 1);
    assert_eq!(rig.read(0x10) & 0x1f, 1 | 1 << 1 | 1 << 2 | 1 << 4);
    rig.negotiate(GOOD);
    assert_eq!(rig.read(0x70), 3);
    assert_eq!(
        rig.transport.take_refusal(),
        Some(Refusal::Missing(translated))
    );
    rig.negotiate(GOOD | translated.bits());
    assert_eq!(rig.read(0x70), 11);
    assert_eq!(rig.transport.features().bits(), GOOD | translated.bits());
}

#[test]
fn features_that_are_withheld() {
    let mut rig = rig();
    rig.transport = MmioTransport::new(Echo::default(), 8).without(Features::RING_PACKED);
    rig.negotiate(GOOD | Features::RING_PACKED.bits());
    assert_eq!(rig.read(0x70), 3);
}

const NOTIFICATION_DATA: u64 = 1 << 38;

/// A kick for what has been taken already costs no look at the queue.
#[test]
fn kicks_that_say_how_far_the_driver_is() {
    let mut rig = rig();
    rig.negotiate(GOOD | NOTIFICATION_DATA);
    rig.queue(0);
    rig.queue(1);
    rig.write(0x70, 15);
    rig.run();
    rig.offer(1, 0);
    rig.write(0x50, 1 | 1 << 16);
    assert!(rig.transport.has_work());
    rig.run();
    assert!(rig.is_served(1, 1));
    let reads = rig.mem.reads();
    rig.write(0x50, 1 | 1 << 16);
    assert!(!rig.transport.has_work());
    rig.run();
    assert_eq!(rig.mem.reads(), reads);
    let counters = rig.transport.counters();
    assert_eq!((counters.kicks, counters.stale_kicks), (2, 1));
    // Whatever else the number says, the ring is looked at, and it alone is believed.
    for place in [0, 2, 3, 9, 0xffff] {
        rig.write(0x50, 1 | place << 16);
        assert!(rig.transport.has_work());
        rig.run();
        assert!(rig.is_served(1, 1));
        assert_eq!(rig.read(0x70), 15);
    }
    rig.write(0x50, 2 | 1 << 16);
    assert!(!rig.transport.has_work(), "there is no such queue");
}

#[test]
fn row16_the_whole_value_of_a_kick_counts() {
    let mut rig = rig();
    rig.set_up();
    for value in [0x1_0000, 0x1_0001, 0xffff_0000] {
        rig.write(0x50, value);
        assert!(!rig.transport.has_work(), "{value:#x}");
    }
}

#[test]
fn row18_failed_stops_the_device() {
    let mut rig = rig();
    rig.set_up();
    rig.write(0x70, 15 | 128);
    assert_eq!(rig.transport.status(), Status::from_bits_retain(15 | 128));
    rig.offer(0, 0);
    rig.write(0x50, 0);
    rig.run();
    assert!(rig.is_served(0, 0));
}

#[test]
fn row19_resets() {
    let mut rig = rig();
    for round in 1..=50 {
        rig.set_up();
        rig.offer(0, 0);
        rig.write(0x50, 0);
        rig.write(0x70, 0);
        rig.mem.take_written();
        rig.run();
        assert!(
            rig.mem.take_written().is_empty(),
            "nothing is written to old rings"
        );
        assert_eq!([rig.read(0x70), rig.read(0x60), rig.read(0x44)], [0; 3]);
        assert_eq!(rig.transport.counters().resets, round * 2);
        rig.mem.put(0x1000, &[0; 0x2000]);
    }
}

#[test]
fn row20_a_kick_before_driver_ok() {
    let mut rig = rig();
    rig.negotiate(GOOD);
    rig.queue(0);
    rig.offer(0, 0);
    rig.write(0x50, 0);
    rig.run();
    assert!(rig.is_served(0, 0));
    rig.write(0x70, 15);
    rig.run();
    assert!(rig.is_served(0, 1));
}

#[test]
fn row26_budget_and_turns() {
    let mut rig = rig();
    rig.set_up();
    for index in 0..2 {
        rig.offer(index, 0);
        rig.offer(index, 1);
        rig.write(0x50, index as u64);
    }
    for _ in 0..4 {
        rig.transport.run(&rig.mem, 1, &mut rig.chain);
    }
    assert!(rig.is_served(0, 2) && rig.is_served(1, 2));
    assert!(
        rig.transport
            .device()
            .order
            .windows(2)
            .all(|pair| pair[0] != pair[1])
    );
    assert_eq!(rig.transport.counters().kicks, 2, "the rest needs no kick");
}

/// Requests of many tiny segments cost more than one: each segment can be a copy of its own.
#[test]
fn row26_segments_have_their_price() {
    const TABLE: u64 = 0x4000;
    let mut rig = rig();
    for (segments, budget, served) in [
        (15, 2, 2),
        (16, 2, 1),
        (16, 3, 2),
        (64, 5, 1),
        (64, 6, 2),
        (1024, 64, 1),
    ] {
        rig.mem.put(0x1000, &[0; 0x1000]);
        rig.negotiate(GOOD | 1 << 28);
        rig.queue(0);
        rig.write(0x70, 15);
        for n in 0..segments {
            let flags = if n + 1 < segments { NEXT } else { 0 };
            let flags = if n == 0 { flags } else { flags | WRITE };
            let at = TABLE + u64::from(n) * 16;
            descriptor(&rig.mem, at, 0x3000, 1, flags, n + 1);
        }
        for head in 0..2 {
            let ring = rig.rings[0];
            ring.describe(&rig.mem, head, TABLE, u32::from(segments) * 16, INDIRECT, 0);
            ring.offer(&rig.mem, head);
        }
        rig.write(0x50, 0);
        rig.transport.run(&rig.mem, budget, &mut rig.chain);
        assert!(rig.is_served(0, served), "{segments} segments, {budget}");
        rig.run();
        rig.run();
        assert!(rig.is_served(0, 2), "the rest has its turn");
    }
}

#[test]
fn a_fault_while_running_breaks_the_device_alone() {
    let mut rig = rig();
    rig.set_up();
    rig.offer(0, 0);
    rig.rings[0].describe(&rig.mem, 3, 0x8000, 4, 0, 0);
    rig.rings[0].offer(&rig.mem, 3);
    rig.offer(1, 0);
    rig.write(0x50, 1);
    rig.write(0x50, 0);
    rig.run();
    rig.run();
    assert!(rig.is_served(0, 1), "the request before it was served");
    assert_eq!(rig.read(0x70), 15 | 64);
    assert_eq!(rig.read(0x60) & u64::from(INTERRUPT_CONFIG), 2);
    let fault = rig.transport.take_fault().unwrap();
    assert_eq!(fault.to_string(), "queue 0: 4 bytes at 0x8000 are not RAM");
    assert_eq!(rig.transport.take_fault(), None, "told once");
    rig.write(0x70, 15);
    assert_eq!(rig.read(0x70), 15 | 64, "only a reset heals");
    rig.mem.put(0x1000, &[0; 0x2000]);
    rig.set_up();
    rig.offer(0, 0);
    rig.write(0x50, 0);
    rig.run();
    assert!(rig.is_served(0, 1));
}

#[test]
fn configuration_changes_are_told() {
    let mut rig = rig();
    rig.transport.reconfigure(|device| device.config[0] = 1);
    assert_eq!(
        [rig.read(0x60), rig.read(0xfc)],
        [0, 1],
        "nobody listens yet"
    );
    rig.set_up();
    rig.transport.reconfigure(|device| device.config[0] = 2);
    assert_eq!(
        [rig.read(0x60), rig.read(0xfc)],
        [INTERRUPT_CONFIG.into(), 2]
    );
}

#[test]
fn no_shared_memory_regions() {
    let mut rig = rig();
    rig.write(0xac, 0);
    for offset in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(rig.read(offset), 0xffff_ffff);
    }
}

#[test]
fn a_placeholder_is_skipped() {
    let read = |offset, size| Placeholder.read(offset, size);
    assert_eq!(
        [read(0, 4), read(4, 4), read(8, 4), read(12, 4)],
        [MAGIC.into(), VERSION.into(), 0, VENDOR.into()]
    );
    assert_eq!(
        [read(0x70, 4), read(0, 2), read(0x100, 4), read(2, 4)],
        [0; 4]
    );
}

/// Two queues in the same memory: what each publishes confuses the driver, or the other queue, and nobody else.
#[test]
fn row08_two_queues_on_one_ring() {
    let mut rig = rig();
    rig.rings[1] = rig.rings[0];
    rig.set_up();
    rig.mem.take_written();
    // Twice round the ring, and more.
    for round in 0..10 {
        rig.offer(0, round % 2);
        rig.write(0x50, 0);
        rig.write(0x50, 1);
        rig.run();
    }
    let ring = rig.rings[0];
    for written in rig.mem.take_written() {
        let inside = |from, to| from <= written.start && written.end <= to;
        assert!(
            inside(ring.used, ring.end()) || inside(0x3000, 0x3200),
            "{written:x?}"
        );
    }
    rig.rings[1] = DriverRing::at(0x2000, 4);
    rig.mem.put(0x1000, &[0; 0x2000]);
    rig.set_up();
    rig.offer(1, 0);
    rig.write(0x50, 1);
    rig.run();
    assert!(rig.is_served(1, 1), "a reset heals it");
}

/// A used ring over the descriptors: the device overwrites what it is about to read.
#[test]
fn row08_rings_over_each_other() {
    for shift in 0..0x60 {
        let mut rig = rig();
        rig.rings[0].used = rig.rings[0].desc + shift * 4;
        rig.set_up();
        for _ in 0..6 {
            rig.offer(0, 0);
            rig.write(0x50, 0);
            rig.run();
        }
        let before = rig.transport.counters().requests;
        assert!(
            before <= 24,
            "no more than the driver could have offered: {before}"
        );
        rig.rings[0].used = 0x1800;
        rig.mem.put(0x1000, &[0; 0x1000]);
        rig.set_up();
        rig.offer(0, 0);
        rig.write(0x50, 0);
        rig.run();
        assert!(rig.is_served(0, 1), "a reset heals it");
    }
}

/// Registers that have always the same value are registers all the same.
#[test]
fn registers_that_never_change() {
    let mut rig = rig();
    assert_eq!(rig.transport.queues(), 2);
    assert_eq!(rig.read(0x0c), u64::from(VENDOR));
    assert_eq!(rig.read(0xc0), 0);
    rig.write(0xac, 1);
    assert_eq!(rig.bad(), 0);
    for offset in [0x28, 0x3c, 0x40] {
        rig.write(offset, 4096);
        assert_eq!(rig.read(offset), 0, "a register of legacy devices");
    }
    assert_eq!(rig.bad(), 6);
    assert_eq!(MmioTransport::<_, 1>::new(Echo::default(), 8).queues(), 1);
}

/// What is broken in a pass stays alone for the rest of it.
#[test]
fn a_broken_device_does_nothing_more_in_the_same_pass() {
    for first in 0..2 {
        let mut rig = rig();
        rig.set_up();
        if first == 0 {
            // Queues take turns, and the set-up had one pass.
            rig.run();
        }
        let (bad, good) = (first, 1 - first);
        rig.rings[bad].offer(&rig.mem, 99);
        rig.offer(good, 0);
        rig.write(0x50, 0);
        rig.write(0x50, 1);
        rig.run();
        assert_eq!(rig.read(0x70), 15 | 64);
        assert!(rig.is_served(good, 0), "queue {good} after queue {bad}");
    }
}

#[test]
fn a_polled_queue_is_looked_at_without_kicks_and_none_is_lost_when_that_ends() {
    let mut rig = rig();
    rig.set_up();
    assert_eq!(rig.rings[0].used_flags(&rig.mem), 0);
    rig.transport.set_polling(true);
    rig.run();
    assert_eq!(
        rig.rings[0].used_flags(&rig.mem),
        1,
        "the driver is asked not to kick"
    );
    assert!(
        rig.transport.has_work(),
        "there is always something to look at"
    );
    rig.offer(0, 0);
    rig.run();
    assert!(rig.is_served(0, 1));
    assert!(rig.transport.interrupt(), "the answer is told as ever");
    // The driver offers without a kick, as it was asked to, when polling ends.
    rig.offer(0, 1);
    rig.transport.set_polling(false);
    assert!(rig.transport.has_work());
    rig.run();
    assert!(rig.is_served(0, 2));
    assert_eq!(
        rig.rings[0].used_flags(&rig.mem),
        0,
        "kicks are wanted again"
    );
    assert!(!rig.transport.has_work());
    assert_eq!(rig.transport.counters().kicks, 0);
    // Polling begins again with the devices that run, and ends with a reset.
    rig.transport.set_polling(true);
    assert!(rig.transport.has_work());
    rig.write(0x70, 0);
    assert!(!rig.transport.has_work());
}

#[test]
fn a_polled_device_still_breaks_and_has_no_more_work() {
    let mut rig = rig();
    rig.set_up();
    rig.transport.set_polling(true);
    rig.run();
    rig.rings[0].set_avail_idx(&rig.mem, 1000);
    rig.run();
    assert!(rig.transport.take_fault().is_some());
    assert!(!rig.transport.has_work());
    rig.transport.set_polling(true);
    assert!(!rig.transport.has_work());
}

/// An acknowledgement that comes late must not hide what was used after the interrupt that it is for.
#[test]
fn late_acknowledgements_hide_nothing() {
    let mut rig = rig();
    rig.transport = MmioTransport::new(Echo::default(), 8).with_late_acks();
    rig.set_up();
    assert_eq!(rig.read(0x60), 0);
    for round in 0..2 {
        rig.offer(0, round);
        rig.write(0x50, 0);
        rig.run();
        assert_eq!(rig.read(0x60), u64::from(INTERRUPT_VRING));
        rig.write(0x64, u64::from(INTERRUPT_VRING));
        assert_eq!(rig.read(0x60), u64::from(INTERRUPT_VRING), "it stays");
        assert_eq!(rig.transport.counters().interrupts, u64::from(round) + 1);
    }
    rig.transport.reconfigure(|_| ());
    assert_eq!(rig.read(0x60), 3);
    rig.write(0x64, 3);
    assert_eq!(rig.read(0x60), u64::from(INTERRUPT_VRING));
    rig.write(0x70, 0);
    assert_eq!(rig.read(0x60), 0, "a reset clears all");
}
