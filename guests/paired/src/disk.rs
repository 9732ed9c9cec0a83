//! Disks: the block driver of `virtio-drivers` with completions by interrupt, and a queue of its own for requests that
//! the driver does not have without waiting.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::BitAnd;

use vd_config::SlotIndex;
use vd_paired::pattern::SECTOR;
use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, VirtIOBlk};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use crate::connect::Connected;
use crate::interrupts::{self, Waiter};
use crate::memory::Memory;
use crate::ring::Ring;

/// Requests under way at most.
pub const DEPTH: usize = 4;

/// A disk.
pub struct Disk {
    driver: VirtIOBlk<Memory, Ring>,
    slot: SlotIndex,
    waiter: Waiter,
    flights: Vec<Flight>,
}

/// A request under way, and all that the device may touch because of it.
struct Flight {
    token: u16,
    sector: u64,
    write: bool,
    request: Box<BlkReq>,
    data: Vec<u8>,
    response: Box<BlkResp>,
}

/// A request that is done.
pub struct Done {
    /// Where it was.
    pub sector: u64,
    /// What was read, or written.
    pub data: Vec<u8>,
    /// Whether it was written.
    pub write: bool,
}

impl Disk {
    /// Resets a device and sets it up.
    ///
    /// # Errors
    /// What the device is not as it should be.
    pub fn open(device: &Connected) -> Result<Self, String> {
        let ring = Ring::new(device).map_err(|error| error.to_string())?;
        let driver = VirtIOBlk::new(ring).map_err(|error| format!("set-up: {error}"))?;
        Ok(Self {
            driver,
            slot: device.device.slot,
            waiter: Waiter::new(),
            flights: Vec::with_capacity(DEPTH),
        })
    }

    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.driver.capacity()
    }

    /// Its serial number. Waits without interrupts.
    ///
    /// # Errors
    /// The device's.
    pub fn serial(&mut self) -> Result<String, String> {
        let mut id = [0; 20];
        let len = self
            .driver
            .device_id(&mut id)
            .map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&id[..len]).into_owned())
    }

    /// Whether another request may be submitted.
    pub fn has_room(&self) -> bool {
        self.flights.len() < DEPTH
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Submits a write of `data`, or a read of as many bytes.
    ///
    /// # Errors
    /// The driver's.
    pub fn submit(&mut self, sector: u64, mut data: Vec<u8>, write: bool) -> Result<(), String> {
        let mut request = Box::<BlkReq>::default();
        let mut response = Box::<BlkResp>::default();
        let at = sector as usize;
        // SAFETY: all three are on the heap and stay there, untouched, until `complete` has them back from the
        // device; a flight is dropped only with the disk, which stops the device first.
        let token = unsafe {
            if write {
                self.driver
                    .write_blocks_nb(at, &mut request, &data, &mut response)
            } else {
                self.driver
                    .read_blocks_nb(at, &mut request, &mut data, &mut response)
            }
        };
        let token = token.map_err(|error| format!("sector {sector}: {error}"))?;
        self.flights.push(Flight {
            token,
            sector,
            write,
            request,
            data,
            response,
        });
        Ok(())
    }

    /// Waits until a request is done: its interrupt tells, however early the device was.
    ///
    /// # Errors
    /// The device's, or that it does not answer.
    pub fn complete(&mut self) -> Result<Done, String> {
        let Self { driver, waiter, .. } = self;
        let mut token = None;
        let waited = waiter.until(|| {
            token = driver.peek_used();
            token.is_some()
        });
        waited.map_err(|_| String::from("no interrupt, and no answer"))?;
        self.take(token)
    }

    /// As [`Self::complete`], but believes nothing before an interrupt beyond `before` has come.
    ///
    /// # Errors
    /// The device's, or that there is no interrupt.
    pub fn complete_after_interrupt(&mut self, before: u64) -> Result<Done, String> {
        self.wait_for_interrupt(before)?;
        let token = self.driver.peek_used();
        self.take(token)
    }

    /// Waits until an interrupt beyond `before` has come.
    ///
    /// # Errors
    /// There is none.
    pub fn wait_for_interrupt(&mut self, before: u64) -> Result<(), String> {
        let slot = self.slot;
        let waited = self.waiter.until(|| interrupts::count(slot) != before);
        waited.map_err(|_| match self.driver.peek_used() {
            Some(_) => String::from("an answer without an interrupt"),
            None => String::from("no interrupt, and no answer"),
        })
    }

    fn take(&mut self, token: Option<u16>) -> Result<Done, String> {
        let token = token.ok_or("an interrupt without an answer")?;
        let mut flights = self.flights.iter();
        let at = flights.position(|flight| flight.token == token);
        let at = at.ok_or_else(|| format!("an answer to {token}, which was not asked"))?;
        let Flight {
            sector,
            write,
            request,
            mut data,
            mut response,
            ..
        } = self.flights.swap_remove(at);
        // SAFETY: what was submitted with this token.
        let result = unsafe {
            if write {
                self.driver
                    .complete_write_blocks(token, &request, &data, &mut response)
            } else {
                self.driver
                    .complete_read_blocks(token, &request, &mut data, &mut response)
            }
        };
        result.map_err(|error| format!("sector {sector}: {error}"))?;
        if response.status() != RespStatus::OK {
            return Err(format!("sector {sector}: status {:?}", response.status()));
        }
        Ok(Done {
            sector,
            data,
            write,
        })
    }
}

