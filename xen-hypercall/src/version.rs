//! `xen_version` (public/version.h).

use crate::{Errno, Hypervisor, number};

const VERSION: usize = 0;
const EXTRAVERSION: usize = 1;
const CAPABILITIES: usize = 3;
const CHANGESET: usize = 4;
const GET_FEATURES: usize = 6;
const PAGESIZE: usize = 7;
const GUEST_HANDLE: usize = 8;
const BUILD_ID: usize = 10;

abi! {
    header "version.h";

    /// 32 feature bits.
    struct FeatureInfo = "struct xen_feature_info" (8) {
        /// Which 32.
        submap_idx("submap_idx") @ 0: u32,
        /// The bits.
        submap("submap") @ 4: u32,
    }
}

/// Calls `xen_version`.
///
/// # Safety
/// `arg` is as large as what `cmd` writes.
unsafe fn call<T>(xen: &impl Hypervisor, cmd: usize, arg: *mut T) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    Errno::check(unsafe { xen.hypercall(number::XEN_VERSION, [cmd, arg as usize, 0, 0, 0]) })
}

/// A text without its terminator.
fn text<const N: usize>(xen: &impl Hypervisor, cmd: usize) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    // SAFETY: the functions below choose the size that the header gives.
    unsafe { call(xen, cmd, bytes.as_mut_ptr()) }?;
    Ok(bytes)
}

/// The part of a text before its terminator, when it is UTF-8.
#[must_use]
pub fn as_str(bytes: &[u8]) -> &str {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    core::str::from_utf8(text).unwrap_or("?")
}

/// Major and minor version.
///
/// # Errors
/// What Xen says.
pub fn version(xen: &impl Hypervisor) -> Result<(u16, u16), Errno> {
    // SAFETY: takes no argument.
    let value = unsafe { call::<u8>(xen, VERSION, core::ptr::null_mut()) }?;
    Ok(((value >> 16) as u16, value as u16))
}

/// What follows the version, as in ".3".
///
/// # Errors
/// What Xen says.
pub fn extraversion(xen: &impl Hypervisor) -> Result<[u8; 16], Errno> {
    text(xen, EXTRAVERSION)
}

/// Which kinds of guests there can be.
///
/// # Errors
/// What Xen says.
pub fn capabilities(xen: &impl Hypervisor) -> Result<[u8; 1024], Errno> {
    text(xen, CAPABILITIES)
}

/// Date and commit.
///
/// # Errors
/// What Xen says.
pub fn changeset(xen: &impl Hypervisor) -> Result<[u8; 64], Errno> {
    text(xen, CHANGESET)
}

/// Feature bits `32 * index` and on (`XENFEAT_*`).
///
/// # Errors
/// `EINVAL` for an index that does not exist.
pub fn features(xen: &impl Hypervisor, index: u32) -> Result<u32, Errno> {
    let mut arg = FeatureInfo {
        submap_idx: index,
        submap: 0,
    };
    // SAFETY: the structure is what GET_FEATURES takes.
    unsafe { call(xen, GET_FEATURES, &raw mut arg) }?;
    Ok(arg.submap)
}

/// Bytes in a page.
///
/// # Errors
/// What Xen says.
pub fn pagesize(xen: &impl Hypervisor) -> Result<usize, Errno> {
    // SAFETY: takes no argument.
    unsafe { call::<u8>(xen, PAGESIZE, core::ptr::null_mut()) }
}

/// The domain's handle (UUID).
///
/// # Errors
/// What Xen says.
pub fn guest_handle(xen: &impl Hypervisor) -> Result<[u8; 16], Errno> {
    text(xen, GUEST_HANDLE)
}

/// The build id into `buffer`; returns its length.
///
/// # Errors
/// `ENODATA` when Xen was built without, `ENOBUFS` when `buffer` is too small, `EPERM`.
pub fn build_id(xen: &impl Hypervisor, buffer: &mut [u8]) -> Result<usize, Errno> {
    // struct xen_build_id: the length, then the bytes.
    let mut whole = [0u8; 4 + 64];
    let room = buffer.len().min(64);
    whole[..4].copy_from_slice(&(room as u32).to_le_bytes());
    // SAFETY: Xen writes at most as many bytes as the length in front says.
    let length = unsafe { call(xen, BUILD_ID, whole.as_mut_ptr()) }?.min(room);
    buffer[..length].copy_from_slice(&whole[4..4 + length]);
    Ok(length)
}
