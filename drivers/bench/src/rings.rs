//! Queues: taking chains, giving them back, the two decisions.

use std::hint::black_box;

use vd_virtio::queue::{Area, Interrupt, QueueConfig};
use vd_virtio::{Chain, Features, Queue};

use crate::memory::Memory;
use crate::{TIMES, done, measured};

/// Entries of the ring.
const SIZE: u16 = 256;
const DESC: u64 = 0x1000;
const DRIVER: u64 = 0x2000;
const DEVICE: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const DATA: u64 = 0x1_0000;
const MEMORY: usize = 0x2_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A ring with its driver, which offers chains of one length, one at a time.
pub(crate) struct Ring {
    pub(crate) mem: Memory,
    packed: bool,
    length: u16,
    indirect: bool,
    /// Requests so far; packed: entries.
    offered: u16,
    wrap: bool,
}

/// The addresses of a ring's areas, for whoever sets it up through registers.
pub(crate) const AREAS: [u64; 3] = [DESC, DRIVER, DEVICE];

/// Words of the set of heads in flight.
const HEADS: usize = SIZE as usize / 64;

impl Ring {
    pub(crate) fn new(packed: bool, length: u16, indirect: bool) -> Self {
        let ring = Ring {
            mem: Memory::new(MEMORY),
            packed,
            length,
            indirect,
            offered: 0,
            wrap: true,
        };
        // Tables and split chains stay where they are.
        let base = if indirect { TABLE } else { DESC };
        if indirect || !packed {
            for index in 0..length {
                ring.describe(base, index, index, 0);
            }
        }
        if indirect && !packed {
            let bytes = u32::from(length) * 16;
            ring.mem.describe(DESC, TABLE, bytes, [INDIRECT, 0]);
        }
        ring
    }

    /// Descriptor `step` of the chain, at `index` of a table: half are device-writable, the first is not.
    fn describe(&self, base: u64, index: u16, step: u16, marks: u16) {
        let next = if step + 1 < self.length { NEXT } else { 0 };
        let writes = if step != 0 && step >= self.length / 2 {
            WRITE
        } else {
            0
        };
        let flags = marks | next | writes;
        let last = if self.packed {
            [0, flags]
        } else {
            [flags, step + 1]
        };
        let addr = DATA + u64::from(step) * 0x40;
        self.mem
            .describe(base + u64::from(index) * 16, addr, 0x40, last);
    }

    /// Makes the chain available once more.
    pub(crate) fn offer(&mut self) {
        if !self.packed {
            let entry = DRIVER + 4 + u64::from(self.offered % SIZE) * 2;
            self.mem.put(entry, &[0, 0]);
            self.offered = self.offered.wrapping_add(1);
            self.mem.put(DRIVER + 2, &self.offered.to_le_bytes());
            return;
        }
        let entries = if self.indirect { 1 } else { self.length };
        for step in 0..entries {
            let marks = if self.wrap { AVAIL } else { USED };
            if self.indirect {
                let (at, bytes) = (DESC + u64::from(self.offered) * 16, self.length * 16);
                self.mem
                    .describe(at, TABLE, bytes.into(), [0, INDIRECT | marks]);
            } else {
                self.describe(DESC, self.offered, step, marks);
            }
            self.offered += 1;
            if self.offered == SIZE {
                self.offered = 0;
                self.wrap = !self.wrap;
            }
        }
    }

    /// Asks for an interrupt with the next request, or (split rings) for none soon.
    pub(crate) fn ask(&self, wanted: bool) {
        if self.packed {
            // By flags: descriptor events are the dearer case.
            let word = self.offered | u16::from(self.wrap) << 15;
            self.mem.put(DRIVER, &word.to_le_bytes());
            let flags: u16 = if wanted { 2 } else { 1 };
            self.mem.put(DRIVER + 2, &flags.to_le_bytes());
        } else {
            let event = self.offered.wrapping_sub((!wanted).into());
            let at = DRIVER + 4 + u64::from(SIZE) * 2;
            self.mem.put(at, &event.to_le_bytes());
        }
    }

