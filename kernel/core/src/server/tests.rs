//! Every hypercall of a server's life fails once, with each error, against a small Xen
//! (`xen_hypercall::fake::machine`): attack cases 34, 36 and 38.

use core::sync::atomic::Ordering;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::prelude::v1::*;
use std::sync::Arc;
use std::vec;

use vd_config::{Doorbell as Kind, Interrupt, SlotIndex as DeviceSlot};
use vd_ioreq::buffered::BufferedPage;
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::Control;
use vd_ioreq::{EvtchnPort as SlotPort, SlotIndex, Space};
use vd_virtio::counters::Counters;
use xen_hypercall::fake::machine::{Fault, Machine, Page, State};

use super::attach::{Connection, Plan, Registers};
use super::signal::{Signal, Wanted};
use super::slots::DOORBELLS_PER_PASS;
use super::*;
use crate::bus::{Answer, Target};

const GUEST: DomId = DomId(7);
const VCPUS_THERE: u32 = 3;
/// What Xen may answer to any call.
const ERRORS: [Errno; 6] = [
    Errno::ESRCH,
    Errno::EPERM,
    Errno::EAGAIN,
    Errno::EBUSY,
    Errno::ENOMEM,
    Errno::EINVAL,
];
/// Where the platform's frames begin, and how many there are.
const FRAMES: core::ops::Range<u64> = 0x10_0000..0x10_0004;

struct Fake {
    xen: Machine,
    frames: RefCell<BTreeSet<u64>>,
    meanings: RefCell<BTreeMap<u32, u16>>,
    woken: Cell<bool>,
    counts: RefCell<BTreeMap<Count, u64>>,
}

struct Value<T>(RefCell<T>);

impl<T> Lock<T> for Value<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

/// A page that is used while it is mapped: the machine panics when it is not.
struct Mapped(Arc<Page>, usize);

impl Mapped {
    fn word(&self, slot: SlotIndex, at: usize) -> Option<&AtomicU64> {
        (slot.index() < self.1).then(|| self.0.word(slot.index() * 4 + at))
    }
}

impl SlotPage for Mapped {
    fn slots(&self) -> usize {
        self.1
    }

    fn control(&self, slot: SlotIndex) -> Control {
        let word = self.word(slot, 3);
        Control(word.map_or(0, |word| (word.load(Ordering::Acquire) >> 48) as u8))
    }

    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        [0, 1, 2, 3].map(|at| self.word(slot, at).map_or(0, |w| w.load(Ordering::Relaxed)))
    }

    fn store_data(&self, slot: SlotIndex, data: u64) {
        self.word(slot, 1).unwrap().store(data, Ordering::Relaxed);
    }

    fn store_control(&self, slot: SlotIndex, control: Control) {
        let word = self.word(slot, 3).unwrap();
        let kept = word.load(Ordering::Relaxed) & !(0xff << 48);
        word.store(kept | u64::from(control.0) << 48, Ordering::Release);
    }

    fn vp_eport(&self, slot: SlotIndex) -> SlotPort {
        let word = self.word(slot, 3);
        SlotPort(word.map_or(0, |word| word.load(Ordering::Relaxed) as u32))
    }
}

impl BufferedPage for Mapped {
    fn pointers(&self) -> u64 {
        self.0.word(0).load(Ordering::Acquire)
    }

    fn entry(&self, index: u32) -> u64 {
        self.0.word(1 + index as usize).load(Ordering::Relaxed)
    }

    fn advance(&self, entries: u32) {
        let pointers = self.pointers();
        let read = u64::from((pointers as u32).wrapping_add(entries));
        self.0
            .word(0)
            .store(pointers >> 32 << 32 | read, Ordering::Release);
    }
}

impl Platform for Fake {
    type Xen = Machine;
    type Page = Mapped;
    type Ring = Mapped;
    type Lock<T> = Value<T>;

    fn xen(&self) -> &Machine {
        &self.xen
    }

    fn map(&self, guest: DomId, server: ServerId, page: ServerPage) -> Result<Frame, MapError> {
        assert_eq!(guest, GUEST);
        let mut frames = self.frames.borrow_mut();
        let free = FRAMES.into_iter().find(|frame| !frames.contains(frame));
        let frame = free.ok_or(MapError::NoFrame)?;
        let mapped = self.xen.map(server, page as u64, frame);
        mapped.map_err(MapError::Xen)?;
        frames.insert(frame);
        Ok(Frame(frame))
    }

