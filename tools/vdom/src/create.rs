//! The command `vdom create`: from two configurations to a running guest, or back to where it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vd_config::TargetType;

use crate::attach;
use crate::claim::Claim;
use crate::driver::{Driver, Source};
use crate::failure::{At, Failure, Trouble};
use crate::guest::{self, Guest};
use crate::host::{Domain, Host};
use crate::rollback::{Rollback, Undo};
use crate::rundir::RunDir;
use crate::ssdt;
use crate::virtio;

/// What is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) guest: Guest,
    pub(crate) driver: Driver,
}

/// How.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How long the driver domain may take.
    pub(crate) timeout: Duration,
    /// Whether the guest stays paused.
    pub(crate) paused: bool,
    /// Whether it has been created before: then from what its configuration was at that time.
    pub(crate) again: bool,
}

/// Reads and checks the configurations.
pub(crate) fn plan(path: &Path, overrides: &[String]) -> Result<Plan, Failure> {
    const STEP: &str = "check configuration";
    let text = guest::read(path).at(&path.display().to_string(), STEP)?;
    let config = guest::parse(path, &text, overrides).at(&path.display().to_string(), STEP)?;
    let name = guest::name_or_path(&config, path);
    let mut guest = Guest::from_config(&config, path, overrides).at(&name, STEP)?;
    guest.text = text;
    let driver = Driver::for_guest(&guest).at(&name, "check driver domain")?;
    guest.virtio = virtio::setting(&config, &guest.devices, &driver.name).at(&name, STEP)?;
    Ok(Plan { guest, driver })
}

/// Creates both domains for the first time. Returns the guest, and the claim on its name, which is held to the end, also
/// when creation is rolled back, and whether or not there is going to be a supervisor.
pub(crate) fn first(
    host: &mut Host,
    plan: &Plan,
    options: Options,
) -> Result<(Domain, Claim), Failure> {
    let name = &plan.guest.name;
    let claim = Claim::take(&host.run_dir, name, &mut *host.clock).at(name, "claim name")?;
    Ok((run(host, plan, options)?, claim))
}

/// Creates both domains and lets the guest run. Returns the guest. The caller has the claim on its name.
pub(crate) fn run(host: &mut Host, plan: &Plan, options: Options) -> Result<Domain, Failure> {
    let Plan { guest, driver } = plan;
    if !options.again {
        for note in &guest.notes {
            host.report.note(&guest.name, note);
        }
    }
    check_free(host, &guest.name)?;
    check_free(host, &driver.name)?;
    // Before the rollback, and so locked until that has removed it.
    let mut dir = RunDir::of(&host.run_dir, &guest.name);
    let mut rollback = Rollback::new(host);
    let (table, driver_config) = files(&mut rollback, plan, options.again, &mut dir)?;
    let kept = !guest.restarts.is_empty();
    let driver_domain = start_driver(&mut rollback, driver, &driver_config, kept)?;
    dir.write_driver(&driver_domain)
        .at(&driver.name, "record driver domain")?;
    if !guest.restarts.is_empty() {
        dir.write_restarts(&guest.restarts)
            .at(&guest.name, "write files")?;
    }
    let config = if options.again {
        dir.write_guest_config(&guest.text)
            .at(&guest.name, "write files")?
    } else {
        guest.config.clone()
    };
    let guest_domain = create_guest(&mut rollback, guest, &config, table.as_deref())?;
    attach::attach(
        &mut rollback,
        &driver_domain,
        &guest_domain,
        (guest.kind, &guest.devices),
        options.timeout,
    )?;
    if !options.paused {
        go_on(rollback.host, &guest.name)?;
        rollback.host.report.step(&guest.name, "letting it run");
        rollback
            .host
            .xl
            .unpause(guest_domain.id)
            .at(&guest.name, "unpause")?;
    }
    // Also after the last step: nobody would be told otherwise that Ctrl-C came too late.
    go_on(rollback.host, &guest.name)?;
    rollback.keep();
    dir.created();
    let done = if options.paused { "is paused" } else { "runs" };
    let count = guest.devices.len();
    host.report.say(&format!(
        "{} (id {}) {done} with {count} device(s) served by {} (id {})",
        guest.name, guest_domain.id, driver_domain.name, driver_domain.id
    ));
    Ok(guest_domain)
}

fn check_free(host: &mut Host, name: &str) -> Result<(), Failure> {
    const STEP: &str = "check names";
    let running = host
        .domains()
        .at(name, STEP)?
        .into_iter()
        .find(|domain| domain.name == name);
    match running {
        None => Ok(()),
        Some(domain) => Err(Trouble::new(
            format!("a domain of this name is running (id {})", domain.id),
            format!("choose another name, or end it: vdom destroy {name}, or xl destroy {name} if vdom did not create it"),
        )
        .at(name, STEP)),
    }
}

