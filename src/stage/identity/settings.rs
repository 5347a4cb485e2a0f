//! A method of identification as it is written.

use crate::base::secret::Secret;
use crate::base::units::{Moment, OneOrMany, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One way to tell who is calling. Exactly one of `keys`, `jwt`, `session`, `client_certificate` and
/// `anonymous`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Settings {
    /// API keys. Taken from `Authorization: Bearer`, `x-api-key`, `api-key`, `x-goog-api-key`, `?key=`
    /// and the `WebSocket` sub-protocol `openai-insecure-api-key.<key>`.
    Keys(KeysSettings),
    /// Signed tokens (JWT), from `Authorization: Bearer` or the same sub-protocol.
    Jwt(Box<JwtSettings>),
    /// Sessions that an application writes to Redis (`redis.url`), from a cookie, `Authorization: Bearer` or the same
    /// sub-protocol. While Redis is gone they are answered 503.
    Session(SessionSettings),
    /// The certificate that the caller has shown to the listener (see `tls.client_auth` there).
    ClientCertificate(CertificateSettings),
    /// Anybody, counted by address (IPv6 by /64). For callers that show no credential at all: a wrong
    /// one is refused all the same.
    Anonymous(AnonymousSettings),
}

impl Settings {
    /// The word by which the method is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Keys(_) => "keys",
            Self::Jwt(_) => "jwt",
            Self::Session(_) => "session",
            Self::ClientCertificate(_) => "client_certificate",
            Self::Anonymous(_) => "anonymous",
        }
    }
}

/// API keys, of which only hashes are kept in memory. `onemind key new` makes a key and what to write.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeysSettings {
    /// Mixed into hashes that begin with `hmac-sha256:`, so that they are worth nothing without it.
    /// At least 16 bytes.
    pub pepper: Option<Secret>,
    /// Whether `?key=` is taken. It is never passed on or logged. Default `true`.
    pub query: bool,
    /// The keys that are taken.
    pub known: Vec<KeySettings>,
}

impl Default for KeysSettings {
    fn default() -> Self {
        Self {
            pepper: None,
            query: true,
            known: Vec::new(),
        }
    }
}

/// One API key: `name`, and exactly one of `hash` and `secret`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// What the key is called in logs and limits; each name once.
    pub name: String,
    /// `sha256:` or `hmac-sha256:` and 64 hexadecimal digits: the hash of the whole key. Of a key that exists
    /// already: `printf %s KEY | sha256sum`.
    #[serde(default)]
    pub hash: Option<String>,
    /// The key itself, in place of its hash: `${GATEWAY_KEY}` or `file:/path`, for a key that is kept in the
    /// environment anyway. It is hashed when it is read.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// How the key begins, so that people can tell keys apart. Not used to check it.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Who is calling. Absent: the name of the key.
    #[serde(default)]
    pub user: Option<String>,
    /// What the user has booked.
    #[serde(default)]
    pub plan: Option<String>,
    /// What the user may do.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub roles: OneOrMany<String>,
    /// Taken until this moment: `2027-01-31` or `2027-01-31T12:00:00Z`. Absent: for ever.
    #[serde(default)]
    pub expires: Option<Moment>,
    /// Refused, but not forgotten. Default `false`.
    #[serde(default)]
    pub disabled: bool,
}

