//! The device model: one guest, its ioreq server, its devices.
//!
//! In the order of a guest's life: [`attach`] takes it over or leaves everything as it was, [`slots`] has the ioreq server
//! and [`pages`] its pages, [`devices`] serves registers and queues in the main loop, [`model`] is what kinds of devices there are,
//! [`disk`] and [`entropy`] what is behind them, [`signal`] interrupts
//! the guest, [`inheritance`] is what another driver domain has left, [`bus`] connects a PVH guest's drivers, [`hotplug`] has
//! devices come and go, and [`will`] is what this one
//! leaves when it crashes. What needs no pointer is in `vd_kernel_core::server`.

pub mod attach;
pub mod bus;
pub mod devices;
pub mod disk;
pub mod entropy;
pub mod hotplug;
pub mod inheritance;
pub mod model;
mod pages;
pub mod signal;
pub mod slots;
pub mod will;

pub use attach::Guest;
