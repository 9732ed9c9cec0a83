//! With shell scripts in the place of xl.

use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::testing::TempDir;

fn xl(dir: &TempDir, script: &str) -> XlCommand {
    let text = dir.file(
        "xl.text",
        format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display()),
    );
    // Copied by a process of its own: a child that another test starts meanwhile would inherit a file that is open for
    // writing here, and what is open for writing cannot be executed.
    let path = dir.path().join("xl");
    let copied = Command::new("install")
        .arg("-m755")
        .args([&text, &path])
        .status();
    assert!(copied.unwrap().success());
    XlCommand {
        program: path.into(),
    }
}

#[test]
fn arguments_are_passed_one_by_one() {
    let dir = TempDir::new("xl");
    let mut xl = xl(&dir, "for word; do echo \"<$word>\"; done >> words");
    xl.create(Path::new("a b.cfg"), &["name=\"x y\"".into()])
        .unwrap();
    xl.unpause(3).unwrap();
    xl.destroy(4).unwrap();
    let words = std::fs::read_to_string(dir.path().join("words")).unwrap();
    assert_eq!(
        words.lines().collect::<Vec<_>>(),
        [
            "<create>",
            "<-q>",
            "<-p>",
            "<a b.cfg>",
            "<name=\"x y\">",
            "<unpause>",
            "<3>",
            "<destroy>",
            "<4>"
        ]
    );
}

#[test]
fn the_last_lines_of_a_failure_are_shown() {
    let dir = TempDir::new("xl");
    let mut xl = xl(
        &dir,
        "i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done; printf 'no\\033memory\\n' >&2; exit 3",
    );
    let trouble = xl.destroy(9).unwrap_err();
    assert!(trouble.what.contains("status 3"), "{}", trouble.what);
    assert!(
        trouble.what.ends_with("line 49\n    no?memory"),
        "{}",
        trouble.what
    );
    assert!(!trouble.what.contains("line 40"), "{}", trouble.what);
}

#[test]
fn a_silent_failure_and_a_missing_xl_are_reported() {
    let dir = TempDir::new("xl");
    let trouble = xl(&dir, "exit 1").unpause(1).unwrap_err();
    assert!(trouble.what.contains("said nothing"), "{}", trouble.what);
    let mut missing = XlCommand {
        program: dir.path().join("none").into(),
    };
    let trouble = missing.unpause(1).unwrap_err();
    assert!(trouble.remedy.contains("VDOM_XL"), "{}", trouble.remedy);
}

#[test]
fn a_monitor_that_stays_does_not_hold_vdom() {
    let dir = TempDir::new("xl");
    let mut xl = xl(&dir, "sleep 5 &");
    let start = Instant::now();
    xl.unpause(1).unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
}
