//! A shared page in ordinary memory, and an event channel whose other end is a fake daemon.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::xenstored::FakeXenstored;
use crate::ring::SharedPage;
use crate::transport::Signal;

/// 4096 bytes.
#[derive(Debug)]
pub struct FakePage {
    bytes: RefCell<Vec<u8>>,
}

impl FakePage {
    /// A page of zeroes.
    pub fn new() -> Self {
        FakePage {
            bytes: RefCell::new(vec![0; 4096]),
        }
    }
}

impl Default for FakePage {
    fn default() -> Self {
        Self::new()
    }
}

impl SharedPage for FakePage {
    fn load_u32(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4));
        let mut four = [0; 4];
        self.read_bytes(offset, &mut four);
        u32::from_le_bytes(four)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4));
        self.write_bytes(offset, &value.to_le_bytes());
    }

    fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes.borrow()[offset..offset + into.len()]);
    }

    fn write_bytes(&self, offset: usize, from: &[u8]) {
        self.bytes.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

impl SharedPage for Rc<FakePage> {
    fn load_u32(&self, offset: usize) -> u32 {
        (**self).load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        (**self).store_u32(offset, value);
    }
    fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        (**self).read_bytes(offset, into);
    }
    fn write_bytes(&self, offset: usize, from: &[u8]) {
        (**self).write_bytes(offset, from);
    }
}

/// An event channel to a fake daemon, which runs while the client waits.
#[derive(Debug)]
pub struct FakeSignal {
    /// The daemon.
    pub daemon: Rc<RefCell<FakeXenstored>>,
    /// How often [`Signal::wait`] says that there is time left after a start.
    pub patience: u32,
    left: u32,
    /// How often the client has sent an event.
    pub notified: u32,
}

impl FakeSignal {
    /// A channel to `daemon`.
    pub fn new(daemon: Rc<RefCell<FakeXenstored>>) -> Self {
        FakeSignal {
            daemon,
            patience: 10_000,
            left: 0,
            notified: 0,
        }
    }
}

impl Signal for FakeSignal {
    fn start(&mut self) {
        self.left = self.patience;
    }

    fn notify(&mut self) {
        self.notified += 1;
    }

    fn wait(&mut self) -> bool {
        self.daemon.borrow_mut().run();
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
