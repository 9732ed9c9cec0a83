//! A guest with several ports on one switch, and drivers that do what the tests tell them, right or wrong.
#![allow(dead_code, reason = "each test uses some of it")]

use std::cell::RefCell;
use std::rc::Rc;

use vd_net::header::{HEADER, NetHeader};
use vd_net::{Counters, Mac, NetDevice, NetFeatures, PortConfig, Switch};
use vd_virtio::mmio::Status;
use vd_virtio::test_util::{DriverRing, FakeMemory, NEXT, WRITE};
use vd_virtio::{Chain, Features, Gpa, GuestMemory, MmioTransport};

/// Memory of one port: rings, and buffers from [`BUFFERS`] on.
const SPAN: u64 = 0x80_0000;
const BUFFERS: u64 = 0x10_0000;
const SENT: u64 = 0x60_0000;
/// Entries of every queue.
pub(crate) const SIZE: u16 = 256;

pub(crate) type Transport = MmioTransport<NetDevice, 9, 36>;

/// The driver of one port.
pub(crate) struct Port {
    pub(crate) transport: Transport,
    pub(crate) base: u64,
    pub(crate) rings: Vec<DriverRing>,
    /// Where the device is in each used ring.
    seen: Vec<u16>,
    /// The next descriptor of each queue.
    next: Vec<u16>,
    place: u64,
    sent: u64,
    /// The receive buffers by queue and head.
    posted: Vec<Vec<(u64, u32)>>,
}

pub(crate) struct World {
    pub(crate) mem: FakeMemory,
    pub(crate) switch: Rc<RefCell<Switch>>,
    pub(crate) ports: Vec<Port>,
    chain: Box<Chain>,
}

/// All features that a device with one pair has, and those of several.
pub(crate) fn all() -> NetFeatures {
    NetFeatures::CSUM
        | NetFeatures::GUEST_CSUM
        | NetFeatures::MTU
        | NetFeatures::MAC
        | NetFeatures::GUEST_TSO4
        | NetFeatures::GUEST_TSO6
        | NetFeatures::HOST_TSO4
        | NetFeatures::HOST_TSO6
        | NetFeatures::MRG_RXBUF
        | NetFeatures::STATUS
        | NetFeatures::CTRL_VQ
        | NetFeatures::CTRL_MAC_ADDR
}

/// The configured address of a port.
pub(crate) fn mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, port as u8 + 1]
}

/// A frame from one port's address to another one's.
pub(crate) fn frame(from: usize, to: usize, len: usize) -> Vec<u8> {
    ethernet(mac(from), mac(to), len)
}

pub(crate) fn ethernet(from: [u8; 6], to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = to.into_iter().chain(from).chain([0x88, 0xb5]).collect();
    frame.extend((frame.len()..len).map(|at| (at % 251) as u8));
    frame
}

impl World {
    /// Ports whose drivers choose these features. There are no buffers yet.
    pub(crate) fn new(ports: &[NetFeatures]) -> Self {
        Self::with(ports, 1, 1500)
    }

    pub(crate) fn with(ports: &[NetFeatures], pairs: u16, mtu: u16) -> Self {
        Self::each(ports, pairs, |_| mtu)
    }

    /// Ports with an MTU each.
    pub(crate) fn each(ports: &[NetFeatures], pairs: u16, mtu: impl Fn(usize) -> u16) -> Self {
        let mut world = Self {
            mem: FakeMemory::new(ports.len() * SPAN as usize),
            switch: Rc::new(RefCell::new(Switch::new())),
            ports: vec![],
            chain: Box::default(),
        };
        for (number, features) in ports.iter().enumerate() {
            let config = PortConfig {
                mac: Mac(mac(number)),
                mtu: mtu(number),
                pairs,
            };
            let device = NetDevice::new(&world.switch, config).unwrap();
            let base = number as u64 * SPAN;
            let mut port = Port {
                transport: MmioTransport::new(device, SIZE),
                base,
                rings: vec![],
                seen: vec![],
                next: vec![],
                place: 0,
                sent: 0,
                posted: vec![],
            };
            port.start(&world.mem, *features);
            world.ports.push(port);
        }
        world
    }

