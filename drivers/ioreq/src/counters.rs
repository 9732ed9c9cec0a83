//! What the ioreq core has done, in numbers.
//!
//! Invariant: each request that was taken is in exactly one of the kinds, so `doorbells + register_reads +
//! register_writes + reps + invalidates + strays` = requests taken = `answered` + those in progress + `abandoned`.

/// Counts since the engine was made; they saturate nowhere and wrap at 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Interrupts, as told by [`crate::Engine::count_upcall`].
    pub upcalls: u64,
    /// Writes that rang a doorbell and were answered in the interrupt handler.
    pub doorbells: u64,
    /// Register reads given to the main loop.
    pub register_reads: u64,
    /// Register writes given to the main loop.
    pub register_writes: u64,
    /// Repeated or pointer accesses given to the main loop.
    pub reps: u64,
    /// `IOREQ_TYPE_INVALIDATE` requests.
    pub invalidates: u64,
    /// Requests that were nobody's or made no sense, answered at once without effect.
    pub strays: u64,
    /// Events for a slot that was not READY, or for no slot at all.
    pub spurious: u64,
    /// Slots set to IORESP_READY.
    pub answered: u64,
    /// Requests in progress whose slot left INPROCESS without us, or that were forgotten.
    pub abandoned: u64,
    /// Posted writes that rang a doorbell.
    pub posted_doorbells: u64,
}

impl Counters {
    /// Every counter with its name, for a status report.
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("upcalls", self.upcalls),
            ("doorbells", self.doorbells),
            ("register-reads", self.register_reads),
            ("register-writes", self.register_writes),
            ("reps", self.reps),
            ("invalidates", self.invalidates),
            ("strays", self.strays),
            ("spurious", self.spurious),
            ("answered", self.answered),
            ("abandoned", self.abandoned),
            ("posted-doorbells", self.posted_doorbells),
        ]
    }

    /// The sum of all kinds of request.
    pub fn taken(&self) -> u64 {
        [
            self.doorbells,
            self.register_reads,
            self.register_writes,
            self.reps,
            self.invalidates,
            self.strays,
        ]
        .iter()
        .fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

/// Adds one.
pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}
