//! The PV console: never blocks, tells what it lost; lines; and the rate limit of attack case 28.

use vd_xenbus::held::HeldText;
use vd_xenbus::line::split_command;
use vd_xenbus::rate::Admission;
use vd_xenbus::ring::{CONSOLE_IN, CONSOLE_OUT, Consumer, Producer, SharedPage};
use vd_xenbus::test_util::FakePage;
use vd_xenbus::{ConsoleWriter, Input, LineEditor, RateLimiter};

fn drain(page: &FakePage, reader: &mut Consumer, most: usize) -> String {
    let mut buffer = vec![0; most];
    let n = reader.read(page, &mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

#[test]
fn lines_end_with_cr_lf() {
    let page = FakePage::new();
    let (mut writer, mut reader) = (
        ConsoleWriter::attach(&page),
        Consumer::attach(&page, CONSOLE_OUT),
    );
    assert!(writer.write(&page, b"one\n\ntwo\n"));
    assert!(writer.write(&page, b"par"));
    assert!(writer.write(&page, b"tial"));
    assert!(!writer.write(&page, b""));
    assert_eq!(drain(&page, &mut reader, 100), "one\r\n\r\ntwo\r\npartial");
}

#[test]
fn row28_a_console_nobody_reads_loses_bytes_and_says_so() {
    let page = FakePage::new();
    let (mut writer, mut reader) = (
        ConsoleWriter::attach(&page),
        Consumer::attach(&page, CONSOLE_OUT),
    );
    for _ in 0..300 {
        writer.write(&page, b"0123456789\n");
    }
    let kept = 2048 / 12;
    let lost = 300 * 11 - kept * 11 - 2048 % 12;
    assert_eq!(writer.lost(), lost);
    assert!(!writer.write(&page, b"x"), "still full");
    assert!(!writer.report_loss(&page));
    assert_eq!(drain(&page, &mut reader, 10), "0123456789");
    assert!(!writer.report_loss(&page), "the message does not fit yet");
    assert!(!writer.write(&page, b"y"), "nothing gets past it");
    let text = drain(&page, &mut reader, 4096);
    assert!(text.ends_with("0123456789\r\n01234567"));
    assert!(writer.write(&page, b"back\n"));
    assert_eq!(
        drain(&page, &mut reader, 4096),
        format!("\r\n[console: {} bytes lost]\r\nback\r\n", lost + 2)
    );
    assert!(!writer.report_loss(&page), "said once");
    assert_eq!(writer.lost(), lost + 2);
}

#[test]
fn a_line_end_is_whole_or_not_there() {
    let page = FakePage::new();
    let (mut writer, mut reader) = (
        ConsoleWriter::attach(&page),
        Consumer::attach(&page, CONSOLE_OUT),
    );
    let mut line = vec![b'a'; 2047];
    line.push(b'\n');
    assert!(writer.write(&page, &line));
    assert_eq!(writer.lost(), 1);
    assert_eq!(drain(&page, &mut reader, 4096).len(), 2047);
    let mut writer = ConsoleWriter::attach(&page);
    line.remove(0);
    assert!(writer.write(&page, &line));
    assert_eq!(writer.lost(), 0);
    assert!(drain(&page, &mut reader, 4096).ends_with("a\r\n"));
}

#[test]
fn row37_impossible_reader_index_only_loses_output() {
    let page = FakePage::new();
    let mut writer = ConsoleWriter::attach(&page);
    page.store_u32(CONSOLE_OUT.consumer, 0x4000_0000);
    assert!(!writer.write(&page, b"hello\n"));
    assert_eq!((writer.lost(), writer.ring_errors()), (6, 1));
    assert!(!writer.write(&page, b"hello\n"));
    assert_eq!((writer.lost(), writer.ring_errors()), (12, 2));
    page.store_u32(CONSOLE_OUT.consumer, 0);
    assert!(writer.write(&page, b"hello\n"));
    let mut reader = Consumer::attach(&page, CONSOLE_OUT);
    assert_eq!(
        drain(&page, &mut reader, 100),
        "\r\n[console: 12 bytes lost]\r\nhello\r\n"
    );
}

/// Types `bytes`; gives the lines and what the terminal shows.
fn type_in<const N: usize>(editor: &mut LineEditor<N>, bytes: &[u8]) -> (Vec<String>, String) {
    let (mut lines, mut shown) = (Vec::new(), Vec::new());
    for byte in bytes {
        match editor.feed(*byte, |echo| shown.extend_from_slice(echo)) {
            Input::Line(line) => lines.push(line.to_string()),
            Input::Cancelled => lines.push("^C".into()),
            Input::None => {}
        }
    }
    (lines, String::from_utf8(shown).unwrap())
}

#[test]
fn lines_are_edited() {
    let mut editor = LineEditor::<16>::new();
    assert_eq!(type_in(&mut editor, b"stats\r").0, ["stats"]);
    assert_eq!(type_in(&mut editor, b"a\r\nb\nc\r").0, ["a", "b", "c"]);
    assert_eq!(
        type_in(&mut editor, b"\n\n\r\n").0,
        ["", ""],
        "the first belongs to the CR before"
    );
    assert_eq!(type_in(&mut editor, b"helpx\x7f\x08p\r").0, ["help"]);
    assert_eq!(
        type_in(&mut editor, b"\x7f\x7fok\r"),
        (vec!["ok".into()], "ok\r\n".into())
    );
    assert_eq!(type_in(&mut editor, b"panic\x15help\r").0, ["help"]);
    assert_eq!(type_in(&mut editor, b"panic\x03help\r").0, ["^C", "help"]);
    assert_eq!(type_in(&mut editor, b"ab\x7f").1, "ab\x08 \x08");
}

#[test]
fn control_bytes_and_escape_sequences_are_no_text() {
    let mut editor = LineEditor::<32>::new();
    assert_eq!(
        type_in(
            &mut editor,
            b"a\x1b[Ab\x1b[1;5Dc\x1bOPd\x1bxe\x00\x01\x07\t\xff\xc3\xa9f\r"
        )
        .0,
        ["abcdef"]
    );
    assert_eq!(
        type_in(&mut editor, b"a\x1b[\rb\x1b\r").0,
        ["a", "b"],
        "a line end ends a sequence too"
    );
    assert_eq!(type_in(&mut editor, b"\x1b\x1b[Az\r").0, ["z"]);
}

#[test]
fn lines_are_bounded() {
    let mut editor = LineEditor::<4>::new();
    let (lines, shown) = type_in(&mut editor, b"abcdefg\x7fx\r");
    assert_eq!(lines, ["abcx"]);
    assert_eq!(shown, "abcd\x07\x07\x07\x08 \x08x\r\n");
    let mut none = LineEditor::<0>::new();
    assert_eq!(type_in(&mut none, b"abc\r").0, [""]);
}

#[test]
fn commands_are_split() {
    assert!(split_command("  \t ").is_none());
    let (name, arguments) = split_command("  log   debug now ").unwrap();
    assert_eq!(
        (name, arguments.collect::<Vec<_>>()),
        ("log", vec!["debug", "now"])
    );
}

#[test]
fn row28_rate_limit() {
    const SECOND: u64 = 1_000_000_000;
    let mut limiter = RateLimiter::new(3, 2);
    let start = 77 * SECOND;
    let admitted = (0..10)
        .filter(|_| limiter.admit(start) != Admission::Held)
        .count();
    assert_eq!(admitted, 3);
    assert_eq!(
        limiter.admit(start + SECOND / 2),
        Admission::Admitted { suppressed: 7 }
    );
    assert_eq!(limiter.admit(start + SECOND / 2), Admission::Held);
    assert_eq!(
        limiter.admit(start),
        Admission::Held,
        "a clock that steps back gives nothing"
    );
    assert_eq!(
        limiter.admit(start + 100 * SECOND),
        Admission::Admitted { suppressed: 2 }
    );
    let burst = (0..10)
        .filter(|_| limiter.admit(start + 100 * SECOND) != Admission::Held)
        .count();
    assert_eq!(burst, 2, "saved up credit has a limit");
    let flood = (0..1_000_000_u64)
        .filter(|n| limiter.admit(200 * SECOND + n * 10_000) != Admission::Held)
        .count();
    assert_eq!(flood, 3 + 19, "10 seconds of flood");
    for (burst, rate) in [(0, 0), (u32::MAX, u32::MAX)] {
        assert_ne!(RateLimiter::new(burst, rate).admit(0), Admission::Held);
    }
}

/// What was held back is more than the ring takes: it comes as there is room, in order, and what follows comes behind it.
#[test]
fn text_that_was_held_back_comes_as_there_is_room() {
    let page = FakePage::new();
    let mut writer = ConsoleWriter::attach(&page);
    let mut reader = Consumer::attach(&page, CONSOLE_OUT);
    let mut held = HeldText::<4096>::new();
    assert!(held.write(&mut writer, &page, b"before\n"));
    held.hold(true);
    let mut expected = String::from("before\r\n");
    for line in 0..200 {
        let line = format!("line {line} of the log\n");
        assert!(!held.write(&mut writer, &page, line.as_bytes()));
        expected.push_str(&line.replace('\n', "\r\n"));
    }
    assert!(!held.is_draining());
    assert_eq!(drain(&page, &mut reader, 4096), "before\r\n");
    held.hold(false);
    assert!(held.is_draining());
    assert!(held.drain(&mut writer, &page));
    held.write(&mut writer, &page, b"after\n");
    expected.push_str("after\r\n");
    let mut text = String::from("before\r\n");
    for _ in 0..100 {
        // Whatever room there is, lines are whole.
        text.push_str(&drain(&page, &mut reader, 100));
        held.drain(&mut writer, &page);
    }
    assert!(!held.is_draining());
    assert_eq!(text, expected);
    assert_eq!(writer.lost(), 0);
    assert!(
        held.write(&mut writer, &page, b"x"),
        "as if nothing had been"
    );
}

#[test]
fn what_is_too_much_to_be_held_back_is_counted() {
    let page = FakePage::new();
    let mut writer = ConsoleWriter::attach(&page);
    let mut reader = Consumer::attach(&page, CONSOLE_OUT);
    let mut held = HeldText::<10>::new();
    held.hold(true);
    for text in ["first\n", "second\n", "3\n"] {
        held.write(&mut writer, &page, text.as_bytes());
    }
    held.hold(false);
    assert!(held.write(&mut writer, &page, b"after\n"));
    let text = "first\r\n\r\n[console: 9 bytes lost]\r\nafter\r\n";
    assert_eq!(drain(&page, &mut reader, 4096), text);
    // Without another chance, what fits goes, and the rest is told of.
    let mut held = HeldText::<4096>::new();
    held.hold(true);
    held.write(&mut writer, &page, &[b'x'; 3000]);
    assert!(held.flush(&mut writer, &page));
    assert!(!held.is_draining());
    assert_eq!(drain(&page, &mut reader, 4096), "x".repeat(2048));
    assert!(writer.report_loss(&page));
    assert!(drain(&page, &mut reader, 4096).contains("952 bytes lost"));
}

/// What was typed behind the end of something stays for whoever reads next.
#[test]
fn bytes_behind_the_last_one_stay() {
    let page = FakePage::new();
    let mut typist = Producer::attach(&page, CONSOLE_IN);
    let mut reader = Consumer::attach(&page, CONSOLE_IN);
    let mut into = [0; 8];
    assert_eq!(reader.read_through(&page, &mut into, 0x1e), Ok(0));
    typist.write(&page, b"0123456789\x1e\x15link").unwrap();
    assert_eq!(reader.read_through(&page, &mut into, 0x1e), Ok(8));
    assert_eq!(&into, b"01234567");
    assert_eq!(reader.read_through(&page, &mut into, 0x1e), Ok(3));
    assert_eq!(&into[..3], b"89\x1e");
    assert_eq!(reader.read(&page, &mut into), Ok(5));
    assert_eq!(&into[..5], b"\x15link");
}
