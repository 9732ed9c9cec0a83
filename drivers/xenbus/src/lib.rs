//! The control plane's logic over shared pages: a xenstore client and the PV console.
//!
//! Nothing here touches memory or makes a hypercall. The kernel gives [`ring::SharedPage`] (accesses to one page) and
//! [`transport::Signal`] (the event channel); all the rest runs on the host as well.
//!
//! Invariants:
//! - whatever the other side puts on a page, nothing panics, loops without bound or grows without bound;
//! - the index that this side owns is kept here and never read back from the page ([`ring`]);
//! - errors say who is to blame: the daemon's refusal, the ring, the protocol, the value's writer ([`error`]).
//!
//! Modules: [`ring`] (byte rings), [`wire`] (messages), [`client`] (replies and watches, without I/O), [`store`]
//! (blocking calls and transactions), [`transport`] (their way to a page), [`console`], [`held`],
//! [`line`](mod@line), [`rate`] and [`link`] (the PV console).
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

extern crate alloc;

pub mod client;
pub mod console;
pub mod error;
pub mod held;
pub mod line;
pub mod link;
pub mod number;
pub mod rate;
pub mod ring;
pub mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod transport;
pub mod watch;
pub mod wire;

pub use client::{Client, Event, ReqId};
pub use console::ConsoleWriter;
pub use error::{Error, Failure, Violation, XsError};
pub use line::{Input, LineEditor};
pub use rate::RateLimiter;
pub use ring::{Consumer, Producer, RingError, RingLayout, SharedPage};
pub use store::{View, Xenstore};
pub use transport::{RingTransport, Signal, Transport};
pub use watch::WatchEvent;
pub use wire::{Op, TxId};
