//! Names and numbers of virtual disks, as xl's `vdev=` has them (Xen's document xen-vbd-interface).
//!
//! A disk has a number, which is what it is called in xenstore; names are ways to write numbers. Here `xvda`, `sdb1` or
//! `hda` and decimal numbers are understood. Invariant: what [`VirtualDisk`] writes, it reads as the same disk.

use core::fmt;

use crate::error::{ConfigError, Excerpt};
use crate::number::canonical_u32;

/// Major numbers of the disks' names, as Linux once gave them out.
const XVD: u32 = 202 << 8;
const SD: u32 = 8 << 8;
const HD: [u32; 2] = [3 << 8, 22 << 8];
/// What numbers of disks beyond the 16th, or of partitions beyond the 15th, begin with.
const EXTENDED: u32 = 1 << 28;
/// Most disks of the extended numbers.
const DISKS: u32 = 1 << 20;
/// Most partitions of a disk, the disk itself included.
const PARTITIONS: u32 = 256;

/// A disk that the toolstack has given to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualDisk(u32);

impl VirtualDisk {
    /// Reads a name or a number.
    ///
    /// # Errors
    /// [`ConfigError::BadDisk`].
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        number(text)
            .map(Self)
            .ok_or_else(|| ConfigError::BadDisk(Excerpt::new(text)))
    }

    /// The disk of that number, if it can be one.
    pub const fn from_number(number: u32) -> Option<Self> {
        if number == 0 || number >= EXTENDED.saturating_mul(2) {
            return None;
        }
        Some(Self(number))
    }

    /// Its number: the last part of its path in xenstore.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for VirtualDisk {
    /// The name of a disk of Xen's own kind; of any other, the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((disk, partition)) = own_name(self.0) else {
            return write!(f, "{}", self.0);
        };
        f.write_str("xvd")?;
        write_letters(f, disk)?;
        if partition != 0 {
            write!(f, "{partition}")?;
        }
        Ok(())
    }
}

/// Disk and partition of a number that a name beginning with xvd stands for.
fn own_name(number: u32) -> Option<(u32, u32)> {
    if number & !0xff == XVD {
        return Some((number >> 4 & 0xf, number & 0xf));
    }
    let (disk, partition) = (number >> 8 & (DISKS.saturating_sub(1)), number & 0xff);
    let plain = disk < 16 && partition < 16;
    (number & !(EXTENDED.saturating_sub(1)) == EXTENDED && !plain).then_some((disk, partition))
}

/// Letters count like numbers without a zero: a to z, aa to zz, aaa.
fn write_letters(f: &mut fmt::Formatter<'_>, disk: u32) -> fmt::Result {
    if let Some(rest) = (disk / 26).checked_sub(1) {
        write_letters(f, rest)?;
    }
    let letter = u8::try_from(disk % 26).unwrap_or(0);
    write!(f, "{}", char::from(b'a'.saturating_add(letter)))
}

fn number(text: &[u8]) -> Option<u32> {
    if let Some(number) = canonical_u32(text) {
        return VirtualDisk::from_number(number).map(VirtualDisk::number);
    }
    let (kind, rest) = text
        .split_at_checked(text.len().min(3))
        .filter(|(kind, _)| *kind == b"xvd")
        .or_else(|| text.split_at_checked(text.len().min(2)))?;
    let letters = rest
        .iter()
        .take_while(|byte| byte.is_ascii_lowercase())
        .count();
    let (letters, digits) = rest.split_at_checked(letters)?;
    let disk = disk_of(letters)?;
    let partition = match digits {
        [] => 0,
        digits => canonical_u32(digits).filter(|&n| n != 0 && n < PARTITIONS)?,
    };
    let plain = disk.checked_shl(4)? | partition;
    match kind {
        b"xvd" if disk < 16 && partition < 16 => Some(XVD | plain),
        b"xvd" => Some(EXTENDED | disk.checked_shl(8)? | partition),
        b"sd" if disk < 16 && partition < 16 => Some(SD | plain),
        b"hd" if disk < 4 && partition < 64 => {
            let major = HD.get(usize::try_from(disk / 2).ok()?)?;
            Some(major | (disk % 2).checked_shl(6)? | partition)
        }
        _ => None,
    }
}

fn disk_of(letters: &[u8]) -> Option<u32> {
    let mut disk = 0_u32;
    for letter in letters {
        let value = u32::from(letter.checked_sub(b'a')?).checked_add(1)?;
        disk = disk.checked_mul(26)?.checked_add(value)?;
    }
    disk.checked_sub(1).filter(|&disk| disk < DISKS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number_of(text: &str) -> Option<u32> {
        VirtualDisk::parse(text.as_bytes())
            .ok()
            .map(VirtualDisk::number)
    }

    #[test]
    fn names_have_the_numbers_of_the_interface() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvdb", 51728),
            ("xvda1", 51713),
            ("xvdp15", 51967),
            ("xvdq", 1 << 28 | 16 << 8),
            ("xvda16", 1 << 28 | 16),
            ("xvdaa", 1 << 28 | 26 << 8),
            ("sda", 2048),
            ("sdb3", 2067),
            ("hda", 768),
            ("hdb1", 833),
            ("hdc", 5632),
            ("51712", 51712),
        ] {
            assert_eq!(number_of(name), Some(number), "{name}");
        }
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        for name in [
            "",
            "xvd",
            "xvd1",
            "xvda0",
            "xvda01",
            "xvda256",
            "xvdA",
            "xvda-1",
            "xvda ",
            "sdq",
            "hde",
            "nvme0n1",
            "vda",
            "0",
            "051712",
            "536870912",
            "99999999999",
            "-1",
            "xvdzzzzzz",
            "a",
            "\u{e9}",
            "d0p1",
        ] {
            let error = VirtualDisk::parse(name.as_bytes()).expect_err(name);
            assert!(error.to_string().contains("xvda"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(number in 1_u32..1 << 29) {
            let disk = VirtualDisk(number);
            prop_assert_eq!(VirtualDisk::parse(disk.to_string().as_bytes()), Ok(disk));
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(disk) = VirtualDisk::parse(&text) {
                prop_assert_eq!(VirtualDisk::parse(disk.to_string().as_bytes()), Ok(disk));
            }
        }
    }
}
