//! What `vdom` and the driver domain agree on, the command line, and the console's commands.
//!
//! Drives every parser of `vd-config` and the ones of `vd-kernel-core` (the description in xenstore included, read
//! through an in-memory xenstored).
//!
//! Checked: what is well-formed is accepted and means what was written; what is accepted is usable and comes back
//! when it is printed and parsed again, as a string and as xenstore pairs; what is refused is refused with one short
//! printable line.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use vd_config::keys::{self, device as key};
use vd_config::target::check_version;
use vd_config::{
    Backend, BlockSize, ByteSize, DeviceDescription, Devices, SLOTS, SlotIndex, State, Target,
    TargetType, VirtualDisk,
};
use vd_kernel_core::cmdline::{self, LogLevel};
use vd_kernel_core::command::{self, Command, Crash};
use vd_kernel_core::description;
use vd_xenbus::test_util::{FakePage, FakeSignal, FakeXenstored};
use vd_xenbus::{RingTransport, Xenstore};
use virtio_domain_fuzz::Source;
use virtio_domain_fuzz::text::assert_message;

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    match source.below(16) {
        0..=3 => one_device(&mut source),
        4..=6 => devices(&mut source),
        7 => sizes(&mut source),
        8 | 9 => scalars(source.rest()),
        10 | 11 => command_line(source.rest()),
        12..=14 => console_command(source.rest()),
        // Much the slowest.
        _ => in_xenstore(&mut source),
    }
});

/// A device in words, and what it has to come to if nothing is wrong with it.
struct Worded {
    slot: Option<SlotIndex>,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    right: Option<Right>,
}

/// What the pairs mean.
#[derive(Debug, PartialEq)]
struct Right {
    backend: Backend,
    serial: Option<String>,
    readonly: bool,
    block_size: BlockSize,
    packed: bool,
}

impl Right {
    fn of(device: &DeviceDescription) -> Self {
        Self {
            backend: device.backend(),
            serial: device.serial().map(str::to_owned),
            readonly: device.readonly(),
            block_size: device.block_size(),
            packed: device.packed(),
        }
    }
}

/// A size in one of the ways to write it: a whole number of blocks of either size.
fn size(source: &mut Source<'_>) -> (ByteSize, String) {
    let number = source.between(1, 4096);
    let (factor, unit, letter) = source.pick(&[
        (1, 1 << 20, "M"),
        (1, 1 << 30, "G"),
        (4, 1 << 10, "K"),
        (4096, 1, ""),
        (1, 1 << 20, "m"),
        (4, 1 << 10, "k"),
    ]);
    let number = number * factor;
    (ByteSize(number * unit), format!("{number}{letter}"))
}

fn serial(source: &mut Source<'_>) -> String {
    let allowed: Vec<u8> = (0x21..0x7f)
        .filter(|byte| !b",'\"".contains(byte))
        .collect();
    let len = source.between(1, 20);
    (0..len)
        .map(|_| char::from(source.pick(&allowed)))
        .collect()
}

fn worded(source: &mut Source<'_>) -> Worded {
    let mut right = Right {
        backend: Backend::Module,
        serial: None,
        readonly: false,
        block_size: BlockSize::B512,
        packed: true,
    };
    let mut pairs = vec![(key::TYPE, "blk".to_owned())];
    let backend = match source.below(8) {
        0 | 1 => "module".to_owned(),
        2 => {
            let text = source.pick(&["xvda", "xvdb", "xvdaa", "51712", "51728", "sda1"]);
            let disk = VirtualDisk::parse(text.as_bytes()).expect("it is a disk");
            right.backend = Backend::Vbd(disk);
            // Unless it is asked for.
            right.packed = false;
            format!("vbd:{text}")
        }
        _ => {
            let (size, text) = size(source);
            right.backend = Backend::Ram(size);
            format!("ram:{text}")
        }
    };
    pairs.push((key::BACKEND, backend));
    if source.coin() {
        let serial = serial(source);
        pairs.push((key::SERIAL, serial.clone()));
        right.serial = Some(serial);
    }
    for (name, field) in [
        (key::READONLY, &mut right.readonly),
        (key::PACKED, &mut right.packed),
    ] {
        if source.coin() {
            *field = source.coin();
            pairs.push((name, u8::from(*field).to_string()));
        }
    }
    if !matches!(right.backend, Backend::Vbd(_)) && source.coin() {
        right.block_size = source.pick(&[BlockSize::B512, BlockSize::B4096]);
        pairs.push((key::BLOCK_SIZE, right.block_size.bytes().to_string()));
    }
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs
        .into_iter()
        .map(|(name, value)| (name.into(), value.into_bytes()))
        .collect();
    let turn = source.below(pairs.len());
    pairs.rotate_left(turn);
    let slot = source
        .coin()
        .then(|| SlotIndex::new(source.below(SLOTS) as u8))
        .flatten();
    let right = (!spoil(source, &mut pairs)).then_some(right);
    Worded { slot, pairs, right }
}

