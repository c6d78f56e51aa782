//! JSON pointers (RFC 6901), compiled once, and the value that one points at in a body: borrowed, without allocation.
//!
//! ```text
//! "/readings/1/val" ──► ["readings", "1" (or index 1), "val"]
//!
//! {"id":7,"readings":[{"val":20.5},{"val":23.5}],…
//!  skipped ──────────► skipped ────────► ▲ found; what follows is not read
//! ```
//!
//! A scanner of its own: serde_json keeps what it skips on a heap-allocated stack, and copies keys with escapes.
//!
//! Invariants:
//! - **J1** No allocation, no recursion: whatever the body, a fixed part of the stack. Nesting beyond [`JSON_DEPTH_MAX`] is no JSON here.
//! - **J2** Each byte is looked at a fixed number of times: the time is linear in what precedes the value's end.
//! - **J3** A value is found only if it and all before it keep the grammar of RFC 8259. What follows it is not read, so may be anything.
//! - **J4** Of a key that is there twice in one object, the first counts (serde_json's `Value` takes the last).
//! - **J5** Keys are compared decoded (`"\u0061"` is the key `a`). Values come raw, as written.
//!
//! What it does not do: check the encoding of strings that it passes by (bytes above 0x7f are taken as they are); a value that is a
//! string is checked when it is asked for as text.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;

/// The longest pointer.
pub const JSON_POINTER_BYTES_MAX: usize = 1024;

/// The most tokens of a pointer.
pub const JSON_POINTER_TOKENS_MAX: usize = 32;

/// The deepest nesting of a body, as in serde_json.
pub const JSON_DEPTH_MAX: u32 = 127;

// One bit a level in the stack of what is open.
const _: () = assert!(JSON_DEPTH_MAX < u128::BITS);

/// A pointer, ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer {
    text: Box<str>,
    tokens: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    /// Without its escapes.
    name: Box<str>,
    /// What it means in an array, if anything.
    index: Option<usize>,
}

/// Why a text is no pointer. Positions are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonPointerRefusal {
    /// It is neither empty nor begins with `/`.
    NoSlash,
    /// It is longer than [`JSON_POINTER_BYTES_MAX`].
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It has more than [`JSON_POINTER_TOKENS_MAX`] tokens.
    TooManyTokens {
        /// How many.
        tokens: usize,
    },
    /// A `~` is not followed by `0` or `1`.
    BadEscape {
        /// Where.
        at_byte: usize,
    },
}

impl fmt::Display for JsonPointerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlash => write!(f, "a JSON pointer begins with `/`, such as /reading/value"),
            Self::TooLong { bytes } => write!(f, "a JSON pointer has at most {JSON_POINTER_BYTES_MAX} bytes, this has {bytes}"),
            Self::TooManyTokens { tokens } => {
                write!(f, "a JSON pointer has at most {JSON_POINTER_TOKENS_MAX} parts, this has {tokens}")
            }
            Self::BadEscape { at_byte } => write!(f, "the `~` at byte {at_byte} must be `~0` (for ~) or `~1` (for /)"),
        }
    }
}

impl std::error::Error for JsonPointerRefusal {}

impl JsonPointer {
    /// Compiles a pointer; the empty one points at the whole body.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, JsonPointerRefusal> {
        if text.len() > JSON_POINTER_BYTES_MAX {
            return Err(JsonPointerRefusal::TooLong { bytes: text.len() });
        }
        if !text.is_empty() && !text.starts_with('/') {
            return Err(JsonPointerRefusal::NoSlash);
        }
        let bytes = text.as_bytes();
        let is_bad = |(at, byte): (usize, &u8)| *byte == b'~' && !matches!(bytes.get(at + 1), Some(b'0' | b'1'));
        if let Some(at_byte) = bytes.iter().enumerate().position(is_bad) {
            return Err(JsonPointerRefusal::BadEscape { at_byte });
        }
        let tokens: Box<[Token]> = text.split('/').skip(1).map(Token::new).collect();
        if tokens.len() > JSON_POINTER_TOKENS_MAX {
            return Err(JsonPointerRefusal::TooManyTokens { tokens: tokens.len() });
        }
        Ok(Self { text: text.into(), tokens })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The value it points at; `None` where there is none, or the body is no JSON up to the end of that value (J3).
    pub fn find<'b>(&self, body: &'b [u8]) -> Option<JsonValue<'b>> {
        let mut scanner = Scanner { bytes: body, at: 0 };
        let mut depth = 0;
        scanner.skip_space();
        for token in &self.tokens {
            match scanner.peek()? {
                b'{' => scanner.enter_object(&token.name, depth)?,
                b'[' => scanner.enter_array(token.index?, depth)?,
                _ => return None,
            }
            depth += 1;
        }
        let start = scanner.at;
        scanner.skip_value(depth)?;
        Some(JsonValue { raw: &body[start..scanner.at] })
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl std::str::FromStr for JsonPointer {
    type Err = JsonPointerRefusal;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Token {
    /// RFC 6901, section 4: first `~1`, then `~0`; an index has no sign and no leading zero.
    fn new(written: &str) -> Self {
        let name: Box<str> = written.replace("~1", "/").replace("~0", "~").into();
        let is_index = name.bytes().all(|byte| byte.is_ascii_digit()) && (&*name == "0" || !name.starts_with('0'));
        let index = if is_index { name.parse().ok() } else { None };
        Self { name, index }
    }
}

/// A value in a body, well-formed, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonValue<'b> {
    raw: &'b [u8],
}

