//! Xenstore calls that wait for their reply.
//!
//! Invariants: every call ends, with [`Failure::TimedOut`] at the latest; every value is checked before it is handed
//! out; a transaction is tried a bounded number of times and never left open by a body that fails.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::client::{Client, ClientCounters, MAX_OUTSTANDING, ReplyError, ReqId, RequestError};
use crate::error::{Error, Failure, Violation, XsError};
use crate::number;
use crate::transport::Transport;
use crate::watch::WatchEvent;
use crate::wire::{self, Op, TxId};

/// How often a transaction is tried.
pub const MAX_ATTEMPTS: u32 = 16;
/// Most posted writes that may be under way: they leave room for calls that wait.
pub const MAX_POSTED: usize = MAX_OUTSTANDING / 2;
/// Most bytes of names that [`View::directory`] collects.
pub const MAX_DIRECTORY_BYTES: usize = 64 * 1024;
/// Most bytes taken from the daemon in one go, so that a flood cannot keep a caller from looking at its clock.
const MAX_PUMP: usize = 16 * 1024;

/// Who may do what with a node; the first one of a node names its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// What is allowed (for the first one: to everybody who is not named).
    pub access: PermAccess,
    /// The domain.
    pub domain: u16,
}

/// The letter of a [`Perm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermAccess {
    /// `n`
    None,
    /// `r`
    Read,
    /// `w`
    Write,
    /// `b`
    Both,
}

/// A connection to the xenstore daemon.
#[derive(Debug)]
pub struct Xenstore<T> {
    client: Client,
    transport: T,
    posted: Vec<ReqId>,
    refused_posts: u64,
}

/// The tree, as seen from outside a transaction or from inside one.
#[derive(Debug)]
pub struct View<'a, T> {
    store: &'a mut Xenstore<T>,
    tx: TxId,
}

impl<T: Transport> Xenstore<T> {
    /// A connection over `transport`.
    pub fn new(transport: T) -> Self {
        Xenstore {
            client: Client::new(),
            transport,
            posted: Vec::with_capacity(MAX_POSTED),
            refused_posts: 0,
        }
    }

