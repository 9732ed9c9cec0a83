//! The device: which queue is whose, control messages, and the host's side of its ports.

use vd_virtio::fault::FaultKind;
use vd_virtio::state::{BadState, Reader, Writer};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress};

use crate::control::{ConsoleFeatures, Message, Received, event};
use crate::counters::{Counters, add};
use crate::port::{Pending, Port};

/// Most ports of a device, the console included.
pub const MAX_PORTS: usize = 4;
/// Most bytes of a port's name.
pub(crate) const PORT_NAME_BYTES: usize = 32;
/// A port's name.
pub type PortName = heapless::String<PORT_NAME_BYTES>;

/// The queue for messages to the driver.
const TO_DRIVER: u16 = 2;
/// Bytes of configuration space.
const CONFIG: usize = 12;
/// Where the emergency register is in it.
const EMERGENCY: usize = 8;

/// The size of the console, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            columns: 80,
            rows: 25,
        }
    }
}

/// What a queue is for.
enum Role {
    Receive(usize),
    Transmit(usize),
    ToDriver,
    FromDriver,
    /// Of no use with the features that were negotiated.
    None,
}

/// A console device.
pub struct ConsoleDevice {
    ports: heapless::Vec<Port, MAX_PORTS>,
    size: Size,
    features: ConsoleFeatures,
    /// Between DRIVER_OK and a reset.
    active: bool,
    /// The driver is ready for ports.
    ready: bool,
    /// Queues that have something to do without a kick, as bits.
    wakes: u32,
    counters: Counters,
}

impl ConsoleDevice {
    /// A device with a console, port 0, and ports of these names behind it. No more than [`MAX_PORTS`] in all are made.
    pub fn new(names: impl IntoIterator<Item = PortName>) -> Self {
        let mut ports = heapless::Vec::new();
        let names = names.into_iter().map(Some);
        for name in core::iter::once(None).chain(names).take(MAX_PORTS) {
            let _ = ports.push(Port::new(name));
        }
        Self {
            ports,
            size: Size::default(),
            features: ConsoleFeatures::empty(),
            active: false,
            ready: false,
            wakes: 0,
            counters: Counters::default(),
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many ports it has.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// The name of a port, which the console has not.
    pub fn name(&self, port: usize) -> Option<&str> {
        self.ports.get(port)?.name.as_deref()
    }

    /// The port of that name.
    pub fn port_named(&self, name: &str) -> Option<usize> {
        (0..self.ports()).find(|port| self.name(*port) == Some(name))
    }

    /// Whether somebody in the guest has that port open. The console of a driver without MULTIPORT always is.
    pub fn is_guest_open(&self, port: usize) -> bool {
        self.ports.get(port).is_some_and(|port| port.guest_open)
    }

    /// The queues that have something to do, as bits: each of them is for [`vd_virtio::MmioTransport::wake`]. To be asked after
    /// passes, and after anything that a host does.
    pub fn take_wakes(&mut self) -> u32 {
        core::mem::take(&mut self.wakes)
    }

    /// A host attaches to a port. Returns whether there is such a port.
    pub fn attach(&mut self, port: usize) -> bool {
        let Some(port) = self.ports.get_mut(port) else {
            return false;
        };
        port.attach();
        add(&mut self.counters.attached, 1);
        self.wake(TO_DRIVER);
        true
    }

    /// The host goes. What it has written and the driver has not taken stays: the driver gets it, and then hears of this.
    pub fn detach(&mut self, port: usize) {
        if let Some(port) = self.ports.get_mut(port) {
            port.open = false;
            self.wake(TO_DRIVER);
        }
    }

    /// Takes what the guest has written, and says how many bytes.
    pub fn read(&mut self, port: usize, into: &mut [u8]) -> usize {
        let Some(it) = self.ports.get_mut(port) else {
            return 0;
        };
        let (read, wake) = it.read(into, &mut self.counters);
        if wake {
            self.wake(receive_queue(port).saturating_add(1));
        }
        read
    }

    /// Bytes that can be read now.
    pub fn unread(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, |port| port.output.len())
    }

    /// Bytes that were lost since this was asked last: they came before those that are read next.
    pub fn take_lost(&mut self, port: usize) -> u64 {
        self.ports.get_mut(port).map_or(0, Port::take_lost)
    }

    /// Gives the guest as many of these bytes as there is room for, and says how many.
    pub fn write(&mut self, port: usize, from: &[u8]) -> usize {
        let Some(it) = self.ports.get_mut(port) else {
            return 0;
        };
        let taken = it.input.push(from);
        add(&mut self.counters.in_bytes, taken);
        self.wake(receive_queue(port));
        taken
    }

    /// Bytes that can be written now.
    pub fn room(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, |port| port.input.free())
    }

