//! A network interface that a back end serves: its rings, and the pages on them, over any number of connections.
//!
//! *Out.* The switch puts a frame into pages that are free, behind a virtio header; those are granted for reading, with the
//! header left out, put on the ring, and are free again when they are answered.
//!
//! *In.* Pages are granted for writing and put on the ring. One that is answered is taken back first, so that nobody can
//! change what is in it, and then looked at; it goes onto the ring again when the switch is done with it.
//!
//! Every answer is checked: its id has to be that of a page which the back end has, in the order of the requests for what
//! comes in; lengths and extra information have to make sense; the back end has to have let go of the page. One that is not
//! right ends the connection.

mod out;
mod receive;

use alloc::boxed::Box;
use alloc::vec;

use vd_net::Takes;
use vd_pv::ring::{Garbage, Ring};
use vd_pv::{Access, NoRoom, PAGE_SIZE};

use crate::counters::Counters;
use crate::incoming::{Incoming, Nonsense};
use crate::pages::{FramePages, NONE, Pages};
use crate::wire::{RX_REQUEST, RX_RESPONSE, TX_REQUEST, TX_RESPONSE};

/// Pages for what goes out: as many as a port has buffers. With the extra information of each frame they always fit the
/// ring.
pub const TX_PAGES: u16 = 128;
/// Slots of each ring.
pub const SLOTS: u16 = 256;
/// Pages that hold frames which came in and wait for a guest's buffers.
pub const SPARE: u16 = 64;
/// Pages for what comes in: those on a full ring, and those. However many frames wait, the ring has its pages.
pub const RX_PAGES: u16 = SLOTS + SPARE;
/// All pages, with the two rings.
pub const PAGES: usize = 2 + TX_PAGES as usize + RX_PAGES as usize;

/// Of the number of a request: its slot.
const MASK: u32 = 255;

const TX_RING: usize = 0;
const RX_RING: usize = 1;
const FIRST_TX: usize = 2;
const FIRST_RX: usize = FIRST_TX + TX_PAGES as usize;

/// How the interface stands with its back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nobody has its rings.
    Down,
    /// The back end may map the rings.
    Offered,
    /// Frames go both ways.
    Open,
    /// Nothing more goes out, and nothing that comes in counts.
    Closing,
    /// The back end has broken the protocol: nothing it says counts.
    Broken,
}

/// What a back end says that it can do, and what it is told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Most bytes of a frame behind its Ethernet header.
    pub mtu: u16,
    /// What can be left to it.
    pub takes: Takes,
}

/// An interface.
#[derive(Debug)]
pub struct Vif<P> {
    platform: P,
    link: Link,
    domain: u16,
    tx: Option<Ring<TX_REQUEST, TX_RESPONSE>>,
    rx: Option<Ring<RX_REQUEST, RX_RESPONSE>>,
    /// Grants of the two rings.
    grants: [Option<u32>; 2],
    /// Event channels of the two; one and the same if the back end wants that.
    ports: [Option<u32>; 2],
    out: Pages,
    incoming: Pages,
    /// Pages that are out and not answered, and slots of extra information likewise.
    sent: u16,
    extras: u16,
    /// The page on each slot of the ring for what comes in.
    posted: Box<[u16]>,
    frame: Incoming,
    counters: Counters,
    nonsense: Option<Nonsense>,
}

impl<P: FramePages> Vif<P> {
    /// An interface without a back end. None if the platform does not have [`PAGES`] pages.
    pub fn new(platform: P) -> Option<Self> {
        if platform.pages() < PAGES {
            return None;
        }
        Some(Self {
            platform,
            link: Link::Down,
            domain: 0,
            tx: None,
            rx: None,
            grants: [None; 2],
            ports: [None; 2],
            out: Pages::new(FIRST_TX, TX_PAGES),
            incoming: Pages::new(FIRST_RX, RX_PAGES),
            sent: 0,
            extras: 0,
            posted: vec![NONE; SLOTS.into()].into_boxed_slice(),
            frame: Incoming::NEW,
            counters: Counters::default(),
            nonsense: None,
        })
    }

    /// The platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How it stands with its back end.
    pub fn link(&self) -> Link {
        self.link
    }

    /// What the back end has got wrong, once.
    pub fn take_nonsense(&mut self) -> Option<Nonsense> {
        self.nonsense.take()
    }

