//! An independent driver, the crate `virtio-drivers`, does not notice that another device has taken over.

use std::cell::Cell;
use std::rc::Rc;

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_peer::{ArenaMemory, Registers, Shared, TestHal, noise};
use vd_virtio::fault::FaultKind;
use vd_virtio::state::Writer;
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};

const SECTORS: usize = 256;

/// A disk that can be told to leave requests where they are.
struct Gate {
    disk: BlockDevice<RamDisk<Vec<u8>>>,
    closed: Rc<Cell<bool>>,
}

impl Device for Gate {
    fn id(&self) -> DeviceId {
        self.disk.id()
    }

    fn features(&self) -> Features {
        self.disk.features()
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        self.disk.read_config(offset, into);
    }

    fn keeps_order(&self, queue: u16) -> bool {
        self.disk.keeps_order(queue)
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        if self.closed.get() {
            return Ok(Progress::Waiting);
        }
        self.disk.run(pass, chain)
    }
}

fn gate(content: Vec<u8>, closed: &Rc<Cell<bool>>) -> Gate {
    Gate {
        disk: BlockDevice::new(
            RamDisk::new(content),
            Geometry::of_blocks(512),
            b"NEXT",
            false,
        ),
        closed: Rc::clone(closed),
    }
}

/// Another device in the place of this one, with what it has stored.
fn succeed(device: &Shared<Gate>, closed: &Rc<Cell<bool>>) {
    let mut device = device.lock().unwrap();
    let (transport, chain) = &mut *device;
    assert_eq!(transport.drain(&ArenaMemory, chain), 0);
    let mut bytes = vec![0; 4096];
    let mut writer = Writer::new(&mut bytes);
    transport.export(&mut writer);
    assert!(writer.fits());
    let len = writer.len();
    let content = transport.device().disk.backend().storage().clone();
    let mut next = MmioTransport::new(gate(content, closed), 16);
    next.import(&ArenaMemory, &bytes[..len], false).unwrap();
    *transport = next;
}

/// Requests that wait when another one takes over are served by it, in any position of the ring; those before and after
/// find what was written.
#[test]
fn requests_go_on_over_many_changes() {
    let closed = Rc::new(Cell::new(false));
    let registers = Registers::new(gate(vec![0; SECTORS * 512], &closed), |_| false);
    let device = registers.share();
    let mut driver: VirtIOBlk<TestHal, Registers<Gate>> = VirtIOBlk::new(registers).unwrap();
    let mut model = vec![0_u8; SECTORS * 512];
    let mut numbers = noise(0x5eed);
    for round in 0..3000_u64 {
        let mut next = |below: usize| (numbers.next().unwrap() % below as u64) as usize;
        let (sector, fill) = (next(SECTORS), next(256) as u8);
        let range = sector * 512..(sector + 1) * 512;
        driver.write_blocks(sector, &[fill; 512]).unwrap();
        model[range].fill(fill);

        // Two that wait: a write of one sector, a read of another one.
        closed.set(round % 3 != 0);
        let (written, read) = (next(SECTORS / 2), SECTORS / 2 + next(SECTORS / 2));
        let data = [fill.wrapping_add(1); 512];
        let (mut one, mut other) = (BlkReq::default(), BlkReq::default());
        let (mut one_resp, mut other_resp) = (BlkResp::default(), BlkResp::default());
        let mut found = [0xee; 512];
        // SAFETY: the buffers stay as they are until the requests are complete.
        let (a, b) = unsafe {
            (
                driver.write_blocks_nb(written, &mut one, &data, &mut one_resp),
                driver.read_blocks_nb(read, &mut other, &mut found, &mut other_resp),
            )
        };
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(driver.peek_used().is_some(), !closed.get());
        for _ in 0..=round % 3 {
            succeed(&device, &closed);
        }
        closed.set(false);
        let (transport, chain) = &mut *device.lock().unwrap();
        while transport.has_work() {
            transport.run(&ArenaMemory, 1, chain);
        }
        // SAFETY: these are the buffers of before.
        unsafe {
            assert_eq!(driver.peek_used(), Some(a));
            driver
                .complete_write_blocks(a, &one, &data, &mut one_resp)
                .unwrap();
            assert_eq!(driver.peek_used(), Some(b));
            driver
                .complete_read_blocks(b, &other, &mut found, &mut other_resp)
                .unwrap();
        }
        model[written * 512..][..512].copy_from_slice(&data);
        assert!(found[..] == model[read * 512..][..512], "round {round}");
    }
    let device = device.lock().unwrap();
    assert!(*device.0.device().disk.backend().storage() == model);
    assert_eq!(device.0.counters().faults, 0);
}
