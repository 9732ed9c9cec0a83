//! Attack cases 21 to 25 at the slot engine, and the panic path of case 33.

use vd_ioreq::decode::Stray;
use vd_ioreq::ports::{Binding, PortCheck, PortTable};
use vd_ioreq::rep::{GuestRam, RamFault, RegisterBus, Rep, RepData};
use vd_ioreq::slot::{Control, Ioreq, Kind, State};
use vd_ioreq::test_util::{FakePage, Request};
use vd_ioreq::{
    Access, CompleteError, Counters, Direction, DomId, Doorbell, DoorbellWidth, Engine, EvtchnPort,
    Match, Outcome, Recipient, SlotIndex, SlotPage, Space, Width, answer_all,
};

const WINDOW: u64 = 0xfea0_0000;
const NOTIFY: u64 = WINDOW + 0x50;
const ANSWERED: Outcome = Outcome::Answered { kick: None };
const PTR: u8 = 0x10;
const READ: u8 = 0x20;
const DF: u8 = 0x40;

type TestEngine = Engine<128, 16>;

fn engine() -> TestEngine {
    let mut engine = TestEngine::new(Some(DomId(7)));
    engine.registers.add(Space::Memory, WINDOW, 0x200).unwrap();
    engine
        .doorbells
        .assign(&Doorbell {
            domain: DomId(7),
            vcpus: 2,
            space: Space::Memory,
            addr: NOTIFY,
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

fn slot(n: u16) -> SlotIndex {
    SlotIndex(n)
}

#[test]
fn layout_is_that_of_the_public_header() {
    let request = Ioreq::decode([
        0x1111_2222_3333_4444,
        0x5555_6666_7777_8888,
        0x0000_0004_0000_0003,
        0x0872_0000_0000_0009,
    ]);
    assert_eq!(request.addr, 0x1111_2222_3333_4444);
    assert_eq!(request.data, 0x5555_6666_7777_8888);
    assert_eq!((request.count, request.size), (3, 4));
    assert_eq!(request.vp_eport, EvtchnPort(9));
    assert_eq!(request.control, Control(0x72));
    assert_eq!(request.control.state(), Some(State::InProcess));
    assert!(request.control.data_is_ptr() && request.control.df());
    assert_eq!(request.control.dir(), Direction::Read);
    assert_eq!(request.kind, Kind::Invalidate);
    for (byte, kind) in [
        (0, Kind::Pio),
        (1, Kind::Copy),
        (2, Kind::PciConfig),
        (7, Kind::TimeOffset),
        (8, Kind::Invalidate),
        (9, Kind::Unknown(9)),
    ] {
        assert_eq!(Kind::from_byte(byte), kind);
    }
}

#[test]
fn a_new_state_keeps_the_other_bits() {
    for byte in 0..=u8::MAX {
        for state in [
            State::None,
            State::Ready,
            State::InProcess,
            State::RespReady,
        ] {
            let changed = Control(byte).with_state(state);
            assert_eq!(changed.0 & 0xf0, byte & 0xf0);
            assert_eq!(changed.state(), Some(state));
        }
    }
}

#[test]
fn doorbell_is_answered_at_once_and_delivers_the_whole_value() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    assert!(page.post(slot(1), &Request::write(NOTIFY, 4, 0x0001_0003)));
    let Outcome::Answered { kick: Some(kick) } = engine.on_event(&page, slot(1)) else {
        panic!("not a doorbell")
    };
    assert_eq!(kick.value, 0x0001_0003);
    assert_eq!(
        page.take_response(slot(1)),
        Some(0x0001_0003),
        "a write's data field is left alone"
    );
    assert_eq!(engine.next_pending(), None);
    assert_eq!(engine.counters().doorbells, 1);
}

/// Case 26: more doorbells than the main loop can serve wait for it, like register writes.
#[test]
fn row26_doorbells_can_be_held_back() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    engine.set_answering(false);
    page.post(slot(1), &Request::write(NOTIFY, 4, 3));
    assert_eq!(engine.on_event(&page, slot(1)), Outcome::Deferred);
    let (ticket, access) = engine.next_pending().unwrap();
    assert!(matches!(
        access,
        Access::Write {
            addr: NOTIFY,
            value: 3,
            ..
        }
    ));
    engine.complete(&page, ticket, 0).unwrap();
    assert!(page.take_response(slot(1)).is_some());
    engine.set_answering(true);
    page.post(slot(1), &Request::write(NOTIFY, 4, 3));
    assert!(matches!(
        engine.on_event(&page, slot(1)),
        Outcome::Answered { kick: Some(_) }
    ));
    assert_eq!(
        (
            engine.counters().doorbells,
            engine.counters().register_writes
        ),
        (1, 1)
    );
}

#[test]
fn register_accesses_wait_for_the_main_loop() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(slot(0), &Request::read(WINDOW, 4));
    assert_eq!(engine.on_event(&page, slot(0)), Outcome::Deferred);
    assert_eq!(page.state(slot(0)), Some(State::InProcess));
    let (ticket, access) = engine.next_pending().unwrap();
    assert_eq!(
        access,
        Access::Read {
            space: Space::Memory,
            addr: WINDOW,
            width: Width::Dword
        }
    );
    assert_eq!(
        engine.next_pending(),
        None,
        "each request is handed out once"
    );
    assert_eq!(engine.complete(&page, ticket, 0x7472_6976), Ok(()));
    assert_eq!(page.take_response(slot(0)), Some(0x7472_6976));
    assert_eq!(engine.complete(&page, ticket, 0), Err(CompleteError::Stale));
    assert_eq!(page.state(slot(0)), Some(State::None));
}

