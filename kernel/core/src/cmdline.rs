//! The operator's command line (xl's `extra=` or `cmdline=`).
//!
//! Words separated by spaces: `log=LEVEL`. A word that is not understood is
//! reported, never ignored: a typing error in a security-minded set-up must not
//! pass silently.

/// How much is logged (`log=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Failures that stop a device or the domain.
    Error,
    /// Something is wrong and was survived.
    Warn,
    /// What the domain does, a line a life-cycle step. The default.
    Info,
    /// Details for a developer.
    Debug,
    /// Everything, also per request.
    Trace,
}

impl LogLevel {
    /// The level named by `word`, as in `log=debug`.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "off" => Self::Off,
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }
}

/// What the command line asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `log=off|error|warn|info|debug|trace`.
    pub log: LogLevel,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log: LogLevel::Info,
        }
    }
}

/// Parses `line`, calling `complain` with every word that is not understood.
pub fn parse(line: &[u8], mut complain: impl FnMut(&[u8])) -> Options {
    let mut options = Options::default();
    for word in line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        let level = core::str::from_utf8(word)
            .ok()
            .and_then(|word| word.strip_prefix("log="))
            .and_then(LogLevel::named);
        match level {
            Some(level) => options.log = level,
            None => complain(word),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn parsed(line: &[u8]) -> (Options, Vec<Vec<u8>>) {
        let mut complaints = Vec::new();
        let options = parse(line, |word| complaints.push(word.to_vec()));
        (options, complaints)
    }

    #[test]
    fn an_empty_line_is_the_default() {
        assert_eq!(
            parsed(b""),
            (
                Options {
                    log: LogLevel::Info
                },
                Vec::new()
            )
        );
        assert_eq!(parsed(b"  \t ").1, Vec::<Vec<u8>>::new());
    }

    #[test]
    fn every_level_has_a_name() {
        for (name, level) in [
            ("off", LogLevel::Off),
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ] {
            assert_eq!(LogLevel::named(name), Some(level));
        }
    }

    #[test]
    fn the_last_level_wins() {
        assert_eq!(parsed(b"log=warn  log=trace").0.log, LogLevel::Trace);
    }

    #[test]
    fn what_is_not_understood_is_reported() {
        let (options, complaints) = parsed(b"log=loud quiet \xff\xfe log=off");
        assert_eq!(options.log, LogLevel::Off);
        assert_eq!(
            complaints,
            [
                b"log=loud".to_vec(),
                b"quiet".to_vec(),
                b"\xff\xfe".to_vec()
            ]
        );
    }
}
