//! Writes that are no doorbell though they look like one: they go to the registers, or nowhere, and harm nothing.

use alloc::format;

use vd_config::SlotIndex;
use vd_config::slot::WINDOW_STRIDE;
use vd_paired::plan::Plan;
use x86_64::instructions::port::Port;

use super::{Verdict, selftest};
use crate::connect::{self, Connected};

const QUEUE_NOTIFY: u64 = 0x50;

pub fn run(device: &Connected) -> Verdict {
    let base = device.device.base;
    let mut writes = 0;
    let mut write = |f: &dyn Fn()| {
        f();
        writes += 1;
    };
    let notify = base + QUEUE_NOTIFY;
    // SAFETY: registers of a device, mapped; what no register takes is dropped. The gap behind the window is as good.
    unsafe {
        // Queues that there are not.
        for queue in [1, 7, 63, 64, 0xffff, 0x1_0000_u32 + 5, u32::MAX] {
            write(&|| (notify as *mut u32).write_volatile(queue));
        }
        // Widths that the register does not have.
        write(&|| (notify as *mut u8).write_volatile(0));
        write(&|| (notify as *mut u16).write_volatile(0));
        write(&|| (notify as *mut u64).write_volatile(0));
        // Beside it.
        write(&|| ((notify + 4) as *mut u32).write_volatile(0));
        write(&|| ((base + WINDOW_STRIDE - 8) as *mut u32).write_volatile(0));
    }
    // Slots without a device have no doorbells either.
    if let Some(empty) = SlotIndex::all().find(|slot| connect::device(*slot).is_none()) {
        let notify = empty.base() + QUEUE_NOTIFY;
        // SAFETY: a placeholder's registers: all that is written is dropped.
        write(&|| unsafe { (notify as *mut u32).write_volatile(0) });
    }
    // The ports of all slots, beside those that are doorbells; without any they are nobody's.
    for slot in SlotIndex::all() {
        let port = slot.doorbell_port();
        // SAFETY: nothing but doorbells is at these ports.
        write(&|| unsafe { Port::<u8>::new(port + 5).write(0) });
        // SAFETY: as above.
        let read = unsafe { Port::<u16>::new(port).read() };
        if read != u16::MAX {
            return Err(format!("port {port:#x} reads as {read:#x}"));
        }
    }
    let plan = Plan {
        requests: 5,
        ..Plan::default()
    };
    selftest::run(device, &plan)?;
    Ok(format!("writes={writes}"))
}
