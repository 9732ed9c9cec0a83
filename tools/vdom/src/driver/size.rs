//! How much memory a driver domain needs, and how much for its page tables.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// MiB for the image, its heap, stacks and page tables.
const BASE_MIB: u64 = 16;
/// How many devices that is enough for, whatever they are; and how many more one more MiB is for.
const BASE_DEVICES: usize = 16;
const DEVICES_PER_MIB: usize = 4;
/// MiB for the pages that frames of one network interface pass through.
const UPLINK_MIB: u64 = 2;
const MIB: u64 = 1 << 20;
/// 4 KiB pages in one MiB.
const PAGES_PER_MIB: u64 = 256;
/// Pages for what is not counted: partly filled tables at the ends of ranges, the guest's pages that are not RAM
/// (video memory, ACPI, special pages), the pages that Xen lends to the driver domain.
const SLACK_PAGES: u64 = 128;

/// Where a PVH domain's memory stops before it goes on at 4 GiB: the local APIC's page is not RAM.
const LOW_END_MIB: u64 = 0xfee0_0000 / MIB;

/// Memory for so many devices: for RAM disks of that many bytes each, in the order of their slots, for a module, and for
/// network interfaces.
///
/// Each disk is one piece of memory, and the image takes the lowest that is large enough: what does not fit below the
/// local APIC goes above 4 GiB, and what is left below is not used.
pub(crate) fn memory_mib(
    devices: usize,
    disks: impl IntoIterator<Item = u64>,
    module: u64,
    uplinks: usize,
) -> Option<u64> {
    let more = devices
        .saturating_sub(BASE_DEVICES)
        .div_ceil(DEVICES_PER_MIB);
    let mut low = BASE_MIB.checked_add(u64::try_from(more).ok()?)?;
    low = low.checked_add(module.div_ceil(MIB))?;
    low = low.checked_add(UPLINK_MIB.checked_mul(u64::try_from(uplinks).ok()?)?)?;
    if low > LOW_END_MIB {
        return None;
    }
    let mut high = 0u64;
    for disk in disks {
        let mib = disk.div_ceil(MIB);
        match low.checked_add(mib) {
            Some(end) if end <= LOW_END_MIB => low = end,
            _ => high = high.checked_add(mib)?,
        }
    }
    let total = if high == 0 {
        low
    } else {
        LOW_END_MIB.checked_add(high)?
    };
    (total <= 1 << 24).then_some(total)
}

/// The driver domain's paging pool (xl's `shadow_memory`) in MiB, when it has `own_mib` of memory and maps all of a
/// guest's `guest_mib`.
///
/// Its own part is what xl would give it: 256 pages a vCPU and two pages a MiB (one for the p2m, one for shadow page
/// tables, which a domain with hardware-assisted paging leaves unused).
///
/// Foreign pages are mapped 4 KiB each, so they fill leaf tables of 512 entries: one table for 2 MiB of the guest, one
/// directory a GiB, one more level a 512 GiB. The guest's addresses are mapped at a fixed offset, so its memory above
/// 4 GiB leaves a hole of up to a GiB: one directory more.
pub(crate) fn shadow_mib(own_mib: u64, vcpus: u64, guest_mib: u64) -> u64 {
    let own = vcpus
        .max(1)
        .saturating_mul(256)
        .saturating_add(own_mib.saturating_mul(2));
    let leaves = guest_mib.div_ceil(2);
    let directories = guest_mib.div_ceil(1024) + 2;
    let upper = guest_mib.div_ceil(512 * 1024) + 1;
    let pages = own.saturating_add(leaves + directories + upper + SLACK_PAGES);
    pages.div_ceil(PAGES_PER_MIB)
}

/// How large a module is in the domain: the toolstack unpacks what is gzipped.
pub(crate) fn module_bytes(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut magic = [0; 2];
    if meta.len() < 18 || file.read_exact(&mut magic).is_err() || magic != [0x1f, 0x8b] {
        return Ok(meta.len());
    }
    let mut size = [0; 4];
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut size)?;
    Ok(u64::from(u32::from_le_bytes(size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_base_plus_disks() {
        assert_eq!(memory_mib(1, [], 0, 0), Some(16));
        assert_eq!(memory_mib(1, [1], 0, 0), Some(17));
        assert_eq!(memory_mib(1, [32 << 20, 32 << 20], 128 << 20, 0), Some(208));
        assert_eq!(memory_mib(1, [u64::MAX, u64::MAX], 0, 0), None);
        assert_eq!(memory_mib(1, [], 0, 2), Some(20));
        for (devices, mib) in [(0, 16), (16, 16), (17, 17), (20, 17), (21, 18), (32, 20)] {
            assert_eq!(memory_mib(devices, [], 0, 0), Some(mib), "{devices}");
        }
        assert_eq!(
            memory_mib(1, [], 4 << 30, 0),
            None,
            "a module has to be below 4 GiB"
        );
    }

    #[test]
    fn a_disk_is_one_piece() {
        let gib = |n: u64| n << 30;
        assert_eq!(memory_mib(1, [gib(2)], 0, 0), Some(16 + 2048));
        assert_eq!(memory_mib(1, [gib(4)], 0, 0), Some(0xfee + 4096));
        assert_eq!(
            memory_mib(1, [gib(2), gib(2), gib(1)], 0, 0),
            Some(0xfee + 2048)
        );
        assert_eq!(
            memory_mib(1, [gib(3), gib(3), gib(3)], 0, 0),
            Some(0xfee + 6144)
        );
    }

    /// Counts the tables one by one for memory laid out as Xen does: up to 0xF0000000, the rest from 4 GiB.
    fn tables(guest_mib: u64) -> u64 {
        let low = guest_mib.min(3840);
        let ranges = [(0, low), (4096, 4096 + guest_mib - low)];
        let mut count = 0;
        for table_mib in [2, 1024, 512 * 1024] {
            let mut last = None;
            for (start, end) in ranges {
                for mib in start..end {
                    let table = mib / table_mib;
                    count += u64::from(last != Some(table));
                    last = Some(table);
                }
            }
        }
        count
    }

    #[test]
    fn the_pool_holds_every_table() {
        for guest in [
            1, 2, 3, 192, 512, 1024, 3840, 3841, 4096, 8192, 65536, 600_000,
        ] {
            let own = 256 + 2 * 32;
            let pool = shadow_mib(32, 1, guest) * PAGES_PER_MIB;
            assert!(
                pool >= own + tables(guest) + 64,
                "{guest} MiB: {pool} pages"
            );
            assert!(
                pool <= own + tables(guest) + 512,
                "{guest} MiB: {pool} pages is a waste"
            );
        }
    }

    #[test]
    fn gzipped_modules_count_unpacked() {
        let dir = crate::testing::TempDir::new("module");
        let plain = dir.file("plain", vec![0; 1024]);
        assert_eq!(module_bytes(&plain).unwrap(), 1024);
        let mut packed = vec![0; 100];
        packed[..2].copy_from_slice(&[0x1f, 0x8b]);
        packed[96..].copy_from_slice(&0x0012_3400_u32.to_le_bytes());
        let packed = dir.file("packed", packed);
        assert_eq!(module_bytes(&packed).unwrap(), 0x0012_3400);
        assert!(module_bytes(dir.path()).is_err());
        assert!(module_bytes(&dir.path().join("none")).is_err());
    }
}
