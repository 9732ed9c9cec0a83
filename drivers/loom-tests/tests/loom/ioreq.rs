//! The ioreq slots: Xen and the vCPUs on one side, the interrupt handler and the main loop on the other
//! (`vd_ioreq::Engine`, with the event bits and the hand-over of `vd_kernel_core` where they belong).
//!
//! Checked everywhere: a state only goes READY, INPROCESS, IORESP_READY as a vCPU sees it; a request is answered once;
//! the answer's data is there when the state says so; a doorbell rings once, with the value that was written.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use vd_ioreq::slot::{Control, State};
use vd_ioreq::{
    Access, DomId, Doorbell, DoorbellWidth, Engine, EvtchnPort, Match, Outcome, Recipient,
    SlotIndex, SlotPage, Space, Width,
};
use vd_kernel_core::handover::{Kicks, Marks, sleep_unless};
use vd_kernel_core::upcall;

use crate::explore;
use crate::guest::Touch;
use crate::handover::{Bits, BitsFlaw, MainLoop, Processor, Watched};

const BASE: u64 = 0xfea0_0000;
const BELL: u64 = BASE + 0x50;

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Nothing,
    /// The control byte is loaded without acquire.
    Load,
    /// The control byte is stored without release.
    Store,
    /// The state is stored before the data.
    DataLast,
    /// The event is sent before the state is stored.
    NotifyFirst,
    /// The handler does not tell the main loop of a request that waits.
    Untold,
}

/// One slot: what is accessed on its own is a word of its own.
struct Slot {
    addr: AtomicU64,
    data: AtomicU64,
    lengths: AtomicU64,
    kind: AtomicU8,
    control: AtomicU8,
    touch: Touch,
    /// The emulator's store that [`Flaw::DataLast`] holds back.
    late: std::sync::Mutex<Option<u64>>,
}

struct Page {
    slots: Vec<Slot>,
    flaw: Flaw,
}

/// What a vCPU asks for.
#[derive(Clone, Copy)]
enum Request {
    Write(u64, u64),
    Read(u64),
}

/// What the main loop answers a read with.
fn register(addr: u64) -> u64 {
    addr & 0xff | 0x5a00
}

impl Page {
    fn new(slots: usize, flaw: Flaw) -> Self {
        let slot = || Slot {
            addr: AtomicU64::new(0),
            data: AtomicU64::new(0),
            lengths: AtomicU64::new(0),
            kind: AtomicU8::new(0),
            control: AtomicU8::new(0),
            touch: Touch::new(),
            late: std::sync::Mutex::new(None),
        };
        Page {
            slots: (0..slots).map(|_| slot()).collect(),
            flaw,
        }
    }

    /// Xen's part: fills the slot and sets it READY.
    fn post(&self, slot: usize, request: Request) {
        let slot = &self.slots[slot];
        let (addr, data, dir) = match request {
            Request::Write(addr, value) => (addr, value, 0),
            Request::Read(addr) => (addr, 0, 0x20),
        };
        slot.addr.store(addr, Ordering::Relaxed);
        slot.data.store(data, Ordering::Relaxed);
        slot.lengths.store(4 << 32 | 1, Ordering::Relaxed);
        slot.kind.store(1, Ordering::Relaxed);
        slot.touch.touch();
        slot.control
            .store(dir | State::Ready as u8, Ordering::Release);
    }

    fn state(&self, slot: usize) -> State {
        self.slots[slot].touch.touch();
        let control = self.slots[slot].control.load(Ordering::Acquire);
        Control(control).state().expect("a known state")
    }

    /// Xen's part, when the state is IORESP_READY: takes the data and frees the slot.
    fn take_answer(&self, slot: usize, request: Request) {
        let data = self.slots[slot].data.load(Ordering::Relaxed);
        if let Request::Read(addr) = request {
            assert_eq!(data, register(addr), "the answer is not there yet");
        }
        self.slots[slot].control.store(0, Ordering::Release);
    }
}

