//! The doorbell registry's contract, and what a match costs.

use vd_ioreq::doorbell::{MAX_PROBES, MAX_VCPUS};
use vd_ioreq::{
    DomId, Doorbell, DoorbellError, DoorbellWidth, Match, Recipient, Registry, Space, Width,
};

const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Dword, Width::Qword];

fn doorbell(addr: u64) -> Doorbell {
    Doorbell {
        domain: DomId(3),
        vcpus: 4,
        space: Space::Memory,
        addr,
        width: DoorbellWidth::Exactly(Width::Dword),
        matching: Match::Any,
        recipient: Recipient {
            device: 1,
            queue: 2,
        },
    }
}

fn rings<const N: usize>(
    registry: &Registry<N>,
    space: Space,
    addr: u64,
    width: Width,
    value: u64,
) -> bool {
    registry.lookup(space, addr, width, value).kick.is_some()
}

#[test]
fn matches_space_address_and_width() {
    for width in WIDTHS {
        for space in [Space::Memory, Space::Port] {
            let mut registry = Registry::<8>::new(None);
            registry
                .assign(&Doorbell {
                    space,
                    width: DoorbellWidth::Exactly(width),
                    ..doorbell(0x50)
                })
                .unwrap();
            for other in WIDTHS {
                assert_eq!(rings(&registry, space, 0x50, other, 9), other == width);
            }
            let other_space = if space == Space::Port {
                Space::Memory
            } else {
                Space::Port
            };
            assert!(!rings(&registry, other_space, 0x50, width, 9));
            assert!(!rings(&registry, space, 0x51, width, 9));
            assert!(!rings(&registry, space, 0x4f, width, 9));
        }
    }
}

#[test]
fn any_width_matches_every_width() {
    let mut registry = Registry::<8>::new(None);
    registry
        .assign(&Doorbell {
            width: DoorbellWidth::Any,
            ..doorbell(0x50)
        })
        .unwrap();
    assert!(
        WIDTHS
            .iter()
            .all(|width| rings(&registry, Space::Memory, 0x50, *width, 0))
    );
}

#[test]
fn queue_match_looks_at_the_low_16_bits_and_delivers_all() {
    let mut registry = Registry::<8>::new(None);
    for queue in [0, 1, 0xffff] {
        let recipient = Recipient { device: 5, queue };
        registry
            .assign(&Doorbell {
                matching: Match::Queue(queue),
                recipient,
                ..doorbell(0x50)
            })
            .unwrap();
    }
    let kick = registry
        .lookup(Space::Memory, 0x50, Width::Dword, 0xabcd_0001)
        .kick
        .unwrap();
    assert_eq!((kick.recipient.queue, kick.value), (1, 0xabcd_0001));
    assert_eq!(
        registry
            .lookup(Space::Memory, 0x50, Width::Dword, 0xffff)
            .kick
            .unwrap()
            .recipient
            .queue,
        0xffff
    );
    assert!(!rings(&registry, Space::Memory, 0x50, Width::Dword, 2));
}

#[test]
fn refuses_wrap_and_overflow() {
    let mut registry = Registry::<8>::new(None);
    let invalid = Err(DoorbellError::Invalid);
    assert_eq!(registry.assign(&doorbell(u64::MAX - 2)), invalid);
    assert_eq!(registry.assign(&doorbell(u64::MAX - 3)), invalid);
    assert_eq!(registry.assign(&doorbell(u64::MAX - 4)), Ok(()));
    let port = |addr| Doorbell {
        space: Space::Port,
        ..doorbell(addr)
    };
    assert_eq!(registry.assign(&port(0xfffd)), invalid);
    assert_eq!(registry.assign(&port(0x1_0000)), invalid);
    assert_eq!(registry.assign(&port(0xfffc)), Ok(()));
    let never = Doorbell {
        width: DoorbellWidth::Exactly(Width::Byte),
        matching: Match::Queue(256),
        ..doorbell(0x50)
    };
    assert_eq!(registry.assign(&never), invalid, "a byte has no such value");
}

