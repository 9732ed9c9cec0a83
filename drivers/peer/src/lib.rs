//! For tests: what an independent driver, the crate `virtio-drivers`, stands on: guest memory and a device's registers.
//!
//! It runs on the host only, and panics at whatever a test should not do.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use vd_virtio::{Chain, Device, Gpa, GuestMemory, MemError, MmioTransport};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE, PhysAddr};

/// Where the arena is in guest-physical memory: not at 0, so that a missing offset is noticed.
const BASE: u64 = 0x10_0000;
const PAGES: usize = 1024;

#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Page([u8; PAGE_SIZE]);

/// The guest's memory. Driver and device reach it through raw pointers, in one thread at a time.
struct Arena {
    pages: *mut Page,
    used: Vec<bool>,
}

// SAFETY: the mutex around it is the only way in.
unsafe impl Send for Arena {}

static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

fn arena<R>(f: impl FnOnce(&mut Arena) -> R) -> R {
    let mut guard = ARENA.lock().unwrap();
    f(guard.get_or_insert_with(|| Arena {
        pages: Box::leak(vec![Page([0; PAGE_SIZE]); PAGES].into_boxed_slice()).as_mut_ptr(),
        used: vec![false; PAGES],
    }))
}

impl Arena {
    fn allocate(&mut self, pages: usize) -> usize {
        let first = (0..PAGES - pages).find(|&at| !self.used[at..at + pages].contains(&true));
        let first = first.expect("the arena is large enough");
        self.used[first..first + pages].fill(true);
        first
    }

    fn pointer(&self, page: usize) -> NonNull<u8> {
        assert!(page < PAGES);
        // SAFETY: inside of the arena.
        NonNull::new(unsafe { self.pages.add(page) }.cast()).unwrap()
    }
}

fn page_of(paddr: PhysAddr) -> usize {
    ((paddr - BASE) / PAGE_SIZE as u64) as usize
}

/// The driver's platform.
pub struct TestHal;

// SAFETY: pages of the arena are given to one user at a time, and stay valid for ever.
unsafe impl Hal for TestHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        arena(|arena| {
            let first = arena.allocate(pages);
            let pointer = arena.pointer(first);
            // SAFETY: these pages were just allocated.
            unsafe { pointer.write_bytes(0, pages * PAGE_SIZE) };
            (BASE + (first * PAGE_SIZE) as u64, pointer)
        })
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        arena(|arena| arena.used[page_of(paddr)..][..pages].fill(false));
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        panic!("registers are reached through the transport")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let (paddr, bounce) =
            Self::dma_alloc(buffer.len().div_ceil(PAGE_SIZE), BufferDirection::Both);
        // SAFETY: the bounce buffer is as long, and nobody else's.
        unsafe { bounce.copy_from_nonoverlapping(buffer.cast(), buffer.len()) };
        paddr
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let bounce = arena(|arena| arena.pointer(page_of(paddr)));
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as in `share`.
            unsafe { buffer.cast().copy_from_nonoverlapping(bounce, buffer.len()) };
        }
        // SAFETY: it was allocated in `share`.
        unsafe { Self::dma_dealloc(paddr, bounce, buffer.len().div_ceil(PAGE_SIZE)) };
    }
}

/// The arena as the device sees it.
pub struct ArenaMemory;

impl ArenaMemory {
    fn at(gpa: Gpa, len: u64) -> Result<*mut u8, MemError> {
        let error = MemError::new(gpa, len);
        let offset = gpa.0.checked_sub(BASE).ok_or(error)?;
        let end = offset.checked_add(len).ok_or(error)?;
        if end > (PAGES * PAGE_SIZE) as u64 {
            return Err(error);
        }
        // SAFETY: inside of the arena.
        Ok(arena(|arena| unsafe {
            arena.pages.cast::<u8>().add(offset as usize)
        }))
    }
}

impl GuestMemory for ArenaMemory {
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        let at = Self::at(from, into.len() as u64)?;
        // SAFETY: inside of the arena, which `into` is not.
        unsafe { at.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        let at = Self::at(to, from.len() as u64)?;
        // SAFETY: inside of the arena, which `from` is not.
        unsafe { at.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        // SAFETY: inside of the arena; misalignment would panic in a debug build.
        Self::at(at, 2).map(|at| unsafe { at.cast::<u16>().read_volatile() })
    }

    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        // SAFETY: as above.
        Self::at(at, 2).map(|at| unsafe { at.cast::<u16>().write_volatile(value) })
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        Self::at(at, len).map(|_| ())
    }

    fn fence(&self) {}
}

/// A device of any type with as many queues as the drivers use.
pub type Disk<D> = MmioTransport<D, 3>;
type Behind<D> = Box<dyn FnMut(&mut Disk<D>) -> bool>;
/// A device that its driver and the test share.
pub type Shared<D> = Arc<Mutex<(Disk<D>, Chain)>>;

/// The driver's transport: every call is made of register accesses, as for a device in memory.
pub struct Registers<D> {
    device: Shared<D>,
    kicks: u64,
    /// What goes on behind the device; returns whether that was something.
    behind: Behind<D>,
}

