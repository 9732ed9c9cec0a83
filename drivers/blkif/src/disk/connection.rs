//! Connections: what the back end gets, and how it is taken back.

use vd_blk::later::{OpError, Operation};
use vd_pv::NoRoom;

use super::{Disk, Link};
use crate::nodes::{Offer, Properties};
use crate::platform::{Access, Platform};
use crate::ring::Ring;

/// What a back end has to know of a ring: its event channel, and the grants of its pages in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel<'a> {
    /// The event channel.
    pub port: u32,
    /// The grants.
    pub pages: &'a [Option<u32>],
}

impl<P: Platform> Disk<P> {
    /// Lets a back end in: makes rings and event channels, grants all pages. The disk has to be without one.
    ///
    /// # Errors
    /// [`NoRoom`]; [`Disk::revoke`] takes back what was given.
    pub fn connect(&mut self, domain: u16, offer: &Offer) -> Result<(), NoRoom> {
        if self.link != Link::Down || !self.revoke() {
            return Err(NoRoom);
        }
        let most = self.config.ring_pages();
        let pages = (1usize << offer.ring_order.min(self.config.max_ring_order)).min(most);
        self.queues = usize::from(offer.queues).clamp(1, self.lanes.len());
        self.link = Link::Offered;
        for (number, lane) in self.lanes.iter_mut().enumerate().take(self.queues) {
            let first = number.saturating_mul(most);
            lane.ring = Some(Ring::new(&mut self.platform, first, pages));
            lane.port = self.platform.open_port(domain);
            for page in first..first.saturating_add(pages) {
                if let Some(grant) = self.grants.get_mut(page) {
                    *grant = self.platform.grant(domain, page, Access::Write);
                }
            }
        }
        for page in self.config.first_list_page()..self.config.pages() {
            if let Some(grant) = self.grants.get_mut(page) {
                *grant = self.platform.grant(domain, page, Access::Write);
            }
        }
        if self.is_complete(pages) {
            Ok(())
        } else {
            self.disconnect(true);
            Err(NoRoom)
        }
    }

    fn is_complete(&self, ring_pages: usize) -> bool {
        let pool = self.grants.get(self.config.first_list_page()..);
        let granted = |pages: &[Option<u32>]| pages.iter().all(Option::is_some);
        pool.is_some_and(granted)
            && self.channels().count() == self.queues
            && self
                .channels()
                .all(|channel| channel.pages.len() == ring_pages && granted(channel.pages))
    }

    /// The rings, for the back end to find.
    pub fn channels(&self) -> impl Iterator<Item = Channel<'_>> {
        let most = self.config.ring_pages();
        let lanes = self.lanes.iter().take(self.queues).enumerate();
        lanes.filter_map(move |(number, lane)| {
            let pages = self
                .grants
                .get(number.saturating_mul(most)..)?
                .get(..most)?;
            // The pages of a ring come without a gap.
            let granted = pages.iter().take_while(|grant| grant.is_some()).count();
            Some(Channel {
                port: lane.port?,
                pages: pages.get(..granted)?,
            })
        })
    }

    /// The back end is ready. Everything that waited goes out.
    pub fn open(&mut self, properties: Properties) {
        if self.link != Link::Offered {
            return;
        }
        self.properties = properties;
        self.link = Link::Open;
        self.failing = false;
        self.counters.connections = self.counters.connections.saturating_add(1);
        let (lanes, queues) = (&mut self.lanes, self.queues);
        self.transfers.in_order(|index, transfer| {
            let lane = usize::from(transfer.job.queue).checked_rem(queues);
            if let Some(lane) = lane.and_then(|lane| lanes.get_mut(lane)) {
                lane.waiting.push_back(index);
            }
        });
        self.pump_all();
        self.send();
    }

    /// The disk has another size.
    pub fn resize(&mut self, sectors: u64) {
        self.properties.sectors = sectors;
    }

    /// No more requests go out. Those that are out are answered still.
    pub fn drain(&mut self) {
        if self.link == Link::Open {
            self.link = Link::Draining;
        }
    }

    /// The connection is over. In good order means that the back end has answered everything and lives on, so that
    /// what it has answered will not be lost; then nothing is. Operations under way wait for the next connection.
    pub fn disconnect(&mut self, in_order: bool) {
        if self.link == Link::Down {
            return;
        }
        let was_open = matches!(self.link, Link::Open | Link::Draining | Link::Broken);
        let in_order = in_order && (!was_open || self.is_idle());
        self.link = Link::Down;
        for lane in &mut self.lanes {
            lane.ring = None;
            lane.waiting.clear();
            if let Some(port) = lane.port.take() {
                self.platform.close_port(port);
            }
            for (number, shadow) in (0..).zip(&mut lane.shadows) {
                if shadow.id.take().is_some() {
                    lane.free.push(number);
                    self.lists.give_back(shadow.list);
                }
            }
        }
        if was_open && !in_order {
            self.counters.lost = self.counters.lost.saturating_add(1);
            // Only a flush that goes well makes it clean: if nothing was lost this time, it may be the next time.
            self.loss |= self.is_dirty();
        }
        self.rewind();
    }

    /// Puts everything under way back to its start. What had failed in part has failed.
    fn rewind(&mut self) {
        let mut reissued = 0u64;
        for index in self.transfers.indices() {
            let Some(transfer) = self.transfers.get_mut(index).filter(|t| t.is_live()) else {
                continue;
            };
            let flush = transfer.job.operation == Operation::Flush;
            if let Some(error) = transfer.error {
                self.finish(index, Err(error));
            } else if flush && self.loss {
                self.counters.lost_flushes = self.counters.lost_flushes.saturating_add(1);
                self.finish(index, Err(OpError::Io));
            } else {
                reissued = reissued.saturating_add(transfer.is_begun().into());
                transfer.rewind();
            }
        }
        self.counters.reissued = self.counters.reissued.saturating_add(reissued);
    }

    /// Takes the grants back, as far as the back end has let go. Returns whether none is left.
    pub fn revoke(&mut self) -> bool {
        if self.link != Link::Down {
            return false;
        }
        let mut left = 0usize;
        for grant in &mut self.grants {
            if let Some(gref) = *grant {
                if self.platform.end_grant(gref) {
                    *grant = None;
                } else {
                    left = left.saturating_add(1);
                }
            }
        }
        left == 0
    }
}
