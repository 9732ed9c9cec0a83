//! Every interleaving of Xen and the emulator, at the grain of single accesses to the page.
//!
//! The page below lets Xen's side of each vCPU take its next step before any access that the engine makes. A choice
//! sequence says when; all sequences up to a length are tried. What Xen would crash a guest for (a state that goes
//! backwards or is unknown), a request answered twice, one never answered, or an answer without an event fails.
//!
//! This covers orders of accesses, not weaker memory orders: those are the page implementation's acquire and release.

use std::cell::{Cell, RefCell};

use vd_ioreq::slot::{Control, State};
use vd_ioreq::test_util::{FakePage, Request};
use vd_ioreq::{
    Access, DomId, Doorbell, DoorbellWidth, Engine, EvtchnPort, Match, Outcome, Recipient,
    SlotIndex, SlotPage, Space, Width, answer_all,
};

const BASE: u64 = 0xfea0_0000;
const VCPUS: u16 = 2;

/// One vCPU as Xen runs it: posts, waits until the state is IORESP_READY, takes the answer, posts the next.
#[derive(Default)]
struct Vcpu {
    posted: usize,
    answers: Vec<u64>,
    last_seen: Option<State>,
    waiting: bool,
}

struct World {
    page: FakePage,
    vcpus: RefCell<Vec<Vcpu>>,
    script: Vec<Vec<Request>>,
    choices: RefCell<u64>,
    taken: Cell<u32>,
    /// Events that Xen has sent and the handler has not seen.
    events: RefCell<Vec<u16>>,
}

impl World {
    fn new(choices: u64) -> Self {
        let script = vec![
            vec![
                Request::write(BASE + 0x50, 4, 1),
                Request::read(BASE + 4, 4),
                Request::invalidate(),
            ],
            vec![
                Request::read(BASE, 4),
                Request::read(0x10, 8),
                Request::write(BASE + 0x50, 4, 2),
            ],
        ];
        World {
            page: FakePage::new(usize::from(VCPUS)),
            vcpus: RefCell::new((0..VCPUS).map(|_| Vcpu::default()).collect()),
            script,
            choices: RefCell::new(choices),
            taken: Cell::new(0),
            events: RefCell::new(Vec::new()),
        }
    }

    /// Before each access: nothing, or one step of one vCPU.
    fn maybe_run_xen(&self) {
        let choice = {
            let mut choices = self.choices.borrow_mut();
            let choice = *choices % 3;
            *choices /= 3;
            choice
        };
        self.taken.set(self.taken.get() + 1);
        match choice {
            0 => {}
            n => self.step((n - 1) as u16),
        }
    }

    fn step(&self, n: u16) {
        let mut vcpus = self.vcpus.borrow_mut();
        let (vcpu, slot) = (&mut vcpus[usize::from(n)], SlotIndex(n));
        let state = self
            .page
            .state(slot)
            .expect("a state that Xen does not know crashes the guest");
        if !vcpu.waiting {
            if let Some(request) = self.script[usize::from(n)].get(vcpu.posted) {
                assert!(self.page.post(slot, request), "the slot is in use");
                vcpu.posted += 1;
                vcpu.waiting = true;
                vcpu.last_seen = Some(State::Ready);
                self.events.borrow_mut().push(n);
            }
            return;
        }
        assert!(
            Some(state) >= vcpu.last_seen,
            "{:?} -> {state:?} crashes the guest",
            vcpu.last_seen
        );
        vcpu.last_seen = Some(state);
        if let Some(data) = self.page.take_response(slot) {
            vcpu.answers.push(data);
            vcpu.waiting = false;
        }
    }

    fn finished(&self) -> bool {
        self.vcpus
            .borrow()
            .iter()
            .zip(&self.script)
            .all(|(vcpu, script)| vcpu.answers.len() == script.len())
    }
}

