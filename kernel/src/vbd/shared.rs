//! A disk of another domain, as its device and the main loop share it, and its part of what there is.

use alloc::rc::Rc;
use core::cell::{Ref, RefCell, RefMut};

use vd_blk::Room;
use vd_blk::later::{AsyncBackend, Done, Job, NotStarted, Properties, Ticket};
use vd_blkif::{Config, Disk};

use crate::pv::Pages;

/// Pages for data, and pieces of guests' buffers, that all disks together have; and how many one has at least and at most.
const DATA_PAGES: (usize, usize, usize) = (2048, 64, 512);
const PIECES: (usize, usize, usize) = (8192, 256, 4096);
const REQUESTS: (usize, usize, usize) = (512, 16, 128);

/// One disk's share, when there are `disks`.
fn share((all, least, most): (usize, usize, usize), disks: usize) -> u16 {
    (all / disks.max(1)).clamp(least, most) as u16
}

/// What one of `disks` disks may use, with at most so many rings.
pub fn config(device: u32, queues: u16, disks: usize) -> Config {
    Config {
        data_pages: share(DATA_PAGES, disks),
        operations: share(REQUESTS, disks),
        max_queues: queues,
        ..Config::of_device(device)
    }
}

/// A disk: the device has it for its data, the main loop for its connection.
#[derive(Clone)]
pub struct Shared(Rc<RefCell<Disk<Pages>>>);

impl Shared {
    /// A disk for both.
    pub fn new(disk: Disk<Pages>) -> Self {
        Self(Rc::new(RefCell::new(disk)))
    }

    /// A look at it, to change it.
    pub fn get_mut(&self) -> RefMut<'_, Disk<Pages>> {
        self.0.borrow_mut()
    }

    /// A look at it.
    pub fn get(&self) -> Ref<'_, Disk<Pages>> {
        self.0.borrow()
    }

    /// How much its device may have under way.
    pub fn room(&self) -> Room {
        let disks = DATA_PAGES.0 / usize::from(self.get().config().data_pages);
        Room {
            requests: share(REQUESTS, disks),
            pieces: share(PIECES, disks),
        }
    }

    /// Lets the events of its back end through that were held back.
    pub fn listen_again(&self) {
        self.get().platform().listen_again();
    }

    /// Forgets what has ended: its device is gone.
    pub fn forget_ended(&self) {
        let mut disk = self.0.borrow_mut();
        while let Some(done) = disk.next_done() {
            disk.release(done.ticket);
        }
    }
}

impl AsyncBackend for Shared {
    fn properties(&self) -> Properties {
        AsyncBackend::properties(&*self.0.borrow())
    }

    fn max_sectors(&self) -> u64 {
        self.0.borrow().max_sectors()
    }

    fn start<E>(
        &mut self,
        job: Job,
        fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Ticket, NotStarted<E>> {
        self.0.borrow_mut().start(job, fill)
    }

    fn kick(&mut self) {
        self.0.borrow_mut().kick();
    }

    fn next_done(&mut self) -> Option<Done> {
        self.0.borrow_mut().next_done()
    }

    fn data<E>(&self, ticket: &Ticket, drain: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.0.borrow().data(ticket, drain)
    }

    fn release(&mut self, ticket: Ticket) {
        self.0.borrow_mut().release(ticket);
    }
}
