//! From responses on a ring to operations that have ended.

use vd_blk::later::{OpError, Operation};

use super::{Disk, Link};
use crate::platform::Platform;
use crate::ring::Garbage;
use crate::wire::{Response, Status};

/// The back end has broken the protocol.
struct Violation;

impl From<Garbage> for Violation {
    fn from(_: Garbage) -> Self {
        Self
    }
}

impl<P: Platform> Disk<P> {
    /// Takes the responses from all rings, and uses the room for what waits.
    pub(super) fn receive(&mut self) {
        if !matches!(self.link, Link::Open | Link::Draining) {
            return;
        }
        for number in 0..self.queues {
            if self.receive_from(number).is_err() {
                self.break_off();
                return;
            }
        }
        self.pump_all();
        self.send();
    }

    /// No more responses are taken than requests were shown, and none are shown meanwhile: that is the bound.
    fn receive_from(&mut self, number: usize) -> Result<(), Violation> {
        loop {
            let Some(ring) = self.lanes.get_mut(number).and_then(|l| l.ring.as_mut()) else {
                return Ok(());
            };
            match ring.take(&self.platform)? {
                Some(bytes) => self.answer(number, Response::decode(bytes))?,
                None if ring.rearm(&mut self.platform)? => {}
                None => return Ok(()),
            }
        }
    }

    fn answer(&mut self, number: usize, response: Response) -> Result<(), Violation> {
        let lane = self.lanes.get_mut(number).ok_or(Violation)?;
        // The lower part of the id is the number of the shadow.
        let place = u16::try_from(response.id & 0xffff).unwrap_or(u16::MAX);
        let shadow = lane
            .shadows
            .get_mut(usize::from(place))
            .filter(|shadow| shadow.id == Some(response.id))
            .filter(|shadow| shadow.answers.contains(&response.operation))
            .ok_or(Violation)?;
        shadow.id = None;
        lane.free.push(place);
        self.lists.give_back(shadow.list);
        let index = shadow.transfer;
        let transfer = self.transfers.get_mut(index).ok_or(Violation)?;
        let error = match response.status {
            Status::Okay => None,
            Status::Error => Some(OpError::Io),
            Status::Unsupported => Some(OpError::Unsupported),
        };
        transfer.error = transfer.error.or(error);
        transfer.outstanding = transfer.outstanding.saturating_sub(1);
        if transfer.outstanding == 0 && (transfer.all_sent || transfer.error.is_some()) {
            let result = transfer.error.map_or(Ok(()), Err);
            self.finish(index, result);
        }
        Ok(())
    }

    /// An operation has ended.
    pub(super) fn finish(&mut self, index: u16, result: Result<(), OpError>) {
        let Some(transfer) = self.transfers.get(index) else {
            return;
        };
        let counters = &mut self.counters;
        match (result, transfer.job.operation) {
            (Ok(()), operation) => {
                counters.completed = counters.completed.saturating_add(1);
                if operation.is_mutating() {
                    self.written = self.written.saturating_add(1);
                } else if operation == Operation::Flush {
                    self.flushed = self.flushed.max(transfer.mark);
                }
            }
            (Err(_), _) => counters.failed = counters.failed.saturating_add(1),
        }
        if !transfer.all_sent {
            for lane in &mut self.lanes {
                lane.waiting.retain(|&other| other != index);
            }
        }
        self.transfers.end(index, result);
    }
}
