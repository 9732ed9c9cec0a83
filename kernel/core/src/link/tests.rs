//! What a program that keeps to no rules gets. The whole of a link is tested with vdom (`tools/vdom/src/console/tests.rs`).

use std::string::{String, ToString};

use vd_console::{ConsoleDevice, INPUT_BYTES};
use vd_virtio::Device;

use super::*;

/// Text that nobody reads, in a ring of so many bytes.
struct Ring(String, usize);

impl Output for Ring {
    fn room(&self) -> usize {
        self.1 - self.0.len()
    }

    fn write(&mut self, text: &str) {
        self.0.push_str(&text.replace('\n', "\r\n"));
        assert!(self.0.len() <= self.1);
    }
}

fn linked() -> (ConsoleDevice, Ring, Link) {
    let mut device = ConsoleDevice::new([]);
    let mut out = Ring(String::new(), 2048);
    let mut link = Link::new(&mut device, 0, 7).unwrap();
    link.pump(&mut device, &mut out);
    assert_eq!(out.0, "@linked 7 4096 4096\r\n");
    out.0.clear();
    (device, out, link)
}

#[test]
fn there_is_no_link_to_a_port_that_is_not_there() {
    assert!(Link::new(&mut ConsoleDevice::new([]), 1, 7).is_none());
}

#[test]
fn more_than_was_granted_ends_the_link() {
    let (mut device, mut out, mut link) = linked();
    let line = Encoded(&[7; 57]).to_string();
    for _ in 0..INPUT_BYTES / 57 {
        assert_eq!(link.take(&mut device, &line), Ok(()));
        link.pump(&mut device, &mut out);
    }
    assert_eq!(out.0, "", "the guest has read nothing");
    let error = link.take(&mut device, &line);
    assert_eq!(error, Err("more bytes than were granted"));
    assert_eq!(device.counters().in_bytes, INPUT_BYTES as u64);
    link.end(Some(&mut device), &mut out, "more bytes than were granted");
    assert_eq!(out.0, "@end 0 4096 more bytes than were granted\r\n");
}

#[test]
fn bytes_that_make_no_sense() {
    let (mut device, _, mut link) = linked();
    let long = Encoded(&[7; 81]).to_string();
    for bad in ["Zm9", "*", &long] {
        assert!(link.take(&mut device, bad).is_err(), "{bad}");
    }
    assert_eq!(device.counters().in_bytes, 0);
}

/// However much is granted, no more than the window is sent; and lines are whole, whatever room there is.
#[test]
fn lines_are_whole_and_bounded() {
    let (mut device, _, mut link) = linked();
    for _ in 0..16 << 10 {
        assert!(device.write_config(8, b"x"));
    }
    link.grant(u64::MAX);
    let mut bytes = 0;
    for room in (0..2048).chain(0..2048) {
        let mut out = Ring(String::new(), room);
        link.pump(&mut device, &mut out);
        for line in out.0.split_inclusive("\r\n") {
            let data = line.strip_suffix("\r\n").unwrap();
            let data = data.strip_prefix("@=").unwrap();
            bytes += decode(data, &mut [0; PIECE]).unwrap();
        }
    }
    assert_eq!(bytes, 16 << 10);
    let mut out = Ring(String::new(), 10);
    link.end(None, &mut out, "the guest is gone");
    assert_eq!(out.0, "", "it does not fit");
}

#[test]
fn loss_is_told_before_what_comes_after_it() {
    let (mut device, mut out, mut link) = linked();
    for _ in 0..(16 << 10) + 5 {
        device.write_config(8, b"x");
    }
    link.pump(&mut device, &mut out);
    assert!(out.0.starts_with("@lost 5\r\n@=eHh4"), "{}", out.0);
}
