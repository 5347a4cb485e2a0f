//! Reads what a gateway must know of a call that it passes on, and changes that alone: every other byte stays.

use super::fault::CallFault;
use super::json::{Found, Kind, Walk, refuse, unescape};
use super::tokens::Weight;
use std::collections::HashSet;
use std::ops::Range;

/// The top level of a body, of whichever dialect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peek {
    /// None where the body names none, or an empty one.
    pub model: Option<String>,
    pub stream: bool,
    /// `max_tokens`, `max_completion_tokens`, `max_output_tokens` or `generationConfig.maxOutputTokens`; the
    /// largest, if several are given.
    pub max_tokens: Option<u64>,
    /// `stream_options.include_usage`
    pub include_usage: bool,
    /// `user`, `metadata.user_id` or `safety_identifier`.
    pub end_user: Option<String>,
    pub weight: Weight,
    /// Something may be an address that [`super::address::check`] refuses.
    pub odd_address: bool,
    places: Places,
}

/// What [`Peek::patch`] changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edits<'a> {
    pub model: Option<&'a str>,
    /// Sets `stream_options.include_usage`, whatever it was.
    pub include_usage: bool,
    /// A whole member, `"key":value`, that takes the place of the model's, for a provider that wants none.
    pub in_place_of_model: Option<&'a str>,
}

