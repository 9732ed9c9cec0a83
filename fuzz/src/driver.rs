//! A driver of the disk, for split and packed rings: it sets a queue up, offers requests in many shapes, and knows what
//! has to come back.
//!
//! Invariant: as long as nobody but its own methods writes to its part of the guest's memory, it keeps the rules of the
//! specification. So a device that disagrees with it is wrong. [`Driver::spoiled`] says that somebody has.

use std::collections::VecDeque;
use std::ops::Range;

use crate::source::Source;
use crate::virtio::{DriverPacked, DriverRing, FakeMemory, QUEUE_SIZE, SECTORS, SERIAL};

/// Registers of virtio-mmio (virtio 1.3, 4.2.2).
pub mod reg {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_SIZE_MAX: u64 = 0x34;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC: u64 = 0x80;
    pub const QUEUE_DRIVER: u64 = 0x90;
    pub const QUEUE_DEVICE: u64 = 0xa0;
    pub const QUEUE_RESET: u64 = 0xc0;
}

/// Feature bits (virtio 1.3, section 6).
pub mod feature {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    pub const RING_RESET: u64 = 1 << 40;
}

/// `DEVICE_NEEDS_RESET`
pub const NEEDS_RESET: u32 = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Requests under way at once.
const SLOTS: usize = 8;
/// Bytes that each of them has: a table, a header, a status byte, four sectors of data.
const STRIDE: u64 = 0x1000;
const HEADER: u64 = 0x400;
const STATUS_BYTE: u64 = 0x420;
const DATA: u64 = 0x800;

/// Bytes of memory that a driver uses, from its base on: the rings, then the requests.
pub const FOOTPRINT: u64 = STRIDE * (1 + SLOTS as u64);

/// The way to a device's registers, which also lets it work.
pub trait Window {
    /// Reads a register.
    fn read(&mut self, offset: u64) -> u32;
    /// Writes a register.
    fn write(&mut self, offset: u64, value: u32);
}

/// What a request has to come to.
#[derive(Clone, Debug)]
struct Expected {
    status: u8,
    used: u32,
}

#[derive(Clone, Debug)]
struct Request {
    kind: u32,
    sector: u64,
    /// Data bytes, in either direction.
    len: u32,
    ranges: Vec<(u64, u32)>,
    expected: Expected,
    /// What the device may write.
    writable: Vec<Range<u64>>,
    /// Descriptors of the queue that it takes, the head first.
    descriptors: Vec<u16>,
    /// Entries of the ring that it takes.
    entries: u64,
}

enum Ring {
    Split {
        ring: DriverRing,
        free: Vec<u16>,
        /// avail.idx as it will be when published.
        idx: u16,
    },
    Packed(DriverPacked),
}

/// When the driver wants an interrupt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    Always,
    Never,
    /// When the entry of this number, counted from the first one, is used.
    At(u64),
}

/// A driver with one queue in use.
pub struct Driver {
    /// Somebody else has written to its memory, or it was told to break a rule: nothing is certain any more.
    pub spoiled: bool,
    /// The disk, as far as is known.
    pub disk: Vec<u8>,
    features: u64,
    queue: u32,
    base: u64,
    size: u16,
    ring: Ring,
    requests: [Option<Request>; SLOTS],
    /// Requests offered, in order.
    order: VecDeque<usize>,
    wish: Wish,
    /// Entries made available; shown to the device; shown when it was last decided whether to kick.
    offered: u64,
    shown: u64,
    kicked: u64,
    /// Entries that the device has used; those that the driver has taken back.
    used: u64,
    taken: u64,
    /// How many of `order` the device has used.
    done: usize,
}

