//! Registers in the guest's memory: a driver that reads them at any moment is told nothing that is not so.
//!
//! The guest has one vCPU, which runs a program of register accesses, one a step; the driver domain has its turn every so
//! many steps. A read of memory costs no step of anybody else's; a read that traps waits.

use std::format;
use std::prelude::v1::*;
use std::rc::Rc;
use std::vec;

use vd_config::{Doorbell as Kind, Interrupt};
use vd_ioreq::Access;
use vd_virtio::fault::FaultKind;
use vd_virtio::mmio::still::{TAIL, WORDS};
use vd_virtio::mmio::{INTERRUPT_CONFIG, INTERRUPT_VRING, MAGIC, Status};
use vd_virtio::test_util::FakeMemory;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};
use xen_hypercall::dm::MemType;
use xen_hypercall::fake::machine::{Fault, Machine};
use xen_hypercall::{Errno, EvtchnPort};

use super::super::Count;
use super::super::attach::Plan;
use super::super::shown::Face;
use super::super::signal::{Signal, Wanted};
use super::{
    ERRORS, GUEST, IN_MEMORY, Tested, VCPUS_THERE, attach, held, line, plan_of, server_at, slot,
    way,
};

const MAGIC_VALUE: u64 = 0;
const QUEUE_READY: u64 = 0x44;
const INTERRUPT_STATUS: u64 = 0x60;
const ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const GENERATION: u64 = 0xfc;
const FIRST: u64 = 0x100;
const SECOND: u64 = 0x108;

/// Its configuration has one number twice, so that a torn one can be told.
struct Twice(u32);

impl Device for Twice {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::empty()
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        let half = u64::from(self.0).to_le_bytes();
        let all = [half, half].concat();
        for (at, byte) in (offset..).zip(into) {
            *byte = all.get(at).copied().unwrap_or(0);
        }
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        pass.serve_each(chain, |_, _| Ok(0))
    }
}

/// A driver domain.
struct Side {
    server: Tested,
    device: MmioTransport<Twice, 1>,
    signal: Signal,
    face: Face,
    mem: FakeMemory,
    window: u64,
    refused: Vec<(&'static str, Errno)>,
}

impl Side {
    fn new(xen: &Rc<Machine>) -> Self {
        let server = server_at(xen);
        attach(&server, &plan_of(IN_MEMORY)).unwrap();
        server.interrupts();
        Self {
            server,
            device: MmioTransport::new(Twice(0), 4).with_late_acks(),
            signal: Signal::new(Interrupt::Edge),
            face: Face::default(),
            mem: FakeMemory::new(0x1000),
            window: plan_of(IN_MEMORY).devices[0].window,
            refused: Vec::new(),
        }
    }

    fn settle(&mut self, then: Option<EvtchnPort>) {
        let Self {
            face, device, mem, ..
        } = self;
        if let Err(why) = face.settle(&self.server, slot(0), device, mem) {
            self.refused.push(why);
        }
        let wanted = Wanted::new(self.device.interrupt(), &self.device.counters());
        let told = self
            .signal
            .update(&self.server, GUEST, slot(0), wanted, then);
        if let Err(why) = told {
            self.refused.push(why);
        }
    }

    fn read(&mut self, offset: u64) -> u64 {
        if offset < 0x10 {
            let withheld = self.face.withhold(&self.server, slot(0));
            self.refused.extend(withheld.err());
        }
        self.device.read(offset, 4)
    }

    fn pass(&mut self) {
        self.server.interrupts();
        self.server.new_pass();
        self.server.take_posted();
        loop {
            if let Some(write) = self.server.next_posted() {
                let offset = write.addr - self.window;
                self.device.write(&self.mem, offset, 4, write.value);
                self.settle(None);
                continue;
            }
            let Some((ticket, access)) = self.server.next() else {
                break;
            };
            let Access::Read { addr, .. } = access else {
                unreachable!("{access:?}");
            };
            let data = self.read(addr - self.window);
            // A read changes nothing: what it has to hide it hides itself.
            if let Some(port) = self.server.complete(ticket, data) {
                self.server.wake_vcpu(port);
            }
        }
    }

