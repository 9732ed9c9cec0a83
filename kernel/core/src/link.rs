//! A port of a console device, linked to a program in dom0 by lines on the PV console ([`vd_xenbus::link`]).
//!
//! Invariants: a line is written whole or not at all; no more is sent than the program has granted, and no more granted than
//! there is room for; each byte of the guest that is read here is in exactly one line; whatever a guest makes this side say costs it
//! bytes that were granted; lines with bytes leave room for the others, so that a guest that prints does not keep the program from hearing
//! of the end.

use core::fmt::Write;

use vd_console::ConsoleDevice;
use vd_xenbus::link::{Encoded, Reply, WINDOW, decode, encoded_len, fitting};

/// Most bytes in a line.
const PIECE: usize = 750;
/// Fewer than that are not sent for want of room: there will be more.
const LEAST: usize = 192;
/// Characters around the bytes of a line: two before it and the line's end.
const AROUND: usize = 4;
/// Longest line but those with bytes.
const SHORT: usize = 120;
/// Characters that lines with bytes leave free: for what has to be said of loss, credit and the end.
const SPARE: usize = 2 * SHORT;

/// Where lines go.
pub trait Output {
    /// Characters that can be written now.
    fn room(&self) -> usize;

    /// Writes text for which there is room; each line feed counts as two characters.
    fn write(&mut self, text: &str);
}

/// A linked port.
#[derive(Debug)]
pub struct Link {
    nonce: u64,
    port: usize,
    /// The program has been told.
    announced: bool,
    /// Bytes that may be sent.
    credit: u64,
    sent: u64,
    /// Bytes that the program may have sent in all, and those that it has.
    granted: u64,
    taken: u64,
    /// Loss that the program is to be told of.
    lost: u64,
    ticked: bool,
    /// How often the guest had closed the port, as far as was told.
    closes: u64,
    /// What had been sent when that was told last.
    closed_at: Option<u64>,
    /// Bytes for the guest that its driver had thrown away before.
    dropped: u64,
}

/// What is left to say when a link has ended, or did not come about.
#[derive(Debug)]
pub struct Farewell {
    /// To be granted first: the program may want to know what the guest has not read.
    more: u64,
    last: Reply<'static>,
}

impl Farewell {
    /// To a program that gets no link.
    pub fn refusal(nonce: u64, why: &'static str) -> Self {
        let last = Reply::Refused { nonce, why };
        Self { more: 0, last }
    }

    /// Says it, as far as there is room. Returns whether that was all.
    pub fn tell(&mut self, out: &mut impl Output) -> bool {
        if self.more > 0 && !put(out, &Reply::Credit(self.more)) {
            return false;
        }
        self.more = 0;
        put(out, &self.last)
    }
}

impl Link {
    /// Attaches to a port, if there is one of this number.
    pub fn new(device: &mut ConsoleDevice, port: usize, nonce: u64) -> Option<Self> {
        // What the guest has closed before is nothing to this program.
        let (closes, dropped) = (device.closed(port), device.dropped(port));
        device.attach(port).then_some(Self {
            nonce,
            port,
            announced: false,
            credit: WINDOW,
            sent: 0,
            granted: 0,
            taken: 0,
            lost: 0,
            ticked: false,
            closes,
            closed_at: None,
            dropped,
        })
    }

    /// Tells the program what there is to tell, as far as there is room.
    pub fn pump(&mut self, device: &mut ConsoleDevice, out: &mut impl Output) {
        let room = u64::try_from(device.room(self.port)).unwrap_or(0);
        let capacity = u64::try_from(device.capacity(self.port)).unwrap_or(0);
        if !self.announced {
            let reply = Reply::Linked {
                nonce: self.nonce,
                credit: room,
                capacity,
            };
            if !put(out, &reply) {
                return;
            }
            self.announced = true;
            self.granted = room;
        }
        // Before the guest's bytes: however much it writes, the program may write too.
        let more = self.to_grant(device);
        let ticked = core::mem::take(&mut self.ticked);
        if more >= capacity / 2 || ticked && more > 0 {
            self.grant_more(more, out);
        }
        while self.send(device, out) {}
        if let Some(closes) = device.closes(self.port)
            && closes != self.closes
            // The program knows already if no byte has come since.
            && (self.closed_at == Some(self.sent) || put(out, &Reply::Closed))
        {
            self.closes = closes;
            self.closed_at = Some(self.sent);
        }
    }

