//! The PVH hand-over: `hvm_start_info` and the lists that it points at.
//!
//! Drives `vd_boot::start_info::parse` over a memory that holds what a toolstack writes, with a field or two broken,
//! and that sometimes changes while it is read.
//!
//! Checked: memory is read only where the provisional page tables reach, and a bounded number of times; a hand-over in
//! which nothing is broken is taken, whole; what is taken keeps every promise of `BootInfo`.
#![no_main]

use std::cell::{Cell, RefCell};
use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use vd_boot::start_info::{
    BootInfo, MAGIC, MAX_COMMAND_LINE, MAX_MEMORY_MAP, MAX_MODULES, MemoryKind, PhysRead,
    REACHABLE, parse,
};
use virtio_domain_fuzz::Source;
use virtio_domain_fuzz::text::assert_message;

const IMAGE: Range<u64> = 0x10_0000..0x18_0000;
/// Reads that a hand-over can need: the structure, both lists, the command line byte by byte.
const MOST_READS: u32 =
    1 + MAX_MEMORY_MAP as u32 + MAX_MODULES as u32 + MAX_COMMAND_LINE as u32 + 1;

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let (memory, addr, right) = hand_over(&mut source);
    let parsed = parse(&memory, addr, &IMAGE);
    assert!(memory.reads.get() <= MOST_READS);
    match parsed {
        Ok(info) => {
            assert_eq!(info.start_info, addr);
            check(&info);
            if let Some(right) = right {
                assert_eq!(right, Right::of(&info));
            }
        }
        Err(error) => {
            assert!(right.is_none(), "{error}");
            assert_message(&error);
        }
    }
});

/// Physical memory: pieces, and all-ones between them.
struct Memory {
    pieces: RefCell<Vec<(u64, Vec<u8>)>>,
    reads: Cell<u32>,
    /// Before which read which byte of which piece becomes what.
    change: Option<(u32, usize, usize, u8)>,
}

impl PhysRead for Memory {
    fn read(&self, addr: u64, buf: &mut [u8]) {
        let end = addr
            .checked_add(buf.len() as u64)
            .expect("a range that does not wrap");
        assert!(addr != 0 && end <= REACHABLE, "{addr:#x} to {end:#x}");
        let count = self.reads.get();
        self.reads.set(count + 1);
        let mut pieces = self.pieces.borrow_mut();
        if let Some((when, piece, at, value)) = self.change
            && when == count
            && let Some(byte) = pieces
                .get_mut(piece)
                .and_then(|(_, bytes)| bytes.get_mut(at))
        {
            *byte = value;
        }
        for (at, byte) in (addr..end).zip(buf) {
            let found = pieces.iter().find_map(|(start, bytes)| {
                bytes.get(usize::try_from(at.checked_sub(*start)?).ok()?)
            });
            *byte = found.copied().unwrap_or(0xff);
        }
    }
}

/// What a hand-over in which nothing is broken says.
#[derive(Debug, PartialEq)]
struct Right {
    map: Vec<(Range<u64>, MemoryKind)>,
    line: Vec<u8>,
    modules: Vec<Range<u64>>,
    rsdp: Option<u64>,
}

impl Right {
    fn of(info: &BootInfo) -> Self {
        Self {
            map: info
                .memory_map
                .iter()
                .map(|range| (range.range.clone(), range.kind))
                .collect(),
            line: info.command_line.to_vec(),
            modules: info
                .modules
                .iter()
                .map(|module| module.range.clone())
                .collect(),
            rsdp: info.rsdp,
        }
    }
}

/// One structure being put together; now and then a field of it is wrong.
struct Fields<'a, 'b> {
    source: &'a mut Source<'b>,
    bytes: Vec<u8>,
    broken: &'a mut bool,
}

impl Fields<'_, '_> {
    fn u32(&mut self, value: u32) {
        let value = if self.breaks() {
            self.source.edge() as u32
        } else {
            value
        };
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        let value = if self.breaks() {
            self.source.edge()
        } else {
            value
        };
        self.bytes.extend(value.to_le_bytes());
    }

    fn breaks(&mut self) -> bool {
        // One of many fields: seldom enough that most hand-overs are right.
        let breaks = self.source.rarely() && self.source.rarely();
        *self.broken |= breaks;
        breaks
    }
}

