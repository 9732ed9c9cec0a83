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
fn network_devices_may_have_an_uplink() {
    let (_, device) = parse("type=net,backend=vif:3,mac=00:16:3e:00:00:01,queues=2").unwrap();
    assert!(device.to_string().contains("backend=vif:3,"), "{device}");
    assert_eq!(parse(&device.to_string()).unwrap().1, device);
    assert_eq!(device.virtqueues(), 5);
    assert_eq!(
        refusal("type=blk,backend=vif:0"),
        ConfigError::BackendNotFor(DeviceType::Blk)
    );
    assert_eq!(
        refusal("type=net,backend=vif:0"),
        ConfigError::MissingKey("mac")
    );
    let error = refusal("type=net,backend=vif:eth0,mac=00:16:3e:00:00:01").to_string();
    assert!(error.contains("backend=vif:0"), "{error}");
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
        parse("type=blk,backend=module,packed=0,interrupt=msi,doorbell=event-channel").unwrap();
    assert!(!device.packed());
    assert_eq!(device.interrupt(TargetType::Pvh), Interrupt::Msi);
    assert_eq!(device.doorbell(), Doorbell::EventChannel);
    assert_eq!(device.memory(), Memory::Foreign);
    let (_, device) = parse("type=blk,backend=module,memory=grants").unwrap();
    assert_eq!(device.memory(), Memory::Grants);
    assert_eq!(device.check_guest(TargetType::Pvh), Ok(()));
    assert_eq!(
        device.check_guest(TargetType::Hvm),
        Err(ConfigError::GrantsNotForHvm)
    );
}

const NET: &str = "type=net,backend=switch,mac=00:16:3E:aa:00:ff";

#[test]
fn network_devices_have_an_address_and_an_mtu() {
    let (_, device) = parse(NET).unwrap();
    assert_eq!(device.kind(), DeviceType::Net);
    let mac = device.mac().unwrap();
    assert_eq!(mac.bytes(), [0, 0x16, 0x3e, 0xaa, 0, 0xff]);
    assert_eq!(mac.to_string(), "00:16:3e:aa:00:ff");
    assert_eq!((device.mtu().bytes(), device.virtqueues()), (1500, 3));
    assert!(device.offloads());
    let (_, device) = parse(&format!("{NET},mtu=9000,queues=4,offloads=0")).unwrap();
    assert!(!device.offloads());
    assert_eq!((device.mtu().bytes(), device.queues()), (9000, 4));
    assert_eq!(device.virtqueues(), 9);
    let names: Vec<String> = pairs(&device).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "type",
        "backend",
        "mtu",
        "offloads",
        "mac",
        "packed",
        "queues",
        "queue-size",
    ];
    assert_eq!(names, expected);
    let (_, disk) = parse("type=blk,backend=module,queues=4").unwrap();
    assert_eq!((disk.virtqueues(), disk.mac()), (4, None));
}

const RNG: &str = "type=rng,backend=cpu";

#[test]
fn an_entropy_device_has_a_rate() {
    let (_, device) = parse(RNG).unwrap();
    assert_eq!((device.kind(), device.rate()), (DeviceType::Rng, 1 << 16));
    assert_eq!((device.virtqueues(), device.queues()), (1, 1));
    let names: Vec<String> = pairs(&device).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["type", "backend", "rate", "packed", "queue-size"]);
    for (rate, bytes) in [("1", 1), ("1K", 1024), ("1G", 1 << 30)] {
        let (_, device) = parse(&format!("{RNG},rate={rate}")).unwrap();
        assert_eq!(device.rate(), bytes);
        let again = DeviceDescription::parse(device.to_string().as_bytes());
        assert_eq!(again, Ok((None, device)));
    }
    for bad in ["0", "1073741825", "4G", "8G"] {
        let error = refusal(&format!("{RNG},rate={bad}"));
        assert!(matches!(error, ConfigError::BadRate(_)), "{bad}");
    }
}

const CONSOLE: &str = "type=console,backend=console";

#[test]
fn a_console_device_has_ports() {
    let (_, device) = parse(CONSOLE).unwrap();
    assert_eq!(
        (device.kind(), device.virtqueues()),
        (DeviceType::Console, 4)
    );
    assert!(device.ports().is_empty());
    let (_, device) = parse(&format!("{CONSOLE},ports=data/org.qemu-ga_0.x/C")).unwrap();
    assert_eq!(device.ports().len(), PortNames::MOST);
    assert_eq!(device.virtqueues(), crate::MAX_VIRTQUEUES);
    let names: Vec<&str> = device.ports().iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["data", "org.qemu-ga_0.x", "C"]);
    assert_eq!(
        device.to_string(),
        "type=console,backend=console,ports=data/org.qemu-ga_0.x/C,packed=1,queue-size=256"
    );
    let again = DeviceDescription::parse(device.to_string().as_bytes());
    assert_eq!(again, Ok((None, device)));
    let long = "x".repeat(33);
    for bad in [
        "", "/", "a/", "/a", "a/b/c/d", "a/a", "1", "-a", "a b", "\u{e4}", &long,
    ] {
        let error = refusal(&format!("{CONSOLE},ports={bad}"));
        assert!(matches!(error, ConfigError::BadPorts(_)), "{bad}");
    }
    assert!(parse(&format!("{CONSOLE},ports={}", &long[1..])).is_ok());
}

