//! Destruction against a fake host: whatever of a guest is left, and what is not vdom's.

use super::*;
use crate::create::{self, Options};
use crate::fake::Fake;
use crate::testing::TempDir;

const GUEST: &str = r#"
name = "web"
type = "hvm"
memory = 192
vdom_image = "image"
vdom_devices = [ "type=blk,backend=ram:1M" ]
"#;
const GRACE: Duration = Duration::from_secs(5);

/// A host on which the guest runs.
struct Bench {
    dir: TempDir,
    fake: Fake,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new("destroy");
        dir.file("image", b"\x7fELF\x02 and so on");
        let config = dir.file("web.cfg", GUEST);
        let bench = Self {
            dir,
            fake: Fake::new(),
        };
        let plan = create::plan(&config, &[]).unwrap();
        let options = Options {
            timeout: Duration::from_secs(30),
            paused: false,
            again: false,
        };
        create::run(&mut bench.host(), &plan, options).unwrap();
        bench.fake.0.borrow_mut().drivers_end = true;
        bench
    }

    fn host(&self) -> Host {
        self.fake.host(&self.dir.path().join("run"))
    }

    fn destroy(&self, name: &str) -> Result<(), Failure> {
        run(&mut self.host(), name, GRACE)
    }

    fn id(&self, name: &str) -> u16 {
        self.fake.named(name).unwrap().0
    }

    fn end(&self, name: &str) {
        let id = self.id(name);
        crate::host::Xl::destroy(&mut self.fake.clone(), id).unwrap();
    }

    fn did(&self, call: &str) -> bool {
        self.fake.0.borrow().log.iter().any(|entry| entry == call)
    }

    /// Neither domains nor files.
    fn nothing_is_left(&self) -> bool {
        let left = |name| self.fake.named(name).is_some();
        !left("web") && !left("web-vd") && !self.dir.path().join("run/web").exists()
    }
}

#[test]
fn a_driver_domain_may_end_by_itself() {
    let bench = Bench::new();
    let driver = bench.id("web-vd");
    bench.destroy("web").unwrap();
    assert!(bench.nothing_is_left());
    assert!(!bench.did(&format!("destroy {driver}")));
}

#[test]
fn one_that_does_not_is_destroyed_after_the_grace_period() {
    let bench = Bench::new();
    bench.fake.0.borrow_mut().drivers_end = false;
    let driver = bench.id("web-vd");
    bench.destroy("web").unwrap();
    assert!(bench.nothing_is_left());
    assert!(bench.did(&format!("destroy {driver}")));
    assert!(bench.fake.0.borrow().now >= GRACE);
}

#[test]
fn a_guest_can_be_named_by_its_id() {
    let bench = Bench::new();
    let id = bench.id("web").to_string();
    bench.destroy(&id).unwrap();
    assert!(bench.nothing_is_left());
}

#[test]
fn what_is_left_of_an_ended_guest_goes() {
    // Of domains nothing, the driver domain, the guest.
    for ended in [&["web", "web-vd"][..], &["web"], &["web-vd"]] {
        let bench = Bench::new();
        for name in ended {
            bench.end(name);
        }
        bench.destroy("web").unwrap();
        assert!(bench.nothing_is_left(), "{ended:?}");
    }
}

#[test]
fn a_guest_of_whom_nothing_is_left_is_unknown() {
    let bench = Bench::new();
    bench.destroy("web").unwrap();
    for name in ["web", "other", "../web", ".web"] {
        let failure = bench.destroy(name).unwrap_err();
        assert!(failure.to_string().contains("no such guest"), "{failure}");
    }
}

#[test]
fn what_is_not_vdoms_is_left_alone() {
    let bench = Bench::new();
    bench.fake.add(90, "other", "hvm");
    for (name, reason) in [
        ("other", "vdom did not create it"),
        ("0", "dom0 is no guest"),
        ("web-vd", "which would hang without it"),
    ] {
        let failure = bench.destroy(name).unwrap_err();
        assert!(failure.to_string().contains(reason), "{failure}");
    }
    assert!(bench.fake.named("other").is_some() && bench.fake.named("web").is_some());
}

#[test]
fn a_file_of_a_supervisor_that_was_killed_goes_too() {
    let bench = Bench::new();
    let file = bench.dir.path().join("run/.web.supervisor");
    std::fs::write(&file, "1\n").unwrap();
    bench.destroy("web").unwrap();
    assert!(bench.nothing_is_left() && !file.exists());
}

#[test]
fn no_guest_of_the_name_is_created_meanwhile() {
    let bench = Bench::new();
    {
        let mut world = bench.fake.0.borrow_mut();
        world.directory = bench.dir.path().join("run/.web.supervisor");
        world.drivers_end = false;
    }
    bench.destroy("web").unwrap();
    assert_eq!(bench.fake.0.borrow().locked, [true, true]);
    assert!(bench.nothing_is_left());
}
