//! Just enough of `PromQL`: which metrics and labels an expression uses, and where a selector can be added.

/// A metric as an expression uses it.
#[derive(Debug, PartialEq)]
pub struct Use<'a> {
    pub name: &'a str,
    /// Labels of its selector, with what they are compared to.
    pub matchers: Vec<(&'a str, &'a str)>,
    /// Whether it is looked at over a range: `[5m]`.
    pub ranged: bool,
    /// The function whose argument begins with it: `rate`.
    pub within: Option<&'a str>,
    /// Byte after its name.
    end: usize,
    /// Byte after the brace of its selector, if it has one.
    brace: Option<usize>,
}

/// What an expression consists of.
#[derive(Debug, Default, PartialEq)]
pub struct Expression<'a> {
    pub uses: Vec<Use<'a>>,
    /// Labels of `by`, `on` and their like.
    pub groups: Vec<&'a str>,
    /// Names of functions and aggregations.
    pub functions: Vec<&'a str>,
}

const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
const AGGREGATIONS: [&str; 9] = [
    "sum", "max", "min", "count", "avg", "group", "topk", "bottomk", "quantile",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Number,
    Sign(char),
}

/// Reads an expression; what is no `PromQL` at all is for Prometheus to say.
pub fn read(text: &str) -> Expression<'_> {
    let tokens = tokens(text);
    let mut found = Expression::default();
    let mut at = 0;
    while at < tokens.len() {
        let next = tokens.get(at + 1).map(|(_, token)| *token);
        match tokens[at].1 {
            Token::Word(word) if GROUPING.contains(&word) => {
                let (labels, end) = words_until(&tokens, at + 1, ')');
                found.groups.extend(labels);
                at = end;
            }
            Token::Word(word) if OPERATORS.contains(&word) => {}
            Token::Word(word) if next == Some(Token::Sign('(')) || AGGREGATIONS.contains(&word) => {
                found.functions.push(word);
            }
            Token::Word(name) => at = metric(&tokens, at, name, &mut found),
            _ => {}
        }
        at += 1;
    }
    found
}

/// Adds selectors to each metric: what `more` says for it, such as `a="b"`.
pub fn select(text: &str, more: impl Fn(&str) -> Vec<String>) -> String {
    let mut selected = text.to_owned();
    for used in read(text).uses.iter().rev() {
        let more = more(used.name).join(",");
        match used.brace {
            _ if more.is_empty() => {}
            Some(brace) if used.matchers.is_empty() => selected.insert_str(brace, &more),
            Some(brace) => selected.insert_str(brace, &format!("{more},")),
            None => selected.insert_str(used.end, &format!("{{{more}}}")),
        }
    }
    selected
}

/// Reads the metric at `at`; the place of its last token.
fn metric<'a>(
    tokens: &[(usize, Token<'a>)],
    at: usize,
    name: &'a str,
    found: &mut Expression<'a>,
) -> usize {
    let within = match at
        .checked_sub(2)
        .map(|before| (tokens[before].1, tokens[at - 1].1))
    {
        Some((Token::Word(function), Token::Sign('('))) => Some(function),
        _ => None,
    };
    let sign = |at: usize, sign| {
        tokens
            .get(at)
            .is_some_and(|(_, token)| *token == Token::Sign(sign))
    };
    let (mut matchers, mut brace, mut last) = (Vec::new(), None, at);
    if sign(at + 1, '{') {
        brace = Some(tokens[at + 1].0 + 1);
        last = at + 1;
        let mut label = "";
        while !sign(last, '}') && last < tokens.len() {
            match tokens[last].1 {
                Token::Word(word) => label = word,
                Token::Text(value) => matchers.push((label, value)),
                _ => {}
            }
            last += 1;
        }
    }
    let ranged = sign(last + 1, '[');
    if ranged {
        (_, last) = words_until(tokens, last + 1, ']');
    }
    let end = tokens[at].0 + name.len();
    found.uses.push(Use {
        name,
        matchers,
        ranged,
        within,
        end,
        brace,
    });
    last
}

/// Words up to this sign, and where it stands.
fn words_until<'a>(
    tokens: &[(usize, Token<'a>)],
    from: usize,
    sign: char,
) -> (Vec<&'a str>, usize) {
    let rest = &tokens[from.min(tokens.len())..];
    let length = rest
        .iter()
        .take_while(|(_, token)| *token != Token::Sign(sign))
        .count();
    let words = rest[..length].iter().filter_map(|(_, token)| match token {
        Token::Word(word) => Some(*word),
        _ => None,
    });
    (words.collect(), from + length)
}

fn tokens(text: &str) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length_of = |more: fn(char) -> bool| rest.find(|c| !more(c)).unwrap_or(rest.len());
        let (length, token) = if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        } else if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 1);
            (end + 1, Token::Text(&rest[1..end]))
        } else if first.is_ascii_digit() {
            (
                length_of(|c| c.is_ascii_alphanumeric() || c == '.'),
                Token::Number,
            )
        } else if first.is_ascii_alphabetic() || "_$".contains(first) {
            let length = length_of(|c| c.is_ascii_alphanumeric() || "_:$".contains(c));
            (length, Token::Word(&rest[..length]))
        } else {
            (first.len_utf8(), Token::Sign(first))
        };
        tokens.push((at, token));
        at += length;
    }
    tokens
}

#[test]
fn metrics_labels_and_functions_are_found() {
    let text = r#"(sum by (code, le) (rate(a_total{code=~"5..",x!="{}"}[$__rate_interval])) or vector(0))
        / on (instance) group_left (version) b > 0.5 and c offset 5m"#;
    let read = read(text);
    let uses: Vec<_> = read
        .uses
        .iter()
        .map(|one| (one.name, one.ranged, one.within))
        .collect();
    assert_eq!(
        uses,
        [
            ("a_total", true, Some("rate")),
            ("b", false, None),
            ("c", false, None)
        ]
    );
    assert_eq!(read.uses[0].matchers, [("code", "5.."), ("x", "{}")]);
    assert_eq!(read.groups, ["code", "le", "instance", "version"]);
    assert_eq!(read.functions, ["sum", "rate", "vector"]);
}

#[test]
fn selectors_are_added_to_every_metric() {
    let more = |name: &str| match name {
        "plain" => Vec::new(),
        _ => vec![r#"i=~"$i""#.to_owned()],
    };
    for (text, expected) in [
        ("sum(a)", r#"sum(a{i=~"$i"})"#),
        (
            r#"rate(a{b="c"}[5m]) / d{}"#,
            r#"rate(a{i=~"$i",b="c"}[5m]) / d{i=~"$i"}"#,
        ),
        ("plain + plain", "plain + plain"),
        ("sum by (a) (a)", r#"sum by (a) (a{i=~"$i"})"#),
    ] {
        assert_eq!(select(text, more), expected);
    }
}
