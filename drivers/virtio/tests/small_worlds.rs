//! Index arithmetic of both kinds of ring, exhaustively for small rings: every size to 8, every position with its wraps,
//! every number of requests under way, every event index.
//!
//! The specification here counts with numbers that never wrap and is written from the standard (virtio 1.3, 2.7 and 2.8),
//! not from the code: request n of a ring that never ends has the index n mod 2^16, or the place n mod size and the
//! wrap counter of round n / size; the other side is told if the n that it names is one of those just done.

use std::cell::RefCell;

use vd_virtio::fault::FaultKind;
use vd_virtio::queue::{Area, Head, Interrupt, QueueConfig};
use vd_virtio::{Chain, Features, Gpa, GuestMemory, MemError, Queue};

const DESC: u64 = 0x100;
const DRIVER: u64 = 0x200;
const DEVICE: u64 = 0x300;
const BUFFERS: u64 = 0x400;
const MEMORY: usize = 0x500;
/// Where 16-bit indices start over.
const WRAP: u64 = 1 << 16;

/// Memory of one thread.
#[derive(Clone)]
struct Mem(RefCell<Vec<u8>>);

impl Mem {
    fn get(&self, at: u64) -> u16 {
        self.load_u16(Gpa(at)).unwrap()
    }

    fn set(&self, at: u64, value: u64) {
        self.store_u16(Gpa(at), value as u16).unwrap();
    }
}

impl GuestMemory for Mem {
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        let at = from.0 as usize;
        into.copy_from_slice(&self.0.borrow()[at..at + into.len()]);
        Ok(())
    }

    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        let at = to.0 as usize;
        self.0.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        self.write(at, &value.to_le_bytes())
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        assert!(at.0 + len <= MEMORY as u64);
        Ok(())
    }

    fn fence(&self) {}
}

/// A ring and the driver's counts.
#[derive(Clone)]
struct World {
    mem: Mem,
    queue: Queue,
    heads: [u64; 1],
    size: u64,
    /// Requests (packed: entries) that were ever made available.
    offered: u64,
}

fn world(size: u64, features: Features) -> World {
    let mem = Mem(RefCell::new(vec![0; MEMORY]));
    let mut config = QueueConfig::new(8);
    config.set_size(size as u32);
    for (area, at) in [
        (Area::Desc, DESC),
        (Area::Driver, DRIVER),
        (Area::Device, DEVICE),
    ] {
        config.set_half(area, false, at as u32);
    }
    let queue = config.activate(&mem, features, 1).unwrap();
    World {
        mem,
        queue,
        heads: [0],
        size,
        offered: 0,
    }
}

/// Whether one of `done` has the index that the other side has named.
fn names_one_of(event: u64, mut done: std::ops::Range<u64>) -> bool {
    done.any(|n| n % WRAP == event % WRAP)
}

fn interrupt(wanted: bool, done: u64) -> Interrupt {
    match (done, wanted) {
        (0, _) => Interrupt::Nothing,
        (_, true) => Interrupt::Wanted,
        (_, false) => Interrupt::Unwanted,
    }
}

/// Split rings. Request n takes descriptor n mod size, and asks for as many bytes, and one more.
impl World {
    fn split(size: u64, features: Features) -> Self {
        let world = world(size, features);
        for head in 0..size {
            let at = DESC + head * 16;
            for (field, value) in [(0, BUFFERS + head), (8, head + 1), (12, 2)] {
                world.mem.set(at + field, value);
            }
            world.mem.set(DRIVER + 4 + head * 2, head);
        }
        world
    }

    fn used_event(&self, event: u64) {
        self.mem.set(DRIVER + 4 + self.size * 2, event);
    }

    fn avail_event(&self) -> u64 {
        self.mem.get(DEVICE + 4 + self.size * 8).into()
    }

    fn used_idx(&self) -> u64 {
        self.mem.get(DEVICE + 2).into()
    }

    fn offer(&mut self, requests: u64) {
        self.offered += requests;
        self.mem.set(DRIVER + 2, self.offered % WRAP);
    }

    fn pop(&mut self, chain: &mut Chain) -> Result<Option<Head>, FaultKind> {
        self.queue.pop(&self.mem, &mut self.heads, chain)
    }

    fn give_back(&mut self, head: Head, written: u64) {
        self.queue
            .add_used(&self.mem, &mut self.heads, head, written as u32)
            .unwrap();
    }

    fn decide(&self) -> Interrupt {
        self.queue.clone().decide_interrupt(&self.mem).unwrap()
    }

    /// One request from end to end.
    fn serve_one(&mut self, chain: &mut Chain) {
        self.offer(1);
        let head = self.pop(chain).unwrap().unwrap();
        self.give_back(head, 1);
        self.queue.publish(&self.mem).unwrap();
    }

