//! The operator at the console: commands and what they print.
//!
//! A port of a console device can be had here too: by a person, who then types to the guest, or by a program, whose lines
//! go beside the log's and the commands'.
//!
//! A page of output fits the console's ring (2 KiB); what does not is dropped rather than waited for.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::hint::black_box;

use vd_config::{SlotIndex, keys};
use vd_console::{ConsoleDevice, Size};
use vd_kernel_core::command::{self, Command, Crash};
use vd_kernel_core::link::{Farewell, Link, Output};
use vd_kernel_core::trace::Trace;
use vd_xenbus::{link, number};

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

impl Output for Out {
    fn room(&self) -> usize {
        console::room()
    }

    fn write(&mut self, text: &str) {
        console::write(text.as_bytes());
    }
}

/// Who is at the console.
#[derive(Default)]
pub struct Operator {
    session: Session,
    /// What a program has to be told yet, before anything else.
    farewell: Option<Farewell>,
}

/// What the console is besides.
#[derive(Default)]
enum Session {
    /// Nothing.
    #[default]
    Commands,
    /// A port's other end, for a program.
    Link(SlotIndex, Link),
    /// A port's other end, for a person: everything that is typed is the guest's.
    Attached(SlotIndex, usize),
    /// The record of what devices did is printed, from the event of this number on.
    Dump(u64),
}

/// What a program that is linked is told when this ends.
const GUEST_GONE: &str = "the guest is gone";
/// The same, when its device was detached.
const DEVICE_GONE: &str = "the device is gone";

impl Operator {
    /// Carries out what was typed, up to the first line that is a request; there may be more behind it.
    pub fn poll(&mut self, mut guest: Option<&mut Guest>) -> Option<Request> {
        self.tell();
        let mut request = None;
        while request.is_none() {
            if let Session::Attached(slot, port) = self.session {
                let guest = guest.as_deref_mut();
                if guest.is_some_and(|guest| self.type_in(slot, port, guest)) {
                    continue;
                }
                break;
            }
            let more = console::read_line(|line| request = self.run(line, guest.as_deref_mut()));
            if !more {
                break;
            }
        }
        request
    }

    /// Says what was left for want of room. Returns whether that was all.
    fn tell(&mut self) -> bool {
        console::service();
        self.farewell.take_if(|it| it.tell(&mut Out));
        self.farewell.is_none()
    }

    /// Shows what a guest has written to a port, as far as there is room.
    pub fn pump(&mut self, guest: &mut Guest) {
        if !self.tell() {
            return;
        }
        let there = match &mut self.session {
            Session::Commands => true,
            Session::Link(slot, link) => {
                let devices = guest.devices_mut();
                let pumped = devices.with_console(*slot, |device| link.pump(device, &mut Out));
                pumped.is_some()
            }
            Session::Attached(slot, port) => {
                let (devices, port) = (guest.devices_mut(), *port);
                let shown = devices.with_console(*slot, |device| show(device, port));
                shown.is_some()
            }
            Session::Dump(next) => {
                if dump(guest.devices().trace(), next) {
                    self.session = Session::Commands;
                }
                true
            }
        };
        if !there {
            self.end(None, DEVICE_GONE);
        }
    }

    /// Some time has passed.
    pub fn tick(&mut self) {
        if let Session::Link(_, link) = &mut self.session {
            link.tick();
        }
    }

    /// The guest is gone: the console is for commands only, and everything that was held back comes.
    pub fn guest_gone(&mut self) {
        self.end(None, GUEST_GONE);
        console::flush();
    }

    fn run(&mut self, line: &str, mut guest: Option<&mut Guest>) -> Option<Request> {
        if let Session::Link(slot, link) = &mut self.session
            && let Some(request) = link::Request::parse(line)
        {
            let slot = *slot;
            let guest = guest?;
            let devices = guest.devices_mut();
            let ended = match request {
                link::Request::Data(data) => devices
                    .with_console(slot, |device| link.take(device, data))
                    .and_then(Result::err),
                link::Request::Credit(bytes) => {
                    link.grant(bytes);
                    None
                }
                link::Request::Resize(columns, rows) => {
                    devices.resize(slot, Size { columns, rows });
                    None
                }
                link::Request::End => Some("as asked"),
            };
            if let Some(why) = ended {
                self.end(Some(guest), why);
            }
            return None;
        }
        // The console always takes what is written.
        let _ = match command::parse(line) {
            Command::Nothing => Ok(()),
            Command::Help => Out.write_str(command::HELP),
            Command::Stats => {
                let _ = stats(guest.as_deref());
                return guest.map(|_| Request::Publish);
            }
            Command::Devices => devices(guest.as_deref()),
            Command::Queues => queues(guest.as_deref()),
            command @ (Command::TraceOn | Command::TraceOff | Command::TraceDump) => {
                self.trace(guest, &command)
            }
            Command::Log(level) => {
                log::set_level(level);
                Ok(())
            }
            Command::Attach { slot, port } => {
                self.end(guest.as_deref_mut(), "somebody attaches");
                self.attach(guest, slot, port)
            }
            Command::Link { slot, port, nonce } => {
                self.end(guest.as_deref_mut(), "another program comes");
                self.link(guest, slot, port, nonce);
                Ok(())
            }
            Command::Shutdown => return Some(Request::Shutdown),
            Command::Panic(how) => crash(how),
            Command::Unknown => Out.write_str("not understood; try help\n"),
        };
        None
    }

