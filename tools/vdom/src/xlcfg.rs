//! xl's configuration files, as far as vdom has to understand them: the grammar of `libxlu_cfg`.
//!
//! `key = value` and `key += value`, one a line or separated by `;`. A value is a string in either kind of quotes, a
//! number, or a list in brackets, which may go over several lines. `#` starts a comment.
//! Invariant: arbitrary text gives a configuration or an error with the line; nothing panics.

mod lexer;

use std::fmt;

use lexer::{Lexer, Token};

/// How deep lists may be nested.
const MAX_DEPTH: u32 = 8;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: String,
    pub(crate) line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

/// What is wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) what: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A value. Like xl, this makes no difference between `1` and `"1"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Atom(String),
    List(Vec<Item>),
}

/// An element of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: Value,
    pub(crate) line: u32,
}

/// A key with what it was last set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    settings: Vec<Setting>,
}

impl Config {
    /// Adds the settings in `text`; they win over earlier ones, as overrides on xl's command line do.
    pub(crate) fn add(&mut self, source: &str, text: &str) -> Result<(), SyntaxError> {
        Parser {
            source,
            lexer: Lexer::new(text),
            config: self,
        }
        .run()
    }

    /// All settings.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The setting of that key.
    pub(crate) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    fn set(&mut self, setting: Setting, append: bool) {
        match self.settings.iter_mut().find(|old| old.key == setting.key) {
            Some(old) if append => append_to(old, setting),
            Some(old) => *old = setting,
            None => self.settings.push(setting),
        }
    }
}

/// `+=`: lists get longer, strings too; anything else is replaced.
fn append_to(old: &mut Setting, new: Setting) {
    match (&mut old.value, new.value) {
        (Value::List(items), Value::List(more)) => items.extend(more),
        (Value::Atom(text), Value::Atom(more)) => text.push_str(&more),
        (value, more) => *value = more,
    }
}

impl Setting {
    /// The text, if it is no list.
    pub(crate) fn text(&self) -> Result<&str, SyntaxError> {
        match &self.value {
            Value::Atom(text) => Ok(text),
            Value::List(_) => Err(self.error("is a list where one value is needed")),
        }
    }

    /// The number, in any base that xl takes.
    pub(crate) fn number(&self) -> Result<u64, SyntaxError> {
        let text = self.text()?;
        let (digits, base) = match text.strip_prefix("0x") {
            Some(hex) => (hex, 16),
            None if text.len() > 1 && text.starts_with('0') => (text, 8),
            None => (text, 10),
        };
        // The conversion alone would take a sign as well.
        u64::from_str_radix(digits, base)
            .ok()
            .filter(|_| digits.chars().all(|c| c.is_digit(base)))
            .ok_or_else(|| self.error("is no number from 0 to 2^64-1"))
    }

    /// The texts of a list.
    pub(crate) fn texts(&self) -> Result<Vec<(u32, &str)>, SyntaxError> {
        let Value::List(items) = &self.value else {
            return Err(self.error("is one value where a list in [ ] is needed"));
        };
        items
            .iter()
            .map(|item| match &item.value {
                Value::Atom(text) => Ok((item.line, text.as_str())),
                Value::List(_) => Err(self.error("has a list where a string is needed")),
            })
            .collect()
    }

    pub(crate) fn error(&self, what: &str) -> SyntaxError {
        SyntaxError {
            place: self.place.clone(),
            what: format!("{} {what}", self.key),
        }
    }
}

struct Parser<'a> {
    source: &'a str,
    lexer: Lexer<'a>,
    config: &'a mut Config,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.next()? {
                Token::Newline | Token::Semicolon => {}
                Token::End => return Ok(()),
                Token::Ident(key) => self.assignment(key)?,
                other => {
                    return Err(self.unexpected(&other, "a key such as name, memory, vdom_devices"));
                }
            }
        }
    }

    fn assignment(&mut self, key: String) -> Result<(), SyntaxError> {
        let line = self.lexer.line();
        let append = match self.next()? {
            Token::Assign => false,
            Token::Append => true,
            other => return Err(self.unexpected(&other, "= or +=")),
        };
        let token = self.next()?;
        let value = self.value(token, 0)?;
        match self.next()? {
            Token::Newline | Token::Semicolon | Token::End => {}
            other => return Err(self.unexpected(&other, "the end of the line")),
        }
        let place = Place {
            source: self.source.into(),
            line,
        };
        self.config.set(Setting { key, value, place }, append);
        Ok(())
    }

    fn value(&mut self, token: Token, depth: u32) -> Result<Value, SyntaxError> {
        match token {
            Token::Text(text) => Ok(Value::Atom(text)),
            Token::Open if depth < MAX_DEPTH => self.list(depth).map(Value::List),
            Token::Open => Err(self.error("lists are nested too deep".into())),
            other => Err(self.unexpected(&other, "a string in quotes, a number or a list in [ ]")),
        }
    }

    /// What comes after `[`, up to `]`.
    fn list(&mut self, depth: u32) -> Result<Vec<Item>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let token = self.next_on_any_line()?;
            if token == Token::Close {
                return Ok(items);
            }
            let line = self.lexer.line();
            let value = self.value(token, depth.saturating_add(1))?;
            items.push(Item { value, line });
            match self.next_on_any_line()? {
                Token::Comma => {}
                Token::Close => return Ok(items),
                other => return Err(self.unexpected(&other, ", or ]")),
            }
        }
    }

    fn next_on_any_line(&mut self) -> Result<Token, SyntaxError> {
        loop {
            match self.next()? {
                Token::Newline => {}
                token => return Ok(token),
            }
        }
    }

    fn next(&mut self) -> Result<Token, SyntaxError> {
        self.lexer.next().map_err(|what| self.error(what))
    }

    fn unexpected(&self, found: &Token, wanted: &str) -> SyntaxError {
        self.error(format!("{found} where {wanted} should be"))
    }

    fn error(&self, what: String) -> SyntaxError {
        let place = Place {
            source: self.source.into(),
            line: self.lexer.line(),
        };
        SyntaxError { place, what }
    }
}

#[cfg(test)]
mod tests;
