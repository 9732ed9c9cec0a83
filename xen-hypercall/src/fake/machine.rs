//! A small Xen: one guest, the caller, and the calls by which the one serves the other. Each call can be made to fail.
//!
//! What can be seen of it is a [`State`], which a test compares: ioreq servers and their ranges, event channels, what is
//! mapped in the caller's physmap, interrupt lines. Calls are carried out as Xen does (numbers are given out lowest first, the
//! enabled server with the highest one gets what the guest asks, and has ports, a port starts masked and pending, a page is mapped where nothing is), and what the caller must
//! never do panics. What is not modelled: more guests than one, vCPUs of the caller, caching, memory that is shared.
//!
//! Calls count from 0 in the order in which they take effect; a multicall is one call, and each of its entries is one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use super::{peek, poke};
use crate::dm::{self, DmOpBuf, MemType, ServerId};
use crate::memory::{self, Resource};
use crate::multicall::{self, MulticallEntry};
use crate::{DomId, Errno, EvtchnPort, Gfn, Hypervisor, event_channel, number};

/// The caller's own number.
pub const CALLER: DomId = DomId(5);
/// Servers that a guest can have.
const SERVERS: u16 = 8;
/// Where the arguments of a dm_op begin.
const ARGUMENT: usize = 8;
/// Words of a page.
const WORDS: usize = 512;
/// The word of a slot with port, state and type, and the state in it.
const LAST_WORD: usize = 3;
const STATE_SHIFT: u32 = 48;
const STATE: u64 = 0xf << STATE_SHIFT;
const READY: u64 = 1;
const ANSWERED: u64 = 3;

/// A page that the caller and Xen share.
#[derive(Debug)]
pub struct Page([AtomicU64; WORDS]);

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Self([const { AtomicU64::new(0) }; WORDS]))
    }

    /// A word of it.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        &self.0[at]
    }
}

/// Whose a mapped page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// A page of an ioreq server, by its number.
    Server(u16, u64),
    /// One of the guest's frames.
    Foreign(u64),
}

/// An ioreq server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whether it has a buffered ring.
    pub ring: bool,
    /// Whether it gets requests.
    pub enabled: bool,
    /// The guest's end of each vCPU's channel and, last, of the ring's; none before the server was enabled.
    pub ports: Vec<u32>,
    /// Type, first and last address of its ranges.
    pub ranges: Vec<(u32, u64, u64)>,
}

/// A port of the caller's, which is bound to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The guest's end; none when the guest has closed it.
    pub remote: Option<u32>,
    /// Whether its events are held back.
    pub masked: bool,
    /// Whether there is one.
    pub pending: bool,
}

/// What can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Ioreq servers.
    pub servers: BTreeMap<u16, Server>,
    /// The caller's ports.
    pub ports: BTreeMap<u32, Port>,
    /// What is mapped in the caller's physmap, by frame number.
    pub physmap: BTreeMap<u64, Mapped>,
    /// Lines of PCI devices that are up: the device, and 0 for INTA to 3 for INTD.
    pub lines: BTreeSet<(u8, u8)>,
    /// Frames that the caller has given the guest, and their type.
    pub given: BTreeMap<u64, MemType>,
    /// The server that gets what is written to frames of its type.
    pub claim: Option<u16>,
}

/// What is not compared: pages, and what was counted.
#[derive(Default)]
struct Hidden {
    pages: BTreeMap<(u16, u64), Arc<Page>>,
    /// The guest's frames that have content, and those of them that are mapped by the caller, by its frame.
    contents: BTreeMap<u64, Arc<Page>>,
    mapped: BTreeMap<u64, Arc<Page>>,
    /// What a vCPU writes into memory between the next move of a frame and what comes then.
    intrusion: Option<(u64, u32)>,
    /// The guest's ends that somebody may bind to, or has bound to.
    offered: BTreeSet<u32>,
    /// Frames that the guest has.
    ram: BTreeSet<u64>,
    interrupts: BTreeMap<(u8, u8), u64>,
    messages: u64,
    events: BTreeMap<u32, u64>,
    calls: Vec<String>,
    /// A vCPU that asks the same again as soon as it is told of the answer.
    busy: Option<u16>,
    /// The server that each vCPU has asked last.
    asked: BTreeMap<u16, u16>,
}

