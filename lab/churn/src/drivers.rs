//! The ways in which a device can lose its driver, and get it back.

use std::io;
use std::process::Command;

use crate::entries;

/// What is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing at all.
    Nothing,
    /// The driver of each device: unbound and bound.
    Driver,
    /// The driver of each device's transport.
    Transport,
    /// The modules of the drivers: unloaded and loaded.
    Module,
    /// The module of the transport.
    TransportModule,
}

/// The drivers, which are modules of the same name.
const DRIVERS: [&str; 3] = ["virtio_blk", "virtio_net", "virtio_rng"];

impl Kind {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "nothing" => Self::Nothing,
            "driver" => Self::Driver,
            "transport" => Self::Transport,
            "module" => Self::Module,
            "transport-module" => Self::TransportModule,
            _ => return None,
        })
    }

    pub(crate) fn take_and_give_back(self) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Driver => DRIVERS.iter().try_for_each(|driver| {
                rebind(&format!("/sys/bus/virtio/drivers/{driver}"), "virtio")
            }),
            Self::Transport => rebind("/sys/bus/platform/drivers/virtio-mmio", "LNRO0005:"),
            Self::Module => reload(&DRIVERS),
            Self::TransportModule => reload(&["virtio_mmio"]),
        }
    }
}

/// Unbinds all devices of a driver, then binds them again.
fn rebind(driver: &str, prefix: &str) -> io::Result<()> {
    let devices = entries(driver, prefix)?;
    if devices.is_empty() {
        return Err(io::Error::other(format!("{driver} has no devices")));
    }
    for file in ["unbind", "bind"] {
        for device in &devices {
            std::fs::write(format!("{driver}/{file}"), device)?;
        }
    }
    Ok(())
}

fn reload(modules: &[&str]) -> io::Result<()> {
    for program in ["rmmod", "modprobe"] {
        for module in modules {
            let status = Command::new(program).arg(module).status()?;
            if !status.success() {
                return Err(io::Error::other(format!("{program} {module}: {status}")));
            }
        }
    }
    Ok(())
}
