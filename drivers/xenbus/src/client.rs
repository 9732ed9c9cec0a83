//! The xenstore client without I/O: bytes in, bytes out, replies and watch events.
//!
//! Invariants:
//! - at most [`MAX_OUTSTANDING`] requests are under way, so replies and output are bounded;
//! - at most one message is being put together, of at most 4112 bytes;
//! - a message that belongs to no request is dropped and counted; only a length that breaks the framing kills the
//!   connection.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Violation, XsError};
use crate::watch::{WatchEvent, WatchQueue};
use crate::wire::{self, HEADER_SIZE, Header, Op, PAYLOAD_MAX, TxId};

/// Most requests that may be under way.
pub const MAX_OUTSTANDING: usize = 16;

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReqId(u32);

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The payload is longer than 4096 bytes.
    TooLong,
    /// Too many requests are under way.
    TooMany,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// The daemon says no.
    Refused(XsError),
    /// The reply does not fit the request.
    Violation(Violation),
}

/// Something came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request is done.
    Reply {
        /// Which.
        id: ReqId,
        /// The payload, or why there is none.
        result: Result<Vec<u8>, ReplyError>,
    },
    /// A watch has fired.
    Watch(WatchEvent),
}

/// What came in that was not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounters {
    /// Messages that belong to no request.
    pub strays: u64,
    /// Watch events whose payload is no path and token.
    pub bad_watches: u64,
    /// Replies that do not fit their request.
    pub violations: u64,
}

#[derive(Debug)]
struct Outstanding {
    id: u32,
    op: Op,
    tx: TxId,
}

/// Bytes of the longest message.
const LONGEST: usize = HEADER_SIZE + PAYLOAD_MAX;

/// The client's state.
#[derive(Debug, Default)]
pub struct Client {
    output: VecDeque<u8>,
    /// The message that is being put together: header and payload.
    incoming: Vec<u8>,
    last_id: u32,
    outstanding: Vec<Outstanding>,
    replies: VecDeque<(ReqId, Result<Vec<u8>, ReplyError>)>,
    watches: WatchQueue,
    dead: Option<Violation>,
    counters: ClientCounters,
}

impl Client {
    /// A client on a fresh connection.
    pub fn new() -> Self {
        Self {
            // So that it does not grow later: it holds the longest message.
            output: VecDeque::with_capacity(LONGEST),
            ..Self::default()
        }
    }

    /// Puts a request into the output.
    pub fn request(&mut self, op: Op, tx: TxId, parts: &[&[u8]]) -> Result<ReqId, RequestError> {
        if self.outstanding.len().saturating_add(self.replies.len()) >= MAX_OUTSTANDING {
            return Err(RequestError::TooMany);
        }
        let id = self.fresh_id();
        let message = wire::encode(op, id, tx, parts).ok_or(RequestError::TooLong)?;
        self.last_id = id;
        self.output.extend(message);
        self.outstanding.push(Outstanding { id, op, tx });
        Ok(ReqId(id))
    }

    /// Bytes to send, oldest first. Not all of them need be there in one piece: call again after [`Client::sent`].
    pub fn output(&self) -> &[u8] {
        self.output.as_slices().0
    }

    /// Tells that the first `n` bytes of the output were sent.
    pub fn sent(&mut self, n: usize) {
        self.output.drain(..n.min(self.output.len()));
    }

