//! The command `vdom console`: a port of a guest's console device on this terminal, or in a pipe.
//!
//! It talks to the driver domain over that one's own PV console, in lines ([`vd_xenbus::link`]); [`session`] knows what is said, this
//! module where it comes from and goes to. Invariant: whatever ends it, the terminal is as it was before.

mod session;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use vd_config::{DeviceDescription, DeviceType, PortNames, SlotIndex, State};

use crate::failure::{At, Failure, Trouble};
use crate::host::{Host, node};
use crate::list;
use crate::os::{self, Lock};
use crate::term::{self, Raw, Waiting};
use session::{Event, Session};

const FIND: &str = "find port";
const LINK: &str = "link port";
const COPY: &str = "copy";
/// Ctrl-], as for `xl console`.
const LEAVE: u8 = 0x1d;
/// How long the driver domain may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a wait takes at most: something may have to be looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What the operator wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Seconds without anything after which to leave, once standard input has ended.
    pub(crate) idle: Duration,
    /// The console's size, if it is not the terminal's.
    pub(crate) size: Option<(u16, u16)>,
}

/// A port, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The driver domain.
    pub(crate) driver: String,
    pub(crate) tty: String,
    pub(crate) slot: SlotIndex,
    pub(crate) port: usize,
    /// The port's name; the console has none.
    pub(crate) name: Option<String>,
    /// The file that `xl console` locks while it is there.
    pub(crate) lock: String,
}

/// Where bytes for the guest come from, and where its own go.
pub(crate) struct Streams {
    pub(crate) input: File,
    pub(crate) output: File,
}

impl Streams {
    /// Standard input and output.
    pub(crate) fn standard() -> Result<Self, Failure> {
        let open = || {
            let input = std::io::stdin().as_fd().try_clone_to_owned()?;
            let output = std::io::stdout().as_fd().try_clone_to_owned()?;
            Ok((File::from(input), File::from(output)))
        };
        let (input, output) = open().map_err(|error: std::io::Error| {
            Trouble::new(
                format!("standard input and output: {error}"),
                "open both of them",
            )
            .at("host", LINK)
        })?;
        Ok(Self { input, output })
    }
}

/// Finds a port: `[SLOT:]PORT`, which is a name or a number; 0 is the console.
pub(crate) fn find(host: &mut Host, domain: &str, port: Option<&str>) -> Result<Place, Failure> {
    let driver = list::drivers(host, domain, FIND)?;
    let [driver] = driver.as_slice() else {
        let trouble = Trouble::new(
            "several driver domains serve this domain",
            "name the driver domain instead",
        );
        return Err(trouble.at(domain, FIND));
    };
    let name = &driver.name;
    let state = host.state(driver.id).at(name, FIND)?;
    if state != Some(State::Ready) {
        let trouble = Trouble::new(
            "the driver domain serves no guest at present",
            "vdom stats says what it does",
        );
        return Err(trouble.at(name, FIND));
    }
    let devices = list::devices(host, driver)?;
    let consoles: Vec<(SlotIndex, DeviceDescription)> = devices
        .into_iter()
        .filter_map(|(slot, device)| Some((slot, device.ok()?)))
        .filter(|(_, device)| device.kind() == DeviceType::Console)
        .collect();
    let (slot, port, port_name) = choose(&consoles, port).at(domain, FIND)?;
    let tty = host.text(&node(driver.id, "console/tty")).at(name, FIND)?;
    let tty = tty.filter(|tty| tty.starts_with("/dev/")).ok_or_else(|| {
        Trouble::new(
            "xenstore names no terminal for the driver domain's console",
            "see whether xenconsoled is running in dom0",
        )
        .at(name, FIND)
    })?;
    Ok(Place {
        driver: driver.name.clone(),
        lock: session::lock_of_xl(driver.id),
        tty,
        slot,
        port,
        name: port_name,
    })
}

type Choice = (SlotIndex, usize, Option<String>);

/// The port that is meant, among those of these devices.
fn choose(
    consoles: &[(SlotIndex, DeviceDescription)],
    port: Option<&str>,
) -> Result<Choice, Trouble> {
    if consoles.is_empty() {
        return Err(Trouble::new(
            "it has no console device",
            "add \"type=console,backend=console\" to its vdom_devices",
        ));
    }
    let port = port.unwrap_or("0");
    let (wanted, port) = match port.split_once(':') {
        Some((slot, port)) => (Some(slot), port),
        None => (None, port),
    };
    let found = consoles
        .iter()
        .filter(|(slot, _)| wanted.is_none_or(|wanted| slot.to_string() == wanted))
        .find_map(|(slot, device)| {
            let (number, name) = port_of(device.ports(), port)?;
            Some((*slot, number, name))
        });
    found.ok_or_else(|| {
        let known: Vec<String> = consoles
            .iter()
            .map(|(slot, device)| {
                let names = device.ports().iter().map(|name| name.to_string());
                let names: Vec<String> = std::iter::once("0".into()).chain(names).collect();
                format!("slot {slot}: {}", names.join(" "))
            })
            .collect();
        Trouble::new(
            format!("it has no port {port}"),
            format!("there are: {}", known.join("; ")),
        )
    })
}

