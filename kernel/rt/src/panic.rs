//! The way out when something is broken: what others wait for first, then the report.
//!
//! Order matters. Somebody may be waiting for an answer that nobody but this domain can give; so the image gets its
//! word before a single character is printed.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use xen_hypercall::sched::ShutdownReason;

use crate::arch::backtrace::{self, Backtrace};
use crate::image::{image_name, image_release};
use crate::{log, xen};

/// How often the way out was entered: a fault inside it must not start over.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// Lets the image release what it holds, reports `what`, and ends the domain as crashed.
pub fn die(what: &dyn fmt::Display, trace: Backtrace) -> ! {
    x86_64::instructions::interrupts::disable();
    match DEPTH.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let released = image_release();
            log::emergency(&format_args!("PANIC: {what}"));
            for address in trace {
                log::emergency(&format_args!("  at {address:#x}"));
            }
            log::emergency(&format_args!("{released}; crashing"));
        }
        // A fault while releasing or reporting: say so by the plainest means there is.
        1 => {
            // It may have been an NMI in the middle of releasing.
            let _ = image_release();
            log::debug_port(image_name());
            log::debug_port(": fault inside the panic path\n");
        }
        _ => {}
    }
    xen::shutdown(ShutdownReason::CRASH)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    die(info, backtrace::here())
}
