//! `grant_table_op` (public/grant_table.h): memory lent by its owner, page by page.
//!
//! Operations come in lists, and every entry has a status of its own: a call that succeeds says
//! nothing about its entries.

use core::fmt;

use crate::{DomId, Errno, GrantRef, Hypervisor, number};

const MAP_GRANT_REF: usize = 0;
const UNMAP_GRANT_REF: usize = 1;
const SETUP_TABLE: usize = 2;
const COPY: usize = 5;
const QUERY_SIZE: usize = 6;
const SET_VERSION: usize = 8;
const GET_STATUS_FRAMES: usize = 9;
const GET_VERSION: usize = 10;
const CACHE_FLUSH: usize = 12;

/// The result of one entry (`GNTST_*`): 0 = done, negative = refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantStatus(pub i16);

impl GrantStatus {
    /// Done.
    pub const OKAY: Self = Self(0);
    /// Something or other: an entry that permits nothing, or not this, to this domain, among others.
    pub const GENERAL_ERROR: Self = Self(-1);
    /// There is no such domain.
    pub const BAD_DOMAIN: Self = Self(-2);
    /// The owner's table has no such entry.
    pub const BAD_GNTREF: Self = Self(-3);
    /// There is no such mapping.
    pub const BAD_HANDLE: Self = Self(-4);
    /// Nothing can be mapped, or is, at that address.
    pub const BAD_VIRT_ADDR: Self = Self(-5);
    /// The same of an address for devices.
    pub const BAD_DEV_ADDR: Self = Self(-6);
    /// The IOMMU has no room.
    pub const NO_DEVICE_SPACE: Self = Self(-7);
    /// The owner does not permit it.
    pub const PERMISSION_DENIED: Self = Self(-8);
    /// What was granted is no page.
    pub const BAD_PAGE: Self = Self(-9);
    /// A copy over the end of a page.
    pub const BAD_COPY_ARG: Self = Self(-10);
    /// The frame's number is too big.
    pub const ADDRESS_TOO_BIG: Self = Self(-11);
    /// The page is on its way.
    pub const EAGAIN: Self = Self(-12);
    /// There is no room for another mapping.
    pub const NO_SPACE: Self = Self(-13);

    /// Done, or the refusal as an error.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(self) -> Result<(), Self> {
        if self == Self::OKAY {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0 => "done",
            -1 => "general error",
            -2 => "no such domain",
            -3 => "bad grant reference",
            -4 => "bad handle",
            -5 => "bad virtual address",
            -6 => "bad device address",
            -7 => "no room for device mappings",
            -8 => "permission denied",
            -9 => "bad page",
            -10 => "bad copy argument",
            -11 => "address too big",
            -12 => "try again",
            -13 => "no space",
            number => return write!(f, "status {number}"),
        };
        f.write_str(text)
    }
}

/// How a grant is mapped (`GNTMAP_*`).
pub mod map_flags {
    /// For devices.
    pub const DEVICE_MAP: u32 = 1 << 0;
    /// For the CPU.
    pub const HOST_MAP: u32 = 1 << 1;
    /// Not for writing.
    pub const READONLY: u32 = 1 << 2;
}

/// What an entry of [`CopyOp`] names by grant (`GNTCOPY_*`).
pub mod copy_flags {
    /// The source.
    pub const SOURCE_GREF: u16 = 1 << 0;
    /// The destination.
    pub const DEST_GREF: u16 = 1 << 1;
}

/// Flags of a grant table entry (`GTF_*`).
pub mod entry_flags {
    /// Not in use.
    pub const INVALID: u16 = 0;
    /// The named domain may map the frame.
    pub const PERMIT_ACCESS: u16 = 1;
    /// Only for reading.
    pub const READONLY: u16 = 1 << 2;
    /// It is being read.
    pub const READING: u16 = 1 << 3;
    /// It is being written.
    pub const WRITING: u16 = 1 << 4;
}

