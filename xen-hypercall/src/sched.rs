//! `sched_op` (public/sched.h).

use crate::{DomId, Errno, EvtchnPort, Hypervisor, number};

const YIELD: usize = 0;
const BLOCK: usize = 1;
const SHUTDOWN: usize = 2;
const POLL: usize = 3;
const SHUTDOWN_CODE: usize = 5;
const WATCHDOG: usize = 6;

/// Why a domain ends (`SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownReason(pub u32);

impl ShutdownReason {
    /// It is done.
    pub const POWEROFF: Self = Self(0);
    /// It wants to be started again.
    pub const REBOOT: Self = Self(1);
    /// It was told to suspend.
    pub const SUSPEND: Self = Self(2);
    /// Something is broken.
    pub const CRASH: Self = Self(3);
    /// Its watchdog ran out.
    pub const WATCHDOG: Self = Self(4);
    /// It wants to keep its memory and lose all else.
    pub const SOFT_RESET: Self = Self(5);
}

abi! {
    header "sched.h";

    /// The end of a domain.
    struct Shutdown = "struct sched_shutdown" (4) {
        /// `SHUTDOWN_*`.
        reason("reason") @ 0: u32,
    }

    /// Ports to wait for.
    struct Poll = "struct sched_poll" (24) {
        /// Addresses of the list.
        ports("ports") @ 0: u64,
        /// How many.
        nr_ports("nr_ports") @ 8: u32,
        /// Zero.
        pad @ 12: u32,
        /// When to give up, nanoseconds since the domain started; 0 = never.
        timeout("timeout") @ 16: u64,
    }

    /// A watchdog.
    struct Watchdog = "struct sched_watchdog" (8) {
        /// Which; 0 makes a new one.
        id("id") @ 0: u32,
        /// Seconds; 0 ends it.
        timeout("timeout") @ 4: u32,
    }

    /// The end of another domain; for the control domain.
    struct RemoteShutdown = "struct sched_remote_shutdown" (8) {
        /// Which.
        domain_id("domain_id") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
        /// `SHUTDOWN_*`.
        reason("reason") @ 4: u32,
    }
}

fn call<T>(xen: &impl Hypervisor, cmd: usize, arg: *mut T) -> Result<usize, Errno> {
    // SAFETY: `cmd` is matched to the type of `arg` below; Xen only reads it.
    Errno::check(unsafe { xen.hypercall(number::SCHED_OP, [cmd, arg as usize, 0, 0, 0]) })
}

/// Lets other vCPUs run.
pub fn yield_now(xen: &impl Hypervisor) {
    // Never fails.
    let _ = call::<u8>(xen, YIELD, core::ptr::null_mut());
}

/// Enables event delivery and sleeps until an event comes.
pub fn block(xen: &impl Hypervisor) {
    // Never fails.
    let _ = call::<u8>(xen, BLOCK, core::ptr::null_mut());
}

/// Ends the caller's domain; returns only when Xen refuses.
pub fn shutdown(xen: &impl Hypervisor, reason: ShutdownReason) -> Errno {
    let mut arg = Shutdown { reason: reason.0 };
    call(xen, SHUTDOWN, &raw mut arg)
        .err()
        .unwrap_or(Errno::EAGAIN)
}

/// Changes the reason that will be reported when the domain ends by itself.
///
/// # Errors
/// What Xen says.
pub fn shutdown_code(xen: &impl Hypervisor, reason: ShutdownReason) -> Result<(), Errno> {
    let mut arg = Shutdown { reason: reason.0 };
    call(xen, SHUTDOWN_CODE, &raw mut arg).map(drop)
}

/// Sleeps until one of `ports` is pending, masked or not, or until `deadline` nanoseconds
/// since the domain started (`None`: for ever).
///
/// # Errors
/// `EINVAL` for more than 128 ports or one that does not exist.
pub fn poll(
    xen: &impl Hypervisor,
    ports: &[EvtchnPort],
    deadline: Option<u64>,
) -> Result<(), Errno> {
    let mut arg = Poll {
        ports: ports.as_ptr() as u64,
        nr_ports: u32::try_from(ports.len()).map_err(|_| Errno::EINVAL)?,
        timeout: deadline.unwrap_or(0),
        ..Default::default()
    };
    call(xen, POLL, &raw mut arg).map(drop)
}

/// Starts a watchdog of `seconds`, feeds watchdog `id`, or ends it (0 seconds); returns the
/// number of a new one.
///
/// # Errors
/// `EINVAL`, `ENOSPC` when both are in use.
pub fn watchdog(xen: &impl Hypervisor, id: u32, seconds: u32) -> Result<u32, Errno> {
    let mut arg = Watchdog {
        id,
        timeout: seconds,
    };
    call(xen, WATCHDOG, &raw mut arg).map(|id| id as u32)
}

impl RemoteShutdown {
    /// The end of `domain`.
    #[must_use]
    pub fn new(domain: DomId, reason: ShutdownReason) -> Self {
        Self {
            domain_id: domain.0,
            pad: 0,
            reason: reason.0,
        }
    }
}

/// Ends another domain; for the control domain.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn remote_shutdown(
    xen: &impl Hypervisor,
    domain: DomId,
    reason: ShutdownReason,
) -> Result<(), Errno> {
    const REMOTE_SHUTDOWN: usize = 4;
    let mut arg = RemoteShutdown::new(domain, reason);
    call(xen, REMOTE_SHUTDOWN, &raw mut arg).map(drop)
}
