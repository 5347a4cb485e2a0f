//! Addresses of pictures, sounds and documents: a provider fetches what they name, so only those of the web, and
//! data in the address itself, are passed on. `gs://` is Gemini's own, for callers who speak like it.
//!
//! A body is walked through once anyway ([`super::peek`]), which marks the few that have something to look at here:
//! no other is read as a tree.

use super::dialect::DialectName;
use super::fault::CallFault;
use serde_json::Value;

/// Longer is no scheme that anybody knows.
const SCHEME_BYTES_MAX: usize = 32;

/// Where a caller's words are, in any dialect. Tools and their schemas are somewhere else.
const WORDS: &[&str] = &[
    "messages",
    "input",
    "system",
    "contents",
    "systemInstruction",
    "system_instruction",
    "generateContentRequest",
    "generate_content_request",
];

/// Arguments of tools are for tools: what they name is not fetched.
const ARGUMENTS: &[&str] = &[
    "functionCall",
    "function_call",
    "arguments",
    "args",
    "response",
];

/// Refuses, by its place, the first address of something to be seen, heard or read that is of another kind. `body` is
/// JSON; what is no address where one belongs is left to whoever reads the call.
pub fn check(of: DialectName, body: &[u8]) -> Result<(), CallFault> {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return Ok(());
    };
    let words = body
        .iter()
        .filter(|(name, _)| WORDS.contains(&name.as_str()));
    for (name, value) in words {
        walk(of, value, name)?;
    }
    Ok(())
}

/// Whether a text, as it is written in JSON, may be an address of another kind.
pub(super) fn may_be_odd(written: &str) -> bool {
    let beginning = written.as_bytes();
    let beginning = &beginning[..beginning.len().min(SCHEME_BYTES_MAX)];
    let colon = beginning.iter().position(|byte| *byte == b':');
    let before = &beginning[..colon.unwrap_or(beginning.len())];
    before.contains(&b'\\') || colon.is_some_and(|_| !is_usual(before))
}

fn is_usual(scheme: &[u8]) -> bool {
    [&b"https"[..], b"http", b"data"]
        .iter()
        .any(|usual| scheme.eq_ignore_ascii_case(usual))
}

