//! Priorities as they travel, and the tiers they lead to.

/// The priority byte of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// 0: bulk, may wait longest.
    Batch = 0,
    /// 1: bulk.
    Low = 1,
    /// 2: deduplicated and retried.
    Medium = 2,
    /// 3: within 100 µs.
    High = 3,
    /// 4: within 100 µs, kept in every control level.
    Critical = 4,
}

impl Priority {
    /// All, in the order of their byte.
    pub const ALL: [Priority; 5] = [Priority::Batch, Priority::Low, Priority::Medium, Priority::High, Priority::Critical];

    /// The priority of a byte; `None` beyond 4.
    pub const fn from_byte(byte: u8) -> Option<Priority> {
        match byte {
            0 => Some(Priority::Batch),
            1 => Some(Priority::Low),
            2 => Some(Priority::Medium),
            3 => Some(Priority::High),
            4 => Some(Priority::Critical),
            _ => None,
        }
    }

    /// The tier that this priority leads to unless a topic override says otherwise.
    pub const fn tier(self) -> Tier {
        match self {
            Priority::Critical | Priority::High => Tier::Realtime,
            Priority::Medium => Tier::Transactional,
            Priority::Low | Priority::Batch => Tier::Batch,
        }
    }

    /// The name used in flags, JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Priority::Batch => "BATCH",
            Priority::Low => "LOW",
            Priority::Medium => "MEDIUM",
            Priority::High => "HIGH",
            Priority::Critical => "CRITICAL",
        }
    }
}

impl std::str::FromStr for Priority {
    type Err = String;
    /// Parses a name in any case, or the byte as a number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Priority::ALL
            .into_iter()
            .find(|p| p.name().eq_ignore_ascii_case(text) || text == (*p as u8).to_string())
            .ok_or_else(|| format!("`{text}` is not one of batch, low, medium, high, critical, 0-4"))
    }
}

/// One of the three classes of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    /// HIGH and CRITICAL.
    Realtime = 0,
    /// MEDIUM.
    Transactional = 1,
    /// LOW and BATCH.
    Batch = 2,
}

impl Tier {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All, the most urgent first.
    pub const ALL: [Tier; 3] = [Tier::Realtime, Tier::Transactional, Tier::Batch];

    /// The tier of its byte in an event header; `None` beyond 2.
    pub const fn from_byte(byte: u8) -> Option<Tier> {
        match byte {
            0 => Some(Tier::Realtime),
            1 => Some(Tier::Transactional),
            2 => Some(Tier::Batch),
            _ => None,
        }
    }

    /// Its place in arrays indexed by tier.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in flags, JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Tier::Realtime => "realtime",
            Tier::Transactional => "transactional",
            Tier::Batch => "batch",
        }
    }

    /// The short name used in metric names (`queue_depth_trans`).
    pub const fn metric_name(self) -> &'static str {
        match self {
            Tier::Realtime => "realtime",
            Tier::Transactional => "trans",
            Tier::Batch => "batch",
        }
    }
}

impl std::str::FromStr for Tier {
    type Err = String;
    /// Parses a name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Tier::ALL.into_iter().find(|tier| tier.name().eq_ignore_ascii_case(text));
        named.ok_or_else(|| format!("`{text}` is not one of realtime, transactional, batch"))
    }
}
