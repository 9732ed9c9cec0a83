//! The driver's side of both kinds of ring, as the specification has it (virtio 1.3, 2.7.13, 2.7.14 and 2.8.21): one
//! descriptor a request, which asks for one word.

use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::guest::Words;

/// Entries of the ring, and requests under way at most.
pub(crate) const SIZE: u16 = 2;
/// Where the ring is.
const RING: u64 = 0x10;
/// Words that requests ask for in turns: twice as many as requests under way.
const BUFFERS: u16 = 2 * SIZE;

const WRITE: u16 = 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// What the device is to write at an address.
pub(crate) fn answer(at: u64) -> u16 {
    at as u16 ^ 0x5a5a
}

/// A driver that has requests under way and takes them back in order.
pub(crate) trait Driver: Clone + Send + Sync + 'static {
    const PACKED: bool;
    fn new(event_idx: bool) -> Self;
    /// The three areas: descriptors, driver, device.
    fn areas(&self) -> [u64; 3];
    /// Words that both sides write.
    fn both(&self) -> Vec<u64>;
    /// Makes a request available.
    fn offer(&mut self, mem: &impl Words);
    /// Whether the device wants a kick for the request that was made available last. To be asked behind a fence.
    fn wants_kick(&self, mem: &impl Words) -> bool;
    /// Whether the device has used something.
    fn has_used(&self, mem: &impl Words) -> bool;
    /// Takes back the request that is next, and checks its answer.
    fn take(&mut self, mem: &impl Words);
    /// Asks for no interrupt: it is looking anyway.
    fn disarm(&self, mem: &impl Words);
    /// Asks for an interrupt when the next request has been used. To be followed by a fence and another look.
    fn arm(&self, mem: &impl Words);
}

/// Bytes of guest memory: all rings and buffers fit.
pub(crate) const MEMORY: usize = 0x70;
const BUFFER: u64 = MEMORY as u64 - 2 * BUFFERS as u64;

fn buffer(request: u16) -> u64 {
    BUFFER + u64::from(request % BUFFERS) * 2
}

/// Writes the fields that both kinds have in the same places; the buffer gets a value that is no answer.
fn describe(mem: &impl Words, at: u64, request: u16) {
    let buffer = buffer(request);
    mem.store(buffer, 0, Relaxed);
    mem.store(at, buffer as u16, Relaxed);
    mem.store(at + 8, 2, Relaxed);
}

fn check(mem: &impl Words, request: u16) {
    let buffer = buffer(request);
    assert_eq!(
        mem.load(buffer, Relaxed),
        answer(buffer),
        "the answer is not there yet"
    );
}

#[derive(Clone)]
pub(crate) struct Split {
    event_idx: bool,
    /// avail.idx
    next: u16,
    /// used.idx as far as it was looked at.
    seen: u16,
}

impl Split {
    const AVAIL: u64 = RING + 16 * SIZE as u64;
    const USED_EVENT: u64 = Self::AVAIL + 4 + 2 * SIZE as u64;
    const USED: u64 = Self::USED_EVENT + 4;
    const AVAIL_EVENT: u64 = Self::USED + 4 + 8 * SIZE as u64;
}

impl Driver for Split {
    const PACKED: bool = false;

    fn new(event_idx: bool) -> Self {
        assert!(Self::USED.is_multiple_of(4) && Self::AVAIL_EVENT + 2 <= BUFFER);
        Self {
            event_idx,
            next: 0,
            seen: 0,
        }
    }

    fn areas(&self) -> [u64; 3] {
        [RING, Self::AVAIL, Self::USED]
    }

    fn both(&self) -> Vec<u64> {
        Vec::new()
    }

    fn offer(&mut self, mem: &impl Words) {
        let head = self.next % SIZE;
        let at = RING + u64::from(head) * 16;
        describe(mem, at, self.next);
        mem.store(at + 12, WRITE, Relaxed);
        mem.store(Self::AVAIL + 4 + u64::from(head) * 2, head, Relaxed);
        self.next = self.next.wrapping_add(1);
        mem.store(Self::AVAIL + 2, self.next, Release);
    }

