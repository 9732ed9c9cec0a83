//! A disk that a back end serves: operations under way, over any number of connections.
//!
//! An *operation* is what is asked for ([`vd_blk::later::Job`]). It is sent as one request of the ring, or as several if
//! its data does not fit one, and ends when all of them have been answered; the first error wins. Its data is on pages of
//! the pool from its start to its release, so that it can be sent again.
//!
//! What becomes of operations when a back end goes: they wait. When one is there again, all are sent again from their
//! start, in the order in which they were started and before any later ones. Those that had been carried out already are
//! carried out twice, which changes nothing: nobody was told that they were done, so nothing that depends on their being
//! done has been asked for since. The old back end cannot interfere: a new connection is made only when the old one
//! has no access to any page any more ([`Disk::revoke`]).
//!
//! One thing cannot be sent again: what was written and answered, but not flushed. A back end that goes without closing in
//! good order may have lost it. The flushes under way then fail, and the next one: the driver is told, as by a disk whose
//! cache was lost. (The next one also if some were under way: nobody may wait for those any more.)

mod answer;
mod backend;
mod connection;
mod issue;
mod transfer;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use vd_blk::later::OpError;

use crate::nodes::Properties;
use crate::platform::{PAGE_SIZE, Platform};
use crate::pool::Pool;
use crate::ring::{Ring, slots};
use crate::wire::SEGMENTS_PER_PAGE;
use transfer::{Transfer, Transfers};

pub use connection::Channel;

/// Sectors of a page.
const PAGE_SECTORS: u64 = 8;

/// What a disk may use. The platform has to have [`Config::pages`] pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of the virtual device, the last part of its path. Requests carry the lower half of it.
    pub device: u32,
    /// Pages for data.
    pub data_pages: u16,
    /// Pages for lists of segments: each large request takes one.
    pub list_pages: u16,
    /// Operations under way.
    pub operations: u16,
    /// Most pages of a ring, as a power of two.
    pub max_ring_order: u8,
    /// Most rings.
    pub max_queues: u16,
    /// Most sectors of an operation that moves data.
    pub max_sectors: u64,
    /// Whether to tell the back end that it may keep the pages mapped. They are the same ones all the time either way.
    pub persistent: bool,
}

impl Config {
    /// 2 MiB for data, up to 128 operations of up to 1 MiB, four rings of four pages.
    pub const fn of_device(device: u32) -> Self {
        Self {
            device,
            data_pages: 512,
            list_pages: 32,
            operations: 128,
            max_ring_order: 2,
            max_queues: 4,
            max_sectors: 2048,
            persistent: true,
        }
    }

    /// How many pages that takes.
    pub fn pages(&self) -> usize {
        self.first_data_page()
            .saturating_add(self.data_pages.into())
    }

    fn handle(&self) -> u16 {
        u16::try_from(self.device & 0xffff).unwrap_or(0)
    }

    fn ring_pages(&self) -> usize {
        1usize << self.max_ring_order.min(4)
    }

    fn queues(&self) -> usize {
        usize::from(self.max_queues.max(1))
    }

    fn first_list_page(&self) -> usize {
        self.queues().saturating_mul(self.ring_pages())
    }

    fn first_data_page(&self) -> usize {
        self.first_list_page()
            .saturating_add(self.list_pages.into())
    }
}

/// What a disk did; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations that ended well.
    pub completed: u64,
    /// Operations that ended in an error.
    pub failed: u64,
    /// Requests put on a ring.
    pub requests: u64,
    /// Those of them whose segments were on a page of their own.
    pub indirect: u64,
    /// Events sent.
    pub notified: u64,
    /// Batches of requests for which the back end wanted no event.
    pub suppressed: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that ended while operations were under way, or without closing in good order.
    pub lost: u64,
    /// Connections that were given up because the back end broke the protocol.
    pub broken: u64,
    /// Operations that were sent again.
    pub reissued: u64,
    /// Flushes that failed because a back end may have lost what it had not flushed.
    pub lost_flushes: u64,
}

/// How the disk stands with its back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Nobody has its rings.
    Down,
    /// The back end may map the rings.
    Offered,
    /// Requests go out and answers come in.
    Open,
    /// No more requests go out.
    Draining,
    /// The back end has broken the protocol, or has taken too long: nothing it says counts.
    Broken,
}

/// What a request on a ring belongs to.
#[derive(Clone, Copy, Debug)]
struct Shadow {
    /// What the back end was told; None if the shadow is free.
    id: Option<u64>,
    transfer: u16,
    answers: [u8; 2],
    /// Page with its segments, by number in the pool of those.
    list: u16,
}