/// Zeroed data of whole sectors.
pub fn sectors(count: u64) -> Vec<u8> {
    vec![0; count as usize * SECTOR]
}

bitflags::bitflags! {
    /// Features of the queue below.
    #[derive(Clone, Copy, Debug)]
    struct Wanted: u64 {
        /// VIRTIO_BLK_F_FLUSH.
        const FLUSH = 1 << 9;
        /// VIRTIO_F_EVENT_IDX.
        const EVENT_IDX = 1 << 29;
        /// VIRTIO_F_VERSION_1.
        const VERSION_1 = 1 << 32;
    }
}

/// A queue for the smallest request that there is: a flush, which the device answers with one byte.
pub struct Flusher {
    ring: Ring,
    queue: VirtQueue<Memory, 16>,
    header: Box<[u8; 16]>,
    status: Box<[u8; 1]>,
    waiter: Waiter,
    slot: SlotIndex,
}

impl Flusher {
    /// Resets a device and sets it up.
    ///
    /// # Errors
    /// What the device is not as it should be.
    pub fn open(device: &Connected, interrupts: bool) -> Result<Self, String> {
        let ring = Ring::new(device).map_err(|error| error.to_string())?;
        // With event indices the driver could not say that it wants no interrupts at all.
        let mut ring = if interrupts {
            ring
        } else {
            ring.without_event_idx()
        };
        let features = ring.begin_init(Wanted::all());
        let event_idx = !(features.bitand(Wanted::EVENT_IDX)).is_empty();
        let queue = VirtQueue::new(&mut ring, 0, false, event_idx);
        let mut queue = queue.map_err(|error| format!("set-up: {error}"))?;
        queue.set_dev_notify(interrupts);
        ring.finish_init();
        let mut header = Box::new([0; 16]);
        // VIRTIO_BLK_T_FLUSH.
        header[0] = 4;
        Ok(Self {
            ring,
            queue,
            header,
            status: Box::new([0xff]),
            waiter: Waiter::new(),
            slot: device.device.slot,
        })
    }

    /// Flushes once; `interrupts` says whether an interrupt has to tell that it is done.
    ///
    /// # Errors
    /// The device's, or that it does not answer.
    pub fn flush(&mut self, interrupts: bool) -> Result<(), String> {
        let Self {
            ring,
            queue,
            header,
            status,
            waiter,
            slot,
        } = self;
        let before = interrupts::count(*slot);
        status[0] = 0xff;
        // SAFETY: both are on the heap and are not touched before the queue has them back.
        let token = unsafe { queue.add(&[&header[..]], &mut [&mut status[..]]) };
        let token = token.map_err(|error| error.to_string())?;
        if queue.should_notify() {
            ring.notify(0);
        }
        let waited = if interrupts {
            waiter.until(|| interrupts::count(*slot) != before && queue.can_pop())
        } else {
            waiter.look_until(|| queue.can_pop())
        };
        waited.map_err(|_| String::from("no answer"))?;
        // SAFETY: what was added with this token.
        let popped = unsafe { queue.pop_used(token, &[&header[..]], &mut [&mut status[..]]) };
        let written = popped.map_err(|error| error.to_string())?;
        match (written, status[0]) {
            (1, 0) => Ok(()),
            (written, status) => Err(format!("{written} bytes written, status {status}")),
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        // The device forgets the queue before its memory is given back.
        self.ring.queue_unset(0);
    }
}
