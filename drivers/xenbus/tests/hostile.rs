//! Attack case 37: daemons that break the protocol, and rings with garbage.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use vd_xenbus::client::{Client, MAX_OUTSTANDING, ReplyError, RequestError};
use vd_xenbus::ring::{
    CONSOLE_IN, CONSOLE_OUT, Consumer, Producer, RingError, SERVER_FEATURE_ERROR,
    SERVER_FEATURE_RECONNECTION, SharedPage, XENSTORE_ERROR, XENSTORE_REQ, XENSTORE_RSP,
    XENSTORE_SERVER_FEATURES,
};
use vd_xenbus::store::MAX_DIRECTORY_BYTES;
use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored, Tamper};
use vd_xenbus::wire::Header;
use vd_xenbus::{Error, Event, Failure, Op, RingTransport, TxId, Violation, Xenstore, XsError};

type Store = Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>;

fn connect() -> (Store, Rc<RefCell<FakeXenstored>>, Rc<FakePage>) {
    let page = Rc::new(FakePage::new());
    let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
    let mut signal = FakeSignal::new(daemon.clone());
    signal.patience = 50;
    (
        Xenstore::new(RingTransport::attach(page.clone(), signal)),
        daemon,
        page,
    )
}

/// What a read says when the daemon's replies are tampered with.
fn read_with(tamper: Tamper) -> Result<Vec<u8>, Error> {
    let (mut store, daemon, _) = connect();
    daemon.borrow_mut().set("v", b"value");
    daemon.borrow_mut().tamper = Some(tamper);
    store.read("v")
}

fn bytes(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.encode()[..], payload].concat()
}

#[test]
fn row37_oversized_reply_kills_the_connection() {
    for len in [4097, 0x1_0000, u32::MAX] {
        let result = read_with(Box::new(move |header, payload| {
            bytes(Header { len, ..header }, payload)
        }));
        assert_eq!(
            result,
            Err(Failure::Protocol(Violation::Oversized(len)).into())
        );
    }
    let mut client = Client::new();
    let header = Header {
        kind: 2,
        req_id: 1,
        tx_id: TxId::NONE,
        len: 4097,
    };
    assert_eq!(
        client.feed(&header.encode()),
        Err(Violation::Oversized(4097))
    );
    assert_eq!(
        client.feed(b"x"),
        Err(Violation::Oversized(4097)),
        "and it stays so"
    );
    client.reset();
    assert_eq!(client.feed(b"x"), Ok(()));
    assert!(
        client.take_overflow(),
        "watches are lost with the connection"
    );
}

#[test]
fn row37_wrong_request_number_is_no_reply() {
    let tamper = |header: Header, payload: &[u8]| {
        bytes(
            Header {
                req_id: header.req_id ^ 0x80,
                ..header
            },
            payload,
        )
    };
    assert_eq!(read_with(Box::new(tamper)), Err(Failure::TimedOut.into()));
}

#[test]
fn row37_wrong_transaction_and_wrong_type() {
    let tamper = |header: Header, payload: &[u8]| {
        bytes(
            Header {
                tx_id: TxId(9),
                ..header
            },
            payload,
        )
    };
    assert_eq!(
        read_with(Box::new(tamper)),
        Err(Failure::Protocol(Violation::WrongTransaction(9)).into())
    );
    for kind in [0, Op::Write.number(), 20, 23, 0xffff, u32::MAX] {
        let tamper =
            move |header: Header, payload: &[u8]| bytes(Header { kind, ..header }, payload);
        assert_eq!(
            read_with(Box::new(tamper)),
            Err(Failure::Protocol(Violation::WrongType(kind)).into())
        );
    }
}

#[test]
fn row37_short_and_missing_replies_time_out() {
    assert_eq!(
        read_with(Box::new(|_, _| Vec::new())),
        Err(Failure::TimedOut.into())
    );
    for keep in [1, 15, 16, 20] {
        let tamper = move |header, payload: &[u8]| bytes(header, payload)[..keep].to_vec();
        assert_eq!(read_with(Box::new(tamper)), Err(Failure::TimedOut.into()));
    }
}

