//! `${NAME}` and `${NAME:-default}` inside a value; `$${` stands for a literal `${`.
//!
//! Values are looked at after the document has been parsed, so that nothing in a
//! variable can change its structure.

/// A value after the variables in it have been put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// What each variable stood for; never to be shown.
    pub used: Vec<Variable>,
}

/// A variable of the environment and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

/// What is wrong in a value, and how to mend it.
pub type Complaint = (String, String);

/// Puts variables in. An empty variable counts as unset where there is a default, as in a shell.
pub fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, Vec<Complaint>> {
    let mut out = Expanded {
        text: String::with_capacity(text.len()),
        used: Vec::new(),
    };
    let mut complaints = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.text.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some(end) = after.find('}') else {
                complaints.push(not_a_variable("`${` is not closed by `}`"));
                break;
            };
            match variable(&after[..end], env, &mut out) {
                Ok(value) => out.text.push_str(&value),
                Err(complaint) => complaints.push(complaint),
            }
            rest = &after[end + 1..];
        } else {
            out.text.push('$');
            rest = &rest[1..];
        }
    }
    out.text.push_str(rest);
    if complaints.is_empty() {
        Ok(out)
    } else {
        Err(complaints)
    }
}

/// The value of what stands between the braces.
fn variable(
    inside: &str,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut Expanded,
) -> Result<String, Complaint> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err(not_a_variable(&format!(
            "`{name}` is not the name of a variable"
        )));
    }
    let value = env(name).filter(|value| default.is_none() || !value.is_empty());
    match (value, default) {
        (Some(value), _) => {
            out.used.push(Variable {
                name: name.to_owned(),
                value: value.clone(),
            });
            Ok(value)
        }
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it, or write `${{{name}:-default}}`"),
        )),
    }
}

fn not_a_variable(what: &str) -> Complaint {
    (
        what.to_owned(),
        "write `${NAME}` or `${NAME:-default}`; `$${` stands for a literal `${`".to_owned(),
    )
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A value shorter than this is taken out only where it was used: `1` is everywhere.
const VARIABLE_BYTES_MIN: usize = 6;
/// So many characters of a value in a row tell something of it.
const PIECE_CHARS: usize = 4;
/// A sentence is cut here.
const SENTENCE_CHARS_MAX: usize = 400;

/// A sentence about a value, without what came from the environment: `used` stands in the value
/// itself, so that not even a piece of it may be told; `all` are those of the whole document.
pub fn redact(sentence: &str, used: &[Variable], all: &[Variable]) -> String {
    let long = all
        .iter()
        .filter(|variable| variable.value.len() >= VARIABLE_BYTES_MIN);
    let mut sentence = sentence.to_owned();
    for Variable { name, value } in long {
        sentence = sentence.replace(value, &format!("${{{name}}}"));
    }
    for Variable { name, value } in used.iter().filter(|variable| !variable.value.is_empty()) {
        let pieces = sentence.split('`').map(|piece| {
            if piece == value {
                format!("${{{name}}}")
            } else if reveals(piece, value) {
                "***".to_owned()
            } else {
                piece.to_owned()
            }
        });
        sentence = pieces.collect::<Vec<_>>().join("`");
    }
    match sentence.char_indices().nth(SENTENCE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &sentence[..end]),
        None => sentence,
    }
}

/// Whether a piece of a sentence tells a piece of the value, in whatever case.
fn reveals(piece: &str, value: &str) -> bool {
    let piece = piece.to_lowercase();
    let value: Vec<char> = value.to_lowercase().chars().collect();
    let windows = value.windows(PIECE_CHARS.min(value.len()));
    let mut windows = windows.map(|window| window.iter().collect::<String>());
    let part = value.iter().collect::<String>().contains(&piece) && !piece.is_empty();
    part || windows.any(|window| piece.contains(&window))
}

/// Whether the text is one variable and nothing else.
pub fn is_one_variable(text: &str) -> bool {
    text.starts_with("${") && text.find('}') == Some(text.len() - 1)
}

/// The inverse: text that `expand` turns back into `text`.
pub fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${PORT}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_put_in() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${PORT}", "8080"),
            ("127.0.0.1:${PORT}/x", "127.0.0.1:8080/x"),
            ("${NONE:-9090}", "9090"),
            ("${EMPTY:-9090}", "9090"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("$${PORT}", "${PORT}"),
            ("$PORT $ $$", "$PORT $ $$"),
            ("$$${PORT}", "$${PORT}"),
            ("${NESTED}", "${PORT}"),
            ("é${PORT}é", "é8080é"),
        ] {
            assert_eq!(expand(text, &env).unwrap().text, expected, "{text}");
        }
    }

    #[test]
    fn each_variable_that_is_missing_is_named() {
        for (text, count, part) in [
            ("${A} and ${B}", 2, "`A` is not set"),
            ("${PORT", 1, "not closed"),
            ("${}", 1, "`` is not the name"),
            ("${a b}", 1, "`a b` is not the name"),
            ("${1}", 1, "`1` is not the name"),
        ] {
            let complaints = expand(text, &env).unwrap_err();
            assert_eq!(complaints.len(), count, "{text}");
            assert!(complaints[0].0.contains(part), "{text}: {complaints:?}");
        }
    }

    #[test]
    fn not_even_a_piece_of_a_value_is_told() {
        let used = |value: &str| {
            let name = "NAME".to_owned();
            [Variable {
                name,
                value: value.to_owned(),
            }]
        };
        for (sentence, value, expected) in [
            ("`abcdefg` is wrong", "abcdefg", "`${NAME}` is wrong"),
            (
                "`xyz-abcdefg` is wrong",
                "abcdefg",
                "`xyz-${NAME}` is wrong",
            ),
            ("write `abcdefg`", "ABCDEFG", "write `***`"),
            ("`cdef` in it", "abcdefg", "`***` in it"),
            ("`x-abcd` in it", "abcdefg", "`***` in it"),
            ("`80` is wrong", "80", "`${NAME}` is wrong"),
            ("`8` of it", "80", "`***` of it"),
            ("`threads` is wrong", "80", "`threads` is wrong"),
        ] {
            let used = used(value);
            assert_eq!(redact(sentence, &used, &used), expected, "{sentence}");
        }
        assert_eq!(
            redact("of 80 and abcdefg", &[], &used("80")),
            "of 80 and abcdefg"
        );
        assert_eq!(redact("of abcdefg", &[], &used("abcdefg")), "of ${NAME}");
        assert!(redact(&"é".repeat(1_000), &[], &[]).chars().count() <= 401);
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back_whole(text in "[${}a-zA-Z:-]{0,24}") {
            prop_assert_eq!(expand(&escape(&text), &env).unwrap().text, text);
        }
    }
}
