//! The switch: which frame goes to which port, and what waits for one.
//!
//! *Learning.* The address that a port is configured with, or that its driver has set, is that port's for good: a frame from
//! another port that claims it is dropped. Any other station's address is learned from what a port sends, and moves to
//! the port that showed it last, so that a guest may bridge; it is forgotten after five minutes. Frames to groups and to
//! addresses that are not known go to all ports but the sender's.
//!
//! *Waiting.* A frame for which a receiver has too few buffers waits in its sender's; no frame overtakes it on its way to
//! the same queue. When too many wait, or when one has waited for a second, it is dropped for that receiver.
//!
//! Invariant: a `Ticket` in a receive queue names a parked frame whose `pending` has that port's bit, and the other
//! way round.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;

use vd_virtio::chain::MAX_SEGMENTS;
use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, GuestMemory, Pass, Progress};

use crate::counters::{add, bump};
use crate::deliver::Outcome;
use crate::header::{HEADER, NetHeader};
use crate::packet::{Claim, Packet};
use crate::place::{Frames, OwnMemory, Owner, Piece};
use crate::port::{MAX_PAIRS, Port, PortConfig, Receive};
use crate::uplink::Takes;
use crate::wire::{self, Ethernet, Mac};

/// Most ports of a switch, besides its uplink.
pub const MAX_PORTS: usize = 16;

/// Why a port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// Another port has that address.
    Taken(Mac),
    /// No station can have that address.
    NoStation(Mac),
    /// There are [`MAX_PORTS`] already, or an uplink.
    Full,
    /// None or more than [`MAX_PAIRS`] pairs of queues.
    Pairs(u16),
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(mac) => write!(f, "another device has the address {mac}"),
            Self::NoStation(mac) => write!(f, "{mac} is no station's address"),
            Self::Full => write!(f, "the switch has {MAX_PORTS} ports, or an uplink"),
            Self::Pairs(pairs) => {
                write!(
                    f,
                    "{pairs} pairs of queues: one to {MAX_PAIRS} are possible"
                )
            }
        }
    }
}

/// Bytes of the header before a frame.
const HEADER_LEN: u64 = HEADER as u64;

/// A port's bit in a set.
pub(crate) fn bit(port: usize) -> u32 {
    u32::try_from(port)
        .ok()
        .and_then(|port| 1u32.checked_shl(port))
        .unwrap_or(0)
}

/// A switch.
pub struct Switch {
    pub(crate) ports: Vec<Port>,
    /// The frame that is being forwarded.
    pub(crate) packet: Box<Packet>,
    pub(crate) pieces: Box<heapless::Vec<Piece, MAX_SEGMENTS>>,
    /// What the uplink's frames are in.
    pub(crate) own: Option<Rc<dyn OwnMemory>>,
    /// Ticks since the start.
    pub(crate) now: u32,
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Self {
        Self {
            ports: Vec::with_capacity(MAX_PORTS.saturating_add(1)),
            packet: Box::new(Packet::EMPTY),
            pieces: Box::default(),
            own: None,
            now: 0,
        }
    }

    pub(crate) fn add(&mut self, config: PortConfig) -> Result<usize, AddError> {
        let uplinks = usize::from(self.own.is_some());
        let vacant = self.ports.iter().position(|port| port.vacant);
        if vacant.is_none() && self.ports.len().saturating_sub(uplinks) == MAX_PORTS {
            return Err(AddError::Full);
        }
        if config.pairs == 0 || config.pairs > MAX_PAIRS {
            return Err(AddError::Pairs(config.pairs));
        }
        if !config.mac.is_station() {
            return Err(AddError::NoStation(config.mac));
        }
        if self.holder(config.mac).is_some() {
            return Err(AddError::Taken(config.mac));
        }
        match vacant.and_then(|at| Some((at, self.ports.get_mut(at)?))) {
            Some((at, port)) => {
                *port = Port::new(config);
                Ok(at)
            }
            None => {
                self.ports.push(Port::new(config));
                Ok(self.ports.len().saturating_sub(1))
            }
        }
    }