#[test]
fn row37_late_replies_are_dropped() {
    let (mut store, daemon, _) = connect();
    daemon.borrow_mut().set("v", b"1");
    let mut held = Vec::new();
    let mut calls = 0;
    daemon.borrow_mut().tamper = Some(Box::new(move |header, payload| {
        calls += 1;
        held.extend(bytes(header, payload));
        if calls == 1 {
            Vec::new()
        } else {
            std::mem::take(&mut held)
        }
    }));
    assert_eq!(store.read("v"), Err(Failure::TimedOut.into()));
    daemon.borrow_mut().set("v", b"2");
    assert_eq!(
        store.read("v").unwrap(),
        b"2",
        "not the answer to the question before"
    );
    assert_eq!(store.counters().strays, 1);
}

#[test]
fn row37_payloads_that_mean_nothing() {
    let with = |payload: &'static [u8]| -> Tamper {
        Box::new(move |header, _| {
            bytes(
                Header {
                    len: payload.len() as u32,
                    ..header
                },
                payload,
            )
        })
    };
    let garbage = Err(Failure::Protocol(Violation::Payload).into());
    for payload in [&b""[..], b"OK", b"OK\0\0", b"NO\0"] {
        let (mut store, daemon, _) = connect();
        daemon.borrow_mut().set("a", b"");
        daemon.borrow_mut().tamper = Some(with(payload));
        assert_eq!(store.write("a", b""), garbage, "{payload:?}");
        assert_eq!(store.reset_watches(), garbage);
    }
    for payload in [&b""[..], b"0\0", b"-1\0", b"x\0", b"4294967296\0"] {
        let (mut store, daemon, _) = connect();
        daemon.borrow_mut().set("a", b"");
        daemon.borrow_mut().tamper = Some(with(payload));
        assert_eq!(store.transaction(|_| Ok(())), garbage, "{payload:?}");
    }
    for payload in [&b"\xff\0"[..], b"a/b\0", b"a\0\0b\0", b"..\0"] {
        let (mut store, daemon, _) = connect();
        daemon.borrow_mut().set("a", b"");
        daemon.borrow_mut().tamper = Some(with(payload));
        assert_eq!(store.directory("a").map(drop), garbage, "{payload:?}");
    }
    for payload in [&b"relative path\0"[..], b"\0", b"", b"/\xff\0", b"/a//b\0"] {
        let (mut store, daemon, _) = connect();
        daemon.borrow_mut().set("a", b"");
        daemon.borrow_mut().tamper = Some(with(payload));
        assert_eq!(store.get_domain_path(1).map(drop), garbage, "{payload:?}");
    }
    for payload in [&b"x5\0"[..], b"r\0", b"r65536\0", b"r-1\0"] {
        let (mut store, daemon, _) = connect();
        daemon.borrow_mut().set("a", b"");
        daemon.borrow_mut().tamper = Some(with(payload));
        assert_eq!(
            store.view().get_perms("a").map(drop),
            garbage,
            "{payload:?}"
        );
    }
}

