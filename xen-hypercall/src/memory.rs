//! `memory_op` (public/memory.h): the physmap, the caller's and that of others.

use crate::{DomId, Errno, Gfn, Hypervisor, number};

const INCREASE_RESERVATION: usize = 0;
pub(crate) const DECREASE_RESERVATION: usize = 1;
const MAXIMUM_RAM_PAGE: usize = 2;
const CURRENT_RESERVATION: usize = 3;
const MAXIMUM_RESERVATION: usize = 4;
pub(crate) const POPULATE_PHYSMAP: usize = 6;
const ADD_TO_PHYSMAP: usize = 7;
const MEMORY_MAP: usize = 9;
pub(crate) const MAXIMUM_GPFN: usize = 14;
pub(crate) const REMOVE_FROM_PHYSMAP: usize = 15;
pub(crate) const ADD_TO_PHYSMAP_BATCH: usize = 23;
pub(crate) const ACQUIRE_RESOURCE: usize = 28;

/// `XENMAPSPACE_*` numbers.
mod space {
    pub(super) const SHARED_INFO: u32 = 0;
    pub(super) const GRANT_TABLE: u32 = 1;
    pub(super) const GMFN_FOREIGN: u16 = 4;
}

abi! {
    header "memory.h";

    /// Extents of memory to add or remove.
    struct MemoryReservation = "struct xen_memory_reservation" (32) {
        /// Frame numbers, one an extent.
        extent_start("extent_start") @ 0: u64,
        /// How many.
        nr_extents("nr_extents") @ 8: u64,
        /// log2 of the frames in an extent.
        extent_order("extent_order") @ 16: u32,
        /// `XENMEMF_*`.
        mem_flags("mem_flags") @ 20: u32,
        /// Whose memory.
        domid("domid") @ 24: u16,
        /// Zero.
        pad @ 26: [u16; 3],
    }

    /// One page to put into a physmap.
    struct AddToPhysmap = "struct xen_add_to_physmap" (24) {
        /// Whose physmap.
        domid("domid") @ 0: u16,
        /// Number of pages (GMFN_RANGE only).
        size("size") @ 2: u16,
        /// `XENMAPSPACE_*`.
        space("space") @ 4: u32,
        /// Which page of that space.
        idx("idx") @ 8: u64,
        /// Where it is to appear.
        gpfn("gpfn") @ 16: u64,
    }

    /// Several pages to put into a physmap.
    struct AddToPhysmapBatch = "struct xen_add_to_physmap_batch" (32) {
        /// Whose physmap.
        domid("domid") @ 0: u16,
        /// `XENMAPSPACE_*`.
        space("space") @ 2: u16,
        /// How many pages.
        size("size") @ 4: u16,
        /// The other domain for `XENMAPSPACE_gmfn_foreign`.
        foreign_domid("u.foreign_domid") @ 6: u16,
        /// Which pages of that space.
        idxs("idxs") @ 8: u64,
        /// Where they are to appear.
        gpfns("gpfns") @ 16: u64,
        /// An error each, negative or zero.
        errs("errs") @ 24: u64,
    }

    /// One page to take out of a physmap.
    struct RemoveFromPhysmap = "struct xen_remove_from_physmap" (16) {
        /// Whose physmap.
        domid("domid") @ 0: u16,
        /// Zero.
        pad @ 2: [u16; 3],
        /// Which page.
        gpfn("gpfn") @ 8: u64,
    }

    /// A list to be filled.
    struct MemoryMap = "struct xen_memory_map" (16) {
        /// Entries that fit; then, entries there are.
        nr_entries("nr_entries") @ 0: u32,
        /// Zero.
        pad @ 4: u32,
        /// Where they go: E820 entries of 20 bytes.
        buffer("buffer") @ 8: u64,
    }

    /// A resource to be mapped.
    struct AcquireResource = "struct xen_mem_acquire_resource" (32) {
        /// Whose resource.
        domid("domid") @ 0: u16,
        /// `XENMEM_resource_*`.
        kind("type") @ 2: u16,
        /// Which resource of that type.
        id("id") @ 4: u32,
        /// How many frames; when zero, Xen says how many there are.
        nr_frames("nr_frames") @ 8: u32,
        /// Zero.
        pad("pad") @ 12: u32,
        /// The first frame of the resource.
        frame("frame") @ 16: u64,
        /// Where the frames are to appear in the caller's physmap.
        frame_list("frame_list") @ 24: u64,
    }
}

