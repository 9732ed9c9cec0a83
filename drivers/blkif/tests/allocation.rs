//! Nothing allocates once a disk is made: not on the way of a request, and not when a connection ends and another begins.

#[path = "../../pv/tests/common/allocations.rs"]
mod allocations;

use vd_blk::later::{AsyncBackend, Job, Operation};
use vd_blkif::nodes::{Offer, Properties};
use vd_blkif::platform::Access;
use vd_blkif::{Config, Disk, PAGE_SIZE, Platform};

/// Pages, and a back end that answers from the same memory. Page n has the grant n + 1.
struct Flat {
    bytes: Box<[u8]>,
    answered: u32,
}

impl Flat {
    fn at(&self, page: usize, at: usize, len: usize) -> core::ops::Range<usize> {
        assert!(at + len <= PAGE_SIZE);
        page * PAGE_SIZE + at..page * PAGE_SIZE + at + len
    }

    /// Answers everything on the first ring, which has one page. Returns how many requests that were.
    fn answer(&mut self) -> u32 {
        let (before, shown) = (self.answered, self.load_u32(0, 0));
        while self.answered != shown {
            let slot = 64 + (self.answered % 32) as usize * 112;
            let (id, op) = (slot + 8..slot + 16, self.bytes[slot]);
            self.bytes.copy_within(id, slot);
            self.bytes[slot + 8] = op;
            self.bytes[slot + 10..slot + 12].fill(0);
            self.answered = self.answered.wrapping_add(1);
        }
        self.store_u32(0, 8, shown);
        self.store_u32(0, 4, shown.wrapping_add(1));
        shown.wrapping_sub(before)
    }
}

impl Platform for Flat {
    fn pages(&self) -> usize {
        self.bytes.len() / PAGE_SIZE
    }

    fn load_u32(&self, page: usize, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[self.at(page, at, 4)].try_into().unwrap())
    }

    fn store_u32(&mut self, page: usize, at: usize, value: u32) {
        let range = self.at(page, at, 4);
        self.bytes[range].copy_from_slice(&value.to_le_bytes());
    }

    fn fence(&self) {}

    fn read_bytes(&self, page: usize, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes[self.at(page, at, into.len())]);
    }

    fn write_bytes(&mut self, page: usize, at: usize, from: &[u8]) {
        let range = self.at(page, at, from.len());
        self.bytes[range].copy_from_slice(from);
    }

    fn fill<R>(&mut self, page: usize, len: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
        let range = self.at(page, 0, len);
        with(&mut self.bytes[range])
    }

    fn drain<R>(&self, page: usize, len: usize, with: impl FnOnce(&[u8]) -> R) -> R {
        with(&self.bytes[self.at(page, 0, len)])
    }

    fn grant(&mut self, _: u16, page: usize, _: Access) -> Option<u32> {
        u32::try_from(page + 1).ok()
    }

    fn end_grant(&mut self, _: u32) -> bool {
        true
    }

    fn open_port(&mut self, _: u16) -> Option<u32> {
        Some(1)
    }

    fn close_port(&mut self, _: u32) {}

    fn notify(&mut self, _: u32) {}
}

fn connect(disk: &mut Disk<Flat>) {
    let offer = Offer {
        ring_order: 0,
        queues: 1,
    };
    disk.connect(3, &offer).unwrap();
    disk.platform_mut().answered = 0;
    disk.open(Properties {
        sectors: 1 << 20,
        flush: true,
        discard: Some(1),
        indirect: 64,
        ..Properties::default()
    });
}

/// Operations of all kinds and sizes, until there is no room; the last round is answered by another back end.
fn rounds(disk: &mut Disk<Flat>) -> u32 {
    let mut requests = 0;
    for round in 0..200u64 {
        let mut started = 0u16;
        for n in 0.. {
            let operation = match n % 6 {
                0 | 1 => Operation::Write,
                2 => Operation::Read,
                3 => Operation::Zero,
                4 => Operation::Discard,
                _ => Operation::Flush,
            };
            let job = Job {
                tag: started,
                queue: 0,
                operation,
                sector: round,
                sectors: match operation {
                    Operation::Flush => 0,
                    _ => 1 + (round * 37 + n * 11) % 300,
                },
            };
            let fill = |bytes: &mut [u8]| -> Result<(), ()> {
                bytes.fill(7);
                Ok(())
            };
            match disk.start(job, fill) {
                Ok(_ticket) => started += 1,
                Err(_) => break,
            }
        }
        disk.kick();
        if round % 50 == 49 {
            disk.disconnect(false);
            assert!(disk.revoke());
            connect(disk);
        }
        let mut ended = 0;
        while ended < started {
            requests += disk.platform_mut().answer();
            while let Some(done) = disk.next_done() {
                let mut len = 0;
                disk.data(&done.ticket, |bytes| {
                    len += bytes.len();
                    Ok::<_, ()>(())
                })
                .unwrap();
                disk.release(done.ticket);
                ended += 1;
            }
        }
        assert!(started > 4);
    }
    requests
}

#[test]
fn nothing_allocates() {
    let config = Config {
        data_pages: 256,
        ..Config::of_device(51712)
    };
    let platform = Flat {
        bytes: vec![0; config.pages() * PAGE_SIZE].into_boxed_slice(),
        answered: 0,
    };
    let mut disk = Disk::new(platform, config).unwrap();
    connect(&mut disk);
    let before = allocations::so_far();
    assert!(before > 0, "it does count");
    let requests = rounds(&mut disk);
    assert_eq!(allocations::so_far(), before);
    assert!(before > 0, "it does count");
    assert!(requests > 2000, "{requests}");
    assert!(disk.counters().indirect > 100 && disk.counters().reissued > 10);
}
