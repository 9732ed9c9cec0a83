//! Requests one by one: the legal ones, and attack cases 7 and 39.

use vd_blk::{Backend, BackendError, BlockDevice, Geometry, RamDisk};
use vd_virtio::fault::FaultKind;
use vd_virtio::test_util::{FakeMemory, chain};
use vd_virtio::{Device, GuestMemory, Span};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const SECTORS: u64 = 64;
const HEADER: u64 = 0x100;
const DATA: u64 = 0x1000;
const STATUS: u64 = 0x200;

type Disk = BlockDevice<RamDisk<Vec<u8>>>;

fn disk(readonly: bool) -> Disk {
    let content = (0..SECTORS * 512).map(|at| (at / 512) as u8).collect();
    BlockDevice::new(
        RamDisk::new(content),
        Geometry::of_blocks(512),
        b"SERIAL",
        readonly,
    )
}

fn memory() -> FakeMemory {
    FakeMemory::new(0x1_0000).hole(0x8000..0x9000)
}

fn header(mem: &FakeMemory, kind: u32, sector: u64) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    mem.put(HEADER, &bytes);
    mem.put(STATUS, &[0xff]);
}

/// One request with `len` bytes of data in the direction of its type; gives the status.
fn request<B: Backend>(
    disk: &mut BlockDevice<B>,
    mem: &FakeMemory,
    kind: u32,
    sector: u64,
    len: u32,
) -> u8 {
    header(mem, kind, sector);
    let data = [(DATA, len)];
    let data = if len == 0 { &data[..0] } else { &data[..] };
    let to_driver = matches!(kind, 0 | 8);
    let mut readable = vec![(HEADER, 16)];
    let mut writable = vec![];
    if to_driver {
        &mut writable
    } else {
        &mut readable
    }
    .extend_from_slice(data);
    writable.push((STATUS, 1));
    let used = disk
        .serve(mem, &chain(&readable, &writable).unwrap())
        .unwrap();
    let [status] = mem.get(STATUS);
    // The used length reaches from the start to the last byte that was written without a gap.
    let data = if to_driver { len } else { 0 };
    let expected = if status == OK || data == 0 {
        data + 1
    } else {
        0
    };
    assert_eq!(used, expected);
    status
}

#[test]
fn in_and_out() {
    let (mut disk, mem) = (disk(false), memory());
    assert_eq!(request(&mut disk, &mem, 0, 5, 1024), OK);
    assert_eq!([mem.get::<1>(DATA), mem.get::<1>(DATA + 1023)], [[5], [6]]);
    mem.put(DATA, &[0xaa; 512]);
    assert_eq!(request(&mut disk, &mem, 1, 63, 512), OK);
    assert_eq!(request(&mut disk, &mem, 0, 62, 1024), OK);
    assert_eq!(
        [mem.get::<1>(DATA), mem.get::<1>(DATA + 1023)],
        [[62], [0xaa]]
    );
    let counters = disk.counters();
    assert_eq!([counters.reads, counters.bytes_read], [2, 2048]);
    assert_eq!(
        [counters.writes, counters.bytes_written, counters.errors],
        [1, 512, 0]
    );
}

#[test]
fn row39_sectors_outside_of_the_disk() {
    let (mut disk, mem) = (disk(false), memory());
    let wraps = [
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
        u64::MAX - 1,
        1 << 63,
    ];
    for sector in [SECTORS, SECTORS - 1].into_iter().chain(wraps) {
        assert_eq!(request(&mut disk, &mem, 0, sector, 1024), IOERR, "{sector}");
        assert_eq!(request(&mut disk, &mem, 1, sector, 1024), IOERR, "{sector}");
    }
    assert_eq!(disk.counters().errors, 14);
    assert_eq!(
        request(&mut disk, &mem, 0, SECTORS - 2, 1024),
        OK,
        "and it goes on"
    );
}

