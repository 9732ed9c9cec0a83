//! A device that finishes its requests later, over resets, and several of them at once.

use std::collections::VecDeque;

use vd_virtio::fault::FaultKind;
use vd_virtio::queue::Head;
use vd_virtio::test_util::{DriverRing, FakeMemory, WRITE};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const RING_RESET: u64 = 1 << 40;

/// Holds at most `room` requests, and gives back what `done` allows.
#[derive(Default)]
struct Later {
    room: usize,
    done: usize,
    held: VecDeque<Head>,
    resets: Vec<Option<u16>>,
}

impl Device for Later {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::empty()
    }

    fn read_config(&self, _: usize, into: &mut [u8]) {
        into.fill(0);
    }

    fn reset(&mut self) {
        self.resets.push(None);
    }

    fn reset_queue(&mut self, queue: u16) {
        self.resets.push(Some(queue));
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        while self.done > 0
            && let Some(head) = self.held.pop_front()
        {
            self.done -= 1;
            pass.give_back(head, 1)?;
        }
        while self.held.len() < self.room {
            match pass.take(chain)? {
                Some(head) => self.held.push_back(head),
                None => return Ok(Progress::Drained),
            }
        }
        Ok(Progress::Waiting)
    }
}

struct Rig {
    mem: FakeMemory,
    transport: MmioTransport<Later, 4>,
    chain: Chain,
    ring: DriverRing,
}

impl Rig {
    fn new(room: usize, features: u64) -> Self {
        let device = Later {
            room,
            ..Later::default()
        };
        let mut rig = Self {
            mem: FakeMemory::new(0x1_0000),
            transport: MmioTransport::new(device, 8),
            chain: Chain::new(),
            ring: DriverRing::at(0x1000, 8),
        };
        for head in 0..8 {
            rig.ring.describe(&rig.mem, head, 0x3000, 1, WRITE, 0);
        }
        rig.set_up(features);
        rig
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.transport.write(&self.mem, offset, 4, value);
    }

    fn set_up(&mut self, features: u64) {
        self.write(0x70, 0);
        self.write(0x70, 3);
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(0x24, select);
            self.write(0x20, half);
        }
        self.write(0x70, 11);
        self.queue();
        self.write(0x70, 15);
        self.run();
    }

    fn queue(&mut self) {
        let ring = self.ring;
        self.mem.put(ring.avail, &[0; 4]);
        self.mem.put(ring.used, &[0; 4]);
        self.write(0x30, 0);
        self.write(0x38, ring.size.into());
        for (offset, at) in [(0x80, ring.desc), (0x90, ring.avail), (0xa0, ring.used)] {
            self.write(offset, at);
        }
        self.write(0x44, 1);
    }

    fn run(&mut self) {
        self.transport.run(&self.mem, 100, &mut self.chain);
    }

    fn offer(&mut self, heads: core::ops::Range<u16>) {
        for head in heads {
            self.ring.offer(&self.mem, head);
        }
        self.write(0x50, 0);
        self.run();
    }

    /// The back end finishes this many.
    fn finish(&mut self, count: usize) {
        self.transport.device_mut().done += count;
        self.transport.wake(0);
        self.run();
    }

    fn used(&self) -> u16 {
        self.ring.used_idx(&self.mem)
    }

    fn held(&self) -> usize {
        self.transport.device().held.len()
    }
}

#[test]
fn requests_are_finished_later() {
    let mut rig = Rig::new(8, VERSION_1);
    let in_flight = |rig: &Rig| rig.transport.queue_state(0)?.in_use.map(|it| it.in_flight);
    rig.offer(0..3);
    assert_eq!((rig.held(), rig.used()), (3, 0));
    assert_eq!(in_flight(&rig), Some(3));
    assert!(!rig.transport.interrupt() && !rig.transport.has_work());
    rig.finish(2);
    assert_eq!((rig.held(), rig.used()), (1, 2));
    assert_eq!(in_flight(&rig), Some(1));
    assert!(rig.transport.interrupt());
    assert_eq!(rig.transport.counters().interrupts, 1, "one for both");
}

/// A device that has no room wants no kicks, and goes on by itself when it has.
#[test]
fn row29_a_device_without_room_waits() {
    let mut rig = Rig::new(2, VERSION_1);
    assert_eq!(rig.ring.used_flags(&rig.mem), 0, "kicks are wanted");
    rig.offer(0..5);
    assert_eq!((rig.held(), rig.used()), (2, 0));
    assert_eq!(rig.ring.used_flags(&rig.mem), 1, "no kicks are wanted");
    assert!(!rig.transport.has_work());
    rig.finish(1);
    assert_eq!((rig.held(), rig.used()), (2, 1));
    rig.finish(2);
    rig.finish(2);
    assert_eq!((rig.held(), rig.used()), (0, 5));
    assert_eq!(rig.ring.used_flags(&rig.mem), 0, "kicks are wanted again");
}

/// One interrupt for a batch that passes used_event in its middle.
#[test]
fn a_batch_is_decided_on_once() {
    let mut rig = Rig::new(8, VERSION_1 | EVENT_IDX);
    rig.ring.set_used_event(&rig.mem, 2);
    rig.offer(0..6);
    rig.finish(2);
    assert!(!rig.transport.interrupt());
    rig.finish(4);
    assert!(rig.transport.interrupt());
    let counters = rig.transport.counters();
    assert_eq!((counters.interrupts, counters.suppressed), (1, 1));
}

#[test]
fn row19_a_reset_with_requests_in_flight() {
    for round in 1..20 {
        let mut rig = Rig::new(8, VERSION_1);
        rig.offer(0..3);
        rig.write(0x70, 0);
        rig.mem.take_written();
        rig.finish(1);
        assert!(rig.mem.take_written().is_empty(), "nobody is told");
        rig.transport.device_mut().done = 0;
        rig.set_up(VERSION_1);
        rig.offer(0..1);
        rig.mem.take_written();
        rig.finish(3);
        assert_eq!(rig.used(), 0, "late completions are dropped, {round}");
        rig.finish(1);
        assert_eq!((rig.held(), rig.used()), (0, 1));
        assert_eq!(rig.transport.counters().stale_requests, 3);
        assert!(rig.transport.device().resets.contains(&None));
    }
}

#[test]
fn row19_a_queue_reset_with_requests_in_flight() {
    let mut rig = Rig::new(8, VERSION_1 | RING_RESET);
    rig.offer(0..3);
    rig.write(0xc0, 1);
    assert_eq!(rig.transport.device().resets.last(), Some(&Some(0)));
    rig.queue();
    rig.finish(3);
    assert_eq!(rig.used(), 0);
    rig.offer(4..5);
    rig.finish(1);
    assert_eq!(
        (rig.used(), rig.ring.used_element(&rig.mem, 0)),
        (1, (4, 1))
    );
    assert_eq!(rig.transport.counters().stale_requests, 3);
}

#[test]
fn row16_queues_that_the_device_does_not_have() {
    let mut rig = Rig::new(8, VERSION_1);
    assert_eq!(rig.transport.queues(), 1);
    rig.transport.write(&rig.mem, 0x100, 4, 1);
    assert_eq!(rig.transport.counters().bad_accesses, 1, "no configuration");
    for (queue, max) in [(0, 8), (1, 0), (3, 0), (4, 0)] {
        rig.write(0x30, queue);
        assert_eq!(rig.transport.read(0x34, 4), max);
    }
    rig.write(0x50, 1);
    rig.transport.wake(1);
    rig.transport.wake(9);
    assert!(!rig.transport.has_work());
}
