//! Commands typed at the console (`xl console`).

use vd_config::SlotIndex;

use vd_xenbus::number;

use crate::cmdline::LogLevel;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Nothing: an empty line.
    Nothing,
    /// The list of commands.
    Help,
    /// Counters.
    Stats,
    /// Devices and their state.
    Devices,
    /// Queues and their state.
    Queues,
    /// The record of what devices do begins.
    TraceOn,
    /// It ends.
    TraceOff,
    /// It ends and is printed.
    TraceDump,
    /// Another log level.
    Log(LogLevel),
    /// This console becomes a port of a console device, until [`ESCAPE`] is typed.
    Attach {
        /// The device's slot.
        slot: SlotIndex,
        /// The port's name or number.
        port: &'a str,
    },
    /// A program in dom0 wants a port of a console device ([`vd_xenbus::link`]).
    Link {
        /// The device's slot.
        slot: SlotIndex,
        /// The port's name or number.
        port: &'a str,
        /// What its answer has to begin with.
        nonce: u64,
    },
    /// Release the guest and power off.
    Shutdown,
    /// Crash: shows that the guest survives it.
    Panic(Crash),
    /// Not understood.
    Unknown,
}

/// Ways to crash on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A panic.
    Panic,
    /// A call without end, which meets the guard page below the stack.
    Stack,
    /// An allocation that no memory suffices for.
    Heap,
}

/// Ends what [`Command::Attach`] has begun: Ctrl-^. `xl console` keeps Ctrl-] for itself.
pub const ESCAPE: u8 = 0x1e;

/// What `help` prints.
pub const HELP: &str = "\
help            this list
stats           counters, which xenstore gets too
devices         devices and their state
queues          queues and theirs
trace on        record what devices do, the last 1024 events
trace off       stop
trace dump      stop, and print the record
log LEVEL       off, error, warn, info, debug or trace
attach SLOT [PORT]  this console becomes a port of a console device; Ctrl-^ ends that
shutdown        release the guest and power off
panic [stack|heap]  crash, to see that the guest is released: panic, overflow the stack, or want more memory than there is
";

/// Parses one line.
#[must_use]
pub fn parse(line: &str) -> Command<'_> {
    let mut words = line.split_ascii_whitespace();
    let (first, second) = (words.next(), words.next());
    if let Some("attach" | "link") = first {
        let slot = second.and_then(|slot| SlotIndex::parse(slot.as_bytes()).ok());
        return match (first, slot, words.next(), words.next(), words.next()) {
            (Some("attach"), Some(slot), port, None, None) => Command::Attach {
                slot,
                port: port.unwrap_or("0"),
            },
            (Some("link"), Some(slot), Some(port), Some(nonce), None) => number::parse(nonce)
                .map_or(Command::Unknown, |nonce| Command::Link {
                    slot,
                    port,
                    nonce,
                }),
            _ => Command::Unknown,
        };
    }
    if words.next().is_some() {
        return Command::Unknown;
    }
    match (first, second) {
        (None, _) => Command::Nothing,
        (Some("help" | "?"), None) => Command::Help,
        (Some("stats"), None) => Command::Stats,
        (Some("devices"), None) => Command::Devices,
        (Some("queues"), None) => Command::Queues,
        (Some("trace"), Some("on")) => Command::TraceOn,
        (Some("trace"), Some("off")) => Command::TraceOff,
        (Some("trace"), Some("dump")) => Command::TraceDump,
        (Some("shutdown"), None) => Command::Shutdown,
        (Some("panic"), None) => Command::Panic(Crash::Panic),
        (Some("panic"), Some("stack")) => Command::Panic(Crash::Stack),
        (Some("panic"), Some("heap")) => Command::Panic(Crash::Heap),
        (Some("log"), Some(level)) => LogLevel::named(level).map_or(Command::Unknown, Command::Log),
        _ => Command::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use vd_config::SlotIndex;

    use super::{Command, Crash, HELP, parse};
    use crate::cmdline::LogLevel;

    #[test]
    fn what_is_understood() {
        assert_eq!(parse("  "), Command::Nothing);
        assert_eq!(parse(" stats "), Command::Stats);
        assert_eq!(parse("log warn"), Command::Log(LogLevel::Warn));
        let slot = SlotIndex::new(3).unwrap();
        let attach = |port| Command::Attach { slot, port };
        assert_eq!(parse("attach 3"), attach("0"));
        assert_eq!(parse("attach 3 data"), attach("data"));
        let (port, nonce) = ("data", 7);
        assert_eq!(parse("link 3 data 7"), Command::Link { slot, port, nonce });
        for bad in [
            "attach",
            "attach 32",
            "attach 3 data x",
            "link 3 data",
            "link 3 data x",
        ] {
            assert_eq!(parse(bad), Command::Unknown, "{bad}");
        }
        assert_eq!(parse("trace dump"), Command::TraceDump);
        assert_eq!(parse("panic"), Command::Panic(Crash::Panic));
        assert_eq!(parse("panic stack"), Command::Panic(Crash::Stack));
        assert_eq!(parse("panic heap"), Command::Panic(Crash::Heap));
        for bad in [
            "trace",
            "trace it",
            "log",
            "log loud",
            "stats now",
            "panic now",
            "Panic",
            "log warn twice",
        ] {
            assert_eq!(parse(bad), Command::Unknown, "{bad}");
        }
    }

    #[test]
    fn help_names_commands_that_exist() {
        for line in HELP.lines() {
            let word = line.split_ascii_whitespace().next().unwrap();
            let line = match word {
                "log" => "log info",
                "attach" => "attach 0",
                "trace" => line.split_once("  ").unwrap().0,
                word => word,
            };
            assert_ne!(parse(line), Command::Unknown, "{word}");
        }
    }
}
