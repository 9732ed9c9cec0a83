//! The doorbell registry: which writes are answered in the interrupt handler, and who is told.
//!
//! A doorbell matches a single direct write (no rep, no pointer) by address space, exact address, width and, if
//! asked for, the low 16 bits of the value. The whole value reaches the recipient.
//!
//! Invariants:
//! - at most one doorbell matches any write: one that could match a write of another is refused as busy;
//! - a match takes a bounded number of probes, at most [`MAX_PROBES`] for each of four shapes of key, and about one
//!   in practice whatever the number of doorbells. The guest does not choose doorbell addresses, so nobody who could
//!   gain from long probe runs can make them; [`DoorbellError::Full`] refuses what the bound does not hold for;
//! - all doorbells are for one domain and one number of vCPUs: the ioreq page's. The first one says which.

use crate::types::{DomId, Space, There, Width};

/// Most cells looked at for one key.
pub const MAX_PROBES: usize = 32;
/// Most vCPUs that an ioreq server's pages can be for.
pub const MAX_VCPUS: u32 = 4096;

/// Which widths of write ring a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DoorbellWidth {
    /// Any of 1, 2, 4, 8 bytes.
    Any,
    /// This one only.
    Exactly(Width),
}

/// Which values ring a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// Every value.
    Any,
    /// Values whose low 16 bits are this queue number.
    Queue(u16),
}

/// Who is told when a doorbell rings. The numbers are the registrant's; nothing here reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// The device (its slot).
    pub device: u16,
    /// The queue; with [`Match::Any`] the value says more.
    pub queue: u16,
}

/// One doorbell, as assigned and deassigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The guest.
    pub domain: DomId,
    /// The guest's number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Ports or memory.
    pub space: Space,
    /// The exact address of the write.
    pub addr: u64,
    /// The width of the write.
    pub width: DoorbellWidth,
    /// The value of the write.
    pub matching: Match,
    /// Who is told. Not looked at by [`Registry::deassign`].
    pub recipient: Recipient,
}

/// A doorbell has rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kick {
    /// Who is told.
    pub recipient: Recipient,
    /// The whole value that the guest wrote.
    pub value: u64,
}

/// Why a doorbell was refused. Every one of these is the operator's (or the caller's) to mend, never the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorbellError {
    /// The numbers make no sense, or the domain or vCPU count is not that of the doorbells there are.
    Invalid,
    /// A doorbell that would match some of the same writes exists.
    Busy,
    /// No such doorbell.
    NoDevice,
    /// The registry is restricted to another domain.
    NotPermitted,
    /// No room.
    Full,
}

/// What [`Registry::lookup`] found, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The kick to deliver, if the write is a doorbell's.
    pub kick: Option<Kick>,
    /// Cells looked at.
    pub probes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    space: Space,
    addr: u64,
    width: DoorbellWidth,
    matching: Match,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    _there: There,
    key: Key,
    recipient: Recipient,
}

/// Doorbells in `CELLS` cells of fixed storage. `CELLS` is a power of two; half of them can be used.
#[derive(Clone, Debug)]
pub struct Registry<const CELLS: usize> {
    restricted_to: Option<DomId>,
    bound_to: Option<(DomId, u32)>,
    cells: [Option<Cell>; CELLS],
    len: usize,
    /// Doorbells of each shape of key, so that shapes that nobody uses cost no probe.
    shapes: [u32; 4],
}

impl<const CELLS: usize> Registry<CELLS> {
    const MASK: usize = {
        assert!(
            CELLS.is_power_of_two() && CELLS >= 4,
            "CELLS must be a power of two and at least 4"
        );
        CELLS - 1
    };

    /// An empty registry; with `restricted_to`, other domains' doorbells are not permitted.
    pub const fn new(restricted_to: Option<DomId>) -> Self {
        let _ = Self::MASK;
        Registry {
            restricted_to,
            bound_to: None,
            cells: [None; CELLS],
            len: 0,
            shapes: [0; 4],
        }
    }

