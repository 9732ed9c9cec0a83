//! The devices of the guest: their registers, queues and interrupt lines, served from the main loop.
//!
//! Invariants: the work of a pass is bounded; a line follows its device's InterruptStatus before the vCPU whose access
//! changed it runs again; whatever gives a device something to do marks it for the next pass, which looks at no other.

pub mod late;
mod succession;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Display;
use core::ops::Range;

use vd_blk::{AsyncBlockDevice, BlockDevice, Geometry, RamDisk};
use vd_config::slot::WINDOW_SIZE;
use vd_config::{
    Backend, ConfigError, DeviceDescription, DeviceType, Doorbell, Interrupt, MAX_QUEUES,
    Memory as Sharing, Reads, SLOTS, SlotIndex, TargetType,
};
use vd_console::{ConsoleDevice, Size};
use vd_ioreq::buffered::PostedWrite;
use vd_ioreq::rep::RegisterBus;
use vd_ioreq::{Access, Space, Width};
use vd_kernel_core::description::Description;
use vd_kernel_core::due::{self, Due, Turns};
use vd_kernel_core::granted::Rings;
use vd_kernel_core::poll::{Next, Poller};
use vd_kernel_core::server::attach::Bound;
use vd_kernel_core::server::shown::Face;
use vd_kernel_core::trace::{Trace, What};
use vd_net::{Mac, NetDevice, NetFeatures, PortConfig, Switch};
use vd_virtio::mmio::{MAX_WORDS, Placeholder};
use vd_virtio::{Chain, Features, MmioTransport};
use vd_xenbus::rate::{Admission, RateLimiter};
use xen_hypercall::{DomId, Errno, EvtchnPort, sched};

use super::disk::{Disk, Storage};
use super::entropy;
use super::inheritance::Inheritance;
use super::model::Model;
use super::signal::{self, Signal, Wanted};
use super::slots::{self, SERVER};
use crate::counters;
use crate::mem::frames;
use crate::mem::guest::{DeviceMemory, Memory, Needs};
use crate::pv::signals;
use crate::vbd::Vbds;
use crate::vif::{self, Vifs};
use crate::xen::events::Happened;
use crate::xen::{XEN, events, time};

/// Most queues of a device.
const QUEUES: usize = vd_config::MAX_VIRTQUEUES as usize;
/// Words for the heads of all queues of a device: enough for a disk with queues of any size.
const WORDS: usize = MAX_QUEUES as usize * MAX_WORDS;
/// Below it are the registers that say who a device is, which a driver reads first.
const IDENTITY_END: u64 = 0x10;
/// Requests that one device may have served before it is the next one's turn.
const BUDGET: u32 = 64;

/// Registers and queues of a device.
pub type Transport = MmioTransport<Model, QUEUES, WORDS>;

/// One device with its registers.
pub struct Device {
    transport: Transport,
    slot: SlotIndex,
    signal: Signal,
    /// If its registers may be in memory: what is.
    face: Option<Face>,
    doorbell: Doorbell,
    /// Guest-physical address of its registers.
    window: u64,
    /// If its driver grants memory: the rings that it has granted.
    rings: Option<Rings>,
    /// The local ports of its queues' event doorbells.
    ports: Vec<EvtchnPort>,
    /// For a device that is polled.
    poller: Option<Poller>,
    /// The network that it is on.
    network: Option<Backend>,
    /// There is nothing behind it any more, and its driver has not let it go.
    departed: bool,
}

/// Network devices that are joined.
struct Network {
    /// What they have behind them.
    backend: Backend,
    switch: Rc<RefCell<Switch>>,
    uplink: Option<vif::Shared>,
}

