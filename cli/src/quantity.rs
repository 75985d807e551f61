//! Sizes and times as people type them: as coreutils takes them, and with the units of the config files.

use std::time::Duration;

use cairn_daemon::config::duration;

/// Letters that stand for powers of 1024, or, before a `B`, of 1000.
const LETTERS: &str = "KMGTPE";

/// A number of bytes: `512`, `10K` and `10KiB` (1024), `10kB` (1000), `2b` (blocks of 512), up to `E`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = taken_apart(text);
    let bytes = || {
        let factor = if unit.is_empty() {
            1
        } else {
            unit_bytes(unit)?
        };
        number.parse::<u64>().ok()?.checked_mul(factor)
    };
    bytes().ok_or_else(|| {
        format!("`{text}` is not a size such as 100, 10K or 10KiB (of 1024), 10kB (of 1000), 5M, 1G or 1T")
    })
}

/// What a number is followed by: no letter means itself in every place.
pub(crate) fn taken_apart(text: &str) -> (&str, &str) {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// How many bytes one of a unit is.
pub(crate) fn unit_bytes(unit: &str) -> Option<u64> {
    match unit {
        "b" => return Some(512),
        "B" => return Some(1),
        _ => {}
    }
    let first = unit.chars().next()?.to_ascii_uppercase();
    let power = u32::try_from(LETTERS.find(first)?).ok()? + 1;
    match unit[1..].to_ascii_lowercase().as_str() {
        "" | "ib" => 1024_u64.checked_pow(power),
        "b" => 1000_u64.checked_pow(power),
        _ => None,
    }
}

/// How much, as `head` and `tail` are told it: the sign says from which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Plain(u64),
    Plus(u64),
    Minus(u64),
}

impl Amount {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.as_bytes().first() {
            Some(b'+') => size(&text[1..]).map(Self::Plus),
            Some(b'-') => size(&text[1..]).map(Self::Minus),
            _ => size(text).map(Self::Plain),
        }
    }
}

/// A duration with a unit, such as `500ms`, `5s` or `2m`; without one it is seconds, as for sleep(1).
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text);
    let is_decimal = seconds.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && seconds
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_decimal
        && let Ok(seconds) = seconds.parse::<f64>()
        && let Ok(time) = Duration::try_from_secs_f64(seconds)
    {
        return Ok(time);
    }
    duration::parse(text)
        .map_err(|_| format!("`{text}` is not a time such as 5, 0.5, 500ms, 10s, 2m or 1h"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Amount, size, time};

    #[test]
    fn sizes_have_the_units_of_coreutils_and_of_the_config_files() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("2b", 1024),
            ("2B", 2),
            ("1k", 1 << 10),
            ("1K", 1 << 10),
            ("1kB", 1000),
            ("1KB", 1000),
            ("1KiB", 1 << 10),
            ("4 KiB", 4 << 10),
            ("5M", 5 << 20),
            ("5MB", 5_000_000),
            ("3g", 3 << 30),
            ("10T", 10 << 40),
            ("2P", 2 << 50),
            ("15E", 15 << 60),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "K",
            "-1",
            "1.5K",
            "1X",
            "1Kib2",
            "16E",
            "99999999999999999999",
            "1 é",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_have_signs() {
        assert_eq!(Amount::parse("+5"), Ok(Amount::Plus(5)));
        assert_eq!(Amount::parse("-2k"), Ok(Amount::Minus(2048)));
        assert_eq!(Amount::parse("3"), Ok(Amount::Plain(3)));
        assert!(Amount::parse("+").is_err() && Amount::parse("+-1").is_err());
    }

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (text, milliseconds) in [
            ("5", 5000),
            ("0.5", 500),
            ("1.5s", 1500),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                time(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for bad in [
            "",
            "s",
            ".",
            "-1",
            "1x",
            "1e9",
            "nan",
            "inf",
            "9".repeat(40).as_str(),
        ] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
