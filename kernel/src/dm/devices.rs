//! The devices of the guest: their registers, queues and interrupt lines, served from the main loop.
//!
//! Invariants: the work of a pass is bounded; a line follows its device's InterruptStatus before the access that
//! changed it is answered.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;
use core::ops::Range;

use vd_blk::{AsyncBlockDevice, BlockDevice, Geometry, RamDisk};
use vd_config::{Backend, DeviceDescription, Doorbell, Interrupt, SLOTS, SlotIndex};
use vd_ioreq::buffered::PostedWrite;
use vd_ioreq::rep::RegisterBus;
use vd_ioreq::{Access, Space, Width};
use vd_kernel_core::description::Description;
use vd_kernel_core::poll::{Next, Poller};
use vd_virtio::mmio::Placeholder;
use vd_virtio::{Chain, Features, MmioTransport};
use vd_xenbus::rate::{Admission, RateLimiter};
use xen_hypercall::{DomId, EvtchnPort, sched};

use super::bus::Bound;
use super::disk::{Disk, Storage};
use super::signal::{Signal, Wanted};
use super::slots;
use crate::counters;
use crate::mem::foreign::GuestRam;
use crate::mem::frames;
use crate::vbd::{self, Vbds};
use crate::xen::{XEN, events, time};

/// Most queues of a device.
const QUEUES: usize = vd_config::MAX_QUEUES as usize;
/// Requests that one device may have served before it is the next one's turn.
const BUDGET: u32 = 64;

/// One disk with its registers.
pub struct Device {
    transport: MmioTransport<Disk, QUEUES>,
    slot: SlotIndex,
    signal: Signal,
    doorbell: Doorbell,
    /// Guest-physical address of its registers.
    window: u64,
    /// The local ports of its queues' event doorbells.
    ports: Vec<EvtchnPort>,
    /// For a device that is polled.
    poller: Option<Poller>,
}

/// All devices, and what they need in common.
pub struct DeviceTable {
    guest: DomId,
    slots: [Option<Box<Device>>; SLOTS],
    scratch: Box<Chain>,
    /// Limits what a guest can make this domain log.
    limiter: RateLimiter,
}

/// Makes the disks of a description. `module` is what the toolstack loaded, `vbds` what other domains serve.
///
/// # Errors
/// What is wrong and what to do, for the operator.
pub fn build(
    guest: DomId,
    description: &Description,
    module: Option<&Range<u64>>,
    vbds: &Vbds,
) -> Result<DeviceTable, String> {
    let mut table = DeviceTable {
        guest,
        slots: [const { None }; SLOTS],
        scratch: Box::default(),
        limiter: RateLimiter::new(10, 1),
    };
    for (slot, device) in description.devices.iter() {
        let disk =
            disk(slot, device, module, vbds).map_err(|error| format!("device {slot}: {error}"))?;
        let withheld = if device.packed() {
            Features::empty()
        } else {
            Features::RING_PACKED
        };
        let transport = MmioTransport::new(disk, device.queue_size()).without(withheld);
        let transport = if device.doorbell() == Doorbell::Posted {
            transport.with_late_acks()
        } else {
            transport
        };
        let place = table.slots.get_mut(slot.index());
        if let Some(place) = place {
            *place = Some(Box::new(Device {
                transport,
                slot,
                signal: Signal::new(device.interrupt(description.target_type)),
                doorbell: device.doorbell(),
                window: device.window(slot),
                ports: Vec::new(),
                poller: (device.doorbell() == Doorbell::Polled).then(Poller::new),
            }));
        }
    }
    Ok(table)
}

fn disk(
    slot: SlotIndex,
    device: &DeviceDescription,
    module: Option<&Range<u64>>,
    vbds: &Vbds,
) -> Result<Disk, String> {
    let serial = device.serial().unwrap_or("").as_bytes();
    let storage = match device.backend() {
        Backend::Module => {
            let range = module.ok_or(
                "backend=module, but no module was loaded: set vdom_ramdisk in the guest's configuration, or ramdisk= in \
                 the driver domain's",
            )?;
            Storage::of_module(range)
        }
        Backend::Ram(size) => Storage::allocate(size.bytes()).map_err(|_| {
            format!(
                "a disk of {} MiB does not fit: {} MiB are free; raise memory= of the driver domain",
                size.bytes() >> 20,
                frames::free_bytes() >> 20
            )
        })?,
        Backend::Vbd(name) => {
            let disk = vbds.disk(slot);
            let disk = disk.ok_or_else(|| format!("disk {name} is not connected"))?;
            let room = disk.room();
            let device = AsyncBlockDevice::new(disk, serial, device.readonly(), room)
                .with_queues(device.queues());
            return Ok(Disk::Vbd(device));
        }
    };
    device
        .check_capacity(storage.len())
        .map_err(|error| error.to_string())?;
    let geometry = Geometry::of_blocks(device.block_size().bytes());
    let disk = BlockDevice::new(RamDisk::new(storage), geometry, serial, device.readonly());
    Ok(Disk::Ram(disk.with_queues(device.queues())))
}

