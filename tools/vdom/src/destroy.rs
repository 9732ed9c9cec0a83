//! The command `vdom destroy`: the guest, its driver domain, and what vdom has kept about them.

use std::time::Duration;

use crate::claim::{self, Claim};
use crate::failure::{At, Failure, Trouble};
use crate::host::{Domain, Host};
use crate::rundir::RunDir;

const STEP_FIND: &str = "find domains";
const POLL: Duration = Duration::from_millis(50);

/// What belongs together.
struct Found {
    guest: Option<Domain>,
    drivers: Vec<Domain>,
}

/// Ends everything that belongs to a guest, whatever of it is left.
pub(crate) fn run(host: &mut Host, name: &str, grace: Duration) -> Result<(), Failure> {
    // Held to the end: what is removed here must be no new guest's.
    let (_claim, ended) = take_over(host, name)?;
    if ended && is_gone(host, name)? {
        host.report
            .say(&format!("{name}: its creation has been given up"));
        return Ok(());
    }
    let found = find(host, name)?;
    let guest_name = found
        .guest
        .as_ref()
        .map_or(name, |guest| &guest.name)
        .to_owned();
    let dir = RunDir::of(&host.run_dir, &guest_name);
    if let Some(guest) = &found.guest {
        host.report
            .step(&guest.name, &format!("destroying domain {}", guest.id));
        host.xl.destroy(guest.id).at(&guest.name, "destroy guest")?;
        host.report
            .say(&format!("{} (id {}) destroyed", guest.name, guest.id));
    }
    end_drivers(host, &found.drivers, grace)?;
    if found.guest.is_none() && found.drivers.is_empty() {
        host.report.say(&format!(
            "{guest_name}: removed what an ended guest has left in {}",
            dir.path().display()
        ));
    }
    dir.remove().map_err(|error| {
        let path = dir.path().display();
        Trouble::new(format!("{path}: {error}"), format!("rm -r {path}"))
            .at(&guest_name, "remove files")
    })
}

fn find(host: &mut Host, name: &str) -> Result<Found, Failure> {
    let fail = |what: String, remedy: String| Err(Trouble::new(what, remedy).at(name, STEP_FIND));
    let guest = host.find(name).at(name, STEP_FIND)?;
    let Some(guest) = guest else {
        let drivers = orphans(host, name)?;
        // A name with a slash in it is no guest's, and must not lead out of the directory.
        let kept = !name.contains('/') && RunDir::of(&host.run_dir, name).path().is_dir();
        if drivers.is_empty() && (!kept || name.starts_with('.')) {
            return fail(
                "there is no such guest, and nothing is left of one".into(),
                "vdom list shows all".into(),
            );
        }
        return Ok(Found {
            guest: None,
            drivers,
        });
    };
    if guest.id == 0 {
        return fail(
            "dom0 is no guest".into(),
            "name a guest; vdom list shows all".into(),
        );
    }
    let drivers = host.drivers_of(guest.id).at(name, STEP_FIND)?;
    if !drivers.is_empty() {
        return Ok(Found {
            guest: Some(guest),
            drivers,
        });
    }
    if host.is_driver(guest.id).at(name, STEP_FIND)? {
        return match host.target(guest.id).at(name, STEP_FIND)? {
            Some(target) if host.exists(target).at(name, STEP_FIND)? => fail(
                format!(
                    "this is the driver domain of domain {target}, which would hang without it"
                ),
                format!("vdom destroy {target} ends both"),
            ),
            _ => Ok(Found {
                guest: None,
                drivers: vec![guest],
            }),
        };
    }
    match recorded(host, &guest.name)? {
        Some(driver) => Ok(Found {
            guest: Some(guest),
            drivers: vec![driver],
        }),
        None if RunDir::of(&host.run_dir, &guest.name).path().is_dir() => Ok(Found {
            guest: Some(guest),
            drivers: vec![],
        }),
        None => fail(
            "no driver domain serves this domain, and vdom did not create it".into(),
            format!("xl destroy {}", guest.name),
        ),
    }
}

/// Driver domains that are left of a guest that is gone.
fn orphans(host: &mut Host, guest: &str) -> Result<Vec<Domain>, Failure> {
    if let Some(driver) = recorded(host, guest)? {
        return Ok(vec![driver]);
    }
    let usual = host.find(&format!("{guest}-vd")).at(guest, STEP_FIND)?;
    match usual {
        Some(domain) if host.is_driver(domain.id).at(guest, STEP_FIND)? => Ok(vec![domain]),
        _ => Ok(Vec::new()),
    }
}

/// The driver domain that vdom has started for a guest of this name, if it is still the same domain.
fn recorded(host: &mut Host, guest: &str) -> Result<Option<Domain>, Failure> {
    let Some(driver) = RunDir::of(&host.run_dir, guest).driver() else {
        return Ok(None);
    };
    let domains = host.domains().at(guest, STEP_FIND)?;
    Ok(domains.into_iter().find(|domain| *domain == driver))
}

/// Ends the vdom that creates the guest, for the first time or again. Returns whether there was one.
fn take_over(host: &mut Host, name: &str) -> Result<(Option<Claim>, bool), Failure> {
    const STEP: &str = "end supervisor";
    let guest = host.find(name).at(name, STEP)?;
    let name = guest.map_or_else(|| name.to_owned(), |guest| guest.name);
    let (claim, ended) =
        claim::take_over(&host.run_dir, &name, &mut *host.clock).at(&name, STEP)?;
    if ended {
        host.report
            .step(&name, "ended the vdom that creates or supervises it");
    }
    Ok((claim, ended))
}

/// Whether nothing is left of a guest.
fn is_gone(host: &mut Host, name: &str) -> Result<bool, Failure> {
    let domain = host.find(name).at(name, STEP_FIND)?;
    Ok(domain.is_none()
        && !RunDir::of(&host.run_dir, name).path().is_dir()
        && orphans(host, name)?.is_empty())
}

/// Lets driver domains end whose guest has gone.
pub(crate) fn end_drivers(
    host: &mut Host,
    drivers: &[Domain],
    grace: Duration,
) -> Result<(), Failure> {
    drivers
        .iter()
        .try_for_each(|driver| end_driver(host, driver, grace))
}

/// Gives a driver domain the time to release its guest and power off, then destroys it.
fn end_driver(host: &mut Host, driver: &Domain, grace: Duration) -> Result<(), Failure> {
    const STEP: &str = "end driver domain";
    host.report.step(
        &driver.name,
        "waiting for it to release the guest and power off",
    );
    let start = host.clock.now();
    while host.exists(driver.id).at(&driver.name, STEP)? {
        if host.clock.now().saturating_sub(start) >= grace || host.clock.interrupted() {
            host.report
                .step(&driver.name, &format!("destroying domain {}", driver.id));
            let result = host.xl.destroy(driver.id);
            // It may have ended by itself just now.
            if host.exists(driver.id).at(&driver.name, STEP)? {
                result.at(&driver.name, STEP)?;
            }
            host.report
                .say(&format!("{} (id {}) destroyed", driver.name, driver.id));
            return Ok(());
        }
        host.clock.sleep(POLL);
    }
    host.report
        .say(&format!("{} (id {}) has ended", driver.name, driver.id));
    Ok(())
}

#[cfg(test)]
mod tests;
