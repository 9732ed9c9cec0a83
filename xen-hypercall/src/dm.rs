//! `dm_op` (public/hvm/dm_op.h): what a device model may do to its guest.
//!
//! All of it acts on *another* domain and on buffers that are passed along, so that all
//! of it is safe. Common errors: `EPERM` when the guest is not the caller's target, `ESRCH`
//! when there is no such domain, `EOPNOTSUPP` for a PV guest.

use core::fmt;

use crate::{DomId, Errno, EvtchnPort, Gfn, Hypervisor, VcpuId, number};

mod abi;
pub use abi::*;

/// `XEN_DMOP_IOREQ_MEM_ACCESS_WRITE`.
pub const ACCESS_WRITE: u32 = 2;

/// An ioreq server's number in its guest (`ioservid_t`).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u16);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The buffered ring of an ioreq server (`HVM_IOREQSRV_BUFIOREQ_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BufferedRing {
    /// None.
    Off = 0,
    /// As QEMU's: pointers are plain.
    Legacy = 1,
    /// Pointers are updated atomically.
    Atomic = 2,
}

/// Addresses that an ioreq server serves; ends are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoRange {
    /// I/O ports.
    Port(u64, u64),
    /// Guest-physical memory.
    Memory(u64, u64),
    /// PCI functions: segment 16, bus 8, device 5, function 3 bits.
    Pci(u64, u64),
}

/// What [`get_ioreq_server_info`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The port of the buffered ring in the guest's server.
    pub bufioreq_port: EvtchnPort,
    /// Frames of the slots and of the buffered ring in the guest; only when asked for.
    pub gfns: Option<(Gfn, Gfn)>,
}

/// An event to inject (`XEN_DMOP_inject_event`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// `XEN_DMOP_EVENT_*`: 0 external, 2 NMI, 3 hardware exception, 4 software interrupt,
    /// 5 privileged software exception, 6 software exception.
    pub kind: u8,
    /// Length of the instruction for software events.
    pub instruction_len: u8,
    /// Error code; `None` when there is none.
    pub error_code: Option<u32>,
    /// CR2 of a page fault, pending bits of a debug exception.
    pub cr2: u64,
}

/// Caching of a range ([`pin_memory_cacheattr`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CacheAttr {
    /// Uncacheable.
    Uc = 0,
    /// Write-combining.
    Wc = 1,
    /// Write-through.
    Wt = 4,
    /// Write-protected.
    Wp = 5,
    /// Write-back.
    Wb = 6,
    /// Uncacheable, weakly.
    UcMinus = 7,
    /// Forget what was pinned.
    Delete = u32::MAX,
}

/// Type of a frame of the guest's (`HVMMEM_*`), of those that [`set_mem_type`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum MemType {
    /// RAM.
    Ram = 0,
    /// RAM that the guest can only read; what it writes is dropped.
    ReadOnly = 1,
    /// Emulated.
    Emulated = 2,
    /// RAM of which the accesses named with [`map_mem_type_to_ioreq_server`] go to that server.
    IoreqServer = 4,
}

/// Calls `dm_op` with the operation in buffer 0 and, where there is one, a list in buffer 1.
fn call<T, L>(
    xen: &impl Hypervisor,
    domid: DomId,
    op: u32,
    arg: T,
    list: Option<&mut [L]>,
) -> Result<T, Errno> {
    let mut whole = DmOp { op, pad: 0, arg };
    let mut buffers = [DmOpBuf::default(); 2];
    buffers[0] = DmOpBuf {
        h: (&raw mut whole) as u64,
        size: size_of::<DmOp<T>>() as u64,
    };
    let mut used = 1;
    if let Some(list) = list {
        buffers[1] = DmOpBuf {
            h: list.as_mut_ptr() as u64,
            size: size_of_val(list) as u64,
        };
        used = 2;
    }
    let args = [
        usize::from(domid.0),
        used,
        buffers.as_mut_ptr() as usize,
        0,
        0,
    ];
    // SAFETY: the buffers are as large as they say and live as long as the call; the
    // operations below act on the guest only.
    Errno::check(unsafe { xen.hypercall(number::DM_OP, args) })?;
    Ok(whole.arg)
}