/// An entry of the memory map: the E820 layout, 20 bytes.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// 1 = RAM, 2 = reserved, 3 = ACPI, 4 = ACPI NVS, 5 = unusable.
    pub kind: u32,
}

/// A resource that [`acquire_resource`] maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `XENMEM_resource_ioreq_server`: frame 0 is the buffered ring, frame 1 the page of
    /// slots.
    IoreqServer(crate::dm::ServerId),
    /// `XENMEM_resource_grant_table`, shared frames.
    GrantTable,
    /// `XENMEM_resource_grant_table`, status frames.
    GrantStatus,
}

/// Which other domain's frames [`add_to_physmap_batch`] maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhysmapSpace {
    /// `XENMAPSPACE_gmfn_foreign`.
    ForeignGmfn(DomId),
}

/// Calls `memory_op`.
///
/// # Safety
/// `arg` is what `cmd` expects, and its effects break no reference.
unsafe fn call<T>(xen: &impl Hypervisor, cmd: usize, arg: *mut T) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    Errno::check(unsafe { xen.hypercall(number::MEMORY_OP, [cmd, arg as usize, 0, 0, 0]) })
}

fn reservation(domid: DomId, frames: &[u64]) -> MemoryReservation {
    MemoryReservation {
        extent_start: frames.as_ptr() as u64,
        nr_extents: frames.len() as u64,
        domid: domid.0,
        ..Default::default()
    }
}

/// Gives `domid` fresh memory at each frame of `frames`; Xen may move them (the caller sees
/// its own list unchanged only for HVM domains). Returns how many frames got memory: fewer than
/// asked for is no error of the call.
///
/// # Errors
/// `EPERM` for a domain that is not the caller's target, `ESRCH`.
///
/// # Safety
/// For the own domain: nothing may be in use at these frames.
pub unsafe fn populate_physmap(
    xen: &impl Hypervisor,
    domid: DomId,
    frames: &mut [u64],
) -> Result<usize, Errno> {
    let mut arg = reservation(domid, frames);
    // SAFETY: list and argument live as long as the call; the rest is the caller's promise.
    unsafe { call(xen, POPULATE_PHYSMAP, &raw mut arg) }
}

/// Takes the memory at each frame of `frames` away from `domid`. Returns how many were taken.
///
/// # Errors
/// `EPERM`, `ESRCH`.
///
/// # Safety
/// For the own domain: nothing may be in use at these frames.
pub unsafe fn decrease_reservation(
    xen: &impl Hypervisor,
    domid: DomId,
    frames: &[u64],
) -> Result<usize, Errno> {
    let mut arg = reservation(domid, frames);
    // SAFETY: as for `populate_physmap`; Xen only reads the list.
    unsafe { call(xen, DECREASE_RESERVATION, &raw mut arg) }
}

/// Raises `domid`'s memory by `extents` frames at no address; returns how many it got.
/// Of use to PV domains only, here for completeness.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn increase_reservation(
    xen: &impl Hypervisor,
    domid: DomId,
    extents: u64,
) -> Result<usize, Errno> {
    let mut arg = MemoryReservation {
        nr_extents: extents,
        domid: domid.0,
        ..Default::default()
    };
    // SAFETY: no list is passed, so that Xen writes nothing; no mapping changes.
    unsafe { call(xen, INCREASE_RESERVATION, &raw mut arg) }
}

