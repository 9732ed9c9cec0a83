//! Registers that are shown in memory: whatever a driver and a device do, what was shown is what is read, until it is said
//! not to be.

use proptest::prelude::*;
use vd_virtio::fault::FaultKind;
use vd_virtio::mmio::still::{STATUS, TAIL, Tail, WORDS, unheard};
use vd_virtio::mmio::{INTERRUPT_CONFIG, INTERRUPT_VRING, Status};
use vd_virtio::test_util::{DriverRing, FakeMemory, WRITE};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, MmioTransport, Pass, Progress};

const STATUS_OFFSET: u64 = 0x70;
const ACK: u64 = 0x64;

/// Gives back whatever it gets; its configuration is there to be changed.
struct Echo([u8; 70]);

impl Device for Echo {
    fn id(&self) -> DeviceId {
        DeviceId(42)
    }

    fn features(&self) -> Features {
        Features::empty()
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        for (at, byte) in (offset..).zip(into) {
            *byte = self.0.get(at).copied().unwrap_or(0);
        }
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        pass.serve_each(chain, |_, _| Ok(1))
    }
}

type Tested = MmioTransport<Echo, 1>;

fn device() -> Tested {
    let mut config = [0; 70];
    config[..8].copy_from_slice(b"capacity");
    MmioTransport::new(Echo(config), 8).with_late_acks()
}

/// A driver gets as far as that status.
fn negotiate(device: &mut Tested, mem: &FakeMemory, ring: &DriverRing, upto: u32, features: u64) {
    let mut write = |offset, value| device.write(mem, offset, 4, value);
    for status in [0, 1, 3] {
        write(STATUS_OFFSET, status);
    }
    for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
        write(0x24, select);
        write(0x20, half);
    }
    if upto >= 11 {
        write(STATUS_OFFSET, 11);
        write(0x30, 0);
        write(0x38, 8);
        for (offset, at) in [(0x80, ring.desc), (0x90, ring.avail), (0xa0, ring.used)] {
            write(offset, at);
        }
        write(0x44, 1);
    }
    if upto >= 15 {
        write(STATUS_OFFSET, 15);
    }
}

const PLAIN: u64 = 1 << 32;

fn running() -> (Tested, FakeMemory, DriverRing) {
    let (mut device, mem) = (device(), FakeMemory::new(0x4000));
    let ring = DriverRing::at(0x1000, 8);
    negotiate(&mut device, &mem, &ring, 15, PLAIN);
    (device, mem, ring)
}

/// Each word that was shown is what is read.
fn compare(device: &mut Tested, shown: &Tail) {
    for (word, &shown) in shown.iter().enumerate() {
        let offset = TAIL + 4 * word as u64;
        let mut read = device.read(offset, 4) as u32;
        if offset == TAIL {
            read |= INTERRUPT_VRING;
        }
        assert_eq!(read, shown, "{offset:#x}");
    }
}

#[test]
fn a_running_device_shows_what_it_would_answer() {
    let (mut device, ..) = running();
    let shown = device.still().unwrap();
    compare(&mut device, &shown);
    assert_eq!(shown.len(), WORDS);
    assert_eq!((shown[0], shown[STATUS]), (INTERRUPT_VRING, 15));
    assert_eq!(shown[40], u32::from_le_bytes(*b"capa"));
    // Shared memory: none. QueueReset: done. Write-only registers: nothing.
    assert_eq!((shown[20], shown[24], shown[1]), (u32::MAX, 0, 0));
    assert!(device.is_as_shown(&shown));
}

#[test]
fn a_device_that_is_set_up_or_broken_or_given_up_shows_nothing() {
    let mem = FakeMemory::new(0x4000);
    let ring = DriverRing::at(0x1000, 8);
    for status in [3, 11] {
        let mut device = device();
        assert!(!device.is_still());
        negotiate(&mut device, &mem, &ring, status, PLAIN);
        assert_eq!(device.still(), None, "{status}");
    }
    for status in [0, 15 | 128] {
        let (mut device, mem, _) = running();
        let shown = device.still().unwrap();
        device.write(&mem, STATUS_OFFSET, 4, status);
        assert!(!device.is_as_shown(&shown) && device.still().is_none());
    }
    let (mut device, mem, ring) = running();
    let shown = device.still().unwrap();
    ring.offer(&mem, 99);
    device.write(&mem, 0x50, 4, 0);
    device.run(&mem, 8, &mut Chain::new());
    assert!(device.status().contains(Status::NEEDS_RESET));
    assert!(!device.is_as_shown(&shown) && device.still().is_none());
}

