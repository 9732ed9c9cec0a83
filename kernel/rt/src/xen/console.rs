//! The PV console: what `xl console` shows and types.
//!
//! Writing never waits: when nobody reads and the ring is full, text is dropped and the
//! loss is reported once there is room again (crate `vd-xenbus`).

use vd_xenbus::console::ConsoleWriter;
use vd_xenbus::held::HeldText;
use vd_xenbus::line::{Input, LineEditor};
use vd_xenbus::ring::{CONSOLE_IN, Consumer};
use xen_hypercall::{EvtchnPort, event_channel};

use super::page::Page;
use super::{XEN, events};
use crate::arch::IrqLock;

/// Longest command line.
pub const LINE: usize = 80;

struct Console {
    _there: There,
    page: Page,
    port: EvtchnPort,
    writer: ConsoleWriter,
    input: Consumer,
    editor: LineEditor<LINE>,
    /// Whether what is typed is shown.
    echo: bool,
    /// Something was taken from the ring, and the other side has not been told.
    owes_event: bool,
    /// Text that waits, while something else has the console.
    held: HeldText<HELD>,
}

/// Never 0, so that a console that is not there is all zeroes, which take no room in the image.
#[derive(Clone, Copy)]
#[repr(u8)]
enum There {
    Yes = 1,
}

/// Bytes of text that can be held back.
const HELD: usize = 4096;

static CONSOLE: IrqLock<Option<Console>> = IrqLock::new(None);

/// Takes over the ring.
pub fn init(page: Page, port: EvtchnPort) {
    let console = Console {
        _there: There::Yes,
        page,
        port,
        writer: ConsoleWriter::attach(&page),
        input: Consumer::attach(&page, CONSOLE_IN),
        editor: LineEditor::new(),
        echo: true,
        owes_event: false,
        held: HeldText::new(),
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

    /// Does something with what is held back; it says whether the reader has to hear of it.
    fn with_held(
        &mut self,
        f: impl FnOnce(&mut HeldText<HELD>, &mut ConsoleWriter, &Page) -> bool,
    ) {
        if f(&mut self.held, &mut self.writer, &self.page) {
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
            console.with_held(|held, writer, page| held.write(writer, page, text));
        }
    });
}

/// Holds back what is written from now on, up to a bound; or lets it out as room comes, and how much more there was.
pub fn hold(hold: bool) {
    CONSOLE.with(|slot| {
        if let Some(console) = slot {
            console.held.hold(hold);
            console.with_held(HeldText::drain);
        }
    });
}

/// Lets out at once what is held back, as far as there is room: nothing will look after it any more.
pub fn flush() {
    CONSOLE.with(|slot| {
        if let Some(console) = slot {
            console.with_held(HeldText::flush);
        }
    });
}

/// Whether what is typed is shown.
pub fn set_echo(echo: bool) {
    CONSOLE.with(|slot| {
        if let Some(console) = slot {
            console.echo = echo;
        }
    });
}

/// Bytes that [`write()`] and [`write_some`] would not have to drop or hold back.
pub fn room() -> usize {
    CONSOLE.with(|slot| {
        let free = slot.as_ref().filter(|it| !it.held.is_draining());
        free.map_or(0, |console| console.writer.room(&console.page))
    })
}

/// Writes as many bytes as fit, as they are, whatever is held back; says how many.
pub fn write_some(bytes: &[u8]) -> usize {
    CONSOLE.with(|slot| {
        let Some(console) = slot else { return 0 };
        let written = console.writer.write_some(&console.page, bytes);
        if written > 0 {
            console.notify();
        }
        written
    })
}

/// Takes what was typed, as it is, but nothing behind the first `last`; says how many bytes.
pub fn read_through(into: &mut [u8], last: u8) -> usize {
    CONSOLE.with(|slot| {
        let Some(console) = slot else { return 0 };
        // A ring whose indices make no sense reads as empty; there is nothing to lose.
        let read = console.input.read_through(&console.page, into, last);
        let read = read.unwrap_or(0);
        if read > 0 {
            console.notify();
        }
        read
    })
}

/// Writes `text` unless the console is in use: for the panic path.
pub fn try_write(text: &[u8]) {
    let _ = CONSOLE.try_with(|slot| {
        if let Some(console) = slot {
            console.write(text);
        }
    });
}

/// Shows text that was held back, and tells the reader of lost text, when there is room again.
pub fn service() {
    CONSOLE.with(|slot| {
        if let Some(console) = slot {
            console.with_held(|held, writer, page| {
                writer.report_loss(page) | held.drain(writer, page)
            });
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
            echo: shown,
            owes_event,
            ..
        }) = slot
        else {
            return false;
        };
        let mut byte = [0];
        // A ring whose indices make no sense reads as empty; there is nothing to lose.
        while input.read(page, &mut byte).is_ok_and(|read| read == 1) {
            let mut echoed = false;
            *owes_event = true;
            let echo = |echo: &[u8]| echoed |= *shown && writer.write(page, echo);
            let complete = match editor.feed(byte[0], echo) {
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
        // Whoever fills the ring may wait for room: told once for all that was taken, because xenconsoled takes only so
        // many events in a time.
        if core::mem::take(owes_event) {
            let _ = event_channel::send(&XEN, *port);
        }
        false
    });
    if complete {
        f(&line);
    }
    complete
}
