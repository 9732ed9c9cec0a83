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

use alloc::boxed::Box;
use alloc::vec;

use vd_net::Takes;
use vd_net::header::{GSO_NONE, GSO_TCPV6, HEADER, NEEDS_CSUM, NetHeader};
use vd_pv::ring::{Garbage, Ring};
use vd_pv::{Access, NoRoom, PAGE_SIZE};

use crate::counters::Counters;
use crate::incoming::{Expect, Incoming, Nonsense};
use crate::pages::{FramePages, NONE, Pages};
use crate::wire::{
    Extra, Gso, MAX_SLOTS, MAX_TX, RX_REQUEST, RX_RESPONSE, RxRequest, RxResponse, Status,
    TX_REQUEST, TX_RESPONSE, TxRequest, TxResponse, tx,
};

/// Pages for what goes out: as many as a port has buffers. With the extra information of each frame they always fit the
/// ring.
pub const TX_PAGES: u16 = 128;
/// Slots of each ring.
pub const SLOTS: u16 = 256;
/// Pages for what comes in: those on a full ring, and some that hold frames which wait.
pub const RX_PAGES: u16 = SLOTS + 64;
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
    pub fn new(mut platform: P) -> Option<Self> {
        if platform.pages() < PAGES {
            return None;
        }
        // Whatever was there before is nothing for a back end.
        for page in 0..PAGES {
            platform.write_bytes(page, 0, &[0; PAGE_SIZE]);
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

    /// The next free page for what goes out, for the switch: its number, and where it is.
    pub(crate) fn take_room(&mut self) -> Option<(u16, u32)> {
        if self.link != Link::Open {
            return None;
        }
        let page = self.out.take()?;
        Some((page, self.out.address(page)))
    }

    /// The switch does not want it.
    pub(crate) fn return_room(&mut self, page: u16) {
        self.out.release(page);
    }

    /// The virtio header at the start of a page for what goes out.
    pub(crate) fn header(&self, page: u16) -> NetHeader {
        let mut header = [0; HEADER];
        if let Some((number, at)) = self.place(self.out.address(page), HEADER) {
            self.platform.drain_at(number, at, HEADER, &mut |bytes| {
                for (to, from) in header.iter_mut().zip(bytes) {
                    *to = *from;
                }
            });
        }
        NetHeader::decode(header)
    }

    /// Puts a frame on the ring that is on these pages, with so many bytes on each; the first one's begin with `header`.
    pub(crate) fn send(&mut self, header: &NetHeader, parts: &[(u16, u32)]) {
        if self.try_send(header, parts).is_none() {
            self.counters.dropped_out = self.counters.dropped_out.saturating_add(1);
            for &(page, _) in parts {
                // None if the back end has it.
                let _ = self.out.recover(&mut self.platform, page);
                self.out.release(page);
            }
        }
    }

    fn try_send(&mut self, header: &NetHeader, parts: &[(u16, u32)]) -> Option<()> {
        let total = parts.iter().fold(0usize, |sum, &(_, len)| {
            sum.saturating_add(usize::try_from(len).unwrap_or(0))
        });
        let total = total.checked_sub(HEADER)?;
        let size = u16::try_from(total).ok().filter(|_| total <= MAX_TX)?;
        let outstanding = self.tx.as_ref()?.outstanding();
        let needed = parts.len().saturating_add(1);
        // A back end may answer pages, and leave out the extra information.
        let room = SLOTS.checked_sub(u16::try_from(outstanding).ok()?)?;
        if self.link != Link::Open || parts.len() > MAX_SLOTS || usize::from(room) < needed {
            return None;
        }
        let mut grefs = heapless::Vec::<u32, MAX_SLOTS>::new();
        for &(page, _) in parts {
            let gref = self.out.show(&mut self.platform, self.domain, page)?;
            grefs.push(gref).ok()?;
        }
        let gso = (header.gso_type != GSO_NONE).then_some(Gso {
            ipv6: header.gso_type == GSO_TCPV6,
            size: header.gso_size,
        });
        let ring = self.tx.as_mut()?;
        for (number, (&(page, len), &gref)) in parts.iter().zip(&grefs).enumerate() {
            let first = number == 0;
            let last = number.saturating_add(1) == parts.len();
            let mut flags = if last { 0 } else { tx::MORE_DATA };
            if first && header.flags & NEEDS_CSUM != 0 {
                flags |= tx::CSUM_BLANK | tx::DATA_VALIDATED;
            }
            if first && gso.is_some() {
                flags |= tx::EXTRA_INFO;
            }
            let request = TxRequest {
                gref,
                offset: if first { short(HEADER) } else { 0 },
                flags,
                id: page,
                size: if first {
                    size
                } else {
                    u16::try_from(len).unwrap_or(0)
                },
            };
            ring.put(&mut self.platform, &request.encode());
            if let Some(gso) = gso.filter(|_| first) {
                ring.put(&mut self.platform, &Extra::encode(gso));
                self.extras = self.extras.saturating_add(1);
            }
        }
        self.sent = self.sent.saturating_add(short(parts.len()));
        let counters = &mut self.counters;
        counters.frames_out = counters.frames_out.saturating_add(1);
        counters.bytes_out = counters.bytes_out.saturating_add(size.into());
        counters.large_out = counters.large_out.saturating_add(gso.is_some().into());
        Some(())
    }

    /// Takes the answers to what went out. No more are taken than requests were shown.
    pub(crate) fn take_answers(&mut self) {
        if self.link == Link::Open
            && let Err(nonsense) = self.try_take_answers()
        {
            self.break_off(nonsense);
        }
    }

    fn try_take_answers(&mut self) -> Result<(), Nonsense> {
        let Some(ring) = &mut self.tx else {
            return Ok(());
        };
        loop {
            let Some(bytes) = ring.take(&self.platform)? else {
                return Ok(());
            };
            let TxResponse { id, status } = TxResponse::decode(bytes);
            if status == Status::Null {
                let left = self.extras.checked_sub(1);
                self.extras =
                    left.ok_or(Nonsense("more answers to extra information than there was"))?;
                continue;
            }
            let taken = self.out.recover(&mut self.platform, id);
            taken.map_err(|_| {
                Nonsense("an answer for a page that was not sent, or is still mapped")
            })?;
            self.out.release(id);
            self.sent = self.sent.saturating_sub(1);
            if status != Status::Okay {
                self.counters.refused_out = self.counters.refused_out.saturating_add(1);
            }
        }
    }

    /// Asks for an event with the next answer to what went out, if room is scarce: while there is much, nobody waits for
    /// more. Returns whether there is an answer already.
    pub(crate) fn arm(&mut self) -> bool {
        if self.link != Link::Open || self.sent < TX_PAGES / 2 {
            return false;
        }
        let Some(ring) = &mut self.tx else {
            return false;
        };
        match ring.rearm(&mut self.platform) {
            Ok(more) => more,
            Err(garbage) => {
                self.break_off(garbage.into());
                false
            }
        }
    }

    /// Puts free pages on the ring for what comes in.
    pub(crate) fn post(&mut self) {
        if !matches!(self.link, Link::Offered | Link::Open) {
            return;
        }
        let Some(ring) = &mut self.rx else { return };
        while !ring.is_full() && self.incoming.next_free().is_some() {
            let posted = self.incoming.post(&mut self.platform, self.domain);
            let Some((page, gref)) = posted else {
                self.counters.no_grants = self.counters.no_grants.saturating_add(1);
                break;
            };
            let slot = ring.next_request() & MASK;
            if let Some(place) = self.posted.get_mut(usize::try_from(slot).unwrap_or(0)) {
                *place = page;
            }
            let request = RxRequest { id: page, gref };
            ring.put(&mut self.platform, &request.encode());
        }
        // Nobody listens before the back end is connected.
        if self.link == Link::Offered {
            ring.show(&mut self.platform);
        }
    }

    /// The next frame that has come in: it is the switch's until [`Vif::release`] with its first page.
    pub(crate) fn next_frame(&mut self) -> Option<Incoming> {
        while self.link == Link::Open {
            match self.try_next_frame() {
                Ok(None) => return None,
                Err(nonsense) => self.break_off(nonsense),
                Ok(Some(frame)) if frame.failed => {
                    self.counters.failed_in = self.counters.failed_in.saturating_add(1);
                    self.incoming.release(frame.first);
                }
                Ok(Some(frame)) => {
                    let len = frame.pieces.iter().map(|&(_, len)| u64::from(len)).sum();
                    let counters = &mut self.counters;
                    counters.frames_in = counters.frames_in.saturating_add(1);
                    counters.bytes_in = counters.bytes_in.saturating_add(len);
                    let large = frame.gso.is_some();
                    counters.large_in = counters.large_in.saturating_add(large.into());
                    return Some(frame);
                }
            }
        }
        None
    }

    fn try_next_frame(&mut self) -> Result<Option<Incoming>, Nonsense> {
        loop {
            let Some(expect) = self.frame.expects() else {
                return Ok(Some(core::mem::replace(&mut self.frame, Incoming::NEW)));
            };
            let Some(ring) = &mut self.rx else {
                return Ok(None);
            };
            let slot = ring.next_response() & MASK;
            let Some(bytes) = ring.take(&self.platform)? else {
                if ring.rearm(&mut self.platform)? {
                    continue;
                }
                return Ok(None);
            };
            let posted = self.posted.get(usize::try_from(slot).unwrap_or(0));
            let page = posted.copied().unwrap_or(NONE);
            let taken = self.incoming.recover(&mut self.platform, page);
            taken.map_err(|_| Nonsense("a page that came in is still mapped"))?;
            match expect {
                Expect::Extra => {
                    // Its page was not used.
                    self.incoming.release(page);
                    self.frame.extra(bytes)?;
                }
                Expect::Data => {
                    self.chain(page);
                    let response = RxResponse::decode(bytes);
                    if response.id != page {
                        return Err(Nonsense("an answer out of order"));
                    }
                    self.frame.data(&response, self.incoming.address(page))?;
                }
            }
        }
    }

    /// A page belongs to the frame that is being put together.
    fn chain(&mut self, page: u16) {
        if self.frame.first == NONE {
            self.frame.first = page;
        } else {
            self.incoming.link(self.frame.last, page);
        }
        self.incoming.link(page, NONE);
        self.frame.last = page;
    }

    /// The switch is done with a frame.
    pub(crate) fn release(&mut self, first: u16) {
        self.incoming.release(first);
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

/// Counts of pages and lengths of headers are small.
fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