    /// How many doorbells there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many doorbells fit.
    pub const fn capacity(&self) -> usize {
        CELLS >> 1
    }

    /// Adds a doorbell. The search for a conflict goes over all of them: this is the control plane.
    pub fn assign(&mut self, doorbell: &Doorbell) -> Result<(), DoorbellError> {
        self.check(doorbell)?;
        let key = Key::of(doorbell);
        if self
            .cells
            .iter()
            .flatten()
            .any(|cell| cell.key.conflicts_with(&key))
        {
            return Err(DoorbellError::Busy);
        }
        if self.len >= self.capacity() {
            return Err(DoorbellError::Full);
        }
        let free = self
            .probe_sequence(&key)
            .find(|at| self.cell(*at).is_none())
            .ok_or(DoorbellError::Full)?;
        let cell = self.cells.get_mut(free).ok_or(DoorbellError::Full)?;
        *cell = Some(Cell {
            _there: There::Yes,
            key,
            recipient: doorbell.recipient,
        });
        self.len = self.len.saturating_add(1);
        self.count_shape(&key, |count| count.saturating_add(1));
        self.bound_to = Some((doorbell.domain, doorbell.vcpus));
        Ok(())
    }

    /// Takes out the doorbell with the same address, width and match. With the last one the registry forgets which
    /// domain it was for.
    pub fn deassign(&mut self, doorbell: &Doorbell) -> Result<Recipient, DoorbellError> {
        self.check(doorbell)?;
        let key = Key::of(doorbell);
        let at = self
            .probe_sequence(&key)
            .find(|at| self.cell(*at).is_some_and(|cell| cell.key == key))
            .ok_or(DoorbellError::NoDevice)?;
        let cell = self
            .cells
            .get_mut(at)
            .and_then(Option::take)
            .ok_or(DoorbellError::NoDevice)?;
        self.close_gap(at);
        self.len = self.len.saturating_sub(1);
        self.count_shape(&key, |count| count.saturating_sub(1));
        if self.len == 0 {
            self.bound_to = None;
        }
        Ok(cell.recipient)
    }

    /// Takes out every doorbell, as when the guest is gone.
    pub fn clear(&mut self) {
        self.cells = [None; CELLS];
        self.len = 0;
        self.shapes = [0; 4];
        self.bound_to = None;
    }

    /// Whom a write rings. Called in the interrupt handler.
    pub fn lookup(&self, space: Space, addr: u64, width: Width, value: u64) -> Lookup {
        let [low, high, ..] = value.to_le_bytes();
        let queue = Match::Queue(u16::from_le_bytes([low, high]));
        let exactly = DoorbellWidth::Exactly(width);
        let mut probes = 0_u32;
        for (width, matching) in [
            (exactly, queue),
            (exactly, Match::Any),
            (DoorbellWidth::Any, queue),
            (DoorbellWidth::Any, Match::Any),
        ] {
            let key = Key {
                space,
                addr,
                width,
                matching,
            };
            if self.shapes.get(key.shape()).is_none_or(|count| *count == 0) {
                continue;
            }
            for at in self.probe_sequence(&key) {
                probes = probes.saturating_add(1);
                let Some(cell) = self.cell(at) else { break };
                if cell.key == key {
                    return Lookup {
                        kick: Some(Kick {
                            recipient: cell.recipient,
                            value,
                        }),
                        probes,
                    };
                }
            }
        }
        Lookup { kick: None, probes }
    }

