//! A hostile virtio-mmio driver: breaks one rule of the specification after another.
//!
//! After each attack the device has to be as broken as it should be, and after a reset it has to serve an ordinary
//! request. Where memory comes from, and what time it is, the [`Platform`] knows: a program under Linux, or an image
//! of its own.

#![no_std]

extern crate alloc;

pub mod attacks;
pub mod device;
pub mod memory;
pub mod nets;
pub mod platform;

use core::fmt;

use attacks::{ATTACKS, DISK_ATTACKS, GRANT_ATTACKS, Outcome};
use device::{Device, Kind};
pub use memory::Page;
use nets::{ENTROPY_ATTACKS, NET_ATTACKS};
pub use platform::{Granted, Platform};

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Attacks.
    pub attacks: usize,
    /// Attacks that had another effect than they should.
    pub failed: u32,
    /// How often the device has gone broken.
    pub broken: u32,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attacks,
            failed,
            broken,
        } = self;
        write!(
            f,
            "{attacks} attacks, {failed} failed, broken {broken} times"
        )
    }
}

/// Carries out all attacks, and gives `report` a line for each.
pub fn run(device: &mut Device, mut report: impl FnMut(fmt::Arguments<'_>)) -> Summary {
    let own = match device.kind {
        Kind::Disk => DISK_ATTACKS,
        Kind::Net => NET_ATTACKS,
        Kind::Entropy => ENTROPY_ATTACKS,
    };
    let more = match device.platform.granted() {
        Some(_) => GRANT_ATTACKS,
        None => &[],
    };
    let mut summary = Summary::default();
    for attack in ATTACKS.iter().chain(own).chain(more) {
        summary.attacks = summary.attacks.saturating_add(1);
        device.set_up();
        let expected = (attack.run)(device);
        device.settle();
        let is_broken = device.is_broken();
        let verdict = match expected {
            Outcome::Broken if !is_broken => "is not broken",
            Outcome::Fine if is_broken => "is broken",
            _ => "",
        };
        summary.broken += u32::from(is_broken);
        device.queue = device.kind.queue();
        let (row, name) = (attack.row, attack.name);
        match (verdict, device.check_service()) {
            ("", Ok(())) => report(format_args!("row {row:2} {name}: {expected:?}, and heals")),
            (verdict, service) => {
                summary.failed += 1;
                report(format_args!(
                    "row {row:2} {name}: FAILED: {verdict} {service:?}"
                ));
            }
        }
    }
    summary
}
