//! `multicall` (public/xen.h): several hypercalls in one.

use crate::{Errno, Hypervisor, number};

abi! {
    header "xen.h";

    /// One of the hypercalls.
    struct MulticallEntry = "struct multicall_entry" (64) {
        /// The hypercall's number.
        op("op") @ 0: u64,
        /// What it returned.
        ret("result") @ 8: u64,
        /// Its arguments.
        args("args") @ 16: [u64; 6],
    }
}

impl MulticallEntry {
    /// A call of hypercall `number`.
    #[must_use]
    pub const fn new(number: u32, args: [u64; 6]) -> Self {
        Self {
            op: number as u64,
            ret: 0,
            args,
        }
    }

    /// No call: hypercall 0 with no entries.
    #[must_use]
    pub const fn empty() -> Self {
        Self::new(0, [0; 6])
    }

    /// What the call returned, once the multicall was made.
    ///
    /// # Errors
    /// The number that Xen returned for this call.
    pub fn result(&self) -> Result<usize, Errno> {
        Errno::check(self.ret as isize)
    }
}

/// Makes the calls in order; each one's result is in its entry.
///
/// # Errors
/// For the multicall as a whole.
///
/// # Safety
/// As for each of the calls.
pub unsafe fn multicall(xen: &impl Hypervisor, calls: &mut [MulticallEntry]) -> Result<(), Errno> {
    let args = [calls.as_mut_ptr() as usize, calls.len(), 0, 0, 0];
    // SAFETY: the list is as long as it says; the rest is the caller's promise.
    Errno::check(unsafe { xen.hypercall(number::MULTICALL, args) }).map(drop)
}