    /// The checks that assigning and deassigning have in common.
    fn check(&self, doorbell: &Doorbell) -> Result<(), DoorbellError> {
        if self
            .restricted_to
            .is_some_and(|target| target != doorbell.domain)
        {
            return Err(DoorbellError::NotPermitted);
        }
        if doorbell.vcpus == 0 || doorbell.vcpus > MAX_VCPUS {
            return Err(DoorbellError::Invalid);
        }
        let bytes = match doorbell.width {
            DoorbellWidth::Any => 1,
            DoorbellWidth::Exactly(width) => width.bytes(),
        };
        let end = doorbell
            .addr
            .checked_add(bytes)
            .ok_or(DoorbellError::Invalid)?;
        if doorbell.space.limit().is_some_and(|limit| end > limit) {
            return Err(DoorbellError::Invalid);
        }
        if let (DoorbellWidth::Exactly(Width::Byte), Match::Queue(256..)) =
            (doorbell.width, doorbell.matching)
        {
            return Err(DoorbellError::Invalid);
        }
        if self
            .bound_to
            .is_some_and(|bound| bound != (doorbell.domain, doorbell.vcpus))
        {
            return Err(DoorbellError::Invalid);
        }
        Ok(())
    }

    fn cell(&self, at: usize) -> Option<&Cell> {
        self.cells.get(at).and_then(Option::as_ref)
    }

    fn probe_sequence(&self, key: &Key) -> impl Iterator<Item = usize> + use<CELLS> {
        let home = key.home(Self::MASK);
        (0..MAX_PROBES.min(CELLS)).map(move |step| home.wrapping_add(step) & Self::MASK)
    }

    fn count_shape(&mut self, key: &Key, change: impl FnOnce(u32) -> u32) {
        if let Some(count) = self.shapes.get_mut(key.shape()) {
            *count = change(*count);
        }
    }

    /// Moves later cells of a probe run into the gap at `gap`, so that a run never has a hole and a lookup may stop at
    /// the first empty cell. A cell only ever moves towards its home.
    fn close_gap(&mut self, mut gap: usize) {
        let mut at = gap.wrapping_add(1) & Self::MASK;
        while let Some(cell) = self.cell(at).copied() {
            let from_home = at.wrapping_sub(cell.key.home(Self::MASK)) & Self::MASK;
            let from_gap = at.wrapping_sub(gap) & Self::MASK;
            if from_home >= from_gap {
                if let Some(hole) = self.cells.get_mut(gap) {
                    *hole = Some(cell);
                }
                if let Some(old) = self.cells.get_mut(at) {
                    *old = None;
                }
                gap = at;
            }
            at = at.wrapping_add(1) & Self::MASK;
        }
    }
}

impl Key {
    fn of(doorbell: &Doorbell) -> Self {
        Key {
            space: doorbell.space,
            addr: doorbell.addr,
            width: doorbell.width,
            matching: doorbell.matching,
        }
    }

    fn shape(&self) -> usize {
        let width = usize::from(self.width == DoorbellWidth::Any);
        let matching = usize::from(self.matching == Match::Any);
        width << 1 | matching
    }

    fn conflicts_with(&self, other: &Key) -> bool {
        let widths = self.width == other.width
            || self.width == DoorbellWidth::Any
            || other.width == DoorbellWidth::Any;
        let values = self.matching == other.matching
            || self.matching == Match::Any
            || other.matching == Match::Any;
        self.space == other.space && self.addr == other.addr && widths && values
    }

    /// Where the probe run of this key starts. The finaliser is MurmurHash3's: every input bit reaches every output
    /// bit, so addresses at regular distances do not cluster.
    fn home(&self, mask: usize) -> usize {
        let width = match self.width {
            DoorbellWidth::Any => 0,
            DoorbellWidth::Exactly(width) => width.bytes(),
        };
        let matching = match self.matching {
            Match::Any => 0,
            Match::Queue(queue) => 1 << 16 | u64::from(queue),
        };
        let space = u64::from(self.space == Space::Port);
        let mut hash =
            self.addr ^ matching.rotate_left(40) ^ width.rotate_left(58) ^ space.rotate_left(63);
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            hash ^= hash >> 33;
            hash = hash.wrapping_mul(factor);
        }
        hash ^= hash >> 33;
        usize::try_from(hash & mask as u64).unwrap_or(0)
    }
}
