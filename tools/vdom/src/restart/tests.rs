//! Against a fake host: the good way, and every way that ends early, after which the old one serves as before.

use vd_config::succession::Order;

use super::*;
use crate::create;
use crate::fake::Fake;
use crate::testing::TempDir;

const GUEST: &str = r#"
name = "web"
type = "hvm"
memory = 192
vdom_image = "image"
vdom_devices = [ "type=blk,backend=vbd:xvda", "type=blk,backend=vbd:xvdb", "slot=3,type=blk,backend=ram:8K" ]
vdom_disk = [ "format=raw,vdev=xvda,target=/srv/a", "/srv/b,,xvdb,w" ]
"#;

struct Bench {
    dir: TempDir,
    fake: Fake,
    guest: u16,
    old: u16,
}

fn bench() -> Bench {
    let dir = TempDir::new("restart");
    dir.file("image", b"\x7fELF\x02 and so on");
    dir.file("other", b"\x7fELF\x02 another one");
    let config = dir.file("web.cfg", GUEST);
    let fake = Fake::new();
    let plan = create::plan(&config, &[]).unwrap();
    let options = create::Options {
        timeout: Duration::from_secs(30),
        paused: false,
        again: false,
    };
    create::run(&mut fake.host(&dir.path().join("run")), &plan, options).unwrap();
    let (guest, old) = (
        fake.named("web").unwrap().0,
        fake.named("web-vd").unwrap().0,
    );
    let mut world = fake.0.borrow_mut();
    world.disks = vec![(old, "xvda".into()), (old, "xvdb".into())];
    world.log.clear();
    drop(world);
    Bench {
        dir,
        fake,
        guest,
        old,
    }
}

impl Bench {
    fn restart(&self, image: Option<&str>) -> Result<(), Failure> {
        let options = Options {
            image: image.map(|name| self.dir.path().join(name)),
            timeout: Duration::from_secs(2),
        };
        let mut host = self.fake.host(&self.dir.path().join("run"));
        run(&mut host, "web", &options)
    }

    fn log(&self) -> Vec<String> {
        let log = self.fake.0.borrow().log.clone();
        let dull = ["read", "list", "info", "change"];
        log.into_iter()
            .filter(|call| !dull.iter().any(|kind| call.starts_with(kind)))
            .collect()
    }

    fn disks_of(&self, domain: u16) -> Vec<String> {
        let world = self.fake.0.borrow();
        let disks = world.disks.iter().filter(|(of, _)| *of == domain);
        let mut names: Vec<String> = disks.map(|(_, name)| name.clone()).collect();
        names.sort();
        names
    }

    /// The old one serves, with its disks, and nothing is left of a new one.
    fn is_as_before(&self) -> bool {
        let named = self.fake.named("web-vd").map(|(id, _)| id);
        let order = self.fake.value(&node(self.old, keys::ORDER));
        let order = order.and_then(|text| Order::parse(text.as_bytes()));
        named == Some(self.old)
            && self.fake.named("web-vd.new").is_none()
            && !self.fake.named("web").unwrap().1.paused
            && self.disks_of(self.old) == ["xvda", "xvdb"]
            && matches!(order, None | Some(Order::Resume))
    }

    /// The new one serves, with the disks.
    fn is_replaced(&self) -> bool {
        let world = self.fake.0.borrow();
        let drivers = world.state.domains.iter();
        let serving: Vec<u16> = drivers
            .filter(|(id, domain)| **id != self.old && domain.target == Some(self.guest))
            .map(|(id, _)| *id)
            .collect();
        drop(world);
        serving.len() == 1
            && !self.fake.named("web").unwrap().1.paused
            && self.disks_of(serving[0]) == ["xvda", "xvdb"]
    }
}

