//! The types of option values, each with one way to be read and an exact cause when it can't be.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::bus::Overflow;
use crate::process::{JsonPointer, JsonPointerRefusal};
use crate::storage::appender::Durability;
use crate::storage::sync_method::SyncChoice;
use crate::sys::memory::HugePages;

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Not a whole number.
    NotANumber,
    /// A number, but outside its bounds.
    OutOfRange {
        /// The least value accepted.
        least: u64,
        /// The greatest value accepted.
        most: u64,
    },
    /// Not a number with up to three decimal places.
    NotADecimal,
    /// A decimal number, but outside its bounds.
    DecimalOutOfRange {
        /// The least value accepted.
        least: Decimal,
        /// The greatest value accepted.
        most: Decimal,
    },
    /// Inside its bounds, but not a power of two.
    NotPowerOfTwo,
    /// Not a number of bytes, with or without a suffix.
    NotABytesSize,
    /// Not an address with a port.
    NotAnAddress,
    /// Not one of the words of this option.
    NotOneOf(&'static [&'static str]),
    /// Nothing at all.
    Empty,
    /// Neither of the forms of `--dedup-key`.
    NotADedupKey,
    /// Not a JSON pointer.
    NotAPointer(JsonPointerRefusal),
    /// A character that can't be in a path or a list.
    ControlCharacter,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NotANumber => f.write_str("it is not a whole number"),
            Cause::OutOfRange { least, most } => write!(f, "it must be between {least} and {most}"),
            Cause::NotADecimal => f.write_str("it is not a number with up to three decimal places, such as 2 or 0.8"),
            Cause::DecimalOutOfRange { least, most } => write!(f, "it must be between {least} and {most}"),
            Cause::NotPowerOfTwo => f.write_str("it must be a power of two"),
            Cause::NotABytesSize => f.write_str("it is not a number of bytes such as 65536, 64KiB or 1MiB"),
            Cause::NotAnAddress => {
                f.write_str("it is not an IP address with a port, such as 127.0.0.1:9000 or [::1]:9000, nor `off`")
            }
            Cause::NotOneOf(words) => write!(f, "it is none of {}", words.join(", ")),
            Cause::Empty => f.write_str("it is empty"),
            Cause::NotADedupKey => {
                f.write_str("it is neither pointer:/order/id (a JSON pointer), nor prefix:16 (1 to 65535 bytes), nor none")
            }
            Cause::NotAPointer(refusal) => write!(f, "{refusal}"),
            Cause::ControlCharacter => f.write_str("it contains a control character"),
        }
    }
}

/// A bound that a number must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No bound beyond the type's.
    Any,
    /// Least and greatest value.
    Between(u64, u64),
    /// Least and greatest value of a decimal number, in thousandths.
    BetweenThousandths(u64, u64),
    /// A power of two within the bounds.
    PowerOfTwo(u64, u64),
}

impl Rule {
    /// Whether `number` keeps the rule.
    ///
    /// # Errors
    /// The bound that it breaks.
    pub fn check(self, number: u64) -> Result<(), Cause> {
        match self {
            Rule::Any => Ok(()),
            Rule::Between(least, most) | Rule::PowerOfTwo(least, most) if !(least..=most).contains(&number) => {
                Err(Cause::OutOfRange { least, most })
            }
            Rule::BetweenThousandths(least, most) if !(least..=most).contains(&number) => {
                Err(Cause::DecimalOutOfRange { least: Decimal(least), most: Decimal(most) })
            }
            Rule::PowerOfTwo(..) if !number.is_power_of_two() => Err(Cause::NotPowerOfTwo),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Any => Ok(()),
            Rule::Between(least, most) => write!(f, "{least} to {most}"),
            Rule::BetweenThousandths(least, most) => write!(f, "{} to {}", Decimal(*least), Decimal(*most)),
            Rule::PowerOfTwo(least, most) => write!(f, "a power of two, {least} to {most}"),
        }
    }
}

/// A type that an option can have.
pub trait OptionValue: Sized {
    /// What to write in its place, for `--help`.
    const FORM: &'static str;

    /// Reads it from text.
    ///
    /// # Errors
    /// Why the text is not one.
    fn read(text: &str) -> Result<Self, Cause>;

    /// The number that a [`Rule`] is applied to, where it is one.
    fn number(&self) -> Option<u64> {
        None
    }
}