/// Sometimes makes a device wrong, or just different; says whether it did.
fn spoil(source: &mut Source<'_>, pairs: &mut Vec<(Vec<u8>, Vec<u8>)>) -> bool {
    if !source.rarely() {
        return false;
    }
    let at = source.below(pairs.len());
    let bytes = source.bytes(60).to_vec();
    match source.below(6) {
        0 => pairs[at].1 = bytes,
        1 => pairs[at].0 = bytes,
        2 => drop(pairs.remove(at)),
        3 => pairs.push(pairs[at].clone()),
        4 => pairs[at].1.extend(bytes),
        _ => pairs.push((bytes, source.bytes(10).to_vec())),
    }
    true
}

/// The configuration string.
fn joined(worded: &Worded, source: &mut Source<'_>) -> Vec<u8> {
    let slot = worded
        .slot
        .map(|slot| (key::SLOT.into(), slot.to_string().into_bytes()));
    let space: &[u8] = if source.coin() { b" " } else { b"" };
    let mut text = Vec::new();
    for (name, value) in slot.iter().chain(&worded.pairs) {
        if !text.is_empty() {
            text.push(b',');
        }
        for part in [space, name, space, b"=", space, value, space] {
            text.extend(part);
        }
    }
    text
}

/// What holds for every description that exists.
fn check_device(device: &DeviceDescription) {
    if let Backend::Ram(size) = device.backend() {
        assert_ne!(size.bytes(), 0);
        assert_eq!(size.bytes() % u64::from(device.block_size().bytes()), 0);
    }
    let printed = device.to_string();
    assert_message(&printed);
    assert_eq!(
        DeviceDescription::parse(printed.as_bytes()),
        Ok((None, device.clone()))
    );
    let mut pairs = Vec::new();
    let written: Result<(), ()> = device.write_pairs(|name, value| {
        pairs.push((name, value.to_string()));
        Ok(())
    });
    assert_eq!(written, Ok(()));
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    assert_eq!(DeviceDescription::from_pairs(pairs).as_ref(), Ok(device));
}

fn one_device(source: &mut Source<'_>) {
    let worded = worded(source);
    let text = joined(&worded, source);
    let parsed = DeviceDescription::parse(&text);
    if let Some(right) = &worded.right {
        let (slot, device) = parsed.as_ref().expect("nothing was wrong with it");
        assert_eq!((*slot, &Right::of(device)), (worded.slot, right));
    }
    match &parsed {
        Ok((_, device)) => check_device(device),
        Err(error) => assert_message(error),
    }
    let pairs = worded
        .pairs
        .iter()
        .map(|(name, value)| (&name[..], &value[..]));
    match (DeviceDescription::from_pairs(pairs), &worded.right) {
        (Ok(device), right) => {
            check_device(&device);
            assert!(
                right
                    .as_ref()
                    .is_none_or(|right| *right == Right::of(&device))
            );
        }
        (Err(error), None) => assert_message(&error),
        (Err(error), Some(_)) => panic!("{error}"),
    }
}

