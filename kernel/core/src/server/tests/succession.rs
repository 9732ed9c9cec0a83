//! One domain after the other serves a running guest: whenever that is, each request of its driver's is answered.
//!
//! The guest has one vCPU, a driver with a packed ring and event indices, and a device that it kicks and acknowledges by
//! posted writes, or by writes that wait. Driver domains are a server, a device and what the main loop does with them.

use std::cell::Cell;
use std::prelude::v1::*;
use std::rc::Rc;
use std::vec;

use vd_config::{Doorbell as Kind, Interrupt, Reads};
use vd_ioreq::Access;
use vd_virtio::fault::FaultKind;
use vd_virtio::mmio::{INTERRUPT_VRING, QUEUE_NOTIFY};
use vd_virtio::state::Writer;
use vd_virtio::test_util::{DriverPacked, FakeMemory, WRITE};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};
use xen_hypercall::fake::machine::{Fault, Machine};
use xen_hypercall::{Errno, EvtchnPort};

use super::super::shown::Face;
use super::super::signal::{Signal, Wanted};
use super::{
    GUEST, IN_MEMORY, Tested, VCPUS_THERE, Way, attach, line, plan_of, server_at, slot, way,
};

/// Entries of the ring: few, so that the driver goes round.
const SIZE: u16 = 4;
/// Requests that the driver makes.
const REQUESTS: u32 = 5;
/// Requests that it has under way at once.
const DEPTH: u32 = 2;
/// Steps in which everything has to be done.
const ENOUGH: usize = 200;

const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;

/// Gives back whatever it gets.
struct Echo;

impl Device for Echo {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::empty()
    }

    fn queues(&self) -> u16 {
        1
    }

    fn read_config(&self, _: usize, into: &mut [u8]) {
        into.fill(0);
    }

    fn keeps_order(&self, _: u16) -> bool {
        true
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        pass.serve_each(chain, |_, _| Ok(1))
    }
}

/// A driver domain.
struct Side {
    server: Tested,
    device: MmioTransport<Echo, 1>,
    signal: Signal,
    face: Face,
    reads: Reads,
    window: u64,
    chain: Chain,
}

impl Side {
    fn new(xen: &Rc<Machine>, way: Way) -> Self {
        let device = MmioTransport::new(Echo, SIZE);
        Self {
            server: server_at(xen),
            device: match way.doorbell {
                Kind::Posted => device.with_late_acks(),
                _ => device,
            },
            signal: Signal::new(way.interrupt),
            face: Face::default(),
            reads: way.reads,
            window: plan_of(way).devices[0].window,
            chain: Chain::new(),
        }
    }

    fn settle(&mut self, then: Option<EvtchnPort>) {
        if self.reads == Reads::Memory {
            let mem = FakeMemory::new(0);
            let device = &mut self.device;
            self.face
                .settle(&self.server, slot(0), device, &mem)
                .unwrap();
        }
        let wanted = Wanted::new(self.device.interrupt(), &self.device.counters());
        let told = self
            .signal
            .update(&self.server, GUEST, slot(0), wanted, then);
        told.unwrap();
    }

    /// A pass of the main loop.
    fn pass(&mut self, mem: &FakeMemory) {
        self.server.new_pass();
        self.server.take_posted();
        loop {
            if let Some(write) = self.server.next_posted() {
                let offset = write.addr - self.window;
                self.device.write(mem, offset, 4, write.value);
                self.settle(None);
                continue;
            }
            let Some((ticket, access)) = self.server.next() else {
                break;
            };
            let data = match access {
                Access::Read { addr, .. } => self.device.read(addr - self.window, 4),
                Access::Write { addr, value, .. } => {
                    self.device.write(mem, addr - self.window, 4, value);
                    0
                }
                other => unreachable!("{other:?}"),
            };
            let waiting = self.server.complete(ticket, data);
            self.settle(waiting);
        }
        let device = &mut self.device;
        self.server
            .take_kicks(0, |_, value| assert!(device.notify(value.unwrap())));
        self.device.run(mem, 64, &mut self.chain);
        self.settle(None);
    }