impl DeviceTable {
    /// The devices that there are.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.slots.iter().flatten().map(|device| &**device)
    }

    /// Carries out one access and gives the answer.
    pub fn access(&mut self, ram: &GuestRam, access: Access) -> u64 {
        let mut bus = Bus { table: self, ram };
        match access {
            Access::Read { space, addr, width } => bus.read(space, addr, width),
            Access::Write {
                space,
                addr,
                width,
                value,
            } => {
                bus.write(space, addr, width, value);
                0
            }
            Access::Rep(rep) => rep.run(&mut bus, &mut &*ram).data,
            Access::Invalidate => {
                ram.unmap_all();
                0
            }
        }
    }

    /// Carries out a posted write.
    pub fn posted(&mut self, ram: &GuestRam, write: &PostedWrite) {
        let PostedWrite {
            space,
            addr,
            width,
            value,
        } = *write;
        Bus { table: self, ram }.write(space, addr, width, value);
    }

    /// Runs the queues that were kicked, a bounded number of requests each. Returns whether there is more to do.
    pub fn run(&mut self, ram: &GuestRam) -> bool {
        let (mut more, mut idle) = (false, false);
        let masked = vbd::new_pass();
        for index in 0..SLOTS {
            let Some(Some(device)) = self.slots.get_mut(index) else {
                continue;
            };
            slots::take_kicks(index, |queue, value| match value {
                Some(value) => {
                    device.transport.notify(value);
                }
                None => {
                    device.transport.kick(queue as u32, None);
                }
            });
            device.listen_again();
            if masked >> index & 1 != 0 {
                device.transport.device().listen_again();
            }
            let mut settle = device.poll_back_end();
            if device.transport.has_work() {
                let before = device.transport.counters().requests;
                device.transport.run(ram, BUDGET, &mut self.scratch);
                device.poll_back_end();
                match device.poll(before) {
                    Next::Yield => idle = true,
                    Next::Wait | Next::Look | Next::Arm => more |= device.transport.has_work(),
                }
                settle = true;
            }
            if settle {
                self.settle(index);
            }
        }
        if idle && !more {
            counters::add(&counters::YIELDS, 1);
            sched::yield_now(&XEN);
        }
        more || idle
    }

    /// The driver of a device has said how it wants to be interrupted, and how it kicks.
    pub fn connect(&mut self, slot: SlotIndex, bound: Bound) {
        if let Some(Some(device)) = self.slots.get_mut(slot.index()) {
            // Of a connection that did not come to pass something could be left.
            device.disconnect();
            device.signal.connect(bound.interrupt);
            device.ports = bound.doorbells;
            // What was asked for before.
            self.settle(slot.index());
        }
    }

    /// The driver of a device has gone.
    pub fn disconnect(&mut self, slot: SlotIndex) {
        if let Some(Some(device)) = self.slots.get_mut(slot.index()) {
            device.disconnect();
        }
    }

    /// Gives up what is bound to the guest's event channels.
    pub fn disconnect_all(&mut self) {
        for device in self.slots.iter_mut().flatten() {
            device.disconnect();
        }
    }

    /// Settles every device: what failed the last time is tried again.
    pub fn settle_all(&mut self) {
        for index in 0..SLOTS {
            self.settle(index);
        }
    }

    /// After anything that may have changed a device: its interrupt, and what has to be logged.
    fn settle(&mut self, index: usize) {
        let Some(Some(device)) = self.slots.get_mut(index) else {
            return;
        };
        let transport = &device.transport;
        let wanted = Wanted::new(transport.interrupt(), &transport.counters());
        if let Err((what, error)) = device.signal.update(self.guest, device.slot, wanted) {
            // Tried again with the next settling, at the latest with the next tick.
            let text = format_args!("device {}: {what}: {error}", device.slot);
            warn(&mut self.limiter, &text);
        }
        let slot = device.slot;
        if let Some(refusal) = device.transport.take_refusal() {
            warn(&mut self.limiter, &format_args!("device {slot}: {refusal}"));
        }
        if let Some(fault) = device.transport.take_fault() {
            let text = format_args!("device {slot}: driver fault, broken until reset: {fault}");
            warn(&mut self.limiter, &text);
        }
    }

    /// Logs something that the guest can cause.
    pub fn warn(&mut self, what: &dyn Display) {
        warn(&mut self.limiter, what);
    }
}

fn warn(limiter: &mut RateLimiter, what: &dyn Display) {
    if let Admission::Admitted { suppressed } = limiter.admit(time::now()) {
        log::warn!("{what}");
        if suppressed != 0 {
            log::warn!("{suppressed} more such lines were not logged");
        }
    }
}

