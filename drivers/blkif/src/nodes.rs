//! Values in xenstore: what a back end offers and what its disk is, and what this side tells it.
//!
//! A value that is missing, malformed or out of range counts as its default. Where there is none, the disk cannot be used
//! ([`Unusable`]).

use alloc::format;
use alloc::string::ToString;
use core::fmt::Arguments;

use vd_pv::Unusable;
use vd_pv::nodes::{number, put};
use vd_xenbus::store::View;
use vd_xenbus::{Error, Transport};

use crate::disk::{Config, Disk};
use crate::platform::{PAGE_SIZE, Platform};
use crate::wire;

/// `VDISK_*` in the node `info`.
const VDISK_CDROM: u64 = 1;
const VDISK_REMOVABLE: u64 = 2;
const VDISK_READONLY: u64 = 4;
/// Largest physical sector that is believed.
const MAX_PHYSICAL: u64 = 1 << 20;
/// Longest list of segments that is used, whatever the back end offers: 1 MiB.
const MAX_INDIRECT: u64 = 256;

/// What a back end can do for the transport, and what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Pages of a ring, as a power of two.
    pub ring_order: u8,
    /// Rings.
    pub queues: u16,
}

impl Offer {
    /// What a back end offers, as far as it is wanted.
    ///
    /// # Errors
    /// Trouble with xenstore.
    pub fn read<T: Transport>(
        view: &mut View<'_, T>,
        backend: &str,
        config: &Config,
    ) -> Result<Self, Error> {
        let mut get = |name: &str| number(view, format_args!("{backend}/{name}"));
        let order = get("max-ring-page-order")?.unwrap_or(0);
        // The older name for the same thing, in pages.
        let pages = get("max-ring-pages")?.unwrap_or(1).max(1);
        let order = order.max(pages.ilog2().into());
        let queues = get("multi-queue-max-queues")?.unwrap_or(1).max(1);
        let at_most =
            |number: u64, most: u16| u16::try_from(number.min(most.into())).unwrap_or(most);
        let ring_order = at_most(order, config.max_ring_order.into());
        Ok(Self {
            ring_order: u8::try_from(ring_order).unwrap_or(0),
            queues: at_most(queues, config.max_queues.max(1)),
        })
    }
}

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Size in sectors of 512 bytes, whatever the size of its blocks; a whole number of those.
    pub sectors: u64,
    /// Bytes of a block.
    pub sector_size: u32,
    /// Bytes of a physical block.
    pub physical_sector_size: u32,
    /// It cannot be written.
    pub readonly: bool,
    /// It is a CD-ROM.
    pub cdrom: bool,
    /// Its medium can be changed.
    pub removable: bool,
    /// It has a cache and can flush it.
    pub flush: bool,
    /// It has a cache and knows barriers, which flush it, too.
    pub barrier: bool,
    /// The granularity of discards in sectors, if there are any.
    pub discard: Option<u32>,
    /// Longest list of segments on a page of its own; 0 if there are none.
    pub indirect: u16,
    /// The back end keeps the pages mapped.
    pub persistent: bool,
}

impl Default for Properties {
    /// A disk of no sectors.
    fn default() -> Self {
        Self {
            sectors: 0,
            sector_size: 512,
            physical_sector_size: 512,
            readonly: false,
            cdrom: false,
            removable: false,
            flush: false,
            barrier: false,
            discard: None,
            indirect: 0,
            persistent: false,
        }
    }
}

impl Properties {
    /// Whether something that was answered may still be lost, and can be flushed.
    pub fn has_cache(&self) -> bool {
        self.flush || self.barrier
    }

