//! An interface as the uplink of a switch: what the main loop runs.
//!
//! Invariant: the switch has pages of an interface only while its connection is open; it has forgotten them before any of
//! them is taken back.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Ref, RefCell};

use vd_net::{AddError, Arrival, OwnMemory, Switch, Taken};
use vd_pv::handshake::State;
use vd_pv::{Front, NoRoom, Unusable};
use vd_virtio::GuestMemory;
use vd_xenbus::store::View;
use vd_xenbus::{Error, Transport};

use crate::incoming::Incoming;
use crate::nodes;
use crate::pages::FramePages;
use crate::vif::{Link, Properties, SPARE, Vif};
use crate::wire::MAX_SLOTS;

/// Bytes of a page.
const PAGE: u32 = 4096;

/// The interface's pages, for the switch.
struct Memory<P>(Rc<RefCell<Vif<P>>>);

impl<P: FramePages> OwnMemory for Memory<P> {
    fn fill(&self, at: u32, len: usize, with: &mut dyn FnMut(&mut [u8])) {
        let vif = self.0.borrow();
        if let Some((page, at)) = vif.place(at, len) {
            vif.platform().fill_at(page, at, len, with);
        }
    }

    fn drain(&self, at: u32, len: usize, with: &mut dyn FnMut(&[u8])) {
        let vif = self.0.borrow();
        if let Some((page, at)) = vif.place(at, len) {
            vif.platform().drain_at(page, at, len, with);
        }
    }
}

/// An interface, and the port of the switch that it is.
#[derive(Debug)]
pub struct Uplink<P> {
    device: u32,
    vif: Rc<RefCell<Vif<P>>>,
    port: vd_net::Uplink,
    /// Frames can go out and come in.
    up: bool,
    /// The same as was last asked for.
    told: bool,
}

impl<P: FramePages + 'static> Uplink<P> {
    /// Makes the interface of that number the uplink of a switch. It has no back end yet.
    ///
    /// # Errors
    /// [`AddError`]
    pub fn new(device: u32, vif: Vif<P>, switch: &Rc<RefCell<Switch>>) -> Result<Self, AddError> {
        let vif = Rc::new(RefCell::new(vif));
        let port = vd_net::Uplink::new(switch, Rc::new(Memory(Rc::clone(&vif))), SPARE)?;
        Ok(Self {
            device,
            vif,
            port,
            up: false,
            told: false,
        })
    }
}