#[test]
fn row37_directory_parts_that_never_end() {
    let (mut store, daemon, _) = connect();
    daemon.borrow_mut().set("a", b"");
    daemon.borrow_mut().tamper = Some(Box::new(|header, _| {
        if header.kind == Op::DirectoryPart.number() {
            let payload = [&b"7\0"[..], &b"name\0".repeat(800)].concat();
            bytes(
                Header {
                    len: payload.len() as u32,
                    ..header
                },
                &payload,
            )
        } else {
            let header = Header {
                kind: Op::Error.number(),
                len: 6,
                ..header
            };
            bytes(header, b"E2BIG\0")
        }
    }));
    assert_eq!(
        store.directory("a"),
        Err(Failure::TooLarge { path: "a".into() }.into())
    );
    let seen = daemon.borrow().seen.clone();
    let parts = seen.iter().filter(|op| **op == Op::DirectoryPart).count();
    assert_eq!(parts, MAX_DIRECTORY_BYTES / 4000 + 1, "no more was kept");
    daemon.borrow_mut().tamper = Some(Box::new(|header, _| {
        let (kind, payload): (u32, &[u8]) = match header.kind == Op::DirectoryPart.number() {
            true => (header.kind, b"7\0name-without-end"),
            false => (Op::Error.number(), b"E2BIG\0"),
        };
        bytes(
            Header {
                kind,
                len: payload.len() as u32,
                ..header
            },
            payload,
        )
    }));
    assert_eq!(
        store.directory("a"),
        Err(Failure::Protocol(Violation::Payload).into())
    );
}

#[test]
fn row37_unknown_error_names() {
    for name in [&b"EWHAT\0"[..], b"", b"\0", b"ENOENT\0\0", b"\xff\xff"] {
        let tamper = move |header: Header, _: &[u8]| {
            bytes(
                Header {
                    kind: Op::Error.number(),
                    len: name.len() as u32,
                    ..header
                },
                name,
            )
        };
        assert_eq!(
            read_with(Box::new(tamper)).unwrap_err().refusal(),
            Some(XsError::Unknown),
            "{name:?}"
        );
    }
}

#[test]
fn row37_watch_events_with_bad_payloads_are_dropped() {
    let (mut store, daemon, _) = connect();
    for payload in [
        &b""[..],
        b"path",
        b"path\0",
        b"path\0token",
        b"\0token\0",
        b"\xff\0t\0",
        b"a\0b\0c\0",
    ] {
        let header = Header {
            kind: 15,
            req_id: 0,
            tx_id: TxId::NONE,
            len: payload.len() as u32,
        };
        daemon.borrow_mut().send(header, payload);
    }
    daemon.borrow_mut().run();
    assert_eq!(store.next_watch(), Ok(None));
    assert_eq!(store.counters().bad_watches, 7);
    daemon.borrow_mut().send(
        Header {
            kind: 15,
            req_id: 0,
            tx_id: TxId::NONE,
            len: 3,
        },
        b"p\0\0",
    );
    daemon.borrow_mut().run();
    assert_eq!(
        store.next_watch().unwrap().unwrap().token,
        "",
        "an empty token is one"
    );
}

/// A daemon that only ever sends events does not hold a caller for ever.
#[test]
fn row37_events_instead_of_a_reply() {
    let (mut store, daemon, _) = connect();
    let event = Header {
        kind: 15,
        req_id: 0,
        tx_id: TxId::NONE,
        len: 4,
    };
    for _ in 0..20_000 {
        daemon.borrow_mut().send(event, b"p\0t\0");
    }
    assert_eq!(store.read("v"), Err(Failure::TimedOut.into()));
}

#[test]
fn row37_ring_indices_garbage_and_reconnection() {
    for (offset, value) in [(XENSTORE_RSP.producer, 5000), (XENSTORE_REQ.consumer, 5000)] {
        let (mut store, daemon, page) = connect();
        daemon.borrow_mut().set("v", b"value");
        store.watch("v", "t").unwrap();
        page.store_u32(offset, value);
        assert!(
            matches!(
                store.read("v").map_err(Failure::from),
                Err(Failure::Ring(_))
            ),
            "offset {offset}"
        );
        assert_eq!(
            store.reconnect(),
            Err(Failure::Closed(0).into()),
            "not offered"
        );
        page.store_u32(XENSTORE_SERVER_FEATURES, SERVER_FEATURE_RECONNECTION);
        store.reconnect().unwrap();
        assert!(store.take_overflow(), "everything has to be read again");
        assert_eq!(store.read("v").unwrap(), b"value");
        assert_eq!(daemon.borrow().watch_count(), 0);
    }
}

