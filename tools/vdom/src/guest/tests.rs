//! Guests' configurations, good and bad.

use super::*;

fn check(text: &str, overrides: &[&str]) -> Result<Guest, Trouble> {
    let mut config = Config::default();
    config.add("dir/g.cfg", text)?;
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    for text in &overrides {
        config.add("command line", text)?;
    }
    Guest::from_config(&config, Path::new("dir/g.cfg"), &overrides)
}

const GOOD: &str = "name='web'\ntype='hvm'\nmemory=512\nvdom_devices=['type=blk,backend=ram:1M']\n";

fn refusal(more: &str) -> String {
    let trouble = check(&format!("{GOOD}{more}"), &[]).expect_err(more);
    assert!(!trouble.remedy.is_empty());
    format!("{} ({})", trouble.what, trouble.remedy)
}

#[test]
fn a_good_guest_has_what_it_asks_for() {
    let guest = check(GOOD, &["memory=256", "maxmem=256"]).unwrap();
    assert_eq!((guest.name.as_str(), guest.memory_mib), ("web", 256));
    assert_eq!(guest.devices.len(), 1);
    assert!(guest.notes.is_empty());
    assert_eq!(
        guest.overrides,
        [
            "memory=256",
            "maxmem=256",
            "on_reboot=\"preserve\"",
            "on_soft_reset=\"preserve\""
        ]
    );
    let DriverSource::Generated {
        name,
        image,
        ramdisk,
        disks,
        networks,
        cmdline,
    } = guest.driver
    else {
        panic!()
    };
    assert_eq!(
        (name.as_str(), image),
        ("web-vd", PathBuf::from(DEFAULT_IMAGE))
    );
    assert_eq!(
        (ramdisk, disks, networks, cmdline),
        (None, Vec::new(), Vec::new(), None)
    );
}

#[test]
fn register_writes_are_posted_where_there_is_no_vga_card_and_nothing_else_is_asked_for() {
    let doorbells = |more: &str| {
        let text = format!(
            "name='web'\ntype='hvm'\nmemory=512\nvdom_devices=['type=blk,backend=ram:1M',\
             'type=blk,backend=ram:1M,doorbell=mmio','type=blk,backend=ram:1M,interrupt=intx',\
             'type=blk,backend=ram:1M,interrupt=edge',\
             'type=rng,backend=cpu','type=net,backend=switch,mac=00:16:3e:00:00:01','type=console,backend=console']\n{more}"
        );
        let devices = check(&text, &[]).unwrap().devices;
        let doorbells: Vec<_> = devices.iter().map(|(_, it)| it.doorbell()).collect();
        doorbells
    };
    assert_eq!(doorbells(""), [Doorbell::Mmio; 7]);
    assert_eq!(doorbells("vga='stdvga'"), [Doorbell::Mmio; 7]);
    assert_eq!(
        doorbells("vga='none'"),
        [
            Doorbell::Posted,
            Doorbell::Mmio,
            Doorbell::Mmio,
            Doorbell::Posted,
            // Their drivers wait for a reset, or not.
            Doorbell::Posted,
            Doorbell::Mmio,
            Doorbell::Mmio
        ]
    );
    let small = "name='web'\ntype='pvh'\nmemory=512\nvga='none'\nvdom_devices=['type=blk,backend=ram:1M']\n";
    let devices = check(small, &[]).unwrap().devices;
    assert!(
        devices
            .iter()
            .all(|(_, it)| it.doorbell() == Doorbell::Mmio)
    );
}