    /// Lets all devices work until there is nothing left to do.
    pub(crate) fn run(&mut self) {
        loop {
            let mut idle = true;
            for port in &mut self.ports {
                port.wake();
                while port.transport.has_work() {
                    idle = false;
                    port.transport.run(&self.mem, 64, &mut self.chain);
                }
            }
            // What one has left for another.
            if idle && self.ports.iter_mut().all(|port| !port.wake()) {
                return;
            }
        }
    }

    /// Lets one device work once.
    pub(crate) fn pass(&mut self, port: usize) {
        let Self {
            mem, ports, chain, ..
        } = self;
        ports[port].transport.run(mem, 64, chain);
    }

    pub(crate) fn tick(&mut self) {
        self.switch.borrow_mut().tick();
        self.run();
    }

    /// Sends a frame in one piece.
    pub(crate) fn send(&mut self, port: usize, header: NetHeader, frame: &[u8]) {
        self.send_on(port, 1, header, frame, &[]);
    }

    /// Sends a frame on a queue, header and frame cut at these places.
    pub(crate) fn send_on(
        &mut self,
        port: usize,
        queue: usize,
        header: NetHeader,
        frame: &[u8],
        cuts: &[usize],
    ) {
        let bytes: Vec<u8> = header
            .encode()
            .into_iter()
            .chain(frame.iter().copied())
            .collect();
        let mut pieces = vec![];
        let mut rest = &bytes[..];
        for &cut in cuts {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        pieces.push(rest);
        pieces.retain(|piece| !piece.is_empty());
        let World { mem, ports, .. } = self;
        let port = &mut ports[port];
        let list: Vec<_> = pieces
            .into_iter()
            .map(|piece| (port.sent_at(mem, piece), piece.len() as u32, 0))
            .collect();
        port.offer(mem, queue, &list);
    }

    /// Gives a port this many buffers of this length.
    pub(crate) fn post(&mut self, port: usize, count: usize, len: u32) {
        let World { mem, ports, .. } = self;
        for _ in 0..count {
            ports[port].post(mem, 0, len);
        }
    }

    /// A world where every port has buffers.
    pub(crate) fn posted(mut self, count: usize, len: u32) -> Self {
        for port in 0..self.ports.len() {
            self.post(port, count, len);
        }
        self.run();
        self
    }

    pub(crate) fn received(&mut self, port: usize) -> Vec<(NetHeader, Vec<u8>)> {
        self.received_on(port, 0)
    }

    /// The frames that a port has got on a queue.
    pub(crate) fn received_on(&mut self, port: usize, queue: usize) -> Vec<(NetHeader, Vec<u8>)> {
        let World { mem, ports, .. } = self;
        let port = &mut ports[port];
        let mut frames = vec![];
        while let Some((head, len)) = port.used(mem, queue) {
            let mut bytes = port.buffer(mem, queue, head, len);
            let header = NetHeader::decode(bytes[..HEADER].try_into().unwrap());
            bytes.drain(..HEADER);
            for _ in 1..header.num_buffers {
                let (head, len) = port.used(mem, queue).expect("as many as it says");
                bytes.extend(port.buffer(mem, queue, head, len));
            }
            frames.push((header, bytes));
        }
        frames
    }

    /// Carries out a command; gives its answer.
    pub(crate) fn command(&mut self, port: usize, queue: usize, command: &[u8]) -> u8 {
        let World { mem, ports, .. } = self;
        let this = &mut ports[port];
        let at = this.sent_at(mem, command);
        let answer = this.sent_at(mem, &[0xee]);
        this.offer(
            mem,
            queue,
            &[(at, command.len() as u32, 0), (answer, 1, WRITE)],
        );
        self.run();
        let World { mem, ports, .. } = self;
        ports[port]
            .used(mem, queue)
            .expect("every command is answered");
        let [answer] = mem.get(answer);
        answer
    }

    /// How many of its frames a port has got back.
    pub(crate) fn returned(&mut self, port: usize, queue: usize) -> usize {
        let World { mem, ports, .. } = self;
        std::iter::from_fn(|| ports[port].used(mem, queue)).count()
    }

    pub(crate) fn counters(&self, port: usize) -> Counters {
        self.ports[port].transport.device().counters()
    }

    pub(crate) fn is_broken(&self, port: usize) -> bool {
        self.ports[port]
            .transport
            .status()
            .contains(Status::NEEDS_RESET)
    }
}

impl Port {
    /// From reset to DRIVER_OK.
    pub(crate) fn start(&mut self, mem: &FakeMemory, features: NetFeatures) {
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
        assert_eq!(t.read(0x70, 4), 11, "{:?}", t.take_refusal());
        let queues = t.queues();
        self.rings.clear();
        for queue in 0..queues {
            let ring = DriverRing::at(self.base + 0x4000 * queue as u64, SIZE);
            assert!(ring.end() <= self.base + 0x4000 * (queue as u64 + 1));
            for at in ring.desc..ring.end() {
                mem.put(at, &[0]);
            }
            let t = &mut self.transport;
            t.write(mem, 0x30, 4, queue as u64);
            t.write(mem, 0x38, 4, SIZE.into());
            for (register, value) in [(0x80, ring.desc), (0x90, ring.avail), (0xa0, ring.used)] {
                t.write(mem, register, 4, value);
                t.write(mem, register + 4, 4, 0);
            }
            t.write(mem, 0x44, 4, 1);
            self.rings.push(ring);
        }
        self.transport.write(mem, 0x70, 4, 15);
        self.seen = vec![0; queues];
        self.next = vec![0; queues];
        self.posted = vec![vec![(0, 0); SIZE.into()]; queues];
    }

