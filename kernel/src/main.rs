//! virtio-domain: a virtio back end that is a Xen PVH domain of its own.
//!
//! This is the image. The runtime sets up the machine and starts it in `image`; it waits until it
//! is given a guest, and then serves the guest's devices until one of the two ends.
//! On any other target than `x86_64-unknown-none` the program is a stand-in that says how to build it.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(
    unreachable_pub,
    reason = "a program: nothing is reachable from outside"
)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod control;
#[cfg(target_os = "none")]
mod counters;
#[cfg(target_os = "none")]
mod dm;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod mem;
#[cfg(target_os = "none")]
mod pv;
#[cfg(target_os = "none")]
mod service;
#[cfg(target_os = "none")]
mod vbd;
#[cfg(target_os = "none")]
mod vif;

#[cfg(target_os = "none")]
use vd_rt::{arch, log, xen};

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "This is the image of a Xen PVH domain, not a program for this system. Build it with\n\
         \tcargo build --release -p virtio-domain --target x86_64-unknown-none\n\
         and boot it with xl (see README.md)."
    );
    std::process::exit(2);
}