    /// The driver has got to DRIVER_OK before anybody looked.
    fn run_driver(&mut self) {
        for (offset, value) in NEGOTIATION {
            self.device.write(&self.mem, offset, 4, value);
        }
        self.settle(None);
    }
}

const NEGOTIATION: [(u64, u64); 7] = [
    (STATUS, 1),
    (STATUS, 3),
    (0x24, 1),
    (0x20, 1),
    (STATUS, 11),
    (0x30, 0),
    (STATUS, 15),
];

/// One thing that a driver does.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Writes; that is posted.
    Write(u64, u64),
    /// Reads, and has to get this.
    Expect(u64, u64),
    /// Reads until it gets this.
    Poll(u64, u64),
}

use Op::{Expect, Poll, Write};

struct Guest {
    xen: Rc<Machine>,
    window: u64,
    /// Reads what it waits for.
    waiting: bool,
    /// Reads that cost nothing.
    free: u32,
}

impl Guest {
    fn new(side: &Side, xen: &Rc<Machine>) -> Self {
        Self {
            xen: Rc::clone(xen),
            window: side.window,
            waiting: false,
            free: 0,
        }
    }

    /// What it reads, if it need not wait for that.
    fn read(&mut self, offset: u64) -> Option<u64> {
        if self.waiting {
            if self.xen.waits(0) {
                return None;
            }
            self.waiting = false;
            return Some(self.xen.answer(0));
        }
        let at = self.window + offset;
        if let Some(value) = self.xen.read_memory(at) {
            assert!(offset >= TAIL, "{offset:#x}");
            self.free += 1;
            return Some(value.into());
        }
        self.xen.request(0, [at, 0, 4 << 32 | 1], 0x20, 1);
        self.waiting = true;
        None
    }

    fn write(&self, offset: u64, value: u64) {
        let at = self.window + offset;
        if !self.xen.write_memory(at, value as u32) {
            assert!(self.xen.post(at, value as u32));
        }
    }
}

/// Runs a program; the driver domain has its turn behind each step whose number is `phase` modulo `every`.
fn run(
    side: &mut Side,
    xen: &Rc<Machine>,
    program: &[Op],
    (every, phase): (usize, usize),
) -> Guest {
    let mut guest = Guest::new(side, xen);
    let mut left = program.iter().peekable();
    for step in 0..500 {
        match left.peek() {
            None => break,
            Some(&&Write(offset, value)) => {
                guest.write(offset, value);
                left.next();
            }
            Some(&&op @ (Expect(offset, value) | Poll(offset, value))) => {
                if let Some(found) = guest.read(offset) {
                    let is_it = found == value;
                    assert!(is_it || matches!(op, Poll(..)), "{op:?}: {found:#x}");
                    if is_it {
                        left.next();
                    }
                }
            }
        }
        if step % every == phase % every {
            side.pass();
        }
    }
    assert_eq!(left.next().map(|op| format!("{op:?}")), None, "got stuck");
    guest
}

fn machine() -> Rc<Machine> {
    Rc::new(Machine::new(GUEST, VCPUS_THERE, 0..1024))
}

/// When the driver domain has its turn.
fn turns() -> impl Iterator<Item = (usize, usize)> {
    (1..12).flat_map(|every| (0..every).map(move |phase| (every, phase)))
}

/// Linux, from a bound driver to a bound driver again: it takes for granted that each status it reads is the one that it
/// has written. Then it uses the device: its registers cost nothing.
fn rebind(program: &mut Vec<Op>) {
    for (offset, value) in NEGOTIATION {
        program.push(Write(offset, value));
        if offset == STATUS {
            program.push(Expect(STATUS, value));
        }
    }
    for _ in 0..3 {
        program.push(Expect(INTERRUPT_STATUS, INTERRUPT_VRING.into()));
        program.push(Write(ACK, INTERRUPT_VRING.into()));
    }
    program.push(Expect(STATUS, 15));
}

fn used(guest: &Guest, side: &Side, resets: u64) {
    assert!(guest.free >= 3, "{}", guest.free);
    assert_eq!(side.device.counters().resets, resets);
    assert!(side.face.is_showing());
    assert_eq!(side.refused, []);
    assert_eq!(side.device.counters().bad_accesses, 0);
}

#[test]
fn a_driver_that_goes_and_comes_back_reads_what_it_has_written() {
    for turn in turns() {
        let xen = machine();
        let mut side = Side::new(&xen);
        side.run_driver();
        assert!(side.face.is_showing());
        let mut program = vec![
            Expect(STATUS, 15),
            Write(STATUS, 0),
            // Until here the rings are the device's.
            Expect(QUEUE_READY, 0),
            Expect(STATUS, 0),
        ];
        rebind(&mut program);
        // InterruptStatus is 0 behind a reset, and shown as 1.
        program.insert(program.len() - 7, Poll(INTERRUPT_STATUS, 1));
        let guest = run(&mut side, &xen, &program, turn);
        used(&guest, &side, 1);
    }
}

