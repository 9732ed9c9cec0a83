//! Rings, data, failures of every call, and guests that lie, on a fake hypervisor.

use std::prelude::v1::*;

use proptest::prelude::*;
use vd_virtio::test_util::chain;
use vd_virtio::{Cause, Gpa, GuestMemory, MemError, RingArea};
use xen_hypercall::Errno;
use xen_hypercall::grant_table::GrantStatus;

use super::address::GRANTED;
use super::fake::{Call, Failure, Fake};
use super::*;

/// Entries of the queues here: their rings are larger than a page.
const SIZE: u16 = 512;
const ID: u32 = 5;

const NO_SPACE: Failure = Failure::Last(GrantStatus::NO_SPACE);
const REFUSED: Failure = Failure::Last(GrantStatus::GENERAL_ERROR);

/// Reference `reference`, `offset` bytes in.
fn at(reference: u32, offset: u64) -> Gpa {
    Gpa((GRANTED | u64::from(reference) << 12) + offset)
}

/// A split ring over references 20 to 25: 8 KiB of descriptors, then both rings. The last 2 KiB are another page's.
fn areas() -> [RingArea; 3] {
    let area = |at, len, writable| RingArea { at, len, writable };
    let n = u64::from(SIZE);
    [
        area(at(20, 0), n * 16, false),
        area(at(22, 0), n * 2 + 6, false),
        area(at(22, 0xff8), n * 8 + 6, true),
    ]
}

fn window() -> usize {
    Rings::pages(2, SIZE) as usize
}

/// A guest with a ring and some pages of data from reference 40 on.
fn guest() -> Fake {
    let guest = Fake::new(window());
    guest.grant(20, 6, false);
    guest.grant(40, 100, false);
    guest
}

fn rings() -> Rings {
    Rings::new(0, 2, SIZE)
}

#[test]
fn a_ring_is_mapped_while_it_is_open() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    memory.open_ring(ID, &areas()).unwrap();
    // Two pages of descriptors, one of the available ring, two of the used ring: each area by itself.
    let calls = [Call::Map(2), Call::Map(1), Call::Map(2)];
    assert_eq!(guest.take_calls(), calls);
    assert_eq!((guest.mapped(), rings.mapped()), (5, 5));

    guest.put(at(21, 16).0, &[1, 2, 3, 4]);
    let mut bytes = [0; 4];
    memory.read(at(21, 16), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    guest.put(at(22, 2).0, &[0x34, 0x12]);
    assert_eq!(memory.load_u16(at(22, 2)), Ok(0x1234));
    // Over the end of a page, as used elements can be.
    memory.write(at(22, 0xffc), &[9; 8]).unwrap();
    assert_eq!(guest.get(at(22, 0xffc).0, 8), [9; 8]);
    memory.store_u16(at(23, 2), 0xabcd).unwrap();
    assert_eq!(guest.get(at(23, 2).0, 2), [0xcd, 0xab]);
    assert_eq!(guest.take_calls(), [], "no hypercall for all that");

    memory.close_ring(ID);
    assert_eq!(guest.take_calls(), [Call::Unmap(5)]);
    assert_eq!((guest.mapped(), rings.mapped()), (0, 0));
    assert!(memory.load_u16(at(22, 2)).is_err());
    memory.close_ring(ID);
    assert_eq!(guest.take_calls(), [], "it was closed already");
    let counters = grants.counters();
    assert_eq!((counters.maps, counters.unmaps, counters.copies), (5, 5, 0));
}

#[test]
fn each_queue_has_a_place_of_its_own() {
    let guest = guest();
    let (grants, first) = (Grants::new(&guest), Rings::new(0, 1, SIZE));
    let second = Rings::new(first.end(), 1, SIZE);
    let one = grants.view(&first);
    one.open_ring(ID, &areas()).unwrap();
    // The same pages once more, by another device: a guest may do that.
    grants.view(&second).open_ring(ID, &areas()).unwrap();
    assert_eq!(guest.mapped(), 10);
    // A queue too many is refused.
    let error = one.open_ring(6, &areas()).unwrap_err();
    assert_eq!(error.cause, Cause::Platform);
    assert_eq!(grants.take_trouble(), Some(Trouble::Stuck));
    assert_eq!(grants.close_all(&first) + grants.close_all(&second), 0);
    assert_eq!(guest.mapped(), 0);
}

