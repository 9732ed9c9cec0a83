//! Devices that come and go while the guest is served: their doorbells.
//!
//! No hypercall is made for them: what Xen has to know was told when the guest was taken over. Invariant:
//! [`Server::ring_in`] adds all doorbells of a device, or none.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use vd_config::SlotIndex;

use super::attach::Plan;
use super::{Lock, Platform, Server};

impl<P: Platform> Server<P> {
    /// Lets the doorbells ring of devices that have come late. Their slots were free.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator. None of them rings then.
    pub fn ring_in(&self, late: &Plan) -> Result<(), String> {
        self.platform.engine().with(|engine| {
            // Where accesses do not come here, nothing would ever ring.
            for taken in late.taken() {
                if !engine
                    .registers
                    .overlaps(taken.space, taken.first, taken.last)
                {
                    return Err(format!(
                        "the {} were not taken over with the guest: use another doorbell",
                        taken.what
                    ));
                }
            }
            late.add_doorbells(engine)
        })?;
        for device in &late.devices {
            self.forget_device(device.slot);
        }
        Ok(())
    }

    /// The doorbells of these devices do not ring any more.
    pub fn ring_out(&self, gone: &Plan) {
        self.platform.engine().with(|engine| {
            for (_, doorbell) in gone.doorbells() {
                let _ = engine.doorbells.deassign(&doorbell);
            }
        });
    }

    /// Forgets what a former device in a slot has left.
    fn forget_device(&self, slot: SlotIndex) {
        let device = slot.index();
        self.kicks.take(device, |_, _| ());
        for words in [&self.payloads, &self.masked] {
            if let Some(word) = words.get(device) {
                word.store(0, Ordering::Release);
            }
        }
    }
}
