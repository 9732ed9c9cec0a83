//! Three network devices on one switch, and drivers that send, give buffers, command, reset, and lie.
//!
//! What is checked: nothing is written but into buffers that were given and not taken back by a reset, and into rings; a
//! device is broken only by a lie of its own driver; a frame without offloads arrives as it was sent, once, at the right
//! port, in order; every frame that was taken is counted once by its sender; and in the end every sender has all of its
//! frames back.
#![no_main]

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use vd_net::header::NetHeader;
use vd_net::{Mac, NetDevice, NetFeatures, PortConfig, Switch};
use vd_virtio::mmio::Status;
use vd_virtio::test_util::{DriverRing, FakeMemory, NEXT, WRITE};
use vd_virtio::{Chain, Features, Gpa, GuestMemory, MmioTransport};
use virtio_domain_fuzz::Source;

const PORTS: usize = 3;
const SIZE: u16 = 32;
const SPAN: u64 = 0x4_0000;
const RING: u64 = 0x800;
const DATA: u64 = 0x4000;
/// Receive, transmit, again both, control; with one pair control is the third.
const QUEUES: usize = 5;

struct Port {
    transport: MmioTransport<NetDevice, QUEUES, QUEUES>,
    base: u64,
    rings: Vec<DriverRing>,
    seen: [u16; QUEUES],
    next: [u16; QUEUES],
    /// Descriptors in use.
    busy: [u16; QUEUES],
    /// Chains under way: their descriptors, and where they may be written.
    chains: Vec<Vec<Vec<Range<u64>>>>,
    /// The first byte of the data that is not used yet; it is used once.
    free: u64,
    features: NetFeatures,
    /// Its driver has lied in a way that breaks it, now or when it is found out.
    lied: bool,
    sent: u64,
}

struct World {
    mem: FakeMemory,
    switch: Rc<RefCell<Switch>>,
    ports: Vec<Port>,
    chain: Box<Chain>,
    /// Plain frames: who has sent them to whom, and what is in them.
    plain: Vec<(usize, Option<usize>, Vec<u8>)>,
    /// The last of them from one port to another, to it alone or to all.
    last: [[[usize; 2]; PORTS]; PORTS],
}

fn mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, port as u8 + 1]
}

impl Port {
    fn start(&mut self, mem: &FakeMemory, features: NetFeatures) {
        let chosen = features.bits() | Features::VERSION_1.bits();
        let t = &mut self.transport;
        for status in [0, 1, 3] {
            t.write(mem, 0x70, 4, status);
        }
        for half in [0, 1] {
            t.write(mem, 0x24, 4, half);
            t.write(mem, 0x20, 4, chosen >> (32 * half) & 0xffff_ffff);
        }
        t.write(mem, 0x70, 4, 11);
        for (queue, ring) in self.rings.iter().enumerate() {
            mem.put(ring.desc, &[0; RING as usize]);
            t.write(mem, 0x30, 4, queue as u64);
            t.write(mem, 0x38, 4, SIZE.into());
            for (register, value) in [(0x80, ring.desc), (0x90, ring.avail), (0xa0, ring.used)] {
                t.write(mem, register, 4, value);
            }
            t.write(mem, 0x44, 4, 1);
        }
        t.write(mem, 0x70, 4, 15);
        assert_eq!(t.read(0x70, 4), 15);
        self.features = features;
        self.seen = [0; QUEUES];
        self.next = [0; QUEUES];
        self.busy = [0; QUEUES];
        self.chains = vec![vec![vec![]; SIZE.into()]; QUEUES];
        self.lied = false;
    }

    /// Pairs of queues that its driver may use.
    fn pairs(&self) -> usize {
        let both = NetFeatures::MQ | NetFeatures::CTRL_VQ;
        if self.features.contains(both) { 2 } else { 1 }
    }

    fn control(&self) -> Option<usize> {
        let there = self.features.contains(NetFeatures::CTRL_VQ);
        there.then_some(2 * self.pairs())
    }

    fn allocate(&mut self, len: usize) -> Option<u64> {
        let at = self.free;
        let end = at + len as u64;
        (end <= self.base + SPAN).then(|| {
            self.free = end;
            at
        })
    }