    /// A ring at rest after `requests`.
    fn served(mut self, requests: u64, chain: &mut Chain) -> Self {
        while self.offered < requests {
            self.serve_one(chain);
            self.queue.decide_interrupt(&self.mem).unwrap();
        }
        self
    }
}

/// Where to look: twice around from the start, and twice around on both sides of the wrap.
fn positions(size: u64) -> impl Iterator<Item = u64> {
    (0..=2 * size).chain(WRAP - 2 * size - 1..=WRAP + 2 * size)
}

/// Every state of a ring that starts at `rest`: so many offered, taken, given back in this order or the other.
fn split_states(rest: &World, chain: &mut Chain) {
    let (start, size) = (rest.offered, rest.size);
    for offered in 0..=size {
        for taken in 0..=offered {
            for (given, backwards) in (0..=taken).flat_map(|n| [(n, false), (n, true)]) {
                let mut world = rest.clone();
                world.offer(offered);
                let mut heads = Vec::new();
                for n in start..start + taken {
                    heads.push(world.pop(chain).unwrap().unwrap());
                    assert_eq!(chain.writable().len(), n % size + 1);
                }
                if taken == offered {
                    assert_eq!(world.pop(chain), Ok(None));
                }
                check_split_kicks(&world, start + taken);
                if backwards {
                    heads.reverse();
                }
                for (n, head) in (0..given).zip(heads) {
                    world.give_back(head, n + 1);
                }
                assert_eq!(world.used_idx(), start % WRAP, "nothing is shown yet");
                world.queue.publish(&world.mem).unwrap();
                assert_eq!(world.used_idx(), (start + given) % WRAP);
                for n in 0..given {
                    let taken_as = if backwards { taken - 1 - n } else { n };
                    let element = DEVICE + 4 + (start + n) % size * 8;
                    let (head, len) = (world.mem.get(element), world.mem.get(element + 4));
                    assert_eq!(u64::from(head), (start + taken_as) % size);
                    assert_eq!(u64::from(len), n + 1);
                }
                let near = WRAP + start - 2 * size - 2..=WRAP + start + 2 * size + 2;
                for event in near.chain([start + WRAP / 2, start + WRAP / 2 - 1]) {
                    world.used_event(event);
                    let wanted = names_one_of(event, start..start + given);
                    assert_eq!(world.decide(), interrupt(wanted, given), "{event}");
                }
            }
        }
    }
}

/// What the device asks of the driver when it has taken all requests before `next`.
fn check_split_kicks(world: &World, next: u64) {
    let mut world = world.clone();
    world.queue.disable_notifications(&world.mem).unwrap();
    let later = world.offered..world.offered + WRAP / 2;
    assert!(!names_one_of(world.avail_event(), later));
    let more = world.queue.enable_notifications(&world.mem);
    assert_eq!(more, Ok(next != world.offered));
    assert_eq!(world.avail_event(), next % WRAP);
    // Whoever sleeps now is woken by the next request, alone or as the first of several.
    for several in 1..=world.size {
        assert!(names_one_of(world.avail_event(), next..next + several));
    }
}

#[test]
fn split_rings_in_every_state() {
    for size in [1, 2, 4, 8] {
        let mut chain = Chain::new();
        let mut rest = World::split(size, Features::EVENT_IDX);
        for position in positions(size) {
            rest = rest.served(position, &mut chain);
            split_states(&rest, &mut chain);
        }
    }
}

/// All 2^16 values of used_event, for every number of requests given back since the last decision up to three rounds.
#[test]
fn split_rings_with_every_used_event() {
    for size in [1, 2, 4, 8] {
        let mut chain = Chain::new();
        for start in [0, WRAP - 1] {
            let mut world = World::split(size, Features::EVENT_IDX).served(start, &mut chain);
            for done in 0..=3 * size {
                for event in 0..WRAP {
                    world.used_event(event);
                    let wanted = names_one_of(event, start..start + done);
                    assert_eq!(world.decide(), interrupt(wanted, done), "{event}");
                }
                world.serve_one(&mut chain);
            }
        }
    }
}

/// All 2^16 values of avail.idx, for every number of requests under way: what is further ahead than the ring is long is
/// refused, and never are there more requests under way than the ring is long.
#[test]
fn split_rings_with_every_avail_idx() {
    for size in [1, 2, 4, 8] {
        let mut chain = Chain::new();
        for start in [0, WRAP - 3] {
            let rest = World::split(size, Features::EVENT_IDX).served(start, &mut chain);
            for under_way in 0..=size {
                let mut world = rest.clone();
                world.offer(under_way);
                for _ in 0..under_way {
                    let _under_way = world.pop(&mut chain).unwrap().unwrap();
                }
                for ahead in 0..WRAP {
                    world.mem.set(DRIVER + 2, (world.offered + ahead) % WRAP);
                    check_ahead(&world, under_way, ahead, &mut chain);
                }
            }
        }
    }
}

