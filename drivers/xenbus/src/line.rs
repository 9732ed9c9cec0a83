//! From typed bytes to command lines.
//!
//! Invariant: a line holds at most `N` printable ASCII characters; everything else that is typed edits the line or is
//! dropped, so what a command sees needs no further cleaning.

/// What a byte came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// Nothing yet.
    None,
    /// A whole line, without its end. Valid until the next byte.
    Line(&'a str),
    /// The line was thrown away (Ctrl-C).
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    /// After ESC.
    Started,
    /// After ESC [ or ESC O: goes on to a byte from 0x40.
    Sequence,
}

/// Puts lines together and edits them.
#[derive(Clone, Debug)]
pub struct LineEditor<const N: usize> {
    line: [u8; N],
    len: usize,
    /// The line was handed out; the next byte starts a new one.
    done: bool,
    after_cr: bool,
    escape: Escape,
}

impl<const N: usize> LineEditor<N> {
    /// An empty line.
    pub const fn new() -> Self {
        LineEditor {
            line: [0; N],
            len: 0,
            done: false,
            after_cr: false,
            escape: Escape::No,
        }
    }

    /// Takes one typed byte. `echo` gets what the terminal should show for it.
    pub fn feed(&mut self, byte: u8, mut echo: impl FnMut(&[u8])) -> Input<'_> {
        if core::mem::take(&mut self.done) {
            self.len = 0;
        }
        let after_cr = core::mem::replace(&mut self.after_cr, byte == b'\r');
        if self.swallow_escape(byte) {
            return Input::None;
        }
        match byte {
            // The line feed of a CR LF pair ends no second line.
            b'\n' if after_cr => Input::None,
            b'\r' | b'\n' => {
                echo(b"\r\n");
                self.done = true;
                Input::Line(self.text())
            }
            0x08 | 0x7f => {
                if self.len > 0 {
                    self.len = self.len.saturating_sub(1);
                    echo(b"\x08 \x08");
                }
                Input::None
            }
            // Ctrl-U: the line from its start.
            0x15 => {
                for _ in 0..core::mem::take(&mut self.len) {
                    echo(b"\x08 \x08");
                }
                Input::None
            }
            // Ctrl-C.
            0x03 => {
                self.len = 0;
                echo(b"^C\r\n");
                Input::Cancelled
            }
            0x20..=0x7e => {
                match self.line.get_mut(self.len) {
                    Some(place) => {
                        *place = byte;
                        self.len = self.len.saturating_add(1);
                        echo(&[byte]);
                    }
                    None => echo(b"\x07"),
                }
                Input::None
            }
            _ => Input::None,
        }
    }

    /// What is typed so far.
    pub fn text(&self) -> &str {
        let bytes = self.line.get(..self.len).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }

    /// Cursor keys and the like are sequences of printable bytes after ESC; none of them is part of a command.
    fn swallow_escape(&mut self, byte: u8) -> bool {
        self.escape = match (self.escape, byte) {
            (_, 0x1b) => Escape::Started,
            (Escape::Started, b'[' | b'O') => Escape::Sequence,
            (Escape::Sequence, 0x20..=0x3f) => Escape::Sequence,
            (Escape::Started, 0x20..=0x7e) | (Escape::Sequence, 0x40..=0x7e) => {
                self.escape = Escape::No;
                return true;
            }
            // Outside of a sequence; and a control byte is no part of one: it counts for itself.
            _ => {
                self.escape = Escape::No;
                return false;
            }
        };
        true
    }
}

impl<const N: usize> Default for LineEditor<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A line's command and its arguments; `None` for a blank line.
pub fn split_command(line: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let mut words = line.split_ascii_whitespace();
    Some((words.next()?, words))
}