/// Case 21: whatever is asked, the vCPU gets an answer, and all-ones when nobody is there.
#[test]
fn row21_every_request_is_answered() {
    let mut engine = engine();
    let page = FakePage::new(128);
    let mut posted = 0;
    for kind in 0..=u8::MAX {
        for size in [0, 1, 2, 3, 4, 5, 8, 16, 4096, u32::MAX] {
            for count in [0, 1, 2, 4096, u32::MAX] {
                for flags in [0, PTR, READ, READ | PTR, DF, DF | READ | PTR, 0xf0] {
                    // All kinds with one address, the two that have addresses with many.
                    let addrs: &[u64] = match kind {
                        0 | 1 => &[
                            0,
                            WINDOW,
                            NOTIFY,
                            WINDOW + 0x1ff,
                            WINDOW - 1,
                            WINDOW + 0x200,
                            0xffff,
                            u64::MAX,
                        ],
                        _ => &[NOTIFY],
                    };
                    for addr in addrs {
                        let request = Request {
                            addr: *addr,
                            data: 0x1234,
                            count,
                            size,
                            flags,
                            kind,
                        };
                        assert!(page.post(slot(0), &request));
                        posted += 1;
                        serve(&mut engine, &page, &request);
                    }
                }
            }
        }
    }
    let counters = engine.counters();
    assert_eq!((counters.answered, counters.taken()), (posted, posted));
    assert_eq!((counters.abandoned, counters.spurious), (0, 0));
    assert!(
        counters.strays > 0
            && counters.reps > 0
            && counters.doorbells > 0
            && counters.invalidates > 0
    );
}

fn serve(engine: &mut TestEngine, page: &FakePage, request: &Request) {
    let outcome = engine.on_event(page, slot(0));
    match outcome {
        Outcome::Answered { kick } => {
            let data = page.take_response(slot(0)).expect("answered");
            let takes_data = request.flags & (READ | PTR) == READ;
            assert_eq!(
                data,
                if takes_data { u64::MAX } else { request.data },
                "{request:?}"
            );
            if kick.is_some() {
                assert_eq!((request.addr, request.size, request.count), (NOTIFY, 4, 1));
                assert_eq!((request.kind, request.flags & (READ | PTR)), (1, 0));
            }
        }
        Outcome::Deferred => {
            let (ticket, access) = engine.next_pending().expect("deferred");
            if let Access::Rep(rep) = access {
                assert!(rep.accesses() * rep.width.bytes() <= 4096);
            }
            engine.complete(page, ticket, 0x55).expect("completes");
            page.take_response(slot(0)).expect("answered");
        }
        Outcome::Nothing => panic!("{request:?} was not taken"),
    }
}