    fn wants_kick(&self, mem: &impl Words) -> bool {
        if self.event_idx {
            mem.load(Self::AVAIL_EVENT, Relaxed) == self.next.wrapping_sub(1)
        } else {
            mem.load(Self::USED, Relaxed) & 1 == 0
        }
    }

    fn has_used(&self, mem: &impl Words) -> bool {
        mem.load(Self::USED + 2, Acquire) != self.seen
    }

    fn take(&mut self, mem: &impl Words) {
        let head = self.seen % SIZE;
        let at = Self::USED + 4 + u64::from(head) * 8;
        assert_eq!(
            (mem.load(at, Relaxed), mem.load(at + 4, Relaxed)),
            (head, 2)
        );
        check(mem, self.seen);
        self.seen = self.seen.wrapping_add(1);
    }

    fn disarm(&self, mem: &impl Words) {
        if self.event_idx {
            mem.store(Self::USED_EVENT, self.seen.wrapping_sub(1), Relaxed);
        } else {
            mem.store(Self::AVAIL, 1, Relaxed);
        }
    }

    fn arm(&self, mem: &impl Words) {
        if self.event_idx {
            mem.store(Self::USED_EVENT, self.seen, Relaxed);
        } else {
            mem.store(Self::AVAIL, 0, Relaxed);
        }
    }
}

#[derive(Clone)]
pub(crate) struct Packed {
    event_idx: bool,
    /// Requests made available, taken back; the place in the ring and the wrap counter follow from it.
    next: u16,
    seen: u16,
}

impl Packed {
    const DRIVER: u64 = RING + 16 * SIZE as u64;
    const DEVICE: u64 = Self::DRIVER + 4;

    fn wraps(count: u16) -> bool {
        (count / SIZE).is_multiple_of(2)
    }

    fn word(count: u16) -> u16 {
        (count % SIZE) | u16::from(Self::wraps(count)) << 15
    }

    fn at(count: u16) -> u64 {
        RING + u64::from(count % SIZE) * 16
    }
}

impl Driver for Packed {
    const PACKED: bool = true;

    fn new(event_idx: bool) -> Self {
        Self {
            event_idx,
            next: 0,
            seen: 0,
        }
    }

    fn areas(&self) -> [u64; 3] {
        [RING, Self::DRIVER, Self::DEVICE]
    }

    fn both(&self) -> Vec<u64> {
        // The flags: they say whose a descriptor is, and are looked at by whom it does not belong to.
        (0..SIZE).map(|count| Self::at(count) + 14).collect()
    }

    fn offer(&mut self, mem: &impl Words) {
        let at = Self::at(self.next);
        describe(mem, at, self.next);
        mem.store(at + 12, self.next % SIZE, Relaxed);
        let mark = if Self::wraps(self.next) { AVAIL } else { USED };
        mem.store(at + 14, WRITE | mark, Release);
        self.next += 1;
    }

    fn wants_kick(&self, mem: &impl Words) -> bool {
        // The flags first: with new flags comes the word that belongs to them.
        match mem.load(Self::DEVICE + 2, Acquire) & 3 {
            0 => true,
            1 => false,
            _ => mem.load(Self::DEVICE, Relaxed) == Self::word(self.next - 1),
        }
    }

    fn has_used(&self, mem: &impl Words) -> bool {
        let flags = mem.load(Self::at(self.seen) + 14, Acquire) & (AVAIL | USED);
        flags
            == if Self::wraps(self.seen) {
                AVAIL | USED
            } else {
                0
            }
    }

    fn take(&mut self, mem: &impl Words) {
        let at = Self::at(self.seen);
        assert_eq!(
            (mem.load(at + 12, Relaxed), mem.load(at + 8, Relaxed)),
            (self.seen % SIZE, 2)
        );
        check(mem, self.seen);
        self.seen += 1;
    }

    fn disarm(&self, mem: &impl Words) {
        mem.store(Self::DRIVER + 2, 1, Relaxed);
    }

    fn arm(&self, mem: &impl Words) {
        if self.event_idx {
            mem.store(Self::DRIVER, Self::word(self.seen), Relaxed);
        }
        let flags = if self.event_idx { 2 } else { 0 };
        mem.store(Self::DRIVER + 2, flags, Release);
    }
}
