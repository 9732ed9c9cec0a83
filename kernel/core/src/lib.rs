//! The parts of the driver domain's kernel that need no hardware.
//!
//! Bookkeeping and arithmetic: which frames are free ([`frames`]), which guest
//! frames are mapped ([`foreign`]) and when ([`mapper`]), access to what a guest grants ([`granted`]), what a pvclock reading means ([`clock`]), what
//! the operator wrote on the command line ([`cmdline`]) or types at the console
//! ([`command`]), what `vdom` has written to xenstore ([`description`]), what a guest's driver
//! answers there ([`bus`]), what the toolstack asks for there ([`plug`]), which devices can come while the guest runs ([`late`]), when to look after a disk of another domain ([`attention`]), when to look at a queue unasked ([`poll`]), which devices a pass looks at ([`due`]), when to look at what no event tells of ([`ticks`]), which ports have an
//! event ([`upcall`]), which grants are free ([`grants`]), what the interrupt handler leaves for the main loop ([`handover`]),
//! what the devices did last ([`trace`]), the life of the guest's ioreq server ([`server`]), what one driver domain leaves to the next ([`bequest`]). The
//! kernel adds the hypercalls and the unsafe code; the decisions are here, where they run
//! under test on the host.

#![no_std]
#![forbid(unsafe_code)]
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

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attention;
pub mod bequest;
pub mod bus;
pub mod clock;
pub mod cmdline;
pub mod command;
pub mod description;
pub mod due;
pub mod foreign;
pub mod frames;
pub mod granted;
pub mod grants;
pub mod handover;
pub mod late;
pub mod link;
pub mod mapper;
pub mod plug;
pub mod poll;
pub mod server;
pub mod ticks;
pub mod trace;
pub mod upcall;
