//! How the client's bytes get to the daemon and back.

use crate::error::{Error, Failure};
use crate::ring::{
    Consumer, Producer, SERVER_FEATURE_ERROR, SERVER_FEATURE_RECONNECTION, SharedPage,
    XENSTORE_CONNECTION, XENSTORE_ERROR, XENSTORE_REQ, XENSTORE_RSP, XENSTORE_SERVER_FEATURES,
};

/// The event channel that goes with a page, and the time allowed.
pub trait Signal {
    /// Starts the time that the next call may take.
    fn start(&mut self);
    /// Sends an event to the other side.
    fn notify(&mut self);
    /// Waits for an event or for the end of the time. `false` once the time is over, *even if events keep coming*: a
    /// daemon that only ever sends watch events must not hold a caller for ever. May return early for no reason.
    fn wait(&mut self) -> bool;
}

/// A way to the daemon.
pub trait Transport {
    /// Sends as many bytes as it can now.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Error>;
    /// Takes as many bytes as there are now.
    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Error>;
    /// Starts the time that the next call may take.
    fn start(&mut self);
    /// Tells the daemon that bytes were sent or taken.
    fn notify(&mut self);
    /// Waits; `false` when the time is over. See [`Signal::wait`].
    fn wait(&mut self) -> bool;
    /// Sets the connection up afresh; watches and transactions are gone then.
    fn reconnect(&mut self) -> Result<(), Error>;
}

/// The rings of a `xenstore_domain_interface` page.
#[derive(Debug)]
pub struct RingTransport<P, S> {
    page: P,
    signal: S,
    requests: Producer,
    replies: Consumer,
}

impl<P: SharedPage, S: Signal> RingTransport<P, S> {
    /// Takes over the rings where they stand.
    pub fn attach(page: P, signal: S) -> Self {
        let requests = Producer::attach(&page, XENSTORE_REQ);
        let replies = Consumer::attach(&page, XENSTORE_RSP);
        RingTransport {
            page,
            signal,
            requests,
            replies,
        }
    }

    /// Fails when the daemon says that it has given up on this connection.
    fn check(&self) -> Result<(), Error> {
        if self.page.load_u32(XENSTORE_SERVER_FEATURES) & SERVER_FEATURE_ERROR == 0 {
            return Ok(());
        }
        match self.page.load_u32(XENSTORE_ERROR) {
            0 => Ok(()),
            error => Err(Failure::Closed(error).into()),
        }
    }
}

impl<P: SharedPage, S: Signal> Transport for RingTransport<P, S> {
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.check()?;
        Ok(self.requests.write(&self.page, bytes)?)
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        self.check()?;
        Ok(self.replies.read(&self.page, into)?)
    }

    fn start(&mut self) {
        self.signal.start();
    }

    fn notify(&mut self) {
        self.signal.notify();
    }

    fn wait(&mut self) -> bool {
        self.signal.wait()
    }

    /// The protocol: set the state to 1, send an event, ignore everything else until the daemon has set it to 0.
    fn reconnect(&mut self) -> Result<(), Error> {
        if self.page.load_u32(XENSTORE_SERVER_FEATURES) & SERVER_FEATURE_RECONNECTION == 0 {
            return Err(Failure::Closed(0).into());
        }
        self.signal.start();
        self.page.store_u32(XENSTORE_CONNECTION, 1);
        self.signal.notify();
        while self.page.load_u32(XENSTORE_CONNECTION) != 0 {
            if !self.signal.wait() {
                return Err(Failure::TimedOut.into());
            }
        }
        self.requests = Producer::attach(&self.page, XENSTORE_REQ);
        self.replies = Consumer::attach(&self.page, XENSTORE_RSP);
        Ok(())
    }
}
