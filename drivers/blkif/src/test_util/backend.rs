//! A back end with a disk and a cache.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use vd_pv::test_util::{FakePlatform, Memory};

use crate::disk::Disk;

const OP_READ: u8 = 0;
const OP_WRITE: u8 = 1;
const OP_BARRIER: u8 = 2;
const OP_FLUSH: u8 = 3;
const OP_DISCARD: u8 = 5;
const OP_INDIRECT: u8 = 6;

/// A ring, from this side.
#[derive(Debug)]
struct Ring {
    grefs: Vec<u32>,
    pages: Vec<usize>,
    slots: u32,
    taken: u32,
    given: u32,
}

/// A request that was taken and not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which ring.
    pub ring: usize,
    /// Its id.
    pub id: u64,
    /// `BLKIF_OP_*`; for one with a list, what it is besides.
    pub op: u8,
    /// Whether its segments were on a page of their own.
    pub indirect: bool,
    /// First sector.
    pub sector: u64,
    /// Sectors of a discard.
    pub sectors: u64,
    /// Grant, first and last sector.
    pub segments: Vec<(u32, u8, u8)>,
}

/// How a back end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It has closed by itself: what it had taken is done or not, but nothing that it has answered is lost.
    Closed,
    /// Its domain died: what was in its cache is lost.
    Died,
}

/// A back end.
#[derive(Debug)]
pub struct FakeBackend {
    memory: Rc<RefCell<Memory>>,
    /// Whose grants it may use.
    pub domain: u16,
    rings: Vec<Ring>,
    /// What is stored, with what is in the cache.
    pub disk: Vec<u8>,
    /// What is stored for good.
    pub durable: Vec<u8>,
    /// Whether it keeps pages mapped.
    pub persistent: bool,
    /// Names the inner operation in answers to requests with lists, as one back end does.
    pub inner_op: bool,
    /// Requests that were not answered.
    pub pending: Vec<Pending>,
    kept: BTreeSet<u32>,
    /// Sectors of each request that was carried out, by operation.
    pub log: Vec<(u8, u64, u64)>,
}