fn plain<T>(xen: &impl Hypervisor, domid: DomId, op: u32, arg: T) -> Result<T, Errno> {
    call::<T, u8>(xen, domid, op, arg, None)
}

/// The operation behind [`set_pci_intx_level`], for [`crate::batch`].
pub(crate) type Level = DmOp<SetPciIntxLevel>;

pub(crate) fn level(arg: SetPciIntxLevel) -> Level {
    DmOp {
        op: op::SET_PCI_INTX_LEVEL,
        pad: 0,
        arg,
    }
}

/// Creates an ioreq server for `guest`; Xen pauses the guest meanwhile. It has
/// the lowest number that is free. Where ranges overlap, the enabled server with
/// the highest number wins, which need not be the newest.
///
/// # Errors
/// `ENOSPC` when the guest has eight of them, `ENOMEM`, and the common ones.
pub fn create_ioreq_server(
    xen: &impl Hypervisor,
    guest: DomId,
    ring: BufferedRing,
) -> Result<ServerId, Errno> {
    let arg = CreateIoreqServer {
        handle_bufioreq: ring as u8,
        ..Default::default()
    };
    plain(xen, guest, op::CREATE_IOREQ_SERVER, arg).map(|arg| ServerId(arg.id))
}

/// Tells about a server. With `want_gfns`, Xen maps its pages into the guest, which
/// [`crate::memory::acquire_resource`] makes unnecessary.
///
/// # Errors
/// `ENOENT`, `EPERM` for another's server, `EOPNOTSUPP`.
pub fn get_ioreq_server_info(
    xen: &impl Hypervisor,
    guest: DomId,
    server: ServerId,
    want_gfns: bool,
) -> Result<ServerInfo, Errno> {
    let flags = if want_gfns { 0 } else { NO_GFNS };
    let arg = GetIoreqServerInfo {
        id: server.0,
        flags,
        ..Default::default()
    };
    let arg = plain(xen, guest, op::GET_IOREQ_SERVER_INFO, arg)?;
    Ok(ServerInfo {
        bufioreq_port: EvtchnPort(arg.bufioreq_port),
        gfns: want_gfns.then_some((Gfn(arg.ioreq_gfn), Gfn(arg.bufioreq_gfn))),
    })
}

fn range(server: ServerId, range: IoRange) -> IoreqServerRange {
    let (kind, start, end) = match range {
        IoRange::Port(start, end) => (0, start, end),
        IoRange::Memory(start, end) => (1, start, end),
        IoRange::Pci(start, end) => (2, start, end),
    };
    IoreqServerRange {
        id: server.0,
        pad: 0,
        kind,
        start,
        end,
    }
}

/// Sends accesses to `io` to the server.
///
/// # Errors
/// `ENOENT`, `EPERM`, `EINVAL` when the end is before the start, `EEXIST` when the server has
/// part of it already, `ENOSPC`.
pub fn map_io_range_to_ioreq_server(
    xen: &impl Hypervisor,
    guest: DomId,
    server: ServerId,
    io: IoRange,
) -> Result<(), Errno> {
    plain(xen, guest, op::MAP_IO_RANGE, range(server, io)).map(drop)
}

/// Takes `io` away from the server again.
///
/// # Errors
/// `ENOENT` also when the range is not the server's, `EPERM`, `EINVAL`.
pub fn unmap_io_range_from_ioreq_server(
    xen: &impl Hypervisor,
    guest: DomId,
    server: ServerId,
    io: IoRange,
) -> Result<(), Errno> {
    plain(xen, guest, op::UNMAP_IO_RANGE, range(server, io)).map(drop)
}

/// Enables or disables the server; the slots' ports are valid from the first enabling on.
/// Xen pauses the guest meanwhile.
///
/// # Errors
/// `ENOENT`, `EPERM`.
pub fn set_ioreq_server_state(
    xen: &impl Hypervisor,
    guest: DomId,
    server: ServerId,
    enabled: bool,
) -> Result<(), Errno> {
    let arg = SetIoreqServerState {
        id: server.0,
        enabled: u8::from(enabled),
        pad: 0,
    };
    plain(xen, guest, op::SET_IOREQ_SERVER_STATE, arg).map(drop)
}

