//! Interrupts and events together: what a device model has to tell Xen after a request, in one hypercall.
//!
//! Safe, because none of it touches the caller's memory: it is what [`dm::set_pci_intx_level`] and
//! [`event_channel::send`] do.

use crate::dm::{self, DmOpBuf, SetPciIntxLevel};
use crate::event_channel::{self, Send};
use crate::multicall::{self, MulticallEntry};
use crate::{DomId, Errno, EvtchnPort, Hypervisor, number};

/// Most calls in a batch.
pub const MOST: usize = 4;

/// One of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// As [`dm::set_pci_intx_level`].
    PciIntxLevel {
        /// The guest.
        guest: DomId,
        /// PCI device, 0 to 31.
        device: u8,
        /// Pin, 0 = INTA.
        intx: u8,
        /// Whether the line is up.
        level: bool,
    },
    /// As [`event_channel::send`].
    Send(EvtchnPort),
}

impl Call {
    fn make(self, xen: &impl Hypervisor) -> Result<(), Errno> {
        match self {
            Call::PciIntxLevel {
                guest,
                device,
                intx,
                level,
            } => dm::set_pci_intx_level(xen, guest, device, intx, level),
            Call::Send(port) => event_channel::send(xen, port),
        }
    }
}

/// What a call points at.
#[derive(Clone, Copy, Default)]
struct Argument {
    op: dm::Level,
    buffer: DmOpBuf,
    send: Send,
}

/// Makes the first [`MOST`] of the calls in their order: one alone as itself, several as one `multicall`, or one by one if
/// Xen refuses that. Each has a result of its own; where there is no call, it is `Ok`.
pub fn make(xen: &impl Hypervisor, calls: &[Call]) -> [Result<(), Errno>; MOST] {
    let mut results = [Ok(()); MOST];
    let calls = &calls[..calls.len().min(MOST)];
    if let [call] = calls {
        results[0] = call.make(xen);
        return results;
    }
    let mut arguments = [Argument::default(); MOST];
    let mut entries = [MulticallEntry::empty(); MOST];
    for ((call, argument), entry) in calls.iter().zip(&mut arguments).zip(&mut entries) {
        *entry = describe(*call, argument);
    }
    if calls.is_empty() {
        return results;
    }
    // SAFETY: each entry points at its own argument, which outlives the call; the calls are safe as such.
    let whole = unsafe { multicall::multicall(xen, &mut entries[..calls.len()]) };
    for ((result, entry), call) in results.iter_mut().zip(&entries).zip(calls) {
        *result = match whole {
            Ok(()) => entry.result().map(drop),
            // None of them was made.
            Err(_) => call.make(xen),
        };
    }
    results
}

fn describe(call: Call, argument: &mut Argument) -> MulticallEntry {
    match call {
        Call::PciIntxLevel {
            guest,
            device,
            intx,
            level,
        } => {
            argument.op = dm::level(SetPciIntxLevel {
                domain: 0,
                bus: 0,
                device,
                intx,
                level: u8::from(level),
            });
            argument.buffer = DmOpBuf {
                h: (&raw mut argument.op) as u64,
                size: size_of::<dm::Level>() as u64,
            };
            let buffers = (&raw mut argument.buffer) as u64;
            MulticallEntry::new(number::DM_OP, [guest.0.into(), 1, buffers, 0, 0, 0])
        }
        Call::Send(port) => {
            argument.send = Send { port: port.0 };
            let send = (&raw mut argument.send) as u64;
            let op = event_channel::SEND as u64;
            MulticallEntry::new(number::EVENT_CHANNEL_OP, [op, send, 0, 0, 0, 0])
        }
    }
}
