//! How the driver domain says it is doing.

use core::fmt;

use crate::error::{ConfigError, Excerpt};

/// The value of [`crate::keys::STATUS_STATE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It has booted and waits for a description.
    Waiting,
    /// It has read the description and is setting up.
    Attaching,
    /// It serves the guest.
    Ready,
    /// It could not attach; [`crate::keys::STATUS_ERROR`] says why.
    Failed,
    /// It has released the guest and is about to power off.
    Stopped,
}

impl State {
    /// All states.
    pub const ALL: [State; 5] = [
        State::Waiting,
        State::Attaching,
        State::Ready,
        State::Failed,
        State::Stopped,
    ];

    /// The text in xenstore.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Attaching => "attaching",
            State::Ready => "ready",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }

    /// The state that `text` stands for.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().as_bytes() == text)
            .ok_or_else(|| ConfigError::BadState(Excerpt::new(text)))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_store() {
        for state in State::ALL {
            assert_eq!(State::parse(state.to_string().as_bytes()), Ok(state));
        }
        for bad in ["", "Ready", "ready ", "READY", "\0"] {
            assert!(State::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
