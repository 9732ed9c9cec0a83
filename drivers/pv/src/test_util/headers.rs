//! What Xen's own C headers say: a C program that includes them fills structures and prints their bytes.
//!
//! The headers are Debian's package libxen-dev, or those in `$XEN_INCLUDE_DIR`.

use std::format;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::string::{String, ToString};
use std::vec::Vec;

/// What every program has: `dump` prints bytes, `number` a number, with a name.
const PREAMBLE: &str = r#"
static void dump(const char *name, const void *at, size_t size) {
    const unsigned char *byte = at;
    printf("%s ", name);
    while (size--) printf("%02x", *byte++);
    printf("\n");
}
static void number(const char *name, long long value) { printf("%s %lld\n", name, value); }
"#;

/// What a program has printed: lines of a name and a value.
#[derive(Debug)]
pub struct Answers(Vec<(String, String)>);

impl Answers {
    /// The value of that name.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(other, _)| other == name);
        &found.unwrap_or_else(|| panic!("{name}")).1
    }

    /// The bytes of that name.
    pub fn bytes<const N: usize>(&self, name: &str) -> [u8; N] {
        let hex = self.get(name);
        assert_eq!(hex.len(), N * 2);
        std::array::from_fn(|n| u8::from_str_radix(&hex[n * 2..n * 2 + 2], 16).unwrap())
    }

    /// Compares; `besides` is how many values are compared elsewhere: nothing is left out.
    pub fn check(&self, expected: &[(String, String)], besides: usize) {
        for (name, value) in expected {
            assert_eq!(self.get(name), value, "{name}");
        }
        assert_eq!(
            self.0.len(),
            expected.len() + besides,
            "nothing is left out"
        );
    }
}

/// Compiles and runs a C program that includes those of Xen's headers. `dir` is for its files.
pub fn ask_c(headers: &[&str], program: &str, dir: &Path) -> Answers {
    let include =
        std::env::var_os("XEN_INCLUDE_DIR").map_or("/usr/include/xen".into(), PathBuf::from);
    let mut source = String::from(
        "#define __XEN_TOOLS__ 1\n#define __XEN_INTERFACE_VERSION__ 0x00041100\n#include <stdint.h>\n#include <stddef.h>\n\
         #include <stdio.h>\n#include <string.h>\n#define xen_mb()\n#define xen_wmb()\n#define xen_rmb()\n",
    );
    for header in headers {
        let path = include.join(header);
        assert!(
            path.exists(),
            "Xen's headers are not in {}: apt-get install libxen-dev, or set XEN_INCLUDE_DIR",
            include.display()
        );
        source += &format!("#include \"{}\"\n", path.display());
    }
    source += PREAMBLE;
    source += program;
    std::fs::create_dir_all(dir).unwrap();
    let (c, program) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&c, source).unwrap();
    let built = Command::new("cc")
        .arg("-w")
        .arg("-o")
        .arg(&program)
        .arg(&c)
        .output();
    let built = built.expect("no C compiler: apt-get install gcc");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let said = Command::new(&program).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let pairs = said.lines().map(|line| line.split_once(' ').unwrap());
    Answers(
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    )
}

/// Bytes as `dump` prints them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