    fn unmap(&self, Frame(frame): Frame) -> Result<(), Errno> {
        self.xen.unmap(frame)?;
        self.frames.borrow_mut().remove(&frame);
        Ok(())
    }

    fn page(&self, Frame(frame): Frame, slots: usize) -> Mapped {
        Mapped(self.xen.page_at(frame), slots)
    }

    fn ring(&self, Frame(frame): Frame) -> Mapped {
        Mapped(self.xen.page_at(frame), 0)
    }

    fn listen(&self, port: EvtchnPort, source: u16) -> Result<(), Errno> {
        self.meanings.borrow_mut().insert(port.0, source);
        xen_hypercall::event_channel::unmask(&self.xen, port)
    }

    fn mask(&self, port: EvtchnPort) {
        self.xen.mask(port);
    }

    fn close(&self, port: EvtchnPort) -> Result<(), Errno> {
        self.meanings.borrow_mut().remove(&port.0);
        xen_hypercall::event_channel::close(&self.xen, port)
    }

    fn wake(&self) {
        self.woken.set(true);
    }

    fn alone<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn count(&self, what: Count, n: u64) {
        *self.counts.borrow_mut().entry(what).or_default() += n;
    }
}

type Tested = Server<Fake>;

fn server() -> Tested {
    let fake = Fake {
        xen: Machine::new(GUEST, VCPUS_THERE, 0..1024),
        frames: RefCell::default(),
        meanings: RefCell::default(),
        woken: Cell::new(false),
        counts: RefCell::default(),
    };
    let engine = Value(RefCell::new(Engine::new(None)));
    Server::new(fake, engine, Value(RefCell::new(Deque::new())))
}

/// All that is held for a server, by Xen and here.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    xen: State,
    frames: BTreeSet<u64>,
    meanings: BTreeMap<u32, u16>,
    words: Vec<u64>,
    doorbells: usize,
    ranges: Vec<bool>,
    waiting: u32,
    writes: usize,
}

fn held(server: &Tested) -> Held {
    let words = server.ports.iter().chain([
        &server.held,
        &server.lines,
        &server.ring_port,
        &server.ring_masked,
        &server.answered,
    ]);
    let long = server
        .owed
        .iter()
        .chain(&server.masked)
        .chain(&server.payloads);
    let long = long.chain([&server.page, &server.ring]);
    let words = words.map(|word| u64::from(word.load(Ordering::Relaxed)));
    let words = words.chain(long.map(|word| word.load(Ordering::Relaxed)));
    let (doorbells, ranges, waiting) = server.engine.with(|engine| {
        let is_there = |space, at| engine.registers.overlaps(space, at, at);
        let ranges = vec![
            is_there(Space::Memory, vd_config::slot::RANGE_BASE),
            is_there(Space::Memory, vd_config::slot::POSTED_BASE),
            is_there(Space::Port, vd_config::slot::DOORBELL_PORT_BASE.into()),
        ];
        (engine.doorbells.len(), ranges, engine.waiting())
    });
    Held {
        xen: server.platform.xen.state(),
        frames: server.platform.frames.borrow().clone(),
        meanings: server.platform.meanings.borrow().clone(),
        words: words.collect(),
        doorbells,
        ranges,
        waiting,
        writes: server.writes.with(|writes| writes.len()),
    }
}

fn slot(n: u8) -> DeviceSlot {
    DeviceSlot::new(n).unwrap()
}

/// Devices that are kicked in each of these ways, with two queues each.
fn plan(kinds: &[Kind]) -> Plan {
    let device = |(n, &doorbell): (u8, &Kind)| Registers {
        slot: slot(n),
        window: match doorbell {
            Kind::Posted => slot(n).posted_base(),
            _ => slot(n).base(),
        },
        queues: 2,
        doorbell,
    };
    Plan {
        guest: GUEST,
        vcpus: VCPUS_THERE,
        devices: (0..).zip(kinds).map(device).collect(),
    }
}

fn plans() -> [Plan; 4] {
    [
        plan(&[Kind::Mmio]),
        plan(&[Kind::Mmio, Kind::Posted]),
        plan(&[Kind::Port]),
        plan(&[Kind::Posted, Kind::Port, Kind::Mmio]),
    ]
}

