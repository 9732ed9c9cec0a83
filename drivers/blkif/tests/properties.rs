//! Random requests, answers out of order, errors, resets, back ends that go and come back: what is read, and what is
//! stored in the end, is what a disk may hold.
//!
//! The model knows for each sector which contents are possible: those of writes that have not ended, and the last ones that
//! have. A write that ends well rules out everything that had ended before it began. That is all a driver can rely on, and
//! it may rely on all of it, over any number of connections and resets (rows 19 and 39 of the attack cases).

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{DISCARD, FLUSH, IN, IOERR, NONE, OK, OUT, QUEUES, Rig, Setup, ZEROES};
use proptest::prelude::*;
use vd_blkif::nodes::Offer;
use vd_blkif::test_util::Cut;

const SECTORS: u64 = 128;
const SLOTS: u16 = 12;
const DATA_PAGES: u16 = 12;
/// What is asked of the back end in one piece.
const MAX_SECTORS: u64 = DATA_PAGES as u64 * 8;

/// What a sector is full of.
type Content = u16;
const ZERO: Content = 0;
const DISCARDED: Content = 0xdddd;

#[derive(Clone, Debug)]
enum Step {
    Issue {
        queue: usize,
        kind: u32,
        sector: u64,
        sectors: u64,
    },
    Take,
    Serve(usize),
    Refuse(usize),
    Reset,
    Cut {
        died: bool,
        done: u64,
    },
    Drain,
    Break,
    Connect {
        indirect: u16,
        ring_order: u8,
        queues: u16,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        4 => Just(OUT),
        3 => Just(IN),
        1 => Just(FLUSH),
        1 => Just(ZEROES),
        1 => Just(DISCARD),
    ];
    let sectors = prop_oneof![6 => 1..12u64, 1 => 60..SECTORS];
    let issue =
        (0..QUEUES, kind, 0..SECTORS, sectors).prop_map(|(queue, kind, sector, sectors)| {
            Step::Issue {
                queue,
                kind,
                sector,
                sectors: sectors.min(SECTORS - sector),
            }
        });
    let connect = (prop_oneof![Just(0), Just(16), Just(32)], 0..=1u8, 1..=2u16).prop_map(
        |(indirect, ring_order, queues)| Step::Connect {
            indirect,
            ring_order,
            queues,
        },
    );
    let step = prop_oneof![
        12 => issue,
        6 => Just(Step::Take),
        10 => any::<usize>().prop_map(Step::Serve),
        1 => any::<usize>().prop_map(Step::Refuse),
        1 => Just(Step::Reset),
        1 => (any::<bool>(), any::<u64>()).prop_map(|(died, done)| Step::Cut { died, done }),
        1 => Just(Step::Drain),
        1 => Just(Step::Break),
        4 => connect,
    ];
    prop::collection::vec(step, 1..150)
}

/// A content that a sector may have.
#[derive(Clone, Copy)]
struct Possible {
    content: Content,
    /// When the write ended, well or not; None while it is under way.
    ended: Option<u64>,
    /// It has ended well: the driver relies on it.
    well: bool,
    /// The request it is of.
    number: u64,
}

struct Request {
    number: u64,
    kind: u32,
    sector: u64,
    sectors: u64,
    content: Content,
    issued: u64,
    /// For reads: what each sector may have been since then.
    seen: Vec<BTreeSet<Content>>,
    /// A part of it may have been answered by a back end that lost it: it may end well all the same, like a request that
    /// ended well before. Only a flush tells.
    spoiled: bool,
    /// For flushes: what each sector may have been then.
    then: Vec<BTreeSet<Content>>,
}

struct World {
    rig: Rig,
    now: u64,
    possible: Vec<Vec<Possible>>,
    /// What each sector may have been since it was last made durable.
    since_flush: Vec<BTreeSet<Content>>,
    requests: BTreeMap<u16, Request>,
    queues: BTreeMap<u16, usize>,
    dropped: BTreeSet<u16>,
    /// Something that the driver relies on was lost, and nobody was told yet.
    untold: bool,
    connected: bool,
}

impl World {
    fn new() -> Self {
        let mut setup = Setup::new(SECTORS);
        setup.config.data_pages = DATA_PAGES;
        setup.config.list_pages = 1;
        setup.config.operations = 6;
        setup.config.max_ring_order = 1;
        setup.room.requests = 8;
        setup.bytes = SECTORS * 512;
        setup.slots = SLOTS;
        let first = Possible {
            content: ZERO,
            ended: Some(0),
            well: true,
            number: 0,
        };
        Self {
            rig: Rig::new(setup),
            now: 1,
            possible: vec![vec![first]; SECTORS as usize],
            since_flush: vec![BTreeSet::from([ZERO]); SECTORS as usize],
            requests: BTreeMap::new(),
            queues: BTreeMap::new(),
            dropped: BTreeSet::new(),
            untold: false,
            connected: true,
        }
    }

