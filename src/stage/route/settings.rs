//! A route as it is written: what it matches, and what is done with it.

use super::cors::Settings as CorsSettings;
use crate::base::principal::Principal;
use crate::base::units::{Bytes, OneOrMany, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a route matches and what happens then. Of all routes that match, the most
/// specific one wins: exact host before wildcard before any; exact path before
/// pattern before the longest prefix; then the one that asks for more (headers, method, listener).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Host names: `example.com`, or `*.example.com` for every name below it. Empty: any host.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub host: OneOrMany<String>,
    /// Paths: `/health` is exact, `/api/*` is `/api` and all below it, `/users/{id}/posts`
    /// takes one segment for each name in braces. A slash at the end counts. Matched, and forwarded, is
    /// the path with `.`, `..`, `//` and needless escapes resolved.
    pub path: OneOrMany<String>,
    /// Methods such as `GET`; `GET` also takes `HEAD`. Empty: any method.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub method: OneOrMany<String>,
    /// Headers that must be present with this value; `*` takes any value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Names of the listeners that serve this route. Empty: all of them.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub listener: OneOrMany<String>,

    /// Who may call: names of methods under `identity`, tried in this order. A caller without a credential is
    /// left to the next method; one with a wrong credential is refused. The credential is not passed on; the
    /// endpoint is told the user in `X-User-Id`. Empty: anybody, and credentials are the endpoint's business.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub identity: OneOrMany<String>,
    /// Who of the identified may call; others are answered 403.
    #[serde(skip_serializing_if = "Allow::is_empty")]
    pub allow: Allow,
    /// Which pages of other origins may call, as browsers ask (CORS). Absent: the endpoint's business.
    pub cors: Option<CorsSettings>,

    /// Forward to this pool. Give exactly one of `pool`, `ai`, `redirect`, `respond`.
    pub pool: Option<String>,
    /// Answer by models of `providers`. The paths are those that the SDKs of `OpenAI`, Anthropic and Gemini call:
    /// `/v1/*` and `/v1beta/*`.
    pub ai: Option<Ai>,
    /// Answer with a redirect.
    pub redirect: Option<Redirect>,
    /// Answer with a fixed response.
    pub respond: Option<Respond>,

    /// Remove this from the front of the path before forwarding: `/api`. Each `path` must begin with it.
    pub strip_prefix: Option<String>,
    /// Forward with this path instead. `{name}` stands for a segment of the pattern, `{*}` for what `*` matched,
    /// `{host}` for the host asked for. The query is kept.
    pub rewrite_path: Option<String>,
    /// Send this `Host` to the endpoint. Absent: the caller's own.
    pub host_header: Option<String>,
    /// Change the headers of the request on its way to the endpoint.
    pub request_headers: HeaderRules,
    /// Change the headers of the answer on its way to the caller.
    pub response_headers: HeaderRules,
    /// Time limits.
    pub timeouts: Timeouts,
    /// The largest request body taken (413 beyond it). Default `16MiB`; with `ai`, `20MiB`.
    pub body_max: Option<Bytes>,
    /// Rules of `limits` that requests through this route are counted by. Absent: all of them if the route
    /// forwards, none otherwise. Empty: none.
    pub limits: Option<OneOrMany<String>>,
    /// `WebSocket` upgrades through this route.
    pub websocket: WebSocket,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: OneOrMany::default(),
            path: OneOrMany(vec!["/*".to_owned()]),
            method: OneOrMany::default(),
            headers: BTreeMap::new(),
            listener: OneOrMany::default(),
            identity: OneOrMany::default(),
            allow: Allow::default(),
            cors: None,
            pool: None,
            ai: None,
            redirect: None,
            respond: None,
            strip_prefix: None,
            rewrite_path: None,
            host_header: None,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            timeouts: Timeouts::default(),
            body_max: None,
            limits: None,
            websocket: WebSocket::default(),
        }
    }
}

impl Settings {
    /// The largest request body taken, in bytes.
    pub fn body_max(&self) -> Bytes {
        let usual = if self.ai.is_some() { 20 } else { 16 };
        self.body_max.unwrap_or(Bytes::mib(usual))
    }
}

/// Models behind a route.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ai {
    /// Names under `models` that may be asked for here. Empty: all of them.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub models: OneOrMany<String>,
    /// The model of a call that names none, as callers would name it: one name, and no `gpt-*`. Absent: such a call is refused.
    pub default: Option<String>,
    /// Whether `provider/model` may be asked for, for any provider. Absent: yes, unless `models` names some.
    pub direct: Option<bool>,
    /// A stream in which nothing was said for so long gets a comment, which readers skip: whoever stands between
    /// cuts silent lines. Only where the caller's dialect knows comments. `0s`: never. Default `15s`.
    pub heartbeat: Heartbeat,
}

/// How long a stream may be silent before it gets a comment.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Heartbeat(pub Period);

impl Default for Heartbeat {
    fn default() -> Self {
        Self(Period::seconds(15))
    }
}

