//! The register file of virtio-mmio: any access of any width at any offset, in any order, on one of two disks.
//!
//! One disk is played with: status bits, features, queue set-up with right and wrong addresses, resets of both kinds,
//! kicks, configuration space, accesses of odd widths. The other has a driver that keeps the rules.
//!
//! Checked: registers that cannot change do not; reading changes nothing; what is no register, or none of that width,
//! reads as 0 and changes nothing; the status goes only where it may, by the driver's writes and the device's own bit;
//! a queue that is ready cannot be changed; nothing is written to memory before DRIVER_OK; a reset puts everything back;
//! the other disk is right all the time; and the disk that was played with works after a proper set-up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtio_domain_fuzz::Source;
use virtio_domain_fuzz::driver::{Driver, NEEDS_RESET, reg};
use virtio_domain_fuzz::ring::{self, BASE, Direct, HOLE, MEMORY, choice};
use virtio_domain_fuzz::virtio::{Device, FakeMemory, initial_content};

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const FAILED: u32 = 128;
const CONFIG: u64 = 0x100;

/// Registers that mean something, and some that do not.
const OFFSETS: [u64; 36] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x20, 0x24, 0x30, 0x34, 0x38, 0x40, 0x44, 0x48, 0x50,
    0x54, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xa8, 0xac, 0xb0, 0xbc, 0xc0, 0xc4,
    0xfc, 0x100, 0x108, 0x13c,
];
/// Those that the driver only reads, with their values: magic, version, device, vendor.
const CONSTANT: [(u64, u64); 4] = [
    (0x00, 0x7472_6976),
    (0x04, 2),
    (0x08, 2),
    (0x0c, 0x4d4f_4456),
];

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let mem = FakeMemory::new(MEMORY).hole(HOLE);
    let mut device = Device::new();
    let other_mem = FakeMemory::new(MEMORY).hole(HOLE);
    let mut other_device = Device::new();
    let packed = source.coin();
    let choice = choice(&mut source, packed);
    let mut window = Direct {
        device: &mut other_device,
        mem: &other_mem,
    };
    let mut other = Driver::start(&mut window, &other_mem, BASE, choice, initial_content());
    while !source.is_empty() {
        match source.below(8) {
            0 | 1 => proper(&mut source, &mut device, &mem),
            2..=4 => write(&mut source, &mut device, &mem),
            5 => read(&mut source, &mut device),
            6 => run(&mut source, &mut device, &mem),
            _ => {
                other.offer(&mut source, &other_mem);
                let mut window = Direct {
                    device: &mut other_device,
                    mem: &other_mem,
                };
                other.kick(&mut window, &other_mem);
                ring::run_all(&mut other_device, &other_mem, &mut other);
                other.take_back(&other_mem);
                assert_eq!(other.under_way(), 0);
            }
        }
        for (offset, value) in CONSTANT {
            assert_eq!(device.read(offset, 4), value);
        }
    }
    heals(&mut source, &mut device, &mem);
});

/// One step of a set-up as it should be.
fn proper(source: &mut Source<'_>, device: &mut Device, mem: &FakeMemory) {
    let mut set = |offset: u64, value: u32| device.write(mem, offset, 4, value.into());
    match source.below(7) {
        0 => set(reg::STATUS, ACKNOWLEDGE | DRIVER),
        1 => {
            set(reg::DRIVER_FEATURES_SEL, 1);
            // VERSION_1, and split or packed rings.
            set(reg::DRIVER_FEATURES, source.pick(&[1, 5]));
            set(reg::DRIVER_FEATURES_SEL, 0);
            set(reg::DRIVER_FEATURES, source.pick(&[0, 0x3000_0000]));
        }
        2 => set(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK),
        3 => {
            set(reg::QUEUE_SEL, 0);
            set(reg::QUEUE_SIZE, source.pick(&[1, 8, 64]));
            for (n, offset) in [reg::QUEUE_DESC, reg::QUEUE_DRIVER, reg::QUEUE_DEVICE]
                .into_iter()
                .enumerate()
            {
                let at = if source.rarely() {
                    source.edge()
                } else {
                    BASE + 0x1000 * n as u64
                };
                set(offset, at as u32);
                set(offset + 4, (at >> 32) as u32);
            }
        }
        4 => set(reg::QUEUE_READY, 1),
        5 => set(reg::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK),
        _ => set(reg::QUEUE_NOTIFY, 0),
    }
}