/// When calls fail.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// This one, with this error.
    Once(usize, Errno),
    /// This one, and each third one behind it.
    EveryThird(usize, Errno),
    /// From this one on so many, one after the other.
    Row(usize, usize, Errno),
    /// All from this one on that name the guest or touch what it has.
    From(usize, Errno),
    /// None, but before this one the guest gives away all frames that it was given.
    Stolen(usize),
    /// From this one on there is no guest, nor anything that it had.
    GuestGone(usize),
    /// All.
    All(Errno),
    /// The entries of this one, with this error, if it has any.
    Entries(usize, Errno),
}

/// The small Xen.
pub struct Machine {
    /// The guest.
    pub guest: DomId,
    vcpus: u32,
    state: RefCell<State>,
    hidden: RefCell<Hidden>,
    fault: Cell<Option<Fault>>,
    made: Cell<usize>,
}

type Done = Result<usize, Errno>;

/// The address of something that a call points at, by the promise of [`Hypervisor::hypercall`].
#[derive(Clone, Copy)]
struct Pointer(usize);

impl Pointer {
    fn get<T: Copy>(self) -> T {
        // SAFETY: made of a call's arguments only, and used for what the call expects there.
        unsafe { peek(self.0) }
    }

    fn set<T>(self, value: T) {
        // SAFETY: as above.
        unsafe { poke(self.0, value) }
    }

    /// What lies `n` values of a type further on.
    fn add<T>(self, n: usize) -> Self {
        Self(self.0 + n * size_of::<T>())
    }
}

impl Machine {
    /// A guest with so many vCPUs and with RAM at these frames; the caller may do what it likes to it.
    pub fn new(guest: DomId, vcpus: u32, ram: impl IntoIterator<Item = u64>) -> Self {
        let hidden = Hidden {
            ram: ram.into_iter().collect(),
            ..Default::default()
        };
        Self {
            guest,
            vcpus,
            state: RefCell::default(),
            hidden: RefCell::new(hidden),
            fault: Cell::new(None),
            made: Cell::new(0),
        }
    }

    /// Makes calls fail from here on, counted from now.
    pub fn fail(&self, fault: Fault) {
        self.made.set(0);
        self.hidden.borrow_mut().calls.clear();
        self.fault.set(Some(fault));
    }

    /// Lets calls succeed again, and counts them from 0.
    pub fn mend(&self) {
        self.made.set(0);
        self.hidden.borrow_mut().calls.clear();
        self.fault.set(None);
    }

    /// Calls since the last [`Self::fail`] or [`Self::mend`].
    pub fn made(&self) -> usize {
        self.made.get()
    }

    /// Those calls, in words.
    pub fn calls(&self) -> Vec<String> {
        self.hidden.borrow().calls.clone()
    }

    /// What can be seen.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// A port of the guest's that the caller may bind to.
    pub fn offer(&self) -> u32 {
        let mut hidden = self.hidden.borrow_mut();
        let port = (1..)
            .find(|port| !hidden.offered.contains(port))
            .expect("a port");
        hidden.offered.insert(port);
        port
    }

    /// The guest gives up a frame: it is a hole from now on.
    pub fn balloon_out(&self, frame: u64) {
        self.hidden.borrow_mut().ram.remove(&frame);
    }

    /// The guest gets a frame.
    pub fn balloon_in(&self, frame: u64) {
        self.hidden.borrow_mut().ram.insert(frame);
    }

    /// The guest's end of this port is closed.
    pub fn close_remote(&self, local: u32) {
        let mut state = self.state.borrow_mut();
        state.ports.get_mut(&local).expect("a port").remote = None;
    }

    /// A vCPU has a request: its slot is filled and READY, and the server's port has an event. The slot must be free.
    pub fn request(&self, vcpu: u16, words: [u64; 3], flags: u8, kind: u8) {
        let page = self.page_of(self.enabled(), 1);
        let at = usize::from(vcpu) * 4;
        for (offset, word) in words.into_iter().enumerate() {
            page.word(at + offset).store(word, Ordering::Relaxed);
        }
        let last = page.word(at + LAST_WORD).load(Ordering::Relaxed);
        assert_eq!(last & STATE, 0, "vCPU {vcpu} waits already");
        let control = (u64::from(flags) | READY) << STATE_SHIFT | u64::from(kind) << 56;
        let last = last & 0xffff_ffff | control;
        page.word(at + LAST_WORD).store(last, Ordering::Release);
        let server = self.enabled();
        self.hidden.borrow_mut().asked.insert(vcpu, server);
        let remote = self.state.borrow().servers[&server].ports[usize::from(vcpu)];
        self.signal(remote);
    }