#[test]
fn row39_lengths_that_are_no_sectors() {
    let (mut disk, mem) = (disk(false), memory());
    for len in [1, 511, 513, 1000] {
        assert_eq!(request(&mut disk, &mem, 0, 0, len), IOERR);
        assert_eq!(request(&mut disk, &mem, 1, 0, len), IOERR);
    }
    assert_eq!(
        request(&mut disk, &mem, 0, 0, 0),
        OK,
        "nothing is a whole number of sectors"
    );
}

#[test]
fn row39_read_only() {
    let (mut disk, mem) = (disk(true), memory());
    assert!(disk.readonly() && !self::disk(false).readonly());
    mem.put(DATA, &[0xaa; 512]);
    for kind in [1, 11, 13] {
        assert_eq!(request(&mut disk, &mem, kind, 0, 512), IOERR);
    }
    assert_eq!(request(&mut disk, &mem, 4, 0, 0), OK);
    assert_eq!(request(&mut disk, &mem, 0, 1, 512), OK);
    assert_eq!(mem.get(DATA), [1; 512]);
    assert_eq!(
        disk.features().bits() & (1 << 5 | 1 << 13 | 1 << 14),
        1 << 5
    );
}

#[test]
fn get_id_and_unknown_types() {
    let (mut disk, mem) = (disk(false), memory());
    assert_eq!(request(&mut disk, &mem, 8, 0, 20), OK);
    assert_eq!(&mem.get::<8>(DATA), b"SERIAL\0\0");
    assert_eq!(request(&mut disk, &mem, 8, 0, 19), IOERR);
    for kind in [2, 3, 5, 7, 10, 12, 14, 15, u32::MAX] {
        assert_eq!(request(&mut disk, &mem, kind, 0, 512), UNSUPP, "{kind}");
    }
}

fn ranges(mem: &FakeMemory, list: &[(u64, u32, u32)]) -> u32 {
    for (at, (sector, sectors, flags)) in (DATA..).step_by(16).zip(list) {
        mem.put(at, &sector.to_le_bytes());
        mem.put(at + 8, &sectors.to_le_bytes());
        mem.put(at + 12, &flags.to_le_bytes());
    }
    list.len() as u32 * 16
}

#[test]
fn discard_and_write_zeroes() {
    for kind in [11, 13] {
        let (mut disk, mem) = (disk(false), memory());
        let len = ranges(&mem, &[(3, 2, 0), (10, 1, 0)]);
        assert_eq!(request(&mut disk, &mem, kind, 0, len), OK);
        for (sector, value) in [(2, 2), (3, 0), (4, 0), (5, 5), (9, 9), (10, 0), (11, 11)] {
            request(&mut disk, &mem, 0, sector, 512);
            assert_eq!(mem.get(DATA), [value; 512], "{kind}: sector {sector}");
        }
        let most = ranges(
            &mem,
            &[(20, 1, 0), (21, 0, 0), (22, 1, 0), (23, 4096 - 23, 0)],
        );
        assert_eq!(request(&mut disk, &mem, kind, 0, most), IOERR);
        let most = ranges(&mem, &[(20, 1, 0), (21, 0, 0), (22, 1, 0), (23, 41, 0)]);
        assert_eq!(
            request(&mut disk, &mem, kind, 0, most),
            OK,
            "as many as it says"
        );
        let flagged = ranges(&mem, &[(20, 1, 1)]);
        let expected = if kind == 13 { OK } else { UNSUPP };
        assert_eq!(request(&mut disk, &mem, kind, 0, flagged), expected);
        let reserved = ranges(&mem, &[(20, 1, 2)]);
        assert_eq!(request(&mut disk, &mem, kind, 0, reserved), UNSUPP);
    }
}

