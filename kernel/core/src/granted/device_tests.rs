//! A disk whose driver grants memory, from its registers to its status bytes.

use std::prelude::v1::*;

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_virtio::mmio::Status;
use vd_virtio::{Cause, Chain, Features, MmioTransport, fault::FaultKind};
use xen_hypercall::grant_table::GrantStatus;

use super::address::GRANTED;
use super::fake::{Call, Failure, Fake};
use super::*;

const SIZE: u16 = 16;
const DESC: u64 = GRANTED | 20 << 12;
const AVAIL: u64 = DESC + 0x400;
const USED: u64 = GRANTED | 21 << 12;
/// Tables, headers, data and status bytes of requests: a page of each.
const TABLE: u64 = GRANTED | 30 << 12;
const HEADER: u64 = GRANTED | 31 << 12;
const DATA: u64 = GRANTED | 32 << 12;
const STATUS: u64 = GRANTED | 40 << 12;
/// Granted for reading only.
const READONLY: u64 = GRANTED | 50 << 12;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

type Disk = MmioTransport<BlockDevice<RamDisk<Vec<u8>>>, 1, 1>;

struct Rig<'a> {
    guest: &'a Fake,
    grants: Grants<&'a Fake>,
    rings: Rings,
    disk: Disk,
    chain: Chain,
}

fn guest() -> Fake {
    let guest = Fake::new(Rings::pages(1, SIZE) as usize);
    for (first, count, readonly) in [(20, 2, false), (30, 12, false), (50, 1, true)] {
        guest.grant(first, count, readonly);
    }
    guest
}

impl<'a> Rig<'a> {
    fn new(guest: &'a Fake) -> Self {
        let storage: Vec<u8> = (0..0x1_0000_u32).map(|n| (n / 512) as u8).collect();
        let geometry = Geometry::of_blocks(512);
        let disk = BlockDevice::new(RamDisk::new(storage), geometry, b"G", false);
        let platform = Features::ACCESS_PLATFORM;
        let transport = MmioTransport::new(disk, SIZE);
        Self {
            guest,
            grants: Grants::new(guest),
            rings: Rings::new(0, 1, SIZE),
            disk: transport.with(platform).requiring(platform),
            chain: Chain::new(),
        }
    }

    fn set(&mut self, offset: u64, value: u32) {
        let memory = self.grants.view(&self.rings);
        self.disk.write(&memory, offset, 4, value.into());
    }

    fn status(&self) -> Status {
        self.disk.status()
    }

    fn negotiate(&mut self, features: Features) {
        let bits = (features | Features::VERSION_1).bits();
        for status in [0, 1, 3] {
            self.set(0x70, status);
        }
        for half in 0..2 {
            self.set(0x24, half);
            self.set(0x20, (bits >> (32 * half)) as u32);
        }
        self.set(0x70, 11);
    }

