//! Values that carry their unit, as people write them in configuration: `30s`, `64KiB`, `50/10s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a value with a unit; says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUnit(String);

/// A length of time: a whole number with `ms`, `s`, `m`, `h` or `d`; `d` is always 24 hours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl FromStr for Span {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            BadUnit(format!(
                "`{text}` is not a length of time: write a whole number and ms, s, m, h or d, such as \"30s\""
            ))
        };
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis_each: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let millis = number.checked_mul(millis_each).ok_or_else(bad)?;
        // A hundred years: sums with it still fit every clock we use.
        if millis > 100 * 366 * 86_400_000 {
            return Err(BadUnit(format!("`{text}` is longer than a hundred years")));
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (size, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(size, _)| millis != 0 && millis.is_multiple_of(*size))
            .unwrap_or((1, "ms"));
        write!(f, "{}{unit}", millis / size)
    }
}

/// A number of bytes: a whole number with `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    /// The size for a buffer in memory.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            BadUnit(format!("`{text}` is not a size: write a whole number and B, KiB, MiB or GiB, such as \"64KiB\""))
        };
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift)
            .unwrap_or((0, "B"));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// A pace: at most `count` in every `per`, written `50/s`, `50/10s`, `600/m`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In which time, at least a millisecond.
    pub per: Duration,
}

impl Rate {
    /// What one of so many equal senders may send, so that all of them together keep to it. Fewer than one each in `per`
    /// becomes one each in a longer time.
    #[must_use]
    pub fn part_of(self, senders: usize) -> Self {
        let senders = u32::try_from(senders.max(1)).unwrap_or(u32::MAX);
        match self.count / senders {
            0 => Self { count: 1, per: self.per.saturating_mul(senders.div_ceil(self.count.max(1))) },
            part => Self { count: part, per: self.per },
        }
    }
}

impl FromStr for Rate {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad =
            || BadUnit(format!("`{text}` is not a rate: write a count and a time, such as \"50/s\" or \"50/10s\""));
        let (count, per) = text.split_once('/').ok_or_else(bad)?;
        let count: u32 = count.trim().parse().map_err(|_| bad())?;
        let per = per.trim();
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
        let per = per.parse::<Span>().map_err(|_| bad())?.0;
        if count == 0 || per.is_zero() {
            return Err(bad());
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = Span(self.per).to_string();
        write!(
            f,
            "{}/{}",
            self.count,
            per.strip_prefix('1').filter(|unit| !unit.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(&per)
        )
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(Span, Size, Rate);
