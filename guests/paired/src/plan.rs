//! What to do: from the command line, or typed at the console, in the same words.
//!
//! `run=selftest:0,latency:3` names scenarios and, after a colon, the slot of the device that each is for; without one
//! it is for every device in turn. At the console the colon is a blank.

use alloc::vec::Vec;

use vd_config::{Memory, SlotIndex};

/// Requests of a scenario, if nothing else is asked for.
const REQUESTS: u32 = 100;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Set the device up; write, read back and compare, one request at a time; count interrupts.
    SelfTest,
    /// Write the whole disk, several requests at a time, and read it back in other pieces.
    Data,
    /// Every CPU works on a device of its own, all at once.
    Smp,
    /// Measure the round trip of a request.
    Latency,
    /// The same without acknowledging interrupts: their path alone says whose they are.
    Unacknowledged,
    /// The same without interrupts: the CPU looks by itself.
    Suppressed,
    /// Every CPU kicks as fast as it can; other devices must go on.
    Storm,
    /// Writes that are no doorbell though they look like one.
    Unknown,
    /// A driver that breaks the rules.
    Hostile,
    /// Do what is typed at the console, until `poweroff`.
    Console,
    /// End.
    PowerOff,
}

impl Scenario {
    /// All of them, with their names.
    pub const ALL: [(&str, Scenario); 11] = [
        ("selftest", Scenario::SelfTest),
        ("data", Scenario::Data),
        ("smp", Scenario::Smp),
        ("latency", Scenario::Latency),
        ("unacknowledged", Scenario::Unacknowledged),
        ("suppressed", Scenario::Suppressed),
        ("storm", Scenario::Storm),
        ("unknown", Scenario::Unknown),
        ("hostile", Scenario::Hostile),
        ("console", Scenario::Console),
        ("poweroff", Scenario::PowerOff),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, scenario)| *scenario == self)
            .map_or("", |(name, _)| name)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(name, _)| *name == text)
            .map(|(_, scenario)| *scenario)
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// What.
    pub scenario: Scenario,
    /// With which device; `None` = with each of them.
    pub slot: Option<SlotIndex>,
}

impl Command {
    /// The command that `text` names, words separated by `separator`.
    #[must_use]
    pub fn parse(text: &str, separator: char) -> Option<Self> {
        let mut words = text.trim().split(separator);
        let scenario = Scenario::parse(words.next()?)?;
        let slot = match words.next() {
            None => None,
            Some(slot) => Some(SlotIndex::parse(slot.as_bytes()).ok()?),
        };
        words.next().is_none().then_some(Self { scenario, slot })
    }
}

/// Everything that the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order. The end of the domain follows.
    pub commands: Vec<Command>,
    /// Requests of a scenario (`requests=`).
    pub requests: u32,
    /// Whether interrupts are acknowledged in the device, as a driver has to that does not know better (`ack=`).
    pub acknowledge: bool,
    /// Whether to wait for an empty line at the console before measuring (`step=`), so that others can count.
    pub step: bool,
    /// How memory is shared with the devices (`memory=`).
    pub memory: Memory,
    /// Whether to start again in the end, if all went well (`reboot=`).
    pub reboot: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            commands: Vec::new(),
            requests: REQUESTS,
            acknowledge: true,
            step: false,
            memory: Memory::default(),
            reboot: false,
        }
    }
}

impl Plan {
    /// Parses a command line, calling `complain` with every word that is not understood.
    pub fn parse(line: &[u8], mut complain: impl FnMut(&[u8])) -> Self {
        let mut plan = Self::default();
        let words = line.split(u8::is_ascii_whitespace);
        for word in words.filter(|word| !word.is_empty()) {
            if plan.take(word).is_none() {
                complain(word);
            }
        }
        plan
    }

    fn take(&mut self, word: &[u8]) -> Option<()> {
        let (key, value) = core::str::from_utf8(word).ok()?.split_once('=')?;
        match key {
            // The runtime's.
            "log" => {}
            "run" => {
                let commands = value.split(',').map(|text| Command::parse(text, ':'));
                self.commands.extend(commands.collect::<Option<Vec<_>>>()?);
            }
            "requests" => self.requests = value.parse().ok().filter(|number| *number > 0)?,
            "ack" => self.acknowledge = flag(value)?,
            "memory" => self.memory = Memory::parse(value.as_bytes()).ok()?,
            "step" => self.step = flag(value)?,
            "reboot" => self.reboot = flag(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::prelude::v1::*;
    use std::vec;

    use super::*;

    fn parse(line: &str) -> (Plan, Vec<String>) {
        let mut complaints = Vec::new();
        let plan = Plan::parse(line.as_bytes(), |word| {
            complaints.push(String::from_utf8_lossy(word).into_owned());
        });
        (plan, complaints)
    }

    #[test]
    fn scenarios_with_and_without_a_device() {
        let (plan, complaints) = parse(
            "log=debug run=selftest,latency:3  requests=7 ack=0 step=1 memory=grants reboot=1",
        );
        let commands = vec![
            Command {
                scenario: Scenario::SelfTest,
                slot: None,
            },
            Command {
                scenario: Scenario::Latency,
                slot: SlotIndex::new(3),
            },
        ];
        let expected = Plan {
            commands,
            requests: 7,
            acknowledge: false,
            step: true,
            memory: Memory::Grants,
            reboot: true,
        };
        assert_eq!((plan, complaints), (expected, vec![]));
        assert_eq!(parse(" "), (Plan::default(), vec![]));
    }

    #[test]
    fn what_is_not_understood_is_named_and_does_nothing() {
        for bad in [
            "quiet",
            "run=",
            "run=selftest,nothing",
            "run=selftest:32",
            "run=selftest:1:2",
            "requests=0",
            "requests=x",
            "ack=2",
            "step=",
            "reboot=yes",
            "memory=all",
        ] {
            assert_eq!(parse(bad), (Plan::default(), vec![bad.to_string()]));
        }
    }

    #[test]
    fn every_name_is_understood_at_the_console() {
        for (name, scenario) in Scenario::ALL {
            let command =
                Command::parse(&format!(" {name} 2 ").trim_start().replace("  ", " "), ' ');
            let slot = SlotIndex::new(2);
            assert_eq!(command, Some(Command { scenario, slot }));
            assert_eq!(scenario.name(), name);
        }
        assert_eq!(Command::parse("", ' '), None);
        assert_eq!(Command::parse("latency three", ' '), None);
    }
}
