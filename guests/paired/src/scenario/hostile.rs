//! A driver that breaks one rule after another, beside an honest one on another device.
//!
//! The attacks are those of the program `hostile` under Linux. Here another CPU works with the honest device all the
//! while, and a third changes descriptors under the device's hands.

use alloc::format;
use alloc::string::{String, ToString};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use spin::{Mutex, Once};
use vd_config::SlotIndex;
use vd_hostile::device::Device;
use vd_hostile::{Granted, Page, Platform};
use vd_paired::pattern;
use vd_rt::mem::frames::{self, FRAME};
use vd_rt::xen::{XEN, time};
use xen_hypercall::sched;

use super::Verdict;
use crate::connect::{self, Connected};
use crate::disk::{Disk, sectors};
use crate::{cpu, grants, say};

/// CPU of the honest driver.
const HONEST: usize = 1;
/// CPU that scribbles.
const SCRIBBLER: usize = 2;
/// Nanoseconds between two rounds of the honest driver.
const PAUSE: u64 = 20_000_000;
/// Where a PVH guest of less than 2 GiB has no RAM.
const HOLE: u64 = 0x8000_0000;

static END_OF_RAM: AtomicU64 = AtomicU64::new(0);
/// The device under attack.
static VICTIM: AtomicU8 = AtomicU8::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
/// Requests of the honest driver.
static SERVED: AtomicU64 = AtomicU64::new(0);
static TROUBLE: Mutex<Option<String>> = Mutex::new(None);
/// What the scribbler does, as the address of a `&(dyn Fn() + Sync)`; 0 = nothing.
static SCRIBBLE: AtomicUsize = AtomicUsize::new(0);

/// What is there to attack with.
static GRANTED: Once<Granted> = Once::new();

/// Says where RAM ends.
pub fn set_end_of_ram(end: u64) {
    END_OF_RAM.store(end, Ordering::Relaxed);
}

pub fn run(device: &Connected) -> Verdict {
    if cpu::count() <= SCRIBBLER {
        return Err("it takes three CPUs".into());
    }
    VICTIM.store(device.device.slot.get(), Ordering::Release);
    STOP.store(false, Ordering::Release);
    SERVED.store(0, Ordering::Release);
    *TROUBLE.lock() = None;
    cpu::start(HONEST, honest)?;
    let attacked = attack(device);
    STOP.store(true, Ordering::Release);
    cpu::join(HONEST)?;
    let summary = attacked?;
    if let Some(what) = TROUBLE.lock().take() {
        return Err(format!("the honest driver: {what}"));
    }
    let served = SERVED.load(Ordering::Acquire);
    if summary.failed != 0 || served == 0 {
        return Err(format!("{summary}; honest requests={served}"));
    }
    Ok(format!("{summary}; honest requests={served}"))
}

fn attack(device: &Connected) -> Result<vd_hostile::Summary, String> {
    let base = device.device.base;
    let registers = NonNull::new(base as *mut u8).ok_or("no registers")?;
    // SAFETY: the registers are mapped for good; Rust knows of nothing there.
    let registers = unsafe { Page::new(registers, base) };
    let platform = Paired;
    let mut device = Device::open(registers, &platform).map_err(ToString::to_string)?;
    device.check_service()?;
    Ok(vd_hostile::run(&mut device, |line| {
        let failed = format!("{line}").contains("FAILED");
        if failed {
            say!("hostile {line}");
        }
    }))
}

/// An ordinary driver of another device, until it is to stop.
fn honest(_: usize) {
    let victim = VICTIM.load(Ordering::Acquire);
    let mut devices = connect::devices().iter();
    let other = devices.find(|device| SlotIndex::new(victim) != Some(device.device.slot));
    let result = match other {
        Some(other) => work(other),
        None => Err("there is no other device".into()),
    };
    if let Err(what) = result {
        *TROUBLE.lock() = Some(what);
    }
}

fn work(device: &Connected) -> Result<(), String> {
    let mut disk = Disk::open(device)?;
    let mut seed = 0;
    while !STOP.load(Ordering::Acquire) {
        seed += 1;
        let first = seed % (disk.sectors() - 8);
        let mut data = sectors(8);
        pattern::fill(&mut data, first, seed);
        for (data, write) in [(data, true), (sectors(8), false)] {
            disk.submit(first, data, write)?;
            let done = disk.complete()?;
            if !write && let Some(wrong) = pattern::first_wrong(&done.data, first, seed) {
                return Err(format!("sector {wrong} holds something else"));
            }
            SERVED.fetch_add(1, Ordering::AcqRel);
        }
        // The attacks are to get on as well, where there is one CPU for all.
        let _ = sched::poll(&XEN, &[], Some(time::now() + PAUSE));
    }
    Ok(())
}

/// Where the attacks run.
struct Paired;

impl Platform for Paired {
    fn page(&self) -> Result<Page, &'static str> {
        let start = frames::allocate(1, 1, false).map_err(|_| "no memory")?;
        let bytes = NonNull::new(start as *mut u8).ok_or("no memory")?;
        // SAFETY: a fresh frame, mapped, and never given back.
        unsafe {
            bytes.write_bytes(0, FRAME as usize);
            Ok(Page::new(bytes, grants::share(start, FRAME, false)))
        }
    }

    fn granted(&self) -> Option<Granted> {
        grants::are_used().then(|| {
            *GRANTED.call_once(|| {
                let page = || frames::allocate(1, 1, false).unwrap_or(0);
                Granted {
                    plain: page(),
                    readonly: grants::share(page(), FRAME, true),
                    never: grants::never(),
                }
            })
        })
    }

    fn milliseconds(&self) -> u64 {
        time::now() / 1_000_000
    }

    fn sleep(&self, milliseconds: u64) {
        let end = time::now() + milliseconds * 1_000_000;
        let _ = cpu::wait(|| time::now() >= end);
    }

    fn end_of_ram(&self) -> u64 {
        END_OF_RAM.load(Ordering::Relaxed)
    }

    fn hole(&self) -> u64 {
        HOLE
    }

    fn beside(&self, other: &(dyn Fn() + Sync), work: &mut dyn FnMut()) {
        SCRIBBLE.store(core::ptr::from_ref(&other).addr(), Ordering::Release);
        let started = cpu::start(SCRIBBLER, scribble);
        work();
        SCRIBBLE.store(0, Ordering::Release);
        if started.is_ok() {
            // It must not go on after `other` is gone.
            cpu::join(SCRIBBLER).expect("the scribbler ends");
        }
    }
}

fn scribble(_: usize) {
    loop {
        let other = SCRIBBLE.load(Ordering::Acquire);
        if other == 0 {
            return;
        }
        // SAFETY: `beside` has put the address of such a reference there, and waits for this CPU before it is gone.
        let other: &(dyn Fn() + Sync) = unsafe { *(other as *const &(dyn Fn() + Sync)) };
        for _ in 0..64 {
            other();
        }
        sched::yield_now(&XEN);
    }
}
