//! Requests, responses, rings and numbers against Xen's own C headers ([`vd_pv::test_util::ask_c`]).

use std::path::Path;

use vd_blkif::handshake::State;
use vd_blkif::ring;
use vd_blkif::wire::{
    MAX_SEGMENTS, Op, PROTOCOL, RESPONSE, Request, Response, SEGMENT, SEGMENTS_PER_PAGE, SLOT,
    Segment, Status,
};
use vd_pv::test_util::{ask_c, hex};

const PROGRAM: &str = r#"
int main(void) {
    union { blkif_request_t rw; blkif_request_discard_t discard; blkif_request_indirect_t list;
            unsigned char all[sizeof(union blkif_sring_entry)]; } r;
    int n;

    memset(&r, 0, sizeof r);
    r.rw.operation = BLKIF_OP_WRITE; r.rw.nr_segments = 11; r.rw.handle = 0xca10;
    r.rw.id = 0x1122334455667788; r.rw.sector_number = 0x99aabbccddeeff00;
    for (n = 0; n < 11; n++) {
        r.rw.seg[n].gref = 0x01020304 + n; r.rw.seg[n].first_sect = n % 8; r.rw.seg[n].last_sect = 7;
    }
    dump("write", &r, sizeof r);
    memset(&r, 0, sizeof r);
    r.rw.operation = BLKIF_OP_FLUSH_DISKCACHE; r.rw.handle = 0xca10; r.rw.id = 5;
    dump("flush", &r, sizeof r);
    memset(&r, 0, sizeof r);
    r.discard.operation = BLKIF_OP_DISCARD; r.discard.handle = 0xca10; r.discard.id = 6;
    r.discard.sector_number = 0x0102030405060708; r.discard.nr_sectors = 0x1112131415161718;
    dump("discard", &r, sizeof r);
    memset(&r, 0, sizeof r);
    r.list.operation = BLKIF_OP_INDIRECT; r.list.indirect_op = BLKIF_OP_READ; r.list.nr_segments = 300;
    r.list.handle = 0xca10; r.list.id = 7; r.list.sector_number = 8; r.list.indirect_grefs[0] = 0x0a0b0c0d;
    dump("list", &r, sizeof r);

    blkif_response_t a;
    memset(&a, 0xee, sizeof a);
    a.id = 0x1122334455667788; a.operation = BLKIF_OP_INDIRECT; a.status = BLKIF_RSP_EOPNOTSUPP;
    dump("unsupported", &a, sizeof a);
    a.status = BLKIF_RSP_ERROR; dump("error", &a, sizeof a);
    a.status = BLKIF_RSP_OKAY; dump("okay", &a, sizeof a);

    number("slot", sizeof(union blkif_sring_entry));
    number("response", sizeof(blkif_response_t));
    number("segment", sizeof(struct blkif_request_segment));
    number("segments", BLKIF_MAX_SEGMENTS_PER_REQUEST);
    number("segments-a-page", 4096 / sizeof(struct blkif_request_segment));
    number("header", offsetof(blkif_sring_t, ring));
    number("req_prod", offsetof(blkif_sring_t, req_prod));
    number("req_event", offsetof(blkif_sring_t, req_event));
    number("rsp_prod", offsetof(blkif_sring_t, rsp_prod));
    number("rsp_event", offsetof(blkif_sring_t, rsp_event));
    number("ring-1", __CONST_RING_SIZE(blkif, 4096));
    number("ring-2", __CONST_RING_SIZE(blkif, 2 * 4096));
    number("ring-4", __CONST_RING_SIZE(blkif, 4 * 4096));
    number("ring-8", __CONST_RING_SIZE(blkif, 8 * 4096));
    number("ring-16", __CONST_RING_SIZE(blkif, 16 * 4096));
    number("barrier", BLKIF_OP_WRITE_BARRIER);
    number("info", VDISK_CDROM | VDISK_REMOVABLE << 4 | VDISK_READONLY << 8);
    number("initialising", XenbusStateInitialising);
    number("initwait", XenbusStateInitWait);
    number("initialised", XenbusStateInitialised);
    number("connected", XenbusStateConnected);
    number("closing", XenbusStateClosing);
    number("closed", XenbusStateClosed);
    printf("protocol %s\n", XEN_IO_PROTO_ABI_X86_64);
    return 0;
}
"#;

#[test]
fn everything_is_as_the_c_headers_have_it() {
    const HANDLE: u16 = 0xca10;
    let segments: [Segment; 11] = std::array::from_fn(|n| Segment {
        gref: 0x0102_0304 + n as u32,
        first: n as u8 % 8,
        last: 7,
    });
    let write = Request::Direct {
        op: Op::Write,
        sector: 0x99aa_bbcc_ddee_ff00,
        segments: &segments,
    };
    let flush = Request::Direct {
        op: Op::FlushDiskcache,
        sector: 0,
        segments: &[],
    };
    let discard = Request::Discard {
        sector: 0x0102_0304_0506_0708,
        sectors: 0x1112_1314_1516_1718,
    };
    let list = Request::Indirect {
        op: Op::Read,
        sector: 8,
        segments: 300,
        page: 0x0a0b_0c0d,
    };
    let id = 0x1122_3344_5566_7788;
    let numbers = [
        ("slot", SLOT),
        ("response", RESPONSE),
        ("segment", SEGMENT),
        ("segments", MAX_SEGMENTS),
        ("segments-a-page", SEGMENTS_PER_PAGE),
        ("header", ring::HEADER),
        ("req_prod", 0),
        ("req_event", 4),
        ("rsp_prod", 8),
        ("rsp_event", 12),
        ("barrier", Op::WriteBarrier as usize),
        ("info", 1 | 2 << 4 | 4 << 8),
        ("initialising", State::Initialising as usize),
        ("initwait", State::InitWait as usize),
        ("initialised", State::Initialised as usize),
        ("connected", State::Connected as usize),
        ("closing", State::Closing as usize),
        ("closed", State::Closed as usize),
    ];
    let mut expected: Vec<(String, String)> = vec![
        ("write".into(), hex(&write.encode(HANDLE, id))),
        ("flush".into(), hex(&flush.encode(HANDLE, 5))),
        ("discard".into(), hex(&discard.encode(HANDLE, 6))),
        ("list".into(), hex(&list.encode(HANDLE, 7))),
        ("protocol".into(), PROTOCOL.into()),
    ];
    expected.extend(numbers.map(|(name, value)| (name.into(), value.to_string())));
    for pages in [1, 2, 4, 8, 16] {
        expected.push((format!("ring-{pages}"), ring::slots(pages).to_string()));
    }
    let headers = ["xen.h", "io/blkif.h", "io/xenbus.h", "io/protocols.h"];
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("blkif-layout");
    let said = ask_c(&headers, PROGRAM, &dir);
    said.check(&expected, 3);
    for (name, status) in [
        ("unsupported", Status::Unsupported),
        ("error", Status::Error),
        ("okay", Status::Okay),
    ] {
        let response = Response {
            id,
            operation: Op::Indirect as u8,
            status,
        };
        assert_eq!(Response::decode(said.bytes(name)), response);
    }
}