impl<P: FramePages> Uplink<P> {
    /// The interface.
    pub fn vif(&self) -> Ref<'_, Vif<P>> {
        self.vif.borrow()
    }

    /// Its port of the switch.
    pub fn port(&self) -> &vd_net::Uplink {
        &self.port
    }

    /// Whether frames can go out and come in.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a pass is due that nobody outside asks for.
    pub fn is_due(&self) -> bool {
        self.up && self.port.is_due()
    }

    /// Whether that has changed since this was last asked, and to what.
    pub fn take_change(&mut self) -> Option<bool> {
        let changed = self.up != self.told;
        self.told = self.up;
        changed.then_some(self.up)
    }

    /// What the back end has got wrong, once.
    pub fn take_nonsense(&self) -> Option<&'static str> {
        let nonsense = self.vif.borrow_mut().take_nonsense();
        nonsense.map(|nonsense| nonsense.0)
    }

    /// Nothing goes any way from now on.
    fn close(&mut self) {
        if self.up {
            self.up = false;
            self.port.close();
        }
    }

    /// Moves what there is to move: what the switch has for the back end, and up to `budget` frames (large ones count for
    /// more) the other way. Returns whether there is more.
    pub fn run<M: GuestMemory + ?Sized>(&mut self, guest: &M, budget: u32) -> bool {
        if !self.up {
            return false;
        }
        self.vif.borrow_mut().take_answers();
        if self.give_room() | self.port.take_retry() {
            self.port.send_waiting(guest);
        }
        while let Some(id) = self.port.next_returned() {
            self.vif.borrow_mut().release(id);
        }
        let more = self.receive(guest, budget);
        self.send();
        let mut vif = self.vif.borrow_mut();
        vif.post();
        vif.show();
        let more = vif.arm() | more;
        let broken = vif.link() == Link::Broken;
        drop(vif);
        if broken {
            self.close();
        }
        more && !broken
    }

    /// Gives the switch all room that it takes. Returns whether that is any.
    fn give_room(&self) -> bool {
        let mut given = false;
        loop {
            let Some((page, at)) = self.vif.borrow_mut().take_room() else {
                return given;
            };
            if !self.port.give_room(page, at, PAGE) {
                self.vif.borrow_mut().return_room(page);
                return given;
            }
            given = true;
        }
    }

    fn receive<M: GuestMemory + ?Sized>(&self, guest: &M, budget: u32) -> bool {
        let mut left = budget;
        while left != 0 {
            // The switch looks at the interface's memory.
            let next = self.vif.borrow_mut().next_frame();
            let Some(frame) = next else { return false };
            let cost = self.forward(guest, &frame);
            left = left.saturating_sub(cost.saturating_add(1));
        }
        true
    }

    fn forward<M: GuestMemory + ?Sized>(&self, guest: &M, frame: &Incoming) -> u32 {
        let arrival = Arrival {
            id: frame.first,
            pieces: &frame.pieces,
            pages: frame.pages(),
            blank: frame.blank,
            large: frame.gso.map(|gso| (gso.ipv6, gso.size)),
        };
        match self.port.receive(guest, &arrival) {
            Taken::Waits(cost) => cost,
            Taken::Done(cost) => {
                self.vif.borrow_mut().release(frame.first);
                cost
            }
        }
    }

    fn send(&self) {
        while let Some(first) = self.port.next_used() {
            let mut vif = self.vif.borrow_mut();
            let header = vif.header(first.0);
            let mut parts = heapless::Vec::<_, MAX_SLOTS>::new();
            // The parts of a frame are used together.
            let rest = (1..header.num_buffers).map_while(|_| self.port.next_used());
            for part in core::iter::once(first).chain(rest) {
                if parts.push(part).is_err() {
                    // No frame is so long.
                    vif.return_room(part.0);
                }
            }
            vif.send(&header, &parts);
        }
    }

    /// Makes rings for a back end, as [`Front::connect`] does. Returns whether there was room.
    #[cfg(feature = "test-util")]
    pub fn link_up(&mut self, domain: u16, split: bool) -> bool {
        self.vif.borrow_mut().connect(domain, split).is_ok()
    }

    fn path(&self) -> String {
        format!("device/{}/{}", Self::KIND, self.device)
    }

    /// The address that the toolstack has given the interface.
    ///
    /// # Errors
    /// Trouble with xenstore.
    pub fn address<T: Transport>(&self, view: &mut View<'_, T>) -> Result<Option<[u8; 6]>, Error> {
        nodes::address(view, &self.path())
    }
}

impl<P: FramePages> Front for Uplink<P> {
    const KIND: &'static str = "vif";
    const OFFERED: State = State::Connected;
    type Properties = Properties;

    fn connect<T: Transport>(
        &mut self,
        view: &mut View<'_, T>,
        backend: &str,
        domain: u16,
    ) -> Result<Result<(), NoRoom>, Error> {
        let split = nodes::splits_events(view, backend)?;
        Ok(self.vif.borrow_mut().connect(domain, split))
    }

    fn publish<T: Transport>(&self, view: &mut View<'_, T>, frontend: &str) -> Result<(), Error> {
        match self.vif.borrow().channels() {
            Some(channels) => nodes::publish(view, frontend, channels),
            None => Ok(()),
        }
    }

    fn properties<T: Transport>(
        &self,
        view: &mut View<'_, T>,
        backend: &str,
    ) -> Result<Result<Properties, Unusable>, Error> {
        Properties::read(view, &self.path(), backend)
    }

    fn open(&mut self, properties: Properties) {
        let mut vif = self.vif.borrow_mut();
        vif.open();
        if vif.link() == Link::Open {
            self.up = true;
            self.port.open(properties.mtu, properties.takes);
        }
    }

    fn reread<T: Transport>(&mut self, _: &mut View<'_, T>, _: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn queues(&self) -> usize {
        1
    }

    fn progress(&self) -> u64 {
        // What was sent and not answered, or came in and was refused, is none. Answers are there that nobody was told of.
        self.vif.borrow_mut().take_answers();
        let sent = self.vif.borrow().counters().okay_out;
        sent.saturating_add(self.port.counters().tx_frames)
    }

    fn is_idle(&self) -> bool {
        // A frame that is lost is lost: nobody waits for it.
        true
    }

    fn is_broken(&self) -> bool {
        self.vif.borrow().link() == Link::Broken
    }

    fn drain(&mut self) {
        self.close();
        self.vif.borrow_mut().drain();
    }

    fn disconnect(&mut self, _in_order: bool) {
        self.close();
        self.vif.borrow_mut().disconnect();
    }

    fn revoke(&mut self) -> bool {
        self.vif.borrow_mut().revoke()
    }
}
