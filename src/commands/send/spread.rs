//! How generated events are spread: over sizes of bodies, and over topics.

use std::fmt;
use std::str::FromStr;

use super::Generate;
use crate::wire::LENGTH_MAX;

/// The longest body: there is room for the longest topic beside it.
const BODY_BYTES_MAX: usize = LENGTH_MAX as usize - 2048;

/// Sizes of bodies with their shares; at least one, each from [`Generate::BODY_BYTES_MIN`] bytes on, shares above 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodySizes(Vec<(usize, u32)>);

impl BodySizes {
    /// All of 64 bytes.
    pub fn standard() -> BodySizes {
        BodySizes(vec![(64, 1)])
    }

    /// All of one size.
    ///
    /// # Errors
    /// A size that no body has, in words.
    pub fn fixed(bytes: usize) -> Result<BodySizes, String> {
        Self::checked(vec![(bytes, 1)])
    }

    fn checked(sizes: Vec<(usize, u32)>) -> Result<BodySizes, String> {
        let range = Generate::BODY_BYTES_MIN..=BODY_BYTES_MAX;
        match sizes.iter().find(|(bytes, share)| !range.contains(bytes) || *share == 0) {
            Some((bytes, 0)) => Err(format!("the share of {bytes} bytes is 0: shares are 1 to 65535")),
            Some((bytes, _)) => Err(format!("{bytes} bytes are no body: {} to {} bytes are", range.start(), range.end())),
            None => Ok(BodySizes(sizes)),
        }
    }

    /// Bytes and shares.
    pub fn shares(&self) -> &[(usize, u32)] {
        &self.0
    }

    /// The mean, by share, bytes.
    pub fn mean(&self) -> usize {
        let all: u64 = self.0.iter().map(|(_, share)| u64::from(*share)).sum();
        let bytes: u64 = self.0.iter().map(|(bytes, share)| *bytes as u64 * u64::from(*share)).sum();
        (bytes / all.max(1)) as usize
    }
}

impl FromStr for BodySizes {
    type Err = String;

    /// `64`, or `64:90,1024:9,16384:1`: bytes and shares, which need not add up to 100.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || format!("`{text}` is no size: give bytes, or sizes with their shares, such as 64:90,1024:9,16384:1");
        let one = |part: &str| -> Option<(usize, u32)> {
            let (bytes, share) = part.trim().split_once(':').unwrap_or((part.trim(), "1"));
            Some((bytes.parse().ok()?, share.parse::<u16>().ok()?.into()))
        };
        let sizes: Option<Vec<_>> = text.split(',').map(one).collect();
        Self::checked(sizes.ok_or_else(refused)?)
    }
}

impl fmt::Display for BodySizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [(bytes, _)] => write!(f, "{bytes}"),
            sizes => {
                let parts: Vec<String> = sizes.iter().map(|(bytes, share)| format!("{bytes}:{share}")).collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}

/// How unevenly events are spread over topics: the exponent of Zipf's law, 0 (all alike) to 10.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TopicSkew(f64);

impl TopicSkew {
    /// Beyond, the second topic gets less than a thousandth.
    const MOST: f64 = 10.0;

    /// The share of all events that topics up to each get, ascending to 1: the n-th gets `1 / n^skew` of what the first one gets.
    pub(super) fn shares_up_to(self, topics: u32) -> Vec<f64> {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=topics)
            .map(|place| {
                sum += f64::from(place).powf(-self.0);
                sum
            })
            .collect();
        shares.iter_mut().for_each(|share| *share /= sum);
        shares
    }
}

impl FromStr for TopicSkew {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(skew) if (0.0..=Self::MOST).contains(&skew) => Ok(TopicSkew(skew)),
            _ => Err(format!("`{text}` is no skew: give 0 (all topics alike) to {}; words of a text have about 1", Self::MOST)),
        }
    }
}

impl fmt::Display for TopicSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_or_several_with_shares_and_say_themselves() {
        assert_eq!("64".parse(), BodySizes::fixed(64));
        let several: BodySizes = "64:90, 1024:9,16384:1".parse().expect("valid");
        assert_eq!((several.shares().len(), several.mean()), (3, 313));
        assert_eq!(several.to_string().parse(), Ok(several));
    }

    #[test]
    fn what_no_body_has_is_refused() {
        for wrong in ["", "15", "64:0", "64:90,", "x", "64:70000", "16777216", "-1"] {
            assert!(wrong.parse::<BodySizes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_topic_gets_n_times_what_the_nth_gets_at_a_skew_of_one() {
        let shares = "1".parse::<TopicSkew>().expect("valid").shares_up_to(4);
        let of = |place: usize| shares[place] - if place == 0 { 0.0 } else { shares[place - 1] };
        assert!((of(0) / of(3) - 4.0).abs() < 1e-9 && (shares[3] - 1.0).abs() < 1e-9, "{shares:?}");
        let even = TopicSkew::default().shares_up_to(4);
        assert!((even[0] - 0.25).abs() < 1e-9, "{even:?}");
        for wrong in ["", "-1", "11", "NaN"] {
            assert!(wrong.parse::<TopicSkew>().is_err(), "{wrong}");
        }
    }
}
