//! The reference of the configuration for people (`docs/configuration.md`), written from its JSON Schema.

use super::export;
use serde_json::{Map, Value};
use std::fmt::Write;

const HEAD: &str = "\
# Configuration

Every key, from the schema that the gateway reads by: made by `onemind schema --markdown`, never changed by hand.

- One YAML file of at most 1 MiB, by `-c FILE`, else `ONEMIND_CONFIG`, else `conf/gateway.yaml`. Every key has a default, or is marked *required*.
- What is unknown, given twice or out of bounds is an error; all of them are told at once, with line, column and a hint (`onemind check`).
- `${NAME}` and `${NAME:-default}` are taken from the environment, `$${` is a literal `${`. A secret may be `file:/path`. Paths begin at the folder of the file.
- A change takes effect with a reload, unless its key says *at start*. A faulty file changes nothing.
- `NAME` in a path below is a name of your choice.

```sh
onemind check -c /etc/onemind/gateway.yaml   # is it right?
onemind dump -c /etc/onemind/gateway.yaml    # what is in effect: defaults filled in, secrets masked
onemind schema > onemind.schema.json         # for editors: completion, and faults while you type
```

An editor with the YAML language server takes `# yaml-language-server: $schema=onemind.schema.json` as the first line. Files to begin with: [conf/production.yaml](../conf/production.yaml), and one for each feature in [conf/examples](../conf/examples).
";

/// What a key may be, as a cell of a table says it.
#[derive(Default)]
struct Shape<'a> {
    words: Vec<String>,
    /// Words that may stand there, with what they mean.
    choices: Vec<(&'a str, &'a str)>,
    sections: Vec<Section<'a>>,
}

/// A table of keys.
struct Section<'a> {
    /// `pools.NAME.health`.
    path: String,
    about: &'a str,
    keys: Vec<Key<'a>>,
    /// Exactly one of the keys is given.
    one_of: bool,
}

struct Key<'a> {
    name: &'a str,
    schema: &'a Value,
    required: bool,
}

struct Writer<'a> {
    definitions: &'a Map<String, Value>,
    contents: String,
    text: String,
}

/// Markdown: a table for each section, in the order of the document.
pub fn reference() -> String {
    let schema = export::schema();
    let none = Map::new();
    let definitions = schema["$defs"].as_object().unwrap_or(&none);
    let mut writer = Writer {
        definitions,
        contents: String::new(),
        text: String::new(),
    };
    let whole = properties(&schema, String::new());
    let mut top = String::new();
    for key in &whole.keys {
        let link = anchor(key.name);
        let about = cell(description(key.schema));
        writeln!(top, "| [`{}`](#{link}) | {about} |", key.name).expect("text grows");
    }
    for key in &whole.keys {
        writer.top_section(key);
    }
    format!(
        "{HEAD}\n| key | |\n|---|---|\n{top}\n## Contents\n\n- [Values](#values)\n{}\n{}{}",
        writer.contents,
        writer.values(),
        writer.text
    )
}

impl<'a> Writer<'a> {
    fn top_section(&mut self, key: &Key<'a>) {
        let (name, shape) = (key.name, self.shape(key.schema, key.name));
        self.heading(name, 0);
        writeln!(self.text, "{}\n", one_line(description(key.schema))).expect("text grows");
        for section in &shape.sections {
            let named = section.path != name;
            if named {
                self.heading(&section.path, 1);
            }
            self.section(section, 1 + usize::from(named));
        }
    }

    fn heading(&mut self, path: &str, depth: usize) {
        let marks = if depth == 0 { "##" } else { "###" };
        writeln!(self.text, "{marks} {path}\n").expect("text grows");
        let indent = "  ".repeat(depth);
        let link = anchor(path);
        writeln!(self.contents, "{indent}- [{path}](#{link})").expect("text grows");
    }

    /// The table of a section whose heading stands already, and what is below it.
    fn section(&mut self, section: &Section<'a>, depth: usize) {
        if depth > 1 && !section.about.is_empty() {
            writeln!(self.text, "{}\n", one_line(section.about)).expect("text grows");
        }
        if section.one_of {
            self.text.push_str("One of these keys:\n\n");
        }
        self.text
            .push_str("| key | value | default | |\n|---|---|---|---|\n");
        let mut below = Vec::new();
        for key in &section.keys {
            let shape = self.shape(key.schema, &format!("{}.{}", section.path, key.name));
            self.row(key, &shape, section.one_of);
            below.extend(shape.sections);
        }
        self.text.push('\n');
        for section in below {
            self.heading(&section.path, depth);
            self.section(&section, depth + 1);
        }
    }

