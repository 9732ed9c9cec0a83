//! Taking a guest over and giving it back.

use core::sync::atomic::Ordering;
use std::cell::Cell;
use std::format;
use std::prelude::v1::*;

use vd_config::{Doorbell as Kind, Interrupt};
use vd_virtio::counters::Counters;
use xen_hypercall::dm::ServerId;
use xen_hypercall::fake::machine::{Fault, State};
use xen_hypercall::{Errno, EvtchnPort};

use super::super::attach::Plan;
use super::super::signal::{Signal, Wanted};
use super::{
    ERRORS, FRAMES, GUEST, Tested, answer, attach, held, plan, plans, server, server_of, slot, way,
};
use crate::bus::Target;

#[test]
fn a_server_takes_what_its_devices_need_and_no_more() {
    for (plan, posts, ports) in [
        (plan(&[Kind::Mmio]), false, false),
        (plan(&[Kind::Mmio, Kind::Posted]), true, false),
        (plan(&[Kind::Port]), false, true),
    ] {
        let server = server();
        attach(&server, &plan).unwrap();
        let held = held(&server);
        assert_eq!(held.ranges, [true, posts, ports]);
        let State {
            servers, physmap, ..
        } = held.xen;
        let ranges = 1 + usize::from(posts) + usize::from(ports);
        assert_eq!(servers[&0].ranges.len(), ranges);
        assert!(servers[&0].enabled && servers[&0].ring == posts);
        assert_eq!(physmap.len(), 1 + usize::from(posts));
        assert_eq!(held.frames.len(), physmap.len());
    }
}

#[test]
fn row25_a_guest_has_as_many_vcpus_as_there_are_slots() {
    for (vcpus, fits) in [(0, false), (1, true), (128, true), (129, false)] {
        let server = server_of(vcpus);
        let asked = server.vcpus(GUEST);
        assert_eq!(asked.is_ok(), fits, "{asked:?}");
        if let Err(why) = asked {
            assert!(why.contains(&format!("{vcpus} vCPUs; 1 to 128")), "{why}");
            continue;
        }
        let plan = Plan {
            vcpus,
            ..plan(&[Kind::Posted])
        };
        server.attach(&plan).unwrap();
        assert_eq!(server.ports().count(), vcpus as usize);
        server.release(|| ());
        assert_eq!(held(&server), held(&server_of(vcpus)));
    }
}

#[test]
fn row38_a_refusal_says_what_to_do() {
    for (error, advice) in [
        (Errno::EPERM, "vdom attach"),
        (Errno::ESRCH, "start again"),
        (Errno::ENOMEM, "raise shadow_memory="),
        (Errno::ENOSPC, "destroy another driver domain"),
        (Errno::EOPNOTSUPP, "nestedhvm=0"),
    ] {
        let server = server();
        server.xen().fail(Fault::Once(1, error));
        let why = attach(&server, &plan(&[Kind::Mmio])).unwrap_err();
        let begins = format!("domain 7: creating an ioreq server: {error}; ");
        assert!(why.starts_with(&begins) && why.contains(advice), "{why}");
    }
}

#[test]
fn row34_any_call_of_an_attachment_may_fail_and_nothing_is_left() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        let calls = whole.xen().made();
        assert!(calls >= 10, "{calls}");
        for n in 0..calls {
            for error in ERRORS {
                let server = server();
                server.xen().fail(Fault::Once(n, error));
                let why = attach(&server, &plan).expect_err("it failed");
                assert!(why.contains("domain 7: "), "{why}");
                assert!(why.contains(&format!("({error:?})")), "{why}");
                server.xen().mend();
                assert_eq!(held(&server), before, "call {n}: {error}: {why}");
                // The next attempt is like the first.
                attach(&server, &plan).unwrap();
                assert_eq!(held(&server), held(&whole), "call {n}: {error}");
            }
        }
        assert_eq!(whole.release(|| ()).answered, 0);
        assert_eq!(held(&whole), before);
    }
}

#[test]
fn row34_a_failure_and_another_one_while_it_is_undone() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        for n in 0..whole.xen().made() {
            let server = server();
            // The call, and each third one after it, so that what is undone fails here and there.
            server.xen().fail(Fault::EveryThird(n, Errno::EBUSY));
            attach(&server, &plan).expect_err("it failed");
            server.xen().mend();
            assert_eq!(held(&server), before, "call {n}");
        }
    }
}

