//! The table as ACPICA's disassembler reads it.

use std::process::Command;

use super::*;

#[test]
fn the_header_is_sound() {
    let table = table(&Devices::default());
    assert_eq!(&table[..4], b"SSDT");
    let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
    assert_eq!(length as usize, table.len());
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0, "checksum");
}

/// What `iasl -d` makes of the table; `None` when it was allowed to be absent.
fn disassembled(devices: &Devices) -> Option<String> {
    let dir = crate::testing::TempDir::new("ssdt");
    std::fs::write(dir.path().join("ssdt.aml"), table(devices)).unwrap();
    let run = Command::new("iasl")
        .args(["-d", "ssdt.aml"])
        .current_dir(dir.path())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) if std::env::var_os("VD_ALLOW_NO_IASL").is_some() => {
            eprintln!("SKIPPED: the SSDT was NOT checked with iasl: {error}");
            return None;
        }
        Err(error) => panic!(
            "iasl: {error}: install the Debian package acpica-tools, or set VD_ALLOW_NO_IASL=1"
        ),
    };
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("Warning") && !log.contains("Error"), "{log}");
    Some(std::fs::read_to_string(dir.path().join("ssdt.dsl")).unwrap())
}

#[test]
fn acpica_reads_all_slots() {
    let Some(text) = disassembled(&Devices::default()) else {
        return;
    };
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(r#"DefinitionBlock ("", "SSDT", 2, "VIRTDM", "VDSLOTS ", 0x00000001)"#));
    assert!(words.contains(r"Scope (\_SB)"), "{text}");
    assert_eq!(words.matches("Device (").count(), 32);
    for slot in SlotIndex::all() {
        let number = slot.get();
        let start = words
            .find(&format!("Device (VD{number:02})"))
            .expect("device");
        let end = words[start + 1..]
            .find("Device (")
            .map_or(words.len(), |at| start + 1 + at);
        let device = &words[start..end];
        let uid = match number {
            0 => "Zero".into(),
            1 => "One".into(),
            n => format!("0x{n:02X}"),
        };
        assert!(device.contains(r#"Name (_HID, "LNRO0005")"#), "{device}");
        assert!(device.contains(&format!("Name (_UID, {uid})")), "{device}");
        assert!(device.contains("Name (_CCA, One)"), "{device}");
        let window = format!(
            "Memory32Fixed (ReadWrite, 0x{:08X}, // Address Base 0x00000200, // Address Length",
            slot.base()
        );
        assert!(device.contains(&window), "{device}");
        // The last sixteen share inputs of the I/O APIC with PCI devices, which are level-triggered and active low.
        let sharing = if number < 16 {
            "ActiveHigh, Exclusive"
        } else {
            "ActiveLow, Shared"
        };
        let interrupt = format!("Interrupt (ResourceConsumer, Level, {sharing}, ,, )");
        assert!(device.contains(&interrupt), "{device}");
        assert!(
            device.contains(&format!("{{ 0x{:08X}, }}", slot.gsi())),
            "{device}"
        );
    }
}

#[test]
fn an_interrupt_is_edge_triggered_where_a_device_wants_it() {
    let devices = [
        "type=blk,backend=ram:1M",
        "type=blk,backend=ram:1M,interrupt=edge",
    ];
    let devices = Devices::parse(devices.map(str::as_bytes)).unwrap();
    let Some(text) = disassembled(&devices) else {
        return;
    };
    assert_eq!(text.matches("Edge, ActiveHigh").count(), 1);
    assert_eq!(text.matches("Level, Active").count(), vd_config::SLOTS - 1);
    let second = text.find("VD01").unwrap()..text.find("VD02").unwrap();
    assert!(text[second].contains("Edge, ActiveHigh"));
}

#[test]
fn posted_registers_are_where_writes_are_posted() {
    let devices = [
        "type=blk,backend=ram:1M",
        "type=blk,backend=ram:1M,doorbell=posted",
    ];
    let devices = Devices::parse(devices.map(str::as_bytes)).unwrap();
    let Some(text) = disassembled(&devices) else {
        return;
    };
    let second = text.find("VD01").unwrap()..text.find("VD02").unwrap();
    assert!(text[second.clone()].contains("0x000A2FA0"), "{text}");
    assert!(text[second].contains("Edge, ActiveHigh"));
    assert_eq!(text.matches("0x000A").count(), 1);
}
