//! Everything that is Xen's: hypercalls, events, time, console, xenstore.

pub mod console;
pub mod events;
pub mod page;
pub mod shared_info;
pub mod store;
pub mod time;

use spin::Once;
use xen_hypercall::sched::{self, ShutdownReason};
use xen_hypercall::{Errno, Hypervisor, Native, NotXen};

use crate::{arch, counters, log};

/// The hypervisor, with every call counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted;

/// The hypervisor.
pub static XEN: Counted = Counted;

static NATIVE: Once<Native> = Once::new();

/// Finds Xen.
///
/// # Errors
/// There is none.
pub fn init() -> Result<Native, NotXen> {
    let native = Native::detect()?;
    Ok(*NATIVE.call_once(|| native))
}

// SAFETY: passes everything on.
unsafe impl Hypervisor for Counted {
    // Not inlined: a few instructions are nothing beside what a hypercall costs.
    #[inline(never)]
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize {
        let Some(native) = NATIVE.get() else {
            return -(Errno::ENOSYS.0 as isize);
        };
        if let Some(counter) = counters::HYPERCALLS.get(number as usize) {
            counters::add(counter, 1);
        }
        // SAFETY: the caller's promise.
        unsafe { native.hypercall(number, args) }
    }
}

/// Ends the domain.
pub fn shutdown(reason: ShutdownReason) -> ! {
    let error = sched::shutdown(&XEN, reason);
    log::debug_port("Xen refused to shut the domain down: ");
    log::debug_port(error.text());
    log::debug_port("\n");
    arch::halt()
}