impl SlotPage for Page {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn control(&self, slot: SlotIndex) -> Control {
        let order = if self.flaw == Flaw::Load {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        self.slots[slot.index()].touch.touch();
        Control(self.slots[slot.index()].control.load(order))
    }

    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        let slot = &self.slots[slot.index()];
        let control = u64::from(slot.control.load(Ordering::Relaxed));
        let kind = u64::from(slot.kind.load(Ordering::Relaxed));
        [
            slot.addr.load(Ordering::Relaxed),
            slot.data.load(Ordering::Relaxed),
            slot.lengths.load(Ordering::Relaxed),
            control << 48 | kind << 56,
        ]
    }

    fn store_data(&self, slot: SlotIndex, data: u64) {
        let slot = &self.slots[slot.index()];
        if self.flaw == Flaw::DataLast {
            *slot.late.lock().unwrap() = Some(data);
        } else {
            slot.data.store(data, Ordering::Relaxed);
        }
    }

    fn store_control(&self, slot: SlotIndex, control: Control) {
        let slot = &self.slots[slot.index()];
        let order = if self.flaw == Flaw::Store {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        slot.touch.touch();
        slot.control.store(control.0, order);
        if let Some(data) = slot.late.lock().unwrap().take() {
            slot.data.store(data, Ordering::Relaxed);
        }
    }

    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
        EvtchnPort(u32::from(slot.0) + 1)
    }
}

type TestEngine = Engine<2, 4>;

fn engine() -> TestEngine {
    let mut engine = Engine::new(None);
    engine.registers.add(Space::Memory, BASE, 0x200).unwrap();
    engine
        .doorbells
        .assign(&Doorbell {
            domain: DomId(1),
            vcpus: 2,
            space: Space::Memory,
            addr: BELL,
            width: DoorbellWidth::Exactly(Width::Dword),
            matching: Match::Any,
            recipient: Recipient {
                device: 0,
                queue: 0,
            },
        })
        .unwrap();
    engine
}

fn access(access: Access) -> u64 {
    match access {
        Access::Read { addr, .. } => register(addr),
        Access::Write { addr, value, .. } => {
            assert_eq!((addr, value), (BASE + 0x70, 7));
            0
        }
        other => panic!("nobody asked for {other:?}"),
    }
}

/// A vCPU posts and looks a few times, without any lock that would order more than the page does; the emulator looks
/// at the slots and serves the main loop's part once. What is left is done when both have finished.
fn page(requests: [Request; 2], flaw: Flaw) {
    explore("slots", Some(3), move || {
        let page = Arc::new(Page::new(2, flaw));
        let vcpu = |slot: usize| {
            let (page, request) = (Arc::clone(&page), requests[slot]);
            move || {
                page.post(slot, request);
                let mut before = State::Ready;
                for _ in 0..2 {
                    let now = page.state(slot);
                    assert!(now >= before, "{before:?} -> {now:?} crashes the guest");
                    before = now;
                }
                let answered = before == State::RespReady;
                if answered {
                    page.take_answer(slot, request);
                }
                answered
            }
        };
        let vcpus = [thread::spawn(vcpu(0)), thread::spawn(vcpu(1))];
        let mut engine = engine();
        let mut rung = Vec::new();
        let mut answers = [0, 0];
        let mut serve = |looks: u16| {
            for slot in (0..looks).map(|look| SlotIndex(look % 2)) {
                if let Outcome::Answered { kick } = engine.on_event(&*page, slot) {
                    answers[slot.index()] += 1;
                    rung.extend(kick.map(|kick| kick.value));
                }
            }
            while let Some((ticket, what)) = engine.next_pending() {
                engine.complete(&*page, ticket, access(what)).unwrap();
                answers[ticket.slot().index()] += 1;
            }
        };
        serve(2);
        let taken = vcpus.map(|vcpu| vcpu.join().unwrap());
        serve(2);
        for (slot, taken) in taken.into_iter().enumerate() {
            if !taken {
                assert_eq!(page.state(slot), State::RespReady, "a vCPU hangs");
                page.take_answer(slot, requests[slot]);
            }
        }
        assert_eq!(answers, [1, 1], "a request is answered once");
        let bells = requests.iter().filter_map(|request| match request {
            Request::Write(BELL, value) => Some(*value),
            _ => None,
        });
        assert_eq!(rung, bells.collect::<Vec<_>>());
    });
}

