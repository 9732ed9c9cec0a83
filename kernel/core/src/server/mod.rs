//! One ioreq server: taken over, served, and given back.
//!
//! Three parts of the image share a [`Server`]: the interrupt handler answers doorbells ([`slots`], [`posted`]), the main
//! loop takes what is left and makes and undoes everything ([`attach`]; [`late`] for devices that come and go), and the
//! panic path lets the guest go in an emergency ([`release`]); [`succession`] makes room for another domain's server.
//! [`signal`] is how a device interrupts the guest, [`shown`] has it read registers in its own memory. What needs a pointer, the interrupt flag or the
//! runtime's tables is behind [`Platform`]; the hypercalls, and what is done when one fails, are here, where a test can fail
//! each of them.
//!
//! Invariants:
//! - what Xen was made to hold for the server is recorded before the next hypercall, so that [`Server::release`] finds
//!   it; after that nothing is held that Xen agreed to take back;
//! - what an emergency needs is in atomics and in the page with the slots, so that it works whatever was interrupted;
//! - a vCPU whose request is answered is told so, with the next tick at the latest if Xen refuses at first.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use heapless::Deque;
use vd_config::{MAX_VIRTQUEUES, SLOTS as DEVICES};
use vd_ioreq::buffered::{BufferedPage, PostedWrite};
use vd_ioreq::engine::Engine;
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::SLOTS_PER_PAGE;
use xen_hypercall::dm::ServerId;
use xen_hypercall::{DomId, Errno, EvtchnPort, Hypervisor};

use crate::handover::Kicks;

pub mod attach;
pub mod late;
pub mod posted;
pub mod release;
pub mod shown;
pub mod signal;
pub mod slots;
pub mod succession;
#[cfg(test)]
mod tests;

/// vCPUs that can be served: slots in one page.
pub const VCPUS: usize = SLOTS_PER_PAGE;
/// Cells of the doorbell registry; half can be used.
const CELLS: usize = 256;
/// Most queues of a device.
const QUEUES: usize = MAX_VIRTQUEUES as usize;
/// Posted writes that the main loop has not carried out: more than the ring holds.
const WRITES: usize = 512;
/// Words with a bit for each vCPU.
const VCPU_WORDS: usize = VCPUS / 64;

/// The engine of the one ioreq server.
pub type SlotEngine = Engine<VCPUS, CELLS>;
/// Posted writes in their order.
pub type PostedWrites = Deque<PostedWrite, WRITES>;

/// A value that the interrupt handler changes too.
pub trait Lock<T> {
    /// Lets `f` do something with the value, and nobody else meanwhile.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// A page of an ioreq server, by its number among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum ServerPage {
    /// The ring of posted writes.
    Ring = 0,
    /// The slots.
    Slots = 1,
}

/// Number of one of this domain's own frames where a page of Xen's was mapped; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(pub u64);

/// Why a page was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// This domain has no frame number left.
    NoFrame,
    /// Xen said no.
    Xen(Errno),
}

/// What is counted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// A doorbell that was rung as an event.
    EventDoorbells,
    /// A doorbell that was rung at an I/O port.
    PortDoorbells,
    /// A register write that was posted.
    PostedWrites,
    /// A drain that found the ring of posted writes broken.
    PostedCorrupt,
    /// A line that was raised.
    LinesRaised,
    /// A line that was lowered.
    LinesLowered,
    /// A message-signalled interrupt.
    MessagesSent,
    /// An interrupt that was sent as an event.
    EventsSent,
    /// Registers of a device became memory.
    RegistersShown,
    /// They are no memory any more.
    RegistersHidden,
    /// An event, or leave for events to come, that Xen refused: it is tried again.
    EventsRefused,
}

/// What the image does for a server.
pub trait Platform {
    /// Xen.
    type Xen: Hypervisor;
    /// The page with the slots.
    type Page: SlotPage;
    /// The ring of posted writes.
    type Ring: BufferedPage;
    /// A page of the guest's that shows registers.
    type Shown: shown::ShownPage;
    /// The engine, which the handler uses too.
    type Engine: Lock<SlotEngine>;
    /// Posted writes for the main loop, which the handler takes from the ring.
    type Writes: Lock<PostedWrites>;

    /// Xen.
    fn xen(&self) -> &Self::Xen;

    /// The engine. It is not in the [`Server`] because it is not zero at first: zeroes take no room in an image.
    fn engine(&self) -> &Self::Engine;

    /// Posted writes.
    fn writes(&self) -> &Self::Writes;

    /// Maps a page of a server.
    ///
    /// # Errors
    /// [`MapError`]; nothing is mapped then.
    fn map(&self, guest: DomId, server: ServerId, page: ServerPage) -> Result<Frame, MapError>;

    /// Unmaps what [`Self::map`] has mapped.
    ///
    /// # Errors
    /// What Xen says; the page stays mapped then.
    fn unmap(&self, frame: Frame) -> Result<(), Errno>;

    /// Access to a page with so many slots, which is mapped.
    fn page(&self, frame: Frame, slots: usize) -> Self::Page;

    /// Access to a ring, which is mapped.
    fn ring(&self, frame: Frame) -> Self::Ring;

    /// Gives the guest RAM at a frame number of its own where it has none.
    ///
    /// # Errors
    /// What Xen says; `ENOMEM` if it has none.
    fn give(&self, guest: DomId, frame: u64) -> Result<(), Errno>;

    /// Takes RAM away from the guest, if there is some.
    ///
    /// # Errors
    /// What Xen says.
    fn take(&self, guest: DomId, frame: u64) -> Result<(), Errno>;

