//! The claim on a guest's name: whoever creates a guest, creates it again or destroys it holds a lock on a file meanwhile.
//!
//! Invariants: whoever has the lock of the file that is at that path holds the claim, and the file is removed by that
//! process, or by one that has taken the lock after it. What is in the file is the id of a process that may be told to
//! end, or nothing. A process that is killed leaves its id there, so an id is trusted only for as long as its process has
//! that very file open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::Trouble;
use crate::host::Clock;
use crate::os::{self, Lock, lock};

/// How long a supervisor whose guest has gone may take to notice.
const NOTICE: Duration = Duration::from_secs(5);
/// How long a process that is told to end may take.
const STOP: Duration = Duration::from_secs(60);
/// After what time it is told once more: it may have left the claim to another just then.
const AGAIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// That nobody else creates, supervises or destroys the guest.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    file: File,
    /// Whether it is another process' from now on.
    left: bool,
}

impl Claim {
    pub(crate) fn path(run_dir: &Path, guest: &str) -> PathBuf {
        // No guest's name begins with a dot.
        run_dir.join(format!(".{guest}.supervisor"))
    }

    /// For a guest that is to be created.
    pub(crate) fn take(
        run_dir: &Path,
        guest: &str,
        clock: &mut dyn Clock,
    ) -> Result<Self, Trouble> {
        let path = Self::path(run_dir, guest);
        let end = clock.now() + NOTICE;
        loop {
            let claim = Self::try_take(&path).and_then(|claim| {
                claim.as_ref().map_or(Ok(()), Self::sign)?;
                Ok(claim)
            });
            if let Some(claim) = claim.map_err(|error| trouble(&path, &error))? {
                return Ok(claim);
            }
            if clock.now() >= end {
                return Err(Trouble::new(
                    "another vdom creates, supervises or destroys a guest of this name",
                    format!("vdom destroy {guest} ends both"),
                ));
            }
            clock.sleep(POLL);
        }
    }

    /// `None`: somebody else has it, or has just removed it.
    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        if let Some(parent) = path.parent() {
            os::make_private_dir(parent)?;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.mode(0o600).open(path)?;
        if !lock(&file, Lock::Try)? || !os::is_at(&file, path) {
            return Ok(None);
        }
        // The id of a process that was killed.
        file.set_len(0)?;
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            left: false,
        }))
    }

    /// Says that this process may be told to end.
    pub(crate) fn sign(&self) -> io::Result<()> {
        self.write(std::process::id())
    }

    /// At no moment is the file empty: somebody may want to read it now.
    fn write(&self, pid: u32) -> io::Result<()> {
        let text = format!("{pid}\n");
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Says that another process, which has the lock too, has the claim.
    pub(crate) fn leave_to(mut self, pid: u32) -> Result<(), Trouble> {
        self.left = true;
        self.write(pid).map_err(|error| {
            Trouble::new(
                format!("{}: {error}", self.path.display()),
                format!("vdom destroy cannot end process {pid}: end it first"),
            )
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.left {
            // Before the lock goes, with the file. A file that stays is nobody's, and is taken over.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the claim on a guest that is to be destroyed: whoever has it is told to end. Says also whether there was one.
pub(crate) fn take_over(
    run_dir: &Path,
    guest: &str,
    clock: &mut dyn Clock,
) -> Result<(Option<Claim>, bool), Trouble> {
    if guest.contains('/') {
        // No guest's name.
        return Ok((None, false));
    }
    let path = Claim::path(run_dir, guest);
    let (start, mut tell) = (clock.now(), clock.now());
    let mut told = None;
    loop {
        if let Some(claim) = Claim::try_take(&path).map_err(|error| trouble(&path, &error))? {
            return Ok((Some(claim), told.is_some()));
        }
        let now = clock.now();
        if now >= tell {
            told = read(&path)
                .filter(|pid| os::terminate(*pid, &path))
                .or(told);
            tell = now + AGAIN;
        }
        if now.saturating_sub(start) >= STOP || clock.interrupted() {
            let who = told.map_or_else(String::new, |pid| format!(" (process {pid})"));
            return Err(Trouble::new(
                format!("another vdom is at work on this guest{who}, and does not end"),
                "end that process, then try again",
            ));
        }
        clock.sleep(POLL);
    }
}

/// The process that is named in the file.
fn read(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn trouble(path: &Path, error: &io::Error) -> Trouble {
    Trouble::new(
        format!("{}: {error}", path.display()),
        "run vdom as root, or set VDOM_RUN_DIR to a directory that it can write to",
    )
}

#[cfg(test)]
mod tests;
