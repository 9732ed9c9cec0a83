//! Connecting to the devices' back ends, once, before anything else.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use spin::Once;
use vd_config::slot::{RANGE_BASE, RANGE_LAST};
use vd_config::xenbus::BusState;
use vd_config::{Doorbell, Interrupt, Memory, SlotIndex};
use vd_paired::frontend::{self, Device, Target};
use vd_rt::mem::space;
use vd_rt::xen::events::{self, Source};
use vd_rt::xen::store::Store;
use vd_rt::xen::{XEN, time};
use xen_hypercall::{DomId, Errno, EvtchnPort, event_channel};

use crate::ring::Bell;
use crate::{grants, interrupts};

/// Nanoseconds that a back end may take.
const PATIENCE: u64 = 20_000_000_000;

/// A device that is connected to its back end.
#[derive(Clone, Debug)]
pub struct Connected {
    /// What xenstore says of it.
    pub device: Device,
    /// How it is kicked.
    pub bell: Bell,
}

impl core::fmt::Display for Connected {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Device {
            slot,
            interrupt,
            doorbell,
            memory,
            ..
        } = &self.device;
        let (doorbell, interrupt) = (doorbell.as_str(), interrupt.as_str());
        write!(f, "slot={slot} doorbell={doorbell} interrupt={interrupt}")?;
        match memory {
            Memory::Foreign => Ok(()),
            Memory::Grants => f.write_str(" memory=grants"),
        }
    }
}

static DEVICES: Once<Vec<Connected>> = Once::new();

/// All devices.
pub fn devices() -> &'static [Connected] {
    DEVICES.get().map_or(&[], Vec::as_slice)
}

/// The device in a slot.
pub fn device(slot: SlotIndex) -> Option<&'static Connected> {
    devices().iter().find(|device| device.device.slot == slot)
}

/// Connects to all back ends, with which memory is shared in this way.
///
/// # Errors
/// What is wrong.
pub fn all(store: &mut Store, memory: Memory) -> Result<(), String> {
    let found = frontend::find(store).map_err(|error| error.to_string())?;
    if let Some(other) = found.iter().find(|device| device.memory != memory) {
        let (slot, memory) = (other.slot, other.memory.as_str());
        return Err(format!(
            "slot {slot} needs memory={memory} on the command line"
        ));
    }
    if let (Memory::Grants, Some(device)) = (memory, found.first()) {
        grants::start(DomId(device.driver))?;
    }
    space::map_registers(RANGE_BASE..RANGE_LAST + 1).map_err(|error| error.to_string())?;
    let mut connected = Vec::new();
    for device in found {
        let slot = device.slot;
        let one = connect(store, device);
        connected.push(one.map_err(|error| format!("slot {slot}: {error}"))?);
    }
    DEVICES.call_once(|| connected);
    Ok(())
}

fn connect(store: &mut Store, device: Device) -> Result<Connected, String> {
    if !(RANGE_BASE..=RANGE_LAST).contains(&device.base) {
        return Err(format!("registers at {:#x}", device.base));
    }
    let xen = |error: Errno| error.to_string();
    let driver = DomId(device.driver);
    interrupts::set_registers(device.slot, device.base);
    let target = match device.interrupt {
        Interrupt::Msi => Target::Message(interrupts::ADDRESS, interrupts::data(device.slot)),
        _ => {
            let port = event_channel::alloc_unbound(&XEN, DomId::SELF, driver).map_err(xen)?;
            events::listen(port, Source::Image(device.slot.get().into())).map_err(xen)?;
            Target::Port(port.0)
        }
    };
    let bell = bell(&device, driver).map_err(xen)?;
    let ports = match bell {
        Bell::Event(port) => Vec::from([port.0]),
        _ => Vec::new(),
    };
    let fail = |error: vd_xenbus::Error| error.to_string();
    frontend::publish(store, device.slot, target, &ports).map_err(fail)?;
    let deadline = time::now() + PATIENCE;
    loop {
        match frontend::backend_state(store, &device).map_err(fail)? {
            BusState::Connected => break,
            state @ (BusState::Closing | BusState::Closed) => {
                return Err(format!("the back end's state is {state:?}"));
            }
            _ if time::now() >= deadline => return Err("the back end does not connect".into()),
            _ => {
                time::wake_at(time::now() + 1_000_000);
                events::sleep_unless(events::any);
                events::take();
            }
        }
    }
    frontend::set_state(store, device.slot, BusState::Connected).map_err(fail)?;
    Ok(Connected { device, bell })
}

fn bell(device: &Device, driver: DomId) -> Result<Bell, Errno> {
    Ok(match (device.doorbell, device.port) {
        (Doorbell::Port, Some(port)) => Bell::Port(port),
        (Doorbell::EventChannel, _) => {
            let port = event_channel::alloc_unbound(&XEN, DomId::SELF, driver)?;
            Bell::Event(EvtchnPort(port.0))
        }
        _ => Bell::Register,
    })
}

/// Waits until the device has sent the interrupts for all that it has answered: this read of a register is answered by the
/// loop that does both, one after the other.
pub fn settle(device: &Connected) {
    // SAFETY: the first register of a device, mapped; reading it changes nothing.
    unsafe { (device.device.base as *const u32).read_volatile() };
}
