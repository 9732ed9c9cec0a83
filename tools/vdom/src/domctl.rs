//! The few domctls that vdom needs, over whatever interface version the running Xen has.
//!
//! A domctl's interface version goes up with every incompatible change, and Xen refuses any other with EACCES before it
//! looks at anything else. What is used here has been at the same place in all versions since Xen 4.0 (the header, the
//! first eight bytes of `getdomaininfo`, `set_target`, pausing), so it is safe to try versions with a call that changes
//! nothing until one is accepted.
//! Layouts: Xen's `public/domctl.h`.

use std::io;

use crate::failure::Trouble;
use crate::guest::Ending;
use crate::host::Bridge;
use crate::privcmd::{Hypercall, Privcmd};

const PAUSE: u32 = 3;
const UNPAUSE: u32 = 4;
const GETDOMAININFO: u32 = 5;
const SET_TARGET: u32 = 46;

const DOMINF_DYING: u32 = 1 << 0;
const DOMINF_HVM_GUEST: u32 = 1 << 1;
const DOMINF_SHUTDOWN: u32 = 1 << 2;
const DOMINF_PAUSED: u32 = 1 << 3;
/// Where the reason of a shutdown is: `SHUTDOWN_poweroff` and so on, of Xen's `public/sched.h`.
const DOMINF_SHUTDOWN_SHIFT: u32 = 16;

/// Versions worth trying first: Xen 4.19 to 4.21, 4.22, 4.18, 4.17.
const LIKELY: [u32; 4] = [0x17, 0x18, 0x16, 0x15];
/// All that are tried: from Xen 4.0 far into the future.
const RANGE: std::ops::RangeInclusive<u32> = 0x06..=0x60;

/// `struct xen_domctl`: header and union.
#[derive(Clone, Debug)]
#[repr(C)]
struct Domctl {
    cmd: u32,
    interface_version: u32,
    domain: u16,
    pad: [u16; 3],
    /// The union: 128 bytes or more, 8-byte aligned; what is not used is zero.
    union: [u64; 32],
}

const _: () = assert!(std::mem::offset_of!(Domctl, domain) == 8);
const _: () = assert!(std::mem::offset_of!(Domctl, union) == 16);
const _: () = assert!(size_of::<Domctl>() >= 16 + 128);
const SIZE: usize = size_of::<Domctl>();

impl Domctl {
    fn new(cmd: u32, interface_version: u32, domain: u16) -> Self {
        Self {
            cmd,
            interface_version,
            domain,
            pad: [0; 3],
            union: [0; 32],
        }
    }

    fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0..4].copy_from_slice(&self.cmd.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.interface_version.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.domain.to_ne_bytes());
        for (to, word) in bytes[16..].chunks_exact_mut(8).zip(self.union) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// What can issue a domctl.
pub(crate) trait Issue {
    fn issue(&mut self, structure: &mut [u8]) -> io::Result<()>;