impl<'b> JsonValue<'b> {
    /// Its bytes, without the space around it: `23.5`, `"text"` with its quotes, `{…}`. Two spellings of one value differ.
    pub fn raw(&self) -> &'b [u8] {
        self.raw
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.raw == b"null"
    }

    /// The number, if it is one and an `f64` can hold it: rounded, but not infinite.
    pub fn as_f64(&self) -> Option<f64> {
        if !matches!(self.raw[0], b'-' | b'0'..=b'9') {
            return None;
        }
        let number: f64 = std::str::from_utf8(self.raw).ok()?.parse().ok()?;
        number.is_finite().then_some(number)
    }

    /// The text, if it is a string of valid UTF-8 without escapes. [`JsonValue::cmp_text`] understands escapes.
    pub fn as_str(&self) -> Option<&'b str> {
        let inner = self.string()?;
        if inner.contains(&b'\\') { None } else { std::str::from_utf8(inner).ok() }
    }

    /// How the text, its escapes decoded, compares with another by the order of characters; `None` if it is no string. A surrogate
    /// without its partner, and bytes that are no UTF-8, are equal to nothing.
    pub fn cmp_text(&self, other: &str) -> Option<Ordering> {
        self.string().map(|inner| cmp_decoded(inner, other.as_bytes()))
    }

    /// Between the quotes.
    fn string(&self) -> Option<&'b [u8]> {
        let inner = self.raw.strip_prefix(b"\"")?;
        inner.strip_suffix(b"\"")
    }
}

/// Compares the inside of a well-formed string with plain bytes. UTF-8 sorts as its characters do.
fn cmp_decoded(inner: &[u8], other: &[u8]) -> Ordering {
    let (mut inner, mut other) = (inner, other);
    loop {
        let plain = inner.iter().position(|byte| *byte == b'\\').unwrap_or(inner.len());
        let order = inner[..plain].cmp(&other[..plain.min(other.len())]);
        if order.is_ne() || plain == inner.len() {
            // Equal so far, and at the end: the longer one is greater.
            return order.then_with(|| plain.cmp(&other.len()));
        }
        (inner, other) = (&inner[plain..], &other[plain..]);
        let mut bytes = [0; 4];
        let (decoded, rest) = decode_escape(inner, &mut bytes);
        let order = decoded.cmp(&other[..decoded.len().min(other.len())]);
        if order.is_ne() {
            return order;
        }
        (inner, other) = (rest, &other[decoded.len()..]);
    }
}

/// The bytes that the escape at the front stands for, and what follows it. The escape keeps the grammar (J3). A surrogate without its
/// partner becomes the three bytes that UTF-8 would give it, which are in no text.
fn decode_escape<'a, 'o>(inner: &'a [u8], out: &'o mut [u8; 4]) -> (&'o [u8], &'a [u8]) {
    let single = match inner[1] {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => return decode_unicode(inner, out),
        other => other,
    };
    out[0] = single;
    (&out[..1], &inner[2..])
}

fn decode_unicode<'a, 'o>(inner: &'a [u8], out: &'o mut [u8; 4]) -> (&'o [u8], &'a [u8]) {
    let first = unit(inner).unwrap_or_default();
    let low = unit(&inner[6..]).filter(|low| (0xdc00..0xe000).contains(low));
    let (code, rest) = match low {
        Some(low) if (0xd800..0xdc00).contains(&first) => (0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00), &inner[12..]),
        _ => (first, &inner[6..]),
    };
    if let Some(character) = char::from_u32(code) {
        return (character.encode_utf8(out).as_bytes(), rest);
    }
    *out = [0xe0 | (code >> 12) as u8, 0x80 | (code >> 6 & 0x3f) as u8, 0x80 | (code & 0x3f) as u8, 0];
    (&out[..3], rest)
}