/// Reads a value and applies its rule.
///
/// # Errors
/// Why it is refused.
pub fn read_ruled<T: OptionValue>(text: &str, rule: Rule) -> Result<T, Cause> {
    let value = T::read(text.trim()).map_err(|cause| match (cause, rule) {
        // A number that not even the type can hold is told the option's bounds, not the type's.
        (Cause::OutOfRange { .. }, Rule::Between(least, most) | Rule::PowerOfTwo(least, most)) => {
            Cause::OutOfRange { least, most }
        }
        (Cause::DecimalOutOfRange { .. }, Rule::BetweenThousandths(least, most)) => {
            Cause::DecimalOutOfRange { least: Decimal(least), most: Decimal(most) }
        }
        (cause, _) => cause,
    })?;
    value.number().map_or(Ok(()), |number| rule.check(number))?;
    Ok(value)
}

macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl OptionValue for $type {
            const FORM: &'static str = "N";
            fn read(text: &str) -> Result<Self, Cause> {
                // Through u128, so that a number too large is told from what is no number.
                let digits = text.replace('_', "");
                let number: u128 = digits.parse().map_err(|_| Cause::NotANumber)?;
                number.try_into().map_err(|_| Cause::OutOfRange { least: 0, most: <$type>::MAX as u64 })
            }
            fn number(&self) -> Option<u64> {
                Some(*self as u64)
            }
        }
    )+};
}
numbers!(u8, u16, u32, u64);

/// A number of bytes; written plain (`65536`) or with a suffix (`64KiB`, `1MiB`, `2GiB`, or `K`, `M`, `G`; powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As a number to index and allocate with.
    pub const fn usize(self) -> usize {
        self.0 as usize
    }

    /// As 32 bits; the options' rules keep sizes that travel as 32 bits below 4 GiB, others saturate.
    pub const fn u32(self) -> u32 {
        if self.0 > u32::MAX as u64 { u32::MAX } else { self.0 as u32 }
    }
}

impl OptionValue for ByteSize {
    const FORM: &'static str = "BYTES";

    fn read(text: &str) -> Result<Self, Cause> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let (digits, suffix) = text.split_at(digits_end);
        let shift = match suffix.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            _ => return Err(Cause::NotABytesSize),
        };
        let number: u128 = digits.replace('_', "").parse().map_err(|_| Cause::NotABytesSize)?;
        let bytes = number.checked_mul(1 << shift).and_then(|bytes| u64::try_from(bytes).ok());
        bytes.map(ByteSize).ok_or(Cause::OutOfRange { least: 0, most: u64::MAX })
    }

    fn number(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// A number with up to three decimal places, exact: `2`, `0.8`, `12.125`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(u64);

impl Decimal {
    /// In thousandths.
    pub const fn thousandths(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, places) = (self.0 / 1_000, format!("{:03}", self.0 % 1_000));
        match places.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            places => write!(f, "{whole}.{places}"),
        }
    }
}

impl OptionValue for Decimal {
    const FORM: &'static str = "N.N";

    fn read(text: &str) -> Result<Self, Cause> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(places) || places.len() > 3 {
            return Err(Cause::NotADecimal);
        }
        let thousandths = format!("{whole}{places:0<3}").parse::<u64>();
        thousandths.map(Decimal).map_err(|_| Cause::DecimalOutOfRange { least: Decimal(0), most: Decimal(u64::MAX) })
    }

    fn number(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// A value, or the word `auto`: the engine chooses by what the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// The engine chooses.
    Auto,
    /// As given.
    Given(T),
}

impl<T> Auto<T> {
    /// The value, if one was given.
    pub fn given(self) -> Option<T> {
        match self {
            Auto::Auto => None,
            Auto::Given(value) => Some(value),
        }
    }

    /// The value given, by reference.
    pub const fn as_ref(&self) -> Auto<&T> {
        match self {
            Auto::Auto => Auto::Auto,
            Auto::Given(value) => Auto::Given(value),
        }
    }
}

macro_rules! auto {
    ($($type:ty => $form:literal),+) => {$(
        impl OptionValue for Auto<$type> {
            const FORM: &'static str = $form;
            fn read(text: &str) -> Result<Self, Cause> {
                if text == "auto" { Ok(Auto::Auto) } else { <$type>::read(text).map(Auto::Given) }
            }
            fn number(&self) -> Option<u64> {
                match self {
                    Auto::Auto => None,
                    Auto::Given(value) => value.number(),
                }
            }
        }
    )+};
}
auto!(u8 => "N|auto", u32 => "N|auto", PathBuf => "PATH|auto");

