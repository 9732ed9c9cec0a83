//! The ioreq engine between a guest's vCPUs and two real disks.
//!
//! vCPU 0 has a driver that keeps the rules and a disk of its own. The other vCPUs share a disk with a driver whose
//! rules are broken: they make accesses of every kind (registers, doorbells, strings, pointers, ports, nonsense), while
//! the main loop takes requests, holds them, finishes them in any order, serves queues, and memory changes. Doorbells
//! are sometimes held back; posted writes come through the buffered ring, with garbage in it; ports come and go; now and
//! then everything is answered at once as in a panic.
//!
//! Checked: a slot's state goes READY, INPROCESS, IORESP_READY and nowhere else, by one answer to each request, and with
//! the data that the access gave; each request is copied once; a doorbell is answered at once and kicks the right queue
//! with the right value; a repeated access is bounded; a ticket is good once; the counters add up; vCPU 0's disk is
//! right all the time; and the other disk works after a reset.
#![no_main]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use vd_config::SlotIndex as DeviceSlot;
use vd_ioreq::buffered::{ENTRIES, drain};
use vd_ioreq::engine::CompleteError;
use vd_ioreq::page::SlotPage;
use vd_ioreq::ports::{Binding, PortCheck, PortTable};
use vd_ioreq::rep::{GuestRam, MAX_BYTES, RamFault, RegisterBus};
use vd_ioreq::slot::{Control, State};
use vd_ioreq::test_util::{FakeBuffered, FakePage, Request};
use vd_ioreq::{
    Access, Direction, DomId, Doorbell, DoorbellWidth, Engine, EvtchnPort, Kick, Match, Outcome,
    Recipient, SlotIndex, Space, Ticket, Width, answer_all,
};
use vd_virtio::{Gpa, GuestMemory};
use virtio_domain_fuzz::Source;
use virtio_domain_fuzz::driver::{Driver, Window, reg};
use virtio_domain_fuzz::ring::{self, BASE, HOLE, MEMORY, choice};
use virtio_domain_fuzz::virtio::{Device, FakeMemory, initial_content};

const VCPUS: usize = 4;
const GUEST: DomId = DomId(7);
/// The vCPU whose driver keeps the rules, and its disk.
const HONEST: SlotIndex = SlotIndex(0);
const HONEST_DISK: usize = 1;
/// The vCPU that sets the other disk up.
const ROUGH: SlotIndex = SlotIndex(1);
const ROUGH_DISK: usize = 0;
/// A port that rings the rough disk.
const PORT: u64 = 0x510;
/// Flags of a request: data is a pointer, a read, backwards.
const PTR: u8 = 0x10;
const READ: u8 = 0x20;
const DOWN: u8 = 0x40;
const PIO: u8 = 0;
const COPY: u8 = 1;

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let mut world = World::new();
    let mems = world.mems.clone();
    let chosen = queue(&mut source);
    let content = initial_content();
    let mut honest = Driver::start(
        &mut world.vcpu(HONEST),
        &mems[HONEST_DISK],
        BASE,
        chosen,
        content,
    );
    let mut rough = world.heal(&mut source);
    let mut posted = FakeBuffered::new(source.pick(&[0, 510, 1000]));
    while !source.is_empty() {
        match source.below(16) {
            0..=3 => world.post_any(&mut source),
            4 | 5 => {
                let slot = any_slot(&mut source);
                world.upcall(slot, source.coin());
            }
            6 => world.take_next(),
            7 | 8 => world.finish_any(&mut source),
            9 => drop(world.take_response(any_slot(&mut source))),
            10 => ring::run(
                &mut world.devices[ROUGH_DISK],
                &mems[ROUGH_DISK],
                &mut rough,
                8,
            ),
            11 => {
                rough.offer(&mut source, &mems[ROUGH_DISK]);
                rough.kick(&mut world.vcpu(ROUGH), &mems[ROUGH_DISK]);
            }
            12 | 13 => {
                honest.offer(&mut source, &mems[HONEST_DISK]);
                honest.kick(&mut world.vcpu(HONEST), &mems[HONEST_DISK]);
                ring::run_all(
                    &mut world.devices[HONEST_DISK],
                    &mems[HONEST_DISK],
                    &mut honest,
                );
                honest.take_back(&mems[HONEST_DISK]);
                assert_eq!(honest.under_way(), 0);
            }
            14 => posted_writes(&mut source, &mut world, &mut posted),
            _ => match source.below(8) {
                0 | 1 => rough.spoil(&mut source, &mems[ROUGH_DISK]),
                2 => {
                    let (at, bytes) = rough.wrong_bytes(&mut source);
                    let (at, when) = (
                        at as usize,
                        mems[ROUGH_DISK].reads() + source.below(30) as u64,
                    );
                    mems[ROUGH_DISK].interfere(move |n, memory| {
                        if n == when {
                            memory[at..at + bytes.len()].copy_from_slice(&bytes);
                        }
                    });
                }
                3 => world.answering = !world.answering,
                4 => world.disturb(&mut source),
                5 => rough = world.heal(&mut source),
                6 => world.panic(),
                _ => other_doorbells(&mut source, &mut world),
            },
        }
        world.engine.set_answering(world.answering);
    }
    world.finish();
    world.heal(&mut source);
    ports(data);
});

