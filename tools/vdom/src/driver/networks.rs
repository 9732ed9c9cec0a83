//! The driver domain's network interfaces, in the words of xl's `vif=`, and which of them the devices want.
//!
//! Only as much of xl's syntax (xl-network-configuration) is understood as it takes to find the numbers; xl checks the
//! rest.

use vd_config::{Devices, VirtualInterface};

use crate::failure::Trouble;

/// The number of an interface: its place in the list, unless it says so itself. None if it cannot be one.
fn number(index: usize, interface: &str) -> Option<VirtualInterface> {
    let given = interface
        .split(',')
        .filter_map(|item| item.trim().strip_prefix("devid="))
        .next_back();
    match given {
        Some(text) => VirtualInterface::parse(text.trim().as_bytes()).ok(),
        None => VirtualInterface::from_number(u16::try_from(index).ok()?),
    }
}

/// The numbers of all interfaces in a list.
pub(crate) fn numbers<T: AsRef<str>>(interfaces: &[T]) -> Vec<VirtualInterface> {
    let interfaces = interfaces.iter().enumerate();
    interfaces
        .filter_map(|(index, interface)| number(index, interface.as_ref()))
        .collect()
}

/// Checks that every device that wants an interface finds it among `interfaces`, which are those of the key `key`.
pub(super) fn check<T: AsRef<str>>(
    devices: &Devices,
    interfaces: &[T],
    key: &str,
) -> Result<(), Trouble> {
    let there = numbers(interfaces);
    let missing = devices.uplinks().find(|(_, vif)| !there.contains(vif));
    let Some((slot, vif)) = missing else {
        return Ok(());
    };
    let numbers: Vec<String> = there.iter().map(VirtualInterface::to_string).collect();
    let has = if numbers.is_empty() {
        "no network interface at all".to_owned()
    } else {
        format!("only number {}", numbers.join(", "))
    };
    Err(Trouble::new(
        format!(
            "the device in slot {slot} has backend=vif:{vif}, but the driver domain gets {has}"
        ),
        format!("add it to {key}, as in {key} = [ \"bridge=xenbr0\" ]; the first one is vif:0"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_counted_as_xl_counts_them() {
        let number = |index, text| number(index, text).map(VirtualInterface::number);
        assert_eq!(number(0, ""), Some(0));
        assert_eq!(number(2, "bridge=xenbr0,mac=00:16:3e:00:00:01"), Some(2));
        assert_eq!(number(0, "bridge=xenbr0, devid=5"), Some(5));
        assert_eq!(number(0, "devid=5,mtu=9000,devid=6"), Some(6));
        assert_eq!(number(0, "devid=x"), None);
        assert_eq!(number(256, ""), None);
    }
}
