//! Nothing but tests: `tests/loom`.
//!
//! They run the very code of `vd-virtio`, `vd-ioreq` and `vd-kernel-core` on memory that the model checker loom watches,
//! against a driver or a Xen written for the test. loom tries every order of the accesses of both sides, and every
//! older value that the C11 memory model lets a load return. So a fence or an ordering that is missing shows, which no
//! test on an x86 host could show reliably.
//!
//! Beside each test there is one that has to fail, because a part is broken on purpose: it shows that the test can see
//! that.
#![no_std]
#![forbid(unsafe_code)]
