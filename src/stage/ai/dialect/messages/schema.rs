//! JSON Schema as Anthropic takes it for an answer (structured outputs).

use serde_json::{Map, Value, json};

/// Keywords that are understood; the SDKs tell the model of others in the description, and so do we.
const KNOWN: &[&str] = &[
    "$defs",
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "default",
    "definitions",
    "description",
    "enum",
    "format",
    "items",
    "oneOf",
    "properties",
    "required",
    "title",
    "type",
];
const FORMATS: &[&str] = &[
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "time",
    "uri",
    "uuid",
];

/// Objects closed (`additionalProperties: false` is demanded), `oneOf` as `anyOf`, and what is not enforced moved into
/// the description, where the model reads it.
pub fn strict_schema(schema: &Value) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let mut out = Map::new();
    let mut unenforced = Vec::new();
    for (key, value) in schema {
        match key.as_str() {
            "properties" | "$defs" | "definitions" => {
                out.insert(key.clone(), each_member(value));
            }
            "anyOf" | "allOf" | "oneOf" => {
                let key = if key == "allOf" { "allOf" } else { "anyOf" };
                out.insert(key.to_owned(), each_item(value));
            }
            "items" => {
                out.insert(key.clone(), strict_schema(value));
            }
            "additionalProperties" => {}
            "minItems" if matches!(value.as_u64(), Some(0 | 1)) => {
                out.insert(key.clone(), value.clone());
            }
            "format" if !FORMATS.contains(&value.as_str().unwrap_or_default()) => {
                unenforced.push(format!("{key}: {value}"));
            }
            known if KNOWN.contains(&known) => {
                out.insert(key.clone(), value.clone());
            }
            // What is about the schema itself says nothing of the answer.
            about if about.starts_with('$') => {}
            _ => unenforced.push(format!("{key}: {value}")),
        }
    }
    if schema.get("type") == Some(&json!("object")) || schema.contains_key("properties") {
        out.insert("additionalProperties".to_owned(), json!(false));
    }
    if !unenforced.is_empty() {
        let told = format!("{{{}}}", unenforced.join(", "));
        let described = match out.get("description").and_then(Value::as_str) {
            Some(description) => format!("{description}\n\n{told}"),
            None => told,
        };
        out.insert("description".to_owned(), json!(described));
    }
    Value::Object(out)
}

fn each_member(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, schema)| (name.clone(), strict_schema(schema)))
            .collect(),
        _ => value.clone(),
    }
}

fn each_item(value: &Value) -> Value {
    match value {
        Value::Array(schemas) => schemas.iter().map(strict_schema).collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            strict_schema(&schema),
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
    fn what_is_strict_stays_as_it_is() {
        let once = strict_schema(&json!({"type": "object", "maxProperties": 3}));
        assert_eq!(strict_schema(&once), once);
    }
}
