//! Kernel features that the engine uses when it finds them, and does without when it doesn't.
//!
//! A [`Features`] value is the result of [`super::probe`]; nothing else decides which path is taken. `EVENTSTREAM_WITHOUT=min_wait,…`
//! pretends that features are missing, so that each fallback can be tested on a kernel that has everything.

use std::fmt;
use std::str::FromStr;

/// Names the features that [`Features::without_from_env`] takes away, separated by commas.
pub const WITHOUT_VARIABLE: &str = "EVENTSTREAM_WITHOUT";

/// Something a kernel or a host may or may not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Feature {
    /// Completions are worked off only when the runner asks (`IORING_SETUP_DEFER_TASKRUN`). Without: at any kernel entry.
    DeferTaskrun,
    /// No index array between tail and entries (`IORING_SETUP_NO_SQARRAY`). Without: one more load per submission.
    NoSqarray,
    /// Rings restricted to the operations the engine uses. Without: unrestricted rings.
    Restrictions,
    /// The ring's descriptor registered with itself. Without: a descriptor look-up per enter.
    RegisteredRing,
    /// Waiting for a batch of completions with a bound in time. Without: two waits.
    MinWait,
    /// Registered staging buffers. Without: the kernel pins the pages of each direct write.
    FixedBuffers,
    /// A byte cap per arming of a multishot receive. Without: a busy connection may empty the buffer ring.
    ByteCap,
    /// One accept operation for many connections. Without: re-armed after each.
    MultishotAccept,
    /// One receive operation for many buffers. Without: re-armed after each.
    MultishotRecv,
    /// One recvmsg operation for many datagrams. Without: re-armed after each, its header written by the ring.
    MultishotRecvmsg,
    /// Huge pages for arenas (reserved or transparent). Without: 4 KiB pages.
    HugePages,
    /// Datagrams steered to one of two sockets by their priority byte. Without: one socket.
    Steering,
    /// Datagrams aggregated by the kernel (`UDP_GRO`). Without: one receive each.
    UdpGro,
}

impl Feature {
    /// How many there are.
    pub const COUNT: usize = 13;
    /// All, by index.
    pub const ALL: [Feature; 13] = [
        Feature::DeferTaskrun,
        Feature::NoSqarray,
        Feature::Restrictions,
        Feature::RegisteredRing,
        Feature::MinWait,
        Feature::FixedBuffers,
        Feature::ByteCap,
        Feature::MultishotAccept,
        Feature::MultishotRecv,
        Feature::MultishotRecvmsg,
        Feature::HugePages,
        Feature::Steering,
        Feature::UdpGro,
    ];

    /// The name in `EVENTSTREAM_WITHOUT` and in findings.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::DeferTaskrun => "defer_taskrun",
            Feature::NoSqarray => "no_sqarray",
            Feature::Restrictions => "restrictions",
            Feature::RegisteredRing => "registered_ring",
            Feature::MinWait => "min_wait",
            Feature::FixedBuffers => "fixed_buffers",
            Feature::ByteCap => "byte_cap",
            Feature::MultishotAccept => "multishot_accept",
            Feature::MultishotRecv => "multishot_recv",
            Feature::MultishotRecvmsg => "multishot_recvmsg",
            Feature::HugePages => "huge_pages",
            Feature::Steering => "steering",
            Feature::UdpGro => "udp_gro",
        }
    }

    /// The mainline kernel that first had it, for people; nothing is decided by it.
    pub const fn since(self) -> &'static str {
        match self {
            Feature::DeferTaskrun => "6.1",
            Feature::NoSqarray => "6.6",
            Feature::Restrictions => "5.10",
            Feature::RegisteredRing => "5.18",
            Feature::MinWait => "6.12",
            Feature::FixedBuffers => "5.1",
            Feature::ByteCap => "6.17",
            Feature::MultishotAccept => "5.19",
            Feature::MultishotRecv | Feature::MultishotRecvmsg => "6.0",
            Feature::HugePages => "2.6.38",
            Feature::Steering => "4.6",
            Feature::UdpGro => "5.0",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A name that is no feature's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFeature {
    /// As given.
    pub name: String,
}

impl fmt::Display for UnknownFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: unknown kernel feature")?;
        writeln!(f, "cause: {WITHOUT_VARIABLE} names `{}`", self.name)?;
        write!(f, "fix:   use names of this list, separated by commas: {}", Feature::ALL.map(Feature::name).join(", "))
    }
}

impl std::error::Error for UnknownFeature {}

impl FromStr for Feature {
    type Err = UnknownFeature;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Feature::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| UnknownFeature { name: text.to_owned() })
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Features(u32);

impl Features {
    /// No feature at all: what the floor needs and nothing else.
    pub const NONE: Features = Features(0);
    /// Everything.
    pub const ALL: Features = Features((1 << Feature::COUNT) - 1);

    /// Whether the feature is there.
    #[inline]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// The set with the feature.
    pub const fn with(self, feature: Feature) -> Features {
        Features(self.0 | feature.bit())
    }

    /// The set without the feature.
    pub const fn without(self, feature: Feature) -> Features {
        Features(self.0 & !feature.bit())
    }

    /// The features that a list of names (separated by commas, blanks ignored) takes away.
    ///
    /// # Errors
    /// The first name that is no feature's.
    pub fn parse_list(list: &str) -> Result<Vec<Feature>, UnknownFeature> {
        list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::parse).collect()
    }

    /// The features that `EVENTSTREAM_WITHOUT` takes away; none when it is not set.
    ///
    /// # Errors
    /// The first name that is no feature's.
    pub fn without_from_env() -> Result<Vec<Feature>, UnknownFeature> {
        match std::env::var(WITHOUT_VARIABLE) {
            Ok(list) => Self::parse_list(&list),
            Err(std::env::VarError::NotPresent) => Ok(Vec::new()),
            Err(std::env::VarError::NotUnicode(raw)) => Err(UnknownFeature { name: raw.to_string_lossy().into_owned() }),
        }
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Feature::ALL.iter().filter(|x| self.has(**x)).map(|x| x.name())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_has_a_bit_and_a_name_of_its_own() {
        let mut set = Features::NONE;
        for feature in Feature::ALL {
            assert!(!set.has(feature));
            set = set.with(feature);
            assert_eq!(feature.name().parse(), Ok(feature));
        }
        assert_eq!(set, Features::ALL);
        assert!(!set.without(Feature::ByteCap).has(Feature::ByteCap));
    }

    #[test]
    fn a_list_of_names_is_parsed_and_an_unknown_name_is_refused() {
        assert_eq!(Features::parse_list(" min_wait, fixed_buffers,"), Ok(vec![Feature::MinWait, Feature::FixedBuffers]));
        assert_eq!(Features::parse_list(""), Ok(vec![]));
        let refused = Features::parse_list("min_wait,minwait").unwrap_err();
        assert_eq!(refused.name, "minwait");
        assert_eq!(refused.to_string().lines().count(), 3);
    }
}
