//! One port: its rings, its buffers that wait, and what either side knows of the other.

use alloc::boxed::Box;

use vd_virtio::fault::FaultKind;
use vd_virtio::queue::Head;
use vd_virtio::state::{BadState, Reader, Writer};
use vd_virtio::{Chain, GuestMemory, Pass, Progress, Span};

use crate::control::Message;
use crate::counters::{Counters, add};
use crate::device::PortName;
use crate::ring::Ring;

/// Bytes of the console's output that are kept until a host reads them.
pub const CONSOLE_BYTES: usize = 16 << 10;
/// Bytes of a named port's output that are taken before a host reads them.
pub const PORT_BYTES: usize = 8 << 10;
/// Bytes for a port that are taken before the driver has buffers for them.
pub const INPUT_BYTES: usize = 4 << 10;

bitflags::bitflags! {
    /// Messages that the driver has to get.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Pending: u8 {
        const ADD = 1 << 0;
        const CONSOLE = 1 << 1;
        const NAME = 1 << 2;
        const RESIZE = 1 << 3;
    }
}

/// A port.
pub(crate) struct Port {
    /// The console has none.
    pub(crate) name: Option<PortName>,
    pub(crate) output: Ring,
    pub(crate) input: Ring,
    /// A buffer of the driver that is larger than the room that was left: it waits, with so many of its bytes done.
    held: Option<(Head, u64)>,
    /// The segments of that buffer.
    segments: Box<Chain>,
    /// Bytes of the next buffer that another device has taken, before this one went on in its place.
    taken: u64,
    /// The transmit queue waits for a host to read.
    stalled: bool,
    /// The driver had no more output the last time that was looked.
    drained: bool,
    /// A host is attached.
    pub(crate) open: bool,
    /// The driver knows the port.
    pub(crate) ready: bool,
    /// Somebody in the guest has it open.
    pub(crate) guest_open: bool,
    /// How often that ended.
    pub(crate) closes: u64,
    /// What the driver was told of the host.
    told_open: bool,
    /// The host has gone and come again since: the driver has to hear of both.
    flap: bool,
    pub(crate) pending: Pending,
    /// Bytes lost since the host was told of it.
    unreported: u64,
    /// Bytes for the driver that it has thrown away by starting over.
    pub(crate) dropped: u64,
}

impl Port {
    pub(crate) fn new(name: Option<PortName>) -> Self {
        let output = if name.is_some() {
            PORT_BYTES
        } else {
            CONSOLE_BYTES
        };
        Self {
            name,
            output: Ring::new(output),
            input: Ring::new(INPUT_BYTES),
            held: None,
            segments: Box::default(),
            taken: 0,
            stalled: false,
            drained: true,
            open: false,
            ready: false,
            guest_open: false,
            closes: 0,
            told_open: false,
            flap: false,
            pending: Pending::empty(),
            unreported: 0,
            dropped: 0,
        }
    }

    pub(crate) fn is_console(&self) -> bool {
        self.name.is_none()
    }

    /// The driver starts over.
    pub(crate) fn reset(&mut self) {
        self.ready = false;
        self.set_guest_open(false);
        self.reset_transmit();
        self.told_open = false;
        self.flap = false;
        self.pending = Pending::empty();
    }

    /// Throws away what the driver has not taken, and says how many bytes that is.
    pub(crate) fn drop_input(&mut self) -> usize {
        let bytes = self.input.len();
        self.input.clear();
        add(&mut self.dropped, bytes);
        bytes
    }

    /// The driver starts over with the transmit queue: what it had given and was not taken is its own again.
    pub(crate) fn reset_transmit(&mut self) {
        self.held = None;
        self.taken = 0;
        self.stalled = false;
        self.drained = true;
    }

    /// Writes down what another device needs to go on with this port.
    pub(crate) fn save(&self, to: &mut Writer<'_>) {
        to.bool(self.ready);
        to.bool(self.guest_open);
        to.bool(self.told_open);
        to.bool(self.drained);
        to.u8(self.pending.bits());
        to.u64(self.closes);
        to.u64(self.unreported);
        to.u64(self.dropped);
        to.u64(self.held.as_ref().map_or(self.taken, |(_, done)| *done));
        for ring in [&self.output, &self.input] {
            let (first, second) = ring.pieces();
            to.nested(|to| {
                to.bytes(first);
                to.bytes(second);
            });
        }
    }

