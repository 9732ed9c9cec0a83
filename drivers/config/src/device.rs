//! One device: what it is and what is behind it, as text and as xenstore pairs.
//!
//! Invariant: a [`DeviceDescription`] that exists is usable (known type, serial that fits, size in whole blocks), and
//! both forms give back the same description when parsed.

use core::fmt;

use crate::console::PortNames;
use crate::error::{ConfigError, Excerpt};
use crate::keys::device as key;
use crate::net::{MacAddress, Mtu};
use crate::notify::{Doorbell, Interrupt, Memory, Reads};
use crate::number::canonical;
use crate::size::ByteSize;
use crate::slot::SlotIndex;
use crate::table::Declared;
use crate::target::TargetType;
use crate::vbd::VirtualDisk;
use crate::vif::VirtualInterface;

/// Kinds of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceType {
    /// Block device (virtio device ID 2).
    #[default]
    Blk,
    /// Network device (virtio device ID 1).
    Net,
    /// Entropy device (virtio device ID 4).
    Rng,
    /// Console device (virtio device ID 3).
    Console,
}

impl DeviceType {
    /// Whether Linux's driver reads a register between a reset and giving memory back that the device may still write to.
    /// That read is what waits for a reset that is posted. virtio_net and virtio_console give their buffers back first.
    pub const fn waits_for_reset(self) -> bool {
        matches!(self, DeviceType::Blk | DeviceType::Rng)
    }

    /// The text in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeviceType::Blk => "blk",
            DeviceType::Net => "net",
            DeviceType::Rng => "rng",
            DeviceType::Console => "console",
        }
    }

    /// The virtio device ID.
    pub const fn virtio_id(self) -> u32 {
        match self {
            DeviceType::Net => 1,
            DeviceType::Blk => 2,
            DeviceType::Console => 3,
            DeviceType::Rng => 4,
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        match text {
            b"blk" => Ok(DeviceType::Blk),
            b"net" => Ok(DeviceType::Net),
            b"rng" => Ok(DeviceType::Rng),
            b"console" => Ok(DeviceType::Console),
            _ => Err(ConfigError::BadType(Excerpt::new(text))),
        }
    }
}

/// What is behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The module that the driver domain was booted with (`ramdisk=` in its configuration).
    Module,
    /// Memory of the driver domain, all zeroes at the start.
    Ram(ByteSize),
    /// The switch that joins the network devices of the driver domain.
    Switch,
    /// The CPU's random number generator.
    Cpu,
    /// The driver domain's own PV console, by which dom0 gets at the device's ports.
    Console,
    /// A disk of the driver domain (`disk=` in its configuration), which another domain serves.
    Vbd(VirtualDisk),
    /// A switch whose uplink is a network interface of the driver domain (`vif=` in its configuration), which another
    /// domain serves.
    Vif(VirtualInterface),
}

impl Backend {
    fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        match text {
            b"module" => Ok(Backend::Module),
            b"switch" => Ok(Backend::Switch),
            b"cpu" => Ok(Backend::Cpu),
            b"console" => Ok(Backend::Console),
            [b'r', b'a', b'm', b':', size @ ..] => ByteSize::parse(size).map(Backend::Ram),
            [b'v', b'b', b'd', b':', disk @ ..] => VirtualDisk::parse(disk).map(Backend::Vbd),
            [b'v', b'i', b'f', b':', vif @ ..] => VirtualInterface::parse(vif).map(Backend::Vif),
            _ => Err(ConfigError::BadBackend(Excerpt::new(text))),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Module => f.write_str("module"),
            Backend::Ram(size) => write!(f, "ram:{size}"),
            Backend::Switch => f.write_str("switch"),
            Backend::Cpu => f.write_str("cpu"),
            Backend::Console => f.write_str("console"),
            Backend::Vbd(disk) => write!(f, "vbd:{disk}"),
            Backend::Vif(vif) => write!(f, "vif:{vif}"),
        }
    }
}