fn queue(source: &mut Source<'_>) -> (u32, u16, u64) {
    let packed = source.coin();
    choice(source, packed)
}

fn any_slot(source: &mut Source<'_>) -> SlotIndex {
    SlotIndex(source.below(VCPUS) as u16)
}

fn base(device: usize) -> u64 {
    DeviceSlot::new(device as u8).expect("a slot").base()
}

/// A request as it was posted.
#[derive(Clone, Copy, Debug)]
struct Posted {
    request: Request,
    /// How often the slot had been copied before.
    loads: u32,
    answered: u32,
    /// What a direct read has to give, once it is known.
    data: Option<u64>,
    /// It was answered without the engine.
    panicked: bool,
}

impl Posted {
    fn is_direct_read(&self) -> bool {
        self.request.flags & (READ | PTR) == READ
    }
}

/// The ioreq page, watched.
struct Page {
    fake: FakePage,
    posted: [Cell<Option<Posted>>; VCPUS],
    /// Slots that Xen has changed under us: their requests may be gone.
    disturbed: [Cell<bool>; VCPUS],
}

impl Page {
    /// Whether the slot holds whatever a disturbance has left there, and not a request.
    fn is_garbage(&self, slot: SlotIndex) -> bool {
        self.disturbed[slot.index()].get() && self.posted[slot.index()].get().is_none()
    }

    fn change(&self, slot: SlotIndex, change: impl FnOnce(&mut Posted)) {
        let place = &self.posted[slot.index()];
        let mut posted = place.get();
        if let Some(posted) = &mut posted {
            change(posted);
        }
        place.set(posted);
    }
}

impl SlotPage for Page {
    fn slots(&self) -> usize {
        self.fake.slots()
    }

    fn control(&self, slot: SlotIndex) -> Control {
        self.fake.control(slot)
    }

    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        self.fake.load(slot)
    }

    fn store_data(&self, slot: SlotIndex, data: u64) {
        let control = self.fake.control(slot);
        assert!(matches!(
            control.state(),
            Some(State::Ready | State::InProcess)
        ));
        let takes_data = control.dir() == Direction::Read && !control.data_is_ptr();
        assert!(takes_data || self.is_garbage(slot));
        self.fake.store_data(slot, data);
    }

    fn store_control(&self, slot: SlotIndex, control: Control) {
        let old = self.fake.control(slot);
        assert!(
            old.0 & 0xf0 == control.0 & 0xf0 || self.is_garbage(slot),
            "the flags are Xen's"
        );
        let step = (old.state(), control.state());
        match step {
            (Some(State::Ready), Some(State::InProcess)) => {}
            (Some(State::Ready | State::InProcess), Some(State::RespReady)) => {
                self.change(slot, |posted| posted.answered += 1);
            }
            _ => panic!("{step:?}"),
        }
        self.fake.store_control(slot, control);
    }

    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
        self.fake.vp_eport(slot)
    }
}

