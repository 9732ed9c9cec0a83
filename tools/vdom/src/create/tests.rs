//! Creation against a fake host: the good way, and every way that ends early.

use vd_config::keys;

use super::*;
use crate::fake::{Behaviour, Fake};
use crate::host::node;
use crate::testing::TempDir;

/// A directory with a guest's configuration, an image and a disk; and a host.
struct Bench {
    dir: TempDir,
    fake: Fake,
    config: PathBuf,
}

const GUEST: &str = r#"
name = "web"
type = "hvm"
memory = 192
vdom_image = "image"
vdom_ramdisk = "disk"
vdom_devices = [ "type=blk,backend=module,serial=VDOM0", "slot=5,type=blk,backend=ram:8M" ]
"#;
const OPTIONS: Options = Options {
    timeout: Duration::from_secs(30),
    paused: false,
    again: false,
};

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new("create");
        dir.file("image", b"\x7fELF\x02 and so on");
        dir.file("disk", vec![0; 1 << 20]);
        let config = dir.file("web.cfg", GUEST);
        Self {
            dir,
            fake: Fake::new(),
            config,
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn create(&self) -> Result<(), Failure> {
        self.create_with(OPTIONS)
    }

    fn create_with(&self, options: Options) -> Result<(), Failure> {
        let plan = plan(&self.config, &[])?;
        run(&mut self.fake.host(&self.run_dir()), &plan, options).map(|_| ())
    }

    /// Whether nothing is left in the run directory.
    fn run_dir_is_empty(&self) -> bool {
        std::fs::read_dir(self.run_dir()).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Creation must fail and leave no trace.
    fn must_fail(&self) -> Failure {
        let before = self.fake.state();
        let failure = self.create().expect_err("it should fail");
        assert_eq!(self.fake.state(), before, "{failure}");
        assert!(self.run_dir_is_empty(), "{failure}");
        failure
    }
}

fn position(log: &[String], wanted: &str) -> usize {
    log.iter()
        .position(|call| call == wanted)
        .unwrap_or_else(|| panic!("no {wanted} in {log:#?}"))
}

#[test]
fn both_domains_run_and_the_description_is_complete() {
    let bench = Bench::new();
    bench.create().unwrap();
    let (driver, driver_domain) = bench.fake.named("web-vd").unwrap();
    let (guest, guest_domain) = bench.fake.named("web").unwrap();
    assert!(!driver_domain.paused && !guest_domain.paused);
    assert_eq!(driver_domain.target, Some(guest));
    for (key, value) in [
        (keys::VERSION, "1"),
        (keys::TARGET, guest.to_string().as_str()),
        (keys::TARGET_TYPE, "hvm"),
        (keys::COMMIT, "1"),
        ("virtio-domain/device/0/type", "blk"),
        ("virtio-domain/device/0/backend", "module"),
        ("virtio-domain/device/0/serial", "VDOM0"),
        ("virtio-domain/device/0/readonly", "0"),
        ("virtio-domain/device/0/packed", "1"),
        ("virtio-domain/device/0/queues", "1"),
        ("virtio-domain/device/0/queue-size", "256"),
        ("virtio-domain/device/0/block-size", "512"),
        ("virtio-domain/device/5/backend", "ram:8M"),
    ] {
        assert_eq!(
            bench.fake.value(&node(driver, key)).as_deref(),
            Some(value),
            "{key}"
        );
    }
    let permissions = bench.fake.state().permissions;
    assert_eq!(
        permissions.get(&node(driver, keys::ROOT)),
        Some(&(0, driver))
    );
    assert_eq!(
        permissions.get(&node(driver, keys::STATUS)),
        Some(&(driver, driver))
    );
    let kept = std::fs::read_to_string(bench.run_dir().join("web/restarts")).unwrap();
    assert_eq!(kept, "Reboot\nSoftReset\n");
}

#[test]
fn the_driver_domain_is_configured_for_foreign_mappings() {
    let bench = Bench::new();
    bench.create().unwrap();
    let (_, driver) = bench.fake.named("web-vd").unwrap();
    let setting = |name: &str| {
        driver
            .config
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(setting("type"), Some("pvh"));
    assert_eq!(
        setting("memory"),
        Some("25"),
        "16 + 8 for the RAM disk + 1 for the module"
    );
    assert_eq!(
        (setting("altp2m"), setting("nestedhvm")),
        (Some("disabled"), Some("0"))
    );
    let shadow: u64 = setting("shadow_memory").unwrap().parse().unwrap();
    assert!(shadow >= 2, "{shadow}");
    assert_eq!(setting("on_reboot"), Some("destroy"));
    assert!(Path::new(setting("kernel").unwrap()).is_absolute());
}

#[test]
fn steps_come_in_the_order_that_works() {
    let bench = Bench::new();
    bench.create().unwrap();
    let (driver, _) = bench.fake.named("web-vd").unwrap();
    let (guest, _) = bench.fake.named("web").unwrap();
    let log = bench.fake.0.borrow().log.clone();
    let order = [
        format!("unpause {driver}"),
        "create web".into(),
        format!("set_target {driver} {guest}"),
        format!("unpause {guest}"),
    ];
    let positions: Vec<usize> = order.iter().map(|call| position(&log, call)).collect();
    assert!(positions.is_sorted(), "{log:#?}");
    // Its directories are there before it boots.
    assert!(position(&log, "change") < positions[0]);
    assert_eq!(
        log.last(),
        Some(&order[3]),
        "the guest runs only after everything else"
    );
}

#[test]
fn the_guest_can_stay_paused() {
    let bench = Bench::new();
    bench
        .create_with(Options {
            paused: true,
            ..OPTIONS
        })
        .unwrap();
    assert!(bench.fake.named("web").unwrap().1.paused);
    assert!(!bench.fake.named("web-vd").unwrap().1.paused);
}

/// Attack case 34: set-up fails at every single call, in turn.
#[test]
fn any_call_may_fail_and_nothing_is_left() {
    let calls = {
        let bench = Bench::new();
        bench.create().unwrap();
        bench.fake.0.borrow().log.len()
    };
    assert!(calls > 15, "{calls} calls are not the whole sequence");
    for number in 0..calls {
        let bench = Bench::new();
        bench.fake.0.borrow_mut().fail_at = Some(number);
        let failure = bench.must_fail();
        assert!(
            failure.to_string().contains("injected failure"),
            "call {number}: {failure}"
        );
        assert!(
            failure.domain.starts_with("web"),
            "call {number}: {failure}"
        );
    }
}

#[test]
fn the_operator_may_interrupt_at_any_time() {
    let calls = {
        let bench = Bench::new();
        bench.create().unwrap();
        bench.fake.0.borrow().log.len()
    };
    let mut interrupted = 0;
    for number in 1..=calls {
        let bench = Bench::new();
        bench.fake.0.borrow_mut().interrupt_at = Some(number);
        if bench.fake.0.borrow().log.len() < calls && bench.create().is_err() {
            interrupted += 1;
            assert_eq!(bench.fake.named("web"), None);
            assert_eq!(bench.fake.named("web-vd"), None);
            assert!(bench.run_dir_is_empty());
        }
    }
    assert_eq!(interrupted, calls, "the last call is no exception");
}

#[test]
fn a_rollback_that_fails_goes_on_with_the_rest() {
    let bench = Bench::new();
    bench.fake.0.borrow_mut().fail_kind = Some("destroy");
    bench.fake.0.borrow_mut().behaviour = Behaviour::Fails("no");
    bench.create().unwrap_err();
    let log = bench.fake.0.borrow().log.clone();
    assert_eq!(
        log.iter()
            .filter(|call| call.starts_with("destroy"))
            .count(),
        2,
        "{log:#?}"
    );
    assert!(bench.run_dir_is_empty());
}

#[test]
fn the_driver_domains_own_error_is_shown_verbatim() {
    let bench = Bench::new();
    let text = "slot 0: the module has 100 bytes: no whole blocks; pad the image";
    bench.fake.0.borrow_mut().behaviour = Behaviour::Fails(text);
    let failure = bench.must_fail();
    assert!(
        failure
            .to_string()
            .starts_with(&format!("web-vd: wait until ready: {text} (")),
        "{failure}"
    );
}

#[test]
fn a_driver_domain_that_says_nothing_is_given_up() {
    let bench = Bench::new();
    bench.fake.0.borrow_mut().behaviour = Behaviour::Silent;
    let failure = bench.must_fail();
    assert!(
        failure
            .to_string()
            .contains("not ready after 30 s; its state is: none yet"),
        "{failure}"
    );
    assert!(bench.fake.0.borrow().now >= Duration::from_secs(30));
}

#[test]
fn a_driver_domain_that_dies_is_noticed() {
    let bench = Bench::new();
    bench.fake.0.borrow_mut().behaviour = Behaviour::Dies;
    let failure = bench.must_fail();
    assert!(
        failure
            .to_string()
            .contains("it has died; its last state was: none yet"),
        "{failure}"
    );
    assert!(bench.fake.0.borrow().now < Duration::from_secs(1));
}

#[test]
fn names_that_are_taken_are_refused() {
    for name in ["web", "web-vd"] {
        let bench = Bench::new();
        bench.fake.add(3, name, "hvm");
        let failure = bench.must_fail();
        assert!(
            failure
                .to_string()
                .starts_with(&format!("{name}: check names: ")),
            "{failure}"
        );
        assert!(failure.to_string().contains("(id 3)"), "{failure}");
    }
}

#[test]
fn what_an_ended_guest_has_left_is_taken_over() {
    let bench = Bench::new();
    bench.create().unwrap();
    for name in ["web", "web-vd"] {
        let (id, _) = bench.fake.named(name).unwrap();
        crate::host::Xl::destroy(&mut bench.fake.clone(), id).unwrap();
    }
    assert!(!bench.run_dir_is_empty());
    bench.create().unwrap();
}

#[test]
fn two_creations_of_one_guest_do_not_mix() {
    let bench = Bench::new();
    let dir = bench.run_dir().join("web");
    let mut other = crate::rundir::RunDir::of(bench.run_dir().as_ref(), "web");
    other.make().unwrap();
    let failure = bench.create().unwrap_err();
    assert!(failure.to_string().contains("another vdom"), "{failure}");
    assert!(dir.is_dir(), "the other one's directory stays");
}

#[test]
fn nobody_else_gets_in_before_the_rollback_has_ended() {
    let bench = Bench::new();
    {
        let mut world = bench.fake.0.borrow_mut();
        world.behaviour = Behaviour::Fails("no");
        world.directory = bench.run_dir().join("web");
    }
    bench.must_fail();
    assert_eq!(bench.fake.0.borrow().locked, [true, true]);
}

/// It may be between two lives of a guest that is supervised, when there is neither a domain nor a locked directory.
#[test]
fn a_name_that_another_vdom_has_is_refused_though_nobody_is_to_supervise_this_guest() {
    let bench = Bench::new();
    bench
        .dir
        .file("web.cfg", format!("{GUEST}on_reboot = \"destroy\"\n"));
    let plan = plan(&bench.config, &[]).unwrap();
    assert!(plan.guest.restarts.is_empty());
    let mut host = bench.fake.host(&bench.run_dir());
    let claim = Claim::take(&bench.run_dir(), "web", &mut bench.fake.clone()).unwrap();
    let failure = first(&mut host, &plan, OPTIONS).unwrap_err();
    assert!(failure.to_string().contains("another vdom"), "{failure}");
    assert!(bench.fake.0.borrow().log.is_empty(), "nothing was done");
    drop(claim);
    {
        let mut world = bench.fake.0.borrow_mut();
        world.behaviour = Behaviour::Fails("no");
        world.directory = Claim::path(&bench.run_dir(), "web");
    }
    first(&mut host, &plan, OPTIONS).unwrap_err();
    assert_eq!(bench.fake.0.borrow().locked, [true, true], "to the end");
    assert!(bench.run_dir_is_empty(), "and no longer");
}

#[test]
fn an_operators_driver_configuration_is_completed() {
    let bench = Bench::new();
    bench
        .dir
        .file("driver.cfg", driver_config(&bench, "memory = 32\n"));
    bench.dir.file(
        "web.cfg",
        GUEST.replace(
            "vdom_image = \"image\"\nvdom_ramdisk = \"disk\"",
            "vdom_driver = \"driver.cfg\"",
        ),
    );
    bench.create().unwrap();
    let (_, driver) = bench.fake.named("mydriver").unwrap();
    for key in [
        "shadow_memory",
        "altp2m",
        "nestedhvm",
        "on_reboot",
        "on_crash",
    ] {
        assert!(driver.config.iter().any(|(name, _)| name == key), "{key}");
    }
}

fn driver_config(bench: &Bench, more: &str) -> String {
    let path = bench.dir.path().display();
    format!(
        "name=\"mydriver\"\ntype=\"pvh\"\nkernel=\"{path}/image\"\nramdisk=\"{path}/disk\"\n{more}"
    )
}

#[test]
fn a_pvh_guest_is_created_without_a_table_and_finds_its_devices_in_xenstore() {
    let bench = Bench::new();
    let text = GUEST.replace("\"hvm\"", "\"pvh\"");
    bench.dir.file("web.cfg", text);
    bench.create().unwrap();
    let (guest, domain) = bench.fake.named("web").unwrap();
    let (driver, _) = bench.fake.named("web-vd").unwrap();
    assert!(domain.config.iter().all(|(key, _)| key != "acpi_firmware"));
    for slot in [0, 5] {
        let backend = format!("/local/domain/{driver}/backend/virtio/{guest}/{slot}");
        let path = node(guest, &format!("device/virtio/{slot}/backend"));
        assert_eq!(bench.fake.value(&path), Some(backend));
    }
    let kind = bench.fake.value(&node(driver, keys::TARGET_TYPE));
    assert_eq!(kind.as_deref(), Some("pvh"));
}

/// xl makes the nodes of the first, and vdom those of the one behind a gap: for libxl there is no difference.
#[test]
fn every_device_is_one_of_libxls() {
    let bench = Bench::new();
    bench.create().unwrap();
    let (guest, _) = bench.fake.named("web").unwrap();
    let (driver, _) = bench.fake.named("web-vd").unwrap();
    for slot in [0, 5] {
        let backend = format!("/local/domain/{driver}/backend/virtio/{guest}/{slot}");
        let frontend = format!("/local/domain/{guest}/device/virtio/{slot}");
        for (path, value) in [
            (
                format!("/libxl/{guest}/device/virtio/{slot}/backend"),
                backend.as_str(),
            ),
            (format!("{frontend}/backend"), &backend),
            (format!("{backend}/type"), "virtio,device2"),
            (format!("{backend}/online"), "1"),
            (format!("{backend}/state"), "2"),
        ] {
            assert_eq!(bench.fake.value(&path).as_deref(), Some(value), "{path}");
        }
    }
    let made = |log: &[String]| log.iter().filter(|call| call.starts_with("change")).count();
    assert_eq!(
        made(&bench.fake.0.borrow().log),
        2,
        "one transaction for all nodes and the description"
    );
}
