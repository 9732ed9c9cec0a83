//! What one driver domain leaves to the next: where each device stands, in a form that both can check.
//!
//! ```text
//! "vd-state"  version: u32  cause: u32  length: u32  sum: u64  then length bytes:
//!     number of devices: u8, and for each: slot: u8, length: u32, and what its transport has written
//! ```
//!
//! The version is that of all of it, what the devices write included: a form that has changed has another one. The sum is
//! against what was written half or to the wrong place, not against somebody who means harm: what is in it is checked
//! where it is used.

use core::fmt;

use vd_config::SlotIndex;
use vd_virtio::state::{BadState, Reader, Writer};

const MAGIC: &[u8; 8] = b"vd-state";
/// The version of the form.
pub const VERSION: u32 = 1;
/// Bytes in front.
const HEADER: usize = 28;
/// Bytes for everything about a device but what its ports have to keep: a transport with the most queues that there are.
const PER_DEVICE: usize = 2048;
/// Bytes that the rings of a console device's ports hold.
const PER_CONSOLE: usize = 64 << 10;

/// Bytes that are enough for so many devices, so many of which are consoles, in whole pages.
#[must_use]
pub fn room(devices: usize, consoles: usize) -> usize {
    let devices = devices.saturating_mul(PER_DEVICE);
    let consoles = consoles.saturating_mul(PER_CONSOLE);
    HEADER
        .saturating_add(devices)
        .saturating_add(consoles)
        .next_multiple_of(4096)
}

/// How the one that has left it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// In good order: nothing was under way.
    Order,
    /// In the middle of something.
    Crash,
}

/// Why nothing can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is nothing.
    Nothing,
    /// It is in a form of this version.
    Version(u32),
    /// It was not written to its end, or has changed since.
    Damaged,
    /// It makes no sense.
    Bad(BadState),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing was left there"),
            Self::Version(version) => write!(
                f,
                "it is in version {version} of its form, and this image knows version {VERSION}: use images of releases that \
                 have the same"
            ),
            Self::Damaged => f.write_str("it is damaged"),
            Self::Bad(bad) => bad.fmt(f),
        }
    }
}

impl From<BadState> for Unusable {
    fn from(bad: BadState) -> Self {
        Self::Bad(bad)
    }
}

/// FNV-1a.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Writes down where devices stand: `devices` gives each of them, with what writes its state. Returns whether there was
/// room.
pub fn write<F: FnOnce(&mut Writer<'_>)>(
    into: &mut [u8],
    cause: Cause,
    devices: impl ExactSizeIterator<Item = (SlotIndex, F)>,
) -> bool {
    let Some((header, body)) = into.split_at_mut_checked(HEADER) else {
        return false;
    };
    // Until it is complete, there is nothing.
    header.fill(0);
    let mut writer = Writer::new(body);
    writer.u8(u8::try_from(devices.len()).unwrap_or(u8::MAX));
    for (slot, device) in devices {
        writer.u8(slot.get());
        writer.nested(device);
    }
    let len = writer.len();
    let Some(body) = body.get(..len) else {
        return false;
    };
    let sum = sum(body);
    let mut writer = Writer::new(header);
    writer.bytes(MAGIC);
    writer.u32(VERSION);
    writer.u32(match cause {
        Cause::Order => 0,
        Cause::Crash => 1,
    });
    writer.u32(u32::try_from(len).unwrap_or(u32::MAX));
    writer.u64(sum);
    writer.fits()
}

/// What was left, checked as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Bequest<'a> {
    /// How the one that has left it has ended.
    pub cause: Cause,
    devices: u8,
    body: Reader<'a>,
}

