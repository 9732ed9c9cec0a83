//! Driver domains that could not work are refused before they are started.

use super::*;
use crate::testing::TempDir;

const IMAGE: &[u8] = b"\x7fELF\x02...";

fn bench() -> TempDir {
    let dir = TempDir::new("driver");
    dir.file("image", IMAGE);
    dir.file("disk", vec![0; 4096]);
    dir
}

fn load(path: &Path) -> Config {
    guest::parse(path, &guest::read(path).unwrap(), &[]).unwrap()
}

fn plan(dir: &TempDir, more: &str, device: &str) -> Result<Driver, Trouble> {
    let text =
        format!("name='g'\ntype='hvm'\nmemory=1024\nvdom_devices=['type=blk,{device}']\n{more}");
    let path = dir.file("g.cfg", text);
    let config = load(&path);
    Driver::for_guest(&Guest::from_config(&config, &path, &[]).unwrap())
}

fn refusal(dir: &TempDir, more: &str, device: &str) -> String {
    let trouble = plan(dir, more, device).expect_err(more);
    format!("{} ({})", trouble.what, trouble.remedy)
}

fn text(driver: &Driver) -> &str {
    match &driver.source {
        Source::Text(text) => text,
        Source::File { .. } => panic!("not generated"),
    }
}

#[test]
fn a_generated_configuration_can_be_read_back() {
    let dir = bench();
    let more = "vdom_image='image'\nvdom_ramdisk='disk'\nvdom_cmdline='a=\"b\" \\\\c'";
    let driver = plan(&dir, more, "backend=module").unwrap();
    let mut config = Config::default();
    config.add("driver.cfg", text(&driver)).unwrap();
    let get = |key: &str| config.get(key).unwrap().text().unwrap().to_owned();
    assert_eq!(get("name"), "g-vd");
    assert_eq!(
        get("ramdisk"),
        dir.path().join("disk").display().to_string()
    );
    assert_eq!(get("cmdline"), "a=\"b\" \\c");
    assert_eq!((get("memory"), get("vcpus")), ("17".into(), "1".into()));
    // 256 + 2*17 own pages, 512 leaves, 3 directories, 2 above, 128 slack: 935 pages, 4 MiB.
    assert_eq!(get("shadow_memory"), "4");
}

#[test]
fn memory_is_reserved_for_devices_that_come_later() {
    let dir = bench();
    for (reserve, memory) in [("0", "memory = 17\n"), ("48", "memory = 65\n")] {
        let more = format!("vdom_image='image'\nvdom_reserve={reserve}");
        let driver = plan(&dir, &more, "backend=ram:1M").unwrap();
        assert!(text(&driver).contains(memory), "{}", text(&driver));
    }
}

#[test]
fn disks_are_passed_on_to_xl() {
    let dir = bench();
    let disks = r#"vdom_disk=['/a b\"c,raw,xvda,w', "format=raw,vdev=xvdb,access=ro,target=/d"]"#;
    let more = format!("vdom_image='image'\n{disks}");
    let driver = plan(&dir, &more, "backend=vbd:xvdb").unwrap();
    let mut config = Config::default();
    config.add("driver.cfg", text(&driver)).unwrap();
    let get = |key: &str| config.get(key).unwrap();
    let texts = get("disk").texts().unwrap();
    let texts: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
    assert_eq!(
        texts,
        [
            "/a b\"c,raw,xvda,w",
            "format=raw,vdev=xvdb,access=ro,target=/d"
        ]
    );
    assert_eq!(
        get("memory").text().unwrap(),
        "16",
        "their data passes through"
    );
}

/// The driver domain of a guest with one network device behind `vif:N`.
fn with_uplink(dir: &TempDir, vif: u16, more: &str) -> Result<Driver, Trouble> {
    let path = dir.file(
        "g.cfg",
        format!(
            "name='g'\ntype='hvm'\nmemory=1024\nvdom_image='image'\n\
             vdom_devices=['type=net,backend=vif:{vif},mac=00:16:3e:00:00:01']\n{more}"
        ),
    );
    let config = load(&path);
    Guest::from_config(&config, &path, &[]).and_then(|guest| Driver::for_guest(&guest))
}

#[test]
fn network_interfaces_are_passed_on_to_xl() {
    let dir = bench();
    let more = "vdom_network=['bridge=a,mac=00:16:3e:00:00:02', 'bridge=b,devid=7']";
    for vif in [0, 7] {
        let driver = with_uplink(&dir, vif, more).unwrap();
        let mut config = Config::default();
        config.add("driver.cfg", text(&driver)).unwrap();
        let get = |key: &str| config.get(key).unwrap();
        let texts = get("vif").texts().unwrap();
        let texts: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
        assert_eq!(
            texts,
            ["bridge=a,mac=00:16:3e:00:00:02", "bridge=b,devid=7"]
        );
        assert_eq!(get("memory").text().unwrap(), "18", "pages for frames");
    }
}

#[test]
fn a_device_without_its_network_interface_is_refused() {
    let dir = bench();
    for (vif, more, reason) in [
        (
            0,
            "",
            "slot 0 has backend=vif:0, but the driver domain gets no network interface at all (add it to vdom_network, as in",
        ),
        (
            1,
            "vdom_network=['bridge=a']",
            "gets only number 0 (add it to vdom_network",
        ),
        (0, "vdom_network=['devid=x']", "no network interface at all"),
        (0, "vdom_network='bridge=a'", "is one value where a list"),
    ] {
        let trouble = with_uplink(&dir, vif, more).expect_err(more);
        let text = format!("{} ({})", trouble.what, trouble.remedy);
        assert!(text.contains(reason), "{more}: {text}");
    }
}

