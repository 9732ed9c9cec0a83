//! An independent driver, the crate `virtio-drivers`, on the disk: from the first register to the last byte.

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_peer::{Registers, TestHal, noise};
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
    let mut model = vec![0u8; SECTORS * 512];
    let mut numbers = noise(0x5eed);
    for n in 0..70_000u64 {
        let mut next = |below: usize| (numbers.next().unwrap() % below as u64) as usize;
        let count = 1 + next(if n % 64 == 0 { 32 } else { 2 });
        let sector = next(SECTORS - count);
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
            assert_eq!(data, model[range], "request {n}, sector {sector}");
        }
    }
    assert!(!driver.ack_interrupt().is_empty());
}