    pub(crate) fn wake(&mut self) -> bool {
        let wakes = self.transport.device().take_wakes();
        for queue in (0..16).filter(|queue| wakes >> queue & 1 != 0) {
            self.transport.wake(queue);
        }
        wakes != 0
    }

    /// Makes a chain of descriptors available, and kicks.
    pub(crate) fn offer(&mut self, mem: &FakeMemory, queue: usize, list: &[(u64, u32, u16)]) {
        let ring = self.rings[queue];
        let first = self.next[queue];
        for (n, &(addr, len, flags)) in list.iter().enumerate() {
            let index = (first + n as u16) % SIZE;
            let next = if n + 1 < list.len() { NEXT } else { 0 };
            ring.describe(mem, index, addr, len, flags | next, (index + 1) % SIZE);
        }
        self.next[queue] = (first + list.len() as u16) % SIZE;
        ring.offer(mem, first);
        self.transport.notify(queue as u32);
    }

    /// Puts bytes where what is sent is.
    pub(crate) fn sent_at(&mut self, mem: &FakeMemory, bytes: &[u8]) -> u64 {
        if self.sent + bytes.len() as u64 > SPAN - SENT {
            self.sent = 0;
        }
        let at = self.base + SENT + self.sent;
        self.sent += bytes.len() as u64;
        mem.put(at, bytes);
        at
    }

    pub(crate) fn post(&mut self, mem: &FakeMemory, queue: usize, len: u32) {
        if self.place + u64::from(len) > SENT - BUFFERS {
            self.place = 0;
        }
        let at = self.base + BUFFERS + self.place;
        self.place += u64::from(len);
        self.posted[queue][usize::from(self.next[queue])] = (at, len);
        self.offer(mem, queue, &[(at, len, WRITE)]);
    }

    /// The next used buffer: head and length.
    pub(crate) fn used(&mut self, mem: &FakeMemory, queue: usize) -> Option<(u16, u32)> {
        let ring = self.rings[queue];
        if ring.used_idx(mem) == self.seen[queue] {
            return None;
        }
        let (head, len) = ring.used_element(mem, self.seen[queue]);
        self.seen[queue] = self.seen[queue].wrapping_add(1);
        Some((head as u16, len))
    }

