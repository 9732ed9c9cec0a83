//! What the interrupt handler leaves for the main loop: bits in words that both change, and the decision to sleep.
//!
//! Invariants:
//! - a bit is set before what tells of it ([`Kicks::ring`] calls `tell` last), and taken in the other order, so that
//!   whoever has been told finds the bit;
//! - between the last look at the marks and the sleep no interrupt is taken ([`sleep_unless`]).
//!
//! Everything is generic over the word, so that the crate `vd-loom` can try it with every order that the memory model
//! allows.

use core::sync::atomic::{AtomicU64, Ordering};

/// A word of bits that several contexts change.
pub trait Word {
    /// Its value.
    fn load(&self, order: Ordering) -> u64;
    /// Sets it; returns what it was.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Sets bits; returns what it was.
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    /// Clears the bits that `keep` does not have; returns what it was.
    fn fetch_and(&self, keep: u64, order: Ordering) -> u64;
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }

    #[inline]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.fetch_or(bits, order)
    }

    #[inline]
    fn fetch_and(&self, keep: u64, order: Ordering) -> u64 {
        self.fetch_and(keep, order)
    }
}

/// Things that happened and that the main loop has not looked at yet, a bit each.
#[derive(Debug)]
pub struct Marks<W>(W);

impl<W: Word> Marks<W> {
    /// Marks in `word`.
    pub const fn new(word: W) -> Self {
        Self(word)
    }

    /// Sets the marks of `bits`. What was written before is seen by whoever takes them.
    pub fn mark(&self, bits: u64) {
        self.0.fetch_or(bits, Ordering::Release);
    }

    /// Takes all marks.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Acquire)
    }

    /// Takes the marks of `bits` alone; returns whether there was one.
    pub fn take_if(&self, bits: u64) -> bool {
        self.0.fetch_and(!bits, Ordering::AcqRel) & bits != 0
    }

    /// Whether there is a mark of `bits`.
    pub fn is_marked(&self, bits: u64) -> bool {
        self.0.load(Ordering::Acquire) & bits != 0
    }
}

/// Queues that were kicked, a bit a queue, by device. Queue 63 stands for itself and all above.
#[derive(Debug)]
pub struct Kicks<W, const DEVICES: usize>([W; DEVICES]);

impl<W: Word, const DEVICES: usize> Kicks<W, DEVICES> {
    /// Kicks in `words`, which are zero.
    pub const fn new(words: [W; DEVICES]) -> Self {
        Self(words)
    }

    /// Marks a queue of a device; then `tell` has to mark for the main loop that there is something. A device that
    /// does not exist is nothing to tell of.
    pub fn ring(&self, device: usize, queue: u64, tell: impl FnOnce()) {
        if let Some(word) = self.0.get(device) {
            word.fetch_or(1 << queue.min(63), Ordering::Release);
            tell();
        }
    }

    /// Takes the queues of a device that were kicked.
    pub fn take(&self, device: usize) -> u64 {
        self.0.get(device).map_or(0, |word| {
            // A load is cheaper than a locked exchange, and nearly always enough. It need not order anything: a kick
            // that it misses has its mark still to come, and the mark's taker does not miss it.
            if word.load(Ordering::Relaxed) == 0 {
                0
            } else {
                word.swap(0, Ordering::Acquire)
            }
        })
    }
}

/// The CPU's interrupt flag.
pub trait Cpu {
    /// Lets no interrupt in.
    fn mask(&self);
    /// Lets interrupts in.
    fn unmask(&self);
    /// Lets interrupts in and waits for one; one that is due already ends the wait at once.
    fn unmask_and_wait(&self);
}

/// Sleeps until an interrupt comes, unless `done` says that there is something to do. `asleep` is called before the
/// sleep, with interrupts masked.
pub fn sleep_unless(cpu: &impl Cpu, done: impl FnOnce() -> bool, asleep: impl FnOnce()) {
    cpu.mask();
    if done() {
        cpu.unmask();
        return;
    }
    asleep();
    cpu.unmask_and_wait();
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn kicks_come_once_and_by_device() {
        let kicks = Kicks::new([const { AtomicU64::new(0) }; 2]);
        let marks = Marks::new(AtomicU64::new(0));
        for (device, queue) in [(0, 3), (1, 0), (1, 62), (1, 63), (1, 70), (2, 0)] {
            kicks.ring(device, queue, || marks.mark(1));
        }
        assert_eq!(kicks.take(0), 1 << 3);
        assert_eq!(kicks.take(1), 1 | 1 << 62 | 1 << 63);
        assert_eq!((kicks.take(0), kicks.take(1), kicks.take(2)), (0, 0, 0));
    }

    #[test]
    fn a_device_that_does_not_exist_marks_nothing() {
        let kicks = Kicks::new([AtomicU64::new(0)]);
        kicks.ring(1, 0, || panic!("told"));
    }

    #[test]
    fn marks_are_taken_together_or_alone() {
        let marks = Marks::new(AtomicU64::new(0));
        marks.mark(5);
        assert!(marks.is_marked(4) && !marks.is_marked(2));
        assert!(marks.take_if(4) && !marks.take_if(4));
        marks.mark(2);
        assert_eq!((marks.take(), marks.take()), (3, 0));
    }

    struct Trace(RefCell<Vec<&'static str>>);

    impl Cpu for Trace {
        fn mask(&self) {
            self.0.borrow_mut().push("mask");
        }

        fn unmask(&self) {
            self.0.borrow_mut().push("unmask");
        }

        fn unmask_and_wait(&self) {
            self.0.borrow_mut().push("wait");
        }
    }

    #[test]
    fn the_last_look_is_with_interrupts_masked() {
        for (done, expected) in [
            (true, &["mask", "look", "unmask"][..]),
            (false, &["mask", "look", "asleep", "wait"][..]),
        ] {
            let cpu = Trace(RefCell::default());
            let note = |what| cpu.0.borrow_mut().push(what);
            let look = || {
                note("look");
                done
            };
            sleep_unless(&cpu, look, || note("asleep"));
            assert_eq!(*cpu.0.borrow(), expected);
        }
    }
}
