//! Who sends in a session.

use std::fmt;
use std::num::NonZeroU128;
use std::str::FromStr;

/// Who sends in a session, across connections and restarts of either side: 16 bytes of its own choice, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ProducerId(NonZeroU128);

impl ProducerId {
    /// The id of a number.
    pub const fn new(number: NonZeroU128) -> ProducerId {
        ProducerId(number)
    }

    /// The id of its bytes; `None` for sixteen zeros.
    pub const fn from_bytes(bytes: [u8; 16]) -> Option<ProducerId> {
        match NonZeroU128::new(u128::from_be_bytes(bytes)) {
            Some(number) => Some(ProducerId(number)),
            None => None,
        }
    }

    /// Its bytes, as on the wire and in the log.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// Which of so many reactors is its home: the same for all of them.
    pub fn home(self, reactors: usize) -> usize {
        (xxhash_rust::xxh3::xxh3_64(&self.to_bytes()) % reactors.max(1) as u64) as usize
    }

    /// Its number.
    pub const fn get(self) -> NonZeroU128 {
        self.0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ProducerId {
    type Err = String;
    /// Parses 32 hexadecimal digits, as it prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten().and_then(NonZeroU128::new);
        number.map(ProducerId).ok_or_else(|| format!("`{text}` is not a producer id: 32 hexadecimal digits, not all 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_printed_and_anything_else_is_refused() {
        let id = ProducerId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]).expect("not all zero");
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "0", &"0".repeat(32), &"f".repeat(31), &"f".repeat(33), &format!("+{}", "f".repeat(31))] {
            assert!(text.parse::<ProducerId>().is_err(), "{text}");
        }
        assert_eq!(ProducerId::from_bytes([0; 16]), None);
    }
}
