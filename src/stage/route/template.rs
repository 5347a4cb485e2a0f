//! Text with places for what a route matched: `{name}`, `{*}`, `{host}`.

use super::path::escape;
use super::path::is_path_byte;
use super::pattern::Pattern;
use super::pattern::is_parameter_name;
use super::table::Match;

/// The most placeholders in one template: it bounds how long the result can be.
const PLACEHOLDERS_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(Box<str>),
    Name(Box<str>),
    Rest,
    Host,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

impl Template {
    /// Checks that each pattern of the route fills each placeholder.
    pub fn parse(text: &str, patterns: &[Pattern]) -> Result<Self, (String, String)> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let inner = rest[open..]
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'));
            let Some((name, after)) = inner else {
                return Err((
                    format!("the braces in `{text}` do not match"),
                    "write `{name}`; for the character itself write `%7B` or `%7D`".to_owned(),
                ));
            };
            push_text(&mut parts, &rest[..open]);
            parts.push(placeholder(name, patterns)?);
            rest = after;
        }
        push_text(&mut parts, rest);
        if parts
            .iter()
            .filter(|part| !matches!(part, Part::Text(_)))
            .count()
            > PLACEHOLDERS_MAX
        {
            return Err((
                format!("`{text}` has too many placeholders"),
                format!("at most {PLACEHOLDERS_MAX}"),
            ));
        }
        Ok(Self(parts))
    }

    pub fn uses(&self, wanted: &Part) -> bool {
        self.0.contains(wanted)
    }

    /// The text with `name` in the place of each name, and one segment for `{*}` and `{host}`.
    pub fn sample(&self, name: &str) -> String {
        let text = self.0.iter().map(|part| match part {
            Part::Text(text) => &**text,
            Part::Name(_) => name,
            Part::Rest | Part::Host => "x",
        });
        text.collect()
    }

    /// Appends a path. Never makes two slashes in a row: where a placeholder is empty,
    /// `/{*}/{name}` would otherwise lead to the site `//name`.
    pub fn write_path<T>(&self, found: &Match<'_, '_, T>, out: &mut String) {
        for part in &self.0 {
            match part {
                Part::Host => escape_unless(is_path_byte, found.host.as_str(), out),
                part => {
                    let text = taken(part, found);
                    let doubled = out.ends_with('/') && text.starts_with('/');
                    out.push_str(&text[usize::from(doubled)..]);
                }
            }
        }
    }

    /// Appends a query, in which nothing that was matched can begin another parameter.
    pub fn write_query<T>(&self, found: &Match<'_, '_, T>, out: &mut String) {
        let harmless =
            |byte| byte == b'%' || byte == b'/' || (is_path_byte(byte) && !b"&=+;".contains(&byte));
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                part => escape_unless(harmless, taken(part, found), out),
            }
        }
    }

    /// Appends an authority, which holds no placeholder but `{host}`.
    pub fn write_authority<T>(&self, found: &Match<'_, '_, T>, out: &mut String) {
        for part in &self.0 {
            out.push_str(taken(part, found));
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
}

fn placeholder(name: &str, patterns: &[Pattern]) -> Result<Part, (String, String)> {
    if name == "host" {
        return Ok(Part::Host);
    }
    let fills = |pattern: &&Pattern| match name {
        "*" => pattern.open,
        name => pattern.names().any(|own| own == name),
    };
    match patterns.iter().find(|pattern| !fills(pattern)) {
        _ if name != "*" && !is_parameter_name(name) => Err((
            format!("`{{{name}}}` is not a placeholder"),
            "write `{*}`, `{host}` or a name from the path such as `{id}`".to_owned(),
        )),
        Some(pattern) => Err((
            format!("nothing fills `{{{name}}}`: the path `{pattern}` has no such part"),
            format!("add it to the path, or leave `{{{name}}}` out"),
        )),
        None if name == "*" => Ok(Part::Rest),
        None => Ok(Part::Name(name.into())),
    }
}

fn taken<'m, T>(part: &'m Part, found: &'m Match<'_, '_, T>) -> &'m str {
    match part {
        Part::Text(text) => text,
        Part::Name(name) => found.capture(name).unwrap_or(""),
        Part::Rest => found.rest().unwrap_or(""),
        Part::Host => found.host.as_str(),
    }
}

pub fn escape_unless(harmless: impl Fn(u8) -> bool, text: &str, out: &mut String) {
    for byte in text.bytes() {
        if harmless(byte) {
            out.push(char::from(byte));
        } else {
            escape(byte, out);
        }
    }
}
