//! Every call fails once, with each error, against a small Xen (`xen_hypercall::fake::machine`).

use std::cell::Cell;
use std::format;
use std::prelude::v1::*;

use xen_hypercall::fake::machine::{Fault, Machine, Mapped};
use xen_hypercall::{DomId, memory};

use super::*;

const GUEST: DomId = DomId(7);
/// The window's first frame.
const BASE: u64 = 1 << 20;
/// The guest's last frame at first.
const LAST: u64 = 2047;
const PAGE: u64 = 4096;
const ERRORS: [Errno; 6] = [
    Errno::ESRCH,
    Errno::EPERM,
    Errno::EAGAIN,
    Errno::EBUSY,
    Errno::ENOMEM,
    Errno::EINVAL,
];

struct Fake {
    xen: Machine,
    mapped: Cell<u64>,
    unmapped: Cell<u64>,
}

impl Physmap for Fake {
    fn highest(&self) -> Result<u64, Errno> {
        memory::maximum_gpfn(&self.xen, GUEST).map(|gfn| gfn.0)
    }

    fn extend(&self, highest: u64) -> bool {
        highest < 4096
    }

    fn map(&self, frames: &[u64], errors: &mut [i32]) -> Result<(), Errno> {
        let own: Vec<_> = frames.iter().map(|frame| BASE + frame).collect();
        self.xen.map_foreign(frames, &own, errors)
    }

    fn unmap(
        &self,
        frames: &[u64],
        results: &mut [Result<(), Errno>; UNMAP_BATCH],
    ) -> Result<(), Errno> {
        let own: Vec<_> = frames.iter().map(|frame| BASE + frame).collect();
        let all = self.xen.unmap_all(&own)?;
        results[..all.len()].copy_from_slice(&all);
        Ok(())
    }

    fn count_mapped(&self, frames: u64) {
        self.mapped.set(self.mapped.get() + frames);
    }

    fn count_unmapped(&self, frames: u64) {
        self.unmapped.set(self.unmapped.get() + frames);
    }
}

/// A guest that has RAM up to [`LAST`], but for a hole, as PCs have one.
fn guest() -> (Fake, Mapper) {
    guest_with((0..=LAST).filter(|frame| !(160..192).contains(frame)))
}

/// A guest with little RAM, here and there: each frame that is unmapped is a call that can fail.
fn small_guest() -> (Fake, Mapper) {
    guest_with([0..8, 150..160, 500..570, 2036..2048].into_iter().flatten())
}

fn guest_with(ram: impl IntoIterator<Item = u64>) -> (Fake, Mapper) {
    let fake = Fake {
        xen: Machine::new(GUEST, 1, ram),
        mapped: Cell::new(0),
        unmapped: Cell::new(0),
    };
    let mapper = Mapper::new(fake.highest().unwrap()).unwrap();
    (fake, mapper)
}

/// What is recorded as mapped is, and nothing else.
fn check(fake: &Fake, mapper: &Mapper, what: &str) {
    let physmap = fake.xen.state().physmap;
    for frame in (0..700).chain(2000..2100) {
        let is_there = physmap.get(&(BASE + frame)) == Some(&Mapped::Foreign(frame));
        let recorded = mapper.is_mapped(Gpa(frame * PAGE), PAGE);
        let stuck = mapper.stuck.contains(&frame);
        assert_eq!(is_there, recorded || stuck, "{what}: frame {frame}");
    }
    assert_eq!(
        fake.mapped.get() - fake.unmapped.get(),
        physmap.len() as u64,
        "{what}"
    );
}

/// What a guest's requests touch: bytes in one chunk, bytes over the end of one, the hole, memory that came later.
fn touches(fake: &Fake, mapper: &mut Mapper) -> Vec<(Result<(), Cause>, Option<Refusal>)> {
    let mut results = Vec::new();
    for (at, len) in [(5, 1), (511, 2), (159, 2), (2040, 1), (2048, 1)] {
        if at == 2048 {
            fake.xen.balloon_in(2048);
        }
        let (gpa, len) = (Gpa(at * PAGE), len * PAGE);
        let touched = match mapper.is_mapped(gpa, len) {
            true => Ok(()),
            false => mapper
                .map_range(fake, gpa, len)
                .map_err(|error| error.cause),
        };
        assert_eq!(touched.is_ok(), mapper.is_mapped(gpa, len));
        results.push((touched, mapper.take_refusal()));
    }
    results
}

