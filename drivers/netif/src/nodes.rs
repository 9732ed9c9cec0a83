//! Values in xenstore: what a back end offers, and what this side tells it.
//!
//! A value that is missing, malformed or out of range counts as its default.

use alloc::format;
use core::fmt::Arguments;

use vd_net::Takes;
use vd_pv::Unusable;
use vd_pv::nodes::{number, optional, put};
use vd_xenbus::store::View;
use vd_xenbus::{Error, Transport};

use crate::vif::Properties;

/// What an interface has if nobody says otherwise.
const DEFAULT_MTU: u16 = 1500;
/// What is believed: IPv6 needs as much, and no network has more.
const MTUS: core::ops::RangeInclusive<u64> = 1280..=9216;
/// The largest that fits one page, behind headers.
const MTU_OF_A_PAGE: u16 = 4096 - 64;

/// Features of this side that never change.
const FEATURES: [&str; 6] = [
    "request-rx-copy",
    "feature-rx-notify",
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-ipv6-csum-offload",
];

/// Whether the back end wants an event channel for each ring.
///
/// # Errors
/// Trouble with xenstore.
pub fn splits_events<T: Transport>(view: &mut View<'_, T>, backend: &str) -> Result<bool, Error> {
    flag(view, format_args!("{backend}/feature-split-event-channels"))
}

fn flag<T: Transport>(view: &mut View<'_, T>, path: Arguments<'_>) -> Result<bool, Error> {
    Ok(number(view, path)?.is_some_and(|value| value != 0))
}

impl Properties {
    /// What the back end says of itself, and the toolstack of the interface.
    ///
    /// # Errors
    /// Trouble with xenstore. The result inside says whether the interface can be used.
    pub fn read<T: Transport>(
        view: &mut View<'_, T>,
        frontend: &str,
        backend: &str,
    ) -> Result<Result<Self, Unusable>, Error> {
        let mut has = |name: &str| flag(view, format_args!("{backend}/{name}"));
        if !has("feature-rx-copy")? {
            return Ok(Err(Unusable("feature-rx-copy")));
        }
        let sg = has("feature-sg")?;
        let checksum4 = !has("feature-no-csum-offload")?;
        let checksum6 = has("feature-ipv6-csum-offload")?;
        let takes = Takes {
            checksum4,
            checksum6,
            large4: sg && checksum4 && has("feature-gso-tcpv4")?,
            large6: sg && checksum6 && has("feature-gso-tcpv6")?,
        };
        let mut mtu = None;
        for of in [frontend, backend] {
            let given = number(view, format_args!("{of}/mtu"))?;
            mtu = mtu.or(given.filter(|mtu| MTUS.contains(mtu)));
        }
        let mtu = mtu
            .and_then(|mtu| u16::try_from(mtu).ok())
            .unwrap_or(DEFAULT_MTU);
        let most = if sg { u16::MAX } else { MTU_OF_A_PAGE };
        Ok(Ok(Self {
            mtu: mtu.min(most),
            takes,
        }))
    }
}

/// Tells the back end where the rings are: grants and event channels, of what goes out and of what comes in. The state is
/// not written.
///
/// # Errors
/// Trouble with xenstore.
pub fn publish<T: Transport>(
    view: &mut View<'_, T>,
    frontend: &str,
    channels: [(u32, u32); 2],
) -> Result<(), Error> {
    // What an earlier front end left could be read for this one.
    for name in view.directory(frontend)? {
        let ours = ["queue-", "event-channel", "tx-ring-ref", "rx-ring-ref"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "multi-queue-num-queues" {
            view.rm(&format!("{frontend}/{name}"))?;
        }
    }
    let mut tell = |name: &str, value: u32| {
        let path = format_args!("{frontend}/{name}");
        put(view, path, format_args!("{value}"))
    };
    let [(tx, tx_port), (rx, rx_port)] = channels;
    tell("tx-ring-ref", tx)?;
    tell("rx-ring-ref", rx)?;
    if tx_port == rx_port {
        tell("event-channel", tx_port)?;
    } else {
        tell("event-channel-tx", tx_port)?;
        tell("event-channel-rx", rx_port)?;
    }
    FEATURES.iter().try_for_each(|name| tell(name, 1))
}

/// The address that the toolstack has given the interface, as text, if it is one.
///
/// # Errors
/// Trouble with xenstore.
pub fn address<T: Transport>(
    view: &mut View<'_, T>,
    frontend: &str,
) -> Result<Option<[u8; 6]>, Error> {
    let text = optional(view.read_string(&format!("{frontend}/mac"), 17))?;
    Ok(text.as_deref().and_then(parse))
}

fn parse(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}
