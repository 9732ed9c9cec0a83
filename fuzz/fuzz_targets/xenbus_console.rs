//! The PV console: output that never waits, input that is edited, and the limit on log lines.
//!
//! Drives `ConsoleWriter` against a reader that reads when it likes and sometimes puts nonsense into its index,
//! `LineEditor` with any keys, and `RateLimiter` with a clock that may jump.
//!
//! Checked: the writer touches only the bytes and the index of its ring; what an honest reader sees is what was
//! written, less what it was told is lost, with whole line ends; a line is short and printable, and is what the keys
//! make of it; no more log lines are admitted than the limit says, and none is forgotten in the count.
#![no_main]

use std::cell::Cell;

use libfuzzer_sys::fuzz_target;
use vd_xenbus::rate::Admission;
use vd_xenbus::ring::{CONSOLE_IN, CONSOLE_OUT, Consumer, Producer, SharedPage};
use vd_xenbus::test_util::FakePage;
use vd_xenbus::{ConsoleWriter, Input, LineEditor, RateLimiter};
use virtio_domain_fuzz::Source;

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => output(&mut source),
        1 => input(&mut source),
        2 => line(source.rest()),
        _ => limit(&mut source),
    }
});

/// The page as the driver domain sees it.
#[derive(Default)]
struct Guarded {
    page: FakePage,
    produced: Cell<u32>,
}

impl SharedPage for Guarded {
    fn load_u32(&self, offset: usize) -> u32 {
        self.page.load_u32(offset)
    }

    fn store_u32(&self, offset: usize, value: u32) {
        assert_eq!(offset, CONSOLE_OUT.producer);
        assert!((1..=2048).contains(&value.wrapping_sub(self.produced.get())));
        self.produced.set(value);
        self.page.store_u32(offset, value);
    }

    fn read_bytes(&self, _: usize, _: &mut [u8]) {
        panic!("output is only written");
    }

    fn write_bytes(&self, offset: usize, from: &[u8]) {
        assert!(offset >= 1024 && offset + from.len() <= 3072);
        self.page.write_bytes(offset, from);
    }
}

fn output(source: &mut Source<'_>) {
    let guarded = Guarded::default();
    let start = source.pick(&[0, 0, u32::MAX - 100, 2048]);
    guarded.page.store_u32(CONSOLE_OUT.producer, start);
    guarded.page.store_u32(CONSOLE_OUT.consumer, start);
    guarded.produced.set(start);
    let mut writer = ConsoleWriter::attach(&guarded);
    let mut reader = Consumer::attach(&guarded.page, CONSOLE_OUT);
    let (mut written, mut seen) = (0u64, Vec::new());
    let mut honest = true;
    while !source.is_empty() {
        match source.below(6) {
            0..=2 => {
                let letter = source.pick(b"abc");
                let mut text = vec![letter; source.below(400)];
                if source.coin() {
                    text.extend(b"\n\nx\n");
                }
                written += text.len() as u64;
                writer.write(&guarded, &text);
            }
            3 => {
                let mut buffer = vec![0; source.below(2049)];
                match reader.read(&guarded.page, &mut buffer) {
                    Ok(n) => seen.extend(&buffer[..n]),
                    Err(_) => assert!(!honest),
                }
            }
            4 => drop(writer.report_loss(&guarded)),
            _ if source.rarely() => {
                honest = false;
                guarded
                    .page
                    .store_u32(CONSOLE_OUT.consumer, source.edge() as u32);
            }
            _ => {}
        }
        assert!(writer.lost() <= written);
    }
    if !honest {
        return;
    }
    assert_eq!(writer.ring_errors(), 0);
    let mut buffer = [0; 2048];
    for _ in 0..3 {
        let n = reader
            .read(&guarded.page, &mut buffer)
            .expect("an honest ring");
        seen.extend(&buffer[..n]);
        writer.report_loss(&guarded);
    }
    account(&seen, written, writer.lost());
}

/// Every byte that was written has arrived or was told to be lost.
fn account(seen: &[u8], written: u64, lost: u64) {
    let text = std::str::from_utf8(seen).expect("only ASCII was written");
    let (mut arrived, mut told, mut rest) = (0u64, 0u64, text);
    while let Some((before, after)) = rest.split_once("\r\n[console: ") {
        let (number, after) = after
            .split_once(" bytes lost]\r\n")
            .expect("a whole message");
        arrived += plain(before);
        told += number.parse::<u64>().expect("a number");
        rest = after;
    }
    arrived += plain(rest);
    assert_eq!((arrived, told), (written - lost, lost));
}

