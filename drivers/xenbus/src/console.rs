//! Writing to the PV console without ever waiting for it.
//!
//! Invariant: a write takes what fits and drops the rest, and the reader is told how many bytes were dropped before the
//! next byte reaches it. A console that nobody reads costs nothing but the count.

use crate::ring::{CONSOLE_OUT, Producer, SharedPage};

/// The output side of a PV console page.
#[derive(Clone, Debug)]
pub struct ConsoleWriter {
    out: Producer,
    /// Bytes dropped and not reported yet.
    unreported: u64,
    lost: u64,
    ring_errors: u64,
}

impl ConsoleWriter {
    /// Takes over the ring where it stands. A panic handler may attach again: nothing is lost but the drop count.
    pub fn attach<P: SharedPage + ?Sized>(page: &P) -> Self {
        ConsoleWriter {
            out: Producer::attach(page, CONSOLE_OUT),
            unreported: 0,
            lost: 0,
            ring_errors: 0,
        }
    }

    /// Writes `bytes`, with a carriage return before each line feed (the reader's terminal is in raw mode). Returns
    /// whether anything was put into the ring, that is, whether to send an event.
    pub fn write<P: SharedPage + ?Sized>(&mut self, page: &P, bytes: &[u8]) -> bool {
        let told = self.report_loss(page);
        if self.unreported > 0 {
            self.drop_bytes(bytes.len());
            return told;
        }
        let mut wrote = told;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (chunk, end, next) = split_line(rest);
            let put = self.put(page, chunk);
            wrote |= put > 0;
            if put < chunk.len() {
                self.drop_bytes(rest.len().saturating_sub(put));
                break;
            }
            if end {
                // Both or none: a lone carriage return would make the next line overwrite this one.
                if self.out.free(page).is_ok_and(|free| free < 2) {
                    self.drop_bytes(rest.len().saturating_sub(put));
                    break;
                }
                self.put(page, b"\r\n");
                wrote = true;
            }
            rest = next;
        }
        wrote
    }

    /// Tells the reader of dropped bytes, if there are any and the message fits. For idle moments; [`write`] does it
    /// too.
    ///
    /// [`write`]: ConsoleWriter::write
    pub fn report_loss<P: SharedPage + ?Sized>(&mut self, page: &P) -> bool {
        if self.unreported == 0 {
            return false;
        }
        let mut message = Message::new();
        let _ = core::fmt::write(
            &mut message,
            format_args!("\r\n[console: {} bytes lost]\r\n", self.unreported),
        );
        let text = message.bytes();
        match self.out.free(page) {
            Ok(free) if usize::try_from(free).is_ok_and(|free| free >= text.len()) => {
                self.put(page, text);
                self.unreported = 0;
                true
            }
            Ok(_) => false,
            Err(_) => {
                self.ring_errors = self.ring_errors.wrapping_add(1);
                false
            }
        }
    }

    /// The caller has dropped so many bytes before they got here.
    pub fn lose(&mut self, bytes: usize) {
        self.drop_bytes(bytes);
    }

    /// Bytes that fit as they are, without a word of loss before them.
    pub fn room<P: SharedPage + ?Sized>(&self, page: &P) -> usize {
        match self.out.free(page) {
            Ok(free) if self.unreported == 0 => usize::try_from(free).unwrap_or(0),
            _ => 0,
        }
    }

    /// Writes as many bytes as fit, as they are, and says how many. What does not fit is not lost.
    pub fn write_some<P: SharedPage + ?Sized>(&mut self, page: &P, bytes: &[u8]) -> usize {
        let room = self.room(page).min(bytes.len());
        self.put(page, bytes.get(..room).unwrap_or(&[]))
    }

    /// Bytes dropped so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How often the reader's index was impossible.
    pub fn ring_errors(&self) -> u64 {
        self.ring_errors
    }

    fn put<P: SharedPage + ?Sized>(&mut self, page: &P, bytes: &[u8]) -> usize {
        match self.out.write(page, bytes) {
            Ok(n) => n,
            Err(_) => {
                self.ring_errors = self.ring_errors.wrapping_add(1);
                0
            }
        }
    }

    fn drop_bytes(&mut self, n: usize) {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        self.unreported = self.unreported.saturating_add(n);
        self.lost = self.lost.saturating_add(n);
    }
}

/// The bytes up to the first line feed, whether there was one, and what follows it.
fn split_line(bytes: &[u8]) -> (&[u8], bool, &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        None => (bytes, false, &[]),
        Some(at) => {
            let next = bytes.get(at.saturating_add(1)..).unwrap_or(&[]);
            (bytes.get(..at).unwrap_or(&[]), true, next)
        }
    }
}

/// Room for the loss message: its text and 20 digits.
struct Message {
    bytes: [u8; 64],
    len: usize,
}

impl Message {
    fn new() -> Self {
        Message {
            bytes: [0; 64],
            len: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

impl core::fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len.saturating_add(text.len());
        let room = self.bytes.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
