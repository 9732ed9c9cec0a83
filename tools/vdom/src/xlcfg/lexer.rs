//! The words of a configuration file.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Ident(String),
    /// A string without its quotes, or a number.
    Text(String),
    Assign,
    Append,
    Open,
    Close,
    Comma,
    Semicolon,
    Newline,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Ident(word) => write!(f, "{word}"),
            // With escapes: the error that says so goes to a terminal, and is one line.
            Token::Text(text) => write!(f, "{text:?}"),
            Token::Assign => f.write_str("="),
            Token::Append => f.write_str("+="),
            Token::Open => f.write_str("["),
            Token::Close => f.write_str("]"),
            Token::Comma => f.write_str(","),
            Token::Semicolon => f.write_str(";"),
            Token::Newline => f.write_str("the end of the line"),
            Token::End => f.write_str("the end of the file"),
        }
    }
}

/// Takes words off a text.
pub(super) struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: u32,
    /// Whether the last word was a newline, which belongs to the line that it ends.
    ended: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text.chars().peekable(),
            line: 1,
            ended: false,
        }
    }

    /// The line of the last word.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    pub(super) fn next(&mut self) -> Result<Token, String> {
        if std::mem::take(&mut self.ended) {
            self.line = self.line.saturating_add(1);
        }
        while self
            .rest
            .next_if(|c| matches!(c, ' ' | '\t' | '\r'))
            .is_some()
        {}
        let Some(first) = self.rest.next() else {
            return Ok(Token::End);
        };
        Ok(match first {
            '\n' => self.newline(),
            '#' => {
                while self.rest.next_if(|c| *c != '\n').is_some() {}
                match self.rest.next() {
                    Some(_) => self.newline(),
                    None => Token::End,
                }
            }
            '[' => Token::Open,
            ']' => Token::Close,
            ',' => Token::Comma,
            ';' => Token::Semicolon,
            '=' => Token::Assign,
            '+' if self.rest.next_if_eq(&'=').is_some() => Token::Append,
            '\'' | '"' => Token::Text(self.quoted(first)?),
            '0'..='9' => {
                Token::Text(self.word(first, |c| matches!(c, '0'..='9' | 'a'..='f' | 'x')))
            }
            'a'..='z' => {
                let inside = |c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.');
                Token::Ident(self.word(first, inside))
            }
            other => return Err(format!("{other:?} cannot stand here; are quotes missing?")),
        })
    }

    fn newline(&mut self) -> Token {
        self.ended = true;
        Token::Newline
    }

    fn word(&mut self, first: char, inside: impl Fn(char) -> bool) -> String {
        let mut word = String::from(first);
        while let Some(c) = self.rest.next_if(|c| inside(*c)) {
            word.push(c);
        }
        word
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.rest.next() {
                None | Some('\n') => return Err(format!("the closing {quote} is missing")),
                Some(c) if c == quote => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
            }
        }
    }

    /// What a backslash and the next characters stand for.
    fn escape(&mut self) -> Result<char, String> {
        let c = self.rest.next().unwrap_or('\n');
        Ok(match c {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '\'' | '"' => c,
            'x' => self.code(16, 2, 0)?,
            '0'..='7' => self.code(8, 2, c.to_digit(8).unwrap_or_default())?,
            _ => return Err(format!("\\{} is no escape", c.escape_default())),
        })
    }

    fn code(&mut self, base: u32, most: u32, start: u32) -> Result<char, String> {
        let mut code = start;
        let mut digits = 0;
        while digits < most
            && let Some(c) = self.rest.next_if(|c| c.is_digit(base))
        {
            code = code * base + c.to_digit(base).unwrap_or_default();
            digits += 1;
        }
        match char::from_u32(code) {
            Some(c) if code > 0 && (digits > 0 || base == 8) => Ok(c),
            _ => Err("an escape gives no character".into()),
        }
    }
}
