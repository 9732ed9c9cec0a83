//! Frames that wait for receive buffers, in their senders'.
//!
//! Invariant: a [`Ticket`] in a receive queue names a parked frame whose `pending` has that port's bit, and the other
//! way round. When a frame that waited first goes without being delivered, those behind it are tried at once: nothing else
//! would.

use vd_virtio::GuestMemory;
use vd_virtio::fault::FaultKind;

use crate::counters::bump;
use crate::deliver::Outcome;
use crate::packet::Packet;
use crate::place::{Frames, Owner};
use crate::port::{OWN_WAITING, Parked, Port, Receive, Ticket, WAITING};
use crate::switch::{Switch, bit};
use crate::wire;

/// Ticks that a frame may wait.
const PATIENCE: u32 = 2;

impl Switch {
    /// About half a second has passed: what has waited for too long is dropped, and learned addresses age.
    pub fn tick(&mut self) {
        self.now = self.now.wrapping_add(1);
        for port in &mut self.ports {
            for parked in port.parked.iter_mut().flatten() {
                parked.age = parked.age.saturating_add(1);
            }
        }
        for port in 0..self.ports.len() {
            let pairs = self.ports.get(port).map_or(0, |port| port.receive.len());
            for pair in 0..pairs {
                while let Some(ticket) = self.first_waiting(port, pair) {
                    if self.parked(ticket).is_some_and(|it| it.age < PATIENCE) {
                        break;
                    }
                    self.drop_first(port, pair);
                    self.retry(port, pair);
                }
            }
        }
    }

    fn parked(&self, ticket: Ticket) -> Option<&Parked> {
        let port = self.ports.get(ticket.port())?;
        port.parked.get(ticket.place())?.as_ref()
    }

    /// The frame that waits first for a receive queue is another one.
    fn retry(&mut self, port: usize, pair: usize) {
        if let Some(target) = self.ports.get_mut(port) {
            target.retry(pair);
        }
    }

    fn first_waiting(&self, port: usize, pair: usize) -> Option<Ticket> {
        let receive = self.ports.get(port)?.receive.get(pair)?;
        receive.waiting.front().copied()
    }

    /// Drops the frame that waits first for a receive queue.
    fn drop_first(&mut self, port: usize, pair: usize) {
        if let Some(target) = self.ports.get_mut(port) {
            bump(&mut target.counters.rx_no_room);
        }
        self.arrived(port, pair);
    }

    /// The frame that waits first for a receive queue waits no more.
    fn arrived(&mut self, port: usize, pair: usize) {
        let target = self.ports.get_mut(port);
        let receive = target.and_then(|target| target.receive.get_mut(pair));
        let Some(ticket) = receive.and_then(Receive::pop) else {
            return;
        };
        let Some(source) = self.ports.get_mut(ticket.port()) else {
            return;
        };
        let Some(place) = source.parked.get_mut(ticket.place()) else {
            return;
        };
        if let Some(parked) = place {
            parked.pending &= !bit(port);
            if parked.pending != 0 {
                return;
            }
        }
        if let Some(Parked { queue, owner, .. }) = place.take() {
            source.returned.push_back((queue, owner));
            source.wake(queue);
        }
    }

    /// Drops what waits for a port's receive queues, from that pair on.
    pub(crate) fn drop_waiting(&mut self, port: usize, from: usize) {
        let pairs = self.ports.get(port).map_or(0, |port| port.receive.len());
        for pair in from..pairs {
            self.drop_pair(port, pair);
        }
    }

    /// Drops all that waits, whomever for.
    pub(crate) fn drop_all_waiting(&mut self) {
        for port in 0..self.ports.len() {
            self.drop_waiting(port, 0);
        }
    }

    fn drop_pair(&mut self, port: usize, pair: usize) {
        while self.first_waiting(port, pair).is_some() {
            self.drop_first(port, pair);
        }
    }

    /// A receive queue starts over.
    pub(crate) fn reset_receive(&mut self, port: usize, pair: usize) {
        self.drop_pair(port, pair);
        let port = self.ports.get_mut(port);
        if let Some(receive) = port.and_then(|port| port.receive.get_mut(pair)) {
            receive.buffers.clear();
        }
    }

    /// Forgets what a port has sent and what is not delivered yet, of one queue or of all.
    pub(crate) fn forget_sent(&mut self, port: usize, queue: Option<u16>) {
        let concerns = |of: u16| queue.is_none_or(|queue| queue == of);
        let Some(source) = self.ports.get_mut(port) else {
            return;
        };
        source.returned.retain(|(of, _)| !concerns(*of));
        for place in 0..source.parked.len() {
            let Some(source) = self.ports.get_mut(port) else {
                return;
            };
            let Some(slot) = source.parked.get_mut(place) else {
                return;
            };
            if slot.take_if(|parked| concerns(parked.queue)).is_none() {
                continue;
            }
            if let Some(ticket) = Ticket::new(port, place) {
                self.ports
                    .iter_mut()
                    .for_each(|target| target.forget(ticket));
            }
        }
    }

