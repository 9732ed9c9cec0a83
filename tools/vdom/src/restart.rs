//! The command `vdom restart`: another driver domain takes the place of one that serves a running guest.
//!
//! Both are told step by step what to do ([`vd_config::succession`]). Invariant: the old one goes on until the new one says
//! that it serves the guest; whatever fails before that leaves the old one serving, with its disks. The guest is paused
//! from the moment on in which the old one writes down where the devices stand until the new one serves: so nothing that it
//! does is lost in between, and no moment exists in which both do something for it.

mod steps;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vd_config::xenbus::BusState;
use vd_config::{Devices, State, TargetType, VirtualDisk, VirtualInterface, keys};

use crate::destroy;
use crate::driver;
use crate::failure::{At, Failure, Trouble};
use crate::guest::{self, Ending};
use crate::host::{Domain, Host, node};
use crate::list;
use crate::nodes::{self, Nodes};
use crate::os::{self, Lock};
use crate::rundir::RunDir;
use crate::xlcfg::Setting;
use steps::Succession;

const STEP: &str = "find domains";
/// How long the old driver domain may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// How to restart.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The image of the new driver domain, if it is to have another one.
    pub(crate) image: Option<PathBuf>,
    /// How long each step may take.
    pub(crate) timeout: Duration,
}

/// Who is concerned.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) guest: Domain,
    pub(super) old: Domain,
    pub(super) devices: Devices,
    /// The driver domain's configuration, and settings that win over it.
    pub(super) config: PathBuf,
    pub(super) overrides: Vec<String>,
    /// Its disks: their names, and what xl was told of them.
    pub(super) disks: Vec<(VirtualDisk, String)>,
    /// The numbers of its network interfaces.
    networks: Vec<VirtualInterface>,
}

/// Lets another driver domain take over.
pub(crate) fn run(host: &mut Host, name: &str, options: &Options) -> Result<(), Failure> {
    let mut pair = find(host, name, options.image.as_deref())?;
    let guest = pair.guest.name.clone();
    let _lock = lock(host, &guest)?;
    // Nobody attaches or detaches one from here on.
    pair.devices = devices(host, &pair)?;
    let crashed = has_crashed(host, &pair.old)?;
    let mut succession = Succession::new(host, &pair, options.timeout);
    let done = if crashed {
        succession
            .run_after_crash()
            .inspect_err(|_| succession.give_up())
    } else {
        succession.run().inspect_err(|_| succession.take_back())
    };
    let done = done?;
    settle(host, &pair, &done.new, options.image.as_deref(), crashed)?;
    host.report.say(&format!(
        "{guest} (id {}) is served by {} (id {}) instead of id {}{}: it was paused for {} ms; requests to disks of other domains \
         waited for {} ms at most",
        pair.guest.id,
        pair.old.name,
        done.new.id,
        pair.old.id,
        if crashed { ", which has crashed" } else { "" },
        done.paused.as_millis(),
        done.waited.as_millis()
    ));
    Ok(())
}

/// Whether a driver domain has crashed, and its memory is still there.
pub(crate) fn has_crashed(host: &mut Host, driver: &Domain) -> Result<bool, Failure> {
    let info = host
        .hypervisor
        .domain_info(driver.id)
        .at(&driver.name, STEP)?;
    let ending = info
        .filter(|info| !info.dying)
        .and_then(|info| info.ending());
    Ok(ending == Some(Ending::Crash))
}

