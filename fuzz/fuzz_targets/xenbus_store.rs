//! The xenstore client, against a daemon that is honest until it is not.
//!
//! Drives `Xenstore` over the rings of a page whose other end is an in-memory xenstored. Its replies are now and then
//! dropped, doubled, late, relabelled, cut, or replaced; words of the page are overwritten; and in a second game the
//! client's framing is fed one stream of bytes in two ways.
//!
//! Checked: the client touches only its own bytes and words of the page, and its own indices move by what it moved;
//! every call ends, after a bounded number of waits; with an honest daemon every call does what it says; a transaction
//! is all or nothing and never left open; however the bytes arrive, the same comes out; and after a reconnection
//! to an honest daemon everything works again, with a note that watches were lost.
#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use vd_xenbus::client::Client;
use vd_xenbus::ring::{
    SERVER_FEATURE_ERROR, SERVER_FEATURE_RECONNECTION, SharedPage, XENSTORE_CONNECTION,
    XENSTORE_ERROR, XENSTORE_REQ, XENSTORE_RSP, XENSTORE_SERVER_FEATURES,
};
use vd_xenbus::store::{MAX_ATTEMPTS, Perm, PermAccess};
use vd_xenbus::test_util::{FakePage, FakeXenstored};
use vd_xenbus::watch::MAX_EVENTS;
use vd_xenbus::wire::{Header, is_valid_path};
use vd_xenbus::{Error, Event, Failure, Op, RingTransport, Signal, TxId, Xenstore, XsError};
use virtio_domain_fuzz::Source;
use virtio_domain_fuzz::text::assert_line;

/// A directory whose names do not fit into one message, and how many there are. Longer than what `path` makes up.
const CROWD: &str = "the-crowd-whose-path-is-of-forty-bytes-";
const CROWDED: usize = 20;
/// How often the client may wait for one reply.
const PATIENCE: u32 = 45;
/// Calls in a session: enough for one mistake to meet the next.
const MOST_STEPS: u32 = 32;
const PATHS: [&str; 8] = [
    "a",
    "a/b",
    "a/b/c",
    "a/d",
    "e",
    "e/1",
    "e/22",
    "/local/domain/5/a/f",
];

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    if source.below(4) == 0 {
        framing(&mut source);
    } else {
        session(&mut source);
    }
});

/// What the daemon does to a reply.
#[derive(Clone, Debug)]
enum Tampering {
    Drop,
    Twice,
    /// Held back until the next reply.
    Late,
    Relabel(Header),
    Cut(usize),
    Payload(Vec<u8>),
    /// An event comes first.
    Event(Vec<u8>),
    Raw(Vec<u8>),
}

/// What client, daemon and fuzzer have in common.
#[derive(Default)]
struct Shared {
    /// What happens to the next replies.
    tampering: VecDeque<Option<Tampering>>,
    held: Vec<u8>,
    /// A word is overwritten when the client waits for the n-th time.
    poke: Option<(u32, usize, u32)>,
    /// The daemon has done something wrong since the connection was set up.
    dishonest: bool,
    /// The daemon cannot read the client's requests any more.
    mad: bool,
}

/// The page as the client sees it.
struct Guarded {
    page: Rc<FakePage>,
    /// The client's two indices, once known.
    own: Rc<Cell<[Option<u32>; 2]>>,
    /// The daemon's two indices as last read.
    seen: Cell<[u32; 2]>,
}

impl Guarded {
    /// Checks that an impossible index of the daemon was not believed before bytes are moved.
    fn check(&self, ring: usize, filled: impl Fn(u32, u32) -> u32) {
        if let Some(own) = self.own.get()[ring] {
            let filled = filled(own, self.seen.get()[ring]);
            assert!(filled <= 1024, "{filled} bytes in a ring of 1024");
        }
    }
}

impl SharedPage for Guarded {
    fn load_u32(&self, offset: usize) -> u32 {
        assert!((2048..2076).contains(&offset));
        let value = self.page.load_u32(offset);
        let theirs = [XENSTORE_REQ.consumer, XENSTORE_RSP.producer];
        if let Some(ring) = theirs.iter().position(|word| *word == offset) {
            let mut seen = self.seen.get();
            seen[ring] = value;
            self.seen.set(seen);
        }
        value
    }