struct World {
    page: Page,
    engine: Engine<VCPUS, 16>,
    answering: bool,
    devices: [Device; 2],
    mems: [Rc<FakeMemory>; 2],
    /// Requests that the main loop has taken.
    held: Vec<(Ticket, Access)>,
    others: Vec<Doorbell>,
}

/// A register access of a vCPU, from beginning to end.
struct Vcpu<'a> {
    world: &'a mut World,
    slot: SlotIndex,
    device: usize,
}

impl Vcpu<'_> {
    fn access(&mut self, request: &Request) -> u64 {
        let (world, slot) = (&mut *self.world, self.slot);
        // What it was doing before has to be over.
        world.serve(slot);
        assert!(world.post(slot, request));
        world.serve(slot).expect("every request is answered")
    }
}

impl Window for Vcpu<'_> {
    fn read(&mut self, offset: u64) -> u32 {
        let at = base(self.device) + offset;
        self.access(&Request::read(at, 4)) as u32
    }

    fn write(&mut self, offset: u64, value: u32) {
        let at = base(self.device) + offset;
        self.access(&Request::write(at, 4, value.into()));
    }
}

impl World {
    fn new() -> Self {
        let mut engine = Engine::new(Some(GUEST));
        for device in 0..2 {
            assert_eq!(
                engine.registers.add(Space::Memory, base(device), 0x200),
                Ok(())
            );
            let at = base(device) + reg::QUEUE_NOTIFY;
            assert_eq!(
                engine
                    .doorbells
                    .assign(&doorbell(Space::Memory, at, device)),
                Ok(())
            );
        }
        assert_eq!(
            engine
                .doorbells
                .assign(&doorbell(Space::Port, PORT, ROUGH_DISK)),
            Ok(())
        );
        let page = Page {
            fake: FakePage::new(VCPUS),
            posted: Default::default(),
            disturbed: Default::default(),
        };
        let mem = || Rc::new(FakeMemory::new(MEMORY).hole(HOLE));
        Self {
            page,
            engine,
            answering: true,
            devices: [Device::new(), Device::new()],
            mems: [mem(), mem()],
            held: Vec::new(),
            others: Vec::new(),
        }
    }