/// Logical block size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockSize {
    /// 512 bytes.
    #[default]
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The number of bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            BlockSize::B512 => 512,
            BlockSize::B4096 => 4096,
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        match text {
            b"512" => Ok(BlockSize::B512),
            b"4096" => Ok(BlockSize::B4096),
            _ => Err(ConfigError::BadBlockSize(Excerpt::new(text))),
        }
    }
}

/// Serial number: 1 to 20 printable ASCII characters other than space, comma and quotes, so that it needs no quoting anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial(heapless::String<{ Serial::MAX }>);

impl Serial {
    /// `VIRTIO_BLK_ID_BYTES`.
    pub const MAX: usize = 20;

    /// Checks and takes a serial number.
    pub fn new(text: &[u8]) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::BadSerial(Excerpt::new(text));
        let allowed = |byte: &u8| byte.is_ascii_graphic() && !b",'\"".contains(byte);
        if text.is_empty() || !text.iter().all(allowed) {
            return Err(refuse());
        }
        let text = core::str::from_utf8(text).map_err(|_| refuse())?;
        heapless::String::try_from(text)
            .map(Self)
            .map_err(|_| refuse())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Most queues of a device; of a network device, most pairs of them.
pub const MAX_QUEUES: u16 = 4;
/// Most virtqueues of a device: a network device has two for each of its queues, and one for commands; a console device two
/// for each of four ports, and two for control.
pub const MAX_VIRTQUEUES: u16 = 10;

/// How many queues a device has: 1 to [`MAX_QUEUES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues(u16);

impl Queues {
    /// Checks and takes a number.
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 || number > MAX_QUEUES {
            None
        } else {
            Some(Self(number))
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        canonical(text)
            .and_then(Self::new)
            .ok_or_else(|| ConfigError::BadQueues(Excerpt::new(text)))
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self(1)
    }
}

/// Most entries of a queue: a power of two, 2 to 32768. Drivers may use fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

impl QueueSize {
    /// Checks and takes a number.
    pub const fn new(number: u16) -> Option<Self> {
        if number < 2 || !number.is_power_of_two() {
            None
        } else {
            Some(Self(number))
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        canonical(text)
            .and_then(Self::new)
            .ok_or_else(|| ConfigError::BadQueueSize(Excerpt::new(text)))
    }
}

impl Default for QueueSize {
    fn default() -> Self {
        Self(256)
    }
}

/// Most random bytes a second that an entropy device gives: 1 to 2^30.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u32);

impl Rate {
    /// Checks and takes a number.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes == 0 || bytes > 1 << 30 {
            None
        } else {
            Some(Self(bytes))
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        u32::try_from(ByteSize::parse(text)?.bytes())
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| ConfigError::BadRate(Excerpt::new(text)))
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self(1 << 16)
    }
}

/// A device, apart from the slot it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDescription {
    kind: DeviceType,
    backend: Backend,
    serial: Option<Serial>,
    readonly: bool,
    block_size: BlockSize,
    packed: bool,
    queues: Queues,
    queue_size: QueueSize,
    mac: Option<MacAddress>,
    mtu: Mtu,
    offloads: bool,
    rate: Rate,
    ports: PortNames,
    interrupt: Option<Interrupt>,
    doorbell: Option<Doorbell>,
    reads: Reads,
    memory: Memory,
}

impl DeviceDescription {
    /// Parses a configuration string, such as `slot=0,type=blk,backend=ram:64M,serial=X`. Without `slot=` the slot is
    /// left to the caller.
    pub fn parse(text: &[u8]) -> Result<(Option<SlotIndex>, Self), ConfigError> {
        let mut fields = Fields::default();
        let mut slot = None;
        for item in text.split(|byte| *byte == b',') {
            let item = item.trim_ascii();
            let (name, value) = split_pair(item)?;
            if name == key::SLOT.as_bytes() {
                set(&mut slot, key::SLOT, SlotIndex::parse(value))?;
            } else {
                fields.take(name, value)?;
            }
        }
        Ok((slot, fields.finish()?))
    }

