//! Typed Xen hypercalls for HVM and PVH guests on x86-64.
//!
//! One module a hypercall, one function an operation. Every function takes the
//! [`Hypervisor`] it calls: [`Native`] on the machine, a fake in tests. Structures
//! are laid out as in Xen's public headers, which each of them names; sizes and
//! offsets are asserted when the crate is compiled, and a test compares them
//! with the C headers.
//!
//! Functions are safe where no argument can break the memory safety of the caller's
//! domain, and `unsafe` where the operation changes what lies at an address.
//!
//! ```
//! # #[cfg(feature = "fake")] {
//! use xen_hypercall::fake::Fake;
//! use xen_hypercall::{DomId, Errno, dm};
//!
//! let xen = Fake::new(|call| if call.number == xen_hypercall::number::DM_OP { -3 } else { 0 });
//! assert_eq!(dm::nr_vcpus(&xen, DomId(7)), Err(Errno::ESRCH));
//! # }
//! ```

#![no_std]

#[cfg(any(feature = "fake", test))]
extern crate std;

#[macro_use]
mod abi;
mod entry;
mod errno;
mod ids;

pub mod batch;
pub mod console;
pub mod dm;
pub mod event_channel;
#[cfg(any(feature = "fake", test))]
pub mod fake;
pub mod grant_table;
pub mod hvm;
pub mod io;
pub mod memory;
pub mod multicall;
pub mod sched;
pub mod shared;
pub mod start_info;
pub mod vcpu;
pub mod version;

pub use abi::Layout;
pub use entry::{HypercallPage, Hypervisor, Instruction, Native, NotXen};
pub use errno::Errno;
pub use ids::{DomId, EvtchnPort, Gfn, GrantRef, VcpuId};

/// Hypercall numbers (public/xen.h, `__HYPERVISOR_*`).
pub mod number {
    /// `__HYPERVISOR_memory_op`.
    pub const MEMORY_OP: u32 = 12;
    /// `__HYPERVISOR_multicall`.
    pub const MULTICALL: u32 = 13;
    /// `__HYPERVISOR_xen_version`.
    pub const XEN_VERSION: u32 = 17;
    /// `__HYPERVISOR_console_io`.
    pub const CONSOLE_IO: u32 = 18;
    /// `__HYPERVISOR_grant_table_op`.
    pub const GRANT_TABLE_OP: u32 = 20;
    /// `__HYPERVISOR_vcpu_op`.
    pub const VCPU_OP: u32 = 24;
    /// `__HYPERVISOR_sched_op`.
    pub const SCHED_OP: u32 = 29;
    /// `__HYPERVISOR_event_channel_op`.
    pub const EVENT_CHANNEL_OP: u32 = 32;
    /// `__HYPERVISOR_hvm_op`.
    pub const HVM_OP: u32 = 34;
    /// `__HYPERVISOR_dm_op`.
    pub const DM_OP: u32 = 41;
}

/// Every structure of this crate, for the comparison with the C headers.
pub fn layouts() -> impl Iterator<Item = &'static Layout> {
    [
        console::LAYOUTS,
        dm::LAYOUTS,
        event_channel::LAYOUTS,
        grant_table::LAYOUTS,
        hvm::LAYOUTS,
        io::ALL[0],
        io::ALL[1],
        io::ALL[2],
        memory::LAYOUTS,
        multicall::LAYOUTS,
        sched::LAYOUTS,
        shared::LAYOUTS,
        start_info::LAYOUTS,
        vcpu::LAYOUTS,
        version::LAYOUTS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
