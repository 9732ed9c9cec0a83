//! An independent driver, the crate `virtio-drivers`, does not notice that another device has taken over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use vd_blk::later::{AsyncBackend, Done, Job, NotStarted, Operation, Properties, Ticket};
use vd_blk::{AsyncBlockDevice, BlockDevice, Geometry, RamDisk, Room};
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

/// Storage that answers only when it may, the last request first; what it stores outlives it.
struct Slow {
    content: Rc<RefCell<Vec<u8>>>,
    may: Rc<Cell<bool>>,
    jobs: Vec<Option<(Job, Vec<u8>)>>,
    started: Vec<u16>,
}

impl Slow {
    fn device(content: &Rc<RefCell<Vec<u8>>>, may: &Rc<Cell<bool>>) -> AsyncBlockDevice<Self> {
        let slow = Self {
            content: Rc::clone(content),
            may: Rc::clone(may),
            jobs: Vec::new(),
            started: Vec::new(),
        };
        AsyncBlockDevice::new(slow, b"SLOW", false, Room::default())
    }

    fn range(job: &Job) -> std::ops::Range<usize> {
        let start = job.sector as usize * 512;
        start..start + job.sectors as usize * 512
    }
}

impl AsyncBackend for Slow {
    fn properties(&self) -> Properties {
        Properties {
            sectors: SECTORS as u64,
            geometry: Geometry::of_blocks(512),
            readonly: false,
            discard: None,
        }
    }

    fn max_sectors(&self) -> u64 {
        8
    }

    fn start<E>(
        &mut self,
        job: Job,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Ticket, NotStarted<E>> {
        let mut bytes = vec![0; job.sectors as usize * 512];
        if job.operation == Operation::Write {
            fill(&mut bytes).map_err(NotStarted::Data)?;
        }
        let ticket = self.jobs.len() as u16;
        self.jobs.push(Some((job, bytes)));
        self.started.push(ticket);
        Ok(Ticket(ticket))
    }

    fn kick(&mut self) {}

    fn next_done(&mut self) -> Option<Done> {
        let ticket = self.started.pop_if(|_| self.may.get())?;
        let (job, bytes) = self.jobs[usize::from(ticket)].as_mut().unwrap();
        let mut content = self.content.borrow_mut();
        match job.operation {
            Operation::Write => content[Self::range(job)].copy_from_slice(bytes),
            Operation::Read => bytes.copy_from_slice(&content[Self::range(job)]),
            _ => {}
        }
        Some(Done {
            tag: job.tag,
            ticket: Ticket(ticket),
            result: Ok(()),
        })
    }

    fn data<E>(
        &self,
        ticket: &Ticket,
        mut drain: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (_, bytes) = self.jobs[usize::from(ticket.0)].as_ref().unwrap();
        drain(bytes)
    }

    fn release(&mut self, ticket: Ticket) {
        self.jobs[usize::from(ticket.0)] = None;
    }
}

/// The first device ends with requests under way, of which storage may have done some: the next one does them again, and
/// the driver gets each answer once.
#[test]
fn requests_under_way_are_done_again_after_a_crash() {
    let content = Rc::new(RefCell::new(vec![0; SECTORS * 512]));
    let may = Rc::new(Cell::new(true));
    let registers = Registers::new(Slow::device(&content, &may), |disk| {
        let wake = disk.device_mut().poll();
        wake.queues.iter().for_each(|queue| disk.wake(queue));
        disk.has_work()
    });
    let device = registers.share();
    let mut driver: VirtIOBlk<TestHal, Registers<AsyncBlockDevice<Slow>>> =
        VirtIOBlk::new(registers).unwrap();
    let mut model = vec![0_u8; SECTORS * 512];
    for round in 0..500_usize {
        may.set(true);
        let sector = round * 7 % SECTORS;
        driver.write_blocks(sector, &[round as u8; 512]).unwrap();
        model[sector * 512..][..512].fill(round as u8);

        may.set(false);
        let (written, read) = (round * 5 % 100, 128 + round * 3 % 100);
        let data = [!(round as u8); 12 * 512];
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
        assert_eq!(driver.peek_used(), None);
        {
            let (transport, chain) = &mut *device.lock().unwrap();
            if round % 3 == 0 {
                // Storage has done all of it, and the device has not heard.
                may.set(true);
                while transport.device_mut().backend_mut().next_done().is_some() {}
            }
            let mut bytes = vec![0; 4096];
            let mut writer = Writer::new(&mut bytes);
            transport.export(&mut writer);
            let len = writer.len();
            let mut next = MmioTransport::new(Slow::device(&content, &may), 16);
            next.import(&ArenaMemory, &bytes[..len], true).unwrap();
            *transport = next;
            may.set(true);
            while transport.has_work() {
                transport.run(&ArenaMemory, 1, chain);
                let wake = transport.device_mut().poll();
                wake.queues.iter().for_each(|queue| transport.wake(queue));
            }
            assert_eq!(transport.device().in_flight(), 0);
        }
        // In whatever order they have ended.
        for _ in 0..2 {
            // SAFETY: these are the buffers of before.
            unsafe {
                if driver.peek_used() == Some(a) {
                    let done = driver.complete_write_blocks(a, &one, &data, &mut one_resp);
                    done.unwrap();
                } else {
                    assert_eq!(driver.peek_used(), Some(b));
                    let done = driver.complete_read_blocks(b, &other, &mut found, &mut other_resp);
                    done.unwrap();
                }
            }
        }
        model[written * 512..][..data.len()].copy_from_slice(&data);
        assert!(found[..] == model[read * 512..][..512], "round {round}");
    }
    assert!(*content.borrow() == model);
}