    fn vcpu(&mut self, slot: SlotIndex) -> Vcpu<'_> {
        let device = if slot == HONEST {
            HONEST_DISK
        } else {
            ROUGH_DISK
        };
        Vcpu {
            world: self,
            slot,
            device,
        }
    }

    fn post(&mut self, slot: SlotIndex, request: &Request) -> bool {
        let done = self.page.fake.post(slot, request);
        if done {
            let loads = self.page.fake.loads(slot);
            let posted = Posted {
                request: *request,
                loads,
                answered: 0,
                data: None,
                panicked: false,
            };
            self.page.posted[slot.index()].set(Some(posted));
        }
        done
    }

    /// A request of any kind from one of the vCPUs that do not care.
    fn post_any(&mut self, source: &mut Source<'_>) {
        let slot = SlotIndex(source.between(1, VCPUS as u64 - 1) as u16);
        let offset = if source.coin() {
            source.pick(&[
                reg::STATUS,
                reg::QUEUE_NOTIFY,
                reg::QUEUE_SEL,
                reg::QUEUE_READY,
                reg::INTERRUPT_ACK,
                reg::QUEUE_RESET,
                reg::QUEUE_SIZE,
                reg::DRIVER_FEATURES,
            ])
        } else {
            source.between(0, 0x240)
        };
        let device = if source.rarely() {
            HONEST_DISK
        } else {
            ROUGH_DISK
        };
        let (kind, addr) = match source.below(8) {
            0 => (PIO, source.pick(&[PORT, PORT + 1, 0x60, 0xffff, 0x1_0000])),
            1 if source.rarely() => (source.pick(&[2, 7, 8, 9, 255]), 0),
            2 if source.rarely() => (COPY, source.edge()),
            _ => (COPY, base(device) + offset),
        };
        let data = match source.below(4) {
            0 => 0,
            1 => source.below(256) as u64,
            2 => source.pick(&[
                BASE,
                BASE + 0x400,
                HOLE.start - 4,
                HOLE.start,
                u64::MAX - 3,
                15,
            ]),
            _ => source.edge(),
        };
        let mut flags = if source.coin() { READ } else { 0 };
        let mut count = 1;
        if source.below(4) == 0 {
            count = source.pick(&[0, 2, 8, 1024, 4096, 4097, u32::MAX]);
            flags |= source.pick(&[0, PTR, DOWN, PTR | DOWN, 0x80]);
        }
        let size = if source.rarely() {
            source.pick(&[0, 1, 2, 3, 8, 16, u32::MAX])
        } else {
            4
        };
        self.post(
            slot,
            &Request {
                addr,
                data,
                count,
                size,
                flags,
                kind,
            },
        );
    }

    /// The event of a slot has come, or one was lost and all slots are looked at.
    fn upcall(&mut self, slot: SlotIndex, scan: bool) {
        self.engine.count_upcall();
        let mut outcomes = Vec::new();
        if scan {
            self.engine
                .scan(&self.page, |slot, outcome| outcomes.push((slot, outcome)));
            let slots: BTreeSet<_> = outcomes.iter().map(|(slot, _)| *slot).collect();
            assert_eq!(slots.len(), outcomes.len(), "each slot once");
        } else {
            outcomes.push((slot, self.engine.on_event(&self.page, slot)));
        }
        for (slot, outcome) in outcomes {
            self.judge(slot, outcome);
        }
    }

    fn judge(&mut self, slot: SlotIndex, outcome: Outcome) {
        let Some(posted) = self.page.posted[slot.index()].get() else {
            // Xen has put this there without a request of ours.
            return;
        };
        let kick = kick_of(&posted.request).filter(|_| self.answering);
        match outcome {
            Outcome::Nothing => {}
            Outcome::Deferred => assert_eq!(kick, None, "a doorbell waits"),
            Outcome::Answered { kick: found } => {
                assert_eq!(found, kick);
                match found {
                    Some(kick) => self.deliver(kick),
                    // Nobody's: nothing but ones is there.
                    None => self
                        .page
                        .change(slot, |posted| posted.data = Some(u64::MAX)),
                }
            }
        }
    }

    fn deliver(&mut self, kick: Kick) {
        self.devices[usize::from(kick.recipient.device)].kick(kick.value);
    }

    fn take_next(&mut self) {
        let waiting = self.engine.waiting();
        let next = self.engine.next_pending();
        assert_eq!(next.is_some(), waiting > 0);
        self.held.extend(next);
    }

    fn finish_any(&mut self, source: &mut Source<'_>) {
        if !self.held.is_empty() {
            self.finish_one(source.below(self.held.len()));
        }
    }

    /// The main loop carries out a request and answers it.
    fn finish_one(&mut self, at: usize) {
        let (ticket, access) = self.held.remove(at);
        let slot = ticket.slot();
        let data = self.carry_out(slot, access);
        let direct = self.page.posted[slot.index()]
            .get()
            .is_some_and(|posted| posted.is_direct_read());
        match self.engine.complete(&self.page, ticket, data) {
            Ok(()) if direct => self.page.change(slot, |posted| posted.data = Some(data)),
            Ok(()) => {}
            Err(error) => assert!(self.page.disturbed[slot.index()].get(), "{error:?}"),
        }
        assert_eq!(
            self.engine.complete(&self.page, ticket, 0),
            Err(CompleteError::Stale)
        );
    }

    fn carry_out(&mut self, slot: SlotIndex, access: Access) -> u64 {
        let mem = self.mems[if slot == HONEST {
            HONEST_DISK
        } else {
            ROUGH_DISK
        }]
        .clone();
        let mut ram = Ram(mem);
        let mut bus = Bus {
            devices: &mut self.devices,
            mems: &self.mems,
            slot,
            accesses: 0,
        };
        let data = match access {
            Access::Read { space, addr, width } => bus.read(space, addr, width),
            Access::Write {
                space,
                addr,
                width,
                value,
            } => {
                assert_eq!(value & !width.mask(), 0);
                bus.write(space, addr, width, value);
                0
            }
            Access::Rep(rep) => {
                let result = rep.run(&mut bus, &mut ram);
                assert!(u64::from(result.faults) <= rep.accesses());
                result.data
            }
            Access::Invalidate => 0,
        };
        assert!(bus.accesses <= MAX_BYTES);
        data
    }

    /// Takes a slot from whatever state it is in to NONE; returns the answer if there was a request.
    fn serve(&mut self, slot: SlotIndex) -> Option<u64> {
        self.upcall(slot, false);
        while self.engine.waiting() > 0 {
            self.take_next();
        }
        while let Some(at) = self
            .held
            .iter()
            .position(|(ticket, _)| ticket.slot() == slot)
        {
            self.finish_one(at);
        }
        self.take_response(slot)
    }

    /// Xen takes an answer, and it has to be the right one.
    fn take_response(&mut self, slot: SlotIndex) -> Option<u64> {
        let data = self.page.fake.take_response(slot)?;
        if let Some(posted) = self.page.posted[slot.index()].take() {
            assert_eq!(posted.answered, 1, "{posted:?}");
            let loads = self.page.fake.loads(slot) - posted.loads;
            assert!(
                loads == 1 || posted.panicked && loads == 0,
                "{loads} copies of {posted:?}"
            );
            let right = if posted.is_direct_read() {
                posted.data
            } else {
                Some(posted.request.data)
            };
            assert_eq!(Some(data), right, "{posted:?}");
        }
        Some(data)
    }

    /// Xen gives up on a vCPU, or the page is overwritten.
    fn disturb(&mut self, source: &mut Source<'_>) {
        let slot = SlotIndex(source.between(2, VCPUS as u64 - 1) as u16);
        self.page.disturbed[slot.index()].set(true);
        self.page.posted[slot.index()].set(None);
        let control = if source.coin() { 0 } else { source.any() };
        self.page.fake.set_control(slot, control);
    }

    /// The panic path: everything is answered from the page alone, and the engine is told to forget.
    fn panic(&mut self) {
        let waiting: Vec<SlotIndex> = (0..VCPUS as u16)
            .map(SlotIndex)
            .filter(|slot| {
                matches!(
                    self.page.fake.state(*slot),
                    Some(State::Ready | State::InProcess)
                )
            })
            .collect();
        for &slot in &waiting {
            self.page.change(slot, |posted| {
                posted.panicked = true;
                posted.data = Some(0);
            });
        }
        let answered = answer_all(&self.page);
        assert_eq!(answered.iter().collect::<Vec<_>>(), waiting);
        assert!(answer_all(&self.page).is_empty());
        self.engine.forget();
        assert_eq!(self.engine.waiting(), 0);
        for (ticket, _) in self.held.drain(..) {
            assert_eq!(
                self.engine.complete(&self.page, ticket, 0),
                Err(CompleteError::Stale)
            );
        }
    }

    /// Everything is answered, and the counters agree.
    fn finish(&mut self) {
        self.upcall(HONEST, true);
        while self.engine.waiting() > 0 {
            self.take_next();
        }
        while !self.held.is_empty() {
            self.finish_one(0);
        }
        for slot in (0..VCPUS as u16).map(SlotIndex) {
            let state = self.page.fake.state(slot);
            let open = matches!(state, Some(State::Ready | State::InProcess));
            assert!(
                !open || self.page.disturbed[slot.index()].get(),
                "{slot:?} waits for ever"
            );
            self.take_response(slot);
        }
        let counters = self.engine.counters();
        assert_eq!(
            counters.taken(),
            counters.answered + counters.abandoned,
            "{counters:?}"
        );
    }

    /// The rough disk is set up properly, by way of the page, and works.
    fn heal(&mut self, source: &mut Source<'_>) -> Driver {
        // Nothing that was asked for before comes in between.
        self.upcall(ROUGH, true);
        while self.engine.waiting() > 0 {
            self.take_next();
        }
        while !self.held.is_empty() {
            self.finish_one(0);
        }
        let mem = self.mems[ROUGH_DISK].clone();
        mem.interfere(|_, _| ());
        let chosen = queue(source);
        let mut driver =
            Driver::start(&mut self.vcpu(ROUGH), &mem, BASE, chosen, initial_content());
        assert!(driver.offer_read(&mem, 0, 4));
        driver.kick(&mut self.vcpu(ROUGH), &mem);
        ring::run_all(&mut self.devices[ROUGH_DISK], &mem, &mut driver);
        driver.learn(&mem, 0);
        driver.take_back(&mem);
        assert_eq!(driver.under_way(), 0);
        // From here on others interfere.
        driver.spoiled = true;
        driver
    }
}