    /// The device of a port is gone: nothing waits for it or comes from it any more, and the port may be another one's.
    pub(crate) fn vacate(&mut self, port: usize) {
        self.reset(port);
        if let Some(port) = self.ports.get_mut(port) {
            port.vacant = true;
            port.link = false;
        }
    }

    pub(crate) fn add_uplink(
        &mut self,
        own: Rc<dyn OwnMemory>,
        spare: u16,
    ) -> Result<usize, AddError> {
        if self.own.is_some() {
            return Err(AddError::Full);
        }
        let mut port = Port::new(PortConfig {
            mac: Mac::default(),
            mtu: 0,
            pairs: 1,
        });
        port.uplink = Some(Takes::default());
        port.spare = spare;
        self.ports.push(port);
        self.own = Some(own);
        Ok(self.ports.len().saturating_sub(1))
    }

    pub(crate) fn port(&self, port: usize) -> Option<&Port> {
        self.ports.get(port)
    }

    pub(crate) fn port_mut(&mut self, port: usize) -> Option<&mut Port> {
        self.ports.get_mut(port)
    }

    /// The port whose own address it is, configured or set by the driver.
    pub(crate) fn holder(&self, mac: Mac) -> Option<usize> {
        self.ports.iter().position(|port| port.holds(mac))
    }

    /// The port behind which an address was seen.
    fn learned(&self, mac: Mac) -> Option<usize> {
        self.ports
            .iter()
            .position(|port| port.learned.contains(mac, self.now))
    }

    pub(crate) fn forget_learned(&mut self, mac: Mac) {
        for port in &mut self.ports {
            port.learned.forget(mac);
        }
    }

    /// A driver starts over.
    pub(crate) fn reset(&mut self, port: usize) {
        self.drop_waiting(port, 0);
        self.forget_sent(port, None);
        if let Some(port) = self.ports.get_mut(port) {
            port.reset();
        }
    }

    /// Runs a receive queue: gives back what holds frames, takes new buffers, and fills them with what waits.
    pub(crate) fn receive<M: GuestMemory + ?Sized>(
        &mut self,
        port: usize,
        pair: usize,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        loop {
            let Some(receive) = self
                .ports
                .get_mut(port)
                .and_then(|port| port.receive.get_mut(pair))
            else {
                return Ok(Progress::Drained);
            };
            receive.size = pass.size().into();
            let buffers = &mut receive.buffers;
            while let Some((owner, written)) = buffers.next_used() {
                if let Owner::Head(head) = owner {
                    pass.give_back(head, written)?;
                }
            }
            let mut progress = Progress::Waiting;
            while buffers.has_room() {
                let Some(head) = pass.take(chain)? else {
                    progress = Progress::Drained;
                    break;
                };
                // Not even the header would fit.
                if chain.writable().len() < HEADER_LEN {
                    return Err(FaultKind::Header);
                }
                let pieces = chain.writable().pieces().map(Piece::of_guest);
                buffers.push(Owner::Head(head), pieces);
            }
            let own = self.own.clone();
            let mem = Frames {
                guest: pass.mem(),
                own: own.as_deref(),
            };
            self.deliver_waiting(port, pair, &mem)?;
            let target = self.ports.get(port).and_then(|it| it.receive.get(pair));
            if !target.is_some_and(|receive| receive.buffers.has_used()) {
                return Ok(progress);
            }
        }
    }

    /// Runs a transmit queue.
    pub(crate) fn transmit<M: GuestMemory + ?Sized>(
        &mut self,
        port: usize,
        pair: usize,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        let queue = pass.number();
        if let Some(source) = self.ports.get_mut(port) {
            // There are few of them, and nearly always none.
            for _ in 0..source.returned.len() {
                match source.returned.pop_front() {
                    Some((of, Owner::Head(head))) if of == queue => pass.give_back(head, 0)?,
                    Some(other) => source.returned.push_back(other),
                    None => break,
                }
            }
        }
        let own = self.own.clone();
        while let Some(head) = pass.take(chain)? {
            let (header, frame) = chain.readable().read_array(pass.mem())?;
            self.pieces.clear();
            // A chain has no more segments than fit.
            self.pieces
                .extend(frame.pieces().map(Piece::of_guest).take(MAX_SEGMENTS));
            let mem = Frames {
                guest: pass.mem(),
                own: own.as_deref(),
            };
            let claim = Claim::Header(NetHeader::decode(header));
            let (waits, cost) = self.forward(&mem, port, pair, &claim)?;
            pass.charge(cost);
            if let Some(Owner::Head(head)) = self.park(port, queue, Owner::Head(head), 0, waits) {
                pass.give_back(head, 0)?;
            }
        }
        Ok(Progress::Drained)
    }

