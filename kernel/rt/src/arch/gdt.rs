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

/// The tables of one CPU.
#[derive(Debug)]
pub struct Tables {
    tss: TaskStateSegment,
    gdt: GlobalDescriptorTable,
}

/// The tops of the stacks for what must not run on the interrupted one.
#[derive(Clone, Copy, Debug)]
pub struct EmergencyStacks {
    /// For double faults.
    pub double_fault: u64,
    /// For NMIs.
    pub nmi: u64,
    /// For machine checks.
    pub machine_check: u64,
}

impl Tables {
    /// Empty tables.
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "tables are a static or leaked, never a value"
    )]
    pub const fn new() -> Self {
        Self {
            tss: TaskStateSegment::new(),
            gdt: GlobalDescriptorTable::new(),
        }
    }

    /// Fills the tables and loads them into this CPU.
    ///
    /// # Safety
    /// Call once for each, with interrupts masked. The stacks are this CPU's alone.
    pub unsafe fn load(&'static mut self, stacks: &EmergencyStacks) {
        // Field by field: the structure is packed, so that a reference into it could be misaligned.
        for (index, top) in [
            (DOUBLE_FAULT_IST, stacks.double_fault),
            (NMI_IST, stacks.nmi),
            (MACHINE_CHECK_IST, stacks.machine_check),
        ] {
            self.tss.interrupt_stack_table[usize::from(index)] = VirtAddr::new(top);
        }
        let code = self.gdt.append(Descriptor::kernel_code_segment());
        self.gdt.append(Descriptor::kernel_data_segment());
        let tss = self.gdt.append(Descriptor::tss_segment(&self.tss));
        self.gdt.load();
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
}

struct Static(UnsafeCell<Tables>);

// SAFETY: written once by `init`, before there is a second CPU or an interrupt,
// and only read by the CPU afterwards.
unsafe impl Sync for Static {}

static TABLES: Static = Static(UnsafeCell::new(Tables::new()));

/// Builds and loads the tables of the boot CPU.
///
/// # Safety
/// Call once, early, on the boot CPU with interrupts masked.
pub unsafe fn init() {
    // SAFETY: the only reference, by the caller's promise.
    let tables: &'static mut Tables = unsafe { &mut *TABLES.0.get() };
    let stacks = EmergencyStacks {
        double_fault: DOUBLE_FAULT_STACK.top(),
        nmi: NMI_STACK.top(),
        machine_check: MACHINE_CHECK_STACK.top(),
    };
    // SAFETY: the caller's promise; the stacks are the boot CPU's.
    unsafe { tables.load(&stacks) };
}
