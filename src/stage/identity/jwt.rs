//! Signed tokens (RFC 7519, RFC 8725): whose signature, and what they claim.

use super::chain::{Caller, Clock, Identify, Reason, Verdict};
use super::claims::{self, Path};
use super::credential::{Credential, Places};
use super::jwks::{Asked, Jwks, Wait};
use super::key::{Algorithm, Key};
use super::settings::JwtSettings;
use super::verified::{Token, Under};
use crate::base::principal::{Principal, Proof};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A claim longer than this is not sent to the endpoint: heads have limits everywhere.
const HEADER_BYTES_MAX: usize = 1024;

/// A user with more roles than this is not one whose roles we can look at with each request.
const ROLES_MAX: usize = 64;

/// In the list of audiences: whoever a token is meant for.
const ANYBODY: &str = "*";

/// Keys tried for one token: a set may have several of one algorithm, and the token may not say which.
const TRIES_MAX: usize = 8;

/// A method that takes tokens.
#[derive(Clone)]
pub struct Jwt(Arc<Rules>);

/// Rules that were built so far.
static BUILT: AtomicU64 = AtomicU64::new(0);

/// What a token must be.
struct Rules {
    /// Unlike that of all other rules.
    number: u64,
    method: Arc<str>,
    /// The secret, and the keys of a file.
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    user: Path,
    plan: Option<Path>,
    roles: Option<Path>,
    headers: Vec<(HeaderName, Path)>,
    leeway_s: u64,
}

/// A token that cannot be judged before its issuer's keys have been fetched.
pub struct Waiting {
    jwt: Jwt,
    token: String,
    wait: Wait,
}

impl Waiting {
    /// Waits for the fetch, for at most three seconds, then judges.
    pub async fn settle(self, unix: u64) -> Result<Arc<Principal>, Reason> {
        let Self { jwt, token, wait } = self;
        let answered = wait.done().await;
        jwt.0.judge(&token, unix).map_err(|refused| match refused {
            Refused::Unknown if !answered => Reason::NoKeys,
            Refused::Unknown => jwt.0.why_unknown(),
            Refused::For(reason) => reason,
        })
    }
}

/// Why a token is not taken.
enum Refused {
    For(Reason),
    /// None of our keys has signed it; the issuer may have a new one.
    Unknown,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::For(reason)
    }
}

impl Jwt {
    /// `keys` are those of the file; none when a header has no valid name.
    pub fn build(
        method: Arc<str>,
        settings: &JwtSettings,
        mut keys: Vec<Key>,
        jwks: Option<Arc<Jwks>>,
    ) -> Option<Self> {
        let secret = settings.secret.as_ref();
        keys.extend(secret.map(|secret| Key::secret(secret.expose().as_bytes())));
        let headers = settings.headers.iter().map(|(name, claim)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, Path::new(claim)))
        });
        Some(Self(Arc::new(Rules {
            number: BUILT.fetch_add(1, Relaxed),
            method,
            keys,
            jwks,
            issuers: settings.issuer.0.clone(),
            audiences: audiences(settings),
            user: Path::new(&settings.user),
            plan: settings.plan.as_deref().map(Path::new),
            roles: settings.roles.as_deref().map(Path::new),
            headers: headers.collect::<Option<_>>()?,
            leeway_s: settings.leeway.0.as_secs(),
        })))
    }

    /// The issuer may have a key that we do not know. `seen`: how many fetches were over when we looked.
    fn unknown(&self, token: &Credential<'_>, seen: u64, clock: Clock) -> Verdict {
        let Some(jwks) = &self.0.jwks else {
            return Verdict::Refused(Reason::UnknownSigner);
        };
        match jwks.ask(seen, clock.now) {
            Asked::Fetching(wait) => {
                let waiting = Waiting {
                    jwt: self.clone(),
                    token: token.text().to_owned(),
                    wait,
                };
                Verdict::Waiting(waiting.into())
            }
            Asked::Over => self.look(token, clock),
            Asked::Enough => Verdict::Refused(self.0.why_unknown()),
            Asked::Crowded => Verdict::Refused(Reason::NoKeys),
        }
    }

    fn look(&self, token: &Credential<'_>, clock: Clock) -> Verdict {
        let seen = self.0.jwks.as_ref().map_or(0, |jwks| jwks.rounds());
        match self.0.judge(token.text(), clock.unix) {
            Ok(principal) => Verdict::Known(principal),
            Err(Refused::For(reason)) => Verdict::Refused(reason),
            Err(Refused::Unknown) => self.unknown(token, seen, clock),
        }
    }
}

impl Identify for Jwt {
    fn places(&self) -> Places {
        Places {
            bearer: true,
            ..Places::default()
        }
    }

    fn identify(&self, caller: &Caller<'_>) -> Verdict {
        let token = caller.credential.as_ref();
        let Some(token) = token.filter(|token| token.is_token()) else {
            return Verdict::Absent;
        };
        self.look(token, caller.clock)
    }
}

/// None: for anybody.
fn audiences(settings: &JwtSettings) -> Vec<String> {
    let audiences = &settings.audience.0;
    if audiences.iter().any(|one| one == ANYBODY) {
        return Vec::new();
    }
    audiences.clone()
}

