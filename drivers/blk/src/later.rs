//! What a block device needs from storage that answers later.

use crate::config::Geometry;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Data from the storage.
    Read,
    /// Data to the storage.
    Write,
    /// Zeroes to the storage.
    Zero,
    /// The content is not needed any more.
    Discard,
    /// Everything that was finished before is to be durable.
    Flush,
}

impl Operation {
    /// Whether the storage's content is another one afterwards.
    pub const fn is_mutating(self) -> bool {
        matches!(self, Self::Write | Self::Zero | Self::Discard)
    }
}

/// One operation. The range is inside of what [`AsyncBackend::properties`] said, and a whole number of its blocks; a flush
/// has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What the asker knows it by.
    pub tag: u16,
    /// The virtqueue it came from.
    pub queue: u16,
    /// What.
    pub operation: Operation,
    /// First sector, of 512 bytes.
    pub sector: u64,
    /// Number of sectors; no more than [`AsyncBackend::max_sectors`], unless it is a discard.
    pub sectors: u64,
}

/// Names an operation that the back end has taken, until it is released.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not released stays taken for ever"]
pub struct Ticket(pub u16);

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// The storage failed, or is gone, or is smaller than it was.
    Io,
    /// The storage does not know such an operation.
    Unsupported,
}

/// Why an operation was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStarted<E> {
    /// There is no room now; there will be when something else is released.
    Full,
    /// It has failed already.
    Failed(OpError),
    /// The data could not be had.
    Data(E),
}

/// An operation has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// What the asker knows it by.
    pub tag: u16,
    /// To be released.
    pub ticket: Ticket,
    /// How.
    pub result: Result<(), OpError>,
}

/// What the storage is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// How it is divided.
    pub geometry: Geometry,
    /// Whether it cannot be written.
    pub readonly: bool,
    /// The alignment of discards in sectors, if there are any.
    pub discard: Option<u32>,
}

/// Storage that answers later. It never waits for anything.
pub trait AsyncBackend {
    /// What it is now.
    fn properties(&self) -> Properties;

    /// Most sectors of a [`Operation::Read`], [`Operation::Write`] or [`Operation::Zero`]; a whole number of blocks.
    fn max_sectors(&self) -> u64;

    /// Takes an operation. For a write, `fill` is called with pieces of the back end's memory, which it fills in order;
    /// all together they are as long as the job. After the first call there is no [`NotStarted::Full`].
    ///
    /// # Errors
    /// Why it was not started; nothing of it happens then.
    fn start<E>(
        &mut self,
        job: Job,
        fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Ticket, NotStarted<E>>;

    /// Sends off what was started since the last call.
    fn kick(&mut self);

    /// The next operation that has ended, if there is one. Every operation that was started ends once.
    fn next_done(&mut self) -> Option<Done>;

    /// The data of a read that has ended well, in order and in pieces. What it is for other operations means nothing.
    ///
    /// # Errors
    /// The first error of `drain`.
    fn data<E>(&self, ticket: &Ticket, drain: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E>;

    /// Forgets an operation that has ended.
    fn release(&mut self, ticket: Ticket);
}
