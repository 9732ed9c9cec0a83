//! The commands `vdom list` and `vdom stats`: what driver domains say about themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use vd_config::{DeviceDescription, SlotIndex, counters, keys};

use crate::claim::Claim;
use crate::failure::{At, Failure, Trouble};
use crate::host::{Domain, Host, node};
use crate::os;
use crate::rundir::RunDir;

const STEP: &str = "read xenstore";

/// The table of all guests that have driver domains.
pub(crate) fn table(host: &mut Host) -> Result<String, Failure> {
    let columns = ["NAME", "ID", "DRIVER", "ID", "STATE", "KICKS", "DEVICES"].map(str::to_owned);
    let mut rows = vec![columns];
    for driver in host.domains().at("host", STEP)? {
        if host.is_driver(driver.id).at(&driver.name, STEP)? {
            rows.push(row(host, driver)?);
        }
    }
    Ok(layout(&rows))
}

fn row(host: &mut Host, driver: Domain) -> Result<[String; 7], Failure> {
    let name = &driver.name;
    let (guest, guest_id) = match host.target(driver.id).at(name, STEP)? {
        None => ("-".into(), "-".into()),
        Some(id) => {
            let guest = host.text(&node(id, "name")).at(name, STEP)?;
            (guest.unwrap_or_else(|| "(gone)".into()), id.to_string())
        }
    };
    let mut state = shown_state(host, &driver)?;
    if is_alone(host, &guest) {
        state.push_str(",unsupervised");
    }
    let kicks = host
        .text(&counter_path(driver.id, keys::counter::DOORBELLS))
        .at(name, STEP)?;
    let devices = devices(host, &driver)?;
    let devices: Vec<String> = devices
        .iter()
        .map(|(slot, device)| format!("{slot}:{}", short(device)))
        .collect();
    Ok([
        guest,
        guest_id,
        driver.name,
        driver.id.to_string(),
        state,
        kicks.unwrap_or_else(|| "-".into()),
        if devices.is_empty() {
            "-".into()
        } else {
            devices.join(" ")
        },
    ])
}

/// Whether a guest is to be created again when it reboots, and nobody is there to do that any more.
fn is_alone(host: &Host, guest: &str) -> bool {
    let claim = Claim::path(&host.run_dir, guest);
    !guest.contains('/') && RunDir::of(&host.run_dir, guest).restarts() && !os::is_locked(&claim)
}

fn short(device: &Result<DeviceDescription, String>) -> String {
    match device {
        Ok(device) => format!("{}({})", device.kind().as_str(), device.backend()),
        Err(_) => "invalid".into(),
    }
}

fn shown_state(host: &mut Host, driver: &Domain) -> Result<String, Failure> {
    let state = host
        .text(&node(driver.id, keys::STATUS_STATE))
        .at(&driver.name, STEP)?;
    Ok(state.unwrap_or_else(|| "booting".into()))
}

fn counter_path(id: u16, name: &str) -> String {
    node(id, &keys::CounterPath::Common(name).to_string())
}

/// A device, or why its description cannot be read.
pub(crate) type Read = Result<DeviceDescription, String>;

/// What is in the driver domain's description, slot by slot.
pub(crate) fn devices(host: &mut Host, driver: &Domain) -> Result<Vec<(SlotIndex, Read)>, Failure> {
    let directory = node(driver.id, keys::DEVICE);
    let mut found = Vec::new();
    for name in host.store.list(&directory).at(&driver.name, STEP)? {
        let Ok(slot) = SlotIndex::parse(name.as_bytes()) else {
            continue;
        };
        let mut pairs = Vec::new();
        for key in host
            .store
            .list(&format!("{directory}/{slot}"))
            .at(&driver.name, STEP)?
        {
            let value = host
                .store
                .read(&format!("{directory}/{slot}/{key}"))
                .at(&driver.name, STEP)?;
            pairs.push((key, value.unwrap_or_default()));
        }
        let pairs = pairs
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_slice()));
        found.push((
            slot,
            DeviceDescription::from_pairs(pairs).map_err(|error| error.to_string()),
        ));
    }
    found.sort_by_key(|(slot, _)| *slot);
    Ok(found)
}

/// The driver domains of `name`, or the driver domain `name`; one at least.
pub(crate) fn drivers(
    host: &mut Host,
    name: &str,
    step: &'static str,
) -> Result<Vec<Domain>, Failure> {
    let domain = host.find(name).at(name, step)?.ok_or_else(|| {
        Trouble::new(
            "there is no such domain",
            "vdom list shows all guests and driver domains",
        )
        .at(name, step)
    })?;
    let drivers = if host.is_driver(domain.id).at(name, step)? {
        vec![domain]
    } else {
        host.drivers_of(domain.id).at(name, step)?
    };
    if drivers.is_empty() {
        let trouble = Trouble::new(
            "no driver domain serves this domain",
            "vdom list shows those that have one",
        );
        return Err(trouble.at(name, step));
    }
    Ok(drivers)
}

/// Everything that is known of the driver domain of `name`, or of the driver domain `name`.
pub(crate) fn stats(host: &mut Host, name: &str) -> Result<String, Failure> {
    let drivers = drivers(host, name, STEP)?;
    let mut text = String::new();
    for driver in drivers {
        describe(host, &driver, &mut text)?;
    }
    Ok(text)
}

fn describe(host: &mut Host, driver: &Domain, text: &mut String) -> Result<(), Failure> {
    let name = &driver.name;
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key:<24} {value}");
    };
    line("driver", &format!("{name} (id {})", driver.id));
    let target = host.target(driver.id).at(name, STEP)?;
    line(
        "guest",
        &target.map_or_else(|| "none".into(), |id| format!("id {id}")),
    );
    line("state", &shown_state(host, driver)?);
    if let Some(error) = host
        .text(&node(driver.id, keys::STATUS_ERROR))
        .at(name, STEP)?
        .filter(|error| !error.is_empty())
    {
        line("error", &error);
    }
    for (slot, device) in devices(host, driver)? {
        let shown = match device {
            Ok(device) => device.to_string(),
            Err(error) => format!("invalid: {error}"),
        };
        line(&format!("slot {slot}"), &shown);
    }
    for (counter, value) in counters(host, driver)? {
        line(&counter, &value);
    }
    Ok(())
}

/// All counters by name.
fn counters(host: &mut Host, driver: &Domain) -> Result<BTreeMap<String, String>, Failure> {
    let directory = node(driver.id, keys::STATUS_COUNTERS);
    let mut all = BTreeMap::new();
    for name in host.store.list(&directory).at(&driver.name, STEP)? {
        let path = format!("{directory}/{name}");
        // A device's counters are in one node, which is longer than what is shown of others.
        if name.starts_with(keys::OF_DEVICE) {
            let text = host.store.read(&path).at(&driver.name, STEP)?;
            let text = text.unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let of_device = counters::parse(&text);
            all.extend(of_device.map(|(of, value)| (format!("{name}-{of}"), value.to_string())));
        } else if let Some(text) = host.text(&path).at(&driver.name, STEP)? {
            all.insert(name, text);
        }
    }
    Ok(all)
}

/// Columns as wide as their widest entry; the last one as wide as it is.
fn layout(rows: &[[String; 7]]) -> String {
    let mut widths = [0; 7];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