impl Driver {
    /// Resets the device and sets one queue up. `choice` are the features to choose of those that are offered.
    pub fn start(
        window: &mut dyn Window,
        mem: &FakeMemory,
        base: u64,
        (queue, size, choice): (u32, u16, u64),
        disk: Vec<u8>,
    ) -> Self {
        window.write(reg::STATUS, 0);
        assert_eq!(window.read(reg::STATUS), 0);
        window.write(reg::STATUS, 1);
        window.write(reg::STATUS, 3);
        let mut offered = 0;
        for half in [0, 1] {
            window.write(reg::DEVICE_FEATURES_SEL, half);
            offered |= u64::from(window.read(reg::DEVICE_FEATURES)) << (32 * half);
        }
        let features = offered & (choice | feature::VERSION_1);
        for half in [0, 1] {
            window.write(reg::DRIVER_FEATURES_SEL, half);
            window.write(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        window.write(reg::STATUS, 11);
        assert_eq!(
            window.read(reg::STATUS),
            11,
            "{features:#x} of {offered:#x}"
        );
        let mut driver = Self {
            spoiled: false,
            disk,
            features,
            queue,
            base,
            size,
            ring: Ring::Packed(DriverPacked::at(base, 1)),
            requests: [const { None }; SLOTS],
            order: VecDeque::new(),
            wish: Wish::Always,
            offered: 0,
            shown: 0,
            kicked: 0,
            used: 0,
            taken: 0,
            done: 0,
        };
        driver.set_up_queue(window, mem);
        window.write(reg::STATUS, 15);
        assert_eq!(window.read(reg::STATUS), 15);
        driver
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn set_up_queue(&mut self, window: &mut dyn Window, mem: &FakeMemory) {
        mem.put(self.base, &[0; STRIDE as usize]);
        let packed = self.has(feature::RING_PACKED);
        // Room for a request in its plainest shape.
        self.size = self.size.max(3);
        if !packed {
            self.size = self.size.next_power_of_two();
        }
        let (desc, driver, device);
        if packed {
            let ring = DriverPacked::at(self.base, self.size);
            (desc, driver, device) = (ring.ring, ring.driver, ring.device);
            self.ring = Ring::Packed(ring);
        } else {
            let ring = DriverRing::at(self.base, self.size);
            (desc, driver, device) = (ring.desc, ring.avail, ring.used);
            let free = (0..self.size).collect();
            self.ring = Ring::Split { ring, free, idx: 0 };
        }
        self.requests = [const { None }; SLOTS];
        self.order.clear();
        // What a ring of zeroes says.
        let at_first = !packed && self.has(feature::EVENT_IDX);
        self.wish = if at_first { Wish::At(0) } else { Wish::Always };
        (self.offered, self.shown, self.kicked) = (0, 0, 0);
        (self.used, self.taken, self.done) = (0, 0, 0);
        window.write(reg::QUEUE_SEL, self.queue);
        assert!(window.read(reg::QUEUE_SIZE_MAX) >= u32::from(QUEUE_SIZE));
        assert_eq!(window.read(reg::QUEUE_READY), 0);
        window.write(reg::QUEUE_SIZE, self.size.into());
        for (offset, address) in [
            (reg::QUEUE_DESC, desc),
            (reg::QUEUE_DRIVER, driver),
            (reg::QUEUE_DEVICE, device),
        ] {
            window.write(offset, address as u32);
            window.write(offset + 4, (address >> 32) as u32);
        }
        window.write(reg::QUEUE_READY, 1);
        assert_eq!(window.read(reg::QUEUE_READY), 1);
    }

    /// Resets the queue and sets it up again, if that was negotiated. What was under way is lost.
    pub fn renew_queue(&mut self, window: &mut dyn Window, mem: &FakeMemory) {
        if self.has(feature::RING_RESET) {
            window.write(reg::QUEUE_SEL, self.queue);
            window.write(reg::QUEUE_RESET, 1);
            assert_eq!(window.read(reg::QUEUE_RESET), 0);
            self.set_up_queue(window, mem);
        }
    }

    /// Requests that are under way.
    pub fn under_way(&self) -> usize {
        self.order.len()
    }

    /// Where a request's own memory is.
    fn place(&self, slot: usize) -> u64 {
        self.base + STRIDE * (1 + slot as u64)
    }

    /// Offers a request of any kind; the device does not see it before [`Driver::show`], unless the ring is packed.
    pub fn offer(&mut self, source: &mut Source<'_>, mem: &FakeMemory) {
        let kind = match source.below(10) {
            0..=2 => 0,
            3..=5 => 1,
            6 => 4,
            7 => 8,
            8 => source.pick(&[11, 13]),
            _ => source.pick(&[2, 3, 5, 100, u32::MAX]),
        };
        let sectors = source.between(1, 4);
        // The last ones run over the disk's end.
        let sector = if source.rarely() {
            source.edge()
        } else {
            source.between(0, SECTORS)
        };
        let shape = Shape::read(source);
        let mut ranges = Vec::new();
        let len = match kind {
            0 | 1 => sectors as u32 * 512,
            8 => source.pick(&[20, 20, 19, 21, 0]),
            11 | 13 => {
                for _ in 0..source.between(1, 4) {
                    ranges.push((source.between(0, SECTORS), source.between(0, 5) as u32));
                }
                ranges.len() as u32 * 16
            }
            _ => 0,
        };
        self.offer_this(mem, kind, sector, len, ranges, &shape, source);
    }

    /// Offers a read of some sectors in the plainest shape. Returns whether there was room.
    pub fn offer_read(&mut self, mem: &FakeMemory, sector: u64, sectors: u32) -> bool {
        let mut none = Source::new(&[]);
        let shape = Shape::default();
        self.offer_this(mem, 0, sector, sectors * 512, Vec::new(), &shape, &mut none)
    }

    #[allow(clippy::too_many_arguments, reason = "a request has many parts")]
    fn offer_this(
        &mut self,
        mem: &FakeMemory,
        kind: u32,
        sector: u64,
        len: u32,
        ranges: Vec<(u64, u32)>,
        shape: &Shape,
        source: &mut Source<'_>,
    ) -> bool {
        let slots = SLOTS.min(self.size.into());
        let Some(slot) = (0..slots).find(|slot| self.requests[*slot].is_none()) else {
            return false;
        };
        let at = self.place(slot);
        let to_driver = !matches!(kind, 1 | 11 | 13);
        let mut pieces = Vec::new();
        cut(&mut pieces, at + HEADER, 16, 0, &shape.header);
        let flags = if to_driver { WRITE } else { 0 };
        cut(&mut pieces, at + DATA, len, flags, &shape.data);
        pieces.push((at + STATUS_BYTE, 1, WRITE));
        let Some((descriptors, entries)) = self.place_chain(mem, slot, &pieces, shape.indirect)
        else {
            return false;
        };
        // Everything is in place before the device can see it: a packed ring shows the chain at once, but the device
        // does not run in between.
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        mem.put(at + HEADER, &header);
        mem.put(at + STATUS_BYTE, &[0xee]);
        if kind == 1 {
            let mut bytes = vec![source.any::<u8>(); len as usize];
            bytes[0] = source.any();
            mem.put(at + DATA, &bytes);
        } else if !to_driver {
            let flat = ranges.iter().flat_map(|(sector, count)| {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&sector.to_le_bytes());
                bytes[8..12].copy_from_slice(&count.to_le_bytes());
                bytes
            });
            mem.put(at + DATA, &flat.collect::<Vec<u8>>());
        } else {
            mem.put(at + DATA, &vec![0xdd; len as usize]);
        }
        let writable = pieces
            .iter()
            .filter(|(.., flags)| flags & WRITE != 0)
            .map(|(at, len, _)| *at..*at + u64::from(*len))
            .collect();
        let expected = judge(kind, sector, len, &ranges);
        self.requests[slot] = Some(Request {
            kind,
            sector,
            len,
            ranges,
            expected,
            writable,
            descriptors,
            entries,
        });
        self.order.push_back(slot);
        self.offered += entries;
        if matches!(self.ring, Ring::Packed(_)) {
            self.shown = self.offered;
        }
        true
    }

    /// Puts the descriptors where the device will find them; `None` if there is no room. Returns the queue's
    /// descriptors and how many entries of the ring they take.
    fn place_chain(
        &mut self,
        mem: &FakeMemory,
        slot: usize,
        pieces: &[(u64, u32, u16)],
        indirect: bool,
    ) -> Option<(Vec<u16>, u64)> {
        let indirect = indirect && self.has(feature::INDIRECT_DESC);
        let table = self.place(slot);
        let needed = if indirect { 1 } else { pieces.len() };
        let room = u64::from(self.size) - (self.offered - self.taken);
        if matches!(self.ring, Ring::Packed(_)) && needed as u64 > room {
            return None;
        }
        let mut list = pieces.to_vec();
        if indirect {
            let split = matches!(self.ring, Ring::Split { .. });
            for (n, &(at, len, flags)) in pieces.iter().enumerate() {
                let last = n + 1 == pieces.len();
                let (next, number) = if split && !last {
                    (NEXT, n as u16 + 1)
                } else {
                    (0, 0)
                };
                // The last two fields are the other way round in a packed ring.
                let (third, fourth) = if split {
                    (flags | next, number)
                } else {
                    (0, flags)
                };
                describe(mem, table + n as u64 * 16, (at, len, third, fourth));
            }
            list = vec![(table, pieces.len() as u32 * 16, INDIRECT)];
        }
        match &mut self.ring {
            Ring::Split { ring, free, idx } => {
                if free.len() < needed {
                    return None;
                }
                let taken: Vec<u16> = free.drain(..needed).collect();
                for (n, (&index, &(at, len, flags))) in taken.iter().zip(&list).enumerate() {
                    let next = taken.get(n + 1);
                    let flags = flags | if next.is_some() { NEXT } else { 0 };
                    ring.describe(mem, index, at, len, flags, next.copied().unwrap_or(0));
                }
                let entry = ring.avail + 4 + u64::from(*idx % ring.size) * 2;
                mem.put(entry, &taken[0].to_le_bytes());
                *idx = idx.wrapping_add(1);
                Some((taken, 1))
            }
            Ring::Packed(ring) => {
                ring.offer(mem, slot as u16, &list);
                Some((Vec::new(), needed as u64))
            }
        }
    }

    /// Shows the device what was offered.
    pub fn show(&mut self, mem: &FakeMemory) {
        if let Ring::Split { ring, idx, .. } = &self.ring {
            ring.set_avail_idx(mem, *idx);
        }
        self.shown = self.offered;
    }

    /// Kicks, unless the device has said that it need not be.
    pub fn kick(&mut self, window: &mut dyn Window, mem: &FakeMemory) {
        self.show(mem);
        let (old, new) = (std::mem::replace(&mut self.kicked, self.shown), self.shown);
        let event_idx = self.has(feature::EVENT_IDX);
        let (wanted, place) = match &self.ring {
            Ring::Split { ring, idx, .. } => {
                let wanted = if event_idx {
                    contains(old, new, ring.avail_event(mem).into(), 1 << 16)
                } else {
                    ring.used_flags(mem) & 1 == 0
                };
                (wanted, *idx)
            }
            Ring::Packed(ring) => {
                let (flags, word) = ring.device_events(mem);
                let wanted = match flags & 3 {
                    0 => true,
                    1 => false,
                    _ => contains(old, new, self.entry_of(word), 2 * u64::from(self.size)),
                };
                (wanted, ring.avail_word())
            }
        };
        if wanted && old != new {
            let data = if self.has(feature::NOTIFICATION_DATA) {
                u32::from(place) << 16
            } else {
                0
            };
            window.write(reg::QUEUE_NOTIFY, self.queue | data);
        }
    }

    /// The number of the entry, up to two rounds of a packed ring, that an event word means.
    fn entry_of(&self, word: u16) -> u64 {
        let lap = if word >> 15 == 1 {
            0
        } else {
            u64::from(self.size)
        };
        lap + u64::from(word & 0x7fff)
    }

    /// Changes when the driver wants interrupts.
    pub fn wish(&mut self, source: &mut Source<'_>, mem: &FakeMemory) {
        let event_idx = self.has(feature::EVENT_IDX);
        self.wish = match source.below(3) {
            0 if event_idx => Wish::At(self.taken + source.below(4) as u64),
            0 | 1 => Wish::Always,
            _ => Wish::Never,
        };
        match &self.ring {
            Ring::Split { ring, .. } if event_idx => {
                // There is no other way to say always or never.
                let at = match self.wish {
                    Wish::At(entry) => entry,
                    _ => self.taken,
                };
                self.wish = Wish::At(at);
                ring.set_used_event(mem, at as u16);
            }
            Ring::Split { ring, .. } => {
                ring.set_avail_flags(mem, u16::from(self.wish == Wish::Never));
            }
            Ring::Packed(ring) => {
                let (flags, word) = match self.wish {
                    Wish::Always => (0, 0),
                    Wish::Never => (1, 0),
                    Wish::At(entry) => (2, self.word_of(entry)),
                };
                ring.set_events(mem, flags, word);
            }
        }
    }

    fn word_of(&self, entry: u64) -> u16 {
        let size = u64::from(self.size);
        let wrap = (entry / size).is_multiple_of(2);
        (entry % size) as u16 | u16::from(wrap) << 15
    }

    /// What the device may write now.
    pub fn may_write(&self) -> Vec<Range<u64>> {
        let mut allowed: Vec<Range<u64>> = self
            .requests
            .iter()
            .flatten()
            .flat_map(|request| request.writable.clone())
            .collect();
        match &self.ring {
            Ring::Split { ring, .. } => allowed.push(ring.used..ring.end()),
            Ring::Packed(ring) => {
                let end = ring.ring + u64::from(ring.size) * 16;
                allowed.extend([ring.ring..end, ring.device..ring.device + 4]);
            }
        }
        allowed
    }

    /// The device has run and says that it took `count` requests; `before` and `after` say whether the queue's bit in
    /// InterruptStatus was set. Checks that the interrupt came if and only if it had to.
    pub fn ran(&mut self, count: u64, before: bool, after: bool) {
        let old = self.used;
        for _ in 0..count {
            let slot = *self.order.get(self.done).expect("no more than was offered");
            self.used += self.requests[slot]
                .as_ref()
                .map_or(0, |request| request.entries);
            self.done += 1;
        }
        assert!(self.used <= self.shown);
        let period = match self.ring {
            Ring::Split { .. } => 1 << 16,
            Ring::Packed(_) => 2 * u64::from(self.size),
        };
        let (must, may) = match self.wish {
            _ if old == self.used => (false, false),
            Wish::Always => (true, true),
            Wish::Never => (false, false),
            Wish::At(entry) => {
                let must = (old..self.used).contains(&entry);
                let may =
                    contains(old, self.used, entry, period) || self.used - old >= self.size.into();
                (must, may)
            }
        };
        assert!(
            !must || after,
            "an interrupt is missing: {old} to {}, {:?}",
            self.used,
            self.wish
        );
        assert!(
            may || before || !after,
            "an interrupt that nobody wants: {old} to {}, {:?}",
            self.used,
            self.wish
        );
    }

    /// Takes back what the device has used, and checks all of it.
    pub fn take_back(&mut self, mem: &FakeMemory) {
        while let Some((slot, written)) = self.next_used(mem) {
            assert_eq!(
                self.order.pop_front(),
                Some(slot),
                "requests come back in order"
            );
            self.done = self
                .done
                .checked_sub(1)
                .expect("only what the device has taken");
            let request = self.requests[slot].take().expect("under way");
            self.taken += request.entries;
            if let Ring::Split { free, .. } = &mut self.ring {
                free.extend(&request.descriptors);
            }
            self.check(mem, slot, &request, written);
        }
        assert_eq!(self.done, 0, "what the device has taken is used");
    }

    fn next_used(&mut self, mem: &FakeMemory) -> Option<(usize, u32)> {
        match &mut self.ring {
            Ring::Split { ring, .. } => {
                let taken = self.taken as u16;
                if ring.used_idx(mem) == taken {
                    return None;
                }
                let (head, written) = ring.used_element(mem, taken);
                let slot = self.requests.iter().position(|request| {
                    request
                        .as_ref()
                        .is_some_and(|r| u32::from(r.descriptors[0]) == head)
                });
                Some((slot.expect("a head that was offered"), written))
            }
            Ring::Packed(ring) => {
                let (id, written) = ring.take_used(mem)?;
                Some((id.into(), written))
            }
        }
    }

    fn check(&mut self, mem: &FakeMemory, slot: usize, request: &Request, written: u32) {
        let at = self.place(slot);
        let [status] = mem.get(at + STATUS_BYTE);
        let expected = &request.expected;
        assert_eq!(
            (status, written),
            (expected.status, expected.used),
            "{request:?}"
        );
        let len = request.len as usize;
        let data = copy_out(mem, at + DATA, len);
        if status != 0 {
            let untouched = matches!(request.kind, 1 | 11 | 13) || data.iter().all(|b| *b == 0xdd);
            assert!(untouched, "a failed request leaves the buffers alone");
            return;
        }
        let place = |sector: u64| (sector * 512) as usize;
        match request.kind {
            0 => {
                let from = place(request.sector);
                assert!(data == self.disk[from..from + len], "{request:?}");
            }
            1 => {
                let to = place(request.sector);
                self.disk[to..to + len].copy_from_slice(&data);
            }
            8 => assert_eq!(&data[..20], SERIAL),
            11 | 13 => {
                for &(sector, count) in &request.ranges {
                    self.disk[place(sector)..place(sector + u64::from(count))].fill(0);
                }
            }
            _ => {}
        }
    }

    /// Takes over what the read that is under way has found from `sector` on, after a driver was spoiled.
    pub fn learn(&mut self, mem: &FakeMemory, sector: u64) {
        let at = self.place(*self.order.front().expect("under way"));
        let bytes: [u8; 2048] = mem.get(at + DATA);
        let from = (sector * 512) as usize;
        self.disk[from..from + 2048].copy_from_slice(&bytes);
    }

    /// Breaks something: a field of a descriptor, an index, an address, a header.
    pub fn spoil(&mut self, source: &mut Source<'_>, mem: &FakeMemory) {
        self.spoiled = true;
        let (at, bytes) = self.wrong_bytes(source);
        mem.put(at, &bytes);
    }

    /// Bytes that break something, and where they go: for now, or for while the device reads.
    pub fn wrong_bytes(&self, source: &mut Source<'_>) -> (u64, Vec<u8>) {
        let base = if source.coin() {
            self.base
        } else {
            self.place(source.below(SLOTS))
        };
        let descriptor = base + 16 * source.below(usize::from(self.size).min(16)) as u64;
        let address = source.pick(&[
            self.base,
            base,
            0,
            0xffff,
            u64::MAX,
            0xfea0_0000,
            0xc000,
            0xbff8,
        ]);
        let flags: u16 = source.pick(&[
            NEXT,
            WRITE,
            INDIRECT,
            NEXT | INDIRECT,
            NEXT | WRITE,
            0x80,
            0x8000,
            0x8080,
            7,
        ]);
        let number: u16 = match source.below(3) {
            0 => source.below(usize::from(self.size) + 2) as u16,
            1 => source.any(),
            _ => self.size,
        };
        let len: u32 = source.pick(&[0, 1, 15, 16, 17, 511, 512, 4096, 16 * 64, 1 << 16, u32::MAX]);
        let rings = match &self.ring {
            Ring::Split { ring, .. } => [ring.avail, ring.avail + 2, ring.avail + 4, ring.used],
            Ring::Packed(ring) => [ring.driver, ring.driver + 2, ring.device, ring.device + 2],
        };
        match source.below(8) {
            0 => (descriptor, address.to_le_bytes().to_vec()),
            1 => (descriptor + 8, len.to_le_bytes().to_vec()),
            2 => (descriptor + 12, flags.to_le_bytes().to_vec()),
            3 => (descriptor + 14, flags.to_le_bytes().to_vec()),
            4 => (descriptor + 14, number.to_le_bytes().to_vec()),
            5 => (source.pick(&rings), number.to_le_bytes().to_vec()),
            6 => (
                self.place(source.below(SLOTS)) + HEADER + source.below(16) as u64,
                vec![source.any()],
            ),
            _ => (
                self.base + source.below(FOOTPRINT as usize - 8) as u64,
                source.array::<4>().to_vec(),
            ),
        }
    }
}

/// In what pieces a request comes.
#[derive(Debug, Default)]
struct Shape {
    indirect: bool,
    header: Vec<u32>,
    data: Vec<u32>,
}

impl Shape {
    fn read(source: &mut Source<'_>) -> Self {
        let mut cuts = |most| {
            let count = source.pick(&[0, 0, 0, 1, 2]);
            (0..count).map(|_| source.between(1, most) as u32).collect()
        };
        Self {
            header: cuts(15),
            data: cuts(2047),
            indirect: source.coin(),
        }
    }
}

/// Pieces of a buffer, cut at these offsets.
fn cut(pieces: &mut Vec<(u64, u32, u16)>, at: u64, len: u32, flags: u16, cuts: &[u32]) {
    let mut ends: Vec<u32> = cuts.iter().copied().filter(|end| *end < len).collect();
    ends.extend((len > 0).then_some(len));
    ends.sort_unstable();
    ends.dedup();
    let mut start = 0;
    for end in ends {
        pieces.push((at + u64::from(start), end - start, flags));
        start = end;
    }
}

fn copy_out(mem: &FakeMemory, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while len - bytes.len() >= 64 {
        bytes.extend(mem.get::<64>(at + bytes.len() as u64));
    }
    while bytes.len() < len {
        bytes.extend(mem.get::<1>(at + bytes.len() as u64));
    }
    bytes
}

fn describe(mem: &FakeMemory, at: u64, (addr, len, third, fourth): (u64, u32, u16, u16)) {
    mem.put(at, &addr.to_le_bytes());
    mem.put(at + 8, &len.to_le_bytes());
    mem.put(at + 12, &third.to_le_bytes());
    mem.put(at + 14, &fourth.to_le_bytes());
}

/// What the specification says about a request (virtio 1.3, 5.2.6).
fn judge(kind: u32, sector: u64, len: u32, ranges: &[(u64, u32)]) -> Expected {
    const OK: u8 = 0;
    const IOERR: u8 = 1;
    const UNSUPP: u8 = 2;
    let fits =
        |sector: u64, count: u64| sector.checked_add(count).is_some_and(|end| end <= SECTORS);
    let (status, written, room) = match kind {
        0 if fits(sector, u64::from(len) / 512) => (OK, len, len),
        0 => (IOERR, 0, len),
        1 if fits(sector, u64::from(len) / 512) => (OK, 0, 0),
        1 => (IOERR, 0, 0),
        4 => (OK, 0, len),
        8 if len >= 20 => (OK, 20, len),
        8 => (IOERR, 0, len),
        11 | 13
            if ranges
                .iter()
                .all(|&(sector, count)| fits(sector, count.into())) =>
        {
            (OK, 0, 0)
        }
        11 | 13 => (IOERR, 0, 0),
        _ => (UNSUPP, 0, len),
    };
    // The status byte counts if there is no gap before it.
    Expected {
        status,
        used: written + u32::from(written == room),
    }
}

/// Whether an event number, of which one in `period` is meant, is in a range of numbers.
fn contains(from: u64, to: u64, event: u64, period: u64) -> bool {
    let ahead = (event % period + period - from % period) % period;
    from + ahead < to
}