#[test]
fn row21_accesses_outside_the_registers_never_reach_the_main_loop() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    for addr in [WINDOW - 4, WINDOW + 0x200, 0] {
        page.post(slot(3), &Request::read(addr, 4));
        assert_eq!(engine.on_event(&page, slot(3)), ANSWERED);
        assert_eq!(page.take_response(slot(3)), Some(u64::MAX));
        page.post(slot(3), &Request::write(addr, 4, 9));
        assert_eq!(engine.on_event(&page, slot(3)), ANSWERED);
        assert!(page.take_response(slot(3)).is_some());
    }
    assert_eq!(engine.next_pending(), None);
    assert_eq!(engine.counters().strays, 6);
    // One byte inside is enough: what a straddling access means is the device's business.
    page.post(slot(3), &Request::read(WINDOW - 1, 2));
    assert_eq!(engine.on_event(&page, slot(3)), Outcome::Deferred);
}

#[test]
fn row21_a_range_that_was_taken_back_is_nobodys() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    engine
        .registers
        .remove(Space::Memory, WINDOW, 0x200)
        .unwrap();
    engine.doorbells.clear();
    page.post(slot(0), &Request::write(NOTIFY, 4, 0));
    assert_eq!(engine.on_event(&page, slot(0)), ANSWERED);
}

#[test]
fn decode_tells_strays_apart() {
    let base = Ioreq {
        addr: NOTIFY,
        data: 0,
        count: 1,
        size: 4,
        vp_eport: EvtchnPort(1),
        control: Control(1),
        kind: Kind::Copy,
    };
    assert!(Access::decode(&base).is_ok());
    assert_eq!(
        Access::decode(&Ioreq { size: 3, ..base }),
        Err(Stray::Size(3))
    );
    assert_eq!(
        Access::decode(&Ioreq { count: 0, ..base }),
        Err(Stray::Count)
    );
    assert_eq!(
        Access::decode(&Ioreq {
            kind: Kind::TimeOffset,
            ..base
        }),
        Err(Stray::Type(Kind::TimeOffset))
    );
    for (size, width) in [
        (1, Width::Byte),
        (2, Width::Word),
        (4, Width::Dword),
        (8, Width::Qword),
    ] {
        let sized = Access::decode(&Ioreq { size, ..base });
        assert!(matches!(sized, Ok(Access::Write { width: w, .. }) if w == width));
    }
    let wide = Access::decode(&Ioreq {
        size: 1,
        data: u64::MAX,
        ..base
    });
    assert_eq!(
        wide,
        Ok(Access::Write {
            space: Space::Memory,
            addr: NOTIFY,
            width: Width::Byte,
            value: 0xff
        })
    );
}

/// Case 21: a string write over the doorbell is a register access, element by element.
#[test]
fn row21_rep_to_a_doorbell_goes_to_the_main_loop() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(
        slot(0),
        &Request {
            count: 2,
            ..Request::write(NOTIFY, 4, 1)
        },
    );
    assert_eq!(engine.on_event(&page, slot(0)), Outcome::Deferred);
    let (ticket, access) = engine.next_pending().unwrap();
    let Access::Rep(rep) = access else {
        panic!("{access:?}")
    };
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    let result = rep.run(&mut bus, &mut ram);
    assert_eq!(bus.writes, [(NOTIFY, 1), (NOTIFY + 4, 1)]);
    engine.complete(&page, ticket, result.data).unwrap();
    assert!(page.take_response(slot(0)).is_some());
}

/// Case 21: a string read from nowhere fills the guest's memory with all-ones, so it is not answered before that.
#[test]
fn row21_stray_read_into_memory_is_deferred() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(
        slot(0),
        &Request {
            flags: READ | PTR,
            data: 0x2000,
            ..Request::read(0x1000, 4)
        },
    );
    assert_eq!(engine.on_event(&page, slot(0)), Outcome::Deferred);
    page.post(
        slot(1),
        &Request {
            flags: PTR,
            data: 0x2000,
            ..Request::write(0x1000, 4, 0)
        },
    );
    assert_eq!(
        engine.on_event(&page, slot(1)),
        ANSWERED,
        "a write to nowhere needs no memory"
    );
}

#[derive(Default)]
struct Bus {
    writes: Vec<(u64, u64)>,
    reads: Vec<u64>,
}

impl RegisterBus for Bus {
    fn read(&mut self, _: Space, addr: u64, _: Width) -> u64 {
        self.reads.push(addr);
        0xffff_ff00 | self.reads.len() as u64
    }
    fn write(&mut self, _: Space, addr: u64, _: Width, value: u64) {
        self.writes.push((addr, value));
    }
}