    fn trace(&mut self, guest: Option<&mut Guest>, command: &Command<'_>) -> fmt::Result {
        let Some(guest) = guest else {
            return Out.write_str("no guest\n");
        };
        let trace = guest.devices_mut().trace_mut();
        if *command == Command::TraceOn {
            trace.start();
            return Ok(());
        }
        trace.stop();
        if *command == Command::TraceDump {
            let first = trace.lost();
            self.end(Some(guest), "a record is printed");
            self.session = Session::Dump(first);
            self.pump(guest);
        }
        Ok(())
    }

    fn attach(&mut self, guest: Option<&mut Guest>, slot: SlotIndex, name: &str) -> fmt::Result {
        let Some(guest) = guest else {
            return Out.write_str("no guest\n");
        };
        let found = guest.devices_mut().with_console(slot, |device| {
            let port = port_of(device, name).filter(|port| device.attach(*port));
            port.ok_or("there is no such port\n")
        });
        let port = match found {
            None => return Out.write_str("there is no console device in this slot\n"),
            Some(Err(why)) => return Out.write_str(why),
            Some(Ok(port)) => port,
        };
        console::hold(true);
        say(format_args!("slot {slot}, port {port}: Ctrl-^ ends this"));
        self.session = Session::Attached(slot, port);
        self.pump(guest);
        Ok(())
    }

    fn link(&mut self, guest: Option<&mut Guest>, slot: SlotIndex, name: &str, nonce: u64) {
        let found = guest.and_then(|guest| {
            let link = guest.devices_mut().with_console(slot, |device| {
                port_of(device, name).and_then(|port| Link::new(device, port, nonce))
            });
            Some((guest, link?))
        });
        let why = match found {
            Some((guest, Some(link))) => {
                console::set_echo(false);
                self.session = Session::Link(slot, link);
                return self.pump(guest);
            }
            Some((_, None)) => "it has no such port",
            None => "there is no console device in this slot",
        };
        self.farewell = Some(Farewell::refusal(nonce, why));
        self.tell();
    }

    /// From now on the console is for commands only.
    fn end(&mut self, guest: Option<&mut Guest>, why: &'static str) {
        let devices = guest.map(Guest::devices_mut);
        match core::mem::take(&mut self.session) {
            Session::Commands | Session::Dump(_) => {}
            Session::Link(slot, link) => {
                console::set_echo(true);
                self.farewell = match devices {
                    Some(devices) => devices.with_console(slot, |it| link.end(Some(it), why)),
                    None => Some(link.end(None, why)),
                };
                self.tell();
            }
            Session::Attached(slot, port) => {
                if let Some(devices) = devices {
                    devices.with_console(slot, |device| device.detach(port));
                }
                // Whatever the guest has left in its line.
                console::write_some(b"\r\n");
                say(format_args!("console: back, as {why}"));
                console::hold(false);
            }
        }
    }

    /// Gives the guest what was typed, up to what ends that: what comes behind it is for commands. Returns whether there may be more.
    fn type_in(&mut self, slot: SlotIndex, port: usize, guest: &mut Guest) -> bool {
        let mut typed = [0; 64];
        let read = console::read_through(&mut typed, command::ESCAPE);
        let typed = &typed[..read];
        let escape = typed.iter().position(|byte| *byte == command::ESCAPE);
        let bytes = &typed[..escape.unwrap_or(read)];
        let devices = guest.devices_mut();
        let taken = devices.with_console(slot, |device| device.write(port, bytes));
        if taken.is_some_and(|taken| taken < bytes.len()) {
            // The guest does not read. A person hears that; nobody else types here.
            console::write_some(b"\x07");
        }
        if escape.is_some() {
            self.end(Some(guest), "Ctrl-^ was typed");
        }
        read > 0
    }
}

