//! Lines for whoever judges the guest: on the console, each begins with `paired: `.

use core::fmt::{self, Write};

use heapless::String;
use vd_rt::xen::console;

/// Longest line; longer ones are cut.
const LINE: usize = 400;

/// Prints a line.
pub fn line(what: fmt::Arguments<'_>) {
    struct Cut(String<LINE>);
    impl Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.chars().try_for_each(|c| {
                // Room for the end of the line.
                let fits = self.0.len() + c.len_utf8() < LINE;
                if fits {
                    self.0.push(c).map_err(|_| fmt::Error)
                } else {
                    Err(fmt::Error)
                }
            })
        }
    }
    let mut text = Cut(String::new());
    let _ = write!(text, "paired: {what}");
    let _ = text.0.push('\n');
    console::write(text.0.as_bytes());
}

/// Prints a line as `println!` does.
#[macro_export]
macro_rules! say {
    ($($what:tt)*) => {
        $crate::report::line(format_args!($($what)*))
    };
}