fn walk(of: DialectName, value: &Value, at: &str) -> Result<(), CallFault> {
    match value {
        Value::Array(items) => {
            for (nth, item) in items.iter().enumerate() {
                walk(of, item, &format!("{at}[{nth}]"))?;
            }
        }
        Value::Object(members) => {
            let kind = members.get("type").and_then(Value::as_str);
            // What a model has called is not looked at; what came back may hold pictures.
            if kind.is_some_and(|kind| kind.ends_with("tool_use") || kind.ends_with("_call")) {
                return Ok(());
            }
            for path in addresses(of, kind) {
                address(of, value, path, at)?;
            }
            for (name, inner) in members {
                if !ARGUMENTS.contains(&name.as_str()) {
                    walk(of, inner, &format!("{at}.{name}"))?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Where an object of this kind has an address.
fn addresses(of: DialectName, kind: Option<&str>) -> &'static [&'static [&'static str]] {
    match (of, kind) {
        (DialectName::Gemini, _) => &[
            &["fileData", "fileUri"],
            &["file_data", "file_uri"],
            &["fileData", "file_uri"],
            &["file_data", "fileUri"],
        ],
        (_, Some("image_url" | "input_image")) => &[&["image_url"], &["image_url", "url"]],
        (_, Some("input_file")) => &[&["file_url"]],
        (_, Some("image" | "document")) => &[&["source", "url"]],
        _ => &[],
    }
}

fn address(of: DialectName, value: &Value, path: &[&str], at: &str) -> Result<(), CallFault> {
    let found = path.iter().try_fold(value, |value, name| value.get(name));
    let Some(scheme) = found.and_then(Value::as_str).and_then(scheme_of) else {
        return Ok(());
    };
    let own = of == DialectName::Gemini && scheme.eq_ignore_ascii_case("gs");
    if is_usual(scheme.as_bytes()) || own {
        return Ok(());
    }
    let place = format!("{at}.{}", path.join("."));
    let message = format!(
        "`{place}` is an address of the kind `{scheme}:`; write one that begins with `https://` or `data:`"
    );
    Err(CallFault::invalid(place, message))
}

/// RFC 3986 section 3.1; none where there is none.
fn scheme_of(address: &str) -> Option<&str> {
    let (scheme, _) = address.trim_start().split_once(':')?;
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let fits = !scheme.is_empty() && scheme.len() <= SCHEME_BYTES_MAX;
    (fits && scheme.bytes().all(sound)).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::super::peek::Peek;
    use super::*;
    use DialectName::{Chat, Gemini, Messages, Responses};

    /// As the gateway does it: the tree is read only where the walk has seen something.
    fn refused(of: DialectName, body: &str) -> Option<String> {
        let peek = Peek::read(body.as_bytes()).expect(body);
        let fault = check(of, body.as_bytes()).err();
        assert!(peek.odd_address || fault.is_none(), "not seen: {body}");
        fault.and_then(|fault| fault.param)
    }

    #[test]
    fn only_addresses_of_the_web_and_data_pass() {
        let chat = |url: &str| {
            format!(
                r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}]}}"#
            )
        };
        let place = "messages[0].content[0].image_url.url";
        for (url, refuses) in [
            ("https://host/a.png", false),
            ("HTTP://host/a.png", false),
            ("data:image/png;base64,AAAA", false),
            ("data:image\\/png;base64,AAAA", false),
            ("no address", false),
            ("file:///etc/passwd", true),
            ("FILE:///etc/passwd", true),
            (" file:///etc/passwd", true),
            ("f\\u0069le:///etc/passwd", true),
            ("ftp://host/a.png", true),
            ("gs://bucket/a.png", true),
            ("javascript:alert(1)", true),
        ] {
            let found = refused(Chat, &chat(url));
            assert_eq!(found.as_deref(), refuses.then_some(place), "{url}");
        }
    }

    #[test]
    fn each_dialect_has_its_places() {
        for (of, body, place) in [
            (
                Responses,
                r#"{"input":[{"content":[{"type":"input_image","image_url":"ftp://a"}]}]}"#,
                Some("input[0].content[0].image_url"),
            ),
            (
                Responses,
                r#"{"input":[{"content":[{"type":"input_file","file_url":"file:a"}]}]}"#,
                Some("input[0].content[0].file_url"),
            ),
            (
                Messages,
                r#"{"messages":[{"content":[{"type":"tool_result","content":[
                    {"type":"image","source":{"type":"url","url":"file:///a"}}]}]}]}"#,
                Some("messages[0].content[0].content[0].source.url"),
            ),
            (
                Gemini,
                r#"{"contents":[{"parts":[{"fileData":{"fileUri":"file:///a"}}]}]}"#,
                Some("contents[0].parts[0].fileData.fileUri"),
            ),
            (
                Gemini,
                r#"{"contents":[{"parts":[{"file_data":{"file_uri":"gs://bucket/a"}}]}]}"#,
                None,
            ),
            // Arguments and schemas may name what they like.
            (
                Messages,
                r#"{"messages":[{"content":[{"type":"tool_use","input":{"type":"image","source":{"url":"ftp://a"}}}]}],
                    "tools":[{"input_schema":{"type":"image","source":{"url":"x:y"}}}]}"#,
                None,
            ),
            (
                Gemini,
                r#"{"contents":[{"parts":[{"functionCall":{"args":{"fileData":{"fileUri":"x:y"}}}}]}]}"#,
                None,
            ),
            (
                Chat,
                r#"{"messages":[{"content":"see file:///a"}],"metadata":{"url":"x:y"}}"#,
                None,
            ),
        ] {
            assert_eq!(refused(of, body).as_deref(), place, "{body}");
        }
    }
}
