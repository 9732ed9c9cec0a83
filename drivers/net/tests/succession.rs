//! Another switch with other devices takes the place of one, in the middle of traffic.

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{World, all, ethernet, frame, mac};
use vd_net::header::NetHeader;
use vd_net::{NetDevice, NetFeatures, Switch};
use vd_virtio::state::{BadState, Writer};
use vd_virtio::{Chain, MmioTransport};

/// Every device is left by one device model and gone on with in another.
fn succeed(world: &mut World) {
    let mut chain = Chain::new();
    let mut rounds = 0;
    while world.ports.iter_mut().fold(0, |sum, port| {
        sum + port.transport.drain(&world.mem, &mut chain)
    }) != 0
    {
        rounds += 1;
        assert!(rounds < 4);
    }
    let switch = Rc::new(RefCell::new(Switch::new()));
    let states: Vec<Vec<u8>> = world.ports.iter().map(state).collect();
    for (port, state) in world.ports.iter_mut().zip(states) {
        let config = port.transport.device().config();
        let device = NetDevice::new(&switch, config).unwrap();
        port.transport = MmioTransport::new(device, common::SIZE);
        port.transport.import(&world.mem, &state, false).unwrap();
    }
    world.switch = switch;
}

fn state(port: &common::Port) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut writer = Writer::new(&mut bytes);
    port.transport.export(&mut writer);
    assert!(writer.fits());
    let len = writer.len();
    bytes.truncate(len);
    bytes
}

#[test]
fn frames_go_on_and_buffers_are_used_once() {
    let mut world = World::new(&[all(); 3]).posted(60, 2048);
    let mut sent = 0;
    for round in 0..12 {
        for len in [60, 700, 1500] {
            world.send(0, NetHeader::default(), &frame(0, 1, len + round));
            world.send(2, NetHeader::default(), &frame(2, 1, len + round));
            sent += 2;
        }
        // The kicks of these may have been taken by the other one.
        if round % 2 == 0 {
            world.run();
        }
        succeed(&mut world);
        world.run();
    }
    // A buffer is used twice, or not at all, if one of them has forgotten something.
    let mut got = world.received(1);
    assert_eq!(got.len(), 60, "what there are buffers for");
    got.dedup_by(|a, b| a.1.len() == b.1.len() && a.1[..12] == b.1[..12]);
    assert_eq!(got.len(), 60, "no frame came twice");
    world.post(1, 60, 2048);
    world.run();
    got.extend(world.received(1));
    assert!(got.len() <= sent);
    assert_eq!(
        world.returned(0, 1) + world.returned(2, 1),
        sent,
        "every sender has all of its buffers back"
    );
    assert!((0..3).all(|port| !world.is_broken(port)));
}

#[test]
fn what_waits_for_buffers_is_dropped_and_given_back() {
    let mut world = World::new(&[all(), all()]);
    for len in 60..70 {
        world.send(0, NetHeader::default(), &frame(0, 1, len));
    }
    world.run();
    assert_eq!(world.returned(0, 1), 0, "they wait");
    succeed(&mut world);
    assert_eq!(world.returned(0, 1), 10);
    world.post(1, 4, 2048);
    world.send(0, NetHeader::default(), &frame(0, 1, 100));
    world.run();
    let lengths: Vec<usize> = world
        .received(1)
        .iter()
        .map(|(_, frame)| frame.len())
        .collect();
    assert_eq!(lengths, [100]);
}

#[test]
fn what_the_driver_has_commanded_stays() {
    let features = all() | NetFeatures::MQ;
    let mut world = World::with(&[features; 2], 4, 1500);
    let own = [2, 7, 7, 7, 7, 7];
    let set_mac: Vec<u8> = [1, 1].into_iter().chain(own).collect();
    assert_eq!(world.command(0, 8, &set_mac), 0);
    assert_eq!(world.command(0, 8, &[4, 0, 3, 0]), 0);
    let before = state(&world.ports[0]);
    succeed(&mut world);
    assert_eq!(state(&world.ports[0]), before);
    assert_eq!(world.ports[0].transport.device().mac().0, own);
    // It is reached by that address, and others are not who have it.
    world.post(0, 4, 2048);
    world.send(1, NetHeader::default(), &ethernet(mac(1), own, 64));
    world.run();
    assert_eq!(world.received(0).len(), 1);
    assert_eq!(world.counters(1).flooded, 0);
}

#[test]
fn a_state_that_no_driver_could_have_commanded() {
    let features = all() | NetFeatures::MQ;
    let world = World::with(&[features; 1], 2, 1500);
    let good = state(&world.ports[0]);
    let own = good.len() - 8;
    // A group's address; no pair of queues, and more than there are.
    for (at, value) in [(own, 1), (own + 6, 0), (own + 6, 3), (own + 7, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        let switch = Rc::new(RefCell::new(Switch::new()));
        let config = world.ports[0].transport.device().config();
        let device = NetDevice::new(&switch, config).unwrap();
        let mut next: common::Transport = MmioTransport::new(device, common::SIZE);
        assert_eq!(next.import(&world.mem, &bad, false), Err(BadState::Content));
    }
}
