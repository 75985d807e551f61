//! Durations, written with units: `"10s"`, `"500ms"`, `"2m"`. For fields of type [`Duration`]:
//! `#[serde(with = "cairn_daemon::config::duration")]`; for clap: `value_parser = duration::parse`.
//!
//! Plain numbers are refused: nobody can tell whether they are seconds or milliseconds.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

use super::{BadQuantity, number_and_unit};

const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration.
pub fn parse(text: &str) -> Result<Duration, BadQuantity> {
    let nanoseconds = || {
        let (number, unit) = number_and_unit(text)?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*factor)
    };
    nanoseconds()
        .map(Duration::from_nanos)
        .ok_or_else(|| bad(text))
}

fn bad(text: &str) -> BadQuantity {
    BadQuantity {
        text: text.to_owned(),
        noun: "duration",
        units: "ns, us, ms, s, m, h, d",
        example: "10s",
    }
}

/// Shows a duration in the largest unit that fits exactly.
pub fn display(duration: Duration) -> impl fmt::Display {
    Shown(duration)
}

struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        if nanoseconds == 0 {
            return f.write_str("0s");
        }
        let fits = |&&(_, factor): &&(&str, u64)| nanoseconds.is_multiple_of(u128::from(factor));
        let (unit, factor) = UNITS.iter().find(fits).copied().unwrap_or(("ns", 1));
        write!(f, "{}{unit}", nanoseconds / u128::from(factor))
    }
}

/// For serde.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&display(*duration))
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"10s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
        Err(E::custom(bad(&number.to_string())))
    }
}

/// For serde.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(DurationVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500 ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1h30m",
            "10 S",
            "99999999999d",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(number in 0u64..100_000, unit in 0usize..7) {
            let duration = Duration::from_nanos(number * UNITS[unit].1);
            proptest::prop_assert_eq!(parse(&display(duration).to_string()), Ok(duration));
        }
    }
}