    fn store_u32(&self, offset: usize, value: u32) {
        if offset == XENSTORE_CONNECTION {
            assert_eq!(value, 1);
            self.own.set([None; 2]);
        } else {
            let words = [XENSTORE_REQ.producer, XENSTORE_RSP.consumer];
            let which = words.iter().position(|word| *word == offset);
            let which = which.expect("the client's own words");
            let mut own = self.own.get();
            if let Some(old) = own[which] {
                assert!((1..=1024).contains(&value.wrapping_sub(old)));
            }
            own[which] = Some(value);
            self.own.set(own);
        }
        self.page.store_u32(offset, value);
    }

    fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        assert!(offset >= 1024 && offset + into.len() <= 2048);
        self.check(1, |consumer, producer| producer.wrapping_sub(consumer));
        self.page.read_bytes(offset, into);
    }

    fn write_bytes(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= 1024);
        self.check(0, |producer, consumer| producer.wrapping_sub(consumer));
        self.page.write_bytes(offset, from);
    }
}

/// The event channel: the daemon runs while the client waits.
struct Bell {
    page: Rc<FakePage>,
    daemon: Rc<RefCell<FakeXenstored>>,
    shared: Rc<RefCell<Shared>>,
    waited: u32,
    over: bool,
}

impl Signal for Bell {
    fn start(&mut self) {
        self.waited = 0;
        self.over = false;
    }

    fn notify(&mut self) {}

    fn wait(&mut self) -> bool {
        assert!(!self.over, "the time was over");
        self.waited += 1;
        let mut shared = self.shared.borrow_mut();
        if let Some((when, offset, value)) = shared.poke
            && when <= self.waited
        {
            shared.poke = None;
            shared.dishonest = true;
            // What the daemon would read as a request is not what the client has written, or the client believes that
            // it starts over.
            let confusing = [
                XENSTORE_REQ.producer,
                XENSTORE_REQ.consumer,
                XENSTORE_CONNECTION,
            ];
            shared.mad |= confusing.contains(&offset);
            self.page.store_u32(offset, value);
        }
        shared.mad &= self.page.load_u32(XENSTORE_CONNECTION) != 1;
        let mad = shared.mad;
        drop(shared);
        if !mad {
            self.daemon.borrow_mut().run();
        }
        self.over = self.waited >= PATIENCE;
        !self.over
    }
}

type Store = Xenstore<RingTransport<Guarded, Bell>>;

struct Session {
    page: Rc<FakePage>,
    daemon: Rc<RefCell<FakeXenstored>>,
    shared: Rc<RefCell<Shared>>,
    store: Store,
    /// The crowd was listed already: once is slow enough.
    listed: bool,
}

impl Session {
    fn new(source: &mut Source<'_>) -> Self {
        let page = Rc::new(FakePage::new());
        // Rings are taken over where they stand.
        let start: u32 = source.pick(&[0, 0, 1, 1000, u32::MAX - 30]);
        for ring in [XENSTORE_REQ, XENSTORE_RSP] {
            page.store_u32(ring.consumer, start);
            page.store_u32(ring.producer, start);
        }
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
        daemon.borrow_mut().chunk = source.pick(&[usize::MAX, 1000, 400]);
        if source.rarely() {
            // Before there are watches that all of them would fire.
            (0..CROWDED).for_each(|n| daemon.borrow_mut().set(&one_of_the_crowd(n), b""));
        }
        let shared = Rc::new(RefCell::new(Shared::default()));
        let tampers = shared.clone();
        daemon.borrow_mut().tamper = Some(Box::new(move |header, payload| {
            tamper(&mut tampers.borrow_mut(), header, payload)
        }));
        let bell = Bell {
            page: page.clone(),
            daemon: daemon.clone(),
            shared: shared.clone(),
            waited: 0,
            over: false,
        };
        let guarded = Guarded {
            page: page.clone(),
            own: Rc::default(),
            seen: Cell::default(),
        };
        let store = Xenstore::new(RingTransport::attach(guarded, bell));
        Self {
            page,
            daemon,
            shared,
            store,
            listed: false,
        }
    }

    fn honest(&self) -> bool {
        !self.shared.borrow().dishonest
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.daemon.borrow().get(path)
    }

