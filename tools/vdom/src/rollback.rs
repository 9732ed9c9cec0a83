//! Undoing what was done, newest first.
//!
//! Invariant: every change to the host that `create` and `attach` make is pushed here before the next one is made; a
//! guard that is dropped without [`Rollback::keep`] undoes all of them, also when one of them cannot be undone.

use std::path::PathBuf;

use crate::host::{Change, Host};

/// How to undo a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    /// Destroy a domain that was created.
    Destroy { id: u16, name: String },
    /// Remove what was written to xenstore.
    RemoveNodes { domain: String, paths: Vec<String> },
    /// Write to xenstore what was there.
    Write {
        domain: String,
        path: String,
        value: String,
    },
    /// Remove a directory that was made.
    RemoveDir(PathBuf),
}

/// The host, and how to get it back to what it was.
pub(crate) struct Rollback<'a> {
    pub(crate) host: &'a mut Host,
    undo: Vec<Undo>,
}

impl<'a> Rollback<'a> {
    pub(crate) fn new(host: &'a mut Host) -> Self {
        Self {
            host,
            undo: Vec::new(),
        }
    }

    /// Remembers a change.
    pub(crate) fn push(&mut self, undo: Undo) {
        self.undo.push(undo);
    }

    /// Everything went well: what was done stays.
    pub(crate) fn keep(mut self) {
        self.undo.clear();
    }
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            undo.run(self.host);
        }
    }
}

impl Undo {
    fn run(self, host: &mut Host) {
        let (domain, result) = match self {
            Undo::Destroy { id, name } => {
                host.report
                    .step(&name, &format!("roll back: destroying domain {id}"));
                let result = host
                    .xl
                    .destroy(id)
                    .map_err(|trouble| (trouble.what, format!("xl destroy {id}")));
                (name, result)
            }
            Undo::RemoveNodes { domain, paths } => {
                let remedy = format!("xenstore-rm {}", paths.join(" "));
                host.report.step(&domain, &format!("roll back: {remedy}"));
                let changes: Vec<Change> = paths.into_iter().map(Change::Remove).collect();
                let result = host
                    .store
                    .change(&changes)
                    .map_err(|trouble| (trouble.what, remedy));
                (domain, result)
            }
            Undo::Write {
                domain,
                path,
                value,
            } => {
                let remedy = format!("xenstore-write {path} \"{value}\"");
                host.report.step(&domain, &format!("roll back: {remedy}"));
                let result = host
                    .store
                    .change(&[Change::Write { path, value }])
                    .map_err(|trouble| (trouble.what, remedy));
                (domain, result)
            }
            Undo::RemoveDir(path) => {
                host.report
                    .step("host", &format!("roll back: removing {}", path.display()));
                let result = std::fs::remove_dir_all(&path)
                    .map_err(|error| (error.to_string(), format!("rm -r {}", path.display())));
                ("host".into(), result)
            }
        };
        if let Err((what, remedy)) = result {
            host.report.note(
                &domain,
                &format!("could not be rolled back: {what} (do it by hand: {remedy})"),
            );
        }
    }
}
