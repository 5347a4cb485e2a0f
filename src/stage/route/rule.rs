//! What one route asks of a request, checked and compiled.

use super::host::HostPattern;
use super::pattern::Pattern;
use super::settings::Settings;
use crate::base::fault::Faults;
use crate::base::fault::KeyPath;
use crate::base::units::OneOrMany;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use std::cmp::Reverse;

/// The most pairs of host and path in one route; each is an entry in the table.
pub const PAIRS_MAX: usize = 10_000;

/// A compiled route without what is done with it.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Never empty: without `host` it holds `Any`.
    pub hosts: Vec<HostPattern>,
    /// Never empty.
    pub paths: Vec<Pattern>,
    /// Empty: any.
    pub methods: Vec<Method>,
    pub headers: Vec<HeaderRule>,
    /// Empty: any.
    pub listeners: Vec<Box<str>>,
}

/// A header that must be there; `None` takes any value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderRule {
    pub name: HeaderName,
    pub value: Option<HeaderValue>,
}

/// The order among routes with the same host and path: the smallest wins. More headers
/// before fewer, then more exact values; then a method given before any; then a listener given
/// before any; then `HEAD` by name before `HEAD` through `GET`.
pub type Rank = (Weight, Reverse<bool>);

/// How much a route asks for; the smallest asks for most.
pub type Weight = (Reverse<usize>, Reverse<usize>, Reverse<bool>, Reverse<bool>);

impl Rule {
    /// `None` if anything is wrong; then `faults` says what, at `routes.<name>`.
    pub fn compile(name: &str, settings: &Settings, faults: &mut Faults) -> Option<Self> {
        let at = KeyPath::root().key("routes").key(name);
        let before = faults.0.len();
        let mut hosts = each(&settings.host, &at.key("host"), faults, HostPattern::parse);
        if settings.host.is_empty() {
            hosts.push(HostPattern::Any);
        }
        let paths = each(&settings.path, &at.key("path"), faults, Pattern::parse);
        if settings.path.is_empty() {
            faults.error(
                at.key("path"),
                "the route has no path",
                "write `/*` to take every path",
            );
        }
        if hosts.len().saturating_mul(paths.len()) > PAIRS_MAX {
            faults.error(
                at.clone(),
                format_args!(
                    "{} hosts times {} paths is too much for one route",
                    hosts.len(),
                    paths.len()
                ),
                format_args!("at most {PAIRS_MAX} pairs; use `*.example.com` or `/api/*`"),
            );
        }
        let methods = each(&settings.method, &at.key("method"), faults, method);
        let headers = header_rules(settings, &at.key("headers"), faults);
        let listeners = settings
            .listener
            .iter()
            .map(|name| name.as_str().into())
            .collect();
        let rule = Self {
            hosts,
            paths,
            methods,
            headers,
            listeners,
        };
        let sound = faults.0[before..].is_empty();
        sound.then_some(rule)
    }

    pub fn weight(&self) -> Weight {
        let exact = self
            .headers
            .iter()
            .filter(|rule| rule.value.is_some())
            .count();
        (
            Reverse(self.headers.len()),
            Reverse(exact),
            Reverse(!self.methods.is_empty()),
            Reverse(!self.listeners.is_empty()),
        )
    }

    pub fn rank(&self) -> Rank {
        (self.weight(), Reverse(self.methods.contains(&Method::HEAD)))
    }

    /// Whether it takes this method; `GET` also takes `HEAD` (RFC 9110 section 9.3.2).
    pub fn takes_method(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }

    /// Every condition on a header must hold for one of the lines of that name.
    pub fn takes_headers(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|rule| rule.takes(headers))
    }

    pub fn takes_listener(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *listener)
    }
}

impl HeaderRule {
    pub fn takes(&self, headers: &HeaderMap) -> bool {
        match &self.value {
            None => headers.contains_key(&self.name),
            Some(value) => headers
                .get_all(&self.name)
                .iter()
                .any(|given| given == value),
        }
    }
}