fn doorbell(space: Space, addr: u64, device: usize) -> Doorbell {
    Doorbell {
        domain: GUEST,
        vcpus: VCPUS as u32,
        space,
        addr,
        width: DoorbellWidth::Exactly(Width::Dword),
        matching: Match::Any,
        recipient: Recipient {
            device: device as u16,
            queue: 0,
        },
    }
}

/// The kick that a request is, if it is one.
fn kick_of(request: &Request) -> Option<Kick> {
    let plain = request.count == 1 && request.size == 4 && request.flags & (PTR | READ) == 0;
    let device = match request.kind {
        PIO if request.addr == PORT => ROUGH_DISK,
        COPY => (0..2).find(|device| request.addr == base(*device) + reg::QUEUE_NOTIFY)?,
        _ => return None,
    };
    let recipient = Recipient {
        device: device as u16,
        queue: 0,
    };
    plain.then_some(Kick {
        recipient,
        value: request.data & 0xffff_ffff,
    })
}

/// The guest's memory for string instructions.
struct Ram(Rc<FakeMemory>);

impl GuestRam for Ram {
    fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), RamFault> {
        self.0.read(Gpa(gpa), into).map_err(|_| RamFault)
    }

    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamFault> {
        self.0.write(Gpa(gpa), from).map_err(|_| RamFault)
    }
}