    /// The tree, outside any transaction.
    pub fn view(&mut self) -> View<'_, T> {
        View {
            store: self,
            tx: TxId::NONE,
        }
    }

    /// See [`View::read`].
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        self.view().read(path)
    }

    /// See [`View::read_string`].
    pub fn read_string(&mut self, path: &str, max: usize) -> Result<String, Error> {
        self.view().read_string(path, max)
    }

    /// See [`View::read_number`].
    pub fn read_number<N: TryFrom<u64>>(&mut self, path: &str) -> Result<N, Error> {
        self.view().read_number(path)
    }

    /// See [`View::directory`].
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, Error> {
        self.view().directory(path)
    }

    /// See [`View::write`].
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.view().write(path, value)
    }

    /// See [`View::mkdir`].
    pub fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        self.view().mkdir(path)
    }

    /// See [`View::rm`].
    pub fn rm(&mut self, path: &str) -> Result<(), Error> {
        self.view().rm(path)
    }

    /// Runs `body` in a transaction, again when others' changes collide. What `body` has done outside of the tree it
    /// may do several times.
    pub fn transaction<R>(
        &mut self,
        mut body: impl FnMut(&mut View<'_, T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        for _ in 0..MAX_ATTEMPTS {
            let id = self.start_transaction()?;
            let mut view = View {
                store: self,
                tx: id,
            };
            match body(&mut view) {
                Ok(result) => match self.end_transaction(id, true) {
                    Ok(()) => return Ok(result),
                    Err(error) if error.refusal() == Some(XsError::EAGAIN) => {}
                    Err(error) => return Err(error),
                },
                Err(error) => {
                    // The body's error says more than one from ending the transaction would.
                    let _ = self.end_transaction(id, false);
                    return Err(error);
                }
            }
        }
        Err(Failure::Conflict {
            attempts: MAX_ATTEMPTS,
        }
        .into())
    }

    /// Sets a watch; it fires once straight away.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), Error> {
        self.watch_op(Op::Watch, path, token)
    }

    /// Removes a watch. Events of it may still be queued.
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), Error> {
        self.watch_op(Op::Unwatch, path, token)
    }

    /// Removes every watch and transaction of this domain, as of a predecessor on the same connection.
    pub fn reset_watches(&mut self) -> Result<(), Error> {
        self.call_ok(Op::ResetWatches, TxId::NONE, "", &[&[0]])
    }

    /// The next watch event, without waiting.
    pub fn next_watch(&mut self) -> Result<Option<WatchEvent>, Error> {
        self.pump()?;
        Ok(self.client.next_watch())
    }

    /// Whether watch events were lost since the last call: then everything has to be read again.
    pub fn take_overflow(&mut self) -> bool {
        self.client.take_overflow()
    }

    /// Where a domain's relative paths start.
    pub fn get_domain_path(&mut self, domain: u16) -> Result<String, Error> {
        let number = domain.to_string();
        let payload = self.call(
            Op::GetDomainPath,
            TxId::NONE,
            &number,
            &[number.as_bytes(), &[0]],
        )?;
        let text = payload.strip_suffix(&[0]).unwrap_or(&payload);
        match core::str::from_utf8(text) {
            Ok(path) if wire::is_valid_path(path) => Ok(path.into()),
            _ => Err(bad_reply()),
        }
    }

    /// Sends a write whose answer nobody waits for. `false` if too many are under way, or the daemon has not taken all of the
    /// last one: try again later.
    pub fn post(&mut self, path: &str, value: &[u8]) -> Result<bool, Error> {
        const OP: Op = Op::Write;
        self.service()?;
        if self.posted.len() >= MAX_POSTED || !self.client.output().is_empty() {
            return Ok(false);
        }
        check_path(OP, path)?;
        match self
            .client
            .request(OP, TxId::NONE, &[path.as_bytes(), &[0], value])
        {
            Ok(id) => self.posted.push(id),
            Err(RequestError::TooMany) => return Ok(false),
            Err(RequestError::TooLong) => {
                return Err(bad_request(OP, path));
            }
        }
        self.pump()?;
        Ok(true)
    }

    /// Moves what can be moved and takes the answers to posted writes, without waiting.
    pub fn service(&mut self) -> Result<(), Error> {
        self.pump()?;
        let (client, refused) = (&mut self.client, &mut self.refused_posts);
        self.posted.retain(|&id| match client.take_reply(id) {
            None => true,
            Some(result) => {
                *refused = refused.saturating_add(u64::from(result.is_err()));
                false
            }
        });
        Ok(())
    }

    /// Posted writes that the daemon has refused.
    pub fn refused_posts(&self) -> u64 {
        self.refused_posts
    }

    /// Sets the connection up afresh after [`Failure::Ring`], [`Failure::Protocol`] or [`Failure::Closed`]. The watches are
    /// gone, and [`Xenstore::take_overflow`] says that everything has to be read again.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        self.transport.reconnect()?;
        self.client.reset();
        self.posted.clear();
        Ok(())
    }

    /// What came in unasked.
    pub fn counters(&self) -> ClientCounters {
        self.client.counters()
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    fn watch_op(&mut self, op: Op, path: &str, token: &str) -> Result<(), Error> {
        if token.contains('\0') {
            return Err(bad_request(op, path));
        }
        check_path(op, path)?;
        self.call_ok(
            op,
            TxId::NONE,
            path,
            &[path.as_bytes(), &[0], token.as_bytes(), &[0]],
        )
    }

    fn start_transaction(&mut self) -> Result<TxId, Error> {
        let payload = self.call(Op::TransactionStart, TxId::NONE, "", &[&[0]])?;
        match parse_number(&payload) {
            Some(id) if id != 0 => Ok(TxId(id)),
            _ => Err(bad_reply()),
        }
    }

    fn end_transaction(&mut self, id: TxId, commit: bool) -> Result<(), Error> {
        let verdict: &[u8] = if commit { b"T\0" } else { b"F\0" };
        self.call_ok(Op::TransactionEnd, id, "", &[verdict])
    }

    fn call_ok(&mut self, op: Op, tx: TxId, path: &str, parts: &[&[u8]]) -> Result<(), Error> {
        match self.call(op, tx, path, parts)?.as_slice() {
            b"OK\0" => Ok(()),
            _ => Err(bad_reply()),
        }
    }

    fn call(&mut self, op: Op, tx: TxId, path: &str, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let id = self
            .client
            .request(op, tx, parts)
            .map_err(|error| match error {
                RequestError::TooLong | RequestError::TooMany => bad_request(op, path),
            })?;
        self.transport.start();
        loop {
            if let Err(error) = self.pump() {
                self.client.abandon(id);
                return Err(error);
            }
            if let Some(result) = self.client.take_reply(id) {
                return result.map_err(|error| match error {
                    ReplyError::Refused(error) => Failure::Refused {
                        op,
                        path: path.into(),
                        error,
                    }
                    .into(),
                    ReplyError::Violation(violation) => Failure::Protocol(violation).into(),
                });
            }
            if !self.transport.wait() {
                self.client.abandon(id);
                return Err(Failure::TimedOut.into());
            }
        }
    }

    /// Moves what can be moved now, in both directions.
    fn pump(&mut self) -> Result<(), Error> {
        let mut moved = false;
        let mut taken = 0_usize;
        let mut buffer = [0; 512];
        loop {
            let sent = match self.client.output() {
                [] => 0,
                bytes => self.transport.send(bytes)?,
            };
            self.client.sent(sent);
            let got = self.transport.receive(&mut buffer)?;
            moved |= sent > 0 || got > 0;
            let fed = self.client.feed(buffer.get(..got).unwrap_or(&[]));
            taken = taken.saturating_add(got);
            if fed.is_err() || (sent == 0 && got == 0) || taken >= MAX_PUMP {
                if moved {
                    self.transport.notify();
                }
                return fed.map_err(|violation| Failure::Protocol(violation).into());
            }
        }
    }
}

