//! The pages that Xen shares with a domain (public/xen.h, 64-bit layout).

abi! {
    header "xen.h";

    /// The clock of a vCPU (pvclock). Consistent when `version` is even and did not change
    /// while it was read.
    struct VcpuTimeInfo = "struct vcpu_time_info" (32) {
        /// Odd while Xen writes.
        version("version") @ 0: u32,
        /// Zero.
        pad0 @ 4: u32,
        /// TSC at the last update.
        tsc_timestamp("tsc_timestamp") @ 8: u64,
        /// Nanoseconds since the domain started, then.
        system_time("system_time") @ 16: u64,
        /// 32-bit binary fraction of nanoseconds a cycle.
        tsc_to_system_mul("tsc_to_system_mul") @ 24: u32,
        /// Shift of the cycles before that; negative = right.
        tsc_shift("tsc_shift") @ 28: i8,
        /// Bit 0: the TSC is stable.
        flags("flags") @ 29: u8,
        /// Zero.
        pad1 @ 30: [u8; 2],
    }

    /// The part of a vCPU that depends on the architecture.
    struct ArchVcpuInfo = "struct arch_vcpu_info" (16) {
        /// CR2 (PV).
        cr2("cr2") @ 0: u64,
        /// Zero.
        pad @ 8: u64,
    }

    /// What a vCPU shares with Xen.
    struct VcpuInfo = "struct vcpu_info" (64) {
        /// An upcall is due.
        evtchn_upcall_pending("evtchn_upcall_pending") @ 0: u8,
        /// No upcalls (PV).
        evtchn_upcall_mask("evtchn_upcall_mask") @ 1: u8,
        /// Zero.
        pad @ 2: [u8; 6],
        /// A bit a word of pending bits.
        evtchn_pending_sel("evtchn_pending_sel") @ 8: u64,
        /// Architecture.
        arch("arch") @ 16: ArchVcpuInfo,
        /// Clock.
        time("time") @ 32: VcpuTimeInfo,
    }

    /// The part of a domain that depends on the architecture.
    struct ArchSharedInfo = "struct arch_shared_info" (48) {
        /// Frames of memory (PV).
        max_pfn("max_pfn") @ 0: u64,
        /// Frame lists (PV).
        pfn_to_mfn_frame_list_list("pfn_to_mfn_frame_list_list") @ 8: u64,
        /// Why an NMI came.
        nmi_reason("nmi_reason") @ 16: u64,
        /// PV.
        p2m_cr3("p2m_cr3") @ 24: u64,
        /// PV.
        p2m_vaddr("p2m_vaddr") @ 32: u64,
        /// PV.
        p2m_generation("p2m_generation") @ 40: u64,
    }

    /// What a domain shares with Xen.
    struct SharedInfo = "struct shared_info" (3136) {
        /// The first 32 vCPUs.
        vcpu_info("vcpu_info") @ 0: [VcpuInfo; 32],
        /// A bit a port.
        evtchn_pending("evtchn_pending") @ 2048: [u64; 64],
        /// A bit a port.
        evtchn_mask("evtchn_mask") @ 2560: [u64; 64],
        /// Odd while Xen writes the wall clock.
        wc_version("wc_version") @ 3072: u32,
        /// Wall clock at the domain's start: seconds since 1970, lower 32 bits.
        wc_sec("wc_sec") @ 3076: u32,
        /// And nanoseconds.
        wc_nsec("wc_nsec") @ 3080: u32,
        /// Upper 32 bits of the seconds.
        wc_sec_hi("wc_sec_hi") @ 3084: u32,
        /// Architecture.
        arch("arch") @ 3088: ArchSharedInfo,
    }
}
