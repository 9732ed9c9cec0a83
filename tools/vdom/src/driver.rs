//! The driver domain: its configuration, and how much memory it needs.
//!
//! Invariant: a [`Driver`] that exists can be started: its files are there and its memory and paging pool are large
//! enough for the devices and for mapping all of the guest's memory.

pub(crate) mod disks;
pub(crate) mod networks;
mod size;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use vd_config::{Backend, Devices};

use crate::failure::Trouble;
use crate::guest::{self, DriverSource, Guest};
use crate::xlcfg::{Config, Setting};

use size::{memory_mib, shadow_mib};

/// A driver domain that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Driver {
    pub(crate) name: String,
    pub(crate) source: Source,
}

/// What to give to xl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The text of a configuration.
    Text(String),
    /// A file, what was in it when it was checked, and settings that it does not make.
    File {
        path: PathBuf,
        text: String,
        overrides: Vec<String>,
    },
}

/// What is needed, and by whom.
struct Needs<'a> {
    devices: &'a Devices,
    guest_mib: u64,
    /// For devices that come later.
    reserve_mib: u64,
}

impl Driver {
    /// The driver domain for a guest.
    pub(crate) fn for_guest(guest: &Guest) -> Result<Self, Trouble> {
        let needs = Needs {
            devices: &guest.devices,
            guest_mib: guest.memory_mib,
            reserve_mib: guest.reserve_mib,
        };
        let driver = match &guest.driver {
            DriverSource::Generated {
                name,
                image,
                ramdisk,
                disks,
                networks,
                cmdline,
            } => Self {
                name: name.clone(),
                source: Source::Text(generate(
                    &needs,
                    name,
                    image,
                    (ramdisk.as_deref(), disks, networks),
                    cmdline.as_deref(),
                    &guest.name,
                )?),
            },
            DriverSource::File(path) => from_file(&needs, path)?,
        };
        if driver.name == guest.name {
            return Err(Trouble::new(
                "guest and driver domain have the same name",
                "give each its own name",
            ));
        }
        Ok(driver)
    }
}

fn generate(
    needs: &Needs<'_>,
    name: &str,
    image: &Path,
    (ramdisk, disks, networks): (Option<&Path>, &[String], &[String]),
    cmdline: Option<&str>,
    guest: &str,
) -> Result<String, Trouble> {
    check_image(image, "vdom_image")?;
    disks::check(needs.devices, disks, "vdom_disk")?;
    networks::check(needs.devices, networks, "vdom_network")?;
    let module = check_module(needs.devices, ramdisk, "vdom_ramdisk")?;
    let memory = needs.memory_mib(module)?;
    let shadow = shadow_mib(memory, 1, needs.guest_mib);
    let mut text = format!("# The driver domain of {guest}. Written by vdom; changes are lost.\n");
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key} = {value}");
    };
    line("name", &quote(name));
    line("type", "\"pvh\"");
    line("kernel", &quote_path(image)?);
    if let Some(ramdisk) = ramdisk {
        line("ramdisk", &quote_path(ramdisk)?);
    }
    for (key, list) in [("disk", disks), ("vif", networks)] {
        if !list.is_empty() {
            let list: Vec<String> = list.iter().map(|text| quote(text)).collect();
            line(key, &format!("[ {} ]", list.join(", ")));
        }
    }
    if let Some(cmdline) = cmdline {
        line("cmdline", &quote(cmdline));
    }
    line("memory", &memory.to_string());
    line("vcpus", "1");
    line("shadow_memory", &shadow.to_string());
    for (key, value) in FIXED {
        line(key, value);
    }
    Ok(text)
}

/// Settings that every driver domain needs. Xen lets a domain map another's memory only if neither altp2m nor nested
/// virtualization is on for it; and a driver domain that were restarted would have no power over the guest.
const FIXED: [(&str, &str); 6] = [
    ("altp2m", "\"disabled\""),
    ("nestedhvm", "0"),
    ("on_poweroff", "\"destroy\""),
    ("on_reboot", "\"destroy\""),
    ("on_crash", "\"destroy\""),
    ("on_watchdog", "\"destroy\""),
];

/// A driver domain that crashes stays in memory, if somebody is there to look after it: what it leaves to the next one is
/// in there.
pub(crate) const KEPT: &str = "on_crash=\"preserve\"";