#[test]
fn row39_ranges_outside_of_the_disk() {
    let (mut disk, mem) = (disk(false), memory());
    let bad = [
        (63, 2),
        (64, 1),
        (u64::MAX, 1),
        (u64::MAX / 512, u32::MAX),
        (0, u32::MAX),
    ];
    for (sector, sectors) in bad {
        // A good range before it: all or nothing.
        let len = ranges(&mem, &[(1, 1, 0), (sector, sectors, 0)]);
        assert_eq!(request(&mut disk, &mem, 13, 0, len), IOERR);
    }
    for len in [0, 15, 17, 16 * 5] {
        assert_eq!(request(&mut disk, &mem, 13, 0, len), IOERR);
    }
    request(&mut disk, &mem, 0, 1, 512);
    assert_eq!(mem.get(DATA), [1; 512]);
}

#[test]
fn row07_headers_in_pieces_and_cut_short() {
    let (mut disk, mem) = (disk(false), memory());
    header(&mem, 0, 7);
    let pieces: Vec<(u64, u32)> = (0..16).map(|n| (HEADER + n, 1)).collect();
    let data = [(DATA, 100), (DATA + 100, 412), (STATUS, 1)];
    assert_eq!(disk.serve(&mem, &chain(&pieces, &data).unwrap()), Ok(513));
    assert_eq!(mem.get(DATA), [7; 512]);
    // Data and status in one descriptor.
    assert_eq!(
        disk.serve(&mem, &chain(&pieces, &[(DATA, 513)]).unwrap()),
        Ok(513)
    );
    assert_eq!(mem.get(DATA + 512), [OK]);
    for short in [0, 1, 15] {
        let chain = chain(&pieces[..short], &data).unwrap();
        assert_eq!(disk.serve(&mem, &chain), Err(FaultKind::Header));
    }
}

#[test]
fn row07_no_room_for_the_status() {
    let (mut disk, mem) = (disk(false), memory());
    header(&mem, 1, 0);
    mem.put(DATA, &[0xaa; 512]);
    let chain = chain(&[(HEADER, 16), (DATA, 512)], &[]).unwrap();
    mem.take_written();
    assert_eq!(
        disk.serve(&mem, &chain),
        Ok(0),
        "given back, nothing written"
    );
    assert!(mem.take_written().is_empty());
    request(&mut disk, &mem, 0, 0, 512);
    assert_eq!(mem.get(DATA), [0; 512], "and nothing done");
}

#[test]
fn row04_row05_buffers_that_are_not_ram() {
    let (mut disk, mem) = (disk(false), memory());
    for at in [
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        0xfea0_0000,
        u64::MAX - 600,
    ] {
        header(&mem, 0, 0);
        let read = chain(&[(HEADER, 16)], &[(at, 512), (STATUS, 1)]).unwrap();
        assert!(
            matches!(disk.serve(&mem, &read), Err(FaultKind::Memory(_))),
            "{at:#x}"
        );
        header(&mem, 1, 0);
        let write = chain(&[(HEADER, 16), (at, 512)], &[(STATUS, 1)]).unwrap();
        assert!(matches!(
            disk.serve(&mem, &write),
            Err(FaultKind::Memory(_))
        ));
        let status = chain(&[(HEADER, 16), (DATA, 512)], &[(at & !1 | 0x8000, 1)]).unwrap();
        let _ = disk.serve(&mem, &status);
        let header = chain(&[(at, 16)], &[(DATA, 512), (STATUS, 1)]).unwrap();
        assert!(disk.serve(&mem, &header).is_err());
    }
}

#[test]
fn row08_buffers_may_overlap() {
    let (mut disk, mem) = (disk(false), memory());
    header(&mem, 0, 9);
    let all_on_the_header = chain(&[(HEADER, 16)], &[(HEADER, 512), (HEADER, 1)]).unwrap();
    assert_eq!(disk.serve(&mem, &all_on_the_header), Ok(513));
    assert_eq!(mem.get(HEADER), [OK, 9, 9]);
}