    /// Maps a frame of the guest's; [`Self::unmap`] unmaps it.
    ///
    /// # Errors
    /// [`MapError`]; nothing is mapped then.
    fn map_frame(&self, guest: DomId, frame: u64) -> Result<Frame, MapError>;

    /// Access to such a frame, which is mapped.
    fn shown(&self, frame: Frame) -> Self::Shown;

    /// Says what a port stands for, and lets its events through.
    ///
    /// # Errors
    /// What Xen says.
    fn listen(&self, port: EvtchnPort, source: u16) -> Result<(), Errno>;

    /// Holds a port's events back.
    fn mask(&self, port: EvtchnPort);

    /// Stops listening to a port and closes it.
    ///
    /// # Errors
    /// What Xen says; the port stays open then.
    fn close(&self, port: EvtchnPort) -> Result<(), Errno>;

    /// There is something to do for the main loop.
    fn wake(&self);

    /// Runs `f` with the interrupt handler kept out.
    fn alone<R>(&self, f: impl FnOnce() -> R) -> R;

    /// Adds to a counter.
    fn count(&self, what: Count, n: u64);
}

/// The ioreq server of the one guest, and all that the handler, the main loop and the panic path share.
pub struct Server<P: Platform> {
    platform: P,
    /// Whose the server is, and its number: see [`release`].
    held: AtomicU32,
    /// A bit for each device whose interrupt line is up.
    lines: AtomicU32,
    /// Frame of the page with the slots, and how many of them there are; 0 = there is none.
    page: AtomicU64,
    vcpus: AtomicUsize,
    /// The same of the ring of posted writes.
    ring: AtomicU64,
    /// Where pages are mapped that show devices' registers, by device; 0 = none.
    shown: [AtomicU64; DEVICES],
    /// A bit for each device for which the guest was given a frame that is not in its window yet.
    spare: AtomicU32,
    /// A bit for each device whose registers may be memory of the guest's.
    exposed: AtomicU32,
    /// The server has the type of such memory.
    claimed: AtomicBool,
    /// Local port that says that something was posted; 0 = not bound.
    ring_port: AtomicU32,
    /// That port, while it is masked: more came than the main loop has had its turn for.
    ring_masked: AtomicU32,
    /// A slot is READY and has to wait until the ring is drained.
    postponed: AtomicBool,
    /// Local port of each slot; 0 = not bound.
    ports: [AtomicU32; VCPUS],
    /// A bit for each vCPU that has not been told of its answer, because Xen refused.
    owed: [AtomicU64; VCPU_WORDS],
    /// Doorbells that were answered since the main loop's last pass.
    answered: AtomicU32,
    /// Queues that were kicked, by device.
    kicks: Kicks<AtomicU64, DEVICES, QUEUES>,
    /// The value written last to the port doorbell of each device.
    payloads: [AtomicU64; DEVICES],
    /// Event doorbells that were rung too often since the last pass, a bit a queue, by device: masked until the next one.
    masked: [AtomicU64; DEVICES],
}

impl<P: Platform> Server<P> {
    /// No server yet.
    pub const fn new(platform: P) -> Self {
        Self {
            platform,
            held: AtomicU32::new(0),
            lines: AtomicU32::new(0),
            page: AtomicU64::new(0),
            vcpus: AtomicUsize::new(0),
            ring: AtomicU64::new(0),
            shown: [const { AtomicU64::new(0) }; DEVICES],
            spare: AtomicU32::new(0),
            exposed: AtomicU32::new(0),
            claimed: AtomicBool::new(false),
            ring_port: AtomicU32::new(0),
            ring_masked: AtomicU32::new(0),
            postponed: AtomicBool::new(false),
            ports: [const { AtomicU32::new(0) }; VCPUS],
            owed: [const { AtomicU64::new(0) }; VCPU_WORDS],
            answered: AtomicU32::new(0),
            kicks: Kicks::new(
                AtomicU64::new(0),
                [const { AtomicU64::new(0) }; DEVICES],
                [const { [const { AtomicU64::new(0) }; QUEUES] }; DEVICES],
            ),
            payloads: [const { AtomicU64::new(0) }; DEVICES],
            masked: [const { AtomicU64::new(0) }; DEVICES],
        }
    }

    /// The page with the slots, while there is one.
    #[inline]
    fn page(&self) -> Option<P::Page> {
        match self.page.load(Ordering::Acquire) {
            0 => None,
            frame => {
                let vcpus = self.vcpus.load(Ordering::Acquire);
                Some(self.platform.page(Frame(frame), vcpus))
            }
        }
    }

    /// The local port of a slot, if it is bound.
    #[inline]
    fn port_of(&self, slot: usize) -> Option<EvtchnPort> {
        let port = self.ports.get(slot)?.load(Ordering::Acquire);
        (port != 0).then_some(EvtchnPort(port))
    }

    /// The local ports that are bound, by slot.
    fn ports(&self) -> impl Iterator<Item = (usize, EvtchnPort)> {
        (0..VCPUS).filter_map(|slot| self.port_of(slot).map(|port| (slot, port)))
    }
}

/// How often something is tried that has to be undone.
const TRIES: u32 = 3;

/// Undoes something, again if Xen refuses: a refusal may be for now only, and nobody else undoes it later.
fn insist<T>(mut undo: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut result = undo();
    for _ in 1..TRIES {
        if result.is_ok() {
            break;
        }
        result = undo();
    }
    result
}