    /// Makes a chain available, if the ring has room.
    fn offer(&mut self, mem: &FakeMemory, queue: usize, list: &[(u64, u32, u16)]) -> bool {
        let count = list.len() as u16;
        if count == 0 || self.busy[queue] + count > SIZE {
            return false;
        }
        let (ring, first) = (self.rings[queue], self.next[queue]);
        for (n, &(addr, len, flags)) in list.iter().enumerate() {
            let index = (first + n as u16) % SIZE;
            let next = if n + 1 < list.len() { NEXT } else { 0 };
            ring.describe(mem, index, addr, len, flags | next, (index + 1) % SIZE);
        }
        self.chains[queue][usize::from(first)] = list
            .iter()
            .map(|&(addr, len, flags)| {
                let writable = if flags & WRITE != 0 {
                    u64::from(len)
                } else {
                    0
                };
                addr..addr.saturating_add(writable)
            })
            .collect();
        self.next[queue] = (first + count) % SIZE;
        self.busy[queue] += count;
        ring.offer(mem, first);
        self.transport.notify(queue as u32);
        true
    }

    /// Takes the next used chain: its pieces, and how much was written.
    fn used(&mut self, mem: &FakeMemory, queue: usize) -> Option<(Vec<Range<u64>>, u32)> {
        let ring = self.rings[queue];
        if ring.used_idx(mem) == self.seen[queue] {
            return None;
        }
        let (head, len) = ring.used_element(mem, self.seen[queue]);
        self.seen[queue] = self.seen[queue].wrapping_add(1);
        let pieces = std::mem::take(&mut self.chains[queue][head as usize]);
        assert!(!pieces.is_empty(), "given back twice");
        self.busy[queue] -= pieces.len() as u16;
        Some((pieces, len))
    }

    fn may_be_written(&self, range: &Range<u64>) -> bool {
        let rings = self.base..self.base + DATA;
        let inside = |outer: &Range<u64>| outer.start <= range.start && range.end <= outer.end;
        inside(&rings) || self.chains.iter().flatten().flatten().any(inside)
    }
}

impl World {
    fn new(source: &mut Source<'_>) -> Self {
        let mut world = Self {
            mem: FakeMemory::new(PORTS * SPAN as usize),
            switch: Rc::default(),
            ports: vec![],
            chain: Box::default(),
            plain: vec![],
            last: [[[0; 2]; PORTS]; PORTS],
        };
        for number in 0..PORTS {
            let config = PortConfig {
                mac: Mac(mac(number)),
                mtu: source.pick(&[1500, 1280, 9000]),
                pairs: 2,
            };
            let device = NetDevice::new(&world.switch, config).expect("there is room");
            let base = number as u64 * SPAN;
            let mut port = Port {
                transport: MmioTransport::new(device, SIZE),
                base,
                rings: (0..QUEUES as u64)
                    .map(|queue| DriverRing::at(base + queue * RING, SIZE))
                    .collect(),
                seen: [0; QUEUES],
                next: [0; QUEUES],
                busy: [0; QUEUES],
                chains: vec![],
                free: base + DATA,
                features: NetFeatures::empty(),
                lied: false,
                sent: 0,
            };
            port.start(&world.mem, features(source));
            world.ports.push(port);
        }
        world.mem.take_written();
        world
    }

    /// Lets the devices work, and looks at what they have done.
    fn run(&mut self, budget: u32) {
        for port in &mut self.ports {
            let wakes = port.transport.device().take_wakes();
            for queue in (0..QUEUES as u16).filter(|queue| wakes >> queue & 1 != 0) {
                port.transport.wake(queue);
            }
            if port.transport.has_work() {
                port.transport.run(&self.mem, budget, &mut self.chain);
            }
        }
        for range in self.mem.take_written() {
            let allowed = self.ports.iter().any(|port| port.may_be_written(&range));
            assert!(allowed, "{range:x?} was written");
        }
        for number in 0..PORTS {
            let port = &mut self.ports[number];
            let broken = port.transport.status().contains(Status::NEEDS_RESET);
            assert!(!broken || port.lied, "{:?}", port.transport.take_fault());
            let pairs = port.pairs();
            for queue in 0..QUEUES {
                if queue < 2 * pairs && queue.is_multiple_of(2) {
                    continue;
                }
                while let Some((_, written)) = port.used(&self.mem, queue) {
                    assert!(written <= u32::from(port.control() == Some(queue)));
                }
            }
            (0..pairs).for_each(|pair| self.receive(number, 2 * pair));
        }
    }

