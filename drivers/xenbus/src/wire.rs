//! The xenstore wire protocol (`struct xsd_sockmsg` and payloads).
//!
//! Invariant: nothing longer than the protocol allows is encoded, and a header that announces more is refused before
//! any of its payload is taken.

use alloc::vec::Vec;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 16;
/// The longest payload in either direction. A client that sends more is disconnected for ever.
pub const PAYLOAD_MAX: usize = 4096;
/// The longest absolute path.
pub const ABS_PATH_MAX: usize = 3072;
/// The longest relative path.
pub const REL_PATH_MAX: usize = 2048;

/// A transaction; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TxId(pub u32);

impl TxId {
    /// Outside any transaction.
    pub const NONE: TxId = TxId(0);
}

/// Message types (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs, reason = "named as in the protocol")]
pub enum Op {
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Introduce = 8,
    Release = 9,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    IsDomainIntroduced = 17,
    Resume = 18,
    SetTarget = 19,
    ResetWatches = 21,
    DirectoryPart = 22,
}

impl Op {
    const ALL: [Op; 22] = [
        Op::Control,
        Op::Directory,
        Op::Read,
        Op::GetPerms,
        Op::Watch,
        Op::Unwatch,
        Op::TransactionStart,
        Op::TransactionEnd,
        Op::Introduce,
        Op::Release,
        Op::GetDomainPath,
        Op::Write,
        Op::Mkdir,
        Op::Rm,
        Op::SetPerms,
        Op::WatchEvent,
        Op::Error,
        Op::IsDomainIntroduced,
        Op::Resume,
        Op::SetTarget,
        Op::ResetWatches,
        Op::DirectoryPart,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The type with that number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.number() == number)
    }
}

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message type; any number may come in.
    pub kind: u32,
    /// Request identifier, echoed in the reply.
    pub req_id: u32,
    /// Transaction.
    pub tx_id: TxId,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let fields = [self.kind, self.req_id, self.tx_id.0, self.len];
        for (to, field) in bytes.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// The header at the start of `bytes`, if they are enough.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes
            .chunks_exact(4)
            .filter_map(|four| four.try_into().ok().map(u32::from_le_bytes));
        Some(Header {
            kind: fields.next()?,
            req_id: fields.next()?,
            tx_id: TxId(fields.next()?),
            len: fields.next()?,
        })
    }

    /// The payload's length, if it is one that the protocol allows.
    pub fn payload_len(&self) -> Option<usize> {
        usize::try_from(self.len)
            .ok()
            .filter(|len| *len <= PAYLOAD_MAX)
    }
}

/// Whether `path` is one that the daemon takes: characters, slashes, length.
pub fn is_valid_path(path: &str) -> bool {
    let limit = if path.starts_with(['/', '@']) {
        ABS_PATH_MAX
    } else {
        REL_PATH_MAX
    };
    let characters = |b: u8| b.is_ascii_alphanumeric() || b"-/_@".contains(&b);
    !path.is_empty()
        && path.len() <= limit
        && path.bytes().all(characters)
        && !path.contains("//")
        && (path == "/" || !path.ends_with('/'))
}

/// A whole message, or `None` when the payload would be too long.
pub fn encode(op: Op, req_id: u32, tx_id: TxId, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let len = parts
        .iter()
        .try_fold(0_usize, |sum, part| sum.checked_add(part.len()))?;
    let header = Header {
        kind: op.number(),
        req_id,
        tx_id,
        len: u32::try_from(len).ok()?,
    };
    header.payload_len()?;
    let mut message = Vec::with_capacity(HEADER_SIZE.saturating_add(len));
    message.extend_from_slice(&header.encode());
    for part in parts {
        message.extend_from_slice(part);
    }
    Some(message)
}

/// The strings of a list in which each is ended by a NUL. What follows the last NUL is taken as a string as well.
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = payload.strip_suffix(&[0]).unwrap_or(payload);
    let empty = payload.is_empty();
    body.split(|byte| *byte == 0).filter(move |_| !empty)
}