    /// Bytes that can be written when the guest has read everything.
    pub fn capacity(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, |port| port.input.capacity())
    }

    /// Bytes for the guest that its driver has thrown away, so far, by starting over.
    pub fn dropped(&self, port: usize) -> u64 {
        self.ports.get(port).map_or(0, |port| port.dropped)
    }

    /// How often the guest has closed the port.
    pub fn closed(&self, port: usize) -> u64 {
        self.ports.get(port).map_or(0, |port| port.closes)
    }

    /// The same; `None` while there is something to read that it had written before.
    pub fn closes(&self, port: usize) -> Option<u64> {
        self.ports.get(port).and_then(Port::closes)
    }

    /// Changes the console's size. To be called through [`vd_virtio::MmioTransport::reconfigure`].
    pub fn set_size(&mut self, size: Size) {
        self.size = size;
        if let Some(console) = self.ports.first_mut().filter(|console| console.ready) {
            console.pending |= Pending::RESIZE;
            self.wake(TO_DRIVER);
        }
    }

    /// The console's size.
    pub fn size(&self) -> Size {
        self.size
    }

    fn wake(&mut self, queue: u16) {
        self.wakes |= 1_u32.checked_shl(queue.into()).unwrap_or(0);
    }

    fn is_multiport(&self) -> bool {
        self.features.contains(ConsoleFeatures::MULTIPORT)
    }

    fn role(&self, queue: u16) -> Role {
        let pair = usize::from(queue >> 1);
        let port = match pair {
            0 => 0,
            _ if !self.is_multiport() => return Role::None,
            1 if queue == TO_DRIVER => return Role::ToDriver,
            1 => return Role::FromDriver,
            _ => pair.saturating_sub(1),
        };
        match queue & 1 {
            _ if port >= self.ports() => Role::None,
            0 => Role::Receive(port),
            _ => Role::Transmit(port),
        }
    }

    /// The next message for the driver, and the port that it is about.
    fn next_message(&self) -> Option<(usize, Message)> {
        let messages = self.ports.iter().map(Port::message);
        messages
            .enumerate()
            .find_map(|(port, message)| Some((port, message?)))
    }

    /// Gives the driver its messages.
    fn send<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        while let Some((number, message)) = self.next_message() {
            let Some(head) = pass.take(chain)? else {
                return Ok(Progress::Drained);
            };
            let Some(port) = self.ports.get_mut(number) else {
                break;
            };
            // As the specification has it. Linux has read the number of rows first in some of its versions.
            let [r0, r1] = self.size.rows.to_le_bytes();
            let [c0, c1] = self.size.columns.to_le_bytes();
            let size = [c0, c1, r0, r1];
            let more = match message {
                Message::Name => port.name.as_deref().unwrap_or("").as_bytes(),
                Message::Resize => &size,
                Message::Add | Message::Console | Message::Open(_) => &[],
            };
            let bytes = message.bytes(u32::try_from(number).unwrap_or(u32::MAX), more);
            let written = match chain.writable().split_at(bytes.len() as u64) {
                Some((here, _)) => {
                    here.write(pass.mem(), &bytes)?;
                    add(&mut self.counters.control_sent, 1);
                    u32::try_from(bytes.len()).unwrap_or(0)
                }
                None => {
                    add(&mut self.counters.control_bad, 1);
                    0
                }
            };
            port.sent(message);
            pass.give_back(head, written)?;
        }
        Ok(Progress::Waiting)
    }

    /// Takes a message of the driver's. Returns whether it means something.
    fn take(&mut self, message: Received) -> bool {
        let Received { port, event, value } = message;
        let is_set = value != 0;
        if event == event::DEVICE_READY {
            self.ready = is_set;
            for port in &mut self.ports {
                port.set_ready(false);
                port.pending.set(Pending::ADD, is_set);
            }
            self.wake(TO_DRIVER);
            return true;
        }
        let number = usize::try_from(port).unwrap_or(usize::MAX);
        let (ready, Some(port)) = (self.ready, self.ports.get_mut(number)) else {
            return false;
        };
        match event {
            event::PORT_READY if ready => port.set_ready(is_set),
            event::PORT_OPEN if port.ready => {
                port.set_guest_open(is_set);
                // Input that waited for a reader; and output that came before the end.
                let receive = receive_queue(number);
                self.wake(receive);
                self.wake(receive.saturating_add(1));
            }
            _ => return false,
        }
        self.wake(TO_DRIVER);
        true
    }
}