    /// Forwards the frame that `pieces` are. Gives the ports for which it has to wait, and what it has cost besides a request.
    pub(crate) fn forward<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        port: usize,
        pair: usize,
        claim: &Claim,
    ) -> Result<(u32, u32), FaultKind> {
        let Some(source) = self.ports.get_mut(port) else {
            return Ok((0, 0));
        };
        if let Err(bad) = self
            .packet
            .read(mem, claim, &mut self.pieces, source.features)?
        {
            bump(source.counters.bad(bad));
            return Ok((0, 0));
        }
        let flow = wire::flow(self.packet.prefix(), &self.packet.ethernet);
        source.sends(flow, pair);
        let Some(targets) = self.route(port) else {
            return Ok((0, 0));
        };
        self.give_all(mem, targets, flow)
    }

    /// Gives the frame to those ports that have room for it.
    fn give_all<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        targets: u32,
        flow: u32,
    ) -> Result<(u32, u32), FaultKind> {
        let (mut waits, mut cost) = (0, 0u32);
        for (number, target) in self.ports.iter_mut().enumerate() {
            if targets & bit(number) == 0 {
                continue;
            }
            let pair = target.pair_for(flow);
            // Nothing of it was given yet, if it is the next.
            let is_next = |it: &mut Receive| {
                let next = it.waiting.is_empty();
                if next {
                    it.done = 0;
                }
                next
            };
            let outcome = if target.receive.get_mut(pair).is_none_or(is_next) {
                target.give(mem, pair, &self.packet, &self.pieces)
            } else {
                Outcome::NoRoom
            };
            cost = cost.saturating_add(target.cost(&self.packet));
            match outcome {
                Outcome::Done => {}
                Outcome::NoRoom => waits |= bit(number),
                Outcome::Source(kind) => return Err(kind),
                Outcome::Target(kind) => target.fail(kind),
            }
        }
        Ok((waits, cost))
    }

    /// The ports that the frame goes to; None if it is dropped, which is counted.
    fn route(&mut self, port: usize) -> Option<u32> {
        let Ethernet { from, to, .. } = self.packet.ethernet;
        let foreign = self.holder(from).is_some_and(|holder| holder != port);
        let known = if to.is_group() {
            None
        } else {
            self.holder(to).or_else(|| self.learned(to))
        };
        let source = self.ports.get_mut(port)?;
        let own = from == source.mac;
        let counters = &mut source.counters;
        if foreign || !from.is_station() {
            bump(&mut counters.tx_spoofed);
            return None;
        }
        if to.is_reserved() {
            bump(&mut counters.tx_reserved);
            return None;
        }
        if !self.packet.fits(source.config.mtu) {
            bump(&mut counters.tx_long);
            return None;
        }
        let connected = source.link;
        if !own && connected {
            self.forget_learned(from);
            let now = self.now;
            self.ports.get_mut(port)?.learned.learn(from, now);
        }
        let receiving = |(number, other): (usize, &Port)| {
            let meant = known.is_none_or(|known| known == number);
            if meant && connected && number != port && other.is_receiving() {
                bit(number)
            } else {
                0
            }
        };
        let targets = self
            .ports
            .iter()
            .enumerate()
            .map(receiving)
            .fold(0, |all, one| all | one);
        let len = self.packet.len;
        let counters = &mut self.ports.get_mut(port)?.counters;
        if targets == 0 {
            bump(&mut counters.tx_unreachable);
            return None;
        }
        bump(&mut counters.tx_frames);
        add(&mut counters.tx_bytes, len);
        if known.is_none() {
            bump(&mut counters.flooded);
        }
        Some(targets)
    }
}