fn hand_over(source: &mut Source<'_>) -> (Memory, u64, Option<Right>) {
    let right = right(source);
    let addr = 0x20_0000 + source.between(0, 0xff) * 4;
    let (map_at, mods_at, line_at) = (0x20_1000, 0x20_2000, 0x20_3000);
    let mut broken = false;
    let mut pieces = Vec::new();
    let mut piece = |source: &mut Source<'_>, at: u64, fill: &dyn Fn(&mut Fields<'_, '_>)| {
        let mut fields = Fields {
            source,
            bytes: Vec::new(),
            broken: &mut broken,
        };
        fill(&mut fields);
        pieces.push((at, fields.bytes));
    };
    piece(source, addr, &|fields| {
        fields.u32(MAGIC);
        fields.u32(1);
        fields.u32(0);
        fields.u32(right.modules.len() as u32);
        fields.u64(if right.modules.is_empty() { 0 } else { mods_at });
        fields.u64(if right.line.is_empty() { 0 } else { line_at });
        fields.u64(right.rsdp.unwrap_or(0));
        fields.u64(map_at);
        fields.u32(right.map.len() as u32);
        fields.u32(0);
    });
    piece(source, map_at, &|fields| {
        for (range, kind) in &right.map {
            fields.u64(range.start);
            fields.u64(range.end - range.start);
            fields.u32(match kind {
                MemoryKind::Ram => 1,
                MemoryKind::Reserved(number) => *number,
            });
            fields.u32(0);
        }
    });
    piece(source, mods_at, &|fields| {
        for range in &right.modules {
            fields.u64(range.start);
            fields.u64(range.end - range.start);
            fields.u64(0);
            fields.u64(0);
        }
    });
    let mut line = right.line.clone();
    line.push(0);
    pieces.push((line_at, line));
    let change = source.rarely().then(|| {
        broken = true;
        let when = source.below(MOST_READS as usize) as u32;
        (when, source.below(4), source.below(1024), source.any())
    });
    let addr = if source.rarely() && source.rarely() {
        broken = true;
        source.edge()
    } else {
        addr
    };
    let memory = Memory {
        pieces: RefCell::new(pieces),
        reads: Cell::new(0),
        change,
    };
    (memory, addr, (!broken).then_some(right))
}

fn right(source: &mut Source<'_>) -> Right {
    let low_end = 0x100_0000 + source.between(0, 0xe0) * 0x100_0000;
    let mut map = vec![(0..low_end, MemoryKind::Ram)];
    let mut next = 0xf000_0000;
    for _ in 0..source.below(MAX_MEMORY_MAP) {
        let start = next + source.between(0, 0xf) * 0x1000;
        let end = start + source.between(1, 0xffff) * 0x1000;
        let kind = match source.below(5) {
            0 => MemoryKind::Ram,
            number => MemoryKind::Reserved(number as u32 + 1),
        };
        map.push((start..end, kind));
        next = end;
    }
    let turn = source.below(map.len());
    map.rotate_left(turn);
    let mut modules = Vec::new();
    let mut next = 0x40_0000;
    for _ in 0..source.below(MAX_MODULES + 1) {
        let start = next + source.between(0, 0xf) * 0x1000;
        let end = start + source.between(1, 0xf_ffff);
        if end > low_end {
            break;
        }
        modules.push(start..end);
        next = end;
    }
    let len = if source.rarely() {
        source.between(1000, MAX_COMMAND_LINE as u64)
    } else {
        source.between(0, 40)
    };
    let line = (0..len).map(|_| source.any::<u8>().max(1)).collect();
    let rsdp = source.coin().then(|| source.between(1, 0xffff_ffff));
    Right {
        map,
        line,
        modules,
        rsdp,
    }
}

/// What `BootInfo` promises, whatever was written.
fn check(info: &BootInfo) {
    let apart = |a: &Range<u64>, b: &Range<u64>| a.end <= b.start || b.end <= a.start;
    let inside = |range: &Range<u64>| {
        let ram = info
            .memory_map
            .iter()
            .filter(|entry| entry.kind == MemoryKind::Ram);
        ram.clone()
            .any(|ram| ram.range.start <= range.start && range.end <= ram.range.end)
    };
    for (n, entry) in info.memory_map.iter().enumerate() {
        assert!(entry.range.start < entry.range.end);
        for other in info.memory_map.iter().skip(n + 1) {
            let ram = [entry.kind, other.kind].contains(&MemoryKind::Ram);
            assert!(!ram || apart(&entry.range, &other.range));
        }
    }
    assert!(inside(&IMAGE));
    for (n, module) in info.modules.iter().enumerate() {
        assert!(module.range.start < module.range.end && inside(&module.range));
        assert!(apart(&module.range, &IMAGE));
        assert!(
            info.modules
                .iter()
                .skip(n + 1)
                .all(|other| apart(&module.range, &other.range))
        );
    }
    assert!(!info.command_line.contains(&0));
    assert_ne!(info.rsdp, Some(0));
}