    /// Reads the pairs that a device's directory in xenstore has.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, ConfigError> {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.take(name, value)?;
        }
        fields.finish()
    }

    /// Gives `write` each pair for the device's directory in xenstore.
    pub fn write_pairs<E>(
        &self,
        mut write: impl FnMut(&'static str, fmt::Arguments<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        write(key::TYPE, format_args!("{}", self.kind.as_str()))?;
        write(key::BACKEND, format_args!("{}", self.backend))?;
        if let Some(serial) = &self.serial {
            write(key::SERIAL, format_args!("{}", serial.as_str()))?;
        }
        match self.kind {
            DeviceType::Blk => {
                write(key::READONLY, format_args!("{}", u8::from(self.readonly)))?;
                if !matches!(self.backend, Backend::Vbd(_)) {
                    write(key::BLOCK_SIZE, format_args!("{}", self.block_size.bytes()))?;
                }
            }
            DeviceType::Net => {
                write(key::MTU, format_args!("{}", self.mtu.bytes()))?;
                write(key::OFFLOADS, format_args!("{}", u8::from(self.offloads)))?;
            }
            DeviceType::Rng => {
                let rate = ByteSize(self.rate.0.into());
                write(key::RATE, format_args!("{rate}"))?;
            }
            DeviceType::Console => {
                if !self.ports.is_empty() {
                    write(key::PORTS, format_args!("{}", self.ports))?;
                }
            }
        }
        if let Some(mac) = self.mac {
            write(key::MAC, format_args!("{mac}"))?;
        }
        write(key::PACKED, format_args!("{}", u8::from(self.packed)))?;
        if matches!(self.kind, DeviceType::Blk | DeviceType::Net) {
            write(key::QUEUES, format_args!("{}", self.queues.0))?;
        }
        write(key::QUEUE_SIZE, format_args!("{}", self.queue_size.0))?;
        if let Some(interrupt) = self.interrupt {
            write(key::INTERRUPT, format_args!("{}", interrupt.as_str()))?;
        }
        if let Some(doorbell) = self.doorbell {
            write(key::DOORBELL, format_args!("{}", doorbell.as_str()))?;
        }
        if self.reads != Reads::default() {
            write(key::REGISTERS, format_args!("{}", self.reads.as_str()))?;
        }
        if self.memory != Memory::default() {
            write(key::MEMORY, format_args!("{}", self.memory.as_str()))?;
        }
        Ok(())
    }

    /// The kind of device.
    pub const fn kind(&self) -> DeviceType {
        self.kind
    }

    /// What is behind it.
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// The serial number, if it has one.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_ref().map(Serial::as_str)
    }

    /// Whether writes are refused.
    pub const fn readonly(&self) -> bool {
        self.readonly
    }

    /// Whether packed rings are offered to the driver, which may still choose split ones. By default those of a disk that
    /// another domain serves are not: its requests end in any order, and a split ring alone keeps those under way, so that
    /// another driver domain can do them again if this one crashes.
    pub const fn packed(&self) -> bool {
        self.packed
    }

    /// How many virtqueues it has.
    pub fn virtqueues(&self) -> u16 {
        match self.kind {
            DeviceType::Blk => self.queues.0,
            DeviceType::Net => self.queues.0.saturating_mul(2).saturating_add(1),
            DeviceType::Rng => 1,
            DeviceType::Console => {
                // The console's two and the two for control, which are there for one port too.
                let named = u16::try_from(self.ports.len()).unwrap_or(u16::MAX);
                named.saturating_mul(2).saturating_add(4)
            }
        }
    }

    /// The Ethernet address, which every network device has.
    pub const fn mac(&self) -> Option<MacAddress> {
        self.mac
    }

    /// Most bytes of a frame behind its Ethernet header.
    pub const fn mtu(&self) -> Mtu {
        self.mtu
    }

    /// Whether checksums and segmentation may be left to the other side.
    pub const fn offloads(&self) -> bool {
        self.offloads
    }

    /// Most random bytes a second.
    pub const fn rate(&self) -> u32 {
        self.rate.0
    }

    /// The names of a console device's ports beside the console.
    pub const fn ports(&self) -> &PortNames {
        &self.ports
    }

    /// How many queues it has; of a network device, how many pairs.
    pub const fn queues(&self) -> u16 {
        self.queues.0
    }

    /// Most entries of each queue.
    pub const fn queue_size(&self) -> u16 {
        self.queue_size.0
    }

    /// The logical block size, unless the disk's own back end says it.
    pub const fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// How it interrupts a guest of this type.
    pub fn interrupt(&self, guest: TargetType) -> Interrupt {
        let default = if self.doorbell() == Doorbell::Posted {
            Interrupt::Edge
        } else {
            Interrupt::default_for(guest)
        };
        self.interrupt.unwrap_or(default)
    }

    /// How it is kicked.
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.unwrap_or_default()
    }

    /// Has the writes of its registers posted, if the description leaves that open: for an HVM guest without a VGA card.
    pub fn prefer_posted(&mut self) {
        let edge = matches!(self.interrupt, None | Some(Interrupt::Edge));
        if edge && self.doorbell.is_none() && self.memory == Memory::Foreign {
            self.doorbell = Some(Doorbell::Posted);
        }
    }

    /// Has it notify as its slot is declared to an HVM guest, as far as the description leaves that open.
    pub fn fit(&mut self, declared: Declared) {
        match declared {
            Declared::Absent | Declared::Level => {}
            Declared::Edge if self.doorbell() == Doorbell::Posted => {}
            Declared::Edge => drop(self.interrupt.get_or_insert(Interrupt::Edge)),
            Declared::Posted => self.prefer_posted(),
        }
    }

    /// What it costs its driver to read registers.
    pub const fn reads(&self) -> Reads {
        self.reads
    }

    /// How it gets at the driver's memory.
    pub const fn memory(&self) -> Memory {
        self.memory
    }

    /// Guest-physical address of its registers, when it is in `slot`.
    pub fn window(&self, slot: SlotIndex) -> u64 {
        match self.doorbell() {
            Doorbell::Posted => slot.posted_base(),
            _ => slot.base(),
        }
    }

    /// Checks that a guest of this type and this device can notify one another, and share memory.
    pub fn check_guest(&self, guest: TargetType) -> Result<(), ConfigError> {
        let posted = self.doorbell() == Doorbell::Posted;
        if posted && self.interrupt(guest) == Interrupt::Intx {
            return Err(ConfigError::PostedNeedsEdge);
        }
        if self.reads == Reads::Memory && !posted {
            return Err(ConfigError::MemoryNeedsPosted);
        }
        self.interrupt(guest).check(guest)?;
        self.doorbell().check(guest)?;
        self.memory.check(guest)
    }

    /// Checks that it can be in that slot of a guest of this type, and that they can notify one another there, and share
    /// memory.
    pub fn check_place(&self, guest: TargetType, slot: SlotIndex) -> Result<(), ConfigError> {
        self.check_guest(guest)?;
        if slot.has_own_line() {
            Ok(())
        } else if self.doorbell() == Doorbell::Posted {
            Err(ConfigError::PostedNeedsPlace(slot))
        } else if self.interrupt(guest) == Interrupt::Edge {
            Err(ConfigError::EdgeNeedsOwnLine(slot))
        } else {
            Ok(())
        }
    }

    /// Checks that a disk of that many bytes (the module's, say) consists of whole blocks of this device.
    pub fn check_capacity(&self, bytes: u64) -> Result<(), ConfigError> {
        let block = self.block_size.bytes();
        if bytes == 0 || bytes.checked_rem(u64::from(block)) != Some(0) {
            return Err(ConfigError::NotWholeBlocks { bytes, block });
        }
        Ok(())
    }
}

