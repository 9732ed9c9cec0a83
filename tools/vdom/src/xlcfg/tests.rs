//! Configurations as people write them, and broken ones.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Config, SyntaxError> {
    let mut config = Config::default();
    config.add("g.cfg", text)?;
    Ok(config)
}

fn text(config: &Config, key: &str) -> String {
    config.get(key).unwrap().text().unwrap().to_owned()
}

#[test]
fn an_ordinary_file_is_understood() {
    let config = parse(concat!(
        "# a guest\n",
        "name = \"web\"   # its name\n",
        "type='hvm'; memory = 512\n",
        "vdom_devices = [\n",
        "    'slot=0,type=blk,backend=module',   # first\n",
        "\n",
        "    \"type=blk,backend=ram:1M\",\n",
        "]\n",
        "disk = []\n",
        "extra = \"a=\\\"b\\\" \\x41\\101\"",
    ))
    .unwrap();
    assert_eq!(text(&config, "name"), "web");
    assert_eq!(text(&config, "type"), "hvm");
    assert_eq!(config.get("memory").unwrap().number(), Ok(512));
    assert_eq!(config.get("memory").unwrap().place.line, 3);
    let devices = config.get("vdom_devices").unwrap();
    assert_eq!(
        devices.texts().unwrap(),
        [
            (5, "slot=0,type=blk,backend=module"),
            (7, "type=blk,backend=ram:1M")
        ]
    );
    assert_eq!(config.get("disk").unwrap().texts().unwrap(), []);
    assert_eq!(text(&config, "extra"), "a=\"b\" AA");
}

#[test]
fn later_settings_win_and_append_adds() {
    let mut config = parse("memory=1\nlist=['a']\nlist+=['b']\nword='x'\nword+='y'").unwrap();
    config.add("override", "memory=2").unwrap();
    assert_eq!(config.get("memory").unwrap().number(), Ok(2));
    assert_eq!(
        config.get("memory").unwrap().place.to_string(),
        "override:1"
    );
    assert_eq!(
        config.get("list").unwrap().texts().unwrap(),
        [(2, "a"), (3, "b")]
    );
    assert_eq!(text(&config, "word"), "xy");
}

#[test]
fn numbers_are_what_xl_takes() {
    for (given, number) in [
        ("16", 16),
        ("0x10", 16),
        ("010", 8),
        ("\"16\"", 16),
        ("0", 0),
    ] {
        let config = parse(&format!("n = {given}")).unwrap();
        assert_eq!(config.get("n").unwrap().number(), Ok(number), "{given}");
    }
    for bad in [
        "\"\"",
        "\"-1\"",
        "\"+1\"",
        "\"1M\"",
        "99999999999999999999",
        "[1]",
        "0x",
        // Found by fuzzing.
        "\"0x+5\"",
        "\"0+5\"",
        "\"0x-0\"",
    ] {
        let config = parse(&format!("n = {bad}")).unwrap();
        assert!(config.get("n").unwrap().number().is_err(), "{bad}");
    }
}

#[test]
fn errors_name_the_line() {
    for (text, line) in [
        ("name = \"a\nb = 1", 1),
        ("a = 1\nb = \n", 2),
        ("a = 1\n\nb 2", 3),
        ("a = [ 1,\n2\n", 3),
        ("a = [ 1\n2 ]", 2),
        ("a = b", 1),
        ("A = 1", 1),
        ("a = 'x\\q'", 1),
        ("a = 1 b = 2", 1),
        ("= 1", 1),
        ("a = -1", 1),
        ("a = [[[[[[[[[[1]]]]]]]]]]", 1),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.place.line, line, "{text:?}: {error}");
        assert!(error.to_string().starts_with("g.cfg:"), "{error}");
    }
}

/// Found by fuzzing: the error named a line behind the last one.
#[test]
fn a_comment_may_end_the_file() {
    assert_eq!(parse("a = [ # no more").unwrap_err().place.line, 1);
    assert_eq!(text(&parse("a = 1 # no more").unwrap(), "a"), "1");
}

/// Found by fuzzing.
#[test]
fn a_string_in_the_wrong_place_is_shown_escaped() {
    let error = parse("a = 1 '\\x1b[2J\\n'").unwrap_err();
    assert_eq!(
        error.to_string(),
        "g.cfg:1: \"\\u{1b}[2J\\n\" where the end of the line should be"
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|[a-c=\\[\\],;#'\"\\\\\n 0-9x+]{0,60}") {
        if let Ok(config) = parse(&text) {
            for setting in config.settings() {
                let _ = (setting.text(), setting.number(), setting.texts());
            }
        }
    }

    #[test]
    fn quoted_strings_come_back(value in "[ -~]{0,40}") {
        let config = parse(&format!("k = {}", crate::driver::quote(&value))).unwrap();
        prop_assert_eq!(text(&config, "k"), value);
    }
}
