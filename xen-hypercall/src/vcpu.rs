//! `vcpu_op` (public/vcpu.h), what HVM and PVH guests may use.

use crate::{Errno, Gfn, Hypervisor, VcpuId, number};

const INITIALISE: usize = 0;
const UP: usize = 1;
const DOWN: usize = 2;
const IS_UP: usize = 3;
const GET_RUNSTATE_INFO: usize = 4;
const SET_PERIODIC_TIMER: usize = 6;
const STOP_PERIODIC_TIMER: usize = 7;
const SET_SINGLESHOT_TIMER: usize = 8;
const STOP_SINGLESHOT_TIMER: usize = 9;
const REGISTER_VCPU_INFO: usize = 10;
const SEND_NMI: usize = 11;
const GET_PHYSID: usize = 12;

abi! {
    header "vcpu.h";

    /// How long a vCPU was in which state.
    struct RunstateInfo = "struct vcpu_runstate_info" (48) {
        /// 0 running, 1 runnable, 2 blocked, 3 offline.
        state("state") @ 0: i32,
        /// Zero.
        pad @ 4: u32,
        /// Since when, nanoseconds.
        state_entry_time("state_entry_time") @ 8: u64,
        /// Nanoseconds in each state.
        time("time") @ 16: [u64; 4],
    }

    /// A periodic timer.
    struct SetPeriodicTimer = "struct vcpu_set_periodic_timer" (8) {
        /// Nanoseconds.
        period_ns("period_ns") @ 0: u64,
    }

    /// A one-shot timer.
    struct SetSingleshotTimer = "struct vcpu_set_singleshot_timer" (16) {
        /// Nanoseconds since the domain started.
        timeout_abs_ns("timeout_abs_ns") @ 0: u64,
        /// Bit 0: refuse a time that has passed.
        flags("flags") @ 8: u32,
        /// Zero.
        pad @ 12: u32,
    }

    /// Where a vCPU's `vcpu_info` is to be.
    struct RegisterVcpuInfo = "struct vcpu_register_vcpu_info" (16) {
        /// Frame.
        mfn("mfn") @ 0: u64,
        /// Bytes into it.
        offset("offset") @ 8: u32,
        /// Zero.
        rsvd("rsvd") @ 12: u32,
    }

    /// Which CPU a vCPU is pinned to.
    struct GetPhysid = "struct vcpu_get_physid" (8) {
        /// APIC id in the lower, ACPI id in the upper 32 bits.
        phys_id("phys_id") @ 0: u64,
    }

    /// Registers that a vCPU starts with in 64-bit mode (the 64-bit arm of
    /// `vcpu_hvm_context`, padded to the size of the other).
    struct HvmContext64 = "struct vcpu_hvm_context" (128) {
        /// 1 = 64 bits.
        mode("mode") @ 0: u32,
        /// Zero.
        pad("pad") @ 4: u32,
        /// RAX.
        rax("cpu_regs.x86_64.rax") @ 8: u64,
        /// RCX.
        rcx("cpu_regs.x86_64.rcx") @ 16: u64,
        /// RDX.
        rdx("cpu_regs.x86_64.rdx") @ 24: u64,
        /// RBX.
        rbx("cpu_regs.x86_64.rbx") @ 32: u64,
        /// RSP.
        rsp("cpu_regs.x86_64.rsp") @ 40: u64,
        /// RBP.
        rbp("cpu_regs.x86_64.rbp") @ 48: u64,
        /// RSI.
        rsi("cpu_regs.x86_64.rsi") @ 56: u64,
        /// RDI.
        rdi("cpu_regs.x86_64.rdi") @ 64: u64,
        /// RIP.
        rip("cpu_regs.x86_64.rip") @ 72: u64,
        /// RFLAGS.
        rflags("cpu_regs.x86_64.rflags") @ 80: u64,
        /// CR0.
        cr0("cpu_regs.x86_64.cr0") @ 88: u64,
        /// CR3.
        cr3("cpu_regs.x86_64.cr3") @ 96: u64,
        /// CR4.
        cr4("cpu_regs.x86_64.cr4") @ 104: u64,
        /// EFER.
        efer("cpu_regs.x86_64.efer") @ 112: u64,
        /// Zero.
        tail @ 120: u64,
    }
}

/// Calls `vcpu_op`.
///
/// # Safety
/// `arg` is what `cmd` expects, and its effects break no reference.
unsafe fn call<T>(
    xen: &impl Hypervisor,
    cmd: usize,
    vcpu: VcpuId,
    arg: *mut T,
) -> Result<usize, Errno> {
    let args = [cmd, vcpu.0 as usize, arg as usize, 0, 0];
    // SAFETY: the caller's promise.
    Errno::check(unsafe { xen.hypercall(number::VCPU_OP, args) })
}

fn simple(xen: &impl Hypervisor, cmd: usize, vcpu: VcpuId) -> Result<usize, Errno> {
    // SAFETY: the operations that come here take no argument.
    unsafe { call::<u8>(xen, cmd, vcpu, core::ptr::null_mut()) }
}

