//! The way into Xen: VMCALL, VMMCALL, or a page of stubs that Xen writes.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::fmt;
use core::ptr::NonNull;

/// Something that takes hypercalls.
///
/// # Safety
/// An implementation passes number and arguments on unchanged, and returns what the
/// hypervisor returned; memory is only accessed as the operation says.
pub unsafe trait Hypervisor {
    /// Makes a hypercall.
    ///
    /// # Safety
    /// The arguments must be what the hypercall expects: pointers among them valid for
    /// the accesses it makes, and its effects such that no Rust reference is broken.
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize;
}

// SAFETY: passes everything on.
unsafe impl<H: Hypervisor + ?Sized> Hypervisor for &H {
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize {
        // SAFETY: the caller's promise.
        unsafe { (**self).hypercall(number, args) }
    }
}

/// The instruction that enters the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Intel and those who follow it.
    Vmcall,
    /// AMD and Hygon.
    Vmmcall,
}

/// Hypercalls by instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Native {
    instruction: Instruction,
    /// Xen's version: major in the upper 16 bits, minor in the lower.
    version: u32,
    base: u32,
}

/// There is no Xen below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotXen;

impl fmt::Display for NotXen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CPUID shows no Xen hypervisor")
    }
}

impl core::error::Error for NotXen {}

/// Where hypervisors put their CPUID leaves (public/arch-x86/cpuid.h).
const FIRST_LEAF: u32 = 0x4000_0000;
const LAST_LEAF: u32 = 0x4001_0000;
const LEAF_STEP: usize = 0x100;
/// "XenVMMXenVMM" in EBX, ECX, EDX.
const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// "AuthenticAMD" and "HygonGenuine" in EBX, ECX, EDX of leaf 0.
const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
const HYGON: [u32; 3] = [0x6f67_7948, 0x656e_6975, 0x6e65_476e];

fn registers(leaf: u32) -> [u32; 3] {
    let leaf = __cpuid(leaf);
    [leaf.ebx, leaf.ecx, leaf.edx]
}

impl Native {
    /// Finds Xen, and the instruction that this CPU's vendor has for it.
    ///
    /// # Errors
    /// [`NotXen`].
    pub fn detect() -> Result<Self, NotXen> {
        let mut leaves = (FIRST_LEAF..LAST_LEAF).step_by(LEAF_STEP);
        let base = leaves
            .find(|&leaf| registers(leaf) == SIGNATURE)
            .ok_or(NotXen)?;
        let vendor = registers(0);
        let amd = vendor == AMD || vendor == HYGON;
        let instruction = if amd {
            Instruction::Vmmcall
        } else {
            Instruction::Vmcall
        };
        Ok(Self {
            instruction,
            version: __cpuid(base + 1).eax,
            base,
        })
    }

    /// Xen's version, major and minor.
    #[must_use]
    pub fn version(&self) -> (u16, u16) {
        ((self.version >> 16) as u16, self.version as u16)
    }

    /// The instruction in use.
    #[must_use]
    pub fn instruction(&self) -> Instruction {
        self.instruction
    }

    /// The MSR through which Xen writes a hypercall page (leaf base + 2, EBX).
    #[must_use]
    pub fn hypercall_msr(&self) -> u32 {
        __cpuid(self.base + 2).ebx
    }
}

// SAFETY: the ABI of public/arch-x86/xen-x86_64.h: number in RAX, arguments in RDI, RSI,
// RDX, R10, R8, result in RAX; debug builds of Xen clobber the argument registers.
unsafe impl Hypervisor for Native {
    #[inline]
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize {
        let mut result = number as isize;
        match self.instruction {
            // SAFETY: the caller's promise; memory is not `nomem`, so the compiler
            // expects any access through the pointers.
            Instruction::Vmcall => unsafe {
                asm!(
                    "vmcall",
                    inlateout("rax") result,
                    inlateout("rdi") args[0] => _,
                    inlateout("rsi") args[1] => _,
                    inlateout("rdx") args[2] => _,
                    inlateout("r10") args[3] => _,
                    inlateout("r8") args[4] => _,
                    options(nostack),
                );
            },
            // SAFETY: as above.
            Instruction::Vmmcall => unsafe {
                asm!(
                    "vmmcall",
                    inlateout("rax") result,
                    inlateout("rdi") args[0] => _,
                    inlateout("rsi") args[1] => _,
                    inlateout("rdx") args[2] => _,
                    inlateout("r10") args[3] => _,
                    inlateout("r8") args[4] => _,
                    options(nostack),
                );
            },
        }
        result
    }
}

/// Hypercalls through a page of stubs, one every 32 bytes, that Xen wrote when the page's
/// address was written to [`Native::hypercall_msr`].
#[derive(Clone, Copy, Debug)]
pub struct HypercallPage(NonNull<u8>);

// SAFETY: the page is only executed.
unsafe impl Send for HypercallPage {}
// SAFETY: the page is only executed.
unsafe impl Sync for HypercallPage {}

impl HypercallPage {
    /// Uses the page at `page`.
    ///
    /// # Safety
    /// Xen has filled the page, it is mapped executable, and stays so.
    #[must_use]
    pub const unsafe fn new(page: NonNull<u8>) -> Self {
        Self(page)
    }
}

// SAFETY: a stub enters Xen with the registers as they are.
unsafe impl Hypervisor for HypercallPage {
    #[inline]
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize {
        let result;
        // SAFETY: 128 stubs fill the page, and the numbers of this crate are below that;
        // the rest is the caller's promise.
        unsafe {
            let stub = self.0.as_ptr().add((number as usize & 127) * 32);
            asm!(
                "call {stub}",
                stub = in(reg) stub,
                lateout("rax") result,
                inlateout("rdi") args[0] => _,
                inlateout("rsi") args[1] => _,
                inlateout("rdx") args[2] => _,
                inlateout("r10") args[3] => _,
                inlateout("r8") args[4] => _,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_spell_their_names() {
        let text = |words: [u32; 3]| {
            let mut bytes = [0; 12];
            for (at, word) in words.iter().enumerate() {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
            }
            bytes
        };
        assert_eq!(&text(SIGNATURE), b"XenVMMXenVMM");
        let vendor = |[b, c, d]: [u32; 3]| text([b, d, c]);
        assert_eq!(&vendor(AMD), b"AuthenticAMD");
        assert_eq!(&vendor(HYGON), b"HygonGenuine");
    }
}
