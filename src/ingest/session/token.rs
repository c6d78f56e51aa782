//! The token that a hello must carry, where one is set.

use crate::wire::session::TOKEN_BYTES_MAX;

/// A token: 1 to [`TOKEN_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionToken(Box<[u8]>);

impl SessionToken {
    /// A token of these bytes; `None` if they are none or too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=TOKEN_BYTES_MAX).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// Whether `given` is this token, in a time that depends on nothing but the length of `given`: it tells nobody how much of a guess was right.
    pub fn is(&self, given: &[u8]) -> bool {
        let mut differs = u64::from(given.len() != self.0.len());
        for (place, byte) in given.iter().enumerate() {
            differs |= u64::from(byte ^ self.0[place % self.0.len()]);
        }
        std::hint::black_box(differs) == 0
    }
}

impl std::fmt::Debug for SessionToken {
    /// Never the token itself: what is debugged ends up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_nothing_else() {
        let token = SessionToken::new(b"open sesame").unwrap();
        assert!(token.is(b"open sesame"));
        for other in [&b""[..], b"open sesam", b"open sesame!", b"open sesameopen sesame", b"Open sesame"] {
            assert!(!token.is(other), "{other:?}");
        }
        assert!(SessionToken::new(b"").is_none() && SessionToken::new(&[7; TOKEN_BYTES_MAX + 1]).is_none());
        assert_eq!(format!("{token:?}"), "SessionToken");
    }
}
