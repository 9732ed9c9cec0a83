//! Numbers that must not be mistaken for each other.

use core::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($type:ty)) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $type);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A domain's number (`domid_t`, public/xen.h).
    DomId(u16)
}
id! {
    /// An event channel port of the domain that is spoken of (`evtchn_port_t`).
    EvtchnPort(u32)
}
id! {
    /// A virtual CPU's number in its domain.
    VcpuId(u32)
}
id! {
    /// A guest frame number: a guest-physical address in units of 4096 bytes.
    Gfn(u64)
}
id! {
    /// An entry of a domain's grant table (`grant_ref_t`).
    GrantRef(u32)
}

impl DomId {
    /// `DOMID_SELF`: the caller.
    pub const SELF: Self = Self(0x7ff0);
    /// `DOMID_IO`: I/O memory.
    pub const IO: Self = Self(0x7ff1);
    /// `DOMID_XEN`: the hypervisor's own pages.
    pub const XEN: Self = Self(0x7ff2);
    /// `DOMID_COW`: shared pages.
    pub const COW: Self = Self(0x7ff3);
    /// `DOMID_INVALID`: nobody.
    pub const INVALID: Self = Self(0x7ff4);
    /// `DOMID_IDLE`: the idle domain.
    pub const IDLE: Self = Self(0x7fff);
    /// `DOMID_FIRST_RESERVED`: ordinary domains have smaller numbers.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
}