impl<T: Transport> View<'_, T> {
    /// The value at `path`, whatever bytes it is.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        self.path_call(Op::Read, path, &[])
    }

    /// The value at `path` as text of at most `max` bytes.
    pub fn read_string(&mut self, path: &str, max: usize) -> Result<String, Error> {
        let value = self.read(path)?;
        if value.len() > max {
            return Err(too_large(path));
        }
        String::from_utf8(value).map_err(|_| bad_value(path, "UTF-8 text"))
    }

    /// The value at `path` as a decimal number: digits only, and in range.
    pub fn read_number<N: TryFrom<u64>>(&mut self, path: &str) -> Result<N, Error> {
        let value = self.read(path)?;
        parse_number(&value).ok_or_else(|| bad_value(path, "a decimal number in range"))
    }

    /// Whether there is a node at `path`.
    pub fn exists(&mut self, path: &str) -> Result<bool, Error> {
        match self.read(path) {
            Ok(_) => Ok(true),
            Err(error) if error.refusal() == Some(XsError::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of the children of `path`. A list too long for one message is fetched in parts.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, Error> {
        let list = match self.path_call(Op::Directory, path, &[]) {
            Err(error) if error.refusal() == Some(XsError::E2BIG) => {
                self.directory_in_parts(path)?
            }
            other => other?,
        };
        wire::strings(&list)
            .map(|name| {
                let name = core::str::from_utf8(name)
                    .ok()
                    .filter(|name| wire::is_valid_path(name) && !name.contains('/'));
                name.map(String::from).ok_or_else(bad_reply)
            })
            .collect()
    }

    /// Sets the value at `path`, creating it and its parents.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.path_call_ok(Op::Write, path, &[value])
    }

    /// Makes sure that there is a node at `path`.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Error> {
        self.path_call_ok(Op::Mkdir, path, &[])
    }

    /// Removes `path` and everything below.
    pub fn rm(&mut self, path: &str) -> Result<(), Error> {
        self.path_call_ok(Op::Rm, path, &[])
    }

    /// The permissions of `path`, the owner's first.
    pub fn get_perms(&mut self, path: &str) -> Result<Vec<Perm>, Error> {
        let payload = self.path_call(Op::GetPerms, path, &[])?;
        wire::strings(&payload)
            .map(|perm| Perm::parse(perm).ok_or_else(bad_reply))
            .collect()
    }

    /// Sets the permissions of `path`, the owner's first.
    pub fn set_perms(&mut self, path: &str, perms: &[Perm]) -> Result<(), Error> {
        let mut list = String::new();
        for perm in perms {
            list.push(perm.access.letter());
            list.push_str(&perm.domain.to_string());
            list.push('\0');
        }
        self.path_call_ok(Op::SetPerms, path, &[list.as_bytes()])
    }

    /// Fetches a list by parts, from the start again when it changed in between. An empty name ends it.
    fn directory_in_parts(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        let mut list = Vec::new();
        let mut generation = None;
        let mut restarts = 0_u32;
        loop {
            let offset = list.len().to_string();
            let part = self.path_call(Op::DirectoryPart, path, &[offset.as_bytes(), &[0]])?;
            let at = part
                .iter()
                .position(|byte| *byte == 0)
                .ok_or_else(bad_reply)?;
            let (number, names) = part.split_at_checked(at).ok_or_else(bad_reply)?;
            let names = names.get(1..).unwrap_or(&[]);
            if generation
                .as_deref()
                .is_some_and(|first: &[u8]| first != number)
            {
                restarts = restarts.saturating_add(1);
                if restarts >= MAX_ATTEMPTS {
                    return Err(Failure::Conflict { attempts: restarts }.into());
                }
                list.clear();
                generation = None;
                continue;
            }
            generation = Some(number.to_vec());
            let (names, last) = match names {
                [0] => (&[][..], true),
                [rest @ .., 0, 0] => (
                    names.get(..rest.len().saturating_add(1)).unwrap_or(&[]),
                    true,
                ),
                _ => (names, false),
            };
            if !last && !names.ends_with(&[0]) {
                return Err(bad_reply());
            }
            list.extend_from_slice(names);
            if list.len() > MAX_DIRECTORY_BYTES {
                return Err(too_large(path));
            }
            if last {
                return Ok(list);
            }
        }
    }

    fn path_call(&mut self, op: Op, path: &str, rest: &[&[u8]]) -> Result<Vec<u8>, Error> {
        check_path(op, path)?;
        let tail = rest.concat();
        self.store
            .call(op, self.tx, path, &[path.as_bytes(), &[0], &tail])
    }

    fn path_call_ok(&mut self, op: Op, path: &str, rest: &[&[u8]]) -> Result<(), Error> {
        match self.path_call(op, path, rest)?.as_slice() {
            b"OK\0" => Ok(()),
            _ => Err(bad_reply()),
        }
    }
}