#[test]
fn what_belongs_to_other_devices_is_refused() {
    use ConfigError as E;
    for key in ["serial=X", "readonly=0", "block-size=512", "memory=grants"] {
        let error = refusal(&format!("{NET},{key}"));
        assert!(matches!(error, E::KeyNotFor(DeviceType::Net, _)), "{key}");
    }
    for key in ["mac=00:16:3e:00:00:01", "mtu=1500", "offloads=1"] {
        let error = refusal(&format!("type=blk,backend=module,{key}"));
        assert!(matches!(error, E::KeyNotFor(DeviceType::Blk, _)), "{key}");
    }
    for key in [
        "serial=X",
        "readonly=0",
        "mac=00:16:3e:00:00:01",
        "mtu=1500",
        "queues=1",
    ] {
        let error = refusal(&format!("{RNG},{key}"));
        assert!(matches!(error, E::KeyNotFor(DeviceType::Rng, _)), "{key}");
    }
    for text in ["type=blk,backend=module,rate=1K", &format!("{NET},rate=1K")] {
        assert!(matches!(refusal(text), E::KeyNotFor(_, "rate")), "{text}");
    }
    for key in ["serial=X", "mtu=1500", "rate=1K", "queues=1"] {
        let error = refusal(&format!("{CONSOLE},{key}"));
        assert!(
            matches!(error, E::KeyNotFor(DeviceType::Console, _)),
            "{key}"
        );
    }
    for text in [
        "type=blk,backend=module,ports=a",
        &format!("{NET},ports=a"),
        &format!("{RNG},ports=a"),
    ] {
        assert!(matches!(refusal(text), E::KeyNotFor(_, "ports")), "{text}");
    }
    for (text, kind) in [
        ("type=blk,backend=cpu", DeviceType::Blk),
        ("type=blk,backend=console", DeviceType::Blk),
        ("type=console,backend=cpu", DeviceType::Console),
        ("type=rng,backend=module", DeviceType::Rng),
        ("type=rng,backend=switch", DeviceType::Rng),
        (
            "type=net,backend=module,mac=00:16:3e:00:00:01",
            DeviceType::Net,
        ),
        (
            "type=net,backend=ram:1M,mac=00:16:3e:00:00:01",
            DeviceType::Net,
        ),
        ("type=blk,backend=switch", DeviceType::Blk),
    ] {
        assert_eq!(refusal(text), E::BackendNotFor(kind));
    }
    assert_eq!(refusal("type=net,backend=switch"), E::MissingKey("mac"));
}

#[test]
fn addresses_and_mtus_have_one_form() {
    for bad in [
        "",
        "00:16:3e:00:00",
        "00:16:3e:00:00:00:01",
        "00-16-3e-00-00-01",
        "0:16:3e:00:00:01",
        "00:16:3e:00:00:1",
        "01:16:3e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "00:16:3e:00:00:0g",
        "00:16:3e:00:00:+1",
        "00:16:3e:00:00:01:",
    ] {
        let error = refusal(&format!("type=net,backend=switch,mac={bad}"));
        assert!(matches!(error, ConfigError::BadMac(_)), "{bad}");
    }
    for (mtu, good) in [
        ("1279", false),
        ("1280", true),
        ("9216", true),
        ("9217", false),
        ("01500", false),
    ] {
        assert_eq!(parse(&format!("{NET},mtu={mtu}")).is_ok(), good, "{mtu}");
    }
}