/// The new one serves: it gets the old one's name, and the old one ends.
fn settle(
    host: &mut Host,
    pair: &Pair,
    new: &Domain,
    image: Option<&Path>,
    crashed: bool,
) -> Result<(), Failure> {
    const STEP: &str = "end old driver domain";
    let Pair { guest, old, .. } = pair;
    let dir = RunDir::of(&host.run_dir, &guest.name);
    if let Err(trouble) = hand_over_nodes(host, pair, new) {
        host.report.note(
            &new.name,
            &format!(
                "xl does not know that it serves the devices: {}",
                trouble.what
            ),
        );
    }
    // After a crash it has gone already.
    let away = if crashed {
        Ok(())
    } else {
        host.xl.rename(old.id, &format!("{}.old", old.name))
    };
    let renamed = away.and_then(|()| host.xl.rename(new.id, &old.name));
    if let Err(trouble) = renamed {
        host.report.note(
            &new.name,
            &format!(
                "it could not be given the name {}: {}",
                old.name, trouble.what
            ),
        );
    }
    let named = Domain {
        id: new.id,
        name: old.name.clone(),
    };
    dir.write_driver(&named).at(&guest.name, STEP)?;
    if let Some(image) = image {
        dir.write_image(image).at(&guest.name, STEP)?;
    }
    if crashed {
        return Ok(());
    }
    steps::release(host, old)?;
    destroy::end_drivers(host, std::slice::from_ref(old), GRACE)
}

