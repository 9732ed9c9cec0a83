//! Random traffic: any requests, any order of handler, scan and main loop.

use proptest::collection::vec;
use proptest::prelude::*;
use vd_ioreq::slot::State;
use vd_ioreq::test_util::{FakePage, Request};
use vd_ioreq::{
    DomId, Doorbell, DoorbellError, DoorbellWidth, Engine, Match, Outcome, Recipient, Registry,
    SlotIndex, SlotPage, Space, Ticket, Width,
};

const SLOTS: u16 = 8;

#[derive(Clone, Debug)]
enum Step {
    Post(u16, Request),
    Event(u16),
    Scan,
    Take,
    Complete(usize),
    Respond(u16),
}

fn request() -> impl Strategy<Value = Request> {
    let near = prop_oneof![
        Just(0xfea0_0050),
        0xfea0_0000_u64..0xfea0_0300,
        any::<u64>()
    ];
    let size = prop_oneof![Just(1), Just(2), Just(4), Just(8), any::<u32>()];
    let count = prop_oneof![4 => Just(1), 1 => any::<u32>()];
    let kind = prop_oneof![Just(0), Just(1), Just(8), any::<u8>()];
    let flags = prop_oneof![Just(0), Just(0x20), any::<u8>()];
    (near, any::<u64>(), count, size, flags, kind).prop_map(
        |(addr, data, count, size, flags, kind)| Request {
            addr,
            data,
            count,
            size,
            flags,
            kind,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..SLOTS, request()).prop_map(|(slot, request)| Step::Post(slot, request)),
        3 => (0..SLOTS + 2).prop_map(Step::Event),
        1 => Just(Step::Scan),
        2 => Just(Step::Take),
        2 => any::<usize>().prop_map(Step::Complete),
        2 => (0..SLOTS).prop_map(Step::Respond),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Row 22: each READY is answered once, states never go back, vp_eport and flags are never touched.
    #[test]
    fn row22_states_only_go_forward(steps in vec(step(), 1..200)) {
        let page = FakePage::new(SLOTS.into());
        let mut engine = Engine::<8, 8>::new(None);
        engine.registers.add(Space::Memory, 0xfea0_0000, 0x200).unwrap();
        let mut tickets: Vec<Ticket> = Vec::new();
        let (mut posted, mut answered, mut responded) = (0_u64, 0_u64, 0_u64);
        for step in steps {
            let before: Vec<_> = (0..SLOTS).map(|n| page.control(SlotIndex(n))).collect();
            let mut by_xen = false;
            match step {
                Step::Post(n, request) => {
                    by_xen = true;
                    posted += u64::from(page.post(SlotIndex(n), &request));
                }
                Step::Respond(n) => {
                    by_xen = true;
                    responded += u64::from(page.take_response(SlotIndex(n)).is_some());
                }
                Step::Event(n) => {
                    let outcome = engine.on_event(&page, SlotIndex(n));
                    answered += u64::from(matches!(outcome, Outcome::Answered { .. }));
                }
                Step::Scan => engine.scan(&page, |_, outcome| {
                    answered += u64::from(matches!(outcome, Outcome::Answered { .. }));
                }),
                Step::Take => tickets.extend(engine.next_pending().map(|(ticket, _)| ticket)),
                Step::Complete(n) if !tickets.is_empty() => {
                    let ticket = tickets.swap_remove(n % tickets.len());
                    prop_assert_eq!(engine.complete(&page, ticket, 0), Ok(()));
                    answered += 1;
                }
                Step::Complete(_) => {}
            }
            for (n, old) in (0..SLOTS).zip(before) {
                let new = page.control(SlotIndex(n));
                if !by_xen {
                    prop_assert!(new.state() >= old.state());
                    prop_assert_eq!(new.0 & 0xf0, old.0 & 0xf0);
                    prop_assert!(old == new || matches!(old.state(), Some(State::Ready | State::InProcess)));
                }
                prop_assert_eq!(page.vp_eport(SlotIndex(n)).0, u32::from(n) + 1);
            }
        }
        // Now let everything finish.
        engine.scan(&page, |_, outcome| answered += u64::from(matches!(outcome, Outcome::Answered { .. })));
        tickets.extend(std::iter::from_fn(|| engine.next_pending()).map(|(ticket, _)| ticket));
        for ticket in tickets {
            prop_assert_eq!(engine.complete(&page, ticket, 0), Ok(()));
            answered += 1;
        }
        responded += (0..SLOTS).filter(|n| page.take_response(SlotIndex(*n)).is_some()).count() as u64;
        prop_assert_eq!((answered, responded), (posted, posted));
        prop_assert_eq!((engine.counters().answered, engine.counters().taken()), (posted, posted));
    }

    /// The registry against the obvious list: assign, deassign and match agree, also after many removals.
    #[test]
    fn registry_agrees_with_a_list(ops in vec((any::<bool>(), 0_u64..12, 0_u8..5, 0_u16..4), 1..200)) {
        let mut registry = Registry::<32>::new(None);
        let mut list: Vec<Doorbell> = Vec::new();
        for (add, at, width, matching) in ops {
            let doorbell = make(at, width, matching);
            let same = |other: &Doorbell| {
                (other.addr, other.width, other.matching) == (doorbell.addr, doorbell.width, doorbell.matching)
            };
            if add {
                let overlap = |o: &Doorbell| o.addr == doorbell.addr
                    && (o.width == doorbell.width || o.width == DoorbellWidth::Any || doorbell.width == DoorbellWidth::Any)
                    && (o.matching == doorbell.matching || o.matching == Match::Any || doorbell.matching == Match::Any);
                let expected = if list.iter().any(overlap) {
                    Err(DoorbellError::Busy)
                } else if list.len() == 16 {
                    Err(DoorbellError::Full)
                } else {
                    list.push(doorbell);
                    Ok(())
                };
                prop_assert_eq!(registry.assign(&doorbell), expected);
            } else {
                let at = list.iter().position(same);
                let expected = at.map(|at| list.swap_remove(at).recipient).ok_or(DoorbellError::NoDevice);
                prop_assert_eq!(registry.deassign(&doorbell), expected);
            }
            prop_assert_eq!(registry.len(), list.len());
            for at in 0..12 {
                for width in [Width::Byte, Width::Word, Width::Dword, Width::Qword] {
                    for value in 0..5 {
                        let addr = make(at, 0, 0).addr;
                        let expected = list.iter().find(|d| d.addr == addr
                            && (d.width == DoorbellWidth::Any || d.width == DoorbellWidth::Exactly(width))
                            && (d.matching == Match::Any || d.matching == Match::Queue(value as u16)));
                        let found = registry.lookup(Space::Memory, addr, width, value).kick;
                        prop_assert_eq!(found.map(|kick| kick.recipient), expected.map(|d| d.recipient));
                    }
                }
            }
        }
    }
}

fn make(at: u64, width: u8, matching: u16) -> Doorbell {
    let widths = [Width::Byte, Width::Word, Width::Dword, Width::Qword];
    let width_code = usize::from(width);
    Doorbell {
        domain: DomId(1),
        vcpus: 1,
        space: Space::Memory,
        addr: 0xfea0_0050 + at * 0x1000,
        width: widths
            .get(width_code)
            .map_or(DoorbellWidth::Any, |width| DoorbellWidth::Exactly(*width)),
        matching: if matching == 3 {
            Match::Any
        } else {
            Match::Queue(matching)
        },
        recipient: Recipient {
            device: at as u16,
            queue: u16::from(width) << 8 | matching,
        },
    }
}
