//! Exception reports: what happened, every register, a backtrace; then the panic
//! path, which lets the guest go.

use core::fmt;

use x86_64::registers::control::Cr2;

use super::{backtrace, gdt};
use crate::panic;

/// The stack as [`super::idt`]'s stubs leave it, lowest address first.
#[repr(C)]
#[derive(Debug)]
pub struct TrapFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const PAGE_FAULT: u64 = 14;

impl TrapFrame {
    fn name(&self) -> &'static str {
        match self.vector {
            0 => "divide error",
            1 => "debug exception",
            NMI => "NMI: told to let go of the guest",
            3 => "breakpoint",
            4 => "overflow",
            5 => "bound range exceeded",
            6 => "invalid opcode",
            7 => "device not available",
            DOUBLE_FAULT => "double fault",
            10 => "invalid TSS",
            11 => "segment not present",
            12 => "stack segment fault",
            13 => "general protection fault",
            PAGE_FAULT => "page fault",
            16 => "x87 exception",
            17 => "alignment check",
            18 => "machine check",
            19 => "SIMD exception",
            20 => "virtualization exception",
            21 => "control protection exception",
            _ => "unexpected interrupt",
        }
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} (vector {}, error {:#x})",
            self.name(),
            self.vector,
            self.error
        )?;
        if self.vector == PAGE_FAULT || self.vector == DOUBLE_FAULT {
            let address = Cr2::read_raw();
            let guard = gdt::guards().contains(&(address & !0xfff));
            let why = if guard { ": a stack overflowed" } else { "" };
            writeln!(f, "  address {address:#x}{why}")?;
        }
        writeln!(
            f,
            "  rip {:#018x} cs {:#x} rflags {:#x}",
            self.rip, self.cs, self.rflags
        )?;
        writeln!(
            f,
            "  rsp {:#018x} ss {:#x} rbp {:#018x}",
            self.rsp, self.ss, self.rbp
        )?;
        writeln!(
            f,
            "  rax {:#018x} rbx {:#018x} rcx {:#018x}",
            self.rax, self.rbx, self.rcx
        )?;
        writeln!(
            f,
            "  rdx {:#018x} rsi {:#018x} rdi {:#018x}",
            self.rdx, self.rsi, self.rdi
        )?;
        writeln!(
            f,
            "  r8  {:#018x} r9  {:#018x} r10 {:#018x}",
            self.r8, self.r9, self.r10
        )?;
        writeln!(
            f,
            "  r11 {:#018x} r12 {:#018x} r13 {:#018x}",
            self.r11, self.r12, self.r13
        )?;
        write!(f, "  r14 {:#018x} r15 {:#018x}", self.r14, self.r15)
    }
}

/// Reports an exception and lets the guest go.
pub extern "C" fn exception(frame: &TrapFrame) -> ! {
    panic::die(
        &format_args!("{frame}"),
        backtrace::from(frame.rip, frame.rbp),
    );
}
