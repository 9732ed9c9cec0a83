//! One port of the switch: what its driver has negotiated, given and left waiting.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use vd_virtio::fault::FaultKind;

use crate::buffers::{BUFFERS, Buffers};
use crate::counters::Counters;
use crate::deliver::Taking;
use crate::features::NetFeatures;
use crate::learned::Learned;
use crate::packet::Packet;
use crate::place::{Owner, Piece};
use crate::switch::MAX_PORTS;
use crate::uplink::Takes;
use crate::wire::Mac;

/// Most pairs of queues of a device.
pub const MAX_PAIRS: u16 = 4;
/// Frames of one port that may wait for receivers.
pub(crate) const PARKED: usize = 32;
/// Most pieces of one that waits.
pub(crate) const PARKED_PIECES: usize = 24;
/// Frames that may wait for one receive queue: fewer than one port may have, so that one receiver does not take all places.
/// The senders share them.
pub(crate) const WAITING: usize = 24;
/// Frames of every sender that may wait for a receive queue in any case.
pub(crate) const OWN_WAITING: usize = 2;
/// Frames that wait for one receive queue, at most.
const MOST_WAITING: usize = WAITING + OWN_WAITING * (MAX_PORTS + 1);
/// Flows that a port tells apart.
const FLOWS: usize = 64;

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its address, until the driver sets another one.
    pub mac: Mac,
    /// Most bytes of a frame behind the Ethernet header.
    pub mtu: u16,
    /// Pairs of queues, one to [`MAX_PAIRS`].
    pub pairs: u16,
}

/// Names a frame that waits: whose it is, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    port: u8,
    place: u8,
}

impl Ticket {
    /// None if there is no such port or place.
    pub(crate) fn new(port: usize, place: usize) -> Option<Self> {
        Some(Self {
            port: u8::try_from(port).ok()?,
            place: u8::try_from(place).ok()?,
        })
    }

    /// Whose it is.
    pub(crate) fn port(self) -> usize {
        self.port.into()
    }

    /// Its place there.
    pub(crate) fn place(self) -> usize {
        self.place.into()
    }
}

/// A frame that waits. It is still in its sender's buffers.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) queue: u16,
    pub(crate) owner: Owner,
    pub(crate) packet: Packet,
    pub(crate) pieces: heapless::Vec<Piece, PARKED_PIECES>,
    /// For one of the uplink: pages that it keeps.
    pub(crate) pages: u16,
    /// The ports that it waits for, as bits.
    pub(crate) pending: u32,
    /// Ticks since it waits.
    pub(crate) age: u32,
}

/// One receive queue.
#[derive(Debug)]
pub(crate) struct Receive {
    pub(crate) buffers: Buffers,
    /// The frames that wait for it, in order.
    pub(crate) waiting: VecDeque<Ticket>,
    /// Parts of the frame that is the next that were given already, if it is cut. A receiver may have fewer buffers than
    /// there are parts, at all times.
    pub(crate) done: usize,
    /// Most buffers that the driver can give.
    pub(crate) size: usize,
}

impl Receive {
    /// The frame that was the next is not any more.
    pub(crate) fn pop(&mut self) -> Option<Ticket> {
        self.done = 0;
        self.waiting.pop_front()
    }
}

/// A port.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) config: PortConfig,
    /// The address that it has now.
    pub(crate) mac: Mac,
    pub(crate) features: NetFeatures,
    /// For the uplink: what whoever is behind it takes.
    pub(crate) uplink: Option<Takes>,
    /// For the uplink: pages that frames which wait may keep.
    pub(crate) spare: u16,
    /// There is a driver, and nothing is wrong with it.
    pub(crate) running: bool,
    pub(crate) link: bool,
    /// Its device is gone.
    pub(crate) vacant: bool,
    /// Pairs of queues that the driver uses.
    pub(crate) pairs: u16,
    pub(crate) receive: Box<[Receive]>,
    pub(crate) parked: Box<[Option<Parked>]>,
    /// Buffers of frames that waited, to be given back: queue and owner.
    pub(crate) returned: VecDeque<(u16, Owner)>,
    pub(crate) learned: Learned,
    /// The pair on which a flow was sent last, from 1 on.
    flows: [u8; FLOWS],
    /// Queues that have something to do, as bits.
    pub(crate) wakes: u32,
    /// For the uplink: what waits for it may fit now.
    pub(crate) retry: bool,
    fault: Option<FaultKind>,
    pub(crate) counters: Counters,
}