#[test]
fn a_driver_that_polls_the_status_reads_0_when_the_device_is_reset_and_not_before() {
    for turn in turns() {
        let xen = machine();
        let mut side = Side::new(&xen);
        side.run_driver();
        let program = [Write(STATUS, 0)];
        let mut guest = run(&mut side, &xen, &program, (usize::MAX, 1));
        for step in 0..100 {
            if let Some(status) = guest.read(STATUS) {
                assert_eq!(status == 0, side.device.counters().resets == 1, "{status}");
                if status == 0 {
                    break;
                }
            }
            if step % turn.0 == turn.1 {
                side.pass();
            }
        }
        assert_eq!(side.device.counters().resets, 1);
        assert!(!side.face.is_showing());
    }
}

/// It does not know that there was one before it.
#[test]
fn a_kernel_that_begins_reads_nothing_of_the_driver_before() {
    for turn in turns() {
        let xen = machine();
        let mut side = Side::new(&xen);
        side.run_driver();
        let mut program = vec![
            // Posted by the kernel before.
            Write(ACK, 1),
            Expect(MAGIC_VALUE, MAGIC.into()),
            Write(STATUS, 0),
            Expect(STATUS, 0),
        ];
        rebind(&mut program);
        program.insert(program.len() - 7, Poll(INTERRUPT_STATUS, 1));
        let guest = run(&mut side, &xen, &program, turn);
        used(&guest, &side, 1);
    }
}

#[test]
fn who_looks_who_the_device_is_hides_its_registers_until_the_driver_starts_over() {
    let xen = machine();
    let mut side = Side::new(&xen);
    side.run_driver();
    run(
        &mut side,
        &xen,
        &[Expect(MAGIC_VALUE, MAGIC.into())],
        (1, 0),
    );
    side.settle(None);
    assert!(!side.face.is_showing() && xen.state().given.is_empty());
    side.run_driver();
    assert!(!side.face.is_showing(), "it has not started over");
    side.device.write(&side.mem, STATUS, 4, 0);
    side.settle(None);
    side.run_driver();
    assert!(side.face.is_showing());
}

/// The interrupt handler of Linux, and what it does when the configuration has changed.
struct Handler {
    guest: Guest,
    taken: u64,
    state: State,
    status: u64,
    generation: u64,
    first: u64,
    /// What it has read last.
    seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Status,
    Acknowledge,
    Generation,
    First,
    Second,
    Again,
}

impl Handler {
    fn step(&mut self) {
        self.state = match self.state {
            State::Idle => {
                let raised = self.guest.xen.interrupts(line(0));
                if core::mem::replace(&mut self.taken, raised) == raised {
                    return;
                }
                State::Status
            }
            State::Status => {
                let Some(status) = self.guest.read(INTERRUPT_STATUS) else {
                    return;
                };
                self.status = status;
                State::Acknowledge
            }
            State::Acknowledge => {
                self.guest.write(ACK, self.status);
                if self.status & u64::from(INTERRUPT_CONFIG) == 0 {
                    State::Idle
                } else {
                    State::Generation
                }
            }
            State::Generation => {
                let Some(generation) = self.guest.read(GENERATION) else {
                    return;
                };
                self.generation = generation;
                State::First
            }
            State::First => {
                let Some(first) = self.guest.read(FIRST) else {
                    return;
                };
                self.first = first;
                State::Second
            }
            State::Second => {
                let Some(second) = self.guest.read(SECOND) else {
                    return;
                };
                self.seen = second;
                State::Again
            }
            State::Again => {
                let Some(generation) = self.guest.read(GENERATION) else {
                    return;
                };
                if generation == self.generation {
                    assert_eq!(self.seen, self.first, "torn");
                    State::Idle
                } else {
                    State::Generation
                }
            }
        };
    }
}

