//! The platform under Linux: pages of /proc/self/pagemap and /dev/mem, threads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vd_hostile::memory::{PAGE, Page};
use vd_hostile::platform::Platform;

/// This process, and since when it runs.
pub(crate) struct Linux(pub(crate) Instant);

/// `length` bytes: of a file, or zeroes.
fn map(length: usize, file: Option<(&File, u64)>) -> io::Result<NonNull<u8>> {
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | libc::MAP_LOCKED,
    };
    let (fd, offset) = file.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            fd,
            offset.cast_signed(),
        )
    };
    match NonNull::new(address.cast()) {
        Some(bytes) if address != libc::MAP_FAILED => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A page of RAM, zeroed.
fn ram() -> io::Result<Page> {
    let bytes = map(PAGE, None)?;
    let mut entry = [0; 8];
    let index = bytes.as_ptr() as u64 / PAGE as u64;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, index * 8)?;
    let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
    if frame == 0 {
        return Err(io::Error::other(
            "/proc/self/pagemap tells no frame numbers: not root?",
        ));
    }
    // SAFETY: mapped just now, by nobody else, and never unmapped.
    Ok(unsafe { Page::new(bytes, frame * PAGE as u64) })
}

/// The registers at a guest-physical address, which need not be the first of a page.
///
/// # Errors
/// The system's, as when a driver has them.
pub(crate) fn registers(gpa: u64) -> io::Result<Page> {
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_SYNC)
        .open("/dev/mem")?;
    let within = gpa % PAGE as u64;
    let first = map(2 * PAGE, Some((&memory, gpa - within)))?;
    // SAFETY: less than a page, of the two.
    let bytes = unsafe { first.add(within as usize) };
    // SAFETY: a page's size of bytes from there is mapped, by nobody else, and never unmapped; a device's registers.
    Ok(unsafe { Page::new(bytes, gpa) })
}

impl Platform for Linux {
    fn page(&self) -> Result<Page, &'static str> {
        ram().map_err(|error| {
            eprintln!("hostile: {error}");
            "no page of RAM"
        })
    }

    fn milliseconds(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn sleep(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }

    /// What /proc/iomem says, and what Xen keeps for itself behind it.
    fn end_of_ram(&self) -> u64 {
        let map = std::fs::read_to_string("/proc/iomem").unwrap_or_default();
        map.lines()
            .filter(|line| line.ends_with(": System RAM"))
            .filter_map(|line| line.split_once(" : ")?.0.trim().split_once('-'))
            .filter_map(|(_, last)| u64::from_str_radix(last, 16).ok())
            .max()
            .map_or(0, |last| (last + 1).next_multiple_of(1 << 20))
    }

    /// Below 1 MiB, where a PC has its video memory.
    fn hole(&self) -> u64 {
        0xa0000
    }

    fn beside(&self, other: &(dyn Fn() + Sync), work: &mut dyn FnMut()) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    other();
                }
            });
            work();
            stop.store(true, Ordering::Relaxed);
        });
    }
}