/// Guest memory from 0 to 64 KiB.
struct Ram(Vec<u8>);

impl Default for Ram {
    fn default() -> Self {
        Ram((0..0x1_0000_u32).map(|n| n as u8).collect())
    }
}

impl GuestRam for Ram {
    fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), RamFault> {
        let at = usize::try_from(gpa).map_err(|_| RamFault)?;
        into.copy_from_slice(
            self.0
                .get(at..at.checked_add(into.len()).ok_or(RamFault)?)
                .ok_or(RamFault)?,
        );
        Ok(())
    }
    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamFault> {
        let at = usize::try_from(gpa).map_err(|_| RamFault)?;
        let end = at.checked_add(from.len()).ok_or(RamFault)?;
        self.0
            .get_mut(at..end)
            .ok_or(RamFault)?
            .copy_from_slice(from);
        Ok(())
    }
}

fn rep(space: Space, count: u32, backwards: bool, dir: Direction, data: RepData) -> Rep {
    Rep {
        space,
        addr: 0x100,
        width: Width::Word,
        count,
        backwards,
        dir,
        data,
    }
}

#[test]
fn row21_rep_write_from_memory_steps_both_addresses() {
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    rep(
        Space::Memory,
        3,
        false,
        Direction::Write,
        RepData::GuestMemory(0x10),
    )
    .run(&mut bus, &mut ram);
    assert_eq!(
        bus.writes,
        [(0x100, 0x1110), (0x102, 0x1312), (0x104, 0x1514)]
    );
}

#[test]
fn row21_rep_with_df_steps_down() {
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    let down = rep(
        Space::Memory,
        3,
        true,
        Direction::Write,
        RepData::GuestMemory(0x10),
    );
    assert_eq!(down.span(), (0xfc, 0x101));
    down.run(&mut bus, &mut ram);
    assert_eq!(
        bus.writes,
        [(0x100, 0x1110), (0xfe, 0x0f0e), (0xfc, 0x0d0c)]
    );
}

#[test]
fn row21_rep_on_a_port_keeps_the_port() {
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    let ports = rep(
        Space::Port,
        2,
        false,
        Direction::Read,
        RepData::GuestMemory(0x10),
    );
    assert_eq!(ports.span(), (0x100, 0x101));
    let result = ports.run(&mut bus, &mut ram);
    assert_eq!(bus.reads, [0x100, 0x100]);
    assert_eq!(ram.0[0x10..0x14], [0x01, 0xff, 0x02, 0xff]);
    assert_eq!(
        (result.data, result.faults),
        (0xff02, 0),
        "of direct reads the last value counts"
    );
}

#[test]
fn row21_rep_without_pointer_repeats_the_value() {
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    rep(
        Space::Memory,
        2,
        false,
        Direction::Write,
        RepData::Immediate(0xabcd),
    )
    .run(&mut bus, &mut ram);
    assert_eq!(bus.writes, [(0x100, 0xabcd), (0x102, 0xabcd)]);
}

#[test]
fn row21_rep_with_memory_that_is_not_there_goes_on() {
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    let result = rep(
        Space::Memory,
        3,
        false,
        Direction::Write,
        RepData::GuestMemory(0xfffe),
    )
    .run(&mut bus, &mut ram);
    assert_eq!((bus.writes.len(), result.faults), (1, 2));
    for (base, backwards, faults) in [(u64::MAX, false, 3), (u64::MAX - 3, false, 3), (2, true, 1)]
    {
        let wrapping = rep(
            Space::Memory,
            3,
            backwards,
            Direction::Read,
            RepData::GuestMemory(base),
        );
        assert_eq!(
            wrapping.run(&mut bus, &mut ram).faults,
            faults,
            "{base:#x} does not wrap"
        );
    }
}

#[test]
fn row21_rep_work_is_bounded() {
    let (mut bus, mut ram) = (Bus::default(), Ram::default());
    rep(
        Space::Memory,
        u32::MAX,
        false,
        Direction::Write,
        RepData::Immediate(0),
    )
    .run(&mut bus, &mut ram);
    assert_eq!(bus.writes.len(), 2048);
}