/// Makes the files that xl is going to read.
fn files(
    rollback: &mut Rollback<'_>,
    plan: &Plan,
    again: bool,
    dir: &mut RunDir,
) -> Result<(Option<PathBuf>, PathBuf), Failure> {
    const STEP: &str = "write files";
    let name = &plan.guest.name;
    // A PVH guest gets no firmware, and so no table.
    let (table, what) = match plan.guest.kind {
        TargetType::Hvm => (Some(ssdt::table(&plan.guest.devices)), "its ACPI table"),
        TargetType::Pvh => (None, "files"),
    };
    rollback
        .host
        .report
        .step(name, &format!("writing {what} to {}", dir.path().display()));
    dir.make().at(name, STEP)?;
    rollback.push(Undo::RemoveDir(dir.path().to_owned()));
    let table = table.map(|table| dir.write_table(&table));
    let table = table.transpose().at(name, STEP)?;
    if let Source::File {
        text, overrides, ..
    } = &plan.driver.source
    {
        // For when another driver domain takes this one's place.
        dir.write_driver_config(text).at(&plan.driver.name, STEP)?;
        dir.write_driver_overrides(overrides)
            .at(&plan.driver.name, STEP)?;
    }
    let config = match &plan.driver.source {
        Source::File { path, .. } if !again => path.clone(),
        // When it is created again, the file may be another one.
        Source::Text(text) | Source::File { text, .. } => {
            dir.write_driver_config(text).at(&plan.driver.name, STEP)?
        }
    };
    Ok((table, config))
}

/// Starts the driver domain: it boots while the guest is being built.
fn start_driver(
    rollback: &mut Rollback<'_>,
    driver: &Driver,
    config: &Path,
    kept: bool,
) -> Result<Domain, Failure> {
    const STEP: &str = "start driver domain";
    let name = &driver.name;
    let mut overrides = match &driver.source {
        Source::Text(_) => Vec::new(),
        Source::File { overrides, .. } => overrides.clone(),
    };
    if kept {
        overrides.push(crate::driver::KEPT.into());
    }
    let domain = create(rollback, name, config, &overrides, STEP)?;
    attach::prepare(rollback.host, &domain)?;
    rollback.host.report.step(name, "letting it boot");
    rollback.host.xl.unpause(domain.id).at(name, STEP)?;
    Ok(domain)
}

fn create_guest(
    rollback: &mut Rollback<'_>,
    guest: &Guest,
    config: &Path,
    table: Option<&Path>,
) -> Result<Domain, Failure> {
    let mut overrides = guest.overrides.clone();
    if let Some(table) = table {
        let table = table.display().to_string();
        overrides.push(format!("acpi_firmware={}", crate::driver::quote(&table)));
    }
    overrides.extend(guest.virtio.clone());
    create(rollback, &guest.name, config, &overrides, "create guest")
}

/// Creates a domain, paused, and finds out its id.
fn create(
    rollback: &mut Rollback<'_>,
    name: &str,
    config: &Path,
    overrides: &[String],
    step: &'static str,
) -> Result<Domain, Failure> {
    let host = &mut *rollback.host;
    go_on(host, name)?;
    host.report.step(
        name,
        &format!("xl create -p {} {}", config.display(), overrides.join(" ")),
    );
    host.xl.create(config, overrides).at(name, step)?;
    // The id comes from xenstore. A domain that cannot be found there cannot be rolled back by its id either.
    let found = host.domains().and_then(|domains| {
        domains
            .into_iter()
            .find(|domain| domain.name == name)
            .ok_or_else(|| {
                Trouble::new(
                    "xl has created it, but it is not in xenstore",
                    format!("see xl list; xl destroy {name}"),
                )
            })
    });
    let domain = match found {
        Ok(domain) => domain,
        Err(trouble) => {
            // Once more: the first failure may have been of the connection only.
            let _ = host.store.reconnect();
            if let Ok(Some(domain)) = host.find(name) {
                rollback.push(Undo::Destroy {
                    id: domain.id,
                    name: domain.name,
                });
            }
            return Err(trouble.at(name, step));
        }
    };
    rollback
        .host
        .report
        .step(name, &format!("has id {}", domain.id));
    rollback.push(Undo::Destroy {
        id: domain.id,
        name: name.into(),
    });
    Ok(domain)
}

/// After each step: does the operator still want it?
fn go_on(host: &mut Host, name: &str) -> Result<(), Failure> {
    if host.clock.interrupted() {
        return Err(Trouble::new("interrupted", "start again").at(name, "create"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
