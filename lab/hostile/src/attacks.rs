//! The attacks, by the rows of the table in docs/security.md.

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::device::{
    AVAIL, DESC, Device, FEATURES, HEADER, INDIRECT, NEXT, NOTIFICATION_DATA, NOTIFY, QUEUE_READY,
    SIZE, STATUS, STATUS_BYTE, WRITE, describe,
};
use crate::platform::Granted;

/// What the device has to be afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Broken until its reset.
    Broken,
    /// Not broken.
    Fine,
    /// Either: it depends on who is faster.
    Either,
}

use Outcome::{Broken, Either, Fine};

/// One attack on a device that has been set up.
pub struct Attack {
    /// Row of the table.
    pub row: u8,
    /// What it does.
    pub name: &'static str,
    /// Does it, and tells what has to come of it.
    pub run: fn(&mut Device<'_>) -> Outcome,
}

pub(crate) const fn attack(
    row: u8,
    name: &'static str,
    run: fn(&mut Device<'_>) -> Outcome,
) -> Attack {
    Attack { row, name, run }
}

/// Those against any device.
pub const ATTACKS: &[Attack] = &[
    attack(1, "descriptor that is its own next", |d| {
        chain(d, &[(0, 16, NEXT, 0)])
    }),
    attack(1, "cycle of two descriptors", |d| {
        chain(d, &[(0, 16, NEXT, 1), (0, 16, NEXT, 0)])
    }),
    attack(2, "head out of range", |d| submit(d, SIZE)),
    attack(2, "head far out of range", |d| submit(d, u16::MAX)),
    attack(2, "next out of range", |d| chain(d, &[(0, 16, NEXT, 4000)])),
    attack(3, "indirect with NEXT", |d| indirect(d, 32, NEXT)),
    attack(3, "indirect table of no bytes", |d| indirect(d, 0, 0)),
    attack(3, "indirect table of 17 bytes", |d| indirect(d, 17, 0)),
    attack(3, "indirect table of 4 GiB", |d| {
        indirect(d, 0xffff_fff0, 0)
    }),
    attack(3, "indirect table inside of a table", |d| {
        describe(&d.table, 0, d.table.gpa, 16, INDIRECT, 0);
        indirect(d, 16, 0)
    }),
    attack(3, "loop inside of a table", |d| {
        describe(&d.table, 0, d.data.gpa, 16, NEXT, 0);
        indirect(d, 16, 0)
    }),
    attack(3, "indirect table outside of RAM", |d| {
        raw_chain(d, &[(1 << 45, 32, INDIRECT, 0)])
    }),
    attack(4, "data beyond the end of memory", |d| {
        request_at(d, 1 << 40, 512)
    }),
    attack(4, "data in a hole", |d| {
        request_at(d, d.platform.hole(), 512)
    }),
    attack(4, "data that wraps around", |d| {
        request_at(d, u64::MAX - 100, 512)
    }),
    attack(4, "data whose last byte is beyond memory", |d| {
        request_at(d, d.platform.end_of_ram() - 511, 512)
    }),
    attack(5, "data in the device's own registers", |d| {
        request_at(d, d.registers.gpa, 512)
    }),
    attack(5, "data in the local APIC", |d| {
        request_at(d, 0xfee0_0000, 512)
    }),
    attack(5, "rings in the device's own registers", |d| {
        rings_at(d, d.registers.gpa)
    }),
    attack(6, "descriptor of no bytes", |d| chain(d, &[(0, 0, 0, 0)])),
    attack(6, "chain of more than 4 GiB", |d| {
        chain(d, &[(0, u32::MAX, NEXT, 1), (0, u32::MAX, 0, 0)])
    }),
    attack(7, "writable before readable", |d| {
        chain(d, &[(0, 16, NEXT | WRITE, 1), (0, 16, 0, 0)])
    }),
    attack(8, "data over the rings", |d| {
        request_at(d, d.ring.gpa + DESC as u64, 512);
        Either
    }),
    attack(9, "avail.idx jumps", |d| jump(d, SIZE + 1)),
    attack(9, "avail.idx goes back", |d| jump(d, u16::MAX)),
    attack(10, "the same head twice", |d| {
        d.describe_request();
        d.offer(0);
        submit(d, 0);
        // The first is done before the second is looked at.
        Fine
    }),
    attack(11, "descriptors that change all the time", change_underfoot),
    attack(12, "garbage in used_event", |d| {
        for garbage in [0u16, 0x7fff, 0x8000, 0xffff] {
            d.ring.store(AVAIL + 4 + usize::from(SIZE) * 2, garbage);
            d.describe_request();
            submit(d, 0);
        }
        if d.wait_used(4) { Fine } else { Broken }
    }),
    attack(12, "kicks that lie about how far the driver is", |d| {
        d.negotiate_for(FEATURES | NOTIFICATION_DATA);
        d.set_queue();
        d.set(QUEUE_READY, 1);
        d.set(STATUS, 15);
        d.describe_request();
        for round in 0..8u16 {
            d.offer(0);
            for place in [0xffff, 0x8000, round, round + 2, round + 1] {
                d.set(NOTIFY, u32::from(place) << 16 | d.queue);
            }
            if !d.wait_used(round + 1) {
                return Broken;
            }
        }
        Fine
    }),
    attack(13, "queue of no entries", |d| queue_of(d, 0)),
    attack(13, "queue of 7 entries", |d| queue_of(d, 7)),
    attack(13, "queue of 65544 entries", |d| queue_of(d, 0x1_0008)),
    attack(14, "rings misaligned", |d| rings_at(d, d.ring.gpa + 1)),
    attack(14, "rings outside of RAM", |d| rings_at(d, 1 << 50)),
    attack(15, "queue registers of a running device", |d| {
        for offset in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
            d.set(offset, 0xffff_ffff);
        }
        d.describe_request();
        submit(d, 0);
        if d.wait_used(1) { Fine } else { Broken }
    }),
    attack(16, "queues that do not exist", |d| {
        for queue in [2, 31, 0xffff, 0xffff_ffff] {
            d.set(NOTIFY, queue);
            d.set(0x30, queue);
            d.set(QUEUE_READY, 1);
            d.get(0x34);
        }
        Fine
    }),
    attack(17, "accesses of every width everywhere", every_width),
    attack(18, "every value of the status", |d| {
        for value in (0..=0x1ff).rev() {
            d.set(STATUS, value);
        }
        Fine
    }),
    attack(18, "features that were not offered", |d| {
        d.set(STATUS, 0);
        d.set(STATUS, 3);
        d.set(0x24, 1);
        d.set(0x20, 0xffff_ffff);
        d.set(STATUS, 11);
        if d.status() & 8 == 0 { Fine } else { Broken }
    }),
    attack(18, "a driver for legacy devices", |d| {
        d.negotiate_for(FEATURES & !(1 << 32));
        if d.status() & 8 == 0 { Fine } else { Broken }
    }),
    attack(19, "a hundred resets with requests under way", |d| {
        for _ in 0..100 {
            d.set_up();
            d.describe_request();
            submit(d, 0);
        }
        Fine
    }),
    attack(20, "a kick before DRIVER_OK", |d| {
        d.negotiate();
        d.set_queue();
        d.set(QUEUE_READY, 1);
        d.describe_request();
        submit(d, 0);
        d.set(STATUS, 15);
        if d.wait_used(1) { Fine } else { Broken }
    }),
    attack(21, "string instructions on the registers", strings),
    attack(26, "a storm of kicks of all queues", |d| {
        for _ in 0..170 {
            for queue in 0..3 {
                d.set(NOTIFY, queue);
            }
        }
        Fine
    }),
    attack(27, "interrupts that nobody acknowledges", |d| {
        d.negotiate_for(1 << 32);
        d.set_queue();
        d.set(QUEUE_READY, 1);
        d.set(STATUS, 15);
        for round in 1..=50 {
            d.describe_request();
            d.submit(0);
            if !d.wait_used(round) {
                return Broken;
            }
        }
        Fine
    }),
];

/// Those against a disk, which has two queues.
pub const DISK_ATTACKS: &[Attack] = &[
    attack(7, "header of 15 bytes", |d| {
        chain(
            d,
            &[
                (HEADER, 15, NEXT, 1),
                (0, 512, NEXT | WRITE, 2),
                (STATUS_BYTE, 1, WRITE, 0),
            ],
        )
    }),
    attack(7, "no room for the status", |d| {
        chain(d, &[(HEADER, 16, 0, 0)]);
        Fine
    }),
    attack(8, "two queues on one ring", two_queues),
    attack(39, "sectors that are not there", |d| {
        for sector in [1 << 20, u64::MAX, u64::MAX / 512, 1 << 63] {
            let used = d.used();
            d.describe_read(sector);
            submit(d, 0);
            d.wait_used(used.wrapping_add(1));
            if d.data.load::<u8>(STATUS_BYTE) != 1 {
                return Broken;
            }
        }
        Fine
    }),
];

/// Those against a device that has only what it is granted.
pub const GRANT_ATTACKS: &[Attack] = &[
    attack(4, "data in memory that is not granted", |d| {
        request_at(d, granted(d).plain, 512)
    }),
    attack(4, "data of a grant that was never made", |d| {
        request_at(d, granted(d).never, 512)
    }),
    attack(4, "data in a page that is granted for reading", |d| {
        request_at(d, granted(d).readonly, 512)
    }),
    attack(4, "data of a reference beyond all", |d| {
        request_at(d, u64::MAX - 0xfff, 512)
    }),
    attack(4, "header of a grant that was never made", |d| {
        d.describe_read(0);
        d.describe(0, granted(d).never, 16, NEXT, 1);
        submit(d, 0)
    }),
    attack(4, "status in a page that is granted for reading", |d| {
        d.describe_read(0);
        d.describe(2, granted(d).readonly, 1, WRITE, 0);
        d.submit(0);
        d.settle();
        // What could not be answered must not look done.
        if d.used() == 0 { Broken } else { Fine }
    }),
    attack(4, "indirect table of a grant that was never made", |d| {
        raw_chain(d, &[(granted(d).never, 32, INDIRECT, 0)])
    }),
    attack(14, "rings in memory that is not granted", |d| {
        rings_at(d, granted(d).plain)
    }),
    attack(14, "rings of a grant that was never made", |d| {
        rings_at(d, granted(d).never)
    }),
    attack(14, "used ring in a page that is granted for reading", |d| {
        d.negotiate();
        d.set_queue();
        d.set_address(0xa0, granted(d).readonly);
        d.set(QUEUE_READY, 1);
        Broken
    }),
];

fn granted(d: &Device<'_>) -> Granted {
    let none = Granted {
        plain: 0,
        readonly: 0,
        never: 0,
    };
    d.platform.granted().unwrap_or(none)
}

fn submit(d: &mut Device<'_>, head: u16) -> Outcome {
    d.submit(head);
    Broken
}

/// Descriptors from number 0 on, with absolute addresses.
fn raw_chain(d: &mut Device<'_>, list: &[(u64, u32, u16, u16)]) -> Outcome {
    for (index, &(addr, len, flags, next)) in (0..).zip(list) {
        d.describe(index, addr, len, flags, next);
    }
    submit(d, 0)
}

/// Descriptors from number 0 on, with addresses in the page of data.
fn chain(d: &mut Device<'_>, list: &[(usize, u32, u16, u16)]) -> Outcome {
    let base = d.data.gpa;
    let list: Vec<_> = list
        .iter()
        .map(|&(at, len, flags, next)| (base + at as u64, len, flags, next))
        .collect();
    raw_chain(d, &list)
}

fn indirect(d: &mut Device<'_>, len: u32, flags: u16) -> Outcome {
    let table = d.table.gpa;
    raw_chain(d, &[(table, len, INDIRECT | flags, 0)])
}

/// A request whose data is there.
fn request_at(d: &mut Device<'_>, addr: u64, len: u32) -> Outcome {
    d.describe_request_at(addr, Some(len));
    submit(d, 0)
}

fn jump(d: &mut Device<'_>, idx: u16) -> Outcome {
    d.ring.store(AVAIL + 2, idx);
    d.kick();
    Broken
}

/// Both queues of the device in the same memory, and kicks of both.
fn two_queues(d: &mut Device<'_>) -> Outcome {
    d.negotiate();
    d.set_queue();
    for queue in 0..2 {
        d.place_queue(queue);
        d.set(QUEUE_READY, 1);
    }
    if d.get(QUEUE_READY) != 1 {
        // Then there is nothing to attack.
        return Broken;
    }
    d.set(STATUS, 15);
    for _ in 0..20 {
        d.describe_request();
        d.offer(0);
        d.set(NOTIFY, 0);
        d.set(NOTIFY, 1);
    }
    Either
}

fn queue_of(d: &mut Device<'_>, size: u32) -> Outcome {
    d.negotiate();
    d.set_queue();
    d.set(0x38, size);
    d.set(QUEUE_READY, 1);
    Broken
}

fn rings_at(d: &mut Device<'_>, addr: u64) -> Outcome {
    d.negotiate();
    d.set_queue();
    d.set_address(0x80, addr);
    d.set(QUEUE_READY, 1);
    Broken
}

/// Somebody else scribbles over the descriptors while requests are submitted.
fn change_underfoot(d: &mut Device<'_>) -> Outcome {
    let (ring, data) = (d.ring.gpa, d.data.gpa);
    // The page is passed as an address: it is shared with the device in any case.
    let place = d.ring.at(DESC) as usize;
    let state = AtomicU64::new(0x1234_5678_9abc_def1);
    let scribble = move || {
        let mut x = state.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.store(x, Ordering::Relaxed);
        let word = match x & 3 {
            0 => data + (x >> 8 & 0xfff),
            1 => ring,
            2 => x,
            _ => x & 0x7_0007_0000_03ff,
        };
        let at = (x >> 32) as usize % (usize::from(SIZE) * 2) * 8;
        // SAFETY: inside of the descriptors, which are eight aligned pairs of words.
        unsafe { ((place + at) as *mut u64).write_volatile(word) };
    };
    let platform = d.platform;
    platform.beside(&scribble, &mut || {
        for round in 0..100 {
            d.describe_request();
            d.submit(0);
            if round % 20 == 19 {
                d.set_up();
            }
        }
    });
    Either
}

/// Reads and writes of every width at every offset of the page, also between the registers and behind them.
fn every_width(d: &mut Device<'_>) -> Outcome {
    let page = d.registers;
    for offset in (0..0x120).chain(0x1f8..0x208).chain(0xff0..0xff8) {
        // QueueNotify and Status mean something.
        if (NOTIFY..NOTIFY + 4).contains(&offset) || (STATUS - 7..STATUS + 4).contains(&offset) {
            continue;
        }
        page.load::<u8>(offset);
        page.load::<u16>(offset);
        page.load::<u64>(offset);
        page.store(offset, 0xffu8);
        page.store(offset, 0xffffu16);
        page.store(offset, u64::MAX);
    }
    Fine
}

/// `rep movs` and `rep stos`, forwards and backwards, between memory and registers.
fn strings(d: &mut Device<'_>) -> Outcome {
    let (registers, memory) = (d.registers, d.data);
    for (from, to) in [
        (registers.at(0), memory.at(0)),
        (memory.at(0), registers.at(0x100)),
    ] {
        // SAFETY: 128 bytes inside of both pages.
        unsafe {
            asm!("rep movsd", inout("rcx") 32usize => _, inout("rsi") from => _, inout("rdi") to => _);
        }
    }
    // SAFETY: 64 bytes inside of the page, downwards from its 508th byte; the flag is set back.
    unsafe {
        asm!("std", "rep movsd", "cld", inout("rcx") 16usize => _,
            inout("rsi") registers.at(0x1fc) => _, inout("rdi") memory.at(0x1fc) => _);
    }
    // SAFETY: 256 bytes inside of the page.
    unsafe {
        asm!("rep stosb", inout("rcx") 256usize => _, inout("rdi") registers.at(0x100) => _, in("al") 0xffu8);
    }
    let magic = memory.load::<u32>(0);
    // Memory that is not granted is out of reach for registers too.
    let expected = match d.platform.granted() {
        Some(_) => 0,
        None => 0x7472_6976,
    };
    d.describe_request();
    d.submit(0);
    if magic == expected && d.wait_used(1) {
        Fine
    } else {
        Broken
    }
}
