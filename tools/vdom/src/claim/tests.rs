//! Claims with real files and processes.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::Instant;

use super::*;
use crate::fake::Fake;
use crate::os::RealClock;
use crate::testing::TempDir;

fn real() -> RealClock {
    RealClock(Instant::now())
}

/// A shell stands in for another vdom: it holds the lock and then does what the script says, with the file as `$F`.
fn other(path: &Path, script: &str) -> Child {
    let script = format!("exec 9>>\"$F\"; flock 9; touch \"$F.locked\"; {script}");
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", &script]).env("F", path).spawn().unwrap();
    let mut locked = path.as_os_str().to_owned();
    locked.push(".locked");
    while std::fs::remove_file(&locked).is_err() {
        std::thread::sleep(POLL);
    }
    shell
}

#[test]
fn one_claim_at_a_time_and_its_file_goes_with_it() {
    let dir = TempDir::new("claim");
    let path = Claim::path(dir.path(), "web");
    let first = Claim::try_take(&path).unwrap().unwrap();
    assert!(Claim::try_take(&path).unwrap().is_none());
    let db = Claim::path(dir.path(), "db");
    assert!(Claim::try_take(&db).unwrap().is_some());
    drop(first);
    assert!(!path.exists());
    let (claim, told) = take_over(dir.path(), "web", &mut real()).unwrap();
    assert!(claim.is_some() && !told);
    assert!(
        Claim::try_take(&path).unwrap().is_none(),
        "destroying is a claim too"
    );
}

#[test]
fn a_guest_that_somebody_is_at_is_not_created() {
    let dir = TempDir::new("claimed");
    let _other = Claim::try_take(&Claim::path(dir.path(), "web")).unwrap();
    let mut clock = Fake::new();
    let refusal = Claim::take(dir.path(), "web", &mut clock).unwrap_err();
    assert!(refusal.what.contains("another vdom"), "{}", refusal.what);
    assert!(clock.now() >= NOTICE);
}

#[test]
fn a_creator_can_be_told_to_end_from_the_beginning() {
    let dir = TempDir::new("signed");
    let path = Claim::path(dir.path(), "web");
    // What a process that was killed has left, with more digits than any id has.
    std::fs::write(&path, "123456789012\n").unwrap();
    let claim = Claim::take(dir.path(), "web", &mut real()).unwrap();
    assert_eq!(read(&path), Some(std::process::id()));
    claim.leave_to(7).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
}

#[test]
fn nobody_else_can_read_it() {
    let dir = TempDir::new("modes");
    let run_dir = dir.path().join("run");
    let _claim = Claim::take(&run_dir, "web", &mut real()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&run_dir), 0o700);
    assert_eq!(mode(&Claim::path(&run_dir, "web")), 0o600);
}

#[test]
fn a_supervisor_is_told_to_end_and_waited_for() {
    let dir = TempDir::new("told");
    let path = Claim::path(dir.path(), "web");
    let mut shell = other(&path, "echo $$ >\"$F\"; exec sleep 100");
    let (claim, told) = take_over(dir.path(), "web", &mut real()).unwrap();
    assert!(told);
    assert!(!shell.wait().unwrap().success());
    drop(claim);
    assert!(!path.exists());
}

/// It is told to end at the moment at which it leaves the claim to the process that stays.
#[test]
fn whoever_the_claim_is_left_to_is_told_too() {
    let dir = TempDir::new("left");
    let path = Claim::path(dir.path(), "web");
    let script = "sleep 100 & trap \"echo $! >'$F'\" TERM; echo $$ >\"$F\"; wait; wait; exit 7";
    let mut shell = other(&path, script);
    let (claim, told) = take_over(dir.path(), "web", &mut real()).unwrap();
    assert!(claim.is_some() && told);
    assert_eq!(shell.wait().unwrap().code(), Some(7));
}

#[test]
fn an_id_that_is_another_process_by_now_is_left_alone() {
    let dir = TempDir::new("stale");
    let path = Claim::path(dir.path(), "web");
    let mut innocent = Command::new("sleep").arg("100").spawn().unwrap();
    // Left by a process that was killed; nobody has the lock, or somebody who has not written yet.
    for locked in [false, true] {
        std::fs::write(&path, format!("{}\n", innocent.id())).unwrap();
        let mut shell = locked.then(|| other(&path, "exec sleep 100"));
        let result = take_over(dir.path(), "web", &mut Fake::new());
        if let Some(shell) = &mut shell {
            assert!(result.unwrap_err().what.contains("does not end"));
            shell.kill().unwrap();
            shell.wait().unwrap();
        } else {
            assert!(!result.unwrap().1, "there was none");
        }
        assert_eq!(innocent.try_wait().unwrap(), None, "locked: {locked}");
    }
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn what_is_no_guests_name_leads_nowhere() {
    let dir = TempDir::new("names");
    let (claim, told) = take_over(&dir.path().join("run"), "../web", &mut real()).unwrap();
    assert!(claim.is_none() && !told);
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}
