//! One device model goes on where another has stopped: nothing is lost, nothing is done twice, and what comes from outside
//! is not believed.

use std::collections::VecDeque;

use proptest::prelude::*;
use vd_virtio::fault::FaultKind;
use vd_virtio::mmio::{INTERRUPT_CONFIG, INTERRUPT_VRING, Status};
use vd_virtio::queue::Head;
use vd_virtio::state::{BadState, Reader, Writer};
use vd_virtio::test_util::{DriverPacked, DriverRing, FakeMemory, WRITE};
use vd_virtio::{
    Chain, Device, DeviceId, Features, GuestMemory, MemError, MmioTransport, Pass, Progress,
};

const SIZE: u16 = 4;
const SPLIT: u64 = Features::VERSION_1.bits() | Features::RING_RESET.bits();
const EVENTS: u64 = Features::EVENT_IDX.bits();
const PACKED: u64 = Features::RING_PACKED.bits();

/// Takes requests, and gives each back when it is told how many may be: in order, or all in the other order.
#[derive(Default)]
struct Keeper {
    held: VecDeque<Head>,
    may: usize,
    in_order: bool,
    /// What it has been asked to keep over a change.
    own: u32,
    active: bool,
}

impl Device for Keeper {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::empty()
    }

    fn queues(&self) -> u16 {
        2
    }

    fn read_config(&self, _: usize, into: &mut [u8]) {
        into.fill(0);
    }

    fn activate(&mut self, _: Features) {
        self.active = true;
    }

    fn reset(&mut self) {
        *self = Self {
            in_order: self.in_order,
            ..Self::default()
        };
    }

    fn keeps_order(&self, _: u16) -> bool {
        self.in_order
    }

    fn quiesce(&mut self) {
        if !self.in_order {
            self.may = usize::MAX;
        }
    }

    fn save(&self, to: &mut Writer<'_>) {
        to.u32(self.own);
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        self.own = from.u32()?;
        if self.own > 1000 {
            return Err(BadState::Content);
        }
        Ok(())
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        if pass.number() != 0 {
            return Ok(Progress::Drained);
        }
        while let Some(head) = pass.take(chain)? {
            self.held.push_back(head);
        }
        while self.may > 0 {
            let next = if self.in_order {
                self.held.pop_front()
            } else {
                self.held.pop_back()
            };
            let Some(head) = next else { break };
            self.may -= 1;
            pass.give_back(head, 1)?;
        }
        Ok(Progress::Drained)
    }
}

/// The driver's side of either ring.
enum Ring {
    Split(DriverRing, u16),
    Packed(DriverPacked),
}

struct Rig {
    mem: FakeMemory,
    transport: MmioTransport<Keeper, 2>,
    chain: Chain,
    ring: Ring,
    /// Requests that were offered, and those that came back.
    offered: u64,
    back: Vec<u64>,
    /// The number of the request that a head or id stands for.
    of: [u64; SIZE as usize],
    free: Vec<u16>,
}

fn transport(in_order: bool) -> MmioTransport<Keeper, 2> {
    let device = Keeper {
        in_order,
        ..Keeper::default()
    };
    MmioTransport::new(device, 8)
}

fn rig(features: u64, in_order: bool) -> Rig {
    let mut rig = Rig {
        mem: FakeMemory::new(0x8000),
        transport: transport(in_order),
        chain: Chain::new(),
        ring: if features & PACKED == 0 {
            Ring::Split(DriverRing::at(0x1000, SIZE), 0)
        } else {
            Ring::Packed(DriverPacked::at(0x1000, SIZE))
        },
        offered: 0,
        back: Vec::new(),
        of: [0; SIZE as usize],
        free: (0..SIZE).collect(),
    };
    rig.set_up(features);
    rig
}

impl Rig {
    fn write(&mut self, offset: u64, value: u64) {
        self.transport.write(&self.mem, offset, 4, value);
    }

    fn read(&mut self, offset: u64) -> u64 {
        self.transport.read(offset, 4)
    }