const DOORBELL: Request = Request::Write(BELL, 3);
const READ: Request = Request::Read(BASE + 0x60);
const WRITE: Request = Request::Write(BASE + 0x70, 7);

#[test]
fn slots_are_handed_over_and_back() {
    page([DOORBELL, READ], Flaw::Nothing);
    page([READ, WRITE], Flaw::Nothing);
}

#[test]
#[should_panic]
fn slots_loaded_without_acquire() {
    page([DOORBELL, READ], Flaw::Load);
}

#[test]
#[should_panic = "the answer is not there yet"]
fn answers_stored_without_release() {
    page([DOORBELL, READ], Flaw::Store);
}

#[test]
#[should_panic = "the answer is not there yet"]
fn answers_stored_after_the_state() {
    page([DOORBELL, READ], Flaw::DataLast);
}

/// The driver domain, as its kernel puts the parts together (`kernel/src/dm/slots.rs`, `kernel/src/service.rs`).
struct Domain {
    page: Page,
    bits: Bits,
    marks: Marks<Watched>,
    kicks: Kicks<Watched, 1, 4>,
    processor: Processor<TestEngine>,
    /// Upcalls that the CPU has not taken, and whether there will be more; behind the lock of Xen's own.
    upcalls: Mutex<(bool, bool)>,
    upcall: Condvar,
    /// Events that Xen has for each vCPU.
    events: [(Mutex<bool>, Condvar); 2],
    answered: [AtomicU32; 2],
    flaw: Flaw,
}

const GUEST: u64 = 1 << 3;
/// Ports of the slots: in two words.
const PORTS: [usize; 2] = [7, 64];

impl Domain {
    fn new(flaw: Flaw) -> Self {
        let word = || Watched::new(true);
        Domain {
            page: Page::new(2, flaw),
            bits: Bits::new(BitsFlaw::Nothing),
            marks: Marks::new(word()),
            kicks: Kicks::new(word(), [word()], [[word(), word(), word(), word()]]),
            processor: Processor::new(engine()),
            upcalls: Mutex::new((false, false)),
            upcall: Condvar::new(),
            events: [
                (Mutex::new(false), Condvar::new()),
                (Mutex::new(false), Condvar::new()),
            ],
            answered: [AtomicU32::new(0), AtomicU32::new(0)],
            flaw,
        }
    }

    /// EVTCHNOP_send on a slot's port: wakes the vCPU.
    fn notify(&self, slot: SlotIndex) {
        self.answered[slot.index()].fetch_add(1, Ordering::Relaxed);
        let (event, woken) = &self.events[slot.index()];
        *event.lock().unwrap() = true;
        woken.notify_one();
    }

    /// A vCPU: each request is posted, raises an event, and blocks until Xen has an event for the vCPU.
    fn vcpu(&self, slot: usize, requests: &[Request]) {
        for &request in requests {
            self.page.post(slot, request);
            self.bits.raise(PORTS[slot]);
            self.upcalls.lock().unwrap().0 = true;
            self.upcall.notify_one();
            let (event, woken) = &self.events[slot];
            let mut event = event.lock().unwrap();
            while !*event {
                event = woken.wait(event).unwrap();
            }
            *event = false;
            drop(event);
            assert_eq!(
                self.page.state(slot),
                State::RespReady,
                "an event without an answer"
            );
            self.page.take_answer(slot, request);
        }
    }

    /// Takes interrupts until there are no more vCPUs.
    fn interrupts(&self) {
        loop {
            let mut upcalls = self.upcalls.lock().unwrap();
            while !upcalls.0 {
                if upcalls.1 {
                    return;
                }
                upcalls = self.upcall.wait(upcalls).unwrap();
            }
            upcalls.0 = false;
            drop(upcalls);
            self.processor.interrupt(|engine| {
                upcall::serve(&self.bits, |port| self.on_port(engine, port));
            });
        }
    }

