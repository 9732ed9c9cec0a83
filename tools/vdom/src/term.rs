//! What vdom needs of terminals: raw mode that ends by itself, sizes, and waiting for two of them.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

static WINDOW_CHANGED: AtomicBool = AtomicBool::new(false);

extern "C" fn window_change(_signal: libc::c_int) {
    WINDOW_CHANGED.store(true, Ordering::Relaxed);
}

/// From now on changes of the terminal's size are noted.
pub(crate) fn catch_window_changes() {
    let handler = window_change as extern "C" fn(libc::c_int);
    // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
    unsafe { libc::signal(libc::SIGWINCH, handler as libc::sighandler_t) };
}

/// From now on a signal that vdom catches ends a wait for room in a pipe or terminal.
pub(crate) fn let_signals_end_waits() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the call writes what is done with the signal, and changes nothing.
        let status = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
        if status == 0 {
            // SAFETY: the call has written all of it.
            let mut action = unsafe { action.assume_init() };
            action.sa_flags &= !libc::SA_RESTART;
            // SAFETY: what is done stays what it was, and the pointer is to what lives during the call.
            unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        }
    }
}

/// Whether the size has changed since this was asked last.
pub(crate) fn take_window_change() -> bool {
    WINDOW_CHANGED.swap(false, Ordering::Relaxed)
}

/// Whether the operator wants this to end.
pub(crate) fn is_interrupted() -> bool {
    crate::os::is_interrupted()
}

/// Columns and rows of a terminal, if it is one and says so.
pub(crate) fn window_size(terminal: &File) -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the call writes a winsize, and all zeroes are one too.
    let status = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: as above.
    let size = unsafe { size.assume_init() };
    (status == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// The mode of a terminal.
pub(crate) fn attributes(terminal: BorrowedFd<'_>) -> io::Result<libc::termios> {
    let mut attributes = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: the call writes a termios, and all zeroes are one too.
    let status = unsafe { libc::tcgetattr(terminal.as_raw_fd(), attributes.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { attributes.assume_init() })
}

fn set_attributes(terminal: BorrowedFd<'_>, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: the pointer is to attributes that live during the call.
    if unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, attributes) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts a terminal into raw mode, for good. Returns what it was in before.
pub(crate) fn make_raw(terminal: &impl AsFd) -> io::Result<libc::termios> {
    let before = attributes(terminal.as_fd())?;
    let mut raw = before;
    // SAFETY: the pointer is to attributes that live during the call.
    unsafe { libc::cfmakeraw(&raw mut raw) };
    set_attributes(terminal.as_fd(), &raw)?;
    Ok(before)
}

/// A terminal in raw mode, until this goes away, or vdom panics: nothing is dropped then.
pub(crate) struct Raw(Arc<Mutex<Option<Before>>>);

/// A terminal, and the mode that it was in.
struct Before {
    terminal: OwnedFd,
    mode: libc::termios,
}

impl Raw {
    pub(crate) fn of(terminal: &impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let mode = make_raw(&terminal)?;
        let before = Arc::new(Mutex::new(Some(Before { terminal, mode })));
        let (for_panic, next) = (Arc::clone(&before), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            restore(&for_panic);
            next(info);
        }));
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(&self.0);
    }
}

fn restore(before: &Mutex<Option<Before>>) {
    let before = before.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Before { terminal, mode }) = before {
        // There is nobody to tell.
        let _ = set_attributes(terminal.as_fd(), &mode);
    }
}

/// What to wait for.
pub(crate) struct Waiting<'a> {
    /// Something to read here,
    pub(crate) input: Option<&'a File>,
    /// or room to write here;
    pub(crate) output: Option<&'a File>,
    /// something to read at this terminal,
    pub(crate) tty: Option<&'a File>,
    /// or room to write to it.
    pub(crate) tty_output: bool,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) input: bool,
    pub(crate) output: bool,
    pub(crate) tty_input: bool,
    pub(crate) tty_output: bool,
}

impl Waiting<'_> {
    /// Waits until there is something, or the time is over; may return early.
    pub(crate) fn wait(&self, time: Duration) -> Ready {
        // A negative number is no file: it is passed over.
        let entry = |file: Option<&File>, events| libc::pollfd {
            fd: file.map_or(-1, AsRawFd::as_raw_fd),
            events,
            revents: 0,
        };
        let output = if self.tty_output { libc::POLLOUT } else { 0 };
        let mut entries = [
            entry(self.tty, libc::POLLIN | output),
            entry(self.input, libc::POLLIN),
            entry(self.output, libc::POLLOUT),
        ];
        let milliseconds = libc::c_int::try_from(time.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer is to three entries, which live during the call.
        if unsafe { libc::poll(entries.as_mut_ptr(), 3, milliseconds) } <= 0 {
            return Ready::default();
        }
        let [tty, input, output] = entries;
        // An end is something to read, too.
        let readable = libc::POLLIN | libc::POLLHUP | libc::POLLERR;
        Ready {
            input: input.revents & (readable | libc::POLLNVAL) != 0,
            // Whatever is wrong with it, writing says it.
            output: output.revents != 0,
            tty_input: tty.revents & readable != 0,
            tty_output: tty.revents & libc::POLLOUT != 0,
        }
    }
}
