//! What is said between vdom and the driver domain, apart from files and time.
//!
//! Invariants: no more is sent than was granted; of what the driver domain's console shows, only whole lines with the mark and, until
//! the port is linked, with this program's number count.

use vd_xenbus::link::{Encoded, PAYLOAD, Reply, Request, WINDOW, decode};

/// Longest line that is kept: the driver domain's own are shorter.
const LINE: usize = 4096;

/// Where a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Asking,
    Linked,
    Ended { sent: u64, taken: u64 },
}

/// Something that the operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes were lost before those that come with this.
    Lost(u64),
    /// The guest has read something, or closed the port.
    Progress,
}

/// A link.
#[derive(Debug)]
pub(crate) struct Session {
    nonce: u64,
    state: State,
    /// What has come of a line.
    line: Vec<u8>,
    /// For the driver domain.
    pub(crate) output: Vec<u8>,
    /// Bytes that may be sent, and that may be sent when the guest has read everything.
    credit: u64,
    capacity: u64,
    sent: u64,
    received: u64,
    /// Bytes of the guest that were lost since the first that came.
    lost: u64,
    /// Bytes that were shown and not granted again yet.
    owed: u64,
    /// The guest has closed the port, and written nothing since.
    closed: bool,
    leaving: bool,
}

impl Session {
    /// Asks for a port.
    pub(crate) fn new(slot: u8, port: usize, nonce: u64) -> Self {
        // Ctrl-^ ends what somebody at `xl console` has left attached, Ctrl-U removes a line that was begun.
        let output = format!("\x1e\x15link {slot} {port} {nonce}\r").into_bytes();
        Self {
            nonce,
            state: State::Asking,
            line: Vec::new(),
            output,
            credit: 0,
            capacity: 0,
            sent: 0,
            received: 0,
            lost: 0,
            owed: 0,
            closed: false,
            leaving: false,
        }
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.state == State::Linked
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// Whether the guest has closed the port, and written nothing since.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes that were sent and that the guest has not read.
    pub(crate) fn unread(&self) -> u64 {
        self.capacity.saturating_sub(self.credit)
    }

    fn say(&mut self, request: &Request<'_>) {
        self.output
            .extend_from_slice(format!("{request}\r").as_bytes());
    }

    /// Sends as many of these bytes as were granted, and says how many.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> usize {
        if !self.is_linked() {
            return 0;
        }
        let len =
            usize::try_from(self.credit).map_or(bytes.len(), |credit| credit.min(bytes.len()));
        for piece in bytes[..len].chunks(PAYLOAD) {
            self.say(&Request::Data(&Encoded(piece).to_string()));
        }
        self.credit -= len as u64;
        self.sent += len as u64;
        len
    }

    /// The console has another size.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.say(&Request::Resize(columns, rows));
    }

    /// So many bytes have got to where they go.
    pub(crate) fn shown(&mut self, bytes: usize) {
        self.owed += bytes as u64;
        if self.owed >= WINDOW / 4 && self.is_linked() {
            self.say(&Request::Credit(self.owed));
            self.owed = 0;
        }
    }

    /// Ends the link, if it has not ended. One that was asked for may come about yet.
    pub(crate) fn leave(&mut self) {
        if !self.leaving && !self.has_ended() {
            self.say(&Request::End);
        }
        self.leaving = true;
    }

    /// Takes what the driver domain's console shows; the guest's bytes go to `into`.
    ///
    /// # Errors
    /// Why the link has ended, or was refused.
    pub(crate) fn feed(&mut self, bytes: &[u8], into: &mut Vec<u8>) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let line = str::from_utf8(&line).unwrap_or("");
                    if let Some(reply) = Reply::parse(line) {
                        events.extend(self.take(&reply, into)?);
                    }
                }
                _ if self.line.len() < LINE => self.line.push(*byte),
                _ => {}
            }
        }
        Ok(events)
    }

    fn take(&mut self, reply: &Reply<'_>, into: &mut Vec<u8>) -> Result<Option<Event>, String> {
        if self.state == State::Asking {
            match *reply {
                Reply::Linked {
                    nonce,
                    credit,
                    capacity,
                } if nonce == self.nonce => {
                    self.state = State::Linked;
                    (self.credit, self.capacity) = (credit, capacity);
                }
                Reply::Refused { nonce, why } if nonce == self.nonce => {
                    let (sent, taken) = (0, 0);
                    self.state = State::Ended { sent, taken };
                    return Err(format!("the driver domain refuses: {why}"));
                }
                // Of an earlier link: the console keeps what nobody has read.
                _ => {}
            }
            return Ok(None);
        }
        match *reply {
            Reply::Data(text) => {
                let mut bytes = vec![0; text.len()];
                let len = decode(text, &mut bytes).ok_or("a line of its console is garbled")?;
                into.extend_from_slice(&bytes[..len]);
                self.received += len as u64;
                self.closed = false;
                Ok(None)
            }
            Reply::Credit(bytes) => {
                self.credit = self.credit.saturating_add(bytes);
                Ok(Some(Event::Progress))
            }
            Reply::Lost(bytes) => {
                // What was lost before anybody came is nobody's loss.
                if self.received > 0 {
                    self.lost = self.lost.saturating_add(bytes);
                }
                Ok(Some(Event::Lost(bytes)))
            }
            Reply::Closed => {
                self.closed = true;
                Ok(Some(Event::Progress))
            }
            Reply::Ended { sent, taken, why } => {
                self.state = State::Ended { sent, taken };
                if self.leaving {
                    Ok(None)
                } else {
                    Err(format!("the driver domain has ended this: {why}"))
                }
            }
            Reply::Linked { .. } | Reply::Refused { .. } => Ok(None),
        }
    }

    /// Compares what both sides have counted.
    ///
    /// # Errors
    /// What was lost, and what may be done about it.
    pub(crate) fn check(&self) -> Result<(), (String, &'static str)> {
        let State::Ended { sent, taken } = self.state else {
            return Ok(());
        };
        if (sent, taken) != (self.received, self.sent) {
            let what = format!(
                "bytes were lost on the way: of {sent} from the guest came {}, of {} to it {taken}",
                self.received, self.sent
            );
            let remedy = "try again: the guest's driver has started over (vdom stats: in-dropped), or something else has read or written at the driver domain's console";
            return Err((what, remedy));
        }
        if self.lost > 0 {
            let what = format!("{} bytes of the guest's output were lost", self.lost);
            let remedy =
                "let the guest print more slowly, or use a named port, which loses nothing";
            return Err((what, remedy));
        }
        Ok(())
    }
}

/// The file that `xl console` locks for a domain.
pub(crate) fn lock_of_xl(domain: u16) -> String {
    format!("/var/lock/xenconsole.{domain}")
}
