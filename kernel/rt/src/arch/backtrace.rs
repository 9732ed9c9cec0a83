//! Return addresses, by the frame pointers that the image is compiled with.
//!
//! Addresses are printed as they are: `addr2line -e IMAGE ADDRESS...` names them.
//! The walk believes nothing: a frame pointer outside the image's stacks ends it.

/// Most frames that are printed.
const MAX_FRAMES: usize = 24;

unsafe extern "C" {
    static __stacks_start: u8;
    static __stacks_end: u8;
    static __text_start: u8;
    static __text_end: u8;
}

/// Iterates over return addresses.
#[derive(Clone, Debug)]
pub struct Backtrace {
    next: Option<u64>,
    rbp: u64,
    left: usize,
}

/// A backtrace that begins at instruction `rip` with frame pointer `rbp`.
pub fn from(rip: u64, rbp: u64) -> Backtrace {
    Backtrace {
        next: Some(rip),
        rbp,
        left: MAX_FRAMES,
    }
}

/// A backtrace of the caller.
#[inline(never)]
pub fn here() -> Backtrace {
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack)) };
    let mut trace = Backtrace {
        next: None,
        rbp,
        left: MAX_FRAMES,
    };
    trace.next = trace.caller();
    trace
}

impl Backtrace {
    /// The return address above the current frame.
    fn caller(&mut self) -> Option<u64> {
        let stacks = &raw const __stacks_start as u64..&raw const __stacks_end as u64;
        let fits = stacks.contains(&self.rbp) && stacks.contains(&self.rbp.checked_add(15)?);
        if !fits
            || !self.rbp.is_multiple_of(8)
            || super::gdt::guards().contains(&(self.rbp & !0xfff))
        {
            return None;
        }
        let frame = self.rbp as *const [u64; 2];
        // SAFETY: both words are inside the stacks and not in a guard page, and this
        // CPU is not changing them.
        let [above, address] = unsafe { frame.read() };
        let text = &raw const __text_start as u64..&raw const __text_end as u64;
        if above <= self.rbp || !text.contains(&address) {
            return None;
        }
        self.rbp = above;
        Some(address)
    }
}

impl Iterator for Backtrace {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let address = self.next.take()?;
        self.left = self.left.checked_sub(1)?;
        self.next = self.caller();
        Some(address)
    }
}