impl fmt::Display for DeviceDescription {
    /// Writes a configuration string without `slot=`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        self.write_pairs(|name, value| {
            write!(f, "{comma}{name}={value}")?;
            comma = ",";
            Ok(())
        })
    }
}

/// What has been seen so far.
#[derive(Default)]
struct Fields {
    kind: Option<DeviceType>,
    backend: Option<Backend>,
    serial: Option<Serial>,
    readonly: Option<bool>,
    block_size: Option<BlockSize>,
    packed: Option<bool>,
    queues: Option<Queues>,
    queue_size: Option<QueueSize>,
    mac: Option<MacAddress>,
    mtu: Option<Mtu>,
    offloads: Option<bool>,
    rate: Option<Rate>,
    ports: Option<PortNames>,
    interrupt: Option<Interrupt>,
    doorbell: Option<Doorbell>,
    reads: Option<Reads>,
    memory: Option<Memory>,
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), ConfigError> {
        match name {
            b"type" => set(&mut self.kind, key::TYPE, DeviceType::parse(value)),
            b"backend" => set(&mut self.backend, key::BACKEND, Backend::parse(value)),
            b"serial" => set(&mut self.serial, key::SERIAL, Serial::new(value)),
            b"readonly" => set(
                &mut self.readonly,
                key::READONLY,
                parse_flag(key::READONLY, value),
            ),
            b"block-size" => set(
                &mut self.block_size,
                key::BLOCK_SIZE,
                BlockSize::parse(value),
            ),
            b"packed" => set(
                &mut self.packed,
                key::PACKED,
                parse_flag(key::PACKED, value),
            ),
            b"queues" => set(&mut self.queues, key::QUEUES, Queues::parse(value)),
            b"queue-size" => set(
                &mut self.queue_size,
                key::QUEUE_SIZE,
                QueueSize::parse(value),
            ),
            b"mac" => set(&mut self.mac, key::MAC, MacAddress::parse(value)),
            b"mtu" => set(&mut self.mtu, key::MTU, Mtu::parse(value)),
            b"offloads" => set(
                &mut self.offloads,
                key::OFFLOADS,
                parse_flag(key::OFFLOADS, value),
            ),
            b"rate" => set(&mut self.rate, key::RATE, Rate::parse(value)),
            b"ports" => set(&mut self.ports, key::PORTS, PortNames::parse(value)),
            b"interrupt" => set(&mut self.interrupt, key::INTERRUPT, Interrupt::parse(value)),
            b"doorbell" => set(&mut self.doorbell, key::DOORBELL, Doorbell::parse(value)),
            b"registers" => set(&mut self.reads, key::REGISTERS, Reads::parse(value)),
            b"memory" => set(&mut self.memory, key::MEMORY, Memory::parse(value)),
            _ => Err(ConfigError::UnknownKey(Excerpt::new(name))),
        }
    }

    /// Refuses what belongs to devices of another type.
    fn check_type(&self, kind: DeviceType, backend: Backend) -> Result<(), ConfigError> {
        let disks = [
            (self.serial.is_some(), key::SERIAL),
            (self.readonly.is_some(), key::READONLY),
            (self.block_size.is_some(), key::BLOCK_SIZE),
        ];
        let networks = [
            (self.mac.is_some(), key::MAC),
            (self.mtu.is_some(), key::MTU),
            (self.offloads.is_some(), key::OFFLOADS),
        ];
        let entropy = [(self.rate.is_some(), key::RATE)];
        let consoles = [(self.ports.is_some(), key::PORTS)];
        let queues = [(self.queues.is_some(), key::QUEUES)];
        let others: [&[(bool, &'static str)]; 4] = match kind {
            DeviceType::Blk => [&networks, &entropy, &consoles, &[]],
            DeviceType::Net => [
                &disks,
                &entropy,
                &consoles,
                // A frame goes from one device's memory to another's, in one copy.
                &[(self.memory == Some(Memory::Grants), key::MEMORY)],
            ],
            DeviceType::Rng => [&disks, &networks, &consoles, &queues],
            DeviceType::Console => [&disks, &networks, &entropy, &queues],
        };
        let given = others.into_iter().flatten().find(|(given, _)| *given);
        if let Some((_, key)) = given {
            return Err(ConfigError::KeyNotFor(kind, key));
        }
        let needed = match backend {
            Backend::Module | Backend::Ram(_) | Backend::Vbd(_) => DeviceType::Blk,
            Backend::Switch | Backend::Vif(_) => DeviceType::Net,
            Backend::Cpu => DeviceType::Rng,
            Backend::Console => DeviceType::Console,
        };
        if kind != needed {
            return Err(ConfigError::BackendNotFor(kind));
        }
        if kind == DeviceType::Net && self.mac.is_none() {
            return Err(ConfigError::MissingKey(key::MAC));
        }
        Ok(())
    }

    fn finish(self) -> Result<DeviceDescription, ConfigError> {
        let kind = self.kind.ok_or(ConfigError::MissingKey(key::TYPE))?;
        let backend = self.backend.ok_or(ConfigError::MissingKey(key::BACKEND))?;
        self.check_type(kind, backend)?;
        let reads = self.reads.unwrap_or_default();
        let posted = (reads == Reads::Memory).then_some(Doorbell::Posted);
        let device = DeviceDescription {
            kind,
            backend,
            serial: self.serial,
            readonly: self.readonly.unwrap_or_default(),
            block_size: self.block_size.unwrap_or_default(),
            packed: self.packed.unwrap_or(!matches!(backend, Backend::Vbd(_))),
            queues: self.queues.unwrap_or_default(),
            queue_size: self.queue_size.unwrap_or_default(),
            mac: self.mac,
            mtu: self.mtu.unwrap_or_default(),
            offloads: self.offloads.unwrap_or(true),
            rate: self.rate.unwrap_or_default(),
            ports: self.ports.unwrap_or_default(),
            interrupt: self.interrupt,
            // Registers in memory go with no other.
            doorbell: self.doorbell.or(posted),
            reads,
            memory: self.memory.unwrap_or_default(),
        };
        match device.backend {
            Backend::Ram(size) => device.check_capacity(size.bytes())?,
            Backend::Vbd(_) if self.block_size.is_some() => {
                return Err(ConfigError::BlockSizeOfDisk);
            }
            Backend::Vbd(_)
            | Backend::Module
            | Backend::Switch
            | Backend::Cpu
            | Backend::Console
            | Backend::Vif(_) => {}
        }
        Ok(device)
    }
}

#[inline(never)]
fn set<T>(
    field: &mut Option<T>,
    name: &'static str,
    value: Result<T, ConfigError>,
) -> Result<(), ConfigError> {
    match field.replace(value?) {
        None => Ok(()),
        Some(_) => Err(ConfigError::DuplicateKey(name)),
    }
}

fn split_pair(item: &[u8]) -> Result<(&[u8], &[u8]), ConfigError> {
    let refuse = || ConfigError::NotKeyValue(Excerpt::new(item));
    let at = item
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or_else(refuse)?;
    let (name, rest) = item.split_at_checked(at).ok_or_else(refuse)?;
    let value = rest.strip_prefix(b"=").ok_or_else(refuse)?;
    Ok((name.trim_ascii(), value.trim_ascii()))
}

fn parse_flag(key: &'static str, text: &[u8]) -> Result<bool, ConfigError> {
    match text {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(ConfigError::BadFlag(key, Excerpt::new(text))),
    }
}

#[cfg(test)]
mod tests;
