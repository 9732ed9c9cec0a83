//! The disk as storage for the virtio block device.

use vd_blk::Geometry;
use vd_blk::later::{AsyncBackend, Done, Job, NotStarted, OpError, Operation, Properties, Ticket};

use super::transfer::State;
use super::{Disk, PAGE_SECTORS};
use crate::platform::{PAGE_SIZE, Platform};
use crate::pool::NONE;

/// How many of `left` sectors are on the next page, in bytes.
fn bytes_here(left: u64) -> usize {
    let sectors = usize::try_from(left.min(PAGE_SECTORS)).unwrap_or(0);
    sectors.saturating_mul(512).min(PAGE_SIZE)
}

impl<P: Platform> Disk<P> {
    fn fill<E>(
        &mut self,
        job: &Job,
        first: u16,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut page, mut left) = (first, job.sectors);
        while left > 0 && page != NONE {
            let at = self.data_page(page);
            self.platform.fill(at, bytes_here(left), |bytes| {
                if job.operation == Operation::Zero {
                    bytes.fill(0);
                    Ok(())
                } else {
                    fill(bytes)
                }
            })?;
            left = left.saturating_sub(PAGE_SECTORS);
            page = self.data.after(page);
        }
        Ok(())
    }
}

impl<P: Platform> AsyncBackend for Disk<P> {
    fn properties(&self) -> Properties {
        let disk = &self.properties;
        Properties {
            sectors: disk.sectors,
            geometry: Geometry {
                physical_block_size: disk.physical_sector_size,
                ..Geometry::of_blocks(disk.sector_size)
            },
            readonly: disk.readonly,
            discard: disk.discard,
        }
    }

    fn max_sectors(&self) -> u64 {
        let room = u64::from(self.config.data_pages).saturating_mul(PAGE_SECTORS);
        let most = self.config.max_sectors.min(room) / PAGE_SECTORS;
        most.max(1).saturating_mul(PAGE_SECTORS)
    }

    fn start<E>(
        &mut self,
        job: Job,
        fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Ticket, NotStarted<E>> {
        if self.failing {
            return Err(NotStarted::Failed(OpError::Io));
        }
        if self.loss && job.operation == Operation::Flush {
            self.loss = false;
            self.counters.lost_flushes = self.counters.lost_flushes.saturating_add(1);
            return Err(NotStarted::Failed(OpError::Io));
        }
        let moves = !matches!(job.operation, Operation::Flush | Operation::Discard);
        let pages = if moves {
            usize::try_from(job.sectors.div_ceil(PAGE_SECTORS)).unwrap_or(usize::MAX)
        } else {
            0
        };
        if self.transfers.is_full() {
            return Err(NotStarted::Full);
        }
        let first = self.data.take(pages).ok_or(NotStarted::Full)?;
        if matches!(job.operation, Operation::Write | Operation::Zero)
            && let Err(error) = self.fill(&job, first, fill)
        {
            self.data.give_back(first);
            return Err(NotStarted::Data(error));
        }
        let index = self.transfers.insert(job, first).ok_or(NotStarted::Full)?;
        self.enqueue(index);
        Ok(Ticket(index))
    }

    fn kick(&mut self) {
        self.send();
    }

    fn next_done(&mut self) -> Option<Done> {
        let mut ended = self.transfers.next_ended();
        if ended.is_none() {
            self.receive();
            ended = self.transfers.next_ended();
        }
        let index = ended?;
        let transfer = self.transfers.get(index)?;
        let State::Ended(result) = transfer.state else {
            return None;
        };
        Some(Done {
            tag: transfer.job.tag,
            ticket: Ticket(index),
            result,
        })
    }

    fn data<E>(
        &self,
        ticket: &Ticket,
        mut drain: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(transfer) = self.transfers.get(ticket.0) else {
            return Ok(());
        };
        let (mut page, mut left) = (transfer.first, transfer.job.sectors);
        while left > 0 && page != NONE {
            let at = self.data_page(page);
            self.platform.drain(at, bytes_here(left), &mut drain)?;
            left = left.saturating_sub(PAGE_SECTORS);
            page = self.data.after(page);
        }
        Ok(())
    }

    fn release(&mut self, ticket: Ticket) {
        if let Some(first) = self.transfers.remove(ticket.0) {
            self.data.give_back(first);
        }
    }
}
