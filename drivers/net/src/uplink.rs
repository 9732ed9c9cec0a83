//! The port of a switch through which frames leave the guest, and come to it from elsewhere.
//!
//! It is a port like the others, but for where its buffers are: in memory of this domain's own, which whoever has the
//! uplink gives and takes back by numbers. It has no address: every station behind it is learned, and one that claims the
//! address of a virtio port is not believed.

use alloc::rc::Rc;
use core::cell::RefCell;

use vd_virtio::GuestMemory;

use crate::counters::Counters;
use crate::features::NetFeatures;
use crate::packet::{Claim, LargeTcp, Packet, Transport};
use crate::place::{Frames, OwnMemory, Owner, Piece, Place};
use crate::port::Port;
use crate::segment::{self, MAX_PARTS};
use crate::switch::{AddError, Switch};
use crate::wire::{ETHERNET, IPV4, IPV6};

/// Longest frame that goes out: what 16 bits hold.
const MAX_LEN: usize = 0xffff;
/// The pair of queues that it would have.
const PAIR: usize = 0;

/// What may be left to whoever is behind an uplink. It finds checksums' places by itself, so that only those are left to
/// it that it finds: of TCP and UDP right behind an IP header, in a frame without a VLAN tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Checksums over IPv4.
    pub checksum4: bool,
    /// Checksums over IPv6.
    pub checksum6: bool,
    /// Large TCP segments over IPv4.
    pub large4: bool,
    /// Large TCP segments over IPv6.
    pub large6: bool,
}

impl Takes {
    pub(crate) fn checksum(&self, packet: &Packet, start: usize, field: usize) -> bool {
        let family = match packet.ethernet.kind {
            IPV4 => self.checksum4,
            IPV6 => self.checksum6,
            _ => false,
        };
        let found = |transport: Transport| transport.start == start && transport.field == field;
        family && packet.ethernet.len == ETHERNET && packet.transport().is_some_and(found)
    }

    pub(crate) fn large(&self, packet: &Packet, tcp: &LargeTcp) -> bool {
        let family = if tcp.ipv6 { self.large6 } else { self.large4 };
        // Nobody there should have to make a frame of every byte, either.
        let few = segment::count(packet, tcp) <= MAX_PARTS;
        family && few && packet.len <= MAX_LEN && self.checksum(packet, tcp.start, tcp.checksum())
    }
}

/// A frame that has come in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// What it is known by until it is given back.
    pub id: u16,
    /// Where it is in own memory, piece by piece: where, and how many bytes.
    pub pieces: &'a [(u32, u32)],
    /// Pages that it keeps until it is given back.
    pub pages: u16,
    /// Its checksum has to be filled in.
    pub blank: bool,
    /// It is a large TCP segment: whether over IPv6, and the bytes of data of each part.
    pub large: Option<(bool, u16)>,
}

/// What has become of a frame that has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was delivered or dropped, and has cost as much as so many requests.
    Done(u32),
    /// It waits where it is; [`Uplink::next_returned`] gives it back. It has cost as much.
    Waits(u32),
}

/// The uplink of a switch. The switch is borrowed only while one of its methods runs.
#[derive(Clone, Debug)]
pub struct Uplink {
    switch: Rc<RefCell<Switch>>,
    port: usize,
}

impl Uplink {
    /// The one uplink of a switch, with its memory, of which frames that wait may keep `spare` pages. It is closed at first.
    ///
    /// # Errors
    /// [`AddError`]
    pub fn new(
        switch: &Rc<RefCell<Switch>>,
        own: Rc<dyn OwnMemory>,
        spare: u16,
    ) -> Result<Self, AddError> {
        let port = switch.borrow_mut().add_uplink(own, spare)?;
        Ok(Self {
            switch: Rc::clone(switch),
            port,
        })
    }

    /// Frames can go both ways from now on.
    pub fn open(&self, mtu: u16, takes: Takes) {
        self.with_mut(|port| {
            port.config.mtu = mtu;
            port.uplink = Some(takes);
            port.features = NetFeatures::MRG_RXBUF
                | NetFeatures::CSUM
                | NetFeatures::HOST_TSO4
                | NetFeatures::HOST_TSO6;
            port.running = true;
        });
    }