abi! {
    header "grant_table.h";

    /// An entry of a version 1 table.
    struct GrantEntryV1 = "struct grant_entry_v1" (8) {
        /// `GTF_*`.
        flags("flags") @ 0: u16,
        /// Who may.
        domid("domid") @ 2: u16,
        /// What.
        frame("frame") @ 4: u32,
    }

    /// A grant to map.
    struct MapOp = "struct gnttab_map_grant_ref" (32) {
        /// Guest-physical address that it is to appear at.
        host_addr("host_addr") @ 0: u64,
        /// `GNTMAP_*`.
        flags("flags") @ 8: u32,
        /// Which grant.
        gref("ref") @ 12: u32,
        /// Whose.
        dom("dom") @ 16: u16,
        /// Out.
        status("status") @ 18: i16,
        /// Out: for unmapping.
        handle("handle") @ 20: u32,
        /// Out: address for devices.
        dev_bus_addr("dev_bus_addr") @ 24: u64,
    }

    /// A grant to unmap.
    struct UnmapOp = "struct gnttab_unmap_grant_ref" (24) {
        /// Where it appears.
        host_addr("host_addr") @ 0: u64,
        /// Address for devices, or zero.
        dev_bus_addr("dev_bus_addr") @ 8: u64,
        /// Which mapping.
        handle("handle") @ 16: u32,
        /// Out.
        status("status") @ 20: i16,
        /// Zero.
        pad @ 22: u16,
    }

    /// A table to set up.
    struct SetupTable = "struct gnttab_setup_table" (24) {
        /// Whose.
        dom("dom") @ 0: u16,
        /// Zero.
        pad0 @ 2: u16,
        /// Frames wanted.
        nr_frames("nr_frames") @ 4: u32,
        /// Out.
        status("status") @ 8: i16,
        /// Zero.
        pad1 @ 10: [u16; 3],
        /// Out: where they are.
        frame_list("frame_list") @ 16: u64,
    }

    /// One end of a copy.
    struct CopyPtr = "struct gnttab_copy_ptr" (16) {
        /// Grant reference or frame number.
        address("u") @ 0: u64,
        /// Whose.
        domid("domid") @ 8: u16,
        /// Bytes into the page.
        offset("offset") @ 10: u16,
        /// Zero.
        pad @ 12: u32,
    }

    /// A copy inside one page each.
    struct CopyOp = "struct gnttab_copy" (40) {
        /// From.
        source("source") @ 0: CopyPtr,
        /// To.
        dest("dest") @ 16: CopyPtr,
        /// Bytes.
        len("len") @ 32: u16,
        /// `GNTCOPY_*`.
        flags("flags") @ 34: u16,
        /// Out.
        status("status") @ 36: i16,
        /// Zero.
        pad @ 38: u16,
    }

    /// The size of a table.
    struct QuerySize = "struct gnttab_query_size" (16) {
        /// Whose.
        dom("dom") @ 0: u16,
        /// Zero.
        pad0 @ 2: u16,
        /// Out: frames now.
        nr_frames("nr_frames") @ 4: u32,
        /// Out: frames at most.
        max_nr_frames("max_nr_frames") @ 8: u32,
        /// Out.
        status("status") @ 12: i16,
        /// Zero.
        pad1 @ 14: u16,
    }

    /// The version of the own table.
    struct SetVersion = "struct gnttab_set_version" (4) {
        /// In and out: 1 or 2.
        version("version") @ 0: u32,
    }

    /// Where the status frames are.
    struct GetStatusFrames = "struct gnttab_get_status_frames" (16) {
        /// How many.
        nr_frames("nr_frames") @ 0: u32,
        /// Whose.
        dom("dom") @ 4: u16,
        /// Out.
        status("status") @ 6: i16,
        /// Out: where they are.
        frame_list("frame_list") @ 8: u64,
    }

    /// The version of a table.
    struct GetVersion = "struct gnttab_get_version" (8) {
        /// Whose.
        dom("dom") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
        /// Out.
        version("version") @ 4: u32,
    }

    /// Caches to flush.
    struct CacheFlush = "struct gnttab_cache_flush" (16) {
        /// Device address, or grant reference.
        address("a") @ 0: u64,
        /// Bytes into the page.
        offset("offset") @ 8: u16,
        /// Bytes.
        length("length") @ 10: u16,
        /// 1 = clean, 2 = invalidate, bit 31 = by reference.
        op("op") @ 12: u32,
    }
}

/// Calls `grant_table_op` with a list.
///
/// # Safety
/// The entries' effects break no reference.
unsafe fn call<T>(xen: &impl Hypervisor, cmd: usize, list: &mut [T]) -> Result<(), Errno> {
    let args = [cmd, list.as_mut_ptr() as usize, list.len(), 0, 0];
    // SAFETY: `cmd` is matched to the type of the list; the rest is the caller's promise.
    Errno::check(unsafe { xen.hypercall(number::GRANT_TABLE_OP, args) }).map(drop)
}

fn one<T>(xen: &impl Hypervisor, cmd: usize, arg: &mut T) -> Result<(), Errno> {
    // SAFETY: the operations that come here change no mapping.
    unsafe { call(xen, cmd, core::slice::from_mut(arg)) }
}

impl MapOp {
    /// A mapping of grant `gref` of `dom` at guest-physical address `addr`.
    #[must_use]
    pub fn new(addr: u64, dom: DomId, gref: GrantRef, readonly: bool) -> Self {
        let flags = map_flags::HOST_MAP | if readonly { map_flags::READONLY } else { 0 };
        Self {
            host_addr: addr,
            flags,
            gref: gref.0,
            dom: dom.0,
            ..Default::default()
        }
    }
}

impl UnmapOp {
    /// The end of the mapping at `addr`, whose handle is `handle`.
    #[must_use]
    pub fn new(addr: u64, handle: u32) -> Self {
        Self {
            host_addr: addr,
            handle,
            ..Default::default()
        }
    }
}