/// The code unit of a `\uXXXX` at the front.
fn unit(inner: &[u8]) -> Option<u32> {
    let digits = inner.get(..6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | (*digit as char).to_digit(16)?))
}

/// The place in a body. Each method gives `None` where the grammar is broken, or the body ends early.
struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Scanner<'b> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.take()? == byte).then_some(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// From the `{` of an object to the value of a key.
    fn enter_object(&mut self, name: &str, depth: u32) -> Option<()> {
        self.at += 1;
        self.skip_space();
        loop {
            let key = self.key()?;
            if cmp_decoded(key, name.as_bytes()).is_eq() {
                return Some(());
            }
            self.skip_value(depth + 1)?;
            self.next_member()?;
        }
    }

    /// From the `[` of an array to one of its values.
    fn enter_array(&mut self, index: usize, depth: u32) -> Option<()> {
        self.at += 1;
        self.skip_space();
        for _ in 0..index {
            self.skip_value(depth + 1)?;
            self.next_member()?;
        }
        // An empty array: `]` begins no value, so that skipping it fails as it does for the first of `index`.
        Some(())
    }

    /// Past a comma; `None` at the end of the object or array.
    fn next_member(&mut self) -> Option<()> {
        self.skip_space();
        self.expect(b',')?;
        self.skip_space();
        Some(())
    }

    /// A key up to its value, without quotes.
    fn key(&mut self) -> Option<&'b [u8]> {
        let start = self.at + 1;
        self.skip_string()?;
        let key = &self.bytes[start..self.at - 1];
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Some(key)
    }

    /// Past a value that is enclosed by `depth` objects and arrays.
    fn skip_value(&mut self, depth: u32) -> Option<()> {
        // What is open, innermost in the lowest bit: 1 an object, 0 an array (J1).
        let (mut open, mut levels) = (0u128, 0u32);
        loop {
            match self.peek()? {
                opening @ (b'{' | b'[') => {
                    self.at += 1;
                    self.skip_space();
                    let is_object = opening == b'{';
                    if self.peek()? != if is_object { b'}' } else { b']' } {
                        (open, levels) = (open << 1 | u128::from(is_object), levels + 1);
                        if depth + levels > JSON_DEPTH_MAX {
                            return None;
                        }
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b'"' => self.skip_string()?,
                b't' => self.skip_word(b"true")?,
                b'f' => self.skip_word(b"false")?,
                b'n' => self.skip_word(b"null")?,
                _ => self.skip_number()?,
            }
            // After a value: what it ends, or the next one.
            loop {
                if levels == 0 {
                    return Some(());
                }
                let in_object = open & 1 == 1;
                self.skip_space();
                match self.take()? {
                    b',' => {
                        self.skip_space();
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return None,
                }
                (open, levels) = (open >> 1, levels - 1);
            }
        }
    }

    fn skip_word(&mut self, word: &[u8]) -> Option<()> {
        let is_there = self.bytes[self.at..].starts_with(word);
        self.at += word.len();
        is_there.then_some(())
    }

    /// From a quote to past the next one that is not escaped.
    fn skip_string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.skip_plain();
            match self.take()? {
                b'"' => return Some(()),
                b'\\' => match self.take()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        unit(&self.bytes[self.at - 2..])?;
                        self.at += 4;
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    /// Past eight bytes at a time that are neither quote, backslash nor control character: strings are most of a body.
    fn skip_plain(&mut self) {
        const ONES: u64 = u64::MAX / 255;
        const HIGHS: u64 = ONES << 7;
        // Exact for the whole word (Mycroft): non-zero when some byte is zero, or below 0x20.
        let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let has = |word: u64, byte: u8| has_zero(word ^ (ONES * u64::from(byte)));
        while let Some(chunk) = self.bytes[self.at..].first_chunk() {
            let word = u64::from_le_bytes(*chunk);
            let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
            if (has(word, b'"') | has(word, b'\\') | below_space) != 0 {
                return;
            }
            self.at += 8;
        }
    }

    fn skip_number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.take()? {
            b'0' => {}
            b'1'..=b'9' => while self.skip_digit() {},
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Some(())
    }

    fn skip_digit(&mut self) -> bool {
        let is_digit = self.peek().is_some_and(|byte| byte.is_ascii_digit());
        self.at += usize::from(is_digit);
        is_digit
    }

    /// At least one.
    fn skip_digits(&mut self) -> Option<()> {
        let any = self.skip_digit();
        while self.skip_digit() {}
        any.then_some(())
    }
}

#[cfg(test)]
#[path = "json_pointer_tests.rs"]
mod tests;