impl Device {
    /// Lets event doorbells through that were held back.
    fn listen_again(&mut self) {
        if self.ports.is_empty() {
            return;
        }
        let masked = slots::take_masked(self.slot.index());
        for (queue, port) in self.ports.iter().enumerate() {
            if masked >> queue.min(63) & 1 != 0
                && let Err(error) = events::unmask(*port)
            {
                log::debug!("device {}: doorbell: {error}", self.slot);
            }
        }
    }

    /// Takes what a back end has finished. Returns whether the guest may have to be told.
    fn poll_back_end(&mut self) -> bool {
        let wake = self.transport.device_mut().poll();
        for queue in wake.queues.iter() {
            self.transport.wake(queue);
        }
        if wake.reconfigured {
            self.transport.reconfigure(|_| ());
        }
        wake.reconfigured
    }

    /// After a look at the queues of a polled device, which had served `before` requests: whether to look again.
    fn poll(&mut self, before: u64) -> Next {
        let Some(poller) = &mut self.poller else {
            return Next::Wait;
        };
        let found = self.transport.counters().requests != before;
        let next = poller.looked(found, time::now());
        self.transport.set_polling(poller.is_polling());
        next
    }

    fn disconnect(&mut self) {
        self.signal.disconnect().into_iter().for_each(events::close);
        self.ports.drain(..).for_each(events::close);
    }

    /// How it and its driver notify one another, in words.
    pub fn notifications(&self) -> String {
        let doorbell = self.doorbell.as_str();
        match self.signal.kind() {
            kind @ (Interrupt::Intx | Interrupt::Edge) => {
                format!(
                    "doorbell {doorbell}, interrupt {} GSI {}",
                    kind.as_str(),
                    self.slot.gsi()
                )
            }
            kind => format!("doorbell {doorbell}, interrupt {}", kind.as_str()),
        }
    }

    /// Guest-physical address of its registers.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// How it is kicked.
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell
    }

    /// The slot it is in.
    pub fn slot(&self) -> SlotIndex {
        self.slot
    }

    /// Its registers and queues.
    pub fn transport(&self) -> &MmioTransport<Disk, QUEUES> {
        &self.transport
    }

    /// Its counters, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let queue = self.transport.counters();
        let disk = self.transport.device().counters();
        let mut counters = [
            ("kicks", queue.kicks),
            ("stale-kicks", queue.stale_kicks),
            ("passes", queue.passes),
            ("requests", queue.requests),
            ("interrupts", queue.interrupts),
            ("config-interrupts", queue.config_interrupts),
            ("suppressed", queue.suppressed),
            ("bad-accesses", queue.bad_accesses),
            ("faults", queue.faults),
            ("resets", queue.resets),
            ("refusals", queue.refusals),
            ("reads", disk.reads),
            ("bytes-read", disk.bytes_read),
            ("writes", disk.writes),
            ("bytes-written", disk.bytes_written),
            ("flushes", disk.flushes),
            ("zeroings", disk.zeroings),
            ("others", disk.others),
            ("errors", disk.errors),
            ("payload", slots::payload(self.slot.index())),
        ]
        .to_vec();
        counters.extend(self.transport.device().connection_counters(self.slot));
        counters
    }
}

/// The guest's register accesses on their way to a device.
struct Bus<'a> {
    table: &'a mut DeviceTable,
    ram: &'a GuestRam,
}

/// Where an address leads.
enum Place {
    /// A register window, and the offset in it.
    Window(SlotIndex, u64),
    /// Between the windows, or a port.
    Nowhere,
}

fn place(space: Space, addr: u64) -> Place {
    let found = SlotIndex::at_address(addr).or_else(|| SlotIndex::at_posted_address(addr));
    match found {
        Some((slot, offset)) if space == Space::Memory => Place::Window(slot, offset),
        _ => Place::Nowhere,
    }
}

impl Bus<'_> {
    /// The device that has registers there.
    fn device(&mut self, slot: SlotIndex, addr: u64) -> Option<&mut Device> {
        let device = self.table.slots.get_mut(slot.index())?.as_mut()?;
        (addr & !0xfff == device.window).then_some(device)
    }
}

impl RegisterBus for Bus<'_> {
    fn read(&mut self, space: Space, addr: u64, width: Width) -> u64 {
        let Place::Window(slot, offset) = place(space, addr) else {
            return width.mask();
        };
        match self.device(slot, addr) {
            Some(device) => device.transport.read(offset, width.bytes()),
            None => Placeholder.read(offset, width.bytes()),
        }
    }

    fn write(&mut self, space: Space, addr: u64, width: Width, value: u64) {
        let Place::Window(slot, offset) = place(space, addr) else {
            return;
        };
        let ram = self.ram;
        if let Some(device) = self.device(slot, addr) {
            device.transport.write(ram, offset, width.bytes(), value);
            self.table.settle(slot.index());
        }
    }
}
