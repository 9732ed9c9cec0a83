//! The local APIC, in x2APIC mode: registers are MSRs, so that no page has to be
//! mapped for it.
//!
//! Event-channel upcalls do not pass through it (the callback vector needs no
//! end-of-interrupt). It is brought into a defined state so that nothing else
//! arrives: everything in the local vector table masked, spurious interrupts on
//! a vector of their own.

use x86_64::registers::model_specific::Msr;

use super::idt::SPURIOUS_VECTOR;

const APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;

const X2APIC_TPR: u32 = 0x808;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SVR: u32 = 0x80f;
/// Timer, thermal, performance counter, LINT0, LINT1, error.
const X2APIC_LVT: [u32; 6] = [0x832, 0x833, 0x834, 0x835, 0x836, 0x837];
const LVT_MASKED: u64 = 1 << 16;
const SVR_ENABLE: u64 = 1 << 8;

/// Whether the CPU has an x2APIC (CPUID 1, ECX bit 21).
fn present() -> bool {
    core::arch::x86_64::__cpuid(1).ecx & 1 << 21 != 0
}

/// Enables the local APIC with everything masked. Returns `false` when there is none:
/// the domain works without (`apic=0` in xl.cfg).
pub fn init() -> bool {
    if !present() {
        return false;
    }
    let mut base = Msr::new(APIC_BASE);
    // SAFETY: the MSRs exist, as CPUID says; masking every source and choosing a
    // vector with a handler cannot break memory safety.
    unsafe {
        base.write(base.read() | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
        for lvt in X2APIC_LVT {
            Msr::new(lvt).write(LVT_MASKED);
        }
        Msr::new(X2APIC_TPR).write(0);
        Msr::new(X2APIC_SVR).write(SVR_ENABLE | u64::from(SPURIOUS_VECTOR));
    }
    true
}

/// Tells the local APIC that the interrupt at hand is served: the next one may come.
pub fn end_of_interrupt() {
    // SAFETY: an interrupt has come through the APIC, so that the MSR exists; the write has no other effect.
    unsafe { Msr::new(X2APIC_EOI).write(0) };
}
