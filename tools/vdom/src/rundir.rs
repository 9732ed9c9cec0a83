//! A guest's directory under `/run/vdom`: its table, the driver domain's configuration, and who they are.
//!
//! The directory is also the lock that keeps two vdoms from creating one guest: its creator holds a lock on it (flock),
//! which ends with the process at the latest. Nobody but root can look into it. Invariant: a directory is taken over only if nobody holds that lock and
//! the domains in it are gone, which the caller has looked at; looking and making are one step, under a lock on the
//! directory of all guests.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Trouble;
use crate::guest::Ending;
use crate::host::Domain;
use crate::os::{self, Lock, lock};

const TABLE: &str = "ssdt.aml";
const GUEST_CONFIG: &str = "guest.cfg";
const DRIVER_CONFIG: &str = "driver.cfg";
const DRIVER: &str = "driver";
const RESTARTS: &str = "restarts";
const OVERRIDES: &str = "driver.overrides";
const IMAGE: &str = "image";

/// The directory of one guest.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    /// Held while the guest is being created.
    lock: Option<File>,
}

impl RunDir {
    /// Where it would be.
    pub(crate) fn of(run_dir: &Path, guest: &str) -> Self {
        Self {
            path: run_dir.join(guest),
            lock: None,
        }
    }

    /// Makes it. The caller has made sure that no such guest is running.
    pub(crate) fn make(&mut self) -> Result<(), Trouble> {
        match self.try_make() {
            Ok(Some(held)) => {
                self.lock = Some(held);
                Ok(())
            }
            Ok(None) => Err(Trouble::new(
                "another vdom is creating this guest",
                "wait for it, or end it",
            )),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    /// `None`: somebody else is at it.
    fn try_make(&self) -> io::Result<Option<File>> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        os::make_private_dir(parent)?;
        let all = File::open(parent)?;
        lock(&all, Lock::Wait)?;
        match File::open(&self.path) {
            // Left over from a guest that has ended by itself, unless its creator is alive.
            Ok(there) if !lock(&there, Lock::Try)? => return Ok(None),
            Ok(_) => self.remove()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        DirBuilder::new().mode(0o700).create(&self.path)?;
        let ours = File::open(&self.path)?;
        Ok(lock(&ours, Lock::Try)?.then_some(ours))
    }

    /// The guest runs: nobody is creating it any more.
    pub(crate) fn created(&mut self) {
        self.lock = None;
    }

    /// Writes the ACPI table and gives its path.
    pub(crate) fn write_table(&self, table: &[u8]) -> Result<PathBuf, Trouble> {
        self.write(TABLE, table)
    }

    /// Writes a copy of the guest's configuration and gives its path.
    pub(crate) fn write_guest_config(&self, text: &[u8]) -> Result<PathBuf, Trouble> {
        self.write(GUEST_CONFIG, text)
    }

    /// Writes the driver domain's configuration and gives its path.
    pub(crate) fn write_driver_config(&self, text: &str) -> Result<PathBuf, Trouble> {
        self.write(DRIVER_CONFIG, text.as_bytes())
    }

    /// Remembers what the driver domain was created from besides its configuration.
    pub(crate) fn write_driver_overrides(&self, overrides: &[String]) -> Result<(), Trouble> {
        self.write(OVERRIDES, overrides.join("\n").as_bytes())
            .map(|_| ())
    }

    /// What the driver domain was created from: where that is, and what is in it.
    pub(crate) fn driver_config(&self) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.path.join(DRIVER_CONFIG);
        let text = std::fs::read(&path).ok()?;
        Some((path, text))
    }

    /// The settings that win over it.
    pub(crate) fn driver_overrides(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path.join(OVERRIDES)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Remembers that the driver domain has another image than that of its configuration.
    pub(crate) fn write_image(&self, image: &Path) -> Result<(), Trouble> {
        let path = std::path::absolute(image).unwrap_or_else(|_| image.to_owned());
        self.write(IMAGE, path.as_os_str().as_encoded_bytes())
            .map(|_| ())
    }

    /// The image that the driver domain has instead of that of its configuration.
    pub(crate) fn image(&self) -> Option<PathBuf> {
        let text = std::fs::read_to_string(self.path.join(IMAGE)).ok()?;
        Some(text.into())
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
        let text = std::fs::read_to_string(self.path.join(DRIVER)).ok()?;
        let (id, name) = text.trim().split_once(' ')?;
        Some(Domain {
            id: id.parse().ok()?,
            name: name.into(),
        })
    }

    /// Remembers that the guest is to be created again after some endings.
    pub(crate) fn write_restarts(&self, endings: &[Ending]) -> Result<(), Trouble> {
        let text: String = endings
            .iter()
            .map(|ending| format!("{ending:?}\n"))
            .collect();
        self.write(RESTARTS, text.as_bytes()).map(|_| ())
    }

    /// Whether the guest is to be created again after some endings.
    pub(crate) fn restarts(&self) -> bool {
        self.path.join(RESTARTS).exists()
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Trouble> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        // A guest's configuration may have passwords in it.
        let written = options
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content));
        written.map_err(|error| self.trouble(&error))?;
        Ok(path)
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        Trouble::new(
            format!("{}: {error}", self.path.display()),
            "run vdom as root, or set VDOM_RUN_DIR to a directory that it can write to",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::RunDir;
    use crate::testing::TempDir;

    /// Whatever the operator's umask is, which only takes away.
    #[test]
    fn nobody_else_can_read_a_guests_configuration() {
        let parent = TempDir::new("rundir");
        let mut dir = RunDir::of(&parent.path().join("run"), "web");
        dir.make().unwrap();
        let copy = dir.write_guest_config(b"vncpasswd = \"secret\"").unwrap();
        let of = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((of(dir.path()), of(&copy)), (0o700, 0o600));
        assert_eq!(of(&parent.path().join("run")), 0o700);
    }

    #[test]
    fn one_creator_at_a_time_and_leftovers_are_taken_over() {
        let parent = std::env::temp_dir().join(format!("vdom-rundir-{}", std::process::id()));
        let mut first = RunDir::of(&parent, "web");
        let mut second = RunDir::of(&parent, "web");
        first.make().unwrap();
        first.write_table(b"table").unwrap();
        let refusal = second.make().unwrap_err();
        assert!(refusal.what.contains("another vdom"), "{}", refusal.what);
        RunDir::of(&parent, "db").make().unwrap();
        // A creator that has ended, well or not, holds nothing any more.
        drop(first);
        second.make().unwrap();
        assert!(
            !second.path().join("ssdt.aml").exists(),
            "a fresh directory"
        );
        second.created();
        RunDir::of(&parent, "web").make().unwrap();
        std::fs::remove_dir_all(&parent).unwrap();
    }
}
