//! JSON Schema, narrowed to what a provider understands of it.

use serde_json::{Map, Value, json};

/// What a provider understands. Other keywords are told to the model in the description, as Anthropic's SDKs do it:
/// it may follow them, and a call that another provider takes is not refused for a bound of a number.
#[derive(Debug)]
pub struct Subset {
    pub keywords: &'static [&'static str],
    /// Formats of strings; none: all.
    pub formats: Option<&'static [&'static str]>,
    /// Objects must be closed: `additionalProperties: false` is demanded.
    pub closed: bool,
}

/// `oneOf` is written as `anyOf`, which every provider takes; `const` as an `enum` of one, where it is not understood.
pub fn narrow(schema: &Value, subset: &Subset) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let mut narrowing = Narrowing {
        subset,
        out: Map::new(),
        told: Vec::new(),
    };
    for (key, value) in schema {
        narrowing.keyword(key, value);
    }
    let is_object = schema.get("type") == Some(&json!("object"));
    if subset.closed && (is_object || schema.contains_key("properties")) {
        narrowing.put("additionalProperties", json!(false));
    }
    narrowing.finish()
}

struct Narrowing<'a> {
    subset: &'a Subset,
    out: Map<String, Value>,
    told: Vec<String>,
}

impl Narrowing<'_> {
    fn put(&mut self, key: &str, value: Value) {
        self.out.insert(key.to_owned(), value);
    }

    fn tell(&mut self, key: &str, value: &Value) {
        self.told.push(format!("{key}: {value}"));
    }

    fn keyword(&mut self, key: &str, value: &Value) {
        let known = self.subset.keywords.contains(&key);
        match key {
            "properties" | "$defs" => self.put(key, self.each_member(value)),
            // The older name of `$defs`; references follow.
            "definitions" => self.put("$defs", self.each_member(value)),
            "$ref" => {
                let path = value.as_str().unwrap_or_default();
                let path = path.replacen("#/definitions/", "#/$defs/", 1);
                self.put(key, json!(path));
            }
            "anyOf" | "oneOf" => self.put("anyOf", self.each_item(value)),
            "allOf" | "prefixItems" if known => self.put(key, self.each_item(value)),
            // All of one is any of one.
            "allOf" if value.as_array().is_some_and(|all| all.len() == 1) => {
                self.put("anyOf", self.each_item(value));
            }
            "const" if !known => self.put("enum", json!([value])),
            "additionalProperties" if self.subset.closed => {}
            "items" | "additionalProperties" if known => {
                self.put(key, narrow(value, self.subset));
            }
            "minItems" if !known && matches!(value.as_u64(), Some(0 | 1)) => {
                self.put(key, value.clone());
            }
            "format" if !self.knows_format(value) => self.tell(key, value),
            _ if known => self.put(key, value.clone()),
            // What is about the schema itself says nothing of the answer.
            _ if key.starts_with('$') => {}
            _ => self.tell(key, value),
        }
    }

    fn knows_format(&self, value: &Value) -> bool {
        let format = value.as_str().unwrap_or_default();
        self.subset
            .formats
            .is_none_or(|formats| formats.contains(&format))
    }

    fn each_member(&self, value: &Value) -> Value {
        match value {
            Value::Object(members) => members
                .iter()
                .map(|(name, schema)| (name.clone(), narrow(schema, self.subset)))
                .collect(),
            _ => value.clone(),
        }
    }

    fn each_item(&self, value: &Value) -> Value {
        match value {
            Value::Array(schemas) => schemas
                .iter()
                .map(|schema| narrow(schema, self.subset))
                .collect(),
            _ => value.clone(),
        }
    }

    fn finish(mut self) -> Value {
        if !self.told.is_empty() {
            let told = format!("{{{}}}", self.told.join(", "));
            let described = match self.out.get("description").and_then(Value::as_str) {
                Some(description) => format!("{description}\n\n{told}"),
                None => told,
            };
            self.put("description", json!(described));
        }
        Value::Object(self.out)
    }
}