/// The registers of both disks, as one vCPU reaches them.
struct Bus<'a> {
    devices: &'a mut [Device; 2],
    mems: &'a [Rc<FakeMemory>; 2],
    slot: SlotIndex,
    accesses: u64,
}

impl Bus<'_> {
    /// The disk at an address. The honest disk is driven by one vCPU; what another one wrote there would be the
    /// guest's own doing, and show nothing.
    fn place(&mut self, space: Space, addr: u64) -> Option<(usize, u64)> {
        self.accesses += 1;
        let (slot, offset) = DeviceSlot::at_address(addr).filter(|_| space == Space::Memory)?;
        let allowed =
            slot.index() == ROUGH_DISK || slot.index() == HONEST_DISK && self.slot == HONEST;
        allowed.then_some((slot.index(), offset))
    }
}

impl RegisterBus for Bus<'_> {
    fn read(&mut self, space: Space, addr: u64, width: Width) -> u64 {
        match self.place(space, addr) {
            Some((device, offset)) => self.devices[device].read(offset, width.bytes()),
            None => width.mask(),
        }
    }

    fn write(&mut self, space: Space, addr: u64, width: Width, value: u64) {
        if let Some((device, offset)) = self.place(space, addr) {
            self.devices[device].write(&self.mems[device], offset, width.bytes(), value);
        }
    }
}

