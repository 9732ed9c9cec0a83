//! Answering every slot with nothing but the page: for a driver domain that is about to stop.
//!
//! A vCPU whose request is never answered stays blocked until its guest is destroyed. So the panic path calls
//! [`answer_all`], sends the events, disables the server, calls [`answer_all`] once more (a request can have come in
//! between), and destroys the server.
//!
//! Invariant: no lock, no allocation and no state but the page's; states only go forward here as well.

use crate::page::SlotPage;
use crate::slot::State;
use crate::types::{Direction, SlotIndex};

/// Slots that a set can hold: the most vCPUs that any guest has.
pub const MAX_SLOTS: usize = 4096;
const WORDS: usize = MAX_SLOTS >> 6;

/// A set of slots: those whose ports want an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSet {
    words: [u64; WORDS],
}

impl SlotSet {
    /// No slot.
    pub const fn new() -> Self {
        SlotSet { words: [0; WORDS] }
    }

    /// Adds a slot; one that is not below [`MAX_SLOTS`] is not taken.
    pub fn insert(&mut self, slot: SlotIndex) {
        if let Some(word) = self.words.get_mut(slot.index() >> 6) {
            *word |= 1 << (slot.0 & 63);
        }
    }

    /// Whether the slot is in the set.
    pub fn contains(&self, slot: SlotIndex) -> bool {
        self.words
            .get(slot.index() >> 6)
            .is_some_and(|word| word & (1 << (slot.0 & 63)) != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        (0..4096_u16)
            .map(SlotIndex)
            .filter(|slot| self.contains(*slot))
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

/// Answers every slot that is READY or INPROCESS: zero for reads, writes dropped. Returns the slots to notify.
///
/// A vCPU that asks now most likely asks why it was interrupted. To a driver all ones would mean that its device's
/// configuration has changed, and to read that would give all ones again: a disk without an end. Zero means that it was not
/// this device.
pub fn answer_all<P: SlotPage + ?Sized>(page: &P) -> SlotSet {
    let mut answered = SlotSet::new();
    let slots = page.slots().min(MAX_SLOTS);
    for slot in (0..4096_u16).map(SlotIndex).take(slots) {
        let control = page.control(slot);
        if !matches!(control.state(), Some(State::Ready | State::InProcess)) {
            continue;
        }
        if control.dir() == Direction::Read && !control.data_is_ptr() {
            page.store_data(slot, 0);
        }
        page.store_control(slot, control.with_state(State::RespReady));
        answered.insert(slot);
    }
    answered
}
