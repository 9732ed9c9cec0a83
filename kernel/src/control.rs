//! The operator at the console: commands and what they print.
//!
//! A page of output fits the console's ring (2 KiB); what does not is dropped rather than waited for.

use core::fmt::{self, Write};

use vd_kernel_core::command::{self, Command};

use crate::dm::{Guest, slots};
use crate::mem::{frames, heap};
use crate::xen::{console, time};
use crate::{counters, log};

/// What the main loop has to do for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Release the guest and power off.
    Shutdown,
    /// Publish the counters now.
    Publish,
}

struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::write(text.as_bytes());
        Ok(())
    }
}

/// Carries out what was typed, up to the first line that is a request; there may be more behind it.
pub fn poll(guest: Option<&Guest>) -> Option<Request> {
    console::service();
    let mut request = None;
    while request.is_none() && console::read_line(|line| request = run(line, guest)) {}
    request
}

fn run(line: &str, guest: Option<&Guest>) -> Option<Request> {
    // The console always takes what is written.
    let _ = match command::parse(line) {
        Command::Nothing => Ok(()),
        Command::Help => Out.write_str(command::HELP),
        Command::Stats => {
            let _ = stats(guest);
            return guest.map(|_| Request::Publish);
        }
        Command::Devices => devices(guest),
        Command::Log(level) => {
            log::set_level(level);
            Ok(())
        }
        Command::Shutdown => return Some(Request::Shutdown),
        Command::Panic => panic!("asked for at the console"),
        Command::Unknown => Out.write_str("not understood; try help\n"),
    };
    None
}

fn stats(guest: Option<&Guest>) -> fmt::Result {
    let ms = time::uptime() / 1_000_000;
    writeln!(Out, "up {}.{:03} s", ms / 1000, ms % 1000)?;
    writeln!(
        Out,
        "free {} KiB, heap {} bytes",
        frames::free_bytes() / 1024,
        heap::used()
    )?;
    if let Some(guest) = guest {
        writeln!(
            Out,
            "guest frames mapped now {}",
            guest.memory().mapped_frames()
        )?;
    }
    let mut column = 0;
    for_each_counter(guest, |name, value| {
        if value != 0 {
            let end = if column % 3 == 2 { '\n' } else { ' ' };
            let _ = write!(Out, "{name} {value}{end}");
            column += 1;
        }
    });
    Out.write_str("\n")
}

fn devices(guest: Option<&Guest>) -> fmt::Result {
    let Some(guest) = guest else {
        return Out.write_str("no guest\n");
    };
    writeln!(Out, "guest: domain {}, {} vCPUs", guest.id(), guest.vcpus())?;
    for device in guest.devices().iter() {
        let transport = device.transport();
        writeln!(
            Out,
            "slot {}: {}, {:?}",
            device.slot(),
            transport.device().describe(),
            transport.status()
        )?;
    }
    Ok(())
}

/// Gives every counter to `f`, with the name it has in xenstore.
pub fn for_each_counter(guest: Option<&Guest>, mut f: impl FnMut(&str, u64)) {
    let ioreq = slots::counters();
    for (name, value) in ioreq.named() {
        f(name, value);
    }
    for (name, counter) in counters::NAMED {
        f(name, counters::get(counter));
    }
    f("heap-bytes", heap::used() as u64);
    f("free-bytes", frames::free_bytes());
    if let Some(grants) = guest.and_then(|guest| guest.memory().grant_counters()) {
        for (name, value) in grants.named() {
            f(name, value);
        }
    }
    let mut name = heapless::String::<40>::new();
    for (number, counter) in counters::HYPERCALLS.iter().enumerate() {
        let value = counters::get(counter);
        if value != 0 {
            name.clear();
            let _ = write!(name, "hypercall-{number}");
            f(&name, value);
        }
    }
    for device in guest.iter().flat_map(|guest| guest.devices().iter()) {
        for (what, value) in device.counters() {
            name.clear();
            let _ = write!(name, "device-{}-{what}", device.slot());
            f(&name, value);
        }
    }
}
