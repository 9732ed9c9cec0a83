//! What a text must be like, whatever caused it.

use std::fmt::Display;

/// Longest message about a configuration.
const MOST: usize = 400;

/// Checks that an error's text is one short line that a terminal can show.
pub fn assert_message(error: &impl Display) {
    let text = error.to_string();
    assert!(
        !text.is_empty() && text.len() <= MOST,
        "{} bytes: {text:?}",
        text.len()
    );
    assert!(
        text.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
        "{text:?}"
    );
}

/// The same for an error that may quote more than ASCII.
pub fn assert_line(error: &impl Display) {
    let text = error.to_string();
    assert!(!text.is_empty());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