fn check_ahead(world: &World, under_way: u64, ahead: u64, chain: &mut Chain) {
    let mut queue = world.queue.clone();
    let mut heads = world.heads;
    let mut pop = || queue.pop(&world.mem, &mut heads, chain);
    if ahead > world.size {
        assert!(matches!(pop(), Err(FaultKind::AvailIndex { .. })));
        return;
    }
    let free = world.size - under_way;
    for _ in 0..ahead.min(free) {
        assert!(matches!(pop(), Ok(Some(_))));
    }
    if ahead > free {
        assert!(matches!(pop(), Err(FaultKind::HeadInFlight(_))));
    } else {
        assert_eq!(pop(), Ok(None));
    }
}

/// Without EVENT_IDX only the flags count, whatever is where the event indices would be.
#[test]
fn split_rings_by_flags() {
    for size in [1, 2, 4, 8] {
        let mut chain = Chain::new();
        let mut rest = World::split(size, Features::empty());
        for position in positions(size) {
            rest = rest.served(position, &mut chain);
            for done in 0..=size {
                let mut world = rest.clone();
                (0..done).for_each(|_| world.serve_one(&mut chain));
                for event in [position, position + done, position + 1] {
                    world.used_event(event);
                    for flags in 0..4 {
                        world.mem.set(DRIVER, flags);
                        assert_eq!(world.decide(), interrupt(flags & 1 == 0, done));
                    }
                }
                world.queue.disable_notifications(&world.mem).unwrap();
                assert_eq!(world.mem.get(DEVICE), 1);
                assert_eq!(world.queue.enable_notifications(&world.mem), Ok(false));
                assert_eq!(world.mem.get(DEVICE), 0);
                world.offer(1);
                assert_eq!(world.queue.enable_notifications(&world.mem), Ok(true));
            }
        }
    }
}

const AVAIL: u64 = 1 << 7;
const USED: u64 = 1 << 15;

/// Packed rings, by entries. Entry n is at n mod size; in even rounds its wrap counter is 1.
impl World {
    fn packed(size: u64, features: Features) -> Self {
        world(size, features | Features::RING_PACKED)
    }

    fn entry(&self, n: u64) -> u64 {
        DESC + n % self.size * 16
    }

    fn counter(&self, n: u64) -> bool {
        (n / self.size).is_multiple_of(2)
    }

    /// The word that names entry n.
    fn word(&self, n: u64) -> u64 {
        (n % self.size) | u64::from(self.counter(n)) << 15
    }

    /// Whether the word names one of `entries`.
    fn word_is_in(&self, word: u64, mut entries: std::ops::Range<u64>) -> bool {
        entries.any(|n| self.word(n) == word)
    }

    /// Makes a buffer of so many entries available, with an id that its first entry gives it.
    fn offer_chain(&mut self, entries: u64) -> u16 {
        let (first, id) = (self.offered, self.offered % self.size);
        for n in first..first + entries {
            let next = u64::from(n + 1 != first + entries);
            let mark = if self.counter(n) { AVAIL } else { USED };
            let at = self.entry(n);
            for (field, value) in [(0, BUFFERS), (8, 1), (12, id), (14, mark | 2 | next)] {
                self.mem.set(at + field, value);
            }
        }
        self.offered += entries;
        id as u16
    }

    fn serve_chain(&mut self, entries: u64, chain: &mut Chain) {
        self.offer_chain(entries);
        let head = self.pop(chain).unwrap().unwrap();
        self.give_back(head, 1);
        self.queue.publish(&self.mem).unwrap();
    }

    fn driver_events(&self, flags: u64, word: u64) {
        self.mem.set(DRIVER, word);
        self.mem.set(DRIVER + 2, flags);
    }
}

/// All ways to cut at most `size` entries into buffers.
fn cuts(size: u64) -> Vec<Vec<u64>> {
    let mut all = vec![vec![]];
    let mut at = 0;
    while at < all.len() {
        let cut = all[at].clone();
        let left = size - cut.iter().sum::<u64>();
        all.extend((1..=left).map(|next| [cut.as_slice(), &[next]].concat()));
        at += 1;
    }
    all
}