/// Wherever changes come, the driver has read the last one in the end, and no configuration that never was.
#[test]
fn every_change_of_the_configuration_is_heard_of_and_none_is_torn() {
    let mut free = 0;
    for every in 1..6 {
        for first in 0..40 {
            for between in [1, 2, 3, 5, 8, 13] {
                let xen = machine();
                let mut side = Side::new(&xen);
                side.run_driver();
                let mut handler = Handler {
                    guest: Guest::new(&side, &xen),
                    taken: 0,
                    state: State::Idle,
                    status: 0,
                    generation: 0,
                    first: 0,
                    seen: 0,
                };
                for step in 0..300 {
                    let at = (step - first) % between;
                    let change = step >= first && at == 0 && side.device.device().0 < 4;
                    if change {
                        side.device.reconfigure(|device| device.0 += 1);
                        side.settle(None);
                    }
                    handler.step();
                    if step % every == 0 {
                        side.pass();
                    }
                }
                assert_eq!(handler.seen, 4, "{every} {first} {between}");
                assert_eq!(handler.state, State::Idle);
                assert!(side.face.is_showing());
                assert_eq!(side.device.read(INTERRUPT_STATUS, 4) & 2, 0);
                free += handler.guest.free;
            }
        }
    }
    assert!(free > 0, "nothing of it was read in memory");
}

#[test]
fn what_a_guest_writes_while_nobody_hears_it_is_made_up_for() {
    for (value, status, resets) in [(0, 0, 1), (1, 1, 1), (143, 143, 0), (15, 15, 0)] {
        let xen = machine();
        let mut side = Side::new(&xen);
        xen.intrude(side.window + STATUS, value);
        side.run_driver();
        assert_eq!(side.device.status().bits(), status);
        assert_eq!(side.device.counters().resets, resets);
        assert_eq!(side.face.is_showing(), value == 15, "{value}");
        assert_eq!(xen.state().given.is_empty(), value != 15);
        // And then it may start over.
        side.device.write(&side.mem, STATUS, 4, 0);
        side.settle(None);
        side.run_driver();
        assert!(side.face.is_showing());
    }
    // An acknowledgement of used buffers means nothing.
    let xen = machine();
    let mut side = Side::new(&xen);
    xen.intrude(side.window + ACK, 1);
    side.run_driver();
    assert!(side.face.is_showing());
}

/// What the guest does not need to know of.
const RELEASED: [Errno; 2] = [Errno::ESRCH, Errno::EPERM];

#[test]
fn row38_any_call_may_fail_and_the_driver_reads_what_is_so() {
    let mut calls = 0;
    for n in 0.. {
        for error in ERRORS {
            for entries in [false, true] {
                let xen = machine();
                let mut side = Side::new(&xen);
                let before = held(&side.server);
                // From the set-up to the release of the device.
                xen.fail(Fault::Once(n, error));
                if entries {
                    xen.fail(Fault::Entries(n, error));
                }
                side.run_driver();
                calls = calls.max(xen.made());
                side.device.write(&side.mem, STATUS, 4, 0);
                side.settle(None);
                side.settle(None);
                let made = xen.made();
                assert!(!side.face.is_showing());
                assert_eq!(held(&side.server), before, "call {n}: {error}");
                xen.mend();
                let mut program = Vec::new();
                rebind(&mut program);
                program.insert(program.len() - 7, Poll(INTERRUPT_STATUS, 1));
                run(&mut side, &xen, &program, (3, 1));
                side.server.release(|| ());
                let left = xen.state();
                assert!(left.given.is_empty() && left.physmap.is_empty());
                if n > made {
                    assert!(calls >= 5, "{calls}");
                    return;
                }
            }
        }
    }
}

/// What is in memory is what the device would answer.
fn assert_so(side: &mut Side, xen: &Machine) {
    for offset in (TAIL..).step_by(4).take(WORDS) {
        let mut answer = side.device.read(offset, 4) as u32;
        if offset == INTERRUPT_STATUS {
            answer |= INTERRUPT_VRING;
        }
        let found = xen.read_memory(side.window + offset);
        assert!(found.is_none_or(|found| found == answer), "{offset:#x}");
    }
}

