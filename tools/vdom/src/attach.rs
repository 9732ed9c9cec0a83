//! Giving a driver domain its guest: the part that does not depend on who creates domains.

use std::time::Duration;

use vd_config::{DeviceDescription, Devices, SlotIndex, State, Table, TargetType, keys};

use crate::failure::{At, Failure, Trouble};
use crate::host::{Change, Domain, Host, node};
use crate::nodes::{self, Nodes};
use crate::rollback::{Rollback, Undo};

/// The node with the guest's port by which libxl would ask it to suspend, if there is one. Its value is a port that nobody
/// can bind to: libxl gives up before it asks the guest anything. Without that, `xl save` would save a guest whose devices
/// are nowhere when it is restored.
const SUSPEND: &str = "device/suspend/event-channel";
const NO_PORT: &str = "0";

/// How often the driver domain's state is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Makes the directories in which the driver domain says how it is doing. It cannot make them itself.
pub(crate) fn prepare(host: &mut Host, driver: &Domain) -> Result<(), Failure> {
    host.report
        .step(&driver.name, "making its directories in xenstore");
    let changes = [
        Change::Directory {
            path: node(driver.id, keys::ROOT),
            owner: 0,
            reader: driver.id,
        },
        Change::Directory {
            path: node(driver.id, keys::STATUS),
            owner: driver.id,
            reader: driver.id,
        },
    ];
    host.store
        .change(&changes)
        .at(&driver.name, "prepare xenstore")
}

/// Makes `driver` serve `guest`, and waits until it does.
pub(crate) fn attach(
    rollback: &mut Rollback<'_>,
    driver: &Domain,
    guest: &Domain,
    (kind, devices): (TargetType, &Devices),
    timeout: Duration,
) -> Result<(), Failure> {
    let host = &mut *rollback.host;
    // Before what cannot be taken back.
    let (mut changes, paths) = missing_nodes(host, driver, guest, devices)?;
    host.report.step(
        &driver.name,
        &format!("set_target: power over domain {}", guest.id),
    );
    host.hypervisor
        .set_target(driver.id, guest.id)
        .at(&driver.name, "set target")?;
    host.report.step(
        &driver.name,
        &format!("describing {} device(s) in xenstore", devices.len()),
    );
    changes.extend(description(driver.id, guest.id, kind, devices));
    let suspend = node(guest.id, SUSPEND);
    let before = host
        .store
        .read(&suspend)
        .at(&guest.name, "refuse suspend")?;
    changes.push(Change::Write {
        path: suspend.clone(),
        value: NO_PORT.into(),
    });
    host.store
        .change(&changes)
        .at(&driver.name, "describe devices")?;
    rollback.push(match before {
        Some(value) => Undo::Write {
            domain: guest.name.clone(),
            path: suspend,
            value: String::from_utf8_lossy(&value).into_owned(),
        },
        None => Undo::RemoveNodes {
            domain: guest.name.clone(),
            paths: vec![suspend],
        },
    });
    if !paths.is_empty() {
        rollback.push(Undo::RemoveNodes {
            domain: driver.name.clone(),
            paths,
        });
    }
    let written = [
        keys::COMMIT,
        keys::VERSION,
        keys::TARGET,
        keys::TARGET_TYPE,
        keys::TABLE,
        keys::DEVICE,
    ];
    rollback.push(Undo::RemoveNodes {
        domain: driver.name.clone(),
        paths: written.map(|key| node(driver.id, key)).into(),
    });
    wait_until_ready(rollback.host, driver, timeout)
}

/// What has to be in xenstore; the marker comes last.
pub(crate) fn description(
    driver: u16,
    guest: u16,
    kind: TargetType,
    devices: &Devices,
) -> Vec<Change> {
    let write = |key: &str, value: String| Change::Write {
        path: node(driver, key),
        value,
    };
    let mut changes = vec![
        write(keys::VERSION, keys::VERSION_VALUE.into()),
        write(keys::TARGET, guest.to_string()),
        write(keys::TARGET_TYPE, kind.as_str().into()),
    ];
    if kind == TargetType::Hvm {
        changes.push(write(keys::TABLE, Table::of(devices).to_string()));
    }
    for (slot, device) in devices.iter() {
        changes.extend(describe(driver, slot, device));
    }
    changes.push(write(keys::COMMIT, keys::COMMIT_VALUE.into()));
    changes
}