/// The number and name of a port that is called so, or has that number.
fn port_of(names: &PortNames, port: &str) -> Option<(usize, Option<String>)> {
    if port == "0" {
        return Some((0, None));
    }
    names.iter().zip(1..).find_map(|(name, number)| {
        let is_it = name == port || port.parse() == Ok(number);
        is_it.then(|| (number, Some(name.to_string())))
    })
}

/// Links the port to these streams until one of them ends, or the operator leaves.
pub(crate) fn run(place: &Place, options: Options, streams: Streams) -> Result<(), Failure> {
    let driver = place.driver.as_str();
    let _held = hold_others_off(place).at(driver, LINK)?;
    let tty = open(&place.tty).at(driver, LINK)?;
    let nonce = random().at(driver, LINK)?;
    let is_terminal = streams.input.is_terminal();
    let mut copy = Copy {
        tty,
        streams,
        session: Session::new(place.slot.get(), place.port, nonce),
        heard: Instant::now(),
    };
    copy.link(driver)?;
    let raw = is_terminal.then(|| Raw::of(&copy.streams.input));
    let raw = raw.transpose().map_err(|error| terminal_trouble(&error));
    let raw = raw.at(driver, LINK)?;
    if is_terminal {
        let what = place.name.as_deref().unwrap_or("console");
        eprint!(
            "vdom: {driver}: slot {}, {what}; Ctrl-] leaves\r\n",
            place.slot
        );
    }
    if place.port == 0 {
        term::catch_window_changes();
        if let Some((columns, rows)) = options.size.or_else(|| copy.window_size()) {
            copy.session.resize(columns, rows);
        }
    }
    let outcome = copy.run(place, options, is_terminal);
    // Before anything is said about how it ended.
    drop(raw);
    if is_terminal {
        eprintln!();
    }
    outcome.at(driver, COPY)
}

/// A number that the guest cannot guess: it must not be able to answer in the driver domain's place.
fn random() -> Result<u64, Trouble> {
    const PATH: &str = "/dev/urandom";
    let mut bytes = [0; 8];
    let read = File::open(PATH).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| cannot(PATH, &error))?;
    Ok(u64::from_le_bytes(bytes))
}

fn terminal_trouble(error: &std::io::Error) -> Trouble {
    Trouble::new(format!("the terminal: {error}"), "use another terminal")
}

/// Nobody else uses the driver domain's console from now on: neither `vdom console` nor `xl console`.
fn hold_others_off(place: &Place) -> Result<Vec<File>, Trouble> {
    let taken = |what: &str| {
        Trouble::new(
            format!("somebody else is at the driver domain's console: {what} is locked"),
            "end the other vdom console or xl console",
        )
    };
    let mut held = Vec::new();
    for path in [&place.tty, &place.lock] {
        // A directory for locks is not everywhere.
        let exists = Path::new(path).parent().is_some_and(Path::exists);
        if !exists {
            continue;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(path == &place.lock)
            .truncate(false)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path);
        let file = file.map_err(|error| cannot(path, &error))?;
        if !os::lock(&file, Lock::Try).map_err(|error| cannot(path, &error))? {
            return Err(taken(path));
        }
        held.push(file);
    }
    Ok(held)
}

fn cannot(path: &str, error: &std::io::Error) -> Trouble {
    Trouble::new(
        format!("{path}: {error}"),
        "run vdom as root in dom0, with xenconsoled running",
    )
}

fn open(path: &str) -> Result<File, Trouble> {
    let tty = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| cannot(path, &error))?;
    term::make_raw(&tty).map_err(|error| cannot(path, &error))?;
    Ok(tty)
}

/// Bytes on their way.
struct Copy {
    tty: File,
    streams: Streams,
    session: Session,
    /// When something came last.
    heard: Instant,
}

impl Copy {
    /// Asks for the port, and waits until it is there.
    fn link(&mut self, driver: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.session.is_linked() {
            if Instant::now() >= deadline || term::is_interrupted() {
                let trouble = Trouble::new(
                    "the driver domain does not answer at its console",
                    "see the end of its log, and whether image and vdom are of one release",
                );
                return Err(trouble.at(driver, LINK));
            }
            self.exchange(false).at(driver, LINK)?;
        }
        Ok(())
    }

