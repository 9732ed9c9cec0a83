//! The CPU: descriptor tables, exceptions, the local APIC, interrupt masking.

pub mod backtrace;
pub mod gdt;
pub mod idt;
pub mod lapic;
pub mod random;
pub mod trap;

use x86_64::instructions::interrupts;

/// A value shared between the main loop and interrupt handlers of this CPU.
///
/// Taking it masks interrupts, so that a handler never waits for the code it
/// interrupted; the spin lock keeps other CPUs out.
pub struct IrqLock<T>(spin::Mutex<T>);

impl<T> IrqLock<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Runs `f` on the value with interrupts masked.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        interrupts::without_interrupts(|| f(&mut self.0.lock()))
    }

    /// Like [`Self::with`], but gives up when the value is in use: for the panic path,
    /// which may have interrupted the holder.
    pub fn try_with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        interrupts::without_interrupts(|| self.0.try_lock().map(|mut value| f(&mut value)))
    }
}

impl<T> vd_kernel_core::server::Lock<T> for IrqLock<T> {
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(f)
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Reads the time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no side effects, and PVH guests run in ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}
