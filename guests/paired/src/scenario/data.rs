//! The whole disk: written in pieces, several at a time, and read back in other pieces.

use alloc::format;
use alloc::string::String;

use vd_paired::pattern;

use super::Verdict;
use crate::connect::Connected;
use crate::disk::{Disk, sectors};
use crate::{grants, interrupts, ring};

const SEED: u64 = 0x7061_6972;

pub fn run(device: &Connected) -> Verdict {
    let slot = device.device.slot;
    let (interrupts, kicks) = (interrupts::count(slot), ring::kicks(slot));
    let mut disk = Disk::open(device)?;
    let mut requests = 0_u64;
    // Pieces of other sizes, so that no request that reads is one that wrote.
    for (pieces, write) in [([8, 16, 1], true), ([7, 24, 5], false)] {
        requests += pass(&mut disk, &pieces, write)?;
    }
    let interrupts = interrupts::count(slot) - interrupts;
    let kicks = ring::kicks(slot) - kicks;
    if interrupts == 0 || interrupts > requests + 1 {
        return Err(format!("{interrupts} interrupts for {requests} requests"));
    }
    let size = disk.sectors();
    drop(disk);
    grants::check_all_back()?;
    Ok(format!(
        "sectors={size} requests={requests} interrupts={interrupts} kicks={kicks}"
    ))
}

/// Goes over the disk once; returns how many requests it took.
fn pass(disk: &mut Disk, pieces: &[u64], write: bool) -> Result<u64, String> {
    let mut at = 0;
    let mut requests = 0;
    for piece in pieces.iter().cycle() {
        while !disk.has_room() || at == disk.sectors() && !disk.is_idle() {
            let done = disk.complete()?;
            if !done.write
                && let Some(wrong) = pattern::first_wrong(&done.data, done.sector, SEED)
            {
                return Err(format!("sector {wrong} holds something else"));
            }
        }
        if at == disk.sectors() {
            return Ok(requests);
        }
        let count = (*piece).min(disk.sectors() - at);
        let mut data = sectors(count);
        if write {
            pattern::fill(&mut data, at, SEED);
        }
        disk.submit(at, data, write)?;
        at += count;
        requests += 1;
    }
    Ok(requests)
}
