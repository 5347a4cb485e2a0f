//! A value that is never shown: `Debug`, `dump` and errors print stars.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// Read with [`Secret::expose`], and nowhere else.
///
/// Not `transparent`: the name tells the reader of the document that `file:/path` is meant for it.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(description = "Never shown. `${NAME}` or `file:/path` keeps it out of this document")]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}
