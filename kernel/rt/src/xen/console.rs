//! The PV console: what `xl console` shows and types.
//!
//! Writing never waits: when nobody reads and the ring is full, text is dropped and the
//! loss is reported once there is room again (crate `vd-xenbus`).

use vd_xenbus::console::ConsoleWriter;
use vd_xenbus::line::{Input, LineEditor};
use vd_xenbus::ring::{CONSOLE_IN, Consumer};
use xen_hypercall::{EvtchnPort, event_channel};

use super::page::Page;
use super::{XEN, events};
use crate::arch::IrqLock;

/// Longest command line.
pub const LINE: usize = 80;

struct Console {
    page: Page,
    port: EvtchnPort,
    writer: ConsoleWriter,
    input: Consumer,
    editor: LineEditor<LINE>,
}

static CONSOLE: IrqLock<Option<Console>> = IrqLock::new(None);

/// Takes over the ring.
pub fn init(page: Page, port: EvtchnPort) {
    let console = Console {
        page,
        port,
        writer: ConsoleWriter::attach(&page),
        input: Consumer::attach(&page, CONSOLE_IN),
        editor: LineEditor::new(),
    };
    CONSOLE.with(|slot| *slot = Some(console));
}

/// Lets the ring's events through; before that, output works and input waits.
pub fn listen() -> Result<(), xen_hypercall::Errno> {
    match CONSOLE.with(|slot| slot.as_ref().map(|console| console.port)) {
        Some(port) => events::listen(port, events::Source::Flag(events::Happened::CONSOLE)),
        None => Ok(()),
    }
}

impl Console {
    fn write(&mut self, text: &[u8]) {
        if self.writer.write(&self.page, text) {
            self.notify();
        }
    }

    fn notify(&self) {
        // Fails only when the console is gone; there is nobody to tell.
        let _ = event_channel::send(&XEN, self.port);
    }
}

/// Writes `text`; each line feed becomes a line end.
pub fn write(text: &[u8]) {
    CONSOLE.with(|slot| {
        if let Some(console) = slot {
            console.write(text);
        }
    });
}

/// Writes `text` unless the console is in use: for the panic path.
pub fn try_write(text: &[u8]) {
    let _ = CONSOLE.try_with(|slot| {
        if let Some(console) = slot {
            console.write(text);
        }
    });
}

/// Tells the reader of lost text when there is room again.
pub fn service() {
    CONSOLE.with(|slot| {
        if let Some(console) = slot
            && console.writer.report_loss(&console.page)
        {
            console.notify();
        }
    });
}

/// Takes what was typed and gives the first complete line to `f`. Returns whether there may be
/// more.
pub fn read_line(f: impl FnOnce(&str)) -> bool {
    let mut line = heapless::String::<LINE>::new();
    let complete = CONSOLE.with(|slot| {
        let Some(Console {
            page,
            port,
            writer,
            input,
            editor,
        }) = slot
        else {
            return false;
        };
        let mut byte = [0];
        // A ring whose indices make no sense reads as empty; there is nothing to lose.
        while input.read(page, &mut byte).is_ok_and(|read| read == 1) {
            let mut echoed = false;
            let complete = match editor.feed(byte[0], |echo| echoed |= writer.write(page, echo)) {
                Input::Line(text) => {
                    let _ = line.push_str(text);
                    true
                }
                Input::None | Input::Cancelled => false,
            };
            if echoed {
                let _ = event_channel::send(&XEN, *port);
            }
            if complete {
                return true;
            }
        }
        false
    });
    if complete {
        f(&line);
    }
    complete
}
