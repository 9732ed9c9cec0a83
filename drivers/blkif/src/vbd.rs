//! A disk and its nodes in xenstore: what the kernel runs when a watch fires, when the disk has something to say, and every
//! so often.
//!
//! Invariant: a step counts as done when all of it is; one that fails on the way is taken back, or done again.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vd_xenbus::{Error, Transport, WatchEvent, Xenstore, XsError};

use crate::disk::Disk;
use crate::handshake::{Handshake, Phase, Seen, State, Step};
use crate::nodes::{self, Offer, Properties, Unusable};
use crate::platform::Platform;
use crate::sort_by_key;

/// Most steps at once: more than any sequence has.
const MAX_STEPS: usize = 8;
/// Longest path of a back end.
const MAX_PATH: usize = 256;

/// Most devices that are looked for.
const MAX_DEVICES: usize = 64;

/// The numbers of the virtual devices that the toolstack has given this domain, in order.
///
/// # Errors
/// Trouble with xenstore.
pub fn devices<T: Transport>(store: &mut Xenstore<T>) -> Result<Vec<u32>, Error> {
    let names = nodes::optional(store.directory("device/vbd"))?.unwrap_or_default();
    let mut list: Vec<u32> = names
        .iter()
        .filter_map(|name| name.parse().ok().filter(|n: &u32| n.to_string() == *name))
        .take(MAX_DEVICES)
        .collect();
    sort_by_key(&mut list, |&number| number);
    Ok(list)
}

/// What has happened, for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The disk can be used.
    Connected {
        /// By which domain.
        domain: u16,
        /// With how many rings.
        queues: usize,
    },
    /// The disk has another size, in sectors of 512 bytes.
    Resized(u64),
    /// The back end wants to close.
    Closing,
    /// The connection has ended; requests wait for another one, or fail.
    Disconnected {
        /// Nothing that was answered can be lost.
        in_order: bool,
    },
    /// The back end offers something that cannot be used.
    Unusable(&'static str),
    /// There is no room for its grants or event channels.
    NoRoom,
}

/// The back end that the device has now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    path: String,
    domain: u16,
}

/// The control plane of one disk.
#[derive(Debug)]
pub struct Vbd {
    frontend: String,
    token: String,
    handshake: Handshake,
    /// Whose nodes are watched.
    watched: Option<Peer>,
    /// With whom the connection is.
    connected: Option<Peer>,
    /// Completed operations when the last connection was made.
    completed: u64,
}

impl Vbd {
    /// The virtual device of this number.
    pub fn new(device: u32) -> Self {
        Self {
            frontend: format!("device/vbd/{device}"),
            token: format!("vbd-{device}"),
            handshake: Handshake::new(),
            watched: None,
            connected: None,
            completed: 0,
        }
    }

    /// Begins. Also to be called when watches were lost, as when the connection to xenstore was set up afresh.
    ///
    /// # Errors
    /// Trouble with xenstore.
    pub fn watch<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<(), Error> {
        self.watched = None;
        set_watch(store, &self.frontend, &self.token)
    }

    /// Whether an event is for this disk.
    pub fn is_mine(&self, event: &WatchEvent) -> bool {
        event.token == self.token
    }

    /// Where this side is.
    pub fn phase(&self) -> Phase {
        self.handshake.phase()
    }

    /// Does what is to be done. To be called when one of its watches fires, when [`Disk::is_broken`] or
    /// [`Disk::is_idle`] change, and every so often, as a back end may be late in letting go. Calls `notice` for what
    /// has happened.
    ///
    /// # Errors
    /// Trouble with xenstore: to be tried again later.
    pub fn run<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Error> {
        for _ in 0..MAX_STEPS {
            let peer = self.follow(store)?;
            let seen = self.look(store, disk, peer.as_ref())?;
            // The toolstack has taken the device away, or made it anew: this side writes no Initialising once it has
            // given up.
            let anew = matches!(seen.own, None | Some(State::Initialising));
            if anew && self.handshake.has_given_up() {
                self.handshake.forgive();
            }
            let step = self.handshake.observe(&seen);
            if !self.take(store, disk, step, notice)? {
                break;
            }
        }
        Ok(())
    }