/// Destroys the server. Xen pauses the guest meanwhile.
///
/// # Errors
/// `ENOENT`, `EPERM`.
pub fn destroy_ioreq_server(
    xen: &impl Hypervisor,
    guest: DomId,
    server: ServerId,
) -> Result<(), Errno> {
    plain(
        xen,
        guest,
        op::DESTROY_IOREQ_SERVER,
        DestroyIoreqServer {
            id: server.0,
            pad: 0,
        },
    )
    .map(drop)
}

/// Fills `bitmap`, a bit a frame, with which of `frames` frames from `first` on were written
/// since the last call. Zero frames end the tracking.
///
/// # Errors
/// `EINVAL` when the bitmap is too small or the range too large, `ENODATA`.
pub fn track_dirty_vram(
    xen: &impl Hypervisor,
    guest: DomId,
    first: Gfn,
    frames: u32,
    bitmap: &mut [u8],
) -> Result<(), Errno> {
    if (bitmap.len() as u64) < u64::from(frames).div_ceil(8) {
        return Err(Errno::EINVAL);
    }
    let arg = TrackDirtyVram {
        nr: frames,
        pad: 0,
        first_pfn: first.0,
    };
    call(xen, guest, op::TRACK_DIRTY_VRAM, arg, Some(bitmap)).map(drop)
}

/// Sets the level of INTA (0) to INTD (3) of a PCI device. An interrupt comes with
/// the change from 0 to 1.
///
/// # Errors
/// `EINVAL` for a segment, bus, device or line that is out of range.
#[inline]
pub fn set_pci_intx_level(
    xen: &impl Hypervisor,
    guest: DomId,
    device: u8,
    intx: u8,
    level: bool,
) -> Result<(), Errno> {
    let arg = SetPciIntxLevel {
        domain: 0,
        bus: 0,
        device,
        intx,
        level: u8::from(level),
    };
    plain(xen, guest, op::SET_PCI_INTX_LEVEL, arg).map(drop)
}

/// Sets the level of an ISA interrupt (0 to 15).
///
/// # Errors
/// `EINVAL` for another number.
pub fn set_isa_irq_level(
    xen: &impl Hypervisor,
    guest: DomId,
    irq: u8,
    level: bool,
) -> Result<(), Errno> {
    let arg = SetIsaIrqLevel {
        isa_irq: irq,
        level: u8::from(level),
    };
    plain(xen, guest, op::SET_ISA_IRQ_LEVEL, arg).map(drop)
}

/// Routes PCI link 0 to 3 to an ISA interrupt (1 to 15), or nowhere (0).
///
/// # Errors
/// `EINVAL`.
pub fn set_pci_link_route(
    xen: &impl Hypervisor,
    guest: DomId,
    link: u8,
    irq: u8,
) -> Result<(), Errno> {
    plain(
        xen,
        guest,
        op::SET_PCI_LINK_ROUTE,
        SetPciLinkRoute { link, isa_irq: irq },
    )
    .map(drop)
}

/// Tells Xen that the device model wrote to the guest's memory (for live migration).
///
/// # Errors
/// `EINVAL`.
pub fn modified_memory(
    xen: &impl Hypervisor,
    guest: DomId,
    extents: &mut [ModifiedMemoryExtent],
) -> Result<(), Errno> {
    let nr_extents = u32::try_from(extents.len()).map_err(|_| Errno::E2BIG)?;
    let arg = ModifiedMemory {
        nr_extents,
        opaque: 0,
    };
    call(xen, guest, op::MODIFIED_MEMORY, arg, Some(extents)).map(drop)
}

/// Changes the type of `frames` frames. From RAM to [`MemType::IoreqServer`] and back; from there to no other.
///
/// # Errors
/// `EINVAL` for a change that is not allowed, `EAGAIN` for memory that is shared or paged, `EOPNOTSUPP` for a guest without
/// nested paging.
pub fn set_mem_type(
    xen: &impl Hypervisor,
    guest: DomId,
    first: Gfn,
    frames: u32,
    mem_type: MemType,
) -> Result<(), Errno> {
    let arg = SetMemType {
        nr: frames,
        mem_type: mem_type as u16,
        pad: 0,
        first_pfn: first.0,
    };
    plain(xen, guest, op::SET_MEM_TYPE, arg).map(drop)
}

