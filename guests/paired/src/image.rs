//! What this image supplies to the runtime, and the order of things.

use alloc::string::String;

use vd_paired::plan::{Command, Plan, Scenario};
use vd_rt::image::{Boot, Released};
use vd_rt::xen::{self, console, events, time};
use xen_hypercall::EvtchnPort;
use xen_hypercall::sched::ShutdownReason;

use crate::{connect, cpu, interrupts, say, scenario};

#[unsafe(no_mangle)]
extern "Rust" fn image_name() -> &'static str {
    "virtio-paired"
}

#[unsafe(no_mangle)]
extern "Rust" fn image_start(mut boot: Boot) -> ! {
    scenario::hostile::set_end_of_ram(boot.ram_end);
    // SAFETY: the boot CPU, alone, before any device knows of a vector.
    unsafe { interrupts::init() };
    let plan = Plan::parse(&boot.command_line, |word| {
        say!(
            "command line: \"{}\" is not understood",
            word.escape_ascii()
        );
    });
    let passed = match connect::all(&mut boot.store, plan.memory) {
        Ok(()) => {
            let ms = time::uptime() / 1_000_000;
            let devices = connect::devices().len();
            say!("up after {ms} ms, {} CPUs, {devices} devices", cpu::count());
            run(&plan)
        }
        Err(error) => {
            say!("cannot connect: {error}");
            false
        }
    };
    say!("RESULT {}", if passed { "PASS" } else { "FAIL" });
    xen::shutdown(if passed && plan.reboot {
        ShutdownReason::REBOOT
    } else {
        ShutdownReason::POWEROFF
    })
}

/// Interrupts by event channel: the source is the device's slot.
#[unsafe(no_mangle)]
extern "Rust" fn image_event(_: EvtchnPort, slot: u16) {
    interrupts::serve(slot.into());
}

/// Nobody waits for this domain.
#[unsafe(no_mangle)]
extern "Rust" fn image_release() -> Released {
    Released::try_from("paired: RESULT FAIL, it has crashed").unwrap_or_default()
}

/// Does everything that was asked for; returns whether all of it went well.
fn run(plan: &Plan) -> bool {
    let mut passed = true;
    for command in &plan.commands {
        passed &= match command.scenario {
            Scenario::Console => at_console(plan),
            Scenario::PowerOff => break,
            _ => scenario::run(*command, plan),
        };
    }
    passed
}

/// Does what is typed, until the end is.
fn at_console(plan: &Plan) -> bool {
    say!("ready");
    let mut passed = true;
    loop {
        let mut line = String::new();
        while console::read_line(|text| line.push_str(text)) {
            match Command::parse(&line, ' ') {
                Some(Command {
                    scenario: Scenario::PowerOff,
                    ..
                }) => return passed,
                Some(Command {
                    scenario: Scenario::Console,
                    ..
                })
                | None => say!("\"{}\" is not understood", line.escape_default()),
                Some(command) => passed &= scenario::run(command, plan),
            }
            line.clear();
        }
        events::sleep_unless(events::any);
        events::take();
    }
}
