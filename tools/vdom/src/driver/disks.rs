//! The driver domain's disks, in the words of xl's `disk=`, and which of them the devices want.
//!
//! Only as much of xl's syntax (xl-disk-configuration) is understood as it takes to find the virtual device; xl checks
//! the rest.

use vd_config::{Devices, VirtualDisk};

use crate::failure::Trouble;

/// The virtual device of a disk. None if there is none to be found.
pub(crate) fn device(disk: &str) -> Option<VirtualDisk> {
    let mut found = None;
    for (index, item) in disk.split(',').map(str::trim).enumerate() {
        let value = match item.split_once('=') {
            // Whatever follows is the target.
            Some(("target", _)) => break,
            Some(("vdev", value)) => value,
            // The first item without a key is the target.
            None if index > 0 => item,
            _ => continue,
        };
        let value = value.split(':').next().unwrap_or(value);
        if let Ok(device) = VirtualDisk::parse(value.as_bytes()) {
            found = Some(device);
        }
    }
    found
}

/// Checks that every device that wants a disk finds it among `disks`, which are those of the key `key`.
pub(super) fn check<T: AsRef<str>>(
    devices: &Devices,
    disks: &[T],
    key: &str,
) -> Result<(), Trouble> {
    let there: Vec<VirtualDisk> = disks
        .iter()
        .filter_map(|disk| device(disk.as_ref()))
        .collect();
    let missing = devices.vbds().find(|(_, disk)| !there.contains(disk));
    let Some((slot, disk)) = missing else {
        return Ok(());
    };
    let names: Vec<String> = there.iter().map(VirtualDisk::to_string).collect();
    let has = if names.is_empty() {
        "no disk at all".to_owned()
    } else {
        format!("only {}", names.join(", "))
    };
    Err(Trouble::new(
        format!(
            "the device in slot {slot} has backend=vbd:{disk}, but the driver domain gets {has}"
        ),
        format!(
            "add it to {key}, as in {key} = [ \"format=raw,vdev={disk},access=rw,target=/path/of/the/image\" ]"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(disk: &str) -> Option<String> {
        device(disk).map(|device| device.to_string())
    }

    #[test]
    fn virtual_devices_are_found_in_every_form_of_xl() {
        for (disk, name) in [
            ("/root/a.img,raw,xvda,rw", "xvda"),
            ("/root/a.img,,xvdb", "xvdb"),
            ("phy:/dev/vg/lv,xvdc,w", "xvdc"),
            ("phy:/dev/vg/lv,xvdc:disk,w", "xvdc"),
            (
                "format=raw, vdev=xvdb1, access=ro, target=/srv/a,vdev=xvda",
                "xvdb1",
            ),
            ("vdev=51712,backend=storage,target=/dev/sdb", "xvda"),
            ("/root/a.img,raw,51728,rw", "xvdb"),
            (
                "backendtype=qdisk,vdev=xvdd,format=qcow2,target=/srv/d.qcow2",
                "xvdd",
            ),
        ] {
            assert_eq!(name_of(disk).as_deref(), Some(name), "{disk}");
        }
        for disk in [
            "",
            "xvda",
            "/dev/xvda",
            "format=raw,target=/dev/vg/x,xvda",
            "vdev=vda,target=/x",
        ] {
            assert_eq!(name_of(disk), None, "{disk}");
        }
    }
}
