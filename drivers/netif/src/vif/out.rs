//! What goes out: from pages that the switch has filled to the ring, and back.

use vd_net::header::{GSO_NONE, GSO_TCPV6, HEADER, NEEDS_CSUM, NetHeader};

use super::{Link, SLOTS, TX_PAGES, Vif};
use crate::incoming::Nonsense;
use crate::pages::FramePages;
use crate::wire::{Extra, Gso, MAX_SLOTS, MAX_TX, Status, TxRequest, TxResponse, tx};

impl<P: FramePages> Vif<P> {
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
            let counter = match status {
                Status::Okay => &mut self.counters.okay_out,
                _ => &mut self.counters.refused_out,
            };
            *counter = counter.saturating_add(1);
        }
    }

    /// Asks for an event with the next answer to what went out, if room is scarce: while there is much, nobody waits for
    /// more, as no frame takes more than [`MAX_SLOTS`] pages at once, and one that is cut takes what there is. Returns
    /// whether there is an answer already.
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
}

/// Counts of pages and lengths of headers are small.
fn short(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