    /// What a vCPU that has asked and waits no more was answered.
    pub fn answer(&self, vcpu: u16) -> u64 {
        let server = self.hidden.borrow().asked[&vcpu];
        let page = self.page_of(server, 1);
        page.word(usize::from(vcpu) * 4 + 1).load(Ordering::Relaxed)
    }

    /// From now on, this vCPU asks the same again as soon as it is told of an answer, as long as the server is enabled.
    pub fn keep_asking(&self, vcpu: u16) {
        self.hidden.borrow_mut().busy = Some(vcpu);
    }

    /// A vCPU posts a write of 4 bytes to memory. `false` if the ring is full.
    pub fn post(&self, addr: u64, value: u32) -> bool {
        let server = self.enabled();
        let page = self.page_of(server, 0);
        let pointers = page.word(0).load(Ordering::Acquire);
        let (read, write) = (pointers as u32, (pointers >> 32) as u32);
        if write.wrapping_sub(read) >= 511 {
            return false;
        }
        let entry = 1 | 2 << 10 | addr << 12 | u64::from(value) << 32;
        page.word(1 + write as usize % 511)
            .store(entry, Ordering::Relaxed);
        page.word(0).fetch_add(1 << 32, Ordering::Release);
        let remote = *self.state.borrow().servers[&server]
            .ports
            .last()
            .expect("a port");
        self.signal(remote);
        true
    }

    /// What a vCPU reads there without leaving; `None` if it leaves.
    pub fn read_memory(&self, addr: u64) -> Option<u32> {
        let frame = addr >> 12;
        self.state.borrow().given.get(&frame)?;
        let page = Arc::clone(&self.hidden.borrow().contents[&frame]);
        let word = page
            .word((addr & 0xfff) as usize / 8)
            .load(Ordering::Acquire);
        Some((word >> ((addr & 4) * 8)) as u32)
    }

    /// What a vCPU writes there, if it does not leave. Returns whether that is so.
    pub fn write_memory(&self, addr: u64, value: u32) -> bool {
        let frame = addr >> 12;
        match self.state.borrow().given.get(&frame) {
            None | Some(MemType::IoreqServer) => false,
            Some(MemType::Ram) => {
                let page = Arc::clone(&self.hidden.borrow().contents[&frame]);
                let word = page.word((addr & 0xfff) as usize / 8);
                let shift = (addr & 4) * 8;
                let kept = word.load(Ordering::Acquire) & !(0xffff_ffff << shift);
                word.store(kept | u64::from(value) << shift, Ordering::Release);
                true
            }
            Some(_) => true,
        }
    }

    /// A vCPU is quick: it writes this as soon as the next frame was moved to where it can.
    pub fn intrude(&self, addr: u64, value: u32) {
        self.hidden.borrow_mut().intrusion = Some((addr, value));
    }

    /// Whether a vCPU waits for an answer, or has not been told of it.
    pub fn waits(&self, vcpu: u16) -> bool {
        let pages = &self.hidden.borrow().pages;
        let mut pages = pages.iter().filter(|((_, number), _)| *number == 1);
        pages.any(|(_, page)| {
            let last = page.word(usize::from(vcpu) * 4 + LAST_WORD);
            last.load(Ordering::Acquire) & STATE != 0
        })
    }

    /// Takes the ports that have an event and are not held back, as the handler does.
    pub fn take_events(&self) -> Vec<EvtchnPort> {
        let mut state = self.state.borrow_mut();
        let due = state
            .ports
            .iter_mut()
            .filter(|(_, port)| port.pending && !port.masked);
        due.map(|(&number, port)| {
            port.pending = false;
            EvtchnPort(number)
        })
        .collect()
    }

    /// The guest sends an event to the other end of a port of its own.
    pub fn signal(&self, remote: u32) {
        let mut state = self.state.borrow_mut();
        let mut ports = state.ports.values_mut();
        if let Some(port) = ports.find(|port| port.remote == Some(remote)) {
            port.pending = true;
        }
    }

    /// Holds a port's events back, as the caller does by a bit of a page.
    pub fn mask(&self, port: EvtchnPort) {
        if let Some(port) = self.state.borrow_mut().ports.get_mut(&port.0) {
            port.masked = true;
        }
    }

