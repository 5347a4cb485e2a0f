//! Takes a call apart field by field, so that what is wrong is told with its place, and what is left over is known.

use super::super::call::{Call, Extra, ExtraRule};
use super::super::fault::CallFault;
use serde_json::{Map, Number, Value};

/// An object of a call.
#[derive(Debug)]
pub struct Fields {
    at: String,
    map: Map<String, Value>,
    snake_too: bool,
}

impl Fields {
    /// The whole body of a call.
    pub fn of_body(body: &[u8]) -> Result<Self, CallFault> {
        let value: Value = serde_json::from_slice(body).map_err(|fault| CallFault {
            param: None,
            ..CallFault::invalid("", format!("the body is not JSON: {fault}"))
        })?;
        Self::of("", value)
    }

    /// The object at `at`.
    pub fn of(at: impl Into<String>, value: Value) -> Result<Self, CallFault> {
        let at = at.into();
        match value {
            Value::Object(map) => Ok(Self {
                at,
                map,
                snake_too: false,
            }),
            _ if at.is_empty() => Err(CallFault {
                param: None,
                ..CallFault::invalid("", "the body must be a JSON object")
            }),
            _ => Err(CallFault::invalid(at, "must be an object")),
        }
    }

    /// Reads `snake_case` as `camelCase`, here and in all objects within, as Google's services do (the JSON mapping
    /// of protocol buffers takes both).
    #[must_use]
    pub fn with_snake_case(mut self) -> Self {
        self.snake_too = true;
        self.map = std::mem::take(&mut self.map)
            .into_iter()
            .map(|(name, value)| (camel(&name), value))
            .collect();
        self
    }

    /// The place of a field: `messages[2].content`.
    pub fn at(&self, name: &str) -> String {
        if self.at.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.at)
        }
    }

    pub fn wrong(&self, name: &str, what: impl Into<String>) -> CallFault {
        CallFault::invalid(self.at(name), what)
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A word that stands in an object of this one, without taking it.
    pub fn word_within(&self, name: &str, word: &str) -> Option<&str> {
        self.map.get(name)?.get(word)?.as_str()
    }

    /// `null` is as good as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, CallFault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    pub fn needed_text(&mut self, name: &str) -> Result<String, CallFault> {
        self.text(name)?
            .ok_or_else(|| self.wrong(name, "is required"))
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, CallFault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    pub fn count(&mut self, name: &str) -> Result<Option<u64>, CallFault> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        whole(&value)
            .and_then(|count| u64::try_from(count).ok())
            .map(Some)
            .ok_or_else(|| self.wrong(name, "must be a whole number, not below 0"))
    }

    pub fn whole(&mut self, name: &str) -> Result<Option<i64>, CallFault> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        whole(&value)
            .map(Some)
            .ok_or_else(|| self.wrong(name, "must be a whole number"))
    }

    pub fn number(&mut self, name: &str) -> Result<Option<Number>, CallFault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(_) => Err(self.wrong(name, "must be a number")),
        }
    }

    pub fn list(&mut self, name: &str) -> Result<Vec<Value>, CallFault> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(self.wrong(name, "must be a list")),
        }
    }

    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, CallFault> {
        let place = |index| format!("{}[{index}]", self.at(name));
        let places: Vec<String> = match self.map.get(name) {
            Some(Value::Array(list)) => (0..list.len()).map(place).collect(),
            _ => Vec::new(),
        };
        self.list(name)?
            .into_iter()
            .zip(places)
            .map(|(value, at)| match value {
                Value::String(text) => Ok(text),
                _ => Err(CallFault::invalid(at, "must be a string")),
            })
            .collect()
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Self>, CallFault> {
        let at = self.at(name);
        self.take(name)
            .map(|value| self.within(at, value))
            .transpose()
    }

    /// The objects of a list. Google's services take one object for a list of one.
    pub fn objects(&mut self, name: &str) -> Result<Vec<Self>, CallFault> {
        let at = self.at(name);
        let list = match self.map.get(name) {
            Some(Value::Object(_)) if self.snake_too => self.take(name).into_iter().collect(),
            _ => self.list(name)?,
        };
        list.into_iter()
            .enumerate()
            .map(|(index, value)| self.within(format!("{at}[{index}]"), value))
            .collect()
    }

    /// Names of fields that nobody has taken.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, _)| name.as_str())
    }

    fn within(&self, at: String, value: Value) -> Result<Self, CallFault> {
        let fields = Self::of(at, value)?;
        Ok(if self.snake_too {
            fields.with_snake_case()
        } else {
            fields
        })
    }
}

