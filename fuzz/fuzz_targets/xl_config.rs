//! xl's configuration files, and what `vdom` makes of them.
//!
//! Drives the lexer and parser (`xlcfg`), the checks of a guest's configuration (`guest`) and the configuration that is
//! written for its driver domain (`driver`), which is read again. `vdom` is a program, not a library, so that its
//! modules are taken in by path: the directory's name on the module below is what makes their own submodules be found.
//!
//! Checked: a configuration means what was written, however it was spaced, quoted, escaped, split over lines and
//! appended to; numbers are the ones of xl's grammar and nothing else; an error names a line that exists, in one
//! printable line; a guest that is accepted has the name, the memory and the devices that were written, and xl
//! restarts neither it nor its driver domain: vdom does, where it was asked to; no text of the operator breaks out of its quotes.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vd_config::Devices;
use virtio_domain_fuzz::Source;
use virtio_domain_fuzz::text::assert_line;

#[path = "../../tools/vdom/src"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the rest of vdom uses the rest of them"
)]
mod vdom {
    pub(crate) mod driver;
    pub(crate) mod failure;
    pub(crate) mod guest;
    pub(crate) mod xlcfg;
}
// By these names the modules know each other.
use vdom::{driver, failure, guest, xlcfg};

use driver::{Driver, Source as DriverConfig};
use failure::Trouble;
use guest::Guest;
use xlcfg::{Config, Item, Setting, SyntaxError, Value};

/// An image that is there: this program.
const IMAGE: &str = "/proc/self/exe";

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    match source.below(5) {
        0 => anything(&String::from_utf8_lossy(source.rest())),
        1 => quoted(&String::from_utf8_lossy(source.rest())),
        4 => number(&mut source),
        2 => written(&mut source),
        _ => guest_file(&mut source),
    }
});

fn parse(text: &str) -> Result<Config, SyntaxError> {
    let mut config = Config::default();
    config.add("file", text)?;
    Ok(config)
}

/// Any text: an error with a line of it, or settings that can be looked at.
fn anything(text: &str) {
    match parse(text) {
        Ok(config) => {
            for setting in config.settings() {
                assert!(exists(setting.place.line, text));
                check_number(setting);
                let list = matches!(setting.value, Value::List(_));
                assert_eq!(setting.text().is_err(), list);
                assert!(list || setting.texts().is_err());
                assert_eq!(config.get(&setting.key), Some(setting), "keys are unique");
            }
            // What can be read can be judged, and judging does not fail in other ways than by saying so.
            if let Err(trouble) = Guest::from_config(&config, Path::new("/etc/file"), &[]) {
                check_trouble(&trouble);
            }
        }
        Err(error) => {
            assert!(exists(error.place.line, text), "{error}");
            assert_line(&error);
        }
    }
}

fn exists(line: u32, text: &str) -> bool {
    line >= 1 && line as usize <= text.split('\n').count()
}

/// xl's numbers: decimal, octal with a leading zero, hexadecimal with 0x; digits and nothing else.
fn check_number(setting: &Setting) {
    let Value::Atom(text) = &setting.value else {
        assert!(setting.number().is_err());
        return;
    };
    let (base, digits) = match text.as_bytes() {
        [b'0', b'x', rest @ ..] => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest),
        all => (10, all),
    };
    let expected = digits.iter().try_fold(0u64, |sum, digit| {
        let digit = char::from(*digit).to_digit(base)?;
        sum.checked_mul(base.into())?.checked_add(digit.into())
    });
    let expected = expected.filter(|_| !digits.is_empty());
    assert_eq!(setting.number().ok(), expected, "{text:?}");
}

/// Something like a number, in quotes.
fn number(source: &mut Source<'_>) {
    let letters = [
        "0",
        "0x",
        "1",
        "7",
        "8",
        "a",
        "F",
        "x",
        "+",
        "-",
        " ",
        "_",
        "18446744073709551615",
    ];
    let text: String = (0..source.below(5))
        .map(|_| source.pick(&letters))
        .collect();
    let config = parse(&format!("n = {}", driver::quote(&text))).expect("quoted");
    config.settings().iter().for_each(check_number);
}