/// Writes that Xen does not wait for, through their own ring.
fn posted_writes(source: &mut Source<'_>, world: &mut World, page: &mut FakeBuffered) {
    let mut sane = true;
    let mut right = 0;
    for _ in 0..source.below(6) {
        if source.rarely() {
            sane = false;
            match source.below(2) {
                0 => page.push_raw(source.any()),
                _ => page.set_pointers(source.any(), source.any()),
            }
        } else {
            let (kind, addr) = source.pick(&[(PIO, PORT as u32), (COPY, 0xa_0000), (PIO, 0x80)]);
            right += u32::from(page.post(kind, addr, source.pick(&[1, 2, 4, 8]), source.any()));
        }
    }
    let budget = source.between(0, 600) as u32;
    let mut writes = 0;
    let mut kicks = Vec::new();
    let result = drain(page, budget, |write| {
        writes += 1;
        assert_eq!(write.value & !write.width.mask(), 0);
        let kick = world.engine.on_posted(&write);
        let rings = write.space == Space::Port && write.addr == PORT && write.width == Width::Dword;
        assert_eq!(kick.is_some(), rings);
        kicks.extend(kick);
    });
    kicks.into_iter().for_each(|kick| world.deliver(kick));
    assert!(writes <= budget.min(ENTRIES));
    if sane {
        let done = result.expect("nothing was wrong with it");
        assert_eq!(
            (done.writes, done.more),
            (right.min(budget), right > budget)
        );
    }
    // Whatever is left belongs to nobody.
    *page = FakeBuffered::new(source.pick(&[0, 510, 1000]));
}

/// Doorbells beside the two disks' own come and go.
fn other_doorbells(source: &mut Source<'_>, world: &mut World) {
    let addr = 0x9000_0000 + source.below(6) as u64 * 4;
    let mut new = doorbell(Space::Memory, addr, 9);
    new.matching = source.pick(&[Match::Any, Match::Queue(1), Match::Queue(2)]);
    new.recipient.queue = source.any();
    let same = |old: &Doorbell| old.addr == new.addr && old.matching == new.matching;
    let known = world.others.iter().position(same);
    if source.coin() {
        let result = world.engine.doorbells.assign(&new);
        assert!(known.is_none() || result.is_err());
        if result.is_ok() {
            world.others.push(new);
        }
    } else {
        let result = world.engine.doorbells.deassign(&new);
        let right = known.map(|at| world.others.remove(at).recipient);
        assert_eq!(result.ok(), right);
    }
    assert_eq!(world.engine.doorbells.len(), 3 + world.others.len());
    for old in &world.others {
        let value = match old.matching {
            Match::Queue(queue) => queue.into(),
            Match::Any => 77,
        };
        let found = world
            .engine
            .doorbells
            .lookup(old.space, old.addr, Width::Dword, value);
        assert_eq!(
            found.kick,
            Some(Kick {
                recipient: old.recipient,
                value
            })
        );
    }
}

/// Event channels of vCPUs come, go and change; no local port belongs to two slots.
fn ports(data: &[u8]) {
    let page = FakePage::new(VCPUS);
    let mut table = PortTable::<VCPUS>::new();
    for pair in data.chunks_exact(2).take(30) {
        let slot = SlotIndex(u16::from(pair[0]) % VCPUS as u16);
        page.set_vp_eport(slot, (pair[1] & 7).into());
        let (stale, remote) = match table.check(&page, slot) {
            PortCheck::Unchanged => (None, None),
            PortCheck::Bind { remote } => (None, Some(remote)),
            PortCheck::Rebind { stale, remote } => (Some(stale), Some(remote)),
            PortCheck::Unbind { stale } => (Some(stale), None),
        };
        assert!(stale.is_none_or(|stale| table.slot_of(stale) == Some(slot)));
        match remote {
            Some(remote) => {
                let local = EvtchnPort(u32::from(pair[1] >> 3));
                let owner = table.slot_of(local);
                let bound = table.bind(slot, Binding { remote, local });
                assert_eq!(bound, owner.is_none_or(|owner| owner == slot));
                assert!(!bound || table.check(&page, slot) == PortCheck::Unchanged);
            }
            None if stale.is_some() => {
                table.unbind(slot);
                assert_eq!(table.check(&page, slot), PortCheck::Unchanged);
            }
            None => {}
        }
        let locals: Vec<_> = (0..VCPUS as u16)
            .filter_map(|slot| table.local(SlotIndex(slot)))
            .collect();
        let unique: BTreeSet<_> = locals.iter().collect();
        assert_eq!(unique.len(), locals.len());
    }
}