    /// How often a device has interrupted the guest by its line, that is by raising it.
    pub fn interrupts(&self, line: (u8, u8)) -> u64 {
        let hidden = self.hidden.borrow();
        hidden.interrupts.get(&line).copied().unwrap_or(0)
    }

    /// Whether a device's line is up.
    pub fn is_up(&self, line: (u8, u8)) -> bool {
        self.state.borrow().lines.contains(&line)
    }

    /// How many messages have interrupted the guest.
    pub fn messages(&self) -> u64 {
        self.hidden.borrow().messages
    }

    /// How many events were sent to this port of the guest's.
    pub fn events(&self, remote: u32) -> u64 {
        let hidden = self.hidden.borrow();
        hidden.events.get(&remote).copied().unwrap_or(0)
    }

    /// Maps a page of a server at `gfn`.
    ///
    /// # Errors
    /// What this Xen says.
    pub fn map(&self, server: ServerId, page: u64, gfn: u64) -> Result<(), Errno> {
        let resource = Resource::IoreqServer(server);
        // SAFETY: the machine has no memory of this process's at any frame.
        unsafe { memory::acquire_resource(self, self.guest, resource, page, &mut [gfn]) }
    }

    /// Unmaps what is at `gfn`.
    ///
    /// # Errors
    /// What this Xen says.
    pub fn unmap(&self, gfn: u64) -> Result<(), Errno> {
        // SAFETY: as above.
        unsafe { memory::remove_from_physmap(self, DomId::SELF, Gfn(gfn)) }
    }

    /// Gives the guest a frame of RAM, or takes one away; says how many that were.
    ///
    /// # Errors
    /// What this Xen says.
    pub fn supply(&self, frame: u64, give: bool) -> Result<usize, Errno> {
        // SAFETY: as above; the guest is another domain.
        unsafe {
            if give {
                memory::populate_physmap(self, self.guest, &mut [frame])
            } else {
                memory::decrease_reservation(self, self.guest, &[frame])
            }
        }
    }

    /// Maps frames of the guest at frames of the caller.
    ///
    /// # Errors
    /// What this Xen says to the call as a whole; each frame has an error of its own besides.
    pub fn map_foreign(
        &self,
        theirs: &[u64],
        ours: &[u64],
        errors: &mut [i32],
    ) -> Result<(), Errno> {
        let from = memory::PhysmapSpace::ForeignGmfn(self.guest);
        // SAFETY: as above.
        unsafe { memory::add_to_physmap_batch(self, DomId::SELF, from, theirs, ours, errors) }
    }

    /// Unmaps what is at these frames, with one multicall; returns what this Xen says to each.
    ///
    /// # Errors
    /// To the multicall as a whole.
    pub fn unmap_all(&self, frames: &[u64]) -> Result<Vec<Result<(), Errno>>, Errno> {
        let arguments: Vec<_> = frames
            .iter()
            .map(|&frame| memory::RemoveFromPhysmap::new(DomId::SELF, Gfn(frame)))
            .collect();
        let entries = arguments.iter().map(memory::remove_from_physmap_entry);
        let mut entries: Vec<_> = entries.collect();
        // SAFETY: as above; the arguments outlive the call.
        unsafe { multicall::multicall(self, &mut entries) }?;
        Ok(entries
            .iter()
            .map(|entry| entry.result().map(drop))
            .collect())
    }

    /// The page of the server that is mapped at `gfn`.
    pub fn page_at(&self, gfn: u64) -> Arc<Page> {
        match self.state.borrow().physmap.get(&gfn) {
            Some(&Mapped::Server(server, page)) => self.page_of(server, page),
            // The page that was mapped, wherever the guest has it now.
            Some(&Mapped::Foreign(_)) => Arc::clone(&self.hidden.borrow().mapped[&gfn]),
            other => panic!("{other:?} at {gfn:#x}"),
        }
    }

    fn page_of(&self, server: u16, page: u64) -> Arc<Page> {
        let mut hidden = self.hidden.borrow_mut();
        let page = hidden.pages.entry((server, page));
        Arc::clone(page.or_insert_with(Page::new))
    }

    /// The server that gets the guest's accesses: that with the highest number.
    fn enabled(&self) -> u16 {
        let state = self.state.borrow();
        let mut servers = state.servers.iter().filter(|(_, server)| server.enabled);
        *servers.next_back().expect("an enabled server").0
    }