fn attach(server: &Tested, plan: &Plan) -> Result<(), String> {
    assert_eq!(server.vcpus(GUEST)?, VCPUS_THERE);
    server.attach(plan)
}

impl Tested {
    fn xen(&self) -> &Machine {
        &self.platform.xen
    }

    fn refused(&self) -> u64 {
        let counts = self.platform.counts.borrow();
        counts.get(&Count::EventsRefused).copied().unwrap_or(0)
    }

    /// The interrupt handler runs until there is nothing left to handle.
    fn interrupts(&self) {
        for port in self.xen().take_events() {
            let meaning = self.platform.meanings.borrow().get(&port.0).copied();
            if let Some(source) = meaning {
                self.on_source(port, source);
            }
        }
    }

    /// vCPU `vcpu` reads a register.
    fn read(&self, vcpu: u16, window: u64) {
        self.xen().request(vcpu, [window, 0, 4 << 32 | 1], 0x20, 1);
    }

    /// vCPU `vcpu` writes to a register.
    fn write(&self, vcpu: u16, addr: u64, value: u64) {
        self.xen().request(vcpu, [addr, value, 4 << 32 | 1], 0, 1);
    }

    fn waiting_vcpus(&self) -> Vec<u16> {
        let vcpus = 0..VCPUS_THERE as u16;
        vcpus.filter(|&vcpu| self.xen().waits(vcpu)).collect()
    }
}

#[test]
fn row34_any_call_of_an_attachment_may_fail_and_nothing_is_left() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        let calls = whole.xen().made();
        assert!(calls >= 10, "{calls}");
        for n in 0..calls {
            for error in ERRORS {
                let server = server();
                server.xen().fail(Fault::Once(n, error));
                let why = attach(&server, &plan).expect_err("it failed");
                assert!(why.contains("domain 7: "), "{why}");
                assert!(why.contains(&format!("({error:?})")), "{why}");
                server.xen().mend();
                assert_eq!(held(&server), before, "call {n}: {error}: {why}");
                // The next attempt is like the first.
                attach(&server, &plan).unwrap();
                assert_eq!(held(&server), held(&whole), "call {n}: {error}");
            }
        }
        assert_eq!(whole.release(|| ()).answered, 0);
        assert_eq!(held(&whole), before);
    }
}

#[test]
fn row34_a_failure_and_another_one_while_it_is_undone() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        for n in 0..whole.xen().made() {
            let server = server();
            // The call, and each third one after it, so that what is undone fails here and there.
            server.xen().fail(Fault::EveryThird(n, Errno::EBUSY));
            attach(&server, &plan).expect_err("it failed");
            server.xen().mend();
            assert_eq!(held(&server), before, "call {n}");
        }
    }
}

#[test]
fn row34_frames_that_run_out() {
    let server = server();
    let before = held(&server);
    server.platform.frames.borrow_mut().extend(FRAMES.skip(1));
    let why = attach(&server, &plan(&[Kind::Posted])).expect_err("one frame is too few");
    assert!(why.contains("no guest frame number is free"), "{why}");
    server.platform.frames.borrow_mut().clear();
    assert_eq!(held(&server), before);
}

#[test]
fn row34_a_guest_that_dies_while_it_is_attached_keeps_nothing() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        for n in 0..whole.xen().made() {
            let server = server();
            server.xen().fail(Fault::GuestGone(n));
            let why = attach(&server, &plan).expect_err("it failed");
            assert!(why.contains("this driver domain's guest is gone"), "{why}");
            assert_eq!(held(&server), before, "call {n}");
        }
    }
}

#[test]
fn row34_without_power_over_the_guest_all_of_ones_own_is_given_back() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        for n in 0..whole.xen().made() {
            let server = server();
            server.xen().fail(Fault::From(n, Errno::EPERM));
            let why = attach(&server, &plan).expect_err("it failed");
            assert!(why.contains("no power over it"), "{why}");
            let State {
                servers,
                ports,
                physmap,
                lines,
            } = server.xen().state();
            assert!(ports.is_empty() && physmap.is_empty() && lines.is_empty());
            // What Xen does not take back is remembered, and given back when it does.
            assert_eq!(server.held().is_some(), !servers.is_empty());
            server.xen().mend();
            server.release(|| ());
            assert_eq!(held(&server), before, "call {n}");
        }
    }
}