/// Number of the machine's last frame of RAM.
///
/// # Errors
/// What Xen says.
pub fn maximum_ram_page(xen: &impl Hypervisor) -> Result<u64, Errno> {
    // SAFETY: takes no argument.
    unsafe { call::<u8>(xen, MAXIMUM_RAM_PAGE, core::ptr::null_mut()) }.map(|page| page as u64)
}

fn ask(xen: &impl Hypervisor, cmd: usize, domid: DomId) -> Result<u64, Errno> {
    let mut domid = domid.0;
    // SAFETY: Xen reads a domid.
    unsafe { call(xen, cmd, &raw mut domid) }.map(|value| value as u64)
}

/// Number of frames that `domid` has.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn current_reservation(xen: &impl Hypervisor, domid: DomId) -> Result<u64, Errno> {
    ask(xen, CURRENT_RESERVATION, domid)
}

/// Number of frames that `domid` may have.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn maximum_reservation(xen: &impl Hypervisor, domid: DomId) -> Result<u64, Errno> {
    ask(xen, MAXIMUM_RESERVATION, domid)
}

/// The highest frame number in `domid`'s physmap.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn maximum_gpfn(xen: &impl Hypervisor, domid: DomId) -> Result<Gfn, Errno> {
    ask(xen, MAXIMUM_GPFN, domid).map(Gfn)
}

/// Fills `entries` with the caller's memory map; returns how many were written.
///
/// # Errors
/// `ENOSYS` when the toolstack set no map, `EINVAL`.
pub fn memory_map(xen: &impl Hypervisor, entries: &mut [E820Entry]) -> Result<usize, Errno> {
    let mut arg = MemoryMap {
        nr_entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        buffer: entries.as_mut_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: Xen writes at most as many entries as it was told fit.
    unsafe { call(xen, MEMORY_MAP, &raw mut arg) }?;
    Ok((arg.nr_entries as usize).min(entries.len()))
}

unsafe fn add_to_physmap(
    xen: &impl Hypervisor,
    space: u32,
    idx: u64,
    gpfn: Gfn,
) -> Result<(), Errno> {
    let mut arg = AddToPhysmap {
        domid: DomId::SELF.0,
        space,
        idx,
        gpfn: gpfn.0,
        ..Default::default()
    };
    // SAFETY: the caller's promise.
    unsafe { call(xen, ADD_TO_PHYSMAP, &raw mut arg) }.map(drop)
}

/// Puts the shared info page at `gpfn` of the caller's physmap.
///
/// # Errors
/// What Xen says; `ENOMEM` when the paging pool is used up.
///
/// # Safety
/// Nothing may be in use at `gpfn`.
pub unsafe fn add_to_physmap_shared_info(xen: &impl Hypervisor, gpfn: Gfn) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { add_to_physmap(xen, space::SHARED_INFO, 0, gpfn) }
}

/// Puts frame `idx` of the caller's grant table at `gpfn` of its physmap.
///
/// # Errors
/// What Xen says.
///
/// # Safety
/// Nothing may be in use at `gpfn`.
pub unsafe fn add_to_physmap_grant_table(
    xen: &impl Hypervisor,
    idx: u64,
    gpfn: Gfn,
) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { add_to_physmap(xen, space::GRANT_TABLE, idx, gpfn) }
}

/// Puts pages of another domain into `domid`'s physmap: `idxs[i]` appears at `gpfns[i]`, and
/// `errs[i]` says with a negative number why it does not. At most the shortest list's length, and
/// 65,535 pages.
///
/// # Errors
/// For the call as a whole. `EPERM` when the other domain is not the caller's target.
///
/// # Safety
/// Nothing may be in use at `gpfns`.
pub unsafe fn add_to_physmap_batch(
    xen: &impl Hypervisor,
    domid: DomId,
    from: PhysmapSpace,
    idxs: &[u64],
    gpfns: &[u64],
    errs: &mut [i32],
) -> Result<(), Errno> {
    let PhysmapSpace::ForeignGmfn(foreign) = from;
    let size = idxs.len().min(gpfns.len()).min(errs.len());
    let mut arg = AddToPhysmapBatch {
        domid: domid.0,
        space: space::GMFN_FOREIGN,
        size: u16::try_from(size).map_err(|_| Errno::E2BIG)?,
        foreign_domid: foreign.0,
        idxs: idxs.as_ptr() as u64,
        gpfns: gpfns.as_ptr() as u64,
        errs: errs.as_mut_ptr() as u64,
    };
    // SAFETY: the lists have at least `size` entries; the rest is the caller's promise.
    unsafe { call(xen, ADD_TO_PHYSMAP_BATCH, &raw mut arg) }.map(drop)
}