    /// Checks a result: right if the daemon was honest all along, and if not at least fit to be told.
    fn expect<T: PartialEq + std::fmt::Debug>(
        &self,
        got: &Result<T, Error>,
        right: &Result<T, XsError>,
    ) {
        if let Err(error) = got {
            assert_line(error);
        }
        if self.honest() {
            match (got, right) {
                (Ok(got), Ok(right)) => assert_eq!(got, right),
                (Err(error), Err(right)) => assert_eq!(error.refusal(), Some(*right), "{error}"),
                _ => panic!("{got:?} instead of {right:?}"),
            }
        }
    }
}

fn framed(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.encode()[..], payload].concat()
}

fn tamper(shared: &mut Shared, header: Header, payload: &[u8]) -> Vec<u8> {
    let reply = framed(header, payload);
    let Some(Some(tampering)) = shared.tampering.pop_front() else {
        return [std::mem::take(&mut shared.held), reply].concat();
    };
    shared.dishonest = true;
    match tampering {
        Tampering::Drop => Vec::new(),
        Tampering::Twice => [&reply[..], &reply].concat(),
        Tampering::Late => {
            shared.held.extend(reply);
            Vec::new()
        }
        Tampering::Relabel(with) => {
            let header = Header {
                kind: header.kind ^ with.kind,
                req_id: header.req_id ^ with.req_id,
                tx_id: TxId(header.tx_id.0 ^ with.tx_id.0),
                len: header.len ^ with.len,
            };
            framed(header, payload)
        }
        Tampering::Cut(at) => reply[..at.min(reply.len())].to_vec(),
        Tampering::Payload(bytes) => framed(
            Header {
                len: bytes.len() as u32,
                ..header
            },
            &bytes,
        ),
        Tampering::Event(bytes) => [event(&bytes), reply].concat(),
        Tampering::Raw(bytes) => bytes,
    }
}

fn event(payload: &[u8]) -> Vec<u8> {
    let kind = Op::WatchEvent.number();
    framed(
        Header {
            kind,
            req_id: 0,
            tx_id: TxId::NONE,
            len: payload.len() as u32,
        },
        payload,
    )
}

fn tampering(source: &mut Source<'_>) -> Tampering {
    match source.below(9) {
        0 => Tampering::Drop,
        1 => Tampering::Twice,
        2 => Tampering::Late,
        3 => {
            let mut flips = [0; 4];
            flips[source.below(4)] = if source.coin() {
                1 << source.below(32)
            } else {
                source.any()
            };
            let [kind, req_id, tx, len] = flips;
            Tampering::Relabel(Header {
                kind,
                req_id,
                tx_id: TxId(tx),
                len,
            })
        }
        4 => Tampering::Cut(source.below(40)),
        5 => Tampering::Payload(source.bytes(60).to_vec()),
        6 => {
            let text = source.pick(&[
                "OK\0", "0\0", "1\0", "a\0b\0", "n5\0", "ENOENT\0", "E2BIG\0", "7\0x\0\0", "7\0x\0",
            ]);
            Tampering::Payload(text.into())
        }
        7 => Tampering::Event(source.bytes(40).to_vec()),
        _ => Tampering::Raw(source.bytes(80).to_vec()),
    }
}

fn path(source: &mut Source<'_>) -> String {
    if source.rarely() {
        String::from_utf8_lossy(source.bytes(30)).into_owned()
    } else {
        source.pick(&PATHS).into()
    }
}

fn session(source: &mut Source<'_>) {
    let mut session = Session::new(source);
    for _ in 0..MOST_STEPS {
        if source.is_empty() {
            break;
        }
        for _ in 0..3 {
            let tampering = (source.rarely() && source.coin()).then(|| tampering(source));
            session.shared.borrow_mut().tampering.push_back(tampering);
        }
        if source.rarely() && source.coin() {
            let offset = source.pick(&[
                XENSTORE_REQ.consumer,
                XENSTORE_REQ.producer,
                XENSTORE_RSP.consumer,
                XENSTORE_RSP.producer,
                XENSTORE_SERVER_FEATURES,
                XENSTORE_CONNECTION,
                XENSTORE_ERROR,
            ]);
            let old = session.page.load_u32(offset);
            let value = source.pick(&[
                old.wrapping_add(1),
                old.wrapping_sub(1),
                old ^ 1 << 10,
                0,
                SERVER_FEATURE_ERROR,
                u32::MAX,
            ]);
            // Only the client may ask for a reconnection.
            let asks = offset == XENSTORE_CONNECTION && value == 1;
            let value = if asks { 2 } else { value };
            session.shared.borrow_mut().poke = Some((source.below(3) as u32, offset, value));
        }
        step(&mut session, source);
    }
    heals(&mut session);
}

