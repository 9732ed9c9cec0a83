//! Requests, responses, rings and numbers against Xen's own C headers ([`vd_pv::test_util::ask_c`]).

use std::path::Path;

use vd_netif::wire::{
    Extra, Gso, MAX_SLOTS, RX_REQUEST, RX_RESPONSE, RxRequest, RxResponse, Status, TX_REQUEST,
    TX_RESPONSE, TxRequest, TxResponse, rx, tx,
};
use vd_pv::ring;
use vd_pv::test_util::{ask_c, hex};

const PROGRAM: &str = r#"
int main(void) {
    union { netif_tx_request_t r; struct netif_extra_info e; unsigned char all[12]; } t;
    memset(&t, 0, sizeof t);
    t.r.gref = 0x01020304; t.r.offset = 0x0506; t.r.flags = 0x0708; t.r.id = 0x090a; t.r.size = 0x0b0c;
    dump("tx", &t, sizeof t);
    for (int v = 0; v < 2; v++) {
        memset(&t, 0, sizeof t);
        t.e.type = XEN_NETIF_EXTRA_TYPE_GSO; t.e.u.gso.size = 1448;
        t.e.u.gso.type = v ? XEN_NETIF_GSO_TYPE_TCPV6 : XEN_NETIF_GSO_TYPE_TCPV4;
        dump(v ? "gso6" : "gso4", &t, sizeof t);
    }
    struct netif_extra_info e;
    memset(&e, 0, sizeof e);
    e.type = XEN_NETIF_EXTRA_TYPE_GSO; e.flags = XEN_NETIF_EXTRA_FLAG_MORE;
    e.u.gso.size = 1400; e.u.gso.type = XEN_NETIF_GSO_TYPE_TCPV6;
    dump("gso-in", &e, sizeof e);
    memset(&e, 0, sizeof e);
    e.type = XEN_NETIF_EXTRA_TYPE_MAX - 1;
    dump("last-in", &e, sizeof e);

    netif_rx_request_t q;
    memset(&q, 0, sizeof q);
    q.id = 0x0102; q.gref = 0x03040506;
    dump("rx", &q, sizeof q);

    netif_tx_response_t a;
    memset(&a, 0, sizeof a);
    a.id = 0x0102;
    a.status = NETIF_RSP_OKAY; dump("okay", &a, sizeof a);
    a.status = NETIF_RSP_ERROR; dump("error", &a, sizeof a);
    a.status = NETIF_RSP_DROPPED; dump("dropped", &a, sizeof a);
    a.status = NETIF_RSP_NULL; dump("null", &a, sizeof a);

    netif_rx_response_t b;
    memset(&b, 0, sizeof b);
    b.id = 0x0102; b.offset = 0x0304; b.flags = 0x0506; b.status = 0x0708;
    dump("in", &b, sizeof b);
    b.status = NETIF_RSP_ERROR; dump("in-error", &b, sizeof b);

    number("tx-slot", sizeof(union netif_tx_sring_entry));
    number("tx-response", sizeof a);
    number("rx-slot", sizeof(union netif_rx_sring_entry));
    number("rx-response", sizeof b);
    number("tx-header", offsetof(netif_tx_sring_t, ring));
    number("rx-header", offsetof(netif_rx_sring_t, ring));
    number("tx-slots", __CONST_RING_SIZE(netif_tx, 4096));
    number("rx-slots", __CONST_RING_SIZE(netif_rx, 4096));
    number("slots-of-a-frame", XEN_NETIF_NR_SLOTS_MIN);
    number("tx-flags", NETTXF_csum_blank | NETTXF_data_validated << 4 | NETTXF_more_data << 8 | NETTXF_extra_info << 12);
    number("rx-flags", NETRXF_csum_blank | NETRXF_data_validated << 4 | NETRXF_more_data << 8 | NETRXF_extra_info << 12
        | NETRXF_gso_prefix << 16);
    return 0;
}
"#;

#[test]
fn everything_is_as_the_c_headers_have_it() {
    let request = TxRequest {
        gref: 0x0102_0304,
        offset: 0x0506,
        flags: 0x0708,
        id: 0x090a,
        size: 0x0b0c,
    };
    let gso = |ipv6| Gso { ipv6, size: 1448 };
    let buffer = RxRequest {
        id: 0x0102,
        gref: 0x0304_0506,
    };
    let mut expected: Vec<(String, String)> = vec![
        ("tx".into(), hex(&request.encode())),
        ("gso4".into(), hex(&Extra::encode(gso(false)))),
        ("gso6".into(), hex(&Extra::encode(gso(true)))),
        ("rx".into(), hex(&buffer.encode())),
    ];
    let flags = |list: &[u16]| {
        let shifted = list.iter().enumerate();
        shifted.fold(0, |all, (n, flag)| all | usize::from(*flag) << (4 * n))
    };
    let (tx_flags, rx_flags) = (
        [
            tx::CSUM_BLANK,
            tx::DATA_VALIDATED,
            tx::MORE_DATA,
            tx::EXTRA_INFO,
        ],
        [
            rx::CSUM_BLANK,
            rx::DATA_VALIDATED,
            rx::MORE_DATA,
            rx::EXTRA_INFO,
            rx::GSO_PREFIX,
        ],
    );
    let slots = |slot| usize::try_from(ring::slots(1, slot)).unwrap();
    let numbers = [
        ("tx-slot", TX_REQUEST),
        ("tx-response", TX_RESPONSE),
        ("rx-slot", RX_REQUEST),
        ("rx-response", RX_RESPONSE),
        ("tx-header", ring::HEADER),
        ("rx-header", ring::HEADER),
        ("tx-slots", slots(TX_REQUEST)),
        ("rx-slots", slots(RX_REQUEST)),
        ("slots-of-a-frame", MAX_SLOTS),
        ("tx-flags", flags(&tx_flags)),
        ("rx-flags", flags(&rx_flags)),
    ];
    expected.extend(numbers.map(|(name, value)| (name.into(), value.to_string())));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("netif-layout");
    let said = ask_c(&["xen.h", "io/netif.h"], PROGRAM, &dir);
    said.check(&expected, 8);
    for (name, status) in [
        ("okay", Status::Okay),
        ("error", Status::Error),
        ("dropped", Status::Dropped),
        ("null", Status::Null),
    ] {
        let response = TxResponse { id: 0x0102, status };
        assert_eq!(TxResponse::decode(said.bytes(name)), response, "{name}");
    }
    let received = |size| RxResponse {
        id: 0x0102,
        offset: 0x0304,
        flags: 0x0506,
        size,
    };
    assert_eq!(RxResponse::decode(said.bytes("in")), received(Some(0x0708)));
    assert_eq!(RxResponse::decode(said.bytes("in-error")), received(None));
    let extra = Extra::decode(said.bytes("gso-in")).unwrap();
    let gso = Some(Gso {
        ipv6: true,
        size: 1400,
    });
    assert_eq!((extra.gso, extra.more), (gso, true));
    let last = Extra::decode(said.bytes("last-in")).unwrap();
    assert_eq!((last.gso, last.more), (None, false));
}