    /// Writes down where the device stands; the guest is paused. `aside` says whether it stops to hear of the guest.
    fn export(&mut self, mem: &FakeMemory, aside: bool) -> Vec<u8> {
        while {
            self.server.scan();
            self.pass(mem);
            self.server.is_asked()
        } {}
        assert_eq!(self.device.drain(mem, &mut self.chain), 0);
        self.settle(None);
        self.signal.withdraw(&self.server, GUEST, slot(0)).unwrap();
        if self.face.is_showing() && aside {
            assert_eq!(self.server.step_aside(), Err(Errno::EBUSY));
        }
        self.face.hide(&self.server, slot(0)).unwrap();
        let mut state = vec![0; 1000];
        let mut writer = Writer::new(&mut state);
        self.device.export(&mut writer);
        let len = writer.len();
        assert!(writer.fits());
        state.truncate(len);
        if aside {
            self.server.step_aside().unwrap();
        }
        state
    }
}

/// What the vCPU does next.
#[derive(Clone, Copy)]
enum Next {
    Task,
    Kick,
    Status,
    Collect,
    Arm,
    Check,
}

/// The guest with its driver.
struct Guest {
    xen: Rc<Machine>,
    mem: FakeMemory,
    ring: DriverPacked,
    way: Way,
    window: u64,
    next: Next,
    free: Vec<u16>,
    offered: u32,
    back: u32,
    /// Interrupts that it has taken.
    taken: Cell<u64>,
    /// InterruptStatus, if it was in memory; and how often it was.
    read: Option<u32>,
    free_reads: u32,
}

impl Guest {
    fn new(xen: &Rc<Machine>, way: Way) -> Self {
        Self {
            xen: Rc::clone(xen),
            mem: FakeMemory::new(0x4000),
            ring: DriverPacked::at(0x1000, SIZE),
            way,
            window: plan_of(way).devices[0].window,
            next: Next::Task,
            free: (0..SIZE).collect(),
            offered: 0,
            back: 0,
            taken: Cell::new(0),
            read: None,
            free_reads: 0,
        }
    }

    /// The driver negotiates, and makes its queue.
    fn set_up(&self, side: &mut Side) {
        let ring = Features::RING_PACKED | Features::EVENT_IDX;
        let bits = (Features::VERSION_1 | Features::NOTIFICATION_DATA | ring).bits();
        let mut write = |offset, value| side.device.write(&self.mem, offset, 4, value);
        for status in [0, 1, 3] {
            write(0x70, status);
        }
        for (select, half) in [(0, bits & 0xffff_ffff), (1, bits >> 32)] {
            write(0x24, select);
            write(0x20, half);
        }
        write(0x70, 11);
        write(0x30, 0);
        write(0x38, SIZE.into());
        let areas = [self.ring.ring, self.ring.driver, self.ring.device];
        for (offset, at) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
            write(offset, at);
        }
        write(0x44, 1);
        write(0x70, 15);
        self.ring.set_events(&self.mem, 2, self.ring.used_word());
    }

    fn write(&self, offset: u64, value: u64) {
        let at = self.window + offset;
        match self.way.doorbell {
            Kind::Posted => assert!(self.xen.post(at, value as u32)),
            _ => self.xen.request(0, [at, value, 4 << 32 | 1], 0, 1),
        }
    }

    /// Whether the vCPU is interrupted; of edges it takes all that there were.
    fn is_interrupted(&self) -> bool {
        match self.way.interrupt {
            Interrupt::Intx => self.xen.is_up(line(0)),
            _ => {
                let raised = self.xen.interrupts(line(0));
                self.taken.replace(raised) != raised
            }
        }
    }

    /// Whether the device wants to hear of the request that was just made available.
    fn wants_kick(&self) -> bool {
        let place = |word: u16| {
            let lap = if word >> 15 == 0 { SIZE } else { 0 };
            lap + (word & 0x7fff)
        };
        match self.ring.device_events(&self.mem) {
            (0, _) => true,
            (2, word) => {
                let ahead = place(self.ring.avail_word()) + 2 * SIZE - place(word);
                ahead % (2 * SIZE) == 1
            }
            _ => false,
        }
    }

    fn take(&mut self) -> bool {
        let Some((id, _)) = self.ring.take_used(&self.mem) else {
            return false;
        };
        self.free.push(id);
        self.back += 1;
        true
    }

    /// The vCPU does one thing, if it is not waiting for an answer.
    fn step(&mut self) {
        if self.xen.waits(0) {
            return;
        }
        let next = self.next;
        self.next = match next {
            Next::Task if self.is_interrupted() => {
                let at = self.window + INTERRUPT_STATUS;
                self.read = self.xen.read_memory(at);
                if self.read.is_none() {
                    self.xen.request(0, [at, 0, 4 << 32 | 1], 0x20, 1);
                }
                Next::Status
            }
            Next::Task if self.offered < REQUESTS && self.offered - self.back < DEPTH => {
                let id = self.free.pop().unwrap();
                self.ring.offer(&self.mem, id, &[(0x3000, 1, WRITE)]);
                self.offered += 1;
                Next::Kick
            }
            Next::Task => Next::Task,
            Next::Kick => {
                if self.wants_kick() {
                    self.write(QUEUE_NOTIFY, u64::from(self.ring.avail_word()) << 16);
                }
                Next::Task
            }
            Next::Status => {
                let status = match self.read.take() {
                    Some(status) => {
                        self.free_reads += 1;
                        status.into()
                    }
                    None => self.xen.answer(0),
                };
                if status & u64::from(INTERRUPT_VRING) == 0 {
                    // Not this device's.
                    Next::Task
                } else {
                    self.write(INTERRUPT_ACK, status);
                    Next::Collect
                }
            }
            Next::Collect | Next::Check if self.take() => Next::Collect,
            Next::Collect => Next::Arm,
            Next::Arm => {
                self.ring.set_events(&self.mem, 2, self.ring.used_word());
                Next::Check
            }
            Next::Check => Next::Task,
        };
    }
}