/// The largest queues there are, with every area starting at the end of a page.
#[test]
fn the_largest_rings_fit() {
    let guest = Fake::new(Rings::pages(1, 32768) as usize);
    guest.grant(20, 600, false);
    let (grants, rings) = (Grants::new(&guest), Rings::new(0, 1, 32768));
    let n = 32768;
    let area = |first, offset, len| RingArea {
        at: at(first, offset),
        len,
        writable: true,
    };
    let areas = [
        area(20, 0xff0, n * 16),
        area(200, 0xffe, n * 2 + 6),
        area(300, 0xffc, n * 8 + 6),
    ];
    grants.view(&rings).open_ring(ID, &areas).unwrap();
    assert_eq!(guest.mapped(), 129 + 18 + 66);
    assert!(guest.mapped() <= Rings::pages(1, 32768) as usize);
    let largest = |calls: Vec<Call>| {
        calls
            .into_iter()
            .all(|call| matches!(call, Call::Map(1..=32)))
    };
    assert!(largest(guest.take_calls()));
    assert_eq!(grants.close_all(&rings), 0);
}

#[test]
fn row14_rings_that_are_not_granted() {
    let guest = guest();
    guest.grant(30, 2, true);
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    let good = areas();
    for bad in [
        // No grant; a frame's address; behind the last grant; beyond all references; for reading only.
        Gpa(0x5000),
        Gpa(GRANTED - 0x1000),
        at(900, 0),
        at(u32::MAX, 0xff0),
        Gpa(GRANTED | 1 << 50),
        at(30, 0),
    ] {
        for place in 0..3 {
            let mut areas = good;
            areas[place].at = bad;
            let opened = memory.open_ring(ID, &areas);
            if bad == at(30, 0) && place != 2 {
                // What the device only reads may be granted for just that, as far as there are pages.
                assert_eq!(opened, Ok(()));
                memory.close_ring(ID);
                continue;
            }
            let expected = MemError::because(Cause::NotGranted, bad, good[place].len);
            assert_eq!(opened, Err(expected), "{place}");
            assert_eq!((guest.mapped(), rings.mapped()), (0, 0));
        }
    }
    assert!(grants.counters().refused >= 16);
    assert_eq!(
        grants.take_trouble(),
        None,
        "all of it is the guest's doing"
    );
}

#[test]
fn row8_a_ring_over_another_is_written_only_where_it_may_be() {
    let guest = Fake::new(window());
    guest.grant(20, 6, false);
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    // The used ring is where the available ring is, which is mapped read-only: the fake would stop at a write to that.
    let mut areas = areas();
    areas[2].at = areas[1].at;
    memory.open_ring(ID, &areas).unwrap();
    memory.store_u16(at(22, 2), 7).unwrap();
    assert_eq!(memory.load_u16(at(22, 2)), Ok(7));
    assert!(memory.store_u16(at(20, 0), 7).is_err(), "descriptors");
    memory.close_ring(ID);
}

#[test]
fn numbers_are_of_rings_and_aligned() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    memory.open_ring(ID, &areas()).unwrap();
    for bad in [at(22, 3), at(40, 0), Gpa(0x16000), at(24, 0xffe)] {
        assert!(memory.load_u16(bad).is_err());
        assert!(memory.store_u16(bad, 1).is_err());
    }
    memory.close_ring(ID);
}

