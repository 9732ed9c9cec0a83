//! The device model: one guest, its ioreq server, its devices.
//!
//! In the order of a guest's life: [`attach`] takes it over or leaves everything as it was, [`slots`] answers
//! doorbells in the interrupt handler, [`devices`] serves registers and queues in the main loop, [`model`] is what kinds of devices there are,
//! [`disk`] and [`entropy`] what is behind them, [`signal`] interrupts
//! the guest, [`posted`] keeps the order of posted writes, [`bus`] connects a PVH guest's drivers, [`hotplug`] has devices come and go, [`release`] lets the guest go, also in an emergency.

pub mod attach;
pub mod bus;
pub mod devices;
pub mod disk;
pub mod entropy;
pub mod hotplug;
pub mod model;
pub mod posted;
pub mod release;
pub mod signal;
pub mod slots;

pub use attach::Guest;