#[test]
fn a_server_that_is_still_there_is_not_forgotten() {
    let server = server();
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    let there = held(&server);
    let why = server.attach(&plan(&[Kind::Mmio])).expect_err("twice");
    assert!(why.contains("has not taken back"), "{why}");
    assert_eq!(held(&server), there);
}

/// A guest in the middle of everything: a vCPU waits for a register, another one's doorbell has just rung, writes are
/// posted, a line is up, doorbells are held back.
fn in_the_middle(plan: &Plan) -> Tested {
    let server = server();
    attach(&server, plan).unwrap();
    server.interrupts();
    let (window, doorbell) = (plan.devices[0].window, plan.devices[0].doorbell);
    server.read(0, slot(0).base());
    server.interrupts();
    server.write(1, window + 0x50, 1);
    if doorbell == Kind::Posted {
        assert!(server.xen().post(window + 0x70, 1));
        server.interrupts();
        assert!(server.xen().post(window + 0x50, 0));
    }
    let mut signal = Signal::new(Interrupt::Intx);
    let wanted = Wanted::new(true, &Counters::default());
    let told = signal.update(&server, GUEST, slot(0), wanted, None);
    told.unwrap();
    server.hold_back(0, 1);
    server
}

#[test]
fn row34_any_call_of_a_release_may_fail_and_nothing_is_left() {
    for plan in plans() {
        let before = held(&server());
        let whole = in_the_middle(&plan);
        whole.xen().mend();
        whole.release(|| ());
        let calls = whole.xen().made();
        assert!(calls >= 10, "{calls}");
        assert_eq!(held(&whole), before);
        for n in 0..calls {
            for error in ERRORS {
                let server = in_the_middle(&plan);
                assert_ne!(server.waiting_vcpus(), []);
                server.xen().fail(Fault::Once(n, error));
                let unmapped = Cell::new(0);
                let released = server.release(|| unmapped.set(server.xen().made()));
                assert_eq!(
                    (released.destroyed, released.lowered, released.freed),
                    (Ok(()), Ok(()), Ok(())),
                    "{n}"
                );
                assert!(unmapped.get() != 0 && unmapped.get() < server.xen().made());
                server.xen().mend();
                assert_eq!(held(&server), before, "call {n}: {error}");
                assert_eq!(server.waiting_vcpus(), [], "call {n}: {error}");
                // There is nothing left to do.
                server.release(|| ());
                assert_eq!(server.xen().made(), 0);
            }
        }
    }
}

#[test]
fn row38_refusals_that_last_are_told_and_what_is_left_is_given_back_later() {
    let plan = plan(&[Kind::Posted, Kind::Port]);
    let before = held(&server());
    let server = in_the_middle(&plan);
    server.xen().fail(Fault::From(0, Errno::EPERM));
    let released = server.release(|| ());
    assert_eq!(released.destroyed, Err(Errno::EPERM));
    assert_eq!(released.lowered, Err(Errno::EPERM));
    assert_eq!(released.freed, Ok(()));
    let State { ports, physmap, .. } = server.xen().state();
    assert!(ports.is_empty() && physmap.is_empty());
    server.xen().mend();
    let again = server.release(|| ());
    assert_eq!((again.destroyed, again.lowered), (Ok(()), Ok(())));
    assert_eq!(held(&server), before);

    let server = in_the_middle(&plan);
    server.xen().fail(Fault::All(Errno::EAGAIN));
    assert_eq!(server.release(|| ()).freed, Err(Errno::EAGAIN));
    let why = server.attach(&plan).expect_err("nothing was taken back");
    assert!(why.contains("has not taken back"), "{why}");
    server.xen().mend();
    assert_eq!(server.release(|| ()).freed, Ok(()));
    assert_eq!(held(&server), before);
}

#[test]
fn row33_an_emergency_in_the_middle_leaves_no_vcpu_waiting_whatever_fails() {
    for plan in plans() {
        let whole = in_the_middle(&plan);
        whole.xen().mend();
        assert!(whole.emergency().answered >= 1);
        for n in 0..whole.xen().made() {
            for error in ERRORS {
                let server = in_the_middle(&plan);
                server.xen().fail(Fault::Once(n, error));
                assert_eq!(server.emergency().destroyed, Ok(()));
                let State { servers, lines, .. } = server.xen().state();
                assert!(servers.is_empty() && lines.is_empty(), "{n} {error}");
                assert_eq!(server.waiting_vcpus(), [], "call {n}: {error}");
            }
        }
    }
}