#[test]
fn row34_frames_that_run_out() {
    let server = server();
    let before = held(&server);
    server.platform.frames.borrow_mut().extend(FRAMES.skip(1));
    let why = attach(&server, &plan(&[Kind::Posted])).expect_err("one frame is too few");
    assert!(why.contains("no guest frame number is free"), "{why}");
    server.platform.frames.borrow_mut().clear();
    assert_eq!(held(&server), before);
}

#[test]
fn row34_a_guest_that_dies_while_it_is_attached_keeps_nothing() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        for n in 0..whole.xen().made() {
            let server = server();
            server.xen().fail(Fault::GuestGone(n));
            let why = attach(&server, &plan).expect_err("it failed");
            assert!(why.contains("this driver domain's guest is gone"), "{why}");
            assert_eq!(held(&server), before, "call {n}");
        }
    }
}

#[test]
fn row34_without_power_over_the_guest_all_of_ones_own_is_given_back() {
    for plan in plans() {
        let whole = server();
        let before = held(&whole);
        attach(&whole, &plan).unwrap();
        for n in 0..whole.xen().made() {
            let server = server();
            server.xen().fail(Fault::From(n, Errno::EPERM));
            let why = attach(&server, &plan).expect_err("it failed");
            assert!(why.contains("no power over it"), "{why}");
            let State {
                servers,
                ports,
                physmap,
                lines,
                given,
                claim,
            } = server.xen().state();
            assert!(ports.is_empty() && physmap.is_empty() && lines.is_empty());
            assert!(given.is_empty() && claim.is_none());
            // What Xen does not take back is remembered, and given back when it does.
            assert_eq!(server.held().is_some(), !servers.is_empty());
            server.xen().mend();
            server.release(|| ());
            assert_eq!(held(&server), before, "call {n}");
        }
    }
}

#[test]
fn a_server_that_is_still_there_is_not_forgotten() {
    let server = server();
    attach(&server, &plan(&[Kind::Mmio])).unwrap();
    let there = held(&server);
    let refused = |server: &Tested| {
        let why = server.attach(&plan(&[Kind::Mmio])).expect_err("twice");
        assert!(why.contains("has not taken back"), "{why}");
    };
    refused(&server);
    assert_eq!(held(&server), there);
    // Any one of these is enough.
    for left in [
        |server: &Tested| server.remember(GUEST, ServerId(1)),
        |server: &Tested| server.page.store(FRAMES.start, Ordering::Relaxed),
        |server: &Tested| server.ring.store(FRAMES.start, Ordering::Relaxed),
    ] {
        let server = super::server();
        left(&server);
        refused(&server);
        assert!(server.xen().state().servers.is_empty());
    }
}

/// A guest in the middle of everything: a vCPU waits for a register, another one's doorbell has just rung, writes are
/// posted, a line is up, doorbells are held back.
fn in_the_middle(plan: &Plan) -> Tested {
    let server = server();
    attach(&server, plan).unwrap();
    server.interrupts();
    let (window, doorbell) = (plan.devices[0].window, plan.devices[0].doorbell);
    server.read(0, slot(0).base());
    server.interrupts();
    server.write(1, window + 0x50, 1);
    if doorbell == Kind::Posted {
        assert!(server.xen().post(window + 0x70, 1));
        server.interrupts();
        assert!(server.xen().post(window + 0x50, 0));
    }
    for device in [0, 15, 16, 31] {
        let mut signal = Signal::new(Interrupt::Intx);
        let wanted = Wanted::new(true, &Counters::default());
        let told = signal.update(&server, GUEST, slot(device), wanted, None);
        told.unwrap();
    }
    assert_eq!(server.xen().state().lines.len(), 4);
    server.hold_back(0, 1);
    server.xen().keep_asking(0);
    server.read(2, slot(0).base());
    server
}

#[test]
fn row34_any_call_of_a_release_may_fail_and_nothing_is_left() {
    for plan in plans() {
        let before = held(&server());
        let whole = in_the_middle(&plan);
        whole.xen().mend();
        whole.release(|| ());
        let calls = whole.xen().made();
        assert!(calls >= 10, "{calls}");
        assert_eq!(held(&whole), before);
        for n in 0..calls {
            for error in ERRORS {
                let server = in_the_middle(&plan);
                assert_ne!(server.waiting_vcpus(), []);
                server.xen().fail(Fault::Once(n, error));
                let unmapped = Cell::new(0);
                let released = server.release(|| unmapped.set(server.xen().made()));
                assert_eq!(
                    (released.destroyed, released.lowered, released.freed),
                    (Ok(()), Ok(()), Ok(())),
                    "{n}"
                );
                assert!(unmapped.get() != 0 && unmapped.get() < server.xen().made());
                server.xen().mend();
                assert_eq!(held(&server), before, "call {n}: {error}");
                assert_eq!(server.waiting_vcpus(), [], "call {n}: {error}");
                // There is nothing left to do.
                server.release(|| ());
                assert_eq!(server.xen().made(), 0);
            }
        }
    }
}