    fn row(&mut self, key: &Key<'a>, shape: &Shape<'a>, one_of: bool) {
        let default = match &key.schema["default"] {
            _ if key.required && !one_of => "*required*".to_owned(),
            Value::Null | Value::Object(_) => String::new(),
            value if value.as_str() == Some("") => String::new(),
            Value::String(text) => format!("`{text}`"),
            value => format!("`{value}`"),
        };
        let mut about = cell(description(key.schema));
        if !default.is_empty() {
            about = without_default(&about);
        }
        for (word, meaning) in &shape.choices {
            write!(about, "<br>`{word}`: {}", cell(meaning)).expect("text grows");
        }
        let about = about.strip_prefix("<br>").unwrap_or(&about);
        let (name, words) = (key.name, shape.said());
        let default = cell(&default);
        writeln!(self.text, "| `{name}` | {words} | {default} | {about} |").expect("text grows");
    }

    /// How the scalars with a form of their own are written.
    fn values(&self) -> String {
        let mut text = "## Values\n\n| value | is written |\n|---|---|\n".to_owned();
        for (name, schema) in self.definitions {
            if is_scalar(schema) {
                let (name, about) = (name.to_lowercase(), cell(description(schema)));
                writeln!(text, "| {name} | {about} |").expect("text grows");
            }
        }
        text.push('\n');
        text
    }

    fn shape(&self, schema: &'a Value, at: &str) -> Shape<'a> {
        let mut shape = Shape::default();
        self.add(&mut shape, schema, at);
        shape
    }

    fn add(&self, shape: &mut Shape<'a>, schema: &'a Value, at: &str) {
        if let Some(name) = reference_of(schema) {
            let Some(definition) = self.definitions.get(name) else {
                return;
            };
            if is_scalar(definition) {
                let name = name.to_lowercase();
                shape.word(&format!("[{name}](#values)"));
            } else {
                self.add(shape, definition, at);
            }
            return;
        }
        for one in alternatives(schema) {
            self.add(shape, one, at);
        }
        if let Some(word) = schema["const"].as_str() {
            shape.word(&format!("`{word}`"));
            shape.choices.push((word, description(schema)));
        } else if let Some(words) = schema["enum"].as_array() {
            for word in words.iter().filter_map(Value::as_str) {
                shape.word(&format!("`{word}`"));
            }
        } else if schema["properties"].is_object() {
            shape.word(&format!("[section](#{})", anchor(at)));
            shape.section(properties(schema, at.to_owned()));
        } else if schema["additionalProperties"].is_object() {
            let at = format!("{at}.NAME");
            let inner = self.shape(&schema["additionalProperties"], &at);
            shape.word(&format!("by name: {}", inner.said()));
            shape.choices.extend(inner.choices);
            shape.sections.extend(inner.sections);
        } else if schema["items"].is_object() {
            let inner = self.shape(&schema["items"], at);
            // "text or list of text" says no more than this.
            let of = inner.said();
            let alone = shape.words == inner.words;
            shape.word(&if alone {
                "a list of these".to_owned()
            } else {
                format!("list of {of}")
            });
            if !alone {
                shape.choices.extend(inner.choices);
                shape.sections.extend(inner.sections);
            }
        } else {
            for kind in kinds(schema) {
                shape.word(kind);
            }
        }
    }
}

impl<'a> Shape<'a> {
    fn word(&mut self, word: &str) {
        if !self.words.iter().any(|known| known == word) {
            self.words.push(word.to_owned());
        }
    }

    /// `a`, `b` or `c`.
    fn said(&self) -> String {
        match self.words.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            words => words.concat(),
        }
    }

    /// Sections in the same place are variants of one.
    fn section(&mut self, section: Section<'a>) {
        match self.sections.iter_mut().find(|s| s.path == section.path) {
            Some(known) => {
                known.keys.extend(section.keys);
                known.one_of = true;
                known.about = "";
            }
            None => self.sections.push(section),
        }
    }
}

