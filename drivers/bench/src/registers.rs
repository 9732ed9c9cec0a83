//! The transport: single register accesses, and a whole request.

use std::hint::black_box;

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_virtio::mmio::Status;
use vd_virtio::{Chain, Features, MmioTransport};

use crate::memory::Memory;
use crate::rings::AREAS;
use crate::{TIMES, done, measured};

const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const CONFIG: u64 = 0x100;

const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x8010;
const BUFFER: u64 = 0x9000;
const BLOCK: u32 = 4096;
/// Requests of the ring: three descriptors each.
const SIZE: u16 = 256;

type Disk = BlockDevice<RamDisk<Vec<u8>>>;

struct Machine {
    mem: Memory,
    transport: MmioTransport<Disk, 1>,
    chain: Box<Chain>,
    /// Requests so far, and in the packed ring the place and the wrap counter.
    offered: u16,
    place: u16,
    wrap: bool,
    packed: bool,
}

impl Machine {
    fn new(packed: bool) -> Self {
        let mem = Memory::new(0x2_0000);
        let disk = RamDisk::new(vec![0x5a; 1 << 20]);
        let disk = BlockDevice::new(disk, Geometry::of_blocks(512), b"BENCH", false);
        let mut transport = MmioTransport::new(disk, SIZE);
        let mut features = Features::VERSION_1 | Features::INDIRECT_DESC | Features::EVENT_IDX;
        features.set(Features::RING_PACKED, packed);
        let bits = features.bits();
        // Status, features by halves, the queue, its areas (virtio 1.3, 4.2.2).
        for (offset, value) in [
            (0x70, 1),
            (0x70, 3),
            (0x24, 0),
            (0x20, bits & 0xffff_ffff),
            (0x24, 1),
            (0x20, bits >> 32),
            (0x70, 11),
            (0x30, 0),
            (0x38, SIZE.into()),
            (0x80, AREAS[0]),
            (0x90, AREAS[1]),
            (0xa0, AREAS[2]),
            (0x44, 1),
            (0x70, 15),
        ] {
            transport.write(&mem, offset, 4, value);
        }
        assert!(transport.status().contains(Status::DRIVER_OK));
        let mut machine = Machine {
            mem,
            transport,
            chain: Box::default(),
            offered: 0,
            place: 0,
            wrap: true,
            packed,
        };
        machine.run();
        machine
    }

    fn run(&mut self) {
        self.transport.run(&self.mem, 64, &mut self.chain);
    }

    /// Offers a read of 4 KiB, and asks for an interrupt.
    fn offer(&mut self) {
        let block = u64::from(self.offered % 16) * 8;
        self.mem.put(HEADER, &[0; 8]);
        self.mem.put(HEADER + 8, &block.to_le_bytes());
        let parts = [(HEADER, 16, 1), (BUFFER, BLOCK, 3), (STATUS, 1, 2)];
        if self.packed {
            self.offer_packed(parts);
            return;
        }
        for (index, (addr, len, flags)) in (0_u16..).zip(parts) {
            let at = AREAS[0] + u64::from(index) * 16;
            self.mem.describe(at, addr, len, [flags, index + 1]);
        }
        let [_, avail, _] = AREAS;
        self.mem
            .put(avail + 4 + u64::from(SIZE) * 2, &self.offered.to_le_bytes());
        let entry = avail + 4 + u64::from(self.offered % SIZE) * 2;
        self.mem.put(entry, &[0, 0]);
        self.offered = self.offered.wrapping_add(1);
        self.mem.put(avail + 2, &self.offered.to_le_bytes());
    }

    fn offer_packed(&mut self, parts: [(u64, u32, u16); 3]) {
        self.mem.put(AREAS[1], &[0; 4]);
        for (addr, len, flags) in parts {
            let at = AREAS[0] + u64::from(self.place) * 16;
            let mark = if self.wrap { 1 << 7 } else { 1 << 15 };
            self.mem.describe(at, addr, len, [0, flags | mark]);
            self.place += 1;
            if self.place == SIZE {
                self.place = 0;
                self.wrap = !self.wrap;
            }
        }
        self.offered = self.offered.wrapping_add(1);
    }

    /// The driver has got the block and lets the line go.
    fn finish(&mut self) {
        assert!(self.transport.interrupt());
        assert_eq!(self.mem.get(BUFFER + u64::from(BLOCK) - 2), 0x5a5a);
        assert_eq!(self.mem.get(STATUS) & 0xff, 0);
        self.mem.put(BUFFER, &[0; BLOCK as usize]);
        self.transport.write(&self.mem, INTERRUPT_ACK, 4, 1);
    }
}

fn read(name: &str, offset: u64) {
    let mut machine = Machine::new(false);
    for _ in 0..TIMES {
        let offset = black_box(offset);
        black_box(measured(|| machine.transport.read(offset, 4)));
    }
    done(&format!("register: read {name}"), TIMES);
}

fn write(name: &str, offset: u64, value: u64) {
    let mut machine = Machine::new(false);
    for _ in 0..TIMES {
        let (offset, value) = black_box((offset, value));
        measured(|| machine.transport.write(&machine.mem, offset, 4, value));
        machine.run();
    }
    done(&format!("register: write {name}"), TIMES);
}

/// From the kick to the decision to interrupt: one pass of the transport with one request.
fn block(packed: bool) {
    let mut machine = Machine::new(packed);
    for _ in 0..TIMES {
        machine.offer();
        measured(|| {
            machine
                .transport
                .write(&machine.mem, QUEUE_NOTIFY, 4, black_box(0));
            machine.run();
        });
        machine.finish();
    }
    assert_eq!(machine.transport.counters().requests, TIMES.into());
    let kind = if packed { "packed" } else { "split" };
    done(&format!("disk: read of 4 KiB, {kind}"), TIMES);
}

/// All of them.
pub(crate) fn all() {
    read("InterruptStatus", INTERRUPT_STATUS);
    read("configuration (capacity)", CONFIG);
    write("QueueNotify", QUEUE_NOTIFY, 0);
    write("InterruptACK", INTERRUPT_ACK, 1);
    block(false);
    block(true);
}