/// What the operator sees is fit for a terminal. Lines and columns may be there: xl's own words are shown as they are.
fn check_trouble(trouble: &Trouble) {
    let shown = trouble.clone().at("guest", "step").to_string();
    let strange = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!shown.chars().any(strange), "{shown:?}");
}

/// A string comes back from its quotes, and the next setting is untouched.
fn quoted(text: &str) {
    let config = parse(&format!("a = {}\nb = 1\n", driver::quote(text))).expect("quoted");
    assert_eq!(config.settings().len(), 2);
    assert_eq!(
        config.get("a").map(|setting| setting.text()),
        Some(Ok(text))
    );
    assert_eq!(config.get("b").map(|setting| setting.place.line), Some(2));
}

/// A writer of configurations that uses all of the grammar.
struct Writer<'a, 'b> {
    source: &'a mut Source<'b>,
    text: String,
}

impl Writer<'_, '_> {
    fn line(&self) -> u32 {
        1 + self.text.matches('\n').count() as u32
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn space(&mut self) {
        let space = self.source.pick(&["", " ", "\t", "  ", "\r"]);
        self.put(space);
    }

    /// Space that may contain line ends: inside of brackets.
    fn wide_space(&mut self) {
        let space = self
            .source
            .pick(&["", " ", "\n", " # note ] [ '\n", "\r\n\t"]);
        self.put(space);
    }

    fn atom(&mut self) -> String {
        if self.source.below(3) == 0 {
            let number = self.source.between(0, 5000);
            let text = match self.source.below(3) {
                0 => format!("{number}"),
                1 => format!("{number:#x}"),
                _ => format!("0{number:o}"),
            };
            self.put(&text);
            return text;
        }
        let quote = self.source.pick(&['"', '\'']);
        self.text.push(quote);
        let mut value = String::new();
        for _ in 0..self.source.below(12) {
            let c = self.source.pick(&[
                'a', 'Z', '0', ' ', '#', ';', ']', ',', '=', '\\', '"', '\'', '\n', '\t', 'é',
                '\u{1}',
            ]);
            value.push(c);
            let code = u32::from(c);
            let must = c == quote || c == '\\' || c == '\n';
            match self.source.below(4) {
                0 if code < 0x100 => self.put(&format!("\\x{code:02x}")),
                1 if code < 0o200 => self.put(&format!("\\{code:03o}")),
                _ if c == '\n' => self.put("\\n"),
                2 if c == '\t' => self.put("\\t"),
                _ if must => {
                    self.text.push('\\');
                    self.text.push(c);
                }
                _ => self.text.push(c),
            }
        }
        self.text.push(quote);
        value
    }

    fn value(&mut self, depth: u32) -> Value {
        if depth >= 4 || self.source.below(3) != 0 {
            return Value::Atom(self.atom());
        }
        self.put("[");
        let mut items = Vec::new();
        for _ in 0..self.source.below(4) {
            self.wide_space();
            // An item's line is the one of its first word.
            let line = self.line();
            let value = self.value(depth + 1);
            items.push(Item { value, line });
            self.wide_space();
            if self.source.coin() {
                self.put(",");
            } else {
                break;
            }
        }
        if !self.text.ends_with(['[', ',']) {
            self.wide_space();
        }
        self.put("]");
        Value::List(items)
    }
}

/// Settings, written in one of the many ways there are.
fn written(source: &mut Source<'_>) {
    const KEYS: [&str; 4] = ["name", "memory", "vdom_devices", "k.2_x"];
    let mut expected: Vec<(&str, Value, u32)> = Vec::new();
    let mut writer = Writer {
        source,
        text: String::new(),
    };
    for _ in 0..writer.source.below(8) {
        let blank = writer.source.pick(&["", "\n", "# comment\n", ";", " \t\n"]);
        writer.put(blank);
        let key = writer.source.pick(&KEYS);
        let append = writer.source.coin();
        writer.put(key);
        writer.space();
        writer.put(if append { "+=" } else { "=" });
        writer.space();
        let line = writer.line();
        let value = writer.value(0);
        writer.space();
        let end = writer.source.pick(&["\n", ";", "#end\n", "\r\n"]);
        writer.put(end);
        match expected.iter_mut().find(|(known, ..)| *known == key) {
            None => expected.push((key, value, line)),
            Some((_, old, place)) => match (&mut *old, value) {
                (Value::List(items), Value::List(more)) if append => items.extend(more),
                (Value::Atom(text), Value::Atom(more)) if append => text.push_str(&more),
                (_, value) => {
                    *old = value;
                    if !append {
                        *place = line;
                    }
                }
            },
        }
    }
    let config = parse(&writer.text).unwrap_or_else(|error| panic!("{error}: {:?}", writer.text));
    let found: Vec<_> = config
        .settings()
        .iter()
        .map(|setting| {
            (
                setting.key.as_str(),
                setting.value.clone(),
                setting.place.line,
            )
        })
        .collect();
    assert_eq!(found, expected, "{:?}", writer.text);
}

/// A guest's file as people write them, wrong once in a while, and its driver domain.
fn guest_file(source: &mut Source<'_>) {
    let (mut wrong, mut strange) = (false, false);
    let mut text = String::new();
    let mut set = |source: &mut Source<'_>, key: &str, value: &str| {
        if source.rarely() {
            wrong = true;
            match source.below(4) {
                0 => return,
                1 => text.push_str(&String::from_utf8_lossy(source.bytes(30))),
                2 => text.push_str(&format!(
                    "{key} = {}\n",
                    driver::quote(&String::from_utf8_lossy(source.bytes(30)))
                )),
                _ => text.push_str(&format!("{key} = [ {value} ]\n")),
            }
        }
        text.push_str(&format!("{key} = {value}\n"));
    };
    let name = source.pick(&["web", "a.b-c_d+e:f", "x0", "9lives"]);
    let memory = source.between(1, 1 << 24);
    let devices = source.pick(&[
        "'type=blk,backend=ram:64M'",
        "'slot=3,type=blk,backend=ram:1G,serial=X','type=blk,backend=ram:512'",
        "'type=blk,backend=ram:4K,block-size=4096,packed=0,readonly=1'",
        "'type=blk,backend=ram:20000G'",
        "'type=blk,backend=module'",
    ]);
    let restart = source.pick(&[
        "",
        "destroy",
        "restart",
        "rename-restart",
        "coredump-restart",
        "preserve",
    ]);
    let cmdline = String::from_utf8_lossy(source.bytes(40)).into_owned();
    set(source, "name", &format!("\"{name}\""));
    set(source, "type", "'hvm'");
    set(source, "memory", &memory.to_string());
    set(source, "vdom_devices", &format!("[ {devices} ]"));
    set(source, "vdom_image", &format!("'{IMAGE}'"));
    set(source, "vdom_cmdline", &driver::quote(&cmdline));
    if !restart.is_empty() {
        set(source, "on_crash", &format!("'{restart}'"));
    }
    for _ in 0..2 {
        if source.rarely() {
            let (key, values): (&str, &[&str]) = source.pick(&[
                ("acpi", &["0", "1"]),
                ("acpi_firmware", &["'x'"]),
                ("builder", &["'hvm'", "'generic'"]),
                ("maxmem", &["1", "16777217", "'all'"]),
                ("on_reboot", &["'restart'", "'soft-reset'", "[]"]),
                (
                    "on_soft_reset",
                    &["'restart'", "'soft-reset'", "'rename-restart'"],
                ),
                ("pvh", &["0", "1"]),
                ("type", &["'pv'", "'pvh'", "'other'"]),
                (
                    "vdom_disk",
                    &["[ '/a,raw,xvda,w' ]", "[ 'x\"y', '' ]", "[]", "'/a'"],
                ),
                (
                    "vdom_network",
                    &[
                        "[ 'bridge=a' ]",
                        "[ 'x\"y', 'devid=x' ]",
                        "[]",
                        "'bridge=a'",
                    ],
                ),
                ("vdom_driver", &["'none.cfg'", "'/proc/self/status'"]),
                ("vdom_name", &["'web'", "'other'", "''", "'7'"]),
                ("vdom_nonsense", &["1"]),
                ("vdom_reserve", &["0", "64", "99999999", "'x'"]),
                ("vdom_ramdisk", &["'/proc/self/maps'", "'none.img'", "'/'"]),
            ]);
            let value = source.pick(values);
            set(source, key, value);
            strange = true;
        }
    }
    wrong |= strange;
    let config = match parse(&text) {
        Ok(config) => config,
        Err(error) => {
            assert!(wrong, "{error}: {text}");
            assert!(exists(error.place.line, &text));
            return assert_line(&error);
        }
    };
    let guest = match Guest::from_config(&config, Path::new("/etc/file"), &[]) {
        Ok(guest) => guest,
        Err(trouble) => {
            assert!(wrong, "{trouble:?}: {text}");
            return check_trouble(&trouble);
        }
    };
    if !wrong {
        assert_eq!((guest.name.as_str(), guest.memory_mib), (name, memory));
        let list: Vec<&[u8]> = devices
            .split("','")
            .map(|text| text.trim_matches('\'').as_bytes())
            .collect();
        assert_eq!(Ok(&guest.devices), Devices::parse(list).as_ref());
    }
    check_restarts(&config, &guest);
    // A disk that no domain holds, or a module that nobody gives.
    wrong |= devices.contains("20000G") || devices.contains("module");
    match Driver::for_guest(&guest) {
        Ok(driver) => check_driver(&guest, &driver),
        Err(trouble) => {
            assert!(wrong, "{trouble:?}: {text}");
            check_trouble(&trouble);
        }
    }
}

