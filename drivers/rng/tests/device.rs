//! The device as a driver sees it, and the pool as an observer of both of its ends does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use vd_rng::health::Sickness;
use vd_rng::{Allowance, EntropyDevice, MAX_REQUEST, Pool, RESEED_BYTES, Source, Trouble};
use vd_virtio::test_util::{DriverRing, FakeMemory, WRITE};
use vd_virtio::{Chain, MmioTransport};

const SECOND: u64 = 1_000_000_000;
const BUFFER: u64 = 0x8000;
const BUFFER_LEN: u32 = 0x4000;

/// A generator that is good enough to be healthy, and can be told to be sick.
#[derive(Clone, Default)]
struct Noise {
    state: Rc<Cell<u64>>,
    /// What is given instead of noise.
    instead: Rc<Cell<Option<Option<u64>>>>,
    given: Rc<RefCell<Vec<u64>>>,
    each: u32,
}

impl Source for Noise {
    fn word(&mut self) -> Option<u64> {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let word = self.instead.get().unwrap_or(Some(z ^ (z >> 31)))?;
        self.given.borrow_mut().push(word);
        Some(word)
    }

    fn words_for_64_bits(&self) -> u32 {
        self.each
    }
}

impl Noise {
    fn pool(&self) -> Pool<Noise> {
        Pool::new(self.clone()).expect("the noise is healthy")
    }

    fn drawn(&self) -> usize {
        self.given.borrow().len()
    }
}

/// A driver with one buffer.
struct Rig {
    noise: Noise,
    mem: FakeMemory,
    transport: MmioTransport<EntropyDevice<Noise>, 1>,
    chain: Chain,
    ring: DriverRing,
}

impl Rig {
    fn new(rate: u32) -> Self {
        let noise = Noise::default();
        let device = EntropyDevice::new(noise.pool(), Allowance::new(rate));
        let mut rig = Self {
            noise,
            mem: FakeMemory::new(0x1_0000),
            transport: MmioTransport::new(device, 8),
            chain: Chain::new(),
            ring: DriverRing::at(0x1000, 8),
        };
        rig.set_up();
        rig
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.transport.write(&self.mem, offset, 4, value);
    }

    fn set_up(&mut self) {
        let ring = self.ring;
        self.mem.put(ring.avail, &[0; 4]);
        self.mem.put(ring.used, &[0; 4]);
        for (offset, value) in [
            (0x70, 0),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
            (0x30, 0),
            (0x38, ring.size.into()),
            (0x80, ring.desc),
            (0x90, ring.avail),
            (0xa0, ring.used),
            (0x44, 1),
            (0x70, 15),
        ] {
            self.write(offset, value);
        }
        self.run();
    }

    fn run(&mut self) {
        self.transport.run(&self.mem, 100, &mut self.chain);
    }

    /// Asks for `len` bytes; returns how many came, if the request was answered.
    fn ask(&mut self, len: u32) -> Option<u32> {
        self.mem.put(BUFFER, &[0; BUFFER_LEN as usize]);
        self.ring.describe(&self.mem, 0, BUFFER, len, WRITE, 0);
        let before = self.ring.used_idx(&self.mem);
        self.ring.offer(&self.mem, 0);
        self.write(0x50, 0);
        self.run();
        self.answer_since(before)
    }

    fn answer_since(&self, before: u16) -> Option<u32> {
        (self.ring.used_idx(&self.mem) != before)
            .then(|| self.ring.used_element(&self.mem, before).1)
    }

    fn tick(&mut self, nanoseconds: u64) {
        if self.transport.device_mut().tick(nanoseconds) {
            self.transport.wake(0);
        }
        self.run();
    }

    fn bytes(&self) -> Vec<u8> {
        self.mem.get::<{ BUFFER_LEN as usize }>(BUFFER).to_vec()
    }
}

#[test]
fn what_the_driver_sees() {
    let mut rig = Rig::new(1 << 20);
    assert_eq!(rig.transport.read(8, 4), 4, "an entropy device");
    assert_eq!(rig.transport.read(0x100, 4), 0, "without configuration");
    assert_eq!(rig.ask(64), Some(64));
    let first = rig.bytes();
    assert!(first[..64].iter().any(|byte| *byte != 0));
    assert!(first[64..].iter().all(|byte| *byte == 0), "not a byte more");
    assert_eq!(rig.ask(64), Some(64));
    assert_ne!(first, rig.bytes());
    assert_eq!(rig.ask(1), Some(1));
}

/// A request costs a bounded amount of work, and buffers without room none.
#[test]
fn row26_row29_requests_are_bounded() {
    let mut rig = Rig::new(1 << 20);
    assert_eq!(rig.ask(BUFFER_LEN), Some(MAX_REQUEST));
    let bytes = rig.bytes();
    let (given, rest) = bytes.split_at(MAX_REQUEST as usize);
    assert!(rest.iter().all(|byte| *byte == 0));
    assert!(given.chunks(16).all(|chunk| chunk != [0; 16]));
    // Device-readable only.
    rig.ring.describe(&rig.mem, 0, BUFFER, 64, 0, 0);
    let before = rig.ring.used_idx(&rig.mem);
    rig.ring.offer(&rig.mem, 0);
    rig.write(0x50, 0);
    rig.run();
    assert_eq!(rig.answer_since(before), Some(0));
    assert_eq!(rig.transport.device().counters().errors, 1);
    assert_eq!(rig.transport.counters().faults, 0);
}

