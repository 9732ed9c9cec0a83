//! xenstore through the daemon's socket, or through the kernel.
//!
//! The protocol is `vd-xenbus`'s; this module gives it bytes from a file descriptor that never blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vd_xenbus::error::{Error, Failure, XsError};
use vd_xenbus::store::{Perm, PermAccess, Xenstore};
use vd_xenbus::transport::Transport;

use crate::failure::Trouble;
use crate::host::{Change, Store};

/// Where the daemon may be reached, best first: its socket, then the kernel's device, which also works when xenstore
/// is a domain of its own.
const PLACES: [&str; 4] = [
    "/run/xenstored/socket",
    "/var/run/xenstored/socket",
    "/dev/xen/xenbus",
    "/proc/xen/xenbus",
];
/// How long the daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// After what time output that did not fit is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// The daemon.
pub(crate) struct Daemon {
    store: Xenstore<Channel>,
    /// Whether it tells when a domain ends.
    watching: bool,
}

/// Fires when a domain has shut down, and when one is gone.
const ENDS: &str = "@releaseDomain";

impl Daemon {
    /// Connects, to where `XENSTORED_PATH` says or to the first place that answers.
    pub(crate) fn connect() -> Result<Self, Trouble> {
        let places: Vec<PathBuf> = match std::env::var_os("XENSTORED_PATH") {
            Some(path) => vec![path.into()],
            None => PLACES.iter().map(PathBuf::from).collect(),
        };
        let mut errors = Vec::new();
        for place in &places {
            match Channel::open(place) {
                Ok(channel) => {
                    return Ok(Self {
                        store: Xenstore::new(channel),
                        watching: false,
                    });
                }
                Err(error) => errors.push(format!("{}: {error}", place.display())),
            }
        }
        Err(Trouble::new(
            format!("xenstore cannot be reached: {}", errors.join("; ")),
            "run vdom as root in dom0, with xenstored running (xenstore-ls shows whether it is)",
        ))
    }
}

/// Not being there is an answer, not an error.
fn if_there<T>(result: Result<T, Error>) -> Result<Option<T>, Trouble> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.refusal() == Some(XsError::ENOENT) => Ok(None),
        Err(error) => Err(trouble(&error)),
    }
}

fn trouble(error: &Error) -> Trouble {
    let remedy = match error.refusal() {
        Some(XsError::EACCES | XsError::EPERM) => "run vdom as root in dom0",
        Some(XsError::E2BIG | XsError::ENOSPC) => {
            "a domain has used up its share of xenstore: see xenstore-ls"
        }
        _ => "see whether xenstored is running (xenstore-ls) and try again",
    };
    Trouble::new(error.to_string(), remedy)
}

impl Store for Daemon {
    fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Trouble> {
        if_there(self.store.read(path))
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, Trouble> {
        if_there(self.store.directory(path)).map(Option::unwrap_or_default)
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), Trouble> {
        let result = self.store.transaction(|view| {
            for change in changes {
                match change {
                    Change::Remove(path) => match view.rm(path) {
                        Err(error) if error.refusal() == Some(XsError::ENOENT) => {}
                        result => result?,
                    },
                    Change::Directory {
                        path,
                        owner,
                        reader,
                    } => {
                        view.mkdir(path)?;
                        // The first names the owner and what all others may do.
                        let owner = Perm {
                            access: PermAccess::None,
                            domain: *owner,
                        };
                        let reader = Perm {
                            access: PermAccess::Read,
                            domain: *reader,
                        };
                        view.set_perms(path, &[owner, reader])?;
                    }
                    Change::Write { path, value } => view.write(path, value.as_bytes())?,
                }
            }
            Ok(())
        });
        result.map_err(|error| trouble(&error))
    }

    fn wait_for_an_end(&mut self, time: Duration) -> Result<(), Trouble> {
        if !self.watching {
            self.store
                .watch(ENDS, "end")
                .map_err(|error| trouble(&error))?;
            self.watching = true;
        }
        let mut events = 0;
        while let Some(_event) = self.store.next_watch().map_err(|error| trouble(&error))? {
            events += 1;
        }
        if events == 0 {
            crate::os::poll_unless_interrupted(&self.store.transport().file, time);
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<(), Trouble> {
        *self = Self::connect()?;
        Ok(())
    }
}

/// A file descriptor that never blocks.
struct Channel {
    file: File,
    deadline: Instant,
}

impl Channel {
    fn open(path: &Path) -> io::Result<Self> {
        let file = if std::fs::metadata(path)?.file_type().is_socket() {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            File::from(OwnedFd::from(stream))
        } else {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)?
        };
        Ok(Self {
            file,
            deadline: Instant::now(),
        })
    }
}

/// What a call on the descriptor has given, where "not now" is nothing.
fn now(result: io::Result<usize>) -> Result<usize, Error> {
    match result {
        Ok(count) => Ok(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        Err(error) => Err(Failure::Closed(
            error
                .raw_os_error()
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or_default(),
        )
        .into()),
    }
}

impl Transport for Channel {
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        now(self.file.write(bytes))
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        match self.file.read(into) {
            Ok(0) if !into.is_empty() => Err(Failure::Closed(0).into()),
            result => now(result),
        }
    }

    fn start(&mut self) {
        self.deadline = Instant::now() + PATIENCE;
    }

    fn notify(&mut self) {}

    fn wait(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        crate::os::poll_readable(&self.file, left.min(RETRY));
        true
    }

    fn reconnect(&mut self) -> Result<(), Error> {
        // A command that has lost the daemon reports it: what it has done may have to be rolled back by hand.
        Err(Failure::Closed(0).into())
    }
}

#[cfg(test)]
mod tests;