    fn set_up(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(0x70, status);
        }
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(0x24, select);
            self.write(0x20, half);
        }
        self.write(0x70, 11);
        let areas = match &self.ring {
            Ring::Split(ring, _) => [ring.desc, ring.avail, ring.used],
            Ring::Packed(ring) => [ring.ring, ring.driver, ring.device],
        };
        self.write(0x30, 0);
        self.write(0x38, SIZE.into());
        for (offset, at) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
            self.write(offset, at);
        }
        self.write(0x44, 1);
        self.write(0x70, 15);
    }

    /// Makes a request available, if there is room. Returns whether there was.
    fn offer(&mut self) -> bool {
        let Some(id) = self.free.pop() else {
            return false;
        };
        self.of[usize::from(id)] = self.offered;
        self.offered += 1;
        match &mut self.ring {
            Ring::Split(ring, _) => {
                ring.describe(&self.mem, id, 0x4000, 1, WRITE, 0);
                ring.offer(&self.mem, id);
            }
            Ring::Packed(ring) => ring.offer(&self.mem, id, &[(0x4000, 1, WRITE)]),
        }
        true
    }

    /// Takes back what came.
    fn collect(&mut self) {
        loop {
            let id = match &mut self.ring {
                Ring::Split(ring, seen) if ring.used_idx(&self.mem) != *seen => {
                    let (id, _) = ring.used_element(&self.mem, *seen);
                    *seen = seen.wrapping_add(1);
                    id as u16
                }
                Ring::Split(..) => return,
                Ring::Packed(ring) => match ring.take_used(&self.mem) {
                    Some((id, _)) => id,
                    None => return,
                },
            };
            self.back.push(self.of[usize::from(id)]);
            assert!(!self.free.contains(&id), "given back twice");
            self.free.push(id);
        }
    }

    fn run(&mut self, may: usize) {
        self.transport.device_mut().may += may;
        self.transport.wake(0);
        self.transport.run(&self.mem, 100, &mut self.chain);
        self.transport.device_mut().may = 0;
    }

    fn export(&self) -> Vec<u8> {
        let mut count = Writer::new(&mut []);
        self.transport.export(&mut count);
        let mut bytes = vec![0; count.len()];
        let mut writer = Writer::new(&mut bytes);
        self.transport.export(&mut writer);
        assert!(writer.fits());
        bytes
    }

    /// Another device model takes over.
    fn succeed(&mut self) {
        let in_order = self.transport.device().in_order;
        let left = self.transport.drain(&self.mem, &mut self.chain);
        assert_eq!(
            left, 0,
            "what is in order may stay, the rest can be given back"
        );
        let state = self.export();
        let mut next = transport(in_order);
        next.import(&self.mem, &state, false).unwrap();
        self.transport = next;
        assert_eq!(self.export(), state, "what goes in comes out again");
    }

    fn is_broken(&mut self) -> bool {
        self.read(0x70) & 64 != 0 && self.read(0x60) & 2 != 0
    }
}

