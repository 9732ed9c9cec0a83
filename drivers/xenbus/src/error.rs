//! What can go wrong with xenstore, by culprit.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use crate::ring::RingError;
use crate::wire::Op;

/// An error that the xenstore daemon reports by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the errno value of that name")]
pub enum XsError {
    EINVAL,
    EACCES,
    EEXIST,
    EISDIR,
    ENOENT,
    ENOMEM,
    ENOSPC,
    EIO,
    ENOTEMPTY,
    ENOSYS,
    EROFS,
    EBUSY,
    EAGAIN,
    EISCONN,
    E2BIG,
    EPERM,
    /// A name that is not in the protocol's list.
    Unknown,
}

const NAMES: [(XsError, &str); 16] = [
    (XsError::EINVAL, "EINVAL"),
    (XsError::EACCES, "EACCES"),
    (XsError::EEXIST, "EEXIST"),
    (XsError::EISDIR, "EISDIR"),
    (XsError::ENOENT, "ENOENT"),
    (XsError::ENOMEM, "ENOMEM"),
    (XsError::ENOSPC, "ENOSPC"),
    (XsError::EIO, "EIO"),
    (XsError::ENOTEMPTY, "ENOTEMPTY"),
    (XsError::ENOSYS, "ENOSYS"),
    (XsError::EROFS, "EROFS"),
    (XsError::EBUSY, "EBUSY"),
    (XsError::EAGAIN, "EAGAIN"),
    (XsError::EISCONN, "EISCONN"),
    (XsError::E2BIG, "E2BIG"),
    (XsError::EPERM, "EPERM"),
];

impl XsError {
    /// The error of that name; a trailing NUL is not part of it.
    pub fn from_name(name: &[u8]) -> Self {
        let name = name.strip_suffix(&[0]).unwrap_or(name);
        NAMES
            .iter()
            .find(|(_, known)| known.as_bytes() == name)
            .map_or(XsError::Unknown, |(error, _)| *error)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(error, _)| *error == self)
            .map_or("an unknown error", |(_, name)| name)
    }
}

/// How a message broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A payload longer than 4096 bytes was announced. What follows cannot be told apart: the connection is dead.
    Oversized(u32),
    /// The reply's type is not the request's.
    WrongType(u32),
    /// The reply's transaction is not the request's.
    WrongTransaction(u32),
    /// The payload is not what the reply's type promises.
    Payload,
}

/// Why a xenstore call failed: see [`Failure`]. One word, as every call hands it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Failure>);

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The daemon refused.
    Refused {
        /// What was asked.
        op: Op,
        /// For which path (or other first argument).
        path: String,
        /// Its reason.
        error: XsError,
    },
    /// The request itself is not allowed by the protocol (too long, bad path, NUL in a string); it was not sent.
    BadRequest {
        /// What was to be asked.
        op: Op,
        /// For which path.
        path: String,
    },
    /// The value at the path is not what it should be. Its writer is to blame.
    BadValue {
        /// The path.
        path: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// More data than the caller accepts.
    TooLarge {
        /// The path.
        path: String,
    },
    /// A transaction kept colliding with others.
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// The daemon broke the protocol.
    Protocol(Violation),
    /// The ring's indices are impossible.
    Ring(RingError),
    /// The daemon has closed the connection and left this number in the ring's error field.
    Closed(u32),
    /// No reply within the time allowed.
    TimedOut,
}

impl From<Failure> for Error {
    #[cold]
    #[inline(never)]
    fn from(failure: Failure) -> Self {
        Self(Box::new(failure))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        *error.0
    }
}

impl From<RingError> for Error {
    fn from(error: RingError) -> Self {
        Failure::Ring(error).into()
    }
}

impl Error {
    /// What failed.
    pub fn why(&self) -> &Failure {
        &self.0
    }

    /// The daemon's reason, if it refused.
    pub fn refusal(&self) -> Option<XsError> {
        match self.why() {
            Failure::Refused { error, .. } => Some(*error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why() {
            Failure::Refused { op, path, error } => {
                write!(f, "xenstore: {op:?} {path}: {}", error.name())
            }
            Failure::BadRequest { op, path } => {
                write!(f, "xenstore: {op:?} {path}: not a valid request, not sent")
            }
            Failure::BadValue { path, expected } => {
                write!(f, "xenstore: {path}: should be {expected}")
            }
            Failure::TooLarge { path } => write!(f, "xenstore: {path}: too much data"),
            Failure::Conflict { attempts } => {
                write!(
                    f,
                    "xenstore: transaction collided with others {attempts} times, given up"
                )
            }
            Failure::Protocol(violation) => {
                write!(f, "xenstore daemon broke the protocol: {violation:?}")
            }
            Failure::Ring(RingError { consumer, producer }) => {
                write!(
                    f,
                    "xenstore ring corrupted: consumer {consumer:#x}, producer {producer:#x}"
                )
            }
            Failure::Closed(error) => {
                write!(f, "xenstore daemon closed the connection (error {error})")
            }
            Failure::TimedOut => write!(f, "xenstore daemon does not answer"),
        }
    }
}

impl core::error::Error for Error {}