    /// What the back end says of its disk.
    ///
    /// # Errors
    /// Trouble with xenstore. The result inside says whether the disk can be used.
    pub fn read<T: Transport>(
        view: &mut View<'_, T>,
        backend: &str,
    ) -> Result<Result<Self, Unusable>, Error> {
        let mut get = |name: &str| number(view, format_args!("{backend}/{name}"));
        let size = get("sector-size")?;
        let physical = get("physical-sector-size")?;
        let info = get("info")?.unwrap_or(0);
        let flush = get("feature-flush-cache")?;
        let barrier = get("feature-barrier")?;
        let discard = get("feature-discard")?;
        let granularity = get("discard-granularity")?;
        let indirect = get("feature-max-indirect-segments")?.unwrap_or(0);
        let persistent = get("feature-persistent")?;
        let Some(sector_size) = block_size(size.unwrap_or(512), PAGE_SIZE as u64) else {
            return Ok(Err(Unusable("sector-size")));
        };
        let Some(sectors) = sectors(view, backend, sector_size)? else {
            return Ok(Err(Unusable("sectors")));
        };
        let physical = physical
            .and_then(|size| block_size(size, MAX_PHYSICAL))
            .unwrap_or(sector_size);
        let granularity = granularity
            .and_then(|bytes| u32::try_from(bytes / 512).ok())
            .unwrap_or(0);
        let yes = |value: Option<u64>| value.is_some_and(|value| value != 0);
        Ok(Ok(Self {
            sectors,
            sector_size,
            physical_sector_size: physical.max(sector_size),
            readonly: info & VDISK_READONLY != 0,
            cdrom: info & VDISK_CDROM != 0,
            removable: info & VDISK_REMOVABLE != 0,
            flush: yes(flush),
            barrier: yes(barrier),
            discard: yes(discard).then_some(granularity.max(1)),
            indirect: u16::try_from(indirect.min(MAX_INDIRECT)).unwrap_or(0),
            persistent: yes(persistent),
        }))
    }
}

/// The size of a disk in sectors of 512 bytes, as far as they make whole blocks; None if it makes no sense.
///
/// # Errors
/// Trouble with xenstore.
pub fn sectors<T: Transport>(
    view: &mut View<'_, T>,
    backend: &str,
    sector_size: u32,
) -> Result<Option<u64>, Error> {
    let sectors = number(view, format_args!("{backend}/sectors"))?;
    let per_block = u64::from(sector_size) / 512;
    let whole = |sectors: u64| {
        sectors
            .checked_rem(per_block)
            .and_then(|rest| sectors.checked_sub(rest))
    };
    Ok(sectors
        .filter(|&sectors| sectors <= u64::MAX / 512)
        .and_then(whole))
}

/// A power of two from 512 to `most`.
fn block_size(bytes: u64, most: u64) -> Option<u32> {
    let fits = bytes.is_power_of_two() && (512..=most).contains(&bytes);
    u32::try_from(bytes).ok().filter(|_| fits)
}

/// Tells the back end where the rings are. The disk is connected; the state is not written.
///
/// # Errors
/// Trouble with xenstore.
pub fn publish<T: Transport, P: Platform>(
    view: &mut View<'_, T>,
    frontend: &str,
    disk: &Disk<P>,
) -> Result<(), Error> {
    // What an earlier connection left could be read for this one: a back end that finds both takes either.
    for name in view.directory(frontend)? {
        let ours = ["ring-ref", "queue-", "ring-page-order", "event-channel"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "multi-queue-num-queues" {
            view.rm(&format!("{frontend}/{name}"))?;
        }
    }
    let mut put = |path: Arguments<'_>, value: Arguments<'_>| put(view, path, value);
    put(
        format_args!("{frontend}/protocol"),
        format_args!("{}", wire::PROTOCOL),
    )?;
    let persistent = u8::from(disk.config().persistent);
    put(
        format_args!("{frontend}/feature-persistent"),
        format_args!("{persistent}"),
    )?;
    let queues = disk.channels().count();
    if queues > 1 {
        let path = format_args!("{frontend}/multi-queue-num-queues");
        put(path, format_args!("{queues}"))?;
    }
    for (number, channel) in disk.channels().enumerate() {
        let dir = if queues > 1 {
            format!("{frontend}/queue-{number}")
        } else {
            frontend.to_string()
        };
        let port = channel.port;
        put(format_args!("{dir}/event-channel"), format_args!("{port}"))?;
        let several = channel.pages.len() > 1;
        if several && number == 0 {
            let order = channel.pages.len().ilog2();
            let path = format_args!("{frontend}/ring-page-order");
            put(path, format_args!("{order}"))?;
        }
        for (page, gref) in channel.pages.iter().flatten().enumerate() {
            let gref = format_args!("{gref}");
            if several {
                put(format_args!("{dir}/ring-ref{page}"), gref)?;
            } else {
                put(format_args!("{dir}/ring-ref"), gref)?;
            }
        }
    }
    Ok(())
}
