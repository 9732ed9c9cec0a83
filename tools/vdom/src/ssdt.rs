//! The guest's ACPI table: one device a slot, the same in every guest but for interrupts that are
//! edge-triggered, and registers whose writes are posted.
//!
//! A stock kernel finds virtio-mmio devices by `_HID` "LNRO0005". Slots without a device answer DeviceID 0, which
//! drivers skip, so the table need not know which slots are in use.

use acpi_tables::aml::{
    Device, Interrupt, Memory32Fixed, Name, ONE, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use vd_config::slot::WINDOW_SIZE;
use vd_config::{Declared, Devices, SlotIndex, Table};

/// Bytes of a table's header.
const HEADER: u32 = 36;
/// The revision that makes integers 64 bits wide.
const REVISION: u8 = 2;

/// The device of one slot.
struct Slot {
    slot: SlotIndex,
    /// Where its registers are.
    window: u64,
    /// Whether its interrupt is edge-triggered.
    edge: bool,
    /// Whether its line can be a PCI device's too: then it has to be declared as those are.
    shared: bool,
}

impl Aml for Slot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let Slot {
            slot,
            window,
            edge,
            shared,
        } = *self;
        let base = u32::try_from(window).unwrap_or(u32::MAX);
        let window = Memory32Fixed::new(true, base, WINDOW_SIZE as u32);
        let (consumer, active_low) = (true, shared);
        let interrupt = Interrupt::new(consumer, edge, active_low, shared, slot.gsi());
        Device::new(
            Path::new(&format!("VD{:02}", slot.get())),
            vec![
                &Name::new("_HID".into(), &"LNRO0005"),
                &Name::new("_UID".into(), &slot.get()),
                &Name::new("_CCA".into(), &ONE),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&window, &interrupt]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The table, as xl's `acpi_firmware=` wants it in a file, for these devices and the slots that are left.
pub(crate) fn table(devices: &Devices) -> Vec<u8> {
    let table = Table::of(devices);
    let slots: Vec<Slot> = SlotIndex::all()
        .map(|slot| Slot {
            slot,
            window: match table.get(slot) {
                Declared::Level | Declared::Edge | Declared::Absent => slot.base(),
                Declared::Posted => slot.posted_base(),
            },
            edge: matches!(table.get(slot), Declared::Edge | Declared::Posted),
            shared: !slot.has_own_line(),
        })
        .collect();
    let devices: Vec<&dyn Aml> = slots.iter().map(|slot| slot as &dyn Aml).collect();
    let mut body = Vec::new();
    Scope::new(Path::new("\\_SB_"), devices).to_aml_bytes(&mut body);
    let mut table = Sdt::new(*b"SSDT", HEADER, REVISION, *b"VIRTDM", *b"VDSLOTS ", 1);
    table.append_slice(&body);
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests;
