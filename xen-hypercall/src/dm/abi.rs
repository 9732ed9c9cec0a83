//! The structures of public/hvm/dm_op.h.

/// Operation numbers (`XEN_DMOP_*`). 1 to 20 without 19, which is Arm's.
pub mod op {
    /// `XEN_DMOP_create_ioreq_server`.
    pub const CREATE_IOREQ_SERVER: u32 = 1;
    /// `XEN_DMOP_get_ioreq_server_info`.
    pub const GET_IOREQ_SERVER_INFO: u32 = 2;
    /// `XEN_DMOP_map_io_range_to_ioreq_server`.
    pub const MAP_IO_RANGE: u32 = 3;
    /// `XEN_DMOP_unmap_io_range_from_ioreq_server`.
    pub const UNMAP_IO_RANGE: u32 = 4;
    /// `XEN_DMOP_set_ioreq_server_state`.
    pub const SET_IOREQ_SERVER_STATE: u32 = 5;
    /// `XEN_DMOP_destroy_ioreq_server`.
    pub const DESTROY_IOREQ_SERVER: u32 = 6;
    /// `XEN_DMOP_track_dirty_vram`.
    pub const TRACK_DIRTY_VRAM: u32 = 7;
    /// `XEN_DMOP_set_pci_intx_level`.
    pub const SET_PCI_INTX_LEVEL: u32 = 8;
    /// `XEN_DMOP_set_isa_irq_level`.
    pub const SET_ISA_IRQ_LEVEL: u32 = 9;
    /// `XEN_DMOP_set_pci_link_route`.
    pub const SET_PCI_LINK_ROUTE: u32 = 10;
    /// `XEN_DMOP_modified_memory`.
    pub const MODIFIED_MEMORY: u32 = 11;
    /// `XEN_DMOP_set_mem_type`.
    pub const SET_MEM_TYPE: u32 = 12;
    /// `XEN_DMOP_inject_event`.
    pub const INJECT_EVENT: u32 = 13;
    /// `XEN_DMOP_inject_msi`.
    pub const INJECT_MSI: u32 = 14;
    /// `XEN_DMOP_map_mem_type_to_ioreq_server`.
    pub const MAP_MEM_TYPE: u32 = 15;
    /// `XEN_DMOP_remote_shutdown`.
    pub const REMOTE_SHUTDOWN: u32 = 16;
    /// `XEN_DMOP_relocate_memory`.
    pub const RELOCATE_MEMORY: u32 = 17;
    /// `XEN_DMOP_pin_memory_cacheattr`.
    pub const PIN_MEMORY_CACHEATTR: u32 = 18;
    /// `XEN_DMOP_nr_vcpus`.
    pub const NR_VCPUS: u32 = 20;
}

/// `XEN_DMOP_no_gfns`.
pub(super) const NO_GFNS: u16 = 1;

/// `struct xen_dm_op`: the operation's number, then its own structure at byte 8.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DmOp<T> {
    pub(super) op: u32,
    pub(super) pad: u32,
    pub(super) arg: T,
}

const _: () = assert!(core::mem::offset_of!(DmOp<NrVcpus>, arg) == 8);
const _: () = assert!(core::mem::offset_of!(DmOp<InjectMsi>, arg) == 8);

