//! What is behind a block device: this domain's memory, or a disk that another domain serves.

use alloc::vec::Vec;

use vd_blk::later::AsyncBackend;
use vd_blk::{AsyncBlockDevice, Backend, BlockDevice, Counters, RamDisk, Wake};
use vd_config::SlotIndex;
use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress};

use crate::mem::frames::{self, FRAME};
use crate::pv::{Served, signals};
use crate::vbd;

/// A block device.
pub enum Disk {
    /// Its requests are answered at once.
    Ram(BlockDevice<RamDisk<Storage>>),
    /// Its requests are answered when the back end has answered.
    Vbd(AsyncBlockDevice<vbd::Shared>),
}

/// The memory of one disk.
pub struct Storage {
    start: u64,
    len: u64,
    /// Whether its frames were allocated, and go back when the disk goes.
    allocated: bool,
}

impl Storage {
    /// The module, which at most one disk of a description has.
    pub fn of_module(range: &core::ops::Range<u64>) -> Self {
        Self {
            start: range.start,
            len: range.end - range.start,
            allocated: false,
        }
    }

    /// Fresh memory, all zeroes.
    ///
    /// # Errors
    /// There is not so much in one piece.
    pub fn allocate(bytes: u64) -> Result<Self, frames::OutOfMemory> {
        let mut storage = Self::allocate_dirty(bytes)?;
        storage.as_mut().fill(0);
        Ok(storage)
    }

    /// Fresh memory with whatever was in it, which nobody may see before it is zeroed: by [`Storage::zero`], piece by piece.
    ///
    /// # Errors
    /// There is not so much in one piece.
    pub fn allocate_dirty(bytes: u64) -> Result<Self, frames::OutOfMemory> {
        Ok(Self {
            start: frames::allocate(bytes.div_ceil(FRAME), 1, false)?,
            len: bytes,
            allocated: true,
        })
    }

    /// Zeroes a piece that begins there. Returns where it ends; `None` if that was the last one.
    pub fn zero(&mut self, from: u64, piece: u64) -> Option<u64> {
        let end = from.saturating_add(piece).min(self.len);
        if let Some(bytes) = self.as_mut().get_mut(from as usize..end as usize) {
            bytes.fill(0);
        }
        (end < self.len).then_some(end)
    }

    /// No memory at all.
    fn none() -> Self {
        Self {
            // A slice needs an address all the same.
            start: FRAME,
            len: 0,
            allocated: false,
        }
    }

    /// Where it is.
    pub fn range(&self) -> core::ops::Range<u64> {
        self.start..self.start + self.len
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl AsRef<[u8]> for Storage {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: RAM is mapped at its own address; this range is either a module, which at most one disk of a
        // description has, or frames that were allocated for this disk, so that nobody else refers to it. Any bytes
        // are valid.
        unsafe { core::slice::from_raw_parts(self.start as *const u8, self.len as usize) }
    }
}

impl AsMut<[u8]> for Storage {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.start as *mut u8, self.len as usize) }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if self.allocated {
            frames::release(self.start, self.len.div_ceil(FRAME));
        }
    }
}

impl Disk {
    /// Its size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        match self {
            Self::Ram(disk) => disk.backend().sectors(),
            Self::Vbd(disk) => disk.backend().properties().sectors,
        }
    }

    /// Its data, if it stays where it is.
    pub fn lasting(&self) -> Option<core::ops::Range<u64>> {
        match self {
            Self::Ram(disk) => Some(disk.backend().storage().range()),
            Self::Vbd(_) => None,
        }
    }

    /// Takes away what is behind it: it has no sectors then, and every request fails. A disk of another domain is taken away
    /// by whoever has its connection. `keep` is for memory that others may still name.
    pub fn depart(&mut self, keep: bool) {
        if let Self::Ram(disk) = self {
            let old = core::mem::replace(disk.backend_mut(), RamDisk::new(Storage::none()));
            if keep {
                core::mem::forget(old);
            }
        }
    }

    /// Whether it can be written.
    pub fn readonly(&self) -> bool {
        match self {
            Self::Ram(disk) => disk.readonly(),
            Self::Vbd(disk) => disk.readonly(),
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        match self {
            Self::Ram(disk) => disk.counters(),
            Self::Vbd(disk) => disk.counters(),
        }
    }

    /// Takes what a back end has finished.
    pub fn poll(&mut self) -> Wake {
        match self {
            Self::Ram(_) => Wake::default(),
            Self::Vbd(disk) => disk.poll(),
        }
    }

    /// Lets the events of its back end through that were held back.
    pub fn listen_again(&self) {
        if let Self::Vbd(disk) = self {
            disk.backend().listen_again();
        }
    }

    /// What a disk of another domain counts besides.
    pub fn connection_counters(&self, slot: SlotIndex) -> Vec<(&'static str, u64)> {
        let Self::Vbd(device) = self else {
            return Vec::new();
        };
        let disk = device.backend().get();
        let counters = disk.counters();
        [
            ("in-flight", device.in_flight() as u64),
            ("dropped", device.dropped()),
            ("ring-requests", counters.requests),
            ("ring-indirect", counters.indirect),
            ("ring-notified", counters.notified),
            ("ring-suppressed", counters.suppressed),
            ("ring-events", signals::count(Served::Disk(slot))),
            ("connections", counters.connections),
            ("connections-lost", counters.lost),
            ("connections-broken", counters.broken),
            ("sent-again", counters.reissued),
            ("lost-flushes", counters.lost_flushes),
        ]
        .to_vec()
    }
}

impl Device for Disk {
    fn id(&self) -> DeviceId {
        DeviceId::BLOCK
    }

    fn features(&self) -> Features {
        match self {
            Self::Ram(disk) => disk.features(),
            Self::Vbd(disk) => disk.features(),
        }
    }

    fn queues(&self) -> u16 {
        match self {
            Self::Ram(disk) => disk.queues(),
            Self::Vbd(disk) => disk.queues(),
        }
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        match self {
            Self::Ram(disk) => disk.read_config(offset, into),
            Self::Vbd(disk) => disk.read_config(offset, into),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Ram(disk) => disk.reset(),
            Self::Vbd(disk) => disk.reset(),
        }
    }

    fn reset_queue(&mut self, queue: u16) {
        match self {
            Self::Ram(disk) => disk.reset_queue(queue),
            Self::Vbd(disk) => disk.reset_queue(queue),
        }
    }

    fn keeps_order(&self, queue: u16) -> bool {
        match self {
            Self::Ram(disk) => disk.keeps_order(queue),
            Self::Vbd(disk) => disk.keeps_order(queue),
        }
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        match self {
            Self::Ram(disk) => disk.run(pass, chain),
            Self::Vbd(disk) => disk.run(pass, chain),
        }
    }
}
