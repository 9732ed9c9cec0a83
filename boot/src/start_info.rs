//! `hvm_start_info` (public/arch-x86/hvm/start_info.h), copied and validated.
//!
//! The structures lie in memory that the toolstack filled. Nothing in them is
//! believed before it was copied once and checked, and the copy is what the rest
//! of the image uses. A structure that does not hold up becomes a
//! [`StartInfoError`] that names the field, never a fault.

use core::fmt;
use core::ops::Range;

use heapless::Vec;

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with the high bit of the "E" set.
pub const MAGIC: u32 = 0x336e_c578;

/// Longest command line that is taken, in bytes without the terminator.
pub const MAX_COMMAND_LINE: usize = 1023;
/// Most modules that are taken.
pub const MAX_MODULES: usize = 8;
/// Most memory map entries that are taken.
pub const MAX_MEMORY_MAP: usize = 64;

/// End of the memory that the provisional page tables reach: everything that
/// start_info points at must lie below.
pub const REACHABLE: u64 = 1 << 32;

/// Reads physical memory while the provisional page tables are in force.
pub trait PhysRead {
    /// Copies `buf.len()` bytes from physical address `addr`.
    /// The caller has checked that the range ends below [`REACHABLE`].
    fn read(&self, addr: u64, buf: &mut [u8]);
}

/// What a memory map entry describes (`XEN_HVM_MEMMAP_TYPE_*`, the E820 types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram,
    /// Anything else: never touched.
    Reserved(u32),
}

/// One range of the physical address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte and the byte after the last, in bytes.
    pub range: Range<u64>,
    /// What lies there.
    pub kind: MemoryKind,
}

/// One module that the toolstack loaded (xl's `ramdisk=`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it lies, in bytes.
    pub range: Range<u64>,
}

/// The validated hand-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// The memory map in the order given; entries do not wrap and are not empty.
    pub memory_map: Vec<MemoryRange, MAX_MEMORY_MAP>,
    /// The command line without its terminator; not necessarily UTF-8.
    pub command_line: Vec<u8, MAX_COMMAND_LINE>,
    /// Modules: inside RAM, not overlapping each other or the image.
    pub modules: Vec<Module, MAX_MODULES>,
    /// Physical address of the ACPI RSDP; `None` when the toolstack gave none.
    pub rsdp: Option<u64>,
    /// Where start_info and the lists it points at lie; free once parsed.
    pub start_info: u64,
}

