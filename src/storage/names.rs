//! What the files of a log are called.
//!
//! | name | what |
//! |---|---|
//! | `events.bin`, `events.node<k>.bin` | the active segment of node 0, of node k |
//! | `events.node<k>.<first sequence, 20 digits>.bin` | a sealed one; 20 digits hold any sequence, so names sort like sequences |
//! | `events.node<k>.next` | prepared to become the active one |

/// A file of a log, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentName {
    /// The active segment of this node.
    Active(u32),
    /// The sealed segment of this node that begins with this sequence.
    Sealed(u32, u64),
    /// What is prepared to become this node's active segment.
    Next(u32),
}

impl SegmentName {
    /// Reads a name; `None` if it is none of a log's.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "events.bin" {
            return Some(SegmentName::Active(0));
        }
        let (node, rest) = name.strip_prefix("events.node")?.split_once('.')?;
        let is_plain = node.bytes().all(|byte| byte.is_ascii_digit()) && (node == "0" || !node.starts_with('0'));
        let node = node.parse().ok().filter(|_| is_plain)?;
        match rest {
            "bin" if node > 0 => Some(SegmentName::Active(node)),
            "next" => Some(SegmentName::Next(node)),
            _ => {
                let sequence = rest.strip_suffix(".bin").filter(|digits| digits.len() == 20)?;
                let is_number = sequence.bytes().all(|byte| byte.is_ascii_digit());
                sequence.parse().ok().filter(|_| is_number).map(|first| SegmentName::Sealed(node, first))
            }
        }
    }

    /// Whose log it belongs to.
    pub fn node(self) -> u32 {
        match self {
            SegmentName::Active(node) | SegmentName::Sealed(node, _) | SegmentName::Next(node) => node,
        }
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SegmentName::Active(0) => write!(f, "events.bin"),
            SegmentName::Active(node) => write!(f, "events.node{node}.bin"),
            SegmentName::Sealed(node, first) => write!(f, "events.node{node}.{first:020}.bin"),
            SegmentName::Next(node) => write!(f, "events.node{node}.next"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        for name in [
            SegmentName::Active(0),
            SegmentName::Active(12),
            SegmentName::Sealed(0, 0),
            SegmentName::Sealed(3, u64::MAX),
            SegmentName::Next(0),
            SegmentName::Next(7),
        ] {
            assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(SegmentName::Sealed(0, 42).to_string(), "events.node0.00000000000000000042.bin");
    }

    #[test]
    fn other_names_are_nobodys() {
        let names = ["events.node0.bin", "events.node01.bin", "events.node1.7.bin", "events.node+1.bin", "events.node1.next.bin"];
        for name in names.into_iter().chain(["events.bin.damaged", "windows.jsonl", "events.node0.+0000000000000000042.bin"]) {
            assert_eq!(SegmentName::parse(name), None, "{name}");
        }
    }
}