/// What has to be there of one device.
pub(crate) fn describe(driver: u16, slot: SlotIndex, device: &DeviceDescription) -> Vec<Change> {
    let mut changes = Vec::new();
    let infallible = device.write_pairs::<std::convert::Infallible>(|key, value| {
        changes.push(Change::Write {
            path: node(driver, &format!("{}/{slot}/{key}", keys::DEVICE)),
            value: value.to_string(),
        });
        Ok(())
    });
    let Ok(()) = infallible;
    changes
}

/// The nodes of all devices that xl has not made, and where they are.
fn missing_nodes(
    host: &mut Host,
    driver: &Domain,
    guest: &Domain,
    devices: &Devices,
) -> Result<(Vec<Change>, Vec<String>), Failure> {
    const STEP: &str = "describe devices";
    let has_libxl = nodes::is_libxls(host, guest.id).at(&guest.name, STEP)?;
    let (mut changes, mut paths) = (Vec::new(), Vec::new());
    for (slot, device) in devices.iter() {
        let nodes = Nodes::of(driver.id, guest.id, slot);
        let there = nodes.are_there(host, device);
        if !there.at(&format!("{}, slot {slot}", guest.name), STEP)? {
            changes.extend(nodes.make(device, has_libxl));
            paths.extend(nodes.paths());
        }
    }
    Ok((changes, paths))
}

/// Waits for the state "ready".
fn wait_until_ready(host: &mut Host, driver: &Domain, timeout: Duration) -> Result<(), Failure> {
    const STEP: &str = "wait until ready";
    let name = &driver.name;
    let fail = |what: String, remedy: String| Err(Trouble::new(what, remedy).at(name, STEP));
    let start = host.clock.now();
    let mut seen = None;
    loop {
        let state = host.state(driver.id).at(name, STEP)?;
        if state != seen {
            host.report.step(name, &format!("state: {}", shown(state)));
            seen = state;
        }
        match state {
            Some(State::Ready) => return Ok(()),
            Some(State::Failed) => {
                let error = host
                    .text(&node(driver.id, keys::STATUS_ERROR))
                    .at(name, STEP)?;
                let error = error.filter(|text| !text.is_empty());
                return fail(
                    error.unwrap_or_else(|| "it has failed and does not say why".into()),
                    format!(
                        "this is the driver domain's own report; its console (xl console {name}) may say more"
                    ),
                );
            }
            Some(State::Stopped) => {
                return fail(
                    "it has stopped".into(),
                    "do not shut it down while it attaches".into(),
                );
            }
            None | Some(State::Waiting | State::Attaching) => {}
        }
        let info = host.hypervisor.domain_info(driver.id).at(name, STEP)?;
        if !info.is_some_and(|info| info.alive()) {
            return fail(
                format!("it has died; its last state was: {}", shown(state)),
                format!(
                    "look for its last words in xl dmesg and /var/log/xen/console/guest-{name}.log"
                ),
            );
        }
        if host.clock.interrupted() {
            return fail("interrupted".into(), "start again".into());
        }
        if host.clock.now().saturating_sub(start) >= timeout {
            return fail(
                format!(
                    "it is not ready after {} s; its state is: {}",
                    timeout.as_secs(),
                    shown(state)
                ),
                format!(
                    "look at xl console {name} and xl dmesg; start another driver domain, with a longer --timeout"
                ),
            );
        }
        host.clock.sleep(POLL);
    }
}

fn shown(state: Option<State>) -> &'static str {
    state.map_or("none yet", State::as_str)
}

/// The command `vdom attach`: both domains were created by somebody else.
pub(crate) fn run(
    host: &mut Host,
    driver: &str,
    guest: &str,
    devices: &Devices,
    timeout: Duration,
) -> Result<(), Failure> {
    let driver = existing(host, driver)?;
    let guest = existing(host, guest)?;
    let kind = check_pair(host, &driver, &guest)?;
    devices.check_guest(kind).map_err(|(slot, error)| {
        Trouble::new(format!("slot {slot}: {error}"), "correct this device")
            .at(&guest.name, "check devices")
    })?;
    check_disks(host, &driver, devices)?;
    check_networks(host, &driver, devices)?;
    let mut rollback = Rollback::new(host);
    if !rollback
        .host
        .is_driver(driver.id)
        .at(&driver.name, "prepare xenstore")?
    {
        prepare(rollback.host, &driver)?;
        let paths = vec![node(driver.id, keys::ROOT)];
        rollback.push(Undo::RemoveNodes {
            domain: driver.name.clone(),
            paths,
        });
    }
    attach(&mut rollback, &driver, &guest, (kind, devices), timeout)?;
    rollback.keep();
    host.report.say(&format!(
        "{} (id {}) serves {} device(s) to {} (id {})",
        driver.name,
        driver.id,
        devices.len(),
        guest.name,
        guest.id
    ));
    Ok(())
}