/// More often than it is insisted on, and not for ever: what could not be undone is undone later.
#[test]
fn row38_xen_may_refuse_for_a_while_and_nothing_is_left() {
    for count in 1..=16 {
        for first in 0.. {
            let xen = machine();
            let mut side = Side::new(&xen);
            let before = held(&side.server);
            xen.fail(Fault::Row(first, count, Errno::EAGAIN));
            side.run_driver();
            side.device.reconfigure(|device| device.0 += 1);
            side.settle(None);
            side.device.write(&side.mem, ACK, 4, 2);
            side.settle(None);
            for _ in 0..2 {
                side.device.write(&side.mem, STATUS, 4, 0);
                side.settle(None);
                side.run_driver();
            }
            let made = xen.made();
            xen.mend();
            side.settle(None);
            assert_so(&mut side, &xen);
            let rest = side.server.platform.frames.borrow().len();
            assert!(rest <= 3, "{rest} frames are mapped");
            for _ in 0..2 {
                side.device.write(&side.mem, STATUS, 4, 0);
                side.settle(None);
                if held(&side.server) == before {
                    break;
                }
                // Of what was refused there is a rest until then.
                side.run_driver();
                assert!(side.face.is_showing());
            }
            assert_eq!(held(&side.server), before, "{count} from {first}");
            side.server.release(|| ());
            let left = xen.state();
            assert!(left.given.is_empty() && left.physmap.is_empty());
            if first > made {
                break;
            }
        }
    }
}

#[test]
fn row38_a_driver_that_begins_is_told_nothing_of_the_one_before_as_soon_as_xen_agrees() {
    let xen = machine();
    let mut side = Side::new(&xen);
    side.run_driver();
    xen.fail(Fault::Row(0, 3, Errno::EAGAIN));
    assert_eq!(side.read(MAGIC_VALUE), MAGIC.into());
    assert_eq!(side.refused, [("hiding registers", Errno::EAGAIN)]);
    assert_eq!(xen.read_memory(side.window + STATUS), Some(15));
    side.settle(None);
    assert_eq!(xen.read_memory(side.window + STATUS), None);
    assert!(!side.face.is_showing());
}

#[test]
fn a_guest_whose_type_another_server_has_is_served_as_others() {
    let xen = machine();
    let other = Side::new(&xen);
    let mut other = {
        let mut side = other;
        side.run_driver();
        side
    };
    // Disabled, but not gone.
    let mut side = {
        let state = xen.state();
        assert_eq!(state.claim, Some(0));
        other.face.hide(&other.server, slot(0)).unwrap();
        assert_eq!(xen.state().claim, None);
        other.server.step_aside().unwrap();
        Side::new(&xen)
    };
    side.run_driver();
    assert!(side.face.is_showing());
    assert_eq!(xen.state().claim, Some(1));
    // The first one cannot have it now, and serves without.
    other.settle(None);
    assert!(!other.face.is_showing());
    assert_eq!(other.refused, [("claiming its frames' type", Errno::EBUSY)]);
}

/// Attack case 33: the domain dies. What was shown is still read, and writes go nowhere; whoever comes next clears that away.
#[test]
fn row33_what_a_dead_domain_has_shown_stays_as_it_was_until_another_one_comes() {
    let xen = machine();
    let mut side = Side::new(&xen);
    side.run_driver();
    let shown = xen.read_memory(side.window + STATUS);
    assert_eq!(shown, Some(15));
    let released = side.server.emergency();
    assert_eq!(released.destroyed, Ok(()));
    let frame = slot(0).tail_frame();
    assert_eq!(xen.state().given[&frame], MemType::ReadOnly);
    assert!(xen.write_memory(side.window + STATUS, 0), "it went nowhere");
    assert_eq!(xen.read_memory(side.window + STATUS), shown);
    let status = xen.read_memory(side.window + INTERRUPT_STATUS);
    assert_eq!(status, Some(INTERRUPT_VRING));
    let mut next = Side::new(&xen);
    assert!(xen.state().given.is_empty());
    next.run_driver();
    assert!(next.face.is_showing());
    assert_eq!(next.refused, []);
}

/// The next one has no such device there, or none: a driver that comes later reads nothing of what was shown.
#[test]
fn row33_what_a_dead_domain_has_shown_goes_whatever_the_next_one_has_in_the_slot() {
    let plain = plan_of(way(Kind::Posted, Interrupt::Edge));
    let none = Plan {
        devices: Vec::new(),
        posted: true,
        ..plain.clone()
    };
    for plan in [plain, none] {
        let xen = machine();
        let mut side = Side::new(&xen);
        side.run_driver();
        side.server.emergency();
        assert!(!xen.state().given.is_empty());
        attach(&server_at(&xen), &plan).unwrap();
        assert!(xen.state().given.is_empty());
    }
}

