//! The receive buffers of one queue, and writing a frame into them.
//!
//! Invariants: buffers are used in the order in which the driver gave them; a frame is written into them wholly before
//! they count as used, so that one that fails in between leaves nothing behind that the driver is told of; there are
//! never more than [`BUFFERS`] and [`PIECES`].

use alloc::collections::VecDeque;

use vd_virtio::mem::CopyError;
use vd_virtio::{GuestMemory, MemError};

use crate::checksum::Sum;
use crate::header::{HEADER, NetHeader};
use crate::place::{Frames, Owner, Piece, Place};

/// Most buffers that are taken from a queue before they are used.
pub(crate) const BUFFERS: usize = 128;
/// Most pieces of one buffer that are used; more pieces than the largest frame has pages.
const BUFFER_PIECES: usize = 64;
/// Most pieces of all buffers.
const PIECES: usize = 512;
/// Bytes that are looked at in one go where a checksum is computed.
const LOOK: usize = 1024;

#[derive(Debug)]
struct Buffer {
    owner: Owner,
    pieces: u16,
    room: usize,
}

/// A frame as a receiver gets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: NetHeader,
    /// Its start.
    pub(crate) start: &'a [u8],
    /// Its rest is in these pieces of the sender's memory.
    pub(crate) pieces: &'a [Piece],
    /// Bytes of the pieces that come before the rest.
    pub(crate) skip: usize,
    /// Bytes of the rest.
    pub(crate) rest: usize,
    /// Where a checksum starts, and where it goes.
    pub(crate) checksum: Option<(usize, usize)>,
}

impl Frame<'_> {
    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.start.len().saturating_add(self.rest)
    }

    /// Calls `f` with each piece of the rest.
    fn each_piece<E>(&self, mut f: impl FnMut(Place, usize) -> Result<(), E>) -> Result<(), E> {
        let (mut skip, mut left) = (self.skip, self.rest);
        for piece in self.pieces {
            let len = piece.len();
            let here = len.saturating_sub(skip).min(left);
            if here != 0 {
                f(piece.at.add(skip), here)?;
                left = left.saturating_sub(here);
            }
            skip = skip.saturating_sub(len);
        }
        Ok(())
    }
}

/// Why a frame was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// There are too few buffers.
    NoRoom,
    /// It does not fit the buffer that it has to fit.
    TooLong,
    /// It is not, or not wholly, in RAM: the sender's fault.
    Source(MemError),
    /// The receiver's buffer is not RAM.
    Target(MemError),
}

impl From<CopyError> for Undelivered {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => Self::Source(error),
            CopyError::Target(error) => Self::Target(error),
        }
    }
}

/// The buffers of one queue.
#[derive(Debug)]
pub(crate) struct Buffers {
    pieces: VecDeque<Piece>,
    buffers: VecDeque<Buffer>,
    used: VecDeque<(Owner, u32)>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            pieces: VecDeque::with_capacity(PIECES.saturating_add(BUFFER_PIECES)),
            buffers: VecDeque::with_capacity(BUFFERS),
            used: VecDeque::with_capacity(BUFFERS),
        }
    }

    /// Whether another one can be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.pieces.len() <= PIECES && self.buffers.len().saturating_add(self.used.len()) < BUFFERS
    }

    /// Whether the driver cannot give more than there are, of `most` that it has.
    pub(crate) fn are_all(&self, most: usize) -> bool {
        self.pieces.len() > PIECES || self.buffers.len() >= most.min(BUFFERS)
    }

    /// Takes one.
    pub(crate) fn push(&mut self, owner: Owner, writable: impl Iterator<Item = Piece>) {
        let (mut pieces, mut room) = (0u16, 0usize);
        for piece in writable.take(BUFFER_PIECES) {
            self.pieces.push_back(piece);
            pieces = pieces.saturating_add(1);
            room = room.saturating_add(piece.len());
        }
        self.buffers.push_back(Buffer {
            owner,
            pieces,
            room,
        });
    }

    /// Those that hold a frame, in order, with the bytes written.
    pub(crate) fn next_used(&mut self) -> Option<(Owner, u32)> {
        self.used.pop_front()
    }

    /// Whether there are any to give back.
    pub(crate) fn has_used(&self) -> bool {
        !self.used.is_empty()
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.buffers.clear();
        self.used.clear();
    }

    /// How many buffers a frame of this length takes, if there are enough. Without `mergeable` it has to fit one.
    fn plan(&self, frame: usize, mergeable: bool) -> Result<usize, Undelivered> {
        let mut rooms = self.buffers.iter().map(|buffer| buffer.room);
        let (mut left, mut taken) = (frame.saturating_add(HEADER), 0usize);
        while left != 0 {
            let room = rooms.next().ok_or(Undelivered::NoRoom)?;
            if room < left && !mergeable {
                return Err(Undelivered::TooLong);
            }
            left = left.saturating_sub(room);
            taken = taken.saturating_add(1);
        }
        Ok(taken)
    }

    /// Copies a frame into as many buffers as it takes.
    pub(crate) fn deliver<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        frame: &Frame<'_>,
        mergeable: bool,
    ) -> Result<(), Undelivered> {
        let count = self.plan(frame.len(), mergeable)?;
        let mut header = frame.header;
        header.num_buffers = u16::try_from(count).unwrap_or(1);
        let target = Undelivered::Target;
        let mut cursor = Cursor::new(&self.pieces);
        cursor.write(mem, &header.encode()).map_err(target)?;
        cursor.write(mem, frame.start).map_err(target)?;
        match frame.checksum {
            None => frame.each_piece(|from, len| cursor.copy(mem, from, len))?,
            Some((start, field)) => {
                let sum = summing(mem, frame, start, &mut cursor)?;
                let mut cursor = Cursor::new(&self.pieces);
                cursor.skip(HEADER.saturating_add(field));
                let sum = sum.checksum().to_be_bytes();
                cursor.write(mem, &sum).map_err(target)?;
            }
        }
        self.use_up(count, frame.len().saturating_add(HEADER));
        Ok(())
    }

    fn use_up(&mut self, count: usize, bytes: usize) {
        let mut left = bytes;
        for buffer in self.buffers.drain(..count.min(self.buffers.len())) {
            let written = buffer.room.min(left);
            left = left.saturating_sub(written);
            let pieces = usize::from(buffer.pieces).min(self.pieces.len());
            self.pieces.drain(..pieces);
            self.used
                .push_back((buffer.owner, u32::try_from(written).unwrap_or(u32::MAX)));
        }
    }
}

