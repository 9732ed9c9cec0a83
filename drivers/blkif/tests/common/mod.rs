//! A guest's driver, the device, the front end, and a back end: everything between the virtqueue and the stored bytes.
#![allow(dead_code, reason = "each test uses some of it")]

use vd_blk::{AsyncBlockDevice, Room};
use vd_blkif::nodes::{Offer, Properties};
use vd_blkif::test_util::{Cut, FakeBackend, FakePlatform};
use vd_blkif::{Config, Disk};
use vd_virtio::test_util::{DriverRing, FakeMemory, NEXT, WRITE};
use vd_virtio::{Chain, MmioTransport};

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;
pub(crate) const NONE: u8 = 0xff;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const ZEROES: u32 = 13;

pub(crate) const BACKEND: u16 = 3;
pub(crate) const QUEUES: usize = 2;
const ENTRIES: u16 = 128;
const SLOTS: u64 = 0x1_0000;
const STATUS: u64 = 0x20;
const DATA: u64 = 0x200;

pub(crate) type Device = AsyncBlockDevice<Disk<FakePlatform>>;

/// What a rig is made of.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) room: Room,
    pub(crate) offer: Offer,
    pub(crate) properties: Properties,
    /// Whether the device is, whatever the back end says.
    pub(crate) readonly: bool,
    /// Most bytes of data of a guest's request.
    pub(crate) bytes: u64,
    /// How many requests the guest can have under way.
    pub(crate) slots: u16,
}

impl Setup {
    /// A disk of so many sectors.
    pub(crate) fn new(sectors: u64) -> Self {
        Self {
            config: Config {
                data_pages: 64,
                list_pages: 4,
                operations: 32,
                ..Config::of_device(51712)
            },
            room: Room {
                requests: 32,
                pieces: 512,
            },
            offer: Offer {
                ring_order: 0,
                queues: 1,
            },
            properties: Properties {
                sectors,
                flush: true,
                discard: Some(1),
                indirect: 32,
                persistent: true,
                ..Properties::default()
            },
            readonly: false,
            bytes: 0x4000,
            slots: 16,
        }
    }
}

pub(crate) struct Rig {
    pub(crate) mem: FakeMemory,
    pub(crate) transport: MmioTransport<Device, QUEUES>,
    pub(crate) chain: Chain,
    pub(crate) rings: [DriverRing; QUEUES],
    pub(crate) used: [u16; QUEUES],
    pub(crate) setup: Setup,
    pub(crate) backend: FakeBackend,
    pub(crate) platform: FakePlatform,
    /// Configuration interrupts.
    pub(crate) reconfigured: u64,
}

impl Rig {
    /// Connected, and its driver set up.
    pub(crate) fn new(setup: Setup) -> Self {
        let mut rig = Self::unconnected(setup);
        rig.connect();
        rig.set_up();
        rig
    }

    /// Without a back end.
    pub(crate) fn unconnected(setup: Setup) -> Self {
        let platform = FakePlatform::new(setup.config.pages());
        let disk = Disk::new(platform.clone(), setup.config).unwrap();
        let device = AsyncBlockDevice::new(disk, b"BLKIF", setup.readonly, setup.room)
            .with_queues(QUEUES as u16);
        let sectors = setup.properties.sectors as usize;
        let size = SLOTS + u64::from(setup.slots) * (setup.bytes + DATA);
        Self {
            mem: FakeMemory::new(size as usize),
            transport: MmioTransport::new(device, ENTRIES),
            chain: Chain::new(),
            rings: [0, 1].map(|n| DriverRing::at(0x1000 + n * 0x2000, ENTRIES)),
            used: [0; QUEUES],
            backend: FakeBackend::new(&platform, BACKEND, sectors),
            platform,
            setup,
            reconfigured: 0,
        }
    }

    pub(crate) fn disk(&mut self) -> &mut Disk<FakePlatform> {
        self.transport.device_mut().backend_mut()
    }

    /// The back end and the front end find each other.
    pub(crate) fn connect(&mut self) {
        let (offer, properties) = (self.setup.offer, self.setup.properties);
        let disk = self.transport.device_mut().backend_mut();
        disk.connect(BACKEND, &offer).unwrap();
        self.backend.connect(disk);
        disk.open(properties);
        self.poll();
    }

    /// The back end goes, in disorder; the front end notices.
    pub(crate) fn cut(&mut self, cut: Cut, done: impl FnMut(usize) -> bool) {
        self.backend.take();
        self.backend.cut(cut, done);
        self.disk().disconnect(false);
        assert!(self.disk().revoke());
        self.poll();
    }

    pub(crate) fn write(&mut self, offset: u64, value: u64) {
        self.transport.write(&self.mem, offset, 4, value);
    }

    /// The driver begins, or begins again.
    pub(crate) fn set_up(&mut self) {
        self.write(0x70, 0);
        self.write(0x70, 3);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(0x24, 0);
        self.write(0x20, 1 << 12);
        self.write(0x70, 11);
        for queue in 0..QUEUES {
            self.set_up_queue(queue);
        }
        self.write(0x70, 15);
        assert_eq!(self.transport.read(0x70, 4), 15);
        self.run();
    }

