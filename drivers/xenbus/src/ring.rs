//! Byte rings on a shared page: the two of xenstore and the two of the PV console, by one implementation.
//!
//! A ring is a byte area whose size is a power of two and two free-running `u32` indices. The byte at stream offset x
//! is at x modulo the size; the producer index minus the consumer index (modulo 2^32) is what is in the ring.
//!
//! Invariants:
//! - the index that this side moves lives in [`Producer`] or [`Consumer`]; the page's copy is written, not read back,
//!   so the other side cannot move it;
//! - the other side's index is read once a call and refused when it claims more than the ring holds.

/// One shared page. Implementors make exactly the accesses named, with the ordering named, and hand out no reference.
/// Offsets come from a [`RingLayout`] and lie within the page.
pub trait SharedPage {
    /// One aligned 32-bit load with acquire ordering.
    fn load_u32(&self, offset: usize) -> u32;
    /// One aligned 32-bit store with release ordering.
    fn store_u32(&self, offset: usize, value: u32);
    /// Copies bytes from the page (volatile).
    fn read_bytes(&self, offset: usize, into: &mut [u8]);
    /// Copies bytes to the page (volatile).
    fn write_bytes(&self, offset: usize, from: &[u8]);
}

/// Where a ring is on its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Offset of the bytes.
    pub data: usize,
    /// Number of bytes; a power of two.
    pub size: u32,
    /// Offset of the consumer's index.
    pub consumer: usize,
    /// Offset of the producer's index.
    pub producer: usize,
}

/// `struct xenstore_domain_interface`: requests to the daemon.
pub const XENSTORE_REQ: RingLayout = RingLayout {
    data: 0,
    size: 1024,
    consumer: 2048,
    producer: 2052,
};
/// `struct xenstore_domain_interface`: replies and watch events from the daemon.
pub const XENSTORE_RSP: RingLayout = RingLayout {
    data: 1024,
    size: 1024,
    consumer: 2056,
    producer: 2060,
};
/// `struct xenstore_domain_interface`: offset of the server's feature bits.
pub const XENSTORE_SERVER_FEATURES: usize = 2064;
/// `struct xenstore_domain_interface`: offset of the connection state (0 is connected).
pub const XENSTORE_CONNECTION: usize = 2068;
/// `struct xenstore_domain_interface`: offset of the daemon's error (0 is none).
pub const XENSTORE_ERROR: usize = 2072;
/// Server feature bit: the connection can be reset by the client.
pub const SERVER_FEATURE_RECONNECTION: u32 = 1;
/// Server feature bit: the error field is valid.
pub const SERVER_FEATURE_ERROR: u32 = 2;

/// `struct xencons_interface`: what the person types.
pub const CONSOLE_IN: RingLayout = RingLayout {
    data: 0,
    size: 1024,
    consumer: 3072,
    producer: 3076,
};
/// `struct xencons_interface`: what the domain prints.
pub const CONSOLE_OUT: RingLayout = RingLayout {
    data: 1024,
    size: 2048,
    consumer: 3080,
    producer: 3084,
};

/// The other side's index is impossible. Nothing was moved; the ring cannot be trusted until it is set up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingError {
    /// The consumer's index.
    pub consumer: u32,
    /// The producer's index.
    pub producer: u32,
}

/// This side's end of a ring that it fills.
#[derive(Clone, Debug)]
pub struct Producer {
    layout: RingLayout,
    index: u32,
}

impl Producer {
    /// Takes over the ring where it stands: indices need not start at zero.
    pub fn attach<P: SharedPage + ?Sized>(page: &P, layout: RingLayout) -> Self {
        Producer {
            layout,
            index: page.load_u32(layout.producer),
        }
    }

    /// Bytes that fit now.
    pub fn free<P: SharedPage + ?Sized>(&self, page: &P) -> Result<u32, RingError> {
        let used = filled(
            &self.layout,
            page.load_u32(self.layout.consumer),
            self.index,
        )?;
        Ok(self.layout.size.saturating_sub(used))
    }