#[test]
fn paths_are_relative_to_the_configuration() {
    let guest = check(
        &format!(
            "{GOOD}vdom_image='i'\nvdom_ramdisk='/d'\nvdom_name='n'\nvdom_cmdline='log=debug'\n\
             vdom_disk=['/a,raw,xvda,w', 'b,raw,xvdb,r']\nvdom_network=['bridge=br0']"
        ),
        &[],
    )
    .unwrap();
    let expected = DriverSource::Generated {
        name: "n".into(),
        image: "dir/i".into(),
        ramdisk: Some("/d".into()),
        disks: vec!["/a,raw,xvda,w".into(), "b,raw,xvdb,r".into()],
        networks: vec!["bridge=br0".into()],
        cmdline: Some("log=debug".into()),
    };
    assert_eq!(guest.driver, expected);
    let guest = check(&format!("{GOOD}vdom_driver='d.cfg'"), &[]).unwrap();
    assert_eq!(guest.driver, DriverSource::File("dir/d.cfg".into()));
}

#[test]
fn the_old_way_to_say_hvm_is_understood() {
    assert!(check(&GOOD.replace("type='hvm'", "builder='hvm'"), &[]).is_ok());
}

#[test]
fn guests_of_other_types_are_refused_with_the_reason() {
    assert!(refusal("type='pv'").contains("type = \"hvm\""));
    assert!(refusal("type='arm'").contains("does not know"));
    let no_type = check(&GOOD.replace("type='hvm'", ""), &[]).unwrap_err();
    assert!(
        no_type.what.contains("without type= is a PV guest"),
        "{}",
        no_type.what
    );
}

#[test]
fn pvh_guests_need_no_acpi_and_take_other_notifications() {
    for kind in ["type='pvh'", "builder='hvm'\npvh=1"] {
        let text = GOOD.replace("type='hvm'", kind);
        let guest = check(&format!("{text}acpi=0\n"), &[]).unwrap();
        assert_eq!(guest.kind, TargetType::Pvh);
    }
    for (kind, keys, reason) in [
        ("pvh", "interrupt=intx", "no"),
        ("pvh", "interrupt=edge", "I/O APIC"),
        ("hvm", "interrupt=event-channel", "PVH guests"),
        ("hvm", "doorbell=event-channel", "type hvm"),
        ("hvm", "memory=grants", "PVH guests"),
    ] {
        let text = GOOD
            .replace("hvm", kind)
            .replace("ram:1M", &format!("ram:1M,{keys}"));
        let trouble = check(&text, &[]).unwrap_err();
        assert!(trouble.what.contains(reason), "{}", trouble.what);
        assert!(trouble.what.contains("slot 0"), "{}", trouble.what);
    }
}

#[test]
fn conflicts_with_acpi_are_refused() {
    assert!(refusal("acpi_firmware='x.aml'").contains("vdom attach"));
    assert!(refusal("acpi=0").contains("finds the devices through ACPI"));
    assert!(check(&format!("{GOOD}acpi=1"), &[]).is_ok());
}

#[test]
fn bad_devices_are_named_with_their_line() {
    let text =
        refusal("vdom_devices=['type=blk,backend=ram:1M',\n\n'slot=99,type=blk,backend=module']");
    assert!(
        text.contains("g.cfg:7: vdom_devices: device 2: slot \"99\" does not exist"),
        "{text}"
    );
    let text = refusal(
        "vdom_devices=['slot=1,type=blk,backend=ram:1M',\n'slot=1,type=blk,backend=ram:1M']",
    );
    assert!(
        text.contains("g.cfg:6: vdom_devices: device 2: slot 1 is given to two devices"),
        "{text}"
    );
    assert!(refusal("vdom_devices=[]").contains("is empty"));
    assert!(refusal("vdom_devices='type=blk'").contains("a list in [ ] is needed"));
    let none = check("name='a'\ntype='hvm'\nmemory=1", &[]).unwrap_err();
    assert!(none.what.contains("vdom_devices is missing"));
}

#[test]
fn names_that_could_be_something_else_are_refused() {
    for bad in [
        "",
        "../x",
        "a/b",
        ".a",
        "a b",
        "a\u{e9}",
        "12",
        &"x".repeat(65),
    ] {
        let text = refusal(&format!("name='{bad}'"));
        assert!(text.contains("cannot be the name"), "{text}");
    }
    assert!(refusal("vdom_name='a/b'").contains("vdom_name"));
    assert!(refusal("vdom_name='web'").contains("own name"));
}

