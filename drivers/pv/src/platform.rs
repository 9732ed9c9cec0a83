//! What the kernel gives: its own pages, grants of them, event channels.

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// What another domain may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// The seam to the kernel. Pages are numbered from 0; offsets and lengths stay inside of a page.
///
/// The pages are this domain's own, but a back end may have been let into any of them, and change it at any time. Nothing
/// that is read from one is read twice.
pub trait Platform {
    /// How many pages there are.
    fn pages(&self) -> usize;

    /// One aligned 32-bit load with acquire ordering.
    fn load_u32(&self, page: usize, at: usize) -> u32;

    /// One aligned 32-bit store with release ordering.
    fn store_u32(&mut self, page: usize, at: usize, value: u32);

    /// A full barrier: stores before it are seen by others before loads after it are made.
    fn fence(&self);

    /// Copies bytes from a page.
    fn read_bytes(&self, page: usize, at: usize, into: &mut [u8]);

    /// Copies bytes to a page.
    fn write_bytes(&mut self, page: usize, at: usize, from: &[u8]);

    /// Lets `with` put the first `len` bytes of a page into place. They hold anything before; afterwards they hold what
    /// `with` has left. The platform decides whether it hands out the page itself, which saves a copy, or a buffer.
    fn fill<R>(&mut self, page: usize, len: usize, with: impl FnOnce(&mut [u8]) -> R) -> R;

    /// Lets `with` see the first `len` bytes of a page, or of a copy.
    fn drain<R>(&self, page: usize, len: usize, with: impl FnOnce(&[u8]) -> R) -> R;

    /// Lets a domain into a page. None if there is no room for a grant.
    fn grant(&mut self, domain: u16, page: usize, access: Access) -> Option<u32>;

    /// Takes a grant back. False if the domain still has the page mapped: the grant stays then, to be tried again.
    fn end_grant(&mut self, gref: u32) -> bool;

    /// Makes an event channel for a domain to bind to. None if there is no room.
    fn open_port(&mut self, domain: u16) -> Option<u32>;

    /// Closes an event channel.
    fn close_port(&mut self, port: u32);

    /// Sends an event.
    fn notify(&mut self, port: u32);
}
