//! Pages that are shared through Xen rather than with it: ioreq slots, the console ring,
//! the xenstore ring.

abi! {
    header "io/xs_wire.h";

    /// The header of every xenstore message.
    struct XsdSockmsg = "struct xsd_sockmsg" (16) {
        /// `XS_*`.
        kind("type") @ 0: u32,
        /// Echoed in the reply.
        req_id("req_id") @ 4: u32,
        /// Transaction, 0 = none.
        tx_id("tx_id") @ 8: u32,
        /// Bytes that follow.
        len("len") @ 12: u32,
    }

    /// The xenstore ring.
    struct XenstoreInterface = "struct xenstore_domain_interface" (2076) {
        /// Requests.
        req("req") @ 0: [u8; 1024],
        /// Replies and watch events.
        rsp("rsp") @ 1024: [u8; 1024],
        /// Consumer of requests: xenstored.
        req_cons("req_cons") @ 2048: u32,
        /// Producer of requests: the domain.
        req_prod("req_prod") @ 2052: u32,
        /// Consumer of replies: the domain.
        rsp_cons("rsp_cons") @ 2056: u32,
        /// Producer of replies: xenstored.
        rsp_prod("rsp_prod") @ 2060: u32,
        /// `XENSTORE_SERVER_FEATURE_*`.
        server_features("server_features") @ 2064: u32,
        /// 0 = connected, 1 = reconnecting.
        connection("connection") @ 2068: u32,
        /// `XENSTORE_ERROR_*`.
        error("error") @ 2072: u32,
    }
}

/// Frame 1 of an ioreq server's resource: a slot a vCPU (public/hvm/ioreq.h).
pub mod ioreq {
    abi! {
        header "hvm/ioreq.h";

        /// A request. `state` and the bit fields are one byte each.
        struct Ioreq = "struct ioreq" (32) {
            /// Address of the access.
            addr("addr") @ 0: u64,
            /// Data, or its address.
            data("data") @ 8: u64,
            /// Repetitions.
            count("count") @ 16: u32,
            /// Bytes an access.
            size("size") @ 20: u32,
            /// The port in the guest.
            vp_eport("vp_eport") @ 24: u32,
            /// Zero.
            pad @ 28: u16,
            /// Bits 0-3 state, 4 data_is_ptr, 5 dir, 6 df.
            flags @ 30: u8,
            /// `IOREQ_TYPE_*`.
            kind("type") @ 31: u8,
        }

        /// An entry of the buffered ring; fields are packed into bits.
        struct BufIoreq = "struct buf_ioreq" (8) {
            /// Type 8, pad 1, dir 1, size 2, addr 20 bits.
            head @ 0: u32,
            /// Data.
            data("data") @ 4: u32,
        }
    }
}

/// The PV console (public/io/console.h).
pub mod console {
    abi! {
        header "io/console.h";

        /// The console ring.
        struct ConsoleInterface = "struct xencons_interface" (3088) {
            /// Typed.
            input("in") @ 0: [u8; 1024],
            /// Printed.
            output("out") @ 1024: [u8; 2048],
            /// Consumer of what is typed: the domain.
            in_cons("in_cons") @ 3072: u32,
            /// Producer of what is typed.
            in_prod("in_prod") @ 3076: u32,
            /// Consumer of what is printed.
            out_cons("out_cons") @ 3080: u32,
            /// Producer of what is printed: the domain.
            out_prod("out_prod") @ 3084: u32,
        }
    }
}

/// Every layout here.
pub(crate) const ALL: [&[&crate::Layout]; 3] = [LAYOUTS, ioreq::LAYOUTS, console::LAYOUTS];