/// Whatever the file says: with the overrides xl does not restart the guest, and vdom does what xl was asked to.
fn check_restarts(config: &Config, guest: &Guest) {
    let mut changed = config.clone();
    for text in &guest.overrides {
        changed
            .add("override", text)
            .expect("overrides are well-formed");
    }
    for (key, default, ending) in [
        ("on_poweroff", "destroy", guest::Ending::PowerOff),
        // What xl does by itself when nothing is said.
        ("on_reboot", "restart", guest::Ending::Reboot),
        ("on_crash", "destroy", guest::Ending::Crash),
        ("on_watchdog", "destroy", guest::Ending::Watchdog),
        // If nothing is said, the same as for the others.
        (
            "on_soft_reset",
            if guest.restarts.is_empty() {
                "destroy"
            } else {
                "restart"
            },
            guest::Ending::SoftReset,
        ),
    ] {
        let action = |config: &Config| {
            let setting = config.get(key);
            setting.map_or_else(
                || default.to_owned(),
                |setting| setting.text().expect("judged before").to_owned(),
            )
        };
        let (asked, action) = (action(config), action(&changed));
        assert!(!action.contains("restart"), "{key}: {action}");
        assert_ne!(action, "soft-reset", "{key}");
        assert_eq!(
            guest.restarts.contains(&ending),
            ["restart", "soft-reset"].contains(&asked.as_str()),
            "{key}"
        );
    }
}