impl Perm {
    fn parse(text: &[u8]) -> Option<Self> {
        let (letter, domain) = text.split_first()?;
        let access = match letter {
            b'n' => PermAccess::None,
            b'r' => PermAccess::Read,
            b'w' => PermAccess::Write,
            b'b' => PermAccess::Both,
            _ => return None,
        };
        Some(Perm {
            access,
            domain: parse_number(domain)?,
        })
    }
}

impl PermAccess {
    fn letter(self) -> char {
        match self {
            PermAccess::None => 'n',
            PermAccess::Read => 'r',
            PermAccess::Write => 'w',
            PermAccess::Both => 'b',
        }
    }
}

fn check_path(op: Op, path: &str) -> Result<(), Error> {
    if wire::is_valid_path(path) {
        Ok(())
    } else {
        Err(bad_request(op, path))
    }
}

/// A request that cannot be sent.
#[cold]
fn bad_request(op: Op, path: &str) -> Error {
    let path = path.into();
    Failure::BadRequest { op, path }.into()
}

/// A value that is not what it should be.
#[cold]
fn bad_value(path: &str, expected: &'static str) -> Error {
    let path = path.into();
    Failure::BadValue { path, expected }.into()
}

/// A value that is too long.
#[cold]
fn too_large(path: &str) -> Error {
    Failure::TooLarge { path: path.into() }.into()
}

/// A reply that is not what its request promises.
#[cold]
fn bad_reply() -> Error {
    Failure::Protocol(Violation::Payload).into()
}

/// A decimal number: digits and at most one NUL behind them. `FromStr` alone would take a sign as well.
fn parse_number<N: TryFrom<u64>>(value: &[u8]) -> Option<N> {
    number::parse_digits(value.strip_suffix(&[0]).unwrap_or(value))
}
