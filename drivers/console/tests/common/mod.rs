//! A driver of a console device, as honest as it is told to be.
#![allow(dead_code, reason = "each test uses a part of it")]

use vd_console::{ConsoleDevice, NO_PORT, PortName, event};
use vd_virtio::test_util::{DriverRing, FakeMemory, WRITE};
use vd_virtio::{Chain, MmioTransport};

pub(crate) const QUEUES: usize = 10;
pub(crate) const SIZE: u16 = 8;
/// Room for a queue's ring and buffers.
const SPAN: u64 = 0x1_0000;
const BUFFERS: u64 = 0x1000;
/// Bytes of each buffer.
pub(crate) const BUFFER: u64 = 0x1800;
pub(crate) const MEMORY: u64 = SPAN * QUEUES as u64;

pub(crate) const SIZE_BIT: u64 = 1;
pub(crate) const MULTIPORT: u64 = 2;
pub(crate) const EMERG: u64 = 4;
pub(crate) const VERSION_1: u64 = 1 << 32;

pub(crate) fn names(names: &[&str]) -> Vec<PortName> {
    names
        .iter()
        .map(|name| PortName::try_from(*name).unwrap())
        .collect()
}

pub(crate) struct Rig {
    pub(crate) mem: FakeMemory,
    pub(crate) transport: MmioTransport<ConsoleDevice, QUEUES>,
    pub(crate) chain: Chain,
    pub(crate) rings: Vec<DriverRing>,
    /// Used elements seen, and the buffers in use, by queue.
    seen: [u16; QUEUES],
    free: Vec<Vec<u16>>,
}

impl Rig {
    /// A device with ports of these names, and a driver that has chosen these features.
    pub(crate) fn new(ports: &[&str], features: u64) -> Self {
        let mut rig = Self::unstarted(ports);
        rig.start(features);
        rig
    }

    pub(crate) fn unstarted(ports: &[&str]) -> Self {
        Self {
            mem: FakeMemory::new(MEMORY as usize),
            transport: MmioTransport::new(ConsoleDevice::new(names(ports)), SIZE),
            chain: Chain::new(),
            rings: (0..QUEUES as u64)
                .map(|queue| DriverRing::at(queue * SPAN, SIZE))
                .collect(),
            seen: [0; QUEUES],
            free: vec![(0..SIZE).rev().collect(); QUEUES],
        }
    }

    /// The same with ports `a` to `c`, and a driver that knows them all.
    pub(crate) fn ready() -> Self {
        let mut rig = Self::new(&["a", "b", "c"], MULTIPORT);
        for _ in 0..SIZE {
            rig.give(2);
        }
        rig.control(NO_PORT, event::DEVICE_READY, 1);
        for port in 0..4 {
            rig.control(port, event::PORT_READY, 1);
        }
        while !rig.messages().is_empty() {}
        rig
    }

    pub(crate) fn write(&mut self, offset: u64, value: u64) {
        self.transport.write(&self.mem, offset, 4, value);
    }

    pub(crate) fn read(&mut self, offset: u64) -> u64 {
        self.transport.read(offset, 4)
    }

    pub(crate) fn start(&mut self, features: u64) {
        self.seen = [0; QUEUES];
        self.free = vec![(0..SIZE).rev().collect(); QUEUES];
        let features = features | VERSION_1;
        for (offset, value) in [
            (0x70, 0),
            (0x70, 3),
            (0x24, 0),
            (0x20, features & 0xffff_ffff),
            (0x24, 1),
            (0x20, features >> 32),
            (0x70, 11),
        ] {
            self.write(offset, value);
        }
        assert_eq!(self.read(0x70), 11, "FEATURES_OK");
        for queue in 0..QUEUES {
            let ring = self.rings[queue];
            self.mem.put(ring.avail, &[0; 4]);
            self.mem.put(ring.used, &[0; 4]);
            for (offset, value) in [
                (0x30, queue as u64),
                (0x38, SIZE.into()),
                (0x80, ring.desc),
                (0x90, ring.avail),
                (0xa0, ring.used),
                (0x44, 1),
            ] {
                self.write(offset, value);
            }
        }
        self.write(0x70, 15);
        self.run();
    }

