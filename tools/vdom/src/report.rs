//! What vdom tells while it works.

use std::io::Write as _;
use std::time::Instant;

/// Prints steps, with the time since the start, and notes.
#[derive(Debug)]
pub(crate) struct Reporter {
    verbose: bool,
    start: Instant,
}

impl Reporter {
    pub(crate) fn new(verbose: bool) -> Self {
        Self {
            verbose,
            start: Instant::now(),
        }
    }

    /// A step, printed if the operator wants to see steps.
    pub(crate) fn step(&self, domain: &str, what: &str) {
        if self.verbose {
            let seconds = self.start.elapsed().as_secs_f64();
            let _ = writeln!(std::io::stderr(), "[{seconds:8.3}] {domain}: {what}");
        }
    }

    /// The result. If nobody reads it any more, what was done is done all the same.
    pub(crate) fn say(&self, what: &str) {
        let _ = writeln!(std::io::stdout(), "{what}");
    }

    /// Something that the operator should know.
    pub(crate) fn note(&self, domain: &str, what: &str) {
        let _ = writeln!(std::io::stderr(), "vdom: {domain}: note: {what}");
    }
}
