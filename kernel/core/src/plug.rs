//! The directories that the toolstack makes for devices under `backend/virtio`, in the manner of libxl: what they ask for,
//! and what is answered.
//!
//! A directory with the state Initialising asks for a device in that slot; one that is not `online` any more asks that the
//! device goes. If the front end's directory is gone as well, nobody waits for the guest's driver. A directory whose device has gone
//! is Closed, and some time later removed: the toolstack waits for the one, and then for the other.
//!
//! Invariants: of the guest's nodes nothing is used but whether one is there; only the toolstack decides what is attached and
//! what goes; a directory that the toolstack has taken away is not made again, as the one above it is the toolstack's.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use vd_config::xenbus::{self, BusState, CLASS};
use vd_config::{SlotIndex, number};
use vd_xenbus::store::Xenstore;
use vd_xenbus::transport::Transport;
use vd_xenbus::{Error, XsError};

/// What is watched: everything below.
pub const WATCHED: &str = "backend/virtio";
/// The token of that watch.
pub const TOKEN: &str = "back-ends";
/// Most directories that are looked after. The toolstack makes them; a guest has as many as there are slots.
const MOST: usize = 64;
/// Nanoseconds that a directory stays there in the state Closed. A toolstack that finds it gone before it has seen the state
/// takes that for an error, and on a busy host its look may come late.
const LINGER: u64 = 1_000_000_000;
/// The value of `online` when the toolstack wants the device to go.
const OFFLINE: &[u8] = b"0";

/// Which device of which guest, as the toolstack counts them. The number is a slot's, or should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The guest's domain id.
    pub guest: u16,
    /// The device's number.
    pub number: u32,
}

impl Place {
    /// The place of a slot.
    #[must_use]
    pub fn of(guest: u16, slot: SlotIndex) -> Self {
        Self {
            guest,
            number: slot.get().into(),
        }
    }

    /// The slot, if there is one of that number.
    #[must_use]
    pub fn slot(&self) -> Option<SlotIndex> {
        SlotIndex::new(u8::try_from(self.number).ok()?)
    }

    fn ours(&self, key: &str) -> String {
        let Self { guest, number } = self;
        format!("{WATCHED}/{guest}/{number}/{key}")
    }

    /// Its directory.
    fn directory(&self) -> String {
        let Self { guest, number } = self;
        format!("{WATCHED}/{guest}/{number}")
    }

    fn theirs(&self, key: &str) -> String {
        let Self { guest, number } = self;
        format!("/local/domain/{guest}/device/{CLASS}/{number}/{key}")
    }
}

/// How far a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody has answered it.
    Asking,
    /// A device is there. The state is this side's business, or the connection's to the driver ([`crate::bus`]).
    Served(Option<BusState>),
    /// The device is to go, and its driver has not let it go.
    Leaving,
    /// No device is there; since then.
    Closed(u64),
    /// The toolstack has made a directory that this domain may not write to: it cannot be answered.
    Mute,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    phase: Phase,
    /// Something may have changed.
    due: bool,
    /// The state that is to be told.
    wanted: Option<BusState>,
}

impl Entry {
    const NEW: Self = Self {
        phase: Phase::Asking,
        due: true,
        wanted: None,
    };
}

/// What the toolstack asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// A device in a slot. The answer is [`Plug::serve`] or [`Plug::refuse`], now or later.
    Attach(Place),
    /// The device is to go. The answer is [`Plug::closed`], when it has.
    Detach {
        /// Which.
        place: Place,
        /// Whatever its driver does.
        forced: bool,
    },
}

/// Directories in the order of their places. There are few: a search tree takes 8 KB of code.
#[derive(Debug, Default)]
struct Entries(Vec<(Place, Entry)>);

impl Entries {
    fn find(&self, place: Place) -> Result<usize, usize> {
        self.0.binary_search_by_key(&place, |(at, _)| *at)
    }

    fn get_mut(&mut self, place: Place) -> Option<&mut Entry> {
        let index = self.find(place).ok()?;
        self.0.get_mut(index).map(|(_, entry)| entry)
    }

    /// The entry of a place, which is new if there was none.
    fn get_or_new(&mut self, place: Place) -> Option<&mut Entry> {
        let index = self.find(place).unwrap_or_else(|index| {
            self.0.insert(index, (place, Entry::NEW));
            index
        });
        self.0.get_mut(index).map(|(_, entry)| entry)
    }

    fn remove(&mut self, place: Place) {
        if let Ok(index) = self.find(place) {
            self.0.remove(index);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().map(|(_, entry)| entry)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut().map(|(_, entry)| entry)
    }
}

/// All directories.
#[derive(Debug, Default)]
pub struct Plug {
    entries: Entries,
    /// There may be directories that are not known.
    rescan: bool,
}

impl Plug {
    /// Takes note of a watch event with [`TOKEN`], for this path.
    pub fn note(&mut self, path: &str) {
        let below = path
            .strip_prefix(WATCHED)
            .and_then(|it| it.strip_prefix('/'));
        let mut parts = below.unwrap_or("").split('/');
        let place = parse(parts.next()).zip(parse(parts.next()));
        let place = place.and_then(|(guest, number)| {
            let guest = u16::try_from(guest).ok()?;
            Some(Place { guest, number })
        });
        match place.and_then(|place| self.entries.get_mut(place)) {
            Some(entry) => entry.due = true,
            None => self.rescan = true,
        }
    }