    /// The guest is gone.
    pub fn bury(&self) {
        let state = &mut *self.state.borrow_mut();
        state.servers.clear();
        state.lines.clear();
        state.given.clear();
        state.claim = None;
        state.ports.values_mut().for_each(|port| port.remote = None);
        let mut hidden = self.hidden.borrow_mut();
        hidden.ram.clear();
        hidden.offered.clear();
    }

    /// Counts a call; says whether it fails, or with which error its entries do.
    fn admit(&self, what: String, theirs: bool) -> Result<Option<Errno>, Errno> {
        let n = self.made.replace(self.made.get() + 1);
        self.hidden.borrow_mut().calls.push(what);
        match self.fault.get() {
            Some(Fault::Once(at, error)) if at == n => Err(error),
            Some(Fault::EveryThird(at, error)) if at <= n && (n - at).is_multiple_of(3) => {
                Err(error)
            }
            Some(Fault::Row(at, count, error)) if (at..at + count).contains(&n) => Err(error),
            Some(Fault::From(at, error)) if at <= n && theirs => Err(error),
            Some(Fault::Stolen(at)) if at == n => {
                self.state.borrow_mut().given.clear();
                self.hidden.borrow_mut().contents.clear();
                Ok(None)
            }
            Some(Fault::GuestGone(at)) if at <= n => {
                self.bury();
                if theirs { Err(Errno::ESRCH) } else { Ok(None) }
            }
            Some(Fault::All(error)) => Err(error),
            Some(Fault::Entries(at, error)) if at == n => Ok(Some(error)),
            _ => Ok(None),
        }
    }

    /// Arguments are what the call expects.
    fn dispatch(&self, number: u32, args: [usize; 5]) -> Done {
        match number {
            number::DM_OP => self.dm_op(DomId(args[0] as u16), args[1], Pointer(args[2])),
            number::EVENT_CHANNEL_OP => self.event_channel_op(args[0], Pointer(args[1])),
            number::MEMORY_OP => self.memory_op(args[0], Pointer(args[1])),
            number::MULTICALL => {
                self.admit(format!("multicall of {}", args[1]), false)?;
                for n in 0..args[1] {
                    let at = Pointer(args[0]).add::<MulticallEntry>(n);
                    let mut entry = at.get::<MulticallEntry>();
                    let [a, b, c, d, e, _] = entry.args.map(|arg| arg as usize);
                    let done = self.dispatch(entry.op as u32, [a, b, c, d, e]);
                    entry.ret = value(done) as u64;
                    at.set(entry);
                }
                Ok(0)
            }
            _ => panic!("hypercall {number}"),
        }
    }

