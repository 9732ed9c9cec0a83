//! The front end's side of the xenbus devices: which there are, and what their back ends are told.
//!
//! It does what the patch "virtio-mmio: add xenbus probing" for Linux does, and besides says where message-signalled
//! interrupts go and which event channels are doorbells, if the back end asks for that.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vd_config::xenbus::{self, BusState};
use vd_config::{Doorbell, Interrupt, Memory, SlotIndex};
use vd_xenbus::store::Xenstore;
use vd_xenbus::transport::Transport;
use vd_xenbus::{Error, Failure, XsError};

/// Most bytes of a path that is believed.
const PATH: usize = 256;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number, which is its slot.
    pub slot: SlotIndex,
    /// The back end's domain.
    pub driver: u16,
    /// The back end's directory.
    pub backend: String,
    /// Guest-physical address of its registers.
    pub base: u64,
    /// Bytes of its registers.
    pub size: u64,
    /// How it interrupts.
    pub interrupt: Interrupt,
    /// How it is kicked.
    pub doorbell: Doorbell,
    /// The I/O port that is its doorbell.
    pub port: Option<u16>,
    /// How memory has to be shared with it.
    pub memory: Memory,
}

/// Where a device's interrupts are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this port of ours, which its domain may bind.
    Port(u32),
    /// To this address of a local APIC, with this data.
    Message(u64, u32),
}

fn ours(slot: SlotIndex, key: &str) -> String {
    format!("device/{}/{slot}/{key}", xenbus::CLASS)
}

/// The devices whose back ends are waiting.
///
/// # Errors
/// xenstore's, or a node that makes no sense.
pub fn find<T: Transport>(store: &mut Xenstore<T>) -> Result<Vec<Device>, Error> {
    let names = match store.directory(&format!("device/{}", xenbus::CLASS)) {
        Ok(names) => names,
        Err(error) if error.refusal() == Some(XsError::ENOENT) => Vec::new(),
        Err(error) => return Err(error),
    };
    let slots = names
        .iter()
        .filter_map(|name| SlotIndex::parse(name.as_bytes()).ok());
    let mut devices = slots
        .map(|slot| read(store, slot))
        .collect::<Result<Vec<_>, _>>()?;
    devices.sort_by_key(|device| device.slot);
    Ok(devices)
}

fn read<T: Transport>(store: &mut Xenstore<T>, slot: SlotIndex) -> Result<Device, Error> {
    let backend = store.read_string(&ours(slot, xenbus::BACKEND), PATH)?;
    let driver = store.read_number(&ours(slot, xenbus::BACKEND_ID))?;
    let theirs = |key| format!("{backend}/{key}");
    let base = store.read_string(&theirs(xenbus::BASE), PATH)?;
    let base = base
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Error::from(Failure::Protocol(vd_xenbus::Violation::Payload)))?;
    let size = store.read_number(&theirs(xenbus::SIZE))?;
    // A back end that follows the patch alone says nothing of the rest.
    let name = |store: &mut Xenstore<T>, key| store.read(&theirs(key)).unwrap_or_default();
    let interrupt = Interrupt::parse(&name(store, xenbus::INTERRUPT));
    let doorbell = Doorbell::parse(&name(store, xenbus::DOORBELL));
    let memory = Memory::parse(&name(store, xenbus::MEMORY)).unwrap_or_default();
    let port = store.read_number(&theirs(xenbus::DOORBELL_PORT)).ok();
    Ok(Device {
        slot,
        driver,
        base,
        size,
        interrupt: interrupt.unwrap_or(Interrupt::EventChannel),
        doorbell: doorbell.unwrap_or_default(),
        port,
        memory,
        backend,
    })
}

/// Tells the back end where interrupts go and which ports are the queues' doorbells, and that this is all.
///
/// # Errors
/// xenstore's.
pub fn publish<T: Transport>(
    store: &mut Xenstore<T>,
    slot: SlotIndex,
    interrupt: Target,
    doorbells: &[u32],
) -> Result<(), Error> {
    let mut write = |key: &str, value: u64| {
        let value = value.to_string();
        store.write(&ours(slot, key), value.as_bytes())
    };
    match interrupt {
        Target::Port(port) => write(xenbus::EVENT_CHANNEL, port.into())?,
        Target::Message(address, data) => {
            write(xenbus::MSI_ADDRESS, address)?;
            write(xenbus::MSI_DATA, data.into())?;
        }
    }
    for (queue, &port) in doorbells.iter().enumerate() {
        let key = format!("{}{queue}", xenbus::DOORBELL_EVENT_CHANNEL);
        write(&key, port.into())?;
    }
    set_state(store, slot, BusState::Initialised)
}