/// Prints a line whatever is held back, as far as there is room.
fn say(what: fmt::Arguments<'_>) {
    let mut line = heapless::String::<LOSS>::new();
    let _ = write!(line, "{what}\r\n");
    console::write_some(line.as_bytes());
}

/// The port of a device that is called so, or has that number.
fn port_of(device: &ConsoleDevice, name: &str) -> Option<usize> {
    let number = || number::parse(name).filter(|port| *port < device.ports());
    device.port_named(name).or_else(number)
}

/// Shows a port's output as it is, as far as there is room for that and a line of this side's.
fn show(device: &mut ConsoleDevice, port: usize) {
    let mut bytes = [0; 256];
    while console::room() > LOSS {
        let lost = device.take_lost(port);
        if lost > 0 {
            let mut text = heapless::String::<LOSS>::new();
            let _ = write!(text, "\r\n[console: {lost} bytes lost]\r\n");
            console::write_some(text.as_bytes());
        }
        let room = console::room().saturating_sub(LOSS).min(bytes.len());
        let read = device.read(port, &mut bytes[..room]);
        console::write_some(&bytes[..read]);
        if read == 0 {
            break;
        }
    }
}

/// Prints events from that of the number `next` on, as far as there is room. Returns whether that was all.
fn dump(trace: &Trace, next: &mut u64) -> bool {
    while console::room() > 2 * LINE {
        let Some(event) = trace.event(*next) else {
            // A record that was begun meanwhile is another one.
            let _ = writeln!(Out, "trace end, {} older events lost", trace.lost());
            return true;
        };
        let _ = writeln!(Out, "{event}");
        *next += 1;
    }
    false
}

/// Characters of a line of the record, at most.
const LINE: usize = 64;

/// Characters of what this side says while a port is shown: of loss, and of the end.
const LOSS: usize = 64;

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
    for_each_counter(guest, &mut |name, value| {
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

fn queues(guest: Option<&Guest>) -> fmt::Result {
    let Some(guest) = guest else {
        return Out.write_str("no guest\n");
    };
    for device in guest.devices().iter() {
        let transport = device.transport();
        let states = (0..transport.queues()).filter_map(|queue| transport.queue_state(queue));
        for (number, state) in states.enumerate() {
            write!(Out, "slot {} queue {number}: ", device.slot())?;
            match state.in_use {
                None => writeln!(Out, "not in use, at most {} entries", state.max)?,
                Some(queue) => writeln!(
                    Out,
                    "{} of {} entries, {}, {} in flight{}",
                    queue.size,
                    state.max,
                    if queue.is_packed { "packed" } else { "split" },
                    queue.in_flight,
                    if state.is_kicked { ", kicked" } else { "" }
                )?,
            }
        }
    }
    Ok(())
}

/// Ends this domain in the way that was asked for.
fn crash(how: Crash) -> ! {
    match how {
        Crash::Panic => {}
        Crash::Stack => {
            overflow(0);
        }
        Crash::Heap => drop(black_box(Vec::<u8>::with_capacity(isize::MAX as usize))),
    }
    panic!("asked for at the console");
}

/// Calls itself until there is no stack left. Each call has something to do afterwards.
#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    if here[0] == u64::MAX {
        return depth;
    }
    overflow(depth + 1) + black_box(here)[63]
}

/// Gives every counter to `f`, with its name.
fn for_each_counter(guest: Option<&Guest>, f: &mut dyn FnMut(&str, u64)) {
    for_each_common_counter(guest, f);
    let mut name = heapless::String::<40>::new();
    for device in guest.iter().flat_map(|guest| guest.devices().iter()) {
        for (what, value) in device.counters() {
            name.clear();
            let _ = write!(name, "{}{}-{what}", keys::OF_DEVICE, device.slot());
            f(&name, value);
        }
    }
}

/// Gives every counter to `f` that is of no device, with the name it has in xenstore.
pub fn for_each_common_counter(guest: Option<&Guest>, f: &mut dyn FnMut(&str, u64)) {
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
    for uplink in guest.iter().flat_map(|guest| guest.devices().uplinks()) {
        for (what, value) in uplink.counters() {
            name.clear();
            let _ = write!(name, "uplink-{}-{what}", uplink.vif());
            f(&name, value);
        }
    }
}
