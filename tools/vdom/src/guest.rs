//! What a guest's configuration asks for, and whether that can be had.
//!
//! The file is an ordinary xl configuration with keys of vdom's own, which xl ignores. Everything that can be known
//! to be wrong is found here, before any domain exists.

use std::path::{Path, PathBuf};

use vd_config::{DeviceDescription, Devices, Doorbell, TargetType};

use crate::failure::Trouble;
use crate::xlcfg::{Config, Setting, SyntaxError};

/// The keys of vdom's own.
const KEYS: [&str; 9] = [
    "vdom_devices",
    "vdom_disk",
    "vdom_driver",
    "vdom_image",
    "vdom_network",
    "vdom_ramdisk",
    "vdom_reserve",
    "vdom_cmdline",
    "vdom_name",
];
const DEFAULT_IMAGE: &str = "/usr/lib/virtio-domain/virtio-domain";
/// What a domain does when its operating system ends, and what xl does if the configuration says nothing.
/// The last one is judged by the others.
const EVENTS: [(&str, &str, Ending); 5] = [
    ("on_poweroff", "destroy", Ending::PowerOff),
    ("on_reboot", "restart", Ending::Reboot),
    ("on_crash", "destroy", Ending::Crash),
    ("on_watchdog", "destroy", Ending::Watchdog),
    ("on_soft_reset", SOFT_RESET, Ending::SoftReset),
];
/// The domain goes on, without anything that Xen had for it.
const SOFT_RESET: &str = "soft-reset";
/// Longer names do not fit everywhere in xl and its log files.
const NAME_MAX: usize = 64;

/// How a guest's operating system ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It has powered off.
    PowerOff,
    /// It wants to start again.
    Reboot,
    /// It has crashed.
    Crash,
    /// Xen's watchdog has ended it.
    Watchdog,
    /// It wants to start another kernel (kexec), in the same domain.
    SoftReset,
}

/// Where the driver domain's configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DriverSource {
    /// vdom writes it.
    Generated {
        /// Name of the driver domain.
        name: String,
        /// Its image.
        image: PathBuf,
        /// The module behind `backend=module`.
        ramdisk: Option<PathBuf>,
        /// Its disks, behind `backend=vbd:DEV`, as xl has them.
        disks: Vec<String>,
        /// Its network interfaces, behind `backend=vif:N`, as xl has them.
        networks: Vec<String>,
        /// Its command line.
        cmdline: Option<String>,
    },
    /// The operator has written it.
    File(PathBuf),
}

/// A guest that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) kind: TargetType,
    pub(crate) config: PathBuf,
    /// What is in that file, if somebody has put it here: it may be another one when the guest is created again.
    pub(crate) text: Vec<u8>,
    /// After which endings vdom creates it again.
    pub(crate) restarts: Vec<Ending>,
    /// The operator's settings for xl, then those that vdom adds; the table's path is not among them.
    pub(crate) overrides: Vec<String>,
    /// What `overrides` changes against the operator's will, in words.
    pub(crate) notes: Vec<String>,
    /// The most memory that the guest can get.
    pub(crate) memory_mib: u64,
    /// Memory of the driver domain for devices that come later.
    pub(crate) reserve_mib: u64,
    pub(crate) devices: Devices,
    /// What xl is told of them, if that is more than what is in its configuration.
    pub(crate) virtio: Option<String>,
    pub(crate) driver: DriverSource,
}

impl From<SyntaxError> for Trouble {
    fn from(error: SyntaxError) -> Self {
        Trouble::new(
            error.to_string(),
            "correct the configuration; xl.cfg(5) describes the format",
        )
    }
}

/// Reads a configuration file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    std::fs::read(path).map_err(|error| {
        Trouble::new(
            format!("{}: {error}", path.display()),
            "give the path of an xl configuration",
        )
    })
}

/// Understands what is in a configuration file, with overrides, as xl would.
pub(crate) fn parse(path: &Path, bytes: &[u8], overrides: &[String]) -> Result<Config, Trouble> {
    let mut config = Config::default();
    config.add(&path.display().to_string(), &String::from_utf8_lossy(bytes))?;
    for text in overrides {
        config.add("command line", text)?;
    }
    Ok(config)
}

