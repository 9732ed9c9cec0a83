//! The two things that vdom needs of Linux beyond std: waiting for input, and hearing of Ctrl-C.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::host::Clock;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP only set what [`RealClock`] reports, so that vdom can roll back.
pub(crate) fn catch_interrupts() {
    let handler = interrupt as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Waits until there is something to read or the time is over; may return early.
pub(crate) fn poll_readable(file: &File, time: Duration) {
    let mut entry = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let milliseconds = libc::c_int::try_from(time.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer is to one entry, which lives during the call.
    unsafe { libc::poll(&raw mut entry, 1, milliseconds.max(1)) };
}

/// The machine's clock.
#[derive(Debug)]
pub(crate) struct RealClock(pub(crate) Instant);

impl Clock for RealClock {
    fn now(&mut self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn interrupted(&mut self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}