impl FakeBackend {
    /// A disk of so many sectors, all zeroes.
    pub fn new(platform: &FakePlatform, domain: u16, sectors: usize) -> Self {
        Self {
            memory: platform.0.clone(),
            domain,
            rings: Vec::new(),
            disk: vec![0; sectors * 512],
            durable: vec![0; sectors * 512],
            persistent: true,
            inner_op: true,
            pending: Vec::new(),
            kept: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    /// Its disk in sectors.
    pub fn sectors(&self) -> u64 {
        self.disk.len() as u64 / 512
    }

    /// Maps the rings that a disk offers.
    pub fn connect(&mut self, disk: &Disk<FakePlatform>) {
        let rings: Vec<Vec<u32>> = disk
            .channels()
            .map(|channel| channel.pages.iter().flatten().copied().collect())
            .collect();
        self.attach(&rings);
    }

    /// Maps rings: the grants of the pages of each.
    pub fn attach(&mut self, rings: &[Vec<u32>]) {
        assert!(self.rings.is_empty());
        for grefs in rings {
            let pages: Vec<_> = grefs
                .iter()
                .map(|&gref| self.memory.borrow_mut().map(self.domain, gref))
                .collect();
            let fit = (pages.len() * 4096 - 64) / 112;
            self.rings.push(Ring {
                grefs: grefs.clone(),
                slots: 1 << fit.ilog2(),
                pages,
                taken: 0,
                given: 0,
            });
        }
    }

    /// Slots of a ring.
    pub fn slots(&self, ring: usize) -> u32 {
        self.rings[ring].slots
    }

    fn at(&self, ring: usize, offset: usize) -> (usize, usize) {
        (self.rings[ring].pages[offset / 4096], offset % 4096)
    }

    fn index(&self, ring: usize, at: usize) -> u32 {
        let (page, at) = self.at(ring, at);
        let bytes = self.memory.borrow().get(page, at, 4);
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Writes one of the ring's four indices, by its offset.
    pub fn set_index(&mut self, ring: usize, at: usize, value: u32) {
        let (page, at) = self.at(ring, at);
        self.memory.borrow_mut().put(page, at, &value.to_le_bytes());
    }

    fn slot(&self, ring: usize, index: u32) -> Vec<u8> {
        let start = 64 + (index % self.rings[ring].slots) as usize * 112;
        (start..start + 112)
            .map(|offset| {
                let (page, at) = self.at(ring, offset);
                self.memory.borrow().get(page, at, 1)[0]
            })
            .collect()
    }

    /// Takes all requests that there are, and wants an event for the next. Returns how many.
    pub fn take(&mut self) -> usize {
        let before = self.pending.len();
        for ring in 0..self.rings.len() {
            let produced = self.index(ring, 0);
            let state = &self.rings[ring];
            assert!(
                produced.wrapping_sub(state.given) <= state.slots,
                "more requests than slots"
            );
            while self.rings[ring].taken != produced {
                let taken = self.rings[ring].taken;
                let bytes = self.slot(ring, taken);
                let request = self.parse(ring, &bytes);
                self.pending.push(request);
                self.rings[ring].taken = taken.wrapping_add(1);
            }
            self.set_index(ring, 4, produced.wrapping_add(1));
        }
        self.pending.len() - before
    }

    fn parse(&mut self, ring: usize, bytes: &[u8]) -> Pending {
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let segment = |bytes: &[u8]| {
            let gref = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            (gref, bytes[4], bytes[5])
        };
        let mut request = Pending {
            ring,
            id: u64_at(8),
            op: bytes[0],
            indirect: false,
            sector: u64_at(16),
            sectors: 0,
            segments: Vec::new(),
        };
        match request.op {
            OP_READ | OP_WRITE | OP_BARRIER | OP_FLUSH => {
                let count = usize::from(bytes[1]);
                assert!(count <= 11);
                request.segments = (0..count).map(|n| segment(&bytes[24 + n * 8..])).collect();
            }
            OP_DISCARD => request.sectors = u64_at(24),
            OP_INDIRECT => {
                request.op = bytes[1];
                request.indirect = true;
                let count = usize::from(u16_at(2));
                assert!(count <= 512, "the front end gives one page");
                let list = self.memory.borrow_mut().map(self.domain, u32_at(28));
                let list = self.memory.borrow().get(list, 0, count * 8);
                self.memory.borrow_mut().unmap(u32_at(28));
                request.segments = list.chunks(8).map(segment).collect();
            }
            other => panic!("operation {other}"),
        }
        let moves = matches!(request.op, OP_READ | OP_WRITE);
        assert!(moves != request.segments.is_empty());
        request
    }

    /// Carries a request out without answering it. Returns the status.
    pub fn perform(&mut self, request: &Pending) -> i16 {
        let mut sector = request.sector as usize;
        for &(gref, first, last) in &request.segments {
            assert!(first <= last && last < 8);
            let page = self.memory.borrow_mut().map(self.domain, gref);
            if self.persistent {
                self.kept.insert(gref);
            }
            let (start, len) = (
                usize::from(first) * 512,
                usize::from(last - first + 1) * 512,
            );
            let range = sector * 512..sector * 512 + len;
            let Some(stored) = self.disk.get_mut(range) else {
                return -1;
            };
            if request.op == OP_READ {
                self.memory.borrow_mut().put(page, start, stored);
            } else {
                stored.copy_from_slice(&self.memory.borrow().get(page, start, len));
            }
            sector += len / 512;
            if !self.persistent {
                self.memory.borrow_mut().unmap(gref);
            }
        }
        let sectors = match request.op {
            OP_DISCARD => {
                let end = (request.sector + request.sectors) as usize * 512;
                let Some(stored) = self.disk.get_mut(sector * 512..end) else {
                    return -1;
                };
                stored.fill(0xdd);
                request.sectors
            }
            OP_BARRIER | OP_FLUSH => {
                self.durable.clone_from(&self.disk);
                0
            }
            _ => sector as u64 - request.sector,
        };
        self.log.push((request.op, request.sector, sectors));
        0
    }

    /// Answers a request. Returns whether the front end wants an event for that.
    pub fn answer(&mut self, request: &Pending, status: i16) -> bool {
        let op = if request.indirect && !self.inner_op {
            OP_INDIRECT
        } else {
            request.op
        };
        self.respond(request.ring, request.id, op, status)
    }

    /// Puts any response on a ring. Returns whether the front end wants an event for that.
    pub fn respond(&mut self, ring: usize, id: u64, op: u8, status: i16) -> bool {
        let given = self.rings[ring].given;
        let mut response = [0xcc; 16];
        response[..8].copy_from_slice(&id.to_le_bytes());
        response[8] = op;
        response[10..12].copy_from_slice(&status.to_le_bytes());
        let start = 64 + (given % self.rings[ring].slots) as usize * 112;
        for (offset, byte) in (start..).zip(response) {
            let (page, at) = self.at(ring, offset);
            self.memory.borrow_mut().put(page, at, &[byte]);
        }
        self.rings[ring].given = given.wrapping_add(1);
        self.set_index(ring, 8, given.wrapping_add(1));
        self.index(ring, 12) == given.wrapping_add(1)
    }

    /// Carries the n-th request that waits out, and answers it. Returns its status.
    pub fn serve(&mut self, n: usize) -> i16 {
        let request = self.pending.remove(n);
        let status = self.perform(&request);
        self.answer(&request, status);
        status
    }

    /// Answers the n-th request that waits, without carrying it out.
    pub fn refuse(&mut self, n: usize, status: i16) {
        let request = self.pending.remove(n);
        self.answer(&request, status);
    }

    /// Takes and serves everything. Returns how many requests that were.
    pub fn serve_all(&mut self) -> usize {
        self.take();
        let count = self.pending.len();
        for _ in 0..count {
            self.serve(0);
        }
        count
    }

    /// Lets go of everything. Of what was taken, `done` says what is carried out all the same.
    pub fn cut(&mut self, cut: Cut, mut done: impl FnMut(usize) -> bool) {
        for (n, request) in core::mem::take(&mut self.pending).iter().enumerate() {
            if done(n) {
                self.perform(request);
            }
        }
        if cut == Cut::Died {
            self.disk.clone_from(&self.durable);
        }
        self.unmap();
    }

    /// Lets go of the rings and of everything that was kept mapped.
    pub fn unmap(&mut self) {
        let memory = &mut *self.memory.borrow_mut();
        let rings = self.rings.drain(..).flat_map(|ring| ring.grefs);
        for gref in rings.chain(core::mem::take(&mut self.kept)) {
            memory.unmap(gref);
        }
    }
}