/// Fields that only the caller's dialect knows; each name once.
#[derive(Debug, Default)]
pub struct Extras(pub Vec<Extra>);

impl Extras {
    pub fn refuse(&mut self, name: impl Into<String>) {
        self.add(name.into(), ExtraRule::Refuse);
    }

    pub fn drop(&mut self, name: impl Into<String>) {
        self.add(name.into(), ExtraRule::Drop);
    }

    /// What is left of an object within a call are hints, told by their bare names: a call may have many alike.
    pub fn drop_left(&mut self, fields: &Fields) {
        for name in fields.left() {
            self.drop(name);
        }
    }

    fn add(&mut self, name: String, rule: ExtraRule) {
        if !self.0.iter().any(|extra| extra.name == name) {
            self.0.push(Extra { name, rule });
        }
    }
}

/// What a writer of another dialect does with a call's extras: the names it leaves out, or the refusal.
pub fn settle_extras(call: &Call) -> Result<Vec<String>, CallFault> {
    let refused = call
        .extras
        .iter()
        .find(|extra| extra.rule == ExtraRule::Refuse);
    if let Some(extra) = refused {
        return Err(CallFault::invalid(
            &extra.name,
            format!(
                "`{}` cannot be said to the provider that is to answer",
                extra.name
            ),
        ));
    }
    Ok(call.extras.iter().map(|extra| extra.name.clone()).collect())
}

/// `max_output_tokens` as `maxOutputTokens`.
pub fn camel(name: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        if c == '_' && at > 0 {
            upper = true;
        } else if upper {
            out.extend(c.to_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

/// A whole number, also one written as `5.0` or, as protocol buffers do with 64 bits, as `"5"`.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            let fits = float.fract() == 0.0 && float.abs() < 9e15;
            #[expect(clippy::cast_possible_truncation, reason = "checked above")]
            fits.then_some(float as i64)
        }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_field_is_told_with_its_place() {
        let mut fields = Fields::of_body(br#"{"a":{"b":[{"c":1},{"c":"x"}]}}"#).unwrap();
        let mut a = fields.object("a").unwrap().unwrap();
        let mut list = a.objects("b").unwrap();
        assert_eq!(list[1].text("c").unwrap().as_deref(), Some("x"));
        let fault = list[0].text("c").unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("a.b[0].c"));
        assert_eq!(fault.message, "`a.b[0].c` must be a string");
        assert!(Fields::of_body(b"{").is_err());
        assert!(Fields::of_body(b"[]").is_err());
    }

    #[test]
    fn whole_numbers_are_read_however_they_are_written() {
        let body = br#"{"a":5,"b":5.0,"c":"5","d":5.5,"e":-1,"f":1e300,"g":null}"#;
        let mut fields = Fields::of_body(body).unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(fields.count(name), Ok(Some(5)), "{name}");
        }
        for name in ["d", "e", "f"] {
            assert!(fields.count(name).is_err(), "{name}");
        }
        assert_eq!(fields.count("g"), Ok(None));
    }

    #[test]
    fn snake_case_is_read_as_camel_case_where_asked_for() {
        let value = json!({"generation_config": {"max_output_tokens": 3, "topK": 1}});
        let mut fields = Fields::of("", value).unwrap().with_snake_case();
        let mut config = fields.object("generationConfig").unwrap().unwrap();
        assert_eq!(config.count("maxOutputTokens"), Ok(Some(3)));
        assert_eq!(config.left().collect::<Vec<_>>(), ["topK"]);
    }
}