/// Injects an event into a vCPU.
///
/// # Errors
/// `EINVAL` for a vCPU that does not exist, `EBUSY` when one is pending.
pub fn inject_event(
    xen: &impl Hypervisor,
    guest: DomId,
    vcpu: VcpuId,
    event: &Event,
) -> Result<(), Errno> {
    let arg = InjectEvent {
        vcpuid: vcpu.0,
        vector: event.vector,
        kind: event.kind,
        insn_len: event.instruction_len,
        error_code: event.error_code.unwrap_or(u32::MAX),
        cr2: event.cr2,
        ..Default::default()
    };
    plain(xen, guest, op::INJECT_EVENT, arg).map(drop)
}

/// Sends a message-signalled interrupt to the guest's local APICs.
///
/// # Errors
/// What Xen says.
pub fn inject_msi(xen: &impl Hypervisor, guest: DomId, addr: u64, data: u32) -> Result<(), Errno> {
    plain(xen, guest, op::INJECT_MSI, InjectMsi { data, pad: 0, addr }).map(drop)
}

/// Sends what is written to memory of type [`MemType::IoreqServer`] to the server, or no longer: what is left of that type
/// is RAM again then. One server of a guest's can have it.
///
/// # Errors
/// `EINVAL`, `EBUSY` when another server has it, or frames of that type are left of one, `EOPNOTSUPP` for a guest without
/// nested paging.
pub fn map_mem_type_to_ioreq_server(
    xen: &impl Hypervisor,
    guest: DomId,
    server: ServerId,
    writes: bool,
) -> Result<(), Errno> {
    let arg = MapMemTypeToIoreqServer {
        id: server.0,
        kind: MemType::IoreqServer as u16,
        flags: if writes { ACCESS_WRITE } else { 0 },
        opaque: 0,
    };
    plain(xen, guest, op::MAP_MEM_TYPE, arg).map(drop)
}

/// Shuts the guest down, with one of the reasons of [`crate::sched::ShutdownReason`].
///
/// # Errors
/// The common ones.
pub fn remote_shutdown(xen: &impl Hypervisor, guest: DomId, reason: u32) -> Result<(), Errno> {
    plain(xen, guest, op::REMOTE_SHUTDOWN, RemoteShutdown { reason }).map(drop)
}

/// Moves `frames` frames of the guest's memory to another address, where they are RAM. What is there is freed.
///
/// # Errors
/// `EINVAL` where nothing is to be moved, `EACCES` for frames of other types than RAM, `ENOMEM`.
pub fn relocate_memory(
    xen: &impl Hypervisor,
    guest: DomId,
    from: Gfn,
    to: Gfn,
    frames: u32,
) -> Result<(), Errno> {
    let arg = RelocateMemory {
        size: frames,
        pad: 0,
        src_gfn: from.0,
        dst_gfn: to.0,
    };
    plain(xen, guest, op::RELOCATE_MEMORY, arg).map(drop)
}

/// Fixes the caching of the frames from `start` to `end`.
///
/// # Errors
/// `EINVAL`, `ENOENT` when there is nothing to delete, `ENOMEM`.
pub fn pin_memory_cacheattr(
    xen: &impl Hypervisor,
    guest: DomId,
    start: Gfn,
    end: Gfn,
    attr: CacheAttr,
) -> Result<(), Errno> {
    let arg = PinMemoryCacheattr {
        start: start.0,
        end: end.0,
        kind: attr as u32,
        pad: 0,
    };
    plain(xen, guest, op::PIN_MEMORY_CACHEATTR, arg).map(drop)
}

/// How many vCPUs the guest can have. The cheapest way to ask whether it is the caller's target.
///
/// # Errors
/// The common ones.
pub fn nr_vcpus(xen: &impl Hypervisor, guest: DomId) -> Result<u32, Errno> {
    plain(xen, guest, op::NR_VCPUS, NrVcpus::default()).map(|arg| arg.vcpus)
}
