//! What the attacks need of where they run.

use crate::memory::Page;

/// Addresses that a device must not follow.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Of RAM, without a grant.
    pub plain: u64,
    /// Of a page that is granted for reading only.
    pub readonly: u64,
    /// Of a grant that was never made.
    pub never: u64,
}

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

    /// Addresses to attack with, if memory is shared by grant: then all addresses of pages are of grants.
    fn granted(&self) -> Option<Granted> {
        None
    }

    /// Does `work`, and meanwhile `other` again and again, beside it if it can.
    fn beside(&self, other: &(dyn Fn() + Sync), work: &mut dyn FnMut());
}
