//! The round trip of the smallest request: a flush, answered with one byte.
//!
//! Cycles are the time stamp counter's; what they mean depends on the machine. Hypercalls and kicks are this guest's,
//! counted over the requests alone.

use alloc::format;
use alloc::vec::Vec;

use vd_paired::plan::{Plan, Scenario};
use vd_rt::arch::tsc;
use vd_rt::counters;
use vd_rt::xen::{console, events};

use super::Verdict;
use crate::connect::Connected;
use crate::disk::Flusher;
use crate::{interrupts, ring, say};

/// How the end of a request is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By an interrupt, which is acknowledged in the device.
    Acknowledged,
    /// By an interrupt.
    Unacknowledged,
    /// By looking.
    Suppressed,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => Scenario::Latency,
            Self::Unacknowledged => Scenario::Unacknowledged,
            Self::Suppressed => Scenario::Suppressed,
        }
        .name()
    }
}

pub fn run(device: &Connected, plan: &Plan, way: Way) -> Verdict {
    let slot = device.device.slot;
    let by_interrupt = way != Way::Suppressed;
    interrupts::set_acknowledge(way == Way::Acknowledged);
    let mut flusher = Flusher::open(device, by_interrupt)?;
    // The first one finds nothing in place.
    flusher.flush(by_interrupt)?;
    if plan.step {
        say!("{} {device}: set up", way.name());
        while !console::read_line(|_| ()) {
            events::sleep_unless(events::any);
            events::take();
        }
    }
    let before = (interrupts::count(slot), ring::kicks(slot), hypercalls());
    let mut cycles = Vec::with_capacity(plan.requests as usize);
    for _ in 0..plan.requests {
        let start = tsc();
        flusher.flush(by_interrupt)?;
        cycles.push(tsc().wrapping_sub(start));
    }
    let interrupts = interrupts::count(slot) - before.0;
    let kicks = ring::kicks(slot) - before.1;
    let hypercalls = hypercalls() - before.2;
    if plan.step {
        // Whoever counts must not count what taking the device down would cost; the next one resets it.
        core::mem::forget(flusher);
    }
    let requests = u64::from(plan.requests);
    let expected = if by_interrupt { requests } else { 0 };
    if interrupts != expected {
        return Err(format!("{interrupts} interrupts for {requests} requests"));
    }
    cycles.sort_unstable();
    let at = |part: usize| cycles[(cycles.len() - 1) * part / 100];
    let (least, median, most) = (at(0), at(50), at(95));
    Ok(format!(
        "requests={requests} cycles={least}/{median}/{most} interrupts={interrupts} kicks={kicks} hypercalls={hypercalls}"
    ))
}

/// Hypercalls of all kinds so far.
fn hypercalls() -> u64 {
    counters::HYPERCALLS.iter().map(counters::get).sum()
}