    /// Puts as many of `bytes` as fit and returns how many.
    pub fn write<P: SharedPage + ?Sized>(
        &mut self,
        page: &P,
        bytes: &[u8],
    ) -> Result<usize, RingError> {
        let mut done = 0;
        let room = bytes.len().min(to_usize(self.free(page)?));
        while let Some(rest) = bytes.get(done..room).filter(|rest| !rest.is_empty()) {
            let (at, straight) = position(&self.layout, self.index);
            let chunk = rest.get(..rest.len().min(straight)).unwrap_or(rest);
            page.write_bytes(self.layout.data.saturating_add(at), chunk);
            self.index = self
                .index
                .wrapping_add(u32::try_from(chunk.len()).unwrap_or(0));
            done = done.saturating_add(chunk.len());
        }
        if done > 0 {
            page.store_u32(self.layout.producer, self.index);
        }
        Ok(done)
    }
}

/// This side's end of a ring that it empties.
#[derive(Clone, Debug)]
pub struct Consumer {
    layout: RingLayout,
    index: u32,
}

impl Consumer {
    /// Takes over the ring where it stands.
    pub fn attach<P: SharedPage + ?Sized>(page: &P, layout: RingLayout) -> Self {
        Consumer {
            layout,
            index: page.load_u32(layout.consumer),
        }
    }

    /// Bytes that can be taken now.
    pub fn available<P: SharedPage + ?Sized>(&self, page: &P) -> Result<u32, RingError> {
        filled(
            &self.layout,
            self.index,
            page.load_u32(self.layout.producer),
        )
    }

    /// Takes as many bytes as there are and `into` holds, and returns how many.
    pub fn read<P: SharedPage + ?Sized>(
        &mut self,
        page: &P,
        into: &mut [u8],
    ) -> Result<usize, RingError> {
        let mut done = 0;
        let wanted = into.len().min(to_usize(self.available(page)?));
        while let Some(rest) = into.get_mut(done..wanted).filter(|rest| !rest.is_empty()) {
            let (at, straight) = position(&self.layout, self.index);
            let len = rest.len().min(straight);
            let Some(chunk) = rest.get_mut(..len) else {
                break;
            };
            page.read_bytes(self.layout.data.saturating_add(at), chunk);
            self.index = self.index.wrapping_add(u32::try_from(len).unwrap_or(0));
            done = done.saturating_add(len);
        }
        if done > 0 {
            page.store_u32(self.layout.consumer, self.index);
        }
        Ok(done)
    }

    /// Takes bytes like [`read`](Self::read), but none behind the first `last`.
    pub fn read_through<P: SharedPage + ?Sized>(
        &mut self,
        page: &P,
        into: &mut [u8],
        last: u8,
    ) -> Result<usize, RingError> {
        let mut done = 0_usize;
        for place in into.chunks_mut(1) {
            if self.read(page, place)? == 0 {
                break;
            }
            done = done.saturating_add(1);
            if place.first() == Some(&last) {
                break;
            }
        }
        Ok(done)
    }

    /// Throws away what is in the ring and believes the producer's index: the way on after a [`RingError`] on a ring
    /// that carries no structure, such as console input.
    pub fn resynchronise<P: SharedPage + ?Sized>(&mut self, page: &P) {
        self.index = page.load_u32(self.layout.producer);
        page.store_u32(self.layout.consumer, self.index);
    }
}

fn filled(layout: &RingLayout, consumer: u32, producer: u32) -> Result<u32, RingError> {
    let filled = producer.wrapping_sub(consumer);
    if filled > layout.size {
        Err(RingError { consumer, producer })
    } else {
        Ok(filled)
    }
}

/// Where an index points in the byte area, and how many bytes lie between there and the area's end.
fn position(layout: &RingLayout, index: u32) -> (usize, usize) {
    let at = index & layout.size.wrapping_sub(1);
    (to_usize(at), to_usize(layout.size.saturating_sub(at)))
}

fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