#[test]
fn another_one_takes_over() {
    let bench = bench();
    bench.restart(None).unwrap();
    let (guest, old) = (bench.guest, bench.old);
    let (new, domain) = bench.fake.named("web-vd").unwrap();
    assert!(bench.is_replaced());
    assert!(bench.fake.named("web-vd.old").is_none());
    assert_eq!(domain.target, Some(guest));
    let expected = [
        "create web-vd.new".to_owned(),
        format!("unpause {new}"),
        format!("set_target {new} {guest}"),
        format!(
            "bridge ({old}, {}) ({new}, {}) 4096",
            4096 * old,
            4096 * new
        ),
        format!("bridge ({old}, {0}) ({new}, {0}) 8192", 1 << 20),
        format!("copy {old}"),
        format!("detach {old} xvda"),
        format!("attach {new} format=raw,vdev=xvda,target=/srv/a"),
        format!("detach {old} xvdb"),
        format!("attach {new} /srv/b,,xvdb,w"),
        format!("copy {old}"),
        format!("pause {guest}"),
        format!("copy {old}"),
        format!("copy {old}"),
        format!("unpause {guest}"),
        format!("rename {old} web-vd.old"),
        format!("rename {new} web-vd"),
    ];
    assert_eq!(bench.log(), expected);
    let dir = RunDir::of(&bench.dir.path().join("run"), "web");
    let named = Domain {
        id: new,
        name: "web-vd".into(),
    };
    assert_eq!(dir.driver(), Some(named));
    // And once more.
    bench.restart(None).unwrap();
    assert_ne!(bench.fake.named("web-vd").unwrap().0, new);
}

/// Where the last one could not hand over the nodes, or nobody has answered yet, the next one knows the devices all the same.
#[test]
fn devices_whose_nodes_say_nothing_are_taken_over() {
    let bench = bench();
    let described = || {
        let (new, _) = bench.fake.named("web-vd").unwrap();
        [0, 1, 3].map(|slot| {
            let path = node(new, &format!("virtio-domain/device/{slot}/type"));
            bench.fake.value(&path).is_some()
        })
    };
    let backend = |slot: &str| {
        let (new, _) = bench.fake.named("web-vd").unwrap();
        node(new, &format!("backend/virtio/{}{slot}", bench.guest))
    };
    let gone = backend("");
    bench.fake.0.borrow_mut().remove(&gone);
    bench.restart(None).unwrap();
    assert_eq!(described(), [true; 3]);
    let state = bench.fake.value(&backend("/0/state"));
    assert_eq!(state.as_deref(), Some("1"), "nobody has answered yet");
    bench.restart(None).unwrap();
    assert_eq!(described(), [true; 3]);
    // One that has gone while others are there is gone.
    for slot in [0, 1] {
        let state = backend(&format!("/{slot}/state"));
        bench.fake.0.borrow_mut().set(&state, "2");
    }
    let gone = backend("/3");
    bench.fake.0.borrow_mut().remove(&gone);
    bench.restart(None).unwrap();
    assert_eq!(described(), [true, true, false]);
}

/// Nobody gives them to the next one: that is said before anything is done.
#[test]
fn what_was_attached_to_the_driver_domain_later_is_not_moved() {
    for (pairs, what) in [
        (
            &[("type", "blk"), ("backend", "vbd:xvdc")][..],
            "disk xvdc of slot 5",
        ),
        (
            &[
                ("type", "net"),
                ("backend", "vif:1"),
                ("mac", "00:16:3e:00:00:01"),
            ],
            "network interface 1 of slot 5",
        ),
    ] {
        let bench = bench();
        let set = |path: String, value: &str| {
            let path = node(bench.old, &path);
            bench.fake.0.borrow_mut().set(&path, value);
        };
        for (key, value) in pairs {
            set(format!("virtio-domain/device/5/{key}"), value);
        }
        set(format!("backend/virtio/{}/5/state", bench.guest), "2");
        set("device/vif/1/backend".into(), "there");
        let failure = bench.restart(None).unwrap_err().to_string();
        assert!(failure.contains(what), "{failure}");
        assert!(failure.contains("vdom device-detach web 5"), "{failure}");
        assert!(bench.is_as_before());
        assert_eq!(bench.log(), [""; 0], "nothing was done");
    }
}

#[test]
fn another_image_stays() {
    let bench = bench();
    bench.restart(Some("other")).unwrap();
    let other = bench.dir.path().join("other").display().to_string();
    let kernel = |bench: &Bench| {
        let (_, domain) = bench.fake.named("web-vd").unwrap();
        let mut config = domain.config.into_iter();
        config.rfind(|(key, _)| key == "kernel").unwrap().1
    };
    assert_eq!(kernel(&bench), other);
    bench.restart(None).unwrap();
    assert_eq!(kernel(&bench), other);
    let failure = bench.restart(Some("web.cfg")).unwrap_err();
    assert!(failure.to_string().contains("no ELF64 image"), "{failure}");
}

