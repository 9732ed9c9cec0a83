//! The device model: one guest, its ioreq server, its devices.
//!
//! In the order of a guest's life: [`attach`] takes it over or leaves everything as it was, [`slots`] has the ioreq server
//! and [`pages`] its pages, [`devices`] serves registers and queues in the main loop, [`model`] is what kinds of devices there are,
//! [`disk`] and [`entropy`] what is behind them, [`signal`] interrupts
//! the guest, [`bus`] connects a PVH guest's drivers. What needs no pointer is in `vd_kernel_core::server`.

pub mod attach;
pub mod bus;
pub mod devices;
pub mod disk;
pub mod entropy;
pub mod model;
mod pages;
pub mod signal;
pub mod slots;

pub use attach::Guest;
