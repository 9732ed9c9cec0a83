//! A device and its nodes in xenstore: what the kernel runs when a watch fires, when the device has something to say, and
//! every so often.
//!
//! Invariant: a step counts as done when all of it is; one that fails on the way is taken back, or done again.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vd_xenbus::number;
use vd_xenbus::store::View;
use vd_xenbus::{Error, Transport, WatchEvent, Xenstore, XsError};

use crate::handshake::{Handshake, Phase, Seen, State, Step};
use crate::nodes;
use crate::sort_by_key;

/// Most steps at once: more than any sequence has.
const MAX_STEPS: usize = 8;
/// Longest path of a back end.
const MAX_PATH: usize = 256;

/// What a back end that breaks the protocol has to have done for one attempt not to count: more than it costs to connect.
const WORK: u64 = 256;

/// Most devices that are looked for.
const MAX_DEVICES: usize = 64;

/// The numbers of the devices of a kind (`vbd`, `vif`) that the toolstack has given this domain, in order.
///
/// # Errors
/// Trouble with xenstore.
pub fn devices<T: Transport>(store: &mut Xenstore<T>, kind: &str) -> Result<Vec<u32>, Error> {
    let names = nodes::optional(store.directory(&format!("device/{kind}")))?.unwrap_or_default();
    let mut list: Vec<u32> = names
        .iter()
        .filter_map(|name| number::parse(name).filter(|n: &u32| n.to_string() == *name))
        .take(MAX_DEVICES)
        .collect();
    sort_by_key(&mut list, |&number| number);
    Ok(list)
}

/// There is no room for a grant or an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Why a device cannot be used: the node without which, or with whose value, nothing can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable(pub &'static str);

/// The front end of a device: its rings, and what it says of itself in xenstore.
pub trait Front {
    /// The kind of device, as its path has it.
    const KIND: &'static str;
    /// The state of this side once its rings are published.
    const OFFERED: State;
    /// What a back end says of the device once it is connected.
    type Properties;

    /// Lets a back end in, whose nodes are at `backend`: makes rings and event channels. [`Front::revoke`] takes back
    /// what was given.
    ///
    /// # Errors
    /// Trouble with xenstore. The result inside says whether there was room.
    fn connect<T: Transport>(
        &mut self,
        view: &mut View<'_, T>,
        backend: &str,
        domain: u16,
    ) -> Result<Result<(), NoRoom>, Error>;

