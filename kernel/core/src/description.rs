//! What `vdom` has written about the guest: read in one transaction, checked before anything is done with it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vd_config::target::check_version;
use vd_config::{DeviceDescription, Devices, SlotIndex, Table, Target, TargetType, keys};
use vd_xenbus::store::{View, Xenstore};
use vd_xenbus::transport::Transport;
use vd_xenbus::{Error, XsError};

/// The guest and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The guest.
    pub target: Target,
    /// What kind of guest it is.
    pub target_type: TargetType,
    /// Which device is in which slot.
    pub devices: Devices,
    /// How the slots are declared to it.
    pub table: Table,
}

/// The keys of a device that are there, with their values.
type Pairs = Vec<(&'static str, Vec<u8>)>;

/// The raw values: nothing is checked while the transaction is open, as it may be tried again.
struct Raw {
    version: Vec<u8>,
    target: Vec<u8>,
    target_type: Vec<u8>,
    table: Option<Vec<u8>>,
    devices: Vec<(String, Pairs)>,
}

/// Whether the description is complete.
///
/// # Errors
/// The store failed.
pub fn is_committed<T: Transport>(store: &mut Xenstore<T>) -> Result<bool, Error> {
    let value = optional(store.read(keys::COMMIT))?;
    Ok(value.is_some_and(|value| value == keys::COMMIT_VALUE.as_bytes()))
}

/// Reads the description.
///
/// # Errors
/// What is wrong and what to do, for the operator.
pub fn read<T: Transport>(store: &mut Xenstore<T>) -> Result<Description, String> {
    let raw = store
        .transaction(read_raw)
        .map_err(|error| format!("reading the description from xenstore: {error}"))?;
    check(&raw)
}

fn read_raw<T: Transport>(view: &mut View<'_, T>) -> Result<Raw, Error> {
    let mut devices = Vec::new();
    let slots = optional(view.directory(keys::DEVICE))?.unwrap_or_default();
    // More entries than slots are wrong in any case; the first one too many says so.
    for slot in slots.into_iter().take(vd_config::SLOTS.saturating_add(1)) {
        let pairs = read_pairs(view, &slot)?;
        devices.push((slot, pairs));
    }
    Ok(Raw {
        version: view.read(keys::VERSION)?,
        target: view.read(keys::TARGET)?,
        target_type: view.read(keys::TARGET_TYPE)?,
        table: optional(view.read(keys::TABLE))?,
        devices,
    })
}

fn read_pairs<T: Transport>(view: &mut View<'_, T>, slot: &str) -> Result<Pairs, Error> {
    let directory = format!("{}/{slot}", keys::DEVICE);
    // Most devices have few of the keys, and each look for one is a request to another domain.
    let there = optional(view.directory(&directory))?.unwrap_or_default();
    let mut pairs = Vec::new();
    for key in keys::device::ALL {
        if there.iter().any(|name| name == key)
            && let Some(value) = optional(view.read(&format!("{directory}/{key}")))?
        {
            pairs.push((key, value));
        }
    }
    Ok(pairs)
}

/// Reads what is to come into one slot.
///
/// # Errors
/// What is wrong and what to do, for the operator.
pub fn read_slot<T: Transport>(
    store: &mut Xenstore<T>,
    slot: SlotIndex,
) -> Result<DeviceDescription, String> {
    let pairs = store
        .transaction(|view| read_pairs(view, &format!("{slot}")))
        .map_err(|error| format!("reading the description from xenstore: {error}"))?;
    if pairs.is_empty() {
        return Err(format!(
            "device {slot}: {}/{slot} does not say what it is: vdom device-attach writes that",
            keys::DEVICE
        ));
    }
    parse_slot(slot, &pairs)
}

fn parse_slot(slot: SlotIndex, pairs: &Pairs) -> Result<DeviceDescription, String> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| (key.as_bytes(), value.as_slice()));
    DeviceDescription::from_pairs(pairs).map_err(|error| format!("device {slot}: {error}"))
}