#[test]
fn vcpus_from_1_to_4096() {
    for (vcpus, result) in [
        (0, Err(DoorbellError::Invalid)),
        (1, Ok(())),
        (MAX_VCPUS, Ok(())),
        (4097, Err(DoorbellError::Invalid)),
    ] {
        assert_eq!(
            Registry::<8>::new(None).assign(&Doorbell {
                vcpus,
                ..doorbell(0x50)
            }),
            result
        );
    }
}

#[test]
fn what_could_match_the_same_write_is_busy() {
    let exact = doorbell(0x50);
    let any = Doorbell {
        width: DoorbellWidth::Any,
        ..exact
    };
    let queue = Doorbell {
        matching: Match::Queue(1),
        ..exact
    };
    for (first, second, free) in [
        (exact, exact, false),
        (exact, any, false),
        (any, exact, false),
        (exact, queue, false),
        (queue, exact, false),
        (
            queue,
            Doorbell {
                width: DoorbellWidth::Any,
                ..queue
            },
            false,
        ),
        (
            queue,
            Doorbell {
                matching: Match::Queue(2),
                ..exact
            },
            true,
        ),
        (
            exact,
            Doorbell {
                width: DoorbellWidth::Exactly(Width::Word),
                ..exact
            },
            true,
        ),
        (
            exact,
            Doorbell {
                space: Space::Port,
                ..exact
            },
            true,
        ),
        (exact, doorbell(0x54), true),
    ] {
        let mut registry = Registry::<8>::new(None);
        registry.assign(&first).unwrap();
        let expected = if free {
            Ok(())
        } else {
            Err(DoorbellError::Busy)
        };
        assert_eq!(registry.assign(&second), expected, "{first:?} {second:?}");
    }
}

#[test]
fn unknown_on_deassign() {
    let mut registry = Registry::<8>::new(None);
    assert_eq!(
        registry.deassign(&doorbell(0x50)),
        Err(DoorbellError::NoDevice)
    );
    registry.assign(&doorbell(0x50)).unwrap();
    assert!(!registry.is_empty());
    let other = Doorbell {
        matching: Match::Queue(1),
        ..doorbell(0x50)
    };
    assert_eq!(registry.deassign(&other), Err(DoorbellError::NoDevice));
    assert_eq!(
        registry.deassign(&doorbell(0x50)),
        Ok(Recipient {
            device: 1,
            queue: 2
        })
    );
    assert!(registry.is_empty());
    assert!(!rings(&registry, Space::Memory, 0x50, Width::Dword, 0));
}

#[test]
fn all_doorbells_are_of_one_domain_and_vcpu_count() {
    let mut registry = Registry::<8>::new(None);
    registry.assign(&doorbell(0x50)).unwrap();
    let invalid = Err(DoorbellError::Invalid);
    assert_eq!(
        registry.assign(&Doorbell {
            domain: DomId(4),
            ..doorbell(0x150)
        }),
        invalid
    );
    assert_eq!(
        registry.assign(&Doorbell {
            vcpus: 5,
            ..doorbell(0x150)
        }),
        invalid
    );
    assert_eq!(
        registry.deassign(&Doorbell {
            vcpus: 5,
            ..doorbell(0x50)
        }),
        Err(DoorbellError::Invalid)
    );
    registry.deassign(&doorbell(0x50)).unwrap();
    let next = Doorbell {
        domain: DomId(4),
        vcpus: 5,
        ..doorbell(0x50)
    };
    assert_eq!(
        registry.assign(&next),
        Ok(()),
        "with the last one the registry is free again"
    );
}

#[test]
fn other_domains_than_the_target_are_not_permitted() {
    let mut registry = Registry::<8>::new(Some(DomId(3)));
    let foreign = Doorbell {
        domain: DomId(4),
        ..doorbell(0x50)
    };
    assert_eq!(registry.assign(&foreign), Err(DoorbellError::NotPermitted));
    assert_eq!(
        registry.deassign(&foreign),
        Err(DoorbellError::NotPermitted)
    );
    assert_eq!(registry.assign(&doorbell(0x50)), Ok(()));
}

#[test]
fn full_is_said_and_changes_nothing() {
    let mut registry = Registry::<8>::new(None);
    for n in 0..4 {
        registry.assign(&doorbell(n * 0x1000)).unwrap();
    }
    assert_eq!(registry.assign(&doorbell(0x8000)), Err(DoorbellError::Full));
    assert_eq!(registry.len(), registry.capacity());
    assert!((0..4).all(|n| rings(&registry, Space::Memory, n * 0x1000, Width::Dword, 0)));
}