    fn dm_op(&self, domid: DomId, buffers: usize, list: Pointer) -> Done {
        assert_eq!((domid, buffers), (self.guest, 1));
        let buffer = list.get::<DmOpBuf>();
        let whole = Pointer(buffer.h as usize);
        let (op, at) = (whole.get::<u32>(), whole.add::<u8>(ARGUMENT));
        self.admit(format!("dm_op {op}"), true)?;
        if let dm::op::SET_MEM_TYPE | dm::op::MAP_MEM_TYPE | dm::op::RELOCATE_MEMORY = op {
            return self.frame_op(op, at);
        }
        let state = &mut *self.state.borrow_mut();
        match op {
            dm::op::NR_VCPUS => {
                let vcpus = self.vcpus;
                at.set(dm::NrVcpus { vcpus });
            }
            dm::op::CREATE_IOREQ_SERVER => {
                let mut arg = at.get::<dm::CreateIoreqServer>();
                let free = (0..SERVERS).find(|id| !state.servers.contains_key(id));
                arg.id = free.ok_or(Errno::ENOSPC)?;
                let server = Server {
                    ring: arg.handle_bufioreq != 0,
                    enabled: false,
                    ports: Vec::new(),
                    ranges: Vec::new(),
                };
                state.servers.insert(arg.id, server);
                // Its pages are fresh ones.
                let mut hidden = self.hidden.borrow_mut();
                hidden.pages.retain(|(server, _), _| *server != arg.id);
                at.set(arg);
            }
            dm::op::GET_IOREQ_SERVER_INFO => {
                let mut arg = at.get::<dm::GetIoreqServerInfo>();
                let server = state.servers.get(&arg.id).ok_or(Errno::ENOENT)?;
                arg.bufioreq_port = server
                    .ports
                    .last()
                    .copied()
                    .filter(|_| server.ring)
                    .unwrap_or(0);
                at.set(arg);
            }
            dm::op::MAP_IO_RANGE | dm::op::UNMAP_IO_RANGE => {
                let arg = at.get::<dm::IoreqServerRange>();
                let server = state.servers.get_mut(&arg.id).ok_or(Errno::ENOENT)?;
                let range = (arg.kind, arg.start, arg.end);
                let there = server.ranges.iter().position(|r| *r == range);
                match (op, there) {
                    (dm::op::MAP_IO_RANGE, None) => server.ranges.push(range),
                    (dm::op::MAP_IO_RANGE, Some(_)) => return Err(Errno::EEXIST),
                    (_, Some(there)) => drop(server.ranges.remove(there)),
                    (_, None) => return Err(Errno::ENOENT),
                }
            }
            dm::op::SET_IOREQ_SERVER_STATE => {
                let arg = at.get::<dm::SetIoreqServerState>();
                self.set_state(state, arg.id, arg.enabled != 0)?;
            }
            dm::op::DESTROY_IOREQ_SERVER => {
                let arg = at.get::<dm::DestroyIoreqServer>();
                let server = state.servers.remove(&arg.id).ok_or(Errno::ENOENT)?;
                // Its frames keep their type: who writes there tries for ever.
                state.claim.take_if(|id| *id == arg.id);
                // Closed by the guest's end, and waiting for whoever binds.
                for port in state.ports.values_mut() {
                    port.remote = port.remote.filter(|remote| !server.ports.contains(remote));
                }
                let mut hidden = self.hidden.borrow_mut();
                hidden.offered.retain(|port| !server.ports.contains(port));
            }
            dm::op::SET_PCI_INTX_LEVEL => {
                let arg = at.get::<dm::SetPciIntxLevel>();
                assert_eq!((arg.domain, arg.bus), (0, 0));
                assert!(arg.device < 32 && arg.intx < 4);
                let line = (arg.device, arg.intx);
                if arg.level == 0 {
                    state.lines.remove(&line);
                } else if state.lines.insert(line) {
                    let mut hidden = self.hidden.borrow_mut();
                    *hidden.interrupts.entry(line).or_default() += 1;
                }
            }
            dm::op::INJECT_MSI => self.hidden.borrow_mut().messages += 1,
            _ => panic!("dm_op {op}"),
        }
        Ok(0)
    }

    /// What is done to the guest's frames.
    fn frame_op(&self, op: u32, at: Pointer) -> Done {
        let mut state = self.state.borrow_mut();
        match op {
            dm::op::SET_MEM_TYPE => {
                let arg = at.get::<dm::SetMemType>();
                assert_eq!(arg.nr, 1);
                let claimed = state.claim.is_some();
                let old = state.given.get_mut(&arg.first_pfn).ok_or(Errno::EINVAL)?;
                *old = match (*old, arg.mem_type) {
                    (MemType::Ram, 4) if claimed => MemType::IoreqServer,
                    (_, 0) => MemType::Ram,
                    (MemType::Ram | MemType::ReadOnly, 1) => MemType::ReadOnly,
                    _ => return Err(Errno::EINVAL),
                };
            }
            dm::op::MAP_MEM_TYPE => {
                let arg = at.get::<dm::MapMemTypeToIoreqServer>();
                assert_eq!((arg.kind, arg.flags & !2, arg.opaque), (4, 0, 0));
                if !state.servers.contains_key(&arg.id) {
                    return Err(Errno::ENOENT);
                }
                let is_left = |kind: &MemType| *kind == MemType::IoreqServer;
                if arg.flags != 0 {
                    if state.claim.is_some() || state.given.values().any(is_left) {
                        return Err(Errno::EBUSY);
                    }
                    state.claim = Some(arg.id);
                } else if state.claim == Some(arg.id) {
                    state.claim = None;
                    for kind in state.given.values_mut().filter(|kind| is_left(kind)) {
                        *kind = MemType::Ram;
                    }
                } else {
                    return Err(Errno::EINVAL);
                }
            }
            _ => {
                let arg = at.get::<dm::RelocateMemory>();
                assert_eq!(arg.size, 1);
                match state.given.get(&arg.src_gfn) {
                    None => return Err(Errno::EINVAL),
                    Some(MemType::Ram) => {}
                    Some(_) => return Err(Errno::EACCES),
                }
                state.given.remove(&arg.src_gfn);
                state.given.insert(arg.dst_gfn, MemType::Ram);
                let mut hidden = self.hidden.borrow_mut();
                let page = hidden.contents.remove(&arg.src_gfn).expect("a page");
                hidden.contents.insert(arg.dst_gfn, page);
                let intrusion = hidden.intrusion.take();
                drop((state, hidden));
                if let Some((addr, value)) = intrusion {
                    assert!(self.write_memory(addr, value));
                }
            }
        }
        Ok(0)
    }