fn optional<R>(result: Result<R, Error>) -> Result<Option<R>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.refusal() == Some(XsError::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check(raw: &Raw) -> Result<Description, String> {
    check_version(&raw.version).map_err(|error| error.to_string())?;
    let target = Target::parse(&raw.target).map_err(|error| error.to_string())?;
    let target_type = TargetType::parse(&raw.target_type).map_err(|error| error.to_string())?;
    let mut devices = Devices::new();
    for (name, pairs) in &raw.devices {
        let blame = |error| format!("device {name}: {error}");
        let slot = SlotIndex::parse(name.as_bytes()).map_err(blame)?;
        let device = parse_slot(slot, pairs)?;
        devices.insert(Some(slot), device).map_err(blame)?;
    }
    if devices.is_empty() {
        return Err(
            "the description has no devices: add vdom_devices to the guest's configuration".into(),
        );
    }
    devices
        .check_guest(target_type)
        .map_err(|(slot, error)| format!("device {slot}: {error}"))?;
    let table = match &raw.table {
        None => Table::of(&devices),
        Some(text) => Table::parse(text).ok_or_else(|| {
            format!(
                "{}: a letter l, e or s for each slot is expected: use vdom and driver domain image of one release",
                keys::TABLE
            )
        })?,
    };
    Ok(Description {
        target,
        target_type,
        devices,
        table,
    })
}

#[cfg(test)]
mod tests {
    use alloc::rc::Rc;
    use core::cell::RefCell;
    use std::prelude::v1::*;

    use vd_config::{Backend, ByteSize, Declared};
    use vd_xenbus::RingTransport;
    use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};

    use super::*;

    const GOOD: [(&str, &str); 9] = [
        ("version", "1"),
        ("target", "7"),
        ("target-type", "hvm"),
        ("device/0/type", "blk"),
        ("device/0/backend", "module"),
        ("device/15/type", "blk"),
        ("device/15/backend", "ram:1M"),
        ("device/15/serial", "LAST"),
        ("commit", "1"),
    ];

    const HOME: &str = "/local/domain/5/virtio-domain";

    type Daemon = Rc<RefCell<FakeXenstored>>;
    type Store = Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>;

    fn store_with(changes: &[(&str, Option<&[u8]>)]) -> (Daemon, Store) {
        let page = Rc::new(FakePage::new());
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
        for (key, value) in GOOD {
            if !changes
                .iter()
                .any(|(changed, value)| *changed == key && value.is_none())
            {
                daemon
                    .borrow_mut()
                    .set(&format!("{HOME}/{key}"), value.as_bytes());
            }
        }
        for (key, value) in changes {
            if let Some(value) = value {
                daemon.borrow_mut().set(&format!("{HOME}/{key}"), value);
            }
        }
        let signal = FakeSignal::new(daemon.clone());
        (daemon, Xenstore::new(RingTransport::attach(page, signal)))
    }

    /// Reads a description with some nodes changed; `None` takes a node away.
    fn read_with(changes: &[(&str, Option<&[u8]>)]) -> Result<Description, String> {
        let (_, mut store) = store_with(changes);
        assert_eq!(is_committed(&mut store), Ok(true));
        read(&mut store)
    }

    #[test]
    fn a_description_that_is_not_complete() {
        for value in [None, Some(&b""[..]), Some(b"0"), Some(b"2")] {
            let (_, mut store) = store_with(&[("commit", value)]);
            assert_eq!(is_committed(&mut store), Ok(false), "{value:?}");
        }
    }

    /// What may not be read is not taken for something that was left out, such as `readonly`.
    #[test]
    fn row37_nodes_that_may_not_be_read() {
        for key in ["commit", "device", "device/0/readonly"] {
            let (daemon, mut store) = store_with(&[("device/0/readonly", Some(b"1"))]);
            daemon.borrow_mut().forbidden.push(format!("{HOME}/{key}"));
            let refused = if key == "commit" {
                is_committed(&mut store).unwrap_err().to_string()
            } else {
                read(&mut store).unwrap_err()
            };
            assert!(refused.contains("EACCES"), "{refused}");
        }
    }

    #[test]
    fn a_good_description() {
        let description = read_with(&[]).unwrap();
        assert_eq!(description.target.get(), 7);
        let devices: Vec<_> = description
            .devices
            .iter()
            .map(|(slot, device)| (slot.get(), device.backend(), device.serial()))
            .collect();
        assert_eq!(
            devices,
            [
                (0, Backend::Module, None),
                (15, Backend::Ram(ByteSize(1 << 20)), Some("LAST"))
            ]
        );
    }

    /// Attack case 37: every node missing, empty, huge, not text, out of range.
    #[test]
    fn row37_bad_values_are_named() {
        let huge = [b'9'; 2000];
        for key in [
            "version",
            "target",
            "target-type",
            "device/0/type",
            "device/0/backend",
        ] {
            let values: [Option<&[u8]>; 6] = [
                None,
                Some(b""),
                Some(&huge),
                Some(b"\xff\xfe"),
                Some(b"-1"),
                Some(b"99999999999999999999"),
            ];
            for value in values {
                let error = read_with(&[(key, value)]).unwrap_err();
                assert!(error.len() < 300, "{error}");
                assert!(error.chars().all(|c| !c.is_control()), "{error:?}");
            }
        }
    }

    #[test]
    fn row37_bad_slots_and_keys() {
        for name in ["16", "-1", "01", "x"] {
            let error = read_with(&[(&format!("device/{name}/type"), Some(b"blk"))]).unwrap_err();
            assert!(error.starts_with(&format!("device {name}: ")), "{error}");
        }
        let two = read_with(&[
            ("device/3/type", Some(b"blk")),
            ("device/3/backend", Some(b"module")),
        ]);
        assert!(two.unwrap_err().contains("module"));
        let pv = read_with(&[("target-type", Some(b"pv"))]).unwrap_err();
        assert!(pv.contains("pv"), "{pv}");
    }

    #[test]
    fn row37_notifications_that_the_guest_cannot_take() {
        let msi: (&str, Option<&[u8]>) = ("device/15/interrupt", Some(b"msi"));
        let error = read_with(&[msi]).unwrap_err();
        assert!(error.starts_with("device 15: interrupt=msi"), "{error}");
        let pvh = read_with(&[msi, ("target-type", Some(b"pvh"))]).unwrap();
        assert_eq!(pvh.target_type, TargetType::Pvh);
        let port: (&str, Option<&[u8]>) = ("device/0/doorbell", Some(b"port"));
        let error = read_with(&[port]).unwrap_err();
        assert!(error.starts_with("device 0: doorbell=port"), "{error}");
    }

    #[test]
    fn row37_one_slot_that_comes_late() {
        let (daemon, mut store) = store_with(&[]);
        let slot = |number| SlotIndex::new(number).unwrap();
        let last = read_slot(&mut store, slot(15)).unwrap();
        assert_eq!(
            (last.backend(), last.serial()),
            (Backend::Ram(ByteSize(1 << 20)), Some("LAST"))
        );
        assert!(
            read_slot(&mut store, slot(3))
                .unwrap_err()
                .contains("does not say what it is")
        );
        for value in [&b""[..], &[b'9'; 2000], b"\xff\xfe", b"-1"] {
            daemon
                .borrow_mut()
                .set(&format!("{HOME}/device/15/backend"), value);
            let error = read_slot(&mut store, slot(15)).unwrap_err();
            assert!(
                error.starts_with("device 15: ") && error.len() < 300,
                "{error}"
            );
        }
        daemon
            .borrow_mut()
            .forbidden
            .push(format!("{HOME}/device/15/type"));
        assert!(
            read_slot(&mut store, slot(15))
                .unwrap_err()
                .contains("EACCES")
        );
    }

    #[test]
    fn row37_how_slots_are_declared() {
        let (daemon, mut store) = store_with(&[]);
        let of_devices = read(&mut store).unwrap();
        assert_eq!(of_devices.table, Table::of(&of_devices.devices));
        let set = |value: &[u8]| daemon.borrow_mut().set(&format!("{HOME}/table"), value);
        set(b"lllsllllllllllel");
        let table = read(&mut store).unwrap().table;
        assert_eq!(
            [3, 14, 15].map(|number| table.get(SlotIndex::new(number).unwrap())),
            [Declared::Posted, Declared::Edge, Declared::Level]
        );
        for value in [&b""[..], b"l", b"lllsllllllllllex", &[b'l'; 2000], b"\xff"] {
            set(value);
            let error = read(&mut store).unwrap_err();
            assert!(
                error.contains("virtio-domain/table") && error.len() < 300,
                "{error}"
            );
        }
    }

    #[test]
    fn no_devices() {
        let gone: Vec<_> = GOOD
            .iter()
            .filter(|(key, _)| key.starts_with("device"))
            .map(|(key, _)| (*key, None))
            .collect();
        assert!(read_with(&gone).unwrap_err().contains("no devices"));
    }
}