/// A back end that fails, and that shrinks.
struct Failing(u64);

impl Backend for Failing {
    fn sectors(&self) -> u64 {
        self.0
    }

    fn read<M: GuestMemory + ?Sized>(
        &mut self,
        _: &M,
        _: u64,
        _: Span<'_>,
    ) -> Result<(), BackendError> {
        Err(BackendError::Io)
    }

    fn write<M: GuestMemory + ?Sized>(
        &mut self,
        _: &M,
        _: u64,
        _: Span<'_>,
    ) -> Result<(), BackendError> {
        Err(BackendError::Io)
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> Result<(), BackendError> {
        Err(BackendError::Io)
    }

    fn discard(&mut self, _: u64, _: u64) -> Result<(), BackendError> {
        Err(BackendError::Io)
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        Err(BackendError::Io)
    }
}

/// What a back end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Read,
    Write,
    Zeroes { unmap: bool },
    Discard,
    Flush,
}

/// A back end that checks nothing itself: it is asked only for what it has.
struct Trusting {
    sectors: u64,
    asked: Vec<(Asked, u64, u64)>,
}

impl Trusting {
    fn asked(&mut self, what: Asked, offset: u64, len: u64) -> Result<(), BackendError> {
        let end = offset.checked_add(len).expect("no end");
        assert!(end <= self.sectors * 512, "{offset:#x}, {len:#x} bytes");
        self.asked.push((what, offset, len));
        Ok(())
    }
}

impl Backend for Trusting {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read<M: GuestMemory + ?Sized>(
        &mut self,
        _: &M,
        offset: u64,
        into: Span<'_>,
    ) -> Result<(), BackendError> {
        self.asked(Asked::Read, offset, into.len())
    }