    fn range(sector: u64, sectors: u64) -> core::ops::Range<usize> {
        sector as usize..(sector + sectors) as usize
    }

    fn contents(&self, sector: usize) -> BTreeSet<Content> {
        self.possible[sector].iter().map(|p| p.content).collect()
    }

    fn issue(&mut self, queue: usize, kind: u32, sector: u64, sectors: u64) {
        let Some(slot) = (0..SLOTS).find(|slot| !self.requests.contains_key(slot)) else {
            return;
        };
        self.dropped.remove(&slot);
        let number = self.now;
        let content = match kind {
            ZEROES => ZERO,
            DISCARD => DISCARDED,
            _ => 1 + (number % 50_000) as Content,
        };
        let range = Self::range(sector, sectors);
        let mut request = Request {
            number,
            kind,
            sector,
            sectors,
            content,
            issued: self.now,
            seen: Vec::new(),
            then: Vec::new(),
            spoiled: false,
        };
        let at = self.rig.data_at(slot);
        let len = sectors * 512;
        match kind {
            IN => {
                request.seen = range.map(|sector| self.contents(sector)).collect();
                self.rig.mem.put(at, &vec![0xee; len as usize]);
                self.rig.offer(queue, slot, kind, sector, len);
            }
            FLUSH => {
                request.then = (0..SECTORS as usize).map(|s| self.contents(s)).collect();
                self.rig.offer(queue, slot, kind, 0, 0);
            }
            _ => {
                for sector in range {
                    self.possible[sector].push(Possible {
                        content,
                        ended: None,
                        well: false,
                        number,
                    });
                    self.may_be(sector, content);
                }
                if kind == OUT {
                    let data = content.to_le_bytes().repeat(len as usize / 2);
                    self.rig.mem.put(at, &data);
                    self.rig.offer(queue, slot, kind, sector, len);
                } else {
                    self.rig.mem.put(at, &sector.to_le_bytes());
                    self.rig.mem.put(at + 8, &(sectors as u32).to_le_bytes());
                    self.rig.mem.put(at + 12, &[0; 4]);
                    self.rig.offer(queue, slot, kind, 0, 16);
                }
            }
        }
        self.requests.insert(slot, request);
        self.queues.insert(slot, queue);
    }

    /// From now on a sector may have this content.
    fn may_be(&mut self, sector: usize, content: Content) {
        self.since_flush[sector].insert(content);
        for request in self.requests.values_mut() {
            if request.kind == FLUSH {
                request.then[sector].insert(content);
            }
            let range = Self::range(request.sector, request.sectors);
            if request.kind == IN && range.contains(&sector) {
                request.seen[sector - range.start].insert(content);
            }
        }
    }

    /// Takes what the guest got back.
    fn collect(&mut self) {
        self.rig.run();
        for queue in 0..QUEUES {
            for (slot, _) in self.rig.take_used(queue) {
                let request = self
                    .requests
                    .remove(&slot)
                    .expect("under way, and given back once");
                assert_eq!(self.queues.remove(&slot), Some(queue));
                self.end(slot, &request);
            }
        }
    }

    fn end(&mut self, slot: u16, request: &Request) {
        let status = self.rig.status(slot);
        let mut well = match status {
            OK => true,
            IOERR => false,
            other => panic!("status {other}"),
        };
        let range = Self::range(request.sector, request.sectors);
        match request.kind {
            IN if well => {
                let data = self.rig.data(slot, request.sectors * 512);
                for (bytes, seen) in data.chunks(512).zip(&request.seen) {
                    let content = content_of(bytes);
                    assert!(
                        seen.contains(&content),
                        "read {content:#x}, possible {seen:x?}"
                    );
                }
            }
            IN => {}
            FLUSH if well => {
                assert!(
                    !self.untold,
                    "something was lost, and a flush said that all is well"
                );
                self.since_flush.clone_from(&request.then);
            }
            FLUSH => self.untold = false,
            _ => {
                well &= !request.spoiled;
                for sector in range {
                    let now = self.now;
                    let possible = &mut self.possible[sector];
                    for other in &mut *possible {
                        if other.number == request.number {
                            other.ended = Some(now);
                            other.well = well;
                        }
                    }
                    if well {
                        possible.retain(|other| {
                            other.number == request.number
                                || other.ended.is_none_or(|ended| ended >= request.issued)
                        });
                    }
                    let content = request.content;
                    assert!(!well || possible.iter().any(|p| p.content == content));
                }
            }
        }
    }

