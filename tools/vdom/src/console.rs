//! The command `vdom console`: a port of a guest's console device on this terminal, or in a pipe.
//!
//! It talks to the driver domain over that one's own PV console, in lines ([`vd_xenbus::link`]); [`session`] knows what is said, this
//! module where it comes from and goes to. Invariants: whatever ends it, the terminal is as it was before, and the driver domain has been told; no
//! error means that every byte got through, or waits for the guest to read it.

mod session;
#[cfg(test)]
mod tests;

use std::fmt;
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
/// How long the driver domain may take to answer, and the guest to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes that are written to standard output at once: a pipe with any room takes them without a wait.
const PIECE: usize = libc::PIPE_BUF;
/// How long a wait takes at most: something may have to be looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What the operator wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Seconds without anything after which to leave, once standard input has ended.
    pub(crate) idle: Duration,
    /// The console's size, if it is not the terminal's.
    pub(crate) size: Option<(u16, u16)>,
    /// How long the driver domain may take to answer, and the guest to read what there is for it.
    patience: Duration,
}

impl Options {
    pub(crate) fn new(idle: Duration, size: Option<(u16, u16)>) -> Self {
        Self {
            idle,
            size,
            patience: PATIENCE,
        }
    }
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
    term::let_signals_end_waits();
    let mut copy = Copy {
        tty,
        streams,
        session: Session::new(place.slot.get(), place.port, nonce),
        patience: options.patience,
        unsent: Vec::new(),
        unshown: Vec::new(),
        discarded: 0,
        is_deaf: false,
        is_gone: false,
        heard: Instant::now(),
        moved: Instant::now(),
    };
    let mut raw = None;
    let outcome = match copy.link() {
        Ok(()) => {
            let outcome = copy.begin(place, options, is_terminal, &mut raw);
            let outcome = outcome.and_then(|()| copy.copy(place, options, is_terminal));
            outcome.at(driver, COPY)
        }
        failed => failed.at(driver, LINK),
    };
    copy.leave();
    // Before anything is said about how it ended.
    if raw.take().is_some() {
        say(format_args!("\n"));
    }
    outcome?;
    copy.account().at(driver, COPY)
}

/// Tells the operator, if he listens: a terminal in raw mode must not be left for want of him.
fn say(what: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(what);
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
    patience: Duration,
    /// What was read and not sent.
    unsent: Vec<u8>,
    /// What has come and was not shown.
    unshown: Vec<u8>,
    /// Bytes that cannot be shown any more,
    discarded: usize,
    /// because nobody reads standard output.
    is_deaf: bool,
    /// The driver domain's terminal has gone.
    is_gone: bool,
    /// When something came last.
    heard: Instant,
    /// When something could be sent last.
    moved: Instant,
}

impl Copy {
    /// Asks for the port, and waits until it is there.
    fn link(&mut self) -> Result<(), Trouble> {
        let deadline = Instant::now() + self.patience;
        while !self.session.is_linked() {
            if Instant::now() >= deadline || term::is_interrupted() {
                return Err(Trouble::new(
                    "the driver domain does not answer at its console",
                    "see the end of its log, and whether image and vdom are of one release",
                ));
            }
            self.exchange(false)?;
        }
        Ok(())
    }

    /// Takes the terminal, if there is one, and tells the guest its size.
    fn begin(
        &mut self,
        place: &Place,
        options: Options,
        is_terminal: bool,
        raw: &mut Option<Raw>,
    ) -> Result<(), Trouble> {
        if is_terminal {
            *raw = Some(Raw::of(&self.streams.input).map_err(|error| terminal_trouble(&error))?);
            let Place { driver, slot, .. } = place;
            let what = place.name.as_deref().unwrap_or("console");
            say(format_args!(
                "vdom: {driver}: slot {slot}, {what}; Ctrl-] leaves\r\n"
            ));
        }
        if place.port == 0 {
            term::catch_window_changes();
            if let Some((columns, rows)) = options.size.or_else(|| self.window_size()) {
                self.session.resize(columns, rows);
            }
        }
        Ok(())
    }

    /// Waits until something can be done, and does it. Returns whether there is something to read at standard input.
    fn exchange(&mut self, listen: bool) -> Result<bool, Trouble> {
        let has_output = !self.unshown.is_empty();
        let waiting = Waiting {
            input: listen.then_some(&self.streams.input),
            output: has_output.then_some(&self.streams.output),
            tty: (!self.is_gone).then_some(&self.tty),
            tty_output: !self.session.output.is_empty(),
        };
        let ready = waiting.wait(LOOK);
        // What the driver domain has to hear comes first: reading may find out that something is wrong.
        if ready.tty_output {
            match self.tty.write(&self.session.output) {
                Ok(written) => drop(self.session.output.drain(..written)),
                Err(error) if is_later(&error) => {}
                Err(_) => return Err(self.gone()),
            }
        }
        if ready.tty_input {
            self.hear()?;
        }
        if ready.output {
            self.show()?;
        }
        Ok(ready.input)
    }

    /// Reads what the driver domain says.
    fn hear(&mut self) -> Result<(), Trouble> {
        let mut bytes = [0; 16384];
        let read = match self.tty.read(&mut bytes) {
            Ok(0) => return Err(self.gone()),
            Ok(read) => read,
            Err(error) if is_later(&error) => return Ok(()),
            Err(_) => return Err(self.gone()),
        };
        let mut output = Vec::new();
        let events = self.session.feed(&bytes[..read], &mut output);
        if self.is_deaf {
            self.discarded += output.len();
        } else {
            self.unshown.extend_from_slice(&output);
        }
        let is_news = !output.is_empty() || events.as_ref().is_ok_and(|it| !it.is_empty());
        if is_news {
            self.heard = Instant::now();
        }
        let events = events.map_err(|what| Trouble::new(what, "see the driver domain's log"))?;
        for event in events {
            if let Event::Lost(bytes) = event {
                say(format_args!(
                    "\r\n[{bytes} bytes of the guest's output were lost here]\r\n"
                ));
            }
        }
        Ok(())
    }

