//! What a typed read complains of, in words for the one who wrote the document.

use super::suggest;
use super::tree::Span;
use crate::base::fault::KeyPath;
use serde::de::{Error, Expected, Unexpected};
use std::fmt;

/// The error of the typed read; boxed, because it travels through every level of the document.
#[derive(Debug)]
pub struct Problem(pub Box<Detail>);

#[derive(Debug)]
pub struct Detail {
    pub kind: Kind,
    pub what: String,
    pub fix: String,
    /// None until the value that the problem is about has been met on the way out.
    pub at: Option<KeyPath>,
    /// The place, where it is not that of the value at `at`.
    pub span: Option<Span>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value itself is wrong.
    Value,
    /// The section lacks this key.
    Missing(&'static str),
    /// The section has a key it should not have; the known key that was probably meant.
    Unknown { key: String, meant: Option<String> },
    /// Only a trace of a fault that was reported before.
    Consequence,
}

impl Problem {
    pub fn new(kind: Kind, what: String, fix: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind,
            what,
            fix: fix.into(),
            at: None,
            span: None,
        }))
    }

    pub fn value(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Kind::Value, what.into(), fix)
    }

    /// Nothing stands where a value should.
    pub fn empty() -> Self {
        Self::value(
            "nothing stands here",
            "write a value, or `{}` for a section with its defaults, or remove the key",
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl std::error::Error for Problem {}

impl Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let what = message.to_string();
        let fix = custom_fix(&what);
        Self::value(what, fix)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let fix = type_fix(&found, &expected);
        Self::value(
            format!("expected {}, found {}", wanted(&expected), seen(&found)),
            fix,
        )
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let fix = suggest::hint(variant, expected.iter().copied());
        Self::value(format!("`{variant}` is not known here"), fix)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let meant = suggest::nearest(field, expected.iter().copied()).map(str::to_owned);
        let fix = suggest::hint(field, expected.iter().copied());
        let kind = Kind::Unknown {
            key: field.to_owned(),
            meant,
        };
        Self::new(kind, format!("unknown key `{field}`"), fix)
    }

    fn missing_field(field: &'static str) -> Self {
        let fix = format!("write `{field}: …` in this section");
        Self::new(
            Kind::Missing(field),
            format!("the key `{field}` is missing"),
            fix,
        )
    }
}

fn seen(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean `{value}`"),
        Unexpected::Unsigned(value) => format!("the number `{value}`"),
        Unexpected::Signed(value) => format!("the number `{value}`"),
        Unexpected::Float(value) => format!("the number `{value}`"),
        Unexpected::Str(text) => format!("the text `{text}`"),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a section of keys".to_owned(),
        other => other.to_string(),
    }
}

/// The words of serde in the words of the manual.
fn wanted(expected: &str) -> String {
    let highest = match expected {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "u64" | "usize" => u64::MAX,
        "a boolean" => return "`true` or `false`".to_owned(),
        "a string" => return "text".to_owned(),
        "path string" => return "a path".to_owned(),
        "a map" => return "a section of keys".to_owned(),
        "a sequence" => return "a list".to_owned(),
        "socket address" => return "an address such as `0.0.0.0:8080`".to_owned(),
        other if other.starts_with("struct ") => return "a section of keys".to_owned(),
        other => return other.to_owned(),
    };
    if highest == u64::MAX {
        return "a whole number".to_owned();
    }
    format!("a whole number from 0 to {highest}")
}

fn type_fix(found: &Unexpected<'_>, expected: &str) -> &'static str {
    let number = matches!(expected, "u8" | "u16" | "u32" | "u64" | "usize");
    match found {
        Unexpected::Str(text) if number && text.parse::<u64>().is_ok() => {
            "remove the quotes and leading zeros"
        }
        Unexpected::Str("true" | "false") if expected == "a boolean" => "remove the quotes",
        Unexpected::Str(text) if expected == "a boolean" => match text.to_lowercase().as_str() {
            "yes" | "on" | "y" | "true" => "write `true`",
            "no" | "off" | "n" | "false" => "write `false`",
            _ => "",
        },
        _ => "",
    }
}

/// What to write instead, for messages that come from a parser of the standard library or of `ipnet`.
fn custom_fix(what: &str) -> &'static str {
    match what {
        "invalid socket address syntax" => {
            "write `address:port`, such as `0.0.0.0:8080` or `[::]:8080`"
        }
        "a path without `unix:` before it" => "write it like `unix:/run/onemind/web.sock`",
        "not the mode of a file" => "write three octal digits, such as `\"0660\"`",
        "invalid IP address syntax" => "write a network such as `10.0.0.0/8` or `fd00::/8`",
        _ => "",
    }
}
