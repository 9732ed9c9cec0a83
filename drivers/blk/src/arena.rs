//! Where the guest's buffers of requests under way are remembered: bounded, and made once.
//!
//! Invariant: a node is either in the free list or in exactly one request's list.

use alloc::boxed::Box;
use alloc::vec;

use vd_virtio::{Gpa, GuestMemory, MemError, Span};

const NONE: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    addr: Gpa,
    len: u32,
    next: u16,
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Arena {
    nodes: Box<[Node]>,
    free: u16,
    available: usize,
}

/// The rest of a request's buffers. Copying data uses them up, from the front.
#[derive(Debug)]
#[must_use = "its nodes have to go back"]
pub(crate) struct List {
    first: u16,
}

impl List {
    pub(crate) const EMPTY: Self = Self { first: NONE };
}

impl Arena {
    /// Room for so many pieces; 65535 at most.
    pub(crate) fn new(pieces: usize) -> Self {
        let count = pieces.min(usize::from(NONE));
        let mut nodes = vec![
            Node {
                addr: Gpa(0),
                len: 0,
                next: NONE
            };
            count
        ]
        .into_boxed_slice();
        let mut free = NONE;
        for (index, node) in (0..NONE).zip(&mut nodes).rev() {
            node.next = free;
            free = index;
        }
        Self {
            nodes,
            free,
            available: count,
        }
    }

    /// How many more pieces fit.
    pub(crate) fn available(&self) -> usize {
        self.available
    }

    /// Remembers the pieces of a span, or as many as fit.
    pub(crate) fn store(&mut self, span: Span<'_>) -> List {
        let mut list = List::EMPTY;
        let mut last = NONE;
        for (addr, len) in span.pieces() {
            let index = self.free;
            let Some(node) = self.nodes.get_mut(usize::from(index)) else {
                break;
            };
            self.free = node.next;
            self.available = self.available.saturating_sub(1);
            *node = Node {
                addr,
                len: u32::try_from(len).unwrap_or(u32::MAX),
                next: NONE,
            };
            match self.nodes.get_mut(usize::from(last)) {
                Some(before) => before.next = index,
                None => list.first = index,
            }
            last = index;
        }
        list
    }

    /// Forgets what is left of a list.
    pub(crate) fn clear(&mut self, list: List) {
        let mut index = list.first;
        while let Some(next) = self.give_back(index) {
            index = next;
        }
    }

    /// Copies from the guest's memory until `into` is full, and moves on by as much.
    pub(crate) fn read<M: GuestMemory + ?Sized>(
        &mut self,
        list: &mut List,
        mem: &M,
        mut into: &mut [u8],
    ) -> Result<(), MemError> {
        while let Some((addr, len)) = self.step(list, into.len()) {
            let Some((here, rest)) = into.split_at_mut_checked(len) else {
                break;
            };
            mem.read(addr, here)?;
            into = rest;
        }
        Ok(())
    }

    /// Copies all of `from` into the guest's memory, and moves on by as much.
    pub(crate) fn write<M: GuestMemory + ?Sized>(
        &mut self,
        list: &mut List,
        mem: &M,
        mut from: &[u8],
    ) -> Result<(), MemError> {
        while let Some((addr, len)) = self.step(list, from.len()) {
            let Some((here, rest)) = from.split_at_checked(len) else {
                break;
            };
            mem.write(addr, here)?;
            from = rest;
        }
        Ok(())
    }

    /// Uses up a piece of at most `max` bytes.
    fn step(&mut self, list: &mut List, max: usize) -> Option<(Gpa, usize)> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let node = self.nodes.get_mut(usize::from(list.first))?;
        if max == 0 {
            return None;
        }
        let (addr, len) = (node.addr, node.len.min(max));
        node.len = node.len.saturating_sub(len);
        // A piece does not wrap.
        node.addr = Gpa(addr.0.saturating_add(len.into()));
        if node.len == 0 {
            list.first = self.give_back(list.first).unwrap_or(NONE);
        }
        Some((addr, usize::try_from(len).unwrap_or(0)))
    }

    /// Puts a node into the free list; gives the one after it.
    fn give_back(&mut self, index: u16) -> Option<u16> {
        let node = self.nodes.get_mut(usize::from(index))?;
        let next = core::mem::replace(&mut node.next, self.free);
        self.free = index;
        self.available = self.available.saturating_add(1);
        Some(next)
    }
}