/// The receive queue of a pair.
pub(crate) fn receive_queue(pair: usize) -> u16 {
    u16::try_from(pair.saturating_mul(2)).unwrap_or(u16::MAX)
}

impl Port {
    pub(crate) fn new(config: PortConfig) -> Self {
        let receive = || Receive {
            buffers: Buffers::new(),
            waiting: VecDeque::with_capacity(MOST_WAITING),
            done: 0,
            size: BUFFERS,
        };
        Self {
            config,
            mac: config.mac,
            features: NetFeatures::empty(),
            uplink: None,
            spare: 0,
            running: false,
            link: true,
            vacant: false,
            pairs: 1,
            receive: (0..config.pairs).map(|_| receive()).collect(),
            parked: (0..PARKED).map(|_| None).collect(),
            returned: VecDeque::with_capacity(PARKED),
            learned: Learned::NONE,
            flows: [0; FLOWS],
            wakes: 0,
            retry: false,
            fault: None,
            counters: Counters::default(),
        }
    }

    /// What is left to it.
    pub(crate) fn taking(&self) -> Taking {
        Taking {
            features: self.features,
            uplink: self.uplink,
        }
    }

    /// Whether it has this address, configured or set by the driver. The uplink has none.
    pub(crate) fn holds(&self, mac: Mac) -> bool {
        self.uplink.is_none() && !self.vacant && (self.mac == mac || self.config.mac == mac)
    }

    /// Whether frames can be given to it.
    pub(crate) fn is_receiving(&self) -> bool {
        self.running && self.link
    }

    /// Pairs of queues that the driver may use.
    pub(crate) fn usable_pairs(&self) -> u16 {
        if self.features.contains(NetFeatures::MQ) {
            self.config.pairs
        } else {
            1
        }
    }

    /// The control queue's number: behind all pairs with MQ, else behind the first (5.1.2).
    pub(crate) fn control_queue(&self) -> Option<u16> {
        self.features
            .contains(NetFeatures::CTRL_VQ)
            .then_some(self.usable_pairs().saturating_mul(2))
    }

    /// The queue has something to do.
    pub(crate) fn wake(&mut self, queue: u16) {
        self.wakes |= 1u32.checked_shl(queue.into()).unwrap_or(0);
    }

    /// The frame that waited first for the receive queue of a pair is gone, and others wait: they may fit.
    pub(crate) fn retry(&mut self, pair: usize) {
        if self.uplink.is_some() {
            self.retry = true;
        } else {
            self.wake(receive_queue(pair));
        }
    }

    /// The driver has got something wrong, which another port's work has brought to light. Nothing more is done for it
    /// until it starts over.
    pub(crate) fn fail(&mut self, kind: FaultKind) {
        self.fault = Some(kind);
        self.running = false;
        self.wake(0);
    }

    pub(crate) fn take_fault(&mut self) -> Option<FaultKind> {
        self.fault.take()
    }

    /// The driver starts over.
    pub(crate) fn reset(&mut self) {
        self.mac = self.config.mac;
        self.features = NetFeatures::empty();
        self.running = false;
        self.pairs = 1;
        for receive in &mut self.receive {
            receive.buffers.clear();
        }
        self.returned.clear();
        self.learned = Learned::NONE;
        self.flows = [0; FLOWS];
        self.wakes = 0;
        self.retry = false;
        self.fault = None;
    }

    fn flow_place(&mut self, flow: u32) -> Option<&mut u8> {
        let index = usize::try_from(flow).ok()?.checked_rem(FLOWS)?;
        self.flows.get_mut(index)
    }

    /// The driver sends this flow on that pair: it wants the other direction there too (5.1.6.5.6).
    pub(crate) fn sends(&mut self, flow: u32, pair: usize) {
        let number = u8::try_from(pair.saturating_add(1)).unwrap_or(0);
        if let Some(place) = self.flow_place(flow) {
            *place = number;
        }
    }

    /// The pair for a flow.
    pub(crate) fn pair_for(&mut self, flow: u32) -> usize {
        let pairs = usize::from(self.pairs);
        let known = self.flow_place(flow).map_or(0, |place| usize::from(*place));
        match known.checked_sub(1) {
            Some(pair) if pair < pairs => pair,
            _ => usize::try_from(flow)
                .unwrap_or(0)
                .checked_rem(pairs)
                .unwrap_or(0),
        }
    }
}