#[test]
fn data_goes_in_one_call_whatever_its_pieces() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    let data: Vec<u8> = (0..6000_u32).map(|n| n as u8).collect();
    guest.put(at(40, 100).0, &data[..3000]);
    guest.put(at(50, 0xff0).0, &data[3000..]);
    let chain = chain(
        &[(at(40, 100).0, 3000), (at(50, 0xff0).0, 3000)],
        &[(at(60, 1).0, 2000), (at(70, 0xfff).0, 4000)],
    )
    .unwrap();
    let mut into = vec![0; 6000];
    chain.readable().read(&memory, &mut into).unwrap();
    assert_eq!(into, data);
    let pieces = |calls: Vec<Call>| match calls[..] {
        [Call::Copy(pieces)] => pieces,
        _ => std::panic!("{calls:?}"),
    };
    // Three pages of the guest's, and one or two borders of pages of ours in between.
    assert!((4..=5).contains(&pieces(guest.take_calls())));
    chain.writable().write(&memory, &data).unwrap();
    assert!((4..=5).contains(&pieces(guest.take_calls())));
    assert_eq!(guest.get(at(60, 1).0, 2000), data[..2000]);
    assert_eq!(guest.get(at(70, 0xfff).0, 4000), data[2000..]);
    let counters = grants.counters();
    assert_eq!((counters.bytes, counters.maps), (12_000, 0));
}

#[test]
fn more_than_a_call_takes_is_several() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    let data = vec![7; 80 * 4096];
    memory.write(at(40, 0), &data).unwrap();
    let calls = guest.take_calls();
    assert!(
        calls
            .iter()
            .all(|call| matches!(call, Call::Copy(1..=COPIES)))
    );
    assert!((2..=3).contains(&calls.len()), "{calls:?}");
    assert_eq!(guest.get(at(40, 0).0, data.len()), data);
}

#[test]
fn small_writes_wait_for_the_next_call() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    memory.write(at(40, 5), &[1]).unwrap();
    memory.write(at(41, 0xfff), &[2, 3]).unwrap();
    assert_eq!(guest.take_calls(), []);
    let mut header = [0; 16];
    memory.read(at(43, 0), &mut header).unwrap();
    assert!(matches!(guest.take_calls()[..], [Call::Copy(4..=5)]));
    memory.write(at(40, 6), &[4]).unwrap();
    memory.flush().unwrap();
    assert_eq!(guest.take_calls(), [Call::Copy(1)]);
    assert_eq!(guest.get(at(40, 5).0, 2), [1, 4]);
    assert_eq!(guest.get(at(41, 0xfff).0, 2), [2, 3]);
    memory.flush().unwrap();
    assert_eq!(guest.take_calls(), [], "nothing waits");
}

#[test]
fn any_number_of_small_writes_arrives() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    let list: Vec<_> = (0..60_u64).map(|n| (at(40, 3 * n).0, 1)).collect();
    let spread = chain(&[], &list).unwrap();
    for round in 0..10 {
        for n in 0..300_u64 {
            memory
                .write(at(50, n * 40), &[(n as u8).wrapping_add(round); 33])
                .unwrap();
        }
        spread.writable().write(&memory, &[round; 60]).unwrap();
    }
    memory.flush().unwrap();
    for n in 0..300_u64 {
        assert_eq!(
            guest.get(at(50, n * 40).0, 33),
            [(n as u8).wrapping_add(9); 33]
        );
    }
    for (place, _) in list {
        assert_eq!(guest.get(place, 1), [9]);
    }
}

#[test]
fn storage_waits_without_a_copy() {
    let guest = guest();
    let storage: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    guest.keep(&storage);
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    memory.write(at(40, 10), &storage[500..9000]).unwrap();
    memory.write(at(60, 0), &[0]).unwrap();
    assert_eq!(guest.take_calls(), []);
    memory.flush().unwrap();
    assert_eq!(guest.take_calls().len(), 1);
    assert_eq!(guest.get(at(40, 10).0, 8500), storage[500..9000]);
}

#[test]
fn a_table_is_read_once() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    guest.put(at(40, 0xff0).0, &[1; 64]);
    memory.prefetch(at(40, 0xff0), 64).unwrap();
    assert_eq!(guest.take_calls().len(), 1);
    // What the guest writes now comes too late.
    guest.put(at(41, 0).0, &[2; 16]);
    let mut descriptor = [0; 16];
    for n in 0..4 {
        memory
            .read(at(40, 0xff0 + 16 * n), &mut descriptor)
            .unwrap();
        assert_eq!(descriptor, [1; 16]);
    }
    assert_eq!(guest.take_calls(), []);
    memory.read(at(40, 0xff0 + 64), &mut descriptor).unwrap();
    assert_eq!(descriptor, [0; 16]);
    memory.flush().unwrap();
    memory.read(at(41, 0), &mut descriptor).unwrap();
    assert_eq!(descriptor, [2; 16], "a new request, a new look");
    // The longest table there is; a longer one is read as it comes.
    memory.prefetch(at(40, 8), 1024 * 16).unwrap();
    memory.prefetch(at(40, 8), 1024 * 16 + 16).unwrap();
    assert!(memory.prefetch(at(900, 0), 16).is_err());
    assert!(memory.prefetch(Gpa(0x1000), 16).is_err());
    memory.prefetch(at(40, 0), 16).unwrap();
}

