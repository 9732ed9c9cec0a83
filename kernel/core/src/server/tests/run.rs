//! Serving a guest.

use core::sync::atomic::Ordering;
use std::format;
use std::prelude::v1::*;

use vd_config::{Doorbell as Kind, Interrupt, SlotIndex as DeviceSlot};
use vd_virtio::counters::Counters;
use xen_hypercall::fake::machine::{Fault, State};
use xen_hypercall::{Errno, EvtchnPort};

use super::super::Count;
use super::super::attach::Connection;
use super::super::signal::{Signal, Wanted};
use super::super::slots::DOORBELLS_PER_PASS;
use super::{
    ERRORS, GUEST, Tested, VCPUS_THERE, Way, answer, attach, held, line, plan, server, slot, way,
};
use crate::bus::{Answer, Target};

/// What the guest was told, and what the devices were.
#[derive(Debug, Default, PartialEq, Eq)]
struct Served {
    answers: u64,
    kicks: u64,
    written: Vec<u64>,
    interrupts: u64,
}

/// A device and its main loop, as small as can be: a register that interrupts when 1 is written to it, and no longer
/// when it is 0.
struct Device {
    slot: DeviceSlot,
    signal: Signal,
    line: bool,
    counters: Counters,
    told: u64,
}

impl Device {
    fn new(signal: Signal) -> Self {
        Self {
            slot: slot(0),
            signal,
            line: false,
            counters: Counters::default(),
            told: 0,
        }
    }

    fn write(&mut self, value: u64) {
        self.line = value != 0;
        self.counters.interrupts += u64::from(self.line);
    }

    fn settle(&mut self, server: &Tested, then: Option<EvtchnPort>) {
        let wanted = Wanted::new(self.line, &self.counters);
        let told = self.signal.update(server, GUEST, self.slot, wanted, then);
        self.told += u64::from(told.is_err());
    }

    /// A pass of the main loop.
    fn pass(&mut self, server: &Tested, served: &mut Served) {
        server.new_pass();
        server.take_posted();
        while let Some(write) = server.next_posted() {
            served.written.push(write.value);
            self.write(write.value);
            self.settle(server, None);
        }
        while let Some((ticket, access)) = server.next() {
            if let vd_ioreq::Access::Write { value, .. } = access {
                served.written.push(value);
                self.write(value);
            }
            let waiting = server.complete(ticket, 4711);
            assert!(waiting.is_some());
            served.answers += 1;
            self.settle(server, waiting);
        }
        server.take_kicks(0, |_, _| served.kicks += 1);
    }
}

const WAYS: [Way; 6] = [
    way(Kind::Mmio, Interrupt::Intx),
    way(Kind::Port, Interrupt::Edge),
    way(Kind::Posted, Interrupt::Edge),
    way(Kind::Posted, Interrupt::Intx),
    way(Kind::EventChannel, Interrupt::EventChannel),
    way(Kind::EventChannel, Interrupt::Msi),
];

/// A guest with a device, connected.
fn connected(way: Way) -> (Tested, Device, Vec<EvtchnPort>, Answer) {
    let server = server();
    attach(&server, &plan(&[way.doorbell])).unwrap();
    let answer = answer(&server, way);
    let mut signal = Signal::new(way.interrupt);
    let mut doorbells = Vec::new();
    if let Interrupt::EventChannel | Interrupt::Msi = way.interrupt {
        let bound = server.bind(GUEST, slot(0), &answer).unwrap();
        signal.connect(bound.interrupt);
        doorbells = bound.doorbells;
    }
    server.interrupts();
    // New ports start with an event.
    server.take_kicks(0, |_, _| ());
    (server, Device::new(signal), doorbells, answer)
}