impl SlotPage for World {
    fn slots(&self) -> usize {
        self.page.slots()
    }
    fn control(&self, slot: SlotIndex) -> Control {
        self.maybe_run_xen();
        self.page.control(slot)
    }
    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        self.maybe_run_xen();
        self.page.load(slot)
    }
    fn store_data(&self, slot: SlotIndex, data: u64) {
        self.maybe_run_xen();
        self.page.store_data(slot, data);
    }
    fn store_control(&self, slot: SlotIndex, control: Control) {
        self.maybe_run_xen();
        let before = self.page.state(slot).expect("known");
        let after = control.state().expect("known");
        assert!(
            before < after && before >= State::Ready,
            "{before:?} -> {after:?}"
        );
        self.page.store_control(slot, control);
    }
    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
        self.page.vp_eport(slot)
    }
}

fn engine() -> Engine<4, 8> {
    let mut engine = Engine::new(None);
    engine.registers.add(Space::Memory, BASE, 0x200).unwrap();
    engine
        .doorbells
        .assign(&Doorbell {
            domain: DomId(1),
            vcpus: VCPUS.into(),
            space: Space::Memory,
            addr: BASE + 0x50,
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

/// Runs one interleaving; `use_scan` looks at all slots instead of those whose event came.
fn run(choices: u64, use_scan: bool) -> u32 {
    let world = World::new(choices);
    let mut engine = engine();
    let (mut kicks, mut notified) = (Vec::new(), 0);
    for _round in 0..64 {
        let events: Vec<u16> = std::mem::take(&mut *world.events.borrow_mut());
        let mut outcomes = Vec::new();
        if use_scan {
            engine.scan(&world, |_, outcome| outcomes.push(outcome));
        } else {
            for n in events {
                outcomes.push(engine.on_event(&world, SlotIndex(n)));
            }
        }
        for outcome in outcomes {
            if let Outcome::Answered { kick } = outcome {
                notified += 1;
                kicks.extend(kick.map(|kick| kick.value));
            }
        }
        if let Some((ticket, access)) = engine.next_pending() {
            let data = match access {
                Access::Read { addr, .. } => addr,
                Access::Invalidate => 0,
                other => panic!("{other:?}"),
            };
            engine
                .complete(&world, ticket, data)
                .expect("nobody else touches the slot");
            notified += 1;
        }
        // At the end of its luck Xen goes on by itself, so every run ends.
        (0..VCPUS).for_each(|n| world.step(n));
        if world.finished() {
            break;
        }
    }
    assert!(world.finished(), "a vCPU hangs with choices {choices}");
    let vcpus = world.vcpus.borrow();
    assert_eq!(vcpus[0].answers, [1, BASE + 4, u64::MAX]);
    assert_eq!(vcpus[1].answers, [BASE, u64::MAX, 2]);
    kicks.sort_unstable();
    assert_eq!(kicks, [1, 2], "each doorbell rings once");
    assert_eq!(notified, 6, "an event for each answer");
    let counters = engine.counters();
    assert_eq!(
        (counters.answered, counters.taken(), counters.abandoned),
        (6, 6, 0)
    );
    world.taken.get()
}

/// 3^11 choice sequences for each way to look: every order of Xen's steps over the first eleven accesses, and with
/// shifted starts over later ones.
#[test]
fn row22_row24_all_interleavings() {
    let mut most = 0;
    for choices in 0..3_u64.pow(11) {
        most = most.max(run(choices, false));
        most = most.max(run(choices, true));
    }
    println!("up to {most} accesses a run");
    assert!(most >= 11);
}

/// The panic path against a Xen that goes on meanwhile: no backward step, and what was posted before is answered.
#[test]
fn row33_answer_all_interleaved() {
    for choices in 0..3_u64.pow(8) {
        let world = World::new(choices);
        world.step(0);
        world.step(1);
        let mut engine = engine();
        engine.on_event(&world.page, SlotIndex(1));
        let answered = answer_all(&world);
        assert!((0..VCPUS).all(|n| answered.contains(SlotIndex(n))));
        for n in 0..VCPUS {
            world.step(n);
            assert!(!world.vcpus.borrow()[usize::from(n)].answers.is_empty());
        }
    }
}
