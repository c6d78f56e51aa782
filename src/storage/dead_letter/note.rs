//! The text that goes with a dead letter: fixed size, so that agent threads pass it on without allocating.

use std::fmt;

/// A short text, cut at [`Note::BYTES_MAX`] bytes on a character's border.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Note {
    len: u8,
    bytes: [u8; Note::BYTES_MAX],
}

impl Note {
    /// The longest text kept: with its length byte the note is 96 bytes, a line and a half of cache.
    pub const BYTES_MAX: usize = 95;

    /// No text.
    pub const EMPTY: Note = Note { len: 0, bytes: [0; Note::BYTES_MAX] };

    /// A copy of the text's first bytes.
    pub fn new(text: &str) -> Self {
        let mut note = Self::EMPTY;
        note.push(text);
        note
    }

    /// What a value displays as; formats into the note itself.
    pub fn of(value: impl fmt::Display) -> Self {
        let mut note = Self::EMPTY;
        let _ = fmt::Write::write_fmt(&mut note, format_args!("{value}")); // Never fails: what does not fit is cut.
        note
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len as usize]).expect("cut on borders of characters")
    }

    fn push(&mut self, text: &str) {
        let free = Self::BYTES_MAX - self.len as usize;
        let cut = (0..=text.len().min(free)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.bytes[self.len as usize..][..cut].copy_from_slice(&text.as_bytes()[..cut]);
        self.len += cut as u8;
    }
}

const _: () = assert!(size_of::<Note>() == 96);

impl fmt::Write for Note {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_on_a_border_of_characters() {
        assert_eq!(Note::new("why").as_str(), "why");
        assert_eq!(Note::EMPTY.as_str(), "");
        let long = "é".repeat(60);
        assert_eq!(Note::new(&long).as_str(), "é".repeat(47));
        assert_eq!(Note::of(format_args!("{}-{}", 1, long)).as_str(), format!("1-{}", "é".repeat(46)));
    }
}