impl CopyOp {
    /// A copy of `len` bytes, from `offset` bytes into grant `gref` of `dom` on, to the caller's own memory at
    /// guest-physical address `own`.
    #[must_use]
    pub fn from_grant(dom: DomId, gref: GrantRef, offset: u16, own: u64, len: u16) -> Self {
        Self {
            source: CopyPtr::granted(dom, gref, offset),
            dest: CopyPtr::own(own),
            len,
            flags: copy_flags::SOURCE_GREF,
            ..Default::default()
        }
    }

    /// The same the other way round.
    #[must_use]
    pub fn to_grant(own: u64, dom: DomId, gref: GrantRef, offset: u16, len: u16) -> Self {
        Self {
            source: CopyPtr::own(own),
            dest: CopyPtr::granted(dom, gref, offset),
            len,
            flags: copy_flags::DEST_GREF,
            ..Default::default()
        }
    }
}

impl CopyPtr {
    fn granted(dom: DomId, gref: GrantRef, offset: u16) -> Self {
        Self {
            address: gref.0.into(),
            domid: dom.0,
            offset,
            ..Default::default()
        }
    }

    fn own(address: u64) -> Self {
        Self {
            address: address >> 12,
            domid: DomId::SELF.0,
            offset: (address & 0xfff) as u16,
            ..Default::default()
        }
    }
}

/// Maps grants; look at every entry's status.
///
/// # Errors
/// For the call as a whole.
///
/// # Safety
/// Nothing may be in use at the addresses.
pub unsafe fn map(xen: &impl Hypervisor, ops: &mut [MapOp]) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(xen, MAP_GRANT_REF, ops) }
}

/// Unmaps grants; look at every entry's status.
///
/// # Errors
/// For the call as a whole.
///
/// # Safety
/// The mappings may not be in use.
pub unsafe fn unmap(xen: &impl Hypervisor, ops: &mut [UnmapOp]) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(xen, UNMAP_GRANT_REF, ops) }
}

/// Copies between granted and own frames; look at every entry's status.
///
/// # Errors
/// For the call as a whole.
///
/// # Safety
/// No reference may exist to own memory that is written.
pub unsafe fn copy(xen: &impl Hypervisor, ops: &mut [CopyOp]) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(xen, COPY, ops) }
}

/// Grows `dom`'s table to `frames.len()` frames and fills in where they are.
///
/// # Errors
/// The call's error, or `EINVAL` with the status refused.
pub fn setup_table(xen: &impl Hypervisor, dom: DomId, frames: &mut [u64]) -> Result<(), Errno> {
    let mut arg = SetupTable {
        dom: dom.0,
        nr_frames: u32::try_from(frames.len()).map_err(|_| Errno::E2BIG)?,
        frame_list: frames.as_mut_ptr() as u64,
        ..Default::default()
    };
    one(xen, SETUP_TABLE, &mut arg)?;
    GrantStatus(arg.status).check().map_err(|_| Errno::EINVAL)
}

/// Where the status frames of `dom`'s version 2 table are.
///
/// # Errors
/// The call's error, or `EINVAL` with the status refused.
pub fn get_status_frames(
    xen: &impl Hypervisor,
    dom: DomId,
    frames: &mut [u64],
) -> Result<(), Errno> {
    let mut arg = GetStatusFrames {
        dom: dom.0,
        nr_frames: u32::try_from(frames.len()).map_err(|_| Errno::E2BIG)?,
        frame_list: frames.as_mut_ptr() as u64,
        ..Default::default()
    };
    one(xen, GET_STATUS_FRAMES, &mut arg)?;
    GrantStatus(arg.status).check().map_err(|_| Errno::EINVAL)
}

/// Frames that `dom`'s table has, and can have.
///
/// # Errors
/// The call's error, or `EPERM` with the status refused.
pub fn query_size(xen: &impl Hypervisor, dom: DomId) -> Result<(u32, u32), Errno> {
    let mut arg = QuerySize {
        dom: dom.0,
        ..Default::default()
    };
    one(xen, QUERY_SIZE, &mut arg)?;
    GrantStatus(arg.status).check().map_err(|_| Errno::EPERM)?;
    Ok((arg.nr_frames, arg.max_nr_frames))
}

/// Sets the version of the own table; returns the one it has.
///
/// # Errors
/// `EINVAL`, `EBUSY` when grants are in use.
pub fn set_version(xen: &impl Hypervisor, version: u32) -> Result<u32, Errno> {
    let mut arg = SetVersion { version };
    one(xen, SET_VERSION, &mut arg)?;
    Ok(arg.version)
}

/// The version of `dom`'s table.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn get_version(xen: &impl Hypervisor, dom: DomId) -> Result<u32, Errno> {
    let mut arg = GetVersion {
        dom: dom.0,
        ..Default::default()
    };
    one(xen, GET_VERSION, &mut arg)?;
    Ok(arg.version)
}

/// Flushes caches of parts of pages; of use where devices do not snoop them.
///
/// # Errors
/// `EINVAL`, `EPERM`, `EOPNOTSUPP`.
pub fn cache_flush(xen: &impl Hypervisor, ops: &mut [CacheFlush]) -> Result<(), Errno> {
    // SAFETY: flushing changes no contents.
    unsafe { call(xen, CACHE_FLUSH, ops) }
}
