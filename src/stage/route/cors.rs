//! Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>): what browsers ask before a page of
//! another origin may call, and what they want to hear.

use crate::base::units::{OneOrMany, Period};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pages of other origins may call. Preflights are answered by the gateway, without identity.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Origins such as `https://app.example.com`, or `*` for any.
    pub origins: OneOrMany<String>,
    /// Methods that pages may use. Absent: all that the route takes.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub methods: OneOrMany<String>,
    /// Request headers that pages may set. Absent: all that they ask for.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub headers: OneOrMany<String>,
    /// Headers of answers that pages may read, beside the few that they always may.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub expose: OneOrMany<String>,
    /// Whether cookies and client certificates go along; not with the origin `*`. Default `false`.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight. Default `10m`.
    #[serde(default = "ten_minutes")]
    pub max_age: Period,
}

fn ten_minutes() -> Period {
    Period::seconds(600)
}

/// What our answer says instead of whatever the endpoint says.
pub const OWN_HEADERS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// The headers of one answer.
pub type Said = Vec<(HeaderName, HeaderValue)>;

/// The rules of a route, ready to be asked.
#[derive(Debug)]
pub struct Cors {
    /// None: any.
    origins: Option<Vec<String>>,
    /// None: whatever is asked for.
    methods: Option<(Vec<Method>, HeaderValue)>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

impl Cors {
    /// None when a name or a method is not one.
    pub fn compile(settings: &Settings) -> Option<Self> {
        let any = settings.origins.iter().any(|origin| origin == "*");
        let list = |words: &OneOrMany<String>| match words.0.join(", ") {
            words if words.is_empty() => Some(None),
            words => HeaderValue::try_from(words).ok().map(Some),
        };
        let methods = settings.methods.iter();
        let methods: Result<Vec<Method>, _> = methods.map(|method| method.parse()).collect();
        let methods = methods.ok()?;
        Some(Self {
            origins: (!any).then(|| settings.origins.0.clone()),
            methods: list(&settings.methods)?.map(|text| (methods, text)),
            headers: list(&settings.headers)?,
            expose: list(&settings.expose)?,
            credentials: settings.credentials,
            max_age: HeaderValue::from(settings.max_age.0.as_secs()),
        })
    }

    /// What every answer to this request says, ours or an endpoint's.
    pub fn answer(&self, headers: &HeaderMap) -> Said {
        let mut said = self.origin(headers);
        if said.iter().any(|(name, _)| is_origin(name))
            && let Some(expose) = &self.expose
        {
            said.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
        }
        said
    }

    /// What the answer to a preflight says. Of an origin or a method that may not, nothing that lets it pass.
    pub fn preflight(&self, headers: &HeaderMap, method: &Method) -> Said {
        let mut said = self.origin(headers);
        let may = self
            .methods
            .as_ref()
            .is_none_or(|(methods, _)| methods.contains(method));
        if !may || !said.iter().any(|(name, _)| is_origin(name)) {
            said.retain(|(name, _)| *name == header::VARY);
            return said;
        }
        let methods = match &self.methods {
            Some((_, text)) => Some(text.clone()),
            None => HeaderValue::from_str(method.as_str()).ok(),
        };
        let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                self.headers.clone().or(asked),
            ),
            (header::ACCESS_CONTROL_MAX_AGE, Some(self.max_age.clone())),
        ] {
            said.extend(value.map(|value| (name, value)));
        }
        said
    }

    fn origin(&self, headers: &HeaderMap) -> Said {
        let mut said = Vec::new();
        let asked = headers.get(header::ORIGIN);
        let Some(origins) = &self.origins else {
            if asked.is_some() {
                let any = HeaderValue::from_static("*");
                said.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, any));
            }
            return said;
        };
        // Also without an origin: a cache must not give this answer to a page that has one.
        said.push((header::VARY, HeaderValue::from_static("Origin")));
        let known = |asked: &&HeaderValue| {
            let asked = asked.as_bytes();
            origins
                .iter()
                .any(|one| one.as_bytes().eq_ignore_ascii_case(asked))
        };
        if let Some(origin) = asked.filter(known) {
            said.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
            if self.credentials {
                let yes = HeaderValue::from_static("true");
                said.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
            }
        }
        said
    }
}