#[test]
fn a_device_without_its_disk_is_refused() {
    let dir = bench();
    for (more, reason) in [
        (
            "",
            "slot 0 has backend=vbd:xvdb, but the driver domain gets no disk at all (add it to vdom_disk, as in",
        ),
        (
            "vdom_disk=['/a,raw,xvda,w']",
            "gets only xvda (add it to vdom_disk",
        ),
        ("vdom_disk='/a,raw,xvdb,w'", "is one value where a list"),
    ] {
        let more = format!("vdom_image='image'\n{more}");
        let path = dir.file("g.cfg", format!(
            "name='g'\ntype='hvm'\nmemory=1024\nvdom_devices=['type=blk,backend=vbd:xvdb']\n{more}"
        ));
        let config = load(&path);
        let driver =
            Guest::from_config(&config, &path, &[]).and_then(|guest| Driver::for_guest(&guest));
        let trouble = driver.expect_err(&more);
        let text = format!("{} ({})", trouble.what, trouble.remedy);
        assert!(text.contains(reason), "{more}: {text}");
    }
    let error = with_file("disk=['/a,raw,xvda,w']", "backend=vbd:xvdb").unwrap_err();
    assert!(
        error.remedy.starts_with("add it to disk, as in disk = ["),
        "{}",
        error.remedy
    );
    assert!(with_file("disk=['/a,raw,xvdb,w']", "backend=vbd:xvdb").is_ok());
}

#[test]
fn a_missing_or_odd_module_is_refused() {
    let dir = bench();
    dir.file("odd", vec![0; 1000]);
    dir.file("empty", b"");
    let image = "vdom_image='image'\n";
    let text = refusal(&dir, image, "backend=module");
    assert!(
        text.contains("backend=module, but the driver domain gets no module (set vdom_ramdisk"),
        "{text}"
    );
    let text = refusal(
        &dir,
        &format!("{image}vdom_ramdisk='none'"),
        "backend=module",
    );
    assert!(text.contains("none: No such file"), "{text}");
    for file in ["odd", "empty"] {
        let text = refusal(
            &dir,
            &format!("{image}vdom_ramdisk='{file}'"),
            "backend=module",
        );
        assert!(text.contains("whole blocks of 512"), "{text}");
    }
    let text = refusal(&dir, &format!("{image}vdom_ramdisk='.'"), "backend=module");
    assert!(text.contains("not a regular file"), "{text}");
}

#[test]
fn a_missing_or_wrong_image_is_refused() {
    let dir = bench();
    dir.file("script", b"#!/bin/sh\n");
    let text = refusal(&dir, "vdom_image='none'", "backend=ram:1M");
    assert!(
        text.contains("none: No such file") && text.contains("vdom_image"),
        "{text}"
    );
    assert!(refusal(&dir, "vdom_image='script'", "backend=ram:1M").contains("no ELF64 image"));
    assert!(refusal(&dir, "vdom_image='.'", "backend=ram:1M").contains("image"));
}

#[test]
fn a_compressed_image_is_one() {
    let dir = bench();
    dir.file("image.gz", [0x1f, 0x8b, 8, 0, 0]);
    dir.file("image.Z", [0x1f, 0x9d, 0x90, 0, 0]);
    assert!(plan(&dir, "vdom_image='image.gz'", "backend=ram:1M").is_ok());
    let text = refusal(&dir, "vdom_image='image.Z'", "backend=ram:1M");
    assert!(text.contains("nor compressed with gzip"), "{text}");
}

#[test]
fn disks_beyond_any_memory_are_refused() {
    let dir = bench();
    let text = refusal(&dir, "vdom_image='image'", "backend=ram:17179869183G");
    assert!(text.contains("larger than any domain"), "{text}");
}

fn with_file(config: &str, device: &str) -> Result<Driver, Trouble> {
    let dir = bench();
    let path = dir.path().display();
    dir.file(
        "d.cfg",
        format!("name='d'\ntype='pvh'\nkernel='{path}/image'\nmemory=32\n{config}"),
    );
    plan(&dir, "vdom_driver='d.cfg'", device)
}

#[test]
fn an_operators_configuration_is_completed_but_not_overruled() {
    let driver = with_file(
        "altp2m='disabled'\nshadow_memory=64\non_crash='preserve'",
        "backend=ram:1M",
    )
    .unwrap();
    let Source::File { overrides, .. } = driver.source else {
        panic!()
    };
    assert_eq!(
        overrides,
        [
            "nestedhvm=0",
            "on_poweroff=\"destroy\"",
            "on_reboot=\"destroy\"",
            "on_watchdog=\"destroy\""
        ]
    );
}

#[test]
fn an_operators_configuration_that_cannot_work_is_refused() {
    for (config, device, reason) in [
        ("altp2m='external'", "backend=ram:1M", "altp2m"),
        ("nestedhvm=1", "backend=ram:1M", "nestedhvm"),
        ("on_reboot='restart'", "backend=ram:1M", "on_reboot"),
        ("shadow_memory=1", "backend=ram:1M", "set shadow_memory = "),
        (
            "memory=16",
            "backend=ram:1M",
            "has 16 MiB of memory and needs 17",
        ),
        ("type='pv'", "backend=ram:1M", "not of type pvh"),
        ("kernel='/none'", "backend=ram:1M", "/none"),
        ("name='g'", "backend=ram:1M", "same name"),
        ("", "backend=module", "(set ramdisk to"),
    ] {
        let trouble = with_file(config, device).expect_err(config);
        let text = format!("{} ({})", trouble.what, trouble.remedy);
        assert!(text.contains(reason), "{config}: {text}");
    }
}
