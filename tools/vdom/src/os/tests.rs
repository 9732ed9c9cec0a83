//! Signals, in a process of their own: what one sets lasts.

use std::process::Command;

use super::*;

const CHILD: &str = "VDOM_TEST_CHILD";

/// Runs one of these tests once more, as another process, and says whether that one ends well and without being killed.
fn again(test: &str) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("os::tests::{test}")])
        .env(CHILD, "1")
        .spawn()
        .unwrap();
    for _ in 0..600 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn a_signal_just_before_the_wait_is_not_slept_over() {
    if std::env::var_os(CHILD).is_none() {
        assert!(again("a_signal_just_before_the_wait_is_not_slept_over"));
        return;
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = File::from(OwnedFd::from(reader));
    catch_interrupts();
    // SAFETY: a plain call; the signal has a handler.
    unsafe { libc::raise(libc::SIGTERM) };
    assert!(is_interrupted());
    poll_unless_interrupted(&reader, Duration::from_secs(36000));
}

#[test]
fn a_signal_ends_the_wait() {
    if std::env::var_os(CHILD).is_none() {
        assert!(again("a_signal_ends_the_wait"));
        return;
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = File::from(OwnedFd::from(reader));
    catch_interrupts();
    // SAFETY: a plain call.
    let waiting = unsafe { libc::pthread_self() };
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: the thread lives: it waits for this one. The signal has a handler.
        unsafe { libc::pthread_kill(waiting, libc::SIGTERM) };
    });
    poll_unless_interrupted(&reader, Duration::from_secs(36000));
    other.join().unwrap();
    assert!(is_interrupted());
}
