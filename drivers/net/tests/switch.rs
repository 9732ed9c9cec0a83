//! Where frames go.

mod common;

use std::collections::HashMap;

use common::{World, all, ethernet, frame, mac};
use proptest::prelude::*;
use vd_net::header::NetHeader;
use vd_net::{AddError, Mac, NetDevice, NetFeatures, PortConfig};

const PLAIN: NetHeader = NetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
};

fn four() -> World {
    World::new(&[all(); 4]).posted(16, 2048)
}

/// Sends a frame; gives the ports that got it.
fn reach(world: &mut World, port: usize, from: [u8; 6], to: [u8; 6]) -> Vec<usize> {
    let frame = ethernet(from, to, 64);
    world.send(port, PLAIN, &frame);
    world.run();
    (0..world.ports.len())
        .filter(|&port| {
            let got = world.received(port);
            assert!(got.len() <= 1 && got.iter().all(|(_, bytes)| *bytes == frame));
            world.post(port, got.len(), 2048);
            !got.is_empty()
        })
        .collect()
}

#[test]
fn configured_addresses_need_no_learning() {
    let mut world = four();
    assert_eq!(reach(&mut world, 0, mac(0), mac(3)), [3]);
    assert_eq!(reach(&mut world, 3, mac(3), mac(1)), [1]);
    assert_eq!(world.counters(0).flooded, 0);
    let rx = world.counters(3);
    assert_eq!([rx.rx_frames, rx.rx_bytes], [1, 64]);
    let tx = world.counters(0);
    assert_eq!([tx.tx_frames, tx.tx_bytes], [1, 64]);
    // To itself, and to groups that stay on a wire.
    assert_eq!(reach(&mut world, 0, mac(0), mac(0)), []);
    assert_eq!(reach(&mut world, 0, mac(0), [1, 0x80, 0xc2, 0, 0, 0]), []);
    let tx = world.counters(0);
    assert_eq!([tx.tx_unreachable, tx.tx_reserved, tx.tx_frames], [1, 1, 1]);
}

#[test]
fn other_addresses_are_learned_and_move_and_are_forgotten() {
    let mut world = four();
    let (bridged, far) = ([2, 9, 0, 0, 0, 1], [2, 9, 0, 0, 0, 2]);
    assert_eq!(reach(&mut world, 0, bridged, far), [1, 2, 3]);
    assert_eq!(reach(&mut world, 1, mac(1), bridged), [0]);
    assert_eq!(reach(&mut world, 2, bridged, [0xff; 6]), [0, 1, 3]);
    assert_eq!(reach(&mut world, 1, mac(1), bridged), [2]);
    assert_eq!(world.counters(0).flooded, 1);
    for _ in 0..600 {
        world.tick();
    }
    assert_eq!(reach(&mut world, 1, mac(1), bridged), [0, 2, 3]);
    // The configured ones do not age.
    assert_eq!(reach(&mut world, 1, mac(1), mac(2)), [2]);
}

/// A device that goes leaves neither frames nor its address behind, and its port is the next one's.
#[test]
fn a_port_is_left_and_taken_again() {
    let mut world = four();
    let far = [2, 9, 0, 0, 0, 2];
    assert_eq!(reach(&mut world, 3, far, mac(0)), [0]);
    let switch = std::rc::Rc::clone(&world.switch);
    let config = |mac: [u8; 6]| PortConfig {
        mac: Mac(mac),
        mtu: 1500,
        pairs: 1,
    };
    let add = |mac| NetDevice::new(&switch, config(mac));
    assert_eq!(add(mac(3)).unwrap_err(), AddError::Taken(Mac(mac(3))));
    world.ports[3].transport.device_mut().leave();
    // Nothing more goes there: not to its own address, and not to one that was seen behind it.
    assert_eq!(reach(&mut world, 0, mac(0), mac(3)), [1, 2]);
    assert_eq!(reach(&mut world, 0, mac(0), far), [1, 2]);
    let next = add(mac(3)).unwrap();
    assert_eq!((next.port(), next.counters().tx_frames), (3, 0));
    // All ports can be left and taken again, however often.
    for round in 0..100 {
        let mut device = add([2, 8, 0, 0, 0, round]).unwrap();
        assert_eq!(device.port(), 4);
        device.leave();
    }
}