const KINDS: [u64; 4] = [
    SPLIT,
    SPLIT | EVENTS,
    SPLIT | PACKED,
    SPLIT | PACKED | EVENTS,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was on its way when another one took over: each request comes back once.
    #[test]
    fn every_request_comes_back_once(
        kind in 0..4usize,
        in_order: bool,
        steps in proptest::collection::vec(0..5u8, 1..200),
    ) {
        let mut rig = rig(KINDS[kind], in_order);
        for step in steps {
            match step {
                0 | 1 => drop(rig.offer()),
                2 => rig.run(1),
                3 => rig.run(3),
                _ => rig.succeed(),
            }
            prop_assert!(!rig.is_broken());
            rig.collect();
        }
        rig.run(usize::from(SIZE));
        rig.collect();
        let mut back = rig.back.clone();
        if in_order {
            prop_assert!(back.is_sorted(), "{back:?}");
        }
        back.sort_unstable();
        prop_assert_eq!(back, (0..rig.offered).collect::<Vec<_>>());
    }

    /// Bytes that somebody has made up: taken, or refused and told.
    #[test]
    fn made_up_states(
        kind in 0..4usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let mut rig = rig(KINDS[kind], true);
        rig.offer();
        rig.run(1);
        rig.offer();
        let mut state = rig.export();
        for (at, value) in changes {
            let at = at.index(state.len());
            state[at] = value;
        }
        if cuts {
            state.truncate(cut.index(state.len()));
        }
        let mut next = transport(true);
        let result = next.import(&rig.mem, &state, false);
        rig.transport = next;
        prop_assert_eq!(result.is_err(), result.is_err() && rig.is_broken());
        // Whatever it was: it is served, or broken, and a driver that starts over is served.
        rig.run(4);
        let fresh = self::rig(KINDS[kind], true);
        let transport = std::mem::replace(&mut rig.transport, fresh.transport);
        let mut rig = Rig { transport, ..fresh };
        rig.set_up(KINDS[kind]);
        rig.offer();
        rig.run(1);
        rig.collect();
        prop_assert_eq!(rig.back, vec![0]);
    }
}

/// Every byte of a state, in every value that is likely to hurt.
#[test]
fn every_byte_of_a_state() {
    for kind in KINDS {
        let mut rig = rig(kind, true);
        rig.offer();
        rig.run(1);
        let good = rig.export();
        for at in 0..good.len() {
            for value in [0, 1, 2, 3, 4, 0x40, 0x7f, 0x80, 0xfe, 0xff] {
                let mut state = good.clone();
                state[at] = value;
                let mut next = transport(true);
                let result = next.import(&rig.mem, &state, false);
                rig.transport = next;
                assert_eq!(
                    result.is_err(),
                    rig.is_broken(),
                    "byte {at}: {value}: {result:?}"
                );
            }
            let mut next = transport(true);
            assert!(next.import(&rig.mem, &good[..at], false).is_err());
        }
        let long: Vec<u8> = good.iter().copied().chain([0]).collect();
        assert_eq!(
            transport(true).import(&rig.mem, &long, false),
            Err(BadState::Long)
        );
    }
}

#[test]
fn each_thing_that_can_be_wrong() {
    let mut rig = rig(SPLIT, true);
    rig.offer();
    rig.run(1);
    let good = rig.export();
    let queue = 4 + 4 + 8 + 1 + 12 + 4 + 4 + 2;
    let place = queue + 4 + 24 + 1;
    let cases = [
        (0, 7, BadState::Device(7)),
        (4, 8, BadState::Status(8)),
        (4, 16, BadState::Status(16)),
        (8 + 3, 1, BadState::Features(SPLIT | 1 << 24)),
        (
            8 + 4,
            0,
            BadState::Features(SPLIT & !Features::VERSION_1.bits()),
        ),
        (queue - 2, 3, BadState::Queues(3)),
        (queue, 3, BadState::Ring(0)),
        (queue + 4, 1, BadState::Ring(0)),
        (queue + 4 + 2, 1, BadState::Ring(0)),
        (queue + 4 + 24, 4 | 1, BadState::Queue(0)),
        // The driver's memory says that one request was used.
        (place + 2, 7, BadState::Ring(0)),
        (place + 2, 0, BadState::Ring(0)),
        // Heads in flight, of a device that has none to do again.
        (place + 22, 0xff, BadState::Short),
        (place + 22, 1, BadState::Long),
        (good.len() - 2, 0xff, BadState::Content),
        (good.len() - 8, 0xff, BadState::Short),
        (good.len() - 8, 3, BadState::Long),
    ];
    for (at, value, error) in cases {
        let mut state = good.clone();
        state[at] = value;
        let mut next = transport(true);
        assert_eq!(
            next.import(&rig.mem, &state, false),
            Err(error),
            "byte {at}"
        );
        assert!(next.status().contains(Status::NEEDS_RESET));
        assert_eq!(next.read(0x60, 4), u64::from(INTERRUPT_CONFIG));
        assert!(!next.device().active, "it forgets what it was told");
        next.wake(0);
        let reads = rig.mem.reads();
        next.run(&rig.mem, 100, &mut rig.chain);
        assert_eq!(rig.mem.reads(), reads, "it reads nothing");
    }
}