fn devices(source: &mut Source<'_>) {
    let count = source.below(SLOTS + 2);
    let all: Vec<Worded> = (0..count).map(|_| worded(source)).collect();
    let texts: Vec<Vec<u8>> = all.iter().map(|device| joined(device, source)).collect();
    match Devices::parse(texts.iter().map(Vec::as_slice)) {
        Ok(devices) => {
            assert_eq!(devices.len(), texts.len());
            let modules = devices
                .iter()
                .filter(|(_, device)| device.backend() == Backend::Module);
            assert!(modules.count() <= 1);
            let disks: BTreeSet<u32> = devices.vbds().map(|(_, disk)| disk.number()).collect();
            assert_eq!(disks.len(), devices.vbds().count());
            for (text, worded) in texts.iter().zip(&all) {
                let (slot, device) = DeviceDescription::parse(text).expect("each of them is right");
                // Only a slot that is well-formed is where it says.
                if let (Some(_), Some(slot)) = (&worded.right, slot) {
                    assert_eq!(devices.get(slot), Some(&device));
                }
            }
            let bytes = devices.iter().map(|(_, device)| match device.backend() {
                Backend::Ram(size) => u128::from(size.bytes()),
                Backend::Module
                | Backend::Switch
                | Backend::Cpu
                | Backend::Console
                | Backend::Vbd(_)
                | Backend::Vif(_) => 0,
            });
            let sum: u128 = bytes.sum();
            assert_eq!(devices.ram_bytes(), u64::try_from(sum).ok());
        }
        Err((index, error)) => {
            assert!(index < texts.len());
            assert_message(&error);
        }
    }
}

/// Checks that what a parser accepts is printed as it was read, or as something that reads the same.
fn scalar<T: PartialEq + std::fmt::Debug + std::fmt::Display, E: std::fmt::Display>(
    text: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, E>,
    canonical: bool,
) {
    match parse(text) {
        Ok(value) => {
            let printed = value.to_string();
            assert!(!canonical || printed.as_bytes() == text, "{printed:?}");
            assert!(parse(printed.as_bytes()).is_ok_and(|again| again == value));
        }
        Err(error) => assert_message(&error),
    }
}

fn scalars(text: &[u8]) {
    scalar(text, ByteSize::parse, false);
    scalar(text, Target::parse, true);
    scalar(text, SlotIndex::parse, true);
    scalar(text, State::parse, true);
    match TargetType::parse(text) {
        Ok(kind) => assert_eq!(kind.as_str().as_bytes(), text),
        Err(error) => assert_message(&error),
    }
    match check_version(text) {
        Ok(()) => assert_eq!(text, keys::VERSION_VALUE.as_bytes()),
        Err(error) => assert_message(&error),
    }
    if let Some(address) = text.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
        && let Some((slot, offset)) = SlotIndex::at_address(address)
    {
        assert_eq!(slot.base() + offset, address);
    }
}

/// Sizes around the limits, against arithmetic that has room.
fn sizes(source: &mut Source<'_>) {
    let zeroes = "0".repeat(source.below(4));
    let number = u128::from(source.edge()) * source.pick(&[1, 1, 2, 1000]);
    let (letter, unit) =
        source.pick(&[("", 1u128), ("K", 1 << 10), ("m", 1 << 20), ("G", 1 << 30)]);
    let number = if source.coin() { number / unit } else { number };
    let text = format!("{zeroes}{number}{letter}");
    let right = u64::try_from(number * unit).ok();
    assert_eq!(ByteSize::parse(text.as_bytes()).ok(), right.map(ByteSize));
    scalars(text.as_bytes());
}

const LEVELS: [(&str, LogLevel); 6] = [
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

fn level(word: &[u8]) -> Option<LogLevel> {
    LEVELS
        .iter()
        .find(|(name, _)| name.as_bytes() == word)
        .map(|(_, level)| *level)
}

/// Every word counts, or is complained about.
/// At least one digit and nothing else, in 32 bits.
fn seconds(word: &[u8]) -> Option<u32> {
    let sum = word.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some((sum * 10 + digit).min(1 << 40))
    });
    sum.filter(|_| !word.is_empty())
        .and_then(|sum| sum.try_into().ok())
}