/// Case 22: only READY is acted upon.
#[test]
fn row22_slots_in_other_states_are_left_alone() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    for state in (0..16_u8).filter(|state| *state != State::Ready as u8) {
        for flags in [0_u8, 0x70, 0xf0] {
            page.set_control(slot(5), flags | state);
            assert_eq!(engine.on_event(&page, slot(5)), Outcome::Nothing);
            engine.scan(&page, |slot, outcome| panic!("{slot:?}: {outcome:?}"));
            assert_eq!(page.control(slot(5)), Control(flags | state));
        }
    }
    assert_eq!(
        engine.counters().spurious,
        45,
        "scanning idle slots is not spurious"
    );
    assert_eq!(page.loads(slot(5)), 0);
}

/// Case 22: one upcall for several slots.
#[test]
fn row22_scan_finds_every_slot_and_takes_turns() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    let post = |n| assert!(page.post(slot(n), &Request::write(NOTIFY, 4, u64::from(n))));
    let mut order = Vec::new();
    (0..128).for_each(post);
    engine.scan(&page, |slot, _| order.push(slot.0));
    assert_eq!(order, (0..128).collect::<Vec<_>>());
    (0..128).for_each(|n| assert!(page.take_response(slot(n)).is_some()));
    post(5);
    engine.scan(&page, |_, _| {});
    page.take_response(slot(5));
    order.clear();
    [4, 5, 6].into_iter().for_each(post);
    engine.scan(&page, |slot, _| order.push(slot.0));
    assert_eq!(order, [6, 4, 5], "goes on behind the slot served last");
}

#[test]
fn row22_the_main_loop_takes_turns() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    let mut served = Vec::new();
    for _ in 0..6 {
        for n in [1, 2, 3] {
            if page.post(slot(n), &Request::read(WINDOW, 4)) {
                assert_eq!(engine.on_event(&page, slot(n)), Outcome::Deferred);
            }
        }
        let (ticket, _) = engine.next_pending().unwrap();
        served.push(ticket.slot().0);
        engine.complete(&page, ticket, 0).unwrap();
        page.take_response(ticket.slot()).unwrap();
    }
    assert_eq!(served, [1, 2, 3, 1, 2, 3]);
}

/// Case 22: an upcall counts once, however many slots it stands for; each of them is handed out once.
#[test]
fn row22_one_upcall_for_several_slots() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    for n in [0, 5, 127] {
        page.post(slot(n), &Request::read(WINDOW, 4));
    }
    engine.count_upcall();
    engine.scan(&page, |_, outcome| assert_eq!(outcome, Outcome::Deferred));
    assert_eq!((engine.counters().upcalls, engine.waiting()), (1, 3));
    let served: Vec<_> = std::iter::from_fn(|| engine.next_pending())
        .map(|(ticket, _)| ticket.slot().0)
        .take(4)
        .collect();
    assert_eq!(served, [0, 5, 127]);
}

/// Case 23: INVALIDATE is not answered before the main loop has dropped the mappings.
#[test]
fn row23_invalidate_waits_for_the_main_loop() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(slot(0), &Request::invalidate());
    assert_eq!(engine.on_event(&page, slot(0)), Outcome::Deferred);
    assert_eq!(page.take_response(slot(0)), None);
    let (ticket, access) = engine.next_pending().unwrap();
    assert_eq!(access, Access::Invalidate);
    engine.complete(&page, ticket, 0).unwrap();
    assert!(page.take_response(slot(0)).is_some());
    assert_eq!(engine.counters().invalidates, 1);
}

/// Case 24: the slot is copied once; what it says afterwards changes nothing.
#[test]
fn row24_slot_is_copied_once() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(slot(0), &Request::read(WINDOW, 4));
    engine.on_event(&page, slot(0));
    assert_eq!(page.loads(slot(0)), 1);
    // A write instead of a read, while in process: the data is stored for the read that was taken.
    page.set_control(slot(0), State::InProcess as u8);
    let (ticket, access) = engine.next_pending().unwrap();
    assert!(matches!(access, Access::Read { .. }));
    engine.complete(&page, ticket, 42).unwrap();
    assert_eq!(
        page.control(slot(0)),
        Control(READ | State::RespReady as u8)
    );
    assert_eq!(page.take_response(slot(0)), Some(42));
    assert_eq!(page.loads(slot(0)), 1);
}

