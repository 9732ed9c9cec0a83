//! An independent driver, the crate `virtio-drivers`, on the device. It knows one port.

use std::fmt::Write;

use vd_console::{ConsoleDevice, Size};
use vd_peer::{Registers, TestHal};
use virtio_drivers::device::console::VirtIOConsole;

#[test]
fn a_console_that_answers() {
    let device = ConsoleDevice::new([]);
    // Whoever is attached answers each line with its length.
    let registers = Registers::new(device, |transport| {
        let device = transport.device_mut();
        let mut line = [0; 200];
        let read = device.read(0, &mut line);
        if read > 0 {
            let answer = format!("{read};");
            assert_eq!(device.write(0, answer.as_bytes()), answer.len());
        }
        let wakes = device.take_wakes();
        for queue in (0..3).filter(|queue| wakes >> queue & 1 != 0) {
            transport.wake(queue);
        }
        transport.has_work()
    });
    let shared = registers.share();
    let mut driver = VirtIOConsole::<TestHal, _>::new(registers).expect("a console");
    let size = driver.size().unwrap().unwrap();
    assert_eq!((size.columns, size.rows), (80, 25));
    let mut expected = String::new();
    for len in 1..150 {
        driver.write_str(&"x".repeat(len)).unwrap();
        expected.push_str(&format!("{len};"));
    }
    driver.send(b'.').unwrap();
    expected.push_str("1;");
    let mut got = String::new();
    while got.len() < expected.len() {
        match driver.recv(true).unwrap() {
            Some(byte) => got.push(byte.into()),
            // The driver looks for more with its next buffer.
            None => assert!(driver.ack_interrupt().unwrap(), "{got}"),
        }
    }
    assert_eq!(got, expected);
    driver.emergency_write(b'!').unwrap();
    let mut last = [0; 4];
    shared.lock().unwrap().0.reconfigure(|device| {
        assert_eq!(device.read(0, &mut last), 1);
        device.set_size(Size {
            columns: 132,
            rows: 43,
        });
    });
    assert_eq!(last[0], b'!');
    let size = driver.size().unwrap().unwrap();
    assert_eq!((size.columns, size.rows), (132, 43));
}
