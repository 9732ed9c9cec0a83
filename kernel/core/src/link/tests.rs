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

/// The guest prints.
fn print(device: &mut ConsoleDevice, bytes: usize) {
    for _ in 0..bytes {
        assert!(device.write_config(8, b"x"));
    }
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
    let mut farewell = link.end(Some(&mut device), "more bytes than were granted");
    assert!(farewell.tell(&mut out));
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
    print(&mut device, 16 << 10);
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
}

/// However full the ring is, the program hears of the end: at once if only the guest has filled it, later if the log has.
#[test]
fn the_end_is_told() {
    for filled in (0..2048).step_by(7) {
        let (mut device, _, mut link) = linked();
        assert_eq!(link.take(&mut device, "Zm9v"), Ok(()));
        print(&mut device, 16 << 10);
        let mut out = Ring("x".repeat(filled), 2048);
        link.pump(&mut device, &mut out);
        let before = out.0.len();
        let mut farewell = link.end(Some(&mut device), "as asked");
        let told = farewell.tell(&mut out);
        assert!(told || filled > 2048 - SPARE, "{filled}");
        if !told {
            out = Ring(String::new(), 2048);
            assert!(farewell.tell(&mut out));
        }
        let said = out.0.get(if told { before } else { 0 }..).unwrap();
        assert!(said.ends_with("3 as asked\r\n"), "{filled}: {said}");
    }
}

/// The same when the program has to be told first what the guest has read.
#[test]
fn the_last_credit_comes_before_the_end() {
    let (mut device, mut out, mut link) = linked();
    assert_eq!(link.take(&mut device, "Zm9v"), Ok(()));
    device.activate(vd_virtio::Features::from_bits_retain(0));
    device.reset();
    let mut farewell = link.end(Some(&mut device), "as asked");
    assert!(!farewell.tell(&mut Ring(String::new(), 4)));
    let mut small = Ring(String::new(), 10);
    assert!(!farewell.tell(&mut small));
    assert_eq!(small.0, "@+3\r\n");
    assert!(farewell.tell(&mut out));
    assert_eq!(
        out.0, "@end 0 0 as asked\r\n",
        "the guest has thrown them away"
    );
    let mut refusal = Farewell::refusal(9, "it has no such port");
    assert!(!refusal.tell(&mut small));
    out.0.clear();
    assert!(refusal.tell(&mut out));
    assert_eq!(out.0, "@refused 9 it has no such port\r\n");
}

/// A guest that makes noise of any kind is not heard beyond what the program has granted.
#[test]
fn nothing_is_said_for_nothing() {
    let (mut device, _, mut link) = linked();
    let mut said = String::new();
    for _ in 0..40_000 {
        print(&mut device, 3);
        let mut out = Ring(String::new(), 2048);
        link.pump(&mut device, &mut out);
        said.push_str(&out.0);
    }
    assert_eq!(link.credit, 0);
    assert!(device.counters().out_lost > 0);
    assert!(
        !said.contains("lost"),
        "nothing that was read came after it"
    );
    let mut out = Ring(String::new(), 2048);
    link.grant(5);
    link.pump(&mut device, &mut out);
    let lost = device.counters().out_lost;
    assert_eq!(out.0, std::format!("@lost {lost}\r\n@=eHh4eHg=\r\n"));
}

/// A guest that closes a port again and again says so once, until it has written something.
#[test]
fn closing_for_nothing() {
    let (mut device, mut out, mut link) = linked();
    let close = |device: &mut ConsoleDevice| {
        // A driver without control messages has its console open from start to reset.
        device.activate(vd_virtio::Features::from_bits_retain(0));
        device.reset();
    };
    for _ in 0..100 {
        close(&mut device);
        link.pump(&mut device, &mut out);
    }
    assert_eq!(out.0, "@closed\r\n");
    print(&mut device, 3);
    close(&mut device);
    link.pump(&mut device, &mut out);
    assert_eq!(out.0, "@closed\r\n@=eHh4\r\n@closed\r\n");
}

#[test]
fn loss_is_told_before_what_comes_after_it() {
    let (mut device, mut out, mut link) = linked();
    print(&mut device, (16 << 10) + 5);
    link.pump(&mut device, &mut out);
    assert!(out.0.starts_with("@lost 5\r\n@=eHh4"), "{}", out.0);
}
