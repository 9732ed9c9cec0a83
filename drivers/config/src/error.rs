//! What can be wrong with a configuration: what it is, and what to do about it.
//!
//! Invariant: the text of an error is bounded and printable, whatever bytes caused it.

use core::fmt;

use crate::device::DeviceType;
use crate::keys::device as keys;
use crate::notify::{Doorbell, Interrupt};
use crate::slot::SlotIndex;
use crate::target::TargetType;
use crate::vbd::VirtualDisk;

/// The start of a text that was refused, made printable.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt {
    text: heapless::String<{ Excerpt::MAX }>,
    cut: bool,
}

impl Excerpt {
    /// How much of the text is kept.
    pub const MAX: usize = 32;

    /// Takes what is worth showing of `bytes`.
    #[cold]
    #[inline(never)]
    pub fn new(bytes: &[u8]) -> Self {
        let mut text = heapless::String::new();
        for byte in bytes.iter().take(Self::MAX) {
            let shown = if byte.is_ascii_graphic() || *byte == b' ' {
                char::from(*byte)
            } else {
                '?'
            };
            // It is ASCII and at most MAX, so that it fits.
            let _ = text.push(shown);
        }
        Self {
            text,
            cut: bytes.len() > Self::MAX,
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dots = if self.cut { "..." } else { "" };
        write!(f, "\"{}{dots}\"", self.text)
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is wrong with a configuration. The text says what to do as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// No slot has this number.
    BadSlot(Excerpt),
    /// The slot already has a device.
    SlotTaken(SlotIndex),
    /// All slots have devices.
    NoFreeSlot,
    /// Two devices want the one module.
    ModuleTaken(SlotIndex),
    /// Two devices want the same disk.
    DiskTaken(SlotIndex, VirtualDisk),
    /// A disk that has no such name.
    BadDisk(Excerpt),
    /// A block size for a disk that brings its own.
    BlockSizeOfDisk,
    /// Not the number of a network interface.
    BadInterface(Excerpt),
    /// An item of a device description is no `key=value`.
    NotKeyValue(Excerpt),
    /// A key that device descriptions do not have.
    UnknownKey(Excerpt),
    /// A key that occurs twice.
    DuplicateKey(&'static str),
    /// A key that every device needs.
    MissingKey(&'static str),
    /// A device type that is not known.
    BadType(Excerpt),
    /// A back end that is not known.
    BadBackend(Excerpt),
    /// A size that is no size.
    BadSize(Excerpt),
    /// A size that 64 bits do not hold.
    SizeTooLarge(Excerpt),
    /// A disk of no bytes, or not of whole blocks.
    NotWholeBlocks {
        /// The disk's size.
        bytes: u64,
        /// The block size.
        block: u32,
    },
    /// A serial number that is empty, too long or has other characters than allowed.
    BadSerial(Excerpt),
    /// A flag that is neither 0 nor 1.
    BadFlag(&'static str, Excerpt),
    /// A block size that is not 512 or 4096.
    BadBlockSize(Excerpt),
    /// A number of queues that no device can have.
    BadQueues(Excerpt),
    /// A queue size that no device can have.
    BadQueueSize(Excerpt),
    /// A text that is no station's Ethernet address.
    BadMac(Excerpt),
    /// An MTU that no device can have.
    BadMtu(Excerpt),
    /// Names that ports cannot have.
    BadPorts(Excerpt),
    /// More ports in console devices than a driver domain has room for.
    TooManyPorts,
    /// A number of random bytes a second that no device can have.
    BadRate(Excerpt),
    /// A key that devices of this type do not have.
    KeyNotFor(DeviceType, &'static str),
    /// A back end that devices of this type do not have.
    BackendNotFor(DeviceType),
    /// Two devices have one address.
    MacTaken(SlotIndex),
    /// A way to interrupt that is not known.
    BadInterrupt(Excerpt),
    /// A doorbell that is not known.
    BadDoorbell(Excerpt),
    /// A way to interrupt that a guest of this type cannot take.
    InterruptNotFor(TargetType, Interrupt),
    /// A doorbell that a guest of this type cannot ring.
    DoorbellNotFor(TargetType, Doorbell),
    /// A way to the guest's memory that is not known.
    BadMemory(Excerpt),
    /// Grants, and a guest whose driver does not learn that it has to make any.
    GrantsNotForHvm,
    /// Posted register writes, and a line that stays up until it is acknowledged.
    PostedNeedsEdge,
    /// An edge-triggered interrupt in a slot whose line can be another device's too.
    EdgeNeedsOwnLine(SlotIndex),
    /// Posted register writes, or registers in memory, in a slot that has no place for them.
    PostedNeedsPlace(SlotIndex),
    /// A way to read registers that is not known.
    BadRegisters(Excerpt),
    /// Registers in memory, and writes to them that wait.
    MemoryNeedsPosted,
    /// An agreement version that this program does not speak.
    BadVersion(Excerpt),
    /// A piece of memory that cannot be.
    BadPiece(Excerpt),
    /// A domain id that no guest can have.
    BadTarget(Excerpt),
    /// A kind of guest that cannot be served.
    BadTargetType(Excerpt),
    /// A driver domain's state that is not known.
    BadState(Excerpt),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadSlot(text) => write!(f, "slot {text} does not exist: use 0 to 31"),
            Self::SlotTaken(slot) => write!(
                f,
                "slot {slot} is given to two devices: give each its own, or leave out slot= to get the next free one"
            ),
            Self::NoFreeSlot => write!(f, "all 32 slots are taken: remove a device"),
            Self::ModuleTaken(slot) => write!(
                f,
                "slot {slot} already has backend=module, and a driver domain has one module: use backend=ram:SIZE"
            ),
            Self::DiskTaken(slot, disk) => write!(
                f,
                "slot {slot} already has backend=vbd:{disk}, and two caches over one disk would destroy what is on it: give each device a disk of its own"
            ),
            Self::BadDisk(text) => write!(
                f,
                "disk {text} is not known: use backend=vbd:DEV with the vdev of a disk that the driver domain is given, such as xvda, or with its number"
            ),
            Self::BadInterface(text) => write!(
                f,
                "network interface {text} is not known: use backend=vif:0 for the first one that the driver domain is given, backend=vif:1 for the second"
            ),
            Self::BlockSizeOfDisk => f.write_str(
                "block-size= does not go with backend=vbd: the disk's own back end says how large its blocks are; remove it",
            ),
            Self::NotKeyValue(text) => write!(
                f,
                "{text} is no key=value: separate items with single commas, as in \"slot=0,type=blk,backend=module\""
            ),
            Self::UnknownKey(text) => write!(
                f,
                "unknown key {text}: devices have slot, type, backend, serial, readonly, block-size, packed, queues, queue-size, mac, mtu, offloads, rate, interrupt, doorbell, registers, memory"
            ),
            Self::DuplicateKey(key) => write!(f, "{key}= is given twice: remove one"),
            Self::MissingKey(keys::MAC) => {
                write!(f, "mac= is missing: every network device needs one")
            }
            Self::MissingKey(key) => write!(f, "{key}= is missing: every device needs one"),
            Self::BadType(text) => write!(f, "device type {text} is not known: use type=blk, type=net, type=rng or type=console"),
            Self::BadBackend(text) => write!(
                f,
                "back end {text} is not known: use backend=module, backend=ram:SIZE or backend=vbd:DEV for disks, backend=switch or backend=vif:N for network devices, backend=cpu for entropy devices"
            ),
            Self::BadSize(text) => write!(
                f,
                "{text} is no size: use a decimal number of bytes, or one followed by K, M or G"
            ),
            Self::SizeTooLarge(text) => {
                write!(
                    f,
                    "size {text} is more than 64 bits hold: use a smaller one"
                )
            }
            Self::NotWholeBlocks { bytes, block } => write!(
                f,
                "a disk of {bytes} bytes does not consist of one or more whole blocks of {block} bytes: change its size"
            ),
            Self::BadSerial(text) => write!(
                f,
                "serial {text} does not fit: use 1 to 20 printable ASCII characters without spaces, commas and quotes"
            ),
            Self::BadFlag(key, text) => write!(f, "{key}={text} is no flag: use 0 or 1"),
            Self::BadBlockSize(text) => {
                write!(f, "block size {text} is not supported: use 512 or 4096")
            }
            Self::BadQueues(text) => write!(f, "a device cannot have {text} queues: use 1 to 4"),
            Self::BadQueueSize(text) => write!(
                f,
                "a queue cannot have {text} entries: use a power of two from 2 to 32768"
            ),
            Self::BadMac(text) => write!(
                f,
                "{text} is no station's address: use six bytes as in 00:16:3e:12:34:56, the first one even, not all zero"
            ),
            Self::BadMtu(text) => write!(f, "MTU {text} is not supported: use 1280 to 9216"),
            Self::BadRate(text) => write!(
                f,
                "a device cannot give {text} random bytes a second: use 1 to 1G"
            ),
            Self::KeyNotFor(kind, key) => {
                write!(f, "{key}= is not for type={}: remove it", kind.as_str())
            }
            Self::BackendNotFor(DeviceType::Blk) => write!(
                f,
                "a disk is neither on a switch nor in the CPU: use backend=module or backend=ram:SIZE"
            ),
            Self::BackendNotFor(DeviceType::Net) => {
                write!(f, "a network device has no storage: use backend=switch")
            }
            Self::BadPorts(text) => write!(
                f,
                "ports {text} are not allowed: one to three different names, separated by slashes, each of up to 32 letters, digits, dots, dashes and underscores, the first of them a letter"
            ),
            Self::TooManyPorts => f.write_str(
                "the console devices have more than 16 ports together, their consoles included",
            ),
            Self::BackendNotFor(DeviceType::Console) => {
                f.write_str("a console device needs backend=console, and nothing else has it")
            }
            Self::BackendNotFor(DeviceType::Rng) => {
                write!(f, "an entropy device has one back end: use backend=cpu")
            }
            Self::MacTaken(slot) => write!(
                f,
                "the device in slot {slot} has that address already: give each its own mac="
            ),
            Self::BadInterrupt(text) => write!(
                f,
                "interrupt {text} is not known: use intx or edge (HVM guests), msi or event-channel (PVH guests)"
            ),
            Self::BadDoorbell(text) => write!(
                f,
                "doorbell {text} is not known: use mmio, polled, posted (HVM guests), port or event-channel (PVH guests)"
            ),
            Self::BadMemory(text) => write!(
                f,
                "memory {text} is not known: use foreign, or grants (PVH guests)"
            ),
            Self::GrantsNotForHvm => f.write_str(
                "memory=grants is for PVH guests: the driver of a HVM guest finds its device by ACPI, which does not say whom to grant memory to; use foreign",
            ),
            Self::InterruptNotFor(TargetType::Hvm, path) => write!(
                f,
                "interrupt={} is for PVH guests: the driver of a HVM guest learns of its interrupt from ACPI; use intx or edge",
                path.as_str()
            ),
            Self::InterruptNotFor(TargetType::Pvh, path) => write!(
                f,
                "interrupt={} needs an I/O APIC, which PVH guests do not have: use event-channel or msi",
                path.as_str()
            ),
            Self::DoorbellNotFor(_, Doorbell::Posted) => f.write_str(
                "doorbell=posted is for HVM guests: Xen posts no writes of PVH guests; use mmio, port, event-channel or polled",
            ),
            Self::PostedNeedsEdge => f.write_str(
                "doorbell=posted goes with interrupt=edge: acknowledgements are posted too, and come too late for a line that stays up",
            ),
            Self::EdgeNeedsOwnLine(slot) => write!(
                f,
                "interrupt=edge is for slots 0 to 15, and this is slot {slot}, whose line can be a PCI device's too: give the device one of those with slot=, or use interrupt=intx"
            ),
            Self::PostedNeedsPlace(slot) => write!(
                f,
                "doorbell=posted and registers=memory are for slots 0 to 15, and this is slot {slot}: where Xen posts writes is room for those only; give the device one of them with slot=, or use doorbell=mmio"
            ),
            Self::BadRegisters(text) => write!(
                f,
                "registers {text} are not known: use trapped, or memory (HVM guests, with doorbell=posted)"
            ),
            Self::MemoryNeedsPosted => f.write_str(
                "registers=memory goes with doorbell=posted only: it is for HVM guests with vga=\"none\"",
            ),
            Self::DoorbellNotFor(guest, doorbell) => write!(
                f,
                "doorbell={} cannot be announced to a guest of type {}: use mmio, polled or posted",
                doorbell.as_str(),
                guest.as_str()
            ),
            Self::BadPiece(text) => write!(
                f,
                "{text} is no piece of memory: use vdom and driver domain image of one release"
            ),
            Self::BadVersion(text) => write!(
                f,
                "version {text} of the device description is not known: use vdom and driver domain image of one release"
            ),
            Self::BadTarget(text) => {
                write!(f, "{text} is no guest's domain id: it must be 1 to 32751")
            }
            Self::BadTargetType(text) => write!(
                f,
                "a guest of type {text} cannot be served: use type hvm or pvh"
            ),
            Self::BadState(text) => write!(
                f,
                "the driver domain's state {text} is not known: use vdom and driver domain image of one release"
            ),
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_printable() {
        let shown = Excerpt::new(&[b'a'; 5000]).to_string();
        assert_eq!(shown.len(), Excerpt::MAX + 5);
        assert!(shown.ends_with("...\""));
        assert_eq!(Excerpt::new(b"\x1b[2J\xff\0\n").to_string(), "\"?[2J???\"");
        assert_eq!(Excerpt::new(b"").to_string(), "\"\"");
    }
}
