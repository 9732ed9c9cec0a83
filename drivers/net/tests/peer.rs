//! Independent peers: TCP/IP of the crate `smoltcp`, on the driver of the crate `virtio-drivers`, on two ports of a switch.

use std::cell::RefCell;
use std::rc::Rc;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use vd_net::{Counters, Mac, NetDevice, PortConfig, Switch};
use vd_peer::{ArenaMemory, Registers, Shared, TestHal, noise};
use virtio_drivers::device::net::VirtIONet;

type Driver = VirtIONet<TestHal, Registers<NetDevice>, 16>;

/// One end: a network stack with its driver.
struct Host {
    driver: Rc<RefCell<Driver>>,
    device: Shared<NetDevice>,
    interface: Interface,
    sockets: SocketSet<'static>,
    tcp: SocketHandle,
}

struct Card(Rc<RefCell<Driver>>);
struct Received(Vec<u8>);
struct Sending(Rc<RefCell<Driver>>);

impl phy::Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, now: Instant) -> Option<(Received, Sending)> {
        let mut driver = self.0.borrow_mut();
        if !driver.can_recv() {
            return None;
        }
        let buffer = driver.receive().unwrap();
        let frame = buffer.packet().to_vec();
        driver.recycle_rx_buffer(buffer).unwrap();
        drop(driver);
        Some((Received(frame), self.transmit(now)?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending> {
        Some(Sending(Rc::clone(&self.0)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut driver = self.0.borrow_mut();
        let mut buffer = driver.new_tx_buffer(len);
        let result = f(buffer.packet_mut());
        driver.send(buffer).unwrap();
        result
    }
}

impl Host {
    fn new(switch: &Rc<RefCell<Switch>>, number: u8) -> Self {
        let mac = [2, 0, 0, 0, 0, number];
        let config = PortConfig {
            mac: Mac(mac),
            mtu: 1500,
            pairs: 1,
        };
        let device = NetDevice::new(switch, config).unwrap();
        let registers = Registers::new(device, |_| false);
        let device = registers.share();
        let driver = Driver::new(registers, 2048).expect("the driver likes the device");
        assert_eq!(driver.mac_address(), mac);
        let driver = Rc::new(RefCell::new(driver));
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        let mut card = Card(Rc::clone(&driver));
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let address = IpAddress::v4(10, 0, 0, number);
            addresses.push(IpCidr::new(address, 24)).unwrap();
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; 8192]);
        let mut sockets = SocketSet::new(vec![]);
        let tcp = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Self {
            driver,
            device,
            interface,
            sockets,
            tcp,
        }
    }

    /// Lets device and stack work.
    fn poll(&mut self) {
        let (device, chain) = &mut *self.device.lock().unwrap();
        let wakes = device.device().take_wakes();
        (0..3)
            .filter(|queue| wakes >> queue & 1 != 0)
            .for_each(|queue| device.wake(queue));
        while device.has_work() {
            device.run(&ArenaMemory, 3, chain);
        }
    }

    fn stack(&mut self, now: Instant) {
        let mut card = Card(Rc::clone(&self.driver));
        self.interface.poll(now, &mut card, &mut self.sockets);
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.tcp)
    }

    fn counters(&self) -> Counters {
        self.device.lock().unwrap().0.device().counters()
    }
}

/// A megabyte there and back, with every checksum computed by one end and verified by the other.
#[test]
fn tcp_between_two_ports() {
    let switch = Rc::new(RefCell::new(Switch::new()));
    let (mut a, mut b) = (Host::new(&switch, 1), Host::new(&switch, 2));
    let data: Vec<u8> = noise(77).map(|n| n as u8).take(1 << 20).collect();
    b.socket().listen(7).unwrap();
    let Host {
        interface,
        sockets,
        tcp,
        ..
    } = &mut a;
    let remote = (IpAddress::v4(10, 0, 0, 2), 7);
    sockets
        .get_mut::<tcp::Socket>(*tcp)
        .connect(interface.context(), remote, 1000)
        .unwrap();
    let (mut sent, mut echoed) = (0, Vec::new());
    for ms in 0..1_000_000 {
        let now = Instant::from_millis(ms);
        for host in [&mut a, &mut b] {
            host.poll();
            host.stack(now);
            host.poll();
        }
        let echo = b.socket();
        if echo.can_recv() && echo.send_queue() == 0 {
            let received = echo.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
            assert_eq!(echo.send_slice(&received), Ok(received.len()));
        }
        let socket = a.socket();
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        if socket.can_recv() {
            socket
                .recv(|bytes| (bytes.len(), echoed.extend_from_slice(bytes)))
                .unwrap();
        }
        if echoed.len() == data.len() {
            break;
        }
    }
    assert!(echoed == data, "{} bytes came back", echoed.len());
    let (one, two) = (a.counters(), b.counters());
    for (from, to) in [(one, two), (two, one)] {
        assert!(from.tx_bytes > 1 << 20);
        assert_eq!(
            (from.tx_frames, from.tx_bytes),
            (to.rx_frames + to.rx_no_room, to.rx_bytes)
        );
        assert_eq!(
            (from.tx_spoofed, from.tx_bad_offload, from.tx_long),
            (0, 0, 0)
        );
    }
    // One look for the other's address; the answer goes to its own.
    assert_eq!((one.flooded, two.flooded), (1, 0));
}
