//! From the boot path to the image: the machine is set up step by step, and a step
//! that fails says so and stops the domain.

use core::fmt;

use vd_boot::start_info::{self, BootInfo, MemoryKind, PhysRead};
use vd_kernel_core::cmdline;
use xen_hypercall::hvm::{self, Param};
use xen_hypercall::sched::ShutdownReason;
use xen_hypercall::version;
use xen_hypercall::{DomId, EvtchnPort};

use crate::arch::{self, gdt, idt, lapic};
use crate::counters;
use crate::image::{Boot, image_name, image_start};
use crate::log;
use crate::mem::{frames, heap, space};
use crate::xen::page::Page;
use crate::xen::{self, XEN, console, events, shared_info, store, time};

/// Physical memory through the provisional page tables.
struct LowMemory;

impl PhysRead for LowMemory {
    fn read(&self, addr: u64, buf: &mut [u8]) {
        for (at, byte) in (addr..).zip(buf) {
            // SAFETY: the provisional page tables map all of it, and nobody else runs;
            // what is not RAM reads as ones.
            *byte = unsafe { (at as *const u8).read_volatile() };
        }
    }
}

/// Called by the boot path, with the physical address of `hvm_start_info`.
#[unsafe(no_mangle)]
extern "C" fn kernel_entry(start_info: u64) -> ! {
    counters::add(&counters::ENTRY_CYCLES, arch::tsc());
    // SAFETY: this is the only call, on the boot CPU, with interrupts masked.
    unsafe {
        gdt::init();
        idt::init();
    }
    let native = xen::init();
    let image = space::image();
    let info = start_info::parse(&LowMemory, start_info, &image);
    let info = info.unwrap_or_else(|error| stop(&error));
    let native = native.unwrap_or_else(|error| stop(&error));
    let rings = Rings::ask();
    memory(&info, &rings);
    if let Err(error) = shared_info::init() {
        stop(&error);
    }
    // The clock is there: time counts from here on, whether or not anything is logged.
    time::uptime();
    // SAFETY: `memory` mapped the page, and nobody else knows of it.
    if let Some(page) = unsafe { Page::new(rings.console.0) } {
        console::init(page, rings.console.1);
    }
    // Words for the image are the image's to judge.
    log::init(cmdline::parse(&info.command_line, |_| {}).log);
    ::log::info!("{} {}", image_name(), env!("CARGO_PKG_VERSION"));
    let (major, minor) = native.version();
    let extra = version::extraversion(&XEN).unwrap_or_default();
    let extra = version::as_str(&extra);
    ::log::info!(
        "Xen {major}.{minor}{extra}, hypercalls by {:?}",
        native.instruction()
    );
    let image_kib = (image.end - image.start) / 1024;
    ::log::info!(
        "image {image_kib} KiB, {} KiB free",
        frames::free_bytes() / 1024
    );
    for module in &info.modules {
        let bytes = module.range.end - module.range.start;
        ::log::info!("module of {bytes} bytes at {:#x}", module.range.start);
    }
    if !lapic::init() {
        ::log::debug!("no x2APIC: nothing is lost");
    }
    interrupts();
    // SAFETY: `memory` mapped the page, and nobody else knows of it.
    let page = unsafe { Page::new(rings.store.0) };
    let page = page.unwrap_or_else(|| stop(&"the toolstack set up no xenstore"));
    let store = store::connect(page, rings.store.1).unwrap_or_else(|error| stop(&error));
    let ram = info
        .memory_map
        .iter()
        .filter(|entry| entry.kind == MemoryKind::Ram);
    image_start(Boot {
        ram_end: ram.map(|entry| entry.range.end).max().unwrap_or(0),
        command_line: info.command_line,
        modules: info.modules,
        store,
    })
}

/// Frames and ports of the rings that the toolstack set up.
struct Rings {
    console: (u64, EvtchnPort),
    store: (u64, EvtchnPort),
}

impl Rings {
    fn ask() -> Self {
        let get = |param| hvm::get_param(&XEN, DomId::SELF, param).unwrap_or(0);
        let ring = |frame, port| (get(frame), EvtchnPort(get(port) as u32));
        Self {
            console: ring(Param::CONSOLE_PFN, Param::CONSOLE_EVTCHN),
            store: ring(Param::STORE_PFN, Param::STORE_EVTCHN),
        }
    }
}

fn memory(info: &BootInfo, rings: &Rings) {
    let pages = [rings.console.0, rings.store.0].map(|frame| frame * frames::FRAME);
    // SAFETY: the provisional page tables are in force, `info` was validated, and this
    // is the only call.
    let result = unsafe {
        frames::init(info, &space::image())
            .map_err(|_| space::SpaceError::OutOfMemory)
            .and_then(|()| space::init(info, &pages))
    };
    if let Err(error) = result {
        stop(&error);
    }
    let frames = heap::HEAP_BYTES / frames::FRAME;
    match frames::allocate(frames, 1, false) {
        // SAFETY: fresh frames, mapped by now.
        Ok(start) => unsafe { heap::init(start as *mut u8) },
        Err(_) => stop(&space::SpaceError::OutOfMemory),
    }
}

fn interrupts() {
    let result = events::init()
        .and_then(|()| events::bind_timer())
        .and_then(|()| console::listen());
    if let Err(error) = result {
        stop(&format_args!("event channels: {error}"));
    }
    x86_64::instructions::interrupts::enable();
}

/// Says why and ends the domain in order: there is nothing to clean up yet.
fn stop(why: &dyn fmt::Display) -> ! {
    log::emergency(&format_args!("{} cannot start: {why}", image_name()));
    xen::shutdown(ShutdownReason::POWEROFF)
}
