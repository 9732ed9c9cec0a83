//! The ioreq core: what an emulator does with the requests that Xen leaves in a shared page.
//!
//! Xen blocks a vCPU, writes its request into the vCPU's slot, sets the slot READY and sends an event. This crate
//! copies the slot once, decides, and answers: at once for a doorbell or for an access that is nobody's, later (from
//! the main loop) for a register access. It issues no hypercall: the caller sends the events.
//!
//! Invariants, each held in one place:
//! - a slot's state only goes READY → INPROCESS → IORESP_READY or READY → IORESP_READY, and only this side's steps
//!   are made here ([`engine`]); a slot that is in any other state is left alone;
//! - every request is answered exactly once, whatever is in it ([`engine`], [`decode`]);
//! - a slot is read once per request; the copy is what gets validated and used ([`slot`]);
//! - nothing allocates, and the work per request has a fixed bound ([`doorbell`], [`rep`]).
//!
//! The modules in the order of a request's way: [`page`] (the seam to shared memory), [`slot`] (its layout),
//! [`decode`] (what is asked for), [`doorbell`] (who is rung), [`engine`] (the state machine), [`rep`] (string
//! instructions), [`buffered`] (posted writes), [`ports`] (which event channel belongs to which slot), [`mod@panic`]
//! (answering everything without the engine).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

#[cfg(feature = "test-util")]
extern crate std;

pub mod buffered;
pub mod counters;
pub mod decode;
pub mod doorbell;
pub mod engine;
pub mod page;
pub mod panic;
pub mod ports;
pub mod ranges;
pub mod rep;
pub mod slot;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod types;

pub use counters::Counters;
pub use decode::Access;
pub use doorbell::{Doorbell, DoorbellError, DoorbellWidth, Kick, Match, Recipient, Registry};
pub use engine::{CompleteError, Engine, Outcome, Ticket};
pub use page::SlotPage;
pub use panic::{SlotSet, answer_all};
pub use types::{Direction, DomId, EvtchnPort, SlotIndex, Space, Width};
