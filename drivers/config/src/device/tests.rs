//! Descriptions from both of their forms, good ones and hostile ones.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<(Option<SlotIndex>, DeviceDescription), ConfigError> {
    DeviceDescription::parse(text.as_bytes())
}

fn refusal(text: &str) -> ConfigError {
    parse(text).expect_err(text)
}

fn pairs(device: &DeviceDescription) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let _ = device.write_pairs::<()>(|name, value| {
        pairs.push((name.into(), value.to_string()));
        Ok(())
    });
    pairs
}

fn read_back(pairs: &[(String, String)]) -> Result<DeviceDescription, ConfigError> {
    DeviceDescription::from_pairs(pairs.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())))
}

#[test]
fn all_keys_are_understood() {
    let (slot, device) =
        parse("slot=15, type=blk,backend=ram:64M,serial=VDOM0,readonly=1,block-size=4096,queues=4,queue-size=1024")
            .unwrap();
    assert_eq!(slot, SlotIndex::new(15));
    assert_eq!(device.kind(), DeviceType::Blk);
    assert_eq!(device.backend(), Backend::Ram(ByteSize(64 << 20)));
    assert_eq!(device.serial(), Some("VDOM0"));
    assert!(device.readonly());
    assert_eq!(device.block_size(), BlockSize::B4096);
    assert_eq!((device.queues(), device.queue_size()), (4, 1024));
    let (_, device) =
        parse("type=blk,backend=module,interrupt=msi,doorbell=event-channel").unwrap();
    assert_eq!(device.interrupt(TargetType::Pvh), Interrupt::Msi);
    assert_eq!(device.doorbell(), Doorbell::EventChannel);
}

#[test]
fn optional_keys_have_defaults() {
    let (slot, device) = parse("type=blk,backend=module").unwrap();
    assert_eq!(slot, None);
    assert_eq!(device.backend(), Backend::Module);
    assert_eq!((device.serial(), device.readonly()), (None, false));
    assert_eq!(device.block_size(), BlockSize::B512);
    assert_eq!((device.queues(), device.queue_size()), (1, 256));
    assert_eq!(device.doorbell(), Doorbell::Mmio);
    for guest in TargetType::ALL {
        assert_eq!(device.interrupt(guest), Interrupt::default_for(guest));
    }
}

#[test]
fn posted_writes_go_with_edges_and_have_a_window_of_their_own() {
    let slot = SlotIndex::new(2).unwrap();
    let (_, device) = parse("type=blk,backend=module,doorbell=posted").unwrap();
    assert_eq!(device.interrupt(TargetType::Hvm), Interrupt::Edge);
    assert_eq!(device.window(slot), 0xA_2000);
    assert_eq!(device.check_guest(TargetType::Hvm), Ok(()));
    assert!(device.check_guest(TargetType::Pvh).is_err());
    let (_, level) = parse("type=blk,backend=module,doorbell=posted,interrupt=intx").unwrap();
    assert_eq!(
        level.check_guest(TargetType::Hvm),
        Err(ConfigError::PostedNeedsEdge)
    );
    let (_, other) = parse("type=blk,backend=module").unwrap();
    assert_eq!(other.window(slot), slot.base());
}

#[test]
fn disks_of_other_domains_bring_their_own_blocks() {
    let (_, device) = parse("type=blk,backend=vbd:51728,readonly=1").unwrap();
    let Backend::Vbd(disk) = device.backend() else {
        panic!("{device}");
    };
    assert_eq!((disk.number(), device.readonly()), (51728, true));
    assert!(device.to_string().contains("backend=vbd:xvdb,"), "{device}");
    assert_eq!(read_back(&pairs(&device)).unwrap(), device);
    assert_eq!(parse(&device.to_string()).unwrap().1, device);
    assert_eq!(
        refusal("type=blk,backend=vbd:xvdb,block-size=512"),
        ConfigError::BlockSizeOfDisk
    );
    let error = refusal("type=blk,backend=vbd:vda").to_string();
    assert!(
        error.contains("\"vda\"") && error.contains("xvda"),
        "{error}"
    );
}

