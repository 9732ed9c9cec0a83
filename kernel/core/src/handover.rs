//! What the interrupt handler leaves for the main loop: bits in words that both change, and the decision to sleep.
//!
//! Invariants:
//! - a bit is set before what tells of it ([`Kicks::ring`] sets the queue's, the device's and the bit of what is due, and calls
//!   `tell` last), and taken in the other order, so that whoever has been told finds the bit;
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

/// A queue was kicked, and the lower half of its word is the value of the kick.
const KICKED: u64 = 1 << 32;
/// There is no one value: it was kicked more than once, or without one.
const AGAIN: u64 = 1 << 33;

/// Queues that were kicked, by device, with the values that the guest wrote.
///
/// Of two kicks the later one may have the older value, as vCPUs make them independently: so with several kicks between
/// two looks there is no value.
#[derive(Debug)]
pub struct Kicks<W, const DEVICES: usize, const QUEUES: usize> {
    /// A bit a device that was kicked.
    due: W,
    /// A bit a queue.
    devices: [W; DEVICES],
    queues: [[W; QUEUES]; DEVICES],
}

impl<W: Word, const DEVICES: usize, const QUEUES: usize> Kicks<W, DEVICES, QUEUES> {
    /// Kicks in words that are zero.
    pub const fn new(due: W, devices: [W; DEVICES], queues: [[W; QUEUES]; DEVICES]) -> Self {
        const { assert!(QUEUES <= 64 && DEVICES <= 64) };
        Self {
            due,
            devices,
            queues,
        }
    }

    /// Marks a queue of a device, with a value if the kick had one; then `tell` has to mark for the main loop that there is something. A queue that does
    /// not exist is nothing to tell of.
    pub fn ring(&self, device: usize, queue: usize, value: Option<u32>, tell: impl FnOnce()) {
        let word = self.queues.get(device).and_then(|all| all.get(queue));
        if let (Some(queues), Some(word)) = (self.devices.get(device), word) {
            let new = value.map_or(KICKED | AGAIN, |value| KICKED | u64::from(value));
            if word.swap(new, Ordering::AcqRel) != 0 {
                word.fetch_or(AGAIN, Ordering::Release);
            }
            queues.fetch_or(1 << queue, Ordering::Release);
            self.mark(device);
            tell();
        }
    }

    /// Marks a device as one that was kicked, which is to be looked at.
    pub fn mark(&self, device: usize) {
        if device < DEVICES {
            self.due.fetch_or(1 << device, Ordering::Release);
        }
    }

    /// The devices that were kicked since this was asked last, as bits.
    pub fn take_due(&self) -> u64 {
        // As below.
        if self.due.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.due.swap(0, Ordering::Acquire)
    }

    /// Calls `kicked` for each queue of a device that was kicked, with the value if that is certain.
    pub fn take(&self, device: usize, mut kicked: impl FnMut(usize, Option<u32>)) {
        let (Some(word), Some(queues)) = (self.devices.get(device), self.queues.get(device)) else {
            return;
        };
        // A load is cheaper than a locked exchange, and nearly always enough. It need not order anything: a kick that
        // it misses has its mark still to come, and the mark's taker does not miss it.
        if word.load(Ordering::Relaxed) == 0 {
            return;
        }
        let bits = word.swap(0, Ordering::Acquire);
        for (number, queue) in queues.iter().enumerate() {
            if bits >> number & 1 != 0 {
                let taken = queue.swap(0, Ordering::AcqRel);
                let certain = taken & (KICKED | AGAIN) == KICKED;
                kicked(number, certain.then_some((taken & 0xffff_ffff) as u32));
            }
        }
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

    fn kicks<const DEVICES: usize>() -> Kicks<AtomicU64, DEVICES, 3> {
        Kicks::new(
            AtomicU64::new(0),
            [const { AtomicU64::new(0) }; DEVICES],
            [const { [const { AtomicU64::new(0) }; 3] }; DEVICES],
        )
    }

    #[test]
    fn kicks_come_once_and_by_device() {
        let kicks = kicks::<2>();
        let marks = Marks::new(AtomicU64::new(0));
        for (device, queue, value) in [(0, 2, 7), (1, 0, u32::MAX), (1, 2, 0), (1, 3, 1), (2, 0, 1)]
        {
            kicks.ring(device, queue, Some(value), || marks.mark(1));
        }
        let take = |device| {
            let mut all = Vec::new();
            kicks.take(device, |queue, value| all.push((queue, value)));
            all
        };
        assert_eq!((kicks.take_due(), kicks.take_due()), (3, 0));
        assert_eq!(take(0), [(2, Some(7))]);
        assert_eq!(take(1), [(0, Some(u32::MAX)), (2, Some(0))]);
        assert!(take(0).is_empty() && take(1).is_empty() && take(2).is_empty());
    }

    #[test]
    fn several_kicks_have_no_value() {
        let kicks = kicks::<1>();
        for times in 1..4 {
            for value in 0..times {
                kicks.ring(0, 1, Some(value), || ());
            }
            let mut all = Vec::new();
            kicks.take(0, |queue, value| all.push((queue, value)));
            assert_eq!(all, [(1, (times == 1).then_some(0))], "{times}");
        }
    }

    #[test]
    fn a_kick_without_a_value_is_a_kick() {
        let kicks = kicks::<1>();
        for values in [&[None][..], &[None, Some(5)], &[Some(5), None]] {
            values.iter().for_each(|v| kicks.ring(0, 2, *v, || ()));
            let mut all = Vec::new();
            kicks.take(0, |queue, value| all.push((queue, value)));
            assert_eq!(all, [(2, None)], "{values:?}");
        }
    }

    #[test]
    fn a_queue_that_does_not_exist_marks_nothing() {
        for (device, queue) in [(1, 0), (0, 3)] {
            let kicks = kicks::<1>();
            kicks.ring(device, queue, Some(0), || panic!("told"));
            assert_eq!(kicks.take_due(), 0);
        }
    }

    #[test]
    fn a_device_can_be_due_without_a_kick() {
        let kicks = kicks::<3>();
        for device in [2, 0, 2, 3, 64, usize::MAX] {
            kicks.mark(device);
        }
        assert_eq!((kicks.take_due(), kicks.take_due()), (5, 0));
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
