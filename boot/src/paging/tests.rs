//! The tables are built on the host with table frames in ordinary memory, then
//! walked entry by entry: no page is writable and executable, guards are absent.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use x86_64::structures::paging::mapper::{MappedFrame, Translate, TranslateResult};

use super::*;

/// Table frames are boxed tables: "physical" addresses are host addresses.
struct HostFrames(usize);

// SAFETY: every frame is a fresh, leaked, page-aligned table.
unsafe impl FrameAllocator<Size4KiB> for HostFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0 = self.0.checked_sub(1)?;
        let table: &'static mut PageTable = Box::leak(Box::new(PageTable::new()));
        PhysFrame::from_start_address(PhysAddr::new(core::ptr::from_mut(table) as u64)).ok()
    }
}

fn space(gib_pages: bool) -> AddressSpace<'static> {
    let root = Box::leak(Box::new(PageTable::new()));
    // SAFETY: frames are host addresses, so that the offset is zero; nobody else
    // knows the root.
    unsafe { AddressSpace::new(root, 0, gib_pages) }
}

fn image() -> Vec<Region> {
    vec![
        Region {
            range: 0x10_0000..0x10_4000,
            access: Access::Read,
        },
        Region {
            range: 0x10_4000..0x11_9000,
            access: Access::ReadExecute,
        },
        Region {
            range: 0x11_9000..0x14_0000,
            access: Access::ReadWrite,
        },
    ]
}

const HOLES: [u64; 2] = [0x12_0000, 0x13_1000];

fn build(ram: Range<u64>) -> AddressSpace<'static> {
    let mut space = space(false);
    let mut frames = HostFrames(64);
    // SAFETY: the tables are never loaded.
    plan(&ram, &image(), &HOLES, |region| unsafe {
        space.map(&region, &mut frames)
    })
    .unwrap();
    space
}

fn flags(space: &AddressSpace<'_>, addr: u64) -> Option<PageTableFlags> {
    match space.tables.translate(VirtAddr::new(addr)) {
        TranslateResult::Mapped {
            frame,
            offset,
            flags,
        } => {
            let start = match frame {
                MappedFrame::Size4KiB(f) => f.start_address().as_u64(),
                MappedFrame::Size2MiB(f) => f.start_address().as_u64(),
                MappedFrame::Size1GiB(f) => f.start_address().as_u64(),
            };
            assert_eq!(start + offset, addr, "the mapping is the identity");
            Some(flags)
        }
        _ => None,
    }
}

#[test]
fn every_page_is_writable_or_executable_never_both() {
    let end = 0x100_0000;
    let space = build(0..end);
    let mut seen = BTreeMap::new();
    for addr in (0..end + 0x20_0000).step_by(4096) {
        let Some(flags) = flags(&space, addr) else {
            assert!(
                addr == 0 || addr >= end || HOLES.contains(&addr),
                "{addr:#x} is missing"
            );
            continue;
        };
        assert!(
            addr != 0 && addr < end && !HOLES.contains(&addr),
            "{addr:#x} is mapped"
        );
        let write = flags.contains(PageTableFlags::WRITABLE);
        let execute = !flags.contains(PageTableFlags::NO_EXECUTE);
        assert!(!(write && execute), "{addr:#x} is writable and executable");
        assert_eq!(execute, (0x10_4000..0x11_9000).contains(&addr), "{addr:#x}");
        assert_eq!(write, !(0x10_0000..0x11_9000).contains(&addr), "{addr:#x}");
        *seen.entry((write, execute)).or_insert(0) += 1;
    }
    assert_eq!(seen[&(false, false)], 4);
    assert_eq!(seen[&(false, true)], 0x15);
}

#[test]
fn large_pages_are_used_where_they_fit() {
    let space = build(0..0x100_0000);
    assert!(
        flags(&space, 0x80_0000)
            .unwrap()
            .contains(PageTableFlags::HUGE_PAGE)
    );
    assert!(
        !flags(&space, 0x10_0000)
            .unwrap()
            .contains(PageTableFlags::HUGE_PAGE)
    );
    let mut big = self::space(true);
    let mut frames = HostFrames(2);
    let region = Region {
        range: 1 << 40..(1 << 40) + (4 << 30),
        access: Access::ReadWrite,
    };
    // SAFETY: the tables are never loaded.
    unsafe { big.map(&region, &mut frames) }.unwrap();
    assert_eq!(
        frames.0, 1,
        "one directory-pointer table is all that 1 GiB pages need"
    );
}

#[test]
fn running_out_of_frames_and_mapping_twice_are_errors() {
    let region = Region {
        range: 0x1000..0x2000,
        access: Access::Read,
    };
    // SAFETY: the tables are never loaded.
    let starved = unsafe { space(false).map(&region, &mut HostFrames(2)) };
    assert_eq!(starved, Err(PagingError::OutOfFrames));
    let mut space = space(false);
    let mut frames = HostFrames(8);
    // SAFETY: the tables are never loaded.
    unsafe {
        space.map(&region, &mut frames).unwrap();
        assert_eq!(
            space.map(&region, &mut frames),
            Err(PagingError::AlreadyMapped(0x1000))
        );
        let odd = Region {
            range: 0x1800..0x3000,
            access: Access::Read,
        };
        assert_eq!(
            space.map(&odd, &mut frames),
            Err(PagingError::BadRange(0x1800, 0x3000))
        );
    }
}
