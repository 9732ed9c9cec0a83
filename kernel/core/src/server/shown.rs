//! Registers that a guest reads in its own memory.
//!
//! While a driver uses a device, the tail of its window (`vd_virtio::mmio::still`) does not change. So the frame of the guest's
//! where that tail is becomes memory, of the type whose reads cost nothing and whose writes still come here; posted, because
//! of where the window is. It is memory only while [`MmioTransport::is_as_shown`] says so, and an ordinary window without
//! memory, where a read waits for all that was posted, before anything else is done: before the driver is interrupted, and
//! before an access that waits is answered.
//!
//! The frame is filled where nobody looks, then moved into the window, then given its type. In between it is plain memory:
//! what the guest writes there meanwhile is not heard. Of all that is in the tail, only Status matters then: nothing of the
//! configuration is to be acknowledged, a queue cannot be reset by itself, and nothing in the configuration is both written
//! and read. So Status is looked at again when the frame has its type, and what was not heard is made up for.
//!
//! Invariants:
//! - what Xen has not taken back is remembered, and offered again when the registers are shown or hidden the next time;
//! - a frame is recorded before it can be in the window, so that [`Server::emergency`] finds it: it becomes read-only memory
//!   there, which answers as before, and of which the writes go nowhere;
//! - the type is claimed while a frame has it, and no longer: another domain's server may want it.

use core::sync::atomic::Ordering;

use vd_config::SlotIndex;
use vd_config::slot::POSTED_LAST;
use vd_virtio::mmio::still::{self, Tail};
use vd_virtio::mmio::{Register, Status};
use vd_virtio::{Device, GuestMemory, MmioTransport};
use xen_hypercall::dm::{self, MemType, ServerId};
use xen_hypercall::{DomId, Errno, Gfn};

use super::{Count, Frame, MapError, Platform, Server, insist};

/// A page of the guest's that shows registers, where it is mapped.
pub trait ShownPage {
    /// A word of 32 bits. There is one, up to the length of a [`Tail`].
    fn load(&self, word: usize) -> u32;
    /// Changes a word.
    fn store(&self, word: usize, value: u32);
}