fn properties(schema: &Value, path: String) -> Section<'_> {
    let required = schema["required"].as_array();
    let is_required =
        |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
    let keys = schema["properties"].as_object().into_iter().flatten();
    Section {
        path,
        about: description(schema),
        keys: keys
            .map(|(name, schema)| Key {
                name,
                schema,
                required: is_required(name),
            })
            .collect(),
        one_of: false,
    }
}

fn reference_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["oneOf", "anyOf"].into_iter();
    lists.filter_map(|list| schema[list].as_array()).flatten()
}

/// A text or number of a form that its description says.
fn is_scalar(schema: &Value) -> bool {
    let has = |key: &str| schema.get(key).is_some();
    let more = ["properties", "oneOf", "anyOf", "enum", "$ref", "items"];
    !more.into_iter().any(has) && has("description") && has("type")
}

/// The types of a schema as words; `null` is what an absent key is.
fn kinds(schema: &Value) -> impl Iterator<Item = &'static str> {
    let kind = &schema["type"];
    let several = kind.as_array().map(Vec::as_slice);
    let kinds = several.unwrap_or(std::slice::from_ref(kind));
    kinds.iter().filter_map(|kind| match kind.as_str()? {
        "string" => Some("text"),
        "integer" | "number" => Some("number"),
        "boolean" => Some("`true` or `false`"),
        _ => None,
    })
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    one_line(text).replace('|', "\\|")
}

/// The sentence that says what stands in the column beside it anyway.
fn without_default(text: &str) -> String {
    let Some((before, after)) = text.split_once("Default ") else {
        return text.to_owned();
    };
    let rest = if let Some(quoted) = after.strip_prefix('`') {
        let (value, rest) = quoted.split_once("`.").unwrap_or(("`", ""));
        (!value.contains('`')).then_some(rest)
    } else {
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_number = rest.len() < after.len();
        rest.strip_prefix('.').filter(|_| is_number)
    };
    rest.map_or_else(
        || text.to_owned(),
        |rest| one_line(&format!("{before}{rest}")),
    )
}

/// How a heading is linked to: small letters, digits, `_` and `-`; a space becomes `-`.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '_' | '-' => Some(c),
        c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// With `GOLDEN=write` the page is written anew.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the switch of this test")]
    fn the_page_is_the_one_that_is_generated() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let made = reference();
        if std::env::var("GOLDEN").is_ok_and(|value| value == "write") {
            std::fs::write(&path, &made).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = written.lines().zip(made.lines()).find(|(a, b)| a != b);
        assert!(
            written == made,
            "docs/configuration.md is not what the schema says (GOLDEN=write writes it): {differs:?}"
        );
    }

    #[test]
    fn every_key_of_the_schema_has_a_row() {
        fn keys(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(entries) => {
                    if let Some(properties) = entries.get("properties").and_then(Value::as_object) {
                        found.extend(properties.keys().cloned());
                    }
                    entries.values().for_each(|value| keys(value, found));
                }
                Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
                _ => {}
            }
        }
        let (schema, text) = (export::schema(), reference());
        let mut found = Vec::new();
        keys(&schema["$defs"], &mut found);
        assert!(found.len() > 200, "{}", found.len());
        for key in found {
            assert!(
                text.contains(&format!("\n| `{key}` | ")),
                "no row for {key}"
            );
        }
        for key in schema["properties"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("\n## {key}\n")), "no heading {key}");
        }
    }

    #[test]
    fn each_row_is_whole() {
        for line in reference().lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split(" | ").collect();
            assert_eq!(cells.len(), 4, "{line}");
            assert!(cells[1].len() > 2, "what may stand there? {line}");
        }
    }

    #[test]
    fn a_default_is_said_once() {
        for (text, expected) in [
            ("For one probe. Default `5s`.", "For one probe."),
            ("Default 8. More later.", "More later."),
            (
                "Default 1: a refused one is certain.",
                "Default 1: a refused one is certain.",
            ),
            ("`http` (default) or `off`.", "`http` (default) or `off`."),
            (
                "Default `true` with `tls`, `false` without.",
                "Default `true` with `tls`, `false` without.",
            ),
            ("Default `1`", "Default `1`"),
            ("Default .", "Default ."),
        ] {
            assert_eq!(without_default(text), expected);
        }
    }

    #[test]
    fn anchors_are_those_of_headings() {
        assert_eq!(anchor("pools.NAME.slow_start"), "poolsnameslow_start");
        assert_eq!(anchor("What it means"), "what-it-means");
    }
}