/// Where things are in the body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Places {
    body: Object,
    model: Option<Range<usize>>,
    stream_options: Option<Options>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Options {
    Null(Range<usize>),
    Object {
        object: Object,
        include_usage: Option<Range<usize>>,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Object {
    /// Behind its `{`.
    inside: usize,
    empty: bool,
}

impl Peek {
    /// Refuses, by name, what is not JSON in UTF-8 or no object, keys that are there twice, fields above that
    /// have another type than they should, and nesting deeper than [`super::json::DEPTH_MAX`].
    pub fn read(body: &[u8]) -> Result<Self, CallFault> {
        let mut walk = Walk::new(body)?;
        let mut peek = Self::default();
        match walk.peek() {
            Some(b'{') => {}
            Some(_) => return Err(refuse("the body is not a JSON object".into())),
            None => return Err(refuse("the body is empty".into())),
        }
        peek.places.body = members(&mut walk, "", &mut |walk, key, written| {
            peek.read_field(walk, key, written)
        })?;
        walk.end()?;
        peek.weight = walk.weight;
        peek.odd_address = walk.odd_address;
        Ok(peek)
    }

    /// The body with these edits. `body` is what [`Self::read`] has read.
    ///
    /// # Panics
    /// Where `body` is another one.
    pub fn patch(&self, body: &[u8], edits: &Edits<'_>) -> Vec<u8> {
        let mut changes: Vec<(Range<usize>, String)> = Vec::new();
        let mut new = Vec::new();
        if let Some(member) = edits.in_place_of_model {
            match &self.places.model {
                Some(value) => changes.push((whole_member(body, value), member.to_owned())),
                None => new.push(member.to_owned()),
            }
        } else if let Some(model) = edits.model {
            let model = serde_json::Value::from(model).to_string();
            match &self.places.model {
                Some(span) => changes.push((span.clone(), model)),
                None => new.push(format!("\"model\":{model}")),
            }
        }
        if edits.include_usage && !self.include_usage {
            match &self.places.stream_options {
                Some(options) => changes.push(options.with_usage()),
                None => new.push(r#""stream_options":{"include_usage":true}"#.to_owned()),
            }
        }
        if !new.is_empty() {
            changes.push(self.places.body.insert(new.join(",")));
        }
        changes.sort_by_key(|(span, _)| span.start);
        apply(body, &changes)
    }

    fn read_field<'a>(
        &mut self,
        walk: &mut Walk<'a>,
        key: &str,
        written: &'a str,
    ) -> Result<(), CallFault> {
        match key {
            "model" => {
                let found = walk.value(written)?;
                self.model = text(walk, key, &found)?.filter(|model| !model.is_empty());
                self.places.model = Some(found.span);
            }
            "stream" => {
                self.stream = flag(key, &walk.value(written)?)?;
            }
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                let count = whole_number(walk, written, key)?;
                self.max_tokens = self.max_tokens.max(count);
            }
            "user" | "safety_identifier" => {
                let name = {
                    let found = walk.value(written)?;
                    text(walk, key, &found)?
                };
                // `user` is the elder of the two, and may come last.
                if key == "user" || self.end_user.is_none() {
                    self.end_user = name.or_else(|| self.end_user.take());
                }
            }
            "stream_options" => self.read_options(walk)?,
            "metadata" => {
                let user = read_user(walk)?;
                self.end_user = self.end_user.take().or(user);
            }
            "generationConfig" | "generation_config" if walk.peek() == Some(b'{') => {
                let count = read_limit(walk, key)?;
                self.max_tokens = self.max_tokens.max(count);
            }
            _ => {
                walk.value(written)?;
            }
        }
        Ok(())
    }

    fn read_options(&mut self, walk: &mut Walk<'_>) -> Result<(), CallFault> {
        const NAME: &str = "stream_options";
        if walk.peek() != Some(b'{') {
            let found = walk.value(NAME)?;
            must_be_null(NAME, "an object", &found)?;
            self.places.stream_options = Some(Options::Null(found.span));
            return Ok(());
        }
        let mut include_usage = None;
        let object = members(walk, NAME, &mut |walk, key, written| {
            let found = walk.value(written)?;
            if key == "include_usage" {
                self.include_usage = flag("stream_options.include_usage", &found)?;
                include_usage = Some(found.span);
            }
            Ok(())
        })?;
        self.places.stream_options = Some(Options::Object {
            object,
            include_usage,
        });
        Ok(())
    }
}

impl Options {
    /// What to write where, so that they include the usage.
    fn with_usage(&self) -> (Range<usize>, String) {
        match self {
            Self::Null(span) => (span.clone(), r#"{"include_usage":true}"#.to_owned()),
            Self::Object {
                include_usage: Some(span),
                ..
            } => (span.clone(), "true".to_owned()),
            Self::Object { object, .. } => object.insert(r#""include_usage":true"#.to_owned()),
        }
    }
}

impl Object {
    /// Members before all others.
    fn insert(self, mut members: String) -> (Range<usize>, String) {
        if !self.empty {
            members.push(',');
        }
        (self.inside..self.inside, members)
    }
}

/// `changes` in the order of their places, which do not overlap.
fn apply(body: &[u8], changes: &[(Range<usize>, String)]) -> Vec<u8> {
    let more: usize = changes.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + more);
    let mut from = 0;
    for (span, text) in changes {
        out.extend_from_slice(&body[from..span.start]);
        out.extend_from_slice(text.as_bytes());
        from = span.end;
    }
    out.extend_from_slice(&body[from..]);
    out
}

/// A member with its key, which has no quotes within; `value` is where its value is.
fn whole_member(body: &[u8], value: &Range<usize>) -> Range<usize> {
    let before = &body[..value.start];
    let close = before.iter().rposition(|byte| *byte == b'"');
    let open = close.and_then(|close| before[..close].iter().rposition(|byte| *byte == b'"'));
    open.unwrap_or(value.start)..value.end
}

/// Over an object; `on_member` is given each key as it is meant and as it is written.
fn members<'a>(
    walk: &mut Walk<'a>,
    name: &str,
    on_member: &mut dyn FnMut(&mut Walk<'a>, &str, &'a str) -> Result<(), CallFault>,
) -> Result<Object, CallFault> {
    let mut keys = HashSet::new();
    let inside = walk.at() + 1;
    walk.object(&mut |walk, written| {
        let key = unescape(written).ok_or_else(|| walk.broken("a key has half a character"))?;
        on_member(walk, &key, written)?;
        if keys.contains(&key) {
            return Err(CallFault::invalid(
                path(name, &key),
                format!("the field `{}` is there twice", path(name, &key)),
            ));
        }
        keys.insert(key);
        Ok(())
    })?;
    Ok(Object {
        inside,
        empty: keys.is_empty(),
    })
}

/// `metadata.user_id`
fn read_user(walk: &mut Walk<'_>) -> Result<Option<String>, CallFault> {
    const NAME: &str = "metadata";
    let mut user = None;
    if walk.peek() == Some(b'{') {
        members(walk, NAME, &mut |walk, key, written| {
            let found = walk.value(written)?;
            if key == "user_id" {
                user = text(walk, "metadata.user_id", &found)?;
            }
            Ok(())
        })?;
    } else {
        must_be_null(NAME, "an object", &walk.value(NAME)?)?;
    }
    Ok(user)
}

/// `generationConfig.maxOutputTokens`, in both of Gemini's spellings.
fn read_limit(walk: &mut Walk<'_>, name: &str) -> Result<Option<u64>, CallFault> {
    let mut limit = None;
    members(walk, name, &mut |walk, key, written| {
        if matches!(key, "maxOutputTokens" | "max_output_tokens") {
            limit = whole_number(walk, written, &path(name, key))?;
        } else {
            walk.value(written)?;
        }
        Ok(())
    })?;
    Ok(limit)
}

fn path(within: &str, key: &str) -> String {
    // A key of a megabyte is not repeated to its sender.
    let key: String = key.chars().take(64).collect();
    if within.is_empty() {
        key
    } else {
        format!("{within}.{key}")
    }
}

fn text(walk: &Walk<'_>, name: &str, found: &Found) -> Result<Option<String>, CallFault> {
    if found.kind != Kind::String {
        return must_be_null(name, "a string", found).map(|()| None);
    }
    let written = walk.written(&(found.span.start + 1..found.span.end - 1));
    match unescape(written) {
        Some(text) => Ok(Some(text.into_owned())),
        None => Err(CallFault::invalid(
            name,
            format!("`{name}` has half a character"),
        )),
    }
}

fn flag(name: &str, found: &Found) -> Result<bool, CallFault> {
    match found.kind {
        Kind::Bool(flag) => Ok(flag),
        _ => must_be_null(name, "true or false", found).map(|()| false),
    }
}

fn whole_number(walk: &mut Walk<'_>, key: &str, name: &str) -> Result<Option<u64>, CallFault> {
    let found = walk.value(key)?;
    if found.kind == Kind::Null {
        return Ok(None);
    }
    walk.written(&found.span).parse().map(Some).map_err(|_| {
        CallFault::invalid(
            name,
            format!("`{name}` must be a whole number from 0 to {}", u64::MAX),
        )
    })
}

fn must_be_null(name: &str, expected: &str, found: &Found) -> Result<(), CallFault> {
    if found.kind == Kind::Null {
        return Ok(());
    }
    let kind = match found.kind {
        Kind::Null => "null",
        Kind::Bool(_) => "true or false",
        Kind::Number => "a number",
        Kind::String => "a string",
        Kind::Array => "a list",
        Kind::Object => "an object",
    };
    Err(CallFault::invalid(
        name,
        format!("`{name}` must be {expected}, not {kind}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn check(body: &str, edits: Edits<'_>, expected: &str) {
        let peek = Peek::read(body.as_bytes()).expect(body);
        let patched = peek.patch(body.as_bytes(), &edits);
        assert_eq!(String::from_utf8(patched).unwrap(), expected, "{body}");
    }

    fn check_refused(body: &[u8], param: Option<&str>, words: &str) {
        let fault = Peek::read(body).expect_err(&String::from_utf8_lossy(body));
        assert_eq!(fault.param.as_deref(), param, "{}", fault.message);
        assert!(fault.message.contains(words), "{}", fault.message);
    }

    #[test]
    fn a_gateway_sees_what_it_must_know() {
        let body = r#" {"messages":[{"role":"user","content":"hi"}], "model" : "g\u0070t", "stream":true,
            "max_tokens": 7, "max_completion_tokens":9, "stream_options":{"x":1,"include_usage":true},
            "user":"me", "n":1e400}"#;
        let peek = Peek::read(body.as_bytes()).unwrap();
        assert_eq!(peek.model.as_deref(), Some("gpt"));
        assert!(peek.stream && peek.include_usage);
        assert_eq!(peek.max_tokens, Some(9));
        assert_eq!(peek.end_user.as_deref(), Some("me"));

        let body = br#"{"model":"","metadata":{"user_id":"u"},"stream":null,"max_tokens":null}"#;
        let peek = Peek::read(body).unwrap();
        assert_eq!(
            (peek.model, peek.stream, peek.max_tokens),
            (None, false, None)
        );
        assert_eq!(peek.end_user.as_deref(), Some("u"));

        let body = br#"{"contents":[],"generationConfig":{"maxOutputTokens":5}}"#;
        assert_eq!(Peek::read(body).unwrap().max_tokens, Some(5));
    }

    #[test]
    fn only_what_is_edited_changes() {
        let model = Edits {
            model: Some("b\"c"),
            ..Edits::default()
        };
        let both = Edits {
            model: Some("b"),
            include_usage: true,
            ..Edits::default()
        };
        check(
            r#"{ "x":1.0e+2 ,"model": "a" }"#,
            model,
            r#"{ "x":1.0e+2 ,"model": "b\"c" }"#,
        );
        check(
            r#"{"model":null,"é":"\u00e9"}"#,
            model,
            r#"{"model":"b\"c","é":"\u00e9"}"#,
        );
        check(
            r#"{"x":{"model":"a"}}"#,
            model,
            r#"{"model":"b\"c","x":{"model":"a"}}"#,
        );
        check(
            "{}",
            both,
            r#"{"model":"b","stream_options":{"include_usage":true}}"#,
        );
        check(
            " { } ",
            both,
            r#" {"model":"b","stream_options":{"include_usage":true} } "#,
        );
    }

    #[test]
    fn a_member_takes_the_place_of_the_models() {
        let version = Edits {
            in_place_of_model: Some(r#""v":"1""#),
            ..Edits::default()
        };
        for (before, after) in [
            (r#"{"model":"a"}"#, r#"{"v":"1"}"#),
            (
                r#"{ "x":"y\"", "model" : "a" , "z":1}"#,
                r#"{ "x":"y\"", "v":"1" , "z":1}"#,
            ),
            (r#"{"\u006dodel":null,"x":1.0}"#, r#"{"v":"1","x":1.0}"#),
            (r#"{"x":{"model":"a"}}"#, r#"{"v":"1","x":{"model":"a"}}"#),
            ("{}", r#"{"v":"1"}"#),
        ] {
            check(before, version, after);
        }
    }

    #[test]
    fn a_stream_is_asked_for_its_usage_in_place() {
        let usage = Edits {
            include_usage: true,
            ..Edits::default()
        };
        let both = Edits {
            model: Some("b"),
            ..usage
        };
        check(
            r#"{"stream_options":null,"model":"a"}"#,
            both,
            r#"{"stream_options":{"include_usage":true},"model":"b"}"#,
        );
        check(
            r#"{"a":1,"stream_options":{"b":2}}"#,
            both,
            r#"{"model":"b","a":1,"stream_options":{"include_usage":true,"b":2}}"#,
        );
        check(
            r#"{"stream_options":{}}"#,
            usage,
            r#"{"stream_options":{"include_usage":true}}"#,
        );
        check(
            r#"{"stream_options":{"include_usage": false }}"#,
            usage,
            r#"{"stream_options":{"include_usage": true }}"#,
        );
        for body in [r#"{"stream_options":{"include_usage":true}}"#, "{}"] {
            check(body, Edits::default(), body);
        }
        check(
            r#"{"stream_options":{"include_usage":true}}"#,
            usage,
            r#"{"stream_options":{"include_usage":true}}"#,
        );
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        check_refused(b"", None, "empty");
        check_refused(b" ", None, "empty");
        check_refused(b"[]", None, "not a JSON object");
        check_refused(b"hello", None, "not a JSON object");
        check_refused(b"{", None, "key is missing at byte 1");
        check_refused(b"{\"a\":1,}", None, "key is missing at byte 7");
        check_refused(b"{\"a\":01}", None, "not JSON");
        check_refused(b"{\"a\":1.}", None, "not JSON");
        check_refused(b"{\"a\":-}", None, "not JSON");
        check_refused(b"{\"a\":nul}", None, "not JSON");
        check_refused(b"{\"a\":\"\n\"}", None, "control");
        check_refused(b"{\"a\":\"\\x\"}", None, "escape");
        check_refused(b"{\"a\":\"\\u12g4\"}", None, "escape");
        check_refused(b"{\"a\":\"", None, "no end");
        check_refused(b"{} {}", None, "follows");
        check_refused(b"{\"a\":\"\xff\"}", None, "UTF-8 at byte 6");
        check_refused(br#"{"a":1,"\u0061":2}"#, Some("a"), "twice");
        check_refused(br#"{"model":1}"#, Some("model"), "string, not a number");
        check_refused(br#"{"model":"\ud800"}"#, Some("model"), "half");
        check_refused(br#"{"stream":"yes"}"#, Some("stream"), "true or false");
        check_refused(br#"{"max_tokens":-1}"#, Some("max_tokens"), "whole number");
        check_refused(br#"{"max_tokens":1.5}"#, Some("max_tokens"), "whole number");
        check_refused(br#"{"max_tokens":"1"}"#, Some("max_tokens"), "whole number");
        check_refused(
            br#"{"max_output_tokens":18446744073709551616}"#,
            Some("max_output_tokens"),
            "whole number",
        );
        check_refused(
            br#"{"stream_options":[]}"#,
            Some("stream_options"),
            "object",
        );
        check_refused(
            br#"{"stream_options":{"include_usage":1}}"#,
            Some("stream_options.include_usage"),
            "true or false",
        );
        check_refused(
            br#"{"stream_options":{"include_usage":true,"include_usage":false}}"#,
            Some("stream_options.include_usage"),
            "twice",
        );
        check_refused(
            br#"{"a":[{"b":{"c":1,"d":2,"\u0063":3}}]}"#,
            Some("\\u0063"),
            "twice",
        );
        let many: Vec<String> = (0..20).map(|nth| format!("\"k{nth}\":0,")).collect();
        let many = format!(r#"{{"a":{{{}"k3":1}}}}"#, many.concat());
        check_refused(many.as_bytes(), Some("k3"), "twice");
        check_refused(br#"{"user":{}}"#, Some("user"), "string");
        check_refused(br#"{"metadata":"x"}"#, Some("metadata"), "object");
        check_refused(
            br#"{"metadata":{"user_id":3}}"#,
            Some("metadata.user_id"),
            "string",
        );
    }

    #[test]
    fn the_same_key_in_two_objects_is_no_key_twice() {
        let body = r#"{"a":[{"k":{"k":{"k":1}}},{"k":2}],"k":{"k":3}}"#;
        assert!(Peek::read(body.as_bytes()).is_ok());
    }

    #[test]
    fn depth_has_an_end() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(Peek::read(nested(127).as_bytes()).is_ok());
        check_refused(nested(128).as_bytes(), None, "deeper than 128");
        check_refused(nested(1_000_000).as_bytes(), None, "deeper than 128");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i16>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_edit_is_the_same_as_on_the_tree(
            mut fields in prop::collection::vec((any::<String>(), any_json()), 0..6),
            model in prop::option::of(any::<String>()),
            options in prop::option::of(prop_oneof![
                Just(json!(null)), Just(json!({})), Just(json!({"include_usage":false})), Just(json!({"x":[1]})),
            ]),
            at in any::<prop::sample::Index>(),
            pretty in any::<bool>(),
            to in any::<String>(),
        ) {
            if let Some(model) = model { fields.insert(at.index(fields.len() + 1), ("model".into(), model.into())); }
            if let Some(options) = options {
                fields.insert(at.index(fields.len() + 1), ("stream_options".into(), options));
            }
            let tree = Value::Object(fields.into_iter().collect());
            let body = if pretty { serde_json::to_vec_pretty(&tree) } else { serde_json::to_vec(&tree) }.unwrap();
            let peek = Peek::read(&body).unwrap();
            prop_assert_eq!(&peek.patch(&body, &Edits::default()), &body);
            let patched = peek.patch(&body, &Edits { model: Some(&to), include_usage: true, in_place_of_model: None });
            let mut expected = tree;
            expected["model"] = to.into();
            if expected["stream_options"].is_null() { expected["stream_options"] = json!({}); }
            expected["stream_options"]["include_usage"] = true.into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&patched).unwrap(), expected);
            let again = Peek::read(&patched).unwrap();
            prop_assert!(again.include_usage);
        }

        #[test]
        fn what_is_taken_for_json_is_json(text in r#"\{("[a\\"u0]{0,6}":|[0-9eE+.\-]{0,5}|[\[\]{},: ]|true|null|"\\u00e9"){0,12}\}"#) {
            let tree = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            match Peek::read(text.as_bytes()) {
                Ok(_) => prop_assert!(tree, "{}", text),
                Err(fault) => prop_assert!(!tree || fault.message.contains("twice"), "{} {}", text, fault.message),
            }
        }
    }
}