    fn receive(&mut self, number: usize, queue: usize) {
        let Self { mem, ports, .. } = self;
        let port = &mut ports[number];
        let mut left = 0u16;
        let mut bytes: Vec<u8> = vec![];
        while let Some((pieces, written)) = port.used(mem, queue) {
            let mut rest = written as usize;
            for piece in pieces {
                let len = ((piece.end - piece.start) as usize).min(rest);
                let mut here = vec![0; len];
                mem.read(Gpa(piece.start), &mut here).expect("it is RAM");
                bytes.extend(here);
                rest -= len;
            }
            assert_eq!(rest, 0, "more than there was room for");
            if left == 0 {
                let header = bytes.first_chunk().expect("a header");
                left = NetHeader::decode(*header).num_buffers;
                assert!(left == 1 || port.features.contains(NetFeatures::MRG_RXBUF));
            }
            left -= 1;
            if left == 0 {
                Self::arrived(&self.plain, &mut self.last, number, port, &bytes);
                bytes.clear();
            }
        }
        assert_eq!(left, 0, "the rest of a frame is missing");
    }

    fn arrived(
        plain: &[(usize, Option<usize>, Vec<u8>)],
        last: &mut [[[usize; 2]; PORTS]; PORTS],
        number: usize,
        port: &Port,
        bytes: &[u8],
    ) {
        let (header, frame) = bytes.split_first_chunk().expect("a header");
        let header = NetHeader::decode(*header);
        assert!(frame.len() >= 14);
        if header.flags & 1 != 0 {
            assert!(port.features.contains(NetFeatures::GUEST_CSUM));
            assert!(
                usize::from(header.csum_start) + usize::from(header.csum_offset) + 2 <= frame.len()
            );
        } else {
            assert_eq!((header.flags, header.gso_type), (0, 0));
        }
        if frame[12..14] != [0x88, 0xb5] || frame.len() < 22 || port.lied {
            return;
        }
        let id = u64::from_be_bytes(*frame[14..].first_chunk().expect("a number")) as usize;
        let (from, to, sent) = &plain[id];
        assert!(sent == frame);
        assert!(*from != number && to.is_none_or(|to| to == number));
        // Frames of several queues may overtake one another.
        if port.pairs() == 1 {
            let last = &mut last[*from][number][usize::from(to.is_some())];
            assert!(id + 1 > *last, "twice, or out of order");
            *last = id + 1;
        }
    }
}

/// What a driver chooses: everything, or some of it.
fn features(source: &mut Source<'_>) -> NetFeatures {
    let all = NetFeatures::OFFLOADS
        | NetFeatures::MRG_RXBUF
        | NetFeatures::CTRL_VQ
        | NetFeatures::CTRL_MAC_ADDR
        | NetFeatures::MQ;
    if source.coin() {
        all
    } else {
        all & NetFeatures::from_bits_retain(source.any())
    }
}

/// TCP over IPv4 or IPv6, and the header that leaves its checksum to others.
fn tcp(from: usize, to: usize, ipv6: bool, data: usize) -> (NetHeader, Vec<u8>) {
    let mut frame: Vec<u8> = mac(to).into_iter().chain(mac(from)).collect();
    let start = if ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
        frame.extend([from as u8; 16].into_iter().chain([to as u8; 16]));
        54
    } else {
        frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend([10, 0, 0, from as u8, 10, 0, 0, to as u8]);
        34
    };
    frame.extend([
        0, 9, 0, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..data).map(|at| at as u8));
    let header = NetHeader {
        flags: 1,
        csum_start: start,
        csum_offset: 16,
        ..NetHeader::default()
    };
    (header, frame)
}

fn send(world: &mut World, source: &mut Source<'_>) {
    let from = source.below(PORTS);
    let to = source.below(PORTS);
    let (mut header, mut frame) = match source.below(3) {
        0 => {
            let to = if source.coin() { Some(to) } else { None };
            let mut frame: Vec<u8> = to.map_or([0xff; 6], mac).to_vec();
            frame.extend(mac(from).into_iter().chain([0x88, 0xb5]));
            frame.extend((world.plain.len() as u64).to_be_bytes());
            frame.extend((0..source.below(1480)).map(|at| at as u8));
            world
                .plain
                .push((from, to.filter(|&to| to != from).or(to), frame.clone()));
            (NetHeader::default(), frame)
        }
        kind => {
            let ipv6 = kind == 2;
            let (mut header, frame) = tcp(from, to, ipv6, source.below(8000));
            if frame.len() > 1294 || source.coin() {
                header.gso_type = if ipv6 { 4 } else { 1 };
                header.gso_size = source.between(1, 1500) as u16;
            }
            (header, frame)
        }
    };
    // A header that lies, and a frame that does: neither breaks anything.
    let plain = frame[12..14] == [0x88, 0xb5];
    if source.rarely() {
        let value = source.edge() as u16;
        let field = match source.below(4) {
            0 => &mut header.csum_start,
            1 => &mut header.csum_offset,
            2 => &mut header.gso_size,
            _ => &mut header.hdr_len,
        };
        *field = value;
    }
    if source.rarely() {
        header.gso_type = source.any();
    }
    if !plain {
        if source.rarely() {
            let at = source.below(frame.len().min(80));
            frame[at] = source.any();
        }
        if source.rarely() {
            frame.truncate(source.below(100));
        }
    }
    let bytes: Vec<u8> = header.encode().into_iter().chain(frame).collect();
    let World { mem, ports, .. } = world;
    let port = &mut ports[from];
    let Some(at) = port.allocate(bytes.len()) else {
        return;
    };
    mem.put(at, &bytes);
    let mut list = vec![];
    let mut done = 0;
    while done < bytes.len() {
        let rest = bytes.len() - done;
        let len = if list.len() < 6 && source.coin() {
            1 + source.below(rest.min(300))
        } else {
            rest
        };
        list.push((at + done as u64, len as u32, 0));
        done += len;
    }
    let bad = source.rarely();
    if bad {
        let last = list.len() - 1;
        list[last].0 = source.edge().max(PORTS as u64 * SPAN);
    }
    let pair = if plain { 0 } else { source.below(port.pairs()) };
    if port.offer(mem, 2 * pair + 1, &list) {
        port.sent += 1;
        port.lied |= bad;
    }
}

