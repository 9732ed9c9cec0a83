//! What is shown of a driver domain, against a fake host.

use vd_config::Devices;

use super::*;
use crate::fake::Fake;
use crate::guest::Ending;
use crate::testing::TempDir;

fn bench() -> (Fake, TempDir) {
    let fake = Fake::new();
    fake.add(7, "web-vd", "pvh");
    fake.add(8, "web", "hvm");
    let dir = TempDir::new("list");
    let devices = Devices::parse([&b"type=blk,backend=ram:1M,doorbell=polled"[..]]).unwrap();
    let timeout = std::time::Duration::from_secs(5);
    crate::attach::run(
        &mut fake.host(dir.path()),
        "web-vd",
        "web",
        &devices,
        timeout,
    )
    .unwrap();
    (fake, dir)
}

/// The driver domain publishes a counter.
fn publish(fake: &Fake, name: &str, value: &str) {
    let path = counter_path(7, name);
    fake.0.borrow_mut().state.tree.insert(path, value.into());
}

#[test]
fn counters_are_shown_by_their_names_wherever_they_are() {
    let (fake, dir) = bench();
    publish(&fake, "doorbells", "12");
    let many: String = (0..100).map(|n| format!("other-{n}=1 ")).collect();
    publish(
        &fake,
        "device-0",
        &format!("kicks=12 {many}bytes-read=4096"),
    );
    publish(&fake, "device-10", "kicks=0");
    let tree = fake.state().tree;
    assert!(tree.contains_key("/local/domain/7/virtio-domain/status/counters/device-0"));
    for domain in ["web", "web-vd", "8"] {
        let text = stats(&mut fake.host(dir.path()), domain).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for expected in [
            ["state", "ready"],
            ["doorbells", "12"],
            ["device-0-kicks", "12"],
            ["device-0-bytes-read", "4096"],
            ["device-10-kicks", "0"],
        ] {
            assert!(lines.iter().any(|line| line == &expected), "{text}");
        }
        assert!(text.contains("doorbell=polled"), "{text}");
    }
}

#[test]
fn the_table_has_a_row_for_each_driver_domain() {
    let (fake, dir) = bench();
    publish(&fake, "doorbells", "12");
    let text = table(&mut fake.host(dir.path())).unwrap();
    let row = text.lines().nth(1).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        words,
        ["web", "8", "web-vd", "7", "ready", "12", "0:blk(ram:1M)"]
    );
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn a_domain_without_a_driver_is_told_apart_from_none() {
    let (fake, dir) = bench();
    fake.add(9, "plain", "hvm");
    let mut host = fake.host(dir.path());
    let failure = stats(&mut host, "plain").unwrap_err().to_string();
    assert!(failure.contains("no driver domain serves"), "{failure}");
    let failure = stats(&mut host, "nobody").unwrap_err().to_string();
    assert!(failure.contains("no such domain"), "{failure}");
}

#[test]
fn a_guest_whose_supervisor_has_been_killed_is_shown() {
    let (fake, dir) = bench();
    let state = || {
        let text = table(&mut fake.host(dir.path())).unwrap();
        text.split_whitespace().nth(11).unwrap().to_owned()
    };
    assert_eq!(state(), "ready", "nobody is to supervise it");
    let mut run_dir = RunDir::of(dir.path(), "web");
    run_dir.make().unwrap();
    run_dir.write_restarts(&[Ending::Reboot]).unwrap();
    assert_eq!(state(), "ready,unsupervised");
    let claim = Claim::take(dir.path(), "web", &mut fake.clone()).unwrap();
    assert_eq!(state(), "ready");
    drop(claim);
    // What one that was killed leaves.
    dir.file(".web.supervisor", "1\n");
    assert_eq!(state(), "ready,unsupervised");
}