impl<'a> Bequest<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// [`Unusable`]
    pub fn read(from: &'a [u8]) -> Result<Self, Unusable> {
        let mut reader = Reader::new(from);
        if reader.bytes(MAGIC.len()).ok() != Some(&MAGIC[..]) {
            return Err(Unusable::Nothing);
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(Unusable::Version(version));
        }
        let cause = match reader.u32()? {
            0 => Cause::Order,
            1 => Cause::Crash,
            _ => return Err(Unusable::Damaged),
        };
        let len = usize::try_from(reader.u32()?).map_err(|_| Unusable::Damaged)?;
        let expected = reader.u64()?;
        let body = reader.bytes(len).map_err(|_| Unusable::Damaged)?;
        if sum(body) != expected {
            return Err(Unusable::Damaged);
        }
        let mut body = Reader::new(body);
        let devices = body.u8()?;
        Ok(Self {
            cause,
            devices,
            body,
        })
    }

    /// What was left of each device.
    ///
    /// # Errors
    /// [`Unusable::Bad`]; there is nothing behind that.
    pub fn devices(&self) -> impl Iterator<Item = Result<(SlotIndex, &'a [u8]), Unusable>> {
        let mut body = self.body;
        let mut left = self.devices;
        core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let next = body.u8().and_then(|slot| Ok((slot, body.block()?)));
            let next = next.and_then(|(slot, state)| {
                let slot = SlotIndex::new(slot).ok_or(BadState::Content)?;
                Ok((slot, state))
            });
            if next.is_err() {
                left = 0;
            }
            Some(next.map_err(Unusable::Bad))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn slot(number: u8) -> SlotIndex {
        SlotIndex::new(number).unwrap()
    }

    fn three(into: &mut [u8], cause: Cause) -> bool {
        let devices = [(3, "one"), (15, ""), (0, "three")];
        let devices = devices.map(|(number, text)| {
            (slot(number), move |to: &mut Writer<'_>| {
                to.bytes(text.as_bytes());
            })
        });
        write(into, cause, devices.into_iter())
    }

    #[test]
    fn what_is_left_is_found() {
        for cause in [Cause::Order, Cause::Crash] {
            let mut bytes = vec![0xee; 100];
            assert!(three(&mut bytes, cause));
            let bequest = Bequest::read(&bytes).unwrap();
            assert_eq!(bequest.cause, cause);
            let devices: Vec<_> = bequest.devices().map(Result::unwrap).collect();
            assert_eq!(
                devices,
                [
                    (slot(3), &b"one"[..]),
                    (slot(15), &b""[..]),
                    (slot(0), &b"three"[..])
                ]
            );
        }
    }

    #[test]
    fn what_has_no_room_is_nothing() {
        let needed = HEADER + 1 + 3 * 5 + 8;
        for room in 0..needed {
            let mut bytes = vec![0xee; room];
            assert!(!three(&mut bytes, Cause::Order), "{room}");
            assert_eq!(Bequest::read(&bytes).unwrap_err(), Unusable::Nothing);
        }
        let mut bytes = vec![0; needed];
        assert!(three(&mut bytes, Cause::Order));
        assert!(Bequest::read(&bytes).is_ok());
    }

    #[test]
    fn every_byte_counts() {
        let mut good = vec![0; 100];
        assert!(three(&mut good, Cause::Order));
        let len = HEADER + 1 + 3 * 5 + 8;
        for at in 0..len {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Bequest::read(&bad).is_err(), "byte {at}");
            assert!(Bequest::read(&good[..at]).is_err());
        }
        good[8] = 2;
        assert_eq!(Bequest::read(&good).unwrap_err(), Unusable::Version(2));
        assert_eq!(Bequest::read(&[0; 4096]).unwrap_err(), Unusable::Nothing);
    }

    /// The sum is right, and what it is of makes no sense.
    #[test]
    fn slots_and_lengths_are_looked_at() {
        let body_of = |body: &[u8]| {
            let mut bytes = vec![];
            bytes.extend(MAGIC);
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend((body.len() as u32).to_le_bytes());
            bytes.extend(sum(body).to_le_bytes());
            bytes.extend(body);
            bytes
        };
        for (body, whole) in [
            (&[1, 0, 0, 0, 0, 0][..], true),
            (&[1, 31, 0, 0, 0, 0], true),
            (&[1, 32, 0, 0, 0, 0], false),
            (&[1, 0, 1, 0, 0, 0], false),
            (&[1, 0, 255, 255, 255, 255], false),
            (&[255, 0, 0, 0, 0, 0], false),
        ] {
            let bytes = body_of(body);
            let bequest = Bequest::read(&bytes).unwrap();
            assert_eq!(bequest.devices().all(|it| it.is_ok()), whole, "{body:?}");
            assert!(bequest.devices().count() <= 2);
        }
        assert!(Bequest::read(&body_of(&[])).is_err());
    }

    #[test]
    fn there_is_room_for_all() {
        let largest = 32 * (200 + vd_config::MAX_VIRTQUEUES as usize * 40);
        assert!(room(32, 0) >= HEADER + largest);
        assert_eq!(room(1, 0) % 4096, 0);
    }
}
