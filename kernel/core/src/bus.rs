//! The back end's side of a xenbus device: what is offered to a guest's driver, and what it answers.
//!
//! Invariants: everything that the guest writes is checked before it is used, and what is refused is named; a front
//! end is connected once between two closings, with what it had written when it said that it was initialised.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vd_config::xenbus::{self, BackendPath, BusState, FrontendPath};
use vd_config::{Doorbell, Interrupt, Memory, SlotIndex};
use vd_xenbus::Error;
use vd_xenbus::XsError;
use vd_xenbus::number;
use vd_xenbus::store::Xenstore;
use vd_xenbus::transport::Transport;

/// Most bytes of a number that a guest writes.
const NUMBER: usize = 24;

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The guest's domain id.
    pub guest: u16,
    /// The device's slot.
    pub slot: SlotIndex,
    /// How it will be interrupted.
    pub interrupt: Interrupt,
    /// How it may kick.
    pub doorbell: Doorbell,
    /// How many queues there are.
    pub queues: u16,
    /// How the driver's memory is shared.
    pub memory: Memory,
}

/// How the driver wants to be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// By an event on this port of its domain.
    Port(u32),
    /// By this message to its local APIC.
    Message {
        /// Where to.
        address: u64,
        /// What.
        data: u32,
    },
}

/// What a driver has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it wants to be interrupted.
    pub interrupt: Target,
    /// The port of its domain that rings for each queue, if it rings that way.
    pub doorbells: Vec<u32>,
}

/// What has to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Bind what the driver has made, and then [`Link::connected`] or [`Link::refuse`].
    Connect(Answer),
    /// The driver has gone: give up what was bound. The link is closed.
    Disconnect,
}

/// Why a front end gets no further. The device's registers work all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// xenstore, or the connection to it.
    Store(Error),
    /// What the guest has written makes no sense.
    Guest(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl core::fmt::Display for Trouble {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Store(error) => write!(f, "xenstore: {error}"),
            Self::Guest(what) => f.write_str(what),
        }
    }
}

/// One device's connection to its driver.
#[derive(Clone, Debug)]
pub struct Link {
    offer: Offer,
    state: BusState,
}