/// The guest's life for a while: doorbells, register reads and writes on all vCPUs, interrupts; then a tick.
fn run(way: Way, fault: Option<Fault>) -> (Served, Tested, Device) {
    let (server, mut device, doorbells, answer) = connected(way);
    let window = plan(&[way.doorbell]).devices[0].window;
    let mut served = Served::default();
    server.xen().mend();
    if let Some(fault) = fault {
        server.xen().fail(fault);
    }
    for round in 0..2 {
        // Each vCPU does what it does next only when it is let.
        let can = |vcpu: u16| !server.xen().waits(vcpu);
        for value in [1, 0] {
            match way.doorbell {
                Kind::Posted => assert!(server.xen().post(window + 0x70, value)),
                _ if can(0) => server.write(0, slot(0).base() + 0x70, value.into()),
                _ => {
                    server.tick();
                    assert!(can(0), "round {round}");
                    server.write(0, slot(0).base() + 0x70, value.into());
                }
            }
            server.interrupts();
            device.pass(&server, &mut served);
            if value == 1 && way.interrupt == Interrupt::Intx {
                // A level is acknowledged when the guest has seen it; until then the line has to rise.
                device.settle(&server, None);
            }
        }
        match way.doorbell {
            Kind::EventChannel => server.xen().signal(answer.doorbells[0]),
            Kind::Posted => assert!(server.xen().post(window + 0x50, 1)),
            _ => {
                let (addr, flags) = match way.doorbell {
                    Kind::Port => (slot(0).doorbell_port().into(), 0),
                    _ => (window + 0x50, 1),
                };
                if !can(1) {
                    server.tick();
                }
                assert!(can(1), "round {round}");
                let words = [addr, 1, 4 << 32 | 1];
                server.xen().request(1, words, 0, flags);
            }
        }
        if !can(2) {
            server.tick();
        }
        server.read(2, slot(0).base());
        server.interrupts();
        device.pass(&server, &mut served);
    }
    // Half a second later.
    server.let_through(0, &doorbells);
    server.tick();
    device.settle(&server, None);
    server.interrupts();
    device.pass(&server, &mut served);
    served.interrupts = match way.interrupt {
        Interrupt::Msi => server.xen().messages(),
        Interrupt::EventChannel => match answer.interrupt {
            Target::Port(port) => server.xen().events(port),
            Target::Message { .. } => 0,
        },
        _ => server.xen().interrupts(line(0)),
    };
    (served, server, device)
}

#[test]
fn row38_any_call_may_fail_while_the_guest_is_served_and_every_request_is_answered() {
    for way in WAYS {
        let (whole, server, device) = run(way, None);
        let calls = server.xen().made();
        assert_eq!((device.told, server.refused()), (0, 0), "{way:?}");
        assert_eq!(whole.interrupts, 2, "{way:?}");
        assert!(
            whole.kicks == 2 && whole.written == [1, 0, 1, 0],
            "{whole:?}"
        );
        assert!(calls >= 4, "{calls}");
        for n in 0..calls {
            for error in ERRORS {
                let (served, server, device) = run(way, Some(Fault::Once(n, error)));
                let what = format!("{way:?}: call {n} of {calls}: {error}");
                assert_eq!(served, whole, "{what}");
                assert_eq!(server.waiting_vcpus(), [], "{what}");
                assert!(server.xen().state().lines.is_empty(), "{what}");
                // It is told, or counted, unless the calls of a batch were made one by one.
                let calls = server.xen().calls();
                let batch = calls
                    .get(n)
                    .is_some_and(|call| call.starts_with("multicall"));
                assert_eq!(device.told + server.refused(), u64::from(!batch), "{what}");
            }
        }
    }
}

