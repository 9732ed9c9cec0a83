//! The commands `vdom device-attach` and `vdom device-detach`: devices that come and go while the guest runs.
//!
//! The device is described where the others are, and its directories are made as libxl makes them; the driver domain answers in
//! them. Invariant: a device that could not be attached leaves nothing behind.

use std::time::Duration;

use vd_config::xenbus::{self, BusState};
use vd_config::{DeviceDescription, Devices, SlotIndex, State, Table, TargetType, keys};

use crate::attach;
use crate::failure::{At, Failure, Trouble};
use crate::host::{Change, Domain, Host, node};
use crate::list;
use crate::nodes::{self, Nodes};
use crate::restart::{self, Held};
use crate::rollback::{Rollback, Undo};

const ATTACH: &str = "attach device";
const DETACH: &str = "detach device";
/// How often the driver domain's answer is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A guest and its driver domain.
struct Pair {
    driver: Domain,
    guest: u16,
    /// What messages are about.
    name: String,
}

/// The pair that `name` belongs to, as guest or as driver domain.
fn find(host: &mut Host, name: &str, step: &'static str) -> Result<Pair, Failure> {
    let drivers = list::drivers(host, name, step)?;
    let fail = |what: String, remedy: &str| Err(Trouble::new(what, remedy).at(name, step));
    let [driver] = drivers.as_slice() else {
        let names: Vec<&str> = drivers.iter().map(|it| it.name.as_str()).collect();
        return fail(
            format!("several driver domains serve it: {}", names.join(", ")),
            "name one of them instead of the guest",
        );
    };
    let state = host.state(driver.id).at(name, step)?;
    match host.target(driver.id).at(name, step)? {
        Some(guest) if state == Some(State::Ready) => Ok(Pair {
            driver: driver.clone(),
            guest,
            name: name.into(),
        }),
        _ => fail(
            format!("its driver domain {} serves nobody now", driver.name),
            "vdom list shows states; a device can come or go while the state is ready",
        ),
    }
}

/// Nobody else restarts the driver domain meanwhile, or changes the devices.
fn lock(host: &mut Host, pair: &Pair, step: &'static str) -> Result<Held, Failure> {
    let guest = host.find(&pair.guest.to_string()).at(&pair.name, step)?;
    let name = guest.map_or_else(|| pair.guest.to_string(), |guest| guest.name);
    restart::lock(host, &name)
}

/// Attaches a device to a running guest.
pub(crate) fn attach(
    host: &mut Host,
    name: &str,
    text: &str,
    timeout: Duration,
) -> Result<(), Failure> {
    let pair = find(host, name, ATTACH)?;
    let _lock = lock(host, &pair, ATTACH)?;
    let (slot, device) = choose(host, &pair, text)?;
    let mut one = Devices::new();
    one.insert(Some(slot), device.clone())
        .map_err(|error| Trouble::new(error.to_string(), "correct the device"))
        .at(name, ATTACH)?;
    attach::check_disks(host, &pair.driver, &one)?;
    attach::check_networks(host, &pair.driver, &one)?;
    let made = Nodes::of(pair.driver.id, pair.guest, slot);
    host.report
        .step(name, &format!("describing slot {slot}: {device}"));
    let mut changes = vec![Change::Remove(description(&pair, slot))];
    changes.extend(attach::describe(pair.driver.id, slot, &device));
    let has_libxl = nodes::is_libxls(host, pair.guest).at(name, ATTACH)?;
    changes.extend(made.make(&device, has_libxl));
    host.store.change(&changes).at(name, ATTACH)?;
    let mut rollback = Rollback::new(host);
    let mut paths = made.paths().to_vec();
    paths.push(description(&pair, slot));
    rollback.push(Undo::RemoveNodes {
        domain: name.into(),
        paths,
    });
    wait(rollback.host, &pair, &made, timeout, ATTACH)?;
    rollback.keep();
    host.report.say(&format!(
        "{name}: {device} is in slot {slot}; a Linux guest takes it by: \
         echo LNRO0005:{:02x} > /sys/bus/platform/drivers/virtio-mmio/bind",
        slot.get()
    ));
    Ok(())
}

