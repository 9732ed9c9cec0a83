//! The control queue (virtio 1.3, 5.1.6.5): how many pairs of queues the driver uses, and its address.
//!
//! What is not understood is refused, in the command itself; the queue goes on.

use vd_virtio::fault::FaultKind;
use vd_virtio::{Chain, GuestMemory};

use crate::counters::bump;
use crate::features::NetFeatures;
use crate::port::Port;
use crate::switch::Switch;
use crate::wire::Mac;

const OK: u8 = 0;
const ERROR: u8 = 1;

/// Class and number of VIRTIO_NET_CTRL_MAC_ADDR_SET.
const MAC_ADDR_SET: [u8; 2] = [1, 1];
/// Class and number of VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.
const MQ_VQ_PAIRS_SET: [u8; 2] = [4, 0];

/// Carries out the command of a chain. Returns how many bytes were written: none if there is no place for the answer,
/// and then nothing is done either.
pub(crate) fn serve<M: GuestMemory + ?Sized>(
    switch: &mut Switch,
    port: usize,
    mem: &M,
    chain: &Chain,
) -> Result<u32, FaultKind> {
    let Some((answer, _)) = chain.writable().split_at(1) else {
        count(switch, port, false);
        return Ok(0);
    };
    let (command, data) = chain.readable().read_array::<_, 2>(mem)?;
    let done = match command {
        MAC_ADDR_SET if data.len() == 6 => {
            let (mac, _) = data.read_array(mem)?;
            set_mac(switch, port, Mac(mac))
        }
        MQ_VQ_PAIRS_SET if data.len() == 2 => {
            let (pairs, _) = data.read_array(mem)?;
            set_pairs(switch, port, u16::from_le_bytes(pairs))
        }
        _ => None,
    };
    let status = if done.is_some() { OK } else { ERROR };
    answer.write(mem, &[status])?;
    count(switch, port, done.is_some());
    Ok(1)
}

fn count(switch: &mut Switch, port: usize, done: bool) {
    if let Some(Port { counters, .. }) = switch.port_mut(port) {
        bump(if done {
            &mut counters.commands
        } else {
            &mut counters.bad_commands
        });
    }
}

fn negotiated(switch: &mut Switch, port: usize, feature: NetFeatures) -> Option<&mut Port> {
    switch
        .port_mut(port)
        .filter(|port| port.features.contains(feature))
}

/// An address of its own.
pub(crate) fn set_mac(switch: &mut Switch, port: usize, mac: Mac) -> Option<()> {
    if !mac.is_station() || switch.holder(mac).is_some_and(|holder| holder != port) {
        return None;
    }
    negotiated(switch, port, NetFeatures::CTRL_MAC_ADDR)?.mac = mac;
    switch.forget_learned(mac);
    Some(())
}

/// So many pairs of queues.
pub(crate) fn set_pairs(switch: &mut Switch, port: usize, pairs: u16) -> Option<()> {
    let this = negotiated(switch, port, NetFeatures::MQ)?;
    if pairs == 0 || pairs > this.config.pairs {
        return None;
    }
    this.pairs = pairs;
    switch.drop_waiting(port, pairs.into());
    Some(())
}
