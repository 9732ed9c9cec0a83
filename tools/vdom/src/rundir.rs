//! A guest's directory under `/run/vdom`: its table, the driver domain's configuration, and who they are.
//!
//! Making the directory is also the lock that keeps two vdoms from creating one guest. Invariant: a directory is taken
//! over only if the process that made it has ended and the domains in it are gone, which the caller has looked at.

use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Trouble;
use crate::host::Domain;

const TABLE: &str = "ssdt.aml";
const DRIVER_CONFIG: &str = "driver.cfg";
const DRIVER: &str = "driver";
const CREATOR: &str = "creator";

/// The directory of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunDir(PathBuf);

impl RunDir {
    /// Where it would be.
    pub(crate) fn of(run_dir: &Path, guest: &str) -> Self {
        Self(run_dir.join(guest))
    }

    /// Makes it. The caller has made sure that no such guest is running.
    pub(crate) fn make(&self) -> Result<(), Trouble> {
        match self.try_make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if let Some(creator) = self.living_creator() {
                    return Err(Trouble::new(
                        format!("another vdom (process {creator}) is creating this guest"),
                        "wait for it, or end it",
                    ));
                }
                // Left over from a guest that has ended by itself.
                self.remove().and_then(|()| self.try_make())
            }
            result => result,
        }
        .map_err(|error| self.trouble(&error))
    }

    fn try_make(&self) -> io::Result<()> {
        if let Some(parent) = self.0.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::create_dir(&self.0)?;
        std::fs::write(self.0.join(CREATOR), std::process::id().to_string())
    }

    fn living_creator(&self) -> Option<u32> {
        let id: u32 = std::fs::read_to_string(self.0.join(CREATOR))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let alive = id != std::process::id() && Path::new("/proc").join(id.to_string()).exists();
        alive.then_some(id)
    }

    /// The guest runs: nobody is creating it any more.
    pub(crate) fn created(&self) {
        // If it cannot be removed, it names a process that ends soon.
        let _ = std::fs::remove_file(self.0.join(CREATOR));
    }

    /// Writes the ACPI table and gives its path.
    pub(crate) fn write_table(&self, table: &[u8]) -> Result<PathBuf, Trouble> {
        self.write(TABLE, table)
    }

    /// Writes the driver domain's configuration and gives its path.
    pub(crate) fn write_driver_config(&self, text: &str) -> Result<PathBuf, Trouble> {
        self.write(DRIVER_CONFIG, text.as_bytes())
    }

    /// Remembers who the driver domain is, so that it is found even when the guest is gone.
    pub(crate) fn write_driver(&self, driver: &Domain) -> Result<(), Trouble> {
        self.write(
            DRIVER,
            format!("{} {}\n", driver.id, driver.name).as_bytes(),
        )
        .map(|_| ())
    }

    /// Who the driver domain was.
    pub(crate) fn driver(&self) -> Option<Domain> {
        let text = std::fs::read_to_string(self.0.join(DRIVER)).ok()?;
        let (id, name) = text.trim().split_once(' ')?;
        Some(Domain {
            id: id.parse().ok()?,
            name: name.into(),
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Trouble> {
        let path = self.0.join(name);
        std::fs::write(&path, content).map_err(|error| self.trouble(&error))?;
        Ok(path)
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        Trouble::new(
            format!("{}: {error}", self.0.display()),
            "run vdom as root, or set VDOM_RUN_DIR to a directory that it can write to",
        )
    }
}
