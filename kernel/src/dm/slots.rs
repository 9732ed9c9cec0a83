//! The ioreq server, which the interrupt handler, the main loop and the panic path share.
//!
//! What is done with it is in `vd_kernel_core::server`; this has the pages, the event channels and the counters.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use heapless::Deque;
use vd_ioreq::Counters;
use vd_ioreq::engine::Engine;
use vd_kernel_core::server::slots::POSTED_SOURCE;
use vd_kernel_core::server::{
    Count, Frame, MapError, Platform, PostedWrites, Server, ServerPage, SlotEngine,
};
use x86_64::instructions::interrupts;
use xen_hypercall::dm::ServerId;
use xen_hypercall::memory::{self, PhysmapSpace, Resource};
use xen_hypercall::{DomId, Errno, EvtchnPort, Gfn};

use super::pages::{IoreqPage, Registers, Ring};
use crate::arch::IrqLock;
use crate::counters;
use crate::mem::frames::FRAME;
use crate::mem::space;
use crate::xen::events::{self, Happened, Source};
use crate::xen::{Counted, XEN};

/// The one server.
pub static SERVER: Server<Image> = Server::new(Image);
static ENGINE: IrqLock<SlotEngine> = IrqLock::new(Engine::new(None));
static WRITES: IrqLock<PostedWrites> = IrqLock::new(Deque::new());

const _: () = assert!(POSTED_SOURCE < 1 << 15);

/// This image, as the server sees it.
#[derive(Clone, Copy, Debug)]
pub struct Image;

impl Platform for Image {
    type Xen = Counted;
    type Page = IoreqPage;
    type Ring = Ring;
    type Shown = Registers;
    type Engine = IrqLock<SlotEngine>;
    type Writes = IrqLock<PostedWrites>;

    #[inline]
    fn xen(&self) -> &Counted {
        &XEN
    }

    #[inline]
    fn engine(&self) -> &IrqLock<SlotEngine> {
        &ENGINE
    }

    #[inline]
    fn writes(&self) -> &IrqLock<PostedWrites> {
        &WRITES
    }

    fn map(&self, guest: DomId, server: ServerId, page: ServerPage) -> Result<Frame, MapError> {
        let gfn = space::special_frames(1).map_err(|_| MapError::NoFrame)?;
        let resource = Resource::IoreqServer(server);
        // SAFETY: nothing is mapped at this frame number, by the allocator.
        let mapped =
            unsafe { memory::acquire_resource(&XEN, guest, resource, page as u64, &mut [gfn]) };
        mapped.map(|()| Frame(gfn)).map_err(|error| {
            space::release_special(gfn, 1);
            MapError::Xen(error)
        })
    }

    fn unmap(&self, Frame(gfn): Frame) -> Result<(), Errno> {
        // SAFETY: the server has taken the page from the handler, and nobody else knows of it.
        unsafe { memory::remove_from_physmap(&XEN, DomId::SELF, Gfn(gfn)) }?;
        space::release_special(gfn, 1);
        Ok(())
    }

    #[inline]
    fn page(&self, frame: Frame, slots: usize) -> IoreqPage {
        // SAFETY: the server asks for a page only between mapping and unmapping it, and this is what it has mapped.
        unsafe { IoreqPage::new(address(frame), slots) }
    }

    #[inline]
    fn ring(&self, frame: Frame) -> Ring {
        // SAFETY: as above.
        unsafe { Ring::new(address(frame)) }
    }

    fn give(&self, guest: DomId, frame: u64) -> Result<(), Errno> {
        // SAFETY: it is another domain's memory that comes; nothing of this one's changes.
        match unsafe { memory::populate_physmap(&XEN, guest, &mut [frame]) }? {
            0 => Err(Errno::ENOMEM),
            _ => Ok(()),
        }
    }

    fn take(&self, guest: DomId, frame: u64) -> Result<(), Errno> {
        // SAFETY: it is another domain's memory that goes. Where this one has mapped it, it stays until it is unmapped.
        unsafe { memory::decrease_reservation(&XEN, guest, &[frame]) }.map(drop)
    }