/// Copies the rest of a frame, and sums up what of the frame is at `from` and later.
fn summing<M: GuestMemory + ?Sized>(
    mem: &Frames<'_, M>,
    frame: &Frame<'_>,
    from: usize,
    cursor: &mut Cursor<'_>,
) -> Result<Sum, Undelivered> {
    let mut sum = Sum::default();
    let mut before = from;
    let mut add = |bytes: &[u8]| {
        sum.add(bytes.get(before..).unwrap_or(&[]));
        before = before.saturating_sub(bytes.len());
    };
    add(frame.start);
    let mut look = [0; LOOK];
    frame.each_piece(|addr, len| {
        let (mut at, mut left) = (addr, len);
        while left != 0 {
            let here = left.min(LOOK);
            let bytes = look.get_mut(..here).unwrap_or(&mut []);
            mem.read(at, bytes).map_err(Undelivered::Source)?;
            add(bytes);
            cursor.write(mem, bytes).map_err(Undelivered::Target)?;
            at = at.add(here);
            left = left.saturating_sub(here);
        }
        Ok::<_, Undelivered>(())
    })?;
    Ok(sum)
}

/// A place in the pieces, which moves on.
struct Cursor<'a> {
    pieces: &'a VecDeque<Piece>,
    index: usize,
    used: u32,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a VecDeque<Piece>) -> Self {
        Self {
            pieces,
            index: 0,
            used: 0,
        }
    }

    /// The next at most `max` bytes in one piece; None if `max` is 0 or there is nothing left.
    fn step(&mut self, max: usize) -> Option<(Place, usize)> {
        let piece = self.pieces.get(self.index)?;
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let here = piece.len.saturating_sub(self.used).min(max);
        if max == 0 {
            return None;
        }
        let at = piece.at.add(usize::try_from(self.used).unwrap_or(0));
        self.used = self.used.saturating_add(here);
        if self.used >= piece.len {
            self.index = self.index.saturating_add(1);
            self.used = 0;
        }
        Some((at, usize::try_from(here).unwrap_or(0)))
    }

    fn skip(&mut self, bytes: usize) {
        let mut left = bytes;
        while let Some((_, here)) = self.step(left) {
            left = left.saturating_sub(here);
        }
    }

    fn write<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        bytes: &[u8],
    ) -> Result<(), MemError> {
        let mut rest = bytes;
        while let Some((to, len)) = self.step(rest.len()) {
            let Some((here, more)) = rest.split_at_checked(len) else {
                break;
            };
            mem.write(to, here)?;
            rest = more;
        }
        Ok(())
    }

    fn copy<M: GuestMemory + ?Sized>(
        &mut self,
        mem: &Frames<'_, M>,
        from: Place,
        len: usize,
    ) -> Result<(), CopyError> {
        let (mut from, mut left) = (from, len);
        while let Some((to, here)) = self.step(left) {
            mem.copy(from, to, here)?;
            from = from.add(here);
            left = left.saturating_sub(here);
        }
        Ok(())
    }
}
