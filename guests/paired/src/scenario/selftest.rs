//! One request at a time: written, read back, compared; with exactly one kick and one interrupt for each.

use alloc::format;
use alloc::string::String;

use vd_config::Doorbell;
use vd_paired::pattern::{self, Random};
use vd_paired::plan::Plan;

use super::Verdict;
use crate::connect::{self, Connected};
use crate::disk::{Disk, sectors};
use crate::ring::Bell;
use crate::{grants, interrupts, ring};

pub fn run(device: &Connected, plan: &Plan) -> Verdict {
    let slot = device.device.slot;
    let mut disk = Disk::open(device)?;
    let serial = disk.serial()?;
    // The answer may be seen before the interrupt that tells of it; or there is none, if it was seen before the device
    // has asked whether one is wanted.
    connect::settle(device);
    let (interrupts, kicks) = (interrupts::count(slot), ring::kicks(slot));
    let mut random = Random::new(u64::from(slot.get()) + 1);
    for number in 0..plan.requests {
        let (count, seed) = (1 + random.below(8), random.number());
        let first = random.below(disk.sectors() - count);
        let mut data = sectors(count);
        pattern::fill(&mut data, first, seed);
        for (data, write) in [(data, true), (sectors(count), false)] {
            let before = interrupts::count(slot);
            disk.submit(first, data, write)?;
            let done = disk.complete_after_interrupt(before)?;
            if done.write != write || done.sector != first {
                return Err(format!("request {number}: another was answered"));
            }
            if !write && let Some(wrong) = pattern::first_wrong(&done.data, first, seed) {
                return Err(format!(
                    "request {number}: sector {wrong} holds something else"
                ));
            }
        }
    }
    let requests = 2 * u64::from(plan.requests);
    let interrupts = interrupts::count(slot) - interrupts;
    let kicks = ring::kicks(slot) - kicks;
    if interrupts != requests {
        return Err(format!("{interrupts} interrupts for {requests} requests"));
    }
    let polled = device.device.doorbell == Doorbell::Polled;
    if kicks > requests || !polled && kicks != requests {
        return Err(format!("{kicks} kicks for {requests} requests"));
    }
    let payload = match device.bell {
        Bell::Port(_) => format!(" payload={}", ring::payload(ring::kicks(slot), 0)),
        _ => String::new(),
    };
    let size = disk.sectors();
    drop(disk);
    grants::check_all_back()?;
    Ok(format!(
        "sectors={size} serial={serial} requests={requests} interrupts={interrupts} kicks={kicks}{payload}"
    ))
}
