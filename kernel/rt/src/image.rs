//! What an image supplies, and what it is given.
//!
//! The functions are found by name when the image is linked: a call costs what any call does, and nothing is looked
//! up at run time. An image defines each of them once, with `#[unsafe(no_mangle)]` and exactly this signature.

use heapless::{String, Vec};
use vd_boot::start_info::{MAX_COMMAND_LINE, MAX_MODULES, Module};

use xen_hypercall::EvtchnPort;

use crate::xen::store::Store;

/// The machine as it is handed to the image: interrupts are let in, the heap is there, the console works.
#[derive(Debug)]
pub struct Boot {
    /// The command line; not necessarily UTF-8.
    pub command_line: Vec<u8, MAX_COMMAND_LINE>,
    /// What the toolstack loaded beside the image.
    pub modules: Vec<Module, MAX_MODULES>,
    /// One past the last byte of RAM.
    pub ram_end: u64,
    /// The connection to xenstore.
    pub store: Store,
}

/// What [`image_release`] has to say, for the last line of the report.
pub type Released = String<120>;

unsafe extern "Rust" {
    /// The image's name, for messages.
    pub safe fn image_name() -> &'static str;

    /// Runs the image, on the boot CPU.
    pub safe fn image_start(boot: Boot) -> !;

    /// An event came for a port that the image listens to as [`Source::Image`](crate::xen::events::Source) of this number. Called in
    /// the interrupt handler: bounded, and without allocating, mapping or logging.
    pub safe fn image_event(port: EvtchnPort, source: u16);

    /// Lets go of everything that others wait for. Called from the panic path, possibly twice, in whatever state the
    /// image is: it takes no lock and does not allocate.
    pub safe fn image_release() -> Released;
}
