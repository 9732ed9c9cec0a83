//! Xen's clock, and a one-shot timer.

use core::sync::atomic::{AtomicU64, Ordering};

use xen_hypercall::{VcpuId, vcpu};

use super::{XEN, shared_info};
use crate::arch;

/// When the domain started.
static START: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds of Xen's clock, which the timer goes by as well; 0 before the clock is mapped.
pub fn now() -> u64 {
    shared_info::get().map_or(0, |info| info.vcpu().time().nanoseconds(arch::tsc()))
}

/// Nanoseconds since the first call, which is made when the domain starts.
pub fn uptime() -> u64 {
    let now = now();
    match START.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => 0,
        Err(start) => now.saturating_sub(start),
    }
}

/// Asks for a timer event at `deadline` nanoseconds of Xen's clock. A deadline
/// that has passed fires at once. The last call wins.
pub fn wake_at(deadline: u64) {
    let timer = vcpu::set_singleshot_timer(&XEN, VcpuId(0), deadline, false);
    if let Err(error) = timer {
        log::error!("one-shot timer: {error}");
    }
}