/// Where the device goes, if it can be had.
fn choose(
    host: &mut Host,
    pair: &Pair,
    text: &str,
) -> Result<(SlotIndex, DeviceDescription), Failure> {
    let name = &pair.name;
    let fail = |error: &dyn std::fmt::Display| {
        Trouble::new(format!("{error}"), "correct the device").at(name, ATTACH)
    };
    let (slot, mut device) =
        DeviceDescription::parse(text.as_bytes()).map_err(|error| fail(&error))?;
    let mut devices = Devices::new();
    for (slot, known) in list::devices(host, &pair.driver)? {
        let nodes = Nodes::of(pair.driver.id, pair.guest, slot);
        let lives = host
            .store
            .read(&nodes.ours(xenbus::STATE))
            .at(name, ATTACH)?;
        // What has gone by itself has left its description.
        if let (Ok(known), Some(_)) = (known, lives) {
            let _ = devices.insert(Some(slot), known);
        }
    }
    let slot = devices
        .insert(slot, device.clone())
        .map_err(|error| fail(&error))?;
    let kind = host
        .text(&node(pair.driver.id, keys::TARGET_TYPE))
        .at(name, ATTACH)?;
    let kind = TargetType::parse(kind.unwrap_or_default().as_bytes());
    let kind = kind.map_err(|error| fail(&error))?;
    let table = host.store.read(&node(pair.driver.id, keys::TABLE));
    let table = table.at(name, ATTACH)?;
    if kind == TargetType::Hvm
        && let Some(table) = table.as_deref().and_then(Table::parse)
    {
        device.fit(table.get(slot));
    }
    device
        .check_place(kind, slot)
        .map_err(|error| fail(&error))?;
    Ok((slot, device))
}

fn description(pair: &Pair, slot: SlotIndex) -> String {
    node(pair.driver.id, &format!("{}/{slot}", keys::DEVICE))
}

/// Waits until the driver domain has answered.
fn wait(
    host: &mut Host,
    pair: &Pair,
    made: &Nodes,
    timeout: Duration,
    step: &'static str,
) -> Result<(), Failure> {
    let name = &pair.name;
    let fail = |what: String, remedy: String| Err(Trouble::new(what, remedy).at(name, step));
    let start = host.clock.now();
    loop {
        let state = made.state(host).at(name, step)?;
        let attached = matches!(state, Some(BusState::InitWait | BusState::Connected));
        match state {
            _ if attached && step == ATTACH => return Ok(()),
            None | Some(BusState::Closed) if step == DETACH => return Ok(()),
            None => {
                return fail("somebody else has taken it away".into(), "try again".into());
            }
            Some(BusState::Closed) => {
                let error = host.text(&made.ours(xenbus::ERROR)).at(name, step)?;
                return fail(
                    error
                        .unwrap_or_else(|| "the driver domain refuses and does not say why".into()),
                    format!("its console (xl console {}) may say more", pair.driver.name),
                );
            }
            _ => {}
        }
        let info = host.hypervisor.domain_info(pair.driver.id).at(name, step)?;
        if !info.is_some_and(|info| info.alive()) {
            // Whoever gives the guest another one waits for this to end.
            return fail(
                format!("its driver domain {} has ended", pair.driver.name),
                "vdom list shows whether it has another one: then try again".into(),
            );
        }
        if host.clock.interrupted() {
            return fail("interrupted".into(), "start again".into());
        }
        if host.clock.now().saturating_sub(start) >= timeout {
            let seconds = timeout.as_secs();
            return if step == ATTACH {
                fail(
                    format!("the driver domain has not answered after {seconds} s"),
                    format!("look at its console: xl console {}", pair.driver.name),
                )
            } else {
                fail(
                    format!("the guest's driver has not let it go after {seconds} s"),
                    "unbind it in the guest: the device goes then; or use --force, and what the guest asks of it fails".into(),
                )
            };
        }
        host.clock.sleep(POLL);
    }
}

/// Detaches a device from a running guest.
pub(crate) fn detach(
    host: &mut Host,
    name: &str,
    slot: SlotIndex,
    force: bool,
    timeout: Duration,
) -> Result<(), Failure> {
    let pair = find(host, name, DETACH)?;
    let _lock = lock(host, &pair, DETACH)?;
    let made = Nodes::of(pair.driver.id, pair.guest, slot);
    let known = host
        .store
        .read(&description(&pair, slot))
        .at(name, DETACH)?;
    if made.state(host).at(name, DETACH)?.is_some() {
        host.report
            .step(name, &format!("asking for the end of slot {slot}"));
        let changes = made.take_away(force);
        host.store.change(&changes).at(name, DETACH)?;
        wait(host, &pair, &made, timeout, DETACH)?;
    } else if known.is_none() {
        return Err(Trouble::new(
            format!("there is no device in slot {slot}"),
            "vdom stats shows its devices",
        )
        .at(name, DETACH));
    }
    let mut changes = vec![Change::Remove(description(&pair, slot))];
    changes.extend(made.paths().map(Change::Remove));
    host.store.change(&changes).at(name, DETACH)?;
    host.report.say(&format!("{name}: slot {slot} is empty"));
    Ok(())
}

#[cfg(test)]
mod tests;
