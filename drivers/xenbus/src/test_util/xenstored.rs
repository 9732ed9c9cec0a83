//! A small xenstored: a tree, permissions as text, transactions that collide, watches; and ways to make it misbehave.
//!
//! It follows docs/misc/xenstore.txt as far as one client can see. Permissions are stored and given back, not
//! enforced, except for `forbidden` paths.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::page::FakePage;
use crate::ring::{
    Consumer, Producer, SharedPage, XENSTORE_CONNECTION, XENSTORE_REQ, XENSTORE_RSP,
};
use crate::wire::{Header, Op, PAYLOAD_MAX, TxId};

#[derive(Clone, Debug, Default)]
struct Node {
    value: Vec<u8>,
    perms: Vec<u8>,
    generation: u64,
}

type Tree = BTreeMap<String, Node>;

/// Changes a message before it is sent; gets the header and the payload, gives all bytes to send.
pub type Tamper = Box<dyn FnMut(Header, &[u8]) -> Vec<u8>>;

/// The daemon.
pub struct FakeXenstored {
    page: Rc<FakePage>,
    requests: Consumer,
    replies: Producer,
    input: Vec<u8>,
    output: VecDeque<u8>,
    home: String,
    tree: Tree,
    generation: u64,
    transactions: BTreeMap<u32, (u64, Tree, Vec<String>)>,
    last_transaction: u32,
    watches: Vec<(String, String)>,
    /// The next so many commits fail with EAGAIN.
    pub collisions: u32,
    /// Paths (and what is below) that the client may not touch.
    pub forbidden: Vec<String>,
    /// Most bytes put into the ring each time the daemon runs.
    pub chunk: usize,
    /// Changes what is sent.
    pub tamper: Option<Tamper>,
    /// Called for each DIRECTORY_PART, before it is answered; what it returns is written.
    pub between_parts: Option<Box<dyn FnMut() -> Option<String>>>,
    /// Requests seen.
    pub seen: Vec<Op>,
}

impl fmt::Debug for FakeXenstored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeXenstored")
            .field("tree", &self.tree)
            .finish_non_exhaustive()
    }
}

impl FakeXenstored {
    /// A daemon for domain `domain` on `page`.
    pub fn new(page: Rc<FakePage>, domain: u16) -> Self {
        let (requests, replies) = attach(&page);
        let home = format!("/local/domain/{domain}");
        let mut daemon = FakeXenstored {
            page,
            requests,
            replies,
            input: Vec::new(),
            output: VecDeque::new(),
            home: home.clone(),
            tree: Tree::new(),
            generation: 0,
            transactions: BTreeMap::new(),
            last_transaction: 0,
            watches: Vec::new(),
            collisions: 0,
            forbidden: Vec::new(),
            chunk: usize::MAX,
            tamper: None,
            between_parts: None,
            seen: Vec::new(),
        };
        daemon.tree.insert("/".into(), Node::default());
        daemon.set(&home, b"");
        daemon
    }

    /// Changes a value as somebody else would; watches fire.
    pub fn set(&mut self, path: &str, value: &[u8]) {
        self.generation += 1;
        let path = self.absolute(path);
        put(&mut self.tree, &path, Some(value), self.generation);
        self.fire(&path);
    }

    /// Removes a node and everything below as somebody else would; watches fire.
    pub fn remove(&mut self, path: &str) {
        self.generation += 1;
        let path = self.absolute(path);
        self.tree.retain(|name, _| !is_below(name, &path));
        self.fire(&path);
    }

