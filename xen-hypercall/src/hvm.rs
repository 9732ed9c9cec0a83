//! `hvm_op` (public/hvm/hvm_op.h), the operations that a guest may use on itself.

use crate::{DomId, Errno, Hypervisor, VcpuId, number};

const SET_PARAM: usize = 0;
const GET_PARAM: usize = 1;
const FLUSH_TLBS: usize = 5;
const GET_TIME: usize = 10;
const GET_MEM_TYPE: usize = 15;
const SET_EVTCHN_UPCALL_VECTOR: usize = 23;

/// A parameter of an HVM domain (public/hvm/params.h, `HVM_PARAM_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param(pub u32);

impl Param {
    /// How upcalls are delivered: type in the top byte (2 = vector), then the number.
    pub const CALLBACK_IRQ: Self = Self(0);
    /// Frame of the xenstore ring.
    pub const STORE_PFN: Self = Self(1);
    /// Port of the xenstore ring.
    pub const STORE_EVTCHN: Self = Self(2);
    /// Default ioreq page.
    pub const IOREQ_PFN: Self = Self(5);
    /// Default buffered ioreq page.
    pub const BUFIOREQ_PFN: Self = Self(6);
    /// Identity-mapped page table for real mode.
    pub const IDENT_PT: Self = Self(12);
    /// ACPI sleep state.
    pub const ACPI_S_STATE: Self = Self(14);
    /// Frame of the PV console ring.
    pub const CONSOLE_PFN: Self = Self(17);
    /// Port of the PV console ring.
    pub const CONSOLE_EVTCHN: Self = Self(18);
}

abi! {
    header "hvm/hvm_op.h";

    /// A parameter and its value.
    struct HvmParam = "struct xen_hvm_param" (16) {
        /// Whose.
        domid("domid") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
        /// Which.
        index("index") @ 4: u32,
        /// In or out.
        value("value") @ 8: u64,
    }

    /// The upcall vector of a vCPU.
    struct EvtchnUpcallVector = "struct xen_hvm_evtchn_upcall_vector" (8) {
        /// Whose.
        vcpu("vcpu") @ 0: u32,
        /// 16 to 255.
        vector("vector") @ 4: u8,
        /// Zero.
        pad @ 5: [u8; 3],
    }

    /// The time since the domain started.
    struct GetTime = "struct xen_hvm_get_time" (8) {
        /// Nanoseconds.
        now("now") @ 0: u64,
    }

    /// The type of a frame.
    struct GetMemType = "struct xen_hvm_get_mem_type" (16) {
        /// Whose.
        domid("domid") @ 0: u16,
        /// Out: `HVMMEM_*`.
        mem_type("mem_type") @ 2: u16,
        /// Zero.
        pad @ 4: [u16; 2],
        /// Which.
        pfn("pfn") @ 8: u64,
    }
}

/// Calls `hvm_op`; all its arguments are plain structures.
fn call<T>(xen: &impl Hypervisor, cmd: usize, arg: *mut T) -> Result<(), Errno> {
    // SAFETY: `cmd` is matched to the type of `arg` below.
    Errno::check(unsafe { xen.hypercall(number::HVM_OP, [cmd, arg as usize, 0, 0, 0]) }).map(drop)
}

/// Sets a parameter.
///
/// # Errors
/// `EPERM`, `EINVAL`, `EEXIST` for one that can be set only once.
pub fn set_param(
    xen: &impl Hypervisor,
    domid: DomId,
    param: Param,
    value: u64,
) -> Result<(), Errno> {
    let mut arg = HvmParam {
        domid: domid.0,
        pad: 0,
        index: param.0,
        value,
    };
    call(xen, SET_PARAM, &raw mut arg)
}

/// Reads a parameter.
///
/// # Errors
/// `EPERM`, `EINVAL`, `ESRCH`.
pub fn get_param(xen: &impl Hypervisor, domid: DomId, param: Param) -> Result<u64, Errno> {
    let mut arg = HvmParam {
        domid: domid.0,
        index: param.0,
        ..Default::default()
    };
    call(xen, GET_PARAM, &raw mut arg)?;
    Ok(arg.value)
}

/// Flushes the translations of all the caller's vCPUs.
///
/// # Errors
/// What Xen says.
pub fn flush_tlbs(xen: &impl Hypervisor) -> Result<(), Errno> {
    call::<u8>(xen, FLUSH_TLBS, core::ptr::null_mut())
}

/// Nanoseconds since the domain started.
///
/// # Errors
/// What Xen says.
pub fn get_time(xen: &impl Hypervisor) -> Result<u64, Errno> {
    let mut arg = GetTime::default();
    call(xen, GET_TIME, &raw mut arg)?;
    Ok(arg.now)
}

/// The `HVMMEM_*` type of frame `pfn`: 0 = RAM, 1 = read-only, 2 = emulated, 4 = ioreq server.
///
/// # Errors
/// `EPERM`, `ESRCH`, `EINVAL`.
pub fn get_mem_type(xen: &impl Hypervisor, domid: DomId, pfn: u64) -> Result<u16, Errno> {
    let mut arg = GetMemType {
        domid: domid.0,
        pfn,
        ..Default::default()
    };
    call(xen, GET_MEM_TYPE, &raw mut arg)?;
    Ok(arg.mem_type)
}

/// Gives `vcpu` an upcall vector of its own; each upcall then needs an end-of-interrupt.
///
/// # Errors
/// `EINVAL` for a vector below 16, `ENOENT` for a vCPU that does not exist.
pub fn set_evtchn_upcall_vector(
    xen: &impl Hypervisor,
    vcpu: VcpuId,
    vector: u8,
) -> Result<(), Errno> {
    let mut arg = EvtchnUpcallVector {
        vcpu: vcpu.0,
        vector,
        pad: [0; 3],
    };
    call(xen, SET_EVTCHN_UPCALL_VECTOR, &raw mut arg)
}
