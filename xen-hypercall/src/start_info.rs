//! What the PVH loader hands over (public/arch-x86/hvm/start_info.h).

abi! {
    header "arch-x86/hvm/start_info.h";

    /// The hand-over itself; the address is in EBX at entry.
    struct HvmStartInfo = "struct hvm_start_info" (56) {
        /// 0x336ec578.
        magic("magic") @ 0: u32,
        /// 1 or later has a memory map.
        version("version") @ 4: u32,
        /// `SIF_*`.
        flags("flags") @ 8: u32,
        /// Entries of the module list.
        nr_modules("nr_modules") @ 12: u32,
        /// Address of the module list.
        modlist_paddr("modlist_paddr") @ 16: u64,
        /// Address of the command line.
        cmdline_paddr("cmdline_paddr") @ 24: u64,
        /// Address of the ACPI RSDP.
        rsdp_paddr("rsdp_paddr") @ 32: u64,
        /// Address of the memory map.
        memmap_paddr("memmap_paddr") @ 40: u64,
        /// Entries of the memory map.
        memmap_entries("memmap_entries") @ 48: u32,
        /// Zero.
        reserved("reserved") @ 52: u32,
    }

    /// A module.
    struct HvmModlistEntry = "struct hvm_modlist_entry" (32) {
        /// Address.
        paddr("paddr") @ 0: u64,
        /// Bytes.
        size("size") @ 8: u64,
        /// Address of its command line.
        cmdline_paddr("cmdline_paddr") @ 16: u64,
        /// Zero.
        reserved("reserved") @ 24: u64,
    }

    /// An entry of the memory map.
    struct HvmMemmapTableEntry = "struct hvm_memmap_table_entry" (24) {
        /// First byte.
        addr("addr") @ 0: u64,
        /// Bytes.
        size("size") @ 8: u64,
        /// 1 = RAM; the E820 types.
        kind("type") @ 16: u32,
        /// Zero.
        reserved("reserved") @ 20: u32,
    }
}
