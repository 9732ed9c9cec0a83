//! Nothing allocates on the way of a frame, nor when a connection ends and another begins; and its bytes are copied once.

#[path = "../../pv/tests/common/allocations.rs"]
mod allocations;
mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::net::{World, all, ethernet, mac, tcp};
use common::{ALL, BACKEND, FAR};
use vd_net::NetFeatures;
use vd_net::header::NetHeader;
use vd_netif::{FramePages, PAGES, Properties, Uplink, Vif};
use vd_pv::{Access, Front, PAGE_SIZE, Platform};
use vd_virtio::{Gpa, GuestMemory};

thread_local! {
    /// Bytes that the switch has put into pages, and got from them.
    static FILLED: Cell<u64> = const { Cell::new(0) };
    static DRAINED: Cell<u64> = const { Cell::new(0) };
}

/// Pages that a back end shares. Page n has the grant n + 1; the rings are pages 0 and 1.
#[derive(Clone)]
struct Flat(Rc<RefCell<Box<[u8]>>>);

impl Flat {
    fn range(page: usize, at: usize, len: usize) -> core::ops::Range<usize> {
        assert!(at + len <= PAGE_SIZE);
        page * PAGE_SIZE + at..page * PAGE_SIZE + at + len
    }

    fn put(&self, page: usize, at: usize, from: &[u8]) {
        self.0.borrow_mut()[Self::range(page, at, from.len())].copy_from_slice(from);
    }

    fn short(&self, page: usize, at: usize) -> u16 {
        let bytes = self.0.borrow();
        let bytes = &bytes[Self::range(page, at, 2)];
        u16::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Answers everything that was sent since `taken`. Returns how many requests that were.
    fn answer(&self, taken: &mut u32) -> u32 {
        let (before, shown) = (*taken, self.load_u32(0, 0));
        let mut extra = false;
        while *taken != shown {
            let slot = 64 + (*taken % 256) as usize * 12;
            let (flags, id) = (self.short(0, slot + 6), self.short(0, slot + 8));
            let status = i16::from(extra);
            extra = !extra && flags & 8 != 0;
            self.put(0, slot, &id.to_le_bytes());
            self.put(0, slot + 2, &status.to_le_bytes());
            *taken = taken.wrapping_add(1);
        }
        self.put(0, 8, &shown.to_le_bytes());
        self.put(0, 4, &shown.wrapping_add(1).to_le_bytes());
        shown.wrapping_sub(before)
    }

    /// Gives a frame in pieces of a page.
    fn give(&self, given: &mut u32, frame: &[u8], large: bool) {
        let mut pieces = frame.chunks(PAGE_SIZE).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let slot = 64 + (*given % 256) as usize * 8;
            let (id, gref) = (self.short(1, slot), self.short(1, slot + 4));
            let mut flags = if pieces.peek().is_some() { 4u16 } else { 0 };
            if first && large {
                flags |= 3 | 8;
            }
            self.put(usize::from(gref) - 1, 0, piece);
            for (n, field) in [id, 0, flags, piece.len() as u16].into_iter().enumerate() {
                self.put(1, slot + 2 * n, &field.to_le_bytes());
            }
            *given = given.wrapping_add(1);
            if first && large {
                let slot = 64 + (*given % 256) as usize * 8;
                self.put(1, slot, &[1, 0, 0xe8, 3, 1, 0, 0, 0]);
                *given = given.wrapping_add(1);
            }
            first = false;
        }
        self.put(1, 8, &given.to_le_bytes());
    }
}

impl Platform for Flat {
    fn pages(&self) -> usize {
        PAGES
    }

    fn load_u32(&self, page: usize, at: usize) -> u32 {
        let bytes = self.0.borrow();
        let bytes = &bytes[Self::range(page, at, 4)];
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    fn store_u32(&mut self, page: usize, at: usize, value: u32) {
        self.put(page, at, &value.to_le_bytes());
    }

    fn fence(&self) {}

    fn read_bytes(&self, page: usize, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0.borrow()[Self::range(page, at, into.len())]);
    }

    fn write_bytes(&mut self, page: usize, at: usize, from: &[u8]) {
        self.put(page, at, from);
    }

    fn fill<R>(&mut self, page: usize, len: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
        with(&mut self.0.borrow_mut()[Self::range(page, 0, len)])
    }

    fn drain<R>(&self, page: usize, len: usize, with: impl FnOnce(&[u8]) -> R) -> R {
        with(&self.0.borrow()[Self::range(page, 0, len)])
    }

