//! What stays behind of `vdom create`: when the guest has rebooted, it ends both domains and creates them again.
//!
//! A driver domain has power over one domain for its whole life, and a guest that starts again is another domain. So xl is
//! told to leave a guest that wants to start again as it is, shut down; then there is no moment at which this could be
//! missed: the reason stays readable until the supervisor has destroyed the domain. A guest that ends in any other way is
//! left to xl, and is the end of its supervisor. Nothing else is, but a guest that cannot be created again.
//!
//! A driver domain that has crashed has let go of its guest, and is left as it is too: another one takes its place, with what
//! it has left in its memory.

mod pace;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::claim::Claim;
use crate::create::{self, Options, Plan};
use crate::destroy;
use crate::driver::{self, Source};
use crate::failure::{At, Failure, Trouble};
use crate::guest::Ending;
use crate::host::{Domain, Host};
use crate::report::Reporter;
use crate::restart;
use crate::rundir::RunDir;

pub(crate) use pace::Pace;
use pace::SHORTEST;

const STEP: &str = "supervise";
/// How long to wait for news of domains before looking all the same.
const LOOK: Duration = Duration::from_secs(60);
/// How long a driver domain may take to end: it closes its disks, and xl takes its time.
const GRACE: Duration = Duration::from_secs(15);
/// How often creation is tried, and how long to wait in between: what it needs may be about to become free.
const TRIES: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(5);
/// How soon a supervisor notices that it is to end, while it waits for a time to pass.
const NAP: Duration = Duration::from_millis(200);

/// A guest that vdom has created, and whose supervisor is gone, with the claim on its name.
///
/// # Errors
/// There is no such guest, nobody is to supervise it, or somebody does.
pub(crate) fn resume(host: &mut Host, plan: &Plan) -> Result<(Domain, Claim), Failure> {
    let name = &plan.guest.name;
    let claim = Claim::take(&host.run_dir, name, &mut *host.clock).at(name, "claim name")?;
    let domains = host.domains().at(name, STEP)?;
    let guest = domains.into_iter().find(|domain| domain.name == *name);
    let guest = guest.ok_or_else(|| Trouble::new("there is no such guest", "vdom create it"));
    let guest = guest.at(name, STEP)?;
    if plan.guest.restarts.is_empty() {
        let why = "by this configuration it is not created again when it reboots";
        return Err(Trouble::new(why, "set on_reboot = \"restart\"").at(name, STEP));
    }
    if !RunDir::of(&host.run_dir, name).restarts() {
        let why = "it was created without a supervisor: when it reboots, xl ends it";
        return Err(Trouble::new(why, "vdom destroy it, then create it again").at(name, STEP));
    }
    Ok((guest, claim))
}

/// Until the guest has ended for good, or somebody ends the supervisor.
pub(crate) fn run(
    host: &mut Host,
    plan: &Plan,
    options: Options,
    mut pace: Pace,
    first: Domain,
) -> Result<(), Failure> {
    let mut guest = first;
    let mut plan = plan.clone();
    let mut restarts = 0u32;
    let options = Options {
        paused: false,
        again: true,
        ..options
    };
    loop {
        let started = host.clock.now();
        let Some(ending) = wait_for_end(host, &plan, &guest, options.timeout) else {
            return Ok(());
        };
        let gap = pace.after(host.clock.now().saturating_sub(started));
        restarts = restarts.saturating_add(1);
        let (name, id) = (&guest.name, guest.id);
        host.report.say(&format!(
            "{name} (id {id}) has ended: {ending:?}; restart {restarts}"
        ));
        let ended = persist(host, name, |host| end_pair(host, &guest));
        let left = gap.saturating_sub(host.clock.now().saturating_sub(started));
        if left > SHORTEST {
            let seconds = left.as_secs();
            host.report
                .say(&format!("{name} ends too often: it waits {seconds} s"));
        }
        if ended.is_none() || !rest(host, left) {
            return Ok(());
        }
        follow(host, &mut plan);
        guest = create_again(host, &plan, options)?;
    }
}

/// How a guest has ended that is to be created again; nothing if it is not.
fn wait_for_end(host: &mut Host, plan: &Plan, guest: &Domain, timeout: Duration) -> Option<Ending> {
    // One that could not be replaced is not tried again.
    let mut lost = Vec::new();
    loop {
        if host.clock.interrupted() {
            return None;
        }
        match persist(host, &guest.name, |host| look(host, plan, guest, &lost))? {
            Seen::Alive => {}
            Seen::Crashed(driver) => {
                replace(host, guest, &driver, timeout);
                lost.push(driver.id);
            }
            Seen::Gone => return None,
            Seen::Ended(ending) => return Some(ending),
        }
    }
}

/// Lets another driver domain take the place of one that has crashed.
fn replace(host: &mut Host, guest: &Domain, driver: &Domain, timeout: Duration) {
    let what = format!("{} (id {}) has crashed", driver.name, driver.id);
    host.report.say(&what);
    let options = restart::Options {
        image: None,
        timeout,
    };
    for _ in 0..TRIES {
        let Err(failure) = restart::run(host, &guest.name, &options) else {
            return;
        };
        host.report.note(&guest.name, &failure.to_string());
        reconnect(host);
        // As long as there is something to make another one from; an operator's vdom may be at it just now.
        if !restart::has_crashed(host, driver).unwrap_or(true) || !rest(host, BETWEEN) {
            return;
        }
    }
}

