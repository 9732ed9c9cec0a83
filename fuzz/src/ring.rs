//! A queue with a driver that keeps the rules, mostly: what the targets `ring_split` and `ring_packed` do.
//!
//! Checked while the rules are kept: every request is served, in order, with the data, status and length that a model of
//! the disk says; the device writes nothing but its ring and the buffers it was given; interrupts come when they must
//! and not when they must not; a kick that the device did not ask for is not needed. And always: a run takes no more
//! requests than its budget and reads a bounded amount of memory; a broken device says so, and does nothing until it is
//! reset; then it serves correctly again.

use crate::driver::{Driver, FOOTPRINT, NEEDS_RESET, Window, feature, reg};
use crate::source::Source;
use crate::text::assert_message;
use crate::virtio::{Device, FakeMemory, QUEUE_SIZE, QUEUES, initial_content};

/// Guest memory; there is a hole in it.
pub const MEMORY: usize = 0xd000;
/// The hole.
pub const HOLE: std::ops::Range<u64> = 0xc000..0xc800;
/// Where the driver's memory starts.
pub const BASE: u64 = 0x1000;
const _: () = assert!(BASE + FOOTPRINT <= HOLE.start);
/// Reads that one request can cost: a chain of 1024 descriptors, and as many pieces.
const READS: u64 = 4096;

/// A device's registers, straight.
pub struct Direct<'a> {
    /// The device.
    pub device: &'a mut Device,
    /// The guest's memory.
    pub mem: &'a FakeMemory,
}

impl Window for Direct<'_> {
    fn read(&mut self, offset: u64) -> u32 {
        self.device.read(offset, 4) as u32
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.device.write(self.mem, offset, 4, value.into());
    }
}

/// What a driver may ask for of a queue: its number, its size, and features.
pub fn choice(source: &mut Source<'_>, packed: bool) -> (u32, u16, u64) {
    let number = source.below(QUEUES) as u32;
    let size = source.between(1, u64::from(QUEUE_SIZE)) as u16;
    let features = if source.coin() {
        u64::MAX
    } else {
        source.any()
    };
    let ring = if packed { feature::RING_PACKED } else { 0 };
    (number, size, features & !feature::RING_PACKED | ring)
}

/// Runs the device once and checks what it did.
pub fn run(device: &mut Device, mem: &FakeMemory, driver: &mut Driver, budget: u32) {
    let status = device.status();
    let queue_bit = |device: &mut Device| device.read(reg::INTERRUPT_STATUS, 4) & 1 == 1;
    let (requests, reads, before) = (device.requests(), mem.reads(), queue_bit(device));
    mem.take_written();
    device.run(mem, budget);
    let count = device.requests() - requests;
    assert!(count <= budget.into());
    assert!(mem.reads() - reads <= (count + 2) * READS);
    if status & NEEDS_RESET != 0 {
        assert!(count == 0 && mem.take_written().is_empty(), "it is broken");
    }
    if device.status() & NEEDS_RESET != 0 {
        let fault = device.take_fault();
        assert!(
            driver.spoiled,
            "broken by a driver that kept the rules: {fault:?}"
        );
        fault.iter().for_each(assert_message);
        assert!(!device.has_work());
        // The driver is told, once.
        assert!(status & NEEDS_RESET != 0 || device.interrupt());
    }
    if !driver.spoiled {
        let after = queue_bit(device);
        let allowed = driver.may_write();
        for range in mem.take_written() {
            let inside = allowed
                .iter()
                .any(|a| a.start <= range.start && range.end <= a.end);
            assert!(inside, "{range:x?} is neither ring nor buffer");
        }
        driver.ran(count, before, after);
    }
}

/// Lets the device serve everything, as the main loop does.
pub fn run_all(device: &mut Device, mem: &FakeMemory, driver: &mut Driver) {
    let mut rounds = 0;
    while device.has_work() {
        run(device, mem, driver, 64);
        rounds += 1;
        assert!(rounds < 100, "it never ends");
    }
}