#[test]
fn row38_a_pulse_that_does_not_end_is_ended_with_the_next_one_or_with_the_server() {
    for release in [false, true] {
        let (server, mut device, ..) = connected(way(Kind::Mmio, Interrupt::Edge));
        device.slot = slot(3);
        device.write(1);
        // The multicall, the line up, the line down.
        server.xen().fail(Fault::Once(2, Errno::EAGAIN));
        device.settle(&server, None);
        assert_eq!((server.xen().made(), device.told), (3, 1));
        assert_eq!(server.xen().state().lines.len(), 1);
        if release {
            server.release(|| ());
        } else {
            device.settle(&server, None);
            assert_eq!(
                held(&server),
                held(&connected(way(Kind::Mmio, Interrupt::Edge)).0)
            );
        }
        assert!(server.xen().state().lines.is_empty(), "{release}");
        assert_eq!(server.xen().interrupts(line(3)), 1);
    }
}

#[test]
fn row38_a_line_that_could_not_be_lowered_is_lowered_with_the_server_and_one_that_is_down_is_not() {
    for up in [true, false] {
        let (server, mut device, ..) = connected(way(Kind::Mmio, Interrupt::Intx));
        device.slot = slot(5);
        device.write(1);
        if up {
            device.settle(&server, None);
            device.write(0);
        }
        server.xen().fail(Fault::Once(0, Errno::EBUSY));
        device.settle(&server, None);
        assert_eq!(device.told, 1);
        assert_eq!(server.xen().state().lines.len(), usize::from(up));
        server.xen().mend();
        server.release(|| ());
        assert!(server.xen().state().lines.is_empty());
        let calls = server.xen().calls();
        let lowered = calls.iter().filter(|call| *call == "dm_op 8").count();
        assert_eq!(lowered, usize::from(up));
    }
}

/// Nobody settles a device that is gone, and the next one in its slot takes the line for down.
#[test]
fn row38_no_line_stays_up_when_its_device_goes() {
    for interrupt in [Interrupt::Intx, Interrupt::Edge] {
        for up in [true, false] {
            let (server, mut device, ..) = connected(way(Kind::Mmio, interrupt));
            device.slot = slot(5);
            if up {
                device.write(1);
                if interrupt == Interrupt::Edge {
                    // The multicall, the line up, the line down.
                    server.xen().fail(Fault::Once(2, Errno::EBUSY));
                }
                device.settle(&server, None);
            }
            assert_eq!(server.xen().state().lines.len(), usize::from(up));
            server.xen().mend();
            server.xen().fail(Fault::Once(0, Errno::EBUSY));
            device.signal.end(&server, GUEST, slot(5)).unwrap();
            assert!(server.xen().state().lines.is_empty(), "{interrupt:?}");
            let calls = if up { 2 } else { 0 };
            assert_eq!(server.xen().made(), calls, "{interrupt:?} {up}");
        }
    }
    let (server, mut device, ..) = connected(way(Kind::Mmio, Interrupt::Intx));
    device.slot = slot(5);
    device.write(1);
    device.settle(&server, None);
    server.xen().fail(Fault::All(Errno::EBUSY));
    let refused = device.signal.end(&server, GUEST, slot(5));
    assert_eq!(refused, Err(("lowering its interrupt line", Errno::EBUSY)));
    server.xen().mend();
    server.release(|| ());
    assert!(server.xen().state().lines.is_empty(), "as it is let go");
}

/// Each slot's line goes up and down by itself, whatever the others' do.
#[test]
fn every_slot_has_a_line_of_its_own() {
    let (server, ..) = connected(way(Kind::Mmio, Interrupt::Intx));
    let mut signals = [Signal::new(Interrupt::Intx); 32];
    let mut set = |n: u8, up: bool| {
        let wanted = Wanted::new(up, &Counters::default());
        let signal = &mut signals[usize::from(n)];
        signal
            .update(&server, GUEST, slot(n), wanted, None)
            .unwrap();
    };
    for n in 0..32 {
        set(n, true);
        assert_eq!(server.xen().state().lines.len(), usize::from(n) + 1);
        assert!(server.xen().is_up(line(n)));
        assert_eq!(server.xen().interrupts(line(n)), 1);
    }
    for n in (0..32).step_by(2) {
        set(n, false);
    }
    for n in 0..32 {
        assert_eq!(server.xen().is_up(line(n)), n % 2 == 1, "{n}");
        assert_eq!(server.is_line_up(slot(n)), n % 2 == 1, "{n}");
    }
    server.release(|| ());
    assert!(server.xen().state().lines.is_empty(), "as it is let go");
}