/// Parses each of a list, telling the place of those that fail.
fn each<T>(
    written: &OneOrMany<String>,
    at: &KeyPath,
    faults: &mut Faults,
    parse: impl Fn(&str) -> Result<T, (String, String)>,
) -> Vec<T> {
    let mut parsed = Vec::with_capacity(written.0.len());
    for (index, text) in written.iter().enumerate() {
        match parse(text) {
            Ok(one) => parsed.push(one),
            Err((what, fix)) => {
                let many = written.0.len() > 1;
                let place = if many { at.key(index) } else { at.clone() };
                faults.error(place, what, fix);
            }
        }
    }
    parsed
}

/// In the order of their names, so that equal conditions compare as equal.
fn header_rules(settings: &Settings, at: &KeyPath, faults: &mut Faults) -> Vec<HeaderRule> {
    let mut rules: Vec<HeaderRule> = Vec::with_capacity(settings.headers.len());
    for (name, value) in &settings.headers {
        match header(name, value) {
            Ok(rule) if rules.iter().any(|other| other.name == rule.name) => faults.error(
                at.key(name),
                format_args!("the header `{}` is asked for twice", rule.name),
                "header names do not tell capitals from small letters; keep one",
            ),
            Ok(rule) => rules.push(rule),
            Err((what, fix)) => faults.error(at.key(name), what, fix),
        }
    }
    rules.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    rules
}

fn method(text: &str) -> Result<Method, (String, String)> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| {
        (
            format!("`{text}` is not a method"),
            "write `GET` or `[GET, POST]`".to_owned(),
        )
    })?;
    // Methods tell capitals from small letters (RFC 9110 section 9.1): `get` would match nothing.
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err((
            format!("no client sends the method `{text}`"),
            format!("write `{}`", text.to_uppercase()),
        ));
    }
    Ok(method)
}

fn header(name: &str, value: &str) -> Result<HeaderRule, (String, String)> {
    let rule_name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        (
            format!("`{name}` is not a header name"),
            "write a name such as `x-version`".to_owned(),
        )
    })?;
    if value == "*" {
        return Ok(HeaderRule {
            name: rule_name,
            value: None,
        });
    }
    let rule_value = HeaderValue::from_str(value)
        .ok()
        .filter(|_| value.trim() == value)
        .ok_or_else(|| {
            (
                format!("no request can carry the header `{name}` with this value"),
                "leave out line breaks and the spaces around it; `*` takes any value".to_owned(),
            )
        })?;
    Ok(HeaderRule {
        name: rule_name,
        value: Some(rule_value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_can_never_match_is_told_at_its_place() {
        let fault = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            let mut faults = Faults::default();
            assert!(Rule::compile("shop", &settings, &mut faults).is_none());
            faults.0[0].at.to_string()
        };
        for (change, place) in [
            (
                (|s| s.path = OneOrMany(vec![])) as fn(&mut Settings),
                "routes.shop.path",
            ),
            (|s| s.path = OneOrMany(vec!["x".into()]), "routes.shop.path"),
            (
                |s| s.path = OneOrMany(vec!["/a".into(), "/b*".into()]),
                "routes.shop.path[1]",
            ),
            (
                |s| s.host = OneOrMany(vec!["a b".into()]),
                "routes.shop.host",
            ),
            (
                |s| s.method = OneOrMany(vec!["get".into()]),
                "routes.shop.method",
            ),
            (
                |s| s.method = OneOrMany(vec!["G T".into()]),
                "routes.shop.method",
            ),
            (
                |s| s.headers = [("x y".into(), "1".into())].into(),
                "routes.shop.headers.x y",
            ),
            (
                |s| s.headers = [("x".into(), " 1".into())].into(),
                "routes.shop.headers.x",
            ),
            (
                |s| s.headers = [("X".into(), "1".into()), ("x".into(), "2".into())].into(),
                "routes.shop.headers.x",
            ),
            (
                |s| {
                    s.host = OneOrMany((0..101).map(|n| format!("h{n}.com")).collect());
                    s.path = OneOrMany((0..100).map(|n| format!("/{n}")).collect());
                },
                "routes.shop",
            ),
        ] {
            assert_eq!(fault(change), place);
        }
    }
}