fn is_origin(name: &HeaderName) -> bool {
    *name == header::ACCESS_CONTROL_ALLOW_ORIGIN
}

/// The method that a preflight asks about; none for a request that is none.
pub fn asked_method(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS || !parts.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let asked = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn settings(origins: &[&str]) -> Settings {
        Settings {
            origins: OneOrMany(origins.iter().map(ToString::to_string).collect()),
            methods: OneOrMany::default(),
            headers: OneOrMany::default(),
            expose: OneOrMany(vec!["X-Request-Id".to_owned()]),
            credentials: false,
            max_age: ten_minutes(),
        }
    }

    fn head(headers: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        headers
            .iter()
            .map(pair)
            .collect::<Vec<(HeaderName, HeaderValue)>>()
            .into_iter()
            .collect()
    }

    fn told(said: &Said) -> String {
        let lines = said
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        let lines: Vec<_> = lines
            .map(|line| line.replace("access-control-", ""))
            .collect();
        lines.join("; ")
    }

    #[test]
    fn only_known_origins_are_told_that_they_may() {
        let ours = [("origin", "https://a.test")];
        for (origins, credentials, headers, expected) in [
            (
                ["https://a.test"],
                false,
                &ours[..],
                "vary: Origin; allow-origin: https://a.test; expose-headers: X-Request-Id",
            ),
            (
                ["https://a.test"],
                true,
                &ours,
                "vary: Origin; allow-origin: https://a.test; allow-credentials: true; expose-headers: X-Request-Id",
            ),
            (
                ["https://a.test"],
                false,
                &[("origin", "https://a.test.evil.test")],
                "vary: Origin",
            ),
            (
                ["https://a.test"],
                false,
                &[("origin", "null")],
                "vary: Origin",
            ),
            (["https://a.test"], false, &[], "vary: Origin"),
            (
                ["*"],
                false,
                &ours,
                "allow-origin: *; expose-headers: X-Request-Id",
            ),
            (["*"], false, &[], ""),
        ] {
            let cors = Cors::compile(&Settings {
                credentials,
                ..settings(&origins)
            })
            .unwrap();
            assert_eq!(told(&cors.answer(&head(headers))), expected);
        }
    }

    #[test]
    fn a_preflight_is_answered_as_far_as_the_page_may_go() {
        let mut strict = settings(&["https://a.test"]);
        strict.methods = OneOrMany(vec!["GET".to_owned(), "POST".to_owned()]);
        strict.headers = OneOrMany(vec!["Authorization".to_owned()]);
        let asks = [
            ("origin", "https://a.test"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        for (settings, origin, method, expected) in [
            (
                strict.clone(),
                &asks[..],
                Method::POST,
                "vary: Origin; allow-origin: https://a.test; allow-methods: GET, POST; allow-headers: Authorization; max-age: 600",
            ),
            (strict.clone(), &asks, Method::DELETE, "vary: Origin"),
            (
                strict,
                &[("origin", "https://b.test")],
                Method::POST,
                "vary: Origin",
            ),
            (
                settings(&["*"]),
                &asks,
                Method::PUT,
                "allow-origin: *; allow-methods: PUT; allow-headers: x-a, x-b; max-age: 600",
            ),
        ] {
            let cors = Cors::compile(&settings).unwrap();
            assert_eq!(told(&cors.preflight(&head(origin), &method)), expected);
        }
    }

    #[test]
    fn a_preflight_is_known_by_three_things() {
        for (method, headers, expected) in [
            (
                "OPTIONS",
                &[
                    ("origin", "https://a.test"),
                    ("access-control-request-method", "PUT"),
                ][..],
                Some(Method::PUT),
            ),
            ("OPTIONS", &[("origin", "https://a.test")], None),
            ("OPTIONS", &[("access-control-request-method", "PUT")], None),
            (
                "GET",
                &[
                    ("origin", "https://a.test"),
                    ("access-control-request-method", "PUT"),
                ],
                None,
            ),
            (
                "OPTIONS",
                &[("origin", "x"), ("access-control-request-method", "a b")],
                None,
            ),
        ] {
            let mut request = Request::builder().method(method).body(()).unwrap();
            *request.headers_mut() = head(headers);
            assert_eq!(asked_method(&request.into_parts().0), expected);
        }
    }
}