/// How a guest is.
enum Seen {
    Alive,
    /// It is, but its driver domain is not.
    Crashed(Domain),
    Gone,
    Ended(Ending),
}

/// Looks at a guest; if it is alive, something may have happened since.
fn look(host: &mut Host, plan: &Plan, guest: &Domain, lost: &[u16]) -> Result<Seen, Failure> {
    let info = host.hypervisor.domain_info(guest.id);
    let Some(info) = info.at(&guest.name, STEP)?.filter(|info| !info.dying) else {
        return Ok(Seen::Gone);
    };
    let restarts = &plan.guest.restarts;
    if let Some(ending) = info.ending().filter(|ending| restarts.contains(ending)) {
        return Ok(Seen::Ended(ending));
    }
    for driver in host.drivers_of(guest.id).at(&guest.name, STEP)? {
        if !lost.contains(&driver.id) && restart::has_crashed(host, &driver)? {
            return Ok(Seen::Crashed(driver));
        }
    }
    host.store.wait_for_an_end(LOOK).at(&guest.name, STEP)?;
    Ok(Seen::Alive)
}

/// Destroys a guest that has ended, if that has not been done, and lets its driver domain end.
fn end_pair(host: &mut Host, guest: &Domain) -> Result<(), Failure> {
    let name = &guest.name;
    let drivers = host.drivers_of(guest.id).at(name, STEP)?;
    if !is_gone(host, guest)? {
        let result = host.xl.destroy(guest.id);
        if !is_gone(host, guest)? {
            result.at(name, STEP)?;
        }
    }
    destroy::end_drivers(host, &drivers, GRACE)
}

/// A guest that has been destroyed lasts until its driver domain lets it go.
fn is_gone(host: &mut Host, guest: &Domain) -> Result<bool, Failure> {
    let info = host
        .hypervisor
        .domain_info(guest.id)
        .at(&guest.name, STEP)?;
    Ok(info.is_none_or(|info| info.dying))
}

/// Another driver domain may have taken the place of the first one, with another image: that is the one to go on with.
fn follow(host: &Host, plan: &mut Plan) {
    let Some(image) = RunDir::of(&host.run_dir, &plan.guest.name).image() else {
        return;
    };
    let (Source::Text(text) | Source::File { text, .. }) = &mut plan.driver.source;
    if let Ok(image) = driver::quote_path(&image) {
        text.push_str(&format!("\nkernel = {image}\n"));
    }
}

fn create_again(host: &mut Host, plan: &Plan, options: Options) -> Result<Domain, Failure> {
    let mut tries = 1;
    loop {
        match create::run(host, plan, options) {
            Err(failure) if tries < TRIES && !host.clock.interrupted() => {
                host.report.note(&plan.guest.name, &failure.to_string());
                rest(host, BETWEEN);
                reconnect(host);
                tries += 1;
            }
            result => return result,
        }
    }
}

/// Does what has to be done, until it works: a daemon may be about to be restarted. Nothing if the supervisor is to end
/// before that. Of failures that are the same one is told.
fn persist<T>(
    host: &mut Host,
    name: &str,
    mut what: impl FnMut(&mut Host) -> Result<T, Failure>,
) -> Option<T> {
    let (mut pause, mut told) = (SHORTEST, None);
    loop {
        let failure = match what(host) {
            Ok(value) => return Some(value),
            Err(failure) => failure,
        };
        if told.as_ref() != Some(&failure) {
            host.report.note(name, &format!("{failure}: trying again"));
        }
        told = Some(failure);
        if !rest(host, pause) {
            return None;
        }
        pause = (pause * 2).min(LOOK);
        reconnect(host);
    }
}

/// The connection may be what has failed. If there is none to be had, whatever needs it says so.
fn reconnect(host: &mut Host) {
    let _ = host.store.reconnect();
}

/// Waits for so long. Returns whether the supervisor is to go on.
fn rest(host: &mut Host, time: Duration) -> bool {
    let end = host.clock.now() + time;
    loop {
        let left = end.saturating_sub(host.clock.now());
        if left.is_zero() || host.clock.interrupted() {
            return !host.clock.interrupted();
        }
        host.clock.sleep(left.min(NAP));
    }
}

/// Where the supervisor of a guest prints to: a file, if it can be written.
pub(crate) fn open_log(report: &Reporter, guest: &str) -> io::Result<File> {
    let directory = std::env::var_os("VDOM_LOG_DIR").unwrap_or_else(|| "/var/log/xen".into());
    let path = Path::new(&directory).join(format!("vdom-{guest}.log"));
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path);
    file.or_else(|error| {
        let what = format!(
            "{}: {error}: its restarts will not be logged",
            path.display()
        );
        report.note(guest, &what);
        OpenOptions::new().write(true).open("/dev/null")
    })
}

#[cfg(test)]
mod tests;
