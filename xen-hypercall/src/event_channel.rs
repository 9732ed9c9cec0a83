//! `event_channel_op` (public/event_channel.h).
//!
//! All of it is safe but what hands memory to Xen: events only set bits in pages that
//! Xen owns.

use crate::{DomId, Errno, EvtchnPort, Gfn, Hypervisor, VcpuId, number};

pub(crate) const BIND_INTERDOMAIN: usize = 0;
const BIND_VIRQ: usize = 1;
pub(crate) const CLOSE: usize = 3;
pub(crate) const SEND: usize = 4;
pub(crate) const STATUS: usize = 5;
const ALLOC_UNBOUND: usize = 6;
const BIND_IPI: usize = 7;
const BIND_VCPU: usize = 8;
pub(crate) const UNMASK: usize = 9;
const RESET: usize = 10;
const INIT_CONTROL: usize = 11;
const EXPAND_ARRAY: usize = 12;
const SET_PRIORITY: usize = 13;

/// A virtual interrupt (public/xen.h, `VIRQ_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virq(pub u32);

impl Virq {
    /// The one-shot or periodic timer of a vCPU.
    pub const TIMER: Self = Self(0);
    /// Debugging.
    pub const DEBUG: Self = Self(1);
    /// Input on the emergency console.
    pub const CONSOLE: Self = Self(2);
    /// A domain ended.
    pub const DOM_EXC: Self = Self(3);
}

abi! {
    header "event_channel.h";

    /// A port that another domain may bind to.
    struct AllocUnbound = "struct evtchn_alloc_unbound" (8) {
        /// Whose port.
        dom("dom") @ 0: u16,
        /// Who may bind.
        remote_dom("remote_dom") @ 2: u16,
        /// The new port.
        port("port") @ 4: u32,
    }

    /// A connection to a port of another domain.
    struct BindInterdomain = "struct evtchn_bind_interdomain" (12) {
        /// The other domain.
        remote_dom("remote_dom") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
        /// Its port.
        remote_port("remote_port") @ 4: u32,
        /// The new port.
        local_port("local_port") @ 8: u32,
    }

    /// A port for a virtual interrupt.
    struct BindVirq = "struct evtchn_bind_virq" (12) {
        /// `VIRQ_*`.
        virq("virq") @ 0: u32,
        /// Which vCPU gets it.
        vcpu("vcpu") @ 4: u32,
        /// The new port.
        port("port") @ 8: u32,
    }

    /// A port from vCPU to vCPU.
    struct BindIpi = "struct evtchn_bind_ipi" (8) {
        /// Which vCPU gets it.
        vcpu("vcpu") @ 0: u32,
        /// The new port.
        port("port") @ 4: u32,
    }

    /// A port to close.
    struct Close = "struct evtchn_close" (4) {
        /// Which.
        port("port") @ 0: u32,
    }

    /// A port to send on.
    struct Send = "struct evtchn_send" (4) {
        /// Which.
        port("port") @ 0: u32,
    }

    /// A port to let through.
    struct Unmask = "struct evtchn_unmask" (4) {
        /// Which.
        port("port") @ 0: u32,
    }

    /// What a port is.
    struct RawStatus = "struct evtchn_status" (24) {
        /// Whose port.
        dom("dom") @ 0: u16,
        /// Zero.
        pad @ 2: u16,
        /// Which.
        port("port") @ 4: u32,
        /// `EVTCHNSTAT_*`.
        status("status") @ 8: u32,
        /// Which vCPU gets its events.
        vcpu("vcpu") @ 12: u32,
        /// The other domain (unbound, interdomain), or the VIRQ or PIRQ.
        other("u") @ 16: u32,
        /// The other port.
        other_port("u.interdomain.port") @ 20: u32,
    }

    /// A port that is to go to another vCPU.
    struct BindVcpu = "struct evtchn_bind_vcpu" (8) {
        /// Which.
        port("port") @ 0: u32,
        /// Where its events are to go.
        vcpu("vcpu") @ 4: u32,
    }

    /// A domain all ports of which are to be closed.
    struct Reset = "struct evtchn_reset" (2) {
        /// Which.
        dom("dom") @ 0: u16,
    }

    /// A vCPU's control block of the FIFO ABI.
    struct InitControl = "struct evtchn_init_control" (24) {
        /// The frame that it is in.
        control_gfn("control_gfn") @ 0: u64,
        /// Where in that frame.
        offset("offset") @ 8: u32,
        /// Whose.
        vcpu("vcpu") @ 12: u32,
        /// Out: bits of a link.
        link_bits("link_bits") @ 16: u8,
        /// Zero.
        pad @ 17: [u8; 7],
    }

    /// A frame of event words of the FIFO ABI.
    struct ExpandArray = "struct evtchn_expand_array" (8) {
        /// Which.
        array_gfn("array_gfn") @ 0: u64,
    }

    /// A port's priority in the FIFO ABI.
    struct SetPriority = "struct evtchn_set_priority" (8) {
        /// Which.
        port("port") @ 0: u32,
        /// 0 = highest, 15 = lowest.
        priority("priority") @ 4: u32,
    }

    /// Heads of the queues of the FIFO ABI.
    struct FifoControlBlock = "struct evtchn_fifo_control_block" (72) {
        /// A bit a queue.
        ready("ready") @ 0: u32,
        /// Zero.
        rsvd @ 4: u32,
        /// The first port of each queue.
        head("head") @ 8: [u32; 16],
    }
}

