//! From Xen's event bits to the interrupt handler, and from the handler to the main loop (`vd_kernel_core::upcall` and
//! `vd_kernel_core::handover`).
//!
//! The handler is a thread of its own, which allows more orders than one CPU with interrupts does. What the CPU promises
//! is kept: no handler runs while interrupts are masked, and one that is due ends the sleep.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread;
use vd_kernel_core::handover::{Cpu, Kicks, Marks, Word, sleep_unless};
use vd_kernel_core::upcall::{self, Events};

use crate::explore;

/// A word that loom watches; with `ordered` unset it orders nothing, whatever it is asked for.
pub(crate) struct Watched {
    word: AtomicU64,
    ordered: bool,
}

impl Watched {
    pub(crate) fn new(ordered: bool) -> Self {
        Self {
            word: AtomicU64::new(0),
            ordered,
        }
    }

    fn order(&self, order: Ordering) -> Ordering {
        if self.ordered {
            order
        } else {
            Ordering::Relaxed
        }
    }
}

impl Word for Watched {
    fn load(&self, order: Ordering) -> u64 {
        self.word.load(self.order(order))
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.word.swap(value, self.order(order))
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.word.fetch_or(bits, self.order(order))
    }

    fn fetch_and(&self, keep: u64, order: Ordering) -> u64 {
        self.word.fetch_and(keep, self.order(order))
    }
}

/// The CPU's interrupt flag: whoever has the lock runs with interrupts masked. What is behind it is in an `IrqLock` of
/// the kernel.
pub(crate) struct Processor<T> {
    masked: Mutex<T>,
    interrupted: Condvar,
}

impl<T> Processor<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            masked: Mutex::new(value),
            interrupted: Condvar::new(),
        }
    }

    /// The main loop, with interrupts masked.
    pub(crate) fn masked<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.masked.lock().unwrap())
    }

    /// An interrupt.
    pub(crate) fn interrupt<R>(&self, handler: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.masked.lock().unwrap();
        let result = handler(&mut value);
        self.interrupted.notify_one();
        result
    }
}

/// The main loop's hold on it.
pub(crate) struct MainLoop<'a, T> {
    processor: &'a Processor<T>,
    guard: RefCell<Option<MutexGuard<'a, T>>>,
    /// Whether masking works.
    masks: bool,
}

impl<'a, T> MainLoop<'a, T> {
    pub(crate) fn new(processor: &'a Processor<T>, masks: bool) -> Self {
        Self {
            processor,
            guard: RefCell::new(None),
            masks,
        }
    }
}

impl<T> Cpu for MainLoop<'_, T> {
    fn mask(&self) {
        if self.masks {
            *self.guard.borrow_mut() = Some(self.processor.masked.lock().unwrap());
        }
    }

    fn unmask(&self) {
        drop(self.guard.take());
    }

    fn unmask_and_wait(&self) {
        let guard = self.guard.take();
        let guard = guard.unwrap_or_else(|| self.processor.masked.lock().unwrap());
        drop(self.processor.interrupted.wait(guard).unwrap());
    }
}

/// The mark for kicks.
const GUEST: u64 = 1 << 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum KickFlaw {
    Nothing,
    /// No operation orders anything.
    Unordered,
    /// The mark is set before the bit.
    MarkFirst,
    /// The last look is not made with interrupts masked.
    Unmasked,
}

/// Four kicks of two devices come while the main loop takes kicks and sleeps. One that is lost leaves it asleep for ever,
/// which loom reports. The last one of a queue is lost too if what is taken for it has an earlier one's value.
fn kicks(flaw: KickFlaw) {
    explore("kicks", Some(5), move || {
        let ordered = flaw != KickFlaw::Unordered;
        let word = || Watched::new(ordered);
        let shared = Arc::new((
            Kicks::new(
                word(),
                [word(), word()],
                [[word(), word()], [word(), word()]],
            ),
            Marks::new(word()),
            Processor::new(()),
        ));
        let there = Arc::clone(&shared);
        let handler = thread::spawn(move || {
            let (kicks, marks, processor) = &*there;
            for (device, queue, value) in [(0, 0, 1), (1, 1, 2), (0, 0, 3), (0, 1, 4)] {
                processor.interrupt(|()| {
                    if flaw == KickFlaw::MarkFirst {
                        marks.mark(GUEST);
                        kicks.ring(device, queue, Some(value), || {});
                    } else {
                        kicks.ring(device, queue, Some(value), || marks.mark(GUEST));
                    }
                });
            }
        });
        let (kicks, marks, processor) = &*shared;
        // What each queue was taken with at last.
        let mut found = [[None; 2]; 2];
        let is =
            |found: Option<Option<u32>>, value| found == Some(None) || found == Some(Some(value));
        loop {
            marks.take();
            // A device that is not due is not looked at.
            let due = kicks.take_due();
            for (device, queues) in found.iter_mut().enumerate() {
                if due >> device & 1 != 0 {
                    kicks.take(device, |queue, value| queues[queue] = Some(value));
                }
            }
            assert_eq!(found[1][0], None, "nobody has kicked it");
            if is(found[0][0], 3) && is(found[0][1], 4) && is(found[1][1], 2) {
                break;
            }
            let cpu = MainLoop::new(processor, flaw != KickFlaw::Unmasked);
            sleep_unless(&cpu, || marks.is_marked(u64::MAX), || {});
        }
        handler.join().unwrap();
    });
}