/// All devices, and what they need in common.
pub struct DeviceTable {
    /// What they did last, if the operator wants to know.
    trace: Trace,
    guest: DomId,
    slots: [Option<Box<Device>>; SLOTS],
    scratch: Box<Chain>,
    /// What joins the network devices.
    networks: Vec<Network>,
    /// Limits what a guest can make this domain log.
    limiter: RateLimiter,
    /// Those that the next pass has to look at.
    due: Due,
    /// The slots of network devices, as bits: what one does may be for another.
    ports: u64,
    /// An uplink has something to do.
    uplinks_due: bool,
    /// If no requests to disks of other domains are taken: how many were under way when that was looked at last.
    quiet: Option<u32>,
}

/// Makes the devices of a description. `module` is what the toolstack loaded, `inheritance` has what another driver
/// domain has stored, the rest is what other domains serve.
///
/// # Errors
/// What is wrong and what to do, for the operator.
pub fn build(
    guest: DomId,
    description: &Description,
    module: Option<&Range<u64>>,
    mut inheritance: Option<&mut Inheritance>,
    (vbds, vifs): (&Vbds, &Vifs),
) -> Result<DeviceTable, String> {
    let mut table = DeviceTable {
        trace: Trace::new(),
        guest,
        slots: [const { None }; SLOTS],
        scratch: Box::default(),
        networks: networks(vifs),
        limiter: RateLimiter::new(10, 1),
        due: Due::new(),
        ports: 0,
        uplinks_due: true,
        quiet: None,
    };
    let mut ring_pages = 0;
    for (slot, device) in description.devices.iter() {
        let rings = rings(device, &mut ring_pages);
        let sources = Sources {
            module,
            vbds,
            networks: &table.networks,
            storage: inheritance.as_mut().and_then(|it| it.take_disk(slot)),
        };
        let made = make(description.target_type, slot, device, sources, rings)
            .map_err(|error| format!("device {slot}: {error}"))?;
        table.place(made);
    }
    Ok(table)
}

/// What may be behind a device.
struct Sources<'a> {
    /// What the toolstack loaded.
    module: Option<&'a Range<u64>>,
    /// Disks that other domains serve.
    vbds: &'a Vbds,
    networks: &'a [Network],
    /// The memory of this very disk: prepared, or with what another driver domain has stored.
    storage: Option<Storage>,
}

/// Makes one device.
fn make(
    guest: TargetType,
    slot: SlotIndex,
    device: &DeviceDescription,
    sources: Sources<'_>,
    rings: Option<Rings>,
) -> Result<Box<Device>, String> {
    let model = match device.kind() {
        DeviceType::Blk => disk(slot, device, sources).map(|disk| Model::Disk(Box::new(disk))),
        DeviceType::Net => port(device, sources.networks).map(Model::Net),
        DeviceType::Rng => entropy::device(device).map(|rng| Model::Rng(Box::new(rng))),
        DeviceType::Console => {
            let names = device.ports().iter().cloned();
            Ok(Model::Console(Box::new(ConsoleDevice::new(names))))
        }
    }?;
    let mut withheld = Features::empty();
    withheld.set(Features::RING_PACKED, !device.packed());
    if !device.offloads() {
        withheld |= Features::from_bits_retain(NetFeatures::OFFLOADS.bits());
    }
    let in_memory = device.reads() == Reads::Memory;
    // A driver would wait for the end of such a reset in a register that is memory.
    withheld.set(Features::RING_RESET, in_memory);
    let transport = MmioTransport::new(model, device.queue_size()).without(withheld);
    let transport = if device.doorbell() == Doorbell::Posted {
        transport.with_late_acks()
    } else {
        transport
    };
    let transport = if rings.is_some() {
        let platform = Features::ACCESS_PLATFORM;
        transport.with(platform).requiring(platform)
    } else {
        transport
    };
    Ok(Box::new(Device {
        transport,
        slot,
        signal: Signal::new(device.interrupt(guest)),
        face: in_memory.then(Face::default),
        doorbell: device.doorbell(),
        window: device.window(slot),
        rings,
        ports: Vec::new(),
        poller: (device.doorbell() == Doorbell::Polled).then(Poller::new),
        network: (device.kind() == DeviceType::Net).then(|| device.backend()),
        departed: false,
    }))
}

