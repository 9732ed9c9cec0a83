//! Does each operation of the data path many times, for `lab/instructions.sh`, which counts the instructions.
//!
//! callgrind counts inside of [`measured`] only, and writes down the count whenever [`done`] is left. So the preparation
//! of an operation costs nothing, and each line of the output belongs to one count. Nothing here depends on time or
//! chance.
#![forbid(unsafe_code)]

mod ioreq;
mod memory;
mod registers;
mod rings;

use std::hint::black_box;

/// How often an operation is done.
const TIMES: u32 = 1024;

/// What callgrind counts. The name is known to `lab/instructions.sh`.
#[inline(never)]
fn measured<R>(operation: impl FnOnce() -> R) -> R {
    operation()
}

/// Ends an operation that was done `times` times. The name is known to `lab/instructions.sh`.
#[inline(never)]
fn done(name: &str, times: u32) {
    println!("{times}\t{name}");
}

fn main() {
    // What the call and the return cost: subtracted from all others.
    for _ in 0..TIMES {
        measured(|| black_box(()));
    }
    done("nothing", TIMES);
    rings::all();
    registers::all();
    ioreq::all();
}