/// One thing that the driver domain or somebody else does.
fn step(session: &mut Session, source: &mut Source<'_>) {
    let path = path(source);
    let valid = is_valid_path(&path);
    match source.below(16) {
        13 => match source.below(4) {
            0 => {
                let there = session.store.view().exists(&path);
                if valid {
                    session.expect(&there, &Ok(session.get(&path).is_some()));
                }
            }
            1 => {
                let number = source.any::<u16>();
                let home = session.store.get_domain_path(number);
                session.expect(&home, &Ok(format!("/local/domain/{number}")));
            }
            2 => {
                let reset = session.store.reset_watches();
                session.expect(&reset, &Ok(()));
                assert!(!session.honest() || session.daemon.borrow().watch_count() == 0);
            }
            _ => {
                let long = vec![0; source.pick(&[4000, 4096, 5000])];
                let got = session.store.write("a", &long);
                let fits = long.len() + 2 <= 4096;
                assert!(
                    fits || matches!(
                        got.as_ref().map_err(Error::why),
                        Err(Failure::BadRequest { .. })
                    )
                );
            }
        },
        14 if !session.listed => crowd(session, source),

        0 | 1 => {
            let value = source.bytes(100).to_vec();
            let got = session.store.write(&path, &value);
            if valid {
                session.expect(&got, &Ok(()));
                assert!(!session.honest() || session.get(&path) == Some(value));
            } else {
                assert!(matches!(
                    got.as_ref().map_err(Error::why),
                    Err(Failure::BadRequest { .. })
                ));
            }
        }
        2 | 3 => {
            let got = session.store.read(&path);
            if valid {
                session.expect(&got, &session.get(&path).ok_or(XsError::ENOENT));
            }
        }
        4 => numbers(session, &path),
        5 => directory(session, &path),
        6 if valid => {
            let got = session.store.rm(&path);
            session.expect(&got, &Ok(()));
            assert!(!session.honest() || session.get(&path).is_none());
        }
        7 if valid => {
            let got = session.store.mkdir(&path);
            session.expect(&got, &Ok(()));
            assert!(!session.honest() || session.get(&path).is_some());
        }
        8 => watches(session, source, &path),
        9 => transaction(session, source),
        10 if valid => {
            let perms = [
                Perm {
                    access: PermAccess::Read,
                    domain: source.any(),
                },
                Perm {
                    access: PermAccess::None,
                    domain: 7,
                },
            ];
            // What was posted is done before this is answered.
            let _ = session.store.read(&path);
            let there = session.get(&path).map(|_| ()).ok_or(XsError::ENOENT);
            let mut view = session.store.view();
            let set = view.set_perms(&path, &perms);
            let got = view.get_perms(&path);
            session.expect(&set, &there);
            session.expect(&got, &there.map(|()| perms.to_vec()));
        }
        11 => {
            let posted = session.store.post(&path, source.bytes(30));
            let full = posted == Ok(false);
            assert!(
                !session.honest() || full || posted.is_ok() == valid,
                "{posted:?}"
            );
            assert!(session.store.service().is_ok() || !session.honest());
        }
        12 => {
            // Somebody else.
            let path = source.pick(&PATHS);
            session.daemon.borrow_mut().set(path, source.bytes(20));
        }
        _ => {
            if !session.shared.borrow().mad {
                session.daemon.borrow_mut().run();
            }
            let got = session.store.reconnect();
            assert!(
                !session.honest()
                    || matches!(got.as_ref().map_err(Error::why), Err(Failure::Closed(0))),
                "it was not offered"
            );
        }
    }
}

fn numbers(session: &mut Session, path: &str) {
    let number: Result<u16, Error> = session.store.read_number(path);
    if let (Ok(number), true) = (number, session.honest()) {
        let value = session.get(path).expect("it was read");
        let digits = value.strip_suffix(&[0]).unwrap_or(&value);
        assert!(digits.iter().all(u8::is_ascii_digit));
        assert_eq!(String::from_utf8_lossy(digits).parse(), Ok(number));
    }
    if let Ok(text) = session.store.read_string(path, 20) {
        assert!(text.len() <= 20);
    }
}