impl<D: Device> Registers<D> {
    /// The registers of a device.
    pub fn new(device: D, behind: impl FnMut(&mut Disk<D>) -> bool + 'static) -> Self {
        Self {
            device: Arc::new(Mutex::new((MmioTransport::new(device, 16), Chain::new()))),
            kicks: 0,
            behind: Box::new(behind),
        }
    }

    /// The device, for when its driver has the registers.
    pub fn share(&self) -> Shared<D> {
        Arc::clone(&self.device)
    }

    fn get(&self, offset: u64) -> u32 {
        self.device().0.read(offset, 4) as u32
    }

    fn set(&self, offset: u64, value: u32) {
        self.device().0.write(&ArenaMemory, offset, 4, value.into());
    }

    fn set_address(&self, offset: u64, value: u64) {
        self.set(offset, value as u32);
        self.set(offset + 4, (value >> 32) as u32);
    }

    fn device(&self) -> MutexGuard<'_, (Disk<D>, Chain)> {
        self.device.lock().unwrap()
    }
}

impl<D: Device> Transport for Registers<D> {
    fn device_type(&self) -> DeviceType {
        assert_eq!([self.get(0), self.get(4)], [0x7472_6976, 2]);
        let id = DeviceType::try_from(self.get(8) as u8);
        id.expect("the driver knows the type")
    }

    fn read_device_features(&mut self) -> u64 {
        self.set(0x14, 0);
        let low = self.get(0x10);
        self.set(0x14, 1);
        u64::from(low) | u64::from(self.get(0x10)) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        self.set(0x24, 0);
        self.set(0x20, features as u32);
        self.set(0x24, 1);
        self.set(0x20, (features >> 32) as u32);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.set(0x30, queue.into());
        self.get(0x34)
    }

    fn notify(&mut self, queue: u16) {
        self.kicks += 1;
        self.set(0x50, queue.into());
        let mut device = self.device.lock().unwrap();
        let (disk, chain) = &mut *device;
        loop {
            while disk.has_work() {
                disk.run(&ArenaMemory, 3, chain);
            }
            if !(self.behind)(disk) {
                return;
            }
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.get(0x70))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.set(0x70, status.bits());
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, desc: u64, driver: u64, device: u64) {
        self.set(0x30, queue.into());
        self.set(0x38, size);
        self.set_address(0x80, desc);
        self.set_address(0x90, driver);
        self.set_address(0xa0, device);
        self.set(0x44, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.set(0x30, queue.into());
        self.set(0x44, 0);
        assert_eq!(self.get(0x44), 0, "a driver waits for this");
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.set(0x30, queue.into());
        self.get(0x44) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.get(0x60);
        self.set(0x64, status);
        InterruptStatus::from_bits_truncate(status)
    }

    fn read_config_generation(&self) -> u32 {
        self.get(0xfc)
    }

    fn read_config_space<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        for (at, byte) in (0x100 + offset as u64..).zip(value.as_mut_bytes()) {
            *byte = self.device().0.read(at, 1) as u8;
        }
        Ok(value)
    }

    fn write_config_space<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<(), Error> {
        let mut bytes = [0; 8];
        let size = value.as_bytes().len();
        bytes[..size].copy_from_slice(value.as_bytes());
        let at = 0x100 + offset as u64;
        let value = u64::from_le_bytes(bytes);
        let mut device = self.device.lock().unwrap();
        device.0.write(&ArenaMemory, at, size as u64, value);
        Ok(())
    }
}

/// Numbers without a pattern that a mistake could hit.
pub fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut x = seed | 1;
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    })
}

/// Reads and writes at random places of a disk that is all zeroes, one at a time.
pub struct Requests {
    /// How many.
    pub number: u64,
    /// The size of the disk.
    pub sectors: usize,
    /// Where the numbers come from that decide.
    pub seed: u64,
    /// Most sectors of a large request; others have one or two.
    pub large: usize,
    /// Every so many of them is a large one.
    pub large_every: u64,
}

impl Requests {
    /// Makes them, and compares each read with a copy of the disk, which it returns.
    pub fn run<D: Device>(&self, driver: &mut VirtIOBlk<TestHal, Registers<D>>) -> Vec<u8> {
        let mut model = vec![0; self.sectors * 512];
        let mut numbers = noise(self.seed);
        for n in 0..self.number {
            let mut next = |below: usize| (numbers.next().unwrap() % below as u64) as usize;
            let is_large = n % self.large_every == 0;
            let count = 1 + next(if is_large { self.large } else { 2 });
            let sector = next(self.sectors - count);
            let range = sector * 512..(sector + count) * 512;
            if next(2) == 0 {
                let fill = next(256) as u8;
                let data: Vec<u8> = (0..count * 512)
                    .map(|at| (at as u8).wrapping_add(fill))
                    .collect();
                driver.write_blocks(sector, &data).unwrap();
                model[range].copy_from_slice(&data);
            } else {
                let mut data = vec![0xee; count * 512];
                driver.read_blocks(sector, &mut data).unwrap();
                assert!(data == model[range], "request {n}, sector {sector}");
            }
        }
        model
    }
}
