//! What a device type supplies; everything else is the transport's.

use crate::chain::Chain;
use crate::fault::FaultKind;
use crate::features::Features;
use crate::mem::GuestMemory;
use crate::pass::Pass;
use crate::state::{BadState, Reader, Writer};

/// The number of a device type (virtio 1.3, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(pub u32);

impl DeviceId {
    /// No device: drivers skip it.
    pub const RESERVED: DeviceId = DeviceId(0);
    /// Network device.
    pub const NETWORK: DeviceId = DeviceId(1);
    /// Block device.
    pub const BLOCK: DeviceId = DeviceId(2);
    /// Console.
    pub const CONSOLE: DeviceId = DeviceId(3);
    /// Entropy source.
    pub const ENTROPY: DeviceId = DeviceId(4);
}

/// How a pass over a queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything that the driver has made available was taken: it has to kick for more.
    Drained,
    /// The device wants no more now, and needs no kick: it takes the queue up again by itself
    /// ([`crate::MmioTransport::wake`]).
    Waiting,
}

/// A device type.
pub trait Device {
    /// Its number.
    fn id(&self) -> DeviceId;

    /// The features it offers, besides [`Features::CORE`].
    fn features(&self) -> Features;

    /// How many queues it has; no more than its transport has room for are used.
    fn queues(&self) -> u16 {
        1
    }

    /// Copies configuration space from `offset` on; what is past its end reads as zeroes.
    fn read_config(&self, offset: usize, into: &mut [u8]);

    /// The driver writes to configuration space. Returns whether that means anything.
    fn write_config(&mut self, offset: usize, from: &[u8]) -> bool {
        let _ = (offset, from);
        false
    }

    /// The driver is done with the set-up.
    fn activate(&mut self, features: Features) {
        let _ = features;
    }

    /// The driver starts over: everything it has negotiated is forgotten. A request that is under way may be finished;
    /// giving it back is harmless.
    fn reset(&mut self) {}

    /// The driver starts over with one queue.
    fn reset_queue(&mut self, queue: u16) {
        let _ = queue;
    }

    /// Whether the device gives the requests of a queue back in the order in which it took them: then those that it has
    /// can be taken again by another one that goes on in its place.
    fn keeps_order(&self, queue: u16) -> bool {
        let _ = queue;
        false
    }

    /// Another device is about to go on in the place of this one: what waits for something that may never come is given
    /// up, as far as the device type allows that, and given back with the next runs. To be called more than once.
    fn quiesce(&mut self) {}

    /// Writes down what another device needs to go on besides the features, for [`Device::restore`].
    fn save(&self, to: &mut Writer<'_>) {
        let _ = to;
    }

    /// Goes on where another device has stopped. It was activated before, and nothing was run.
    ///
    /// # Errors
    /// [`BadState`]
    fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        let _ = from;
        Ok(())
    }

    /// Runs a queue: takes requests, as many as the pass allows, and gives back what is done. A request may stay with
    /// the device over any number of passes. `chain` is there to be used.
    ///
    /// # Errors
    /// A fault of the driver, which breaks the device. Trouble of the device itself is told to the driver inside of
    /// the request.
    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind>;
}
