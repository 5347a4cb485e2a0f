//! The document as it came out, and the rules for writing one.

use super::{Config, values};
use serde_json::Value;

/// Values of headers with such names are masked, like secrets.
const SECRET_HEADERS: &[&str] = &[
    "authorization",
    "cookie",
    "credential",
    "key",
    "password",
    "secret",
    "token",
];

/// The effective document as YAML: defaults filled in, secrets as stars, absent options left out.
/// Without secrets it can be read again, and says the same.
pub fn dump(config: &Config) -> String {
    let mut config = config.clone();
    for route in config.routes.values_mut() {
        route.body_max = Some(route.body_max());
        let (request, response) = (&mut route.request_headers, &mut route.response_headers);
        mask(request.set.iter_mut().chain(&mut response.set));
    }
    let providers = config.providers.values_mut();
    mask(providers.flat_map(|provider| &mut provider.headers));
    // Through JSON: the YAML writer would write enums as tags, which we do not read.
    let mut document = serde_json::to_value(&config).unwrap_or_default();
    tidy(&mut document);
    serde_yaml::to_string(&document).unwrap_or_default()
}

fn mask<'a>(headers: impl Iterator<Item = (&'a String, &'a mut String)>) {
    for (name, value) in headers {
        let name = name.to_lowercase();
        if SECRET_HEADERS.iter().any(|part| name.contains(part)) {
            "***".clone_into(value);
        }
    }
}

/// Drops absent options and escapes what would be read as a variable.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::String(text) => *text = values::escape(text),
        _ => {}
    }
}

/// JSON Schema (draft 2020-12) of the document, for editors.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    describe_variants(&mut schema);
    schema
}

/// A variant with a value is an object of one key; editors look for its description at the key.
fn describe_variants(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            if let Some(description) = entries.get("description").cloned()
                && let Some(Value::Object(properties)) = entries.get_mut("properties")
                && properties.len() == 1
            {
                for property in properties.values_mut().filter_map(Value::as_object_mut) {
                    property
                        .entry("description")
                        .or_insert_with(|| description.clone());
                }
            }
            entries.values_mut().for_each(describe_variants);
        }
        Value::Array(items) => items.iter_mut().for_each(describe_variants),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each property, with the path to it.
    fn properties<'a>(schema: &'a Value, at: &str, found: &mut Vec<(String, &'a Value)>) {
        match schema {
            Value::Object(entries) => {
                for (key, value) in entries {
                    let at = format!("{at}/{key}");
                    if key == "properties" {
                        let each = value.as_object().unwrap().iter();
                        found.extend(each.map(|(name, schema)| (format!("{at}/{name}"), schema)));
                    }
                    properties(value, &at, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| properties(item, at, found)),
            _ => {}
        }
    }

    #[test]
    fn every_key_is_described() {
        let schema = schema();
        let mut found = Vec::new();
        properties(&schema, "", &mut found);
        assert!(found.len() > 90, "{}", found.len());
        for (path, property) in found {
            let described = property["description"].as_str().unwrap_or_default();
            assert!(described.len() > 3, "{path} has no description");
        }
    }

    #[test]
    fn the_schema_is_of_the_draft_that_editors_know() {
        assert_eq!(
            schema()["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
    }
}