#[test]
fn who_could_wait_for_a_queue_in_the_tail_and_whose_acknowledgements_come_at_once_is_shown_nothing()
{
    let mem = FakeMemory::new(0x4000);
    let ring = DriverRing::at(0x1000, 8);
    let mut late = device();
    negotiate(
        &mut late,
        &mem,
        &ring,
        15,
        PLAIN | Features::RING_RESET.bits(),
    );
    assert!(late.status().contains(Status::DRIVER_OK) && !late.is_still());
    let mut prompt: Tested = MmioTransport::new(Echo([0; 70]), 8);
    negotiate(&mut prompt, &mem, &ring, 15, PLAIN);
    assert!(prompt.status().contains(Status::DRIVER_OK) && !prompt.is_still());
    // What is not compared is not shown.
    let (mut device, ..) = running();
    device.device_mut().0[64] = 1;
    assert!(device.is_still() && device.still().is_none());
}

#[test]
fn a_change_is_shown_when_the_driver_has_acknowledged_it() {
    let (mut device, mem, _) = running();
    let before = device.still().unwrap();
    device.reconfigure(|echo| echo.0[0] = b'C');
    assert!(!device.is_as_shown(&before) && !device.is_still());
    // Of an interrupt before.
    device.write(&mem, ACK, 4, u64::from(INTERRUPT_VRING));
    assert!(!device.is_still());
    device.write(&mem, ACK, 4, u64::from(INTERRUPT_VRING | INTERRUPT_CONFIG));
    let after = device.still().unwrap();
    compare(&mut device, &after);
    assert!(!device.is_as_shown(&before));
    assert_eq!(after[40], u32::from_le_bytes(*b"Capa"));
    // A device that does not tell is found out too.
    device.device_mut().0[63] = 1;
    assert!(device.is_still() && !device.is_as_shown(&after));
}

#[test]
fn writes_of_the_status_that_nobody_heard() {
    let shown = Status::from_bits_retain(15);
    let heard = |found| unheard(shown, found).collect::<Vec<_>>();
    assert_eq!(heard(15), [] as [u32; 0]);
    assert_eq!(heard(0), [0]);
    assert_eq!(heard(1), [0, 1]);
    assert_eq!(heard(11), [0, 11]);
    assert_eq!(heard(15 | 128), [15 | 128]);
    // Replayed on the device that they were for, they leave it as if they had been heard.
    for (writes, last) in [(&[0, 1, 3][..], 3), (&[143], 143), (&[0], 0), (&[15], 15)] {
        let (mut device, mem, _) = running();
        let (mut other, ..) = running();
        for value in writes {
            device.write(&mem, STATUS_OFFSET, 4, *value);
        }
        for value in heard(last) {
            other.write(&mem, STATUS_OFFSET, 4, value.into());
        }
        assert_eq!(device.status(), other.status(), "{writes:?}");
    }
}

/// What may happen to a running device.
#[derive(Clone, Debug)]
enum Event {
    Request,
    Run,
    Write(u64, u32),
    Change(usize, u8, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let offsets = prop_oneof![
        Just(0x30),
        Just(0x44),
        Just(0x50),
        Just(ACK),
        Just(STATUS_OFFSET),
        Just(0x80),
        Just(0xac),
        Just(0xc0),
        (0..0x80_u64).prop_map(|word| word * 4)
    ];
    let values = prop_oneof![0..4_u32, Just(15), Just(143), any::<u32>()];
    prop_oneof![
        Just(Event::Request),
        Just(Event::Run),
        (offsets, values).prop_map(|(offset, value)| Event::Write(offset, value)),
        (0..64_usize, any::<u8>(), any::<bool>())
            .prop_map(|(at, byte, told)| Event::Change(at, byte, told)),
    ]
}

proptest! {
    #[test]
    fn what_is_shown_is_what_is_read(events in proptest::collection::vec(event(), 1..60)) {
        let (mut device, mem, ring) = running();
        let mut shown = device.still().unwrap();
        let mut chain = Chain::new();
        let mut head = 0;
        for event in events {
            match event {
                // More than the ring has, of a driver that does not look: that breaks it, as anything may here.
                Event::Request => {
                    ring.describe(&mem, head, 0x3000, 1, WRITE, 0);
                    ring.offer(&mem, head);
                    head = (head + 1) % 8;
                    device.write(&mem, 0x50, 4, 0);
                }
                Event::Run => device.run(&mem, 8, &mut chain),
                Event::Write(offset, value) => device.write(&mem, offset, 4, value.into()),
                Event::Change(at, byte, false) => device.device_mut().0[at] = byte,
                Event::Change(at, byte, true) => device.reconfigure(|echo| echo.0[at] = byte),
            }
            if device.is_as_shown(&shown) {
                compare(&mut device, &shown);
            } else if let Some(now) = device.still() {
                shown = now;
                compare(&mut device, &shown);
            }
        }
    }
}