/// What a port is connected to ([`status`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not in use.
    Closed,
    /// Waits for the domain to bind, or lost the one that was bound.
    Unbound(DomId),
    /// Connected.
    Interdomain(DomId, EvtchnPort),
    /// A physical interrupt.
    Pirq(u32),
    /// A virtual interrupt.
    Virq(Virq),
    /// From vCPU to vCPU.
    Ipi,
    /// A number that the header did not have.
    Other(u32),
}

/// Calls `event_channel_op`; all its arguments are plain structures.
fn call<T>(xen: &impl Hypervisor, cmd: usize, arg: &mut T) -> Result<(), Errno> {
    let args = [cmd, core::ptr::from_mut(arg) as usize, 0, 0, 0];
    // SAFETY: `cmd` is matched to the type of `arg` below, and Xen accesses nothing else of
    // the caller's memory but what it was given for good.
    Errno::check(unsafe { xen.hypercall(number::EVENT_CHANNEL_OP, args) }).map(drop)
}

/// Makes a port that `remote` may bind to.
///
/// # Errors
/// `ENOSPC` when all ports are taken, `ESRCH`, `EPERM`.
pub fn alloc_unbound(
    xen: &impl Hypervisor,
    dom: DomId,
    remote: DomId,
) -> Result<EvtchnPort, Errno> {
    let mut arg = AllocUnbound {
        dom: dom.0,
        remote_dom: remote.0,
        port: 0,
    };
    call(xen, ALLOC_UNBOUND, &mut arg)?;
    Ok(EvtchnPort(arg.port))
}

/// Connects to `port` of `remote`, which let the caller. The new port starts pending and
/// masked: only [`unmask`] may let it through.
///
/// # Errors
/// `EINVAL` when the port is not waiting for the caller, `ESRCH`, `ENOSPC`.
pub fn bind_interdomain(
    xen: &impl Hypervisor,
    remote: DomId,
    port: EvtchnPort,
) -> Result<EvtchnPort, Errno> {
    let mut arg = BindInterdomain {
        remote_dom: remote.0,
        remote_port: port.0,
        ..Default::default()
    };
    call(xen, BIND_INTERDOMAIN, &mut arg)?;
    Ok(EvtchnPort(arg.local_port))
}

/// Makes a port for a virtual interrupt of a vCPU.
///
/// # Errors
/// `EEXIST`, `EINVAL`, `ENOENT` when there is no such vCPU.
pub fn bind_virq(xen: &impl Hypervisor, virq: Virq, vcpu: VcpuId) -> Result<EvtchnPort, Errno> {
    let mut arg = BindVirq {
        virq: virq.0,
        vcpu: vcpu.0,
        port: 0,
    };
    call(xen, BIND_VIRQ, &mut arg)?;
    Ok(EvtchnPort(arg.port))
}

/// Makes a port by which vCPUs of the caller signal `vcpu`.
///
/// # Errors
/// `ENOENT` when there is no such vCPU, `ENOSPC`.
pub fn bind_ipi(xen: &impl Hypervisor, vcpu: VcpuId) -> Result<EvtchnPort, Errno> {
    let mut arg = BindIpi {
        vcpu: vcpu.0,
        port: 0,
    };
    call(xen, BIND_IPI, &mut arg)?;
    Ok(EvtchnPort(arg.port))
}