    /// Goes on with a port of another device. Nobody is attached to it.
    pub(crate) fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        self.ready = from.bool()?;
        self.guest_open = from.bool()?;
        self.told_open = from.bool()?;
        self.drained = from.bool()?;
        self.pending = Pending::from_bits(from.u8()?).ok_or(BadState::Content)?;
        self.closes = from.u64()?;
        self.unreported = from.u64()?;
        self.dropped = from.u64()?;
        self.taken = from.u64()?;
        for ring in [&mut self.output, &mut self.input] {
            ring.clear();
            let bytes = from.block()?;
            if ring.push(bytes) != bytes.len() {
                return Err(BadState::Content);
            }
        }
        Ok(())
    }

    /// The driver knows the port, and has been told nothing of it.
    pub(crate) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
        self.told_open = false;
        self.flap = false;
        self.pending = match (ready, self.is_console()) {
            (false, _) => Pending::empty(),
            (true, true) => Pending::CONSOLE | Pending::RESIZE,
            (true, false) => Pending::NAME,
        };
        if !ready {
            self.set_guest_open(false);
        }
    }

    /// Somebody in the guest has opened it, or closed it.
    pub(crate) fn set_guest_open(&mut self, open: bool) {
        if self.guest_open && !open {
            self.closes = self.closes.saturating_add(1);
            // There may be output in the queue that was not looked at yet.
            self.drained = !self.ready;
        }
        self.guest_open = open;
    }

    /// A host comes.
    pub(crate) fn attach(&mut self) {
        // What is told of the host is its presence: input of the last one that is still there is as good as this one's.
        self.flap = self.told_open && !self.open && self.input.is_empty();
        self.open = true;
    }

    /// How often the guest has closed it, when all that it had written before has been read.
    pub(crate) fn closes(&self) -> Option<u64> {
        let all = self.output.is_empty() && self.held.is_none() && self.drained;
        all.then_some(self.closes)
    }

    /// The next message for the driver.
    pub(crate) fn message(&self) -> Option<Message> {
        let pending = [
            (Pending::ADD, Message::Add),
            (Pending::CONSOLE, Message::Console),
            (Pending::NAME, Message::Name),
            (Pending::RESIZE, Message::Resize),
        ];
        let mut pending = pending.into_iter();
        let next = pending.find(|(bit, _)| self.pending.contains(*bit));
        match next {
            Some((bit, message)) if self.ready || bit == Pending::ADD => Some(message),
            _ if !self.ready => None,
            _ if self.flap => Some(Message::Open(false)),
            // The guest reads what a host has left before it hears that the host is gone.
            _ => {
                let open = self.open || self.told_open && !self.input.is_empty();
                (open != self.told_open).then_some(Message::Open(open))
            }
        }
    }

    /// The driver has got that message, or cannot get it.
    pub(crate) fn sent(&mut self, message: Message) {
        match message {
            Message::Add => self.pending.remove(Pending::ADD),
            Message::Console => self.pending.remove(Pending::CONSOLE),
            Message::Name => self.pending.remove(Pending::NAME),
            Message::Resize => self.pending.remove(Pending::RESIZE),
            Message::Open(open) => {
                self.told_open = open;
                self.flap = false;
            }
        }
    }

    /// Runs the transmit queue.
    pub(crate) fn transmit<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
        counters: &mut Counters,
    ) -> Result<Progress, FaultKind> {
        self.stalled = false;
        loop {
            if let Some((head, done)) = self.held.take() {
                pass.charge(1);
                let span = self.segments.readable();
                let left = span.split_at(done).map(|(_, left)| left);
                let copied = match left {
                    Some(left) => copy(&mut self.output, counters, pass.mem(), left)?,
                    None => 0,
                };
                let done = done.saturating_add(copied);
                if done < span.len() {
                    self.held = Some((head, done));
                    return Ok(self.stall());
                }
                pass.give_back(head, 0)?;
            }
            if !self.is_console() && self.output.free() == 0 {
                return Ok(self.stall());
            }
            let Some(head) = pass.take(chain)? else {
                self.drained = pass.has_budget();
                return Ok(Progress::Drained);
            };
            let span = chain.readable();
            if span.is_empty() {
                add(&mut counters.errors, 1);
            }
            if self.is_console() {
                self.take_all(counters, pass.mem(), span)?;
                pass.give_back(head, 0)?;
                continue;
            }
            // If the driver has put another buffer there meanwhile, that one is its own to lose.
            let before = core::mem::take(&mut self.taken).min(span.len());
            let (_, left) = span.split_at(before).unwrap_or((span, span));
            let copied = copy(&mut self.output, counters, pass.mem(), left)?;
            let done = before.saturating_add(copied);
            if done == span.len() {
                pass.give_back(head, 0)?;
            } else {
                self.held = Some((head, done));
                core::mem::swap(&mut *self.segments, chain);
                return Ok(self.stall());
            }
        }
    }

    fn stall(&mut self) -> Progress {
        self.stalled = true;
        self.drained = false;
        Progress::Waiting
    }

    /// Takes all of `span`; the oldest bytes make room for the youngest.
    fn take_all<M: GuestMemory + ?Sized>(
        &mut self,
        counters: &mut Counters,
        mem: &M,
        span: Span<'_>,
    ) -> Result<(), FaultKind> {
        let capacity = u64::try_from(self.output.capacity()).unwrap_or(u64::MAX);
        let skipped = span.len().saturating_sub(capacity);
        let (_, rest) = span.split_at(skipped).unwrap_or((span, span));
        let needed = usize::try_from(rest.len()).unwrap_or(usize::MAX);
        let pushed_out = needed.saturating_sub(self.output.free());
        self.output.skip(pushed_out);
        counters.out_bytes = counters.out_bytes.saturating_add(skipped);
        let lost = skipped.saturating_add(u64::try_from(pushed_out).unwrap_or(u64::MAX));
        self.lose(counters, lost);
        copy(&mut self.output, counters, mem, rest)?;
        Ok(())
    }

    fn lose(&mut self, counters: &mut Counters, bytes: u64) {
        counters.out_lost = counters.out_lost.saturating_add(bytes);
        self.unreported = self.unreported.saturating_add(bytes);
    }

    /// A character without a queue.
    pub(crate) fn emergency(&mut self, character: u8, counters: &mut Counters) {
        if self.output.free() == 0 {
            self.output.skip(1);
            self.lose(counters, 1);
        }
        add(&mut counters.out_bytes, self.output.push(&[character]));
        add(&mut counters.emergency, 1);
    }

    /// Runs the receive queue.
    pub(crate) fn receive<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
        counters: &mut Counters,
    ) -> Result<Progress, FaultKind> {
        while self.guest_open && !self.input.is_empty() {
            let Some(head) = pass.take(chain)? else {
                return Ok(Progress::Drained);
            };
            let room = usize::try_from(chain.writable().len()).unwrap_or(usize::MAX);
            if room == 0 {
                add(&mut counters.errors, 1);
            }
            let (mut done, mut rest) = (0_usize, chain.writable());
            let (first, second) = self.input.pieces();
            for piece in [first, second] {
                let len = piece.len().min(room.saturating_sub(done));
                let bytes = piece.get(..len).unwrap_or(&[]);
                let Some((here, more)) = rest.split_at(bytes.len() as u64) else {
                    break;
                };
                here.write(pass.mem(), bytes)?;
                rest = more;
                done = done.saturating_add(len);
            }
            pass.give_back(head, u32::try_from(done).unwrap_or(u32::MAX))?;
            self.input.skip(done);
            add(&mut counters.in_given, done);
        }
        // It is woken when there is input, or a reader.
        Ok(Progress::Waiting)
    }

    /// The host reads. Returns how many bytes there were, and whether the transmit queue can go on.
    pub(crate) fn read(&mut self, into: &mut [u8], counters: &mut Counters) -> (usize, bool) {
        let read = self.output.pop(into);
        add(&mut counters.out_read, read);
        let wake = read > 0 && core::mem::take(&mut self.stalled);
        (read, wake)
    }

    /// Bytes that were lost since this was asked last: they came before what is read next.
    pub(crate) fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.unreported)
    }
}

/// Copies as much of `from` as fits, and says how much that was.
fn copy<M: GuestMemory + ?Sized>(
    to: &mut Ring,
    counters: &mut Counters,
    mem: &M,
    from: Span<'_>,
) -> Result<u64, FaultKind> {
    let (mut rest, mut done) = (from, 0_u64);
    while !rest.is_empty() {
        let spare = to.spare();
        let len = usize::try_from(rest.len()).map_or(spare.len(), |len| len.min(spare.len()));
        let Some(((here, more), into)) = rest.split_at(len as u64).zip(spare.get_mut(..len)) else {
            break;
        };
        if len == 0 {
            break;
        }
        here.read(mem, into)?;
        to.filled(len);
        add(&mut counters.out_bytes, len);
        done = done.saturating_add(len as u64);
        rest = more;
    }
    Ok(done)
}
