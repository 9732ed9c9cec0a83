//! Pages, grants and event channels.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use crate::platform::{Access, PAGE_SIZE, Platform};

/// What both sides see.
#[derive(Debug, Default)]
pub struct Memory {
    pages: Vec<Vec<u8>>,
    grants: BTreeMap<u32, (u16, usize, Access)>,
    mapped: BTreeSet<u32>,
    ports: BTreeMap<u32, u16>,
    last: u32,
    /// Most grants.
    pub grant_limit: usize,
    /// Most event channels.
    pub port_limit: usize,
    /// Events sent by the front end, by channel.
    pub events: BTreeMap<u32, u64>,
    /// How often a grant could not be ended.
    pub refused_ends: u64,
}

impl Memory {
    /// The page behind a grant, if it is of this domain.
    pub fn page_of(&self, domain: u16, gref: u32) -> Option<usize> {
        let (to, page, _) = *self.grants.get(&gref)?;
        (to == domain).then_some(page)
    }

    /// The same of a page that the domain may write to.
    pub fn writable_page_of(&self, domain: u16, gref: u32) -> Option<usize> {
        let (to, page, access) = *self.grants.get(&gref)?;
        (to == domain && access == Access::Write).then_some(page)
    }

    /// Whether anybody is let into a page.
    pub fn is_granted(&self, page: usize) -> bool {
        self.grants.values().any(|(_, other, _)| *other == page)
    }

    /// The back end maps a granted page.
    pub fn map(&mut self, domain: u16, gref: u32) -> usize {
        let page = self
            .page_of(domain, gref)
            .unwrap_or_else(|| panic!("{gref} is no grant to domain {domain}"));
        self.mapped.insert(gref);
        page
    }

    /// The back end unmaps a page.
    pub fn unmap(&mut self, gref: u32) {
        self.mapped.remove(&gref);
    }

    /// The back end's domain is gone: Xen unmaps everything.
    pub fn unmap_all(&mut self) {
        self.mapped.clear();
    }

    /// Grants that there are.
    pub fn grants(&self) -> usize {
        self.grants.len()
    }

    /// Pages that the back end has mapped.
    pub fn mapped(&self) -> usize {
        self.mapped.len()
    }

    /// Event channels that there are.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Copies out of a page.
    pub fn get(&self, page: usize, at: usize, len: usize) -> Vec<u8> {
        self.pages[page][at..at + len].to_vec()
    }

    /// Copies into a page.
    pub fn put(&mut self, page: usize, at: usize, from: &[u8]) {
        self.pages[page][at..at + from.len()].copy_from_slice(from);
    }
}

/// The front end's side.
#[derive(Clone, Debug)]
pub struct FakePlatform(pub Rc<RefCell<Memory>>);

impl FakePlatform {
    /// So many pages, full of something.
    pub fn new(pages: usize) -> Self {
        Self(Rc::new(RefCell::new(Memory {
            pages: vec![vec![0xa5; PAGE_SIZE]; pages],
            grant_limit: usize::MAX,
            port_limit: usize::MAX,
            last: 7,
            ..Memory::default()
        })))
    }
}

impl Platform for FakePlatform {
    fn pages(&self) -> usize {
        self.0.borrow().pages.len()
    }

    fn load_u32(&self, page: usize, at: usize) -> u32 {
        assert!(at.is_multiple_of(4));
        u32::from_le_bytes(self.0.borrow().get(page, at, 4).try_into().unwrap())
    }

    fn store_u32(&mut self, page: usize, at: usize, value: u32) {
        assert!(at.is_multiple_of(4));
        self.0.borrow_mut().put(page, at, &value.to_le_bytes());
    }

    fn fence(&self) {}

    fn read_bytes(&self, page: usize, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0.borrow().get(page, at, into.len()));
    }

    fn write_bytes(&mut self, page: usize, at: usize, from: &[u8]) {
        self.0.borrow_mut().put(page, at, from);
    }

    fn fill<R>(&mut self, page: usize, len: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut bytes = vec![0x5a; len];
        let result = with(&mut bytes);
        self.0.borrow_mut().put(page, 0, &bytes);
        result
    }

    fn drain<R>(&self, page: usize, len: usize, with: impl FnOnce(&[u8]) -> R) -> R {
        let bytes = self.0.borrow().get(page, 0, len);
        with(&bytes)
    }

    fn grant(&mut self, domain: u16, page: usize, access: Access) -> Option<u32> {
        let memory = &mut *self.0.borrow_mut();
        if memory.grants.len() >= memory.grant_limit {
            return None;
        }
        memory.last += 1;
        memory.grants.insert(memory.last, (domain, page, access));
        Some(memory.last)
    }

    fn end_grant(&mut self, gref: u32) -> bool {
        let memory = &mut *self.0.borrow_mut();
        if memory.mapped.contains(&gref) {
            memory.refused_ends += 1;
            return false;
        }
        memory.grants.remove(&gref).expect("it was granted");
        true
    }

    fn open_port(&mut self, domain: u16) -> Option<u32> {
        let memory = &mut *self.0.borrow_mut();
        if memory.ports.len() >= memory.port_limit {
            return None;
        }
        memory.last += 1;
        memory.ports.insert(memory.last, domain);
        Some(memory.last)
    }

    fn close_port(&mut self, port: u32) {
        let closed = self.0.borrow_mut().ports.remove(&port);
        closed.expect("it was open");
    }

    fn notify(&mut self, port: u32) {
        let memory = &mut *self.0.borrow_mut();
        assert!(memory.ports.contains_key(&port), "no such event channel");
        *memory.events.entry(port).or_default() += 1;
    }
}
