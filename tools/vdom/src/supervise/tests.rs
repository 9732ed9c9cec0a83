//! A supervisor against a fake host.

use std::path::PathBuf;

use vd_config::keys;
use vd_config::succession::Order;

use super::*;
use crate::fake::Fake;
use crate::host::node;
use crate::testing::TempDir;

const GUEST: &str = r#"
name = "web"
type = "hvm"
memory = 192
on_crash = "restart"
vdom_image = "image"
vdom_devices = [ "type=blk,backend=ram:1M" ]
"#;
const DRIVER: &str = r#"
name = "mine"
type = "pvh"
memory = 64
"#;
const POWER_OFF: u8 = 0;
const REBOOT: u8 = 1;
const CRASH: u8 = 3;
const WATCHDOG: u8 = 4;
const SOFT_RESET: u8 = 5;

/// A host on which the guest has been created once.
struct Bench {
    dir: TempDir,
    fake: Fake,
    plan: Plan,
    guest: Domain,
}

impl Bench {
    /// The guest is going to end like this, time after time, and then is destroyed by somebody.
    fn new(endings: &[u8]) -> Self {
        Self::with(GUEST, endings)
    }

    fn with(guest: &str, endings: &[u8]) -> Self {
        let dir = TempDir::new("supervise");
        let image = dir.file("image", b"\x7fELF\x02 and so on");
        let kernel = format!("kernel = \"{}\"\n", image.display());
        dir.file("driver.cfg", format!("{DRIVER}{kernel}"));
        let config = dir.file("web.cfg", guest);
        let fake = Fake::new();
        let plan = create::plan(&config, &[]).unwrap();
        let run_dir = dir.path().join("run");
        let guest = create::run(&mut fake.host(&run_dir), &plan, OPTIONS).unwrap();
        {
            let mut world = fake.0.borrow_mut();
            world.endings = endings.iter().rev().copied().collect();
            world.drivers_end = true;
            world.log.clear();
        }
        Self {
            dir,
            fake,
            plan,
            guest,
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn supervise(&self) -> Result<(), Failure> {
        let mut host = self.fake.host(&self.run_dir());
        let pace = Pace::parse("60").unwrap();
        run(&mut host, &self.plan, OPTIONS, pace, self.guest.clone())
    }

    /// The guest lives, with a driver domain of its own, and nothing is left of the first pair.
    fn must_be_back(&self, number: usize) {
        let result = self.supervise();
        assert!(result.is_ok(), "call {number}: {result:?}");
        let (driver, guest) = (self.fake.named("web-vd"), self.fake.named("web"));
        let (Some((_, driver)), Some((id, guest))) = (driver, guest) else {
            panic!("call {number}: no pair");
        };
        assert_eq!(driver.target, Some(id), "call {number}");
        assert!(!guest.paused && id != self.guest.id, "call {number}");
        let domains = self.fake.state().domains;
        assert_eq!(domains.len(), 3, "call {number}: {domains:?}");
    }

    /// How often something was done.
    fn count(&self, call: &str) -> usize {
        let world = self.fake.0.borrow();
        world.log.iter().filter(|entry| *entry == call).count()
    }
}

const OPTIONS: Options = Options {
    timeout: Duration::from_secs(30),
    paused: false,
    again: false,
};

#[test]
fn each_reboot_gives_a_new_guest_with_a_new_driver_domain() {
    let bench = Bench::new(&[REBOOT, CRASH, SOFT_RESET]);
    bench.supervise().unwrap();
    assert_eq!(bench.count("create web"), 3);
    assert_eq!(bench.count("create web-vd"), 3);
    let log = bench.fake.0.borrow().log.clone();
    let mut targets: Vec<_> = log
        .iter()
        .filter(|call| call.starts_with("set_target"))
        .collect();
    targets.dedup();
    assert_eq!(targets.len(), 3, "three pairs: {targets:?}");
}

#[test]
fn the_last_pair_works() {
    let bench = Bench::new(&[REBOOT]);
    bench.fake.0.borrow_mut().lives_on = true;
    bench.supervise().unwrap();
    let (driver, driver_domain) = bench.fake.named("web-vd").unwrap();
    let (guest, guest_domain) = bench.fake.named("web").unwrap();
    assert_eq!(driver_domain.target, Some(guest));
    assert!(!guest_domain.paused && guest != bench.guest.id);
    let state = bench
        .fake
        .value(&node(driver, vd_config::keys::STATUS_STATE));
    assert_eq!(state.as_deref(), Some("ready"));
}

#[test]
fn a_guest_that_ends_otherwise_is_left_to_xl() {
    for ending in [POWER_OFF, WATCHDOG] {
        let bench = Bench::new(&[ending]);
        bench.supervise().unwrap();
        assert_eq!(bench.count("create web"), 0, "{ending}");
        assert_eq!(
            bench.count(&format!("destroy {}", bench.guest.id)),
            0,
            "xl does that"
        );
    }
}

#[test]
fn a_guest_comes_back_as_it_was_though_its_file_has_changed() {
    let bench = Bench::new(&[REBOOT]);
    bench.dir.file("web.cfg", "name = \"other\"\n");
    bench.supervise().unwrap();
    assert_eq!(bench.count("create web"), 1);
}

#[test]
fn its_driver_domain_comes_back_as_it_was_too() {
    let own = GUEST.replace("vdom_image = \"image\"", "vdom_driver = \"driver.cfg\"");
    let bench = Bench::with(&own, &[REBOOT]);
    bench
        .dir
        .file("driver.cfg", "name = \"other\"\ntype = \"pv\"\n");
    bench.fake.0.borrow_mut().lives_on = true;
    bench.supervise().unwrap();
    let (_, driver) = bench.fake.named("mine").unwrap();
    let memory = ("memory".to_owned(), "64".to_owned());
    assert!(driver.config.contains(&memory), "{:?}", driver.config);
    assert!(driver.config.iter().any(|(key, _)| key == "shadow_memory"));
}

#[test]
fn creation_is_tried_again_and_given_up_in_the_end() {
    let bench = Bench::new(&[REBOOT]);
    bench.fake.0.borrow_mut().fail_kind = Some("unpause");
    let failure = bench.supervise().unwrap_err();
    assert!(failure.to_string().contains("injected"), "{failure}");
    assert_eq!(bench.count("create web-vd"), TRIES as usize);
    assert_eq!(bench.fake.named("web"), None);
    assert_eq!(bench.fake.named("web-vd"), None, "nothing is left");
}

/// Attack case 34, for restarts: whichever call fails once, the guest is there in the end.
#[test]
fn any_call_may_fail_once() {
    for number in 0..calls_of_a_restart() {
        let bench = Bench::new(&[REBOOT]);
        bench.fake.0.borrow_mut().lives_on = true;
        bench.fake.0.borrow_mut().fail_at = Some(number);
        bench.must_be_back(number);
    }
}

#[test]
fn xenstored_may_be_restarted_at_any_time() {
    for number in 0..calls_of_a_restart() {
        let bench = Bench::new(&[REBOOT]);
        bench.fake.0.borrow_mut().lives_on = true;
        bench.fake.0.borrow_mut().disconnect_at = Some(number);
        bench.must_be_back(number);
    }
}

fn calls_of_a_restart() -> usize {
    let bench = Bench::new(&[REBOOT]);
    bench.supervise().unwrap();
    bench.fake.0.borrow().log.len()
}

#[test]
fn what_fails_and_goes_on_failing_is_tried_until_the_supervisor_is_to_end() {
    for kind in ["info", "wait"] {
        let bench = Bench::new(&[]);
        {
            let mut world = bench.fake.0.borrow_mut();
            world.fail_kind = Some(kind);
            world.interrupt_at = Some(400);
        }
        bench.supervise().unwrap();
        assert!(bench.count("reconnect") > 20, "{kind}");
        let now = bench.fake.0.borrow().now;
        assert!(now > 20 * LOOK, "{kind}: not all the time: {now:?}");
    }
}

/// It is replaced, and its guest goes on being looked after; if it cannot be, that is tried once.
#[test]
fn a_driver_domain_that_crashes_is_replaced() {
    for fails in [false, true] {
        let bench = Bench::new(&[REBOOT]);
        let (old, _) = bench.fake.named("web-vd").unwrap();
        {
            let mut world = bench.fake.0.borrow_mut();
            let driver = world.state.domains.get_mut(&old).unwrap();
            (driver.dead, driver.reason) = (true, CRASH);
            world.set(
                &node(old, keys::STATUS_MEMORY),
                &format!("state={}+4096 3={}+8192", 4096 * u64::from(old), 1 << 20),
            );
            world.fails_at = fails.then_some(Order::TakeOver);
        }
        bench.supervise().unwrap();
        assert_eq!(bench.count("create web-vd.new"), 1);
        let world = bench.fake.0.borrow();
        let renamed = world.log.iter().any(|call| call.starts_with("rename"));
        drop(world);
        assert_eq!(renamed, !fails);
        assert_eq!(bench.count("create web"), 1, "after the guest's reboot");
    }
}

#[test]
fn a_guest_that_reboots_at_once_is_made_to_wait() {
    let bench = Bench::new(&[REBOOT; 8]);
    bench.fake.0.borrow_mut().at_once = true;
    bench.supervise().unwrap();
    assert_eq!(bench.count("create web"), 8);
    let now = bench.fake.0.borrow().now;
    assert!(now.as_secs() >= 2 + 4 + 8 + 16 + 32 + 60 + 60, "{now:?}");
}

/// What a supervisor that was killed leaves: a guest, and a claim that nobody holds.
#[test]
fn another_supervisor_takes_the_place_of_one_that_was_killed() {
    let bench = Bench::new(&[REBOOT]);
    let mut host = bench.fake.host(&bench.run_dir());
    bench.dir.file("run/.web.supervisor", "1\n");
    let (guest, claim) = resume(&mut host, &bench.plan).unwrap();
    assert_eq!(guest, bench.guest);
    let failure = resume(&mut host, &bench.plan).unwrap_err().to_string();
    assert!(failure.contains("another vdom"), "{failure}");
    drop(claim);
    resume(&mut host, &bench.plan).unwrap();
}

#[test]
fn what_is_not_to_be_supervised_is_refused_with_a_reason() {
    let bench = Bench::new(&[]);
    let refused = |name: &str, restarts: bool, why: &str| {
        let mut plan = bench.plan.clone();
        plan.guest.name = name.into();
        if !restarts {
            plan.guest.restarts.clear();
        }
        let failure = resume(&mut bench.fake.host(&bench.run_dir()), &plan).unwrap_err();
        assert!(failure.to_string().contains(why), "{failure}");
    };
    refused("nobody", true, "no such guest");
    refused("web", false, "not created again");
    std::fs::remove_file(bench.run_dir().join("web/restarts")).unwrap();
    refused("web", true, "created without a supervisor");
}