/// A table of bounded size: a port that shows thousands of addresses displaces only its own.
#[test]
fn row29_a_flood_of_addresses() {
    let mut world = four();
    let bridged = [2, 9, 0, 0, 0, 1];
    assert_eq!(reach(&mut world, 0, bridged, mac(3)), [3]);
    for n in 0..3000u16 {
        let [high, low] = n.to_be_bytes();
        reach(&mut world, 1, [2, 8, 0, 0, high, low], mac(3));
    }
    assert_eq!(reach(&mut world, 2, mac(2), bridged), [0]);
}

#[test]
fn a_driver_sets_its_address() {
    let mut world = four();
    let new = [2, 7, 0, 0, 0, 1];
    assert_eq!(reach(&mut world, 1, new, mac(3)), [3]);
    let mut command = vec![1, 1];
    command.extend(new);
    assert_eq!(world.command(0, 2, &command), 0);
    assert_eq!(world.counters(0).commands, 1);
    assert_eq!(
        reach(&mut world, 2, mac(2), new),
        [0],
        "not where it was seen"
    );
    assert_eq!(reach(&mut world, 1, new, mac(3)), [], "and nobody else's");
    let config: Vec<u8> = (0..6)
        .map(|at| world.ports[0].transport.read(0x100 + at, 1) as u8)
        .collect();
    assert_eq!(config, new);
    // Until it starts over.
    let World { mem, ports, .. } = &mut world;
    ports[0].start(mem, all());
    assert_eq!(ports[0].transport.device().mac().0, mac(0));
    world.post(0, 4, 2048);
    assert_eq!(
        reach(&mut world, 2, mac(2), new),
        [0, 1, 3],
        "nobody has it"
    );
}

#[test]
fn the_configuration_says_what_it_is() {
    let mut world = World::with(&[all()], 3, 9000);
    let t = &mut world.ports[0].transport;
    assert_eq!(t.read(8, 4), 1);
    assert_eq!(t.queues(), 7);
    let config: Vec<u8> = (0..14).map(|at| t.read(0x100 + at, 1) as u8).collect();
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 3, 0, 0x28, 0x23, 0, 0]);
    t.write(&world.mem, 0x102, 1, 9);
    assert_eq!(t.read(0x102, 1), 0);
}

#[test]
fn a_link_that_is_down() {
    let mut world = four();
    let t = &mut world.ports[2].transport;
    t.reconfigure(|device| device.set_link(false));
    assert_eq!((t.read(0x106, 2), t.read(0x60, 4)), (0, 2));
    assert_eq!(reach(&mut world, 0, mac(0), [0xff; 6]), [1, 3]);
    assert_eq!(reach(&mut world, 0, mac(0), mac(2)), []);
    assert_eq!(reach(&mut world, 2, mac(2), mac(0)), []);
    world.ports[2]
        .transport
        .reconfigure(|device| device.set_link(true));
    assert_eq!(reach(&mut world, 0, mac(0), mac(2)), [2]);
}

#[test]
fn ports_that_cannot_be() {
    let world = four();
    let config = PortConfig {
        mac: Mac([2, 0, 0, 0, 0, 99]),
        mtu: 1500,
        pairs: 1,
    };
    let add = |config| NetDevice::new(&world.switch, config).map(|device| device.port());
    let taken = Mac(mac(1));
    assert_eq!(
        add(PortConfig {
            mac: taken,
            ..config
        }),
        Err(AddError::Taken(taken))
    );
    let group = Mac([1; 6]);
    assert_eq!(
        add(PortConfig {
            mac: group,
            ..config
        }),
        Err(AddError::NoStation(group))
    );
    for pairs in [0, 5] {
        assert_eq!(
            add(PortConfig { pairs, ..config }),
            Err(AddError::Pairs(pairs))
        );
    }
    for n in 4..16 {
        assert_eq!(
            add(PortConfig {
                mac: Mac(mac(n)),
                ..config
            }),
            Ok(n)
        );
    }
    assert_eq!(add(config), Err(AddError::Full));
}