#[test]
fn impossible_memory_is_refused() {
    assert!(refusal("memory=0").contains("0 MiB"));
    assert!(refusal("memory='99999999999'").contains("memory"));
    assert!(refusal("memory='-1'").contains("is no number"));
}

#[test]
fn typing_errors_in_keys_are_found() {
    assert!(refusal("vdom_device=['x']").contains("no key vdom_device"));
    assert!(refusal("vdom_driver='d'\nvdom_image='i'").contains("no effect"));
}

#[test]
fn restarts_are_vdoms_and_not_xls() {
    let guest = check(
        &format!("{GOOD}on_reboot='restart'\non_crash='coredump-restart'\non_watchdog='preserve'"),
        &[],
    )
    .unwrap();
    assert_eq!(
        guest.overrides,
        [
            "on_reboot=\"preserve\"",
            "on_crash=\"coredump-destroy\"",
            "on_soft_reset=\"preserve\""
        ]
    );
    assert_eq!(guest.restarts, [Ending::Reboot, Ending::SoftReset]);
    assert_eq!(guest.notes.len(), 1);
    assert!(guest.notes[0].contains("on_crash"), "{}", guest.notes[0]);
    let guest = check(&format!("{GOOD}on_reboot='preserve'"), &[]).unwrap();
    assert!(guest.restarts.is_empty());
    let guest = check(GOOD, &[]).unwrap();
    assert_eq!(
        guest.restarts,
        [Ending::Reboot, Ending::SoftReset],
        "as xl has it"
    );
}

/// Xen destroys all ioreq servers in a soft reset: xl must never do one.
#[test]
fn a_guest_that_starts_another_kernel_is_no_case_for_xl() {
    const OFF: &str = "on_reboot='destroy'\n";
    for (text, action, restarts, notes) in [
        ("", "preserve", true, 0),
        (OFF, "destroy", false, 1),
        (
            "on_reboot='destroy'\non_crash='restart'",
            "preserve",
            true,
            0,
        ),
        (
            "on_reboot='destroy'\non_soft_reset='soft-reset'",
            "preserve",
            true,
            0,
        ),
        (
            "on_reboot='destroy'\non_soft_reset='restart'",
            "preserve",
            true,
            0,
        ),
        ("on_soft_reset='rename-restart'", "destroy", false, 1),
        (
            "on_soft_reset='coredump-restart'",
            "coredump-destroy",
            false,
            1,
        ),
    ] {
        let guest = check(&format!("{GOOD}{text}"), &[]).unwrap();
        let last = format!("on_soft_reset=\"{action}\"");
        assert_eq!(guest.overrides.last(), Some(&last), "{text}");
        let supervised = guest.restarts.contains(&Ending::SoftReset);
        assert_eq!((supervised, guest.notes.len()), (restarts, notes), "{text}");
    }
    for action in ["destroy", "coredump-destroy", "preserve"] {
        let guest = check(&format!("{GOOD}on_soft_reset='{action}'"), &[]).unwrap();
        assert_eq!(guest.overrides, ["on_reboot=\"preserve\""], "as it is");
        assert_eq!(guest.restarts, [Ending::Reboot]);
    }
    let error = check(&format!("{GOOD}on_crash='soft-reset'"), &[]).unwrap_err();
    assert!(error.what.contains("on_crash"), "{}", error.what);
}

#[test]
fn a_reserve_is_a_number_of_mebibytes() {
    assert_eq!(check(GOOD, &[]).unwrap().reserve_mib, 0);
    let with = |value: &str| check(&format!("{GOOD}vdom_reserve={value}"), &[]);
    assert_eq!(with("64").unwrap().reserve_mib, 64);
    for bad in ["-1", "'64M'", "2000000", "[]"] {
        assert!(with(bad).is_err(), "{bad}");
    }
    assert!(check(&format!("{GOOD}vdom_driver='d.cfg'\nvdom_reserve=1"), &[]).is_err());
}
