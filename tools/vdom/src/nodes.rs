//! A device's nodes in xenstore, as libxl makes them for `virtio=`: the back end's, the front end's, and libxl's own.
//!
//! xl makes them when it creates a guest. For what it has not made them they are made here, so that xl takes all devices
//! away alike when it destroys the guest.

use vd_config::xenbus::{self, BackendPath, BusState, FrontendPath};
use vd_config::{DeviceDescription, Memory, SlotIndex};

use crate::failure::Trouble;
use crate::host::{Change, Host};

/// The three directories of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nodes {
    driver: u16,
    guest: u16,
    pub(crate) backend: String,
    pub(crate) frontend: String,
    libxl: String,
}

impl Nodes {
    pub(crate) fn of(driver: u16, guest: u16, slot: SlotIndex) -> Self {
        let backend = BackendPath {
            driver: Some(driver),
            guest,
            slot,
        };
        Self {
            driver,
            guest,
            backend: backend.to_string(),
            frontend: FrontendPath { guest, slot }.to_string(),
            libxl: format!("/libxl/{guest}/device/{}/{slot}", xenbus::CLASS),
        }
    }

    /// All of them.
    pub(crate) fn paths(&self) -> [String; 3] {
        [
            self.frontend.clone(),
            self.backend.clone(),
            self.libxl.clone(),
        ]
    }

    /// A node of the back end's.
    pub(crate) fn ours(&self, key: &str) -> String {
        format!("{}/{key}", self.backend)
    }

    /// How the back end stands, if it is there.
    pub(crate) fn state(&self, host: &mut Host) -> Result<Option<BusState>, Trouble> {
        let value = host.store.read(&self.ours(xenbus::STATE))?;
        Ok(value.map(|value| BusState::parse(&value)))
    }

    /// Whether somebody has made them already, for such a device.
    pub(crate) fn are_there(
        &self,
        host: &mut Host,
        device: &DeviceDescription,
    ) -> Result<bool, Trouble> {
        if host.store.read(&self.ours(xenbus::STATE))?.is_none() {
            return Ok(false);
        }
        let kind = host.text(&self.ours(xenbus::TYPE))?;
        let expected = xenbus::DeviceKind(device.kind()).to_string();
        match kind {
            Some(kind) if kind != expected && kind != xenbus::GENERIC => Err(Trouble::new(
                format!("xl has made a device of type={kind} for it, which is {expected}"),
                "correct virtio= in the guest's configuration, or remove it: vdom adds what there has to be",
            )),
            _ => Ok(true),
        }
    }

    /// What makes them. `has_libxl` if the guest is one of libxl's.
    pub(crate) fn make(&self, device: &DeviceDescription, has_libxl: bool) -> Vec<Change> {
        let kind = xenbus::DeviceKind(device.kind()).to_string();
        let initialising = BusState::Initialising.as_str();
        let grants = if device.memory() == Memory::Grants {
            "1"
        } else {
            "0"
        };
        let guest = self.guest.to_string();
        let driver = self.driver.to_string();
        let back = [
            (xenbus::FRONTEND, self.frontend.as_str()),
            (xenbus::FRONTEND_ID, &guest),
            (xenbus::ONLINE, "1"),
            (xenbus::STATE, initialising),
            (xenbus::IRQ, "0"),
            (xenbus::BASE, "0"),
            (xenbus::TYPE, &kind),
            (xenbus::TRANSPORT, xenbus::TRANSPORT_VALUE),
            (xenbus::GRANT_USAGE, grants),
        ];
        let front = [
            (xenbus::BACKEND, self.backend.as_str()),
            (xenbus::BACKEND_ID, &driver),
            (xenbus::STATE, initialising),
        ];
        let mut changes = Vec::new();
        if has_libxl {
            changes.push(Change::Remove(self.libxl.clone()));
            changes.push(write(&self.libxl, xenbus::BACKEND, &self.backend));
            changes.extend(back.map(|(key, value)| write(&self.libxl, key, value)));
        }
        let ends: [(_, _, &[(&str, &str)]); 2] = [
            (&self.frontend, (self.guest, self.driver), &front),
            (&self.backend, (self.driver, self.guest), &back),
        ];
        for (path, (owner, reader), pairs) in ends {
            changes.push(Change::Remove(path.clone()));
            changes.push(Change::Directory {
                path: path.clone(),
                owner,
                reader,
            });
            changes.extend(pairs.iter().map(|(key, value)| write(path, key, value)));
        }
        changes
    }

    /// What asks that the device goes; with `force` nobody waits for the guest's driver.
    pub(crate) fn take_away(&self, force: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        if force {
            changes.push(Change::Remove(self.frontend.clone()));
        }
        changes.push(write(&self.backend, xenbus::ONLINE, "0"));
        changes.push(write(
            &self.backend,
            xenbus::STATE,
            BusState::Closing.as_str(),
        ));
        changes
    }
}

/// Whether libxl has created this guest.
pub(crate) fn is_libxls(host: &mut Host, guest: u16) -> Result<bool, Trouble> {
    Ok(host.store.read(&format!("/libxl/{guest}"))?.is_some())
}

fn write(path: &str, key: &str, value: &str) -> Change {
    Change::Write {
        path: format!("{path}/{key}"),
        value: value.into(),
    }
}
