//! A back end of a network interface.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use vd_pv::test_util::{FakePlatform, Memory};

/// Slots of a ring.
const SLOTS: u32 = 256;
/// Where the slots begin.
const HEADER: usize = 64;

/// One of the two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingName {
    /// What the front end sends.
    Tx,
    /// What it receives into.
    Rx,
}

/// A ring, from this side.
#[derive(Debug)]
struct Ring {
    gref: u32,
    page: usize,
    slot: usize,
    taken: u32,
    given: u32,
}

/// A frame that the front end has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The frame.
    pub bytes: Vec<u8>,
    /// Its checksum is left to this end.
    pub blank: bool,
    /// It is a large segment: whether over IPv6, and the size of its parts.
    pub large: Option<(bool, u16)>,
    /// The ids of its requests, in order, with None for extra information.
    pub ids: Vec<Option<u16>>,
}

/// A back end.
#[derive(Debug)]
pub struct FakeBackend {
    memory: Rc<RefCell<Memory>>,
    /// Whose grants it may use.
    pub domain: u16,
    rings: Option<[Ring; 2]>,
    /// Buffers to receive into that were taken and not used: slot's number, id and grant.
    pub buffers: VecDeque<(u16, u32)>,
    /// Most bytes that it puts into a buffer.
    pub piece: usize,
    /// It has answered what it was not asked, so that buffers which it takes for its own may not be any more.
    pub has_lied: bool,
}

impl FakeBackend {
    /// One without a connection.
    pub fn new(platform: &FakePlatform, domain: u16) -> Self {
        Self {
            memory: platform.0.clone(),
            domain,
            rings: None,
            buffers: VecDeque::new(),
            piece: 4096,
            has_lied: false,
        }
    }

    /// Maps the rings.
    pub fn connect(&mut self, tx: u32, rx: u32) {
        assert!(self.rings.is_none());
        let domain = self.domain;
        let ring = |gref, slot| Ring {
            gref,
            page: self.memory.borrow_mut().map(domain, gref),
            slot,
            taken: 0,
            given: 0,
        };
        self.rings = Some([ring(tx, 12), ring(rx, 8)]);
    }

    /// Lets go of everything.
    pub fn disconnect(&mut self) {
        self.buffers.clear();
        for ring in self.rings.take().into_iter().flatten() {
            self.memory.borrow_mut().unmap(ring.gref);
        }
    }

    fn ring(&mut self, name: RingName) -> &mut Ring {
        &mut self.rings.as_mut().expect("connected")[name as usize]
    }