/// The rings of a device whose driver grants memory, behind `pages` of other devices.
fn rings(device: &DeviceDescription, pages: &mut u32) -> Option<Rings> {
    (device.memory() == Sharing::Grants).then(|| {
        let (queues, size) = (device.virtqueues(), device.queue_size());
        let first = *pages;
        *pages += Rings::pages(queues, size);
        Rings::new(first, queues, size)
    })
}

fn disk(slot: SlotIndex, device: &DeviceDescription, sources: Sources<'_>) -> Result<Disk, String> {
    let Sources {
        module,
        vbds,
        storage,
        ..
    } = sources;
    let serial = device.serial().unwrap_or("").as_bytes();
    let storage = match device.backend() {
        Backend::Module => {
            let range = module.ok_or(
                "backend=module, but no module was loaded: set vdom_ramdisk in the guest's configuration, or ramdisk= in \
                 the driver domain's",
            )?;
            Storage::of_module(range)
        }
        Backend::Ram(size) => match storage {
            Some(storage) => storage,
            None => Storage::allocate(size.bytes()).map_err(|_| does_not_fit(size.bytes()))?,
        },
        Backend::Vbd(name) => {
            let disk = vbds.disk(slot);
            let disk = disk.ok_or_else(|| format!("disk {name} is not connected"))?;
            let room = disk.room();
            let device = AsyncBlockDevice::new(disk, serial, device.readonly(), room)
                .with_queues(device.queues());
            return Ok(Disk::Vbd(device));
        }
        Backend::Switch | Backend::Cpu | Backend::Console | Backend::Vif(_) => {
            return Err(ConfigError::BackendNotFor(device.kind()).to_string());
        }
    };
    device
        .check_capacity(storage.len())
        .map_err(|error| error.to_string())?;
    let geometry = Geometry::of_blocks(device.block_size().bytes());
    let disk = BlockDevice::new(RamDisk::new(storage), geometry, serial, device.readonly());
    Ok(Disk::Ram(disk.with_queues(device.queues())))
}

fn does_not_fit(bytes: u64) -> String {
    format!(
        "a disk of {} MiB does not fit: {} MiB are free; raise memory= of the driver domain",
        bytes >> 20,
        frames::free_bytes() >> 20
    )
}

/// One network without an uplink, and one for each interface that another domain serves.
fn networks(vifs: &Vifs) -> Vec<Network> {
    let alone = Network {
        backend: Backend::Switch,
        switch: Rc::default(),
        uplink: None,
    };
    let joined = vifs.iter().map(|uplink| Network {
        backend: Backend::Vif(uplink.vif()),
        switch: Rc::clone(uplink.switch()),
        uplink: Some(uplink.clone()),
    });
    core::iter::once(alone).chain(joined).collect()
}

fn port(device: &DeviceDescription, networks: &[Network]) -> Result<NetDevice, String> {
    let mut networks = networks.iter();
    let network = networks.find(|network| network.backend == device.backend());
    let network = network.ok_or("its network interface is not there")?;
    let mac = device.mac().ok_or("it has no address")?;
    let config = PortConfig {
        mac: Mac(mac.bytes()),
        mtu: device.mtu().bytes(),
        pairs: device.queues(),
    };
    let mut port = NetDevice::new(&network.switch, config).map_err(|error| error.to_string())?;
    // Until the uplink says otherwise.
    port.set_link(network.uplink.is_none());
    Ok(port)
}