/// The story of one device.
pub fn story(data: &[u8], packed: bool) {
    let mut source = Source::new(data);
    let mem = FakeMemory::new(MEMORY).hole(HOLE);
    let mut device = Device::new();
    let mut driver = start(&mut source, &mut device, &mem, packed, initial_content());
    while !source.is_empty() {
        match source.below(16) {
            0..=4 => driver.offer(&mut source, &mem),
            5 => driver.show(&mem),
            6 | 7 => driver.kick(
                &mut Direct {
                    device: &mut device,
                    mem: &mem,
                },
                &mem,
            ),
            8 | 9 => {
                let budget = source.between(0, 12) as u32;
                run(&mut device, &mem, &mut driver, budget);
            }
            10 => settle(&mut device, &mem, &mut driver),
            11 if !driver.spoiled => driver.take_back(&mem),
            12 if !driver.spoiled => driver.wish(&mut source, &mem),
            13 => {
                let pending = device.read(reg::INTERRUPT_STATUS, 4);
                device.write(&mem, reg::INTERRUPT_ACK, 4, pending);
                assert!(!device.interrupt());
            }
            14 if source.rarely() => {
                driver = restart(&mut source, &mut device, &mem, driver, packed);
            }
            15 if source.rarely() => break_a_rule(&mut source, &mem, &mut device, &mut driver),
            15 if source.rarely() && !driver.spoiled => {
                // What was served counts; what was not is lost.
                driver.take_back(&mem);
                let mut window = Direct {
                    device: &mut device,
                    mem: &mem,
                };
                driver.renew_queue(&mut window, &mem);
            }
            _ => {}
        }
    }
    settle(&mut device, &mem, &mut driver);
    restart(&mut source, &mut device, &mem, driver, packed);
}

fn start(
    source: &mut Source<'_>,
    device: &mut Device,
    mem: &FakeMemory,
    packed: bool,
    disk: Vec<u8>,
) -> Driver {
    let choice = choice(source, packed);
    Driver::start(&mut Direct { device, mem }, mem, BASE, choice, disk)
}

/// Everything that was offered is served; if the driver kept the rules all of it is right.
fn settle(device: &mut Device, mem: &FakeMemory, driver: &mut Driver) {
    driver.kick(&mut Direct { device, mem }, mem);
    run_all(device, mem, driver);
    if !driver.spoiled {
        driver.take_back(mem);
        assert_eq!(driver.under_way(), 0, "requests are left");
    }
}

/// A reset heals everything: the disk can be read, and is what it has to be.
fn restart(
    source: &mut Source<'_>,
    device: &mut Device,
    mem: &FakeMemory,
    mut old: Driver,
    packed: bool,
) -> Driver {
    mem.interfere(|_, _| ());
    if !old.spoiled {
        settle(device, mem, &mut old);
    }
    let (resets, faults) = (device.resets(), device.faults());
    let mut driver = start(source, device, mem, packed, old.disk);
    assert_eq!(device.resets(), resets + 1);
    assert!(!device.interrupt() && device.take_fault().is_none());
    let sectors = crate::virtio::SECTORS;
    for sector in (0..sectors).step_by(4) {
        assert!(driver.offer_read(mem, sector, 4), "there is room for one");
        driver.kick(&mut Direct { device, mem }, mem);
        run_all(device, mem, &mut driver);
        if old.spoiled {
            driver.learn(mem, sector);
        }
        driver.take_back(mem);
        assert_eq!(driver.under_way(), 0, "it was served");
    }
    assert_eq!(device.faults(), faults);
    driver
}

/// Something is wrong now, or will be in the middle of what the device does.
fn break_a_rule(
    source: &mut Source<'_>,
    mem: &FakeMemory,
    device: &mut Device,
    driver: &mut Driver,
) {
    match source.below(4) {
        0 | 1 => driver.spoil(source, mem),
        2 => {
            driver.spoiled = true;
            let (at, bytes) = driver.wrong_bytes(source);
            let (at, when) = (at as usize, mem.reads() + source.below(40) as u64);
            mem.interfere(move |n, memory| {
                if n == when {
                    memory[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            });
        }
        _ => {
            // Registers of a queue that is in use: nothing comes of it.
            let offset = source.pick(&[
                reg::QUEUE_SIZE,
                reg::QUEUE_DESC,
                reg::QUEUE_DRIVER + 4,
                reg::QUEUE_DEVICE,
            ]);
            let snapshot = device.snapshot();
            device.write(mem, offset, 4, source.edge() & 0xffff_ffff);
            assert_eq!(snapshot, device.snapshot());
        }
    }
}