#[test]
fn optional_keys_have_defaults() {
    let (slot, device) = parse("type=blk,backend=module").unwrap();
    assert_eq!(slot, None);
    assert_eq!(device.backend(), Backend::Module);
    assert_eq!((device.serial(), device.readonly()), (None, false));
    assert_eq!(device.block_size(), BlockSize::B512);
    assert_eq!((device.queues(), device.queue_size()), (1, 256));
    assert!(device.packed());
    let (_, device) = parse("type=blk,backend=vbd:xvda").unwrap();
    assert!(!device.packed());
    let (_, asked) = parse("type=blk,backend=vbd:xvda,packed=1").unwrap();
    assert!(asked.packed());
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
    assert_eq!(device.window(slot), 0xA_4FA0);
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
fn registers_are_in_memory_only_where_writes_are_posted() {
    let (_, device) = parse("type=blk,backend=module,doorbell=posted,registers=memory").unwrap();
    assert_eq!(device.reads(), Reads::Memory);
    assert_eq!(device.check_guest(TargetType::Hvm), Ok(()));
    let (_, open) = parse("type=blk,backend=module,registers=memory").unwrap();
    assert_eq!(open.doorbell(), Doorbell::Posted);
    assert_eq!(open.check_guest(TargetType::Hvm), Ok(()));
    assert!(open.check_guest(TargetType::Pvh).is_err());
    let (_, mmio) = parse("type=blk,backend=module,doorbell=mmio,registers=memory").unwrap();
    for guest in TargetType::ALL {
        let refused = Err(ConfigError::MemoryNeedsPosted);
        assert_eq!(mmio.check_guest(guest), refused);
    }
    let (_, plain) = parse("type=blk,backend=module,registers=trapped").unwrap();
    assert_eq!(plain.reads(), Reads::default());
    assert!(!plain.to_string().contains("registers"), "{plain}");
    let error = refusal("type=blk,backend=module,registers=mmio").to_string();
    assert!(error.contains("registers \"mmio\""), "{error}");
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
    assert!(matches!(refusal("type=gpu,backend=module"), E::BadType(_)));
    assert!(matches!(refusal("type=blk,backend=file"), E::BadBackend(_)));
    assert!(matches!(refusal("type=blk,backend=ram"), E::BadBackend(_)));
    assert!(matches!(refusal("type=blk,backend=ram:"), E::BadSize(_)));
    assert!(matches!(refusal("type=blk,backend=ram:-1"), E::BadSize(_)));
    assert!(matches!(
        refusal("type=blk,backend=ram:17179869184G"),
        E::SizeTooLarge(_)
    ));
    assert!(matches!(
        refusal("slot=32,type=blk,backend=module"),
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
        assert!(error.to_string().len() < 240, "{error}");
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
        (
            proptest::sample::select(&Memory::ALL[..]),
            proptest::sample::select(&Reads::ALL[..]),
        ),
        proptest::option::of((any::<[u8; 6]>(), 1280..=9216_u16)),
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
                (memory, reads),
                net,
            )| {
                let posted = (reads == Reads::Memory).then_some(Doorbell::Posted);
                let doorbell = doorbell.or(posted);
                let queues = Queues::new(queues).unwrap();
                let queue_size = QueueSize::new(1 << shift).unwrap();
                if let Some(([_, rest @ ..], mtu)) = net {
                    let [a, b, c, d, e] = rest;
                    return DeviceDescription {
                        kind: DeviceType::Net,
                        backend: Backend::Switch,
                        serial: None,
                        readonly: false,
                        packed,
                        queues,
                        queue_size,
                        block_size: BlockSize::default(),
                        mac: MacAddress::new([2, a, b, c, d, e]),
                        mtu: Mtu::new(mtu).unwrap(),
                        offloads: readonly,
                        rate: Rate::default(),
                        ports: PortNames::default(),
                        interrupt,
                        doorbell,
                        reads,
                        memory: Memory::default(),
                    };
                }
                DeviceDescription {
                    kind: DeviceType::Blk,
                    backend: blocks.map_or(Backend::Module, |blocks| {
                        Backend::Ram(ByteSize(blocks * u64::from(block_size.bytes())))
                    }),
                    serial: serial.map(|text| Serial::new(text.as_bytes()).unwrap()),
                    readonly,
                    packed,
                    queues,
                    queue_size,
                    block_size,
                    mac: None,
                    mtu: Mtu::default(),
                    offloads: true,
                    rate: Rate::default(),
                    ports: PortNames::default(),
                    interrupt,
                    doorbell,
                    reads,
                    memory,
                }
            },
        )
}

proptest! {
    #[test]
    fn text_and_back_is_the_same(device in any_device(), number in 0_u8..32) {
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
        text in "((slot|type|backend|serial|readonly|block-size|packed|queues|queue-size|mac|mtu|offloads|rate|ports|interrupt|doorbell|registers|memory)=(blk|net|rng|console|switch|cpu|module|vif:[0-9]{0,5}|00:16:3e:00:00:01|msi|polled|grants|memory|ram:[0-9]{0,22}[KMG]?|vbd:(xvd[a-z]{0,2}[0-9]{0,3}|[0-9]{0,10})|[0-9]{0,5}|[a-z,]{0,25}),?){0,6}"
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