/// Our own indices on the page are written, never believed.
#[test]
fn row37_our_indices_cannot_be_moved() {
    let page = FakePage::new();
    let mut producer = Producer::attach(&page, CONSOLE_OUT);
    let mut consumer = Consumer::attach(&page, CONSOLE_IN);
    for n in 1..=20 {
        page.store_u32(CONSOLE_OUT.producer, 0xdead_beef);
        page.store_u32(CONSOLE_OUT.consumer, (n - 1) * 3);
        assert_eq!(producer.write(&page, b"abc"), Ok(3));
        assert_eq!(page.load_u32(CONSOLE_OUT.producer), n * 3);
        page.store_u32(CONSOLE_IN.consumer, 0xdead_beef);
        page.store_u32(CONSOLE_IN.producer, n * 3);
        assert_eq!(consumer.read(&page, &mut [0; 8]), Ok(3));
        assert_eq!(page.load_u32(CONSOLE_IN.consumer), n * 3);
    }
}

#[test]
fn row37_error_field_is_told() {
    let (mut store, _, page) = connect();
    page.store_u32(XENSTORE_ERROR, 3);
    assert!(
        matches!(
            store.read("v").map_err(Failure::from),
            Err(Failure::Refused { .. })
        ),
        "not valid without the feature bit"
    );
    page.store_u32(XENSTORE_SERVER_FEATURES, SERVER_FEATURE_ERROR);
    assert_eq!(store.read("v"), Err(Failure::Closed(3).into()));
}

#[test]
fn requests_under_way_are_bounded() {
    let mut client = Client::new();
    for _ in 0..MAX_OUTSTANDING {
        client.request(Op::Read, TxId::NONE, &[b"a\0"]).unwrap();
    }
    assert_eq!(
        client.request(Op::Read, TxId::NONE, &[b"a\0"]),
        Err(RequestError::TooMany)
    );
}

#[test]
fn replies_in_any_order() {
    let mut client = Client::new();
    let first = client.request(Op::Read, TxId::NONE, &[b"a\0"]).unwrap();
    let second = client.request(Op::Rm, TxId(4), &[b"b\0"]).unwrap();
    let sent = client.output().to_vec();
    let first_header = Header::decode(&sent).unwrap();
    let second_header = Header::decode(&sent[18..]).unwrap();
    assert_eq!((second_header.tx_id, second_header.len), (TxId(4), 2));
    client.sent(sent.len());
    assert!(client.output().is_empty());
    client
        .feed(&bytes(
            Header {
                kind: 16,
                len: 7,
                ..second_header
            },
            b"ENOENT\0",
        ))
        .unwrap();
    client
        .feed(&bytes(
            Header {
                len: 1,
                ..first_header
            },
            b"v",
        ))
        .unwrap();
    let refused = Err(ReplyError::Refused(XsError::ENOENT));
    assert_eq!(
        client.poll(),
        Some(Event::Reply {
            id: second,
            result: refused
        })
    );
    assert_eq!(client.take_reply(first), Some(Ok(b"v".to_vec())));
    assert_eq!(client.poll(), None);
}

/// Whether its reply has come or not: it is forgotten, and no other is.
#[test]
fn requests_are_abandoned_one_by_one() {
    for answered in [false, true] {
        let mut client = Client::new();
        let ids = [b"a\0", b"b\0"].map(|path| client.request(Op::Read, TxId::NONE, &[path]));
        let [gone, kept] = ids.map(Result::unwrap);
        let sent = client.output().to_vec();
        let answers = [&sent[..], &sent[18..]].map(|request| {
            let header = Header::decode(request).unwrap();
            bytes(Header { len: 1, ..header }, b"v")
        });
        if !answered {
            client.abandon(gone);
        }
        client.feed(&answers.concat()).unwrap();
        if answered {
            client.abandon(gone);
        }
        assert_eq!(client.counters().strays, u64::from(!answered));
        assert_eq!(client.take_reply(gone), None);
        assert_eq!(client.take_reply(kept), Some(Ok(b"v".to_vec())));
    }
}

