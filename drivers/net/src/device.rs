//! The virtio device that is one port of a switch.

use alloc::rc::Rc;
use core::cell::RefCell;

use vd_virtio::fault::FaultKind;
use vd_virtio::state::{BadState, Reader, Writer};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress};

use crate::control;
use crate::counters::Counters;
use crate::features::NetFeatures;
use crate::port::{Port, PortConfig};
use crate::switch::{AddError, Switch};
use crate::wire::Mac;

/// Bytes of configuration space: address, status, pairs, MTU.
const CONFIG: usize = 12;
const LINK_UP: u16 = 1;

/// What a queue is for.
enum Role {
    Receive(usize),
    Transmit(usize),
    Control,
    /// Of no use with the features that were negotiated.
    None,
}

/// A virtio network device. The switch is borrowed only while one of its methods runs.
#[derive(Clone, Debug)]
pub struct NetDevice {
    switch: Rc<RefCell<Switch>>,
    port: usize,
    config: PortConfig,
    /// What the driver has commanded, where it can be looked at at any time: its address, and the pairs of queues.
    commanded: (Mac, u16),
}

impl NetDevice {
    /// A new port of a switch.
    ///
    /// # Errors
    /// [`AddError`]
    pub fn new(switch: &Rc<RefCell<Switch>>, config: PortConfig) -> Result<Self, AddError> {
        let port = switch.borrow_mut().add(config)?;
        Ok(Self {
            switch: Rc::clone(switch),
            port,
            config,
            commanded: (config.mac, 1),
        })
    }

    /// The number of its port.
    pub fn port(&self) -> usize {
        self.port
    }

    /// What it is.
    pub fn config(&self) -> PortConfig {
        self.config
    }

    /// The address that it has now.
    pub fn mac(&self) -> Mac {
        self.with(|port| port.mac).unwrap_or(self.config.mac)
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.with(|port| port.counters).unwrap_or_default()
    }

    /// The queues for which the work of other ports has left something to do, as bits: each of them is for
    /// [`vd_virtio::MmioTransport::wake`].
    pub fn take_wakes(&self) -> u32 {
        self.with_mut(|port| core::mem::take(&mut port.wakes))
            .unwrap_or(0)
    }

    /// Connects or cuts the link. To be called through [`vd_virtio::MmioTransport::reconfigure`].
    pub fn set_link(&mut self, up: bool) {
        let mut switch = self.switch.borrow_mut();
        if let Some(port) = switch.port_mut(self.port) {
            port.link = up;
        }
        if !up {
            switch.drop_waiting(self.port, 0);
        }
    }

    /// Leaves the switch, for good: its port and its address may be another device's from now on. Whoever calls this does not
    /// use the device any more.
    pub fn leave(&mut self) {
        self.switch.borrow_mut().vacate(self.port);
    }

    fn with<R>(&self, f: impl FnOnce(&Port) -> R) -> Option<R> {
        self.switch.borrow().port(self.port).map(f)
    }

    fn with_mut<R>(&self, f: impl FnOnce(&mut Port) -> R) -> Option<R> {
        self.switch.borrow_mut().port_mut(self.port).map(f)
    }

    fn role(&self, switch: &Switch, queue: u16) -> Role {
        let Some(port) = switch.port(self.port) else {
            return Role::None;
        };
        if port.control_queue() == Some(queue) {
            return Role::Control;
        }
        let pair = usize::from(queue >> 1);
        match queue & 1 {
            _ if pair >= usize::from(port.usable_pairs()) => Role::None,
            0 => Role::Receive(pair),
            _ => Role::Transmit(pair),
        }
    }
}

impl Device for NetDevice {
    fn id(&self) -> DeviceId {
        DeviceId::NETWORK
    }

    fn features(&self) -> Features {
        Features::from_bits_retain(NetFeatures::offered(self.config.pairs).bits())
    }

    fn queues(&self) -> u16 {
        self.config.pairs.saturating_mul(2).saturating_add(1)
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        let link = self.with(|port| port.link).unwrap_or(false);
        let [m0, m1, m2, m3, m4, m5] = self.mac().0;
        let [s0, s1] = if link { LINK_UP } else { 0 }.to_le_bytes();
        let [p0, p1] = self.config.pairs.to_le_bytes();
        let [t0, t1] = self.config.mtu.to_le_bytes();
        let space: [u8; CONFIG] = [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, t0, t1];
        for (at, byte) in (offset..).zip(into) {
            *byte = space.get(at).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, features: Features) {
        self.with_mut(|port| {
            port.features = NetFeatures::effective(features);
            port.running = true;
        });
    }

    fn reset(&mut self) {
        self.commanded = (self.config.mac, 1);
        self.switch.borrow_mut().reset(self.port);
    }

    fn reset_queue(&mut self, queue: u16) {
        let mut switch = self.switch.borrow_mut();
        match self.role(&switch, queue) {
            Role::Receive(pair) => switch.reset_receive(self.port, pair),
            Role::Transmit(_) => switch.forget_sent(self.port, Some(queue)),
            Role::Control | Role::None => {}
        }
    }

    /// Sent frames may wait for different receivers; buffers for what is received are used as they come.
    fn keeps_order(&self, queue: u16) -> bool {
        // That of commands has an even number too.
        queue.is_multiple_of(2)
    }

    /// Frames that wait are dropped, as they would be within a second.
    fn quiesce(&mut self) {
        self.switch.borrow_mut().drop_all_waiting();
    }

    fn save(&self, to: &mut Writer<'_>) {
        let (mac, pairs) = self.commanded;
        to.bytes(&mac.0);
        to.u16(pairs);
    }

    /// By the rules for the commands that the driver has set both with.
    fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        let bytes = from.bytes(6)?;
        let mac = Mac(bytes.try_into().map_err(|_| BadState::Short)?);
        let pairs = from.u16()?;
        let mut switch = self.switch.borrow_mut();
        let is_set =
            mac == self.config.mac || control::set_mac(&mut switch, self.port, mac).is_some();
        let is_used = pairs == 1 || control::set_pairs(&mut switch, self.port, pairs).is_some();
        self.commanded = (mac, pairs);
        if is_set && is_used {
            Ok(())
        } else {
            Err(BadState::Content)
        }
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        let mut switch = self.switch.borrow_mut();
        if let Some(fault) = switch.port_mut(self.port).and_then(Port::take_fault) {
            return Err(fault);
        }
        match self.role(&switch, pass.number()) {
            Role::Receive(pair) => switch.receive(self.port, pair, pass, chain),
            Role::Transmit(pair) => switch.transmit(self.port, pair, pass, chain),
            Role::Control => pass.serve_each(chain, |mem, chain| {
                let written = control::serve(&mut switch, self.port, mem, chain);
                if let Some(port) = switch.port(self.port) {
                    self.commanded = (port.mac, port.pairs);
                }
                written
            }),
            // What is in it stays there.
            Role::None => Ok(Progress::Waiting),
        }
    }
}
