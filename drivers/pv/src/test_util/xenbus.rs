//! What a toolstack makes of one device in xenstore, and the front end's connection to it.

use std::cell::RefCell;
use std::format;
use std::rc::Rc;
use std::string::{String, ToString};
use std::vec::Vec;

use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};
use vd_xenbus::{RingTransport, Xenstore};

use crate::{Control, Front, Notice};

/// Domain 5's device, in a fake xenstore.
#[allow(missing_debug_implementations, reason = "for tests")]
pub struct FakeXenbus {
    /// The front end's connection to xenstore.
    pub store: Xenstore<RingTransport<Rc<FakePage>, FakeSignal>>,
    /// The other side of that.
    pub daemon: Rc<RefCell<FakeXenstored>>,
    /// What the front end does.
    pub control: Control,
    /// What it has said.
    pub notices: Vec<Notice>,
    /// The front end's directory.
    front: String,
    /// The first back end's, which is domain 3's.
    back: String,
}

impl FakeXenbus {
    /// An empty xenstore. The device gets its nodes by [`Self::make`].
    #[must_use]
    pub fn new<F: Front>(kind: &str, device: u32) -> Self {
        let page = Rc::new(FakePage::new());
        let daemon = Rc::new(RefCell::new(FakeXenstored::new(page.clone(), 5)));
        let signal = FakeSignal::new(daemon.clone());
        Self {
            store: Xenstore::new(RingTransport::attach(page, signal)),
            daemon,
            control: Control::of::<F>(device),
            notices: Vec::new(),
            front: format!("/local/domain/5/device/{kind}/{device}"),
            back: format!("/local/domain/3/backend/{kind}/5/{device}"),
        }
    }

    /// The nodes that a toolstack makes, with a back end in a domain's directory, and one more of the front end.
    pub fn make(&self, domain: u16, back: &str, (name, value): (&str, &str)) {
        let front = &self.front;
        let domain = domain.to_string();
        for (path, value) in [
            (format!("{front}/backend"), back),
            (format!("{front}/backend-id"), &domain),
            (format!("{front}/{name}"), value),
            (format!("{back}/frontend"), front),
            (format!("{back}/online"), "1"),
            (format!("{back}/state"), "1"),
            (format!("{front}/state"), "1"),
        ] {
            self.daemon.borrow_mut().set(&path, value.as_bytes());
        }
    }

    /// The front end takes its watch events, all of which are its own, and does what is to be done.
    pub fn run<F: Front>(&mut self, front: &mut F) {
        while let Some(event) = self.store.next_watch().unwrap() {
            assert!(self.control.is_mine(&event));
        }
        let notices = &mut self.notices;
        let result = self
            .control
            .run(&mut self.store, front, &mut |notice| notices.push(notice));
        result.unwrap();
    }

    /// The front end goes on with closing the connection. Returns whether the back end has let go.
    pub fn shut_down<F: Front>(&mut self, front: &mut F) -> bool {
        let result = self.control.shut_down(&mut self.store, front, &mut |_| ());
        result.unwrap()
    }

    /// The first back end writes a node of its own.
    pub fn back(&self, name: &str, value: &str) {
        let path = format!("{}/{name}", self.back);
        self.daemon.borrow_mut().set(&path, value.as_bytes());
    }

    /// A node of the front end.
    #[must_use]
    pub fn front(&self, name: &str) -> Option<String> {
        let value = self.daemon.borrow().get(&format!("{}/{name}", self.front));
        value.map(|value| String::from_utf8(value).unwrap())
    }

    /// A node of the front end that is there and a number.
    #[must_use]
    pub fn number(&self, name: &str) -> u32 {
        let value = self.front(name).unwrap_or_else(|| panic!("{name}"));
        value.parse().unwrap()
    }
}
