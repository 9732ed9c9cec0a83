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

fn plan(dir: &TempDir, more: &str, device: &str) -> Result<Driver, Trouble> {
    let text =
        format!("name='g'\ntype='hvm'\nmemory=1024\nvdom_devices=['type=blk,{device}']\n{more}");
    let path = dir.file("g.cfg", text);
    let config = guest::load(&path, &[]).unwrap();
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