#[test]
fn queues_have_bounds() {
    let with = |key: &str, value: &str| parse(&format!("type=blk,backend=module,{key}={value}"));
    for (value, good) in [
        ("0", false),
        ("1", true),
        ("4", true),
        ("5", false),
        ("65537", false),
        ("01", false),
    ] {
        assert_eq!(with("queues", value).is_ok(), good, "{value}");
    }
    for (value, good) in [
        ("0", false),
        ("1", false),
        ("2", true),
        ("3", false),
        ("32768", true),
        ("65536", false),
    ] {
        assert_eq!(with("queue-size", value).is_ok(), good, "{value}");
    }
}

#[test]
fn malformed_strings_say_what_is_wrong() {
    use ConfigError as E;
    assert!(matches!(refusal(""), E::NotKeyValue(_)));
    assert!(matches!(refusal("blk"), E::NotKeyValue(_)));
    assert!(matches!(
        refusal("type=blk,,backend=module"),
        E::NotKeyValue(_)
    ));
    assert!(matches!(
        refusal("type=blk,backend=module,"),
        E::NotKeyValue(_)
    ));
    assert!(matches!(
        refusal("type=blk,backend=module,size=1"),
        E::UnknownKey(_)
    ));
    assert!(matches!(refusal("=blk"), E::UnknownKey(_)));
    assert_eq!(
        refusal("type=blk,type=blk,backend=module"),
        E::DuplicateKey("type")
    );
    assert_eq!(refusal("slot=1,slot=1,type=blk"), E::DuplicateKey("slot"));
    assert_eq!(refusal("backend=module"), E::MissingKey("type"));
    assert_eq!(refusal("type=blk"), E::MissingKey("backend"));
    assert!(matches!(refusal("type=net,backend=module"), E::BadType(_)));
    assert!(matches!(refusal("type=blk,backend=file"), E::BadBackend(_)));
    assert!(matches!(refusal("type=blk,backend=ram"), E::BadBackend(_)));
    assert!(matches!(refusal("type=blk,backend=ram:"), E::BadSize(_)));
    assert!(matches!(refusal("type=blk,backend=ram:-1"), E::BadSize(_)));
    assert!(matches!(
        refusal("type=blk,backend=ram:17179869184G"),
        E::SizeTooLarge(_)
    ));
    assert!(matches!(
        refusal("slot=16,type=blk,backend=module"),
        E::BadSlot(_)
    ));
    assert!(matches!(
        refusal("slot=-1,type=blk,backend=module"),
        E::BadSlot(_)
    ));
    assert!(matches!(
        refusal("type=blk,backend=module,readonly=yes"),
        E::BadFlag("readonly", _)
    ));
    assert!(matches!(
        refusal("type=blk,backend=module,block-size=1024"),
        E::BadBlockSize(_)
    ));
    assert!(matches!(
        refusal("type=blk,backend=module,serial="),
        E::BadSerial(_)
    ));
    assert!(matches!(
        refusal("type=blk,backend=module,serial=123456789012345678901"),
        E::BadSerial(_)
    ));
}

#[test]
fn disks_consist_of_whole_blocks() {
    for bad in [
        "type=blk,backend=ram:0",
        "type=blk,backend=ram:100",
        "type=blk,backend=ram:512,block-size=4096",
    ] {
        assert!(
            matches!(refusal(bad), ConfigError::NotWholeBlocks { .. }),
            "{bad}"
        );
    }
    let (_, device) = parse("type=blk,backend=module,block-size=4096").unwrap();
    assert_eq!(device.check_capacity(8192), Ok(()));
    assert!(device.check_capacity(0).is_err());
    assert!(device.check_capacity(4096 + 512).is_err());
}

/// Attack case 37: what is in xenstore is not to be trusted.
#[test]
fn hostile_store_values_are_refused() {
    let huge = [b'9'; 5000];
    let good: [(&[u8], &[u8]); 2] = [(b"type", b"blk"), (b"backend", b"module")];
    for (name, value) in [
        (&b"serial"[..], &[0xff, 0xfe][..]),
        (b"serial", b""),
        (b"serial", &huge),
        (b"readonly", b"-1"),
        (b"readonly", b""),
        (b"block-size", b"18446744073709552128"),
        (b"block-size", b"-512"),
        (b"block-size", &huge),
        (b"slot", b"0"),
        (b"\xff\xfe", b"1"),
        (b"", b""),
        (&huge, b"1"),
    ] {
        let all = good.into_iter().chain([(name, value)]);
        let error = DeviceDescription::from_pairs(all).unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }
    assert!(DeviceDescription::from_pairs([]).is_err());
}