/// A ring and what goes with it.
#[derive(Debug)]
struct Lane {
    ring: Option<Ring>,
    port: Option<u32>,
    shadows: Box<[Shadow]>,
    free: Vec<u16>,
    /// Operations that are to be sent, at least in part.
    waiting: VecDeque<u16>,
}

impl Lane {
    fn new(slots: u16, operations: usize) -> Self {
        let shadow = Shadow {
            id: None,
            transfer: 0,
            answers: [0; 2],
            list: crate::pool::NONE,
        };
        Self {
            ring: None,
            port: None,
            shadows: vec![shadow; slots.into()].into_boxed_slice(),
            free: (0..slots).rev().collect(),
            waiting: VecDeque::with_capacity(operations),
        }
    }
}

/// A disk.
#[derive(Debug)]
pub struct Disk<P> {
    platform: P,
    config: Config,
    link: Link,
    properties: Properties,
    lanes: Box<[Lane]>,
    /// How many of the lanes are in use.
    queues: usize,
    /// The grant of each page.
    grants: Box<[Option<u32>]>,
    lists: Pool,
    data: Pool,
    transfers: Transfers,
    /// Nothing can be done until there is a new connection.
    failing: bool,
    /// Counts requests, for their ids.
    serial: u64,
    /// Operations that ended well and changed what is stored, ever; and those of them that a flush has covered.
    written: u64,
    flushed: u64,
    /// The next flush is to fail.
    loss: bool,
    counters: Counters,
}

impl<P: Platform> Disk<P> {
    /// A disk without a back end. None if the platform does not have the pages.
    pub fn new(mut platform: P, config: Config) -> Option<Self> {
        let pages = config.pages();
        if platform.pages() < pages {
            return None;
        }
        // Whatever was there before is nothing for a back end.
        for page in 0..pages {
            platform.write_bytes(page, 0, &[0; PAGE_SIZE]);
        }
        let slots = u16::try_from(slots(config.ring_pages())).unwrap_or(u16::MAX);
        let lane = || Lane::new(slots, config.operations.into());
        Some(Self {
            platform,
            link: Link::Down,
            properties: Properties::default(),
            lanes: (0..config.queues()).map(|_| lane()).collect(),
            queues: 0,
            grants: vec![None; pages].into_boxed_slice(),
            lists: Pool::new(config.list_pages),
            data: Pool::new(config.data_pages),
            transfers: Transfers::new(config.operations),
            config,
            failing: false,
            serial: 0,
            written: 0,
            flushed: 0,
            loss: false,
            counters: Counters::default(),
        })
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The platform, to change it.
    pub fn platform_mut(&mut self) -> &mut P {
        &mut self.platform
    }

    /// What the back end said last.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Whether requests go out.
    pub fn is_open(&self) -> bool {
        self.link == Link::Open
    }

    /// Whether the back end is not believed any more.
    pub fn is_broken(&self) -> bool {
        self.link == Link::Broken
    }

    /// Whether no request is with the back end.
    pub fn is_idle(&self) -> bool {
        self.lanes
            .iter()
            .filter_map(|lane| lane.ring.as_ref())
            .all(|ring| ring.outstanding() == 0)
    }

    /// Operations that have not ended.
    pub fn in_flight(&self) -> usize {
        self.transfers.live().count()
    }

    /// Pages for data that are free.
    pub fn free_pages(&self) -> usize {
        self.data.available()
    }

    /// Whether something was written and answered, but not flushed.
    fn is_dirty(&self) -> bool {
        self.properties.has_cache() && self.written > self.flushed
    }

    /// Nobody is to wait any longer: everything under way fails, and everything to come until there is a new
    /// connection. A connection that there is ends.
    pub fn give_up(&mut self) {
        if self.link != Link::Down {
            self.link = Link::Broken;
        }
        self.failing = true;
        self.fail_all();
    }

    /// The back end has broken the protocol.
    fn break_off(&mut self) {
        self.counters.broken = self.counters.broken.saturating_add(1);
        self.give_up();
    }

    fn fail_all(&mut self) {
        for index in self.transfers.indices() {
            if self.transfers.get(index).is_some_and(Transfer::is_live) {
                self.finish(index, Err(OpError::Io));
            }
        }
    }

    /// The page of the platform that has the data of this page of the pool.
    fn data_page(&self, page: u16) -> usize {
        self.config.first_data_page().saturating_add(page.into())
    }

    fn gref(&self, page: usize) -> u32 {
        self.grants.get(page).copied().flatten().unwrap_or(0)
    }

    /// Most segments of a request with a list, if there are such requests.
    fn indirect(&self) -> Option<usize> {
        let most = usize::from(self.properties.indirect).min(SEGMENTS_PER_PAGE);
        (most > crate::wire::MAX_SEGMENTS).then_some(most)
    }
}
