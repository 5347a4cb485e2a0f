//! A path as a route writes it: `/health`, `/api/*`, `/users/{id}/posts`.

use super::path::loose_reading;
use super::path::normalise;
use std::cmp::Reverse;
use std::fmt;

/// The most `{names}` in one pattern.
pub const PARAMETERS_MAX: usize = 16;
/// The most segments in one pattern: it bounds how deep a look-up goes.
pub const SEGMENTS_MAX: usize = 64;

/// What a pattern is, the most specific first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathKind {
    /// Only literal segments.
    Exact,
    /// Some segments are `{names}`.
    Pattern,
    /// Ends in `/*`, with or without `{names}` before it.
    Prefix,
}

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// In the one spelling of `normalise`.
    Literal(Box<str>),
    /// Takes one segment that is not empty.
    Parameter(Box<str>),
}

/// A path pattern, checked. A slash at the end counts: `/a` and `/a/` are two paths,
/// and `/a/*` takes both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub segments: Box<[Segment]>,
    /// Whether it ends in `/*`.
    pub open: bool,
}

/// What is wrong with a pattern, and what to write instead.
pub type BadPattern = (String, String);

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let Some(body) = text.strip_prefix('/') else {
            return Err(bad(
                format_args!("the path `{text}` does not begin with `/`"),
                format_args!("write `/{text}`"),
            ));
        };
        let (body, open) = match body.strip_suffix('*') {
            Some("") => ("", true),
            Some(front) if front.ends_with('/') => (&front[..front.len() - 1], true),
            _ => (body, false),
        };
        let mut segments = Vec::new();
        if !(open && body.is_empty()) {
            let count = body.split('/').count();
            for (at, written) in body.split('/').enumerate() {
                let last = at + 1 == count && !open;
                segments.push(Segment::parse(written, last, text)?);
            }
        }
        check_names(&segments, text)?;
        let segments = segments.into();
        Ok(Self { segments, open })
    }

    pub fn kind(&self) -> PathKind {
        match () {
            () if self.open => PathKind::Prefix,
            () if self.names().next().is_some() => PathKind::Pattern,
            () => PathKind::Exact,
        }
    }

    /// The order among patterns that take the same path: the smallest wins. Whole paths before
    /// prefixes, longer prefixes before shorter, then literals before names from the left.
    pub fn order(&self) -> (bool, Reverse<usize>, Vec<bool>) {
        let is_name = |segment: &Segment| matches!(segment, Segment::Parameter(_));
        (
            self.open,
            Reverse(self.segments.len()),
            self.segments.iter().map(is_name).collect(),
        )
    }

    /// The names in braces, from left to right.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// The pattern without its names: two with the same shape take the same paths.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Parameter(_) => "{}",
            });
        }
        shape.push_str(if self.open { "/*" } else { "" });
        shape
    }

    /// Whether it takes this normalised path. For explanations: a table uses its tree.
    pub fn takes(&self, path: &str) -> bool {
        let mut given = path.get(1..).unwrap_or("").split('/');
        for segment in &self.segments {
            let fits = match (segment, given.next()) {
                (_, None) => false,
                (Segment::Literal(text), Some(given)) => **text == *given,
                (Segment::Parameter(_), Some(given)) => !given.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        self.open || given.next().is_none()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Parameter(name) => write!(f, "/{{{name}}}")?,
            }
        }
        f.write_str(if self.open { "/*" } else { "" })
    }
}

impl Segment {
    fn parse(written: &str, may_be_empty: bool, text: &str) -> Result<Self, BadPattern> {
        if written.is_empty() && may_be_empty {
            return Ok(Self::Literal("".into()));
        }
        let inner = written.strip_prefix('{').and_then(|w| w.strip_suffix('}'));
        if let Some(name) = inner {
            return match is_parameter_name(name) {
                _ if name == "host" => Err(bad(
                    format_args!("`{{host}}` in the path `{text}` would hide the host asked for"),
                    "take another name",
                )),
                true => Ok(Self::Parameter(name.into())),
                false => Err(bad(
                    format_args!("`{{{name}}}` in the path `{text}` is not a name"),
                    "letters, digits and `_`, such as `{user_id}`",
                )),
            };
        }
        if written.contains(['{', '}']) {
            return Err(bad(
                format_args!("braces must hold a whole segment of the path `{text}`"),
                "write `/users/{id}/posts`",
            ));
        }
        if written.contains('*') {
            return Err(bad(
                format_args!("`*` must stand alone at the end of the path `{text}`"),
                "write `/api/*`; for one segment write `{name}`",
            ));
        }
        Self::literal(written, text)
    }