impl RemoveFromPhysmap {
    /// The removal of one page.
    #[must_use]
    pub const fn new(domid: DomId, gpfn: Gfn) -> Self {
        Self {
            domid: domid.0,
            pad: [0; 3],
            gpfn: gpfn.0,
        }
    }
}

/// Takes the page at `gpfn` out of `domid`'s physmap.
///
/// # Errors
/// `EPERM`, `EINVAL`, `ENOENT` when nothing is there.
///
/// # Safety
/// For the own domain: the page may not be in use.
pub unsafe fn remove_from_physmap(
    xen: &impl Hypervisor,
    domid: DomId,
    gpfn: Gfn,
) -> Result<(), Errno> {
    let mut arg = RemoveFromPhysmap::new(domid, gpfn);
    // SAFETY: the caller's promise.
    unsafe { call(xen, REMOVE_FROM_PHYSMAP, &raw mut arg) }.map(drop)
}

/// The same as an entry of a multicall; `arg` must live until the multicall was made.
#[must_use]
pub fn remove_from_physmap_entry(arg: &RemoveFromPhysmap) -> crate::multicall::MulticallEntry {
    let arg = core::ptr::from_ref(arg) as u64;
    crate::multicall::MulticallEntry::new(
        number::MEMORY_OP,
        [REMOVE_FROM_PHYSMAP as u64, arg, 0, 0, 0, 0],
    )
}

fn resource(domid: DomId, what: Resource) -> AcquireResource {
    let (kind, id) = match what {
        Resource::IoreqServer(server) => (0, u32::from(server.0)),
        Resource::GrantTable => (1, 0),
        Resource::GrantStatus => (1, 1),
    };
    AcquireResource {
        domid: domid.0,
        kind,
        id,
        ..Default::default()
    }
}

/// Maps frames of a resource, from frame `first` on, at `gfns` of the caller's physmap.
///
/// # Errors
/// `EPERM`, `ENOENT` when there is no such frame, `EOPNOTSUPP` when the caller's
/// own domain may not (nested HVM or alternate p2m enabled).
///
/// # Safety
/// Nothing may be in use at `gfns`.
pub unsafe fn acquire_resource(
    xen: &impl Hypervisor,
    domid: DomId,
    what: Resource,
    first: u64,
    gfns: &mut [u64],
) -> Result<(), Errno> {
    let mut arg = AcquireResource {
        nr_frames: u32::try_from(gfns.len()).map_err(|_| Errno::E2BIG)?,
        frame: first,
        frame_list: gfns.as_mut_ptr() as u64,
        ..resource(domid, what)
    };
    // SAFETY: the list has `nr_frames` entries; the rest is the caller's promise.
    unsafe { call(xen, ACQUIRE_RESOURCE, &raw mut arg) }.map(drop)
}

/// How many frames a resource has.
///
/// # Errors
/// As [`acquire_resource`].
pub fn resource_size(xen: &impl Hypervisor, domid: DomId, what: Resource) -> Result<u32, Errno> {
    let mut arg = resource(domid, what);
    // SAFETY: without a list nothing is mapped; Xen writes the number.
    unsafe { call(xen, ACQUIRE_RESOURCE, &raw mut arg) }?;
    Ok(arg.nr_frames)
}
