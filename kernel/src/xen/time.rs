//! Time since the domain started, and a one-shot timer.

use xen_hypercall::{VcpuId, vcpu};

use super::{XEN, shared_info};
use crate::arch;

/// Nanoseconds since the domain started; 0 before the clock is mapped.
pub fn now() -> u64 {
    shared_info::get().map_or(0, |info| info.vcpu().time().nanoseconds(arch::tsc()))
}

/// Asks for a timer event at `deadline` nanoseconds since the domain started. A deadline
/// that has passed fires at once. The last call wins.
pub fn wake_at(deadline: u64) {
    let timer = vcpu::set_singleshot_timer(&XEN, VcpuId(0), deadline, false);
    if let Err(error) = timer {
        log::error!("one-shot timer: {error}");
    }
}