/// When what happens.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// How often somebody takes over, and between which of the guest's steps: so many after the start, or after the
    /// one before.
    changes: usize,
    first: usize,
    then: usize,
    /// So many of them later the one before lets go.
    lag: usize,
    /// The driver domains have their turn once in so many steps.
    every: usize,
    /// Whether who leaves stands aside.
    aside: bool,
}

/// Returns how many requests came back, how often InterruptStatus was read in memory, and the servers' numbers.
fn run(way: Way, schedule: Schedule) -> (u32, u32, Vec<u16>) {
    let xen = Rc::new(Machine::new(GUEST, VCPUS_THERE, 0..1024));
    let mut guest = Guest::new(&xen, way);
    let mut serving = Side::new(&xen, way);
    guest.set_up(&mut serving);
    attach(&serving.server, &plan_of(way)).unwrap();
    let number = |side: &Side| side.server.held().unwrap().1.0;
    let mut numbers = vec![number(&serving)];
    let mut leaving: Option<(Side, usize)> = None;
    let mut due = schedule.first;
    for step in 0..ENOUGH {
        if let Some((old, _)) = leaving.take_if(|(_, until)| *until == step) {
            old.server.release(|| ());
        }
        let is_changing = numbers.len() <= schedule.changes;
        if guest.back == REQUESTS && leaving.is_none() && !is_changing {
            break;
        }
        if step == due && is_changing {
            let state = serving.export(&guest.mem, schedule.aside);
            let mut new = Side::new(&xen, way);
            new.device.import(&guest.mem, &state, false).unwrap();
            attach(&new.server, &plan_of(way)).unwrap();
            numbers.push(number(&new));
            let old = std::mem::replace(&mut serving, new);
            leaving = Some((old, step + schedule.lag));
            due = step + schedule.then.max(schedule.lag + 1);
        }
        guest.step();
        if step % schedule.every == 0 {
            for port in xen.take_events() {
                serving.server.interrupt(port);
                if let Some((old, _)) = &leaving {
                    old.server.interrupt(port);
                }
            }
            serving.pass(&guest.mem);
        }
    }
    assert_eq!(serving.device.counters().faults, 0);
    (guest.back, guest.free_reads, numbers)
}

const WAYS: [Way; 4] = [
    IN_MEMORY,
    way(Kind::Posted, Interrupt::Edge),
    way(Kind::Mmio, Interrupt::Edge),
    way(Kind::Mmio, Interrupt::Intx),
];