impl Ai {
    /// Whether `provider/model` may be asked for.
    pub fn takes_direct(&self) -> bool {
        self.direct.unwrap_or(self.models.is_empty())
    }
}

/// Who of the identified may call. A caller must satisfy each key that is given.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// One of these users.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub user: OneOrMany<String>,
    /// A user of one of these plans.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub plan: OneOrMany<String>,
    /// A user with one of these roles.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub role: OneOrMany<String>,
}

impl Allow {
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.plan.is_empty() && self.role.is_empty()
    }

    pub fn admits(&self, principal: &Principal) -> bool {
        let is_among = |list: &OneOrMany<String>, word: &str| list.iter().any(|one| one == word);
        let plan = principal.plan.as_deref().unwrap_or_default();
        let mut roles = principal.roles.iter();
        (self.user.is_empty() || is_among(&self.user, &principal.user))
            && (self.plan.is_empty() || is_among(&self.plan, plan))
            && (self.role.is_empty() || roles.any(|role| is_among(&self.role, role)))
    }
}

/// A redirect.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: an absolute URL or a path. `{name}` and `{*}` as in `rewrite_path`, `{host}` is the host asked for, without its port. The query is kept.
    pub to: String,
    /// 301, 302, 303, 307 or 308. Default 308, which keeps method and body.
    #[serde(default = "permanent")]
    pub status: u16,
}

fn permanent() -> u16 {
    308
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599. Default 200.
    #[serde(default = "ok")]
    pub status: u16,
    /// The body; empty when absent.
    #[serde(default)]
    pub body: String,
    /// Default `text/plain; charset=utf-8`.
    #[serde(default = "plain_text")]
    pub content_type: String,
}

fn ok() -> u16 {
    200
}

fn plain_text() -> String {
    "text/plain; charset=utf-8".to_owned()
}

/// Headers to set and to remove; removal comes first.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderRules {
    /// Set to this value, replacing what was there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Remove.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub remove: OneOrMany<String>,
}

impl HeaderRules {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// Time limits of a request; each of them ends it with 504 (or a cut, once the answer has begun).
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// To connect to an endpoint, TLS included. Default `5s`.
    pub connect: Period,
    /// From the request sent to the first byte of the answer. Default `60s`.
    pub first_byte: Period,
    /// Between two reads or writes of a body. Default `60s`.
    pub idle: Period,
    /// For everything, retries and waits included; not for a `WebSocket`. Default `1h`.
    pub total: Period,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Period::seconds(5),
            first_byte: Period::seconds(60),
            idle: Period::seconds(60),
            total: Period::seconds(3600),
        }
    }
}

/// How each `WebSocket` passes through a route.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocket {
    /// Whether upgrades are taken at all. Default `true`.
    pub enabled: bool,
    /// Silence in both directions after which a tunnel is closed. Default `10m`.
    pub idle: Period,
    /// Values of `Origin` that may open one, such as `https://app.example.com`. Empty: any.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub origins: OneOrMany<String>,
    /// Open at once through this route, in total. Default 10000.
    pub max: u32,
    /// Open at once by one user (of callers without identity: one address, IPv6 by /64). Default 100.
    pub max_per_user: u32,
    /// Messages that one user may send in a minute, in all its `WebSocket`s through this route; counted by a sliding
    /// window in each instance by itself, so N instances allow up to N times as many. The one that is too many is not
    /// passed on, and closes its `WebSocket` with 1008. Control frames are free. Absent: any number.
    pub messages_per_minute: Option<u32>,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            enabled: true,
            idle: Period::seconds(600),
            origins: OneOrMany::default(),
            max: 10_000,
            max_per_user: 100,
            messages_per_minute: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::principal::Proof;
    use std::sync::Arc;

    #[test]
    fn a_caller_must_satisfy_each_list() {
        let method: Arc<str> = "m".into();
        let mut alice = Principal::named("alice", Proof::Token, &method).unwrap();
        alice.plan = Some("pro".into());
        alice.roles = vec!["editor".into(), "admin".into()];
        let list = |words: &[&str]| OneOrMany(words.iter().map(ToString::to_string).collect());
        for (user, plan, role, admitted) in [
            (&[][..], &[][..], &[][..], true),
            (&["bob", "alice"], &[], &[], true),
            (&["bob"], &[], &[], false),
            (&[], &["pro"], &[], true),
            (&[], &["free"], &[], false),
            (&[], &[], &["admin"], true),
            (&[], &[], &["owner"], false),
            (&["alice"], &["pro"], &["owner"], false),
            (&["alice"], &["pro"], &["editor"], true),
        ] {
            let allow = Allow {
                user: list(user),
                plan: list(plan),
                role: list(role),
            };
            assert_eq!(allow.admits(&alice), admitted, "{allow:?}");
        }
        let stranger = Principal::anonymous([192, 0, 2, 1].into(), &method);
        let allow = Allow {
            plan: list(&[""]),
            ..Allow::default()
        };
        assert!(
            allow.admits(&stranger),
            "no plan is the empty one; `check` takes no empty words"
        );
    }
}