/// Four doorbells in eight cells: their probe runs touch and go around the end. Whatever is taken out, in every order, the
/// others are found.
#[test]
fn taking_one_out_hides_no_other() {
    for start in 0..100 {
        let all = [0, 1, 2, 3].map(|n| doorbell((start * 4 + n) * 0x200));
        for order in 0..24 {
            let mut registry = Registry::<8>::new(None);
            for each in &all {
                assert_eq!(registry.assign(each), Ok(()));
            }
            let mut left = all.to_vec();
            for choices in [4, 3, 2, 1] {
                let gone = left.remove(order % choices);
                assert!(registry.deassign(&gone).is_ok());
                for each in &all {
                    let found = rings(&registry, Space::Memory, each.addr, Width::Dword, 0);
                    assert_eq!(found, left.contains(each), "{each:?} after {gone:?}");
                }
            }
        }
    }
}

/// Shapes of key that no doorbell has are not looked for.
#[test]
fn a_lonely_doorbell_costs_one_probe() {
    assert_eq!(cost_of_one(None), 0);
    for width in [DoorbellWidth::Exactly(Width::Dword), DoorbellWidth::Any] {
        for matching in [Match::Queue(3), Match::Any] {
            let one = Doorbell {
                width,
                matching,
                ..doorbell(0x50)
            };
            assert_eq!(cost_of_one(Some(one)), 1, "{one:?}");
        }
    }
}

/// What a write of 3 costs with this doorbell only.
fn cost_of_one(doorbell: Option<Doorbell>) -> u32 {
    let mut registry = Registry::<8>::new(None);
    if let Some(doorbell) = doorbell {
        registry.assign(&doorbell).unwrap();
    }
    registry.lookup(Space::Memory, 0x50, Width::Dword, 3).probes
}

/// The cost of a match does not grow with the number of doorbells: windows at the distances that device models use.
#[test]
fn probes_with_4096_doorbells() {
    type Layout = (&'static str, fn(u64) -> Doorbell);
    let layouts: [Layout; 4] = [
        ("windows 512 bytes apart", |n| {
            doorbell(0xfea0_0050 + n * 0x200)
        }),
        ("windows 4 KiB apart", |n| {
            doorbell(0xfea0_0050 + n * 0x1000)
        }),
        ("windows 1 GiB apart", |n| doorbell(0x50 + (n << 30))),
        ("64 queues on each of 64 addresses", |n| Doorbell {
            matching: Match::Queue((n % 64) as u16),
            ..doorbell(0x50 + n / 64 * 0x1000)
        }),
    ];
    for (name, make) in layouts {
        let mut registry = Box::new(Registry::<8192>::new(None));
        let mut last = 0;
        for n in 0..4096 {
            registry
                .assign(&make(n))
                .unwrap_or_else(|error| panic!("{name}: {n}: {error:?}"));
            if n == 15 {
                last = cost(&registry, 16, make).1;
            }
        }
        let (mean_millis, most) = cost(&registry, 4096, make);
        println!(
            "{name}: 16 doorbells: {last} probes at most; 4096: {mean_millis}/1000 on average, {most} at most"
        );
        assert!(
            mean_millis < 2000,
            "{name}: {mean_millis}/1000 probes on average"
        );
        assert!(most <= MAX_PROBES as u32, "{name}: {most} probes");
        let miss = registry.lookup(Space::Memory, 0x51, Width::Dword, 0).probes;
        assert!(miss <= MAX_PROBES as u32);
    }
}

fn cost(registry: &Registry<8192>, n: u64, make: fn(u64) -> Doorbell) -> (u64, u32) {
    let probes: Vec<u32> = (0..n)
        .map(|n| {
            let doorbell = make(n);
            let value = if let Match::Queue(queue) = doorbell.matching {
                queue.into()
            } else {
                n
            };
            let found = registry.lookup(Space::Memory, doorbell.addr, Width::Dword, value);
            assert!(found.kick.is_some());
            found.probes
        })
        .collect();
    (
        probes.iter().map(|p| u64::from(*p)).sum::<u64>() * 1000 / n,
        probes.into_iter().max().unwrap(),
    )
}