    fn index(&mut self, name: RingName, at: usize) -> u32 {
        let page = self.ring(name).page;
        let bytes = self.memory.borrow().get(page, at, 4);
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Writes one of a ring's four indices, by its offset.
    pub fn set_index(&mut self, name: RingName, at: usize, value: u32) {
        let page = self.ring(name).page;
        self.memory.borrow_mut().put(page, at, &value.to_le_bytes());
    }

    /// The next request of a ring; wants an event for the one after the last.
    fn request<const N: usize>(&mut self, name: RingName) -> Option<[u8; N]> {
        let produced = self.index(name, 0);
        let ring = self.ring(name);
        assert!(
            produced.wrapping_sub(ring.given) <= SLOTS,
            "more requests than slots"
        );
        if ring.taken == produced {
            self.set_index(name, 4, produced.wrapping_add(1));
            return None;
        }
        let at = HEADER + (ring.taken % SLOTS) as usize * ring.slot;
        ring.taken = ring.taken.wrapping_add(1);
        let page = ring.page;
        let bytes = self.memory.borrow().get(page, at, N);
        Some(bytes.try_into().unwrap())
    }

    /// Puts a response into the next slot of a ring, whatever it is. Returns whether the front end wants an event.
    pub fn respond(&mut self, name: RingName, response: &[u8]) -> bool {
        let ring = self.ring(name);
        let at = HEADER + (ring.given % SLOTS) as usize * ring.slot;
        ring.given = ring.given.wrapping_add(1);
        let (page, given) = (ring.page, ring.given);
        self.memory.borrow_mut().put(page, at, response);
        self.set_index(name, 8, given);
        self.index(name, 12) == given
    }

    /// Takes the frames that were sent. Their requests are not answered.
    pub fn take(&mut self) -> Vec<Received> {
        let mut frames = vec![];
        while let Some(first) = self.request::<12>(RingName::Tx) {
            frames.push(self.take_frame(first));
        }
        frames
    }

    fn take_frame(&mut self, first: [u8; 12]) -> Received {
        let short = |bytes: &[u8; 12], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut frame = Received {
            bytes: vec![],
            blank: short(&first, 6) & 1 != 0,
            large: None,
            ids: vec![],
        };
        let total = usize::from(short(&first, 10));
        assert!(total >= 14, "a frame of {total} bytes");
        let mut parts = vec![first];
        frame.ids.push(Some(short(&first, 8)));
        if short(&first, 6) & 8 != 0 {
            let extra = self.request::<12>(RingName::Tx).expect("extra information");
            assert_eq!((extra[0], extra[1]), (1, 0), "a large segment, and no more");
            assert!(frame.blank, "a large segment has no checksum");
            let ipv6 = match extra[4] {
                1 => false,
                2 => true,
                other => panic!("type {other}"),
            };
            frame.large = Some((ipv6, short(&extra, 2)));
            frame.ids.push(None);
        }
        while short(parts.last().unwrap(), 6) & 4 != 0 {
            let next = self.request::<12>(RingName::Tx).expect("more data");
            assert_eq!(short(&next, 6) & !4, 0, "flags of a later part");
            frame.ids.push(Some(short(&next, 8)));
            parts.push(next);
        }
        assert!(parts.len() <= 18, "{} slots", parts.len());
        let later: usize = parts[1..]
            .iter()
            .map(|part| usize::from(short(part, 10)))
            .sum();
        for (number, part) in parts.iter().enumerate() {
            let gref = u32::from_le_bytes(part[..4].try_into().unwrap());
            let offset = usize::from(short(part, 4));
            let len = if number == 0 {
                total - later
            } else {
                usize::from(short(part, 10))
            };
            assert!(offset + len <= 4096, "beyond a page");
            let memory = self.memory.borrow();
            let page = memory.page_of(self.domain, gref).expect("a grant");
            assert_eq!(
                memory.writable_page_of(self.domain, gref),
                None,
                "what goes out is only read"
            );
            frame.bytes.extend(memory.get(page, offset, len));
        }
        frame
    }

    /// Answers a frame's requests. Returns whether the front end wants an event for that.
    pub fn answer(&mut self, frame: &Received, status: i16) -> bool {
        let mut wanted = false;
        for id in &frame.ids {
            let (id, status) = match id {
                Some(id) => (*id, status),
                None => (0xdead, 1),
            };
            wanted |= self.answer_raw(id, status);
        }
        wanted
    }

    /// Answers one request.
    pub fn answer_raw(&mut self, id: u16, status: i16) -> bool {
        let [a, b] = id.to_le_bytes();
        let [c, d] = status.to_le_bytes();
        self.respond(RingName::Tx, &[a, b, c, d])
    }

    /// Takes all buffers to receive into. Returns how many there are.
    pub fn take_buffers(&mut self) -> usize {
        while let Some(request) = self.request::<8>(RingName::Rx) {
            let id = u16::from_le_bytes([request[0], request[1]]);
            let gref = u32::from_le_bytes(request[4..].try_into().unwrap());
            self.buffers.push_back((id, gref));
        }
        self.buffers.len()
    }

    /// Gives a frame to the front end. Returns whether it wants an event.
    pub fn give(&mut self, bytes: &[u8], blank: bool, large: Option<(bool, u16)>) -> bool {
        self.take_buffers();
        let mut wanted = false;
        let mut pieces = bytes.chunks(self.piece).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let mut flags = if pieces.peek().is_some() { 4 } else { 0 };
            if first && blank {
                flags |= 3;
            }
            if first && large.is_some() {
                flags |= 8;
            }
            // Anywhere in the page.
            let offset = (4096 - piece.len()).min(64);
            wanted |= self.give_raw(piece, offset as u16, flags, piece.len() as i16);
            if let Some((ipv6, size)) = large.filter(|_| first) {
                let [a, b] = size.to_le_bytes();
                wanted |= self.give_extra([1, 0, a, b, 1 + u8::from(ipv6), 0, 0, 0]);
            }
            first = false;
        }
        wanted
    }

    /// Puts bytes into the next buffer, and answers it with these numbers.
    pub fn give_raw(&mut self, bytes: &[u8], offset: u16, flags: u16, status: i16) -> bool {
        let (id, gref) = self.buffers.pop_front().expect("a buffer");
        let page = self.memory.borrow().writable_page_of(self.domain, gref);
        assert!(page.is_some() || self.has_lied, "a grant to write");
        if let Some(page) = page {
            let at = usize::from(offset).min(4096 - bytes.len());
            self.memory.borrow_mut().put(page, at, bytes);
        }
        self.respond_rx(id, offset, flags, status)
    }

    /// Answers a buffer.
    pub fn respond_rx(&mut self, id: u16, offset: u16, flags: u16, status: i16) -> bool {
        let mut response = vec![];
        for field in [id, offset, flags, status as u16] {
            response.extend(field.to_le_bytes());
        }
        self.respond(RingName::Rx, &response)
    }

    /// Answers the next buffer with extra information.
    pub fn give_extra(&mut self, bytes: [u8; 8]) -> bool {
        self.buffers.pop_front().expect("a buffer");
        self.respond(RingName::Rx, &bytes)
    }
}
