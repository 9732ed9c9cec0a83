//! The separate command, for domains that others have created.

use super::*;
use crate::fake::{Behaviour, Fake};
use crate::testing::TempDir;

const TIMEOUT: Duration = Duration::from_secs(5);

fn devices() -> Devices {
    Devices::parse([&b"type=blk,backend=ram:1M"[..]]).unwrap()
}

fn two_domains() -> Fake {
    let fake = Fake::new();
    fake.add(7, "driver", "pvh");
    fake.add(8, "guest", "hvm");
    fake
}

fn attach_to(fake: &Fake, driver: &str, guest: &str) -> Result<(), Failure> {
    let dir = TempDir::new("attach");
    run(
        &mut fake.host(dir.path()),
        driver,
        guest,
        &devices(),
        TIMEOUT,
    )
}

#[test]
fn names_and_ids_are_understood() {
    for (driver, guest) in [("driver", "guest"), ("7", "8")] {
        let fake = two_domains();
        attach_to(&fake, driver, guest).unwrap();
        assert_eq!(fake.value(&node(7, keys::TARGET)).as_deref(), Some("8"));
        assert_eq!(fake.named("driver").unwrap().1.target, Some(8));
    }
}

#[test]
fn row31_a_served_guest_is_not_suspended_and_one_that_is_not_served_can_be() {
    let suspend = node(8, "device/suspend/event-channel");
    for before in [None, Some("")] {
        for behaviour in [Behaviour::Ready, Behaviour::Fails("no")] {
            let fake = two_domains();
            if let Some(before) = before {
                fake.0.borrow_mut().set(&suspend, before);
            }
            fake.0.borrow_mut().behaviour = behaviour;
            let attached = attach_to(&fake, "driver", "guest");
            let expected = attached.map_or(before, |()| Some("0"));
            assert_eq!(fake.value(&suspend).as_deref(), expected, "{behaviour:?}");
        }
    }
}

#[test]
fn a_disk_that_the_driver_domain_does_not_have_is_missed_before_anything_is_done() {
    let fake = two_domains();
    let devices = Devices::parse([&b"type=blk,backend=vbd:xvdb"[..]]).unwrap();
    let dir = TempDir::new("attach");
    let before = fake.state();
    let attach = || {
        run(
            &mut fake.host(dir.path()),
            "driver",
            "guest",
            &devices,
            TIMEOUT,
        )
    };
    let failure = attach().unwrap_err();
    assert!(
        failure.to_string().contains("has no disk xvdb"),
        "{failure}"
    );
    assert_eq!(fake.state(), before, "{failure}");
    let path = node(7, "device/vbd/51728/backend");
    fake.0
        .borrow_mut()
        .set(&path, "/local/domain/0/backend/vbd/7/51728");
    attach().unwrap();
    let backend = fake.value(&node(7, "virtio-domain/device/0/backend"));
    assert_eq!(backend.as_deref(), Some("vbd:xvdb"));
}

#[test]
fn a_network_interface_that_the_driver_domain_does_not_have_is_missed_before_anything_is_done() {
    let fake = two_domains();
    let text = &b"type=net,backend=vif:1,mac=00:16:3e:00:00:01"[..];
    let devices = Devices::parse([text]).unwrap();
    let dir = TempDir::new("attach");
    let before = fake.state();
    let attach = || {
        run(
            &mut fake.host(dir.path()),
            "driver",
            "guest",
            &devices,
            TIMEOUT,
        )
    };
    let failure = attach().unwrap_err().to_string();
    assert!(failure.contains("has no network interface 1"), "{failure}");
    assert!(
        failure.contains("xl network-attach driver devid=1"),
        "{failure}"
    );
    assert_eq!(fake.state(), before, "{failure}");
    let path = node(7, "device/vif/1/backend");
    fake.0
        .borrow_mut()
        .set(&path, "/local/domain/0/backend/vif/7/1");
    attach().unwrap();
    let backend = fake.value(&node(7, "virtio-domain/device/0/backend"));
    assert_eq!(backend.as_deref(), Some("vif:1"));
}

