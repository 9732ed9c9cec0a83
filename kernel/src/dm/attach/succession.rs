//! One guest, and two driver domains one after the other.

use alloc::format;
use alloc::string::String;

use vd_kernel_core::bequest::Cause;

use super::Guest;
use crate::counters;
use crate::dm::slots::SERVER;

/// Passes in which a guest that is paused has to come to rest: each of its vCPUs has one access, and what it has posted.
const PASSES: usize = 64;

impl Guest {
    /// Writes down where the devices stand, lowers their interrupt lines, and stops to hear what the guest asks for. The
    /// guest is paused, and stays so until another driver domain serves it, or this one goes on.
    ///
    /// # Errors
    /// Why that cannot be, for the operator; this domain serves the guest as before.
    pub fn export(&mut self, into: &mut [u8]) -> Result<(), String> {
        for _ in 0..PASSES {
            SERVER.scan();
            if !self.pass() && !SERVER.is_asked() {
                break;
            }
        }
        if SERVER.is_asked() {
            return Err("the guest is not paused: its requests do not end".into());
        }
        if !self.devices.is_quiet() || !self.devices.silence(&self.memory) {
            return Err("requests are under way".into());
        }
        self.devices.withdraw()?;
        if !self.devices.export(into, Cause::Order) {
            return Err(format!(
                "where the devices stand takes more than {} KiB",
                into.len() >> 10
            ));
        }
        let aside = SERVER.step_aside();
        aside.map_err(|error| format!("disabling the ioreq server: {error}"))
    }

    /// Serves the guest again after [`Guest::export`].
    ///
    /// # Errors
    /// Why that cannot be, for the operator: nobody serves it.
    pub fn come_back(&mut self) -> Result<(), String> {
        let back = SERVER.come_back();
        back.map_err(|error| format!("enabling the ioreq server again: {error}"))
    }

    /// How much the guest has asked for so far, and posted. Nothing is added while another domain serves it.
    pub fn asked(&self) -> u64 {
        let counters = SERVER.counters();
        counters.taken() + counters.posted_doorbells + counters::get(&counters::POSTED_WRITES)
    }
}

/// Whether every vCPU has taken what it was answered: then nobody needs the page any more.
pub fn is_taken() -> bool {
    SERVER.is_taken()
}
