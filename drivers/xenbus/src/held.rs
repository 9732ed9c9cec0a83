//! Text for the PV console that waits while something else has it.
//!
//! Invariants: the oldest `N` bytes are kept, and how many more there were is told behind them; text is held, or goes to the ring behind all that
//! was held; what was held goes there as room comes, in whole lines if these fit the ring, so that none of it is dropped again.

use crate::console::ConsoleWriter;
use crate::ring::SharedPage;

/// Most bytes that go to the ring at once: a line that is longer is cut there.
const PIECE: usize = 512;

/// Text that is held back.
#[derive(Clone, Debug)]
pub struct HeldText<const N: usize> {
    text: [u8; N],
    len: usize,
    /// Bytes of it that have gone.
    gone: usize,
    lost: usize,
    holding: bool,
}

impl<const N: usize> HeldText<N> {
    /// Nothing is held back.
    pub const fn new() -> Self {
        Self {
            text: [0; N],
            len: 0,
            gone: 0,
            lost: 0,
            holding: false,
        }
    }

    /// From now on text is held back, or goes to the ring.
    pub fn hold(&mut self, hold: bool) {
        self.holding = hold;
    }

    /// Whether there is text on its way to the ring, which is nobody else's until then.
    pub fn is_draining(&self) -> bool {
        !self.holding && self.is_anything_held()
    }

    fn is_anything_held(&self) -> bool {
        self.gone < self.len || self.lost > 0
    }

    /// Writes `text` to the ring, or holds it back. Returns whether to send an event.
    pub fn write<P: SharedPage + ?Sized>(
        &mut self,
        writer: &mut ConsoleWriter,
        page: &P,
        text: &[u8],
    ) -> bool {
        let sent = self.drain(writer, page);
        if !self.holding && !self.is_anything_held() {
            return writer.write(page, text) | sent;
        }
        let end = self.len.saturating_add(text.len());
        match self.text.get_mut(self.len..end) {
            Some(room) if self.lost == 0 => {
                room.copy_from_slice(text);
                self.len = end;
            }
            _ => self.lost = self.lost.saturating_add(text.len()),
        }
        sent
    }

    /// Sends what was held back, as far as there is room. Returns whether to send an event.
    pub fn drain<P: SharedPage + ?Sized>(&mut self, writer: &mut ConsoleWriter, page: &P) -> bool {
        let mut sent = false;
        while self.is_draining() {
            let piece = self.piece();
            // A line feed becomes two characters.
            if writer.room(page) <= piece.len() {
                return sent;
            }
            sent |= writer.write(page, piece);
            self.gone = self.gone.saturating_add(piece.len());
            if self.gone >= self.len {
                writer.lose(core::mem::take(&mut self.lost));
                sent |= writer.report_loss(page);
                (self.gone, self.len) = (0, 0);
            }
        }
        sent
    }

    /// Sends it now: what does not fit is lost and reported. For when nobody will come back to this.
    pub fn flush<P: SharedPage + ?Sized>(&mut self, writer: &mut ConsoleWriter, page: &P) -> bool {
        self.holding = false;
        let rest = self.text.get(self.gone..self.len).unwrap_or(&[]);
        let sent = !rest.is_empty() && writer.write(page, rest);
        writer.lose(core::mem::take(&mut self.lost));
        (self.gone, self.len) = (0, 0);
        writer.report_loss(page) | sent
    }

    /// A line that has not gone yet, or the start of it.
    fn piece(&self) -> &[u8] {
        let rest = self.text.get(self.gone..self.len).unwrap_or(&[]);
        let rest = rest.get(..PIECE).unwrap_or(rest);
        rest.split_inclusive(|byte| *byte == b'\n')
            .next()
            .unwrap_or(&[])
    }
}

impl<const N: usize> Default for HeldText<N> {
    fn default() -> Self {
        Self::new()
    }
}
