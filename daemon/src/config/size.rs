//! Sizes in bytes, written with units.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BadQuantity, number_and_unit};

/// A size in bytes: `"64 MiB"`, `"1GB"`, or a plain integer. `k`, `M` and `G` alone are refused, because people
/// disagree on what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Binary units first: they are tried first when a size is shown.
const UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// So many KiB.
    pub const fn kib(count: u32) -> ByteSize {
        ByteSize((count as u64) << 10)
    }

    /// So many MiB.
    pub const fn mib(count: u32) -> ByteSize {
        ByteSize((count as u64) << 20)
    }

    /// So many GiB.
    pub const fn gib(count: u32) -> ByteSize {
        ByteSize((count as u64) << 30)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that shows it exactly, so that it reads back as the same size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, factor): &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(factor);
        let (unit, factor) = UNITS.iter().find(fits).copied().unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<ByteSize, BadQuantity> {
        let parse = || {
            let (number, unit) = number_and_unit(text)?;
            if unit.is_empty() {
                return Some(number);
            }
            let (_, factor) = UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
            number.checked_mul(*factor)
        };
        parse().map(ByteSize).ok_or_else(|| BadQuantity {
            text: text.to_owned(),
            noun: "size",
            units: "B, KiB, MiB, GiB, TiB, PiB, or KB, MB, GB, TB, PB for powers of 1000",
            example: "64 MiB",
        })
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"64 MiB\", or a number of bytes")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(bytes))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<ByteSize, E> {
        let negative = |_| E::custom(format!("a size cannot be negative: {bytes}"));
        u64::try_from(bytes).map(ByteSize).map_err(negative)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(ByteSize::bytes);
        assert_eq!(bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(bytes("128MiB"), Ok(128 << 20));
        assert_eq!(bytes(" 1 gb "), Ok(1_000_000_000));
        assert_eq!(bytes("17"), Ok(17));
        assert_eq!(bytes("0 B"), Ok(0));
        for bad in [
            "",
            "MiB",
            "64 M",
            "1.5 GiB",
            "-1",
            "64 MiB 3",
            "999999999 PiB",
            "१ B",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        assert_eq!(ByteSize::mib(64).to_string(), "64 MiB");
        assert_eq!(ByteSize::new(1_000_000_000).to_string(), "1 GB");
        assert_eq!(ByteSize::new(0).to_string(), "0 B");
        assert_eq!(ByteSize::new(1025).to_string(), "1025 B");
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(number in 0u64..=u64::MAX >> 20, unit in 0usize..5) {
            let size = ByteSize::new(number.saturating_mul(UNITS[unit + 6].1));
            proptest::prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