/// Why start_info was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// The named structure does not lie below 4 GiB, or is a null pointer.
    Unreachable(&'static str, u64),
    /// The magic number is another.
    Magic(u32),
    /// Version 0 has no memory map (Xen before 4.12).
    Version(u32),
    /// More entries than [`MAX_MODULES`] or [`MAX_MEMORY_MAP`].
    TooMany(&'static str, u32),
    /// A reserved field is not zero.
    Reserved(&'static str),
    /// The command line has no terminator within [`MAX_COMMAND_LINE`] bytes.
    CommandLine,
    /// An entry is empty or wraps the address space.
    Range(&'static str, u64, u64),
    /// Two ranges of RAM or two modules overlap, or a module lies over the image.
    Overlap(&'static str, u64),
    /// A module or the image is not in RAM.
    NotRam(&'static str, u64),
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(what, addr) => {
                write!(f, "start_info: {what} at {addr:#x} is not below 4 GiB")
            }
            Self::Magic(magic) => write!(
                f,
                "start_info: magic {magic:#010x}, expected {MAGIC:#010x}: not booted through PVH"
            ),
            Self::Version(version) => write!(
                f,
                "start_info: version {version} has no memory map: Xen 4.12 or later is needed"
            ),
            Self::TooMany(what, n) => write!(f, "start_info: {n} {what} are too many"),
            Self::Reserved(what) => write!(f, "start_info: reserved field of {what} is not zero"),
            Self::CommandLine => {
                write!(
                    f,
                    "start_info: command line is longer than {MAX_COMMAND_LINE} bytes"
                )
            }
            Self::Range(what, addr, size) => {
                write!(
                    f,
                    "start_info: {what} at {addr:#x} of {size:#x} bytes is empty or wraps"
                )
            }
            Self::Overlap(what, addr) => write!(f, "start_info: {what} at {addr:#x} overlaps"),
            Self::NotRam(what, addr) => write!(f, "start_info: {what} at {addr:#x} is not in RAM"),
        }
    }
}

/// Little-endian fields of a copied structure.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn read(mem: &impl PhysRead, what: &'static str, addr: u64) -> Result<Self, StartInfoError> {
        reachable(what, addr, N as u64)?;
        let mut bytes = [0; N];
        mem.read(addr, &mut bytes);
        Ok(Self(bytes))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

fn reachable(what: &'static str, addr: u64, size: u64) -> Result<(), StartInfoError> {
    match addr.checked_add(size) {
        Some(end) if addr != 0 && end <= REACHABLE => Ok(()),
        _ => Err(StartInfoError::Unreachable(what, addr)),
    }
}

fn span(what: &'static str, addr: u64, size: u64) -> Result<Range<u64>, StartInfoError> {
    match addr.checked_add(size) {
        Some(end) if size != 0 => Ok(addr..end),
        _ => Err(StartInfoError::Range(what, addr, size)),
    }
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Reads and validates the start_info at physical address `addr`.
///
/// `image` is where the running image lies; modules must not overlap it.
///
/// # Errors
/// The first field that does not hold up.
pub fn parse(
    mem: &impl PhysRead,
    addr: u64,
    image: &Range<u64>,
) -> Result<BootInfo, StartInfoError> {
    // struct hvm_start_info, version 1: magic 0, version 4, flags 8, nr_modules 12,
    // modlist_paddr 16, cmdline_paddr 24, rsdp_paddr 32, memmap_paddr 40,
    // memmap_entries 48, reserved 52. Versions only append.
    let head = Fields::<56>::read(mem, "the structure itself", addr)?;
    if head.u32(0) != MAGIC {
        return Err(StartInfoError::Magic(head.u32(0)));
    }
    if head.u32(4) < 1 {
        return Err(StartInfoError::Version(head.u32(4)));
    }
    if head.u32(52) != 0 {
        return Err(StartInfoError::Reserved("hvm_start_info"));
    }
    let memory_map = memory_map(mem, head.u64(40), head.u32(48))?;
    within_ram("the image", &memory_map, image)?;
    Ok(BootInfo {
        command_line: command_line(mem, head.u64(24))?,
        modules: modules(mem, head.u64(16), head.u32(12), &memory_map, image)?,
        rsdp: Some(head.u64(32)).filter(|&rsdp| rsdp != 0),
        memory_map,
        start_info: addr,
    })
}

fn memory_map(
    mem: &impl PhysRead,
    list: u64,
    entries: u32,
) -> Result<Vec<MemoryRange, MAX_MEMORY_MAP>, StartInfoError> {
    let too_many = StartInfoError::TooMany("memory map entries", entries);
    if entries == 0 {
        return Err(StartInfoError::Range("the memory map", list, 0));
    }
    if entries as usize > MAX_MEMORY_MAP {
        return Err(too_many);
    }
    reachable("the memory map", list, u64::from(entries) * 24)?;
    let mut map: Vec<MemoryRange, MAX_MEMORY_MAP> = Vec::new();
    for index in 0..u64::from(entries) {
        // struct hvm_memmap_table_entry: addr 0, size 8, type 16, reserved 20.
        let entry = Fields::<24>::read(mem, "the memory map", list + index * 24)?;
        if entry.u32(20) != 0 {
            return Err(StartInfoError::Reserved("a memory map entry"));
        }
        let range = span("a memory map entry", entry.u64(0), entry.u64(8))?;
        let kind = match entry.u32(16) {
            1 => MemoryKind::Ram,
            other => MemoryKind::Reserved(other),
        };
        if kind == MemoryKind::Ram && map.iter().any(|other| overlaps(&other.range, &range))
            || map
                .iter()
                .any(|o| o.kind == MemoryKind::Ram && overlaps(&o.range, &range))
        {
            return Err(StartInfoError::Overlap("a memory map entry", range.start));
        }
        map.push(MemoryRange { range, kind })
            .map_err(|_| too_many)?;
    }
    Ok(map)
}

fn within_ram(
    what: &'static str,
    map: &[MemoryRange],
    range: &Range<u64>,
) -> Result<(), StartInfoError> {
    let inside = |ram: &MemoryRange| {
        ram.kind == MemoryKind::Ram && ram.range.start <= range.start && range.end <= ram.range.end
    };
    if map.iter().any(inside) {
        Ok(())
    } else {
        Err(StartInfoError::NotRam(what, range.start))
    }
}

fn modules(
    mem: &impl PhysRead,
    list: u64,
    count: u32,
    map: &[MemoryRange],
    image: &Range<u64>,
) -> Result<Vec<Module, MAX_MODULES>, StartInfoError> {
    let mut modules: Vec<Module, MAX_MODULES> = Vec::new();
    if count == 0 {
        return Ok(modules);
    }
    let too_many = StartInfoError::TooMany("modules", count);
    if count as usize > MAX_MODULES {
        return Err(too_many);
    }
    reachable("the module list", list, u64::from(count) * 32)?;
    for index in 0..u64::from(count) {
        // struct hvm_modlist_entry: paddr 0, size 8, cmdline_paddr 16, reserved 24.
        let entry = Fields::<32>::read(mem, "the module list", list + index * 32)?;
        if entry.u64(24) != 0 {
            return Err(StartInfoError::Reserved("a module"));
        }
        let range = span("a module", entry.u64(0), entry.u64(8))?;
        within_ram("a module", map, &range)?;
        if overlaps(&range, image) || modules.iter().any(|m| overlaps(&m.range, &range)) {
            return Err(StartInfoError::Overlap("a module", range.start));
        }
        modules.push(Module { range }).map_err(|_| too_many)?;
    }
    Ok(modules)
}

fn command_line(
    mem: &impl PhysRead,
    addr: u64,
) -> Result<Vec<u8, MAX_COMMAND_LINE>, StartInfoError> {
    let mut line = Vec::new();
    if addr == 0 {
        return Ok(line);
    }
    for offset in 0..=MAX_COMMAND_LINE as u64 {
        let at = addr.checked_add(offset).unwrap_or(REACHABLE);
        reachable("the command line", at, 1)?;
        let mut byte = [0];
        mem.read(at, &mut byte);
        if byte[0] == 0 {
            return Ok(line);
        }
        line.push(byte[0])
            .map_err(|_| StartInfoError::CommandLine)?;
    }
    Err(StartInfoError::CommandLine)
}

#[cfg(test)]
mod tests;