    /// Waits until something can be done, and does it. Returns whether there is something to read at standard input.
    fn exchange(&mut self, listen: bool) -> Result<bool, Trouble> {
        let waiting = Waiting {
            input: listen.then_some(&self.streams.input),
            tty: &self.tty,
            tty_output: !self.session.output.is_empty(),
        };
        let ready = waiting.wait(LOOK);
        if ready.tty_input {
            let mut bytes = [0; 16384];
            let read = match self.tty.read(&mut bytes) {
                Ok(0) => return Err(gone()),
                Ok(read) => read,
                Err(error) if is_later(&error) => 0,
                Err(_) => return Err(gone()),
            };
            let mut output = Vec::new();
            let events = self.session.feed(&bytes[..read], &mut output);
            let events = events.map_err(|what| Trouble::new(what, "see the driver domain's log"));
            self.show(&output, &events?)?;
        }
        if ready.tty_output {
            match self.tty.write(&self.session.output) {
                Ok(written) => drop(self.session.output.drain(..written)),
                Err(error) if is_later(&error) => {}
                Err(_) => return Err(gone()),
            }
        }
        Ok(ready.input)
    }

    /// Writes what has come, and then lets the driver domain send more.
    fn show(&mut self, output: &[u8], events: &[Event]) -> Result<(), Trouble> {
        if !output.is_empty() || !events.is_empty() {
            self.heard = Instant::now();
        }
        for event in events {
            if let Event::Lost(bytes) = event {
                eprint!("\r\n[{bytes} bytes of the guest's output were lost here]\r\n");
            }
        }
        self.streams.output.write_all(output).map_err(|error| {
            Trouble::new(
                format!("standard output: {error}"),
                "free some space, or keep the reader open",
            )
        })?;
        self.session.shown(output.len());
        Ok(())
    }

    fn window_size(&self) -> Option<(u16, u16)> {
        term::window_size(&self.streams.input)
    }

    fn run(&mut self, place: &Place, options: Options, is_terminal: bool) -> Result<(), Trouble> {
        let outcome = self.copy(place, options, is_terminal);
        self.leave(outcome)
    }

    fn copy(&mut self, place: &Place, options: Options, is_terminal: bool) -> Result<(), Trouble> {
        let (mut ended, mut unsent) = (false, Vec::new());
        loop {
            if term::is_interrupted() {
                return Ok(());
            }
            if place.port == 0
                && term::take_window_change()
                && let Some((columns, rows)) = self.window_size()
            {
                self.session.resize(columns, rows);
            }
            let sent = self.session.send(&unsent);
            unsent.drain(..sent);
            if ended && unsent.is_empty() && self.is_over(options, is_terminal) {
                return Ok(());
            }
            if !self.exchange(!ended && unsent.is_empty())? {
                continue;
            }
            let mut bytes = [0; 4096];
            let read = match self.streams.input.read(&mut bytes) {
                Ok(read) => read,
                Err(error) if is_later(&error) => continue,
                // A terminal that is gone reads like this.
                Err(_) => 0,
            };
            self.heard = Instant::now();
            let bytes = &bytes[..read];
            let leave = bytes.iter().position(|byte| is_terminal && *byte == LEAVE);
            unsent.extend_from_slice(&bytes[..leave.unwrap_or(read)]);
            if leave.is_some() {
                self.session.send(&unsent);
                return Ok(());
            }
            ended = read == 0;
        }
    }

    /// Standard input has ended, and all of it was sent: whether to leave.
    fn is_over(&self, options: Options, is_terminal: bool) -> bool {
        is_terminal || self.session.is_closed() || self.heard.elapsed() >= options.idle
    }

    /// Tells the driver domain, unless it has told this side, and compares what either has counted.
    fn leave(&mut self, outcome: Result<(), Trouble>) -> Result<(), Trouble> {
        self.session.leave();
        let deadline = Instant::now() + PATIENCE;
        while !self.session.has_ended() && Instant::now() < deadline {
            if self.exchange(false).is_err() {
                break;
            }
        }
        outcome?;
        if !self.session.has_ended() {
            return Err(Trouble::new(
                "the driver domain does not answer any more",
                "see the end of its log",
            ));
        }
        let unread = self.session.unread();
        if unread > 0 {
            eprintln!("vdom: {unread} bytes wait for the guest to read them");
        }
        self.session.check().map_err(|what| {
            Trouble::new(
                what,
                "something else has read or written at the driver domain's console: try again",
            )
        })
    }
}

fn gone() -> Trouble {
    Trouble::new(
        "the driver domain's console has gone",
        "see whether the guest is still running",
    )
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