#[test]
fn row38_refusals_that_last_are_told_and_what_is_left_is_given_back_later() {
    let plan = plan(&[Kind::Posted, Kind::Port]);
    let before = held(&server());
    let server = in_the_middle(&plan);
    server.xen().fail(Fault::From(0, Errno::EPERM));
    let released = server.release(|| ());
    assert_eq!(released.destroyed, Err(Errno::EPERM));
    assert_eq!(released.lowered, Err(Errno::EPERM));
    assert_eq!(released.freed, Ok(()));
    let State { ports, physmap, .. } = server.xen().state();
    assert!(ports.is_empty() && physmap.is_empty());
    server.xen().mend();
    let again = server.release(|| ());
    assert_eq!((again.destroyed, again.lowered), (Ok(()), Ok(())));
    assert_eq!(held(&server), before);

    let server = in_the_middle(&plan);
    server.xen().fail(Fault::All(Errno::EAGAIN));
    assert_eq!(server.release(|| ()).freed, Err(Errno::EAGAIN));
    let why = server.attach(&plan).expect_err("nothing was taken back");
    assert!(why.contains("has not taken back"), "{why}");
    server.xen().mend();
    assert_eq!(server.release(|| ()).freed, Ok(()));
    assert_eq!(held(&server), before);
}

#[test]
fn row33_an_emergency_in_the_middle_leaves_no_vcpu_waiting_whatever_fails() {
    for plan in plans() {
        let whole = in_the_middle(&plan);
        whole.xen().mend();
        assert!(whole.emergency().answered >= 1);
        for n in 0..whole.xen().made() {
            for error in ERRORS {
                let server = in_the_middle(&plan);
                server.xen().fail(Fault::Once(n, error));
                assert_eq!(server.emergency().destroyed, Ok(()));
                let State { servers, lines, .. } = server.xen().state();
                assert!(servers.is_empty() && lines.is_empty(), "{n} {error}");
                assert_eq!(server.waiting_vcpus(), [], "call {n}: {error}");
            }
        }
    }
}

/// Before the emergency proper the guest asks what its last interrupts are for, and hears that it was not these devices.
#[test]
fn row33_what_is_asked_before_the_server_goes_is_answered_with_nothing() {
    for plan in plans() {
        let server = in_the_middle(&plan);
        let waiting = server.waiting_vcpus().len();
        assert!(waiting > 0);
        assert_eq!(server.hush(), waiting);
        // The one that keeps asking has asked again, and is heard again.
        assert_eq!(server.waiting_vcpus(), [0]);
        let State { servers, lines, .. } = server.xen().state();
        assert!(!servers.is_empty() && lines.is_empty());
        assert_eq!(server.hush(), 1);
        assert_eq!(server.emergency().destroyed, Ok(()));
    }
}

#[test]
fn row34_any_call_may_fail_while_a_drivers_ports_are_bound() {
    let way = way(Kind::EventChannel, Interrupt::EventChannel);
    let there = || {
        let server = server();
        attach(&server, &plan(&[Kind::EventChannel])).unwrap();
        let answer = answer(&server, way);
        let before = held(&server);
        server.xen().mend();
        (server, answer, before)
    };
    let (whole, answer, before) = there();
    let bound = whole.bind(GUEST, slot(0), &answer).unwrap();
    assert_eq!(bound.doorbells.len(), 2);
    let calls = whole.xen().made();
    assert_eq!(calls, 5, "three channels, two of which are listened to");
    for port in bound.doorbells {
        whole.close(port).unwrap();
    }
    if let Target::Port(port) = bound.interrupt {
        whole.close(EvtchnPort(port)).unwrap();
    }
    assert_eq!(held(&whole), before);
    for n in 0..calls {
        for error in ERRORS {
            for fault in [Fault::Once(n, error), Fault::EveryThird(n, error)] {
                let (server, answer, before) = there();
                server.xen().fail(fault);
                let refused = server.bind(GUEST, slot(0), &answer);
                assert_eq!(refused.err(), Some(error));
                assert_eq!(held(&server), before, "{fault:?}");
            }
        }
    }
}