/// That nobody else changes who serves this guest, or which devices it has.
pub(crate) struct Held {
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the lock goes, with the file.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Keeps everybody else from that.
///
/// # Errors
/// Somebody else does it.
pub(crate) fn lock(host: &Host, guest: &str) -> Result<Held, Failure> {
    // No guest's name begins with a dot.
    let path = host.run_dir.join(format!(".{guest}.restart"));
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    // Who has used `vdom attach` only has no such directory.
    let there = os::make_private_dir(&host.run_dir);
    let held = there.and_then(|()| options.open(&path)).and_then(|file| {
        let is_ours = os::lock(&file, Lock::Try)? && os::is_at(&file, &path);
        Ok(is_ours.then_some(file))
    });
    let fail = |what: String, remedy: &str| {
        Err(Trouble::new(what, remedy).at(guest, "have it to oneself"))
    };
    match held {
        Ok(Some(_file)) => Ok(Held { path, _file }),
        Ok(None) => fail(
            "another vdom restarts its driver domain, or attaches or detaches a device".into(),
            "wait for it",
        ),
        Err(error) => fail(format!("{}: {error}", path.display()), "run vdom as root"),
    }
}

/// Finds the guest, its driver domain, and what that was created from.
fn find(host: &mut Host, name: &str, image: Option<&Path>) -> Result<Pair, Failure> {
    let fail = |what: String, remedy: String| Err(Trouble::new(what, remedy).at(name, STEP));
    let Some(mut guest) = host.find(name).at(name, STEP)? else {
        return fail(
            "there is no such domain".into(),
            "vdom list shows all".into(),
        );
    };
    if let Some(target) = host.target(guest.id).at(name, STEP)? {
        // The driver domain was named.
        let found = host.find(&target.to_string()).at(name, STEP)?;
        let Some(found) = found else {
            return fail("its guest is gone".into(), format!("vdom destroy {name}"));
        };
        guest = found;
    }
    let drivers = host.drivers_of(guest.id).at(name, STEP)?;
    let [old] = &drivers[..] else {
        return fail(
            format!("{} driver domains serve it instead of one", drivers.len()),
            "vdom list shows them".into(),
        );
    };
    let old = old.clone();
    if host.state(old.id).at(&old.name, STEP)? != Some(State::Ready) {
        return fail(
            format!("its driver domain {} does not serve it now", old.name),
            "vdom list shows how it is; vdom destroy ends both".into(),
        );
    }
    let kind = host.text(&node(old.id, keys::TARGET_TYPE)).at(name, STEP)?;
    if kind.as_deref() != Some(TargetType::Hvm.as_str()) {
        return fail(
            "it is a PVH guest: its drivers are connected with its driver domain itself, and would not find another one"
                .into(),
            "restart the guest: vdom destroy, then vdom create".into(),
        );
    }
    let dir = RunDir::of(&host.run_dir, &guest.name);
    let Some((config, text)) = dir.driver_config() else {
        return fail(
            "vdom did not create it, and does not know what its driver domain was created from"
                .into(),
            "create it with vdom create".into(),
        );
    };
    let mut overrides = dir.driver_overrides();
    if dir.restarts() {
        overrides.push(driver::KEPT.into());
    }
    if let Some(image) = image.map(Path::to_owned).or_else(|| dir.image()) {
        driver::check_image(&image, "--image").at(&old.name, STEP)?;
        overrides.push(format!(
            "kernel={}",
            driver::quote_path(&image).at(name, STEP)?
        ));
    }
    let settings = guest::parse(&config, &text, &overrides).at(&old.name, STEP)?;
    let list = |key| -> Result<Vec<&str>, Failure> {
        let texts = settings.get(key).map(Setting::texts).transpose();
        let texts = texts.map_err(Trouble::from).at(&old.name, STEP)?;
        Ok(texts.iter().flatten().map(|(_, text)| *text).collect())
    };
    let disks = list("disk")?.into_iter();
    let disks = disks.filter_map(|text| Some((driver::disks::device(text)?, text.to_owned())));
    Ok(Pair {
        disks: disks.collect(),
        networks: driver::networks::numbers(&list("vif")?),
        guest,
        old,
        devices: Devices::new(),
        config,
        overrides,
    })
}

/// The devices that a driver domain serves, as they were described to it.
fn devices(host: &mut Host, pair: &Pair) -> Result<Devices, Failure> {
    let (guest, driver) = (&pair.guest, &pair.old);
    let mut devices = Devices::new();
    let mut described = Vec::new();
    for (slot, device) in list::devices(host, driver)? {
        let nodes = Nodes::of(driver.id, guest.id, slot);
        let state = nodes.state(host).at(&driver.name, STEP)?;
        described.push((slot, device, state));
    }
    // Where none was answered, or made, they were handed over a moment ago, or could not be: they say nothing then.
    let unanswered =
        |state: &Option<BusState>| matches!(state, None | Some(BusState::Initialising));
    let are_answered = described.iter().any(|(_, _, state)| !unanswered(state));
    for (slot, device, state) in described {
        // What has gone, or could not be had, may have left its description.
        if are_answered && (unanswered(&state) || state == Some(BusState::Closed)) {
            continue;
        }
        let trouble = |what: String| {
            Trouble::new(
                format!("device {slot}: {what}"),
                "what describes its devices in xenstore was changed: vdom destroy, then vdom create",
            )
            .at(&driver.name, STEP)
        };
        let device = device.map_err(trouble)?;
        devices
            .insert(Some(slot), device)
            .map_err(|error| trouble(error.to_string()))?;
    }
    let is_known = |name: &VirtualDisk| pair.disks.iter().any(|(known, _)| known == name);
    let disk = devices.vbds().find(|(_, name)| !is_known(name));
    let network = devices
        .uplinks()
        .find(|(_, vif)| !pair.networks.contains(vif));
    let unknown = disk.map(|(slot, name)| (slot, format!("disk {name}")));
    let unknown =
        unknown.or_else(|| network.map(|(slot, vif)| (slot, format!("network interface {vif}"))));
    match unknown {
        None => Ok(devices),
        Some((slot, what)) => Err(Trouble::new(
            format!(
                "{what} of slot {slot} is not in the configuration that its driver domain was created from: it was \
                 attached later, and would not be moved"
            ),
            format!("vdom device-detach {} {slot} first; or restart the guest", guest.name),
        )
        .at(&guest.name, STEP)),
    }
}

/// xl's and the guest's nodes name the new one from now on, which says there that the devices are.
fn hand_over_nodes(host: &mut Host, pair: &Pair, new: &Domain) -> Result<(), Trouble> {
    let has_libxl = nodes::is_libxls(host, pair.guest.id)?;
    let changes = pair
        .devices
        .iter()
        .flat_map(|(slot, device)| Nodes::of(new.id, pair.guest.id, slot).make(device, has_libxl));
    let changes: Vec<_> = changes.collect();
    host.store.change(&changes)
}

#[cfg(test)]
mod tests;