#[test]
fn every_kick_is_taken_once() {
    kicks(KickFlaw::Nothing);
}

#[test]
#[should_panic = "deadlock"]
fn kicks_without_ordering_are_lost() {
    kicks(KickFlaw::Unordered);
}

#[test]
#[should_panic = "deadlock"]
fn kicks_after_their_mark_are_lost() {
    kicks(KickFlaw::MarkFirst);
}

#[test]
#[should_panic = "deadlock"]
fn kicks_between_the_last_look_and_the_sleep_are_lost() {
    kicks(KickFlaw::Unmasked);
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BitsFlaw {
    Nothing,
    /// No operation orders anything.
    Unordered,
    /// The flag is cleared after the bits were looked at.
    LateClear,
}

/// The bits of the 2-level ABI, with Xen's side. There are two words of ports.
pub(crate) struct Bits {
    due: Watched,
    selectors: Watched,
    pending: [Watched; 2],
    mask: [Watched; 2],
    flaw: BitsFlaw,
    /// The clearing that is late. Of the server only, so that loom need not watch it.
    late: AtomicBool,
}

impl Bits {
    pub(crate) fn new(flaw: BitsFlaw) -> Self {
        let word = || Watched::new(flaw != BitsFlaw::Unordered);
        Bits {
            due: word(),
            selectors: word(),
            pending: [word(), word()],
            mask: [word(), word()],
            flaw,
            late: AtomicBool::new(false),
        }
    }

    /// Xen's part (`evtchn_2l_set_pending`): each step is a locked instruction, and only the first to set a bit goes on.
    pub(crate) fn raise(&self, port: usize) {
        let set =
            |word: &Watched, bit: usize| word.fetch_or(1 << bit, Ordering::AcqRel) & 1 << bit == 0;
        let (word, bit) = (port / 64, port % 64);
        if set(&self.pending[word], bit) && set(&self.selectors, word) {
            set(&self.due, 0);
        }
    }

    /// Whether the CPU takes the upcall once more.
    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Ordering::Acquire) != 0
    }
}

impl Events for Bits {
    type Word = Watched;

    fn take_upcall(&self) -> bool {
        if self.flaw == BitsFlaw::LateClear {
            if self.late.swap(false, Ordering::Relaxed) {
                self.due.swap(0, Ordering::AcqRel);
            }
            let due = self.is_due();
            self.late.store(due, Ordering::Relaxed);
            return due;
        }
        self.due.swap(0, Ordering::AcqRel) != 0
    }

    fn selectors(&self) -> &Watched {
        &self.selectors
    }

    fn pending(&self, word: usize) -> &Watched {
        &self.pending[word]
    }

    fn mask(&self, word: usize) -> &Watched {
        &self.mask[word]
    }
}

/// Two ports in a word and one in another, one of them twice, while an upcall is served. What a port's event stands for
/// is found by the service that follows it, at the latest by that of the upcall which is due at the end.
fn upcalls(flaw: BitsFlaw) {
    explore("upcalls", None, move || {
        let bits = Arc::new(Bits::new(flaw));
        let values: Arc<Vec<AtomicU64>> = Arc::new((0..3).map(|_| AtomicU64::new(0)).collect());
        let (raised, written) = (Arc::clone(&bits), Arc::clone(&values));
        let ports = [3, 5, 70];
        let xen = thread::spawn(move || {
            for (index, value) in [(0, 1), (2, 1), (0, 2), (1, 1)] {
                written[index].store(value, Ordering::Relaxed);
                raised.raise(ports[index]);
            }
        });
        let mut seen = [0; 3];
        let mut serve = || {
            upcall::serve(&*bits, |port| {
                let index = ports.iter().position(|&p| p == port).unwrap();
                let value = values[index].load(Ordering::Relaxed);
                assert_ne!(value, 0, "an event before what it stands for");
                seen[index] = value;
            });
        };
        serve();
        xen.join().unwrap();
        if bits.is_due() {
            serve();
        }
        assert_eq!(seen, [2, 1, 1], "an event is lost");
    });
}

#[test]
fn every_event_is_served() {
    upcalls(BitsFlaw::Nothing);
}

#[test]
#[should_panic = "an event"]
fn events_without_ordering_are_lost_or_come_too_early() {
    upcalls(BitsFlaw::Unordered);
}

#[test]
#[should_panic = "an event is lost"]
fn events_of_a_flag_that_is_cleared_late_are_lost() {
    upcalls(BitsFlaw::LateClear);
}