/// The name in a configuration, for messages about it, even if all the rest is wrong.
pub(crate) fn name_or_path(config: &Config, path: &Path) -> String {
    let name = config.get("name").and_then(|setting| setting.text().ok());
    name.map_or_else(|| path.display().to_string(), str::to_owned)
}

impl Guest {
    /// Checks a configuration.
    pub(crate) fn from_config(
        config: &Config,
        path: &Path,
        overrides: &[String],
    ) -> Result<Self, Trouble> {
        check_keys(config)?;
        let name = domain_name(config)?;
        let kind = guest_type(config)?;
        if kind == TargetType::Hvm {
            check_acpi(config)?;
        }
        let mut guest = Self {
            config: path.to_owned(),
            text: Vec::new(),
            restarts: Vec::new(),
            overrides: overrides.to_vec(),
            notes: Vec::new(),
            memory_mib: memory_mib(config)?,
            reserve_mib: reserve_mib(config)?,
            devices: devices(config, kind)?,
            virtio: None,
            kind,
            driver: driver_source(config, path, &name)?,
            name,
        };
        if kind == TargetType::Pvh {
            guest.notes.push(
                "a PVH guest finds its devices by xenbus, if its driver can: stock kernels cannot"
                    .into(),
            );
        }
        guest.use_place_of_vga(config)?;
        guest.take_over_restarts(config)?;
        Ok(guest)
    }

    /// Registers whose writes are posted are where a VGA card's memory would be: without one, they are unless a device's
    /// description says something else.
    fn use_place_of_vga(&mut self, config: &Config) -> Result<(), Trouble> {
        let vga = config.get("vga").map(Setting::text).transpose()?;
        if vga == Some("none") {
            if self.kind == TargetType::Hvm {
                self.devices.prefer_posted();
            }
            return Ok(());
        }
        let posts = |device: &DeviceDescription| device.doorbell() == Doorbell::Posted;
        match self.devices.iter().find(|(_, device)| posts(device)) {
            Some((slot, _)) => Err(Trouble::new(
                format!(
                    "slot {slot}: doorbell=posted needs the place of the VGA card's memory, and the guest has such a card"
                ),
                "set vga = \"none\", or use another doorbell",
            )),
            None => Ok(()),
        }
    }

    /// A domain that xl restarts gets a new id, and the driver domain has power over the old one only; a soft reset takes
    /// its ioreq servers away, and what it has mapped. So xl leaves such a domain as it is when it has ended, and vdom
    /// creates both anew.
    fn take_over_restarts(&mut self, config: &Config) -> Result<(), Trouble> {
        for (key, default, ending) in EVENTS {
            let setting = config.get(key);
            let action = setting.map(Setting::text).transpose()?;
            let said = action.is_some();
            match (action.unwrap_or(default), ending) {
                ("restart", _) => self.restart_after(key, ending),
                (SOFT_RESET, Ending::SoftReset) if said || !self.restarts.is_empty() => {
                    self.restart_after(key, ending);
                }
                (SOFT_RESET, Ending::SoftReset) => {
                    self.overrides.push(format!("{key}=\"destroy\""));
                    self.notes.push(format!(
                        "{key}=\"destroy\" is used: a guest that starts another kernel (kexec) would lose its devices; \
                         with {key}=\"restart\" vdom creates it again"
                    ));
                }
                (SOFT_RESET, _) => {
                    let place = setting.map(|setting| setting.place.to_string());
                    return Err(Trouble::new(
                        format!(
                            "{}: {key}=\"{SOFT_RESET}\" would take the guest's devices away",
                            place.unwrap_or_default()
                        ),
                        format!("use {key} = \"restart\""),
                    ));
                }
                (action, _) if action.contains("restart") => self.do_not_restart(key, action),
                _ => {}
            }
        }
        Ok(())
    }

    fn restart_after(&mut self, key: &str, ending: Ending) {
        self.restarts.push(ending);
        self.overrides.push(format!("{key}=\"preserve\""));
    }