    /// Takes bytes that came in. After an error the connection is dead, and stays so.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if let Some(violation) = self.dead {
                return Err(violation);
            }
            let want = self.wanted()?;
            let take = want.saturating_sub(self.incoming.len()).min(bytes.len());
            let (now, later) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
            self.incoming.extend_from_slice(now);
            bytes = later;
            if self.incoming.len() >= self.wanted()? {
                let message = core::mem::take(&mut self.incoming);
                self.message(message);
            }
        }
        Ok(())
    }

    /// What has come in: replies first, then watch events.
    pub fn poll(&mut self) -> Option<Event> {
        match self.replies.pop_front() {
            Some((id, result)) => Some(Event::Reply { id, result }),
            None => self.watches.pop().map(Event::Watch),
        }
    }

    /// The reply to one request, if it is there.
    pub fn take_reply(&mut self, id: ReqId) -> Option<Result<Vec<u8>, ReplyError>> {
        let at = self.replies.iter().position(|(reply, _)| *reply == id)?;
        self.replies.remove(at).map(|(_, result)| result)
    }

    /// Forgets a request: nobody waits for its reply any more.
    pub fn abandon(&mut self, id: ReqId) {
        self.outstanding.retain(|request| request.id != id.0);
        self.replies.retain(|(reply, _)| *reply != id);
    }

    /// The oldest watch event.
    pub fn next_watch(&mut self) -> Option<WatchEvent> {
        self.watches.pop()
    }

    /// Whether watch events were dropped since the last call: then everything has to be read again.
    pub fn take_overflow(&mut self) -> bool {
        self.watches.take_overflow()
    }

    /// What came in unasked.
    pub fn counters(&self) -> ClientCounters {
        self.counters
    }

    /// Starts afresh on a new connection. The daemon has dropped all watches; those that waited count as lost.
    pub fn reset(&mut self) {
        self.output.clear();
        self.incoming.clear();
        self.outstanding.clear();
        self.replies.clear();
        self.watches.lose_all();
        self.dead = None;
    }

    /// How long the message that is being put together is, as far as is known yet.
    fn wanted(&mut self) -> Result<usize, Violation> {
        if self.incoming.len() < HEADER_SIZE {
            return Ok(HEADER_SIZE);
        }
        let Some(header) = Header::decode(&self.incoming) else {
            return Ok(HEADER_SIZE);
        };
        match header.payload_len() {
            Some(len) => Ok(HEADER_SIZE.saturating_add(len)),
            None => {
                let violation = Violation::Oversized(header.len);
                self.dead = Some(violation);
                self.incoming = Vec::new();
                Err(violation)
            }
        }
    }

    fn message(&mut self, mut message: Vec<u8>) {
        let Some(header) = Header::decode(&message) else {
            return;
        };
        message.drain(..HEADER_SIZE.min(message.len()));
        if Op::from_number(header.kind) == Some(Op::WatchEvent) {
            match parse_watch(&message) {
                Some(event) => self.watches.push(event),
                None => self.counters.bad_watches = self.counters.bad_watches.wrapping_add(1),
            }
            return;
        }
        let Some(at) = self
            .outstanding
            .iter()
            .position(|request| request.id == header.req_id)
        else {
            self.counters.strays = self.counters.strays.wrapping_add(1);
            return;
        };
        let request = self.outstanding.swap_remove(at);
        let result = judge(&request, &header, message);
        if let Err(ReplyError::Violation(_)) = result {
            self.counters.violations = self.counters.violations.wrapping_add(1);
        }
        self.replies.push_back((ReqId(request.id), result));
    }

    /// An identifier that no request under way has; never 0, which is what watch events carry.
    fn fresh_id(&self) -> u32 {
        let taken = |id: u32| {
            self.outstanding.iter().any(|request| request.id == id)
                || self.replies.iter().any(|(r, _)| r.0 == id)
        };
        let mut id = self.last_id.wrapping_add(1);
        while id == 0 || taken(id) {
            id = id.wrapping_add(1);
        }
        id
    }
}

fn judge(request: &Outstanding, header: &Header, payload: Vec<u8>) -> Result<Vec<u8>, ReplyError> {
    if header.tx_id != request.tx {
        return Err(ReplyError::Violation(Violation::WrongTransaction(
            header.tx_id.0,
        )));
    }
    match Op::from_number(header.kind) {
        Some(op) if op == request.op => Ok(payload),
        Some(Op::Error) => Err(ReplyError::Refused(XsError::from_name(&payload))),
        _ => Err(ReplyError::Violation(Violation::WrongType(header.kind))),
    }
}

/// Exactly a path and a token, each ended by a NUL.
fn parse_watch(payload: &[u8]) -> Option<WatchEvent> {
    let mut parts = payload.split(|byte| *byte == 0);
    let (path, token) = (parts.next()?, parts.next()?);
    if parts.next() != Some(&[]) || parts.next().is_some() {
        return None;
    }
    let path = String::from(core::str::from_utf8(path).ok()?);
    let token = String::from(core::str::from_utf8(token).ok()?);
    let fits = !path.is_empty() && path.len() <= wire::ABS_PATH_MAX;
    fits.then_some(WatchEvent { path, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(client: &mut Client) -> u32 {
        client.request(Op::Read, TxId::NONE, &[b"a\0"]).unwrap().0
    }

    /// After 2^32 requests identifiers come again, but not those of requests under way, nor of replies that wait.
    #[test]
    fn identifiers_go_round() {
        let mut client = Client::new();
        assert_eq!([(); 3].map(|()| request(&mut client)), [1, 2, 3]);
        let answer = Header {
            kind: Op::Read.number(),
            req_id: 2,
            tx_id: TxId::NONE,
            len: 0,
        };
        client.feed(&answer.encode()).unwrap();
        client.abandon(ReqId(3));
        client.last_id = u32::MAX - 1;
        assert_eq!(request(&mut client), u32::MAX);
        assert_eq!(request(&mut client), 3, "0, 1 and 2 cannot be had");
    }
}
