//! Every hypercall of a server's life fails once, with each error, against a small Xen
//! (`xen_hypercall::fake::machine`): attack cases 34, 36 and 38.

use core::sync::atomic::Ordering;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::prelude::v1::*;
use std::rc::Rc;
use std::sync::Arc;
use std::vec;

use vd_config::slot::{POSTED_BASE, POSTED_LAST, RANGE_BASE};
use vd_config::{Doorbell as Kind, Interrupt, Reads, SlotIndex as DeviceSlot};
use vd_ioreq::buffered::BufferedPage;
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::Control;
use vd_ioreq::{EvtchnPort as SlotPort, SlotIndex, Space};
use xen_hypercall::fake::machine::{Machine, Page, State};

use super::attach::{Plan, Registers};
use super::*;
use crate::bus::{Answer, Target};

mod attach_and_release;
mod late;
mod run;
mod shown;
mod succession;

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
const FRAMES: core::ops::Range<u64> = 0x10_0000..0x10_0006;

struct Fake {
    /// Other domains may have servers there too.
    xen: Rc<Machine>,
    frames: RefCell<BTreeSet<u64>>,
    meanings: RefCell<BTreeMap<u32, u16>>,
    woken: Cell<bool>,
    counts: RefCell<BTreeMap<Count, u64>>,
    engine: Value<SlotEngine>,
    writes: Value<PostedWrites>,
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

impl super::shown::ShownPage for Mapped {
    fn load(&self, word: usize) -> u32 {
        (self.0.word(word / 2).load(Ordering::Acquire) >> (word % 2 * 32)) as u32
    }

    fn store(&self, word: usize, value: u32) {
        let (place, shift) = (self.0.word(word / 2), word % 2 * 32);
        let kept = place.load(Ordering::Acquire) & !(0xffff_ffff << shift);
        place.store(kept | u64::from(value) << shift, Ordering::Release);
    }
}

impl Fake {
    fn free_frame(&self) -> Result<u64, MapError> {
        let frames = self.frames.borrow();
        let taken = self.xen.state().physmap;
        let is_free = |frame: &u64| !frames.contains(frame) && !taken.contains_key(frame);
        FRAMES.into_iter().find(is_free).ok_or(MapError::NoFrame)
    }
}

impl Platform for Fake {
    type Xen = Machine;
    type Shown = Mapped;
    type Page = Mapped;
    type Ring = Mapped;
    type Engine = Value<SlotEngine>;
    type Writes = Value<PostedWrites>;

    fn xen(&self) -> &Machine {
        &self.xen
    }

    fn engine(&self) -> &Value<SlotEngine> {
        &self.engine
    }

    fn writes(&self) -> &Value<PostedWrites> {
        &self.writes
    }

    fn map(&self, guest: DomId, server: ServerId, page: ServerPage) -> Result<Frame, MapError> {
        assert_eq!(guest, GUEST);
        let frame = self.free_frame()?;
        let mapped = self.xen.map(server, page as u64, frame);
        mapped.map_err(MapError::Xen)?;
        self.frames.borrow_mut().insert(frame);
        Ok(Frame(frame))
    }

    fn give(&self, guest: DomId, frame: u64) -> Result<(), Errno> {
        assert_eq!(guest, GUEST);
        match self.xen.supply(frame, true)? {
            0 => Err(Errno::ENOMEM),
            _ => Ok(()),
        }
    }

    fn take(&self, guest: DomId, frame: u64) -> Result<(), Errno> {
        assert_eq!(guest, GUEST);
        let window = (POSTED_BASE >> 12..=POSTED_LAST >> 12).contains(&frame);
        assert!(window || frame >= RANGE_BASE >> 12, "the guest's own RAM");
        self.xen.supply(frame, false).map(drop)
    }