#[test]
fn registers_stay_as_they_were() {
    let mut rig = rig(SPLIT | EVENTS, true);
    rig.transport.device_mut().own = 77;
    rig.transport.reconfigure(|_| ());
    rig.write(0x30, 1);
    rig.write(0x38, 2);
    rig.write(0x80, 0x5000);
    rig.write(0x14, 1);
    let before: Vec<u64> = (0..0x100).step_by(4).map(|at| rig.read(at)).collect();
    rig.succeed();
    let after: Vec<u64> = (0..0x100).step_by(4).map(|at| rig.read(at)).collect();
    assert_eq!(before, after);
    assert_eq!(rig.transport.device().own, 77);
    assert!(rig.transport.device().active);
    // What was being set up goes on.
    rig.write(0x84, 0);
    assert_eq!(rig.read(0xfc), 1, "the generation of the configuration");
}

#[test]
fn a_driver_that_has_reset_the_device_meanwhile_starts_with_the_next_one() {
    let mut rig = rig(SPLIT, true);
    rig.offer();
    rig.run(0);
    rig.write(0x70, 0);
    rig.succeed();
    assert_eq!(rig.read(0x70), 0);
    assert!(!rig.transport.device().active);
    let fresh = self::rig(SPLIT, true);
    let transport = rig.transport;
    let mut rig = Rig { transport, ..fresh };
    rig.set_up(SPLIT);
    rig.offer();
    rig.run(1);
    rig.collect();
    assert_eq!(rig.back, [0]);
}

#[test]
fn half_way_through_the_set_up() {
    let mut rig = rig(SPLIT, true);
    rig.write(0x70, 0);
    rig.write(0x70, 1);
    rig.write(0x70, 3);
    rig.write(0x24, 1);
    rig.write(0x20, SPLIT >> 32);
    rig.succeed();
    rig.write(0x70, 11);
    assert_eq!(rig.read(0x70), 11, "the features are those of before");
}

#[test]
fn a_broken_device_stays_broken_and_a_reset_heals_it() {
    let mut rig = rig(SPLIT, true);
    let Ring::Split(ring, _) = &rig.ring else {
        unreachable!()
    };
    ring.set_avail_idx(&rig.mem, 100);
    rig.run(0);
    assert!(rig.is_broken());
    rig.succeed();
    assert!(rig.is_broken());
    let Ring::Split(ring, _) = &rig.ring else {
        unreachable!()
    };
    ring.set_avail_idx(&rig.mem, 0);
    rig.set_up(SPLIT);
    rig.offer();
    rig.run(1);
    rig.collect();
    assert_eq!(rig.back, [0]);
}

/// What was given back and not shown, as when the first one has ended in between, is shown by the next one, once.
#[test]
fn what_was_done_and_not_shown_is_shown() {
    for kind in KINDS {
        let mut rig = rig(kind, true);
        rig.offer();
        rig.run(1);
        rig.collect();
        rig.offer();
        rig.offer();
        rig.run(0);
        // The first one writes both answers, and not the index or the flags that show them.
        let silent = Silent(&rig.mem);
        rig.transport.device_mut().may = 2;
        rig.transport.wake(0);
        rig.transport.run(&silent, 100, &mut rig.chain);
        rig.collect();
        assert_eq!(rig.back, [0], "nothing is shown");
        let mut state = rig.export();
        // As it was before the last store: what it thinks that it has shown is one thing behind.
        let place = 4 + 4 + 8 + 1 + 12 + 4 + 4 + 2 + 4 + 24 + 1;
        state[place + 4] = 1;
        if kind & PACKED != 0 {
            state[place + 5] = 0x80;
        }
        let mut next = transport(true);
        next.import(&rig.mem, &state, true).unwrap();
        rig.transport = next;
        let both = INTERRUPT_VRING | INTERRUPT_CONFIG;
        assert_eq!(rig.read(0x60), u64::from(both), "to be sure");
        assert_eq!(rig.read(0xfc), 1, "and the configuration is another one");
        rig.collect();
        assert_eq!(rig.back, [0, 1, 2]);
        rig.offer();
        rig.run(4);
        rig.collect();
        assert_eq!(rig.back, [0, 1, 2, 3]);
    }
}