    fn queue(&self) -> Queue {
        let mut config = QueueConfig::new(SIZE);
        config.set_size(SIZE.into());
        for (area, at) in [Area::Desc, Area::Driver, Area::Device]
            .into_iter()
            .zip(AREAS)
        {
            config.set_half(area, false, at as u32);
        }
        let mut features = Features::INDIRECT_DESC | Features::EVENT_IDX;
        features.set(Features::RING_PACKED, self.packed);
        config.activate(&self.mem, features, 1).unwrap()
    }

    fn kind(&self) -> &'static str {
        if self.packed { "packed" } else { "split" }
    }
}

/// Chains of a length: what it costs to take one.
fn walk(packed: bool, length: u16, indirect: bool) {
    let mut ring = Ring::new(packed, length, indirect);
    let (mut queue, mut chain) = (ring.queue(), Box::<Chain>::default());
    let heads = &mut [0; HEADS];
    for _ in 0..TIMES {
        ring.offer();
        let head = measured(|| queue.pop(&ring.mem, heads, &mut chain).unwrap()).unwrap();
        assert_eq!(chain.len(), usize::from(length));
        queue.add_used(&ring.mem, heads, head, 0).unwrap();
        queue.publish(&ring.mem).unwrap();
    }
    let table = if indirect { "in a table" } else { "direct" };
    let name = format!("{}: take a chain of {length}, {table}", ring.kind());
    done(&name, TIMES);
}

fn empty(packed: bool) {
    let ring = Ring::new(packed, 1, false);
    let (mut queue, mut chain) = (ring.queue(), Box::<Chain>::default());
    let heads = &mut [0; HEADS];
    for _ in 0..TIMES {
        assert!(measured(|| queue.pop(&ring.mem, heads, &mut chain).unwrap()).is_none());
    }
    done(&format!("{}: find nothing", ring.kind()), TIMES);
}

fn give_back(packed: bool) {
    let mut ring = Ring::new(packed, 3, false);
    let (mut queue, mut chain) = (ring.queue(), Box::<Chain>::default());
    let heads = &mut [0; HEADS];
    for _ in 0..TIMES {
        ring.offer();
        let head = queue.pop(&ring.mem, heads, &mut chain).unwrap().unwrap();
        measured(|| {
            queue.add_used(&ring.mem, heads, head, 64).unwrap();
            queue.publish(&ring.mem).unwrap();
        });
    }
    done(&format!("{}: give back and publish", ring.kind()), TIMES);
}

fn decide(packed: bool, wanted: bool) {
    let mut ring = Ring::new(packed, 3, false);
    let (mut queue, mut chain) = (ring.queue(), Box::<Chain>::default());
    let heads = &mut [0; HEADS];
    let expected = if wanted {
        Interrupt::Wanted
    } else {
        Interrupt::Unwanted
    };
    for _ in 0..TIMES {
        ring.ask(wanted);
        ring.offer();
        let head = queue.pop(&ring.mem, heads, &mut chain).unwrap().unwrap();
        queue.add_used(&ring.mem, heads, head, 64).unwrap();
        queue.publish(&ring.mem).unwrap();
        let decision = measured(|| queue.decide_interrupt(&ring.mem).unwrap());
        assert_eq!(decision, expected);
    }
    let which = if wanted { "wanted" } else { "not wanted" };
    done(
        &format!("{}: decide, interrupt {which}", ring.kind()),
        TIMES,
    );
}

fn enable(packed: bool) {
    let ring = Ring::new(packed, 1, false);
    let mut queue = ring.queue();
    for _ in 0..TIMES {
        black_box(measured(|| queue.enable_notifications(&ring.mem).unwrap()));
    }
    done(&format!("{}: ask for kicks", ring.kind()), TIMES);
}

/// All of them, for both kinds of ring.
pub(crate) fn all() {
    for packed in [false, true] {
        for length in [1, 3, 16, 128] {
            walk(packed, length, false);
        }
        for length in [1, 3, 16, 128] {
            walk(packed, length, true);
        }
        empty(packed);
        give_back(packed);
        decide(packed, true);
        decide(packed, false);
        enable(packed);
    }
}
