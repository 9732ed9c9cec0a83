//! A disk with a packed ring (virtio 1.3, 2.8) behind virtio-mmio, and a driver that keeps the rules, mostly.
//!
//! Drives the walk over the ring, the block device and the transport's queues: requests of all kinds and shapes are
//! offered, shown, kicked, served in small portions and taken back; interrupts are asked for and not; queues and the
//! device are reset. Once in a while a descriptor, an index or a header is wrong, or becomes wrong while the device
//! reads. What is checked stands in `virtio_domain_fuzz::ring`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtio_domain_fuzz::ring;

fuzz_target!(|data: &[u8]| ring::story(data, true));
