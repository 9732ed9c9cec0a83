//! Newtypes and small enums for the numbers of the ioreq protocol, so that none is mistaken for another.

/// A domain's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(pub u16);

/// An event channel port. Whose (the guest's vCPU's in Xen, or the local one) is said where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvtchnPort(pub u32);

/// The index of a slot in an ioreq page; equal to the guest's vCPU number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex(pub u16);

impl SlotIndex {
    /// The index as an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Says that something is there, and is never 0, nor has it any other value: so what is not there is all zeroes, and an empty table
/// takes no room in an image. (Where several fields have values to spare, the compiler takes those of the one with the most: this
/// one.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum There {
    Yes = 1,
}

/// Which of the two x86 address spaces an access goes to.
///
/// No variant is 0, for the reason given at `There`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// I/O ports (`IOREQ_TYPE_PIO`).
    Port = 1,
    /// Guest-physical memory (`IOREQ_TYPE_COPY`).
    Memory = 2,
}

impl Space {
    /// One past the last address, or `None` when it is 2^64.
    pub const fn limit(self) -> Option<u64> {
        match self {
            Space::Port => Some(0x1_0000),
            Space::Memory => None,
        }
    }
}

/// Which way the data goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `IOREQ_WRITE`: the guest gives data.
    Write,
    /// `IOREQ_READ`: the guest wants data.
    Read,
}

/// The size of one access. Other sizes have no meaning and are answered without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Dword,
    /// 8 bytes.
    Qword,
}

impl Width {
    /// The width of `size` bytes, if that is an access size at all.
    pub const fn from_bytes(size: u32) -> Option<Self> {
        match size {
            1 => Some(Width::Byte),
            2 => Some(Width::Word),
            4 => Some(Width::Dword),
            8 => Some(Width::Qword),
            _ => None,
        }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
            Width::Qword => 8,
        }
    }

    /// A mask with one bit for each bit of the access; also what reading nothing gives.
    pub const fn mask(self) -> u64 {
        match self {
            Width::Byte => 0xff,
            Width::Word => 0xffff,
            Width::Dword => 0xffff_ffff,
            Width::Qword => u64::MAX,
        }
    }
}