/// Whichever call fails: the old one serves as before, or, at the very end, the new one.
#[test]
fn row34_every_call_fails_once() {
    let calls = {
        let bench = bench();
        bench.restart(None).unwrap();
        bench.fake.0.borrow().log.len()
    };
    let mut replaced = 0;
    for at in 0..calls {
        let bench = bench();
        bench.fake.0.borrow_mut().fail_at = Some(at);
        let result = bench.restart(None);
        let before = bench.is_as_before();
        assert_ne!(before, bench.is_replaced(), "call {at}: {result:?}");
        if bench.is_replaced() {
            replaced += 1;
        } else {
            assert!(result.is_err(), "call {at}");
        }
    }
    assert!(
        replaced > 0 && replaced < calls / 3,
        "{replaced} of {calls}"
    );
}

#[test]
fn whoever_cannot_says_so_and_the_old_one_goes_on() {
    for order in [
        Order::None,
        Order::Prepare,
        Order::Quiesce,
        Order::Connect,
        Order::Export,
        Order::TakeOver,
    ] {
        let bench = bench();
        bench.fake.0.borrow_mut().fails_at = Some(order);
        let failure = bench.restart(None).unwrap_err();
        assert!(
            failure.to_string().contains("as the test wants it"),
            "{failure}"
        );
        assert!(bench.is_as_before(), "{order:?}");
        let nmi = bench.log().iter().any(|call| call.starts_with("nmi"));
        assert_eq!(
            nmi,
            order == Order::TakeOver,
            "only then it may have the guest"
        );
        // The next try is a fresh one.
        bench.fake.0.borrow_mut().fails_at = None;
        bench.restart(None).unwrap();
    }
}

/// The old one has crashed, and says where what it has left is.
fn crashed() -> Bench {
    let bench = bench();
    let mut world = bench.fake.0.borrow_mut();
    let memory = format!("state={}+4096 3={}+8192", 4096 * bench.old, 1 << 20);
    world.set(&node(bench.old, keys::STATUS_MEMORY), &memory);
    let old = world.state.domains.get_mut(&bench.old).unwrap();
    (old.dead, old.reason) = (true, 3);
    drop(world);
    bench
}

#[test]
fn after_a_crash() {
    let bench = crashed();
    bench.restart(None).unwrap();
    let (guest, old) = (bench.guest, bench.old);
    let (new, _) = bench.fake.named("web-vd").unwrap();
    assert!(bench.is_replaced());
    let expected = [
        format!("pause {guest}"),
        "create web-vd.new".to_owned(),
        format!("unpause {new}"),
        format!("set_target {new} {guest}"),
        format!(
            "bridge ({old}, {}) ({new}, {}) 4096",
            4096 * old,
            4096 * new
        ),
        format!("bridge ({old}, {0}) ({new}, {0}) 8192", 1 << 20),
        format!("copy {old}"),
        format!("copy {old}"),
        // No back end serves both, and what the old one has asked for has ended.
        format!("destroy {old}"),
        format!("attach {new} format=raw,vdev=xvda,target=/srv/a"),
        format!("attach {new} /srv/b,,xvdb,w"),
        format!("unpause {guest}"),
        format!("rename {new} web-vd"),
    ];
    assert_eq!(bench.log(), expected);
}

/// Nobody serves the guest then, but it is not left paused, and no new one is left.
#[test]
fn row34_every_call_fails_once_after_a_crash() {
    let calls = {
        let bench = crashed();
        bench.restart(None).unwrap();
        bench.fake.0.borrow().log.len()
    };
    for at in 0..calls {
        let bench = crashed();
        bench.fake.0.borrow_mut().fail_at = Some(at);
        let result = bench.restart(None);
        assert!(!bench.fake.named("web").unwrap().1.paused, "call {at}");
        if !bench.is_replaced() {
            assert!(result.is_err(), "call {at}");
            assert!(bench.fake.named("web-vd.new").is_none(), "call {at}");
        }
    }
}

#[test]
fn an_operator_who_has_enough() {
    for at in 0..60 {
        let bench = bench();
        bench.fake.0.borrow_mut().interrupt_at = Some(at);
        let result = bench.restart(None);
        assert_eq!(
            result.is_err(),
            bench.is_as_before(),
            "call {at}: {result:?}"
        );
    }
}