/// The number of a port's receive queue; the transmit queue is the next one.
fn receive_queue(port: usize) -> u16 {
    let port = u16::try_from(port).unwrap_or(u16::MAX);
    match port {
        0 => 0,
        _ => port.saturating_add(1).saturating_mul(2),
    }
}

impl Device for ConsoleDevice {
    fn id(&self) -> DeviceId {
        DeviceId::CONSOLE
    }

    fn features(&self) -> Features {
        Features::from_bits_retain(ConsoleFeatures::all().bits()) | Features::IN_ORDER
    }

    fn queues(&self) -> u16 {
        let ports = u16::try_from(self.ports()).unwrap_or(u16::MAX);
        ports.saturating_add(1).saturating_mul(2)
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        let [c0, c1] = self.size.columns.to_le_bytes();
        let [r0, r1] = self.size.rows.to_le_bytes();
        let ports = u32::try_from(self.ports()).unwrap_or(u32::MAX);
        let [p0, p1, p2, p3] = ports.to_le_bytes();
        let space: [u8; CONFIG] = [c0, c1, r0, r1, p0, p1, p2, p3, 0, 0, 0, 0];
        for (at, byte) in (offset..).zip(into) {
            *byte = space.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> bool {
        match (offset, from, self.ports.first_mut()) {
            (EMERGENCY, [character, ..], Some(console)) if from.len() <= 4 => {
                console.emergency(*character, &mut self.counters);
                true
            }
            _ => false,
        }
    }

    fn activate(&mut self, features: Features) {
        self.features = ConsoleFeatures::from_bits_truncate(features.bits());
        self.active = true;
        let multiport = self.is_multiport();
        if let Some(console) = self.ports.first_mut() {
            // Without control messages there is nobody who could say that it is not open.
            console.guest_open = !multiport;
        }
        self.wake(0);
    }

    fn reset(&mut self) {
        for port in &mut self.ports {
            port.reset();
            // Before it has ever run, nobody has lost anything.
            if self.active {
                add(&mut self.counters.in_dropped, port.drop_input());
            }
        }
        self.features = ConsoleFeatures::empty();
        self.active = false;
        self.ready = false;
        self.wakes = 0;
    }

    fn reset_queue(&mut self, queue: u16) {
        if let Role::Transmit(port) = self.role(queue)
            && let Some(port) = self.ports.get_mut(port)
        {
            port.reset_transmit();
        }
    }

    fn keeps_order(&self, _: u16) -> bool {
        true
    }

    fn save(&self, to: &mut Writer<'_>) {
        to.u16(self.size.columns);
        to.u16(self.size.rows);
        to.bool(self.ready);
        to.u8(u8::try_from(self.ports()).unwrap_or(u8::MAX));
        self.ports.iter().for_each(|port| port.save(to));
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        self.size = Size {
            columns: from.u16()?,
            rows: from.u16()?,
        };
        self.ready = from.bool()?;
        if usize::from(from.u8()?) != self.ports() {
            return Err(BadState::Content);
        }
        for port in &mut self.ports {
            port.restore(from)?;
        }
        // Who was attached to the other device has gone with it: the driver has to hear of that.
        self.wakes = u32::MAX;
        Ok(())
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        match self.role(pass.number()) {
            Role::Receive(number) => {
                let Some(port) = self.ports.get_mut(number) else {
                    return Ok(Progress::Waiting);
                };
                let progress = port.receive(pass, chain, &mut self.counters)?;
                if port.message().is_some() {
                    // The driver may have to hear now that the host has gone.
                    self.wake(TO_DRIVER);
                }
                Ok(progress)
            }
            Role::Transmit(number) => match self.ports.get_mut(number) {
                Some(port) => port.transmit(pass, chain, &mut self.counters),
                None => Ok(Progress::Waiting),
            },
            Role::ToDriver => self.send(pass, chain),
            Role::FromDriver => pass.serve_each(chain, |mem, chain| {
                let message = Received::read(mem, chain)?;
                let counter = if self.take(message) {
                    &mut self.counters.control_taken
                } else {
                    &mut self.counters.control_bad
                };
                add(counter, 1);
                Ok(0)
            }),
            // What is in it stays there.
            Role::None => Ok(Progress::Waiting),
        }
    }
}
