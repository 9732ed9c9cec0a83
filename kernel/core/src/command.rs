//! Commands typed at the console (`xl console`).

use crate::cmdline::LogLevel;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing: an empty line.
    Nothing,
    /// The list of commands.
    Help,
    /// Counters.
    Stats,
    /// Devices and their state.
    Devices,
    /// Another log level.
    Log(LogLevel),
    /// Release the guest and power off.
    Shutdown,
    /// Panic: shows that the guest survives it.
    Panic,
    /// Not understood.
    Unknown,
}

/// What `help` prints.
pub const HELP: &str = "\
help            this list
stats           counters, which xenstore gets too
devices         devices and their state
log LEVEL       off, error, warn, info, debug or trace
shutdown        release the guest and power off
panic           panic, to see that the guest is released
";

/// Parses one line.
#[must_use]
pub fn parse(line: &str) -> Command {
    let mut words = line.split_ascii_whitespace();
    let (first, second) = (words.next(), words.next());
    if words.next().is_some() {
        return Command::Unknown;
    }
    match (first, second) {
        (None, _) => Command::Nothing,
        (Some("help" | "?"), None) => Command::Help,
        (Some("stats"), None) => Command::Stats,
        (Some("devices"), None) => Command::Devices,
        (Some("shutdown"), None) => Command::Shutdown,
        (Some("panic"), None) => Command::Panic,
        (Some("log"), Some(level)) => LogLevel::named(level).map_or(Command::Unknown, Command::Log),
        _ => Command::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, HELP, parse};
    use crate::cmdline::LogLevel;

    #[test]
    fn what_is_understood() {
        assert_eq!(parse("  "), Command::Nothing);
        assert_eq!(parse(" stats "), Command::Stats);
        assert_eq!(parse("log warn"), Command::Log(LogLevel::Warn));
        for bad in ["log", "log loud", "stats now", "Panic", "log warn twice"] {
            assert_eq!(parse(bad), Command::Unknown, "{bad}");
        }
    }

    #[test]
    fn help_names_commands_that_exist() {
        for line in HELP.lines() {
            let word = line.split_ascii_whitespace().next().unwrap();
            let line = if word == "log" { "log info" } else { word };
            assert_ne!(parse(line), Command::Unknown, "{word}");
        }
    }
}