    fn reset(&mut self) {
        self.rig.set_up();
        let requests = core::mem::take(&mut self.requests);
        self.queues.clear();
        for (slot, request) in requests {
            self.dropped.insert(slot);
            // Done or not: it may not be done any later than what comes now.
            for possible in self.possible.iter_mut().flatten() {
                if possible.number == request.number {
                    possible.ended = Some(self.now);
                }
            }
        }
    }

    fn cut(&mut self, died: bool, done: u64) {
        if !self.connected {
            return;
        }
        self.connected = false;
        self.collect();
        self.untold |=
            died && (0..SECTORS as usize).any(|sector| self.is_only_in_the_cache(sector));
        let cut = if died { Cut::Died } else { Cut::Closed };
        self.rig.cut(cut, |n| done >> (n % 64) & 1 != 0);
        if died {
            for request in self.requests.values_mut() {
                request.spoiled |= request.sectors > MAX_SECTORS;
            }
            // What is stored is anything since the last flush; what is under way will be asked for again.
            for sector in 0..SECTORS as usize {
                let lost = core::mem::take(&mut self.since_flush[sector]);
                let known = self.contents(sector);
                for &content in lost.difference(&known) {
                    self.possible[sector].push(Possible {
                        content,
                        ended: Some(self.now),
                        well: false,
                        number: 0,
                    });
                }
                for &content in &lost {
                    self.may_be(sector, content);
                }
                self.since_flush[sector] = self.contents(sector);
            }
        }
        self.collect();
    }

    /// Whether the driver was told that this sector's content is written, and it would not outlive the back end.
    fn is_only_in_the_cache(&self, sector: usize) -> bool {
        let range = sector * 512..(sector + 1) * 512;
        let backend = &self.rig.backend;
        let content = content_of(&backend.disk[range.clone()]);
        let mut writers = self.possible[sector]
            .iter()
            .filter(|p| p.content == content);
        // Zeroes may be there by a request that has not ended, too.
        content_of(&backend.durable[range]) != content && writers.all(|p| p.well)
    }

    fn connect(&mut self, indirect: u16, ring_order: u8, queues: u16) {
        if self.connected {
            return;
        }
        self.rig.setup.properties.indirect = indirect;
        self.rig.setup.offer = Offer { ring_order, queues };
        self.rig.connect();
        self.connected = true;
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        let waiting = self.rig.backend.pending.len();
        match *step {
            Step::Issue {
                queue,
                kind,
                sector,
                sectors,
            } => self.issue(queue, kind, sector, sectors),
            Step::Take if self.connected => {
                self.rig.backend.take();
            }
            Step::Serve(n) if waiting > 0 => {
                assert_eq!(self.rig.backend.serve(n % waiting), 0);
            }
            Step::Refuse(n) if waiting > 0 => self.rig.backend.refuse(n % waiting, -1),
            Step::Reset => self.reset(),
            Step::Cut { died, done } => self.cut(died, done),
            Step::Drain if self.connected => self.rig.disk().drain(),
            Step::Break if self.connected => {
                self.rig.backend.set_index(0, 8, 0x7777_7777);
                self.collect();
                self.cut(false, 0);
            }
            Step::Connect {
                indirect,
                ring_order,
                queues,
            } => self.connect(indirect, ring_order, queues),
            _ => {}
        }
        self.collect();
    }

    fn check_the_end(mut self) {
        self.cut(false, 0);
        self.connect(32, 0, 1);
        self.collect();
        while self.rig.backend.serve_all() > 0 {
            self.now += 1;
            self.collect();
        }
        assert!(self.requests.is_empty(), "everything is answered");
        for slot in self.dropped {
            assert_eq!(
                self.rig.status(slot),
                NONE,
                "nothing is written after a reset"
            );
        }
        for sector in 0..SECTORS as usize {
            let content = content_of(&self.rig.stored(sector));
            let possible = &self.possible[sector];
            let numbers: Vec<_> = possible.iter().map(|p| p.content).collect();
            assert!(
                numbers.contains(&content),
                "sector {sector} holds {content:#x}, possible {numbers:x?}"
            );
        }
        assert_eq!(self.rig.transport.device().in_flight(), 0);
        assert_eq!(
            (self.rig.disk().in_flight(), self.rig.disk().free_pages()),
            (0, 12)
        );
        assert!(self.rig.transport.take_fault().is_none());
    }
}

fn content_of(bytes: &[u8]) -> Content {
    let content = Content::from_le_bytes([bytes[0], bytes[1]]);
    let all = bytes.chunks(2).all(|pair| pair == content.to_le_bytes());
    assert!(all, "a sector is whole");
    content
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn row19_row39_what_is_stored_is_what_may_be(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.check_the_end();
    }
}