#[test]
fn an_event_rings_the_queue_of_the_device_that_it_is_for() {
    let (server, ..) = connected(way(Kind::EventChannel, Interrupt::Msi));
    let answer = answer(&server, way(Kind::EventChannel, Interrupt::Msi));
    server.bind(GUEST, slot(15), &answer).unwrap();
    server.interrupts();
    let kicked = |device| {
        let mut queues = Vec::new();
        server.take_kicks(device, |queue, value| queues.push((queue, value)));
        queues
    };
    assert_eq!(
        kicked(15),
        [(0, None), (1, None)],
        "new ports have an event"
    );
    server.xen().signal(answer.doorbells[1]);
    server.interrupts();
    assert_eq!(kicked(15), [(1, None)]);
    assert!((0..15).all(|device| kicked(device).is_empty()));
}

#[test]
fn row36_a_channel_that_is_closed_is_the_end_of_the_guest_and_a_refusal_is_not() {
    let server = server();
    assert_eq!(server.connection(), Connection::Gone);
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    assert_eq!(server.connection(), Connection::Alive);
    for error in ERRORS {
        server.xen().fail(Fault::Once(0, error));
        assert_eq!(server.connection(), Connection::Unknown(error));
        assert_eq!(server.connection(), Connection::Alive);
    }
    let first = server.port_of(0).unwrap();
    server.xen().close_remote(first.0);
    assert_eq!(server.connection(), Connection::Gone);
}

#[test]
fn row36_a_port_that_is_closed_under_us_harms_only_its_vcpu() {
    let server = server();
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    server.interrupts();
    let port = server.port_of(1).unwrap();
    xen_hypercall::event_channel::close(server.xen(), port).unwrap();
    let mut device = Device::new(Signal::new(Interrupt::Intx));
    let mut served = Served::default();
    for vcpu in 0..VCPUS_THERE as u16 {
        server.read(vcpu, slot(0).base());
    }
    server.interrupts();
    server.tick();
    device.pass(&server, &mut served);
    assert_eq!(
        served.answers, 3,
        "the slow look finds what no event told of"
    );
    assert_eq!(server.waiting_vcpus(), [1]);
    assert_eq!(server.refused(), 1);
    server.tick();
    assert_eq!(server.refused(), 2, "once a tick, and no more often");
    let released = server.release(|| ());
    assert_eq!(released.freed, Err(Errno::EINVAL));
    let State { ports, physmap, .. } = server.xen().state();
    assert!(ports.is_empty() && physmap.is_empty());
}

#[test]
fn row35_a_request_whose_event_was_lost_is_found_by_the_tick() {
    for kind in [Kind::Mmio, Kind::Posted] {
        let (server, mut device, ..) = connected(way(kind, Interrupt::Intx));
        let mut served = Served::default();
        server.read(0, slot(0).base());
        if kind == Kind::Posted {
            assert!(server.xen().post(slot(0).posted_base() + 0x70, 1));
        }
        assert!(!server.xen().take_events().is_empty());
        assert_eq!(server.waiting_vcpus(), [0]);
        server.tick();
        device.pass(&server, &mut served);
        assert_eq!(server.waiting_vcpus(), [], "{kind:?}");
        assert_eq!(served.written.len(), usize::from(kind == Kind::Posted));
    }
}