    /// Everything may have changed.
    pub fn note_all(&mut self) {
        self.rescan = true;
        self.entries.iter_mut().for_each(|entry| entry.due = true);
    }

    /// Whether there is something to look at.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.rescan || self.entries.iter().any(|entry| entry.due)
    }

    /// It is that late. Returns whether there is something to look at.
    pub fn tick(&mut self, now: u64) -> bool {
        for entry in self.entries.iter_mut() {
            if let Phase::Closed(since) = entry.phase
                && now.saturating_sub(since) >= LINGER
            {
                entry.due = true;
            }
        }
        self.is_due()
    }

    /// When there is something to look at that no watch tells of.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let ends = self.entries.iter().filter_map(|entry| match entry.phase {
            // Looked at once, and then whenever the toolstack changes something.
            Phase::Closed(since) if since != FINAL => Some(since.saturating_add(LINGER)),
            _ => None,
        });
        ends.min()
    }

    /// Looks at one directory that may have changed. `None` if there was none to look at.
    ///
    /// # Errors
    /// xenstore's: it is looked at again with the next [`Plug::tick`].
    pub fn service<T: Transport>(
        &mut self,
        store: &mut Xenstore<T>,
        now: u64,
    ) -> Result<Option<Ask>, Error> {
        if core::mem::take(&mut self.rescan) {
            self.scan(store).inspect_err(|_| self.rescan = true)?;
        }
        let due = self.entries.0.iter().find(|(_, entry)| entry.due);
        let Some(&(place, entry)) = due else {
            return Ok(None);
        };
        let (ask, after) = self.look(store, place, entry, now)?;
        match (after, self.entries.get_mut(place)) {
            (Some(after), Some(entry)) => *entry = after,
            (_, _) => self.entries.remove(place),
        }
        Ok(Some(ask))
    }

    /// Finds directories that are not known.
    fn scan<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<(), Error> {
        for guest in names(store, WATCHED)? {
            let Some(guest) = parse(Some(&guest)).and_then(|it| u16::try_from(it).ok()) else {
                continue;
            };
            for number in names(store, &format!("{WATCHED}/{guest}"))? {
                let Some(number) = parse(Some(&number)) else {
                    continue;
                };
                if self.entries.0.len() < MOST
                    && let Some(entry) = self.entries.get_or_new(Place { guest, number })
                {
                    entry.due = true;
                }
            }
        }
        Ok(())
    }

    /// What is asked for, and what becomes of the entry.
    fn look<T: Transport>(
        &self,
        store: &mut Xenstore<T>,
        place: Place,
        entry: Entry,
        now: u64,
    ) -> Result<(Ask, Option<Entry>), Error> {
        let Some(state) = optional(store.read(&place.ours(xenbus::STATE)))? else {
            // Whoever takes the directory away does not wait for anything.
            let ask = match entry.phase {
                Phase::Asking | Phase::Served(_) | Phase::Leaving => Ask::Detach {
                    place,
                    forced: true,
                },
                Phase::Closed(_) | Phase::Mute => Ask::Nothing,
            };
            return Ok((ask, None));
        };
        let state = BusState::parse(&state);
        let online = optional(store.read(&place.ours(xenbus::ONLINE)))?;
        let leaves = state == BusState::Closing || online.is_some_and(|value| value == OFFLINE);
        let mut next = Entry {
            due: false,
            ..entry
        };
        let ask = match entry.phase {
            Phase::Asking if leaves => Ask::Detach {
                place,
                forced: true,
            },
            Phase::Closed(FINAL) if leaves => {
                next.phase = Phase::Closed(now);
                Ask::Nothing
            }
            Phase::Closed(since) if leaves => {
                if now.saturating_sub(since) >= LINGER {
                    optional(store.rm(&place.directory()))?;
                    return Ok((Ask::Nothing, None));
                }
                Ask::Nothing
            }
            Phase::Closed(_) | Phase::Asking if state == BusState::Initialising => {
                next.phase = Phase::Asking;
                Ask::Attach(place)
            }
            Phase::Closed(_) => {
                next.phase = Phase::Closed(FINAL);
                Ask::Nothing
            }
            Phase::Asking => Ask::Nothing,
            Phase::Served(_) | Phase::Leaving if leaves => {
                next.phase = Phase::Leaving;
                let forced = !is_there(store, &place.theirs(xenbus::STATE))?;
                Ask::Detach { place, forced }
            }
            Phase::Served(said) => {
                if let Some(wanted) = next.wanted.take().filter(|it| Some(*it) != said) {
                    write(store, place, xenbus::STATE, wanted.as_str())?;
                    next.phase = Phase::Served(Some(wanted));
                }
                Ask::Nothing
            }
            Phase::Leaving | Phase::Mute => Ask::Nothing,
        };
        Ok((ask, Some(next)))
    }

    /// A device is there. Writes what the toolstack and the driver may want to know, and then the state, if it is this side
    /// that says it.
    ///
    /// # Errors
    /// xenstore's.
    pub fn serve<T: Transport>(
        &mut self,
        store: &mut Xenstore<T>,
        place: Place,
        pairs: &[(&str, String)],
        state: Option<BusState>,
    ) -> Result<(), Error> {
        let Some(entry) = self.entries.get_mut(place) else {
            // The toolstack has made no directory, which is its right.
            return Ok(());
        };
        if entry.phase == Phase::Leaving {
            return Ok(());
        }
        for (key, value) in pairs {
            write(store, place, key, value)?;
        }
        if let Some(state) = state {
            write(store, place, xenbus::STATE, state.as_str())?;
        }
        entry.phase = Phase::Served(state);
        Ok(())
    }

    /// There can be no such device.
    ///
    /// # Errors
    /// xenstore's.
    pub fn refuse<T: Transport>(
        &mut self,
        store: &mut Xenstore<T>,
        place: Place,
        why: &str,
        now: u64,
    ) -> Result<(), Error> {
        let said = match self.entries.find(place).is_ok() {
            true => write(store, place, xenbus::ERROR, why),
            false => Ok(()),
        };
        self.closed(store, place, now).and(said)
    }

    /// No device is there any more.
    ///
    /// # Errors
    /// xenstore's.
    pub fn closed<T: Transport>(
        &mut self,
        store: &mut Xenstore<T>,
        place: Place,
        now: u64,
    ) -> Result<(), Error> {
        let Some(entry) = self.entries.get_mut(place) else {
            return Ok(());
        };
        entry.phase = Phase::Closed(now);
        entry.wanted = None;
        let told = write(store, place, xenbus::STATE, BusState::Closed.as_str());
        if let Err(error) = &told
            && error.refusal() == Some(XsError::EACCES)
        {
            // What stays there would be taken for another wish.
            entry.phase = Phase::Mute;
        }
        told
    }

    /// The driver of a device uses it, or does not: told with the next look.
    pub fn driver_is(&mut self, place: Place, there: bool) {
        let wanted = if there {
            BusState::Connected
        } else {
            BusState::InitWait
        };
        if let Some(entry) = self.entries.get_mut(place)
            && let Phase::Served(Some(said)) = entry.phase
            && said != wanted
        {
            entry.wanted = Some(wanted);
            entry.due = true;
        }
    }

    /// The devices that are to go as soon as their drivers let them.
    pub fn leaving(&self) -> impl Iterator<Item = Place> {
        let leaving = |(place, entry): &(Place, Entry)| {
            matches!(entry.phase, Phase::Leaving).then_some(*place)
        };
        self.entries.0.iter().filter_map(leaving)
    }

    /// This domain ends: no device is there any more. Returns the first thing that went wrong.
    pub fn close_all<T: Transport>(&mut self, store: &mut Xenstore<T>) -> Result<(), Error> {
        let mut result = Ok(());
        for (place, entry) in &mut self.entries.0 {
            if matches!(entry.phase, Phase::Served(_) | Phase::Leaving) {
                entry.phase = Phase::Closed(FINAL);
                let written = write(store, *place, xenbus::STATE, BusState::Closed.as_str());
                result = result.and(written);
            }
        }
        result
    }
}

