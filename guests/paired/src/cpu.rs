//! The other CPUs: started when there is work for them, down while there is none.
//!
//! They take no interrupts: what they wait for they look at, and let others run in between.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use vd_boot::entry::Stack;
use vd_rt::arch::gdt::{EmergencyStacks, Tables};
use vd_rt::arch::{halt, idt};
use vd_rt::xen::{XEN, time};
use x86_64::registers::control::{Cr0, Cr3, Cr4, Efer};
use xen_hypercall::vcpu::{self, HvmContext64};
use xen_hypercall::{Errno, VcpuId, sched};

use crate::interrupts::{TooLong, Waiter};

/// Most CPUs that are used.
pub const CPUS: usize = 8;
const STACK_BYTES: usize = 32 * 1024;
const EMERGENCY_BYTES: usize = 8 * 1024;

/// Of CPUs 1 and up. The pages below them stay mapped: the page tables are made before anybody knows of these.
#[unsafe(link_section = ".stacks")]
static STACKS: [Stack<STACK_BYTES>; CPUS - 1] = [const { Stack::new() }; CPUS - 1];
#[unsafe(link_section = ".stacks")]
static EMERGENCY: [Stack<EMERGENCY_BYTES>; CPUS - 1] = [const { Stack::new() }; CPUS - 1];
static TABLES: [AtomicPtr<Tables>; CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; CPUS];

/// What each CPU does, as the address of a `fn(usize)`.
static JOBS: [AtomicUsize; CPUS] = [const { AtomicUsize::new(0) }; CPUS];
/// CPUs that have reached the barrier, ever.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Whether this is the boot CPU: only it runs on the boot stack.
pub fn is_boot() -> bool {
    let stack = &vd_boot::entry::BOOT_STACK;
    let here = core::ptr::from_ref(&stack).addr() as u64;
    (stack.guard()..stack.top()).contains(&here)
}

/// How many CPUs there are, at most [`CPUS`].
pub fn count() -> usize {
    let exists = |cpu: &usize| vcpu::is_up(&XEN, VcpuId(*cpu as u32)) != Err(Errno::ENOENT);
    (0..CPUS).take_while(exists).count()
}

/// Runs `job` on `cpus` CPUs at once, the boot CPU among them, and waits until all are done.
///
/// # Errors
/// What Xen says to starting them; or that they do not end.
pub fn run_on(cpus: usize, job: fn(usize)) -> Result<(), &'static str> {
    for cpu in 1..cpus {
        start(cpu, job)?;
    }
    job(0);
    (1..cpus).try_for_each(join)
}

/// Runs `job` on another CPU, which is down.
///
/// # Errors
/// What Xen says.
pub fn start(cpu: usize, job: fn(usize)) -> Result<(), &'static str> {
    JOBS[cpu].store(job as usize, Ordering::Release);
    bring_up(cpu).map_err(|_| "Xen refuses to start a CPU")
}

/// Waits until a CPU is down.
///
/// # Errors
/// It does not end.
pub fn join(cpu: usize) -> Result<(), &'static str> {
    let is_down = || vcpu::is_up(&XEN, VcpuId(cpu as u32)) == Ok(false);
    wait(is_down).map_err(|_| "a CPU does not end")
}

/// Waits for what no interrupt tells of.
pub fn wait(mut done: impl FnMut() -> bool) -> Result<(), TooLong> {
    Waiter::new().until(|| {
        let done = done();
        if !done && is_boot() {
            time::wake_at(time::now() + 1_000_000);
        }
        done
    })
}

fn bring_up(cpu: usize) -> Result<(), Errno> {
    let id = VcpuId(cpu as u32);
    if TABLES[cpu].load(Ordering::Relaxed).is_null() {
        let tables = Box::leak(Box::new(Tables::new()));
        TABLES[cpu].store(tables, Ordering::Release);
        let context = HvmContext64 {
            mode: 1,
            rdi: cpu as u64,
            // As after a call.
            rsp: STACKS[cpu - 1].top() - 8,
            rip: entry as *const () as u64,
            rflags: 2,
            cr0: Cr0::read_raw(),
            cr3: Cr3::read().0.start_address().as_u64(),
            cr4: Cr4::read_raw(),
            efer: Efer::read_raw(),
            ..HvmContext64::default()
        };
        // SAFETY: the entry expects just this: a stack of its own, the boot CPU's page tables, interrupts masked.
        unsafe { vcpu::initialise(&XEN, id, &context)? };
    }
    // SAFETY: it starts at the entry, or goes on behind its call that took it down.
    unsafe { vcpu::up(&XEN, id) }
}

extern "C" fn entry(cpu: usize) -> ! {
    let emergency = EMERGENCY[cpu - 1].top();
    let stacks = EmergencyStacks {
        double_fault: emergency,
        nmi: emergency,
        machine_check: emergency,
    };
    // SAFETY: made for this CPU, which is here for the first and only time, with interrupts masked; the boot CPU has
    // set up the IDT.
    unsafe {
        let tables: &'static mut Tables = &mut *TABLES[cpu].load(Ordering::Acquire);
        tables.load(&stacks);
        idt::load_again();
    }
    loop {
        let job = JOBS[cpu].load(Ordering::Acquire);
        // SAFETY: `start` has stored a function of this type.
        let job: fn(usize) = unsafe { core::mem::transmute::<usize, fn(usize)>(job) };
        job(cpu);
        // SAFETY: this CPU holds no lock.
        if unsafe { vcpu::down(&XEN, VcpuId(cpu as u32)) }.is_err() {
            halt();
        }
    }
}

/// Waits until as many CPUs as take part have come here, so that all go on at once. `round` counts from 1.
pub fn barrier(cpus: usize, round: usize) {
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    while ARRIVED.load(Ordering::Acquire) < cpus * round {
        sched::yield_now(&XEN);
    }
}

/// Nobody has arrived at the barrier.
pub fn reset_barrier() {
    ARRIVED.store(0, Ordering::Release);
}