abi! {
    header "hvm/dm_op.h";

    /// A buffer that an operation reads or writes.
    struct DmOpBuf = "struct xen_dm_op_buf" (16) {
        /// Its address.
        h("h") @ 0: u64,
        /// Bytes.
        size("size") @ 8: u64,
    }

    /// A server to create.
    struct CreateIoreqServer = "struct xen_dm_op_create_ioreq_server" (6) {
        /// `HVM_IOREQSRV_BUFIOREQ_*`.
        handle_bufioreq("handle_bufioreq") @ 0: u8,
        /// Zero.
        pad @ 1: [u8; 3],
        /// Out: its number.
        id("id") @ 4: u16,
    }

    /// A server to tell about.
    struct GetIoreqServerInfo = "struct xen_dm_op_get_ioreq_server_info" (24) {
        /// Which.
        id("id") @ 0: u16,
        /// Bit 0: do not map its pages into the guest.
        flags("flags") @ 2: u16,
        /// Out.
        bufioreq_port("bufioreq_port") @ 4: u32,
        /// Out.
        ioreq_gfn("ioreq_gfn") @ 8: u64,
        /// Out.
        bufioreq_gfn("bufioreq_gfn") @ 16: u64,
    }

    /// A range of a server.
    struct IoreqServerRange = "struct xen_dm_op_ioreq_server_range" (24) {
        /// Which server.
        id("id") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
        /// 0 = ports, 1 = memory, 2 = PCI.
        kind("type") @ 4: u32,
        /// First.
        start("start") @ 8: u64,
        /// Last.
        end("end") @ 16: u64,
    }

    /// A server to enable or disable.
    struct SetIoreqServerState = "struct xen_dm_op_set_ioreq_server_state" (4) {
        /// Which.
        id("id") @ 0: u16,
        /// 0 or 1.
        enabled("enabled") @ 2: u8,
        /// Zero.
        pad @ 3: u8,
    }

    /// A server to destroy.
    struct DestroyIoreqServer = "struct xen_dm_op_destroy_ioreq_server" (4) {
        /// Which.
        id("id") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
    }

    /// Frames to watch for writes.
    struct TrackDirtyVram = "struct xen_dm_op_track_dirty_vram" (16) {
        /// How many.
        nr("nr") @ 0: u32,
        /// Zero.
        pad @ 4: u32,
        /// The first.
        first_pfn("first_pfn") @ 8: u64,
    }

    /// The level of a PCI interrupt line.
    struct SetPciIntxLevel = "struct xen_dm_op_set_pci_intx_level" (6) {
        /// Segment.
        domain("domain") @ 0: u16,
        /// Bus.
        bus("bus") @ 2: u8,
        /// Device.
        device("device") @ 3: u8,
        /// 0 = INTA.
        intx("intx") @ 4: u8,
        /// 0 or 1.
        level("level") @ 5: u8,
    }

    /// The level of an ISA interrupt.
    struct SetIsaIrqLevel = "struct xen_dm_op_set_isa_irq_level" (2) {
        /// 0 to 15.
        isa_irq("isa_irq") @ 0: u8,
        /// 0 or 1.
        level("level") @ 1: u8,
    }

    /// Where a PCI link goes.
    struct SetPciLinkRoute = "struct xen_dm_op_set_pci_link_route" (2) {
        /// 0 to 3.
        link("link") @ 0: u8,
        /// 1 to 15, 0 = nowhere.
        isa_irq("isa_irq") @ 1: u8,
    }

    /// Frames that were written.
    struct ModifiedMemory = "struct xen_dm_op_modified_memory" (8) {
        /// Extents in the list.
        nr_extents("nr_extents") @ 0: u32,
        /// Zero.
        opaque("opaque") @ 4: u32,
    }

    /// Some of them.
    struct ModifiedMemoryExtent = "struct xen_dm_op_modified_memory_extent" (16) {
        /// How many.
        nr("nr") @ 0: u32,
        /// Zero.
        pad @ 4: u32,
        /// The first.
        first_pfn("first_pfn") @ 8: u64,
    }

    /// Frames that change type.
    struct SetMemType = "struct xen_dm_op_set_mem_type" (16) {
        /// How many.
        nr("nr") @ 0: u32,
        /// `HVMMEM_*`.
        mem_type("mem_type") @ 4: u16,
        /// Zero.
        pad @ 6: u16,
        /// The first.
        first_pfn("first_pfn") @ 8: u64,
    }

    /// An event for a vCPU.
    struct InjectEvent = "struct xen_dm_op_inject_event" (24) {
        /// Which vCPU.
        vcpuid("vcpuid") @ 0: u32,
        /// Vector.
        vector("vector") @ 4: u8,
        /// `XEN_DMOP_EVENT_*`.
        kind("type") @ 5: u8,
        /// Instruction length.
        insn_len("insn_len") @ 6: u8,
        /// Zero.
        pad0 @ 7: u8,
        /// All ones for none.
        error_code("error_code") @ 8: u32,
        /// Zero.
        pad1 @ 12: u32,
        /// CR2 or pending debug bits.
        cr2("cr2") @ 16: u64,
    }

    /// A message-signalled interrupt.
    struct InjectMsi = "struct xen_dm_op_inject_msi" (16) {
        /// Data.
        data("data") @ 0: u32,
        /// Zero.
        pad @ 4: u32,
        /// 0xfeexxxxx.
        addr("addr") @ 8: u64,
    }

    /// A memory type for a server.
    struct MapMemTypeToIoreqServer = "struct xen_dm_op_map_mem_type_to_ioreq_server" (16) {
        /// Which server.
        id("id") @ 0: u16,
        /// `HVMMEM_*`.
        kind("type") @ 2: u16,
        /// 1 = reads, 2 = writes.
        flags("flags") @ 4: u32,
        /// Zero.
        opaque("opaque") @ 8: u64,
    }

    /// A shutdown.
    struct RemoteShutdown = "struct xen_dm_op_remote_shutdown" (4) {
        /// `SHUTDOWN_*`.
        reason("reason") @ 0: u32,
    }

    /// Frames that move.
    struct RelocateMemory = "struct xen_dm_op_relocate_memory" (24) {
        /// How many.
        size("size") @ 0: u32,
        /// Zero.
        pad @ 4: u32,
        /// From.
        src_gfn("src_gfn") @ 8: u64,
        /// To.
        dst_gfn("dst_gfn") @ 16: u64,
    }

    /// Caching of frames.
    struct PinMemoryCacheattr = "struct xen_dm_op_pin_memory_cacheattr" (24) {
        /// First.
        start("start") @ 0: u64,
        /// Last.
        end("end") @ 8: u64,
        /// `XEN_DMOP_MEM_CACHEATTR_*`.
        kind("type") @ 16: u32,
        /// Zero.
        pad @ 20: u32,
    }

    /// The number of vCPUs.
    struct NrVcpus = "struct xen_dm_op_nr_vcpus" (4) {
        /// Out.
        vcpus("vcpus") @ 0: u32,
    }
}
