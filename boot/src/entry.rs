//! The PVH ELF note and the way from 32-bit protected mode into Rust.
//!
//! Invariant: when `kernel_entry` is called the CPU is in long mode, the low
//! 4 GiB are identity-mapped (writable and executable: provisional), interrupts
//! are off, the stack is [`BOOT_STACK`], and `rdi` holds the physical address of
//! `hvm_start_info`. Xen has zeroed `.bss` while loading.

use core::arch::global_asm;
use core::cell::UnsafeCell;

/// Bytes left unmapped below every stack.
pub const GUARD_BYTES: usize = 4096;

/// Bytes of the stack that the boot path and then the main loop run on.
pub const BOOT_STACK_BYTES: usize = 128 * 1024;

/// A stack with a page below it that the final page tables leave out, so that an
/// overflow faults instead of overwriting the neighbour.
#[repr(C, align(4096))]
pub struct Stack<const BYTES: usize> {
    guard: UnsafeCell<[u8; GUARD_BYTES]>,
    body: UnsafeCell<[u8; BYTES]>,
}

// SAFETY: only the CPU that runs on a stack touches its bytes; this type hands
// out addresses, never references.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

impl<const BYTES: usize> Stack<BYTES> {
    /// A zeroed stack. `BYTES` must be a multiple of the page size.
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "a stack is a static, never a value"
    )]
    pub const fn new() -> Self {
        assert!(BYTES.is_multiple_of(4096));
        Self {
            guard: UnsafeCell::new([0; GUARD_BYTES]),
            body: UnsafeCell::new([0; BYTES]),
        }
    }

    /// Address of the guard page.
    #[must_use]
    pub fn guard(&self) -> u64 {
        self.guard.get() as u64
    }

    /// The first address above the stack: where it starts to grow down from.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.body.get() as u64 + BYTES as u64
    }
}

/// The stack of the boot path and of the main loop.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".stacks")]
pub static BOOT_STACK: Stack<BOOT_STACK_BYTES> = Stack::new();

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY (18): a 32-bit physical entry point.
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4",
    ".long 4",
    ".long 18",
    ".asciz \"Xen\"",
    ".long pvh_entry",
    ".popsection",
    //
    ".pushsection .text.pvh_entry, \"ax\", @progbits",
    ".code32",
    ".global pvh_entry",
    "pvh_entry:",
    "cld",
    "cli",
    "lea esp, [{stack} + {stack_size}]",
    "mov esi, ebx",
    // Four page directories of 2 MiB pages: present, writable, 2 MiB.
    "mov edi, offset early_pd",
    "mov eax, 0x83",
    "xor edx, edx",
    "mov ecx, 2048",
    "2:",
    "mov [edi], eax",
    "mov [edi + 4], edx",
    "add eax, 0x200000",
    "add edi, 8",
    "dec ecx",
    "jnz 2b",
    // The page-directory-pointer table and the root.
    "mov edi, offset early_pdpt",
    "mov eax, offset early_pd + 3",
    "mov ecx, 4",
    "3:",
    "mov [edi], eax",
    "add eax, 0x1000",
    "add edi, 8",
    "dec ecx",
    "jnz 3b",
    "mov eax, offset early_pdpt + 3",
    "mov [early_pml4], eax",
    // PAE, then the root, then EFER.LME, then paging and write protection.
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, offset early_pml4",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80010000",
    "mov cr0, eax",
    "lgdt [early_gdtr]",
    // A far jump loads the 64-bit code segment.
    "push 0x08",
    "lea eax, [4f]",
    "push eax",
    "retf",
    ".code64",
    "4:",
    "mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "lea rsp, [{stack} + {stack_size}]",
    "xor ebp, ebp",
    "mov edi, esi",
    "call {kernel_entry}",
    "5:",
    "cli",
    "hlt",
    "jmp 5b",
    ".popsection",
    //
    ".pushsection .rodata.early_gdt, \"a\", @progbits",
    ".balign 8",
    "early_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    "early_gdtr:",
    ".word 23",
    ".long early_gdt",
    ".popsection",
    //
    ".pushsection .bss.early_tables, \"aw\", @nobits",
    ".balign 4096",
    "early_pml4: .skip 0x1000",
    "early_pdpt: .skip 0x1000",
    "early_pd: .skip 0x4000",
    ".popsection",
    stack = sym BOOT_STACK,
    stack_size = const GUARD_BYTES + BOOT_STACK_BYTES,
    kernel_entry = sym kernel_entry,
);

unsafe extern "C" {
    /// Provided by the kernel: never returns.
    fn kernel_entry(start_info: u64) -> !;
}
