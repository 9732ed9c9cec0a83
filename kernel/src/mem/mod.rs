//! The guest's memory; the domain's own is the runtime's.

pub mod foreign;
pub mod grants;
pub mod guest;

pub use vd_copy::copy;
pub use vd_rt::mem::{frames, heap, space};
