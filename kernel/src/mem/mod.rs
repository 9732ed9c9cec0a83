//! The guest's memory; the domain's own is the runtime's.

pub mod foreign;

pub use vd_rt::mem::{frames, heap, space};
