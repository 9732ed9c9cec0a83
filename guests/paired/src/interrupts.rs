//! Interrupts of the devices: messages to the local APIC, a vector a slot, and event channels. Both are counted, by
//! slot, and taken by the boot CPU.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use vd_config::{SLOTS, SlotIndex};
use vd_rt::arch::{idt, lapic};
use vd_rt::xen::events::{self, Happened};
use vd_rt::xen::{XEN, time};
use xen_hypercall::sched;

use crate::cpu;

/// Vector of slot 0.
const VECTOR: u8 = 0x40;
/// Where messages go: the local APIC with id 0, which is the boot CPU's.
pub const ADDRESS: u64 = 0xfee0_0000;
/// Registers of a device.
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
/// Nanoseconds between two looks at the clock by a CPU that sleeps.
const TICK: u64 = 500_000_000;
/// Nanoseconds that a device may take.
const PATIENCE: u64 = 20_000_000_000;

static COUNTS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
/// Where each device's registers are; 0 = there is no device.
static REGISTERS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static ACKNOWLEDGE: AtomicBool = AtomicBool::new(true);

/// Entry code of the vectors: each puts its slot where the common part finds it.
macro_rules! vectors {
    ($($name:ident = $slot:literal)*) => {
        $(
            #[unsafe(naked)]
            extern "C" fn $name() {
                naked_asm!("push {slot}", "jmp {common}", slot = const $slot, common = sym message_common)
            }
        )*
        const STUBS: [extern "C" fn(); SLOTS] = [$($name),*];
    };
}

vectors! {
    message_0 = 0 message_1 = 1 message_2 = 2 message_3 = 3
    message_4 = 4 message_5 = 5 message_6 = 6 message_7 = 7
    message_8 = 8 message_9 = 9 message_10 = 10 message_11 = 11
    message_12 = 12 message_13 = 13 message_14 = 14 message_15 = 15
    message_16 = 16 message_17 = 17 message_18 = 18 message_19 = 19
    message_20 = 20 message_21 = 21 message_22 = 22 message_23 = 23
    message_24 = 24 message_25 = 25 message_26 = 26 message_27 = 27
    message_28 = 28 message_29 = 29 message_30 = 30 message_31 = 31
}

#[unsafe(naked)]
extern "C" fn message_common() {
    // The CPU aligned the stack to 16 and pushed 5 words; with the slot and these it is 15, and one more aligns it.
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
        "mov rdi, [rsp + 72]",
        "sub rsp, 8",
        "cld",
        "call {handler}",
        "add rsp, 8",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 8",
        "iretq",
        handler = sym on_message,
    )
}

extern "C" fn on_message(slot: u64) {
    serve(slot as usize);
    lapic::end_of_interrupt();
}

/// Serves an interrupt of a device: counts it, and acknowledges it if that is wanted.
pub fn serve(slot: usize) {
    if let (Some(count), Some(base)) = (COUNTS.get(slot), REGISTERS.get(slot)) {
        let base = base.load(Ordering::Relaxed);
        if base != 0 && ACKNOWLEDGE.load(Ordering::Relaxed) {
            // SAFETY: registers of a device, mapped; reading the one and writing it to the other is what they are for.
            unsafe {
                let status = ((base + INTERRUPT_STATUS) as *const u32).read_volatile();
                ((base + INTERRUPT_ACK) as *mut u32).write_volatile(status);
            }
        }
        count.fetch_add(1, Ordering::Release);
        events::mark(Happened::WORK);
    }
}

/// Makes the vectors of all slots work.
///
/// # Safety
/// On the boot CPU, before others run and before a device is told of a vector.
pub unsafe fn init() {
    for (vector, stub) in (VECTOR..).zip(STUBS) {
        // SAFETY: the caller's promise; the stubs save what they change and end with IRETQ.
        unsafe { idt::set_stub(vector, stub) };
    }
}

/// The data of a message that interrupts for a slot: its vector, fixed mode, edge.
pub fn data(slot: SlotIndex) -> u32 {
    u32::from(VECTOR + slot.get())
}

/// Tells where a device's registers are.
pub fn set_registers(slot: SlotIndex, base: u64) {
    REGISTERS[slot.index()].store(base, Ordering::Relaxed);
}

/// Says whether the handler acknowledges interrupts in the device.
pub fn set_acknowledge(acknowledge: bool) {
    ACKNOWLEDGE.store(acknowledge, Ordering::Relaxed);
}

/// Interrupts of a device so far.
pub fn count(slot: SlotIndex) -> u64 {
    COUNTS[slot.index()].load(Ordering::Acquire)
}

/// Nobody answers.
#[derive(Clone, Copy, Debug)]
pub struct TooLong;

/// The clock of a CPU that waits.
#[derive(Debug)]
pub struct Waiter {
    deadline: u64,
}

impl Waiter {
    /// Starts to wait. On the boot CPU the timer fires now and then from here on.
    pub fn new() -> Self {
        let now = time::now();
        if cpu::is_boot() {
            time::wake_at(now + TICK);
        }
        Self {
            deadline: now + PATIENCE,
        }
    }

    /// Waits until `done`, which interrupts bring about on the boot CPU; other CPUs look again and again. Each wait
    /// has the full time.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn until(&mut self, mut done: impl FnMut() -> bool) -> Result<(), TooLong> {
        if done() {
            return Ok(());
        }
        let mut fresh = false;
        loop {
            if cpu::is_boot() {
                events::sleep_unless(events::any);
                if events::take().contains(Happened::TIMER) {
                    let now = time::now();
                    time::wake_at(now + TICK);
                    self.check(now, &mut fresh)?;
                }
            } else {
                return self.look_until(done);
            }
            // What the device has written is looked at after what the driver has told it.
            fence(Ordering::SeqCst);
            if done() {
                return Ok(());
            }
        }
    }

    /// Looks again and again until `done`, on any CPU; lets others run in between.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn look_until(&mut self, mut done: impl FnMut() -> bool) -> Result<(), TooLong> {
        let mut fresh = false;
        while !done() {
            sched::yield_now(&XEN);
            self.check(time::now(), &mut fresh)?;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    fn check(&mut self, now: u64, fresh: &mut bool) -> Result<(), TooLong> {
        if !*fresh {
            *fresh = true;
            self.deadline = now + PATIENCE;
        }
        if now >= self.deadline {
            Err(TooLong)
        } else {
            Ok(())
        }
    }
}
