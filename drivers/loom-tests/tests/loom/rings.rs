//! The transport and its queue against a driver: no request is lost that a side has slept over.
//!
//! The device is `vd_virtio::MmioTransport` with `Queue` below it; it runs in one thread, the driver in the other.
//! - Kick race: the driver makes requests available while the device runs dry and asks for kicks again. At the end every
//!   request is served, if need be in the pass that the driver's kick calls for, and none without a kick is left.
//! - Interrupt race: the device uses requests while the driver asks for interrupts again and goes to sleep. At the end
//!   the driver has seen all, or its interrupt line is up.
//!
//! Both also check what is handed over: a descriptor that is read before it is written breaks the device, and an answer
//! that is seen before it is written fails in the driver.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use vd_virtio::fault::FaultKind;
use vd_virtio::mmio::Status;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};

use crate::driver::{Driver, MEMORY, Packed, SIZE, Split, answer};
use crate::explore;
use crate::guest::{Flaw, Guest, Plain, Watched, Words};

/// Writes the answer into every buffer.
#[derive(Clone)]
struct Answerer;

impl Device for Answerer {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::empty()
    }

    fn read_config(&self, _: usize, into: &mut [u8]) {
        into.fill(0);
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        pass.serve_each(chain, |mem, chain| {
            for (at, len) in chain.writable().pieces() {
                assert_eq!(len, 2);
                mem.write(at, &answer(at.0).to_le_bytes())?;
            }
            Ok(2)
        })
    }
}

/// The device's side. The chain is large for loom's stacks, so that one is made beforehand for all executions.
#[derive(Clone)]
struct Side {
    transport: MmioTransport<Answerer, 1, 1>,
    scratch: Arc<Mutex<Chain>>,
}

impl Side {
    fn new(areas: [u64; 3], features: Features, mem: &Guest<Plain>) -> Self {
        let mut transport = MmioTransport::new(Answerer, SIZE);
        let bits = (features | Features::VERSION_1).bits();
        let mut write = |offset, value| transport.write(mem, offset, 4, value);
        // Status, features by halves, the queue, its areas (4.2.2).
        for (offset, value) in [
            (0x70, 1),
            (0x70, 3),
            (0x24, 0),
            (0x20, bits & 0xffff_ffff),
            (0x24, 1),
            (0x20, bits >> 32),
            (0x70, 11),
            (0x30, 0),
            (0x38, SIZE.into()),
            (0x80, areas[0]),
            (0x90, areas[1]),
            (0xa0, areas[2]),
            (0x44, 1),
            (0x70, 15),
        ] {
            write(offset, value);
        }
        Side {
            transport,
            scratch: Arc::default(),
        }
    }

    fn kick<W: Words>(&mut self, mem: &Guest<W>) {
        self.transport.write(mem, 0x50, 4, 0);
    }

    fn run<W: Words>(&mut self, mem: &Guest<W>, budget: u32) {
        let mut scratch = self.scratch.try_lock().unwrap();
        self.transport.run(mem, budget, &mut scratch);
        let broken = self.transport.status().contains(Status::NEEDS_RESET);
        assert!(!broken, "{:?}", self.transport.take_fault());
    }

    /// Takes the interrupt, as the driver's handler does.
    fn take_interrupt<W: Words>(&mut self, mem: &Guest<W>) -> bool {
        let up = self.transport.interrupt();
        self.transport.write(mem, 0x64, 4, 3);
        up
    }
}

/// Driver and device at rest: all requests were served, and each side waits for the other.
#[derive(Clone)]
struct Scene<D> {
    side: Side,
    driver: D,
    words: Vec<u16>,
}

impl<D: Driver> Scene<D> {
    /// After `served` requests, to start anywhere in the ring, or where an index wraps.
    fn new(event_idx: bool, served: u32) -> Self {
        let mut driver = D::new(event_idx);
        let mut features = Features::empty();
        features.set(Features::EVENT_IDX, event_idx);
        features.set(Features::RING_PACKED, D::PACKED);
        let mem = Guest {
            words: Plain(RefCell::new(vec![0; MEMORY / 2])),
            flaw: Flaw::Nothing,
        };
        let mut side = Side::new(driver.areas(), features, &mem);
        driver.arm(&mem.words);
        side.run(&mem, 100);
        for _ in 0..served {
            driver.offer(&mem.words);
            assert!(driver.wants_kick(&mem.words));
            side.kick(&mem);
            side.run(&mem, 100);
            assert!(side.take_interrupt(&mem) && driver.has_used(&mem.words));
            driver.take(&mem.words);
            driver.arm(&mem.words);
        }
        Scene {
            side,
            driver,
            words: mem.words.0.into_inner(),
        }
    }

    /// With requests made available and not served.
    fn with_offered(mut self, requests: u16) -> Self {
        let words = Plain(RefCell::new(self.words));
        for _ in 0..requests {
            self.driver.offer(&words);
        }
        self.words = words.0.into_inner();
        self
    }
}