    fn place_queue(&mut self) {
        for page in [DESC, USED] {
            self.guest.put(page, &[0; 4096]);
        }
        self.set(0x30, 0);
        self.set(0x38, SIZE.into());
        for (register, at) in [(0x80, DESC), (0x90, AVAIL), (0xa0, USED)] {
            self.set(register, at as u32);
            self.set(register + 4, (at >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    fn set_up(&mut self) {
        self.negotiate(Features::ACCESS_PLATFORM | Features::INDIRECT_DESC | Features::RING_RESET);
        self.place_queue();
        self.set(0x70, 15);
        self.guest.take_calls();
    }

    fn describe(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        self.guest.put(at, &addr.to_le_bytes());
        self.guest.put(at + 8, &len.to_le_bytes());
        self.guest.put(at + 12, &flags.to_le_bytes());
        self.guest.put(at + 14, &next.to_le_bytes());
    }

    /// Request `n` of one sector, in a table of its own, and its status byte there.
    fn offer(&self, n: u16, write: bool, status: u64) {
        let (at, number) = (u64::from(n), u64::from(n));
        let table = TABLE + at * 64;
        let header = HEADER + at * 16;
        self.guest.put(header, &u32::from(write).to_le_bytes());
        self.guest.put(header + 8, &(number + 2).to_le_bytes());
        let data = if write { 0 } else { WRITE };
        self.describe(table, header, 16, NEXT, 1);
        self.describe(table + 16, DATA + at * 512, 512, NEXT | data, 2);
        self.describe(table + 32, status, 1, WRITE, 0);
        self.describe(DESC + at * 16, table, 48, INDIRECT, 0);
        self.guest.put(AVAIL + 4 + at * 2, &n.to_le_bytes());
        self.guest.put(AVAIL + 2, &(n + 1).to_le_bytes());
    }

    fn run(&mut self) -> Vec<Call> {
        self.guest.take_calls();
        self.set(0x50, 0);
        let memory = self.grants.view(&self.rings);
        self.disk.run(&memory, 64, &mut self.chain);
        self.guest.take_calls()
    }

    fn used(&self) -> u16 {
        u16::from_le_bytes(self.guest.get(USED + 2, 2).try_into().unwrap())
    }

    fn byte(&self, at: u64) -> u8 {
        self.guest.get(at, 1)[0]
    }
}

#[test]
fn the_driver_has_to_choose_grants() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    rig.negotiate(Features::empty());
    assert!(!rig.status().contains(Status::FEATURES_OK));
    rig.negotiate(Features::ACCESS_PLATFORM);
    assert!(rig.status().contains(Status::FEATURES_OK));
}

#[test]
fn requests_and_what_they_cost() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    rig.set_up();
    assert_eq!(guest.mapped(), 3, "one page of each area");
    for n in 0..4 {
        rig.offer(n, false, STATUS + u64::from(n));
        guest.put(STATUS + u64::from(n), &[0xff]);
    }
    // Each: the table, the header, the data, which take the status of the one before along. The last one's follows.
    let calls = rig.run();
    assert_eq!(calls.len(), 4 * 3 + 1, "{calls:?}");
    assert_eq!(rig.used(), 4);
    for n in 0..4 {
        assert_eq!(guest.get(DATA + n * 512, 512), [n as u8 + 2; 512]);
        assert_eq!(rig.byte(STATUS + n), 0);
    }
    guest.put(DATA + 4 * 512, &[0xaa; 512]);
    rig.offer(4, true, STATUS);
    let one = [Call::Copy(1)].as_slice();
    let two = [Call::Copy(2)].as_slice();
    // Pieces of this domain's may lie over the end of a page.
    assert!(rig.run().chunks(1).all(|call| call == one || call == two));
    rig.offer(5, false, STATUS);
    guest.put(HEADER + 5 * 16 + 8, &6_u64.to_le_bytes());
    rig.run();
    assert_eq!(guest.get(DATA + 5 * 512, 512), [0xaa; 512]);
    assert_eq!((rig.used(), rig.status().bits()), (6, 15));
    assert_eq!(guest.mapped(), 3, "nothing but the rings");
}

/// A packed ring, whose descriptors the device writes: they have to be granted for that.
#[test]
fn packed_rings() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    rig.negotiate(Features::ACCESS_PLATFORM | Features::RING_PACKED);
    rig.place_queue();
    rig.set(0x70, 15);
    assert_eq!(guest.mapped(), 3);
    guest.put(HEADER, &[0; 16]);
    guest.put(HEADER + 8, &9_u64.to_le_bytes());
    guest.put(STATUS, &[0xff]);
    // In a packed ring id and flags change places; the flag of the first round is AVAIL.
    let avail = 1 << 7;
    rig.describe(DESC + 16, DATA, 512, 0, NEXT | WRITE | avail);
    rig.describe(DESC + 32, STATUS, 1, 0, WRITE | avail);
    rig.describe(DESC, HEADER, 16, 0, NEXT | avail);
    assert_eq!(rig.run().len(), 3, "header, data, status");
    assert_eq!((guest.get(DATA, 512), rig.byte(STATUS)), (vec![9; 512], 0));
    let used = u16::from_le_bytes(guest.get(DESC + 14, 2).try_into().unwrap());
    assert_eq!(used & 0x8080, 0x8080);
    rig.set(0x70, 0);
    assert_eq!(guest.mapped(), 0);
    // Granted for reading only, such a ring cannot be used.
    rig.negotiate(Features::ACCESS_PLATFORM | Features::RING_PACKED);
    guest.grant(20, 1, true);
    rig.set(0x38, 4);
    for (register, at) in [(0x80, DESC), (0x90, AVAIL), (0xa0, USED)] {
        rig.set(register, at as u32);
        rig.set(register + 4, (at >> 32) as u32);
    }
    rig.set(0x44, 1);
    assert!(rig.status().contains(Status::NEEDS_RESET));
    assert_eq!(guest.mapped(), 0);
}

/// Every way in which a queue ends: its pages are the guest's again when the register is answered.
#[test]
fn row19_rings_are_unmapped_however_their_queue_ends() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    type End = fn(&mut Rig<'_>);
    let ends: [(&str, End); 5] = [
        ("reset", |rig| rig.set(0x70, 0)),
        ("queue reset", |rig| rig.set(0xc0, 1)),
        ("QueueReady", |rig| rig.set(0x44, 0)),
        ("FAILED", |rig| rig.set(0x70, 15 | 128)),
        ("broken", |rig| {
            rig.guest.put(AVAIL + 2, &[0xff; 2]);
            rig.run();
        }),
    ];
    for (name, end) in ends {
        rig.set_up();
        assert_eq!(guest.mapped(), 3);
        end(&mut rig);
        assert_eq!(guest.mapped(), 0, "{name}");
        // A kick finds nothing.
        rig.run();
        assert_eq!(guest.mapped(), 0, "{name}");
    }
    // A queue that was reset by itself comes back.
    rig.set_up();
    rig.set(0xc0, 1);
    rig.place_queue();
    rig.offer(0, false, STATUS);
    rig.run();
    assert_eq!((rig.used(), guest.mapped()), (1, 3));
    assert_eq!(rig.grants.close_all(&rig.rings), 0);
}

/// Attack case 4: each part of a request in turn is not granted, or not for writing.
#[test]
fn row4_each_part_of_a_request_that_is_not_granted() {
    let never = GRANTED | 900 << 12;
    let guest = guest();
    let mut rig = Rig::new(&guest);
    for (part, addr) in [
        ("table", never),
        ("header", never),
        ("data", never),
        ("data", READONLY),
        ("data", 0x4_0000),
        ("status", never),
        ("status", READONLY),
        ("status", 0x4_0000),
    ] {
        rig.set_up();
        rig.offer(0, false, STATUS);
        match part {
            "table" => rig.describe(DESC, addr, 48, INDIRECT, 0),
            "header" => rig.describe(TABLE, addr, 16, NEXT, 1),
            "data" => rig.describe(TABLE + 16, addr, 512, NEXT | WRITE, 2),
            _ => rig.describe(TABLE + 32, addr, 1, WRITE, 0),
        }
        rig.run();
        assert!(rig.status().contains(Status::NEEDS_RESET), "{part}");
        let fault = rig.disk.take_fault().unwrap();
        assert!(matches!(fault.kind, FaultKind::Memory(error) if error.cause == Cause::NotGranted));
        // Nothing was shown, and nothing stays mapped.
        assert_eq!((rig.used(), guest.mapped()), (0, 0), "{part}");
        // A reset heals.
        rig.set_up();
        rig.offer(0, false, STATUS);
        rig.run();
        assert_eq!(rig.used(), 1, "{part}");
    }
    assert_eq!(
        (rig.disk.counters().faults, rig.disk.counters().failures),
        (8, 0)
    );
}

/// Attack case 38: each call fails in turn for want of room: the device breaks, nobody blames the driver, no request
/// looks done that is not, and a reset heals.
#[test]
fn row38_no_room_is_not_the_drivers_fault() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    for n in 0..4 {
        rig.set_up();
        rig.offer(0, false, STATUS);
        guest.put(STATUS, &[0xff]);
        guest.fail_at(n, Failure::Last(GrantStatus::NO_SPACE));
        rig.set(0x50, 0);
        let memory = rig.grants.view(&rig.rings);
        rig.disk.run(&memory, 64, &mut rig.chain);
        assert!(rig.status().contains(Status::NEEDS_RESET), "{n}");
        assert!(!rig.disk.take_fault().unwrap().kind.is_drivers());
        assert_eq!((rig.used(), guest.mapped()), (0, 0));
        guest.fail_at(usize::MAX / 2, Failure::Last(GrantStatus::NO_SPACE));
    }
    // The same while rings are mapped.
    for n in 0..3 {
        rig.negotiate(Features::ACCESS_PLATFORM);
        guest.take_calls();
        guest.fail_at(n, Failure::Last(GrantStatus::NO_SPACE));
        rig.place_queue();
        assert!(rig.status().contains(Status::NEEDS_RESET), "{n}");
        assert_eq!(guest.mapped(), 0);
        guest.fail_at(usize::MAX / 2, Failure::Last(GrantStatus::NO_SPACE));
    }
    assert_eq!(
        (rig.disk.counters().faults, rig.disk.counters().failures),
        (0, 7)
    );
    assert!(rig.grants.take_trouble().is_some());
    rig.set_up();
    rig.offer(0, false, STATUS);
    rig.run();
    assert_eq!((rig.used(), rig.byte(STATUS)), (1, 0));
}