/// It dies before it has taken over for good: the one that stood aside serves on, and reads wait until it shows its own.
#[test]
fn row33_who_comes_back_takes_away_what_the_other_one_has_left() {
    let xen = machine();
    let mut side = Side::new(&xen);
    side.run_driver();
    side.face.hide(&side.server, slot(0)).unwrap();
    side.server.step_aside().unwrap();
    let mut other = Side::new(&xen);
    other.run_driver();
    other.server.emergency();
    let frame = slot(0).tail_frame();
    assert_eq!(xen.state().given[&frame], MemType::ReadOnly);
    xen.fail(Fault::Once(0, Errno::EAGAIN));
    side.server.come_back().unwrap();
    assert!(xen.state().given.is_empty());
    // A change has come meanwhile: nothing is shown before it is acknowledged.
    side.device.reconfigure(|device| device.0 = 1);
    side.settle(None);
    assert_eq!(xen.read_memory(side.window + STATUS), None);
    side.device.write(&side.mem, ACK, 4, 3);
    side.settle(None);
    assert_eq!(xen.read_memory(side.window + FIRST), Some(1));
}

/// It may die between any two calls, also while registers come or go.
#[test]
fn row33_a_domain_may_die_at_any_call() {
    for n in 0..20 {
        let xen = machine();
        let mut side = Side::new(&xen);
        // From there on it is dead: nothing that it asks for happens.
        xen.fail(Fault::From(n, Errno::ENOMEM));
        side.run_driver();
        side.device.write(&side.mem, STATUS, 4, 0);
        side.settle(None);
        xen.mend();
        side.server.emergency();
        let frame = slot(0).tail_frame();
        let left = xen.state();
        assert_ne!(left.given.get(&frame), Some(&MemType::IoreqServer), "{n}");
        let mut next = Side::new(&xen);
        next.run_driver();
        assert!(next.face.is_showing(), "{n}");
        assert_eq!(next.refused, [], "{n}");
    }
}

/// It may take the frame away between any two calls, as a balloon does: that harms nobody, and is over with the next one.
#[test]
fn row32_a_frame_that_shows_registers_may_be_given_away_at_any_moment() {
    for n in 0.. {
        let xen = machine();
        let mut side = Side::new(&xen);
        let before = held(&side.server);
        xen.fail(Fault::Stolen(n));
        side.run_driver();
        side.device.reconfigure(|device| device.0 += 1);
        side.settle(None);
        side.device.write(&side.mem, ACK, 4, 2);
        side.settle(None);
        assert_so(&mut side, &xen);
        let made = xen.made();
        side.device.write(&side.mem, STATUS, 4, 0);
        side.settle(None);
        assert_eq!(held(&side.server), before, "{n}");
        side.run_driver();
        assert!(side.face.is_showing(), "{n}");
        side.server.release(|| ());
        let left = xen.state();
        assert!(left.given.is_empty() && left.physmap.is_empty());
        if n > made {
            break;
        }
    }
}

#[test]
fn row30_nothing_of_a_guest_that_is_gone_stays_mapped() {
    for error in RELEASED {
        let xen = machine();
        let mut side = Side::new(&xen);
        side.run_driver();
        assert_eq!(xen.state().physmap.len(), 3);
        if error == Errno::ESRCH {
            xen.fail(Fault::GuestGone(0));
        } else {
            xen.fail(Fault::From(0, error));
        }
        side.server.release(|| ());
        assert!(xen.state().physmap.is_empty(), "{error}");
        if error == Errno::ESRCH {
            let calls = xen.calls();
            let disclaims = calls.iter().filter(|call| *call == "dm_op 15").count();
            assert!(disclaims <= 3, "{disclaims}: {calls:?}");
        }
    }
}

#[test]
fn registers_are_counted_as_they_come_and_go() {
    let xen = machine();
    let mut side = Side::new(&xen);
    side.run_driver();
    side.device.reconfigure(|device| device.0 = 7);
    side.settle(None);
    side.device.write(&side.mem, ACK, 4, 2);
    side.settle(None);
    let counts = side.server.platform.counts.borrow();
    assert_eq!(counts[&Count::RegistersShown], 2);
    assert_eq!(counts[&Count::RegistersHidden], 1);
    assert_eq!(xen.read_memory(side.window + FIRST), Some(7));
    assert!(side.device.status().contains(Status::DRIVER_OK));
}