impl Rules {
    /// As [`Self::verify`], or as it was found a moment ago.
    fn judge(&self, token: &str, unix: u64) -> Result<Arc<Principal>, Refused> {
        let under = Under {
            rules: self.number,
            keys: self.jwks.as_ref().map_or(0, |jwks| jwks.version()),
        };
        let name = Token::of(token);
        if let Some(principal) = name.recall(under, unix) {
            return Ok(principal);
        }
        let (principal, until) = self.verify(token, unix)?;
        let principal = Arc::new(principal);
        name.remember(under, until, &principal);
        Ok(principal)
    }

    /// Who the token names, and until when. Signature first: nothing of a token is believed before that.
    fn verify(&self, token: &str, unix: u64) -> Result<(Principal, u64), Refused> {
        let (message, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Reason::Malformed)?;
        let header = part(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature);
        let signature = signature.map_err(|_| Reason::Malformed)?;
        self.check_signature(&header, message.as_bytes(), &signature)?;
        let claims = part(payload)?;
        let until = self.check_times(&claims, unix)?;
        self.check_parties(&claims)?;
        Ok((self.principal(&claims)?, until))
    }

    fn check_signature(
        &self,
        header: &Map<String, Value>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Refused> {
        // RFC 7515 4.1.11: what must be understood, and is not.
        if header.contains_key("crit") {
            return Err(Reason::Malformed.into());
        }
        let algorithm = header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm.ok_or(Reason::Malformed)?;
        let algorithm = Algorithm::named(algorithm).ok_or(Reason::Algorithm)?;
        let id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(Reason::Malformed.into()),
        };
        let fetched = self.jwks.as_ref().map(|jwks| jwks.keys());
        let fetched = fetched.iter().flat_map(|keys| keys.iter());
        let known = || self.keys.iter().chain(fetched.clone());
        let is_named = |key: &Key| id.is_some() && key.id.as_deref() == id;
        // The header selects among our keys; how a key verifies is for the key alone to say.
        let fits = |key: &&Key| {
            let may_be = is_named(key) || key.id.is_none() || id.is_none();
            may_be && key.algorithm() == algorithm
        };
        let mut tried = known().filter(fits).take(TRIES_MAX).peekable();
        let none_fits = tried.peek().is_none();
        if tried.any(|key| key.verifies(message, signature)) {
            return Ok(());
        }
        let published = self.jwks.is_some() && algorithm != Algorithm::Hs256;
        if published && !known().any(is_named) {
            return Err(Refused::Unknown);
        }
        let knows_name = id.is_none() || known().any(|key| is_named(key) || key.id.is_none());
        Err(match (none_fits, knows_name) {
            (false, _) => Reason::Signature,
            (true, true) => Reason::Algorithm,
            (true, false) => Reason::UnknownSigner,
        }
        .into())
    }

    /// The first second in which the token is not good any more.
    fn check_times(&self, claims: &Map<String, Value>, unix: u64) -> Result<u64, Reason> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => claims::seconds(value).map(Some).ok_or(Reason::Malformed),
        };
        // A token without an end could never be taken back.
        let expires = time("exp")?.ok_or(Reason::Expired)?;
        let until = expires.saturating_add(self.leeway_s);
        if until <= unix {
            return Err(Reason::Expired);
        }
        let begins = time("nbf")?.unwrap_or(0);
        if begins > unix.saturating_add(self.leeway_s) {
            return Err(Reason::NotYet);
        }
        Ok(until)
    }

    fn check_parties(&self, claims: &Map<String, Value>) -> Result<(), Reason> {
        if !self.issuers.is_empty() {
            let issuer = claims.get("iss").and_then(Value::as_str);
            if !issuer.is_some_and(|issuer| self.issuers.iter().any(|known| known == issuer)) {
                return Err(Reason::Issuer);
            }
        }
        if !self.audiences.is_empty() {
            let audiences = claims
                .get("aud")
                .and_then(claims::words)
                .unwrap_or_default();
            if !audiences.iter().any(|one| self.audiences.contains(one)) {
                return Err(Reason::Audience);
            }
        }
        Ok(())
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Reason> {
        let user = self.user.text(claims).ok_or(Reason::NoUser)?;
        let named = Principal::named(&user, Proof::Token, &self.method);
        let mut principal = named.ok_or(Reason::NoUser)?;
        let plan = self.plan.as_ref().and_then(|path| path.text(claims));
        principal.plan = plan.map(Arc::from);
        if let Some(value) = self.roles.as_ref().and_then(|path| path.find(claims)) {
            let roles = claims::words(value).unwrap_or_default();
            let roles = roles.into_iter().take(ROLES_MAX);
            principal.roles = roles.map(Arc::from).collect();
        }
        for (name, path) in &self.headers {
            let words = path.find(claims).and_then(claims::words);
            let text = words.map(|words| words.join(","));
            let text = text.filter(|text| text.len() <= HEADER_BYTES_MAX);
            // A claim that cannot be a header is not sent: the endpoint sees that it is absent.
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                principal.headers.push((name.clone(), value));
            }
        }
        Ok(principal)
    }

    /// The issuer has no such key; or we could not ask it.
    fn why_unknown(&self) -> Reason {
        let failing = self.jwks.as_ref().is_some_and(|jwks| jwks.is_failing());
        if failing {
            Reason::NoKeys
        } else {
            Reason::UnknownSigner
        }
    }
}

fn part(text: &str) -> Result<Map<String, Value>, Reason> {
    let json = URL_SAFE_NO_PAD.decode(text);
    let json = json.map_err(|_| Reason::Malformed)?;
    claims::object(&json).ok_or(Reason::Malformed)
}

#[cfg(test)]
mod tests;
