//! What a driver can do wrong. Each of these breaks its device until the driver resets it, and nothing else.

use core::fmt;

use crate::mem::{Cause, MemError};

/// A violation of the specification by the driver, found at one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The queue.
    pub queue: u16,
    /// What was wrong.
    pub kind: FaultKind,
}

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A buffer or a ring cannot be accessed.
    Memory(MemError),
    /// A queue was made ready with a size that is zero, no power of two, or above the maximum.
    QueueSize(u16),
    /// A ring is not aligned as section 2.7 demands, or wraps around the end of the address space.
    RingAddress(u64),
    /// avail.idx is further ahead than the queue is long.
    AvailIndex {
        /// Where the device is.
        at: u16,
        /// What the driver wrote.
        idx: u16,
    },
    /// A descriptor's number is not below the queue's or the table's size.
    DescriptorIndex(u16),
    /// A head was made available again before it was used.
    HeadInFlight(u16),
    /// A chain is longer than the queue, or a loop.
    ChainTooLong,
    /// An indirect descriptor without the feature, inside of a table, or with a NEXT flag.
    Indirect,
    /// A table of descriptors whose length is zero, no multiple of 16, or longer than the queue.
    IndirectLength(u32),
    /// A descriptor of no bytes.
    EmptyDescriptor,
    /// A chain of more than 2^32 bytes.
    TooManyBytes,
    /// A device-readable descriptor after a device-writable one.
    Order,
    /// A request without a complete header.
    Header,
    /// Not the driver's fault: the device promised IN_ORDER and gave this head back before an earlier one.
    NotInOrder(u16),
}

impl FaultKind {
    /// Whether the driver is to blame.
    pub const fn is_drivers(&self) -> bool {
        !matches!(
            self,
            Self::NotInOrder(_)
                | Self::Memory(MemError {
                    cause: Cause::Platform,
                    ..
                })
        )
    }
}

impl From<MemError> for FaultKind {
    fn from(error: MemError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Memory(error) => error.fmt(f),
            Self::QueueSize(size) => write!(f, "queue size {size} is not allowed"),
            Self::RingAddress(addr) => write!(f, "ring address {addr:#x} is misaligned or wraps"),
            Self::AvailIndex { at, idx } => write!(f, "avail.idx went from {at} to {idx}"),
            Self::DescriptorIndex(index) => write!(f, "there is no descriptor {index}"),
            Self::HeadInFlight(head) => write!(f, "descriptor {head} is in flight already"),
            Self::ChainTooLong => f.write_str("descriptor chain longer than the queue"),
            Self::Indirect => f.write_str("indirect descriptor where none is allowed"),
            Self::IndirectLength(len) => write!(f, "indirect table of {len} bytes"),
            Self::EmptyDescriptor => f.write_str("descriptor of no bytes"),
            Self::TooManyBytes => f.write_str("descriptor chain of more than 4 GiB"),
            Self::Order => f.write_str("device-readable descriptor after a device-writable one"),
            Self::Header => f.write_str("request header missing or cut short"),
            Self::NotInOrder(head) => write!(f, "the device gave {head} back out of order"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {}: {}", self.queue, self.kind)
    }
}
