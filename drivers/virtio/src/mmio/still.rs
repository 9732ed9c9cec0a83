//! Registers that stay as they are while a driver uses the device: they can be shown to it in memory.
//!
//! From [`TAIL`] on there is nothing that a driver reads to wait for something it has written, but for Status after a reset,
//! the configuration after an acknowledgement, and QueueReset. So the tail is *still* between the moment in which the device
//! runs and nothing is to be told of its configuration, and the next change of either: everybody who reads it meanwhile reads
//! the same, whatever is on its way.
//!
//! Invariant: while [`MmioTransport::is_as_shown`] says so, each word of the tail reads as [`MmioTransport::still`] has said;
//! but for the bit of InterruptStatus for used buffers, which is shown from the start. It is kept for ever with late
//! acknowledgements, and interrupts are edges: a driver that finds it set looks at its queues, and finds them as they are.

use super::{CONFIG, INTERRUPT_CONFIG, INTERRUPT_VRING, MmioTransport, Register, Status};
use crate::device::Device;
use crate::features::Features;

/// Offset of the first register that can be shown.
pub const TAIL: u64 = 0x60;
/// Words from there to the end of the window of 512 bytes.
pub const WORDS: usize = 0x1a0 / 4;
/// The word of them that is the device status.
pub const STATUS: usize = (0x70 - 0x60) / 4;
/// Bytes of configuration space that may be something else than zero.
const USED: usize = 64;
/// The word that is ConfigGeneration, and the first one of configuration space.
const GENERATION: usize = (0xfc - 0x60) / 4;
const FIRST: usize = (0x100 - 0x60) / 4;

/// What a driver reads from [`TAIL`] on.
pub type Tail = [u32; WORDS];

impl<D: Device, const QUEUES: usize, const HEADS: usize> MmioTransport<D, QUEUES, HEADS> {
    /// Whether the tail stays as it is until the driver or the device changes something.
    pub fn is_still(&self) -> bool {
        self.is_running()
            && self.kept == INTERRUPT_VRING
            && self.interrupt & INTERRUPT_CONFIG == 0
            // Whoever resets a queue waits in the tail until that is done.
            && !self.features().contains(Features::RING_RESET)
    }

    /// What a driver reads from [`TAIL`] on, as long as that stays as it is. `None` if it does not, or if it is not sure to
    /// be noticed that it does not.
    pub fn still(&self) -> Option<Tail> {
        let configuration = self.configuration::<0x100>();
        let mut unused = configuration.iter().skip(USED);
        if !self.is_still() || unused.any(|byte| *byte != 0) {
            return None;
        }
        let mut tail = [0; WORDS];
        for (offset, word) in (TAIL..CONFIG).step_by(4).zip(&mut tail) {
            let register = Register::at(offset);
            *word = register
                .and_then(|register| self.read_register(register))
                .unwrap_or(0);
            if register == Some(Register::InterruptStatus) {
                *word |= INTERRUPT_VRING;
            }
        }
        let words = configuration.as_chunks().0.iter().copied();
        for (word, bytes) in tail.iter_mut().skip(FIRST).zip(words) {
            *word = u32::from_le_bytes(bytes);
        }
        Some(tail)
    }

    /// Whether the tail still is what was shown.
    #[inline]
    pub fn is_as_shown(&self, shown: &Tail) -> bool {
        let now = self.configuration::<USED>();
        let bytes = now.as_chunks().0.iter().copied();
        self.is_still()
            && shown.get(STATUS) == Some(&self.status.bits())
            && shown.get(GENERATION) == Some(&self.generation)
            && shown
                .iter()
                .skip(FIRST)
                .zip(bytes)
                .all(|(word, bytes)| *word == u32::from_le_bytes(bytes))
    }

    /// The start of configuration space.
    #[inline]
    fn configuration<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.device.read_config(0, &mut bytes);
        bytes
    }
}

/// What to do about a value that a driver has put where Status was shown, in a moment in which that was plain memory: writes
/// of Status that nobody has heard, in their order. Only the last is left of several; one without a bit that was shown can
/// only follow a reset.
pub fn unheard(shown: Status, found: u32) -> impl Iterator<Item = u32> {
    let is_reset = found & shown.bits() != shown.bits();
    let reset = is_reset.then_some(0);
    let then = (found != 0 && found != shown.bits()).then_some(found);
    reset.into_iter().chain(then)
}
