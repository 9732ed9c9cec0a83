//! Another device takes the place of a console device: what was written and not read, in either direction, is there.

mod common;

use common::{QUEUES, Rig, SIZE, names};
use vd_console::{ConsoleDevice, Size, event};
use vd_virtio::MmioTransport;
use vd_virtio::state::{BadState, Writer};

fn state(rig: &Rig) -> Vec<u8> {
    let mut bytes = vec![0; 128 << 10];
    let mut writer = Writer::new(&mut bytes);
    rig.transport.export(&mut writer);
    assert!(writer.fits());
    let len = writer.len();
    bytes.truncate(len);
    bytes
}

fn next(ports: &[&str]) -> MmioTransport<ConsoleDevice, QUEUES> {
    MmioTransport::new(ConsoleDevice::new(names(ports)), SIZE)
}

fn succeed(rig: &mut Rig) {
    assert_eq!(rig.transport.drain(&rig.mem, &mut rig.chain), 0);
    let state = state(rig);
    rig.transport = next(&["a", "b", "c"]);
    rig.transport.import(&rig.mem, &state, false).unwrap();
}

/// The transmit queue of a port.
fn transmit(port: usize) -> usize {
    port * 2 + 3
}

/// More than fits: a buffer is half taken when the other one takes over.
#[test]
fn a_buffer_that_was_half_taken() {
    let mut rig = Rig::ready();
    rig.control(1, event::PORT_OPEN, 1);
    rig.host_attaches(1);
    let bytes: Vec<u8> = (0..6 * common::BUFFER as usize)
        .map(|at| (at * 7 / 3) as u8)
        .collect();
    for chunk in bytes.chunks(common::BUFFER as usize).take(3) {
        assert!(rig.send(transmit(1), chunk));
    }
    let mut got = Vec::new();
    let mut piece = [0; 777];
    let read = rig.device().read(1, &mut piece);
    got.extend(&piece[..read]);
    succeed(&mut rig);
    rig.run();
    rig.host_attaches(1);
    succeed(&mut rig);
    rig.run();
    for chunk in bytes.chunks(common::BUFFER as usize).skip(3) {
        assert!(rig.send(transmit(1), chunk));
    }
    got.extend(rig.host_reads(1));
    assert!(got == bytes, "every byte, once, in order");
    assert_eq!(rig.used(transmit(1)).len(), 6);
    assert!(!rig.is_broken());
}

#[test]
fn input_and_what_each_side_knows_of_the_other() {
    let mut rig = Rig::ready();
    rig.control(2, event::PORT_OPEN, 1);
    rig.host_attaches(2);
    assert_eq!(rig.messages(), [(2, event::PORT_OPEN, 1, vec![])]);
    assert_eq!(rig.host_writes(2, b"for the guest"), 13);
    rig.device().set_size(Size {
        columns: 132,
        rows: 50,
    });
    rig.run();
    rig.messages();
    succeed(&mut rig);
    rig.run();
    assert!(rig.device().is_guest_open(2));
    assert!(!rig.device().is_guest_open(1));
    assert_eq!(
        rig.device().size(),
        Size {
            columns: 132,
            rows: 50
        }
    );
    assert_eq!(rig.messages(), [], "there is something to read first");
    rig.give(6);
    assert_eq!(rig.used(6), [b"for the guest"]);
    assert_eq!(
        rig.messages(),
        [(2, event::PORT_OPEN, 0, vec![])],
        "whoever was attached is not any more"
    );
}

#[test]
fn a_state_that_makes_no_sense() {
    let rig = Rig::ready();
    let good = state(&rig);
    assert_eq!(
        next(&["a", "b"]).import(&rig.mem, &good, false),
        Err(BadState::Queues(10))
    );
    // The last ring is that of input, 4096 bytes at most; before it is an empty one.
    let mut bad = good.clone();
    let at = bad.len() - 4;
    bad[at..].copy_from_slice(&4097_u32.to_le_bytes());
    bad.extend([0; 4097]);
    let mut fresh = next(&["a", "b", "c"]);
    assert!(fresh.import(&rig.mem, &bad, false).is_err());
    // As many bytes, and the length in front of all that is the device's own says so.
    let own = good.windows(5).position(|it| it == [80, 0, 25, 0, 1]);
    let own = own.expect("its size is there");
    let len = (bad.len() - own) as u32;
    bad[own - 4..own].copy_from_slice(&len.to_le_bytes());
    let mut fresh = next(&["a", "b", "c"]);
    assert_eq!(fresh.import(&rig.mem, &bad, false), Err(BadState::Content));
}