    fn on_port(&self, engine: &mut TestEngine, port: usize) {
        let slot = PORTS.iter().position(|&p| p == port).unwrap();
        let slot = SlotIndex(slot as u16);
        if self.flaw == Flaw::NotifyFirst {
            self.notify(slot);
        }
        match engine.on_event(&self.page, slot) {
            Outcome::Nothing => {}
            Outcome::Answered { kick } => {
                if self.flaw != Flaw::NotifyFirst {
                    self.notify(slot);
                }
                if let Some(kick) = kick {
                    let (queue, value) = (kick.value as usize, Some(kick.value as u32));
                    self.kicks.ring(0, queue, value, || self.marks.mark(GUEST));
                }
            }
            Outcome::Deferred if self.flaw == Flaw::Untold => {}
            Outcome::Deferred => self.marks.mark(GUEST),
        }
    }

    /// The main loop, until it has made `accesses` and found `kicks`.
    fn main_loop(&self, mut accesses: usize, kicks: u64) {
        let mut found = 0;
        loop {
            self.marks.take();
            while let Some((ticket, what)) = self.processor.masked(TestEngine::next_pending) {
                let data = access(what);
                self.processor
                    .masked(|engine| engine.complete(&self.page, ticket, data))
                    .unwrap();
                self.notify(ticket.slot());
                accesses = accesses.checked_sub(1).expect("an access made twice");
            }
            self.kicks.take(0, |queue, value| {
                assert_eq!(found >> queue & 1, 0, "a kick that was taken before");
                assert_eq!(value, Some(queue as u32));
                found |= 1 << queue;
            });
            if accesses == 0 && found == kicks {
                return;
            }
            let cpu = MainLoop::new(&self.processor, true);
            sleep_unless(&cpu, || self.marks.is_marked(u64::MAX), || {});
        }
    }
}

/// Everything together. A vCPU that is not answered, a kick that is not found or a request that the main loop sleeps
/// over is a deadlock, which loom reports.
fn domain(requests: [&'static [Request]; 2], preemptions: usize, flaw: Flaw) {
    let all = move || requests.into_iter().flatten();
    let kicks = all().fold(0_u64, |bits, request| match request {
        Request::Write(BELL, queue) => bits | 1 << queue,
        _ => bits,
    });
    let accesses = all().count() - kicks.count_ones() as usize;
    explore("domain", Some(preemptions), move || {
        let domain = Arc::new(Domain::new(flaw));
        let vcpus: Vec<_> = (0..2)
            .filter(|&slot| !requests[slot].is_empty())
            .map(|slot| {
                let domain = Arc::clone(&domain);
                thread::spawn(move || domain.vcpu(slot, requests[slot]))
            })
            .collect();
        let there = Arc::clone(&domain);
        let handler = thread::spawn(move || there.interrupts());
        domain.main_loop(accesses, kicks);
        for vcpu in vcpus {
            vcpu.join().unwrap();
        }
        domain.upcalls.lock().unwrap().1 = true;
        domain.upcall.notify_one();
        handler.join().unwrap();
        for (slot, requests) in requests.into_iter().enumerate() {
            let answered = domain.answered[slot].load(Ordering::Relaxed);
            assert_eq!(
                answered as usize,
                requests.len(),
                "an event for each answer"
            );
        }
        let counters = domain.processor.masked(|engine| engine.counters());
        assert_eq!(counters.answered as usize, all().count());
        assert_eq!((counters.abandoned, counters.strays), (0, 0));
    });
}

#[test]
fn one_vcpu_rings_reads_and_writes() {
    domain([&[DOORBELL, READ, WRITE], &[]], 2, Flaw::Nothing);
}

#[test]
fn two_vcpus_ring_and_read() {
    domain([&[DOORBELL], &[READ]], 2, Flaw::Nothing);
}

#[test]
fn two_vcpus_wait_for_the_main_loop() {
    domain([&[WRITE], &[READ]], 2, Flaw::Nothing);
}

#[test]
#[should_panic = "an event without an answer"]
fn events_sent_before_the_answer() {
    domain([&[DOORBELL], &[READ]], 2, Flaw::NotifyFirst);
}

#[test]
#[should_panic = "deadlock"]
fn requests_that_the_main_loop_is_not_told_of() {
    domain([&[READ], &[]], 2, Flaw::Untold);
}