/// Every device that wants a disk of the driver domain finds it there.
pub(crate) fn check_disks(
    host: &mut Host,
    driver: &Domain,
    devices: &Devices,
) -> Result<(), Failure> {
    const STEP: &str = "check devices";
    for (slot, disk) in devices.vbds() {
        let path = node(driver.id, &format!("device/vbd/{}/backend", disk.number()));
        if host.text(&path).at(&driver.name, STEP)?.is_none() {
            return Err(Trouble::new(
                format!("slot {slot} has backend=vbd:{disk}, but the driver domain has no disk {disk}"),
                format!(
                    "add it to disk= in its configuration, or now: xl block-attach {} format=raw,vdev={disk},target=/path/of/the/image",
                    driver.name
                ),
            )
            .at(&driver.name, STEP));
        }
    }
    Ok(())
}

/// Every device that wants a network interface of the driver domain finds it there.
pub(crate) fn check_networks(
    host: &mut Host,
    driver: &Domain,
    devices: &Devices,
) -> Result<(), Failure> {
    const STEP: &str = "check devices";
    for (slot, vif) in devices.uplinks() {
        let path = node(driver.id, &format!("device/vif/{vif}/backend"));
        if host.text(&path).at(&driver.name, STEP)?.is_none() {
            return Err(Trouble::new(
                format!(
                    "slot {slot} has backend=vif:{vif}, but the driver domain has no network interface {vif}"
                ),
                format!(
                    "add it to vif= in its configuration, or now: xl network-attach {} devid={vif} bridge=xenbr0",
                    driver.name
                ),
            )
            .at(&driver.name, STEP));
        }
    }
    Ok(())
}

fn existing(host: &mut Host, name: &str) -> Result<Domain, Failure> {
    host.find(name).at(name, "find domain")?.ok_or_else(|| {
        Trouble::new(
            "there is no such domain",
            "create it with xl first; `xl list` shows all",
        )
        .at(name, "find domain")
    })
}

/// Finds what would make attaching pointless, before set_target, which cannot be taken back. Gives the guest's type.
fn check_pair(host: &mut Host, driver: &Domain, guest: &Domain) -> Result<TargetType, Failure> {
    const STEP: &str = "check domains";
    let fail = |domain: &Domain, what: String, remedy: &str| {
        Err(Trouble::new(what, remedy).at(&domain.name, STEP))
    };
    if driver.id == 0 || guest.id == 0 || driver.id == guest.id {
        return fail(
            driver,
            format!("domain {} cannot serve domain {}", driver.id, guest.id),
            "name a driver domain, then a guest",
        );
    }
    if let Some(target) = host.target(driver.id).at(&driver.name, STEP)? {
        return fail(
            driver,
            format!("it already serves domain {target}"),
            "a driver domain serves one guest for its whole life: start a new one",
        );
    }
    let kind = host
        .text(&format!("/libxl/{}/type", guest.id))
        .at(&guest.name, STEP)?;
    // A toolstack that says nothing about it makes HVM guests.
    let kind = kind.unwrap_or_else(|| TargetType::Hvm.as_str().into());
    let Ok(kind) = TargetType::parse(kind.as_bytes()) else {
        return fail(
            guest,
            format!("a guest of type {kind} cannot be served: it finds no virtio-mmio devices"),
            "use type = \"hvm\" or type = \"pvh\" in its configuration",
        );
    };
    let info = host
        .hypervisor
        .domain_info(guest.id)
        .at(&guest.name, STEP)?;
    match info {
        Some(info) if !info.alive() => fail(guest, "it has ended".into(), "create it again"),
        Some(info) if !info.hvm => fail(
            guest,
            "it is a PV domain".into(),
            "use type = \"hvm\" in its configuration",
        ),
        Some(info) => {
            if !info.paused {
                host.report.note(
                    &guest.name,
                    "it is running: it has the devices only if it looks for them after this",
                );
            }
            Ok(kind)
        }
        None => fail(
            guest,
            format!("Xen has no domain {}", guest.id),
            "create it again",
        ),
    }
}

#[cfg(test)]
mod tests;
