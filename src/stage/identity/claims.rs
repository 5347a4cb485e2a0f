//! What a token says, read strictly: JSON in which each name stands once, and paths into it.

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The parts of a token are objects (RFC 7519 7.2). A name given twice is refused, at any depth: readers
/// differ on which of the two counts, and the endpoint may read the same token.
pub fn object(json: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = Strict.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(object.into())
    }
}

/// Where a claim stands: `sub`, or `app_metadata.plan` for one inside another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// A claim of the whole name counts before one inside another: names such as
    /// `https://example.com/plan` have dots too.
    pub fn find<'v>(&self, claims: &'v Map<String, Value>) -> Option<&'v Value> {
        if let Some(value) = claims.get(&self.0) {
            return Some(value);
        }
        let mut names = self.0.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.as_object()?.get(name))
    }

    /// The claim as one word: text, or a whole number.
    pub fn text(&self, claims: &Map<String, Value>) -> Option<String> {
        word(self.find(claims)?)
    }
}

/// Text, a whole number or a boolean as text; none for anything else.
pub fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The words of a list, or the one word there is. A list that holds anything else is none.
pub fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(word).collect(),
        one => word(one).map(|word| vec![word]),
    }
}

/// Seconds since 1970 (RFC 7519 2, `NumericDate`), rounded down; a time before 1970 counts as 1970.
pub fn seconds(value: &Value) -> Option<u64> {
    if let Some(seconds) = value.as_u64() {
        return Some(seconds);
    }
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates: far future stays far future"
    )]
    Some(seconds.max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_read_and_nothing_that_could_be_read_in_two_ways() {
        for (text, taken) in [
            (r#"{"a":1,"b":[true,null,{"c":"d"}],"e":-1.5}"#, true),
            ("{}", true),
            (r#"{"a":1,"a":1}"#, false),
            (r#"{"sub":"a","s\u0075b":"b"}"#, false),
            (r#"{"a":{"b":1,"b":2}}"#, false),
            (r#"{"a":[{"b":1,"b":2}]}"#, false),
            (r#"{"a":1} {"#, false),
            (r#"{"a":1}x"#, false),
            ("[]", false),
            ("1", false),
            ("", false),
            (r#"{"a":NaN}"#, false),
            (r#"{"a":"\ud800"}"#, false),
        ] {
            let read = object(text.as_bytes());
            assert_eq!(read.is_some(), taken, "{text}");
            if let Some(read) = read {
                let plain: Value = serde_json::from_str(text).unwrap();
                assert_eq!(Value::Object(read), plain);
            }
        }
        let deep = format!("{}1{}", r#"{"a":"#.repeat(2_000), "}".repeat(2_000));
        assert_eq!(object(deep.as_bytes()), None);
        assert_eq!(object(b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn a_path_leads_into_claims() {
        let claims = object(
            br#"{"sub":"u1","n":7,"a":{"b":{"c":"deep"}},"a.b":"whole","https://x.test/plan":"pro","list":["r1",2],"mixed":["r1",{}],"none":null}"#,
        );
        let claims = claims.unwrap();
        for (path, expected) in [
            ("sub", Some("u1")),
            ("n", Some("7")),
            ("a.b", Some("whole")),
            ("a.b.c", Some("deep")),
            ("https://x.test/plan", Some("pro")),
            ("a", None),
            ("a.x", None),
            ("sub.x", None),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(Path::new(path).text(&claims).as_deref(), expected, "{path}");
        }
        let words = |path: &str| words(Path::new(path).find(&claims).unwrap());
        assert_eq!(words("list"), Some(vec!["r1".to_owned(), "2".to_owned()]));
        assert_eq!(words("sub"), Some(vec!["u1".to_owned()]));
        assert_eq!(words("mixed"), None);
    }

    #[test]
    fn dates_are_whole_seconds() {
        for (value, expected) in [
            (json!(1_700_000_000), Some(1_700_000_000)),
            (json!(1_700_000_000.9), Some(1_700_000_000)),
            (json!(-5), Some(0)),
            (json!(1e300), Some(u64::MAX)),
            (json!("1700000000"), None),
            (json!(null), None),
        ] {
            assert_eq!(seconds(&value), expected, "{value}");
        }
    }
}
