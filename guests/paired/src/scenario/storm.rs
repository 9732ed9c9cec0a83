//! Every CPU kicks one device as fast as it can, with nothing in its queue; another device goes on.

use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use vd_config::SlotIndex;
use vd_paired::plan::Plan;

use super::{Verdict, selftest};
use crate::connect::{self, Connected};
use crate::cpu;
use crate::disk::{Disk, sectors};
use crate::ring::Bell;

/// Kicks of one CPU at least.
const KICKS: u64 = 1000;

static TARGET: AtomicU8 = AtomicU8::new(0);
static CPUS: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static RUNG: AtomicU64 = AtomicU64::new(0);
static TROUBLE: Mutex<Option<String>> = Mutex::new(None);

/// Requests that the other device has to answer meanwhile.
const REQUESTS: u64 = 20;

pub fn run(device: &Connected, plan: &Plan) -> Verdict {
    let slot = device.device.slot;
    let cpus = cpu::count();
    TARGET.store(slot.get(), Ordering::Release);
    CPUS.store(cpus as u32, Ordering::Release);
    STOP.store(false, Ordering::Release);
    RUNG.store(0, Ordering::Release);
    *TROUBLE.lock() = None;
    cpu::reset_barrier();
    // A device that runs, with an empty queue.
    let idle = Disk::open(device)?;
    let done = cpu::run_on(cpus, work);
    drop(idle);
    done.map_err(ToString::to_string)?;
    if let Some(what) = TROUBLE.lock().take() {
        return Err(what);
    }
    selftest::run(device, plan)?;
    Ok(format!(
        "cpus={cpus} kicks={} requests={REQUESTS}",
        RUNG.load(Ordering::Acquire)
    ))
}

fn work(cpu: usize) {
    let cpus = CPUS.load(Ordering::Acquire) as usize;
    let Some(device) = SlotIndex::new(TARGET.load(Ordering::Acquire)).and_then(connect::device)
    else {
        return;
    };
    cpu::barrier(cpus, 1);
    if cpu == 0 {
        // The boot CPU is the one that is served meanwhile, unless it is alone.
        let result = others_go_on(device);
        if cpus == 1 {
            ring(device, || true);
        }
        STOP.store(true, Ordering::Release);
        if let Err(what) = result {
            *TROUBLE.lock() = Some(what);
        }
    } else {
        ring(device, || STOP.load(Ordering::Acquire));
    }
}

/// Rings all doorbells of a device until `stop`, and often enough in any case.
fn ring(device: &Connected, stop: impl Fn() -> bool) {
    let (slot, base) = (device.device.slot, device.device.base);
    let mut rung = 0;
    while rung < KICKS || !stop() {
        Bell::Register.ring(slot, base, 0);
        device.bell.ring(slot, base, 0);
        rung += 2;
    }
    RUNG.fetch_add(rung, Ordering::AcqRel);
}

/// Another device answers.
fn others_go_on(device: &Connected) -> Result<(), String> {
    let slot = device.device.slot;
    let mut others = connect::devices().iter();
    let other = others.find(|other| other.device.slot != slot);
    let other = other.ok_or("there is no other device")?;
    let mut disk = Disk::open(other)?;
    for sector in 0..REQUESTS {
        disk.submit(sector, sectors(1), false)?;
        disk.complete().map_err(|what| format!("{other}: {what}"))?;
    }
    Ok(())
}
