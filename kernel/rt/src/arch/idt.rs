//! The interrupt descriptor table and the entry stubs.
//!
//! Exceptions save every register and never return: all of them are bugs or, for
//! the NMI, the operator's order to let go (`xl trigger DOMAIN nmi`). Interrupts
//! save what the C calling convention lets a callee change.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

use super::gdt::{DOUBLE_FAULT_IST, MACHINE_CHECK_IST, NMI_IST};
use super::trap;

/// Vector of Xen's event-channel upcall.
pub const UPCALL_VECTOR: u8 = 0x30;
/// Vector of spurious interrupts of the local APIC.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Entry code of one exception: brings all stacks to the same shape (an error
/// code and the vector on top of what the CPU pushed).
macro_rules! exceptions {
    ($($name:ident = $vector:literal $($push:literal)?;)*) => {$(
        #[unsafe(naked)]
        extern "C" fn $name() {
            naked_asm!(
                $($push,)?
                "push {vector}",
                "jmp {common}",
                vector = const $vector,
                common = sym exception_common,
            )
        }
    )*};
}

exceptions! {
    divide_error = 0 "push 0";
    debug = 1 "push 0";
    nmi = 2 "push 0";
    breakpoint = 3 "push 0";
    overflow = 4 "push 0";
    bound_range = 5 "push 0";
    invalid_opcode = 6 "push 0";
    device_not_available = 7 "push 0";
    double_fault = 8;
    invalid_tss = 10;
    segment_not_present = 11;
    stack_segment = 12;
    general_protection = 13;
    page_fault = 14;
    x87 = 16 "push 0";
    alignment_check = 17;
    machine_check = 18 "push 0";
    simd = 19 "push 0";
    virtualization = 20 "push 0";
    control_protection = 21;
    unexpected = 32 "push 0";
}

#[unsafe(naked)]
extern "C" fn exception_common() {
    naked_asm!(
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {report}",
        "ud2",
        report = sym trap::exception,
    )
}

#[unsafe(naked)]
extern "C" fn upcall() {
    // The CPU aligned the stack to 16 and pushed 5 words; 9 more keep it aligned.
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "cld",
        "call {handler}",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        handler = sym crate::xen::events::upcall,
    )
}

#[unsafe(naked)]
extern "C" fn spurious() {
    naked_asm!("iretq")
}

/// Made by [`init`]: before, it takes no room in the image.
struct Static(UnsafeCell<MaybeUninit<InterruptDescriptorTable>>);

// SAFETY: written by `init` and `set_stub` only, before there is a second CPU, and otherwise
// only read by CPUs.
unsafe impl Sync for Static {}

static IDT: Static = Static(UnsafeCell::new(MaybeUninit::uninit()));

/// Builds and loads the table.
///
/// # Safety
/// Call once, early, on the boot CPU with interrupts masked, after the GDT.
pub unsafe fn init() {
    // SAFETY: the only reference, by the caller's promise.
    let idt: &'static mut MaybeUninit<InterruptDescriptorTable> = unsafe { &mut *IDT.0.get() };
    let idt = idt.write(InterruptDescriptorTable::new());
    let at = |handler: extern "C" fn()| VirtAddr::from_ptr(handler as *const ());
    // SAFETY: every handler is a stub above that ends in a diverging report or IRETQ
    // and expects exactly what the CPU pushes for its vector; the stacks exist.
    unsafe {
        for vector in 32..=255 {
            idt[vector].set_handler_addr(at(unexpected));
        }
        idt.divide_error.set_handler_addr(at(divide_error));
        idt.debug.set_handler_addr(at(debug));
        idt.non_maskable_interrupt
            .set_handler_addr(at(nmi))
            .set_stack_index(NMI_IST);
        idt.breakpoint.set_handler_addr(at(breakpoint));
        idt.overflow.set_handler_addr(at(overflow));
        idt.bound_range_exceeded.set_handler_addr(at(bound_range));
        idt.invalid_opcode.set_handler_addr(at(invalid_opcode));
        idt.device_not_available
            .set_handler_addr(at(device_not_available));
        idt.double_fault
            .set_handler_addr(at(double_fault))
            .set_stack_index(DOUBLE_FAULT_IST);
        idt.invalid_tss.set_handler_addr(at(invalid_tss));
        idt.segment_not_present
            .set_handler_addr(at(segment_not_present));
        idt.stack_segment_fault.set_handler_addr(at(stack_segment));
        idt.general_protection_fault
            .set_handler_addr(at(general_protection));
        idt.page_fault.set_handler_addr(at(page_fault));
        idt.x87_floating_point.set_handler_addr(at(x87));
        idt.alignment_check.set_handler_addr(at(alignment_check));
        idt.machine_check
            .set_handler_addr(at(machine_check))
            .set_stack_index(MACHINE_CHECK_IST);
        idt.simd_floating_point.set_handler_addr(at(simd));
        idt.virtualization.set_handler_addr(at(virtualization));
        idt.cp_protection_exception
            .set_handler_addr(at(control_protection));
        idt[UPCALL_VECTOR].set_handler_addr(at(upcall));
        idt[SPURIOUS_VECTOR].set_handler_addr(at(spurious));
    }
    idt.load();
}

/// Loads the table into another CPU.
///
/// # Safety
/// After [`init`], and after that CPU has its own GDT with the stacks that the entries name.
pub unsafe fn load_again() {
    // SAFETY: nobody writes to it any more, and `init` has made it.
    let idt: &'static InterruptDescriptorTable = unsafe { (*IDT.0.get()).assume_init_ref() };
    idt.load();
}

/// Sends a vector to a stub of the image's own.
///
/// # Safety
/// After [`init`], on the boot CPU, while no other CPU runs and nothing can send that vector yet. `stub` saves every
/// register that it changes and ends with IRETQ.
pub unsafe fn set_stub(vector: u8, stub: extern "C" fn()) {
    // SAFETY: the only reference at this time, by the caller's promise, and `init` has made it.
    let idt: &'static mut InterruptDescriptorTable = unsafe { (*IDT.0.get()).assume_init_mut() };
    // SAFETY: the caller's promise about the stub.
    unsafe { idt[vector].set_handler_addr(VirtAddr::from_ptr(stub as *const ())) };
}