fn any_device() -> impl Strategy<Value = DeviceDescription> {
    let block = prop_oneof![Just(BlockSize::B512), Just(BlockSize::B4096)];
    let blocks = 1..=u64::MAX / 4096;
    let serial = proptest::option::of("[!#-&(-+.-~-]{1,20}");
    (
        block,
        proptest::option::of(blocks),
        serial,
        any::<bool>(),
        any::<bool>(),
        (1..=MAX_QUEUES, 1..=15_u32),
        proptest::option::of(proptest::sample::select(&Interrupt::ALL[..])),
        proptest::option::of(proptest::sample::select(&Doorbell::ALL[..])),
    )
        .prop_map(
            |(
                block_size,
                blocks,
                serial,
                readonly,
                packed,
                (queues, shift),
                interrupt,
                doorbell,
            )| {
                DeviceDescription {
                    kind: DeviceType::Blk,
                    backend: blocks.map_or(Backend::Module, |blocks| {
                        Backend::Ram(ByteSize(blocks * u64::from(block_size.bytes())))
                    }),
                    serial: serial.map(|text| Serial::new(text.as_bytes()).unwrap()),
                    readonly,
                    packed,
                    queues: Queues::new(queues).unwrap(),
                    queue_size: QueueSize::new(1 << shift).unwrap(),
                    block_size,
                    interrupt,
                    doorbell,
                }
            },
        )
}

proptest! {
    #[test]
    fn text_and_back_is_the_same(device in any_device(), number in 0_u8..16) {
        let text = format!("slot={number},{device}");
        let (slot, parsed) = DeviceDescription::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(slot, SlotIndex::new(number));
        prop_assert_eq!(parsed, device);
    }

    #[test]
    fn pairs_and_back_are_the_same(device in any_device()) {
        prop_assert_eq!(read_back(&pairs(&device)).unwrap(), device);
    }

    #[test]
    fn sizes_and_back_are_the_same(bytes in any::<u64>()) {
        let size = ByteSize(bytes);
        prop_assert_eq!(ByteSize::parse(size.to_string().as_bytes()), Ok(size));
    }

    #[test]
    fn round_sizes_and_back_are_the_same(number in any::<u64>(), shift in 0_u32..40) {
        let size = ByteSize(number << shift);
        prop_assert_eq!(ByteSize::parse(size.to_string().as_bytes()), Ok(size));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        more in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = DeviceDescription::parse(&bytes);
        let _ = ByteSize::parse(&bytes);
        let _ = SlotIndex::parse(&bytes);
        let _ = crate::State::parse(&bytes);
        let _ = crate::Target::parse(&bytes);
        let _ = DeviceDescription::from_pairs([(&bytes[..], &more[..])]);
        for name in key::ALL {
            let _ = DeviceDescription::from_pairs([(name.as_bytes(), &more[..])]);
        }
    }

    /// Strings that are nearly right reach deeper than random bytes do.
    #[test]
    fn nearly_right_strings_give_a_device_or_an_error_with_a_remedy(
        text in "((slot|type|backend|serial|readonly|block-size|packed|queues|queue-size|interrupt|doorbell)=(blk|module|msi|polled|ram:[0-9]{0,22}[KMG]?|vbd:(xvd[a-z]{0,2}[0-9]{0,3}|[0-9]{0,10})|[0-9]{0,5}|[a-z,]{0,25}),?){0,6}"
    ) {
        match DeviceDescription::parse(text.as_bytes()) {
            Ok((_, device)) => {
                let again = DeviceDescription::parse(device.to_string().as_bytes()).unwrap().1;
                prop_assert_eq!(again, device);
            }
            Err(error) => prop_assert!(error.to_string().contains(": "), "{}", error),
        }
    }
}