#[test]
fn row4_data_that_is_not_granted() {
    let guest = guest();
    guest.grant(30, 1, true);
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    let mut bytes = [0; 100];
    for bad in [
        Gpa(0),
        Gpa(0x4_0000),
        at(900, 0),
        at(139, 0xfa0),
        at(u32::MAX, 0xff0),
    ] {
        let error = memory.read(bad, &mut bytes).unwrap_err();
        assert_eq!(error.cause, Cause::NotGranted, "{bad}");
        assert!(memory.write(bad, &bytes).is_err());
        let pieces = chain(&[(at(40, 0).0, 64), (bad.0, 100)], &[]).unwrap();
        let read = pieces.readable().read(&memory, &mut [0; 164]);
        assert!(read.is_err(), "{bad}");
    }
    memory.read(at(30, 0), &mut bytes).unwrap();
    let error = memory.write(at(30, 8), &bytes).unwrap_err();
    assert_eq!(error, MemError::because(Cause::NotGranted, at(30, 8), 100));
    assert!(grants.counters().refused >= 15);
    assert_eq!((guest.mapped(), grants.take_trouble()), (0, None));
    memory.flush().unwrap();
}

/// What was said to be done and is not must not be shown to the driver, however often it is tried.
#[test]
fn row4_a_refusal_that_comes_late_stops_the_device() {
    let guest = guest();
    guest.grant(30, 1, true);
    let (grants, rings, other) = (Grants::new(&guest), rings(), Rings::new(0, 0, SIZE));
    let memory = grants.view(&rings);
    memory.write(at(30, 0), &[0]).unwrap();
    memory.write(at(40, 0), &[9]).unwrap();
    // Another call takes both along.
    assert!(memory.read(at(41, 0), &mut [0; 16]).is_err());
    assert_eq!(guest.get(at(40, 0).0, 1), [9]);
    for _ in 0..2 {
        assert_eq!(memory.flush().unwrap_err().gpa, at(30, 0));
    }
    // Another device has nothing to do with it.
    grants.view(&other).flush().unwrap();
    memory.open_ring(ID, &areas()).unwrap();
    memory.close_ring(ID);
    memory.flush().unwrap();
}

#[test]
fn refusals_are_blamed_on_whoever_is_to_blame() {
    for (status, cause) in [
        (GrantStatus::GENERAL_ERROR, Cause::NotGranted),
        (GrantStatus::BAD_DOMAIN, Cause::NotGranted),
        (GrantStatus::BAD_GNTREF, Cause::NotGranted),
        (GrantStatus::PERMISSION_DENIED, Cause::NotGranted),
        (GrantStatus::BAD_PAGE, Cause::NotGranted),
        (GrantStatus::ADDRESS_TOO_BIG, Cause::NotGranted),
        (GrantStatus(-99), Cause::NotGranted),
        (GrantStatus::NO_SPACE, Cause::Platform),
        (GrantStatus::NO_DEVICE_SPACE, Cause::Platform),
        (GrantStatus::BAD_HANDLE, Cause::Platform),
        (GrantStatus::BAD_VIRT_ADDR, Cause::Platform),
        (GrantStatus::BAD_DEV_ADDR, Cause::Platform),
        (GrantStatus::BAD_COPY_ARG, Cause::Platform),
        (GrantStatus::EAGAIN, Cause::Platform),
    ] {
        let guest = guest();
        let (grants, rings) = (Grants::new(&guest), rings());
        let memory = grants.view(&rings);
        guest.fail_at(0, Failure::Last(status));
        assert_eq!(memory.open_ring(ID, &areas()).unwrap_err().cause, cause);
        let trouble = (cause == Cause::Platform).then_some(Trouble::Status(status));
        assert_eq!(grants.take_trouble(), trouble);
        assert_eq!(guest.mapped(), 0, "{status}");
        guest.fail_at(0, Failure::Last(status));
        guest.take_calls();
        guest.fail_at(0, Failure::Last(status));
        assert_eq!(
            memory.read(at(40, 0), &mut [0; 4]).unwrap_err().cause,
            cause
        );
        assert_eq!(grants.take_trouble(), trouble);
    }
}