#[test]
fn row26_row38_doorbells_that_were_held_back_come_through_though_xen_refuses_at_first() {
    let (server, _, doorbells, answer) = connected(way(Kind::EventChannel, Interrupt::Msi));
    for _ in 0..=DOORBELLS_PER_PASS {
        server.xen().signal(answer.doorbells[1]);
        server.interrupts();
    }
    let masked = |server: &Tested| server.xen().state().ports[&doorbells[1].0].masked;
    assert!(masked(&server), "too many");
    for error in ERRORS {
        server.xen().fail(Fault::Once(0, error));
        server.new_pass();
        server.let_through(0, &doorbells);
        assert!(masked(&server), "{error}");
    }
    assert_eq!(server.refused(), ERRORS.len() as u64);
    server.new_pass();
    server.let_through(0, &doorbells);
    assert!(!masked(&server));
    server.let_through(0, &doorbells);
    assert_eq!(server.xen().made(), 2, "once is enough");
}

#[test]
fn row26_row38_posted_writes_that_were_held_back_come_through_though_xen_refuses_at_first() {
    let (server, ..) = connected(way(Kind::Posted, Interrupt::Intx));
    let port = server.ring_port.load(Ordering::Relaxed);
    for _ in 0..=DOORBELLS_PER_PASS {
        assert!(server.xen().post(slot(0).posted_base() + 0x50, 0));
        server.interrupts();
    }
    let masked = |server: &Tested| server.xen().state().ports[&port].masked;
    assert!(masked(&server), "too many");
    for error in ERRORS {
        server.xen().fail(Fault::Once(0, error));
        server.new_pass();
        assert!(masked(&server), "{error}");
    }
    server.xen().mend();
    server.new_pass();
    assert!(!masked(&server));
    server.new_pass();
    assert_eq!(server.xen().made(), 1, "once is enough");
}

#[test]
fn posted_writes_that_do_not_fit_wait_and_so_does_what_comes_behind_them() {
    let (server, mut device, ..) = connected(way(Kind::Posted, Interrupt::Edge));
    let window = slot(0).posted_base();
    let (mut served, ring) = (Served::default(), 511);
    let post = |value: u32| server.xen().post(window + 0x70, value);
    assert!((0..ring).all(post) && !post(ring), "the ring is full");
    server.platform.woken.set(false);
    server.interrupts();
    assert!(server.platform.woken.take());
    let posted = |server: &Tested| server.platform.counts.borrow()[&Count::PostedWrites];
    assert_eq!(posted(&server), 511);
    // One place is left, and ten come; then a read of the same vCPU's.
    assert!((ring..ring + 10).all(post));
    server.read(0, window);
    server.interrupts();
    assert_eq!(posted(&server), 512);
    assert!(server.platform.woken.take());
    for (writes, answers) in [(512, 0), (521, 1)] {
        device.pass(&server, &mut served);
        assert!(server.is_drained());
        assert_eq!((served.written.len(), served.answers), (writes, answers));
    }
    assert!(served.written.iter().copied().eq(0..521), "in their order");
    assert_eq!((server.waiting_vcpus(), posted(&server)), (Vec::new(), 521));
    // With nothing there, nothing is to be done.
    server.platform.woken.set(false);
    server.take_posted();
    assert!(!server.platform.woken.get());
}

#[test]
fn row30_a_guest_that_is_gone_while_it_is_served_keeps_nothing() {
    for way in WAYS {
        let before = held(&server());
        let (server, mut device, doorbells, _) = connected(way);
        let mut served = Served::default();
        for vcpu in 0..VCPUS_THERE as u16 {
            server.write(vcpu, slot(0).base() + 0x70, 1);
        }
        server.interrupts();
        server.xen().bury();
        server.xen().fail(Fault::From(0, Errno::ESRCH));
        device.pass(&server, &mut served);
        server.tick();
        assert_eq!(server.connection(), Connection::Gone);
        let released = server.release(|| {
            let interrupts = device.signal.disconnect();
            for port in doorbells.into_iter().chain(interrupts) {
                server.close(port).unwrap();
            }
        });
        assert_eq!(released.destroyed, Err(Errno::ESRCH));
        assert_eq!(released.freed, Ok(()));
        assert_eq!(held(&server), before, "{way:?}");
    }
}
