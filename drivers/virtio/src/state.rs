//! Numbers and bytes of a state that one device model leaves and another goes on with: little-endian, one after the other.
//!
//! Invariants: a [`Writer`] never writes past its end, and says afterwards how much room there would have to be; a
//! [`Reader`] gives nothing that is not there.

use core::fmt;

/// Puts numbers one behind the other.
#[derive(Debug)]
pub struct Writer<'a> {
    into: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Writes from the start of `into` on. An empty one is for finding out how much there is.
    pub fn new(into: &'a mut [u8]) -> Self {
        Self { into, len: 0 }
    }

    /// Bytes that were put, whether or not there was room for them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was put.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all of it is there.
    pub fn fits(&self) -> bool {
        self.len <= self.into.len()
    }

    /// Puts bytes. Seldom, and from many places.
    #[inline(never)]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(place) = self.into.get_mut(self.len..end) {
            place.copy_from_slice(bytes);
        }
        self.len = end;
    }

    /// Puts a number.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// Puts a number.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Puts a number.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Puts a number.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Puts whether something is so.
    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// Puts bytes with their number, of 32 bits, in front.
    pub fn block(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes(bytes);
    }

    /// Puts what `f` puts, with its length, of 32 bits, in front.
    pub fn nested<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let at = self.len;
        self.u32(0);
        let start = self.len;
        let result = f(self);
        let len = u32::try_from(self.len.saturating_sub(start)).unwrap_or(u32::MAX);
        if let Some(place) = self.into.get_mut(at..start) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        result
    }
}

/// What cannot be gone on with, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadState {
    /// It ends too soon.
    Short,
    /// There is more than was expected.
    Long,
    /// It is of a device of another type.
    Device(u32),
    /// A device status that no driver can get to.
    Status(u32),
    /// Features that this device does not offer, or cannot do without.
    Features(u64),
    /// Another number of queues.
    Queues(u16),
    /// A queue that cannot be, or not with these features or this status.
    Queue(u16),
    /// The ring of a queue is not what the driver's memory has, or is not RAM.
    Ring(u16),
    /// Requests of a queue were under way, and what they are is not to be found any more.
    Lost(u16),
    /// What belongs to the device type makes no sense.
    Content,
}

impl fmt::Display for BadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short => f.write_str("it ends too soon"),
            Self::Long => f.write_str("there is more of it than there should be"),
            Self::Device(id) => write!(f, "it is of a device of type {id}"),
            Self::Status(status) => write!(f, "the device status {status:#x} is impossible"),
            Self::Features(features) => {
                write!(
                    f,
                    "the driver has chosen features that are not offered: {features:#x}"
                )
            }
            Self::Queues(queues) => write!(f, "it is of a device with {queues} queues"),
            Self::Queue(queue) => write!(f, "queue {queue} makes no sense"),
            Self::Ring(queue) => write!(f, "the ring of queue {queue} cannot be used"),
            Self::Lost(queue) => write!(
                f,
                "requests of queue {queue} were under way, and a packed ring does not keep what they are (packed=0 is for that)"
            ),
            Self::Content => f.write_str("what belongs to the type of the device makes no sense"),
        }
    }
}

/// Takes numbers one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    from: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `from` on.
    pub fn new(from: &'a [u8]) -> Self {
        Self { from }
    }

    /// What was not taken yet.
    pub fn rest(&self) -> &'a [u8] {
        self.from
    }

    /// Takes that many bytes.
    ///
    /// # Errors
    /// [`BadState::Short`]
    #[inline(never)]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], BadState> {
        let (bytes, rest) = self.from.split_at_checked(len).ok_or(BadState::Short)?;
        self.from = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadState> {
        let (bytes, rest) = self.from.split_first_chunk().ok_or(BadState::Short)?;
        self.from = rest;
        Ok(*bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// [`BadState::Short`]
    #[inline(never)]
    pub fn u8(&mut self) -> Result<u8, BadState> {
        self.array().map(u8::from_le_bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// [`BadState::Short`]
    #[inline(never)]
    pub fn u16(&mut self) -> Result<u16, BadState> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// [`BadState::Short`]
    #[inline(never)]
    pub fn u32(&mut self) -> Result<u32, BadState> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// [`BadState::Short`]
    #[inline(never)]
    pub fn u64(&mut self) -> Result<u64, BadState> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes whether something is so.
    ///
    /// # Errors
    /// [`BadState::Short`]; [`BadState::Content`] if it is neither.
    pub fn bool(&mut self) -> Result<bool, BadState> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadState::Content),
        }
    }

    /// Takes bytes that have their number in front: see [`Writer::block`] and [`Writer::nested`].
    ///
    /// # Errors
    /// [`BadState::Short`]
    pub fn block(&mut self) -> Result<&'a [u8], BadState> {
        let len = usize::try_from(self.u32()?).map_err(|_| BadState::Short)?;
        self.bytes(len)
    }

    /// Whether that was all.
    ///
    /// # Errors
    /// [`BadState::Long`]
    pub fn end(&self) -> Result<(), BadState> {
        if self.from.is_empty() {
            Ok(())
        } else {
            Err(BadState::Long)
        }
    }
}
