//! Takes the devices of a guest from their drivers and gives them back, again and again, and uses all of them after each
//! time: `churn KIND ROUNDS`, where KIND says what is taken away (see [`Kind`]). It runs as root in a guest.
//!
//! Invariant: what a disk was given before its driver went has to be on it when the driver is back; every frame that one
//! network device sends reaches the other one unchanged; random numbers are never the same. Anything else ends it with an
//! error. Each use is made on the next CPU, so that all queues have their turn.

mod disks;
mod drivers;
mod nets;
mod random;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use disks::Disks;
use drivers::Kind;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [kind, rounds] => Kind::parse(kind).zip(rounds.parse().ok()),
        _ => None,
    };
    let Some((kind, rounds)) = parsed else {
        eprintln!("usage: churn driver|transport|module|transport-module|nothing ROUNDS");
        return ExitCode::from(2);
    };
    match run(kind, rounds) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("churn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(kind: Kind, rounds: u32) -> io::Result<String> {
    let cpus = std::thread::available_parallelism()?.get();
    let mut disks = Disks::new();
    let mut last_numbers = None;
    // Once before anything is taken away: there has to be something that can be lost.
    for round in 0..=rounds {
        if round > 0 {
            kind.take_and_give_back()
                .map_err(|error| at(round, "taking and giving back", &error))?;
        }
        pin_to(round as usize % cpus)?;
        disks
            .use_all(round)
            .map_err(|error| at(round, "disks", &error))?;
        nets::use_all(round).map_err(|error| at(round, "network devices", &error))?;
        last_numbers =
            random::use_it(last_numbers).map_err(|error| at(round, "random numbers", &error))?;
    }
    Ok(format!(
        "{rounds} times, on {cpus} CPU(s): {} disks, {} network devices, random numbers {}",
        disks.count(),
        nets::names()?.len(),
        if last_numbers.is_some() { "yes" } else { "no" },
    ))
}

fn at(round: u32, what: &str, error: &io::Error) -> io::Error {
    io::Error::other(format!("round {round}: {what}: {error}"))
}

/// What is to be done on this CPU from now on.
fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: a set of CPUs is plain bits, of which none is set at first; the CPU is one of this machine.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    check(result).map(|_| ())
}

/// The result of a call of the C library.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Waits until something is true, ten seconds at most.
fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        if Instant::now() > end {
            return Err(io::Error::other(format!("{what}: not within ten seconds")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The names in a directory, sorted, that begin like that.
fn entries(directory: &str, prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Bytes that are the same only for the same seed.
fn pattern(seed: u64, into: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in into {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 24) as u8;
    }
}