    /// Lets a back end in: makes rings and event channels, one for each ring if `split`.
    ///
    /// # Errors
    /// [`NoRoom`]; [`Vif::revoke`] takes back what was given.
    pub fn connect(&mut self, domain: u16, split: bool) -> Result<(), NoRoom> {
        if self.link != Link::Down || !self.revoke() {
            return Err(NoRoom);
        }
        self.link = Link::Offered;
        self.domain = domain;
        self.tx = Some(Ring::new(&mut self.platform, TX_RING, 1));
        self.rx = Some(Ring::new(&mut self.platform, RX_RING, 1));
        // Whatever was there before is nothing for this back end, which is let into whole pages. The rings are empty.
        for page in FIRST_TX..PAGES {
            self.platform.write_bytes(page, 0, &[0; PAGE_SIZE]);
        }
        for (grant, page) in self.grants.iter_mut().zip([TX_RING, RX_RING]) {
            *grant = self.platform.grant(domain, page, Access::Write);
        }
        let first = self.platform.open_port(domain);
        let second = if split {
            self.platform.open_port(domain)
        } else {
            first
        };
        self.ports = [first, second];
        let all = self.grants.iter().chain(&self.ports).all(Option::is_some);
        if !all {
            self.disconnect();
            return Err(NoRoom);
        }
        // The back end finds them when it maps the ring.
        self.post();
        Ok(())
    }

    /// Grants of the rings, and event channels: of what goes out, and of what comes in.
    pub fn channels(&self) -> Option<[(u32, u32); 2]> {
        let [tx, rx] = self.grants;
        let [tx_port, rx_port] = self.ports;
        Some([(tx?, tx_port?), (rx?, rx_port?)])
    }

    /// The back end is ready.
    pub fn open(&mut self) {
        if self.link == Link::Offered {
            self.link = Link::Open;
            self.counters.connections = self.counters.connections.saturating_add(1);
        }
    }

    /// Nothing more goes out.
    pub fn drain(&mut self) {
        if self.link == Link::Open {
            self.link = Link::Closing;
        }
    }

    /// The connection is over. The switch has forgotten its pages before.
    pub fn disconnect(&mut self) {
        if self.link == Link::Down {
            return;
        }
        self.link = Link::Down;
        self.tx = None;
        self.rx = None;
        let [tx, rx] = core::mem::take(&mut self.ports);
        for port in [tx, rx.filter(|_| rx != tx)].into_iter().flatten() {
            self.platform.close_port(port);
        }
        let lost = u64::from(self.sent);
        self.counters.lost_out = self.counters.lost_out.saturating_add(lost);
        self.sent = 0;
        self.extras = 0;
        self.frame = Incoming::NEW;
        self.revoke();
    }

    /// Takes the grants back, as far as the back end has let go. Returns whether none is left.
    pub fn revoke(&mut self) -> bool {
        if self.link != Link::Down {
            return false;
        }
        let mut all = true;
        for grant in &mut self.grants {
            if grant.is_some_and(|gref| !self.platform.end_grant(gref)) {
                all = false;
            } else {
                *grant = None;
            }
        }
        let out = self.out.revoke(&mut self.platform);
        let incoming = self.incoming.revoke(&mut self.platform);
        all && out && incoming
    }

    fn break_off(&mut self, nonsense: Nonsense) {
        self.link = Link::Broken;
        self.nonsense = Some(nonsense);
        self.counters.broken = self.counters.broken.saturating_add(1);
    }

    /// Where in own memory the switch may fill or look at so many bytes: page and offset.
    pub(crate) fn place(&self, at: u32, len: usize) -> Option<(usize, usize)> {
        let out = self.out.place(at, len);
        out.or_else(|| self.incoming.place(at, len))
    }

    /// Shows the back end what was put on the rings.
    pub(crate) fn show(&mut self) {
        if self.link != Link::Open {
            return;
        }
        let [tx_port, rx_port] = self.ports;
        let wants = |shown: bool, port: Option<u32>| port.filter(|_| shown);
        let out = self
            .tx
            .as_mut()
            .is_some_and(|ring| ring.show(&mut self.platform));
        let incoming = self
            .rx
            .as_mut()
            .is_some_and(|ring| ring.show(&mut self.platform));
        let (out, incoming) = (wants(out, tx_port), wants(incoming, rx_port));
        for port in [out, incoming.filter(|_| incoming != out)]
            .into_iter()
            .flatten()
        {
            self.platform.notify(port);
            self.counters.notified = self.counters.notified.saturating_add(1);
        }
    }

    /// Pages that are with the back end for what goes out.
    pub fn in_flight(&self) -> u16 {
        self.sent
    }
}

impl From<Garbage> for Nonsense {
    fn from(_: Garbage) -> Self {
        Self("more answers than requests")
    }
}