    fn map_frame(&self, guest: DomId, theirs: u64) -> Result<Frame, MapError> {
        let gfn = space::special_frames(1).map_err(|_| MapError::NoFrame)?;
        let from = PhysmapSpace::ForeignGmfn(guest);
        let mut errors = [0];
        // SAFETY: nothing is mapped at this frame number, by the allocator.
        let mapped = unsafe {
            memory::add_to_physmap_batch(&XEN, DomId::SELF, from, &[theirs], &[gfn], &mut errors)
        };
        let [error] = errors;
        let refused = match (mapped, error) {
            (Ok(()), 0) => return Ok(Frame(gfn)),
            (Ok(()), error) => Errno(-error),
            (Err(error), _) => error,
        };
        space::release_special(gfn, 1);
        Err(MapError::Xen(refused))
    }

    fn shown(&self, frame: Frame) -> Registers {
        // SAFETY: the server asks for a page only between mapping and unmapping it, and this is what it has mapped.
        unsafe { Registers::new(address(frame)) }
    }

    fn listen(&self, port: EvtchnPort, source: u16) -> Result<(), Errno> {
        events::listen(port, Source::Image(source))
    }

    fn mask(&self, port: EvtchnPort) {
        events::mask(port);
    }

    fn close(&self, port: EvtchnPort) -> Result<(), Errno> {
        events::try_close(port)
    }

    #[inline]
    fn wake(&self) {
        events::mark(Happened::WORK);
    }

    fn alone<R>(&self, f: impl FnOnce() -> R) -> R {
        interrupts::without_interrupts(f)
    }

    #[inline]
    fn count(&self, what: Count, n: u64) {
        counters::add(counter(what), n);
    }
}

fn counter(what: Count) -> &'static AtomicU64 {
    match what {
        Count::EventDoorbells => &counters::EVENT_DOORBELLS,
        Count::PortDoorbells => &counters::PORT_DOORBELLS,
        Count::PostedWrites => &counters::POSTED_WRITES,
        Count::PostedCorrupt => &counters::POSTED_CORRUPT,
        Count::LinesRaised => &counters::LINES_RAISED,
        Count::LinesLowered => &counters::LINES_LOWERED,
        Count::MessagesSent => &counters::MESSAGES_SENT,
        Count::EventsSent => &counters::EVENTS_SENT,
        Count::RegistersShown => &counters::REGISTERS_SHOWN,
        Count::RegistersHidden => &counters::REGISTERS_HIDDEN,
        Count::EventsRefused => &counters::EVENTS_REFUSED,
    }
}

/// Where a frame is mapped: special frames are mapped at their own address, above all RAM.
#[inline]
fn address(Frame(gfn): Frame) -> NonNull<u8> {
    NonNull::new((gfn * FRAME) as *mut u8).unwrap_or(NonNull::dangling())
}

/// Serves the event of a source: of a slot, or a doorbell. For the interrupt handler.
pub fn on_source(port: EvtchnPort, source: u16) {
    SERVER.on_source(port, source);
}

/// Lets event doorbells of a device through that were held back.
pub fn let_through(device: usize, ports: &[EvtchnPort]) {
    SERVER.let_through(device, ports);
}

/// The value written last to a device's port doorbell.
pub fn payload(device: usize) -> u64 {
    SERVER.payload(device)
}

/// The devices with kicks since this was asked last, as bits.
pub fn take_due() -> u64 {
    SERVER.take_due()
}

/// Calls `kicked` for each queue of a device that was kicked, with what the guest wrote if that is certain.
pub fn take_kicks(device: usize, kicked: impl FnMut(usize, Option<u32>)) {
    SERVER.take_kicks(device, kicked);
}

/// Closes a port of a device's.
pub fn close(port: EvtchnPort) {
    if let Err(error) = SERVER.close(port) {
        log::warn!("closing event channel {port}: {error}");
    }
}

/// What the engine counted.
pub fn counters() -> Counters {
    SERVER.counters()
}
