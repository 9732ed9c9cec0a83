//! Watch events, queued with a bound.
//!
//! Invariant: the queue holds at most [`MAX_EVENTS`] events and [`MAX_BYTES`] bytes, and no event twice. When something
//! had to be dropped the queue says so once, which means: read everything again, as if every watch had fired.
//!
//! Events for another domain's nodes (with an absolute path) are the same if their tokens are: that domain chooses the
//! paths, and could fill the queue with them; tokens are this domain's own, and name what has to be read again.

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
    /// Whether it says no more than another one.
    fn says_the_same(&self, other: &Self) -> bool {
        let foreign = |event: &Self| event.path.starts_with('/');
        let path = self.path == other.path || (foreign(self) && foreign(other));
        path && self.token == other.token
    }

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
    /// Queues an event, unless it waits already or there is no room. Being told of a change twice says no more than
    /// being told once, as long as nobody has looked in between.
    pub fn push(&mut self, event: WatchEvent) {
        let mut waiting = self.events.iter();
        if waiting.any(|other| other.says_the_same(&event)) {
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
