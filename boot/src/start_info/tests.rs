//! start_info is refused field by field, and every refusal is its own error.

use std::vec;
use std::vec::Vec;

use super::*;

const IMAGE: Range<u64> = 0x10_0000..0x18_0000;
const INFO: u64 = 0x20_0000;
const MAP: u64 = 0x20_1000;
const MODS: u64 = 0x20_2000;
const LINE: u64 = 0x20_3000;
const MODULE: u64 = 0x40_0000;

struct Memory(Vec<u8>);

impl Memory {
    fn put(&mut self, addr: u64, bytes: &[u8]) {
        self.0[addr as usize..addr as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn u32(&mut self, addr: u64, value: u32) {
        self.put(addr, &value.to_le_bytes());
    }

    fn u64(&mut self, addr: u64, value: u64) {
        self.put(addr, &value.to_le_bytes());
    }

    fn ram(&mut self, index: u64, start: u64, size: u64, kind: u32) {
        self.u64(MAP + index * 24, start);
        self.u64(MAP + index * 24 + 8, size);
        self.u32(MAP + index * 24 + 16, kind);
    }
}

impl PhysRead for Memory {
    fn read(&self, addr: u64, buf: &mut [u8]) {
        let at = addr as usize;
        // Unpopulated guest-physical addresses read as all ones.
        match self.0.get(at..at + buf.len()) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => buf.fill(0xff),
        }
    }
}

/// What xl builds for 16 MiB of RAM, a command line and one module.
fn good() -> Memory {
    let mut mem = Memory(vec![0; 0x50_0000]);
    mem.u32(INFO, MAGIC);
    mem.u32(INFO + 4, 1);
    mem.u32(INFO + 12, 1);
    mem.u64(INFO + 16, MODS);
    mem.u64(INFO + 24, LINE);
    mem.u64(INFO + 32, 0xfc00_8000);
    mem.u64(INFO + 40, MAP);
    mem.u32(INFO + 48, 2);
    mem.ram(0, 0, 0x100_0000, 1);
    mem.ram(1, 0xfc00_0000, 0x1_0000, 3);
    mem.u64(MODS, MODULE);
    mem.u64(MODS + 8, 0x8000);
    mem.put(LINE, b"log=debug\0");
    mem
}

fn refused(change: impl FnOnce(&mut Memory)) -> StartInfoError {
    let mut mem = good();
    change(&mut mem);
    parse(&mem, INFO, &IMAGE).expect_err("the change must be refused")
}

#[test]
fn a_good_hand_over_is_taken_whole() {
    let info = parse(&good(), INFO, &IMAGE).unwrap();
    assert_eq!(info.command_line.as_slice(), b"log=debug");
    assert_eq!(info.modules[0].range, MODULE..MODULE + 0x8000);
    assert_eq!(info.rsdp, Some(0xfc00_8000));
    assert_eq!(info.memory_map.len(), 2);
    assert_eq!(
        info.memory_map[0],
        MemoryRange {
            range: 0..0x100_0000,
            kind: MemoryKind::Ram
        }
    );
    assert_eq!(info.memory_map[1].kind, MemoryKind::Reserved(3));
}

#[test]
fn nothing_optional_is_needed() {
    let mut mem = good();
    mem.u32(INFO + 12, 0);
    mem.u64(INFO + 16, 0);
    mem.u64(INFO + 24, 0);
    mem.u64(INFO + 32, 0);
    let info = parse(&mem, INFO, &IMAGE).unwrap();
    assert!(info.command_line.is_empty() && info.modules.is_empty() && info.rsdp.is_none());
}

#[test]
fn the_header_is_checked() {
    assert_eq!(refused(|m| m.u32(INFO, 0)), StartInfoError::Magic(0));
    assert_eq!(refused(|m| m.u32(INFO + 4, 0)), StartInfoError::Version(0));
    assert_eq!(
        refused(|m| m.u32(INFO + 52, 1)),
        StartInfoError::Reserved("hvm_start_info")
    );
    let far = parse(&good(), REACHABLE - 8, &IMAGE);
    assert_eq!(
        far,
        Err(StartInfoError::Unreachable(
            "the structure itself",
            REACHABLE - 8
        ))
    );
    let wraps = parse(&good(), u64::MAX - 8, &IMAGE);
    assert!(matches!(wraps, Err(StartInfoError::Unreachable(..))));
    let null = parse(&good(), 0, &IMAGE);
    assert!(matches!(null, Err(StartInfoError::Unreachable(..))));
    // Unpopulated memory reads as ones: no magic there.
    assert_eq!(
        parse(&good(), 0x8000_0000, &IMAGE),
        Err(StartInfoError::Magic(u32::MAX))
    );
}

#[test]
fn the_memory_map_is_checked() {
    assert!(matches!(
        refused(|m| m.u32(INFO + 48, 0)),
        StartInfoError::Range(..)
    ));
    assert!(matches!(
        refused(|m| m.u32(INFO + 48, 65)),
        StartInfoError::TooMany(_, 65)
    ));
    assert!(matches!(
        refused(|m| m.u32(INFO + 48, u32::MAX)),
        StartInfoError::TooMany(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(INFO + 40, 0)),
        StartInfoError::Unreachable(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(INFO + 40, REACHABLE - 24)),
        StartInfoError::Unreachable(..)
    ));
    assert!(matches!(
        refused(|m| m.ram(1, 0xfc00_0000, 0, 3)),
        StartInfoError::Range(..)
    ));
    assert!(matches!(
        refused(|m| m.ram(1, u64::MAX - 7, 8, 3)),
        StartInfoError::Range(..)
    ));
    assert!(matches!(
        refused(|m| m.ram(1, 0xff_f000, 0x2000, 1)),
        StartInfoError::Overlap(..)
    ));
    assert!(matches!(
        refused(|m| m.ram(1, 0xff_f000, 0x2000, 2)),
        StartInfoError::Overlap(..)
    ));
    assert!(matches!(
        refused(|m| m.u32(MAP + 20, 9)),
        StartInfoError::Reserved(_)
    ));
    let too_small = refused(|m| m.ram(0, 0, IMAGE.end - 1, 1));
    assert_eq!(too_small, StartInfoError::NotRam("the image", IMAGE.start));
}

#[test]
fn modules_are_checked() {
    assert!(matches!(
        refused(|m| m.u32(INFO + 12, 9)),
        StartInfoError::TooMany(_, 9)
    ));
    assert!(matches!(
        refused(|m| m.u64(INFO + 16, 0)),
        StartInfoError::Unreachable(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(MODS + 8, 0)),
        StartInfoError::Range(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(MODS + 8, u64::MAX)),
        StartInfoError::Range(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(MODS, 0xfc00_0000)),
        StartInfoError::NotRam(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(MODS, 0x17_f000)),
        StartInfoError::Overlap(..)
    ));
    assert!(matches!(
        refused(|m| m.u64(MODS + 24, 1)),
        StartInfoError::Reserved("a module")
    ));
    let twice = refused(|m| {
        m.u32(INFO + 12, 2);
        m.u64(MODS + 32, MODULE + 0x7000);
        m.u64(MODS + 40, 0x8000);
    });
    assert_eq!(twice, StartInfoError::Overlap("a module", MODULE + 0x7000));
}

#[test]
fn the_command_line_is_bounded() {
    let endless = refused(|m| m.put(LINE, &[b'x'; MAX_COMMAND_LINE + 1]));
    assert_eq!(endless, StartInfoError::CommandLine);
    assert!(matches!(
        refused(|m| m.u64(INFO + 24, REACHABLE)),
        StartInfoError::Unreachable("the command line", _)
    ));
    let mut longest = good();
    longest.put(LINE, &[b'x'; MAX_COMMAND_LINE]);
    longest.put(LINE + MAX_COMMAND_LINE as u64, &[0]);
    assert_eq!(
        parse(&longest, INFO, &IMAGE).unwrap().command_line.len(),
        MAX_COMMAND_LINE
    );
}
