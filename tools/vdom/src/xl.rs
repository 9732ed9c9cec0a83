//! xl as a child process.
//!
//! Invariants: vdom never waits for anything but xl itself to end (xl leaves a monitor process behind for every domain,
//! which could hold a pipe open for ever, so xl writes to a file that has no name); the operator's Ctrl-C goes to vdom
//! and not to xl, which would leave half a domain behind.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Trouble, printable};
use crate::host::Xl;

/// How much of what xl says is kept.
const MAX_OUTPUT: u64 = 64 * 1024;
/// How many lines of it are shown: the last ones name the cause.
const SHOWN_LINES: usize = 6;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The xl that `VDOM_XL` names, or the one in `$PATH`.
#[derive(Debug)]
pub(crate) struct XlCommand {
    program: OsString,
}

impl XlCommand {
    pub(crate) fn from_environment() -> Self {
        Self {
            program: std::env::var_os("VDOM_XL").unwrap_or_else(|| "xl".into()),
        }
    }

    fn run(&self, arguments: &[OsString]) -> Result<(), Trouble> {
        let shown = || {
            let words = arguments.iter().map(|word| word.to_string_lossy());
            format!(
                "{} {}",
                self.program.to_string_lossy(),
                words.collect::<Vec<_>>().join(" ")
            )
        };
        let cannot = |error: io::Error| {
            Trouble::new(
                format!("{}: {error}", shown()),
                "install Xen's tools (Debian: xen-utils), or set VDOM_XL to the path of xl",
            )
        };
        let mut output = unnamed_file().map_err(cannot)?;
        let (out, err) = (
            output.try_clone().map_err(cannot)?,
            output.try_clone().map_err(cannot)?,
        );
        let status = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .status()
            .map_err(cannot)?;
        if status.success() {
            return Ok(());
        }
        Err(Trouble::new(
            format!(
                "{} ended with {}: {}",
                shown(),
                describe(status),
                last_lines(&mut output)
            ),
            "correct what xl complains about; /var/log/xen and xl dmesg may say more",
        ))
    }
}

fn describe(status: ExitStatus) -> String {
    status
        .code()
        .map_or_else(|| status.to_string(), |code| format!("status {code}"))
}

fn unnamed_file() -> io::Result<File> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("vdom-xl-{}-{number}", std::process::id()));
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn last_lines(output: &mut File) -> String {
    let mut bytes = Vec::new();
    let start = output
        .metadata()
        .map_or(0, |meta| meta.len().saturating_sub(MAX_OUTPUT));
    let read = output.seek(io::SeekFrom::Start(start)).and_then(|_| {
        Read::by_ref(output)
            .take(MAX_OUTPUT)
            .read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return format!("(what it said cannot be read: {error})");
    }
    let text = printable(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.len() {
        0 => "it said nothing".into(),
        count => lines[count.saturating_sub(SHOWN_LINES)..].join("\n    "),
    }
}

impl Xl for XlCommand {
    fn create(&mut self, config: &Path, overrides: &[String]) -> Result<(), Trouble> {
        let mut arguments: Vec<OsString> =
            vec!["create".into(), "-q".into(), "-p".into(), config.into()];
        arguments.extend(overrides.iter().map(OsString::from));
        self.run(&arguments)
    }

    fn unpause(&mut self, id: u16) -> Result<(), Trouble> {
        self.run(&["unpause".into(), id.to_string().into()])
    }

    fn destroy(&mut self, id: u16) -> Result<(), Trouble> {
        self.run(&["destroy".into(), id.to_string().into()])
    }

    fn rename(&mut self, id: u16, name: &str) -> Result<(), Trouble> {
        self.run(&["rename".into(), id.to_string().into(), name.into()])
    }

    fn block_detach(&mut self, id: u16, disk: &str) -> Result<(), Trouble> {
        self.run(&["block-detach".into(), id.to_string().into(), disk.into()])
    }

    fn block_attach(&mut self, id: u16, disk: &str) -> Result<(), Trouble> {
        self.run(&["block-attach".into(), id.to_string().into(), disk.into()])
    }

    fn trigger_nmi(&mut self, id: u16) -> Result<(), Trouble> {
        self.run(&["trigger".into(), id.to_string().into(), "nmi".into()])
    }
}

#[cfg(test)]
mod tests;
