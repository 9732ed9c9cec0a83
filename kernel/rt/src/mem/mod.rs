//! The domain's own memory: frames, heap, address space.

pub mod frames;
pub mod heap;
pub mod space;