    /// Runs the device until it has nothing more to do, which takes no more passes than there can be work.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            let wakes = self.transport.device_mut().take_wakes();
            for queue in (0..QUEUES as u16).filter(|queue| wakes >> queue & 1 != 0) {
                self.transport.wake(queue);
            }
            if !self.transport.has_work() {
                return;
            }
            self.transport.run(&self.mem, 64, &mut self.chain);
        }
        panic!("the device does not come to rest");
    }

    pub(crate) fn device(&mut self) -> &mut ConsoleDevice {
        self.transport.device_mut()
    }

    pub(crate) fn is_broken(&mut self) -> bool {
        self.read(0x70) & 0x40 != 0
    }

    fn address(queue: usize, head: u16) -> u64 {
        queue as u64 * SPAN + BUFFERS + u64::from(head) * BUFFER
    }

    /// Makes a buffer available, if there is one left.
    pub(crate) fn offer(&mut self, queue: usize, bytes: &[u8], len: u32, flags: u16) -> bool {
        let Some(head) = self.free[queue].pop() else {
            return false;
        };
        let at = Self::address(queue, head);
        self.mem.put(at, bytes);
        self.offer_at(queue, head, at, len, flags);
        true
    }

    pub(crate) fn offer_at(&mut self, queue: usize, head: u16, at: u64, len: u32, flags: u16) {
        let ring = self.rings[queue];
        ring.describe(&self.mem, head, at, len, flags, 0);
        ring.offer(&self.mem, head);
        self.write(0x50, queue as u64);
    }

    /// Gives a queue an empty buffer.
    pub(crate) fn give(&mut self, queue: usize) -> bool {
        let given = self.offer(queue, &[], BUFFER as u32, WRITE);
        self.run();
        given
    }

    /// Sends bytes. Returns whether there was a buffer left.
    pub(crate) fn send(&mut self, queue: usize, bytes: &[u8]) -> bool {
        let sent = self.offer(queue, bytes, bytes.len() as u32, 0);
        self.run();
        sent
    }

    /// Takes the used buffers of a queue: what is in them.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while self.seen[queue] != self.rings[queue].used_idx(&self.mem) {
            let (head, len) = self.rings[queue].used_element(&self.mem, self.seen[queue]);
            let bytes = self
                .mem
                .get::<{ BUFFER as usize }>(Self::address(queue, head as u16));
            found.push(bytes[..len as usize].to_vec());
            self.free[queue].push(head as u16);
            self.seen[queue] = self.seen[queue].wrapping_add(1);
        }
        found
    }

    /// Sends a control message.
    pub(crate) fn control(&mut self, port: u32, event: u16, value: u16) {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        assert!(self.send(3, &bytes));
        self.used(3);
    }

    /// Takes the control messages that have come, and gives the buffers again: port, event, value, and what follows.
    pub(crate) fn messages(&mut self) -> Vec<(u32, u16, u16, Vec<u8>)> {
        let used = self.used(2);
        for _ in &used {
            self.give(2);
        }
        let parse = |bytes: Vec<u8>| {
            let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
            let port = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            (port, half(4), half(6), bytes[8..].to_vec())
        };
        used.into_iter().map(parse).collect()
    }

    /// What the host reads from a port.
    pub(crate) fn host_reads(&mut self, port: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = [0; 1000];
        loop {
            let read = self.device().read(port, &mut bytes);
            all.extend(&bytes[..read]);
            self.run();
            if read == 0 {
                return all;
            }
        }
    }

    /// What the host writes to a port; returns how much was taken.
    pub(crate) fn host_writes(&mut self, port: usize, bytes: &[u8]) -> usize {
        let taken = self.device().write(port, bytes);
        self.run();
        taken
    }

    pub(crate) fn host_attaches(&mut self, port: usize) {
        assert!(self.device().attach(port));
        self.run();
    }

    pub(crate) fn host_detaches(&mut self, port: usize) {
        self.device().detach(port);
        self.run();
    }
}
