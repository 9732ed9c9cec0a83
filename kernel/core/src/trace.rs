//! What the devices did last: a bounded record in memory, for the operator to turn on, and to read at the console.
//!
//! Each event is one line of text, whose format docs/operating.md describes:
//!
//! ```text
//! trace SECONDS.MICROSECONDS slot SLOT WHAT
//! ```
//!
//! Invariants: memory is taken when tracing is turned on and at no other time; the record holds the newest events, and
//! says how many older ones it has lost; while it is off, an event costs one comparison.

use alloc::boxed::Box;
use core::fmt;

/// Events that a record holds.
pub const EVENTS: usize = 1024;

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A vCPU read a register, and was given this.
    Read {
        /// Offset in the window.
        offset: u16,
        /// The answer.
        value: u32,
    },
    /// A register was written.
    Write {
        /// Offset in the window.
        offset: u16,
        /// What was written.
        value: u32,
    },
    /// A queue was kicked.
    Kick {
        /// The queue.
        queue: u16,
    },
    /// Its queues were looked at.
    Ran {
        /// Requests that were taken.
        requests: u32,
        /// Interrupts that were asked for.
        interrupts: u32,
    },
    /// The device broke; the fault is in the log.
    Broken,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the start of the driver domain.
    pub at: u64,
    /// The device.
    pub slot: u8,
    /// What happened.
    pub what: What,
}

impl Event {
    const NONE: Self = Self {
        at: 0,
        slot: 0,
        what: What::Broken,
    };
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, slot, what } = *self;
        let (seconds, micros) = (at / 1_000_000_000, at % 1_000_000_000 / 1000);
        write!(f, "trace {seconds}.{micros:06} slot {slot} ")?;
        match what {
            What::Read { offset, value } => write!(f, "read {offset:#05x} {value:#x}"),
            What::Write { offset, value } => write!(f, "write {offset:#05x} {value:#x}"),
            What::Kick { queue } => write!(f, "kick {queue}"),
            What::Ran {
                requests,
                interrupts,
            } => write!(f, "ran {requests} {interrupts}"),
            What::Broken => f.write_str("broken"),
        }
    }
}

/// The record.
#[derive(Debug, Default)]
pub struct Trace {
    /// Empty while there never was a record.
    ring: Box<[Event]>,
    is_on: bool,
    /// Events since it was turned on.
    count: u64,
}

impl Trace {
    /// No record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a new record.
    pub fn start(&mut self) {
        if self.ring.is_empty() {
            self.ring = alloc::vec![Event::NONE; EVENTS].into_boxed_slice();
        }
        self.is_on = true;
        self.count = 0;
    }

    /// Ends the record; what is in it stays.
    pub fn stop(&mut self) {
        self.is_on = false;
    }

    /// Records an event if that is wanted. The time is asked for only then.
    #[inline]
    pub fn record(&mut self, slot: u8, what: What, now: impl FnOnce() -> u64) {
        if self.is_on {
            self.put(Event {
                at: now(),
                slot,
                what,
            });
        }
    }

    fn put(&mut self, event: Event) {
        if let Some(place) = self.place(self.count).and_then(|at| self.ring.get_mut(at)) {
            *place = event;
        }
        self.count = self.count.saturating_add(1);
    }

    /// Where the event of that number is.
    fn place(&self, number: u64) -> Option<usize> {
        let len = u64::try_from(self.ring.len()).ok()?;
        usize::try_from(number.checked_rem(len)?).ok()
    }

    /// Events that are not in the record any more.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.count.saturating_sub(EVENTS as u64)
    }

    /// The event of that number since the start, if it is in the record: for who prints them a few at a time.
    #[must_use]
    pub fn event(&self, number: u64) -> Option<&Event> {
        let known = number >= self.lost() && number < self.count;
        self.ring.get(self.place(number).filter(|_| known)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{EVENTS, Event, Trace, What};
    use std::string::ToString;
    use std::vec::Vec;

    fn kick(queue: u16) -> What {
        What::Kick { queue }
    }

    /// What is in the record, the oldest first.
    fn events(trace: &Trace) -> impl Iterator<Item = &Event> {
        (trace.lost()..).map_while(|number| trace.event(number))
    }

    #[test]
    fn nothing_is_recorded_and_no_clock_is_read_while_it_is_off() {
        let mut trace = Trace::new();
        trace.record(0, kick(0), || panic!("the clock"));
        assert_eq!((events(&trace).count(), trace.lost()), (0, 0));
        assert_eq!(trace.event(0), None);
    }

    #[test]
    fn the_newest_events_are_kept_in_their_order() {
        let mut trace = Trace::new();
        trace.start();
        for number in 0..EVENTS as u64 + 3 {
            trace.record((number % 16) as u8, kick(number as u16), || number);
            let oldest = events(&trace).next().unwrap().at;
            assert_eq!(
                (oldest, trace.lost()),
                (trace.lost(), (number + 1).saturating_sub(EVENTS as u64))
            );
        }
        let times: Vec<_> = events(&trace).map(|event| event.at).collect();
        assert_eq!(times, (3..EVENTS as u64 + 3).collect::<Vec<_>>());
        assert_eq!(trace.event(2), None);
        assert_eq!(trace.event(3).unwrap().what, kick(3));
        assert_eq!(trace.event(EVENTS as u64 + 3), None);
    }

    #[test]
    fn a_record_stays_when_it_ends_and_a_new_one_is_empty() {
        let mut trace = Trace::new();
        trace.start();
        trace.record(1, kick(1), || 5);
        trace.stop();
        assert!(!trace.is_on);
        trace.record(1, kick(2), || panic!("the clock"));
        assert_eq!(events(&trace).count(), 1);
        trace.start();
        assert_eq!((trace.is_on, events(&trace).count()), (true, 0));
    }

    #[test]
    fn lines() {
        let line = |what| {
            let (at, slot) = (3_000_042_999, 7);
            Event { at, slot, what }.to_string()
        };
        let read = What::Read {
            offset: 0x60,
            value: 1,
        };
        assert_eq!(line(read), "trace 3.000042 slot 7 read 0x060 0x1");
        let write = What::Write {
            offset: 0x100,
            value: 0xffff_ffff,
        };
        assert_eq!(line(write), "trace 3.000042 slot 7 write 0x100 0xffffffff");
        assert_eq!(line(kick(63)), "trace 3.000042 slot 7 kick 63");
        let ran = What::Ran {
            requests: 16,
            interrupts: 1,
        };
        assert_eq!(line(ran), "trace 3.000042 slot 7 ran 16 1");
        assert_eq!(line(What::Broken), "trace 3.000042 slot 7 broken");
    }
}