/// Sends the events of `port` to `vcpu` from now on.
///
/// # Errors
/// `ENOENT`, `EINVAL`.
pub fn bind_vcpu(xen: &impl Hypervisor, port: EvtchnPort, vcpu: VcpuId) -> Result<(), Errno> {
    call(
        xen,
        BIND_VCPU,
        &mut BindVcpu {
            port: port.0,
            vcpu: vcpu.0,
        },
    )
}

/// Closes a port.
///
/// # Errors
/// `EINVAL` for a port that is not in use.
pub fn close(xen: &impl Hypervisor, port: EvtchnPort) -> Result<(), Errno> {
    call(xen, CLOSE, &mut Close { port: port.0 })
}

/// Sends an event. To a port whose other end is gone it succeeds without effect.
///
/// # Errors
/// `EINVAL` for a port that cannot be sent on.
#[inline]
pub fn send(xen: &impl Hypervisor, port: EvtchnPort) -> Result<(), Errno> {
    call(xen, SEND, &mut Send { port: port.0 })
}

/// Lets the events of `port` through; a pending one is delivered.
///
/// # Errors
/// `EINVAL`.
pub fn unmask(xen: &impl Hypervisor, port: EvtchnPort) -> Result<(), Errno> {
    call(xen, UNMASK, &mut Unmask { port: port.0 })
}

/// What a port of `dom` is, and which vCPU gets its events.
///
/// # Errors
/// `EINVAL`, `EPERM`, `ESRCH`.
pub fn status(
    xen: &impl Hypervisor,
    dom: DomId,
    port: EvtchnPort,
) -> Result<(Status, VcpuId), Errno> {
    let mut arg = RawStatus {
        dom: dom.0,
        port: port.0,
        ..Default::default()
    };
    call(xen, STATUS, &mut arg)?;
    let other = DomId(arg.other as u16);
    let status = match arg.status {
        0 => Status::Closed,
        1 => Status::Unbound(other),
        2 => Status::Interdomain(other, EvtchnPort(arg.other_port)),
        3 => Status::Pirq(arg.other),
        4 => Status::Virq(Virq(arg.other)),
        5 => Status::Ipi,
        number => Status::Other(number),
    };
    Ok((status, VcpuId(arg.vcpu)))
}

/// Closes all ports of `dom` and returns to the 2-level ABI.
///
/// # Errors
/// `EPERM`, `ESRCH`.
pub fn reset(xen: &impl Hypervisor, dom: DomId) -> Result<(), Errno> {
    call(xen, RESET, &mut Reset { dom: dom.0 })
}

/// Gives Xen the FIFO control block of `vcpu`, `offset` bytes into frame `gfn`; returns
/// the bits of a link.
///
/// # Errors
/// `EINVAL`, `ENOENT`, `ENOMEM`.
///
/// # Safety
/// The memory belongs to Xen from now on and may only be accessed atomically.
pub unsafe fn init_control(
    xen: &impl Hypervisor,
    gfn: Gfn,
    offset: u32,
    vcpu: VcpuId,
) -> Result<u8, Errno> {
    let mut arg = InitControl {
        control_gfn: gfn.0,
        offset,
        vcpu: vcpu.0,
        ..Default::default()
    };
    call(xen, INIT_CONTROL, &mut arg)?;
    Ok(arg.link_bits)
}

/// Gives Xen one more frame of FIFO event words.
///
/// # Errors
/// `EINVAL`, `ENOSPC`, `ENOMEM`.
///
/// # Safety
/// As for [`init_control`].
pub unsafe fn expand_array(xen: &impl Hypervisor, gfn: Gfn) -> Result<(), Errno> {
    call(xen, EXPAND_ARRAY, &mut ExpandArray { array_gfn: gfn.0 })
}

/// Changes a port's priority in the FIFO ABI: 0 = highest, 15 = lowest.
///
/// # Errors
/// `ENOSYS` in the 2-level ABI, `EINVAL`.
pub fn set_priority(xen: &impl Hypervisor, port: EvtchnPort, priority: u32) -> Result<(), Errno> {
    call(
        xen,
        SET_PRIORITY,
        &mut SetPriority {
            port: port.0,
            priority,
        },
    )
}