/// The first one is stopped at an access to memory, whichever: the next one goes on, and each request comes back once.
#[test]
fn stopped_at_any_access() {
    for kind in [SPLIT, SPLIT | EVENTS] {
        for in_order in [true, false] {
            for (at, after) in (0..60).flat_map(|at| [(at, false), (at, true)]) {
                stopped_at((at, after), kind, in_order);
            }
        }
    }
    for kind in [SPLIT | PACKED, SPLIT | PACKED | EVENTS] {
        for (at, after) in (0..60).flat_map(|at| [(at, false), (at, true)]) {
            stopped_at((at, after), kind, true);
        }
    }
}

fn stopped_at((at, after): (u64, bool), kind: u64, in_order: bool) {
    let mut rig = rig(kind, in_order);
    // Some are under way, in another order than that of the ring, one was used, two are new.
    rig.offer();
    rig.offer();
    rig.run(1);
    rig.collect();
    rig.offer();
    rig.offer();
    rig.transport.device_mut().may = 2;
    rig.transport.wake(0);
    let left = std::cell::Cell::new(at);
    let stopping = Stopping(&rig.mem, &left, after);
    let (first, chain) = (&mut rig.transport, &mut rig.chain);
    let run = || first.run(&stopping, 100, chain);
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err();
    assert!(stopped || at > 10, "and that takes some accesses");
    let state = rig.export();
    let mut next = transport(in_order);
    let result = next.import(&rig.mem, &state, true);
    assert_eq!(result, Ok(()), "stopped at access {at}");
    rig.transport = next;
    rig.collect();
    rig.run(usize::from(SIZE));
    rig.collect();
    while rig.offer() {}
    rig.run(usize::from(SIZE));
    rig.collect();
    assert!(
        !rig.is_broken(),
        "stopped at access {at}: {:?}",
        rig.transport.take_fault()
    );
    rig.back.sort_unstable();
    let all: Vec<u64> = (0..rig.offered).collect();
    assert_eq!(
        rig.back, all,
        "stopped at access {at}, in order: {in_order}"
    );
}

/// What a packed ring does not keep is not guessed.
#[test]
fn requests_of_a_packed_ring_that_end_in_any_order_are_lost_and_that_is_told() {
    let mut rig = rig(SPLIT | PACKED, false);
    rig.offer();
    rig.offer();
    rig.run(1);
    let state = rig.export();
    let mut next = transport(false);
    let result = next.import(&rig.mem, &state, true);
    assert_eq!(result, Err(BadState::Lost(0)));
    rig.transport = next;
    assert!(rig.is_broken());
    // Without any under way there is nothing to lose.
    let mut rig = self::rig(SPLIT | PACKED, false);
    rig.offer();
    rig.run(1);
    let state = rig.export();
    let mut next = transport(false);
    next.import(&rig.mem, &state, true).unwrap();
}

/// The index has moved on, and the head is still marked: no access to memory is in between.
#[test]
fn stopped_between_the_index_and_the_mark() {
    let mut rig = rig(SPLIT, false);
    rig.offer();
    rig.offer();
    rig.run(0);
    let mut state = rig.export();
    rig.run(1);
    rig.collect();
    let given = 4 + 4 + 8 + 1 + 12 + 4 + 4 + 2 + 4 + 24 + 1 + 2;
    state[given] = 1;
    let mut next = transport(false);
    next.import(&rig.mem, &state, true).unwrap();
    rig.transport = next;
    rig.run(usize::from(SIZE));
    rig.collect();
    rig.back.sort_unstable();
    assert_eq!(rig.back, [0, 1]);
}

