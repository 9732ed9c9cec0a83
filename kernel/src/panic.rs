//! The way out when something is broken: the guest first, then the report.
//!
//! Order matters. A vCPU of the guest may be waiting for an answer, and nobody but
//! this domain can give one; so the slots are answered and the ioreq server is
//! destroyed before a single character is printed.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use xen_hypercall::sched::ShutdownReason;

use crate::arch::backtrace::{self, Backtrace};
use crate::{dm, log, xen};

/// How often the way out was entered: a fault inside it must not start over.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Lets the guest go, reports `what`, and ends the domain as crashed.
pub fn die(what: &dyn fmt::Display, trace: Backtrace) -> ! {
    x86_64::instructions::interrupts::disable();
    match DEPTH.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let answered = dm::release::emergency();
            log::emergency(&format_args!("PANIC: {what}"));
            for address in trace {
                log::emergency(&format_args!("  at {address:#x}"));
            }
            log::emergency(&format_args!(
                "guest released ({answered} requests answered, ioreq server destroyed); crashing"
            ));
        }
        // A fault while releasing or reporting: say so by the plainest means there is.
        1 => {
            // It may have been an NMI in the middle of releasing.
            dm::release::emergency();
            log::debug_port("virtio-domain: fault inside the panic path\n");
        }
        _ => {}
    }
    xen::shutdown(ShutdownReason::CRASH)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    die(info, backtrace::here())
}