#[test]
fn what_cannot_be_restarted() {
    let bench = bench();
    let refusal = |name: &str| {
        let options = Options {
            image: None,
            timeout: Duration::from_secs(1),
        };
        let mut host = bench.fake.host(&bench.dir.path().join("run"));
        run(&mut host, name, &options).unwrap_err().to_string()
    };
    assert!(refusal("nobody").contains("there is no such domain"));
    assert!(refusal("Domain-0").contains("0 driver domains serve it"));
    let set = |key, value| {
        let path = node(bench.old, key);
        bench.fake.0.borrow_mut().set(&path, value);
    };
    set(keys::TARGET_TYPE, "pvh");
    assert!(refusal("web").contains("PVH guest"));
    set(keys::TARGET_TYPE, "hvm");
    set(keys::STATUS_STATE, "failed");
    assert!(refusal("web-vd").contains("does not serve it now"));
    set(keys::STATUS_STATE, "ready");
    let held = lock(&bench.fake.host(&bench.dir.path().join("run")), "web").unwrap();
    assert!(refusal("web").contains("another vdom restarts its driver domain"));
    drop(held);
    assert!(!bench.dir.path().join("run/.web.restart").exists());
    std::fs::remove_dir_all(bench.dir.path().join("run/web")).unwrap();
    assert!(refusal("web").contains("vdom did not create it"));
}

impl Bench {
    /// A device comes while the guest runs.
    fn plug(&self, text: &str) -> Result<(), Failure> {
        self.fake.0.borrow_mut().now += Duration::from_secs(1);
        let mut host = self.fake.host(&self.dir.path().join("run"));
        crate::hotplug::attach(&mut host, "web", text, Duration::from_secs(2))
    }

    fn nodes(&self, driver: u16, slot: u8) -> Nodes {
        Nodes::of(driver, self.guest, vd_config::SlotIndex::new(slot).unwrap())
    }
}

#[test]
fn devices_that_came_late_are_taken_over_and_those_that_have_gone_are_not() {
    let bench = bench();
    bench.plug("slot=5,type=rng,backend=cpu").unwrap();
    bench.plug("slot=6,type=rng,backend=cpu").unwrap();
    bench.plug("slot=7,type=rng,backend=cpu").unwrap();
    // Taken away by another toolstack, which leaves the description.
    let gone = bench.nodes(bench.old, 6);
    bench.fake.0.borrow_mut().remove(&gone.backend);
    let closed = bench.nodes(bench.old, 7).ours("state");
    bench.fake.0.borrow_mut().set(&closed, "6");
    let table = "llllllelllllllll";
    bench
        .fake
        .0
        .borrow_mut()
        .set(&node(bench.old, keys::TABLE), table);
    bench.restart(None).unwrap();
    let (new, _) = bench.fake.named("web-vd").unwrap();
    assert_ne!(new, bench.old);
    assert_eq!(
        bench.fake.value(&node(new, keys::TABLE)).as_deref(),
        Some(table)
    );
    for (slot, there) in [(0, true), (5, true), (6, false), (7, false)] {
        let described = format!("{}/{slot}/type", keys::DEVICE);
        let described = bench.fake.value(&node(new, &described));
        assert_eq!(described.is_some(), there, "{slot}");
        // xl destroy looks there for what it has to take away.
        let nodes = bench.nodes(new, slot);
        let [frontend, _, libxl] = nodes.paths();
        for path in [frontend, libxl] {
            let named = bench.fake.value(&format!("{path}/backend"));
            assert_eq!(named == Some(nodes.backend.clone()), there, "{path}");
        }
        assert_eq!(bench.fake.value(&nodes.ours("state")).is_some(), there);
    }
}

#[test]
fn a_disk_that_came_late_to_the_driver_domain_is_not_lost() {
    let bench = bench();
    let path = node(bench.old, "device/vbd/51744/backend");
    bench
        .fake
        .0
        .borrow_mut()
        .set(&path, "/local/domain/0/backend/vbd/7/51744");
    bench.plug("slot=5,type=blk,backend=vbd:xvdc").unwrap();
    let why = bench.restart(None).unwrap_err().to_string();
    assert!(
        why.contains("disk xvdc of slot 5") && why.contains("vdom device-detach web 5"),
        "{why}"
    );
    assert!(bench.is_as_before());
}

#[test]
fn nobody_attaches_a_device_while_a_driver_domain_is_restarted() {
    let bench = bench();
    let held = lock(&bench.fake.host(&bench.dir.path().join("run")), "web").unwrap();
    let late = "slot=5,type=rng,backend=cpu";
    let why = bench.plug(late).unwrap_err().to_string();
    assert!(why.contains("another vdom"), "{why}");
    drop(held);
    bench.plug(late).unwrap();
}