/// All schedules with so many changes.
fn schedules(changes: usize, aside: bool) -> impl Iterator<Item = Schedule> {
    let firsts = (0..40).flat_map(|first| [1, 4, 9].map(|then| (first, then)));
    let lags = move |(first, then)| {
        [(1, 1), (6, 3)].map(move |(lag, every)| Schedule {
            changes,
            first,
            then,
            lag,
            every,
            aside,
        })
    };
    firsts.flat_map(lags)
}

#[test]
fn row33_whenever_another_domain_takes_over_each_request_comes_back() {
    for way in WAYS {
        let (back, free, _) = run(way, schedules(0, true).next().unwrap());
        assert_eq!(back, REQUESTS);
        // All of them, or none.
        assert_eq!(free > 0, way.reads == Reads::Memory, "{free}");
        for schedule in (1..4).flat_map(|changes| schedules(changes, true)) {
            let (back, _, numbers) = run(way, schedule);
            assert_eq!(back, REQUESTS, "{way:?}, {schedule:?}: {numbers:?}");
        }
    }
}

/// Why who leaves has to stand aside: the second one to take over has a lower number than the one before, which goes on
/// to get what the guest asks for. The first one is lucky.
#[test]
fn who_does_not_stand_aside_takes_from_a_lower_number_what_is_for_it() {
    for way in WAYS {
        for schedule in schedules(1, false) {
            let (back, _, numbers) = run(way, schedule);
            assert_eq!((back, numbers), (REQUESTS, vec![0, 1]), "{schedule:?}");
        }
        let second = schedules(2, false).map(|schedule| run(way, schedule));
        let mut lost = second.inspect(|(_, _, numbers)| assert_eq!(*numbers, [0, 1, 0]));
        assert!(lost.any(|(back, ..)| back < REQUESTS), "{way:?}");
    }
}

#[test]
fn who_was_answered_finds_that_in_the_page_of_one_who_stands_aside() {
    let way = WAYS[0];
    let xen = Rc::new(Machine::new(GUEST, VCPUS_THERE, 0..1024));
    let mem = FakeMemory::new(0x4000);
    let mut old = Side::new(&xen, way);
    attach(&old.server, &plan_of(way)).unwrap();
    old.server.interrupts();
    // Asked before the pause; its answer's event comes late.
    old.server.read(1, old.window);
    xen.fail(Fault::EveryThird(usize::MAX, Errno::EAGAIN));
    old.server.interrupts();
    let (ticket, _) = old.server.next().unwrap();
    let port = old.server.complete(ticket, 0x7472_6976).unwrap();
    old.export(&mem, true);
    let new = Side::new(&xen, way);
    attach(&new.server, &plan_of(way)).unwrap();
    assert!(!old.server.is_taken());
    old.server.wake_vcpu(port);
    assert!(old.server.is_taken());
    assert_eq!(xen.answer(1), 0x7472_6976);
    old.server.release(|| ());
    assert_eq!(xen.state().servers.len(), 1);
}

/// Nothing has come of it: the one that stood aside serves on. Each call may fail first.
#[test]
fn row34_who_stood_aside_comes_back() {
    for way in WAYS {
        let xen = Rc::new(Machine::new(GUEST, VCPUS_THERE, 0..1024));
        let mut guest = Guest::new(&xen, way);
        let mut side = Side::new(&xen, way);
        assert_eq!(side.server.step_aside(), Err(Errno::ENOENT));
        guest.set_up(&mut side);
        attach(&side.server, &plan_of(way)).unwrap();
        for step in 0..ENOUGH {
            if step % 5 == 0 {
                side.export(&guest.mem, false);
                xen.fail(Fault::All(Errno::EAGAIN));
                assert_eq!(side.server.step_aside(), Err(Errno::EAGAIN));
                assert!(xen.state().servers[&0].enabled);
                xen.fail(Fault::Once(0, Errno::EAGAIN));
                side.server.step_aside().unwrap();
                assert!(!xen.state().servers[&0].enabled);
                xen.fail(Fault::Once(0, Errno::EAGAIN));
                side.server.come_back().unwrap();
                xen.mend();
                side.device.wake(0);
            }
            guest.step();
            side.server.interrupts();
            side.pass(&guest.mem);
        }
        assert_eq!(guest.back, REQUESTS, "{way:?}");
    }
}
