//! What vdom says when something went wrong: which domain, which step, what, and the remedy.

use std::fmt;

/// Something went wrong in a place that does not know for which domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl Trouble {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Adds the domain and the step.
    pub(crate) fn at(self, domain: &str, step: &'static str) -> Failure {
        Failure {
            domain: domain.into(),
            step,
            trouble: self,
        }
    }
}

/// A failure as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) domain: String,
    pub(crate) step: &'static str,
    pub(crate) trouble: Trouble,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble { what, remedy } = &self.trouble;
        let text = format!("{}: {}: {what} ({remedy})", self.domain, self.step);
        // Files and values from elsewhere are quoted in it.
        f.write_str(&printable(text.as_bytes()))
    }
}

/// `result.at(domain, step)`.
pub(crate) trait At<T> {
    fn at(self, domain: &str, step: &'static str) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Trouble> {
    fn at(self, domain: &str, step: &'static str) -> Result<T, Failure> {
        self.map_err(|trouble| trouble.at(domain, step))
    }
}

/// Text from another domain, safe for a terminal: control characters other than newline and tab become `?`.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches(['\0', '\n'])
        .chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '?'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_domain_step_and_remedy() {
        let failure = Trouble::new("no memory", "free some").at("web", "start");
        assert_eq!(failure.to_string(), "web: start: no memory (free some)");
    }

    /// Found by fuzzing: `type = "\x1b[2J"` in a configuration reached the terminal.
    #[test]
    fn a_failure_cannot_drive_the_terminal() {
        let failure = Trouble::new("type \x1b[2J", "a\nb\rc").at("w\u{9b}eb", "start");
        assert_eq!(failure.to_string(), "w?eb: start: type ?[2J (a\nb?c)");
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(printable(b"a\x1b[2J\xff\nb\n\0"), "a?[2J\u{fffd}\nb");
    }
}