/// Where a socket listens: an address (port 0: any free one), or nowhere.
impl OptionValue for Option<SocketAddr> {
    const FORM: &'static str = "ADDRESS:PORT";

    fn read(text: &str) -> Result<Self, Cause> {
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| Cause::NotAnAddress)
    }
}

impl OptionValue for PathBuf {
    const FORM: &'static str = "PATH";

    fn read(text: &str) -> Result<Self, Cause> {
        plain(text).map(PathBuf::from)
    }
}

/// A core request as written (`auto`, `0,2,4-7` or `reactor=0,realtime=1,…`); the topology's planner reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreSpec(pub String);

impl OptionValue for CoreSpec {
    const FORM: &'static str = "auto|LIST|ROLE=N,…";

    fn read(text: &str) -> Result<Self, Cause> {
        plain(text).map(|text| CoreSpec(text.to_owned()))
    }
}

/// The part of a body by which `--dedup key` knows an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DedupKey {
    /// None.
    None,
    /// The value at a place of its JSON.
    Pointer(JsonPointer),
    /// So many first bytes.
    Prefix(u16),
}

impl OptionValue for DedupKey {
    const FORM: &'static str = "pointer:POINTER|prefix:BYTES|none";

    fn read(text: &str) -> Result<Self, Cause> {
        match text.split_once(':') {
            None if text == "none" => Ok(DedupKey::None),
            Some(("pointer", pointer)) => JsonPointer::parse(pointer).map(DedupKey::Pointer).map_err(Cause::NotAPointer),
            Some(("prefix", bytes)) => match bytes.parse() {
                Ok(bytes) if bytes > 0 => Ok(DedupKey::Prefix(bytes)),
                _ => Err(Cause::NotADedupKey),
            },
            _ => Err(Cause::NotADedupKey),
        }
    }
}

fn plain(text: &str) -> Result<&str, Cause> {
    match text {
        "" => Err(Cause::Empty),
        text if text.contains(char::is_control) => Err(Cause::ControlCharacter),
        text => Ok(text),
    }
}

/// An enum whose variants are words on the command line.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)? } form $form:literal)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// The word in flags and files.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl OptionValue for $name {
            const FORM: &'static str = $form;
            fn read(text: &str) -> Result<Self, Cause> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(Cause::NotOneOf(&[$($word),+])),
                }
            }
        }
    )+};
}

words! {
    /// A switch.
    OnOff {
        /// Yes.
        On = "on",
        /// No.
        Off = "off",
    } form "on|off"

    /// What a runner without work does.
    IdleStrategy {
        /// Polls on: wakes in 60 ns, burns a core.
        Spin = "spin",
        /// Polls a little, then parks.
        Adaptive = "adaptive",
        /// Parks at once: wakes in 25 µs.
        Park = "park",
    } form "spin|adaptive|park"

    /// Who waits for an event that waits for its next try.
    RetryOrder {
        /// Nobody.
        None = "none",
        /// Later events of its topic.
        Topic = "topic",
    } form "none|topic"

    /// How TRANSACTIONAL events are told to be the same.
    Dedup {
        /// By topic and body.
        Content = "content",
        /// By topic and a part of the body, which `--dedup-key` names.
        Key = "key",
        /// Not at all, unless they carry an idempotency key.
        Off = "off",
    } form "content|key|off"
}

/// Choices that a part of the engine defines itself, by the words of their variants.
macro_rules! words_of {
    ($($name:ident { $($variant:ident = $word:literal),+ } form $form:literal)+) => {$(
        impl OptionValue for $name {
            const FORM: &'static str = $form;
            fn read(text: &str) -> Result<Self, Cause> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(Cause::NotOneOf(&[$($word),+])),
                }
            }
        }
    )+};
}

words_of! {
    Overflow { DropOld = "drop-old", DropNew = "drop-new", BlockProducer = "block-producer" } form "drop-old|drop-new|block-producer"
    Durability { None = "none", Group = "group", Always = "always" } form "none|group|always"
    SyncChoice { Auto = "auto", Dsync = "dsync", Fdatasync = "fdatasync" } form "auto|dsync|fdatasync"
    HugePages { Auto = "auto", Off = "off", Required = "required" } form "auto|off|required"
}

