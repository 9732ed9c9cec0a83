//! What the attacks need of where they run.

use crate::memory::Page;

/// Memory, time, and a second thread.
pub trait Platform {
    /// A page of RAM, zeroed, that stays for ever.
    ///
    /// # Errors
    /// There is none.
    fn page(&self) -> Result<Page, &'static str>;

    /// A clock, in milliseconds.
    fn milliseconds(&self) -> u64;

    /// Waits that long.
    fn sleep(&self, milliseconds: u64);

    /// One past the last byte of RAM.
    fn end_of_ram(&self) -> u64;

    /// An address below the end of RAM, or near it, where there is none.
    fn hole(&self) -> u64;

    /// Does `work`, and meanwhile `other` again and again, beside it if it can.
    fn beside(&self, other: &(dyn Fn() + Sync), work: &mut dyn FnMut());
}