/// Bytes that were written to give this text: line ends are whole, and were one byte.
fn plain(text: &str) -> u64 {
    let whole = text.replace("\r\n", "\n");
    assert!(!whole.contains('\r'));
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    whole.len() as u64
}

/// What the kernel does with typed bytes: take them, and go on behind nonsense.
fn input(source: &mut Source<'_>) {
    let page = FakePage::new();
    let mut typist = Producer::attach(&page, CONSOLE_IN);
    let mut taker = Consumer::attach(&page, CONSOLE_IN);
    let (mut typed, mut taken) = (Vec::<u8>::new(), Vec::<u8>::new());
    while !source.is_empty() {
        if source.rarely() {
            page.store_u32(CONSOLE_IN.producer, source.edge() as u32);
            let mut buffer = [0; 2000];
            let result = taker.read(&page, &mut buffer);
            assert!(result.is_err() || result.is_ok_and(|n| n <= 1024));
            taker.resynchronise(&page);
            assert_eq!(taker.read(&page, &mut buffer), Ok(0));
            typist = Producer::attach(&page, CONSOLE_IN);
            (typed, taken) = (Vec::new(), Vec::new());
        } else if source.coin() {
            let bytes = source.bytes(700);
            let n = typist.write(&page, bytes).expect("an honest ring");
            typed.extend(&bytes[..n]);
        } else {
            let mut buffer = vec![0; source.below(1500)];
            let n = taker.read(&page, &mut buffer).expect("an honest ring");
            taken.extend(&buffer[..n]);
        }
        assert!(typed.starts_with(&taken) && typed.len() - taken.len() <= 1024);
    }
}

/// Keys, and a simple model of them: escape sequences are taken out first.
fn line(keys: &[u8]) {
    const MOST: usize = 20;
    let mut editor = LineEditor::<MOST>::new();
    let (mut model, mut before) = (Vec::new(), 0);
    let mut escape = 0;
    for &key in keys {
        let mut echoed = 0;
        let input = editor.feed(key, |echo| echoed += echo.len());
        assert!(echoed <= 3 * MOST + 5);
        let after_cr = before == b'\r';
        before = key;
        escape = match (escape, key) {
            (_, 0x1b) => 1,
            (1, b'[' | b'O') | (2, 0x20..=0x3f) => 2,
            (1 | 2, 0x20..=0x7e) => 3,
            _ => 0,
        };
        if escape != 0 {
            escape %= 3;
            assert_eq!(input, Input::None);
            continue;
        }
        match key {
            b'\n' if after_cr => assert_eq!(input, Input::None),
            b'\r' | b'\n' => {
                let text = std::str::from_utf8(&model).expect("printable");
                assert_eq!(input, Input::Line(text));
                model.clear();
            }
            3 => {
                assert_eq!(input, Input::Cancelled);
                model.clear();
            }
            _ => {
                assert_eq!(input, Input::None);
                match key {
                    8 | 0x7f => drop(model.pop()),
                    0x15 => model.clear(),
                    0x20..=0x7e if model.len() < MOST => model.push(key),
                    _ => {}
                }
                assert_eq!(editor.text().as_bytes(), model);
            }
        }
    }
}

fn limit(source: &mut Source<'_>) {
    let (burst, per_second) = (
        source.pick(&[0, 1, 10, u32::MAX]),
        source.pick(&[0, 1, 7, u32::MAX]),
    );
    let mut limiter = RateLimiter::new(burst, per_second);
    let (burst, per_second) = (burst.max(1), per_second.max(1));
    let (mut now, mut passed) = (source.edge(), 0u128);
    let (mut admitted, mut told, mut asked) = (0u128, 0u128, 0u128);
    let mut held = 0u64;
    while !source.is_empty() {
        let step = if source.rarely() {
            source.edge()
        } else {
            source.between(0, 300_000_000)
        };
        // A clock that steps back gives nothing.
        let then = if source.rarely() {
            now.wrapping_sub(step)
        } else {
            now.saturating_add(step)
        };
        passed += u128::from(then.saturating_sub(now));
        now = then;
        asked += 1;
        match limiter.admit(now) {
            Admission::Admitted { suppressed } => {
                admitted += 1;
                assert_eq!(suppressed, held);
                told += u128::from(held);
                held = 0;
            }
            Admission::Held => held += 1,
        }
        // A nanosecond a token is the fastest there is.
        let per_token = (1_000_000_000 / u128::from(per_second)).max(1);
        assert!(admitted <= u128::from(burst) + passed / per_token);
        assert_eq!(admitted + told + u128::from(held), asked);
    }
}
