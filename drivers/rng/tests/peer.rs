//! An independent driver, the crate `virtio-drivers`, on the device.

use vd_peer::{Registers, TestHal, noise};
use vd_rng::{Allowance, EntropyDevice, Pool, Source};
use virtio_drivers::device::rng::VirtIORng;

struct Noise<I>(I);

impl<I: Iterator<Item = u64>> Source for Noise<I> {
    fn word(&mut self) -> Option<u64> {
        self.0.next()
    }
}

#[test]
fn random_bytes_of_every_length() {
    let pool = Pool::new(Noise(noise(0x5eed))).expect("the noise is healthy");
    let device = EntropyDevice::new(pool, Allowance::new(u32::MAX));
    let mut driver =
        VirtIORng::<TestHal, _>::new(Registers::new(device, |_| false)).expect("a device");
    let mut ones = 0_u64;
    let mut bits = 0;
    for len in (1..=300).chain([4095, 4096, 5000]) {
        let mut bytes = vec![0; len];
        assert_eq!(driver.request_entropy(&mut bytes), Ok(len.min(4096)));
        let given = &bytes[..len.min(4096)];
        ones += given
            .iter()
            .map(|byte| u64::from(byte.count_ones()))
            .sum::<u64>();
        bits += given.len() as u64 * 8;
        assert!(bytes[given.len()..].iter().all(|byte| *byte == 0));
    }
    // As many ones as zeroes, by six standard deviations.
    let off = (ones * 2).abs_diff(bits);
    assert!(off * off < 36 * bits, "{ones} of {bits}");
}