/// Whether an answer may be held to a schema to the letter, as `OpenAI` demands it of a strict one: each object is
/// closed and all its members are required. Others than `OpenAI` hold answers to any schema.
pub fn strictness(schema: &Value) -> Option<bool> {
    is_strict(schema).then_some(true)
}

fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Array(list) => list.iter().all(is_strict),
        Value::Object(map) => is_closed(schema) && map.values().all(is_strict),
        _ => true,
    }
}

fn is_closed(schema: &Value) -> bool {
    let Some(members) = schema["properties"].as_object() else {
        return schema["type"] != "object";
    };
    let required = schema["required"].as_array();
    let all = members
        .keys()
        .all(|name| required.is_some_and(|required| required.iter().any(|word| word == name)));
    all && schema["additionalProperties"] == json!(false)
}

/// Says in a schema what dialects without a place for it say beside it.
pub fn label(schema: &mut Value, name: Option<&str>, description: Option<&str>) {
    for (key, text) in [("title", name), ("description", description)] {
        if let (Some(text), Some(schema)) = (text, schema.as_object_mut())
            && !schema.contains_key(key)
        {
            schema.insert(key.to_owned(), json!(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Subset = Subset {
        keywords: &["type", "description", "items", "required", "format"],
        formats: Some(&["date"]),
        closed: true,
    };
    const LOOSE: Subset = Subset {
        keywords: &["type", "minimum", "additionalProperties"],
        formats: None,
        closed: false,
    };

    #[test]
    fn older_and_rarer_words_are_said_in_others() {
        let schema = json!({
            "definitions": {"a": {"type": "integer", "minimum": 3, "multipleOf": 2}},
            "allOf": [{"$ref": "#/definitions/a"}],
            "additionalProperties": {"const": 4},
            "$comment": "no",
        });
        assert_eq!(
            narrow(&schema, &LOOSE),
            json!({
                "$defs": {"a": {"type": "integer", "minimum": 3, "description": "{multipleOf: 2}"}},
                "anyOf": [{"$ref": "#/$defs/a"}],
                "additionalProperties": {"enum": [4]},
            })
        );
    }

    #[test]
    fn objects_are_closed_and_what_is_not_enforced_is_told_in_words() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "age": {"type": "integer", "description": "In years.", "minimum": 1},
                "when": {"type": "string", "format": "date"},
                "kind": {"oneOf": [{"type": "null"}, {"type": "object", "properties": {}}]},
                "tags": {"type": "array", "items": {"type": "string", "format": "x"}, "minItems": 1},
            },
            "required": ["age"],
        });
        assert_eq!(
            narrow(&schema, &STRICT),
            json!({
                "type": "object",
                "properties": {
                    "age": {"type": "integer", "description": "In years.\n\n{minimum: 1}"},
                    "when": {"type": "string", "format": "date"},
                    "kind": {"anyOf": [
                        {"type": "null"},
                        {"type": "object", "properties": {}, "additionalProperties": false}]},
                    "tags": {"type": "array", "minItems": 1,
                        "items": {"type": "string", "description": "{format: \"x\"}"}},
                },
                "required": ["age"],
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn a_schema_is_strict_when_nothing_is_left_open() {
        let object = |within: Value, required: Value| {
            json!({"type": "object", "properties": {"a": within}, "required": required,
                "additionalProperties": false})
        };
        let text = || json!({"type": "string"});
        let closed = object(text(), json!(["a"]));
        for (schema, strict) in [
            (closed.clone(), true),
            (
                object(
                    json!({"type": "array", "items": closed.clone()}),
                    json!(["a"]),
                ),
                true,
            ),
            (object(text(), json!([])), false),
            (object(json!({"type": "object"}), json!(["a"])), false),
            (
                object(json!({"anyOf": [object(text(), json!([]))]}), json!(["a"])),
                false,
            ),
        ] {
            assert_eq!(strictness(&schema), strict.then_some(true), "{schema}");
        }
    }

    #[test]
    fn what_is_strict_stays_as_it_is() {
        let once = narrow(&json!({"type": "object", "maxProperties": 3}), &STRICT);
        assert_eq!(narrow(&once, &STRICT), once);
    }
}