/// Any write, with what has to become of it.
fn write(source: &mut Source<'_>, device: &mut Device, mem: &FakeMemory) {
    let offset = if source.rarely() {
        source.edge()
    } else {
        source.pick(&OFFSETS)
    };
    let size = if source.rarely() {
        source.pick(&[0, 1, 2, 8, 16, u64::MAX])
    } else {
        4
    };
    let value = match source.below(4) {
        0 => source.below(4) as u64,
        1 => source.any::<u8>().into(),
        2 => source.edge(),
        _ => source.edge() & 0xffff_ffff,
    };
    let (old, resets, bad) = (device.status(), device.resets(), device.bad_accesses());
    let no_register =
        offset < CONFIG && (size != 4 || !offset.is_multiple_of(4) || value >> 32 != 0);
    let looks = no_register || source.rarely();
    let before = looks.then(|| device.snapshot());
    let ready = selected_is_ready(device);
    mem.take_written();
    device.write(mem, offset, size, value);
    assert!(
        mem.take_written().is_empty(),
        "a register write is not a request"
    );
    let new = device.status();
    if offset == reg::STATUS && size == 4 && value >> 32 == 0 {
        check_status(old, value as u32, new);
        if value == 0 {
            assert_eq!(device.resets(), resets + 1);
            assert!(!device.interrupt() && !device.has_work() && !selected_is_ready(device));
            assert_eq!(device.read(reg::INTERRUPT_STATUS, 4), 0);
        }
        return;
    }
    // Only a wrong queue breaks the device.
    let breaks = offset == reg::QUEUE_READY && !ready && new == old | NEEDS_RESET;
    assert!(new == old || breaks, "{old:#x} to {new:#x} by {offset:#x}");
    assert_eq!(device.resets(), resets);
    let changed = before.is_some_and(|before| before != device.snapshot());
    if no_register {
        assert!(!changed && device.bad_accesses() == bad + 1);
    }
    let describes = matches!(offset, reg::QUEUE_SIZE | 0x80..=0xa4);
    assert!(
        !(changed && ready && describes),
        "a queue that is ready was changed"
    );
}

fn selected_is_ready(device: &mut Device) -> bool {
    device.read(reg::QUEUE_READY, 4) == 1
}

/// Bits are only added, in their order, and none after FAILED; only a reset takes any away.
fn check_status(old: u32, value: u32, new: u32) {
    if value == 0 {
        return assert_eq!(new, 0);
    }
    let own = |status: u32| status & !NEEDS_RESET;
    let legal = value & !0xcf == 0
        && own(old) & !value == 0
        && (value & DRIVER == 0 || value & ACKNOWLEDGE != 0)
        && (value & FEATURES_OK == 0 || value & DRIVER != 0)
        && (value & DRIVER_OK == 0 || value & FEATURES_OK != 0)
        && (old & FAILED == 0 || own(value) == own(old));
    assert_eq!(new & NEEDS_RESET, old & NEEDS_RESET);
    if legal {
        // All of it; or all but what the driver's choice of features does not allow.
        let refused = value & !(FEATURES_OK | DRIVER_OK);
        let settles = old & FEATURES_OK == 0 && value & FEATURES_OK != 0;
        assert!(
            own(new) == own(value) || settles && own(new) == own(refused),
            "{old:#x}, {value:#x}: {new:#x}"
        );
    } else {
        assert_eq!(new, old, "{value:#x} was written");
    }
}

fn read(source: &mut Source<'_>, device: &mut Device) {
    let offset = if source.rarely() {
        source.edge()
    } else {
        source.pick(&OFFSETS)
    };
    let size = if source.rarely() {
        source.pick(&[0, 1, 2, 3, 8, 16, u64::MAX])
    } else {
        4
    };
    let before = source.rarely().then(|| device.snapshot());
    let value = device.read(offset, size);
    assert_eq!(device.read(offset, size), value);
    assert!(
        before.is_none_or(|before| before == device.snapshot()),
        "reading changes nothing"
    );
    if offset < CONFIG && (size != 4 || !offset.is_multiple_of(4)) {
        assert_eq!(value, 0);
    }
    assert!(
        size >= 8 || value >> (8 * size) == 0,
        "no wider than the access"
    );
    // Nothing is behind the configuration space of a disk.
    assert!(offset < CONFIG + 60 || value == 0);
}

fn run(source: &mut Source<'_>, device: &mut Device, mem: &FakeMemory) {
    if source.rarely() {
        device.kick(source.edge());
    }
    // Whatever happens to be there is a ring.
    let at = BASE + source.below(0x3000) as u64;
    mem.put(at, &source.array::<8>());
    let running = device.status() & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK;
    assert!(running || !device.has_work());
    let (requests, budget) = (device.requests(), source.between(0, 8) as u32);
    mem.take_written();
    device.run(mem, budget);
    assert!(device.requests() - requests <= budget.into());
    assert!(running || mem.take_written().is_empty());
    if running && device.status() & NEEDS_RESET != 0 {
        assert!(device.interrupt() && !device.has_work());
    }
}

/// With a driver that keeps the rules the disk works, whatever it holds by now.
fn heals(source: &mut Source<'_>, device: &mut Device, mem: &FakeMemory) {
    let packed = source.coin();
    let choice = choice(source, packed);
    let mut driver = Driver::start(
        &mut Direct { device, mem },
        mem,
        BASE,
        choice,
        initial_content(),
    );
    assert!(driver.offer_read(mem, 4, 4));
    driver.kick(&mut Direct { device, mem }, mem);
    ring::run_all(device, mem, &mut driver);
    driver.learn(mem, 4);
    driver.take_back(mem);
    assert_eq!(driver.under_way(), 0);
}
