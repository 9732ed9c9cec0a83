//! Event channels: the upcall handler, and which port means what.
//!
//! The 2-level ABI (public/event_channel.h): a word of selectors in `vcpu_info`,
//! a bit a port in `shared_info`. Upcalls come as the vector set with
//! `HVM_PARAM_CALLBACK_IRQ`, on whichever vCPU the port is bound to; unlike a
//! vector set per vCPU with `HVMOP_set_evtchn_upcall_vector` it needs no
//! end-of-interrupt, which would cost one more exit an upcall.
//!
//! How the bits are walked, and what is cleared when, is in `vd_kernel_core::upcall`.

use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use vd_kernel_core::handover::{self, Cpu, Marks};
use vd_kernel_core::upcall::{self, Events};
use x86_64::instructions::interrupts;
use xen_hypercall::event_channel::{self, Virq};
use xen_hypercall::{Errno, EvtchnPort, VcpuId, hvm};

use super::{XEN, shared_info};
use crate::arch::idt::UPCALL_VECTOR;
use crate::counters;
use crate::image::image_event;

/// Ports of the 2-level ABI on 64 bits.
const PORTS: usize = 4096;
/// `callback_via` type 2: a vector.
const CALLBACK_TYPE_VECTOR: u64 = 2 << 56;

/// What a port stands for, in one word so that the handler needs one load.
static MEANING: [AtomicU16; PORTS] = [const { AtomicU16::new(NOTHING) }; PORTS];
const NOTHING: u16 = 0;
const FLAG: u16 = 0x4000;
const IMAGE: u16 = 0x8000;

/// Things that happened and that the main loop has not looked at yet.
static HAPPENED: Marks<AtomicU64> = Marks::new(AtomicU64::new(0));

bitflags::bitflags! {
    /// What the main loop is woken for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Happened: u64 {
        /// The xenstore ring moved.
        const XENSTORE = 1 << 0;
        /// The console ring moved.
        const CONSOLE = 1 << 1;
        /// The timer fired.
        const TIMER = 1 << 2;
        /// What the image's own handler marks.
        const WORK = 1 << 3;
    }
}

/// What a port is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Sets a flag for the main loop.
    Flag(Happened),
    /// The image's: [`image_event`] is called with this number, below 2^15, in the handler.
    Image(u16),
}

/// Makes Xen deliver upcalls. Interrupts may be unmasked afterwards.
///
/// # Errors
/// What Xen says.
pub fn init() -> Result<(), Errno> {
    let via = CALLBACK_TYPE_VECTOR | u64::from(UPCALL_VECTOR);
    hvm::set_param(
        &XEN,
        xen_hypercall::DomId::SELF,
        hvm::Param::CALLBACK_IRQ,
        via,
    )
}

/// Says what `port` stands for and lets its events through.
///
/// # Errors
/// What Xen says to the unmask.
pub fn listen(port: EvtchnPort, source: Source) -> Result<(), Errno> {
    let meaning = match source {
        Source::Flag(happened) => FLAG | happened.bits() as u16,
        Source::Image(what) => IMAGE | what,
    };
    let entry = MEANING.get(port.0 as usize).ok_or(Errno::ERANGE)?;
    entry.store(meaning, Ordering::Release);
    // Only Xen may unmask: clearing the bit by hand would lose a pending event.
    event_channel::unmask(&XEN, port)
}

/// Holds `port`'s events back until [`unmask`].
pub fn mask(port: EvtchnPort) {
    if let Some(info) = shared_info::get()
        && (port.0 as usize) < PORTS
    {
        let bit = 1 << (port.0 % 64);
        info.mask(port.0 as usize / 64)
            .fetch_or(bit, Ordering::AcqRel);
    }
}

/// Lets `port`'s events through again, with those that came meanwhile.
///
/// # Errors
/// What Xen says.
pub fn unmask(port: EvtchnPort) -> Result<(), Errno> {
    event_channel::unmask(&XEN, port)
}

/// Stops listening to `port` and closes it.
///
/// # Errors
/// What Xen says; the port stays open then.
pub fn try_close(port: EvtchnPort) -> Result<(), Errno> {
    if let Some(entry) = MEANING.get(port.0 as usize) {
        entry.store(NOTHING, Ordering::Release);
    }
    event_channel::close(&XEN, port)
}

/// The same, for who can do nothing about an error.
pub fn close(port: EvtchnPort) {
    if let Err(error) = try_close(port) {
        log::debug!("closing event channel {}: {error}", port.0);
    }
}

/// Binds the timer interrupt of the boot vCPU.
///
/// # Errors
/// What Xen says.
pub fn bind_timer() -> Result<(), Errno> {
    let port = event_channel::bind_virq(&XEN, Virq::TIMER, VcpuId(0))?;
    listen(port, Source::Flag(Happened::TIMER))
}

/// Marks `what` for the main loop.
pub fn mark(what: Happened) {
    HAPPENED.mark(what.bits());
}

/// Takes everything that was marked.
pub fn take() -> Happened {
    Happened::from_bits_truncate(HAPPENED.take())
}

/// Takes `what` alone; returns whether it was marked.
pub fn take_if(what: Happened) -> bool {
    HAPPENED.take_if(what.bits())
}

/// Whether `what` is marked.
pub fn is_marked(what: Happened) -> bool {
    HAPPENED.is_marked(what.bits())
}

/// Whether something is marked.
pub fn any() -> bool {
    is_marked(Happened::all())
}

/// Sleeps until an event comes, unless `done` says that there is something to do.
pub fn sleep_unless(done: impl Fn() -> bool) {
    handover::sleep_unless(&ThisCpu, done, || counters::add(&counters::SLEEPS, 1));
}

struct ThisCpu;

impl Cpu for ThisCpu {
    fn mask(&self) {
        interrupts::disable();
    }

    fn unmask(&self) {
        interrupts::enable();
    }

    fn unmask_and_wait(&self) {
        // Interrupts are let in by the instruction before the halt, and taken after it: none is missed in between.
        interrupts::enable_and_hlt();
    }
}

/// The interrupt handler.
pub extern "C" fn upcall() {
    counters::add(&counters::UPCALLS, 1);
    if let Some(info) = shared_info::get() {
        upcall::serve(info, serve_port);
    }
}

fn serve_port(port: usize) {
    match MEANING[port].load(Ordering::Acquire) {
        NOTHING => counters::add(&counters::STRAY_EVENTS, 1),
        image if image & IMAGE != 0 => image_event(EvtchnPort(port as u32), image & !IMAGE),
        flag => mark(Happened::from_bits_truncate(u64::from(flag & !FLAG))),
    }
}