    /// Tells the back end where the rings are. The state is written by the caller.
    ///
    /// # Errors
    /// Trouble with xenstore.
    fn publish<T: Transport>(&self, view: &mut View<'_, T>, frontend: &str) -> Result<(), Error>;

    /// Reads what the device is.
    ///
    /// # Errors
    /// Trouble with xenstore. The result inside says whether the device can be used.
    fn properties<T: Transport>(
        &self,
        view: &mut View<'_, T>,
        backend: &str,
    ) -> Result<Result<Self::Properties, Unusable>, Error>;

    /// The back end is ready.
    fn open(&mut self, properties: Self::Properties);

    /// Reads again what may change while connected. Gives the new size, of a device that has one.
    ///
    /// # Errors
    /// Trouble with xenstore.
    fn reread<T: Transport>(
        &mut self,
        view: &mut View<'_, T>,
        backend: &str,
    ) -> Result<Option<u64>, Error>;

    /// How many rings, or pairs of them, there are.
    fn queues(&self) -> usize;

    /// What it has done so far, by the back end's answers: more than before if a connection was good for something.
    fn progress(&self) -> u64;

    /// Whether no request is with the back end that has to be waited for.
    fn is_idle(&self) -> bool;

    /// Whether the back end is not believed any more.
    fn is_broken(&self) -> bool;

    /// No more requests go out.
    fn drain(&mut self);

    /// The connection is over. In good order means that the back end has answered everything and lives on.
    fn disconnect(&mut self, in_order: bool);

    /// Takes the grants back, as far as the back end has let go. Returns whether none is left.
    fn revoke(&mut self) -> bool;
}

/// What has happened, for a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The device can be used.
    Connected {
        /// By which domain.
        domain: u16,
        /// With how many rings.
        queues: usize,
    },
    /// The device has another size: a device, in sectors of 512 bytes.
    Resized(u64),
    /// The back end wants to close.
    Closing,
    /// The connection has ended; requests wait for another one, or are dropped.
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

/// The control plane of one device.
#[derive(Debug)]
pub struct Control {
    frontend: String,
    token: String,
    handshake: Handshake,
    /// Whose nodes are watched.
    watched: Option<Peer>,
    /// With whom the connection is.
    connected: Option<Peer>,
    /// What the device had done when the last connection was made.
    progress: u64,
}

impl Control {
    /// The device of this number, of the kind that `F` is for.
    pub fn of<F: Front>(device: u32) -> Self {
        let kind = F::KIND;
        Self {
            frontend: format!("device/{kind}/{device}"),
            token: format!("{kind}-{device}"),
            handshake: Handshake::offering_as(F::OFFERED),
            watched: None,
            connected: None,
            progress: 0,
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

    /// Ends: nothing is watched any more.
    pub fn unwatch<T: Transport>(&mut self, store: &mut Xenstore<T>) {
        // It is gone when the daemon was restarted.
        let _ = store.unwatch(&self.frontend, &self.token);
        if let Some(peer) = self.watched.take() {
            let _ = store.unwatch(&peer.path, &self.token);
        }
    }

    /// Where its nodes are.
    pub fn path(&self) -> &str {
        &self.frontend
    }

    /// Whether an event is for this device.
    pub fn is_mine(&self, event: &WatchEvent) -> bool {
        event.token == self.token
    }

    /// Where this side is.
    pub fn phase(&self) -> Phase {
        self.handshake.phase()
    }

    /// Does what is to be done. To be called when one of its watches fires, when [`Front::is_broken`] or
    /// [`Front::is_idle`] change, and every so often, as a back end may be late in letting go. Calls `notice` for what
    /// has happened.
    ///
    /// # Errors
    /// Trouble with xenstore: to be tried again later.
    pub fn run<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Error> {
        for _ in 0..MAX_STEPS {
            let peer = self.follow(store)?;
            let seen = self.look(store, device, peer.as_ref())?;
            // The toolstack has taken the device away, or made it anew: this side writes no Initialising once it has
            // given up.
            let anew = matches!(seen.own, None | Some(State::Initialising));
            if anew && self.handshake.has_given_up() {
                self.handshake.forgive();
            }
            let step = self.handshake.observe(&seen);
            if !self.take(store, device, step, notice)? {
                break;
            }
        }
        Ok(())
    }

    /// Closes the connection from this side, as before the end of the domain. To be called again, after the same events
    /// as [`Control::run`], until it returns true: then the back end has answered what it had been asked and has let go of
    /// everything. What was not sent is not sent any more.
    ///
    /// # Errors
    /// Trouble with xenstore: to be tried again later.
    pub fn shut_down<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        for _ in 0..MAX_STEPS {
            let peer = self.follow(store)?;
            let seen = self.look(store, device, peer.as_ref())?;
            let step = self.handshake.retreat(&seen);
            if !self.take(store, device, step, notice)? {
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

    fn look<T: Transport, F: Front>(
        &self,
        store: &mut Xenstore<T>,
        device: &F,
        peer: Option<&Peer>,
    ) -> Result<Seen, Error> {
        let mut view = store.view();
        let mut state = |path: &str| -> Result<_, Error> {
            let number = nodes::number(&mut view, format_args!("{path}"))?;
            Ok(number.and_then(State::from_number))
        };
        let own = state(&format!("{}/state", self.frontend))?;
        let (back, online) = match peer {
            Some(peer) => (
                state(&format!("{}/state", peer.path))?,
                nodes::number(&mut view, format_args!("{}/online", peer.path))? == Some(1),
            ),
            None => (None, false),
        };
        Ok(Seen {
            own,
            back,
            online,
            same: peer == self.connected.as_ref(),
            idle: device.is_idle(),
            broken: device.is_broken(),
        })
    }

    fn set_state<T: Transport>(&self, store: &mut Xenstore<T>, state: State) -> Result<(), Error> {
        let path = format!("{}/state", self.frontend);
        store.write(&path, state.number().to_string().as_bytes())
    }

    /// Returns whether there may be more to do.
    fn take<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        step: Step,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        match step {
            Step::Nothing => return Ok(false),
            Step::Offer => return self.offer(store, device, notice),
            Step::Open => return self.open(store, device, notice),
            Step::Reread => {
                self.reread(store, device, notice)?;
                return Ok(false);
            }
            Step::Drain => {
                device.drain();
                self.set_state(store, State::Closing)?;
                self.handshake.enter(Phase::Draining);
                notice(Notice::Closing);
            }
            Step::Close { in_order } => self.close(store, device, in_order, notice)?,
            Step::Lose => self.let_go(device, false, notice),
            Step::Revoke => {
                if !device.revoke() {
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

    fn offer<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        let Some(peer) = self.watched.clone() else {
            return Ok(false);
        };
        let domain = peer.domain;
        let connected = device.connect(&mut store.view(), &peer.path, domain)?;
        self.connected = Some(peer);
        if connected.is_err() {
            // What was given is taken back, and it is tried again the next time.
            self.handshake.enter(Phase::Closing);
            self.handshake_back_off(device);
            notice(Notice::NoRoom);
            return Ok(false);
        }
        let published = store.transaction(|view| {
            device.publish(view, &self.frontend)?;
            let state = self.handshake.offered_as().number().to_string();
            view.write(&format!("{}/state", self.frontend), state.as_bytes())
        });
        // Even an error does not say that nothing was written: the daemon may just not have answered.
        self.handshake.enter(Phase::Offered);
        published.map(|()| true)
    }

    fn handshake_back_off<F: Front>(&mut self, device: &mut F) {
        if device.revoke() {
            self.handshake.enter(Phase::Down);
            self.connected = None;
        }
    }

    fn open<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<bool, Error> {
        let Some(peer) = self.connected.clone() else {
            return Ok(false);
        };
        match device.properties(&mut store.view(), &peer.path)? {
            Ok(properties) => {
                self.set_state(store, State::Connected)?;
                device.open(properties);
                self.progress = device.progress();
                self.handshake.enter(Phase::Up);
                notice(Notice::Connected {
                    domain: peer.domain,
                    queues: device.queues(),
                });
            }
            Err(Unusable(node)) => {
                notice(Notice::Unusable(node));
                self.close(store, device, true, notice)?;
            }
        }
        Ok(true)
    }

    fn reread<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Error> {
        let Some(peer) = &self.connected else {
            return Ok(());
        };
        if let Some(size) = device.reread(&mut store.view(), &peer.path)? {
            notice(Notice::Resized(size));
        }
        Ok(())
    }

    fn close<T: Transport, F: Front>(
        &mut self,
        store: &mut Xenstore<T>,
        device: &mut F,
        in_order: bool,
        notice: &mut dyn FnMut(Notice),
    ) -> Result<(), Error> {
        self.set_state(store, State::Closed)?;
        self.let_go(device, in_order, notice);
        Ok(())
    }

    fn let_go<F: Front>(&mut self, device: &mut F, in_order: bool, notice: &mut dyn FnMut(Notice)) {
        let done = device.progress().saturating_sub(self.progress);
        self.progress = device.progress();
        if device.is_broken() {
            self.handshake.forgive_some(done / WORK);
        } else if done != 0 {
            self.handshake.forgive();
        }
        device.disconnect(in_order);
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