/// Attack cases 34 and 38: each call fails in turn, as a whole and in part. Whatever comes of it, nothing stays mapped
/// that is not on record, and when calls work again nothing stays mapped at all.
#[test]
fn row34_each_call_fails_in_turn() {
    let failures = [
        Failure::All(Errno::EFAULT),
        Failure::All(Errno::ENOMEM),
        NO_SPACE,
        REFUSED,
    ];
    for failure in failures {
        let mut n = 0;
        loop {
            let guest = guest();
            let (grants, rings) = (Grants::new(&guest), rings());
            let memory = grants.view(&rings);
            guest.fail_at(n, failure);
            let lived = life(&memory);
            assert_eq!(guest.mapped(), rings.mapped(), "{failure:?} {n}");
            let calls = guest.take_calls().len();
            // The failing call is behind, or never came.
            guest.fail_at(usize::MAX / 2, failure);
            if calls <= n {
                assert_eq!(lived, Ok(()));
                break;
            }
            // A second life, in which nothing fails, is like the first one should have been.
            memory.close_ring(ID);
            assert_eq!(life(&memory), Ok(()), "{failure:?} {n}");
            assert_eq!(grants.close_all(&rings), 0);
            assert_eq!(guest.mapped(), 0);
            let counters = grants.counters();
            assert_eq!(counters.maps, counters.unmaps);
            n += 1;
        }
        assert_eq!(n, 8, "calls of a life without failures");
    }
}

/// A ring is opened, a request is served, and the ring is closed.
fn life<P: Platform>(memory: &View<'_, P>) -> Result<(), MemError> {
    memory.open_ring(ID, &areas())?;
    let served = (|| {
        memory.prefetch(at(40, 0), 64)?;
        memory.read(at(41, 0), &mut [0; 16])?;
        memory.write(at(42, 0), &[1; 5000])?;
        memory.write(at(44, 0), &[0])?;
        memory.flush()
    })();
    memory.close_ring(ID);
    served
}

#[test]
fn row34_what_cannot_be_unmapped_is_tried_again() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), Rings::new(0, 1, SIZE));
    let memory = grants.view(&rings);
    for failure in [
        Failure::All(Errno::EFAULT),
        Failure::Last(GrantStatus::BAD_HANDLE),
    ] {
        memory.open_ring(ID, &areas()).unwrap();
        guest.take_calls();
        guest.fail_at(0, failure);
        memory.close_ring(ID);
        assert_ne!(rings.mapped(), 0);
        assert!(grants.take_trouble().is_some());
        assert!(
            memory.load_u16(at(22, 0)).is_err(),
            "it is closed all the same"
        );
        // It is in the way as long as it stays.
        guest.take_calls();
        guest.fail_at(0, failure);
        let error = memory.open_ring(ID, &areas()).unwrap_err();
        assert_eq!(error.cause, Cause::Platform);
        memory.open_ring(ID, &areas()).unwrap();
        assert_eq!(guest.mapped(), 5);
        memory.close_ring(ID);
        assert_eq!((guest.mapped(), rings.mapped()), (0, 0));
    }
}