/// Says how far this end is.
///
/// # Errors
/// xenstore's.
pub fn set_state<T: Transport>(
    store: &mut Xenstore<T>,
    slot: SlotIndex,
    state: BusState,
) -> Result<(), Error> {
    store.write(&ours(slot, xenbus::STATE), state.as_str().as_bytes())
}

/// How far the back end is.
///
/// # Errors
/// xenstore's.
pub fn backend_state<T: Transport>(
    store: &mut Xenstore<T>,
    device: &Device,
) -> Result<BusState, Error> {
    let value = store.read(&format!("{}/{}", device.backend, xenbus::STATE))?;
    Ok(BusState::parse(&value))
}

#[cfg(test)]
mod tests {
    use alloc::rc::Rc;
    use core::cell::RefCell;
    use std::prelude::v1::*;

    use vd_xenbus::RingTransport;
    use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};

    use super::*;

    type Store = Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>;

    const BACKEND: &str = "/local/domain/5/backend/virtio/7/3";

    fn bench(extra: &[(&str, &str)]) -> (Rc<RefCell<FakeXenstored>>, Store) {
        let page = Rc::new(FakePage::new());
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 7)));
        let set = |path: &str, value: &str| daemon.borrow_mut().set(path, value.as_bytes());
        let frontend = "/local/domain/7/device/virtio/3";
        set(&format!("{frontend}/backend"), BACKEND);
        set(&format!("{frontend}/backend-id"), "5");
        set(&format!("{frontend}/state"), "1");
        set(&format!("{BACKEND}/base"), "0xfea03000");
        set(&format!("{BACKEND}/size"), "512");
        set(&format!("{BACKEND}/state"), "2");
        for (key, value) in extra {
            set(&format!("{BACKEND}/{key}"), value);
        }
        let signal = FakeSignal::new(daemon.clone());
        let store = Xenstore::new(RingTransport::attach(page, signal));
        (daemon, store)
    }

    #[test]
    fn a_back_end_that_follows_the_patch_alone() {
        let (_, mut store) = bench(&[]);
        let devices = find(&mut store).unwrap();
        let expected = Device {
            slot: SlotIndex::new(3).unwrap(),
            driver: 5,
            backend: BACKEND.into(),
            base: 0xfea0_3000,
            size: 512,
            interrupt: Interrupt::EventChannel,
            doorbell: Doorbell::Mmio,
            port: None,
            memory: Memory::Foreign,
        };
        assert_eq!(devices, [expected]);
        assert_eq!(
            backend_state(&mut store, &devices[0]),
            Ok(BusState::InitWait)
        );
    }

    #[test]
    fn a_back_end_with_more_to_choose_from() {
        let (_, mut store) = bench(&[
            ("interrupt", "msi"),
            ("doorbell", "port"),
            ("doorbell-port", "57368"),
            ("memory", "grants"),
        ]);
        let device = find(&mut store).unwrap().remove(0);
        assert_eq!(device.interrupt, Interrupt::Msi);
        assert_eq!(device.memory, Memory::Grants);
        assert_eq!(
            (device.doorbell, device.port),
            (Doorbell::Port, Some(57368))
        );
    }

    #[test]
    fn what_is_published() {
        let (daemon, mut store) = bench(&[]);
        let slot = SlotIndex::new(3).unwrap();
        publish(&mut store, slot, Target::Port(9), &[11, 12]).unwrap();
        let get = |key: &str| {
            let value = daemon
                .borrow()
                .get(&format!("/local/domain/7/device/virtio/3/{key}"));
            value.map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(get("event-channel").as_deref(), Some("9"));
        assert_eq!(get("doorbell-event-channel-0").as_deref(), Some("11"));
        assert_eq!(get("doorbell-event-channel-1").as_deref(), Some("12"));
        assert_eq!(get("state").as_deref(), Some("3"));
        publish(&mut store, slot, Target::Message(0xfee0_0000, 65), &[]).unwrap();
        assert_eq!(get("msi-address").as_deref(), Some("4276092928"));
        assert_eq!(get("msi-data").as_deref(), Some("65"));
    }

    #[test]
    fn no_devices_and_broken_ones() {
        let page = Rc::new(FakePage::new());
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 7)));
        let signal = FakeSignal::new(daemon);
        let mut store = Xenstore::new(RingTransport::attach(page, signal));
        assert_eq!(find(&mut store), Ok(Vec::new()));
        for (key, value) in [("base", "fea00000"), ("base", "0x"), ("size", "big")] {
            let (_, mut store) = bench(&[(key, value)]);
            assert!(find(&mut store).is_err(), "{key}={value}");
        }
    }
}
