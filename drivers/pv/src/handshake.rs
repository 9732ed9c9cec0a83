//! The states of both ends (public/io/xenbus.h), and what follows from them. No I/O.
//!
//! [`Handshake::observe`] is asked with what was just read, and says what to do; [`Handshake::enter`] is told when that
//! was done. Whatever order the back end's states come in, whatever is missed in between, there is one answer for each.
//!
//! Invariant: after [`MAX_ATTEMPTS`] connections in a row that came to nothing, this side does not begin another one
//! until the toolstack has made the device anew. A back end that fails for ever does not keep anybody busy. One that broke
//! the protocol has come to nothing, but for what it has done before.

/// Most connections in a row that come to nothing.
pub const MAX_ATTEMPTS: u32 = 8;

/// `enum xenbus_state`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Getting ready.
    Initialising = 1,
    /// Waiting for the other end's particulars.
    InitWait = 2,
    /// Waiting for the other end to connect.
    Initialised = 3,
    /// Connected.
    Connected = 4,
    /// About to close.
    Closing = 5,
    /// Closed.
    Closed = 6,
}

impl State {
    /// From the number in xenstore. Numbers without a meaning here are None.
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Initialising,
            2 => Self::InitWait,
            3 => Self::Initialised,
            4 => Self::Connected,
            5 => Self::Closing,
            6 => Self::Closed,
            _ => return None,
        })
    }

    /// The number in xenstore.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Where this side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The back end has nothing of this side.
    Down,
    /// The rings are published.
    Offered,
    /// Connected.
    Up,
    /// The back end wants to close; what is under way is being finished.
    Draining,
    /// This side is done; the back end has to let go.
    Closing,
}

/// What was just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// This side's own state. None if the device is gone.
    pub own: Option<State>,
    /// The back end's. None if it is gone, or makes no sense.
    pub back: Option<State>,
    /// The back end stays when it is closed.
    pub online: bool,
    /// It is the back end of this connection, not another one.
    pub same: bool,
    /// No request is with the back end.
    pub idle: bool,
    /// The back end has broken the protocol on a ring.
    pub broken: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Make rings, publish them, say so by the state.
    Offer,
    /// Read what the device is, become Connected.
    Open,
    /// Read again what may have changed.
    Reread,
    /// Send no more requests, become Closing.
    Drain,
    /// Give up the connection and become Closed; in good order or not.
    Close {
        /// Nothing that was answered can be lost.
        in_order: bool,
    },
    /// Give up the connection. There is nobody to tell.
    Lose,
    /// Take the grants back; if they all are, that is [`Phase::Down`].
    Revoke,
    /// Write this state, for the back end to begin afresh.
    Write(State),
}

/// The states.
#[derive(Clone, Debug)]
pub struct Handshake {
    phase: Phase,
    attempts: u32,
    offered: State,
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// At the beginning.
    pub const fn new() -> Self {
        Self::offering_as(State::Initialised)
    }

    /// At the beginning, of a protocol whose front end is in this state once its rings are published: Initialised, or
    /// Connected.
    pub const fn offering_as(offered: State) -> Self {
        Self {
            phase: Phase::Down,
            attempts: 0,
            offered,
        }
    }

    /// The state of this side once its rings are published.
    pub fn offered_as(&self) -> State {
        self.offered
    }

    /// Where this side is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Connections in a row that came to nothing.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether no other connection is begun.
    pub fn has_given_up(&self) -> bool {
        self.phase == Phase::Down && self.attempts >= MAX_ATTEMPTS
    }

    /// A connection was good for something, but not for all: so many fewer count.
    pub fn forgive_some(&mut self, attempts: u64) {
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        self.attempts = self.attempts.saturating_sub(attempts);
    }

    /// A connection was good for something, or the toolstack has made the device anew.
    pub fn forgive(&mut self) {
        self.attempts = 0;
    }

    /// What was said to do is done.
    pub fn enter(&mut self, phase: Phase) {
        if phase == Phase::Offered {
            self.attempts = self.attempts.saturating_add(1);
        }
        self.phase = phase;
    }

    /// What to do.
    pub fn observe(&self, seen: &Seen) -> Step {
        match self.phase {
            Phase::Down => self.down(seen),
            Phase::Offered => self.offered(seen),
            Phase::Up => Self::up(seen),
            Phase::Draining => Self::draining(seen),
            Phase::Closing => Self::closing(seen),
        }
    }

    /// What to do when this side wants to close, and not to begin again.
    pub fn retreat(&self, seen: &Seen) -> Step {
        match self.phase {
            Phase::Down => Step::Nothing,
            Phase::Offered if Self::is_other(seen, self.offered) => Step::Lose,
            Phase::Offered => Step::Close { in_order: true },
            Phase::Up if Self::is_other(seen, State::Connected) => Step::Lose,
            Phase::Draining if Self::is_other(seen, State::Closing) => Step::Lose,
            Phase::Up | Phase::Draining if seen.broken => Step::Close { in_order: false },
            Phase::Up => Step::Drain,
            Phase::Draining if seen.idle => Step::Close { in_order: true },
            Phase::Draining => match seen.back {
                // It answers still.
                Some(State::Connected | State::Closing) => Step::Nothing,
                _ => Step::Close { in_order: false },
            },
            Phase::Closing => Self::closing(seen),
        }
    }

    fn down(&self, seen: &Seen) -> Step {
        let (Some(own), Some(back)) = (seen.own, seen.back) else {
            return Step::Nothing;
        };
        if self.has_given_up() {
            return Step::Nothing;
        }
        match back {
            // A back end may go past InitWait by itself.
            State::InitWait | State::Initialised => Step::Offer,
            // It is connected to somebody before this side.
            State::Connected | State::Closing if own != State::Closed => Step::Write(State::Closed),
            State::Closed if seen.online && own != State::Initialising => {
                Step::Write(State::Initialising)
            }
            _ => Step::Nothing,
        }
    }

    /// Whether the back end, or the whole device, is another one than that of this connection.
    fn is_other(seen: &Seen, own: State) -> bool {
        seen.own != Some(own) || seen.back.is_none() || !seen.same
    }

    fn offered(&self, seen: &Seen) -> Step {
        if Self::is_other(seen, self.offered) {
            return Step::Lose;
        }
        match seen.back {
            Some(State::Connected) => Step::Open,
            Some(State::Closing | State::Closed) => Step::Close { in_order: true },
            _ => Step::Nothing,
        }
    }

    fn up(seen: &Seen) -> Step {
        if Self::is_other(seen, State::Connected) {
            return Step::Lose;
        }
        match seen.back {
            _ if seen.broken => Step::Close { in_order: false },
            Some(State::Connected) => Step::Reread,
            Some(State::Closing) => Step::Drain,
            // It did not wait for this side, so it may have dropped something.
            _ => Step::Close { in_order: false },
        }
    }

    fn draining(seen: &Seen) -> Step {
        if Self::is_other(seen, State::Closing) {
            return Step::Lose;
        }
        match seen.back {
            _ if seen.broken => Step::Close { in_order: false },
            Some(State::Closing) if seen.idle => Step::Close { in_order: true },
            Some(State::Closing) => Step::Nothing,
            _ => Step::Close { in_order: false },
        }
    }

    fn closing(seen: &Seen) -> Step {
        if Self::is_other(seen, State::Closed) {
            return Step::Revoke;
        }
        match seen.back {
            Some(State::Initialised | State::Connected | State::Closing) => Step::Nothing,
            _ => Step::Revoke,
        }
    }
}

#[cfg(test)]
mod tests;