/// When a directory was closed that is looked at only when the toolstack changes something.
const FINAL: u64 = u64::MAX;

/// Writes a node of a directory. Where the toolstack has taken that away, nothing may be written, and nothing has to be.
fn write<T: Transport>(
    store: &mut Xenstore<T>,
    place: Place,
    key: &str,
    value: &str,
) -> Result<(), Error> {
    let result = store.write(&place.ours(key), value.as_bytes());
    match result.as_ref().map_err(Error::refusal) {
        Err(Some(XsError::ENOENT)) => Ok(()),
        Err(Some(XsError::EACCES)) if !is_there(store, &place.ours(xenbus::STATE))? => Ok(()),
        _ => result,
    }
}

fn names<T: Transport>(store: &mut Xenstore<T>, path: &str) -> Result<Vec<String>, Error> {
    Ok(optional(store.directory(path))?.unwrap_or_default())
}

/// What is not there, and what may not be looked at because the directory above it is gone.
fn optional<R>(result: Result<R, Error>) -> Result<Option<R>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.refusal(), Some(XsError::ENOENT | XsError::EACCES)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_there<T: Transport>(store: &mut Xenstore<T>, path: &str) -> Result<bool, Error> {
    Ok(optional(store.read(path))?.is_some())
}

/// A number as the toolstack writes it.
fn parse(text: Option<&str>) -> Option<u32> {
    number::canonical_u32(text?.as_bytes())
}

#[cfg(test)]
mod tests;