    fn set_state(&self, state: &mut State, id: u16, enabled: bool) -> Result<(), Errno> {
        let server = state.servers.get_mut(&id).ok_or(Errno::ENOENT)?;
        server.enabled = enabled;
        if enabled && server.ports.is_empty() {
            let all = self.vcpus + u32::from(server.ring);
            server.ports = (0..all).map(|_| self.offer()).collect();
            let page = self.page_of(id, 1);
            for (vcpu, &port) in (0..self.vcpus).zip(&server.ports) {
                let last = page.word(vcpu as usize * 4 + LAST_WORD);
                last.store(port.into(), Ordering::Release);
            }
        }
        Ok(())
    }

    fn event_channel_op(&self, op: usize, at: Pointer) -> Done {
        let theirs = op == event_channel::BIND_INTERDOMAIN;
        self.admit(format!("event_channel_op {op}"), theirs)?;
        let state = &mut *self.state.borrow_mut();
        match op {
            event_channel::BIND_INTERDOMAIN => {
                let mut arg = at.get::<event_channel::BindInterdomain>();
                assert_eq!(DomId(arg.remote_dom), self.guest);
                let remote = Some(arg.remote_port);
                let bound = state.ports.values().any(|port| port.remote == remote);
                if bound || !self.hidden.borrow().offered.contains(&arg.remote_port) {
                    return Err(Errno::EINVAL);
                }
                arg.local_port = (1..)
                    .find(|port| !state.ports.contains_key(port))
                    .ok_or(Errno::ENOSPC)?;
                let port = Port {
                    remote,
                    masked: true,
                    pending: true,
                };
                state.ports.insert(arg.local_port, port);
                at.set(arg);
            }
            event_channel::CLOSE => {
                let arg = at.get::<event_channel::Close>();
                state.ports.remove(&arg.port).ok_or(Errno::EINVAL)?;
            }
            event_channel::UNMASK => {
                let arg = at.get::<event_channel::Unmask>();
                state.ports.get_mut(&arg.port).ok_or(Errno::EINVAL)?.masked = false;
            }
            event_channel::SEND => {
                let arg = at.get::<event_channel::Send>();
                let port = state.ports.get(&arg.port).ok_or(Errno::EINVAL)?;
                if let Some(remote) = port.remote {
                    *self.hidden.borrow_mut().events.entry(remote).or_default() += 1;
                    self.wake(state, remote);
                }
            }
            event_channel::STATUS => {
                let mut arg = at.get::<event_channel::RawStatus>();
                (arg.status, arg.other, arg.other_port) = match state.ports.get(&arg.port) {
                    None => (0, 0, 0),
                    Some(Port { remote: None, .. }) => (1, self.guest.0.into(), 0),
                    Some(Port {
                        remote: Some(remote),
                        ..
                    }) => (2, self.guest.0.into(), *remote),
                };
                at.set(arg);
            }
            _ => panic!("event_channel_op {op}"),
        }
        Ok(0)
    }

    /// A vCPU that is told looks at its slot, takes the answer if there is one, and goes on.
    fn wake(&self, state: &mut State, remote: u32) {
        for (&id, server) in &state.servers {
            let vcpus = (0..).zip(&server.ports).take(self.vcpus as usize);
            for (vcpu, _) in vcpus.filter(|(_, port)| **port == remote) {
                let page = self.page_of(id, 1);
                let last = page.word(usize::from(vcpu) * 4 + LAST_WORD);
                let value = last.load(Ordering::Acquire);
                if (value & STATE) >> STATE_SHIFT != ANSWERED {
                    continue;
                }
                let again = self.hidden.borrow().busy == Some(vcpu) && server.enabled;
                let next = if again { READY << STATE_SHIFT } else { 0 };
                last.store(value & !STATE | next, Ordering::Release);
                let mut ports = state.ports.values_mut();
                if let Some(port) = ports.find(|port| again && port.remote == Some(remote)) {
                    port.pending = true;
                }
            }
        }
    }