/// What the driver gets wrong breaks the device, and a reset heals it.
#[test]
fn row04_buffers_that_are_not_ram() {
    let mut rig = Rig::new(1 << 20);
    rig.ring.describe(&rig.mem, 0, 1 << 40, 64, WRITE, 0);
    rig.ring.offer(&rig.mem, 0);
    rig.write(0x50, 0);
    rig.run();
    assert_eq!(rig.transport.read(0x70, 4) & 0x40, 0x40, "NEEDS_RESET");
    assert_eq!(rig.transport.counters().faults, 1);
    rig.set_up();
    assert_eq!(rig.ask(64), Some(64));
}

/// A driver that takes all it can gets what its allowance gives, and the rest when there is more.
#[test]
fn row26_a_greedy_driver_waits() {
    let mut rig = Rig::new(1000);
    assert_eq!(rig.ask(600), Some(600));
    assert_eq!(rig.ask(600), Some(400), "what is left");
    assert_eq!(rig.ask(600), None);
    assert!(!rig.transport.has_work(), "it does not spin");
    let before = rig.ring.used_idx(&rig.mem);
    rig.tick(SECOND / 10);
    assert_eq!(rig.answer_since(before), Some(100));
    let counters = rig.transport.device().counters();
    assert_eq!((counters.bytes, counters.throttled), (1100, 3));
    rig.tick(0);
    assert_eq!(rig.answer_since(before.wrapping_add(1)), None);
    // Over many seconds, no more than the rate.
    for _ in 0..50 {
        rig.tick(SECOND / 5);
        rig.ask(600);
    }
    let bytes = rig.transport.device().counters().bytes;
    assert!((10_000..=11_100).contains(&bytes), "{bytes}");
}

/// A source that fails gives nothing: no request is answered before it has passed a whole start-up test again.
#[test]
fn a_source_that_fails_stops_the_device() {
    for (instead, trouble) in [
        (None, Trouble::Silent),
        (Some(0), Trouble::Sick(Sickness::Repetition)),
        (Some(u64::MAX), Trouble::Sick(Sickness::Repetition)),
    ] {
        let mut rig = Rig::new(1 << 20);
        rig.noise.instead.set(Some(instead));
        // What was seeded before goes out.
        let healthy = RESEED_BYTES / MAX_REQUEST;
        for n in 0..healthy {
            assert_eq!(rig.ask(MAX_REQUEST), Some(MAX_REQUEST), "{n}");
        }
        let before = rig.ring.used_idx(&rig.mem);
        assert_eq!(rig.ask(64), None);
        assert_eq!(rig.transport.device().trouble(), Some(trouble));
        assert_eq!(rig.transport.device().counters().troubles, 1);
        assert_eq!(rig.transport.device_mut().take_news(), Some(Err(trouble)));
        rig.tick(SECOND);
        assert_eq!(rig.answer_since(before), None);
        assert_eq!(rig.transport.device_mut().take_news(), None);
        rig.noise.instead.set(None);
        let drawn = rig.noise.drawn();
        rig.tick(SECOND);
        assert_eq!(rig.answer_since(before), Some(64));
        assert!(rig.noise.drawn() - drawn >= 128, "a start-up test");
        assert_eq!(rig.transport.device().trouble(), None);
        assert_eq!(rig.transport.device_mut().take_news(), Some(Ok(())));
    }
}

#[test]
fn a_source_that_never_works_makes_no_pool() {
    let noise = Noise::default();
    for (instead, trouble) in [
        (None, Trouble::Silent),
        (Some(7), Trouble::Sick(Sickness::Repetition)),
    ] {
        noise.instead.set(Some(instead));
        assert_eq!(Pool::new(noise.clone()).err(), Some(trouble));
    }
}

/// The source's words are never given out, and they matter: other words, other bytes.
#[test]
fn never_raw_and_never_constant() {
    let noise = Noise::default();
    let mut pool = noise.pool();
    let mut bytes = vec![0; RESEED_BYTES as usize];
    pool.fill(&mut bytes).unwrap();
    for word in noise.given.borrow().iter() {
        let word = word.to_le_bytes();
        assert!(!bytes.windows(8).any(|window| window == word));
    }
    // The same words, the same bytes: nothing else goes in.
    let again = |start: u64| {
        let noise = Noise::default();
        noise.state.set(start);
        let mut bytes = [0; 32];
        noise.pool().fill(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(bytes[..32], again(0));
    assert_ne!(again(0), again(1));
}

/// Fresh entropy after so many bytes, of as many words as the source says that it takes.
#[test]
fn it_is_reseeded() {
    for each in [0, 1, 1024] {
        let noise = Noise {
            each,
            ..Noise::default()
        };
        let mut pool = noise.pool();
        let seed = 4 * each.max(1) as usize;
        assert_eq!(noise.drawn(), 128 + seed);
        let mut bytes = vec![0; RESEED_BYTES as usize];
        pool.fill(&mut bytes).unwrap();
        assert_eq!(noise.drawn(), 128 + seed);
        let mut other = [0; 16];
        pool.fill(&mut other).unwrap();
        assert_eq!(noise.drawn(), 128 + 2 * seed);
        assert!(!bytes.windows(16).any(|window| window == other));
    }
}