impl Link {
    /// A link that offers nothing yet.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        Self {
            offer,
            state: BusState::Initialising,
        }
    }

    /// What is offered.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// How far this end is.
    #[must_use]
    pub fn state(&self) -> BusState {
        self.state
    }

    /// The node to watch.
    #[must_use]
    pub fn watched(&self) -> String {
        self.theirs(xenbus::STATE)
    }

    fn ours(&self, key: &str) -> String {
        let Offer { guest, slot, .. } = self.offer;
        let path = BackendPath {
            driver: None,
            guest,
            slot,
        };
        format!("{path}/{key}")
    }

    fn theirs(&self, key: &str) -> String {
        let Offer { guest, slot, .. } = self.offer;
        format!("{}/{key}", FrontendPath { guest, slot })
    }

    /// Writes the offer and waits for the driver.
    ///
    /// # Errors
    /// xenstore's.
    pub fn open<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<(), Error> {
        let Offer {
            slot,
            interrupt,
            doorbell,
            memory,
            ..
        } = self.offer;
        let mut pairs = Vec::from([
            (xenbus::BASE, format!("{:#x}", slot.base())),
            (xenbus::SIZE, xenbus::SIZE_VALUE.to_string()),
            (xenbus::INTERRUPT, interrupt.as_str().into()),
            (xenbus::DOORBELL, doorbell.as_str().into()),
        ]);
        if doorbell == Doorbell::Port {
            pairs.push((xenbus::DOORBELL_PORT, slot.doorbell_port().to_string()));
        }
        if memory == Memory::Grants {
            pairs.push((xenbus::MEMORY, memory.as_str().into()));
        }
        for (key, value) in pairs {
            store.write(&self.ours(key), value.as_bytes())?;
        }
        self.go(store, BusState::InitWait)
    }

    fn go<T: Transport>(&mut self, store: &mut Xenstore<T>, state: BusState) -> Result<(), Error> {
        store.write(&self.ours(xenbus::STATE), state.as_str().as_bytes())?;
        self.state = state;
        Ok(())
    }

    /// Looks at the front end's state, which may have changed, and moves along.
    ///
    /// # Errors
    /// [`Trouble`]; after the guest's the link is closed, until the driver starts over.
    pub fn look<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<Step, Trouble> {
        let (theirs, nonsense) = self.their_state(store)?;
        let step = self.follow(store, theirs)?;
        match nonsense {
            // Said once a look: what is bound goes in any case.
            Some(trouble) if step == Step::Nothing => Err(trouble),
            _ => Ok(step),
        }
    }

    fn follow<T: Transport>(
        &mut self,
        store: &mut Xenstore<T>,
        theirs: BusState,
    ) -> Result<Step, Trouble> {
        match (self.state, theirs) {
            (BusState::InitWait, BusState::Initialised) => match self.answer(store) {
                Ok(answer) => Ok(Step::Connect(answer)),
                Err(trouble) => {
                    self.refuse(store)?;
                    Err(trouble)
                }
            },
            (BusState::InitWait, BusState::Closing | BusState::Closed) => {
                self.go(store, BusState::Closed)?;
                Ok(Step::Nothing)
            }
            (
                BusState::Connected,
                BusState::Closing | BusState::Closed | BusState::Unknown | BusState::Initialising,
            ) => {
                self.state = BusState::Closed;
                // A guest that is gone has taken its directory along; ours is there still. What is bound goes even if
                // that cannot be said.
                let _ = self.go(store, BusState::Closed);
                Ok(Step::Disconnect)
            }
            (BusState::Closed, BusState::Initialising) => {
                self.open(store)?;
                Ok(Step::Nothing)
            }
            _ => Ok(Step::Nothing),
        }
    }

    /// What the driver has made is bound.
    ///
    /// # Errors
    /// xenstore's.
    pub fn connected<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<(), Error> {
        self.go(store, BusState::Connected)
    }

    /// What the driver has made cannot be bound.
    ///
    /// # Errors
    /// xenstore's.
    pub fn refuse<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<(), Error> {
        self.go(store, BusState::Closed)
    }

    /// The front end's state, and what is wrong if it is none.
    fn their_state<T: Transport>(
        &self,
        store: &mut Xenstore<T>,
    ) -> Result<(BusState, Option<Trouble>), Error> {
        match store.read(&self.theirs(xenbus::STATE)) {
            Ok(value) => {
                let state = BusState::parse(&value);
                // What was never written is empty.
                let nonsense = state == BusState::Unknown && !value.is_empty();
                let nonsense = nonsense
                    .then(|| Trouble::Guest(format!("front end: {} is no state", xenbus::STATE)));
                Ok((state, nonsense))
            }
            // With a guest that is gone its directory is gone, and with that the right to look.
            Err(error) if matches!(error.refusal(), Some(XsError::ENOENT | XsError::EACCES)) => {
                Ok((BusState::Unknown, None))
            }
            Err(error) => Err(error),
        }
    }

    fn answer<T: Transport>(&self, store: &mut Xenstore<T>) -> Result<Answer, Trouble> {
        let interrupt = match self.offer.interrupt {
            Interrupt::Msi => {
                let address = self.number(store, xenbus::MSI_ADDRESS)?;
                let data = self.number(store, xenbus::MSI_DATA)?;
                check_message(address, data)?
            }
            _ => Target::Port(self.port(store, xenbus::EVENT_CHANNEL)?),
        };
        let mut doorbells = Vec::new();
        if self.offer.doorbell == Doorbell::EventChannel {
            for queue in 0..self.offer.queues {
                let key = format!("{}{queue}", xenbus::DOORBELL_EVENT_CHANNEL);
                // A driver that does not know of these doorbells writes to QueueNotify, which works as ever.
                match self.port(store, &key) {
                    Ok(port) => doorbells.push(port),
                    Err(Trouble::Store(error)) if error.refusal() == Some(XsError::ENOENT) => break,
                    Err(trouble) => return Err(trouble),
                }
            }
        }
        Ok(Answer {
            interrupt,
            doorbells,
        })
    }

    fn number<T: Transport>(&self, store: &mut Xenstore<T>, key: &str) -> Result<u64, Trouble> {
        let text = store.read(&self.theirs(key))?;
        Some(&text)
            .filter(|text| text.len() <= NUMBER)
            .and_then(|text| number::parse_digits(text))
            .ok_or_else(|| Trouble::Guest(format!("front end: {key} is no number")))
    }

    fn port<T: Transport>(&self, store: &mut Xenstore<T>, key: &str) -> Result<u32, Trouble> {
        let number = self.number(store, key)?;
        match u32::try_from(number) {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(Trouble::Guest(format!(
                "front end: {key} is no port of an event channel"
            ))),
        }
    }
}

/// Only what a device may send: a vector that is no exception, in fixed mode, edge-triggered, to a local APIC. The end of a
/// level-triggered interrupt is the I/O APIC's business, which this guest does not have.
fn check_message(address: u64, data: u64) -> Result<Target, Trouble> {
    const LOCAL_APICS: core::ops::RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;
    const DELIVERY_MODE: u64 = 0x700;
    /// Trigger mode, and the level that goes with it.
    const LEVEL: u64 = 0xc000;
    let vector = data & 0xff;
    match u32::try_from(data) {
        Ok(data)
            if LOCAL_APICS.contains(&address)
                && vector >= 0x10
                && u64::from(data) & (DELIVERY_MODE | LEVEL) == 0 =>
        {
            Ok(Target::Message { address, data })
        }
        _ => Err(Trouble::Guest(format!(
            "front end: {}={address}, {}={data} is no edge-triggered vector of a local APIC in fixed mode",
            xenbus::MSI_ADDRESS,
            xenbus::MSI_DATA
        ))),
    }
}

#[cfg(test)]
mod tests;
