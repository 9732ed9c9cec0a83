//! Watch events, queued with a bound.
//!
//! Invariant: the queue holds at most [`MAX_EVENTS`] events and [`MAX_BYTES`] bytes, and one event of each token. When something
//! had to be dropped the queue says so once, which means: read everything again, as if every watch had fired.
//!
//! A token names what has to be read again. Who may write below a watched path chooses the paths that fire, and could fill
//! the queue with them; tokens are this domain's own.

use alloc::collections::VecDeque;
use alloc::string::String;

/// Most events that wait.
pub const MAX_EVENTS: usize = 64;
/// Most bytes (paths and tokens) that wait.
pub const MAX_BYTES: usize = 16 * 1024;

/// A watch has fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The path that changed; relative if the watch's was.
    pub path: String,
    /// The token that the watch was set with.
    pub token: String,
}

impl WatchEvent {
    fn bytes(&self) -> usize {
        self.path.len().saturating_add(self.token.len())
    }
}

/// The bounded queue.
#[derive(Debug, Default)]
pub struct WatchQueue {
    events: VecDeque<WatchEvent>,
    bytes: usize,
    overflowed: bool,
}

impl WatchQueue {
    /// Queues an event, unless one of that token waits already or there is no room. Being told of a change twice says no
    /// more than being told once, as long as nobody has looked in between.
    pub fn push(&mut self, event: WatchEvent) {
        let mut waiting = self.events.iter();
        if waiting.any(|other| other.token == event.token) {
            return;
        }
        let bytes = self.bytes.saturating_add(event.bytes());
        if self.events.len() >= MAX_EVENTS || bytes > MAX_BYTES {
            self.overflowed = true;
            return;
        }
        self.bytes = bytes;
        self.events.push_back(event);
    }

    /// The oldest event.
    pub fn pop(&mut self) -> Option<WatchEvent> {
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.bytes());
        Some(event)
    }

    /// Whether events were dropped since the last call.
    pub fn take_overflow(&mut self) -> bool {
        core::mem::take(&mut self.overflowed)
    }

    /// Drops every event and says so.
    pub fn lose_all(&mut self) {
        self.events.clear();
        self.bytes = 0;
        self.overflowed = true;
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