/// What Xen or this domain refused, and why.
type Refusal = (&'static str, Errno);

impl<P: Platform> Server<P> {
    /// Shows the tail of a device's window in memory. Returns also what the guest has put where Status is while that was not
    /// heard, if it was something else; whether or not the tail is shown then.
    fn show(&self, slot: SlotIndex, tail: &Tail) -> (Result<(), Refusal>, Option<u32>) {
        let Some((guest, server)) = self.held() else {
            return (Err(("showing registers", Errno::ENOENT)), None);
        };
        // What could not be taken back before comes first.
        let given = self.unmap_shown(slot).and_then(|()| {
            self.take_spare(guest, slot)
                .and_then(|()| self.give_spare(guest, slot))
                .map_err(|error| ("giving the guest a frame", error))
        });
        if given.is_err() {
            return (given, None);
        }
        let shown = self.fill(guest, slot, tail).and_then(|()| {
            let claimed = self.claim(guest, server);
            claimed.map_err(|error| ("claiming its frames' type", error))
        });
        if shown.is_err() {
            let _ = self.take_spare(guest, slot);
            let _ = self.unmap_shown(slot);
            return (shown, None);
        }
        self.exposed.fetch_or(1 << slot.get(), Ordering::AcqRel);
        let xen = self.platform.xen();
        let (spare, frame) = (Gfn(slot.spare_frame()), Gfn(slot.tail_frame()));
        let moved = insist(|| dm::relocate_memory(xen, guest, spare, frame, 1));
        let typed = moved.and_then(|()| {
            self.remember_spare(slot, false);
            insist(|| dm::set_mem_type(xen, guest, frame, 1, MemType::IoreqServer))
        });
        if typed.is_err() {
            // From here on nothing is written there.
            let _ = self.take_spare(guest, slot);
            let _ = self.uncover(guest, slot);
        }
        let found = self.shown_page(slot).map(|page| page.load(still::STATUS));
        let found = found.filter(|found| tail.get(still::STATUS) != Some(found));
        match typed {
            Ok(()) => self.platform.count(Count::RegistersShown, 1),
            Err(_) => drop(self.unmap_shown(slot)),
        }
        (typed.map_err(|error| ("showing registers", error)), found)
    }

    /// Gives the guest a frame where nobody looks.
    fn give_spare(&self, guest: DomId, slot: SlotIndex) -> Result<(), Errno> {
        self.platform.give(guest, slot.spare_frame())?;
        self.remember_spare(slot, true);
        Ok(())
    }

    /// Takes that frame away again, if it is still there.
    fn take_spare(&self, guest: DomId, slot: SlotIndex) -> Result<(), Errno> {
        if self.spare.load(Ordering::Acquire) >> slot.get() & 1 != 0 {
            match insist(|| self.platform.take(guest, slot.spare_frame())) {
                Ok(()) | Err(Errno::ESRCH) => self.remember_spare(slot, false),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remember_spare(&self, slot: SlotIndex, given: bool) {
        let bit = 1 << slot.get();
        if given {
            self.spare.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.spare.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Maps the frame that the guest was given, and puts the tail into it.
    fn fill(&self, guest: DomId, slot: SlotIndex, tail: &Tail) -> Result<(), Refusal> {
        let what = "mapping the guest's registers";
        let frame =
            self.platform
                .map_frame(guest, slot.spare_frame())
                .map_err(|error| match error {
                    MapError::NoFrame => (what, Errno::ENOMEM),
                    MapError::Xen(error) => (what, error),
                })?;
        if let Some(place) = self.shown.get(slot.index()) {
            place.store(frame.0, Ordering::Release);
        }
        if let Some(page) = self.shown_page(slot) {
            tail.iter()
                .enumerate()
                .for_each(|(word, value)| page.store(word, *value));
        }
        Ok(())
    }

    /// The tail of a device's window is no memory any more.
    ///
    /// # Errors
    /// What Xen says, when it was asked often enough; it is to be tried again. A guest that is gone is no error.
    fn hide(&self, slot: SlotIndex) -> Result<(), Refusal> {
        let Some((guest, _)) = self.held() else {
            return self.unmap_shown(slot);
        };
        self.uncover(guest, slot)?;
        self.take_spare(guest, slot)
            .map_err(|error| ("taking a frame back from the guest", error))?;
        self.unmap_shown(slot)
    }

    /// Takes the frame out of the window.
    fn uncover(&self, guest: DomId, slot: SlotIndex) -> Result<(), Refusal> {
        if self.is_exposed(slot) {
            match insist(|| self.platform.take(guest, slot.tail_frame())) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(("hiding registers", error)),
            }
            self.exposed.fetch_and(!(1 << slot.get()), Ordering::AcqRel);
            self.platform.count(Count::RegistersHidden, 1);
        }
        self.disclaim();
        Ok(())
    }

    /// Hides the registers of all devices.
    ///
    /// # Errors
    /// As for one of them.
    pub(super) fn hide_all(&self) -> Result<(), Errno> {
        let mut result = Ok(());
        for slot in SlotIndex::all() {
            result = result.and(self.hide(slot).map_err(|(_, error)| error));
        }
        result
    }

    /// Unmaps what this domain has of all frames, whatever became of them.
    ///
    /// # Errors
    /// What Xen says, when it was asked often enough.
    pub(super) fn unmap_all_shown(&self) -> Result<(), Errno> {
        let mut result = Ok(());
        for slot in SlotIndex::all() {
            result = result.and(self.unmap_shown(slot).map_err(|(_, error)| error));
        }
        result
    }

    fn is_exposed(&self, slot: SlotIndex) -> bool {
        self.exposed.load(Ordering::Acquire) >> slot.get() & 1 != 0
    }

    /// Whether there are registers in memory.
    pub(super) fn is_showing(&self) -> bool {
        self.exposed.load(Ordering::Acquire) != 0
    }

    fn claim(&self, guest: DomId, server: ServerId) -> Result<(), Errno> {
        if self.claimed.load(Ordering::Acquire) {
            return Ok(());
        }
        let xen = self.platform.xen();
        dm::map_mem_type_to_ioreq_server(xen, guest, server, true)?;
        self.claimed.store(true, Ordering::Release);
        Ok(())
    }

    /// Others may have the type. If Xen refuses, this server has it until it is destroyed.
    fn disclaim(&self) {
        if self.is_showing() || !self.claimed.load(Ordering::Acquire) {
            return;
        }
        if let Some((guest, server)) = self.held() {
            let xen = self.platform.xen();
            let disclaim = || dm::map_mem_type_to_ioreq_server(xen, guest, server, false);
            // What is gone has nothing.
            if matches!(insist(disclaim), Ok(()) | Err(Errno::ESRCH | Errno::ENOENT)) {
                self.claimed.store(false, Ordering::Release);
            }
        }
    }

    fn shown_page(&self, slot: SlotIndex) -> Option<P::Shown> {
        match self.shown.get(slot.index())?.load(Ordering::Acquire) {
            0 => None,
            frame => Some(self.platform.shown(Frame(frame))),
        }
    }

    /// Unmaps what this domain has of the frame, which a dead guest would be kept by.
    fn unmap_shown(&self, slot: SlotIndex) -> Result<(), Refusal> {
        self.disclaim();
        let Some(place) = self.shown.get(slot.index()) else {
            return Ok(());
        };
        let frame = place.load(Ordering::Acquire);
        if frame != 0 {
            insist(|| self.platform.unmap(Frame(frame)))
                .map_err(|error| ("unmapping the guest's registers", error))?;
            place.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Takes away what another driver domain has left in the windows of posted writes, whatever it was: of all slots, as that
    /// one may have had other devices. This one shows nothing.
    pub(super) fn clear_windows(&self, guest: DomId) -> Result<(), Errno> {
        // Beyond them the guest has RAM of its own.
        let mut windows = SlotIndex::all().filter(|slot| slot.tail_frame() <= POSTED_LAST >> 12);
        windows.try_for_each(|slot| {
            let mut both = [slot.tail_frame(), slot.spare_frame()].into_iter();
            both.try_for_each(|frame| self.platform.take(guest, frame))
        })
    }

    /// What is shown stays as it is, and what is written there goes nowhere: in an emergency, when nobody hears it any more.
    /// Two steps, as Xen allows them; a vCPU that writes to a frame of a server that is gone would try for ever.
    pub(super) fn freeze_shown(&self, guest: DomId) {
        let xen = self.platform.xen();
        for slot in SlotIndex::all().filter(|slot| self.is_exposed(*slot)) {
            for kind in [MemType::Ram, MemType::ReadOnly] {
                let frame = Gfn(slot.tail_frame());
                // A frame that is not there yet, or a guest that is gone.
                let _ = insist(|| dm::set_mem_type(xen, guest, frame, 1, kind));
            }
        }
    }
}

/// What a device shows of its registers.
#[derive(Clone, Debug, Default)]
pub struct Face {
    shown: Option<Tail>,
    /// Nothing is shown before the driver starts over.
    withheld: bool,
}

impl Face {
    /// Shows the registers or hides them, after anything that may have changed the device; before anybody is told of that.
    /// `mem` is the driver's.
    ///
    /// # Errors
    /// What was refused. If it was hiding, that is tried again with the next call, and nobody may be told of anything until
    /// then; if it was showing, nothing is shown until the driver starts over.
    #[inline]
    pub fn settle<P, D, M, const QUEUES: usize, const WORDS: usize>(
        &mut self,
        server: &Server<P>,
        slot: SlotIndex,
        device: &mut MmioTransport<D, QUEUES, WORDS>,
        mem: &M,
    ) -> Result<(), Refusal>
    where
        P: Platform,
        D: Device,
        M: GuestMemory + ?Sized,
    {
        if let Some(tail) = &self.shown {
            // Who begins is told nothing of the driver before, also if that could not be hidden at first.
            if !self.withheld && device.is_as_shown(tail) {
                return Ok(());
            }
            self.hide(server, slot)?;
        }
        if !device.status().contains(Status::DRIVER_OK) {
            self.withheld = false;
        }
        if self.withheld {
            return Ok(());
        }
        let Some(tail) = device.still() else {
            return Ok(());
        };
        let (shown, found) = server.show(slot, &tail);
        match &shown {
            Ok(()) => self.shown = Some(tail),
            Err(_) => {
                self.withheld = true;
                // What could not be taken back is tried again, as it shows nothing that is true.
                self.shown = server.is_exposed(slot).then_some([0; still::WORDS]);
            }
        }
        if let Some(found) = found {
            for value in still::unheard(device.status(), found) {
                device.write(mem, Register::STATUS, 4, value.into());
            }
            // It has been reset, or given up.
            self.hide(server, slot)?;
        }
        shown
    }

    /// Somebody reads who the device is: a driver that begins. It may not know that there was another one, so that it must
    /// not read what is not true any more once its first writes are on their way.
    ///
    /// # Errors
    /// As for [`Face::settle`], of hiding.
    pub fn withhold<P: Platform>(
        &mut self,
        server: &Server<P>,
        slot: SlotIndex,
    ) -> Result<(), Refusal> {
        self.withheld = true;
        if self.shown.is_some() {
            self.hide(server, slot)?;
        }
        Ok(())
    }

    /// Shows nothing until the next [`Face::settle`].
    ///
    /// # Errors
    /// As for [`Face::settle`], of hiding.
    pub fn hide<P: Platform>(
        &mut self,
        server: &Server<P>,
        slot: SlotIndex,
    ) -> Result<(), Refusal> {
        server.hide(slot)?;
        self.shown = None;
        Ok(())
    }

    /// Whether something is shown.
    pub fn is_showing(&self) -> bool {
        self.shown.is_some()
    }
}
