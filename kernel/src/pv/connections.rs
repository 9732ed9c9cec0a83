//! Connections to back ends, whatever those serve: when each is looked after, and what goes through xenstore for it.
//!
//! Waits for xenstored, never for a back end.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write};

use vd_config::SlotIndex;
use vd_kernel_core::attention::{Attention, Standing};
use vd_pv::handshake::Phase;
use vd_pv::{Control, PAGE_SIZE};
use vd_xenbus::rate::{Admission, RateLimiter};
use vd_xenbus::{Error, WatchEvent};

use crate::mem::frames;
use crate::xen::store::Store;
use crate::xen::time;

/// Lines that a back end may make this domain log at once; then one a second.
const LINES: u32 = 20;

/// Nanoseconds that a back end has to let go of a device while others go on.
const RETIRING: u64 = 3_000_000_000;

/// What is done for a connection, and when.
pub struct Duty {
    pub control: Control,
    pub attention: Attention,
    pub log: Log,
    /// It is closed for good, while others go on.
    retiring: Option<Retiring>,
}

/// A connection that is closed for good.
struct Retiring {
    /// When nobody waits for the back end any more.
    deadline: u64,
    /// Its device is gone, and does not take what ends.
    orphan: bool,
}

/// Limits what a back end can make this domain log, which can do what it does again and again.
pub struct Log(RateLimiter);

impl Log {
    /// Whether another line may be logged on the back end of a device.
    pub fn admits(&mut self, device: impl Display) -> bool {
        let Admission::Admitted { suppressed } = self.0.admit(time::now()) else {
            return false;
        };
        if suppressed != 0 {
            log::warn!("{device}: {suppressed} lines on its back end were not logged");
        }
        true
    }
}

impl Duty {
    /// Begins with a device whose users are told after so many nanoseconds that there is no back end.
    ///
    /// # Errors
    /// xenstore's.
    pub fn begin(mut control: Control, store: &mut Store, patience: u64) -> Result<Self, Error> {
        control.watch(store)?;
        Ok(Self {
            control,
            attention: Attention::new(patience),
            log: Log(RateLimiter::new(LINES, 1)),
            retiring: None,
        })
    }
}

/// A device that another domain serves, and the connection to it.
pub trait Connection {
    /// When it is looked after.
    fn duty(&mut self) -> &mut Duty;

    /// Whether the device can be used.
    fn is_usable(&self) -> bool;

    /// Whether the ring has something to say that has to be said in xenstore.
    fn has_news(&self) -> bool;

    /// There has been no back end for as long as its users wait.
    fn give_up(&mut self);

    /// Nobody takes what has ended, or will.
    fn forget_ended(&mut self) {}

    /// Whoever still waits for it waits in vain.
    fn abandon(&mut self) {}

    /// Looks at what xenstore has of it.
    fn look(&mut self, store: &mut Store);

    /// Goes on with closing it. Returns whether the back end has let go.
    fn shut_down(&mut self, store: &mut Store) -> bool;
}

/// All connections of a kind.
pub struct Connections<C>(Vec<C>);

impl<C> Default for Connections<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<C: Connection> Connections<C> {
    /// Adds one.
    pub fn push(&mut self, connection: C) {
        self.0.push(connection);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub fn entries(&self) -> core::slice::Iter<'_, C> {
        self.0.iter()
    }

    /// The first such one is not used any more: it is closed in good order, as far as its back end lets it be, and
    /// forgotten. `orphan` if its device is gone. What the device asks for meanwhile and afterwards fails.
    pub fn retire(&mut self, is_it: impl Fn(&C) -> bool, orphan: bool) {
        let Some(entry) = self.0.iter_mut().find(|entry| is_it(entry)) else {
            return;
        };
        let deadline = time::now().saturating_add(RETIRING);
        let duty = entry.duty();
        let retiring = duty.retiring.get_or_insert(Retiring { deadline, orphan });
        retiring.orphan |= orphan;
        duty.attention.note();
    }

    /// Takes note of a watch event.
    pub fn note(&mut self, event: &WatchEvent) {
        let mut duties = self.0.iter_mut().map(C::duty);
        if let Some(duty) = duties.find(|duty| duty.control.is_mine(event)) {
            duty.attention.note();
        }
    }