#[test]
fn a_link_that_goes_down_waits_for_nothing() {
    let mut world = World::new(&[all(); 2]);
    world.send(0, PLAIN, &frame(0, 1, 100));
    world.run();
    assert_eq!(world.returned(0, 1), 0);
    world.ports[1]
        .transport
        .reconfigure(|device| device.set_link(false));
    world.run();
    assert_eq!((world.returned(0, 1), world.counters(1).rx_no_room), (1, 1));
}

fn multi(pairs: u16) -> World {
    let features = all() | NetFeatures::MQ;
    let mut world = World::with(&[features; 2], pairs, 1500);
    let World { mem, ports, .. } = &mut world;
    for port in ports {
        for pair in 0..usize::from(pairs) {
            (0..30).for_each(|_| port.post(mem, 2 * pair, 2048));
        }
    }
    world.run();
    world
}

/// A frame of a flow: two UDP ports.
fn flow(from: usize, to: usize, ports: [u8; 4]) -> Vec<u8> {
    let mut frame = frame(from, to, 14);
    frame[12..].copy_from_slice(&[8, 0]);
    frame.extend([0x45, 0, 0, 40, 0, 1, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 0, 0, from as u8, 10, 0, 0, to as u8]);
    frame.extend(ports);
    frame.extend([0; 16]);
    frame
}