fn packed_states(rest: &World, cut: &[u64], chain: &mut Chain) {
    for taken in 0..=cut.len() {
        let mut world = rest.clone();
        let ids: Vec<u16> = cut.iter().map(|&n| world.offer_chain(n)).collect();
        let mut heads = Vec::new();
        for &entries in &cut[..taken] {
            heads.push(world.pop(chain).unwrap().unwrap());
            assert_eq!(chain.len() as u64, entries);
        }
        if taken == cut.len() {
            // Of a full ring the entries behind the last are those that were taken first: they are not available again.
            assert_eq!(world.pop(chain), Ok(None));
        }
        let next = rest.offered + cut[..taken].iter().sum::<u64>();
        check_packed_kicks(&world, next);
        let mut used = rest.offered;
        check_packed_interrupts(&world, rest.offered..used);
        for (n, head) in heads.into_iter().enumerate() {
            let before = world.mem.0.borrow().clone();
            world.give_back(head, n as u64 + 1);
            world.queue.publish(&world.mem).unwrap();
            let at = world.entry(used);
            let marks = if world.counter(used) { AVAIL | USED } else { 0 };
            assert_eq!(u64::from(world.mem.get(at + 14)) & (AVAIL | USED), marks);
            assert_eq!(world.mem.get(at + 12), ids[n]);
            assert_eq!(u64::from(world.mem.get(at + 8)), n as u64 + 1);
            let after = world.mem.0.borrow();
            let kept = |range: std::ops::Range<usize>| before[range.clone()] == after[range];
            let at = at as usize;
            assert!(kept(0..at + 8) && kept(at + 16..MEMORY), "only this entry");
            drop(after);
            used += cut[n];
            check_packed_interrupts(&world, rest.offered..used);
        }
    }
}

fn check_packed_kicks(world: &World, next: u64) {
    let mut world = world.clone();
    world.queue.disable_notifications(&world.mem).unwrap();
    assert_eq!(world.mem.get(DEVICE + 2), 1);
    let more = world.queue.enable_notifications(&world.mem);
    assert_eq!(more, Ok(next != world.offered));
    let (word, flags) = (world.mem.get(DEVICE), world.mem.get(DEVICE + 2));
    assert_eq!((u64::from(word), flags), (world.word(next), 2));
}

/// `done`: entries used since the last decision, less than two rounds.
fn check_packed_interrupts(world: &World, done: std::ops::Range<u64>) {
    let count = done.end - done.start;
    for (flags, wanted) in [(0, true), (1, false)] {
        world.driver_events(flags, world.word(done.start));
        assert_eq!(world.decide(), interrupt(wanted, count));
    }
    for word in (0..world.size + 2).flat_map(|offset| [offset, offset | 1 << 15]) {
        world.driver_events(2, word);
        let wanted = world.word_is_in(word, done.clone());
        // More than a round: an interrupt too many does no harm, and one too few does.
        if wanted || count < world.size {
            assert_eq!(world.decide(), interrupt(wanted, count), "{word:#x}");
        }
    }
}

#[test]
fn packed_rings_in_every_state() {
    for size in 1..=8 {
        let cuts = cuts(size);
        let mut chain = Chain::new();
        let mut rest = World::packed(size, Features::EVENT_IDX);
        // From every entry of three rounds.
        for _ in 0..3 * size {
            for cut in &cuts {
                packed_states(&rest, cut, &mut chain);
            }
            rest.serve_chain(1, &mut chain);
            rest.queue.decide_interrupt(&rest.mem).unwrap();
        }
    }
}

/// All 2^16 words of the driver's event suppression, for every number of entries used up to three rounds.
#[test]
fn packed_rings_with_every_event_word() {
    for size in 1..=8 {
        let mut chain = Chain::new();
        for start in 0..2 * size {
            let mut world = World::packed(size, Features::EVENT_IDX);
            (0..start).for_each(|_| world.serve_chain(1, &mut chain));
            world.queue.decide_interrupt(&world.mem).unwrap();
            for done in 1..=3 * size {
                world.serve_chain(1, &mut chain);
                // Beyond the offsets that there are, a few of each kind stand for the rest unless all are tried.
                let all = start == size - 1;
                for word in (0..WRAP).filter(|word| all || word & 0x7fff < 2 * size) {
                    world.driver_events(2, word);
                    let wanted = world.word_is_in(word, start..start + done);
                    if wanted || done < size {
                        assert_eq!(world.decide(), interrupt(wanted, done), "{word:#x}");
                    }
                }
            }
        }
    }
}

/// A buffer that is offered over entries that are still under way is refused, wherever in the ring.
#[test]
fn packed_rings_that_are_overrun() {
    for size in 1..=8 {
        let mut chain = Chain::new();
        for start in 0..2 * size {
            for under_way in 1..=size {
                let mut world = World::packed(size, Features::empty());
                (0..start).for_each(|_| world.serve_chain(1, &mut chain));
                world.offer_chain(under_way);
                let _under_way = world.pop(&mut chain).unwrap().unwrap();
                for more in 1..=size {
                    let mut world = world.clone();
                    world.offer_chain(more);
                    let result = world.pop(&mut chain);
                    if under_way + more > size {
                        assert!(matches!(result, Err(FaultKind::HeadInFlight(_))));
                    } else {
                        assert!(matches!(result, Ok(Some(_))));
                    }
                }
            }
        }
    }
}