fn from_file(needs: &Needs<'_>, path: &Path) -> Result<Driver, Trouble> {
    let text = guest::read(path)?;
    let config = guest::parse(path, &text, &[])?;
    let name = guest::domain_name(&config)?;
    check_pvh(&config)?;
    let file = |key| config.get(key).map(Setting::text).transpose();
    let kernel = file("kernel")?.ok_or_else(|| {
        Trouble::new(
            "kernel is missing",
            "set kernel to the driver domain's image",
        )
    })?;
    check_image(Path::new(kernel), "kernel")?;
    let module = check_module(needs.devices, file("ramdisk")?.map(Path::new), "ramdisk")?;
    let list = |key| -> Result<Vec<&str>, Trouble> {
        let given = config.get(key).map(Setting::texts).transpose()?;
        Ok(given.iter().flatten().map(|(_, text)| *text).collect())
    };
    disks::check(needs.devices, &list("disk")?, "disk")?;
    networks::check(needs.devices, &list("vif")?, "vif")?;
    let (memory, needed) = (guest::memory_mib(&config)?, needs.memory_mib(module)?);
    if memory < needed {
        return Err(Trouble::new(
            format!(
                "the driver domain {name} has {memory} MiB of memory and needs {needed} for these devices"
            ),
            format!("set memory = {needed} in {}", path.display()),
        ));
    }
    let vcpus = config
        .get("vcpus")
        .map(Setting::number)
        .transpose()?
        .unwrap_or(1);
    let mut overrides = Vec::new();
    let shadow = shadow_mib(memory, vcpus, needs.guest_mib);
    match config.get("shadow_memory") {
        None => overrides.push(format!("shadow_memory={shadow}")),
        Some(setting) if setting.number()? < shadow => {
            return Err(Trouble::new(
                format!(
                    "{}: shadow_memory is too small to map a guest of {} MiB",
                    setting.place, needs.guest_mib
                ),
                format!("remove it, or set shadow_memory = {shadow}"),
            ));
        }
        Some(_) => {}
    }
    for (key, value) in FIXED {
        match config.get(key) {
            None => overrides.push(format!("{key}={value}")),
            Some(setting) => check_fixed(setting, value)?,
        }
    }
    let source = Source::File {
        path: path.to_owned(),
        text: String::from_utf8_lossy(&text).into_owned(),
        overrides,
    };
    Ok(Driver { name, source })
}

fn check_fixed(setting: &Setting, needed: &str) -> Result<(), Trouble> {
    let off = ["0", "disabled", "destroy", "preserve", "coredump-destroy"];
    if off.contains(&setting.text()?) {
        return Ok(());
    }
    Err(Trouble::new(
        format!(
            "{}: a driver domain cannot work with this setting of {}",
            setting.place, setting.key
        ),
        format!("remove it, or use {} = {needed}", setting.key),
    ))
}

fn check_pvh(config: &Config) -> Result<(), Trouble> {
    let text = |key| config.get(key).map(Setting::text).transpose();
    if text("type")? == Some("pvh") || text("pvh")? == Some("1") {
        return Ok(());
    }
    Err(Trouble::new(
        "the driver domain is not of type pvh",
        "set type = \"pvh\" in its configuration",
    ))
}

pub(crate) fn check_image(path: &Path, key: &str) -> Result<(), Trouble> {
    let read = std::fs::File::open(path).and_then(|mut file| {
        let mut start = [0; 5];
        std::io::Read::read_exact(&mut file, &mut start).map(|()| start)
    });
    match read {
        // ELF, 64 bits; or what gzip has made of it, which xl looks into.
        Ok([0x7f, b'E', b'L', b'F', 2] | [0x1f, 0x8b, 8, ..]) => Ok(()),
        Ok(_) => Err(Trouble::new(
            format!(
                "{} is no ELF64 image, nor compressed with gzip",
                path.display()
            ),
            format!("set {key} to the driver domain's image"),
        )),
        Err(error) => Err(Trouble::new(
            format!("the driver domain's image {}: {error}", path.display()),
            format!("install it there, or set {key} to its path"),
        )),
    }
}

/// Checks the module against the device that wants it, and gives its size in the domain.
fn check_module(devices: &Devices, ramdisk: Option<&Path>, key: &str) -> Result<u64, Trouble> {
    let wanted = devices
        .iter()
        .find(|(_, device)| device.backend() == Backend::Module);
    match (wanted, ramdisk) {
        (None, None) => Ok(0),
        (Some((slot, _)), None) => Err(Trouble::new(
            format!(
                "the device in slot {slot} has backend=module, but the driver domain gets no module"
            ),
            format!("set {key} to a disk image, or use backend=ram:SIZE"),
        )),
        (wanted, Some(path)) => {
            let bytes = size::module_bytes(path).map_err(|error| {
                Trouble::new(
                    format!("the disk image {}: {error}", path.display()),
                    format!("correct {key}"),
                )
            })?;
            if let Some((slot, device)) = wanted {
                device.check_capacity(bytes).map_err(|error| {
                    Trouble::new(
                        format!("slot {slot}: {}: {error}", path.display()),
                        format!(
                            "pad the image (truncate -s %{}), or change block-size",
                            device.block_size().bytes()
                        ),
                    )
                })?;
            }
            Ok(bytes)
        }
    }
}

impl Needs<'_> {
    fn memory_mib(&self, module: u64) -> Result<u64, Trouble> {
        let disks = self
            .devices
            .iter()
            .filter_map(|(_, device)| match device.backend() {
                Backend::Ram(size) => Some(size.bytes()),
                Backend::Module
                | Backend::Switch
                | Backend::Cpu
                | Backend::Console
                | Backend::Vbd(_)
                | Backend::Vif(_) => None,
            });
        let uplinks = self.devices.uplinks().count();
        let memory = memory_mib(self.devices.len(), disks, module, uplinks);
        let memory = memory.and_then(|it| it.checked_add(self.reserve_mib));
        memory.ok_or_else(|| {
            Trouble::new(
                "the disks are larger than any domain, or the module does not fit below 4 GiB",
                "make them smaller",
            )
        })
    }
}

/// A string as xl reads it.
pub(crate) fn quote(text: &str) -> String {
    format!(
        "\"{}\"",
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    )
}

pub(crate) fn quote_path(path: &Path) -> Result<String, Trouble> {
    // xl resolves relative paths by itself, from wherever it is started.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.to_str().map(quote).ok_or_else(|| {
        Trouble::new(
            format!("{}: the path is not UTF-8", path.display()),
            "rename the file",
        )
    })
}

#[cfg(test)]
mod tests;