    fn memory_op(&self, op: usize, at: Pointer) -> Done {
        let theirs = op != memory::REMOVE_FROM_PHYSMAP;
        let entries = self.admit(format!("memory_op {op}"), theirs)?;
        let state = &mut *self.state.borrow_mut();
        match op {
            memory::POPULATE_PHYSMAP | memory::DECREASE_RESERVATION => {
                let arg = at.get::<memory::MemoryReservation>();
                assert_eq!((DomId(arg.domid), arg.nr_extents), (self.guest, 1));
                let frame = Pointer(arg.extent_start as usize).get::<u64>();
                let mut hidden = self.hidden.borrow_mut();
                if op == memory::POPULATE_PHYSMAP {
                    // Xen says "none" when it has no memory.
                    if let Some(Errno::ENOMEM) = entries {
                        return Ok(0);
                    }
                    let before = state.given.insert(frame, MemType::Ram);
                    assert_eq!(before, None, "what is at {frame:#x} is lost");
                    hidden.contents.insert(frame, Page::new());
                } else if state.given.remove(&frame).is_some() {
                    hidden.contents.remove(&frame);
                } else {
                    return Ok(0);
                }
                return Ok(1);
            }
            memory::MAXIMUM_GPFN => {
                let last = self.hidden.borrow().ram.last().copied();
                return Ok(last.unwrap_or(0) as usize);
            }
            memory::ACQUIRE_RESOURCE => {
                let arg = at.get::<memory::AcquireResource>();
                assert_eq!(
                    (DomId(arg.domid), arg.kind, arg.nr_frames),
                    (self.guest, 0, 1)
                );
                let (id, frame) = (arg.id as u16, arg.frame);
                let server = state.servers.get(&id).ok_or(Errno::ENOENT)?;
                if frame > 1 || frame == 0 && !server.ring {
                    return Err(Errno::ENOENT);
                }
                let gfn = Pointer(arg.frame_list as usize).get::<u64>();
                let before = state.physmap.insert(gfn, Mapped::Server(id, frame));
                assert_eq!(before, None, "something is mapped at {gfn:#x}");
            }
            memory::ADD_TO_PHYSMAP_BATCH => {
                let arg = at.get::<memory::AddToPhysmapBatch>();
                assert_eq!(DomId(arg.foreign_domid), self.guest);
                for n in 0..usize::from(arg.size) {
                    let theirs = Pointer(arg.idxs as usize).add::<u64>(n).get::<u64>();
                    let ours = Pointer(arg.gpfns as usize).add::<u64>(n).get::<u64>();
                    let is_given = state.given.contains_key(&theirs);
                    let error = match entries {
                        Some(error) => -error.0,
                        None if !is_given && !self.hidden.borrow().ram.contains(&theirs) => {
                            -Errno::EINVAL.0
                        }
                        None => {
                            let mut hidden = self.hidden.borrow_mut();
                            if let Some(page) = hidden.contents.get(&theirs).map(Arc::clone) {
                                hidden.mapped.insert(ours, page);
                            }
                            // A foreign page that was there is taken out first.
                            let before = state.physmap.insert(ours, Mapped::Foreign(theirs));
                            let is_foreign = matches!(before, None | Some(Mapped::Foreign(_)));
                            assert!(is_foreign, "{before:?} is at {ours:#x}");
                            0
                        }
                    };
                    Pointer(arg.errs as usize).add::<i32>(n).set(error);
                }
            }
            memory::REMOVE_FROM_PHYSMAP => {
                let arg = at.get::<memory::RemoveFromPhysmap>();
                state.physmap.remove(&arg.gpfn).ok_or(Errno::ENOENT)?;
                self.hidden.borrow_mut().mapped.remove(&arg.gpfn);
            }
            _ => panic!("memory_op {op}"),
        }
        Ok(0)
    }
}

/// What the call returns.
fn value(done: Done) -> isize {
    match done {
        Ok(value) => value as isize,
        Err(error) => -(error.0 as isize),
    }
}

// SAFETY: what calls point at is read and written as Xen does it.
unsafe impl Hypervisor for Machine {
    unsafe fn hypercall(&self, number: u32, args: [usize; 5]) -> isize {
        value(self.dispatch(number, args))
    }
}