    /// A piece of one domain's memory and its counterpart of another's.
    fn bridge(&self, from: (u16, u64), to: (u16, u64), bytes: u64) -> io::Result<Box<dyn Bridge>> {
        let _ = (from, to, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Issue for Privcmd {
    fn issue(&mut self, structure: &mut [u8]) -> io::Result<()> {
        self.call(Hypercall::Domctl, structure)
    }

    fn bridge(&self, from: (u16, u64), to: (u16, u64), bytes: u64) -> io::Result<Box<dyn Bridge>> {
        Ok(Box::new(Privcmd::bridge(self, from, to, bytes)?))
    }
}

/// How a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DomainInfo {
    /// Being destroyed.
    pub(crate) dying: bool,
    /// HVM or PVH.
    pub(crate) hvm: bool,
    /// Its operating system has ended.
    pub(crate) shutdown: bool,
    /// Paused by the toolstack.
    pub(crate) paused: bool,
    /// Why its operating system has ended, if it has.
    pub(crate) reason: u8,
}

impl DomainInfo {
    /// How it has ended, if it has, and not for a while only (as for suspend).
    pub(crate) fn ending(self) -> Option<Ending> {
        match (self.shutdown, self.reason) {
            (true, 0) => Some(Ending::PowerOff),
            (true, 1) => Some(Ending::Reboot),
            (true, 3) => Some(Ending::Crash),
            (true, 4) => Some(Ending::Watchdog),
            (true, 5) => Some(Ending::SoftReset),
            _ => None,
        }
    }

    /// Whether it can still do anything.
    pub(crate) fn alive(self) -> bool {
        !self.dying && !self.shutdown
    }
}

/// Xen's domctls at the version that was found.
#[derive(Debug)]
pub(crate) struct Domctls<X> {
    xen: X,
    version: u32,
}

impl<X: Issue> Domctls<X> {
    /// Finds the version, by asking for dom0's state.
    pub(crate) fn probe(mut xen: X) -> Result<Self, Trouble> {
        let rest = RANGE.filter(|version| !LIKELY.contains(version));
        for version in LIKELY.into_iter().chain(rest) {
            let mut bytes = Domctl::new(GETDOMAININFO, version, 0).to_bytes();
            match xen.issue(&mut bytes) {
                Ok(()) => return Ok(Self { xen, version }),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
                Err(error) => return Err(not_privileged(&error)),
            }
        }
        Err(Trouble::new(
            format!(
                "Xen {} accepts no domctl interface version from {:#x} to {:#x}",
                xen_version(),
                RANGE.start(),
                RANGE.end()
            ),
            "this Xen is newer than this vdom: update vdom",
        ))
    }

    /// The interface version.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// How a domain is; `None` if there is none with that id.
    pub(crate) fn domain_info(&mut self, domain: u16) -> Result<Option<DomainInfo>, Trouble> {
        let mut bytes = Domctl::new(GETDOMAININFO, self.version, domain).to_bytes();
        match self.xen.issue(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(not_privileged(&error)),
        }
        // Before 4.19 Xen answered for the next domain when there was none with that id.
        if u16::from_ne_bytes([bytes[16], bytes[17]]) != domain {
            return Ok(None);
        }
        let flags = u32::from_ne_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]);
        Ok(Some(DomainInfo {
            dying: flags & DOMINF_DYING != 0,
            hvm: flags & DOMINF_HVM_GUEST != 0,
            shutdown: flags & DOMINF_SHUTDOWN != 0,
            paused: flags & DOMINF_PAUSED != 0,
            reason: (flags >> DOMINF_SHUTDOWN_SHIFT) as u8,
        }))
    }

    /// Holds all vCPUs of a domain still, or no longer. Each of the one needs one of the other.
    pub(crate) fn set_paused(&mut self, domain: u16, paused: bool) -> Result<(), Trouble> {
        let command = if paused { PAUSE } else { UNPAUSE };
        let call = Domctl::new(command, self.version, domain);
        self.xen.issue(&mut call.to_bytes()).map_err(|error| {
            Trouble::new(
                format!("Xen refuses: {error}"),
                "see whether the guest has ended: xl list",
            )
        })
    }

    /// A piece of one domain's memory, and its counterpart of another's.
    pub(crate) fn bridge(
        &mut self,
        from: (u16, u64),
        to: (u16, u64),
        bytes: u64,
    ) -> Result<Box<dyn Bridge>, Trouble> {
        self.xen.bridge(from, to, bytes).map_err(|error| {
            Trouble::new(
                format!(
                    "mapping the memory of domains {} and {}: {error}",
                    from.0, to.0
                ),
                "see xl dmesg",
            )
        })
    }

    /// Gives the driver domain power over the guest: once, and until the driver domain ends.
    pub(crate) fn set_target(&mut self, driver: u16, guest: u16) -> Result<(), Trouble> {
        let mut call = Domctl::new(SET_TARGET, self.version, driver);
        call.union[0] = u64::from(guest);
        self.xen.issue(&mut call.to_bytes()).map_err(|error| {
            let (what, remedy) = match error.raw_os_error() {
                Some(libc::ESRCH) => (
                    "one of the two domains does not exist any more",
                    "create both again",
                ),
                Some(libc::EINVAL) => (
                    "the driver domain has been given a guest before, or is to be its own guest",
                    "a driver domain serves one guest for its whole life: start a new one",
                ),
                Some(libc::EOPNOTSUPP) => (
                    "the guest is a PV domain",
                    "use type=\"hvm\" in the guest's configuration",
                ),
                Some(libc::EPERM) => (
                    "Xen does not permit it",
                    "run vdom in dom0; with XSM, allow set_target in the policy",
                ),
                _ => ("Xen refused", "see xl dmesg"),
            };
            Trouble::new(
                format!("set_target({driver}, {guest}): {what}: {error}"),
                remedy,
            )
        })
    }
}

fn not_privileged(error: &io::Error) -> Trouble {
    Trouble::new(
        format!("Xen refuses domctls: {error}"),
        "run vdom as root in dom0",
    )
}

/// Xen's version as Linux shows it.
fn xen_version() -> String {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/sys/hypervisor/version/{name}"))
            .map_or_else(|_| "?".into(), |text| text.trim().to_owned())
    };
    format!("{}.{}{}", read("major"), read("minor"), read("extra"))
}

#[cfg(test)]
mod tests;
