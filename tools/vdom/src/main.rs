//! `vdom`: dom0's side of virtio-domain.
//!
//! It starts a driver domain and a guest with xl, gives the one power over the other with one domctl, describes the
//! devices in xenstore, and takes no part in what happens afterwards.
//!
//! Invariant: whatever fails, the message names the domain, the step and the remedy, and the host is as it was before.

mod attach;
mod claim;
mod cli;
mod console;
mod create;
mod destroy;
mod domctl;
mod driver;
mod failure;
#[cfg(test)]
mod fake;
mod guest;
mod host;
mod hotplug;
mod list;
mod nodes;
mod os;
mod privcmd;
mod report;
mod restart;
mod rollback;
mod rundir;
mod ssdt;
mod supervise;
mod term;
#[cfg(test)]
mod testing;
mod virtio;
mod xenstore;
mod xl;
mod xlcfg;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use vd_config::{Devices, Doorbell, Interrupt, TargetType};

use cli::{Cli, Command};
use domctl::Domctls;
use failure::{At, Failure, Trouble};
use host::{Host, Hypervisor};
use privcmd::Privcmd;
use report::Reporter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vdom: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let verbose = cli.verbose;
    match cli.command {
        Command::Create {
            config,
            paused,
            timeout,
        } => {
            let plan = create::plan(&config.path, &config.overrides)?;
            let options = create::Options {
                timeout: timeout.duration(),
                paused,
                again: false,
            };
            create(&plan, options, verbose)
        }
        Command::Supervise { config, timeout } => {
            let plan = create::plan(&config.path, &config.overrides)?;
            let options = create::Options {
                timeout: timeout.duration(),
                paused: false,
                again: true,
            };
            leave_supervisor(&plan, options, verbose, |host| {
                supervise::resume(host, &plan)
            })
        }
        Command::Check { config } => {
            create::plan(&config.path, &config.overrides).map(|plan| check(&plan))
        }
        Command::Attach {
            driver,
            guest,
            devices,
            timeout,
        } => {
            let devices = parse_devices(&driver, &devices)?;
            attach::run(
                &mut with_xen(verbose)?,
                &driver,
                &guest,
                &devices,
                timeout.duration(),
            )
        }
        Command::DeviceAttach {
            domain,
            device,
            timeout,
        } => hotplug::attach(
            &mut with_xen(verbose)?,
            &domain,
            &device,
            timeout.duration(),
        ),
        Command::DeviceDetach {
            domain,
            slot,
            force,
            timeout,
        } => hotplug::detach(
            &mut with_xen(verbose)?,
            &domain,
            slot,
            force,
            Duration::from_secs(timeout.into()),
        ),
        Command::List => print(&list::table(&mut without_xen(verbose)?)?),
        Command::Stats { domain } => print(&list::stats(&mut without_xen(verbose)?, &domain)?),
        Command::Console {
            domain,
            port,
            idle,
            size,
        } => {
            let place = console::find(&mut without_xen(verbose)?, &domain, port.as_deref())?;
            let idle = Duration::from_secs(idle.into());
            let options = console::Options::new(idle, size);
            console::run(&place, options, console::Streams::standard()?)
        }
        Command::Destroy { guest, grace } => destroy::run(
            &mut without_xen(verbose)?,
            &guest,
            Duration::from_secs(grace.into()),
        ),
        Command::Restart {
            domain,
            image,
            timeout,
        } => {
            let timeout = timeout.duration();
            let options = restart::Options { image, timeout };
            restart::run(&mut with_xen(verbose)?, &domain, &options)
        }
        Command::Ssdt { devices, output } => {
            let devices = parse_devices("host", &devices)?;
            devices
                .check_guest(TargetType::Hvm)
                .map_err(|(slot, error)| {
                    Trouble::new(format!("slot {slot}: {error}"), "correct this device")
                        .at("host", "check devices")
                })?;
            write_table(&devices, output.as_deref())
        }
    }
}

/// A host with the privilege to pair domains.
fn with_xen(verbose: bool) -> Result<Host, Failure> {
    let mut host = without_xen(verbose)?;
    let privcmd = Privcmd::open().map_err(|error| {
        Trouble::new(
            format!("/dev/xen/privcmd: {error}"),
            "run vdom as root in dom0, with the module xen-privcmd loaded",
        )
    });
    let domctls = privcmd
        .and_then(Domctls::probe)
        .at("Xen", "open hypercall interface")?;
    host.report.step(
        "Xen",
        &format!("domctl interface version {:#x}", domctls.version()),
    );
    host.hypervisor = Box::new(domctls);
    Ok(host)
}

/// Creates a guest; if it is to be created again when it reboots, a process stays behind that does so.
fn create(plan: &create::Plan, options: create::Options, verbose: bool) -> Result<(), Failure> {
    if plan.guest.restarts.is_empty() {
        return create::first(&mut with_xen(verbose)?, plan, options).map(|_| ());
    }
    leave_supervisor(plan, options, verbose, |host| {
        create::first(host, plan, options)
    })
}

/// Leaves a process behind that creates a guest again when it reboots. `guest` says which that is, with the claim on its name.
fn leave_supervisor(
    plan: &create::Plan,
    options: create::Options,
    verbose: bool,
    guest: impl FnOnce(&mut Host) -> Result<(host::Domain, claim::Claim), Failure>,
) -> Result<(), Failure> {
    let mut host = with_xen(verbose)?;
    let name = &plan.guest.name;
    let pace = supervise::Pace::from_environment().at(name, "supervise")?;
    let log = supervise::open_log(&host.report, name)
        .map_err(|error| Trouble::new(format!("/dev/null: {error}"), "mend this host"));
    let log = log.at(name, "supervise")?;
    let (guest, claim) = guest(&mut host)?;
    let pid = os::detach(&log).map_err(|error| {
        Trouble::new(
            format!("it runs, but no process can be left behind: {error}"),
            "it will not come back when it reboots: vdom supervise it",
        )
    });
    if let Some(pid) = pid.at(name, "supervise")? {
        claim.leave_to(pid).at(name, "supervise")?;
        host.report.say(&format!(
            "vdom (process {pid}) creates both again when the guest reboots"
        ));
        return Ok(());
    }
    drop(host);
    // Its parent does so too, unless it has been killed.
    let _ = claim.sign();
    supervise::run(&mut with_xen(verbose)?, plan, options, pace, guest)
}