/// Sets the registers that `vcpu` starts with.
///
/// # Errors
/// `EINVAL`, `EEXIST` when it is initialised, `ENOENT`.
///
/// # Safety
/// The vCPU will execute whatever the registers say.
pub unsafe fn initialise(
    xen: &impl Hypervisor,
    vcpu: VcpuId,
    context: &HvmContext64,
) -> Result<(), Errno> {
    let mut context = *context;
    // SAFETY: the caller's promise.
    unsafe { call(xen, INITIALISE, vcpu, &raw mut context) }.map(drop)
}

/// Starts `vcpu`.
///
/// # Errors
/// `EINVAL` when it was not initialised, `ENOENT`.
///
/// # Safety
/// It executes what [`initialise`] said.
pub unsafe fn up(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<(), Errno> {
    simple(xen, UP, vcpu).map(drop)
}

/// Stops `vcpu`.
///
/// # Errors
/// `ENOENT`.
///
/// # Safety
/// It stops wherever it is, locks and all.
pub unsafe fn down(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<(), Errno> {
    simple(xen, DOWN, vcpu).map(drop)
}

/// Whether `vcpu` is up.
///
/// # Errors
/// `ENOENT`.
pub fn is_up(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<bool, Errno> {
    simple(xen, IS_UP, vcpu).map(|up| up != 0)
}

/// How long `vcpu` was in which state.
///
/// # Errors
/// `ENOENT`.
pub fn get_runstate_info(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<RunstateInfo, Errno> {
    let mut arg = RunstateInfo::default();
    // SAFETY: Xen fills the structure.
    unsafe { call(xen, GET_RUNSTATE_INFO, vcpu, &raw mut arg) }?;
    Ok(arg)
}

/// Makes the timer of `vcpu` fire every `period` nanoseconds, 1 ms at least.
///
/// # Errors
/// `EINVAL`, `ENOENT`.
pub fn set_periodic_timer(xen: &impl Hypervisor, vcpu: VcpuId, period: u64) -> Result<(), Errno> {
    let mut arg = SetPeriodicTimer { period_ns: period };
    // SAFETY: Xen reads the structure.
    unsafe { call(xen, SET_PERIODIC_TIMER, vcpu, &raw mut arg) }.map(drop)
}

/// Ends that.
///
/// # Errors
/// `ENOENT`.
pub fn stop_periodic_timer(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<(), Errno> {
    simple(xen, STOP_PERIODIC_TIMER, vcpu).map(drop)
}

/// Makes the timer of `vcpu` fire at `deadline` nanoseconds since the domain started. A time
/// that has passed fires at once, or is refused when `must_be_future`. The caller must be that
/// vCPU.
///
/// # Errors
/// `ETIME` when refused, `EINVAL` for another vCPU.
pub fn set_singleshot_timer(
    xen: &impl Hypervisor,
    vcpu: VcpuId,
    deadline: u64,
    must_be_future: bool,
) -> Result<(), Errno> {
    let mut arg = SetSingleshotTimer {
        timeout_abs_ns: deadline,
        flags: u32::from(must_be_future),
        ..Default::default()
    };
    // SAFETY: Xen reads the structure.
    unsafe { call(xen, SET_SINGLESHOT_TIMER, vcpu, &raw mut arg) }.map(drop)
}

/// Ends that. The caller must be that vCPU.
///
/// # Errors
/// `EINVAL`.
pub fn stop_singleshot_timer(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<(), Errno> {
    simple(xen, STOP_SINGLESHOT_TIMER, vcpu).map(drop)
}

/// Moves the `vcpu_info` of `vcpu` to `offset` bytes into frame `gfn`; once, for good.
///
/// # Errors
/// `EINVAL`, `ENOENT`.
///
/// # Safety
/// The memory belongs to Xen from now on and may only be accessed atomically.
pub unsafe fn register_vcpu_info(
    xen: &impl Hypervisor,
    vcpu: VcpuId,
    gfn: Gfn,
    offset: u32,
) -> Result<(), Errno> {
    let mut arg = RegisterVcpuInfo {
        mfn: gfn.0,
        offset,
        rsvd: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { call(xen, REGISTER_VCPU_INFO, vcpu, &raw mut arg) }.map(drop)
}

/// Sends a non-maskable interrupt to `vcpu`.
///
/// # Errors
/// `ENOENT`.
pub fn send_nmi(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<(), Errno> {
    simple(xen, SEND_NMI, vcpu).map(drop)
}

/// The APIC id and ACPI id of the CPU that `vcpu` is pinned to.
///
/// # Errors
/// `EINVAL` when it is not pinned.
pub fn get_physid(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<(u32, u32), Errno> {
    let mut arg = GetPhysid::default();
    // SAFETY: Xen fills the structure.
    unsafe { call(xen, GET_PHYSID, vcpu, &raw mut arg) }?;
    Ok((arg.phys_id as u32, (arg.phys_id >> 32) as u32))
}
