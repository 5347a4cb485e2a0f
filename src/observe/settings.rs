//! What an operator writes about the two logs: that of the process and that of requests.

use crate::base::units::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The process's own log, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `off`, `error`, `warn`, `info` (default), `debug` or `trace`; or several of them for parts of the gateway:
    /// `info,onemind_gateway::stage=trace`. `ONEMIND_LOG` and `RUST_LOG` go before this, and `POST /log` before
    /// both. Libraries below the gateway never say more than `info`: what they say beyond that is what passes through them.
    pub level: String,
    /// How lines look. Default `auto`.
    pub format: FormatSetting,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: FormatSetting::Auto,
        }
    }
}

/// How lines of the process log look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatSetting {
    /// For people when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One JSON object each.
    Json,
    /// For people; in colour on a terminal.
    Pretty,
}

/// Where the line of each request goes; written as a string when there is nothing more to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSettings {
    /// `stdout`, `off`, `syslog`, or the path of a file.
    pub to: String,
    pub rotate: Option<RotateSettings>,
    pub syslog: Option<SyslogSettings>,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self::to("stdout")
    }
}

impl AccessLogSettings {
    pub fn to(place: &str) -> Self {
        Self {
            to: place.to_owned(),
            rotate: None,
            syslog: None,
        }
    }

    /// Whether `to` is the path of a file.
    pub fn is_file(&self) -> bool {
        !matches!(self.to.as_str(), "stdout" | "off" | "syslog" | "")
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AccessLogSection {
    /// `stdout`, `off`, `syslog`, or the path of a file, which is appended to and may be a named pipe.
    to: String,
    /// For a file: begin a new one before this one grows too large. Absent: whoever renames it sends SIGUSR1.
    rotate: Option<RotateSettings>,
    /// For `to: syslog`.
    syslog: Option<SyslogSettings>,
}

impl From<AccessLogSection> for AccessLogSettings {
    fn from(section: AccessLogSection) -> Self {
        Self {
            to: section.to,
            rotate: section.rotate,
            syslog: section.syslog,
        }
    }
}

impl<'de> Deserialize<'de> for AccessLogSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AccessLogSettings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`stdout`, `off`, `syslog`, a path, or a section with `to`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(AccessLogSettings::to(text))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let section = AccessLogSection::deserialize(MapAccessDeserializer::new(map))?;
                Ok(section.into())
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for AccessLogSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.rotate.is_none() && self.syslog.is_none() {
            return serializer.serialize_str(&self.to);
        }
        let mut section = serializer.serialize_struct("AccessLog", 3)?;
        section.serialize_field("to", &self.to)?;
        section.serialize_field("rotate", &self.rotate)?;
        section.serialize_field("syslog", &self.syslog)?;
        section.end()
    }
}

impl JsonSchema for AccessLogSettings {
    fn schema_name() -> Cow<'static, str> {
        "AccessLog".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<AccessLogSection>();
        json_schema!({ "anyOf": [{ "type": "string", "minLength": 1 }, section] })
    }
}

/// When a new file begins, and how many old ones stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotateSettings {
    /// A file is renamed before it grows beyond this. From 4KiB on. Default `100MB`.
    pub size: Bytes,
    /// Old files that stay beside it: `access.log.1`, the youngest, to `access.log.5`. 1 to 1000. Default 5.
    /// Those beyond a number that was made smaller are nobody's any more: remove them by hand.
    pub keep: u32,
}

impl Default for RotateSettings {
    fn default() -> Self {
        Self {
            size: Bytes(100_000_000),
            keep: 5,
        }
    }
}

/// Who takes the lines as messages of RFC 5424.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SyslogSettings {
    /// `unix:/dev/log` (default), `udp://host:port` or `tcp://host:port`. What is sent by UDP may be lost without a
    /// word; TCP has a length before each message (RFC 6587, 3.4.1). A server that is away is tried again each second.
    pub address: SyslogAddress,
    /// Default `local0`.
    pub facility: Facility,
    /// The name of the program in each message: 1 to 48 letters, digits and signs. Default `onemind`.
    pub tag: String,
}

impl Default for SyslogSettings {
    fn default() -> Self {
        Self {
            address: SyslogAddress::Unix(PathBuf::from("/dev/log")),
            facility: Facility::Local0,
            tag: "onemind".to_owned(),
        }
    }
}

/// `unix:/dev/log`, `udp://10.0.0.5:514`, `tcp://logs.internal:601`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A socket for datagrams.
    Unix(PathBuf),
    /// Host and port, as the standard library resolves them.
    Udp(String),
    Tcp(String),
}

impl FromStr for SyslogAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_absolute = path.starts_with('/');
            return is_absolute
                .then(|| Self::Unix(PathBuf::from(path)))
                .ok_or("the path of a unix socket must begin with `/`");
        }
        let (make, rest): (fn(String) -> Self, _) = if let Some(rest) = text.strip_prefix("udp://")
        {
            (Self::Udp, rest)
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            (Self::Tcp, rest)
        } else {
            return Err("write `unix:/dev/log`, `udp://host:port` or `tcp://host:port`");
        };
        let port = rest
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(1..) => Ok(make(rest.to_owned())),
            _ => Err("a host and a port must follow, such as `udp://10.0.0.5:514`"),
        }
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(place) => write!(f, "udp://{place}"),
            Self::Tcp(place) => write!(f, "tcp://{place}"),
        }
    }
}

impl Serialize for SyslogAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SyslogAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = SyslogAddress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the address of a syslog server such as `udp://10.0.0.5:514`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<SyslogAddress, E> {
                text.parse()
                    .map_err(|why| E::custom(format_args!("`{text}` is no syslog server: {why}")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for SyslogAddress {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "SyslogAddress".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(unix:/|udp://|tcp://).+$" })
    }
}

/// What kind of program speaks (RFC 5424, 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Facility {
    User = 1,
    Daemon = 3,
    Auth = 4,
    Authpriv = 10,
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_syslog_server_is_read_and_written_back() {
        for text in [
            "unix:/dev/log",
            "udp://10.0.0.5:514",
            "udp://[::1]:514",
            "tcp://logs.internal:601",
        ] {
            let address: SyslogAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "",
            "/dev/log",
            "unix:dev/log",
            "udp://",
            "udp://a",
            "udp://:514",
            "udp://a:0",
            "tcp://a:65536",
            "http://a:1",
        ] {
            assert!(text.parse::<SyslogAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_access_log_is_a_word_or_a_section() {
        let read = |text: &str| serde_json::from_str::<AccessLogSettings>(text);
        let word = read("\"stdout\"").expect("a word");
        assert_eq!(word, AccessLogSettings::default());
        assert_eq!(serde_json::to_string(&word).expect("text"), "\"stdout\"");
        let section = read(r#"{"to":"a.log","rotate":{"keep":2}}"#).expect("a section");
        assert!(section.is_file());
        let rotate = section.rotate.expect("as written");
        assert_eq!((rotate.size.0, rotate.keep), (100_000_000, 2));
        let again = serde_json::to_string(&section).expect("text");
        assert_eq!(read(&again).expect(&again), section);
        for wrong in [r#"{"rotate":{}}"#, r#"{"to":"a","size":1}"#, "7"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
