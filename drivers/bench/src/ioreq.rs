//! Doorbells and slots.

use std::hint::black_box;

use vd_ioreq::test_util::{FakePage, Request};
use vd_ioreq::{
    Access, DomId, Doorbell, DoorbellWidth, Engine, Match, Outcome, Recipient, Registry, SlotIndex,
    Space, Width,
};

use crate::{TIMES, done, measured};

const BASE: u64 = 0xfea0_0000;
/// From one device's registers to the next one's.
const STRIDE: u64 = 0x1000;
const QUEUE_NOTIFY: u64 = 0x50;

fn address(device: u16) -> u64 {
    BASE + u64::from(device) * STRIDE + QUEUE_NOTIFY
}

fn assign<const CELLS: usize>(registry: &mut Registry<CELLS>, count: u16) {
    for device in 0..count {
        registry
            .assign(&Doorbell {
                domain: DomId(1),
                vcpus: 1,
                space: Space::Memory,
                addr: address(device),
                width: DoorbellWidth::Exactly(Width::Dword),
                matching: Match::Any,
                recipient: Recipient { device, queue: 0 },
            })
            .unwrap();
    }
}

/// Each doorbell equally often, so that the count is the mean over all of them.
fn lookups<const CELLS: usize>(count: u16) {
    let mut registry = Box::new(Registry::<CELLS>::new(None));
    assign(&mut registry, count);
    let times = TIMES.max(count.into());
    for (name, offset, hit) in [("match", 0, true), ("no match", 4, false)] {
        let mut probes = 0;
        let mut most = 0;
        for n in 0..times {
            let addr = black_box(address((n % u32::from(count)) as u16) + offset);
            let found = measured(|| registry.lookup(Space::Memory, addr, Width::Dword, 0));
            assert_eq!(found.kick.is_some(), hit);
            probes += found.probes;
            most = most.max(found.probes);
        }
        let mean = f64::from(probes) / f64::from(times);
        done(
            &format!(
                "doorbell: {name}, {count} in {CELLS} cells ({mean:.2} cells looked at, {most} at most)"
            ),
            times,
        );
    }
}

type TestEngine<const CELLS: usize> = Engine<128, CELLS>;

fn engine<const CELLS: usize>(count: u16) -> Box<TestEngine<CELLS>> {
    let mut engine = Box::new(TestEngine::<CELLS>::new(None));
    assign(&mut engine.doorbells, count);
    engine
        .registers
        .add(Space::Memory, BASE, u64::from(count) * STRIDE)
        .unwrap();
    engine
}

/// From the event to the answer: what the handler does for a doorbell, but for the hypercall.
fn rings<const CELLS: usize>(count: u16) {
    let mut engine = engine::<CELLS>(count);
    let page = FakePage::new(128);
    let slot = SlotIndex(5);
    let times = TIMES.max(count.into());
    for n in 0..times {
        let addr = address((n % u32::from(count)) as u16);
        assert!(page.post(slot, &Request::write(addr, 4, 0)));
        let outcome = measured(|| engine.on_event(&page, slot));
        assert!(matches!(outcome, Outcome::Answered { kick: Some(_) }));
        page.take_response(slot).unwrap();
    }
    done(&format!("slot: doorbell, {count} in {CELLS} cells"), times);
}

/// A register read by way of the main loop, without the register: its three parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Defer,
    Take,
    Complete,
}

fn reads(part: Part, name: &str) {
    /// Counts a part, or does it only.
    fn count<R>(counted: bool, part: impl FnOnce() -> R) -> R {
        if counted { measured(part) } else { part() }
    }
    let mut engine = engine::<256>(1);
    let page = FakePage::new(128);
    let slot = SlotIndex(5);
    for _ in 0..TIMES {
        assert!(page.post(slot, &Request::read(BASE + 0x60, 4)));
        let outcome = count(part == Part::Defer, || engine.on_event(&page, slot));
        assert_eq!(outcome, Outcome::Deferred);
        let (ticket, access) = count(part == Part::Take, || engine.next_pending()).unwrap();
        assert!(matches!(access, Access::Read { .. }));
        let data = black_box(1);
        count(part == Part::Complete, || {
            engine.complete(&page, ticket, data).unwrap();
        });
        assert_eq!(page.take_response(slot), Some(1));
    }
    done(&format!("slot: register read, {name}"), TIMES);
}

/// An event without a request.
fn nothing() {
    let mut engine = engine::<256>(1);
    let page = FakePage::new(128);
    for _ in 0..TIMES {
        let outcome = measured(|| engine.on_event(&page, SlotIndex(5)));
        assert_eq!(outcome, Outcome::Nothing);
    }
    done("slot: event without a request", TIMES);
}

/// All of them: with as many doorbells as the kernel has at most, in tables as full as they may be, and in one table.
pub(crate) fn all() {
    lookups::<256>(16);
    lookups::<4>(1);
    lookups::<128>(64);
    lookups::<8192>(4096);
    lookups::<8192>(1);
    lookups::<8192>(64);
    rings::<256>(16);
    rings::<8192>(1);
    rings::<8192>(64);
    rings::<8192>(4096);
    reads(Part::Defer, "left for the main loop");
    reads(Part::Take, "taken by the main loop");
    reads(Part::Complete, "completed");
    nothing();
}