#[test]
fn row38_any_call_may_fail_while_memory_is_mapped_and_unmapped() {
    let (whole, mut mapper) = small_guest();
    let expected = touches(&whole, &mut mapper);
    let causes: Vec<_> = expected.iter().map(|(result, _)| *result).collect();
    assert_eq!(causes, [Ok(()), Ok(()), Err(Cause::NotRam), Ok(()), Ok(())]);
    assert_eq!(mapper.unmap_all(&whole), 0);
    let calls = whole.xen.made();
    check(&whole, &mapper, "no fault");
    for n in 1..calls {
        for error in ERRORS {
            for fault in [Fault::Once(n, error), Fault::Entries(n, error)] {
                let what = format!("{fault:?} of {calls}");
                let (fake, mut mapper) = small_guest();
                fake.xen.mend();
                fake.xen.fail(fault);
                let results = touches(&fake, &mut mapper);
                check(&fake, &mapper, &what);
                let is_hole = error == Errno::EINVAL && matches!(fault, Fault::Entries(..));
                for ((result, refusal), expected) in results.iter().zip(&expected) {
                    // Whatever Xen refuses is not the guest's fault, and is told.
                    let platform = (Err(Cause::Platform), Some(Refusal::Xen(error)));
                    let told = (*result, *refusal) == platform || is_hole;
                    assert!(
                        told || (*result, *refusal) == *expected,
                        "{what}: {results:?}"
                    );
                }
                assert_eq!(mapper.unmap_all(&fake), 0, "{what}");
                assert!(fake.xen.state().physmap.is_empty(), "{what}");
                check(&fake, &mapper, &what);
                // Once is once.
                fake.xen.mend();
                let again: Vec<_> = touches(&fake, &mut mapper);
                assert_eq!(again, expected, "{what}");
            }
        }
    }
}

#[test]
fn row30_row38_frames_that_xen_does_not_unmap_are_offered_again() {
    let (fake, mut mapper) = guest();
    mapper.map_range(&fake, Gpa(0), 1).unwrap();
    let there = fake.xen.state().physmap.len();
    assert_eq!(mapper.mapped_frames(), there as u64);
    fake.xen.fail(Fault::All(Errno::EBUSY));
    assert_eq!(mapper.unmap_all(&fake), there);
    assert_eq!(mapper.mapped_frames(), 0, "nothing of it is used any more");
    check(&fake, &mapper, "stuck");
    assert_eq!(mapper.unmap_all(&fake), there, "each is counted once");
    fake.xen.mend();
    // What is touched again is mapped anew, and unmapped once.
    mapper.map_range(&fake, Gpa(0), 1).unwrap();
    assert_eq!(mapper.unmap_all(&fake), 0);
    assert!(fake.xen.state().physmap.is_empty() && mapper.stuck.is_empty());
}

#[test]
fn row29_frames_that_are_not_unmapped_are_remembered_within_limits() {
    let (fake, mut mapper) = guest();
    mapper
        .map_range(&fake, Gpa(0), (LAST + 1) * PAGE)
        .unwrap_err();
    mapper
        .map_range(&fake, Gpa(512 * PAGE), (LAST - 511) * PAGE)
        .unwrap();
    let (there, room) = (fake.xen.state().physmap.len(), mapper.stuck.capacity());
    assert!(there > MOST_STUCK);
    fake.xen.fail(Fault::All(Errno::EBUSY));
    assert_eq!(mapper.unmap_all(&fake), there);
    assert_eq!(mapper.stuck.capacity(), room, "nothing was allocated");
    fake.xen.mend();
    assert_eq!(mapper.unmap_all(&fake), 0);
    assert_eq!(fake.xen.state().physmap.len(), there - MOST_STUCK);
}

#[test]
fn row32_a_page_that_is_ballooned_out_is_no_ram_and_one_that_comes_back_is() {
    let (fake, mut mapper) = guest();
    let page = Gpa(700 * PAGE);
    mapper.map_range(&fake, page, 1).unwrap();
    fake.xen.balloon_out(700);
    // What the guest's INVALIDATE does.
    assert_eq!(mapper.unmap_all(&fake), 0);
    let error = mapper.map_range(&fake, page, 1).unwrap_err();
    assert_eq!((error.cause, mapper.take_refusal()), (Cause::NotRam, None));
    assert!(mapper.is_mapped(Gpa(701 * PAGE), 1));
    fake.xen.balloon_in(700);
    mapper.map_range(&fake, page, 1).unwrap();
    check(&fake, &mapper, "back");
}

#[test]
fn a_window_that_cannot_grow_is_told() {
    let (fake, mut mapper) = guest();
    fake.xen.balloon_in(4096);
    let error = mapper.map_range(&fake, Gpa(4096 * PAGE), 1).unwrap_err();
    let told = (error.cause, mapper.take_refusal());
    assert_eq!(told, (Cause::Platform, Some(Refusal::TooLarge)));
}

#[test]
fn row29_a_chunk_too_many_with_holes_is_unmapped_again() {
    let (fake, mut mapper) = guest();
    // All places for bitmaps are taken.
    while mapper.map.set_mapped(3, &[1; 8]).is_ok() {
        mapper.map.set_mapped(3, &[u64::MAX; 8]).unwrap();
    }
    let error = mapper.map_range(&fake, Gpa(0), 1).unwrap_err();
    let told = (error.cause, mapper.take_refusal());
    assert_eq!(told, (Cause::Platform, Some(Refusal::TooLarge)));
    assert!(fake.xen.state().physmap.is_empty());
}