/// A host for commands that issue no hypercall.
fn without_xen(verbose: bool) -> Result<Host, Failure> {
    os::catch_interrupts();
    let store = xenstore::Daemon::connect().at("xenstore", "connect")?;
    Ok(Host {
        xl: Box::new(xl::XlCommand::from_environment()),
        store: Box::new(store),
        hypervisor: Box::new(NoXen),
        clock: Box::new(os::RealClock(Instant::now())),
        report: Reporter::new(verbose),
        run_dir: std::env::var_os("VDOM_RUN_DIR")
            .unwrap_or_else(|| "/run/vdom".into())
            .into(),
    })
}

/// In the place of Xen in commands that have not opened it.
struct NoXen;

impl Hypervisor for NoXen {
    fn domain_info(&mut self, _id: u16) -> Result<Option<domctl::DomainInfo>, Trouble> {
        Err(Trouble::new(
            "the hypercall interface is not open",
            "report this defect of vdom",
        ))
    }

    fn set_target(&mut self, _driver: u16, _guest: u16) -> Result<(), Trouble> {
        Err(Trouble::new(
            "the hypercall interface is not open",
            "report this defect of vdom",
        ))
    }

    fn pause(&mut self, id: u16) -> Result<(), Trouble> {
        self.set_target(id, id)
    }

    fn unpause(&mut self, id: u16) -> Result<(), Trouble> {
        self.set_target(id, id)
    }

    fn bridge(
        &mut self,
        from: (u16, u64),
        to: (u16, u64),
        _bytes: u64,
    ) -> Result<Box<dyn host::Bridge>, Trouble> {
        self.set_target(from.0, to.0)?;
        Err(Trouble::new(
            "there is no memory",
            "report this defect of vdom",
        ))
    }
}

impl<X: domctl::Issue> Hypervisor for Domctls<X> {
    fn domain_info(&mut self, id: u16) -> Result<Option<domctl::DomainInfo>, Trouble> {
        Domctls::domain_info(self, id)
    }

    fn set_target(&mut self, driver: u16, guest: u16) -> Result<(), Trouble> {
        Domctls::set_target(self, driver, guest)
    }

    fn pause(&mut self, id: u16) -> Result<(), Trouble> {
        self.set_paused(id, true)
    }

    fn unpause(&mut self, id: u16) -> Result<(), Trouble> {
        self.set_paused(id, false)
    }

    fn bridge(
        &mut self,
        from: (u16, u64),
        to: (u16, u64),
        bytes: u64,
    ) -> Result<Box<dyn host::Bridge>, Trouble> {
        Domctls::bridge(self, from, to, bytes)
    }
}

fn parse_devices(driver: &str, texts: &[String]) -> Result<Devices, Failure> {
    Devices::parse(texts.iter().map(String::as_bytes))
        .map_err(|(index, error)| {
            Trouble::new(
                format!("device {}: {error}", index + 1),
                "correct this --device",
            )
        })
        .at(driver, "check devices")
}

/// What a good configuration leads to.
fn check(plan: &create::Plan) {
    let create::Plan { guest, driver } = plan;
    println!(
        "{}: {} MiB, driver domain {}",
        guest.name, guest.memory_mib, driver.name
    );
    for note in &guest.notes {
        println!("  note: {note}");
    }
    for (slot, device) in guest.devices.iter() {
        let interrupt = match device.interrupt(guest.kind) {
            Interrupt::Intx | Interrupt::Edge => format!("GSI {}", slot.gsi()),
            other => format!("interrupt {}", other.as_str()),
        };
        let doorbell = match device.doorbell() {
            Doorbell::Port => format!(", doorbell port {:#x}", slot.doorbell_port()),
            _ => String::new(),
        };
        println!(
            "  slot {slot}: {device} (registers {:#x}, {interrupt}{doorbell})",
            device.window(slot)
        );
    }
    if let Some(virtio) = &guest.virtio {
        println!("xl is given: {virtio}");
    }
    match &driver.source {
        driver::Source::Text(text) => println!("the driver domain's configuration:\n{text}"),
        driver::Source::File {
            path, overrides, ..
        } => {
            println!(
                "the driver domain's configuration: {} {}",
                path.display(),
                overrides.join(" ")
            );
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    output(text.as_bytes()).at("host", "write to standard output")
}

fn output(bytes: &[u8]) -> Result<(), Trouble> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| {
            Trouble::new(
                error.to_string(),
                "free some space, or keep the reader open",
            )
        })
}

fn write_table(devices: &Devices, path: Option<&Path>) -> Result<(), Failure> {
    const STEP: &str = "write ACPI table";
    let table = ssdt::table(devices);
    match path {
        Some(path) => std::fs::write(path, table)
            .map_err(|error| {
                Trouble::new(
                    format!("{}: {error}", path.display()),
                    "choose another file",
                )
            })
            .at("host", STEP),
        None if std::io::stdout().is_terminal() => Err(Trouble::new(
            "the table is binary and would garble the terminal",
            "use -o FILE",
        )
        .at("host", STEP)),
        None => output(&table).at("host", STEP),
    }
}