/// Case 24: a slot whose copy is not READY although its byte was a moment before.
#[test]
fn row24_the_copy_decides() {
    struct Torn(FakePage);
    impl SlotPage for Torn {
        fn slots(&self) -> usize {
            self.0.slots()
        }
        fn control(&self, slot: SlotIndex) -> Control {
            self.0.control(slot)
        }
        fn load(&self, slot: SlotIndex) -> [u64; 4] {
            self.0.set_control(slot, State::None as u8);
            self.0.load(slot)
        }
        fn store_data(&self, slot: SlotIndex, _: u64) {
            panic!("{slot:?} written");
        }
        fn store_control(&self, slot: SlotIndex, _: Control) {
            panic!("{slot:?} written");
        }
        fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
            self.0.vp_eport(slot)
        }
    }
    let page = Torn(FakePage::new(1));
    page.0.post(slot(0), &Request::write(NOTIFY, 4, 0));
    assert_eq!(engine().on_event(&page, slot(0)), Outcome::Nothing);
}

/// Case 25: events of vCPUs that have no slot here.
#[test]
fn row25_more_vcpus_than_slots() {
    let mut small = Engine::<4, 16>::new(None);
    let page = FakePage::new(128);
    page.post(slot(4), &Request::read(0, 4));
    assert_eq!(
        small.on_event(&page, slot(4)),
        Outcome::Nothing,
        "beyond the engine"
    );
    let short = FakePage::new(2);
    assert_eq!(
        small.on_event(&short, slot(2)),
        Outcome::Nothing,
        "beyond the page"
    );
    assert_eq!(small.on_event(&short, slot(u16::MAX)), Outcome::Nothing);
    small.scan(&page, |slot, _| panic!("{slot:?}"));
    assert_eq!(page.state(slot(4)), Some(State::Ready));
}

/// Case 25: vCPUs that come later, ports that change.
#[test]
fn row25_ports_that_come_go_and_change() {
    let page = FakePage::new(2);
    let mut table = PortTable::<2>::new();
    page.set_vp_eport(slot(1), 0);
    assert_eq!(
        table.check(&page, slot(0)),
        PortCheck::Bind {
            remote: EvtchnPort(1)
        }
    );
    assert_eq!(
        table.check(&page, slot(1)),
        PortCheck::Unchanged,
        "no vCPU yet"
    );
    assert!(table.bind(
        slot(0),
        Binding {
            remote: EvtchnPort(1),
            local: EvtchnPort(20)
        }
    ));
    assert_eq!(table.check(&page, slot(0)), PortCheck::Unchanged);
    assert_eq!(table.local(slot(0)), Some(EvtchnPort(20)));
    assert_eq!(table.local(slot(1)), None);
    page.set_vp_eport(slot(1), 9);
    assert_eq!(
        table.check(&page, slot(1)),
        PortCheck::Bind {
            remote: EvtchnPort(9)
        }
    );
    let taken = Binding {
        remote: EvtchnPort(9),
        local: EvtchnPort(20),
    };
    assert!(
        !table.bind(slot(1), taken),
        "a local port is one slot's only"
    );
    page.set_vp_eport(slot(0), 33);
    assert_eq!(
        table.check(&page, slot(0)),
        PortCheck::Rebind {
            stale: EvtchnPort(20),
            remote: EvtchnPort(33)
        }
    );
    page.set_vp_eport(slot(0), 0);
    assert_eq!(
        table.check(&page, slot(0)),
        PortCheck::Unbind {
            stale: EvtchnPort(20)
        }
    );
    assert_eq!(table.slot_of(EvtchnPort(20)), Some(slot(0)));
    assert!(table.unbind(slot(0)).is_some());
    assert_eq!(table.slot_of(EvtchnPort(20)), None);
    assert_eq!(
        table.check(&page, slot(7)),
        PortCheck::Unchanged,
        "no such slot"
    );
    assert!(!table.bind(
        slot(7),
        Binding {
            remote: EvtchnPort(1),
            local: EvtchnPort(1)
        }
    ));
}

#[test]
fn a_request_that_xen_gave_up_is_not_answered_into_the_next_one() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(slot(0), &Request::read(WINDOW, 4));
    engine.on_event(&page, slot(0));
    let (old, _) = engine.next_pending().unwrap();
    page.set_control(slot(0), State::None as u8);
    page.post(slot(0), &Request::read(WINDOW + 4, 4));
    assert_eq!(engine.on_event(&page, slot(0)), Outcome::Deferred);
    assert_eq!(engine.complete(&page, old, 1), Err(CompleteError::Stale));
    assert_eq!(page.state(slot(0)), Some(State::InProcess));
    let (new, _) = engine.next_pending().unwrap();
    assert_eq!(engine.complete(&page, new, 2), Ok(()));
    assert_eq!(page.take_response(slot(0)), Some(2));
    assert_eq!(engine.counters().abandoned, 1);
}

