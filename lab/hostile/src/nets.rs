//! Attacks that network devices and entropy devices alone are open to.

use crate::attacks::{Attack, Outcome, attack};
use crate::device::{
    CONTROL, Device, ETHERNET, FRAME, HEADER, NET_HEADER, NEXT, RECEIVE, SIZE, STATUS_BYTE, WRITE,
};

use Outcome::{Broken, Either, Fine};

/// RAM that is longer than any frame.
const LOW_RAM: u64 = 1 << 20;

/// Commands of the control queue: class, number, and a byte or two.
const COMMANDS: [[u8; 4]; 8] = [
    [0xff, 0xff, 0xff, 0xff],
    // RX modes that were not negotiated.
    [0, 0, 1, 0],
    // An address that is too short.
    [1, 1, 0, 0],
    // VLANs.
    [2, 0, 1, 0],
    // No pair of queues, and more than there are.
    [4, 0, 0, 0],
    [4, 0, 0xff, 0xff],
    // Offloads.
    [5, 0, 0xff, 0xff],
    [4, 1, 1, 0],
];

/// Those against a network device.
pub const NET_ATTACKS: &[Attack] = &[
    attack(7, "header of 11 bytes", |d| {
        d.describe_request();
        d.describe(0, d.data.gpa + HEADER as u64, NET_HEADER - 1, 0, 0);
        d.submit(0);
        Broken
    }),
    attack(7, "frames that are too short, and none", |d| {
        all_dropped(d, ETHERNET as u16, |d, length| {
            let (flags, next) = if length == 0 { (0, 0) } else { (NEXT, 1) };
            d.write_frame();
            d.describe(0, d.data.gpa + HEADER as u64, NET_HEADER, flags, next);
            d.describe(1, d.data.gpa, length.into(), 0, 0);
        })
    }),
    attack(7, "frames that are too long", |d| {
        all_dropped(d, 4, |d, more| {
            d.describe_request_at(LOW_RAM, Some(9230 + u32::from(more) * 18_000));
        })
    }),
    attack(7, "headers that lie", |d| {
        let mut state = 0x1234_5678_9abc_def1u64;
        all_dropped(d, 100, |d, round| {
            d.describe_request();
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            d.data.store(HEADER, state);
            d.data.store(HEADER + 8, (state >> 16) as u16);
            // Among them those that ask for segments of no size, and for a checksum behind the end.
            match round % 4 {
                0 => d.data.store(HEADER, 0x0000_0000_0101u64),
                1 => d.data.store(HEADER, 0xffff_0000_0000_0001u64),
                _ => {}
            }
        })
    }),
    attack(7, "frames of somebody else", |d| {
        all_dropped(d, 8, |d, last| {
            d.describe_request();
            // The other devices' addresses differ in the last byte.
            let own = d.data.load::<u8>(11);
            d.data.store(11, own - 1 - (last % 2) as u8);
        })
    }),
    attack(7, "a command of one byte", |d| {
        set_up(d, CONTROL);
        d.describe(0, d.data.gpa, 1, NEXT, 1);
        d.describe(1, d.data.gpa + STATUS_BYTE as u64, 1, WRITE, 0);
        d.submit(0);
        Broken
    }),
    attack(7, "a command without room for its answer", |d| {
        set_up(d, CONTROL);
        all_dropped(d, 4, |d, _| d.describe(0, d.data.gpa, 4, 0, 0))
    }),
    attack(7, "commands that make no sense", |d| {
        set_up(d, CONTROL);
        for (round, command) in (1..).zip(COMMANDS) {
            d.data.store(0, command);
            d.data.store(STATUS_BYTE, 0xffu8);
            d.describe(0, d.data.gpa, 4, NEXT, 1);
            d.describe(1, d.data.gpa + STATUS_BYTE as u64, 1, WRITE, 0);
            d.submit(0);
            // Each is answered, with VIRTIO_NET_ERR.
            if !d.wait_used(round) || d.data.load::<u8>(STATUS_BYTE) != 1 {
                return Broken;
            }
        }
        Fine
    }),
    attack(7, "a receive buffer without room for a header", |d| {
        set_up(d, RECEIVE);
        d.describe(0, d.data.gpa, NET_HEADER - 1, WRITE, 0);
        d.submit(0);
        Broken
    }),
    attack(7, "a receive buffer that can only be read", |d| {
        set_up(d, RECEIVE);
        d.describe(0, d.data.gpa, 2000, 0, 0);
        d.submit(0);
        Broken
    }),
    attack(4, "receive buffers outside of RAM", |d| {
        set_up(d, RECEIVE);
        for head in 0..4 {
            d.describe(head, 1 << 40, 2000, WRITE, 0);
            d.submit(head);
        }
        // Nobody may have sent anything.
        Either
    }),
    attack(29, "more frames than anybody takes", |d| {
        for _ in 0..40 {
            for head in [0, 2, 4, 6] {
                d.write_frame();
                d.describe(head, d.data.gpa + HEADER as u64, NET_HEADER, NEXT, head + 1);
                d.describe(head + 1, d.data.gpa, FRAME, 0, 0);
                d.offer(head);
            }
            d.kick();
        }
        // Heads that are offered again before they are back.
        Either
    }),
];

/// Those against an entropy device.
pub const ENTROPY_ATTACKS: &[Attack] = &[
    attack(7, "requests without room", |d| {
        all_dropped(d, 4, |d, _| d.describe(0, d.data.gpa, 16, 0, 0))
    }),
    attack(29, "requests for all that there is", |d| {
        // All buffers are one page.
        for index in 0..SIZE {
            let (flags, next) = match index + 1 {
                SIZE => (WRITE, 0),
                next => (WRITE | NEXT, next),
            };
            d.describe(index, d.data.gpa, 4096, flags, next);
        }
        for round in 1..=20 {
            d.submit(0);
            if !d.wait_used(round) {
                return Broken;
            }
        }
        Fine
    }),
];

/// The device with another queue.
fn set_up(d: &mut Device<'_>, queue: u32) {
    d.queue = queue;
    d.set_up();
}

/// That many requests, one after the other, each of which comes back with nothing in it; and the queue goes on.
fn all_dropped(
    d: &mut Device<'_>,
    count: u16,
    mut describe: impl FnMut(&mut Device<'_>, u16),
) -> Outcome {
    for round in 0..count {
        describe(d, round);
        d.submit(0);
        if !d.wait_used(round + 1) {
            return Broken;
        }
    }
    Fine
}
