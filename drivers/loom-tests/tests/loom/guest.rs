//! Guest memory in words, each an atomic: of the host for the set-up, of loom for the test.
//!
//! A word is 16 bits, as the rings' indices and flags are. A copy of several bytes is one relaxed access a word, so that
//! it may tear and orders nothing.

use std::cell::RefCell;
use std::sync::Arc;

use loom::sync::atomic::{AtomicU16, Ordering, fence};
use vd_virtio::{Gpa, GuestMemory, MemError};

/// Words that two sides share.
pub(crate) trait Words {
    fn load(&self, at: u64, order: Ordering) -> u16;
    fn store(&self, at: u64, value: u16, order: Ordering);
    fn fence(&self);
    /// Bytes in all.
    fn len(&self) -> u64;
}

/// Words of one side only.
pub(crate) struct Plain(pub(crate) RefCell<Vec<u16>>);

impl Words for Plain {
    fn load(&self, at: u64, _: Ordering) -> u16 {
        self.0.borrow()[at as usize / 2]
    }

    fn store(&self, at: u64, value: u16, _: Ordering) {
        self.0.borrow_mut()[at as usize / 2] = value;
    }

    fn fence(&self) {}

    fn len(&self) -> u64 {
        self.0.borrow().len() as u64 * 2
    }
}

/// Words that loom watches.
#[derive(Clone)]
pub(crate) struct Watched {
    words: Arc<Vec<AtomicU16>>,
    /// Words that both sides write, and what goes with each.
    both: Arc<Vec<(u64, Touch)>>,
}

impl Watched {
    pub(crate) fn new(words: &[u16], both: &[u64]) -> Self {
        Self {
            words: Arc::new(words.iter().map(|&word| AtomicU16::new(word)).collect()),
            both: Arc::new(both.iter().map(|&at| (at, Touch::new())).collect()),
        }
    }

    fn word(&self, at: u64) -> &AtomicU16 {
        if let Some((_, touch)) = self.both.iter().find(|(both, _)| *both == at) {
            touch.touch();
        }
        &self.words[at as usize / 2]
    }
}

/// Goes with a word that one side loads and stores and the other looks at. loom (0.7) remembers only the last access to
/// a word when it decides which order to try next: after the first side's own load it does not try the store before the
/// look. A relaxed exchange before each access makes every two of them a race to it, and orders nothing.
pub(crate) struct Touch(AtomicU16);

impl Touch {
    pub(crate) fn new() -> Self {
        Self(AtomicU16::new(0))
    }

    pub(crate) fn touch(&self) {
        self.0.swap(0, Ordering::Relaxed);
    }
}

impl Words for Watched {
    fn load(&self, at: u64, order: Ordering) -> u16 {
        self.word(at).load(order)
    }

    fn store(&self, at: u64, value: u16, order: Ordering) {
        self.word(at).store(value, order);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn len(&self) -> u64 {
        self.words.len() as u64 * 2
    }
}

/// What is broken on purpose in the device's accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Nothing,
    /// The full barrier does nothing.
    Fence,
    /// Loads are not acquire.
    Load,
    /// Stores are not release.
    Store,
}

/// The device's view.
pub(crate) struct Guest<W> {
    pub(crate) words: W,
    pub(crate) flaw: Flaw,
}

impl<W: Words> Guest<W> {
    fn aligned(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        assert!(
            at.0.is_multiple_of(2) && len.is_multiple_of(2),
            "{at} is not made of words"
        );
        self.check(at, len)
    }
}

impl<W: Words> GuestMemory for Guest<W> {
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        self.aligned(from, into.len() as u64)?;
        for (at, bytes) in (from.0..).step_by(2).zip(into.chunks_mut(2)) {
            bytes.copy_from_slice(&self.words.load(at, Ordering::Relaxed).to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        self.aligned(to, from.len() as u64)?;
        for (at, bytes) in (to.0..).step_by(2).zip(from.chunks(2)) {
            let word = u16::from_le_bytes(bytes.try_into().unwrap());
            self.words.store(at, word, Ordering::Relaxed);
        }
        Ok(())
    }

    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        self.aligned(at, 2)?;
        Ok(self.words.load(
            at.0,
            if self.flaw == Flaw::Load {
                Ordering::Relaxed
            } else {
                Ordering::Acquire
            },
        ))
    }

    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        self.aligned(at, 2)?;
        self.words.store(
            at.0,
            value,
            if self.flaw == Flaw::Store {
                Ordering::Relaxed
            } else {
                Ordering::Release
            },
        );
        Ok(())
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        match at.0.checked_add(len) {
            Some(end) if end <= self.words.len() => Ok(()),
            _ => Err(MemError::new(at, len)),
        }
    }

    fn fence(&self) {
        if self.flaw != Flaw::Fence {
            self.words.fence();
        }
    }
}
