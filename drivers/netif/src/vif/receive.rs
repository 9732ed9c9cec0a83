//! What comes in: pages for the ring, and frames from it.

use super::{Link, MASK, Vif};
use crate::incoming::{Expect, Incoming, Nonsense};
use crate::pages::{FramePages, NONE};
use crate::wire::{RxRequest, RxResponse};

impl<P: FramePages> Vif<P> {
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
}
