//! What this image supplies to the runtime.

use core::fmt::Write;

use vd_kernel_core::cmdline;
use vd_rt::image::{Boot, Released};
use xen_hypercall::{EvtchnPort, sched};

use crate::dm::slots::{self, SERVER};
use crate::dm::will;
use crate::pv::signals;
use crate::service;
use crate::xen::XEN;

#[unsafe(no_mangle)]
extern "Rust" fn image_name() -> &'static str {
    "virtio-domain"
}

#[unsafe(no_mangle)]
extern "Rust" fn image_start(boot: Boot) -> ! {
    let options = options(&boot.command_line);
    if !vd_copy::choose() {
        ::log::debug!("this CPU shows no fast rep movsb (ERMS): copies are made with rep movsq");
    }
    service::run(boot.store, &boot.modules, &options)
}

/// The ports that the handler serves are those of the guest's vCPUs, its doorbells, and those of back ends.
#[unsafe(no_mangle)]
extern "Rust" fn image_event(port: EvtchnPort, source: u16) {
    if !signals::on_source(port, source) {
        slots::on_source(port, source);
    }
}

/// Looks at the slots before the server is destroyed, with others having a turn on the CPU in between.
const LOOKS: usize = 64;

/// A vCPU of the guest may be waiting for an answer that nobody but this domain can give: the slots are answered and
/// the ioreq server is destroyed before anything is printed.
///
/// In between the guest takes the interrupts that are on their way and asks what they are for. Without a server Xen would
/// say all ones, which to a driver is a change of its device's configuration.
#[unsafe(no_mangle)]
extern "Rust" fn image_release() -> Released {
    let mut answered = 0;
    for _ in 0..LOOKS {
        answered += SERVER.hush();
        sched::yield_now(&XEN);
    }
    answered += SERVER.emergency().answered;
    let mut text = Released::new();
    let _ = write!(
        text,
        "guest released ({answered} requests answered, ioreq server destroyed)"
    );
    if will::leave() {
        let _ = write!(text, ", devices left to another driver domain");
    }
    text
}

/// Takes the command line, and names the words of it that mean nothing.
fn options(line: &[u8]) -> cmdline::Options {
    cmdline::parse(line, |word| {
        let mut text = heapless::String::<40>::new();
        for chunk in word.utf8_chunks() {
            for c in chunk.valid().chars().filter(|c| !c.is_control()) {
                let _ = text.push(c);
            }
        }
        ::log::warn!(
            "command line: \"{text}\" is not understood; there are log=LEVEL and disk-wait=SECONDS"
        );
    })
}