    fn map_frame(&self, guest: DomId, theirs: u64) -> Result<Frame, MapError> {
        assert_eq!(guest, GUEST);
        let frame = self.free_frame()?;
        let mut errors = [0];
        let mapped = self.xen.map_foreign(&[theirs], &[frame], &mut errors);
        mapped.map_err(MapError::Xen)?;
        if errors != [0] {
            return Err(MapError::Xen(Errno(-errors[0])));
        }
        self.frames.borrow_mut().insert(frame);
        Ok(Frame(frame))
    }

    fn shown(&self, Frame(frame): Frame) -> Mapped {
        Mapped(self.xen.page_at(frame), 0)
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
        xen_hypercall::event_channel::unmask(self.xen(), port)
    }

    fn mask(&self, port: EvtchnPort) {
        self.xen.mask(port);
    }

    fn close(&self, port: EvtchnPort) -> Result<(), Errno> {
        self.meanings.borrow_mut().remove(&port.0);
        xen_hypercall::event_channel::close(self.xen(), port)
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
    server_of(VCPUS_THERE)
}

/// A server without a guest; the guest that there is has so many vCPUs.
fn server_of(vcpus: u32) -> Tested {
    server_at(&Rc::new(Machine::new(GUEST, vcpus, 0..1024)))
}

/// The same with that Xen.
fn server_at(xen: &Rc<Machine>) -> Tested {
    let fake = Fake {
        xen: Rc::clone(xen),
        frames: RefCell::default(),
        meanings: RefCell::default(),
        woken: Cell::new(false),
        counts: RefCell::default(),
        engine: Value(RefCell::new(Engine::new(None))),
        writes: Value(RefCell::new(Deque::new())),
    };
    Server::new(fake)
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
        &server.spare,
        &server.exposed,
    ]);
    let long = server
        .owed
        .iter()
        .chain(&server.masked)
        .chain(&server.payloads);
    let long = long.chain([&server.page, &server.ring]);
    let long = long.chain(&server.shown);
    let words = words.map(|word| u64::from(word.load(Ordering::Relaxed)));
    let words = words.chain(long.map(|word| word.load(Ordering::Relaxed)));
    let (doorbells, ranges, waiting) = server.platform.engine.with(|engine| {
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
        writes: server.platform.writes.with(|writes| writes.len()),
    }
}

fn slot(n: u8) -> DeviceSlot {
    DeviceSlot::new(n).unwrap()
}

/// The line of a slot, as Xen has it.
fn line(n: u8) -> (u8, u8) {
    let line = slot(n).line();
    (line.device, line.intx)
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
        posted: false,
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
            self.interrupt(port);
        }
    }

    /// It runs for one port, if that is one of this server's.
    fn interrupt(&self, port: EvtchnPort) {
        let meaning = self.platform.meanings.borrow().get(&port.0).copied();
        if let Some(source) = meaning {
            self.on_source(port, source);
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

/// How the guest of a run is told and tells.
#[derive(Clone, Copy, Debug)]
struct Way {
    doorbell: Kind,
    interrupt: Interrupt,
    reads: Reads,
}

const fn way(doorbell: Kind, interrupt: Interrupt) -> Way {
    Way {
        doorbell,
        interrupt,
        reads: Reads::Trapped,
    }
}

/// With registers in memory.
const IN_MEMORY: Way = Way {
    reads: Reads::Memory,
    ..way(Kind::Posted, Interrupt::Edge)
};

/// One device, of that way.
fn plan_of(way: Way) -> Plan {
    plan(&[way.doorbell])
}

/// What a PVH guest's driver makes: two doorbells, and where its interrupts go.
fn answer(server: &Tested, way: Way) -> Answer {
    let port = || server.xen().offer();
    Answer {
        interrupt: match way.interrupt {
            Interrupt::Msi => Target::Message {
                address: 0xfee0_0000,
                data: 0x41,
            },
            _ => Target::Port(port()),
        },
        doorbells: vec![port(), port()],
    }
}