    /// Writes some of what has come, and then lets the driver domain send more.
    fn show(&mut self) -> Result<(), Trouble> {
        let piece = self.unshown.get(..PIECE).unwrap_or(&self.unshown);
        match self.streams.output.write(piece) {
            Ok(written) => {
                self.unshown.drain(..written);
                self.session.shown(written);
                self.heard = Instant::now();
                Ok(())
            }
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => {
                self.is_deaf = true;
                self.discarded += std::mem::take(&mut self.unshown).len();
                Err(Trouble::new(
                    format!("standard output: {error}"),
                    "free some space, or keep the reader open",
                ))
            }
        }
    }

    fn gone(&mut self) -> Trouble {
        self.is_gone = true;
        gone()
    }

    fn window_size(&self) -> Option<(u16, u16)> {
        term::window_size(&self.streams.input)
    }

    /// Passes bytes on both ways until it is time to leave.
    fn copy(&mut self, place: &Place, options: Options, is_terminal: bool) -> Result<(), Trouble> {
        let mut ended = false;
        loop {
            if term::is_interrupted() {
                // What could have been read would have been sent: it counts as not sent.
                if !ended && !is_terminal && self.unsent.is_empty() && self.exchange(true)? {
                    self.read_input();
                }
                return Ok(());
            }
            if place.port == 0
                && term::take_window_change()
                && let Some((columns, rows)) = self.window_size()
            {
                self.session.resize(columns, rows);
            }
            self.send();
            if self.is_over(options, is_terminal, ended) {
                return Ok(());
            }
            // A person may want to leave, however much the guest does not read.
            let listen = !ended && (is_terminal || self.unsent.is_empty());
            if !self.exchange(listen)? {
                continue;
            }
            let before = self.unsent.len();
            let Some(read) = self.read_input() else {
                continue;
            };
            ended = read == 0;
            let typed = &self.unsent[before..];
            let leave = typed.iter().position(|byte| is_terminal && *byte == LEAVE);
            if let Some(at) = leave {
                self.unsent.truncate(before + at);
                self.send();
                return Ok(());
            }
        }
    }

    /// Reads from standard input; says how many bytes, 0 for its end.
    fn read_input(&mut self) -> Option<usize> {
        let mut bytes = [0; 4096];
        let read = match self.streams.input.read(&mut bytes) {
            Ok(read) => read,
            Err(error) if is_later(&error) => return None,
            // A terminal that is gone reads like this.
            Err(_) => 0,
        };
        if self.unsent.is_empty() {
            self.moved = Instant::now();
        }
        self.heard = Instant::now();
        self.unsent.extend_from_slice(&bytes[..read]);
        Some(read)
    }

    /// Sends what may be sent.
    fn send(&mut self) {
        let sent = self.session.send(&self.unsent);
        if sent > 0 {
            self.unsent.drain(..sent);
            self.moved = Instant::now();
        }
    }

    /// Whether to leave without being told: standard input has ended and nothing more comes, or the guest does not read.
    fn is_over(&self, options: Options, is_terminal: bool, ended: bool) -> bool {
        let is_closed = self.session.is_closed();
        if is_terminal {
            return ended;
        }
        if !self.unsent.is_empty() {
            // Somebody else in the guest may open the port and read on.
            let idle = if is_closed {
                Duration::ZERO
            } else {
                options.idle
            };
            return self.moved.elapsed() >= idle.max(options.patience);
        }
        ended && self.unshown.is_empty() && (is_closed || self.heard.elapsed() >= options.idle)
    }

    /// Tells the driver domain, unless it has told this side, and shows what comes until it has answered.
    fn leave(&mut self) {
        // One that has not answered yet hears of it when it listens again.
        let patience = if self.session.is_linked() {
            self.patience
        } else {
            self.patience / 5
        };
        self.session.leave();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let has_ended = self.is_gone || self.session.has_ended();
            if has_ended && self.unshown.is_empty() {
                break;
            }
            // Whatever is wrong does not make the end less necessary.
            let _ = self.exchange(false);
        }
    }

    /// Whether all bytes have got through.
    fn account(&self) -> Result<(), Trouble> {
        if !self.session.has_ended() {
            return Err(Trouble::new(
                "the driver domain does not answer any more",
                "see the end of its log",
            ));
        }
        let unread = self.session.unread();
        if unread > 0 {
            say(format_args!(
                "vdom: {unread} bytes wait for the guest to read them\n"
            ));
        }
        if !self.unsent.is_empty() {
            return Err(Trouble::new(
                format!(
                    "the guest does not read: {} bytes or more were not sent",
                    self.unsent.len()
                ),
                "see to it that somebody in the guest reads, or give him more time with --idle",
            ));
        }
        let unshown = self.discarded + self.unshown.len();
        if unshown > 0 {
            return Err(Trouble::new(
                format!("standard output: {unshown} bytes of the guest's were not written"),
                "keep its reader reading",
            ));
        }
        let account = self.session.check();
        account.map_err(|(what, remedy)| Trouble::new(what, remedy))
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