    fn do_not_restart(&mut self, key: &str, action: &str) {
        let instead = if action.starts_with("coredump") {
            "coredump-destroy"
        } else {
            "destroy"
        };
        self.overrides.push(format!("{key}=\"{instead}\""));
        self.notes.push(format!(
            "{key}=\"{instead}\" is used instead of \"{action}\", which vdom cannot do: a restarted guest is a new \
             domain, and its driver domain cannot serve it"
        ));
    }
}

fn check_keys(config: &Config) -> Result<(), Trouble> {
    let unknown = |setting: &&Setting| {
        setting.key.starts_with("vdom") && !KEYS.contains(&setting.key.as_str())
    };
    match config.settings().iter().find(unknown) {
        None => Ok(()),
        Some(setting) => Err(Trouble::new(
            format!("{}: vdom has no key {}", setting.place, setting.key),
            format!("its keys are {}", KEYS.join(", ")),
        )),
    }
}

/// The name, which must be fit to be a directory's name too.
pub(crate) fn domain_name(config: &Config) -> Result<String, Trouble> {
    let setting = config.get("name").ok_or_else(|| {
        Trouble::new("name is missing", "add name = \"...\" to the configuration")
    })?;
    check_name(setting.text()?).map_err(|what| {
        Trouble::new(
            format!("{}: {what}", setting.place),
            "use 1 to 64 letters, digits and - _ . + :, not starting with a dot or a digit only",
        )
    })
}

fn check_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+:".contains(c);
    let id = !name.is_empty() && name.chars().all(|c| c.is_ascii_digit());
    if name.is_empty()
        || name.len() > NAME_MAX
        || !name.chars().all(allowed)
        || name.starts_with('.')
        || id
    {
        return Err(format!("{name:?} cannot be the name of a domain here"));
    }
    Ok(name.to_owned())
}

fn guest_type(config: &Config) -> Result<TargetType, Trouble> {
    let text = |key| config.get(key).map(Setting::text).transpose();
    let pvh = config
        .get("pvh")
        .map(Setting::number)
        .transpose()?
        .unwrap_or_default()
        != 0;
    let kind = match (text("type")?, text("builder")?) {
        (Some(kind), _) => kind,
        (None, Some("hvm")) if !pvh => "hvm",
        (None, _) if pvh => "pvh",
        (None, _) => "pv",
    };
    let reason = match kind {
        "hvm" => return Ok(TargetType::Hvm),
        "pvh" => return Ok(TargetType::Pvh),
        "pv" => {
            "it has neither emulated devices nor ACPI (a configuration without type= is a PV guest)"
        }
        _ => "xl does not know that type",
    };
    Err(Trouble::new(
        format!("a guest of type {kind} cannot be served: {reason}"),
        "use type = \"hvm\" or type = \"pvh\"",
    ))
}

fn check_acpi(config: &Config) -> Result<(), Trouble> {
    if let Some(setting) = config.get("acpi_firmware") {
        return Err(Trouble::new(
            format!(
                "{}: acpi_firmware is set, and vdom needs it for the table that names the devices",
                setting.place
            ),
            "remove it; or append the output of `vdom ssdt` to that file, create both domains with xl and use `vdom attach`",
        ));
    }
    match config.get("acpi") {
        Some(setting) if setting.number()? == 0 => Err(Trouble::new(
            format!(
                "{}: acpi is off, but the guest finds the devices through ACPI",
                setting.place
            ),
            "remove acpi = 0",
        )),
        _ => Ok(()),
    }
}

/// The memory of a domain of this configuration, in MiB.
///
/// A domain with `maxmem` beyond `memory` is populated on demand. The driver domain has no balloon that would give back
/// what it must not use, and mapping all of such a guest would use up what it is populated from: Xen would crash it.
pub(crate) fn memory_mib(config: &Config) -> Result<u64, Trouble> {
    let setting = config
        .get("memory")
        .ok_or_else(|| Trouble::new("memory is missing", "add memory = MEBIBYTES"))?;
    let memory = setting.number()?;
    // Sixteen tebibytes, which is more than Xen gives to a domain.
    if memory == 0 || memory > 1 << 24 {
        return Err(Trouble::new(
            format!(
                "{}: a domain cannot have {memory} MiB of memory",
                setting.place
            ),
            "correct memory",
        ));
    }
    match config.get("maxmem") {
        Some(most) if most.number()? > memory => Err(Trouble::new(
            format!(
                "{}: maxmem is more than memory: such a domain is populated on demand, and cannot be served",
                most.place
            ),
            format!("set maxmem = {memory}, or memory to as much"),
        )),
        _ => Ok(memory),
    }
}

