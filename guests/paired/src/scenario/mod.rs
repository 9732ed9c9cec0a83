//! What the guest can do, each with one line as its result.

mod data;
pub mod hostile;
mod latency;
mod selftest;
mod smp;
mod storm;
mod unknown;

use alloc::string::String;

use vd_paired::plan::{Command, Plan, Scenario};

use crate::connect::{self, Connected};
use crate::{interrupts, say};

/// What a scenario has to say if it went well, or what is wrong.
pub type Verdict = Result<String, String>;

/// Does it, prints the results, and returns whether all are good.
pub fn run(command: Command, plan: &Plan) -> bool {
    let Command { scenario, slot } = command;
    let mut passed = true;
    let name = scenario.name();
    let wanted = |device: &&Connected| slot.is_none_or(|slot| slot == device.device.slot);
    let devices = connect::devices().iter().filter(wanted);
    if scenario == Scenario::Smp {
        return print(name, &"", smp::run(plan));
    }
    let mut any = false;
    for device in devices {
        any = true;
        interrupts::set_acknowledge(plan.acknowledge);
        let verdict = match scenario {
            Scenario::SelfTest => selftest::run(device, plan),
            Scenario::Data => data::run(device),
            Scenario::Latency => latency::run(device, plan, latency::Way::Acknowledged),
            Scenario::Unacknowledged => latency::run(device, plan, latency::Way::Unacknowledged),
            Scenario::Suppressed => latency::run(device, plan, latency::Way::Suppressed),
            Scenario::Storm => storm::run(device, plan),
            Scenario::Unknown => unknown::run(device),
            Scenario::Hostile => hostile::run(device),
            Scenario::Smp | Scenario::Console | Scenario::PowerOff => Ok(String::new()),
        };
        interrupts::set_acknowledge(plan.acknowledge);
        passed &= print(name, device, verdict);
    }
    if !any {
        return print(name, &"", Err("there is no such device".into()));
    }
    passed
}

fn print(name: &str, device: &dyn core::fmt::Display, verdict: Verdict) -> bool {
    match &verdict {
        Ok(what) => say!("{name} {device}: PASS {what}"),
        Err(what) => say!("{name} {device}: FAIL {what}"),
    }
    verdict.is_ok()
}
