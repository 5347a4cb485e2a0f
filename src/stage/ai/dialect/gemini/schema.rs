//! Schemas as Gemini takes and gives them.

use super::super::fields::camel;
use super::super::schema::Subset;
use serde_json::{Map, Value, json};

/// What `parametersJsonSchema` and `responseJsonSchema` understand (`GenerationConfig` in the API's reference).
pub const SUBSET: Subset = Subset {
    keywords: &[
        "$anchor",
        "$defs",
        "$id",
        "$ref",
        "additionalProperties",
        "anyOf",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "oneOf",
        "prefixItems",
        "properties",
        "propertyOrdering",
        "required",
        "title",
        "type",
    ],
    formats: None,
    closed: false,
};

/// The `Schema` of `OpenAPI` 3.0, in which Gemini's own callers write (`STRING`, `nullable`), as JSON Schema.
/// `propertyOrdering` is left out: it only orders the answer.
pub fn to_json_schema(schema: &Value) -> Value {
    let Value::Object(schema) = schema else {
        return schema.clone();
    };
    let mut out = Map::new();
    let mut nullable = false;
    for (key, value) in schema {
        let key = camel(key);
        let value = match key.as_str() {
            "type" => match lower_type(value) {
                Some(kind) => kind,
                None => continue,
            },
            "nullable" => {
                nullable = value == &json!(true);
                continue;
            }
            "propertyOrdering" => continue,
            // Beside an `enum` it says nothing new.
            "format" if value == "enum" => continue,
            "example" => {
                out.insert("examples".to_owned(), json!([value]));
                continue;
            }
            "properties" | "defs" => match value {
                Value::Object(members) => members
                    .iter()
                    .map(|(name, schema)| (name.clone(), to_json_schema(schema)))
                    .collect(),
                _ => value.clone(),
            },
            "anyOf" => match value {
                Value::Array(schemas) => schemas.iter().map(to_json_schema).collect(),
                _ => value.clone(),
            },
            "items" | "additionalProperties" => to_json_schema(value),
            _ => number_of(value),
        };
        let key = match key.as_str() {
            "defs" => "$defs",
            "ref" => "$ref",
            key => key,
        };
        out.insert(key.to_owned(), value);
    }
    if nullable {
        allow_null(&mut out);
    }
    Value::Object(out)
}

fn lower_type(value: &Value) -> Option<Value> {
    match value {
        Value::String(kind) if kind == "TYPE_UNSPECIFIED" => None,
        Value::String(kind) => Some(json!(kind.to_ascii_lowercase())),
        Value::Array(kinds) => Some(kinds.iter().filter_map(lower_type).collect()),
        other => Some(other.clone()),
    }
}

fn allow_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(options)) = schema.get_mut("anyOf") {
        options.push(json!({"type": "null"}));
    } else if let Some(kind @ Value::String(_)) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
        if let Some(Value::Array(options)) = schema.get_mut("enum") {
            options.push(Value::Null);
        }
    }
}

/// Protocol buffers write 64 bits as text: `"minItems": "1"`. Only bounds of this kind come here as digits.
fn number_of(value: &Value) -> Value {
    value
        .as_str()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse::<u64>().ok())
        .map_or_else(|| value.clone(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn googles_schema_is_told_as_json_schema() {
        let schema = json!({
            "type": "OBJECT",
            "property_ordering": ["type", "b"],
            "properties": {
                "type": {"type": "STRING", "nullable": true, "format": "enum", "enum": ["x"]},
                "b": {"any_of": [{"type": "INTEGER"}], "nullable": true},
                "c": {"type": "ARRAY", "items": {"type": "NUMBER", "example": 3}, "minItems": "1"},
            },
            "required": ["type"],
        });
        assert_eq!(
            to_json_schema(&schema),
            json!({
                "type": "object",
                "properties": {
                    "type": {"type": ["string", "null"], "enum": ["x", null]},
                    "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "c": {"type": "array", "items": {"type": "number", "examples": [3]}, "minItems": 1},
                },
                "required": ["type"],
            })
        );
    }
}
