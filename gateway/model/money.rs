//! Money: whole minor units of one ISO 4217 currency. Never a float.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An ISO 4217 currency code, such as `GBP`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Built from ASCII letters only (see `from_str`), so this never falls back.
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }

    /// Digits after the decimal point (ISO 4217 "minor unit").
    #[must_use]
    pub fn digits(self) -> u32 {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            _ => 2,
        }
    }
}

impl FromStr for Currency {
    type Err = BadMoney;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_uppercase) => Ok(Self([a, b, c])),
            _ => Err(BadMoney(format!("`{text}` is not a currency: use three capital letters, such as \"GBP\""))),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = BadMoney;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not an amount or a currency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMoney(String);

/// An amount in minor units; the currency stands on the campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub i64);

impl Amount {
    /// Reads a plain decimal such as `31`, `31.5` or `31.00`: digits, an optional minus, at most the currency's
    /// decimals.
    ///
    /// # Errors
    /// When the text is no such number, or too large for 64 bits of minor units.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, BadMoney> {
        let digits = currency.digits();
        let bad = || {
            BadMoney(format!(
                "`{}` is not an amount in {currency}: write it as \"12{}\"",
                text.chars().take(40).collect::<String>(),
                if digits == 0 { String::new() } else { format!(".{}", "50000".get(..digits as usize).unwrap_or("5")) }
            ))
        };
        let (negative, plain) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
        let numeric = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !numeric(whole) || !numeric(fraction) || plain.ends_with('.') {
            return Err(bad());
        }
        // Zeros beyond the currency's decimals say nothing ("31.000"); other digits would be lost.
        let fraction = if fraction.len() > digits as usize { fraction.trim_end_matches('0') } else { fraction };
        if fraction.len() > digits as usize {
            return Err(bad());
        }
        let minor: i64 = format!("{whole}{fraction:0<width$}", width = digits as usize).parse().map_err(|_| bad())?;
        Ok(Self(if negative { -minor } else { minor }))
    }

    /// The amount as the API shows it: `"31.00"`.
    #[must_use]
    pub fn display(self, currency: Currency) -> String {
        let digits = currency.digits() as usize;
        let sign = if self.0 < 0 { "-" } else { "" };
        let minor = format!("{:0>width$}", self.0.unsigned_abs(), width = digits + 1);
        let (whole, fraction) = minor.split_at(minor.len() - digits);
        if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
    }
}
