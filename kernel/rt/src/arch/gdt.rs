//! The global descriptor table and the task state segment with its stacks.
//!
//! Double faults, NMIs and machine checks run on stacks of their own, so that
//! they can be reported even when the main stack has overflowed.

use core::cell::UnsafeCell;

use vd_boot::entry::Stack;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Interrupt-stack-table index of the double fault handler.
pub const DOUBLE_FAULT_IST: u16 = 0;
/// Interrupt-stack-table index of the NMI handler.
pub const NMI_IST: u16 = 1;
/// Interrupt-stack-table index of the machine check handler.
pub const MACHINE_CHECK_IST: u16 = 2;

const IST_BYTES: usize = 16 * 1024;

#[unsafe(link_section = ".stacks")]
static DOUBLE_FAULT_STACK: Stack<IST_BYTES> = Stack::new();
#[unsafe(link_section = ".stacks")]
static NMI_STACK: Stack<IST_BYTES> = Stack::new();
#[unsafe(link_section = ".stacks")]
static MACHINE_CHECK_STACK: Stack<IST_BYTES> = Stack::new();

/// The pages below every stack, which the page tables leave out.
pub fn guards() -> [u64; 4] {
    [
        vd_boot::entry::BOOT_STACK.guard(),
        DOUBLE_FAULT_STACK.guard(),
        NMI_STACK.guard(),
        MACHINE_CHECK_STACK.guard(),
    ]
}

struct Tables {
    tss: TaskStateSegment,
    gdt: GlobalDescriptorTable,
}

struct Static(UnsafeCell<Tables>);

// SAFETY: written once by `init`, before there is a second CPU or an interrupt,
// and only read by the CPU afterwards.
unsafe impl Sync for Static {}

static TABLES: Static = Static(UnsafeCell::new(Tables {
    tss: TaskStateSegment::new(),
    gdt: GlobalDescriptorTable::new(),
}));

/// Builds and loads the tables.
///
/// # Safety
/// Call once, early, on the boot CPU with interrupts masked.
pub unsafe fn init() {
    // SAFETY: the only reference, by the caller's promise.
    let tables: &'static mut Tables = unsafe { &mut *TABLES.0.get() };
    // Field by field: the structure is packed, so that a reference into it could be misaligned.
    tables.tss.interrupt_stack_table[usize::from(DOUBLE_FAULT_IST)] =
        VirtAddr::new(DOUBLE_FAULT_STACK.top());
    tables.tss.interrupt_stack_table[usize::from(NMI_IST)] = VirtAddr::new(NMI_STACK.top());
    tables.tss.interrupt_stack_table[usize::from(MACHINE_CHECK_IST)] =
        VirtAddr::new(MACHINE_CHECK_STACK.top());
    let code = tables.gdt.append(Descriptor::kernel_code_segment());
    tables.gdt.append(Descriptor::kernel_data_segment());
    let tss = tables.gdt.append(Descriptor::tss_segment(&tables.tss));
    tables.gdt.load();
    // SAFETY: the selectors were appended just above; the null selector is
    // valid for data segments in 64-bit mode at privilege level 0.
    unsafe {
        CS::set_reg(code);
        DS::set_reg(SegmentSelector::NULL);
        ES::set_reg(SegmentSelector::NULL);
        SS::set_reg(SegmentSelector::NULL);
        load_tss(tss);
    }
}