    pub(crate) fn set_up_queue(&mut self, queue: usize) {
        let ring = self.rings[queue];
        self.mem.put(ring.avail, &[0; 4]);
        self.mem.put(ring.used, &[0; 4]);
        self.used[queue] = 0;
        self.write(0x30, queue as u64);
        self.write(0x38, ring.size.into());
        for (offset, at) in [(0x80, ring.desc), (0x90, ring.avail), (0xa0, ring.used)] {
            self.write(offset, at);
        }
        self.write(0x44, 1);
    }

    /// What the platform's main loop does until there is nothing to do.
    pub(crate) fn run(&mut self) {
        loop {
            self.poll();
            if !self.transport.has_work() {
                return;
            }
            self.transport.run(&self.mem, 5, &mut self.chain);
        }
    }

    fn poll(&mut self) {
        let wake = self.transport.device_mut().poll();
        for queue in wake.queues.iter() {
            self.transport.wake(queue);
        }
        if wake.reconfigured {
            self.reconfigured += 1;
            self.transport.reconfigure(|_| ());
        }
    }

    fn base(&self, slot: u16) -> u64 {
        SLOTS + u64::from(slot) * (self.setup.bytes + DATA)
    }

    /// Where the data of a guest's request is.
    pub(crate) fn data_at(&self, slot: u16) -> u64 {
        self.base(slot) + DATA
    }

    /// The guest makes a request, in one of its slots; the data is in two pieces.
    pub(crate) fn offer(&mut self, queue: usize, slot: u16, kind: u32, sector: u64, len: u64) {
        let (base, ring) = (self.base(slot), self.rings[queue]);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.mem.put(base, &header);
        self.mem.put(base + STATUS, &[NONE]);
        let direction = if kind == IN { WRITE } else { 0 };
        let first = (len / 2).min(1000);
        let mut pieces = vec![(base, 16, 0)];
        if first > 0 {
            pieces.push((base + DATA, first, direction));
        }
        if len > first {
            pieces.push((base + DATA + first, len - first, direction));
        }
        pieces.push((base + STATUS, 1, WRITE));
        let last = pieces.len() - 1;
        for (n, (addr, len, flags)) in pieces.into_iter().enumerate() {
            let index = slot * 4 + n as u16;
            let next = if n == last { 0 } else { NEXT };
            ring.describe(&self.mem, index, addr, len as u32, flags | next, index + 1);
        }
        ring.offer(&self.mem, slot * 4);
        self.write(0x50, queue as u64);
    }

    pub(crate) fn read(&mut self, slot: u16, sector: u64, len: u64) {
        self.mem.put(self.data_at(slot), &vec![0xee; len as usize]);
        self.offer(0, slot, IN, sector, len);
        self.run();
    }

    /// Writes sectors full of one byte.
    pub(crate) fn write_bytes(&mut self, slot: u16, sector: u64, len: u64, byte: u8) {
        self.mem.put(self.data_at(slot), &vec![byte; len as usize]);
        self.offer(0, slot, OUT, sector, len);
        self.run();
    }

    pub(crate) fn flush(&mut self, slot: u16) {
        self.offer(0, slot, FLUSH, 0, 0);
        self.run();
    }

    /// A discard or a writing of zeroes.
    pub(crate) fn zero(&mut self, slot: u16, kind: u32, ranges: &[(u64, u32)]) {
        for (n, (sector, sectors)) in ranges.iter().enumerate() {
            let at = self.data_at(slot) + n as u64 * 16;
            self.mem.put(at, &sector.to_le_bytes());
            self.mem.put(at + 8, &sectors.to_le_bytes());
            self.mem.put(at + 12, &[0; 4]);
        }
        self.offer(0, slot, kind, 0, ranges.len() as u64 * 16);
        self.run();
    }

    pub(crate) fn status(&self, slot: u16) -> u8 {
        self.mem.get::<1>(self.base(slot) + STATUS)[0]
    }

    pub(crate) fn data(&self, slot: u16, len: u64) -> Vec<u8> {
        let at = self.data_at(slot);
        (at..at + len).map(|at| self.mem.get::<1>(at)[0]).collect()
    }

    /// Requests that were given back since the last call: slot and used length.
    pub(crate) fn take_used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = self.rings[queue];
        let mut list = Vec::new();
        while self.used[queue] != ring.used_idx(&self.mem) {
            let (head, len) = ring.used_element(&self.mem, self.used[queue]);
            list.push((head as u16 / 4, len));
            self.used[queue] = self.used[queue].wrapping_add(1);
        }
        list
    }

    /// The back end serves everything, until the guest has nothing more for it.
    pub(crate) fn settle(&mut self) {
        while self.backend.serve_all() > 0 {
            self.run();
        }
    }

    /// The bytes of a sector as they are stored.
    pub(crate) fn stored(&self, sector: usize) -> [u8; 512] {
        self.backend.disk[sector * 512..][..512].try_into().unwrap()
    }
}
