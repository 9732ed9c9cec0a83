//! The paired guest: a PVH guest whose only purpose is to test a driver domain.
//!
//! It boots in a moment, finds its devices in xenstore, does what its command line says or what is typed at its
//! console, prints one line for each result, and powers off. Its driver is the crate `virtio-drivers`; interrupts,
//! doorbells and CPUs are its own.
//! On any other target than `x86_64-unknown-none` the program is a stand-in that says how to build it.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(
    unreachable_pub,
    reason = "a program: nothing is reachable from outside"
)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod connect;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod grants;
#[cfg(target_os = "none")]
mod image;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod ring;
#[cfg(target_os = "none")]
mod scenario;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "This is the image of a Xen PVH domain, not a program for this system. Build it with\n\
         \tcargo build --release -p virtio-paired --target x86_64-unknown-none"
    );
    std::process::exit(2);
}
