//! Hand-overs between two sides, under every order of accesses that the memory model allows.

mod driver;
mod guest;
mod handover;
mod ioreq;
mod rings;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tries all executions of `run` with at most `preemptions` switches away from a thread that could go on (`None`: any
/// number). Says how many there were. With the environment's `VD_LOOM=full` there is no such bound, and it takes hours.
fn explore(name: &str, preemptions: Option<usize>, run: impl Fn() + Send + Sync + 'static) {
    let full = std::env::var_os("VD_LOOM").is_some_and(|value| value == "full");
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.preemption_bound = preemptions.filter(|_| !full);
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{name}: {} executions", count.load(Ordering::Relaxed));
}