    /// Closes the connection from this side, as before the end of the domain. To be called again, after the same events
    /// as [`Vbd::run`], until it returns true: then the back end has answered what it had been asked and has let go of
    /// everything. What was not sent is not sent any more.
    ///
    /// # Errors
    /// Trouble with xenstore: to be tried again later.
    pub fn shut_down<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        for _ in 0..MAX_STEPS {
            let peer = self.follow(store)?;
            let seen = self.look(store, disk, peer.as_ref())?;
            let step = self.handshake.retreat(&seen);
            if !self.take(store, disk, step, notice)? {
                break;
            }
        }
        Ok(self.handshake.phase() == Phase::Down)
    }

    /// Finds the back end, and watches it.
    fn follow<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<Option<Peer>, Error> {
        let path = format!("{}/backend", self.frontend);
        let path = nodes::optional(store.read_string(&path, MAX_PATH))?;
        let domain = format!("{}/backend-id", self.frontend);
        let domain = nodes::optional(store.read_number(&domain))?;
        let peer = path
            .filter(|path| {
                vd_xenbus::wire::is_valid_path(path) && path.starts_with('/') && path.len() > 1
            })
            .zip(domain)
            .map(|(path, domain)| Peer { path, domain });
        if peer != self.watched {
            if let Some(old) = self.watched.take() {
                // It is gone when the daemon was restarted.
                let _ = store.unwatch(&old.path, &self.token);
            }
            if let Some(new) = &peer {
                set_watch(store, &new.path, &self.token)?;
            }
            self.watched.clone_from(&peer);
            self.handshake.forgive();
        }
        Ok(peer)
    }

    fn look<T: Transport, P: Platform>(
        &self,
        store: &mut Xenstore<T>,
        disk: &Disk<P>,
        peer: Option<&Peer>,
    ) -> Result<Seen, Error> {
        let mut view = store.view();
        let mut state = |path: &str| -> Result<_, Error> {
            let number = nodes::number(&mut view, path)?;
            Ok(number.and_then(State::from_number))
        };
        let own = state(&format!("{}/state", self.frontend))?;
        let (back, online) = match peer {
            Some(peer) => (
                state(&format!("{}/state", peer.path))?,
                nodes::number(&mut view, &format!("{}/online", peer.path))? == Some(1),
            ),
            None => (None, false),
        };
        Ok(Seen {
            own,
            back,
            online,
            same: peer == self.connected.as_ref(),
            idle: disk.is_idle(),
            broken: disk.is_broken(),
        })
    }

    fn set_state<T: Transport>(&self, store: &mut Xenstore<T>, state: State) -> Result<(), Error> {
        let path = format!("{}/state", self.frontend);
        store.write(&path, state.number().to_string().as_bytes())
    }

    /// Returns whether there may be more to do.
    fn take<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        step: Step,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        match step {
            Step::Nothing => return Ok(false),
            Step::Offer => return self.offer(store, disk, notice),
            Step::Open => return self.open(store, disk, notice),
            Step::Reread => {
                self.reread(store, disk, notice)?;
                return Ok(false);
            }
            Step::Drain => {
                disk.drain();
                self.set_state(store, State::Closing)?;
                self.handshake.enter(Phase::Draining);
                notice(Notice::Closing);
            }
            Step::Close { in_order } => self.close(store, disk, in_order, notice)?,
            Step::Lose => self.let_go(disk, false, notice),
            Step::Revoke => {
                if !disk.revoke() {
                    return Ok(false);
                }
                self.handshake.enter(Phase::Down);
                self.connected = None;
            }
            Step::Write(state) => {
                self.set_state(store, state)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn offer<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        let Some(peer) = self.watched.clone() else {
            return Ok(false);
        };
        let offer = Offer::read(&mut store.view(), &peer.path, disk.config())?;
        let domain = peer.domain;
        self.connected = Some(peer);
        if disk.connect(domain, &offer).is_err() {
            // What was given is taken back, and it is tried again the next time.
            self.handshake.enter(Phase::Closing);
            self.handshake_back_off(disk);
            notice(Notice::NoRoom);
            return Ok(false);
        }
        let published = store.transaction(|view| {
            nodes::publish(view, &self.frontend, disk)?;
            let state = State::Initialised.number().to_string();
            view.write(&format!("{}/state", self.frontend), state.as_bytes())
        });
        // Even an error does not say that nothing was written: the daemon may just not have answered.
        self.handshake.enter(Phase::Offered);
        published.map(|()| true)
    }

    fn handshake_back_off<P: Platform>(&mut self, disk: &mut Disk<P>) {
        if disk.revoke() {
            self.handshake.enter(Phase::Down);
            self.connected = None;
        }
    }

    fn open<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        let Some(peer) = self.connected.clone() else {
            return Ok(false);
        };
        match Properties::read(&mut store.view(), &peer.path)? {
            Ok(properties) => {
                self.set_state(store, State::Connected)?;
                disk.open(properties);
                self.completed = disk.counters().completed;
                self.handshake.enter(Phase::Up);
                notice(Notice::Connected {
                    domain: peer.domain,
                    queues: disk.channels().count(),
                });
            }
            Err(Unusable(node)) => {
                notice(Notice::Unusable(node));
                self.close(store, disk, true, notice)?;
            }
        }
        Ok(true)
    }

    fn reread<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Error> {
        if disk.counters().completed > self.completed {
            self.handshake.forgive();
        }
        let Some(peer) = &self.connected else {
            return Ok(());
        };
        // Nothing else can change while connected. A value that makes no sense changes nothing.
        let known = *disk.properties();
        if let Some(sectors) = nodes::sectors(&mut store.view(), &peer.path, known.sector_size)?
            && sectors != known.sectors
        {
            disk.resize(sectors);
            notice(Notice::Resized(sectors));
        }
        Ok(())
    }

    fn close<T: Transport, P: Platform>(
        &mut self,
        store: &mut Xenstore<T>,
        disk: &mut Disk<P>,
        in_order: bool,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Error> {
        self.set_state(store, State::Closed)?;
        self.let_go(disk, in_order, notice);
        Ok(())
    }

    fn let_go<P: Platform>(
        &mut self,
        disk: &mut Disk<P>,
        in_order: bool,
        notice: &mut dyn FnMut(Notice),
    ) {
        if disk.counters().completed > self.completed {
            self.handshake.forgive();
        }
        disk.disconnect(in_order);
        self.handshake.enter(Phase::Closing);
        notice(Notice::Disconnected { in_order });
    }
}

/// Sets a watch, unless there is one: an earlier attempt may have gone better than it seemed.
fn set_watch<T: Transport>(store: &mut Xenstore<T>, path: &str, token: &str) -> Result<(), Error> {
    match store.watch(path, token) {
        Err(error) if error.refusal() == Some(XsError::EEXIST) => Ok(()),
        result => result,
    }
}
