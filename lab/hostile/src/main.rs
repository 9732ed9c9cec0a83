//! A hostile virtio-mmio driver. It runs as root in a guest, takes a block device from the kernel's driver, and breaks
//! one rule of the specification after another: `hostile DEVICE ADDRESS`, where DEVICE is the platform device (such as
//! LNRO0005:01) and ADDRESS the guest-physical address of its registers.
//!
//! After each attack the device has to be as broken as it should be, and after a reset it has to serve an ordinary
//! request. One line an attack; the last line counts how often the device has to have gone broken.

mod attacks;
mod device;
mod memory;

use std::process::ExitCode;

use attacks::{ATTACKS, Outcome};
use device::Device;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address] = arguments.as_slice() else {
        eprintln!("usage: hostile DEVICE ADDRESS");
        return ExitCode::from(2);
    };
    match run(name, address) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, address: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
    std::fs::write("/sys/bus/platform/drivers/virtio-mmio/unbind", name)?;
    let mut device = Device::open(address)?;
    device.check_service()?;
    let (mut broken, mut bad) = (0, 0);
    for attack in ATTACKS {
        device.set_up();
        let expected = (attack.run)(&mut device);
        device.settle();
        let is_broken = device.is_broken();
        let verdict = match expected {
            Outcome::Broken if !is_broken => "is not broken",
            Outcome::Fine if is_broken => "is broken",
            _ => "",
        };
        broken += u32::from(is_broken);
        let service = device.check_service();
        match (verdict, service) {
            ("", Ok(())) => println!(
                "hostile: row {:2} {}: {expected:?}, and heals",
                attack.row, attack.name
            ),
            (verdict, service) => {
                bad += 1;
                println!(
                    "hostile: row {:2} {}: FAILED: {verdict} {service:?}",
                    attack.row, attack.name
                );
            }
        }
    }
    println!(
        "hostile: {} attacks, {bad} failed, broken {broken} times",
        ATTACKS.len()
    );
    Ok(bad == 0)
}
