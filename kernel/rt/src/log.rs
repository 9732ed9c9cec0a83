//! Log lines: to the PV console, and to Xen's own log through the debug port.
//!
//! A line is formatted into a fixed buffer and written whole. Lines below the
//! level chosen on the command line cost one comparison. The debug port (0xE9) shows
//! up in `xl dmesg` when Xen runs with `guest_loglvl=all`; each character is an exit,
//! so that only lines of the level `info` and above go there.

use core::fmt::{self, Write};

use heapless::String;
use log::{Level, LevelFilter, Log, Metadata, Record};
use vd_kernel_core::cmdline::LogLevel;
use x86_64::instructions::port::PortWriteOnly;

use crate::xen::{console, time};

/// Longest line, in bytes; longer ones are cut.
const LINE: usize = 240;

type Line = String<LINE>;

struct Logger;

static LOGGER: Logger = Logger;

/// Starts logging at `level`.
pub fn init(level: LogLevel) {
    // Fails only when a logger is set already.
    let _ = log::set_logger(&LOGGER);
    set_level(level);
}

/// Changes the level.
pub fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    });
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => "ERROR ",
            Level::Warn => "WARN ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        emit(
            record.level() <= Level::Info,
            format_args!("{level}{}", record.args()),
        );
    }

    fn flush(&self) {}
}

/// Formats a line, cutting what does not fit.
fn cut(args: fmt::Arguments<'_>) -> Line {
    struct Cut(Line);
    impl Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                // Keep room for the line end.
                if self.0.len() + c.len_utf8() + 2 > LINE {
                    return Err(fmt::Error);
                }
                self.0.push(c).map_err(|_| fmt::Error)?;
            }
            Ok(())
        }
    }
    let mut line = Cut(Line::new());
    let _ = line.write_fmt(args);
    line.0
}

fn emit(to_xen: bool, args: fmt::Arguments<'_>) {
    let ms = time::uptime() / 1_000_000;
    let mut line = cut(format_args!("[{:5}.{:03}] {args}", ms / 1000, ms % 1000));
    let _ = line.push_str("\r\n");
    console::write(line.as_bytes());
    if to_xen {
        let _ = line.pop();
        let _ = line.pop();
        let _ = line.push('\n');
        debug_port(&line);
    }
}

/// Text of the panic path: to both places, whatever the level, never waiting for
/// a lock.
pub fn emergency(what: &dyn fmt::Display) {
    struct Both;
    impl Write for Both {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            debug_port(text);
            for piece in text.split_inclusive('\n') {
                match piece.strip_suffix('\n') {
                    Some(line) => {
                        console::try_write(line.as_bytes());
                        console::try_write(b"\r\n");
                    }
                    None => console::try_write(piece.as_bytes()),
                }
            }
            Ok(())
        }
    }
    let _ = writeln!(Both, "{what}");
}

/// Writes `text` to Xen's log, where Xen prefixes each line with the domain.
pub fn debug_port(text: &str) {
    let mut port = PortWriteOnly::<u8>::new(0xe9);
    for byte in text.bytes() {
        // SAFETY: Xen emulates port 0xE9 as a debug console; it has no other effect.
        unsafe { port.write(byte) };
    }
}
