//! Every CPU works on a device of its own, and all kick at once.
//!
//! The boot CPU takes all interrupts; the others look for their answers, and their interrupts must have come all the
//! same.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Mutex;
use vd_paired::pattern::{self, Random};
use vd_paired::plan::Plan;

use super::Verdict;
use crate::connect::{self, Connected};
use crate::cpu;
use crate::disk::{Disk, sectors};
use crate::interrupts::{self, Waiter};

static REQUESTS: AtomicU32 = AtomicU32::new(0);
static CPUS: AtomicU32 = AtomicU32::new(0);
/// What went wrong, by CPU.
static TROUBLE: Mutex<Vec<(usize, String)>> = Mutex::new(Vec::new());

pub fn run(plan: &Plan) -> Verdict {
    let cpus = cpu::count().min(connect::devices().len());
    REQUESTS.store(plan.requests, Ordering::Release);
    CPUS.store(cpus as u32, Ordering::Release);
    TROUBLE.lock().clear();
    cpu::reset_barrier();
    cpu::run_on(cpus, work).map_err(ToString::to_string)?;
    let trouble = TROUBLE.lock();
    match trouble.first() {
        None => Ok(format!("cpus={cpus} requests={}", plan.requests)),
        Some((cpu, what)) => Err(format!("CPU {cpu}: {what}")),
    }
}

/// What one CPU does with its device.
fn work(cpu: usize) {
    let result = match connect::devices().get(cpu) {
        Some(device) => exercise(cpu, device),
        None => Err("no device".into()),
    };
    if let Err(what) = result {
        TROUBLE.lock().push((cpu, what));
    }
}

fn exercise(cpu: usize, device: &Connected) -> Result<(), String> {
    let slot = device.device.slot;
    let cpus = CPUS.load(Ordering::Acquire) as usize;
    let opened = Disk::open(device);
    // Everybody has to come here, whatever has happened to it.
    cpu::barrier(cpus, 1);
    let mut disk = opened?;
    let before = interrupts::count(slot);
    let mut random = Random::new(cpu as u64 + 99);
    let requests = REQUESTS.load(Ordering::Acquire);
    for _ in 0..requests {
        let (count, seed) = (1 + random.below(4), random.number());
        let first = random.below(disk.sectors() - count);
        let mut data = sectors(count);
        pattern::fill(&mut data, first, seed);
        for (data, write) in [(data, true), (sectors(count), false)] {
            disk.submit(first, data, write)?;
            let done = disk.complete()?;
            if !write && let Some(wrong) = pattern::first_wrong(&done.data, first, seed) {
                return Err(format!("sector {wrong} holds something else"));
            }
        }
    }
    // The boot CPU may not have had its turn yet.
    let come = Waiter::new().until(|| interrupts::count(slot) != before);
    come.map_err(|_| "no interrupt at all".into())
}