impl DeviceTable {
    /// The devices that there are.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.slots.iter().flatten().map(|device| &**device)
    }

    /// What they need to get at the guest's memory.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for device in self.iter() {
            match &device.rings {
                None => needs.foreign = true,
                Some(rings) => needs.ring_pages = needs.ring_pages.max(rings.end()),
            }
            if let Model::Disk(disk) = device.transport.device() {
                needs.lasting.extend(disk.lasting());
            }
        }
        needs
    }

    /// The rings of all devices whose drivers grant them.
    pub fn rings(&self) -> impl Iterator<Item = &Rings> {
        self.iter().filter_map(|device| device.rings.as_ref())
    }

    /// What the devices did last, if that is recorded.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The same, to turn it on or off.
    pub fn trace_mut(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// Carries out one access, all but telling Xen of what it has changed: see [`DeviceTable::settle_after`].
    pub fn access(&mut self, memory: &Memory, access: Access) -> Done {
        let mut bus = Bus {
            table: self,
            memory,
            changed: None,
        };
        let data = match access {
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
            Access::Rep(rep) => rep.run(&mut bus, &mut &*memory).data,
            Access::Invalidate => {
                memory.unmap_foreign();
                0
            }
        };
        let changed = bus.changed;
        Done { data, changed }
    }

    /// Tells Xen what an access has changed, and wakes the vCPU that waits for it on this port. Its request has been
    /// answered, but Xen lets it run when the event is sent, which comes behind a change of the interrupt line.
    pub fn settle_after(&mut self, done: Done, waiting: Option<EvtchnPort>) {
        match done.changed {
            Some(slot) => self.settle_and_send(slot.index(), waiting),
            None => signal::wake(waiting),
        }
    }

    /// Carries out a posted write.
    pub fn posted(&mut self, memory: &Memory, write: &PostedWrite) {
        let PostedWrite {
            space,
            addr,
            width,
            value,
        } = *write;
        let mut bus = Bus {
            table: self,
            memory,
            changed: None,
        };
        bus.write(space, addr, width, value);
        if let Some(slot) = bus.changed {
            self.settle(slot.index());
        }
    }

    /// Puts a device into its slot.
    fn place(&mut self, device: Box<Device>) {
        let index = device.slot.index();
        if device.network.is_some() {
            self.ports |= 1 << index;
        }
        if let Some(place) = self.slots.get_mut(index) {
            *place = Some(device);
        }
        self.look_at_all();
    }

    /// The next pass looks at every device: something has happened that may concern any of them.
    pub fn look_at_all(&mut self) {
        self.due.mark_all();
        self.uplinks_due = true;
    }

    /// Runs the queues that were kicked, a bounded number of requests each. Returns whether there is more to do.
    pub fn run(&mut self, memory: &Memory) -> bool {
        let (mut more, mut idle, mut left) = (false, false, 0);
        let signals::Heard { rung, masked } = signals::new_pass();
        if self.quiet.is_some() {
            // What is left is counted.
            self.look_at_all();
        }
        let turns = self.due.take(slots::take_due() | rung);
        for index in turns {
            if self.quiet.is_some() && self.is_elsewhere(index) {
                left += self.drain(index, memory, masked);
                continue;
            }
            let Self { slots, trace, .. } = self;
            let Some(Some(device)) = slots.get_mut(index) else {
                continue;
            };
            slots::take_kicks(index, |queue, value| {
                match value {
                    Some(value) => device.transport.notify(value),
                    None => device.transport.kick(queue as u32, None),
                };
                let queue = queue as u16;
                trace.record(device.slot.get(), What::Kick { queue }, time::uptime);
            });
            device.listen_again();
            if masked >> index & 1 != 0 {
                device.transport.device().listen_again();
            }
            let mut settle = device.poll_back_end();
            if device.transport.has_work() {
                let before = device.transport.counters();
                let memory = memory.of(device.rings.as_ref());
                device.transport.run(&memory, BUDGET, &mut self.scratch);
                device.poll_back_end();
                let after = device.transport.counters();
                let ran = What::Ran {
                    requests: (after.requests - before.requests) as u32,
                    interrupts: (after.interrupts - before.interrupts) as u32,
                };
                trace.record(device.slot.get(), ran, time::uptime);
                let next = device.poll(before.requests);
                if device.transport.has_work() {
                    self.due.mark(index);
                    match next {
                        Next::Yield => idle = true,
                        Next::Wait | Next::Look | Next::Arm => more = true,
                    }
                }
                settle = true;
            }
            if settle {
                self.settle(index);
            }
        }
        self.quiet = self.quiet.map(|_| left);
        // What one port has left for another is for the next pass.
        let mut woken = turns.slots();
        let heard = rung & !due::ALL != 0;
        if heard || self.uplinks_due || woken & self.ports != 0 {
            woken |= self.ports;
            self.uplinks_due = self.run_uplinks(memory, masked);
            more |= self.uplinks_due;
        }
        more |= self.wake(woken) | self.wake_uplinks();
        if idle && !more {
            counters::add(&counters::YIELDS, 1);
            sched::yield_now(&XEN);
        }
        more || idle
    }

    /// Lets `f` do something with the console device in that slot, if there is one there: as its host.
    pub fn with_console<R>(
        &mut self,
        slot: SlotIndex,
        f: impl FnOnce(&mut ConsoleDevice) -> R,
    ) -> Option<R> {
        let device = self.slots.get_mut(slot.index())?.as_mut()?;
        if device.departed {
            return None;
        }
        let result = f(device.transport.device_mut().console_mut()?);
        if self.wake(1 << slot.index()) {
            events::mark(Happened::WORK);
        }
        Some(result)
    }

    /// Changes the size of a console.
    pub fn resize(&mut self, slot: SlotIndex, size: Size) {
        if let Some(Some(device)) = self.slots.get_mut(slot.index()) {
            device.transport.reconfigure(|model| {
                if let Some(console) = model.console_mut() {
                    console.set_size(size);
                }
            });
            if self.wake(1 << slot.index()) {
                events::mark(Happened::WORK);
            }
            self.settle(slot.index());
        }
    }

    /// Moves frames between uplinks and their switches, and tells devices of links that went up or down.
    fn run_uplinks(&mut self, memory: &Memory, masked: u64) -> bool {
        let mut more = false;
        for index in 0..self.networks.len() {
            let Some(Network {
                backend,
                uplink: Some(uplink),
                ..
            }) = self.networks.get(index)
            else {
                continue;
            };
            uplink.listen_again(masked);
            more |= uplink.run(&memory.of(None), BUDGET);
            if let Some(up) = uplink.take_change() {
                let backend = *backend;
                self.set_link(backend, up);
            }
        }
        more
    }

    /// The link of all devices on a network goes up or down.
    fn set_link(&mut self, backend: Backend, up: bool) {
        for index in 0..SLOTS {
            let Some(Some(device)) = self.slots.get_mut(index) else {
                continue;
            };
            if device.network == Some(backend) && !device.departed {
                device.transport.reconfigure(|model| model.set_link(up));
                self.settle(index);
            }
        }
    }

    /// The uplinks of its network devices.
    pub fn uplinks(&self) -> impl Iterator<Item = &vif::Shared> {
        self.networks
            .iter()
            .filter_map(|network| network.uplink.as_ref())
    }

    /// Of the devices in these slots wakes the queues for which others have left something. Returns whether there is such a one.
    fn wake(&mut self, slots: u64) -> bool {
        let mut woken = false;
        for index in Turns::of(slots) {
            if let Some(Some(device)) = self.slots.get_mut(index)
                && device.take_wakes()
            {
                self.due.mark(index);
                woken = true;
            }
        }
        woken
    }

    /// Whether a device has left something for an uplink.
    fn wake_uplinks(&mut self) -> bool {
        let due = self.ports != 0 && self.uplinks().any(vif::Shared::is_due);
        self.uplinks_due |= due;
        due
    }

    /// So many nanoseconds have passed, half a second or so. Returns whether there is something to do.
    pub fn tick(&mut self, nanoseconds: u64) -> bool {
        for network in &self.networks {
            network.switch.borrow_mut().tick();
        }
        let mut woken = self.wake(due::ALL) | self.wake_uplinks();
        for device in self.slots.iter_mut().flatten() {
            woken |= device.tick(nanoseconds, &mut self.limiter);
        }
        self.settle_all();
        self.look_at_all();
        woken
    }

    /// The driver of a device has said how it wants to be interrupted, and how it kicks.
    pub fn connect(&mut self, slot: SlotIndex, bound: Bound) {
        if let Some(Some(device)) = self.slots.get_mut(slot.index()) {
            // Of a connection that did not come to pass something could be left.
            device.disconnect();
            device.signal.connect(bound.interrupt);
            device.ports = bound.doorbells;
            // One of the doorbells could be held back.
            self.due.mark(slot.index());
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
    fn settle_all(&mut self) {
        for index in 0..SLOTS {
            self.settle(index);
        }
    }

    /// After anything that may have changed a device: its interrupt, and what has to be logged.
    fn settle(&mut self, index: usize) {
        self.settle_and_send(index, None);
    }

    /// The same, and sends this event behind it.
    fn settle_and_send(&mut self, index: usize, then: Option<EvtchnPort>) {
        let Some(Some(device)) = self.slots.get_mut(index) else {
            return signal::wake(then);
        };
        let shown = device.show();
        let is_stale = device.face.as_ref().is_some_and(Face::is_showing) && shown.is_err();
        let told = if is_stale {
            // What the driver reads may not be so: it is not told of anything yet.
            signal::wake(then);
            Ok(())
        } else {
            let transport = &device.transport;
            let wanted = Wanted::new(transport.interrupt(), &transport.counters());
            device.signal.update(self.guest, device.slot, wanted, then)
        };
        for (what, error) in [shown, told].into_iter().filter_map(Result::err) {
            // Tried again with the next settling, at the latest with the next tick.
            let text = format_args!("device {}: {what}: {error}", device.slot);
            warn(&mut self.limiter, &text);
        }
        let slot = device.slot;
        if let Some(refusal) = device.transport.take_refusal() {
            warn(&mut self.limiter, &format_args!("device {slot}: {refusal}"));
        }
        if let Some(fault) = device.transport.take_fault() {
            let whose = if fault.kind.is_drivers() {
                "driver fault"
            } else {
                "failure"
            };
            self.trace.record(slot.get(), What::Broken, time::uptime);
            let text = format_args!("device {slot}: {whose}, broken until reset: {fault}");
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
        slots::let_through(self.slot.index(), &self.ports);
    }

    /// Wakes the queues that have something to do without a kick. Returns whether there is something to do.
    fn take_wakes(&mut self) -> bool {
        let wakes = self.transport.device_mut().take_wakes();
        for queue in Turns::of(wakes.into()) {
            self.transport.wake(queue as u16);
        }
        wakes != 0 && self.transport.has_work()
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

    /// So much time has passed. Returns whether there is something to do.
    fn tick(&mut self, nanoseconds: u64, limiter: &mut RateLimiter) -> bool {
        let Some(rng) = self.transport.device_mut().rng_mut() else {
            return false;
        };
        let woken = rng.tick(nanoseconds);
        let slot = self.slot;
        match rng.take_news() {
            Some(Err(trouble)) => warn(
                limiter,
                &format_args!("device {slot}: {trouble}: no output"),
            ),
            Some(Ok(())) => warn(limiter, &format_args!("device {slot}: healthy again")),
            None => {}
        }
        if woken {
            self.transport.wake(0);
        }
        woken
    }

    /// Has the driver read its registers in memory, or not any longer.
    #[inline]
    fn show(&mut self) -> Result<(), (&'static str, Errno)> {
        let Some(face) = &mut self.face else {
            return Ok(());
        };
        // Nothing is read or written by what the driver may have said of its status.
        face.settle(
            &SERVER,
            self.slot,
            &mut self.transport,
            &DeviceMemory::Nothing,
        )
    }

    fn disconnect(&mut self) {
        self.signal.disconnect().into_iter().for_each(slots::close);
        self.ports.drain(..).for_each(slots::close);
    }

    /// How it and its driver share memory.
    pub fn sharing(&self) -> Sharing {
        match self.rings {
            Some(_) => Sharing::Grants,
            None => Sharing::Foreign,
        }
    }

    /// How it and its driver notify one another, in words.
    pub fn notifications(&self) -> String {
        let doorbell = self.doorbell.as_str();
        let reads = match self.reads() {
            Reads::Trapped => "",
            Reads::Memory => ", registers in memory",
        };
        match self.signal.kind() {
            kind @ (Interrupt::Intx | Interrupt::Edge) => {
                format!(
                    "doorbell {doorbell}, interrupt {} GSI {}{reads}",
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

    /// What it costs its driver to read registers.
    pub fn reads(&self) -> Reads {
        match self.face {
            Some(_) => Reads::Memory,
            None => Reads::Trapped,
        }
    }

    /// How it interrupts.
    pub fn interrupt(&self) -> Interrupt {
        self.signal.kind()
    }

    /// The slot it is in.
    pub fn slot(&self) -> SlotIndex {
        self.slot
    }

    /// Its registers and queues.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Its counters, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let queue = self.transport.counters();
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
            ("failures", queue.failures),
            ("resets", queue.resets),
            ("refusals", queue.refusals),
            ("payload", slots::payload(self.slot.index())),
        ]
        .to_vec();
        self.transport
            .device()
            .add_counters(self.slot, &mut counters);
        counters
    }
}

/// The guest's register accesses on their way to a device.
struct Bus<'a> {
    table: &'a mut DeviceTable,
    memory: &'a Memory,
    /// The device that was written to, of which Xen has not been told.
    changed: Option<SlotIndex>,
}

/// What an access came to.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The answer.
    pub data: u64,
    /// The device whose interrupt line may have changed.
    changed: Option<SlotIndex>,
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
        let window = device.window..device.window + WINDOW_SIZE;
        window.contains(&addr).then_some(device)
    }
}

impl RegisterBus for Bus<'_> {
    fn read(&mut self, space: Space, addr: u64, width: Width) -> u64 {
        let Place::Window(slot, offset) = place(space, addr) else {
            return width.mask();
        };
        let Some(device) = self.device(slot, addr) else {
            return Placeholder.read(offset, width.bytes());
        };
        let mut refused = Ok(());
        if offset < IDENTITY_END
            && let Some(face) = &mut device.face
        {
            refused = face.withhold(&SERVER, slot);
        }
        let answer = device.transport.read(offset, width.bytes());
        if let Err((what, error)) = refused {
            self.table
                .warn(&format_args!("device {slot}: {what}: {error}"));
        }
        let (offset, value) = (offset as u16, answer as u32);
        self.table
            .trace
            .record(slot.get(), What::Read { offset, value }, time::uptime);
        answer
    }

    fn write(&mut self, space: Space, addr: u64, width: Width, value: u64) {
        let Place::Window(slot, offset) = place(space, addr) else {
            return;
        };
        let memory = self.memory;
        if let Some(device) = self.device(slot, addr) {
            let memory = memory.of(device.rings.as_ref());
            device
                .transport
                .write(&memory, offset, width.bytes(), value);
            let (offset, value) = (offset as u16, value as u32);
            self.table.due.mark(slot.index());
            self.table
                .trace
                .record(slot.get(), What::Write { offset, value }, time::uptime);
            // A request may write to more devices than one.
            if let Some(before) = self.changed.replace(slot).filter(|before| *before != slot) {
                self.table.settle(before.index());
            }
        }
    }
}