impl OnOff {
    /// Whether it is on.
    pub const fn is_on(self) -> bool {
        matches!(self, OnOff::On)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_take_suffixes_of_powers_of_1024() {
        for (text, bytes) in
            [("65536", 65536), ("64KiB", 65536), ("64k", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), ("1_000", 1000)]
        {
            assert_eq!(ByteSize::read(text), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "64 KB", "-1", "0x10"] {
            assert_eq!(ByteSize::read(text), Err(Cause::NotABytesSize), "{text}");
        }
        assert_eq!(ByteSize::read("99999999999999GiB"), Err(Cause::OutOfRange { least: 0, most: u64::MAX }));
    }

    #[test]
    fn decimals_are_exact_to_three_places() {
        for (text, thousandths, shown) in
            [("2", 2_000, "2"), ("2.0", 2_000, "2"), ("0.8", 800, "0.8"), ("0.001", 1, "0.001"), ("12.125", 12_125, "12.125")]
        {
            let read = Decimal::read(text).expect("a decimal");
            assert_eq!((read.thousandths(), read.to_string().as_str()), (thousandths, shown), "{text}");
        }
        for text in ["", ".", "1.", ".5", "-1", "1.2345", "1e3", "2,0", "2 %"] {
            assert_eq!(Decimal::read(text), Err(Cause::NotADecimal), "{text}");
        }
        let refused = read_ruled::<Decimal>("1.0", Rule::BetweenThousandths(10, 999)).unwrap_err();
        assert_eq!(refused.to_string(), "it must be between 0.01 and 0.999");
        assert_eq!(read_ruled::<Decimal>(&"9".repeat(40), Rule::BetweenThousandths(10, 999)), Err(refused));
    }

    #[test]
    fn a_number_too_large_is_told_from_what_is_no_number() {
        assert_eq!(u8::read("256"), Err(Cause::OutOfRange { least: 0, most: 255 }));
        assert_eq!(u8::read("-1"), Err(Cause::NotANumber));
        assert_eq!(u8::read("ten"), Err(Cause::NotANumber));
        assert_eq!(u32::read("10_000"), Ok(10_000));
    }

    #[test]
    fn rules_name_the_bound_that_is_broken() {
        assert_eq!(read_ruled::<u32>("3", Rule::PowerOfTwo(2, 8)), Err(Cause::NotPowerOfTwo));
        assert_eq!(read_ruled::<u32>("16", Rule::PowerOfTwo(2, 8)), Err(Cause::OutOfRange { least: 2, most: 8 }));
        assert_eq!(read_ruled::<u32>("0", Rule::Between(1, 8)), Err(Cause::OutOfRange { least: 1, most: 8 }));
        assert_eq!(read_ruled::<u32>(" 8 ", Rule::PowerOfTwo(2, 8)), Ok(8));
        assert_eq!(read_ruled::<Auto<u32>>("auto", Rule::Between(1, 8)), Ok(Auto::Auto), "no number, no bound");
    }

    #[test]
    fn a_dedup_key_is_a_pointer_or_a_prefix() {
        assert_eq!(DedupKey::read("none"), Ok(DedupKey::None));
        assert_eq!(DedupKey::read("prefix:16"), Ok(DedupKey::Prefix(16)));
        let pointer = JsonPointer::parse("/order/id").expect("a pointer");
        assert_eq!(DedupKey::read("pointer:/order/id"), Ok(DedupKey::Pointer(pointer)));
        assert_eq!(DedupKey::read("pointer:order"), Err(Cause::NotAPointer(JsonPointerRefusal::NoSlash)));
        for text in ["", "order/id", "prefix:0", "prefix:65536", "prefix:x", "suffix:1"] {
            assert_eq!(DedupKey::read(text), Err(Cause::NotADedupKey), "{text}");
        }
    }

    #[test]
    fn words_refuse_with_the_whole_list() {
        assert_eq!(Overflow::read("drop-old"), Ok(Overflow::DropOld));
        assert_eq!(Overflow::read("Drop"), Err(Cause::NotOneOf(&["drop-old", "drop-new", "block-producer"])));
    }

    #[test]
    fn addresses_are_numbers_with_a_port_or_off() {
        assert_eq!(Option::<SocketAddr>::read("off"), Ok(None));
        assert!(Option::<SocketAddr>::read("[::1]:0").is_ok());
        assert_eq!(Option::<SocketAddr>::read("localhost:9000"), Err(Cause::NotAnAddress));
        assert_eq!(Option::<SocketAddr>::read("127.0.0.1"), Err(Cause::NotAnAddress));
    }
}