fn give_buffer(world: &mut World, source: &mut Source<'_>) {
    let World { mem, ports, .. } = world;
    let port = &mut ports[source.below(PORTS)];
    let mut list = vec![];
    for _ in 0..1 + source.below(3) {
        let len = source.pick(&[12, 1526, 100, 2048, 13, 4096, 1]);
        let Some(at) = port.allocate(len) else { return };
        list.push((at, len as u32, WRITE));
    }
    if list.iter().map(|piece| piece.1).sum::<u32>() < 12 {
        port.lied = true;
    }
    if source.rarely() {
        list[0].0 = source.edge().max(PORTS as u64 * SPAN);
        port.lied = true;
    }
    let pair = source.below(port.pairs());
    port.offer(mem, 2 * pair, &list);
}

fn command(world: &mut World, source: &mut Source<'_>) {
    let World { mem, ports, .. } = world;
    let port = &mut ports[source.below(PORTS)];
    let Some(control) = port.control() else {
        return;
    };
    let bytes: Vec<u8> = match source.below(4) {
        0 => vec![4, 0, source.below(4) as u8, 0],
        1 => [1, 1].into_iter().chain(mac(3 + source.below(2))).collect(),
        2 => [1, 1].into_iter().chain(source.array::<6>()).collect(),
        _ => source.bytes(10).to_vec(),
    };
    let Some(at) = port.allocate(bytes.len() + 1) else {
        return;
    };
    mem.put(at, &bytes);
    let mut list = vec![
        (at, bytes.len() as u32, 0),
        (at + bytes.len() as u64, 1, WRITE),
    ];
    list.retain(|piece| piece.1 != 0);
    if source.rarely() {
        list.pop();
    }
    port.lied |= bytes.len() < 2;
    port.offer(mem, control, &list);
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let mut world = World::new(&mut source);
    for _ in 0..200 {
        if source.is_empty() {
            break;
        }
        match source.below(16) {
            0..=5 => send(&mut world, &mut source),
            6..=9 => give_buffer(&mut world, &mut source),
            10 => command(&mut world, &mut source),
            11 => world.switch.borrow_mut().tick(),
            12 => {
                let port = source.below(PORTS);
                let up = source.coin();
                let transport = &mut world.ports[port].transport;
                transport.reconfigure(|device| device.set_link(up));
            }
            13 if source.rarely() => {
                let features = features(&mut source);
                let World { mem, ports, .. } = &mut world;
                let port = &mut ports[source.below(PORTS)];
                port.start(mem, features);
                mem.take_written();
            }
            _ => world.run(1 + source.below(20) as u32),
        }
    }
    for _ in 0..4 {
        for _ in 0..100 {
            world.run(64);
        }
        world.switch.borrow_mut().tick();
    }
    for port in &world.ports {
        if !port.transport.status().contains(Status::NEEDS_RESET) {
            assert_eq!(port.busy[1], 0, "frames were not given back");
            assert!(port.pairs() == 1 || port.busy[3] == 0);
        }
        let counters = port.transport.device().counters();
        let taken = counters.tx_frames
            + counters.tx_short
            + counters.tx_long
            + counters.tx_bad_offload
            + counters.tx_spoofed
            + counters.tx_reserved
            + counters.tx_unreachable;
        assert!(taken <= port.sent);
    }
});