    /// Lets the frame that is being forwarded wait for those ports. Gives its owner back if it does not.
    pub(crate) fn park(
        &mut self,
        port: usize,
        queue: u16,
        owner: Owner,
        pages: u16,
        waits: u32,
    ) -> Option<Owner> {
        if waits == 0 {
            return Some(owner);
        }
        let Self {
            ports,
            packet,
            pieces,
            ..
        } = self;
        let source = ports.get(port);
        let affordable = source.map_or(0, |source| source.affordable(pages, waits));
        let free = source.and_then(|source| source.parked.iter().position(Option::is_none));
        let pieces = heapless::Vec::from_slice(pieces).ok();
        let flow = wire::flow(packet.prefix(), &packet.ethernet);
        let mut pending = 0;
        for (number, target) in ports.iter_mut().enumerate() {
            if waits & bit(number) == 0 {
                continue;
            }
            let pair = target.pair_for(flow);
            let receive = target.receive.get_mut(pair);
            let affords = affordable & bit(number) != 0;
            match (receive, free, &pieces) {
                (Some(receive), Some(place), Some(_)) if affords && receive.has_place(port) => {
                    if let Some(ticket) = Ticket::new(port, place) {
                        receive.waiting.push_back(ticket);
                        pending |= bit(number);
                    }
                }
                _ => bump(&mut target.counters.rx_no_room),
            }
        }
        match (ports.get_mut(port), free, pieces) {
            (Some(source), Some(place), Some(pieces)) if pending != 0 => {
                bump(&mut source.counters.parked);
                let place = source.parked.get_mut(place)?;
                *place = Some(Parked {
                    queue,
                    owner,
                    packet: Packet::clone(packet),
                    pieces,
                    pages,
                    pending,
                    age: 0,
                });
                None
            }
            _ => Some(owner),
        }
    }

    /// Gives a port what waits for it, as far as there is room.
    pub(crate) fn deliver_waiting<M: GuestMemory + ?Sized>(
        &mut self,
        port: usize,
        pair: usize,
        mem: &Frames<'_, M>,
    ) -> Result<(), FaultKind> {
        while let Some(ticket) = self.first_waiting(port, pair) {
            let Ok([target, source]) = self.ports.get_disjoint_mut([port, ticket.port()]) else {
                return Ok(());
            };
            let outcome = match source.parked.get(ticket.place()) {
                Some(Some(parked)) => target.give(mem, pair, &parked.packet, &parked.pieces),
                _ => Outcome::Done,
            };
            match outcome {
                Outcome::Done => self.arrived(port, pair),
                Outcome::NoRoom => break,
                Outcome::Target(kind) => return Err(kind),
                Outcome::Source(kind) => {
                    source.fail(kind);
                    self.arrived(port, pair);
                }
            }
        }
        Ok(())
    }
}

impl Port {
    /// Of the ports that a frame of so many pages may wait for, those for which it does. A receiver that takes nothing keeps
    /// at most as many pages from being received into as it leaves to be kept for others.
    fn affordable(&self, pages: u16, waits: u32) -> u32 {
        let kept = |ports: u32| {
            let parked = self.parked.iter().flatten();
            let kept = parked.filter(|parked| parked.pending & ports != 0);
            kept.fold(0u16, |sum, parked| sum.saturating_add(parked.pages))
        };
        let free = self.spare.saturating_sub(kept(u32::MAX));
        let affords = |port: &u32| waits & port != 0 && kept(*port).saturating_add(pages) <= free;
        let ports = (0..u32::BITS).map(|port| 1u32.wrapping_shl(port));
        ports.filter(affords).fold(0, |all, one| all | one)
    }

    /// A frame waits for no queue of it any more.
    fn forget(&mut self, ticket: Ticket) {
        for pair in 0..self.receive.len() {
            let Some(receive) = self.receive.get_mut(pair) else {
                return;
            };
            if receive.waiting.front() == Some(&ticket) {
                receive.pop();
                self.retry(pair);
            } else {
                receive.waiting.retain(|other| *other != ticket);
            }
        }
    }
}

impl Receive {
    /// Whether another frame of a sender may wait. The senders of those that wait have the same share each, so that one that
    /// sends without end does not keep the others from sending; a few of each may wait in any case.
    fn has_place(&self, port: usize) -> bool {
        let mut senders = bit(port);
        let mut own = 0usize;
        for ticket in &self.waiting {
            senders |= bit(ticket.port());
            own = own.saturating_add((ticket.port() == port).into());
        }
        let senders = usize::try_from(senders.count_ones()).unwrap_or(1);
        let share = WAITING.checked_div(senders).unwrap_or(WAITING);
        own < OWN_WAITING || (own < share && self.waiting.len() < WAITING)
    }
}