fn directory(session: &mut Session, path: &str) {
    let Ok(names) = session.store.directory(path) else {
        assert!(!session.honest() || session.get(path).is_none());
        return;
    };
    for name in &names {
        assert!(is_valid_path(name) && !name.contains('/'), "{name:?}");
    }
    if session.honest() {
        let child = |name: &str| format!("{}/{name}", path.trim_end_matches('/'));
        assert!(names.iter().all(|name| session.get(&child(name)).is_some()));
        let known = PATHS
            .iter()
            .filter_map(|known| known.strip_prefix(path)?.strip_prefix('/'));
        for name in known.filter(|name| !name.contains('/')) {
            assert_eq!(
                names.iter().any(|n| n == name),
                session.get(&child(name)).is_some()
            );
        }
    }
}

fn one_of_the_crowd(n: usize) -> String {
    format!("{CROWD}/{n}{}", "-long".repeat(90))
}

/// A directory that is listed in parts, while it changes.
fn crowd(session: &mut Session, source: &mut Source<'_>) {
    session.listed = true;
    let for_ever = source.rarely() && source.coin();
    let mut changes = if for_ever {
        u32::MAX
    } else {
        source.pick(&[0, 0, 1, 2])
    };
    session.daemon.borrow_mut().between_parts = Some(Box::new(move || {
        changes = changes.checked_sub(1)?;
        Some(one_of_the_crowd(0))
    }));
    match session.store.directory(CROWD) {
        Ok(names) => assert!(!session.honest() || names.len() == CROWDED, "{names:?}"),
        Err(error) => {
            if let Failure::Conflict { attempts } = error.why() {
                assert!(*attempts <= MAX_ATTEMPTS);
            } else {
                let missing =
                    error.refusal() == Some(XsError::ENOENT) && session.get(CROWD).is_none();
                assert!(missing || !session.honest(), "{error}");
            }
        }
    }
    session.daemon.borrow_mut().between_parts = None;
}

fn watches(session: &mut Session, source: &mut Source<'_>, path: &str) {
    let token = source.pick(&["t", "u", "", "\0"]);
    if source.below(4) == 0 {
        let _ = session.store.unwatch(path, token);
    } else {
        let got = session.store.watch(path, token);
        assert!(
            token != "\0"
                || matches!(
                    got.as_ref().map_err(Error::why),
                    Err(Failure::BadRequest { .. })
                )
        );
        if got.is_ok() && session.honest() {
            // It fires at once, and this is seen or known to be lost.
            let mut seen = session.store.take_overflow();
            for _ in 0..PATIENCE {
                session.daemon.borrow_mut().run();
                while let Ok(Some(event)) = session.store.next_watch() {
                    seen |= event.path == path && event.token == token;
                }
                seen |= session.store.take_overflow();
                if seen {
                    break;
                }
            }
            assert!(seen);
        }
    }
    for left in (0..=MAX_EVENTS).rev() {
        if !matches!(session.store.next_watch(), Ok(Some(_))) {
            break;
        }
        assert_ne!(left, 0, "events are kept without bound");
    }
}

/// Changes that all happen or none.
fn transaction(session: &mut Session, source: &mut Source<'_>) {
    let collisions = source.pick(&[0, 0, 0, 1, MAX_ATTEMPTS - 1, MAX_ATTEMPTS]);
    session.daemon.borrow_mut().collisions = collisions;
    let fails = source.rarely();
    let changes: Vec<(&str, Vec<u8>)> = (0..source.below(4))
        .map(|n| (PATHS[n * 2 % PATHS.len()], source.bytes(10).to_vec()))
        .collect();
    // What was posted is done before this is answered.
    let _ = session.store.read("a");
    let before: Vec<_> = PATHS.iter().map(|path| session.get(path)).collect();
    let mut attempts = 0;
    let got = session.store.transaction(|view| {
        attempts += 1;
        for (path, value) in &changes {
            view.write(path, value)?;
            if view.read(path)? != *value {
                return Err(Failure::TimedOut.into());
            }
        }
        if fails {
            Err(Failure::Conflict { attempts: 99 }.into())
        } else {
            Ok(())
        }
    });
    assert!(attempts <= MAX_ATTEMPTS);
    if session.honest() {
        assert_eq!(session.daemon.borrow().transaction_count(), 0);
        let expected = if fails {
            Err(Failure::Conflict { attempts: 99 }.into())
        } else if collisions == MAX_ATTEMPTS {
            Err(Failure::Conflict {
                attempts: MAX_ATTEMPTS,
            }
            .into())
        } else {
            Ok(())
        };
        assert_eq!(got, expected);
        if got.is_ok() {
            assert!(
                changes
                    .iter()
                    .all(|(path, value)| session.get(path).as_ref() == Some(value))
            );
        } else {
            let after: Vec<_> = PATHS.iter().map(|path| session.get(path)).collect();
            assert_eq!(before, after);
        }
    }
    session.daemon.borrow_mut().collisions = 0;
}