/// A page that stays mapped takes up its queue's part of the window, not another's that is free.
#[test]
fn row34_a_stuck_page_is_in_nobodys_way_while_there_is_room() {
    let guest = guest();
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    let refused = Failure::Last(GrantStatus::BAD_HANDLE);
    memory.open_ring(ID, &areas()).unwrap();
    guest.take_calls();
    guest.fail_at(0, refused);
    memory.close_ring(ID);
    assert_eq!(rings.mapped(), 1);
    guest.take_calls();
    guest.fail_at(0, refused);
    memory.open_ring(ID, &areas()).unwrap();
    // The page is tried once more; then the ring is mapped elsewhere.
    let calls = [Call::Unmap(1), Call::Map(2), Call::Map(1), Call::Map(2)];
    assert_eq!(guest.take_calls(), calls);
    assert_eq!((guest.mapped(), rings.mapped()), (6, 6));
    guest.fail_at(usize::MAX / 2, refused);
    // The next one needs the part, and gets it when the page can be unmapped.
    memory.open_ring(ID + 1, &areas()).unwrap();
    assert_eq!(guest.mapped(), 10);
    assert_eq!((grants.close_all(&rings), guest.mapped()), (0, 0));
}

/// While a ring is open, no end of another makes up for what was refused.
#[test]
fn row4_a_late_refusal_is_forgotten_with_the_last_ring() {
    let guest = guest();
    guest.grant(30, 1, true);
    let (grants, rings) = (Grants::new(&guest), rings());
    let memory = grants.view(&rings);
    memory.open_ring(ID, &areas()).unwrap();
    memory.open_ring(ID + 1, &areas()).unwrap();
    memory.write(at(30, 0), &[0]).unwrap();
    assert!(memory.flush().is_err());
    for id in [ID + 2, ID] {
        memory.close_ring(id);
        assert_eq!(memory.flush().unwrap_err().gpa, at(30, 0), "{id}");
    }
    memory.close_ring(ID + 1);
    memory.flush().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    /// Any mixture of accesses, right and wrong: what is granted has the right bytes, and nothing else was touched.
    #[test]
    fn row4_any_accesses_do_what_they_should(
        list in proptest::collection::vec((0_u32..8, 0_u64..4096, 0_usize..9000, 0_u8..4, any::<u8>()), 1..60)
    ) {
        let guest = Fake::new(window());
        let storage: Vec<u8> = (0..9000_u32).map(|n| (n * 7) as u8).collect();
        guest.keep(&storage);
        // References 2, 3 and 4; then 6, for reading only.
        guest.grant(2, 3, false);
        guest.grant(6, 1, true);
        let mut model = vec![vec![0_u8; 4096]; 8];
        let (grants, rings) = (Grants::new(&guest), rings());
        let memory = grants.view(&rings);
        for (reference, offset, len, kind, byte) in list {
            let last = (offset as usize + len).max(1) - 1;
            let pages = reference as usize..=reference as usize + last / 4096;
            let readable = pages.clone().all(|page| [2, 3, 4, 6].contains(&page)) || len == 0;
            let writable = pages.clone().all(|page| [2, 3, 4].contains(&page)) || len == 0;
            let place = at(reference, offset);
            let from = vec![byte; len];
            let from = if kind == 2 { &storage[..len] } else { &from };
            match kind {
                0 => {
                    // What waits goes first, so that this sees it.
                    let _ = memory.flush();
                    let mut into = vec![0; len];
                    let read = memory.read(place, &mut into);
                    prop_assert_eq!(read.is_ok(), readable);
                    if readable {
                        let start = reference as usize * 4096 + offset as usize;
                        prop_assert_eq!(&into[..], &model.concat()[start..start + len]);
                    }
                }
                _ => {
                    let wrote = memory.write(place, from);
                    let flushed = memory.flush();
                    prop_assert_eq!(wrote.is_ok() && flushed.is_ok(), writable);
                    memory.close_ring(0);
                    // Of what is refused, whole pages may have been written.
                    for (n, &byte) in from.iter().enumerate() {
                        let index = offset as usize + n;
                        let page = reference as usize + index / 4096;
                        if [2, 3, 4].contains(&page) {
                            model[page][index % 4096] = byte;
                        }
                    }
                }
            }
        }
        for page in [2, 3, 4] {
            prop_assert_eq!(&guest.get(at(page, 0).0, 4096), &model[page as usize]);
        }
        prop_assert_eq!(guest.get(at(6, 0).0, 4096), vec![0; 4096]);
        prop_assert_eq!(guest.mapped(), 0);
    }
}
