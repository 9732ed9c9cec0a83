//! Devices that come and go while the guest is served.

use std::prelude::v1::*;
use std::vec;

use vd_config::Doorbell as Kind;

use super::super::attach::{Plan, Registers};
use super::{GUEST, QUEUES, Tested, VCPUS_THERE, attach, held, plan, server, slot};

/// One device, with two queues.
fn late(number: u8, doorbell: Kind) -> Plan {
    let slot = slot(number);
    let window = match doorbell {
        Kind::Posted => slot.posted_base(),
        _ => slot.base(),
    };
    Plan {
        guest: GUEST,
        vcpus: VCPUS_THERE,
        devices: vec![Registers {
            slot,
            window,
            queues: 2,
            doorbell,
        }],
        posted: false,
    }
}

fn kicks(server: &Tested, device: usize) -> Vec<(usize, Option<u32>)> {
    let mut kicks = Vec::new();
    server.take_kicks(device, |queue, value| kicks.push((queue, value)));
    kicks
}

/// A driver rings for both queues of a device, in its own way.
fn ring(server: &Tested, plan: &Plan) {
    let device = plan.devices[0];
    for queue in [0, 1] {
        match device.doorbell {
            Kind::Posted => assert!(server.xen().post(device.window + 0x50, queue as u32)),
            _ => server.write(0, device.window + 0x50, queue),
        }
        server.interrupts();
    }
}

#[test]
fn a_device_that_comes_late_is_heard_until_it_goes() {
    let ground = plan(&[Kind::Mmio, Kind::Posted, Kind::Port]);
    for kind in [Kind::Mmio, Kind::Posted, Kind::Port, Kind::Polled] {
        let server = server();
        attach(&server, &ground).unwrap();
        server.interrupts();
        server.new_pass();
        let before = held(&server);
        let device = late(9, kind);
        server.ring_in(&device).unwrap();
        let doorbells = 2 + usize::from(kind == Kind::Port);
        assert_eq!(held(&server).doorbells, before.doorbells + doorbells);
        ring(&server, &device);
        assert_eq!(kicks(&server, 9), [(0, Some(0)), (1, Some(1))], "{kind:?}");
        server.ring_out(&device);
        server.new_pass();
        assert_eq!(held(&server), before, "{kind:?}");
        // The others ring as before.
        ring(&server, &ground);
        assert_eq!(kicks(&server, 0), [(0, Some(0)), (1, Some(1))]);
    }
}

/// Another driver domain takes over after the only such device has gone: the guest's table still has the slot.
#[test]
fn a_slot_declared_for_posted_writes_can_be_used_though_no_device_is_there_now() {
    let server = server();
    let ground = Plan {
        posted: true,
        ..plan(&[Kind::Mmio])
    };
    attach(&server, &ground).unwrap();
    server.interrupts();
    let device = late(9, Kind::Posted);
    server.ring_in(&device).unwrap();
    ring(&server, &device);
    assert_eq!(kicks(&server, 9), [(0, Some(0)), (1, Some(1))]);
    server.release(|| ());
    assert_eq!(held(&server), held(&super::server()));
}

#[test]
fn nothing_that_a_former_device_has_left_is_the_next_ones() {
    let server = server();
    attach(&server, &plan(&[Kind::Port])).unwrap();
    let device = late(9, Kind::Port);
    server.ring_in(&device).unwrap();
    ring(&server, &device);
    let port = slot(9).doorbell_port();
    server.xen().request(0, [port.into(), 1, 4 << 32 | 1], 0, 0);
    server.interrupts();
    server.hold_back(9, 1);
    assert_eq!(server.payload(9), 1);
    server.ring_out(&device);
    server.ring_in(&device).unwrap();
    assert_eq!((kicks(&server, 9), server.payload(9)), (vec![], 0));
    server.ring_out(&device);
    server.ring_out(&device);
    server.release(|| ());
    assert_eq!(held(&server), held(&super::server()));
}

#[test]
fn a_device_that_cannot_be_heard_leaves_no_doorbell() {
    // Where no ports and no posted writes were taken over, none come.
    let server = server();
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    let before = held(&server);
    for kind in [Kind::Posted, Kind::Port] {
        let why = server.ring_in(&late(9, kind)).expect_err("not taken over");
        assert!(why.contains("not taken over with the guest"), "{why}");
        assert_eq!(held(&server), before);
    }
    // The first doorbell of two can be had, and the second one is there.
    let mut second = late(9, Kind::Mmio);
    second.devices[0].queues = 1;
    server.ring_in(&second).unwrap();
    let one = held(&server);
    let mut both = late(8, Kind::Mmio);
    both.devices.extend(second.devices.iter().copied());
    let why = server.ring_in(&both).expect_err("it is there");
    assert!(why.contains("doorbell of device 9"), "{why}");
    assert_eq!(held(&server), one);
}

#[test]
fn devices_with_too_many_queues_leave_no_doorbell() {
    let server = server();
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    let mut there = Vec::new();
    let refused = (1..16).find_map(|number| {
        let mut device = late(number, Kind::Mmio);
        device.devices[0].queues = QUEUES as u16;
        let before = held(&server);
        let why = server.ring_in(&device).err();
        match &why {
            Some(_) => assert_eq!(held(&server), before),
            None => there.push(device),
        }
        why
    });
    let why = refused.expect("there is a limit");
    assert!(why.contains("give it fewer"), "{why}");
    // With one device gone there is room.
    let gone = there.pop().expect("some fit");
    server.ring_out(&gone);
    server.ring_in(&gone).unwrap();
}

#[test]
fn a_device_comes_and_goes_without_a_hypercall() {
    let server = server();
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    server.xen().mend();
    let device = late(9, Kind::Mmio);
    server.ring_in(&device).unwrap();
    server.ring_out(&device);
    assert_eq!(server.xen().made(), 0, "nothing that Xen could refuse");
}