fn command_line(line: &[u8]) {
    let mut expected = (LogLevel::Info, 120);
    let mut strange = Vec::new();
    for word in line
        .split(|byte| b" \t\n\r\x0c".contains(byte))
        .filter(|word| !word.is_empty())
    {
        let seconds = word.strip_prefix(b"disk-wait=").and_then(seconds);
        match (word.strip_prefix(b"log=").and_then(level), seconds) {
            (Some(level), _) => expected.0 = level,
            (_, Some(seconds)) => expected.1 = seconds,
            (None, None) => strange.push(word.to_vec()),
        }
    }
    let mut complaints = Vec::new();
    let options = cmdline::parse(line, |word| complaints.push(word.to_vec()));
    assert_eq!((options.log, options.disk_wait), expected);
    assert_eq!(complaints, strange);
}

fn console_command(line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let expected = match words[..] {
        [] => Command::Nothing,
        ["help" | "?"] => Command::Help,
        ["stats"] => Command::Stats,
        ["devices"] => Command::Devices,
        ["shutdown"] => Command::Shutdown,
        ["panic"] => Command::Panic(Crash::Panic),
        ["panic", "stack"] => Command::Panic(Crash::Stack),
        ["panic", "heap"] => Command::Panic(Crash::Heap),
        ["log", word] => level(word.as_bytes()).map_or(Command::Unknown, Command::Log),
        _ => Command::Unknown,
    };
    assert_eq!(command::parse(&line), expected);
}

/// The whole description, as the driver domain reads it.
fn in_xenstore(source: &mut Source<'_>) {
    const ME: u16 = 5;
    let page = Rc::new(FakePage::new());
    let mut daemon = FakeXenstored::new(page.clone(), ME);
    let mut wrong = false;
    let guest = source.between(1, 0x7fef).to_string();
    for (path, value) in [
        (keys::VERSION, keys::VERSION_VALUE),
        (keys::TARGET, guest.as_str()),
        (keys::TARGET_TYPE, "hvm"),
        (keys::COMMIT, keys::COMMIT_VALUE),
    ] {
        if source.rarely() {
            wrong = true;
            if source.coin() {
                daemon.set(path, source.bytes(40));
            }
        } else {
            daemon.set(path, value.as_bytes());
        }
    }
    let mut rights = Vec::new();
    for number in 0..source.below(SLOTS + 3) {
        let device = worded(source);
        let name = if source.rarely() {
            let names = ["00", "32", "-1", "x", "255", "99999999999999999999"];
            source.pick(&names).to_owned()
        } else {
            number.to_string()
        };
        let slot = SlotIndex::parse(name.as_bytes());
        for (key, value) in &device.pairs {
            match std::str::from_utf8(key) {
                // What is no path would not be in xenstore.
                Ok(key) if vd_xenbus::wire::is_valid_path(key) => {
                    daemon.set(&format!("{}/{name}/{key}", keys::DEVICE), value);
                }
                _ => wrong = true,
            }
        }
        match (slot, device.right) {
            (Ok(slot), Some(right)) => rights.push((slot, right)),
            _ => wrong = true,
        }
    }
    let modules = rights
        .iter()
        .filter(|(_, right)| right.backend == Backend::Module);
    wrong |= modules.count() > 1 || rights.is_empty();
    let disks = rights
        .iter()
        .filter(|(_, right)| matches!(right.backend, Backend::Vbd(_)));
    let mut seen = Vec::new();
    for (_, right) in disks {
        wrong |= seen.contains(&right.backend);
        seen.push(right.backend);
    }
    let daemon = Rc::new(RefCell::new(daemon));
    let mut store = Xenstore::new(RingTransport::attach(page, FakeSignal::new(daemon)));
    let committed = description::is_committed(&mut store).expect("the daemon is well");
    assert!(committed || wrong);
    match description::read(&mut store) {
        Ok(description) => {
            assert!(!description.devices.is_empty());
            for (_, device) in description.devices.iter() {
                check_device(device);
            }
            if !wrong {
                assert_eq!(description.target.to_string(), guest);
                let mut found: Vec<_> = description
                    .devices
                    .iter()
                    .map(|(slot, device)| (slot, Right::of(device)))
                    .collect();
                found.sort_by_key(|(slot, _)| *slot);
                rights.sort_by_key(|(slot, _)| *slot);
                assert_eq!(found, rights);
            }
        }
        Err(error) => {
            assert!(wrong, "{error}");
            assert_message(&error);
        }
    }
}