/// The driver domain's configuration says what it should, and nothing that the guest's file slipped in.
fn check_driver(guest: &Guest, driver: &Driver) {
    let DriverConfig::Text(text) = &driver.source else {
        return;
    };
    let config = parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let guest::DriverSource::Generated {
        name,
        image,
        ramdisk,
        disks,
        networks,
        cmdline,
    } = &guest.driver
    else {
        panic!("this driver domain was generated");
    };
    let text_of = |key: &str| {
        config
            .get(key)
            .map(|setting| setting.text().expect("a string"))
    };
    assert_eq!(text_of("name"), Some(name.as_str()));
    assert_eq!(text_of("type"), Some("pvh"));
    assert_eq!(text_of("kernel"), image.to_str());
    assert_eq!(text_of("cmdline"), cmdline.as_deref());
    assert_eq!(text_of("ramdisk").is_some(), ramdisk.is_some());
    for (key, list) in [("disk", disks), ("vif", networks)] {
        let listed = config
            .get(key)
            .map(|setting| setting.texts().expect("a list"));
        let listed: Vec<&str> = listed.iter().flatten().map(|(_, text)| *text).collect();
        assert_eq!(listed, *list);
    }
    let given = usize::from(cmdline.is_some())
        + usize::from(ramdisk.is_some())
        + usize::from(!disks.is_empty())
        + usize::from(!networks.is_empty());
    assert_eq!(config.settings().len(), 12 + given);
    let memory = config
        .get("memory")
        .map(|setting| setting.number().expect("a number"));
    let disks = guest.devices.ram_bytes().expect("they fit");
    assert!(memory.is_some_and(|mib| mib << 20 > disks));
}
