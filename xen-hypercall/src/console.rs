//! `console_io` (public/xen.h): Xen's emergency console. Ordinary domains are refused by
//! release builds of Xen (`EPERM`).

use crate::{Errno, Hypervisor, number};

const WRITE: usize = 0;
const READ: usize = 1;

/// This hypercall has no structures.
pub(crate) const LAYOUTS: &[&crate::Layout] = &[];

/// Writes `text`.
///
/// # Errors
/// `EPERM`.
pub fn write(xen: &impl Hypervisor, text: &[u8]) -> Result<(), Errno> {
    let args = [WRITE, text.len(), text.as_ptr() as usize, 0, 0];
    // SAFETY: Xen reads as many bytes as there are.
    Errno::check(unsafe { xen.hypercall(number::CONSOLE_IO, args) }).map(drop)
}

/// Reads what was typed into `buffer`; returns how many bytes.
///
/// # Errors
/// `EPERM`.
pub fn read(xen: &impl Hypervisor, buffer: &mut [u8]) -> Result<usize, Errno> {
    let args = [READ, buffer.len(), buffer.as_mut_ptr() as usize, 0, 0];
    // SAFETY: Xen writes at most as many bytes as fit.
    let read = Errno::check(unsafe { xen.hypercall(number::CONSOLE_IO, args) })?;
    Ok(read.min(buffer.len()))
}
