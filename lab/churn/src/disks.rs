//! Disks: each use verifies what the one before has written, past all caches, and writes something else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::{entries, pattern, wait_for};

const BLOCK: usize = 64 << 10;
/// Blocks that are used in turn.
const PLACES: u32 = 64;

/// A buffer as direct I/O wants it.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

/// The disks, by their serial numbers: their names may change.
pub(crate) struct Disks {
    serials: Vec<String>,
    expected: Box<Aligned>,
    found: Box<Aligned>,
}

impl Disks {
    pub(crate) fn new() -> Self {
        let serials = entries("/sys/block", "vd").unwrap_or_default();
        let mut serials: Vec<String> = serials.iter().filter_map(|name| serial(name)).collect();
        serials.sort();
        Self {
            serials,
            expected: Box::new(Aligned([0; BLOCK])),
            found: Box::new(Aligned([0; BLOCK])),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.serials.len()
    }

    pub(crate) fn use_all(&mut self, round: u32) -> io::Result<()> {
        for (index, serial) in (0..).zip(&self.serials) {
            let seed = |round: u32| u64::from(round) << 32 | index << 1 | 1;
            let disk = open(serial)?;
            if let Some(before) = round.checked_sub(1) {
                pattern(seed(before), &mut self.expected.0);
                disk.read_exact_at(&mut self.found.0, place(before))?;
                if self.found.0 != self.expected.0 {
                    return Err(io::Error::other(format!(
                        "{serial}: what was written in round {before} is not on it"
                    )));
                }
            }
            pattern(seed(round), &mut self.expected.0);
            disk.write_all_at(&self.expected.0, place(round))?;
            disk.sync_data()?;
        }
        Ok(())
    }
}

fn place(round: u32) -> u64 {
    u64::from(round % PLACES) * BLOCK as u64
}

fn serial(name: &str) -> Option<String> {
    let serial = std::fs::read_to_string(format!("/sys/block/{name}/serial")).ok()?;
    (!serial.is_empty()).then_some(serial)
}

/// The disk with a serial number.
fn open(wanted: &str) -> io::Result<File> {
    let names = entries("/sys/block", "vd")?;
    let name = names
        .iter()
        .find(|name| serial(name).as_deref() == Some(wanted))
        .ok_or_else(|| io::Error::other(format!("there is no disk {wanted}")))?;
    let path = format!("/dev/{name}");
    wait_for(&path, || std::fs::metadata(&path).is_ok())?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}
