//! The operator's command line (xl's `extra=` or `cmdline=`).
//!
//! Words separated by spaces: `log=LEVEL`, `disk-wait=SECONDS`. A word that is not understood is
//! reported, never ignored: a typing error in a security-minded set-up must not
//! pass silently.

use vd_xenbus::number;

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
    /// `disk-wait=SECONDS`: how long requests wait for another domain to serve a disk again.
    pub disk_wait: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log: LogLevel::Info,
            disk_wait: 120,
        }
    }
}

/// A decimal number of seconds, without a sign.
fn seconds(word: &str) -> Option<u32> {
    number::parse_digits(word.as_bytes())
}

/// Parses `line`, calling `complain` with every word that is not understood.
pub fn parse(line: &[u8], mut complain: impl FnMut(&[u8])) -> Options {
    let mut options = Options::default();
    for word in line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        let pair = core::str::from_utf8(word)
            .ok()
            .and_then(|word| word.split_once('='));
        let understood = match pair {
            Some(("log", level)) => LogLevel::named(level).map(|level| options.log = level),
            Some(("disk-wait", wait)) => seconds(wait).map(|wait| options.disk_wait = wait),
            _ => None,
        };
        if understood.is_none() {
            complain(word);
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
                    log: LogLevel::Info,
                    disk_wait: 120
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
    fn seconds_are_plain_numbers() {
        assert_eq!(parsed(b"disk-wait=0 log=warn").0.disk_wait, 0);
        assert_eq!(
            parsed(b"disk-wait=5 disk-wait=4294967295").0.disk_wait,
            u32::MAX
        );
        for word in [
            &b"disk-wait="[..],
            b"disk-wait=+5",
            b"disk-wait=4294967296",
            b"disk-wait=1s",
            b"disk-wait",
        ] {
            let (options, complaints) = parsed(word);
            assert_eq!(
                (options.disk_wait, complaints),
                (120, [word.to_vec()].to_vec())
            );
        }
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
