//! A scripted hypervisor for tests on the host.
//!
//! Records every call and answers with what a closure says; the closure may read the
//! arguments through their addresses, because they are in the test's own memory.

use std::cell::{Cell, RefCell};
use std::vec::Vec;

use crate::Hypervisor;

pub mod machine;

/// One recorded hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u32,
    /// Its arguments.
    pub args: [usize; 5],
}

/// The scripted hypervisor.
pub struct Fake<F> {
    answer: F,
    calls: RefCell<Vec<Call>>,
    fail_at: Cell<Option<(usize, isize)>>,
}

impl<F: Fn(&Call) -> isize> Fake<F> {
    /// Answers calls with `answer`.
    pub fn new(answer: F) -> Self {
        Self {
            answer,
            calls: RefCell::new(Vec::new()),
            fail_at: Cell::new(None),
        }
    }

    /// Makes the `n`-th call from the start (0 = first) return `value` without effect.
    pub fn fail_at(&self, n: usize, value: isize) {
        self.fail_at.set(Some((n, value)));
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }
}

// SAFETY: nothing is accessed but by the test's closure.
unsafe impl<F: Fn(&Call) -> isize> Hypervisor for Fake<F> {
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize {
        let call = Call { number, args };
        let index = self.calls.borrow().len();
        self.calls.borrow_mut().push(call);
        match self.fail_at.get() {
            Some((n, value)) if n == index => value,
            _ => (self.answer)(&call),
        }
    }
}

/// Reads a structure that a call points at.
///
/// # Safety
/// `at` is the address of a live `T` of the test.
pub unsafe fn peek<T: Copy>(at: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { (at as *const T).read_unaligned() }
}

/// Writes a structure that a call points at.
///
/// # Safety
/// As for [`peek`], and nobody holds a reference that forbids it.
pub unsafe fn poke<T>(at: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { (at as *mut T).write_unaligned(value) }
}