#[test]
fn a_request_that_is_replaced_before_it_was_handed_out_waits_once() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    for offset in [0, 4] {
        page.set_control(slot(0), State::None as u8);
        page.post(slot(0), &Request::read(WINDOW + offset, 4));
        engine.on_event(&page, slot(0));
        assert_eq!(engine.waiting(), 1);
    }
    let (ticket, access) = engine.next_pending().unwrap();
    assert!(matches!(access, Access::Read { addr, .. } if addr == WINDOW + 4));
    assert_eq!((engine.waiting(), engine.next_pending()), (0, None));
    engine.complete(&page, ticket, 0).unwrap();
}

#[test]
fn a_slot_that_left_inprocess_is_not_moved_back() {
    for state in [State::None, State::Ready, State::RespReady] {
        let (mut engine, page) = (engine(), FakePage::new(128));
        page.post(slot(0), &Request::read(WINDOW, 4));
        engine.on_event(&page, slot(0));
        let (ticket, _) = engine.next_pending().unwrap();
        page.set_control(slot(0), READ | state as u8);
        assert_eq!(
            engine.complete(&page, ticket, 1),
            Err(CompleteError::NotInProcess)
        );
        assert_eq!(page.state(slot(0)), Some(state));
    }
}

#[test]
fn forgetting_leaves_nothing_pending() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(slot(0), &Request::read(WINDOW, 4));
    page.post(slot(1), &Request::read(WINDOW, 4));
    engine.scan(&page, |_, _| {});
    let (ticket, _) = engine.next_pending().unwrap();
    engine.forget();
    assert_eq!(engine.next_pending(), None);
    assert_eq!(engine.complete(&page, ticket, 0), Err(CompleteError::Stale));
    assert_eq!(engine.counters().abandoned, 2);
}

#[test]
fn every_counter_is_reported_under_its_name() {
    let counters = Counters {
        upcalls: 1,
        doorbells: 2,
        register_reads: 3,
        register_writes: 4,
        reps: 5,
        invalidates: 6,
        strays: 7,
        spurious: 8,
        answered: 9,
        abandoned: 10,
        posted_doorbells: 11,
    };
    // The names are those of the fields, in the order in which an engine counts.
    let debug = format!("{counters:?}").replace('_', "-");
    let named = counters.named();
    for (name, value) in named {
        assert!(debug.contains(&format!(" {name}: {value}")), "{name}");
    }
    assert_eq!(
        named.map(|(_, value)| value),
        core::array::from_fn(|n| n as u64 + 1)
    );
    assert_eq!(counters.taken(), 2 + 3 + 4 + 5 + 6 + 7);
}

/// Case 33: with only the page, every vCPU that waits is let go.
#[test]
fn row33_answer_all_needs_only_the_page() {
    let (mut engine, page) = (engine(), FakePage::new(128));
    page.post(slot(0), &Request::read(WINDOW, 4));
    engine.on_event(&page, slot(0));
    page.post(slot(9), &Request::read(WINDOW, 4));
    page.post(
        slot(10),
        &Request {
            flags: READ | PTR,
            data: 0x1000,
            ..Request::read(WINDOW, 4)
        },
    );
    page.post(slot(127), &Request::write(NOTIFY, 4, 7));
    page.set_control(slot(20), State::RespReady as u8);
    page.set_control(slot(21), 0x0f);
    let answered = answer_all(&page);
    assert!(!answered.is_empty());
    assert_eq!(
        answered.iter().map(|s| s.0).collect::<Vec<_>>(),
        [0, 9, 10, 127]
    );
    assert_eq!(page.take_response(slot(0)), Some(0));
    assert_eq!(page.take_response(slot(9)), Some(0));
    assert_eq!(
        page.take_response(slot(10)),
        Some(0x1000),
        "an address is no place for data"
    );
    assert_eq!(page.take_response(slot(127)), Some(7));
    assert_eq!(page.control(slot(21)), Control(0x0f));
    assert!(answer_all(&page).is_empty(), "each once");
}
