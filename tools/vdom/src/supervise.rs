//! What stays behind of `vdom create`: when the guest has rebooted, it ends both domains and creates them again.
//!
//! A driver domain has power over one domain for its whole life, and a guest that starts again is another domain. So xl is
//! told to leave a guest that wants to start again as it is, shut down; then there is no moment at which this could be
//! missed: the reason stays readable until the supervisor has destroyed the domain. A guest that ends in any other way is
//! left to xl, and is the end of its supervisor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::create::{self, Options, Plan};
use crate::destroy;
use crate::failure::{At, Failure};
use crate::guest::Ending;
use crate::host::{Domain, Host};
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