    fn grant(&mut self, _: u16, page: usize, _: Access) -> Option<u32> {
        u32::try_from(page + 1).ok()
    }

    fn end_grant(&mut self, _: u32) -> bool {
        true
    }

    fn open_port(&mut self, _: u16) -> Option<u32> {
        Some(1)
    }

    fn close_port(&mut self, _: u32) {}

    fn notify(&mut self, _: u32) {}
}

impl FramePages for Flat {
    fn fill_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&mut [u8])) {
        FILLED.set(FILLED.get() + len as u64);
        with(&mut self.0.borrow_mut()[Self::range(page, at, len)]);
    }

    fn drain_at(&self, page: usize, at: usize, len: usize, with: &mut dyn FnMut(&[u8])) {
        DRAINED.set(DRAINED.get() + len as u64);
        with(&self.0.borrow()[Self::range(page, at, len)]);
    }
}

/// Everybody works until there is nothing to do; gives how often something was allocated meanwhile.
fn run(world: &mut World, uplink: &mut Uplink<Flat>) -> u64 {
    let before = allocations::so_far();
    loop {
        world.run();
        let more = uplink.run(&world.mem, 64);
        let woken = world.ports.iter_mut().any(|port| port.wake());
        if !more && !woken {
            return allocations::so_far() - before;
        }
    }
}

#[test]
fn nothing_allocates_and_bytes_are_copied_once() {
    let plain = NetFeatures::MAC | NetFeatures::MRG_RXBUF;
    let mut world = World::new(&[all(), plain]).posted(120, 0x1000);
    // The fake memory keeps a list of what is written: it is made long enough before.
    for _ in 0..300_000 {
        world.mem.write(Gpa(0x5f_0000), &[0]).unwrap();
    }
    let platform = Flat(Rc::new(RefCell::new(
        vec![0; PAGES * PAGE_SIZE].into_boxed_slice(),
    )));
    let vif = Vif::new(platform.clone()).unwrap();
    let mut uplink = Uplink::new(0, vif, &world.switch).unwrap();
    let (mut frames, mut allocated) = (0, 0);
    for round in 0..6 {
        let before = allocations::so_far();
        assert!(uplink.link_up(BACKEND, false));
        uplink.open(Properties {
            mtu: 1500,
            takes: ALL,
        });
        allocated += allocations::so_far() - before;
        let (mut taken, mut given) = (0, 0);
        for n in 0..40 {
            for port in 0..2 {
                let small = ethernet(mac(port), mac(FAR), 60 + n * 30);
                world.send(port, NetHeader::default(), &small);
                let (_, large) = tcp(FAR, port, false, &[7; 9000]);
                platform.give(&mut given, &large, true);
                platform.give(&mut given, &ethernet(mac(FAR), mac(port), 700), false);
            }
            let (header, large) = tcp(0, FAR, false, &[9; 20_000]);
            let header = NetHeader {
                gso_type: 1,
                gso_size: 1000,
                ..header
            };
            world.send(0, header, &large);
            allocated += run(&mut world, &mut uplink);
            if n % 3 == 2 {
                frames += platform.answer(&mut taken);
            }
            allocated += run(&mut world, &mut uplink);
            for port in 0..2 {
                let got = world.received(port);
                let buffers = got
                    .iter()
                    .map(|(header, _)| header.num_buffers)
                    .sum::<u16>();
                world.post(port, buffers.into(), 0x1000);
                world.returned(port, 1);
            }
            if n % 7 == round {
                world.tick();
            }
        }
        let before = allocations::so_far();
        uplink.disconnect(false);
        assert!(uplink.revoke());
        allocated += allocations::so_far() - before;
    }
    assert!(allocations::so_far() > 0, "it does count");
    assert_eq!(allocated, 0);
    let counters = uplink.vif().counters();
    assert!(frames > 1000 && counters.large_in > 300 && counters.large_out > 200);
    assert!(world.counters(1).cut > 200);
    // A virtio header goes before each frame, and is looked at again; the start of what comes in is looked at first.
    let headers = 12 * counters.frames_out;
    assert_eq!(FILLED.get(), counters.bytes_out + headers);
    let drained = DRAINED.get() - headers;
    assert!(drained >= counters.bytes_in, "{drained}");
    assert!(
        drained <= counters.bytes_in + 192 * counters.frames_in,
        "{drained}"
    );
}