#[test]
fn unsuitable_domains_are_refused_before_anything_is_done() {
    for (driver, guest, reason) in [
        ("none", "guest", "no such domain"),
        ("driver", "none", "no such domain"),
        ("driver", "driver", "cannot serve"),
        ("driver", "0", "cannot serve"),
        ("0", "guest", "cannot serve"),
        ("driver", "old", "type pv"),
    ] {
        let fake = two_domains();
        fake.add(10, "old", "pv");
        let before = fake.state();
        let failure = attach_to(&fake, driver, guest).unwrap_err();
        assert!(failure.to_string().contains(reason), "{failure}");
        assert_eq!(fake.state(), before, "{failure}");
    }
}

#[test]
fn a_pvh_guest_gets_xenbus_devices() {
    let fake = two_domains();
    fake.add(9, "small", "pvh");
    attach_to(&fake, "driver", "small").unwrap();
    let value = |path: &str| fake.value(path);
    let (frontend, backend) = (
        "/local/domain/9/device/virtio/0",
        "/local/domain/7/backend/virtio/9/0",
    );
    for (path, expected) in [
        (format!("{frontend}/backend"), backend),
        (format!("{frontend}/backend-id"), "7"),
        (format!("{frontend}/state"), "1"),
        (format!("{backend}/frontend"), frontend),
        (format!("{backend}/frontend-id"), "9"),
        (format!("{backend}/state"), "2"),
        (node(7, keys::TARGET_TYPE), "pvh"),
    ] {
        assert_eq!(value(&path).as_deref(), Some(expected), "{path}");
    }
    let permissions = fake.state().permissions;
    assert_eq!(permissions.get(frontend), Some(&(9, 7)));
    assert_eq!(permissions.get(backend), Some(&(7, 9)));
}

#[test]
fn notifications_that_the_guest_cannot_take_are_refused_before_anything_is_done() {
    for (guest, device, reason) in [
        (
            "guest",
            "type=blk,backend=ram:1M,interrupt=msi",
            "PVH guests",
        ),
        ("guest", "type=blk,backend=ram:1M,doorbell=port", "type hvm"),
        (
            "small",
            "type=blk,backend=ram:1M,interrupt=edge",
            "I/O APIC",
        ),
    ] {
        let fake = two_domains();
        fake.add(9, "small", "pvh");
        let before = fake.state();
        let devices = Devices::parse([device.as_bytes()]).unwrap();
        let dir = TempDir::new("attach");
        let mut host = fake.host(dir.path());
        let failure = run(&mut host, "driver", guest, &devices, TIMEOUT).unwrap_err();
        assert!(failure.to_string().contains(reason), "{failure}");
        assert_eq!(fake.state(), before, "{failure}");
    }
}

#[test]
fn a_guest_that_has_ended_is_refused() {
    let fake = two_domains();
    fake.0.borrow_mut().state.domains.get_mut(&8).unwrap().dead = true;
    let failure = attach_to(&fake, "driver", "guest").unwrap_err();
    assert!(failure.to_string().contains("it has ended"), "{failure}");
}

#[test]
fn a_second_guest_is_refused() {
    let fake = two_domains();
    fake.add(9, "other", "hvm");
    attach_to(&fake, "driver", "guest").unwrap();
    let before = fake.state();
    let failure = attach_to(&fake, "driver", "other").unwrap_err();
    assert!(
        failure.to_string().contains("already serves domain 8"),
        "{failure}"
    );
    assert_eq!(fake.state(), before);
}

/// Only the target stays: Xen cannot take it back.
#[test]
fn a_failure_leaves_nothing_in_xenstore() {
    for guest in ["guest", "small"] {
        let domains = || {
            let fake = two_domains();
            fake.add(9, "small", "pvh");
            fake
        };
        let calls = {
            let fake = domains();
            attach_to(&fake, "driver", guest).unwrap();
            fake.0.borrow().log.len()
        };
        for number in 0..calls {
            let fake = domains();
            fake.0.borrow_mut().fail_at = Some(number);
            let before = fake.state();
            attach_to(&fake, "driver", guest).unwrap_err();
            let after = fake.state();
            assert_eq!(
                (after.tree, after.permissions),
                (before.tree, before.permissions),
                "{guest}: call {number}"
            );
        }
    }
    let fake = two_domains();
    fake.0.borrow_mut().behaviour = Behaviour::Fails("no");
    let before = fake.state();
    attach_to(&fake, "driver", "guest").unwrap_err();
    assert_eq!(fake.state().tree, before.tree);
}
