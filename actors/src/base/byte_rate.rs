//! A limit on bytes per second, as people write it.

use std::fmt;
use std::str::FromStr;

/// Bytes per second, at least [`ByteRate::MIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(u64);

impl ByteRate {
    /// The slowest: below it a span is on its way for minutes, and readers give up.
    pub const MIN: ByteRate = ByteRate(1000);
    /// The fastest: no machine moves more, so whoever writes it meant something else.
    pub const MAX: ByteRate = ByteRate(1_000_000_000_000);

    /// So many bytes per second; `None` if they are too few or too many.
    pub const fn new(bytes_s: u64) -> Option<ByteRate> {
        if bytes_s < ByteRate::MIN.0 || bytes_s > ByteRate::MAX.0 { None } else { Some(ByteRate(bytes_s)) }
    }

    /// Bytes per second.
    pub const fn bytes_s(self) -> u64 {
        self.0
    }
}

/// Shown in bytes per second, as it can be parsed again.
impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B/s", self.0)
    }
}

/// Why a text is no [`ByteRate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRateError {
    /// It does not begin with a number.
    NoNumber,
    /// What follows the number is no unit.
    NoUnit,
    /// A lower-case b.
    Bits,
    /// Nothing would move.
    Zero,
    /// Fewer bytes than [`ByteRate::MIN`].
    TooLow,
    /// More bytes than [`ByteRate::MAX`].
    TooHigh,
}

impl fmt::Display for ByteRateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ByteRateError::NoNumber => {
                f.write_str("write a number with its unit, for example 20MiB/s, 20M or 1.5MB/s")
            }
            ByteRateError::NoUnit => f.write_str(
                "units are k, M, G (of 1000) and Ki, Mi, Gi (of 1024), with or without B or B/s behind them",
            ),
            ByteRateError::Bits => {
                f.write_str("a small b would mean bits; a limit is in bytes, for example 20MB/s")
            }
            ByteRateError::Zero => {
                f.write_str("0 would let nothing through; without the option there is no limit")
            }
            ByteRateError::TooLow => {
                write!(f, "the lowest limit is {}: below it, readers give up", ByteRate::MIN)
            }
            ByteRateError::TooHigh => write!(f, "the highest limit is {}", ByteRate::MAX),
        }
    }
}

impl std::error::Error for ByteRateError {}

impl FromStr for ByteRate {
    type Err = ByteRateError;

    /// A decimal number, and perhaps a unit: `20MiB/s`, `1.5MB/s`, `20M`, `500000`.
    fn from_str(text: &str) -> Result<ByteRate, ByteRateError> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        // Digits and dots alone: nothing else that a float may be, such as "inf", gets here.
        let number: f64 = number.parse().map_err(|_| ByteRateError::NoNumber)?;
        let bytes_s = (number * unit_bytes(unit.trim_start())? as f64).round();
        if number == 0.0 {
            Err(ByteRateError::Zero)
        } else if bytes_s < ByteRate::MIN.0 as f64 {
            Err(ByteRateError::TooLow)
        } else if bytes_s > ByteRate::MAX.0 as f64 {
            Err(ByteRateError::TooHigh)
        } else {
            Ok(ByteRate(bytes_s as u64))
        }
    }
}

/// How many bytes the unit stands for.
fn unit_bytes(unit: &str) -> Result<u64, ByteRateError> {
    let unit = unit.strip_suffix("/s").unwrap_or(unit);
    if unit.contains('b') {
        return Err(ByteRateError::Bits);
    }
    Ok(match unit.strip_suffix('B').unwrap_or(unit) {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(ByteRateError::NoUnit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_with_a_unit_of_bytes() {
        for (text, bytes_s) in [
            ("1000", 1000),
            ("500000", 500_000),
            ("1000B", 1000),
            ("2000B/s", 2000),
            ("1500/s", 1500),
            ("20k", 20_000),
            ("20K", 20_000),
            ("20kB", 20_000),
            ("20KB/s", 20_000),
            ("20M", 20_000_000),
            ("1.5MB/s", 1_500_000),
            ("1.5 MB/s", 1_500_000),
            (" 3G ", 3_000_000_000),
            ("0.5GB", 500_000_000),
            (".5M", 500_000),
            ("1Ki", 1024),
            ("20MiB/s", 20 << 20),
            ("0.25Mi", 256 << 10),
            ("1GiB", 1 << 30),
            ("1.0005k", 1001),
            ("1000G", 1_000_000_000_000),
        ] {
            let rate: ByteRate = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rate.bytes_s(), bytes_s, "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate), "{text}");
            assert_eq!(ByteRate::new(bytes_s), Some(rate), "{text}");
        }
    }

    #[test]
    fn what_is_no_limit_is_refused_and_says_why() {
        use ByteRateError::*;
        for (text, why) in [
            ("", NoNumber),
            ("fast", NoNumber),
            ("-1M", NoNumber),
            ("+1M", NoNumber),
            ("inf", NoNumber),
            ("NaN", NoNumber),
            ("1.2.3M", NoNumber),
            (".", NoNumber),
            ("M", NoNumber),
            ("1e6", NoUnit),
            ("1_000_000", NoUnit),
            ("1,5M", NoUnit),
            ("20m", NoUnit),
            ("20MiBs", NoUnit),
            ("20MB/h", NoUnit),
            ("20 M B", NoUnit),
            ("20T", NoUnit),
            ("20Mb/s", Bits),
            ("20Mbit/s", Bits),
            ("20mbps", Bits),
            ("0", Zero),
            ("0.0MB/s", Zero),
            ("999", TooLow),
            ("0.0001k", TooLow),
            ("1001G", TooHigh),
            ("99999999999999999999999999", TooHigh),
        ] {
            assert_eq!(text.parse::<ByteRate>(), Err(why), "{text:?}");
        }
        assert_eq!((ByteRate::new(999), ByteRate::new(u64::MAX)), (None, None));
    }
}
