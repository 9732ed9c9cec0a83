//! What the fuzz targets share: choices made from a fuzzer's input ([`source`]), checks of texts ([`text`]), the virtio
//! device under test ([`virtio`]), a driver for it ([`driver`]) and what both of them do together ([`ring`]).
//!
//! A target drives its subject step by step, and each step is a choice read from the input. Most choices are what a
//! well-behaved peer would do; one in sixteen is not. A peer that has only done right is owed the right answer, so a
//! target knows what to expect and compares.

pub mod driver;
pub mod ring;
pub mod source;
pub mod text;
pub mod virtio;

pub use source::Source;
