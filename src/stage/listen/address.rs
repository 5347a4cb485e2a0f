//! Where a listener listens: a port of an address, or a Unix socket.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a Unix socket, in bytes: the kernel's `sun_path` without the closing zero (`unix(7)`).
pub const UNIX_PATH_BYTES_MAX: usize = 107;

const UNIX: &str = "unix:";

/// `0.0.0.0:8080`, `[::]:8080` or `unix:/run/onemind/web.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl ListenAddress {
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Inet(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    /// An empty path is for the check of the configuration to refuse: it has the place and the fix.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let address = text.parse().map(Self::Inet);
        address.map_err(|_| {
            if text.starts_with(['/', '.']) {
                "a path without `unix:` before it"
            } else {
                // As the standard library says it of other addresses.
                "invalid socket address syntax"
            }
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Words("socket address", str::parse))
    }
}

impl JsonSchema for ListenAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ListenAddress".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<String>()
    }
}

/// Who may connect to a Unix socket: the bits of its file, such as `0660`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o660)
    }
}

impl FromStr for SocketMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let is_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let bits = u32::from_str_radix(text, 8);
        match bits {
            Ok(bits @ 0..=0o777) if is_octal && matches!(text.len(), 3 | 4) => Ok(Self(bits)),
            _ => Err("not the mode of a file"),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Words("a mode such as `0660`", str::parse))
    }
}

/// A text and how it is read.
struct Words<T, E>(&'static str, fn(&str) -> Result<T, E>);

impl<T, E: fmt::Display> Visitor<'_> for Words<T, E> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<F: de::Error>(self, text: &str) -> Result<T, F> {
        (self.1)(text).map_err(F::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_back() {
        for text in ["0.0.0.0:8080", "[::]:8080", "unix:/run/web.sock", "unix:a"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.port().is_none(), text.starts_with("unix:"));
        }
        for text in ["", "8080", "/run/web.sock", "UNIX:/run/web.sock"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mode_is_written_as_for_chmod() {
        for (text, bits) in [("0660", 0o660), ("660", 0o660), ("0777", 0o777)] {
            let mode: SocketMode = text.parse().unwrap();
            assert_eq!(mode.0, bits, "{text}");
            assert_eq!(mode.to_string().parse(), Ok(mode), "{text}");
        }
        for text in ["", "66", "0680", "+660", "1777", "00660", "rw-rw----"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }
}