/// Memory at which whoever uses it is stopped after so many accesses, before the next one or right after it.
struct Stopping<'a>(&'a FakeMemory, &'a std::cell::Cell<u64>, bool);

impl Stopping<'_> {
    fn access<R>(&self, access: impl FnOnce(&FakeMemory) -> R) -> R {
        match self.1.get().checked_sub(1) {
            Some(left) => {
                self.1.set(left);
                access(self.0)
            }
            None => {
                if self.2 {
                    access(self.0);
                }
                // Without a message.
                std::panic::resume_unwind(Box::new(()))
            }
        }
    }
}

impl GuestMemory for Stopping<'_> {
    fn read(&self, from: vd_virtio::Gpa, into: &mut [u8]) -> Result<(), MemError> {
        self.access(|mem| mem.read(from, into))
    }

    fn write(&self, to: vd_virtio::Gpa, from: &[u8]) -> Result<(), MemError> {
        self.access(|mem| mem.write(to, from))
    }

    fn load_u16(&self, at: vd_virtio::Gpa) -> Result<u16, MemError> {
        self.access(|mem| mem.load_u16(at))
    }

    fn store_u16(&self, at: vd_virtio::Gpa, value: u16) -> Result<(), MemError> {
        self.access(|mem| mem.store_u16(at, value))
    }

    fn check(&self, at: vd_virtio::Gpa, len: u64) -> Result<(), MemError> {
        self.0.check(at, len)
    }

    fn fence(&self) {}
}

/// Memory in which what shows requests does not arrive: used.idx, and the flags of the first descriptor.
struct Silent<'a>(&'a FakeMemory);

impl GuestMemory for Silent<'_> {
    fn read(&self, from: vd_virtio::Gpa, into: &mut [u8]) -> Result<(), MemError> {
        self.0.read(from, into)
    }

    fn write(&self, to: vd_virtio::Gpa, from: &[u8]) -> Result<(), MemError> {
        self.0.write(to, from)
    }

    fn load_u16(&self, at: vd_virtio::Gpa) -> Result<u16, MemError> {
        self.0.load_u16(at)
    }

    fn store_u16(&self, at: vd_virtio::Gpa, value: u16) -> Result<(), MemError> {
        let split = DriverRing::at(0x1000, SIZE);
        let first = 0x1000 + 16 + 14;
        if at.0 == split.used + 2 || at.0 == first {
            return Ok(());
        }
        self.0.store_u16(at, value)
    }

    fn check(&self, at: vd_virtio::Gpa, len: u64) -> Result<(), MemError> {
        self.0.check(at, len)
    }

    fn fence(&self) {}
}

#[test]
fn a_writer_says_how_much_room_it_would_need() {
    let mut small = [0xee; 3];
    let mut writer = Writer::new(&mut small);
    writer.u16(0x0201);
    writer.u32(7);
    assert!(!writer.fits());
    assert_eq!(writer.len(), 6);
    assert_eq!(small, [1, 2, 0xee], "a number is there or not");
    let mut bytes = [0; 32];
    let mut writer = Writer::new(&mut bytes);
    writer.nested(|to| {
        to.u64(5);
        to.bool(true);
        to.block(b"abc");
    });
    let len = writer.len();
    let mut reader = Reader::new(&bytes[..len]);
    let mut inner = Reader::new(reader.block().unwrap());
    assert_eq!(inner.u64(), Ok(5));
    assert_eq!(inner.bool(), Ok(true));
    assert_eq!(inner.block(), Ok(&b"abc"[..]));
    assert_eq!(inner.end(), Ok(()));
    assert_eq!(reader.end(), Ok(()));
    assert_eq!(reader.u8(), Err(BadState::Short));
    assert_eq!(Reader::new(&[2]).bool(), Err(BadState::Content));
    assert_eq!(Reader::new(&[4, 0, 0, 0, 1]).block(), Err(BadState::Short));
}
