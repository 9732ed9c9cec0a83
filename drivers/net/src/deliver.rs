//! Giving a frame to a port, in the form that its driver takes.

use vd_virtio::GuestMemory;
use vd_virtio::fault::FaultKind;

use crate::buffers::{Buffers, Frame, Undelivered};
use crate::counters::{Counters, add, bump};
use crate::features::NetFeatures;
use crate::header::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, NetHeader};
use crate::packet::{LargeTcp, Offload, Packet};
use crate::place::{Frames, Piece};
use crate::port::{Port, receive_queue};
use crate::segment::{self, MAX_PARTS};
use crate::uplink::Takes;

/// Bytes of a frame for which giving it to a port costs as much as another request, as a power of two; a part that was cut costs the same.
const COST_SHIFT: u32 = 14;

/// What has become of a frame on its way to one port.
pub(crate) enum Outcome {
    /// It was delivered, or dropped and counted.
    Done,
    /// There are too few buffers for it.
    NoRoom,
    /// The sender's fault.
    Source(FaultKind),
    /// The receiver's fault.
    Target(FaultKind),
}

impl Port {
    /// Gives it a frame, in one of the receive queues.
    pub(crate) fn give<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        pair: usize,
        packet: &Packet,
        pieces: &[Piece],
    ) -> Outcome {
        let fits = packet.fits(self.config.mtu);
        let taking = self.taking();
        let Self {
            receive, counters, ..
        } = self;
        let Some(receive) = receive.get_mut(pair) else {
            return Outcome::Done;
        };
        if !fits {
            bump(&mut counters.rx_long);
            return Outcome::Done;
        }
        let mut to = Receiver {
            mem,
            taking,
            buffers: &mut receive.buffers,
            counters,
            done: &mut receive.done,
            size: receive.size,
        };
        let before = *to.done;
        let given = match packet.offload {
            Offload::Tcp(tcp) if !taking.large(packet, &tcp) => to.parts(packet, &tcp, pieces),
            _ => to.whole(packet, pieces),
        };
        match given {
            Ok(()) => self.wake(receive_queue(pair)),
            Err(Undelivered::NoRoom) => {
                if *to.done != before {
                    self.wake(receive_queue(pair));
                }
                return Outcome::NoRoom;
            }
            Err(Undelivered::TooLong) => bump(&mut counters.rx_long),
            Err(Undelivered::Source(error)) => return Outcome::Source(error.into()),
            Err(Undelivered::Target(error)) => return Outcome::Target(error.into()),
        }
        Outcome::Done
    }

    /// What giving it a frame costs, in requests.
    pub(crate) fn cost(&self, packet: &Packet) -> u32 {
        let cost = match packet.offload {
            Offload::Tcp(tcp) if !self.taking().large(packet, &tcp) => {
                segment::count(packet, &tcp).min(MAX_PARTS)
            }
            _ => packet.len >> COST_SHIFT,
        };
        u32::try_from(cost).unwrap_or(u32::MAX)
    }
}

/// What is left to a receiver.
#[derive(Clone, Copy)]
pub(crate) struct Taking {
    pub(crate) features: NetFeatures,
    /// Of an uplink.
    pub(crate) uplink: Option<Takes>,
}

impl Taking {
    fn checksum(&self, packet: &Packet, start: usize, field: usize) -> bool {
        match self.uplink {
            None => self.features.contains(NetFeatures::GUEST_CSUM),
            Some(takes) => takes.checksum(packet, start, field),
        }
    }

    fn large(&self, packet: &Packet, tcp: &LargeTcp) -> bool {
        match self.uplink {
            None => self.features.contains(tcp.guest_feature()),
            Some(takes) => takes.large(packet, tcp),
        }
    }
}

/// Where a frame goes.
struct Receiver<'a, M: ?Sized> {
    mem: &'a Frames<'a, M>,
    taking: Taking,
    buffers: &'a mut Buffers,
    counters: &'a mut Counters,
    /// Parts that were given already, of a segment that is cut.
    done: &'a mut usize,
    /// Most buffers that there can be.
    size: usize,
}

impl<M: GuestMemory + ?Sized> Receiver<'_, M> {
    fn mergeable(&self) -> bool {
        self.taking.features.contains(NetFeatures::MRG_RXBUF)
    }

    /// One frame, as it was sent or with its checksum filled in.
    fn whole(&mut self, packet: &Packet, pieces: &[Piece]) -> Result<(), Undelivered> {
        let mut frame = Frame {
            header: NetHeader::default(),
            start: packet.prefix(),
            pieces,
            skip: 0,
            rest: packet.body(),
            checksum: None,
        };
        match packet.offload {
            Offload::None => {}
            Offload::Checksum { start, field } => self.checksum(packet, &mut frame, start, field),
            Offload::Tcp(tcp) => {
                self.checksum(packet, &mut frame, tcp.start, tcp.checksum());
                frame.header.gso_type = if tcp.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
                frame.header.gso_size = short(tcp.part);
                frame.header.hdr_len = short(tcp.headers);
            }
        }
        self.put(&frame)
    }

    /// The parts of a large segment, from the one on that did not fit before.
    fn parts(
        &mut self,
        packet: &Packet,
        tcp: &LargeTcp,
        pieces: &[Piece],
    ) -> Result<(), Undelivered> {
        let count = segment::count(packet, tcp);
        if count > MAX_PARTS {
            bump(&mut self.counters.rx_uncut);
            return Ok(());
        }
        for number in *self.done..count {
            let part = segment::part(packet, tcp, number);
            let mut frame = Frame {
                header: NetHeader::default(),
                start: part.headers(),
                pieces,
                skip: part.skip,
                rest: part.data,
                checksum: None,
            };
            self.checksum(packet, &mut frame, tcp.start, tcp.checksum());
            self.put(&frame)?;
            *self.done = number.saturating_add(1);
        }
        bump(&mut self.counters.cut);
        Ok(())
    }

    /// Leaves a checksum to the driver if it takes that.
    fn checksum(&self, packet: &Packet, frame: &mut Frame<'_>, start: usize, field: usize) {
        if self.taking.checksum(packet, start, field) {
            frame.header.flags = NEEDS_CSUM;
            frame.header.csum_start = short(start);
            frame.header.csum_offset = short(field.saturating_sub(start));
        } else {
            frame.checksum = Some((start, field));
        }
    }

    fn put(&mut self, frame: &Frame<'_>) -> Result<(), Undelivered> {
        let mergeable = self.mergeable();
        let given = self.buffers.deliver(self.mem, frame, mergeable);
        if given == Err(Undelivered::NoRoom) && self.buffers.are_all(self.size) {
            // There will never be more.
            return Err(Undelivered::TooLong);
        }
        given?;
        bump(&mut self.counters.rx_frames);
        add(&mut self.counters.rx_bytes, frame.len());
        if frame.checksum.is_some() {
            bump(&mut self.counters.checksums);
        }
        Ok(())
    }
}

/// Lengths inside of a frame have 16 bits, as that of a frame's offloads is checked.
fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