    /// Some time has passed: what there is to grant is granted now, however little it is, so that the program learns that the
    /// guest has read everything.
    pub fn tick(&mut self) {
        self.ticked = true;
    }

    /// Bytes that there is room for, and that were not granted yet.
    fn to_grant(&self, device: &ConsoleDevice) -> u64 {
        let room = u64::try_from(device.room(self.port)).unwrap_or(0);
        self.taken.saturating_add(room).saturating_sub(self.granted)
    }

    fn grant_more(&mut self, bytes: u64, out: &mut impl Output) {
        if put(out, &Reply::Credit(bytes)) {
            self.granted = self.granted.saturating_add(bytes);
        }
    }

    /// Sends a line of bytes; returns whether there may be another one.
    fn send(&mut self, device: &mut ConsoleDevice, out: &mut impl Output) -> bool {
        let room = fitting(out.room().saturating_sub(AROUND + SPARE));
        let wanted = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let wanted = wanted.min(device.unread(self.port)).min(PIECE);
        if wanted == 0 || room < wanted.min(LEAST) {
            return false;
        }
        // Behind what was lost there always is something: it goes with that, so that it has its price.
        self.lost = self.lost.saturating_add(device.take_lost(self.port));
        if self.lost > 0 && put(out, &Reply::Lost(self.lost)) {
            self.lost = 0;
        }
        let mut bytes = [0; PIECE];
        let bytes = bytes.get_mut(..room.min(wanted)).unwrap_or(&mut []);
        let read = device.read(self.port, bytes);
        let bytes = bytes.get(..read).unwrap_or(&[]);
        let mut line = heapless::String::<{ encoded_len(PIECE) + AROUND }>::new();
        let _ = writeln!(line, "@={}", Encoded(bytes));
        out.write(&line);
        let read = u64::try_from(read).unwrap_or(0);
        self.credit = self.credit.saturating_sub(read);
        self.sent = self.sent.saturating_add(read);
        read > 0
    }

    /// The program sends bytes.
    ///
    /// # Errors
    /// What is wrong with them: the link has to end.
    pub fn take(&mut self, device: &mut ConsoleDevice, data: &str) -> Result<(), &'static str> {
        let mut bytes = [0; 80];
        let len = decode(data, &mut bytes).ok_or("bytes that make no sense")?;
        let bytes = bytes.get(..len).unwrap_or(&[]);
        let taken = device.write(self.port, bytes);
        self.taken = self.taken.saturating_add(u64::try_from(taken).unwrap_or(0));
        if taken < len {
            return Err("more bytes than were granted");
        }
        Ok(())
    }

    /// The program grants bytes.
    pub fn grant(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes).min(WINDOW);
    }

    /// Detaches. What there is to say of it is not lost, however little room there is now.
    pub fn end(self, device: Option<&mut ConsoleDevice>, why: &'static str) -> Farewell {
        let (mut more, mut dropped) = (0, 0);
        if let Some(device) = device {
            more = self.to_grant(device);
            dropped = device.dropped(self.port).saturating_sub(self.dropped);
            device.detach(self.port);
        }
        let last = Reply::Ended {
            sent: self.sent,
            taken: self.taken.saturating_sub(dropped),
            why,
        };
        Farewell { more, last }
    }
}

/// Writes a line without bytes, if there is room.
fn put(out: &mut impl Output, reply: &Reply<'_>) -> bool {
    let mut line = heapless::String::<SHORT>::new();
    // What is too long is cut.
    let _ = write!(line, "{reply}");
    let needed = line.len().saturating_add(2);
    if out.room() < needed || line.push('\n').is_err() {
        return false;
    }
    out.write(&line);
    true
}

#[cfg(test)]
mod tests;
