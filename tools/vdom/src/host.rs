//! What vdom works on: xl, xenstore, Xen and the clock, each behind a trait, so that tests can put a fake host there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vd_config::{State, keys};

use crate::domctl::DomainInfo;
use crate::failure::Trouble;
use crate::report::Reporter;

/// xl.
pub(crate) trait Xl {
    /// Creates a domain, paused.
    fn create(&mut self, config: &Path, overrides: &[String]) -> Result<(), Trouble>;
    /// Lets a domain run.
    fn unpause(&mut self, id: u16) -> Result<(), Trouble>;
    /// Destroys a domain.
    fn destroy(&mut self, id: u16) -> Result<(), Trouble>;
    /// Gives a domain another name.
    fn rename(&mut self, id: u16, name: &str) -> Result<(), Trouble>;
    /// Takes a disk from a domain, and waits until it has let it go.
    fn block_detach(&mut self, id: u16, disk: &str) -> Result<(), Trouble>;
    /// Gives a disk to a domain.
    fn block_attach(&mut self, id: u16, disk: &str) -> Result<(), Trouble>;
    /// Sends a domain an NMI: a driver domain lets go of its guest, and crashes.
    fn trigger_nmi(&mut self, id: u16) -> Result<(), Trouble>;
}

/// A change of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Removes a node and all below it, if it is there.
    Remove(String),
    /// Makes a directory that belongs to one domain and that another may read; dom0 may always.
    Directory {
        path: String,
        owner: u16,
        reader: u16,
    },
    /// Writes a value; a new node gets its directory's permissions.
    Write { path: String, value: String },
}

/// xenstore.
pub(crate) trait Store {
    /// A node's value, if the node is there.
    fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Trouble>;
    /// The names in a directory; none if it is not there.
    fn list(&mut self, path: &str) -> Result<Vec<String>, Trouble>;
    /// Makes all changes, or none.
    fn change(&mut self, changes: &[Change]) -> Result<(), Trouble>;
    /// Waits until a domain has ended, or that long; may return early.
    fn wait_for_an_end(&mut self, time: Duration) -> Result<(), Trouble>;
    /// Begins anew, with another connection.
    fn reconnect(&mut self) -> Result<(), Trouble>;
}

/// Xen.
pub(crate) trait Hypervisor {
    /// How a domain is, if it exists.
    fn domain_info(&mut self, id: u16) -> Result<Option<DomainInfo>, Trouble>;
    /// Gives the driver domain power over the guest.
    fn set_target(&mut self, driver: u16, guest: u16) -> Result<(), Trouble>;
    /// Holds all vCPUs of a domain still.
    fn pause(&mut self, id: u16) -> Result<(), Trouble>;
    /// Lets them run again.
    fn unpause(&mut self, id: u16) -> Result<(), Trouble>;
    /// Maps a piece of one domain's memory and its counterpart of another's: domain and address, and bytes.
    fn bridge(
        &mut self,
        from: (u16, u64),
        to: (u16, u64),
        bytes: u64,
    ) -> Result<Box<dyn Bridge>, Trouble>;
}

/// A piece of one domain's memory, and its counterpart of another's.
pub(crate) trait Bridge {
    /// Copies what differs, and says how many bytes that was.
    fn copy(&mut self) -> u64;
}

impl Bridge for crate::privcmd::Bridge {
    fn copy(&mut self) -> u64 {
        crate::privcmd::Bridge::copy(self)
    }
}

/// Time.
pub(crate) trait Clock {
    /// Time since some moment.
    fn now(&mut self) -> Duration;
    /// Waits.
    fn sleep(&mut self, time: Duration);
    /// Whether the operator wants vdom to end.
    fn interrupted(&mut self) -> bool;
}

/// All of it.
pub(crate) struct Host {
    pub(crate) xl: Box<dyn Xl>,
    pub(crate) store: Box<dyn Store>,
    pub(crate) hypervisor: Box<dyn Hypervisor>,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) report: Reporter,
    /// Where the guests' run-time directories are.
    pub(crate) run_dir: PathBuf,
}

/// A domain that xenstore knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) id: u16,
    pub(crate) name: String,
}

/// A node in a domain's home.
pub(crate) fn node(id: u16, key: &str) -> String {
    format!("/local/domain/{id}/{key}")
}

impl Host {
    /// All domains, dom0 among them.
    pub(crate) fn domains(&mut self) -> Result<Vec<Domain>, Trouble> {
        let mut ids: Vec<u16> = self
            .store
            .list("/local/domain")?
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect();
        ids.sort_unstable();
        let mut domains = Vec::new();
        for id in ids {
            if let Some(name) = self.text(&node(id, "name"))? {
                domains.push(Domain { id, name });
            }
        }
        Ok(domains)
    }

    /// The domain with that name, or else with that id.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Domain>, Trouble> {
        let domains = self.domains()?;
        let by_name = domains.iter().find(|domain| domain.name == name);
        let by_id = || domains.iter().find(|domain| domain.id.to_string() == name);
        Ok(by_name.or_else(by_id).cloned())
    }

    /// Whether a domain is still in xenstore, which is until its toolstack has torn it down.
    pub(crate) fn exists(&mut self, id: u16) -> Result<bool, Trouble> {
        Ok(self.store.read(&node(id, "name"))?.is_some())
    }

    /// The drivers of a guest. Several are possible, though vdom starts one.
    pub(crate) fn drivers_of(&mut self, guest: u16) -> Result<Vec<Domain>, Trouble> {
        let mut drivers = Vec::new();
        for domain in self.domains()? {
            if self.target(domain.id)? == Some(guest) {
                drivers.push(domain);
            }
        }
        Ok(drivers)
    }

    /// For whom a driver domain works.
    pub(crate) fn target(&mut self, driver: u16) -> Result<Option<u16>, Trouble> {
        Ok(self
            .text(&node(driver, keys::TARGET))?
            .and_then(|text| text.parse().ok()))
    }

    /// Whether a domain has this project's directory.
    pub(crate) fn is_driver(&mut self, id: u16) -> Result<bool, Trouble> {
        Ok(self.store.read(&node(id, keys::ROOT))?.is_some())
    }

    /// How a driver domain says it is doing; `None` before it says anything.
    pub(crate) fn state(&mut self, driver: u16) -> Result<Option<State>, Trouble> {
        let Some(value) = self.store.read(&node(driver, keys::STATUS_STATE))? else {
            return Ok(None);
        };
        State::parse(&value).map(Some).map_err(|error| {
            Trouble::new(
                error.to_string(),
                "the image and vdom must be of the same release",
            )
        })
    }

    /// A value as printable text.
    pub(crate) fn text(&mut self, path: &str) -> Result<Option<String>, Trouble> {
        Ok(self.store.read(path)?.map(|value| cell(&value)))
    }
}

/// A value that another domain may have written, for a cell of a table or a line of a message: short, and without
/// anything that could pass for another cell or line.
fn cell(value: &[u8]) -> String {
    const MOST: usize = 240;
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .chars()
        .take(MOST)
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn a_cell_cannot_forge_another() {
        assert_eq!(
            cell(b"ready\nother  1  other-vd"),
            "ready?other  1  other-vd"
        );
        assert_eq!(cell("a\tb\u{202e}c".as_bytes()), "a?b?c");
        assert_eq!(cell(&[b'x'; 5000]).len(), 240);
        assert_eq!(cell(b"ready\0"), "ready");
    }
}
