//! What tokens cost, exactly: decimals as they are written, never binary fractions.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// An amount of money, in billionths of whatever unit the operator counts in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub u64);

const BILLION: u64 = 1_000_000_000;
const DECIMALS: usize = 9;

/// What a model costs, for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// For a million tokens of the prompt, such as `2.50`.
    pub input: Amount,
    /// For a million tokens of the answer, such as `10`.
    pub output: Amount,
}

impl Price {
    /// What a call would cost, in millionths of a billionth: only to be compared.
    pub fn of(&self, input_tokens: u64, output_tokens: u64) -> u128 {
        u128::from(self.input.0) * u128::from(input_tokens)
            + u128::from(self.output.0) * u128::from(output_tokens)
    }
}

impl Amount {
    /// `12`, `0.075`: digits, and at most nine of them behind a point.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (whole, decimals) = match text.split_once('.') {
            Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
            Some(_) => return None,
            None => (text, "0"),
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let decimals: u64 = format!("{decimals:0<DECIMALS$}").parse().ok()?;
        let billionths = whole.checked_mul(BILLION)?;
        billionths.checked_add(decimals).map(Self)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / BILLION, self.0 % BILLION);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:0>DECIMALS$}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as `2.50`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
                Amount::parse(text).ok_or_else(|| {
                    let what = "is not an amount such as `2.50`, with at most nine decimals";
                    E::custom(format_args!("`{text}` {what}"))
                })
            }
        }
        // As text: a number would have been rounded on the way here.
        deserializer.deserialize_str(Text)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number"],
            "pattern": r"^[0-9]+(\.[0-9]{1,9})?$",
            "description": "an amount such as `2.50`, with at most nine decimals"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_to_the_last_decimal() {
        for (text, billionths) in [
            ("0", 0),
            ("10", 10 * BILLION),
            ("2.50", 2_500_000_000),
            ("0.075", 75_000_000),
            ("0.000000001", 1),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(Amount::parse(text), Some(Amount(billionths)), "{text}");
        }
        for text in [
            "",
            ".5",
            "5.",
            "-1",
            "1e3",
            "1,5",
            "0.0000000001",
            "18446744073.709551616",
            "99999999999999999999",
            "1.2.3",
        ] {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_is_written_as_it_is_read(billionths: u64) {
            let amount = Amount(billionths);
            prop_assert_eq!(Amount::parse(&amount.to_string()), Some(amount));
        }
    }
}
