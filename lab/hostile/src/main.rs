//! The hostile driver as a program. It runs as root in a guest and takes a device from the kernel's driver:
//! `hostile DEVICE ADDRESS`, where DEVICE is the platform device (such as LNRO0005:01) and ADDRESS the guest-physical
//! address of its registers.
//!
//! One line an attack; the last line counts how often the device has to have gone broken.

mod linux;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use linux::Linux;
use vd_hostile::device::Device;

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
    let driver = Path::new("/sys/bus/platform/drivers/virtio-mmio");
    if driver.join(name).exists() {
        std::fs::write(driver.join("unbind"), name)?;
    }
    let platform = Linux(Instant::now());
    let mut device = Device::open(linux::registers(address)?, &platform)?;
    device.check_service()?;
    let summary = vd_hostile::run(&mut device, |line| println!("hostile: {line}"));
    println!("hostile: {summary}");
    Ok(summary.failed == 0)
}