    fn write<M: GuestMemory + ?Sized>(
        &mut self,
        _: &M,
        offset: u64,
        from: Span<'_>,
    ) -> Result<(), BackendError> {
        self.asked(Asked::Write, offset, from.len())
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> Result<(), BackendError> {
        self.asked(Asked::Zeroes { unmap }, offset, len)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BackendError> {
        self.asked(Asked::Discard, offset, len)
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        self.asked(Asked::Flush, 0, 0)
    }
}

fn trusting(sectors: u64) -> BlockDevice<Trusting> {
    let asked = Vec::new();
    let backend = Trusting { sectors, asked };
    BlockDevice::new(backend, Geometry::of_blocks(512), b"", false)
}

#[test]
fn each_request_asks_the_back_end_for_one_thing() {
    let (mut disk, mem) = (trusting(SECTORS), memory());
    assert_eq!(request(&mut disk, &mem, 0, 5, 512), OK);
    assert_eq!(request(&mut disk, &mem, 1, 6, 1024), OK);
    assert_eq!(request(&mut disk, &mem, 4, 0, 0), OK);
    for (kind, flags) in [(11, 0), (13, 0), (13, 1)] {
        let len = ranges(&mem, &[(7, 2, flags)]);
        assert_eq!(request(&mut disk, &mem, kind, 0, len), OK);
    }
    assert_eq!(
        disk.backend().asked,
        [
            (Asked::Read, 5 * 512, 512),
            (Asked::Write, 6 * 512, 1024),
            (Asked::Flush, 0, 0),
            (Asked::Discard, 7 * 512, 1024),
            (Asked::Zeroes { unmap: false }, 7 * 512, 1024),
            (Asked::Zeroes { unmap: true }, 7 * 512, 1024),
        ]
    );
    let counters = disk.counters();
    assert_eq!((counters.flushes, counters.zeroings), (1, 3));
}

/// The work of one request is bounded, however large the disk is.
#[test]
fn row39_ranges_longer_than_what_is_served_at_once() {
    let (mut disk, mem) = (trusting(1 << 20), memory());
    for kind in [11, 13] {
        for (sectors, expected) in [(4096, OK), (4097, IOERR), (1 << 19, IOERR)] {
            let len = ranges(&mem, &[(0, sectors, 0)]);
            assert_eq!(request(&mut disk, &mem, kind, 0, len), expected);
        }
    }
}

#[test]
fn what_is_offered() {
    // SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY; DISCARD, WRITE_ZEROES or RO; IN_ORDER.
    let always = 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 35;
    let writable = disk(false).features().bits();
    assert_eq!(writable, always | 1 << 13 | 1 << 14);
    assert_eq!(disk(true).features().bits(), always | 1 << 5);
}

#[test]
fn queues_are_counted_from_one() {
    for (asked, queues) in [(0, 1), (1, 1), (3, 3)] {
        let disk = trusting(1).with_queues(asked);
        assert_eq!(disk.queues(), queues);
        let mut space = [0; 2];
        disk.read_config(34, &mut space);
        assert_eq!(u16::from_le_bytes(space), queues);
        assert_eq!(disk.features().bits() & 1 << 12 != 0, queues > 1);
    }
}

#[test]
fn row39_storage_is_not_asked_for_what_it_has_not() {
    let mem = memory();
    let mut disk = trusting(SECTORS);
    for sector in [
        SECTORS - 2,
        SECTORS - 1,
        SECTORS,
        1 << 55,
        u64::MAX - 1,
        u64::MAX,
    ] {
        let expected = if sector == SECTORS - 2 { OK } else { IOERR };
        for kind in [0, 1] {
            assert_eq!(request(&mut disk, &mem, kind, sector, 1024), expected);
        }
        for kind in [11, 13] {
            let len = ranges(&mem, &[(sector, 2, 0)]);
            assert_eq!(request(&mut disk, &mem, kind, 0, len), expected);
        }
    }
}

#[test]
fn row39_a_back_end_that_fails_and_shrinks() {
    let mem = memory();
    let mut disk = BlockDevice::new(Failing(8), Geometry::of_blocks(512), b"", false);
    ranges(&mem, &[(0, 1, 0)]);
    for (kind, len) in [(0, 512), (1, 512), (4, 0)] {
        assert_eq!(request(&mut disk, &mem, kind, 0, len), IOERR);
    }
    ranges(&mem, &[(0, 1, 0)]);
    for kind in [11, 13] {
        assert_eq!(request(&mut disk, &mem, kind, 0, 16), IOERR);
    }
    disk.backend_mut().0 = 4;
    let mut capacity = [0; 8];
    disk.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 4);
    assert_eq!(request(&mut disk, &mem, 0, 6, 512), IOERR);
    assert_eq!(disk.counters().errors, 6);
}

#[test]
fn configuration_space() {
    let disk = BlockDevice::new(
        RamDisk::new(vec![0; 10_000]),
        Geometry::of_blocks(4096),
        b"",
        false,
    );
    let mut space = [0xee; 64];
    disk.read_config(0, &mut space);
    let u32_at = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
    assert_eq!(
        u64::from_le_bytes(space[..8].try_into().unwrap()),
        19,
        "whole sectors"
    );
    assert_eq!([u32_at(12), u32_at(20)], [254, 4096]);
    assert_eq!(
        (space[24], space[25], u32_at(28)),
        (0, 0, 16),
        "topology in blocks of 4096"
    );
    assert_eq!([u32_at(36), u32_at(40), u32_at(44)], [4096, 4, 8]);
    assert_eq!([u32_at(48), u32_at(52), u32_at(56)], [4096, 4, 1]);
    assert_eq!(u32_at(60), 0, "past the end");
    let disk = BlockDevice::new(
        RamDisk::new(vec![0; 512]),
        Geometry::of_blocks(512),
        b"",
        false,
    );
    disk.read_config(20, &mut space[..12]);
    assert_eq!(space[..12], [0, 2, 0, 0, 3, 0, 1, 0, 128, 0, 0, 0]);
}