/// The daemon comes to its senses, and the connection is set up afresh.
fn heals(session: &mut Session) {
    *session.shared.borrow_mut() = Shared::default();
    session.page.store_u32(XENSTORE_ERROR, 0);
    session.page.store_u32(XENSTORE_CONNECTION, 0);
    session
        .page
        .store_u32(XENSTORE_SERVER_FEATURES, SERVER_FEATURE_RECONNECTION);
    assert_eq!(session.store.reconnect(), Ok(()));
    assert!(session.store.take_overflow());
    assert_eq!(session.store.write("a/b", b"healed"), Ok(()));
    assert_eq!(session.store.read("a/b"), Ok(b"healed".to_vec()));
    assert_eq!(session.store.watch("a", "t"), Ok(()));
    assert_eq!(session.daemon.borrow().watch_count(), 1);
}

/// One stream in two ways: byte by byte in pieces of the fuzzer's choice, and all at once.
fn framing(source: &mut Source<'_>) {
    let cut = source.between(1, 40) as usize;
    let mut clients = [Client::new(), Client::new()];
    for client in &mut clients {
        for (op, tx) in [(Op::Read, 0), (Op::Directory, 7), (Op::Write, 0)] {
            client
                .request(op, TxId(tx), &[b"a\0"])
                .expect("room for three");
        }
    }
    let mut stream = Vec::new();
    while !source.is_empty() {
        if source.rarely() {
            stream.extend(source.bytes(40));
            continue;
        }
        if source.rarely() {
            // More than are kept, all different.
            for n in 0..source.below(2 * MAX_EVENTS) {
                stream.extend(event(format!("n/{n}\0{}\0", "t".repeat(n)).as_bytes()));
            }
        }
        let (kind, req_id, tx) = source.pick(&[
            (2, 1, 0),
            (1, 2, 7),
            (11, 3, 0),
            (15, 0, 0),
            (16, 1, 0),
            (2, 9, 0),
            (1, 2, 0),
            (3, 3, 0),
        ]);
        let payload = if kind == 15 && source.coin() {
            source.pick(&["a\0t\0", "a/b\0\0", "/x\0u\0"]).into()
        } else {
            source.bytes(50).to_vec()
        };
        let len = if source.rarely() {
            source.edge() as u32
        } else {
            payload.len() as u32
        };
        stream.extend(framed(
            Header {
                kind,
                req_id,
                tx_id: TxId(tx),
                len,
            },
            &payload,
        ));
    }
    let [whole, pieces] = &mut clients;
    let first = whole.feed(&stream);
    let second = stream.chunks(cut).try_for_each(|piece| pieces.feed(piece));
    assert_eq!(first, second);
    assert_eq!(whole.counters(), pieces.counters());
    assert_eq!(whole.take_overflow(), pieces.take_overflow());
    let mut replies = 0;
    let mut events = 0;
    loop {
        let event = whole.poll();
        assert_eq!(event, pieces.poll());
        match event {
            Some(Event::Reply { .. }) => replies += 1,
            Some(Event::Watch(_)) => events += 1,
            None => break,
        }
    }
    assert!(replies <= 3 && events <= MAX_EVENTS);
    // The dead stay dead, until they are reset.
    assert!(first.is_ok() || whole.feed(b"x") == first);
    whole.reset();
    assert_eq!(whole.feed(b"x"), Ok(()));
}