/// Signed tokens. At least one of `secret`, `jwks` and `key_file`; each key verifies by its own
/// algorithm only (HS256, RS256, ES256 or `EdDSA`), whatever a token says. A token must have `exp`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JwtSettings {
    /// The secret that HS256 tokens are signed with (RFC 7518 3.2: at least 32 bytes).
    pub secret: Option<Secret>,
    /// Where the issuer publishes its keys (RFC 7517), such as
    /// `https://example.supabase.co/auth/v1/.well-known/jwks.json`. Fetched at start and again and again,
    /// also when a token names a key that is not known; the last good keys stay while it cannot be reached.
    pub jwks: Option<String>,
    /// PEM file of the authorities that sign the certificate of `jwks`. Absent: those of the system.
    pub jwks_ca: Option<PathBuf>,
    /// The longest time between two fetches; `Cache-Control: max-age` of the answer can make it shorter,
    /// down to a minute. Default `10m`.
    pub jwks_refresh: Period,
    /// A file of public keys: PEM (`BEGIN PUBLIC KEY`) or JWKS. Read again when it changes.
    pub key_file: Option<PathBuf>,
    /// Values of `iss` that are taken. Empty: any.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub issuer: OneOrMany<String>,
    /// Values of `aud` of which a token must have one. `*`: any or none, also tokens meant for others.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub audience: OneOrMany<String>,
    /// The claim that says who is calling; dots lead into a claim: `app_metadata.user`. Default `sub`.
    pub user: String,
    /// The claim that says what the user has booked, such as `app_metadata.plan`.
    pub plan: Option<String>,
    /// The claim that says what the user may do: text, or a list of it.
    pub roles: Option<String>,
    /// Claims that the endpoint is told, by the name of the header: `{ X-User-Email: email }`. Callers cannot
    /// send these headers, on any route.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How far the issuer's clock may be off from ours, for `exp` and `nbf`. At most `5m`. Default `30s`.
    pub leeway: Period,
}

impl Default for JwtSettings {
    fn default() -> Self {
        Self {
            secret: None,
            jwks: None,
            jwks_ca: None,
            jwks_refresh: Period::seconds(600),
            key_file: None,
            issuer: OneOrMany::default(),
            audience: OneOrMany::default(),
            user: "sub".to_owned(),
            plan: None,
            roles: None,
            headers: BTreeMap::new(),
            leeway: Period::seconds(30),
        }
    }
}

/// Sessions. The token is `oms_<user>.<secret>`: the user in visible ASCII, the secret of at least 22
/// characters without a dot, made anew for each log-in from 16 or more random bytes. The session is the Redis hash
/// `user:<user>:session` with the field `hash`: `sha256:` and the SHA-256 of the whole token in small hexadecimal digits,
/// and fields for plan and roles. An application begins a session by `HSET` and `EXPIRE`, and ends it by `DEL`; the next
/// log-in of a user takes the place of the one before. The cookie should be `HttpOnly; Secure; SameSite=Lax; Path=/`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// The cookie that holds the token. Endpoints do not see it. One that is not good any more is cleared.
    /// Default `session`.
    pub cookie: String,
    /// The `Domain` that the application gives the cookie, so that it can be cleared. Absent: it gives none.
    pub domain: Option<String>,
    /// A session ends when it was not used for so long (up to 1/64 less: it is not written with each request). One
    /// that the application lets last longer is left alone. Default `1h`.
    pub idle: Period,
    /// `POST` to this path ends the session at once, at all instances, and clears the cookie: 204. Answered by the
    /// gateway on every route that names the method. Default `/auth/logout`.
    pub logout: String,
    /// The field that says what the user has booked. Default `plan`.
    pub plan: String,
    /// The field that says what the user may do, with commas between. Default `roles`.
    pub roles: String,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            cookie: "session".to_owned(),
            domain: None,
            idle: Period::seconds(3600),
            logout: "/auth/logout".to_owned(),
            plan: "plan".to_owned(),
            roles: "roles".to_owned(),
        }
    }
}

/// Certificates of callers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateSettings {
    /// Where the certificate names the caller. Default `common_name`.
    pub user: CertificateName,
    /// What the holders of certificates have booked.
    pub plan: Option<String>,
    /// What they may do.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub roles: OneOrMany<String>,
}

/// A place in a certificate that names its holder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateName {
    #[default]
    CommonName,
    /// The first DNS name.
    Dns,
    /// The first URI, such as a SPIFFE id.
    Uri,
    /// The first e-mail address.
    Email,
    /// The SHA-256 of the certificate, in hexadecimal digits.
    Fingerprint,
}

/// Callers that show no credential.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnonymousSettings {
    /// The plan they are held to.
    pub plan: Option<String>,
}