    fn literal(written: &str, text: &str) -> Result<Self, BadPattern> {
        let path = format!("/{written}");
        let never = |fix: &str| bad(format_args!("no request can match the path `{text}`"), fix);
        let normal = normalise(&path).map_err(|why| {
            bad(
                format_args!("the path `{text}` cannot be matched: {why}"),
                "write the path as it looks when `.`, `..` and escapes are resolved",
            )
        })?;
        if normal == "/" {
            return Err(never(
                "leave out empty segments and `.`: they are resolved before matching",
            ));
        }
        match loose_reading(&normal) {
            Ok(None) => Ok(Self::Literal(normal[1..].into())),
            _ => Err(never(
                "write the character instead of its escape; an escaped slash can only be in what `*` takes",
            )),
        }
    }
}

/// Shared with templates: what may stand between braces.
pub(super) fn is_parameter_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check_names(segments: &[Segment], text: &str) -> Result<(), BadPattern> {
    let mut names: Vec<&str> = Vec::new();
    for segment in segments {
        let Segment::Parameter(name) = segment else {
            continue;
        };
        if names.contains(&&**name) {
            return Err(bad(
                format_args!("`{{{name}}}` stands twice in the path `{text}`"),
                "give each segment its own name",
            ));
        }
        names.push(name);
    }
    if names.len() > PARAMETERS_MAX || segments.len() > SEGMENTS_MAX {
        return Err(bad(
            format_args!("the path `{text}` is too long"),
            format_args!(
                "at most {SEGMENTS_MAX} segments, {PARAMETERS_MAX} of them names; end it in `/*`"
            ),
        ));
    }
    Ok(())
}

fn bad(what: impl fmt::Display, fix: impl fmt::Display) -> BadPattern {
    (what.to_string(), fix.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_take_what_they_say() {
        for (text, kind, takes, refuses) in [
            ("/", PathKind::Exact, &["/"][..], &["/a"][..]),
            ("/*", PathKind::Prefix, &["/", "/a", "/a/b/"], &[]),
            (
                "/health",
                PathKind::Exact,
                &["/health"],
                &["/health/", "/healthy", "/"],
            ),
            ("/dir/", PathKind::Exact, &["/dir/"], &["/dir", "/dir/x"]),
            (
                "/api/*",
                PathKind::Prefix,
                &["/api", "/api/", "/api/x/y"],
                &["/apix", "/"],
            ),
            (
                "/u/{id}",
                PathKind::Pattern,
                &["/u/7"],
                &["/u", "/u/", "/u/7/", "/u/7/x"],
            ),
            (
                "/u/{id}/p",
                PathKind::Pattern,
                &["/u/7/p"],
                &["/u/7/q", "/u//p"],
            ),
            (
                "/u/{id}/*",
                PathKind::Prefix,
                &["/u/7", "/u/7/", "/u/7/x"],
                &["/u", "/u/"],
            ),
            ("/caf\u{e9}", PathKind::Exact, &["/caf%C3%A9"], &["/cafe"]),
            ("/%61", PathKind::Exact, &["/a"], &[]),
        ] {
            let pattern = Pattern::parse(text).expect(text);
            assert_eq!(pattern.kind(), kind, "{text}");
            for path in takes {
                assert!(pattern.takes(path), "{text} takes {path}");
            }
            for path in refuses {
                assert!(!pattern.takes(path), "{text} refuses {path}");
            }
        }
    }

    #[test]
    fn a_pattern_that_can_never_match_is_a_fault() {
        let many = "/{a}".repeat(17);
        let deep = "/a".repeat(65);
        for text in [
            "", "api", "*", "/api*", "/*/x", "/a//b", "/a/./b", "/a/../b", "/a//*", "/{}",
            "/{a b}", "/x{id}", "/{a}/{a}", "/{host}", "/a%2Fb", "/a%3Ab", "/%", "/%00", "/a b",
            "/..;x", &many, &deep,
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_shape_leaves_the_names_out() {
        let shape = |text| Pattern::parse(text).map(|pattern| pattern.shape());
        assert_eq!(shape("/u/{id}/*"), shape("/u/{name}/*"));
        assert_ne!(shape("/u/{id}"), shape("/u/{id}/*"));
        assert_ne!(shape("/*"), shape("/"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in prop_oneof![any::<String>(), "/[a-c/{}*%.]{0,12}"]) {
            if let Ok(pattern) = Pattern::parse(&text) {
                let written = pattern.to_string();
                prop_assert_eq!(Pattern::parse(&written), Ok(pattern));
            }
        }
    }
}
