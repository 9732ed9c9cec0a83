//! The xenstore connection: the ring, its event channel, and how long a reply may take.

use vd_xenbus::store::Xenstore;
use vd_xenbus::transport::{RingTransport, Signal};
use xen_hypercall::{EvtchnPort, event_channel};

use super::events::{self, Happened, sleep_unless};
use super::page::Page;
use super::{XEN, time};

/// The connection.
pub type Store = Xenstore<RingTransport<Page, StoreSignal>>;

/// Nanoseconds that xenstored may take for one reply. It shares a CPU with much else.
const PATIENCE: u64 = 20_000_000_000;

/// The event channel of the ring.
#[derive(Debug)]
pub struct StoreSignal {
    port: EvtchnPort,
    deadline: u64,
}

impl Signal for StoreSignal {
    fn start(&mut self) {
        self.deadline = time::now() + PATIENCE;
    }

    fn notify(&mut self) {
        if let Err(error) = event_channel::send(&XEN, self.port) {
            log::error!("xenstore's event channel {}: {error}", self.port);
        }
    }

    fn wait(&mut self) -> bool {
        loop {
            if time::now() >= self.deadline {
                return false;
            }
            if events::take_if(Happened::XENSTORE) {
                return true;
            }
            time::wake_at(self.deadline);
            // What else happened stays marked for the main loop.
            sleep_unless(|| events::is_marked(Happened::XENSTORE) || time::now() >= self.deadline);
        }
    }
}

/// Connects.
///
/// # Errors
/// What Xen says to the event channel.
pub fn connect(page: Page, port: EvtchnPort) -> Result<Store, xen_hypercall::Errno> {
    events::listen(port, events::Source::Flag(Happened::XENSTORE))?;
    let signal = StoreSignal { port, deadline: 0 };
    Ok(Xenstore::new(RingTransport::attach(page, signal)))
}