fn reserve_mib(config: &Config) -> Result<u64, Trouble> {
    // A tebibyte.
    const MOST: u64 = 1 << 20;
    let Some(setting) = config.get("vdom_reserve") else {
        return Ok(0);
    };
    match setting.number()? {
        reserve if reserve <= MOST => Ok(reserve),
        reserve => Err(Trouble::new(
            format!(
                "{}: vdom_reserve: {reserve} MiB are too much",
                setting.place
            ),
            "set it to the mebibytes that disks in memory need which are attached later",
        )),
    }
}

fn devices(config: &Config, kind: TargetType) -> Result<Devices, Trouble> {
    const EXAMPLE: &str =
        "add vdom_devices = [ \"type=blk,backend=ram:64M\" ]; or use plain `xl create`";
    let setting = config.get("vdom_devices").ok_or_else(|| {
        Trouble::new(
            "vdom_devices is missing: the guest asks for no device",
            EXAMPLE,
        )
    })?;
    let texts = setting.texts()?;
    if texts.is_empty() {
        return Err(Trouble::new(
            format!("{}: vdom_devices is empty", setting.place),
            EXAMPLE,
        ));
    }
    let devices = Devices::parse(texts.iter().map(|(_, text)| text.as_bytes())).map_err(
        |(index, error)| {
            let line = texts
                .get(index)
                .map_or(setting.place.line, |(line, _)| *line);
            Trouble::new(
                format!(
                    "{}:{line}: vdom_devices: device {}: {error}",
                    setting.place.source,
                    index + 1
                ),
                "correct this device",
            )
        },
    )?;
    devices.check_guest(kind).map_err(|(slot, error)| {
        Trouble::new(
            format!(
                "{}: vdom_devices: slot {slot}: {error}",
                setting.place.source
            ),
            "correct this device",
        )
    })?;
    Ok(devices)
}

fn driver_source(config: &Config, path: &Path, guest: &str) -> Result<DriverSource, Trouble> {
    let text = |key| config.get(key).map(Setting::text).transpose();
    // Paths are relative to the file that they are in.
    let beside = |file: &str| path.parent().unwrap_or(Path::new("")).join(file);
    if let Some(file) = text("vdom_driver")? {
        let others = [
            "vdom_image",
            "vdom_ramdisk",
            "vdom_disk",
            "vdom_network",
            "vdom_reserve",
            "vdom_cmdline",
            "vdom_name",
        ];
        if let Some(setting) = others.iter().find_map(|key| config.get(key)) {
            return Err(Trouble::new(
                format!(
                    "{}: {} has no effect together with vdom_driver",
                    setting.place, setting.key
                ),
                "say it in the driver domain's own configuration, or remove vdom_driver",
            ));
        }
        return Ok(DriverSource::File(beside(file)));
    }
    let name = match text("vdom_name")? {
        Some(name) => check_name(name).map_err(|what| Trouble::new(what, "correct vdom_name"))?,
        None => format!("{guest}-vd"),
    };
    if name == guest {
        return Err(Trouble::new(
            "vdom_name is the guest's own name",
            "give the driver domain a name of its own",
        ));
    }
    let list = |key| -> Result<Vec<String>, Trouble> {
        let texts = config.get(key).map(Setting::texts).transpose()?;
        let texts = texts.unwrap_or_default();
        Ok(texts.iter().map(|(_, text)| (*text).to_owned()).collect())
    };
    Ok(DriverSource::Generated {
        name,
        disks: list("vdom_disk")?,
        networks: list("vdom_network")?,
        image: text("vdom_image")?.map_or_else(|| DEFAULT_IMAGE.into(), beside),
        ramdisk: text("vdom_ramdisk")?.map(beside),
        cmdline: text("vdom_cmdline")?.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests;