    /// A value in the tree.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.tree
            .get(&self.absolute(path))
            .map(|node| node.value.clone())
    }

    /// The permissions of a node, as they are on the wire.
    pub fn perms(&self, path: &str) -> Option<Vec<u8>> {
        self.tree
            .get(&self.absolute(path))
            .map(|node| node.perms.clone())
    }

    /// Watches that are set.
    pub fn watch_count(&self) -> usize {
        self.watches.len()
    }

    /// Transactions that are open.
    pub fn transaction_count(&self) -> usize {
        self.transactions.len()
    }

    /// Sends any bytes.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
    }

    /// Sends a message, as it is.
    pub fn send(&mut self, header: Header, payload: &[u8]) {
        self.output.extend(header.encode());
        self.output.extend(payload);
    }

    /// Takes requests from the ring, answers them, puts what fits into the ring.
    pub fn run(&mut self) {
        if self.page.load_u32(XENSTORE_CONNECTION) == 1 {
            self.reconnect();
        }
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = self.requests.read(&self.page, &mut buffer) {
            self.input.extend(&buffer[..n]);
        }
        while let Some(header) = Header::decode(&self.input).filter(|_| self.input.len() >= 16) {
            let end = 16 + header.len as usize;
            assert!(
                header.len as usize <= PAYLOAD_MAX,
                "a real daemon would disconnect this client"
            );
            if self.input.len() < end {
                break;
            }
            let payload = self.input[16..end].to_vec();
            self.input.drain(..end);
            self.request(header, &payload);
        }
        let bytes = self.output.make_contiguous();
        let bytes = &bytes[..bytes.len().min(self.chunk)];
        if let Ok(n) = self.replies.write(&self.page, bytes) {
            self.output.drain(..n);
        }
    }

    fn reconnect(&mut self) {
        for layout in [XENSTORE_REQ, XENSTORE_RSP] {
            self.page.store_u32(layout.consumer, 0);
            self.page.store_u32(layout.producer, 0);
        }
        (self.requests, self.replies) = attach(&self.page);
        self.input.clear();
        self.output.clear();
        self.transactions.clear();
        self.watches.clear();
        self.page.store_u32(XENSTORE_CONNECTION, 0);
    }

    fn request(&mut self, header: Header, payload: &[u8]) {
        let op = Op::from_number(header.kind).expect("a known request");
        self.seen.push(op);
        let (kind, reply) = match self.perform(op, header.tx_id, payload) {
            Ok(reply) => (header.kind, reply),
            Err(name) => (Op::Error.number(), [name.as_bytes(), &[0]].concat()),
        };
        let reply_header = Header {
            kind,
            len: reply.len() as u32,
            ..header
        };
        match &mut self.tamper {
            Some(tamper) => {
                let bytes = tamper(reply_header, &reply);
                self.output.extend(bytes);
            }
            None => self.send(reply_header, &reply),
        }
        if op == Op::Watch && kind == op.number() {
            let (path, token) = self.watches.last().cloned().expect("just set");
            self.watch_event(&path, &token);
        }
    }

    fn perform(&mut self, op: Op, tx: TxId, payload: &[u8]) -> Result<Vec<u8>, &'static str> {
        let args: Vec<&[u8]> = payload.split(|byte| *byte == 0).collect();
        let first = String::from_utf8(args[0].to_vec()).map_err(|_| "EINVAL")?;
        let ok = || Ok(b"OK\0".to_vec());
        match op {
            Op::TransactionStart => {
                self.last_transaction += 1;
                let id = self.last_transaction;
                self.transactions
                    .insert(id, (self.generation, self.tree.clone(), Vec::new()));
                return Ok(format!("{id}\0").into_bytes());
            }
            Op::TransactionEnd => return self.end(tx, &first).and_then(|()| ok()),
            Op::GetDomainPath => return Ok(format!("/local/domain/{first}\0").into_bytes()),
            Op::ResetWatches => {
                self.watches.clear();
                self.transactions.clear();
                return ok();
            }
            Op::Watch | Op::Unwatch => {
                return self.change_watch(op, first, args[1]).and_then(|()| ok());
            }
            _ => {}
        }
        let path = self.absolute(&first);
        if self
            .forbidden
            .iter()
            .any(|forbidden| is_below(&path, forbidden))
        {
            return Err("EACCES");
        }
        if op == Op::DirectoryPart
            && let Some(change) = self.between_parts.as_mut().and_then(|hook| hook())
        {
            self.set(&change, b"");
        }
        // A request that was made of garbage need not end its path.
        let rest = payload.get(args[0].len() + 1..).unwrap_or(&[]);
        match op {
            Op::Read => Ok(self.node(tx, &path)?.value.clone()),
            Op::GetPerms => Ok(self.node(tx, &path)?.perms.clone()),
            Op::Directory => {
                let list = self.children(tx, &path)?;
                if list.len() > PAYLOAD_MAX {
                    Err("E2BIG")
                } else {
                    Ok(list)
                }
            }
            Op::DirectoryPart => self.part(tx, &path, args[1]),
            Op::Write => self.change(tx, &path, |tree, generation| {
                put(tree, &path, Some(rest), generation)
            }),
            Op::Mkdir => self.change(tx, &path, |tree, generation| {
                put(tree, &path, None, generation)
            }),
            Op::Rm => self.change(tx, &path, |tree, _| {
                tree.retain(|name, _| !is_below(name, &path))
            }),
            Op::SetPerms => {
                let perms = rest.to_vec();
                self.node(tx, &path)?;
                self.change(tx, &path, |tree, _| {
                    tree.get_mut(&path).expect("there").perms = perms
                })
            }
            other => panic!("{other:?} is not served here"),
        }
    }

    fn end(&mut self, tx: TxId, verdict: &str) -> Result<(), &'static str> {
        let (start, tree, changed) = self.transactions.remove(&tx.0).ok_or("ENOENT")?;
        if verdict != "T" {
            return Ok(());
        }
        if self.collisions > 0 || self.generation != start {
            self.collisions = self.collisions.saturating_sub(1);
            return Err("EAGAIN");
        }
        self.generation += 1;
        self.tree = tree;
        changed.iter().for_each(|path| self.fire(path));
        Ok(())
    }

    fn change_watch(&mut self, op: Op, path: String, token: &[u8]) -> Result<(), &'static str> {
        let watch = (
            path,
            String::from_utf8(token.to_vec()).map_err(|_| "EINVAL")?,
        );
        let at = self.watches.iter().position(|known| *known == watch);
        match (op, at) {
            (Op::Watch, Some(_)) => return Err("EEXIST"),
            (Op::Watch, None) => self.watches.push(watch),
            (_, None) => return Err("ENOENT"),
            (_, Some(at)) => drop(self.watches.remove(at)),
        }
        Ok(())
    }

    fn fire(&mut self, path: &str) {
        for (watched, token) in self.watches.clone() {
            let base = self.absolute(&watched);
            if is_below(path, &base) {
                let shown = if watched.starts_with(['/', '@']) {
                    path.to_string()
                } else {
                    path[self.home.len() + 1..].to_string()
                };
                self.watch_event(&shown, &token);
            }
        }
    }

    fn watch_event(&mut self, path: &str, token: &str) {
        let payload = format!("{path}\0{token}\0").into_bytes();
        let len = payload.len() as u32;
        self.send(
            Header {
                kind: Op::WatchEvent.number(),
                req_id: 0,
                tx_id: TxId::NONE,
                len,
            },
            &payload,
        );
    }

    fn absolute(&self, path: &str) -> String {
        if path.starts_with(['/', '@']) {
            path.to_string()
        } else {
            format!("{}/{path}", self.home)
        }
    }

    fn tree(&mut self, tx: TxId) -> Result<&mut Tree, &'static str> {
        match tx.0 {
            0 => Ok(&mut self.tree),
            id => Ok(&mut self.transactions.get_mut(&id).ok_or("ENOENT")?.1),
        }
    }

    fn node(&mut self, tx: TxId, path: &str) -> Result<&Node, &'static str> {
        self.tree(tx)?.get(path).ok_or("ENOENT")
    }

    fn change(
        &mut self,
        tx: TxId,
        path: &str,
        change: impl FnOnce(&mut Tree, u64),
    ) -> Result<Vec<u8>, &'static str> {
        let generation = self.generation + 1;
        change(self.tree(tx)?, generation);
        match self.transactions.get_mut(&tx.0) {
            Some((_, _, changed)) => changed.push(path.to_string()),
            None => {
                self.generation = generation;
                self.fire(path);
            }
        }
        Ok(b"OK\0".to_vec())
    }

    fn children(&mut self, tx: TxId, path: &str) -> Result<Vec<u8>, &'static str> {
        self.node(tx, path)?;
        let prefix = if path == "/" {
            "/".to_string()
        } else {
            format!("{path}/")
        };
        let names = self
            .tree(tx)?
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix));
        let direct: Vec<&str> = names
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .collect();
        Ok(direct
            .iter()
            .flat_map(|name| [name.as_bytes(), &[0]].concat())
            .collect())
    }

    fn part(&mut self, tx: TxId, path: &str, offset: &[u8]) -> Result<Vec<u8>, &'static str> {
        let list = self.children(tx, path)?;
        let newest = |tree: &Tree| {
            tree.iter()
                .filter(|(n, _)| is_below(n, path))
                .map(|(_, n)| n.generation)
                .max()
        };
        let mut reply = format!("{}\0", newest(self.tree(tx)?).unwrap_or(0)).into_bytes();
        let offset: usize = core::str::from_utf8(offset)
            .unwrap()
            .parse()
            .map_err(|_| "EINVAL")?;
        let most = PAYLOAD_MAX - reply.len() - 1;
        let rest = list.get(offset..).unwrap_or(&[]);
        let mut end = rest.len().min(most);
        while end > 0 && rest[end - 1] != 0 {
            end -= 1;
        }
        reply.extend(&rest[..end]);
        if end == rest.len() {
            reply.push(0);
        }
        Ok(reply)
    }
}

fn attach(page: &FakePage) -> (Consumer, Producer) {
    (
        Consumer::attach(page, XENSTORE_REQ),
        Producer::attach(page, XENSTORE_RSP),
    )
}

/// Writes a value, or only makes sure of the node, with all parents.
fn put(tree: &mut Tree, path: &str, value: Option<&[u8]>, generation: u64) {
    let mut parents = vec![path.to_string()];
    while let Some((parent, _)) = parents.last().expect("one").clone().rsplit_once('/') {
        if parent.is_empty() {
            break;
        }
        parents.push(parent.to_string());
    }
    for name in parents {
        tree.entry(name).or_insert(Node {
            value: Vec::new(),
            perms: b"n0\0".to_vec(),
            generation,
        });
    }
    if let Some(value) = value {
        let node = tree.get_mut(path).expect("made above");
        node.value = value.to_vec();
        node.generation = generation;
    }
}

/// Whether `path` is `base` or below it.
fn is_below(path: &str, base: &str) -> bool {
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || base == "/")
}
