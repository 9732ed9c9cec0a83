//! xl's own way to declare the devices: the list `virtio=` of a guest's configuration.
//!
//! Entry N of the list is device N for libxl, and is slot N here. Entries that are missing are added, as far as they come one
//! after the other; for the rest there is [`crate::nodes`].

use vd_config::xenbus::{self, DeviceKind};
use vd_config::{Devices, Memory, SlotIndex};

use crate::driver::quote;
use crate::failure::Trouble;
use crate::xlcfg::{Config, Setting};

const KEY: &str = "virtio";
/// libxl finds the number of the next device at the end of a list that may be sorted as text, where 10 is not behind 9.
const MOST: usize = 10;

/// What xl has to be given for the devices, if that is another list than in the configuration.
pub(crate) fn setting(
    config: &Config,
    devices: &Devices,
    driver: &str,
) -> Result<Option<String>, Trouble> {
    let own = config.get(KEY);
    let texts = own.map(Setting::texts).transpose()?.unwrap_or_default();
    for (number, (line, text)) in texts.iter().enumerate() {
        check(number, text, devices, driver).map_err(|what| {
            let source = own.map_or("", |setting| setting.place.source.as_str());
            Trouble::new(
                format!("{source}:{line}: {KEY}: entry {number} {what}"),
                "entry N of virtio is slot N: correct it, or leave such entries to vdom, which adds them",
            )
        })?;
    }
    let mut entries: Vec<String> = texts.iter().map(|(_, text)| quote(text)).collect();
    while entries.len() < MOST {
        let slot = slot(entries.len());
        let Some(device) = slot.and_then(|slot| devices.get(slot)) else {
            break;
        };
        let grants = u8::from(device.memory() == Memory::Grants);
        entries.push(quote(&format!(
            "backend={driver},type={},transport={},grant_usage={grants}",
            DeviceKind(device.kind()),
            xenbus::TRANSPORT_VALUE
        )));
    }
    let added = entries.len() > texts.len();
    Ok(added.then(|| format!("{KEY}=[{}]", entries.join(","))))
}

fn slot(number: usize) -> Option<SlotIndex> {
    SlotIndex::new(u8::try_from(number).ok()?)
}

/// What is wrong with an entry of the configuration's own list.
fn check(number: usize, text: &str, devices: &Devices, driver: &str) -> Result<(), String> {
    let item = |key: &str| {
        let mut items = text.split(',').map(str::trim);
        items.find_map(|item| item.strip_prefix(key)?.strip_prefix('='))
    };
    let device = slot(number).and_then(|slot| devices.get(slot));
    match (item("backend") == Some(driver), device) {
        (false, None) => Ok(()),
        (false, Some(_)) => Err(format!(
            "is not {driver}'s, but vdom_devices has a device in slot {number}"
        )),
        (true, None) => Err(format!(
            "is {driver}'s, but vdom_devices has no device in slot {number}"
        )),
        (true, Some(device)) => {
            let expected = DeviceKind(device.kind()).to_string();
            let compact: String = text.chars().filter(|c| *c != ' ').collect();
            let mut kinds = compact.split("type=").skip(1);
            let kind = kinds.next().unwrap_or("");
            let kind: Vec<&str> = kind.splitn(3, ',').take(2).collect();
            match kind.join(",") {
                kind if kind == expected || kind == xenbus::GENERIC => Ok(()),
                kind => Err(format!(
                    "is of type={kind}, but the device in slot {number} is {expected}"
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, devices: &[&str]) -> Result<Option<String>, Trouble> {
        let mut config = Config::default();
        config.add("web.cfg", text).unwrap();
        let devices = Devices::parse(devices.iter().map(|text| text.as_bytes())).unwrap();
        setting(&config, &devices, "web-vd")
    }

    const DISK: &str = "type=blk,backend=ram:1M";
    const NET: &str = "type=net,backend=switch,mac=00:16:3e:00:00:01";

    #[test]
    fn every_device_gets_an_entry() {
        let made = list("", &[DISK, NET]).unwrap().unwrap();
        assert_eq!(
            made,
            "virtio=[\"backend=web-vd,type=virtio,device2,transport=mmio,grant_usage=0\",\
             \"backend=web-vd,type=virtio,device1,transport=mmio,grant_usage=0\"]"
        );
        let granted = "type=rng,backend=cpu,memory=grants";
        let made = list("", &[granted]).unwrap().unwrap();
        assert!(made.contains("virtio,device4,transport=mmio,grant_usage=1"));
    }

    #[test]
    fn entries_stand_for_slots_in_order() {
        let at_5 = "slot=5,type=blk,backend=ram:1M";
        let made = list("", &[DISK, at_5]).unwrap().unwrap();
        assert_eq!(made.matches("backend=").count(), 1);
        assert_eq!(list("", &[at_5]).unwrap(), None);
        let made = list("", &[DISK; 16]).unwrap().unwrap();
        assert_eq!(made.matches("backend=").count(), 10);
    }

    #[test]
    fn what_the_configuration_says_itself_is_kept() {
        let own = "virtio = [ \"backend=web-vd, type=virtio,device2, transport=mmio\" ]";
        assert_eq!(list(own, &[DISK]).unwrap(), None);
        let made = list(own, &[DISK, NET]).unwrap().unwrap();
        assert!(made.starts_with(
            "virtio=[\"backend=web-vd, type=virtio,device2, transport=mmio\",\"backend=web-vd,"
        ));
        let generic = "virtio = [ \"type=virtio,device,backend=web-vd,transport=mmio\" ]";
        assert_eq!(list(generic, &[DISK]).unwrap(), None);
        let other = "virtio = [ \"backend=other,type=virtio,device22,transport=mmio\" ]";
        let at_1 = "slot=1,type=blk,backend=ram:1M";
        let made = list(other, &[at_1]).unwrap().unwrap();
        assert!(made.contains("backend=other") && made.contains("backend=web-vd"));
    }

    #[test]
    fn what_contradicts_the_devices_is_named() {
        for (own, devices, what) in [
            (
                "backend=other,type=virtio,device2",
                DISK,
                "entry 0 is not web-vd's",
            ),
            (
                "type=virtio,device2,transport=mmio",
                DISK,
                "entry 0 is not web-vd's",
            ),
            (
                "backend=web-vd,type=virtio,device1",
                DISK,
                "is of type=virtio,device1",
            ),
            ("backend=web-vd,transport=mmio", DISK, "is of type=,"),
            (
                "backend=web-vd,type=virtio,device2",
                "slot=3,type=blk,backend=ram:1M",
                "no device in slot 0",
            ),
        ] {
            let text = format!("virtio = [ \"{own}\" ]");
            let trouble = list(&text, &[devices]).unwrap_err();
            assert!(trouble.what.contains(what), "{}", trouble.what);
            assert!(
                trouble.what.starts_with("web.cfg:1: virtio: entry 0"),
                "{}",
                trouble.what
            );
        }
        assert!(list("virtio = 3", &[DISK]).is_err());
    }
}
