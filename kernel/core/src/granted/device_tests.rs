//! A disk whose driver grants memory, from its registers to its status bytes. As in the image, what it holds stays where
//! it is, so that what is read waits for the next hypercall.

use std::prelude::v1::*;

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_virtio::mmio::Status;
use vd_virtio::{Cause, Chain, Features, MmioTransport, fault::FaultKind};
use xen_hypercall::grant_table::GrantStatus;

use super::address::GRANTED;
use super::fake::{Call, Failure, Fake, Storage};
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

type Disk<'a> = MmioTransport<BlockDevice<RamDisk<Storage<'a>>>, 1, 1>;

struct Rig<'a> {
    guest: &'a Fake,
    grants: Grants<&'a Fake>,
    rings: Rings,
    disk: Disk<'a>,
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
        let disk = BlockDevice::new(RamDisk::new(guest.storage(storage)), geometry, b"G", false);
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

    /// A read of one sector in a packed ring, with descriptors of the ring's own.
    fn offer_packed(&self, n: u16, data: u64, status: u64) {
        let at = DESC + u64::from(n) * 48;
        let header = HEADER + u64::from(n) * 16;
        self.guest.put(header, &[0; 16]);
        self.guest
            .put(header + 8, &(u64::from(n) + 2).to_le_bytes());
        // In a packed ring id and flags change places; the flag of the first round is AVAIL.
        let avail = 1 << 7;
        self.describe(at + 16, data, 512, n, NEXT | WRITE | avail);
        self.describe(at + 32, status, 1, n, WRITE | avail);
        self.describe(at, header, 16, n, NEXT | avail);
    }

    /// How many requests of a packed ring the driver is shown: it looks at one after the other, and what comes behind one
    /// that is not used does not count.
    fn used_packed(&self) -> usize {
        let flags = |n: u16| self.guest.get(DESC + u64::from(n) * 48 + 14, 2);
        let used = |n: &u16| flags(*n).iter().all(|byte| byte & 0x80 != 0);
        (0..SIZE / 3).take_while(used).count()
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

    /// The device is broken, by the driver; nothing was written where it may not be, and nothing is mapped.
    fn check_refused(&mut self, what: &str) {
        assert!(self.status().contains(Status::NEEDS_RESET), "{what}");
        let fault = self.disk.take_fault().unwrap();
        assert!(fault.kind.is_drivers(), "{what}: {fault}");
        assert_eq!(self.guest.get(READONLY, 4096), [0; 4096], "{what}");
        assert_eq!(self.guest.mapped(), 0, "{what}");
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
    // Each: the table, which takes data and status of the one before along, and the header. The last one's follow.
    let calls = rig.run();
    assert_eq!(calls.len(), 4 * 2 + 1, "{calls:?}");
    assert_eq!(rig.used(), 4);
    for n in 0..4 {
        assert_eq!(guest.get(DATA + n * 512, 512), [n as u8 + 2; 512]);
        assert_eq!(rig.byte(STATUS + n), 0);
    }
    guest.put(DATA + 4 * 512, &[0xaa; 512]);
    rig.offer(4, true, STATUS);
    // The table, the header, the data, the status.
    let calls = rig.run();
    assert_eq!(calls.len(), 4, "{calls:?}");
    // Pieces of this domain's may lie over the end of a page.
    let few = |call: &Call| matches!(call, Call::Copy(1..=2));
    assert!(calls.iter().all(few), "{calls:?}");
    rig.offer(5, false, STATUS);
    guest.put(HEADER + 5 * 16 + 8, &6_u64.to_le_bytes());
    rig.run();
    assert_eq!(guest.get(DATA + 5 * 512, 512), [0xaa; 512]);
    assert_eq!((rig.used(), rig.status().bits()), (6, 15));
    assert_eq!(guest.mapped(), 3, "nothing but the rings");
}

/// Several in a batch: what waits goes along with the next table.
#[test]
fn batches_of_writes_and_what_they_cost() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    rig.set_up();
    for n in 0..4 {
        guest.put(DATA + u64::from(n) * 512, &[0xa0 + n as u8; 512]);
        rig.offer(n, true, STATUS + u64::from(n));
    }
    let calls = rig.run();
    assert_eq!(calls.len(), 4 * 3 + 1, "{calls:?}");
    assert_eq!(rig.used(), 4);
    for n in 4..8 {
        rig.offer(n, false, STATUS);
        let sector = u64::from(n) - 4 + 2;
        guest.put(HEADER + u64::from(n) * 16 + 8, &sector.to_le_bytes());
    }
    rig.run();
    for n in 0..4_u16 {
        let at = DATA + u64::from(n + 4) * 512;
        assert_eq!(guest.get(at, 512), [0xa0 + n as u8; 512]);
    }
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
    guest.put(STATUS, &[0xff]);
    rig.offer_packed(0, DATA, STATUS);
    assert_eq!(rig.run().len(), 2, "the header; data and status");
    assert_eq!((guest.get(DATA, 512), rig.byte(STATUS)), (vec![2; 512], 0));
    assert_eq!(rig.used_packed(), 1);
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

/// What was not granted is the first of two requests in a pass, or the last: neither is shown, wherever it is noticed.
/// Data waits because it stays where it is, a status byte because it was put by.
#[test]
fn row4_a_request_whose_refusal_comes_late_is_not_shown() {
    let never = GRANTED | 900 << 12;
    let guest = guest();
    for bad in [0, 1] {
        for (data, addr) in [
            (true, READONLY),
            (true, never),
            (false, READONLY),
            (false, never),
        ] {
            let mut rig = Rig::new(&guest);
            rig.set_up();
            for n in 0..2 {
                rig.offer(n, false, STATUS + u64::from(n));
            }
            let table = TABLE + bad * 64;
            if data {
                rig.describe(table + 16, addr, 512, NEXT | WRITE, 2);
            } else {
                rig.describe(table + 32, addr, 1, WRITE, 0);
            }
            rig.run();
            rig.check_refused(&format!("request {bad}, {addr:#x}"));
            assert_eq!(rig.used(), 0, "request {bad}, {addr:#x}");
        }
    }
}

/// The same in packed rings, where a request is shown by the flags of its first descriptor.
#[test]
fn row4_a_request_whose_refusal_comes_late_is_not_shown_in_a_packed_ring() {
    let guest = guest();
    for bad in [0, 1] {
        for in_data in [true, false] {
            let mut rig = Rig::new(&guest);
            rig.negotiate(Features::ACCESS_PLATFORM | Features::RING_PACKED);
            rig.place_queue();
            rig.set(0x70, 15);
            for n in 0..2 {
                let place = |here, there| if n == bad && here { READONLY } else { there };
                let data = place(in_data, DATA + u64::from(n) * 512);
                let status = place(!in_data, STATUS + u64::from(n));
                rig.offer_packed(n, data, status);
            }
            rig.run();
            rig.check_refused(&format!("request {bad}"));
            assert_eq!(rig.used_packed(), 0, "request {bad}");
        }
    }
}

/// Attack case 38: each call fails in turn for want of room: the device breaks, nobody blames the driver, no request
/// looks done that is not, and a reset heals.
#[test]
fn row38_no_room_is_not_the_drivers_fault() {
    let guest = guest();
    let mut rig = Rig::new(&guest);
    let (reads, writes) = ((0..3).map(|n| (n, false)), (0..4).map(|n| (n, true)));
    for (n, write) in reads.chain(writes) {
        rig.set_up();
        rig.offer(0, write, STATUS);
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
        (0, 10)
    );
    assert!(rig.grants.take_trouble().is_some());
    rig.set_up();
    rig.offer(0, false, STATUS);
    rig.run();
    assert_eq!((rig.used(), rig.byte(STATUS)), (1, 0));
}