#[test]
fn ring_wraps_and_fills() {
    let page = FakePage::new();
    page.store_u32(CONSOLE_IN.consumer, u32::MAX - 5);
    page.store_u32(CONSOLE_IN.producer, u32::MAX - 5);
    let (mut producer, mut consumer) = (
        Producer::attach(&page, CONSOLE_IN),
        Consumer::attach(&page, CONSOLE_IN),
    );
    let data: Vec<u8> = (0..1500_u32).map(|n| n as u8).collect();
    assert_eq!(producer.write(&page, &data), Ok(1024));
    assert_eq!(producer.write(&page, &data), Ok(0));
    let mut out = [0; 700];
    assert_eq!(consumer.read(&page, &mut out), Ok(700));
    assert_eq!(out[..], data[..700]);
    assert_eq!(producer.write(&page, &data[1024..]), Ok(476));
    let mut rest = [0; 2000];
    assert_eq!(consumer.read(&page, &mut rest), Ok(800));
    assert_eq!(rest[..800], data[700..]);
    page.store_u32(CONSOLE_IN.producer, 0x8000_0000);
    assert!(matches!(
        consumer.read(&page, &mut rest),
        Err(RingError {
            producer: 0x8000_0000,
            ..
        })
    ));
    consumer.resynchronise(&page);
    assert_eq!(consumer.read(&page, &mut rest), Ok(0));
}

#[test]
fn layouts_are_those_of_the_public_headers() {
    assert_eq!((XENSTORE_REQ.data, XENSTORE_RSP.data), (0, 1024));
    assert_eq!((XENSTORE_REQ.consumer, XENSTORE_REQ.producer), (2048, 2052));
    assert_eq!((XENSTORE_RSP.consumer, XENSTORE_RSP.producer), (2056, 2060));
    assert_eq!(
        (CONSOLE_IN.size, CONSOLE_OUT.data, CONSOLE_OUT.size),
        (1024, 1024, 2048)
    );
    assert_eq!((CONSOLE_IN.consumer, CONSOLE_IN.producer), (3072, 3076));
    assert_eq!((CONSOLE_OUT.consumer, CONSOLE_OUT.producer), (3080, 3084));
}

proptest! {
    /// Any bytes in any pieces: no panic, and what is kept is bounded.
    #[test]
    fn row37_random_bytes(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40)) {
        let mut client = Client::new();
        client.request(Op::Read, TxId::NONE, &[b"a\0"]).unwrap();
        for piece in &pieces {
            let _ = client.feed(piece);
        }
        let events = std::iter::from_fn(|| client.poll()).count();
        prop_assert!(events <= 1 + vd_xenbus::watch::MAX_EVENTS);
    }

    /// Plausible messages, split anywhere.
    #[test]
    fn row37_random_messages(
        messages in prop::collection::vec((0_u32..24, 0_u32..3, 0_u32..2, prop::collection::vec(0_u8..4, 0..40)), 0..60),
        cut in 1_usize..50,
    ) {
        let mut client = Client::new();
        client.request(Op::Read, TxId::NONE, &[b"a\0"]).unwrap();
        client.request(Op::Write, TxId(1), &[b"a\0b"]).unwrap();
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|(kind, req_id, tx, payload)| {
                let header = Header { kind: *kind, req_id: *req_id, tx_id: TxId(*tx), len: payload.len() as u32 };
                bytes(header, payload)
            })
            .collect();
        for piece in stream.chunks(cut) {
            prop_assert_eq!(client.feed(piece), Ok(()));
        }
        let mut replies = 0;
        while let Some(event) = client.poll() {
            replies += u32::from(matches!(event, Event::Reply { .. }));
        }
        prop_assert!(replies <= 2, "at most one reply a request");
    }
}
