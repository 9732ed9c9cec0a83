//! What vdom needs of Linux beyond std: waiting for input, hearing of Ctrl-C, locks.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::host::Clock;

/// What an operator ends a command with.
const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP only set what [`RealClock`] reports, so that vdom can roll back.
pub(crate) fn catch_interrupts() {
    let handler = interrupt as extern "C" fn(libc::c_int);
    for signal in SIGNALS {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether one of those signals has come.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Goes on in a process of its own, which has no terminal and prints to `log`. Gives the new process' id to the old one,
/// and nothing to the new one.
pub(crate) fn detach(log: &File) -> io::Result<Option<u32>> {
    let nothing = File::open("/dev/null")?;
    // SAFETY: vdom has no second thread, so that the new process may do whatever the old one might.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: plain calls with open descriptors. A process that has just begun leads no group, so that the first
            // cannot fail; what cannot be redirected stays as it is.
            unsafe {
                libc::setsid();
                libc::dup2(nothing.as_raw_fd(), 0);
                libc::dup2(log.as_raw_fd(), 1);
                libc::dup2(log.as_raw_fd(), 2);
            }
            // What came from the terminal until now was too late for its parent, and is not meant for this process.
            INTERRUPTED.store(false, Ordering::Relaxed);
            Ok(None)
        }
        pid => Ok(Some(pid.cast_unsigned())),
    }
}

/// Tells a process to end, if it is one that has that file open: when a process has ended, its id is given to another.
/// Returns whether it was told.
pub(crate) fn terminate(pid: u32, file: &Path) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: a plain call, which gives a new descriptor, nobody else's, or -1: Linux before 5.3 does not have it.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = RawFd::try_from(process).ok().filter(|fd| *fd >= 0);
    // SAFETY: see above.
    let process = process.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if !has_open(pid, file) {
        return false;
    }
    let Some(process) = process else {
        // SAFETY: a plain call.
        return unsafe { libc::kill(pid, libc::SIGTERM) == 0 };
    };
    let nothing = std::ptr::null::<libc::siginfo_t>();
    let (number, signal) = (libc::SYS_pidfd_send_signal, libc::SIGTERM);
    // SAFETY: the descriptor is open, and a signal needs no further information. It reaches the process whose files were
    // looked at, or none.
    unsafe { libc::syscall(number, process.as_raw_fd(), signal, nothing, 0) == 0 }
}

fn has_open(pid: libc::pid_t, file: &Path) -> bool {
    let (Ok(there), Ok(open)) = (
        std::fs::metadata(file),
        std::fs::read_dir(format!("/proc/{pid}/fd")),
    ) else {
        return false;
    };
    let open = open.filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok());
    open.into_iter().any(|open| is_same(&open, &there))
}

/// Whether a file is what is found at a path.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    is_same(&ours, &there)
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Makes a directory that only root can look into, if it is not there.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
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

/// The same, but not at all if a signal has come that [`catch_interrupts`] has asked for, and no longer than until one
/// comes: no moment is left between the look at the flag and the wait.
pub(crate) fn poll_unless_interrupted(file: &File, time: Duration) {
    let mut entry = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let time = libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: a set is plain data, for which all zeroes are a value.
    let (mut ours, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are to values that live during the calls; the signals are held back on this thread only, and
    // only until the last call.
    unsafe {
        libc::sigemptyset(&raw mut ours);
        for signal in SIGNALS {
            libc::sigaddset(&raw mut ours, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const ours, &raw mut before);
        if !is_interrupted() {
            libc::ppoll(&raw mut entry, 1, &raw const time, &raw const before);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
    }
}

/// How to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Wait for whoever has it.
    Wait,
    /// Only if nobody has it.
    Try,
}

/// Locks a file or directory until it is closed. Returns whether it could be had.
pub(crate) fn lock(file: &File, how: Lock) -> io::Result<bool> {
    let operation = match how {
        Lock::Wait => libc::LOCK_EX,
        Lock::Try => libc::LOCK_EX | libc::LOCK_NB,
    };
    // SAFETY: the descriptor is open, and nothing but a lock is attached to it.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

/// Whether somebody has a lock on a file or directory, and is alive.
pub(crate) fn is_locked(path: &Path) -> bool {
    // Shared, so that two that only look do not take each other for a holder.
    let lock = libc::LOCK_SH | libc::LOCK_NB;
    // SAFETY: the descriptor is open, and nothing but a lock is attached to it; that goes with the descriptor.
    File::open(path).is_ok_and(|file| unsafe { libc::flock(file.as_raw_fd(), lock) } != 0)
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
        is_interrupted()
    }
}

#[cfg(test)]
mod tests;