fn kick_race<D: Driver>(event_idx: bool, served: u32, flaw: Flaw) {
    let scene = Scene::<D>::new(event_idx, served);
    let name = format!(
        "kick race, {}, event_idx {event_idx}, after {served}",
        kind::<D>()
    );
    let preemptions = D::PACKED.then_some(4);
    explore(&name, preemptions, move || {
        let Scene {
            mut side,
            mut driver,
            words,
        } = scene.clone();
        let words = Watched::new(&words, &driver.both());
        let mem = Guest {
            words: words.clone(),
            flaw,
        };
        // Something has kicked the queue: the pass that the driver races against.
        side.kick(&mem);
        let driver = thread::spawn(move || {
            let mut kicked = false;
            for _ in 0..2 {
                driver.offer(&words);
                words.fence();
                kicked |= driver.wants_kick(&words);
            }
            (driver, words, kicked)
        });
        side.run(&mem, 100);
        let (mut driver, words, kicked) = driver.join().unwrap();
        if kicked {
            side.kick(&mem);
            side.run(&mem, 100);
        }
        for _ in 0..2 {
            assert!(
                driver.has_used(&words),
                "a request that nobody was told of and nobody looks at"
            );
            driver.take(&words);
        }
    });
}

fn interrupt_race<D: Driver>(event_idx: bool, served: u32, flaw: Flaw) {
    let scene = Scene::<D>::new(event_idx, served).with_offered(2);
    let name = format!(
        "interrupt race, {}, event_idx {event_idx}, after {served}",
        kind::<D>()
    );
    let preemptions = if D::PACKED { 3 } else { 4 };
    explore(&name, Some(preemptions), move || {
        let Scene {
            mut side,
            mut driver,
            words,
        } = scene.clone();
        let words = Watched::new(&words, &driver.both());
        let mem = Guest {
            words: words.clone(),
            flaw,
        };
        side.kick(&mem);
        let line = Arc::new(AtomicBool::new(false));
        let up = Arc::clone(&line);
        let driver = thread::spawn(move || {
            let mut seen = 0;
            loop {
                driver.disarm(&words);
                while driver.has_used(&words) {
                    driver.take(&words);
                    seen += 1;
                }
                driver.arm(&words);
                words.fence();
                // Sleeps, unless there is something new, or an interrupt meanwhile.
                if !driver.has_used(&words) && !line.swap(false, Ordering::Acquire) {
                    return seen;
                }
            }
        });
        // Two passes of one request each: the driver can be interrupted, and asleep again, in between.
        for _ in 0..2 {
            side.run(&mem, 1);
            if side.take_interrupt(&mem) {
                // A swap, as a latch changes in one step: loom does not order a plain store and the driver's swap.
                up.swap(true, Ordering::Release);
            }
        }
        let seen = driver.join().unwrap();
        assert!(
            seen == 2 || up.load(Ordering::Relaxed),
            "the driver sleeps over {} requests",
            2 - seen
        );
    });
}

fn kind<D: Driver>() -> &'static str {
    if D::PACKED { "packed" } else { "split" }
}

/// Requests served before: none, and as many as bring the next two to the place where the ring wraps. A split ring's
/// index does so after 65535, a packed ring's counter after each round.
const SPLIT: [u32; 2] = [0, 65535];
const PACKED: [u32; 2] = [0, 1];

macro_rules! holds {
    ($($name:ident: $race:ident, $ring:ident, $event_idx:literal, $served:ident;)*) => {$(
        #[test]
        fn $name() {
            for served in $served {
                $race::<$ring>($event_idx, served, Flaw::Nothing);
            }
        }
    )*};
}

holds! {
    kick_race_split_event_idx: kick_race, Split, true, SPLIT;
    kick_race_split_flags: kick_race, Split, false, SPLIT;
    kick_race_packed_event_idx: kick_race, Packed, true, PACKED;
    kick_race_packed_flags: kick_race, Packed, false, PACKED;
    interrupt_race_split_event_idx: interrupt_race, Split, true, SPLIT;
    interrupt_race_split_flags: interrupt_race, Split, false, SPLIT;
    interrupt_race_packed_event_idx: interrupt_race, Packed, true, PACKED;
    interrupt_race_packed_flags: interrupt_race, Packed, false, PACKED;
}

/// With something broken in the device's accesses the same tests fail, and with the message that belongs to it.
macro_rules! fails {
    ($($name:ident: $race:ident, $ring:ident, $event_idx:literal, $flaw:ident, $message:literal;)*) => {$(
        #[test]
        #[should_panic(expected = $message)]
        fn $name() {
            $race::<$ring>($event_idx, 0, Flaw::$flaw);
        }
    )*};
}

fails! {
    kick_race_split_event_idx_without_fence: kick_race, Split, true, Fence, "nobody was told";
    kick_race_split_flags_without_fence: kick_race, Split, false, Fence, "nobody was told";
    kick_race_packed_event_idx_without_fence: kick_race, Packed, true, Fence, "nobody was told";
    kick_race_packed_flags_without_fence: kick_race, Packed, false, Fence, "nobody was told";
    kick_race_split_without_acquire: kick_race, Split, true, Load, "Some(Fault";
    kick_race_packed_without_acquire: kick_race, Packed, true, Load, "Some(Fault";
    interrupt_race_split_event_idx_without_fence: interrupt_race, Split, true, Fence, "sleeps over";
    interrupt_race_split_flags_without_fence: interrupt_race, Split, false, Fence, "sleeps over";
    interrupt_race_packed_event_idx_without_fence: interrupt_race, Packed, true, Fence, "sleeps over";
    interrupt_race_packed_flags_without_fence: interrupt_race, Packed, false, Fence, "sleeps over";
    interrupt_race_split_without_release: interrupt_race, Split, true, Store, "assertion `left == right` failed";
    interrupt_race_packed_without_release: interrupt_race, Packed, true, Store, "assertion `left == right` failed";
}