    /// Everything may have changed.
    pub fn note_all(&mut self) {
        for entry in &mut self.0 {
            entry.duty().attention.note();
        }
    }

    /// The connection to xenstore is a new one, without watches.
    ///
    /// # Errors
    /// xenstore's.
    pub fn watch_again(&mut self, store: &mut Store) -> Result<(), Error> {
        for duty in self.0.iter_mut().map(C::duty) {
            duty.control.watch(store)?;
            duty.attention.note();
        }
        Ok(())
    }

    /// Some time has passed. Returns whether there is something to look after.
    pub fn tick(&mut self) -> bool {
        let now = time::now();
        for entry in &mut self.0 {
            if entry.duty().retiring.is_some() {
                // No event tells that the back end has let go.
                entry.duty().attention.note();
                continue;
            }
            let standing = standing(entry);
            if entry.duty().attention.tick(now, standing) {
                entry.give_up();
            }
        }
        self.is_due()
    }

    /// Whether there is something to look after.
    pub fn is_due(&mut self) -> bool {
        self.0.iter_mut().any(|entry| {
            if entry.has_news() {
                entry.duty().attention.note();
            }
            entry.duty().attention.is_due()
        })
    }

    /// Looks after one connection that is due. Returns whether it has waited for xenstored.
    pub fn service(&mut self, store: &mut Store) -> bool {
        let now = time::now();
        let mut duties = self.0.iter_mut().map(C::duty);
        let Some(at) = duties.position(|duty| duty.attention.begin(now)) else {
            return false;
        };
        let Some(entry) = self.0.get_mut(at) else {
            return false;
        };
        if entry.duty().retiring.is_none() {
            entry.look(store);
        } else if go_on_retiring(entry, store, now) {
            entry.abandon();
            entry.duty().control.unwatch(store);
            self.0.swap_remove(at);
        }
        true
    }

    /// Goes on with closing all connections. Returns whether all back ends have let go.
    pub fn shut_down(&mut self, store: &mut Store) -> bool {
        let entries = self.0.iter_mut();
        entries.fold(true, |done, entry| {
            entry.forget_ended();
            entry.shut_down(store) & done
        })
    }
}

/// Goes on with closing one connection. Returns whether that is over.
fn go_on_retiring<C: Connection>(entry: &mut C, store: &mut Store, now: u64) -> bool {
    let retiring = entry.duty().retiring.as_ref();
    let (orphan, late) = retiring.map_or((true, true), |it| (it.orphan, now >= it.deadline));
    if orphan {
        entry.forget_ended();
    }
    entry.shut_down(store) || late
}

fn standing<C: Connection>(entry: &mut C) -> Standing {
    if entry.is_usable() {
        return Standing::Up;
    }
    match entry.duty().control.phase() {
        Phase::Closing => Standing::LettingGo,
        Phase::Down | Phase::Offered | Phase::Up | Phase::Draining => Standing::Away,
    }
}

/// For the operator: what a device passes data through needs more pages than there are.
pub fn no_memory(slot: SlotIndex, what: impl Display, pages: usize) -> String {
    format!(
        "device {slot}: no memory for what {what} passes through: {} KiB are needed, {} are free; raise memory= of the \
         driver domain",
        (pages * PAGE_SIZE) >> 10,
        frames::free_bytes() >> 10
    )
}

/// For the operator: a device is not there, others are; it is added in the guest's configuration or the driver domain's.
pub fn missing<T: Display>(
    slot: SlotIndex,
    what: impl Display,
    there: impl IntoIterator<Item = T>,
    (guest, driver): (&str, &str),
) -> String {
    let mut text = format!("device {slot}: this domain has no {what}, ");
    let mut there = there.into_iter().peekable();
    text.push_str(if there.peek().is_none() {
        "and no other either"
    } else {
        "only"
    });
    for other in there {
        let _ = write!(text, " {other}");
    }
    let _ = write!(
        text,
        "; add it to {guest}= in the guest's configuration, or to {driver}= in the driver domain's"
    );
    text
}
