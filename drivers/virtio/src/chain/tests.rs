use proptest::prelude::*;

use super::{Chain, Segment};
use crate::fault::FaultKind;
use crate::mem::{Gpa, GuestMemory};
use crate::test_util::{self, FakeMemory};

#[test]
fn row06_lengths() {
    let mut chain = Chain::new();
    let segment = |len| Segment { addr: Gpa(0), len };
    assert_eq!(
        chain.push(segment(0), false),
        Err(FaultKind::EmptyDescriptor)
    );
    chain.push(segment(u32::MAX), false).unwrap();
    chain.push(segment(1), false).unwrap();
    assert_eq!(chain.push(segment(1), false), Err(FaultKind::TooManyBytes));
}

#[test]
fn row04_a_segment_may_end_at_the_last_byte_but_not_wrap() {
    let mut chain = Chain::new();
    let at = |addr, len| Segment {
        addr: Gpa(addr),
        len,
    };
    chain.push(at(u64::MAX, 1), false).unwrap();
    assert!(matches!(
        chain.push(at(u64::MAX, 2), false),
        Err(FaultKind::Memory(_))
    ));
}

#[test]
fn row07_readable_after_writable() {
    let mut chain = test_util::chain(&[(0, 4)], &[(4, 4)]).unwrap();
    let late = Segment {
        addr: Gpa(8),
        len: 4,
    };
    assert_eq!(chain.push(late, false), Err(FaultKind::Order));
}

#[test]
fn an_array_is_read_from_pieces_of_any_size() {
    let mem = FakeMemory::new(64);
    mem.put(10, b"ab");
    mem.put(20, b"c");
    mem.put(30, b"defg");
    let chain = test_util::chain(&[(10, 2), (20, 1), (30, 4)], &[]).unwrap();
    let (array, rest) = chain.readable().read_array::<_, 4>(&mem).unwrap();
    assert_eq!((&array, rest.len()), (b"abcd", 3));
    assert_eq!(rest.pieces().collect::<Vec<_>>(), [(Gpa(31), 3)]);
    assert_eq!(
        rest.read_array::<_, 4>(&mem).unwrap_err(),
        FaultKind::Header
    );
}

proptest! {
    /// Cutting a span anywhere, several times, loses and doubles nothing.
    #[test]
    fn cuts_keep_every_byte(
        lens in prop::collection::vec(1u32..20, 1..8),
        cuts in prop::collection::vec(0u64..40, 0..5),
    ) {
        let mem = FakeMemory::new(1024);
        let content: Vec<u8> = (0..=255).cycle().take(1024).collect();
        mem.put(0, &content);
        let mut at = 3;
        let segments: Vec<(u64, u32)> = lens.iter().map(|&len| {
            let here = at;
            at += u64::from(len) + 5;
            (here, len)
        }).collect();
        let chain = test_util::chain(&segments, &[]).unwrap();
        let whole: Vec<u8> = segments.iter()
            .flat_map(|&(at, len)| content[at as usize..][..len as usize].to_vec())
            .collect();
        let mut rest = chain.readable();
        prop_assert_eq!(rest.len(), whole.len() as u64);
        let mut seen = Vec::new();
        for cut in cuts {
            match rest.split_at(cut) {
                None => prop_assert!(cut > rest.len()),
                Some((first, more)) => {
                    prop_assert_eq!(first.len(), cut);
                    let mut bytes = vec![0; cut as usize];
                    first.read(&mem, &mut bytes).unwrap();
                    seen.extend(bytes);
                    rest = more;
                }
            }
        }
        let mut bytes = vec![0; rest.len() as usize];
        rest.read(&mem, &mut bytes).unwrap();
        seen.extend(bytes);
        prop_assert_eq!(&seen, &whole);

        // And back: what is written through a span is what is read through it.
        let fresh = FakeMemory::new(1024);
        chain.readable().write(&fresh, &whole).unwrap();
        let mut again = vec![0; whole.len()];
        chain.readable().read(&fresh, &mut again).unwrap();
        prop_assert_eq!(again, whole);
        prop_assert!(fresh.check(Gpa(0), 1024).is_ok());
    }
}

#[test]
fn what_a_chain_consists_of() {
    let none = test_util::chain(&[], &[]).unwrap();
    assert!(none.is_empty() && none.readable().is_empty() && none.writable().is_empty());
    let some = test_util::chain(&[(0x10, 3)], &[(0x20, 5), (0x30, 7)]).unwrap();
    assert_eq!((some.len(), some.bytes()), (3, 15));
    assert!(!some.is_empty() && !some.readable().is_empty() && !some.writable().is_empty());
    let (_, rest) = some.readable().split_at(3).unwrap();
    assert!(rest.is_empty());
}