    /// No frame goes any way. All buffers and all that waited is forgotten.
    pub fn close(&self) {
        self.switch.borrow_mut().reset(self.port);
    }

    /// What has happened so far. What "the driver" is for other ports, is what comes in here.
    pub fn counters(&self) -> Counters {
        self.with(|port| port.counters).unwrap_or_default()
    }

    /// Gives room for frames that go out. Returns whether it was taken.
    pub fn give_room(&self, id: u16, at: u32, len: u32) -> bool {
        let given = self.with_mut(|port| {
            let buffers = &mut port.receive.get_mut(PAIR)?.buffers;
            let room = buffers.has_room();
            if room {
                let at = Place::Own(at);
                buffers.push(Owner::Uplink(id), core::iter::once(Piece { at, len }));
            }
            Some(room)
        });
        given.flatten().unwrap_or(false)
    }

    /// The next piece of room with a part of a frame in it, and how many bytes. A frame begins with its virtio header,
    /// which says how many pieces of room it takes.
    pub fn next_used(&self) -> Option<(u16, u32)> {
        let used = self.with_mut(|port| port.receive.get_mut(PAIR)?.buffers.next_used());
        match used.flatten()? {
            (Owner::Uplink(id), len) => Some((id, len)),
            (Owner::Head(_), _) => None,
        }
    }

    /// Puts frames that have waited for room into what room there is now.
    pub fn send_waiting<M: GuestMemory + ?Sized>(&self, guest: &M) {
        let mut switch = self.switch.borrow_mut();
        let own = switch.own.clone();
        let own = own.as_deref();
        // Its own memory has no faults, and senders' are theirs.
        let _ = switch.deliver_waiting(self.port, PAIR, &Frames { guest, own });
    }

    /// Forwards a frame that has come in.
    pub fn receive<M: GuestMemory + ?Sized>(&self, guest: &M, arrival: &Arrival<'_>) -> Taken {
        let mut switch = self.switch.borrow_mut();
        let own = switch.own.clone();
        let own = own.as_deref();
        switch.pieces.clear();
        for &(at, len) in arrival.pieces {
            // What does not fit makes the frame shorter than its headers say.
            let at = Place::Own(at);
            let _ = switch.pieces.push(Piece { at, len });
        }
        let claim = Claim::Uplink {
            blank: arrival.blank,
            large: arrival.large,
        };
        let forwarded = switch.forward(&Frames { guest, own }, self.port, PAIR, &claim);
        let (waits, cost) = forwarded.unwrap_or((0, 0));
        let owner = Owner::Uplink(arrival.id);
        match switch.park(self.port, 0, owner, arrival.pages, waits) {
            Some(_) => Taken::Done(cost),
            None => Taken::Waits(cost),
        }
    }

    /// Whether there is something to do for whoever has the uplink: frames to be given back, or others that may fit now.
    pub fn is_due(&self) -> bool {
        self.with(|port| port.retry || !port.returned.is_empty())
            .unwrap_or(false)
    }

    /// Whether frames that wait for room have to be tried again, once.
    pub fn take_retry(&self) -> bool {
        self.with_mut(|port| core::mem::take(&mut port.retry))
            .unwrap_or(false)
    }

    /// A frame that has waited and is delivered or dropped now.
    pub fn next_returned(&self) -> Option<u16> {
        match self.with_mut(|port| port.returned.pop_front()).flatten()? {
            (_, Owner::Uplink(id)) => Some(id),
            (_, Owner::Head(_)) => None,
        }
    }

    fn with<R>(&self, f: impl FnOnce(&Port) -> R) -> Option<R> {
        self.switch.borrow().port(self.port).map(f)
    }

    fn with_mut<R>(&self, f: impl FnOnce(&mut Port) -> R) -> Option<R> {
        self.switch.borrow_mut().port_mut(self.port).map(f)
    }
}
