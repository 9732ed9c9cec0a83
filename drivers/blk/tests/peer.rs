//! An independent driver, the crate `virtio-drivers`, on the disk: from the first register to the last byte.

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_peer::{Registers, Requests, TestHal};
use virtio_drivers::Error;
use virtio_drivers::device::blk::VirtIOBlk;

type Disk = BlockDevice<RamDisk<Vec<u8>>>;

const SECTORS: usize = 512;

fn driver(readonly: bool) -> VirtIOBlk<TestHal, Registers<Disk>> {
    let disk = RamDisk::new(vec![0; SECTORS * 512]);
    let device = BlockDevice::new(disk, Geometry::of_blocks(512), b"PEER", readonly);
    VirtIOBlk::new(Registers::new(device, |_| false)).expect("the driver likes the device")
}

#[test]
fn what_the_driver_sees() {
    let mut driver = driver(false);
    assert_eq!(
        (driver.capacity(), driver.readonly()),
        (SECTORS as u64, false)
    );
    let mut id = [0; 20];
    let len = driver.device_id(&mut id).unwrap();
    assert_eq!(&id[..len], b"PEER");
    driver.flush().unwrap();
    assert!(self::driver(true).readonly());
}

#[test]
fn a_read_only_disk_refuses_writes_and_goes_on() {
    let mut driver = driver(true);
    assert_eq!(driver.write_blocks(0, &[1; 512]), Err(Error::IoError));
    assert_eq!(
        driver.read_blocks(SECTORS, &mut [0; 512]),
        Err(Error::IoError)
    );
    let mut block = [9; 512];
    driver.read_blocks(0, &mut block).unwrap();
    assert_eq!(block, [0; 512]);
}

/// Enough requests for the indices to wrap; every read is compared with a copy of the disk.
#[test]
fn random_reads_and_writes() {
    let mut driver = driver(false);
    let requests = Requests {
        number: 70_000,
        sectors: SECTORS,
        seed: 0x5eed,
        large: 32,
        large_every: 64,
    };
    requests.run(&mut driver);
    assert!(!driver.ack_interrupt().is_empty());
}