#[test]
fn several_queues_and_flows_that_come_back_where_they_left() {
    let mut world = multi(4);
    let command = |world: &mut World, pairs| world.command(0, 8, &[4, 0, pairs, 0]);
    assert_eq!([0, 5, 255].map(|pairs| command(&mut world, pairs)), [1; 3]);
    // One pair until the driver asks for more.
    for n in 0..20 {
        world.send(1, PLAIN, &flow(1, 0, [9, n, 9, 9]));
    }
    world.run();
    assert_eq!(world.received_on(0, 0).len(), 20);
    assert_eq!(command(&mut world, 4), 0);
    let mut seen = [0; 4];
    for n in 0..40 {
        world.send(1, PLAIN, &flow(1, 0, [9, n, 9, 9]));
        world.run();
        let got: Vec<usize> = (0..4)
            .map(|pair| world.received_on(0, 2 * pair).len())
            .collect();
        let queue = got.iter().position(|&n| n == 1).unwrap();
        assert_eq!(got.iter().sum::<usize>(), 1);
        seen[queue] += 1;
        let World { mem, ports, .. } = &mut world;
        ports[0].post(mem, 2 * queue, 2048);
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    // What the driver sends on a pair comes back on it.
    for (n, pair) in [(1, 3), (2, 0), (3, 2), (4, 1), (1, 2)] {
        world.send_on(0, 2 * pair + 1, PLAIN, &flow(0, 1, [9, 9, 9, n]), &[]);
        world.send(1, PLAIN, &flow(1, 0, [9, n, 9, 9]));
        world.run();
        assert_eq!(world.received_on(0, 2 * pair).len(), 1, "flow {n}");
    }
    // Back to one: the flows follow.
    assert_eq!(command(&mut world, 1), 0);
    world.send(1, PLAIN, &flow(1, 0, [9, 1, 9, 9]));
    world.run();
    assert_eq!(world.received_on(0, 0).len(), 1);
}

#[test]
fn fewer_pairs_drop_what_waits_for_the_others() {
    let mut world = multi(2);
    assert_eq!(world.command(0, 4, &[4, 0, 2, 0]), 0);
    for n in 0..200u8 {
        world.send(1, PLAIN, &flow(1, 0, [9, n, 9, 9]));
    }
    world.run();
    let before = world.counters(0);
    assert_eq!(before.rx_frames, 60);
    assert_eq!(world.returned(1, 1), 200 - 32, "both queues are full");
    assert_eq!(world.command(0, 4, &[4, 0, 1, 0]), 0);
    assert!(world.counters(0).rx_no_room > before.rx_no_room);
    assert!(world.returned(1, 1) > 0);
}

#[test]
fn what_waits_comes_in_order() {
    let mut world = World::new(&[all(), all(), all()]);
    for n in 0..10 {
        world.send(0, PLAIN, &frame(0, 1, 100 + n));
        world.send(0, PLAIN, &ethernet(mac(0), [0xff; 6], 200 + n));
    }
    world.run();
    assert_eq!(world.returned(0, 1), 0);
    world.post(1, 5, 2048);
    world.run();
    world.send(0, PLAIN, &frame(0, 1, 300));
    world.post(1, 50, 2048);
    world.run();
    let lens: Vec<usize> = world
        .received(1)
        .iter()
        .map(|(_, frame)| frame.len())
        .collect();
    let mut expected: Vec<usize> = (0..10).flat_map(|n| [100 + n, 200 + n]).collect();
    expected.push(300);
    assert_eq!(lens, expected);
    // Those to all wait for the third port too.
    assert_eq!(world.returned(0, 1), 11);
    world.post(2, 50, 2048);
    world.run();
    assert_eq!(world.received(2).len(), 10);
    assert_eq!(world.returned(0, 1), 10);
}

#[derive(Clone, Debug)]
enum Step {
    /// From a port to one, or to all.
    Send(usize, Option<usize>, usize, Vec<usize>),
    Post(usize, usize, u32),
    Tick,
    Reset(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let cuts = prop::collection::vec(1usize..200, 0..6);
    prop_oneof![
        6 => (0usize..3, prop::option::of(0usize..3), 22usize..1514, cuts)
            .prop_map(|(from, to, len, cuts)| Step::Send(from, to, len, cuts)),
        4 => (0usize..3, 1usize..6, 12u32..2000).prop_map(|(port, n, len)| Step::Post(port, n, len)),
        1 => Just(Step::Tick),
        1 => (0usize..3).prop_map(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every frame arrives as it was sent, where it should, in order and at most once; every buffer comes back; and every
    /// frame is counted once for each receiver.
    #[test]
    fn frames_are_delivered_or_counted(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(&[all(); 3]);
        let mut number = 0u64;
        let mut frames = HashMap::new();
        let mut last = [[0u64; 3]; 3];
        // Frames for each port; those that a port has sent and not got back since its last reset.
        let (mut meant, mut out) = ([0u64; 3], [0usize; 3]);
        let mut posted = [0usize; 3];
        for step in steps.into_iter().chain([Step::Tick, Step::Tick]) {
            match step {
                Step::Send(from, to, len, cuts) => {
                    number += 1;
                    let mut bytes = ethernet(mac(from), to.map_or([0xff; 6], mac), len);
                    bytes[14..22].copy_from_slice(&number.to_be_bytes());
                    world.send_on(from, 1, PLAIN, &bytes, &cuts);
                    out[from] += 1;
                    for port in (0..3).filter(|&port| port != from && to.is_none_or(|to| to == port)) {
                        meant[port] += 1;
                    }
                    frames.insert(number, (from, to, bytes));
                }
                Step::Post(port, count, len) => {
                    let count = count.min(200 - posted[port]);
                    posted[port] += count;
                    world.post(port, count, len);
                }
                Step::Tick => world.tick(),
                Step::Reset(port) => {
                    world.run();
                    let World { mem, ports, .. } = &mut world;
                    ports[port].start(mem, all());
                    out[port] = 0;
                    posted[port] = 0;
                }
            }
            world.run();
            for port in 0..3 {
                for (header, bytes) in world.received(port) {
                    posted[port] -= usize::from(header.num_buffers);
                    let n = u64::from_be_bytes(bytes[14..22].try_into().unwrap());
                    let (from, to, sent) = &frames[&n];
                    prop_assert!(*sent == bytes);
                    prop_assert!(*from != port && to.is_none_or(|to| to == port));
                    prop_assert!(n > last[*from][port], "order");
                    last[*from][port] = n;
                }
                out[port] -= world.returned(port, 1);
            }
        }
        prop_assert_eq!(out, [0; 3]);
        for (port, meant) in meant.into_iter().enumerate() {
            let counters = world.counters(port);
            prop_assert!(!world.is_broken(port));
            prop_assert!(counters.rx_frames + counters.rx_no_room + counters.rx_long <= meant);
        }
        let sums = (0..3).map(|port| world.counters(port)).fold((0, 0), |sum, it| {
            (sum.0 + it.tx_frames + it.tx_unreachable, sum.1 + it.parked)
        });
        prop_assert_eq!(sums.0, number);
    }
}
