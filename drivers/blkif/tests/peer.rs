//! An independent driver, the crate `virtio-drivers`, on a disk that a back end serves: also while that goes and comes
//! back.

use std::cell::RefCell;
use std::rc::Rc;

use vd_blk::{AsyncBlockDevice, Room};
use vd_blkif::nodes::{Offer, Properties};
use vd_blkif::test_util::{Cut, FakeBackend, FakePlatform};
use vd_blkif::{Config, Disk};
use vd_peer::{Registers, Requests, TestHal};
use virtio_drivers::Error;
use virtio_drivers::device::blk::VirtIOBlk;

const SECTORS: usize = 512;
const OFFER: Offer = Offer {
    ring_order: 0,
    queues: 1,
};

type Device = AsyncBlockDevice<Disk<FakePlatform>>;

/// The driver, and the back end that it does not know of. Every so many requests (None: never) that back end goes, with
/// some of what it was asked for done, and comes back.
fn driver(
    readonly: bool,
    every: Option<u64>,
) -> (
    VirtIOBlk<TestHal, Registers<Device>>,
    Rc<RefCell<FakeBackend>>,
) {
    let config = Config {
        data_pages: 8,
        operations: 4,
        ..Config::of_device(51712)
    };
    let properties = Properties {
        sectors: SECTORS as u64,
        readonly,
        flush: true,
        ..Properties::default()
    };
    let platform = FakePlatform::new(config.pages());
    let mut disk = Disk::new(platform.clone(), config).unwrap();
    let backend = Rc::new(RefCell::new(FakeBackend::new(&platform, 3, SECTORS)));
    disk.connect(3, &OFFER).unwrap();
    backend.borrow_mut().connect(&disk);
    disk.open(properties);
    let device = AsyncBlockDevice::new(disk, b"PEER", false, Room::default());
    let (served, mut count) = (backend.clone(), 0);
    let behind = move |transport: &mut vd_peer::Disk<Device>| {
        let device = transport.device_mut();
        let mut backend = served.borrow_mut();
        count += backend.take() as u64;
        if every.is_some_and(|every| count >= every) && !backend.pending.is_empty() {
            backend.cut(Cut::Closed, |n| n % 2 == 0);
            let disk = device.backend_mut();
            disk.disconnect(false);
            assert!(disk.revoke());
            disk.connect(3, &OFFER).unwrap();
            backend.connect(disk);
            disk.open(properties);
            count = 0;
        }
        backend.serve_all();
        let wake = device.poll();
        wake.queues.iter().for_each(|queue| transport.wake(queue));
        transport.has_work()
    };
    let driver =
        VirtIOBlk::new(Registers::new(device, behind)).expect("the driver likes the device");
    (driver, backend)
}

#[test]
fn what_the_driver_sees() {
    let (mut driver, backend) = driver(false, None);
    assert_eq!(
        (driver.capacity(), driver.readonly()),
        (SECTORS as u64, false)
    );
    let mut id = [0; 20];
    let len = driver.device_id(&mut id).unwrap();
    assert_eq!(&id[..len], b"PEER");
    driver.write_blocks(3, &[7; 512]).unwrap();
    assert_eq!(backend.borrow().durable[3 * 512], 0);
    driver.flush().unwrap();
    assert_eq!(backend.borrow().durable[3 * 512..][..512], [7; 512]);
    let (mut driver, _) = self::driver(true, None);
    assert!(driver.readonly());
    assert_eq!(driver.write_blocks(0, &[1; 512]), Err(Error::IoError));
    assert_eq!(
        driver.read_blocks(SECTORS, &mut [0; 512]),
        Err(Error::IoError)
    );
}

#[test]
fn row39_random_reads_and_writes_while_the_back_end_comes_and_goes() {
    for every in [None, Some(1), Some(7)] {
        let (mut driver, backend) = driver(false, every);
        let requests = Requests {
            number: 3000,
            sectors: SECTORS,
            seed: 0xb1c1f,
            large: 100,
            large_every: 16,
        };
        let model = requests.run(&mut driver);
        assert!(backend.borrow().disk == model);
    }
}