    fn buffer(&self, mem: &FakeMemory, queue: usize, head: u16, len: u32) -> Vec<u8> {
        let (at, room) = self.posted[queue][usize::from(head)];
        assert!(len <= room);
        let mut bytes = vec![0; len as usize];
        mem.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }
}

/// A TCP segment over IPv4 or IPv6, with the checksum as a sender leaves it that has it computed elsewhere, and the
/// header that says so.
pub(crate) fn tcp(from: usize, to: usize, ipv6: bool, data: &[u8]) -> (NetHeader, Vec<u8>) {
    use smoltcp::phy::{Checksum, ChecksumCapabilities};
    use smoltcp::wire::*;
    let mut caps = ChecksumCapabilities::default();
    caps.tcp = Checksum::None;
    let (source, target): (IpAddress, IpAddress) = if ipv6 {
        let address = |n: usize| Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, n as u16 + 1);
        (address(from).into(), address(to).into())
    } else {
        let address = |n: usize| Ipv4Address::new(10, 0, 0, n as u8 + 1);
        (address(from).into(), address(to).into())
    };
    let repr = TcpRepr {
        src_port: 1000,
        dst_port: 2000,
        control: TcpControl::Psh,
        seq_number: TcpSeqNumber(-3000),
        ack_number: Some(TcpSeqNumber(17)),
        window_len: 500,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: Some(TcpTimestampRepr::new(1, 2)),
        payload: data,
    };
    let ip = IpRepr::new(source, target, IpProtocol::Tcp, repr.buffer_len(), 64);
    let start = 14 + ip.header_len();
    let mut frame = vec![0; start + repr.buffer_len()];
    EthernetRepr {
        src_addr: EthernetAddress(mac(from)),
        dst_addr: EthernetAddress(mac(to)),
        ethertype: if ipv6 {
            EthernetProtocol::Ipv6
        } else {
            EthernetProtocol::Ipv4
        },
    }
    .emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    ip.emit(&mut frame[14..], &caps);
    let mut packet = TcpPacket::new_unchecked(&mut frame[start..]);
    repr.emit(&mut packet, &source, &target, &caps);
    // The sum over addresses, protocol and length, which smoltcp leaves out.
    let mut pseudo = 6 + repr.buffer_len() as u32;
    let addresses = if ipv6 { 22..54 } else { 26..34 };
    for pair in frame[addresses].chunks(2) {
        pseudo += u32::from(pair[0]) << 8 | u32::from(pair[1]);
    }
    while pseudo > 0xffff {
        pseudo = (pseudo & 0xffff) + (pseudo >> 16);
    }
    frame[start + 16..start + 18].copy_from_slice(&(pseudo as u16).to_be_bytes());
    let header = NetHeader {
        flags: 1,
        csum_start: start as u16,
        csum_offset: 16,
        ..NetHeader::default()
    };
    (header, frame)
}

/// Checks a whole frame as an independent receiver does: lengths and checksums. Gives sequence number, PSH, and the data.
pub(crate) fn check_tcp(frame: &[u8]) -> (i32, bool, Vec<u8>) {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::*;
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let payload = ethernet.payload();
    let (source, target, segment): (IpAddress, IpAddress, &[u8]) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(payload).unwrap();
            assert!(packet.verify_checksum());
            assert_eq!(usize::from(packet.total_len()), payload.len());
            let addresses = (packet.src_addr().into(), packet.dst_addr().into());
            (addresses.0, addresses.1, packet.payload())
        }
        _ => {
            let packet = Ipv6Packet::new_checked(payload).unwrap();
            assert_eq!(packet.total_len(), payload.len());
            let addresses = (packet.src_addr().into(), packet.dst_addr().into());
            (addresses.0, addresses.1, packet.payload())
        }
    };
    let packet = TcpPacket::new_checked(segment).unwrap();
    let caps = ChecksumCapabilities::default();
    let repr = TcpRepr::parse(&packet, &source, &target, &caps).expect("the checksum is right");
    assert_eq!(
        (repr.src_port, repr.window_len, repr.timestamp.is_some()),
        (1000, 500, true)
    );
    (packet.seq_number().0, packet.psh(), repr.payload.to_vec())
}
