//! The domain's own memory: frames, heap, address space; and the guest's.

pub mod foreign;
pub mod frames;
pub mod heap;
pub mod space;
