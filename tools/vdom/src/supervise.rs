//! What stays behind of `vdom create`: when the guest has rebooted, it ends both domains and creates them again.
//!
//! A driver domain has power over one domain for its whole life, and a guest that starts again is another domain. So xl is
//! told to leave a guest that wants to start again as it is, shut down; then there is no moment at which this could be
//! missed: the reason stays readable until the supervisor has destroyed the domain. A guest that ends in any other way is
//! left to xl, and is the end of its supervisor.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::create::{self, Options, Plan};
use crate::destroy;
use crate::failure::{At, Failure, Trouble};
use crate::guest::Ending;
use crate::host::{Clock, Domain, Host};
use crate::os::{self, Lock, lock};
use crate::report::Reporter;

const STEP: &str = "supervise";
/// How long to wait for news of domains before looking all the same.
const LOOK: Duration = Duration::from_secs(60);
/// How long a driver domain may take to end: it closes its disks, and xl takes its time.
const GRACE: Duration = Duration::from_secs(15);
/// The time from one start to the next, at least: a guest that ends at once must not keep the host busy.
const SHORTEST: Duration = Duration::from_secs(2);
/// How often creation is tried, and how long to wait in between: what it needs may be about to become free.
const TRIES: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(5);

/// Until the guest has ended for good, or somebody ends the supervisor.
pub(crate) fn run(
    host: &mut Host,
    plan: &Plan,
    options: Options,
    first: Domain,
) -> Result<(), Failure> {
    let mut guest = first;
    let mut restarts = 0u32;
    let options = Options {
        paused: false,
        again: true,
        ..options
    };
    loop {
        let started = host.clock.now();
        let Some(ending) = wait_for_end(host, plan, &guest)? else {
            return Ok(());
        };
        restarts = restarts.saturating_add(1);
        host.report.say(&format!(
            "{} (id {}) has ended: {ending:?}; restart {restarts}",
            guest.name, guest.id
        ));
        let drivers = host.drivers_of(guest.id).at(&guest.name, STEP)?;
        host.xl.destroy(guest.id).at(&guest.name, STEP)?;
        destroy::end_drivers(host, &drivers, GRACE)?;
        let lived = host.clock.now().saturating_sub(started);
        host.clock.sleep(SHORTEST.saturating_sub(lived));
        guest = create_again(host, plan, options)?;
    }
}

/// How a guest has ended that is to be created again; nothing if it is not.
fn wait_for_end(host: &mut Host, plan: &Plan, guest: &Domain) -> Result<Option<Ending>, Failure> {
    loop {
        if host.clock.interrupted() {
            return Ok(None);
        }
        match host
            .hypervisor
            .domain_info(guest.id)
            .at(&guest.name, STEP)?
        {
            None => return Ok(None),
            Some(info) if info.dying => return Ok(None),
            Some(info) => {
                let ending = info.ending();
                if let Some(ending) = ending.filter(|ending| plan.guest.restarts.contains(ending)) {
                    return Ok(Some(ending));
                }
            }
        }
        host.store.wait_for_an_end(LOOK).at(&guest.name, STEP)?;
    }
}

fn create_again(host: &mut Host, plan: &Plan, options: Options) -> Result<Domain, Failure> {
    let mut tries = 1;
    loop {
        match create::run(host, plan, options) {
            Err(failure) if tries < TRIES && !host.clock.interrupted() => {
                host.report.note(&plan.guest.name, &failure.to_string());
                host.clock.sleep(BETWEEN);
                tries += 1;
            }
            result => return result,
        }
    }
}

/// Where the supervisor of a guest prints to: a file, if it can be written.
pub(crate) fn open_log(report: &Reporter, guest: &str) -> io::Result<File> {
    let directory = std::env::var_os("VDOM_LOG_DIR").unwrap_or_else(|| "/var/log/xen".into());
    let path = Path::new(&directory).join(format!("vdom-{guest}.log"));
    let file = OpenOptions::new().append(true).create(true).open(&path);
    file.or_else(|error| {
        let what = format!(
            "{}: {error}: its restarts will not be logged",
            path.display()
        );
        report.note(guest, &what);
        OpenOptions::new().write(true).open("/dev/null")
    })
}

/// That this process is the one that creates a guest again: a file with its id, locked for as long as it lives.
///
/// Invariant: whoever has the lock of the file that is at that path is the supervisor, and the file is removed by that
/// process, or by one that has taken the lock after it.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    file: File,
    /// Whether it is another process' from now on.
    left: bool,
}

/// How long a supervisor whose guest has gone may take to notice.
const NOTICE: Duration = Duration::from_secs(5);
/// How long a supervisor may take to stop creating a guest.
const STOP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

impl Claim {
    fn path(run_dir: &Path, guest: &str) -> PathBuf {
        // No guest's name begins with a dot.
        run_dir.join(format!(".{guest}.supervisor"))
    }

    /// Becomes the supervisor of a guest that is to be created.
    pub(crate) fn take(
        run_dir: &Path,
        guest: &str,
        clock: &mut dyn Clock,
    ) -> Result<Self, Trouble> {
        let path = Self::path(run_dir, guest);
        let trouble = |error: io::Error| {
            Trouble::new(
                format!("{}: {error}", path.display()),
                "run vdom as root, or set VDOM_RUN_DIR to a directory that it can write to",
            )
        };
        std::fs::create_dir_all(run_dir).map_err(trouble)?;
        let end = clock.now() + NOTICE;
        loop {
            if let Some(claim) = Self::try_take(&path).map_err(trouble)? {
                return Ok(claim);
            }
            if clock.now() >= end {
                return Err(Trouble::new(
                    "another vdom supervises a guest of this name",
                    format!("vdom destroy {guest} ends both"),
                ));
            }
            clock.sleep(POLL);
        }
    }

    /// `None`: somebody else has it, or has just removed it.
    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(path)?;
        if !lock(&file, Lock::Try)? || !is_at(&file, path) {
            return Ok(None);
        }
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            left: false,
        }))
    }

    /// Says that another process, which has the lock too, is the supervisor.
    pub(crate) fn leave_to(mut self, pid: u32) -> Result<(), Trouble> {
        self.left = true;
        let written = self
            .file
            .set_len(0)
            .and_then(|()| writeln!(self.file, "{pid}"));
        written.map_err(|error| {
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

/// Whether a file is what is found at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// Ends the supervisor of a guest. Returns whether there was one.
pub(crate) fn end(run_dir: &Path, guest: &str, clock: &mut dyn Clock) -> Result<bool, Trouble> {
    let path = Claim::path(run_dir, guest);
    let end = clock.now() + STOP;
    let mut told = None;
    // A guest whose name has a slash in it is none.
    while !guest.contains('/') && path.exists() {
        if let Ok(Some(_claim)) = Claim::try_take(&path) {
            // Nobody had it; it goes with the claim.
            break;
        }
        let pid = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if let (None, Some(pid)) = (told, pid) {
            os::terminate(pid);
            told = Some(pid);
        }
        if clock.now() >= end {
            return Err(Trouble::new(
                format!("the vdom that supervises it ({pid:?}) does not end"),
                "end that process, then try again",
            ));
        }
        clock.sleep(POLL);
    }
    Ok(told.is_some())
}

#[cfg(test)]
mod tests;
