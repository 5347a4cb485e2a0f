//! Sessions that an application writes to Redis: whose they are, for how long, and how they end.
//!
//! A token is `oms_<user>.<secret>`, so it leads to its session without a search: the hash `user:<user>:session`,
//! whose field `hash` holds `sha256:` and the SHA-256 of the whole token in small hexadecimal digits.
//! Nothing of a session is remembered here, so that its end is one for all instances at once.

use super::api_key::hash_of;
use super::chain::{Caller, Identify, Reason, Verdict};
use super::cookie::Cookie;
use super::credential::{Credential, Places, SESSION_BEGINS};
use super::settings::SessionSettings;
use crate::base::principal::{Principal, Proof};
use crate::store::redis::{Redis, Script};
use ::redis::Cmd;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::Method;
use http::request::Parts;
use std::sync::Arc;

/// The field that says which token opens the session.
pub const HASH_FIELD: &str = "hash";

/// A shorter secret could be guessed: 22 characters of base64url hold 128 bits.
const SECRET_CHARS_MIN: usize = 22;

/// A user with more roles than this is not one whose roles we can look at with each request.
const ROLES_MAX: usize = 64;

/// Gives the fields of a session. KEYS: the session. ARGV: the hash shown; for how many milliseconds the session lasts
/// from now, 0 to end it; the fields wanted. It lasts longer, or ends, only for who shows the right hash.
/// To write with each request would tire replicas: within 1/64 of its time once is enough.
const LOOK: &str = r"
local fields = redis.pcall('HMGET', KEYS[1], 'hash', ARGV[3], ARGV[4])
if fields.err or not fields[1] then
  return {}
end
if fields[1] == ARGV[1] then
  local lasts = tonumber(ARGV[2])
  if lasts == 0 then
    redis.call('DEL', KEYS[1])
  elseif redis.call('PTTL', KEYS[1]) < lasts - lasts / 64 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
return fields
";

/// A method that takes sessions.
pub struct Session(Arc<Rules>);

struct Rules {
    method: Arc<str>,
    cookie: Cookie,
    /// Never 0.
    idle_ms: u64,
    logout: String,
    plan: String,
    roles: String,
    redis: Option<Arc<Redis>>,
    look: Script,
}

/// A session that is to be looked up.
pub struct Waiting {
    rules: Arc<Rules>,
    user: String,
    hash: String,
    /// Whether this is its end.
    ends: bool,
}

/// The fields of a session, in the order of the script; none for a session that is not there.
type Fields = Vec<Option<Vec<u8>>>;

impl Session {
    /// Without Redis every session is answered that it cannot be looked up.
    pub fn new(method: Arc<str>, settings: &SessionSettings, redis: Option<Arc<Redis>>) -> Self {
        let idle = settings.idle.0.as_millis();
        Self(Arc::new(Rules {
            method,
            cookie: Cookie {
                name: settings.cookie.clone(),
                domain: settings.domain.clone(),
            },
            idle_ms: u64::try_from(idle).unwrap_or(u64::MAX).max(1),
            logout: settings.logout.clone(),
            plan: settings.plan.clone(),
            roles: settings.roles.clone(),
            redis,
            look: Script::new(LOOK).of_one_key(),
        }))
    }

    fn begin(&self, token: &Credential<'_>, ends: bool) -> Result<Waiting, Reason> {
        let user = user_of(token).ok_or(Reason::Malformed)?;
        if self.0.redis.is_none() {
            return Err(Reason::NoStore);
        }
        Ok(Waiting {
            rules: Arc::clone(&self.0),
            user: user.to_owned(),
            hash: hash_of(token.text(), None),
            ends,
        })
    }
}

impl Identify for Session {
    fn places(&self) -> Places {
        Places {
            bearer: true,
            ..Places::default()
        }
    }

    fn cookie(&self) -> Option<&Cookie> {
        Some(&self.0.cookie)
    }

    fn is_logout(&self, parts: &Parts) -> bool {
        parts.method == Method::POST && parts.uri.path() == self.0.logout
    }

    fn identify(&self, caller: &Caller<'_>) -> Verdict {
        let cookie = match self.0.cookie.read(&caller.parts.headers) {
            Ok(cookie) => cookie,
            Err(reason) => return Verdict::Refused(reason),
        };
        let bearer = caller.credential.as_ref();
        let bearer = bearer.filter(|shown| shown.is_session());
        let token = match (bearer, cookie.as_ref()) {
            (Some(bearer), Some(cookie)) if bearer != cookie => {
                return Verdict::Refused(Reason::Several);
            }
            (Some(token), _) | (None, Some(token)) => token,
            (None, None) => return Verdict::Absent,
        };
        match self.begin(token, self.is_logout(caller.parts)) {
            Ok(waiting) => Verdict::Waiting(waiting.into()),
            Err(reason) => Verdict::Refused(reason),
        }
    }
}

impl Waiting {
    /// One round trip to Redis, and no longer than a call may take.
    pub async fn settle(self) -> Result<Arc<Principal>, Reason> {
        let rules = &*self.rules;
        let redis = rules.redis.as_ref().ok_or(Reason::NoStore)?;
        let key = format!("user:{}:session", self.user);
        let lasts_ms = if self.ends { 0 } else { rules.idle_ms };
        let fill = |command: &mut Cmd| {
            command.arg(&key).arg(&self.hash).arg(lasts_ms);
            command.arg(&rules.plan).arg(&rules.roles);
        };
        let fields = redis.script(&rules.look, 1, fill).await;
        let fields = fields.map_err(|_| Reason::NoStore)?;
        self.judge(&fields).map(Arc::new)
    }

    fn judge(&self, fields: &Fields) -> Result<Principal, Reason> {
        let field = |at: usize| fields.get(at).and_then(Option::as_deref);
        let hash = field(0).ok_or(Reason::NoSession)?;
        if verify_slices_are_equal(hash, self.hash.as_bytes()).is_err() {
            return Err(Reason::WrongSecret);
        }
        let text = |at| field(at).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let named = Principal::named(&self.user, Proof::Session, &self.rules.method);
        let roles = text(2).unwrap_or_default().split(',').map(str::trim);
        let roles = roles.filter(|role| !role.is_empty()).take(ROLES_MAX);
        Ok(Principal {
            plan: text(1).filter(|plan| !plan.is_empty()).map(Arc::from),
            roles: roles.map(Arc::from).collect(),
            ..named.ok_or(Reason::NoUser)?
        })
    }
}

/// The user of a token: all between its beginning and the last dot.
fn user_of<'a>(token: &'a Credential<'_>) -> Option<&'a str> {
    let (user, secret) = token
        .text()
        .strip_prefix(SESSION_BEGINS)?
        .rsplit_once('.')?;
    (!user.is_empty() && secret.len() >= SECRET_CHARS_MIN).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::client::Client;
    use crate::stage::identity::chain::Clock;
    use http::{Request, header};
    use std::time::Instant;

    const TOKEN: &str = "oms_alice.0123456789abcdefghijkl";

    fn session() -> Session {
        Session::new("people".into(), &SessionSettings::default(), None)
    }

    /// What is said before Redis is asked; of a session that would be looked up, that there is no Redis.
    fn said(bearer: Option<&str>, cookie: Option<&str>) -> Option<Reason> {
        let mut request = Request::builder().uri("/");
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, format!("a=b; session={cookie}"));
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let caller = Caller {
            credential: bearer.map(|text| Credential::new(text.to_owned()).unwrap()),
            parts: &parts,
            client: &Client::default(),
            clock: Clock {
                unix: 0,
                now: Instant::now(),
            },
        };
        match session().identify(&caller) {
            Verdict::Absent => None,
            Verdict::Refused(reason) => Some(reason),
            Verdict::Known(_) | Verdict::Waiting(_) => panic!("there is no Redis"),
        }
    }

    #[test]
    fn a_session_is_known_by_how_its_token_begins() {
        let looked_up = Some(Reason::NoStore);
        let (malformed, several) = (Some(Reason::Malformed), Some(Reason::Several));
        for (bearer, cookie, expected) in [
            (None, None, None),
            (Some(TOKEN), None, looked_up),
            (None, Some(TOKEN), looked_up),
            (Some(TOKEN), Some(TOKEN), looked_up),
            (Some(TOKEN), Some("oms_bob.0123456789abcdefghijkl"), several),
            // For another method, unless there is a cookie: then it is about that.
            (Some("om_key"), None, None),
            (Some("eyJ.a.b"), None, None),
            (Some("eyJ.a.b"), Some(TOKEN), looked_up),
            (None, Some("else"), malformed),
            (None, Some(""), malformed),
            (Some("oms_alice"), None, malformed),
            (Some("oms_.0123456789abcdefghijkl"), None, malformed),
            (Some("oms_alice.0123456789abcdefghijk"), None, malformed),
        ] {
            assert_eq!(said(bearer, cookie), expected, "{bearer:?} {cookie:?}");
        }
    }

    #[test]
    fn the_user_is_all_before_the_last_dot() {
        for (token, user) in [
            (TOKEN, Some("alice")),
            (
                "oms_a.b@example.com.0123456789abcdefghijkl",
                Some("a.b@example.com"),
            ),
            ("oms_oms_a:*.0123456789abcdefghijkl", Some("oms_a:*")),
            ("OMS_alice.0123456789abcdefghijkl", None),
        ] {
            assert_eq!(user_of(&Credential::new(token).unwrap()), user, "{token}");
        }
    }

    #[test]
    fn a_session_says_who_it_is_of_to_whom_has_its_token() {
        let waiting = |user: &str| Waiting {
            rules: session().0,
            user: user.to_owned(),
            hash: hash_of(TOKEN, None),
            ends: false,
        };
        let hash = hash_of(TOKEN, None);
        let (upper, other) = (hash.to_uppercase(), hash_of("oms_alice.other", None));
        let some = |text: &str| Some(text.as_bytes().to_vec());
        for (user, fields, expected) in [
            ("alice", vec![some(&hash), None, None], Ok((None, ""))),
            (
                "alice",
                vec![some(&hash), some("pro"), some(" admin,,ops ")],
                Ok((Some("pro"), "admin ops")),
            ),
            (
                "alice",
                vec![some(&hash), some(""), Some(vec![0xff])],
                Ok((None, "")),
            ),
            ("alice", vec![], Err(Reason::NoSession)),
            ("alice", vec![None, None, None], Err(Reason::NoSession)),
            ("alice", vec![some(&other)], Err(Reason::WrongSecret)),
            ("alice", vec![some(&upper)], Err(Reason::WrongSecret)),
            ("alice", vec![some("")], Err(Reason::WrongSecret)),
            // The token itself is not what is to be stored.
            ("alice", vec![some(TOKEN)], Err(Reason::WrongSecret)),
            (&"a".repeat(300), vec![some(&hash)], Err(Reason::NoUser)),
        ] {
            let judged = waiting(user).judge(&fields).map(|who| {
                assert_eq!((&*who.user, who.proof), (user, Proof::Session));
                (who.plan.map(|plan| plan.to_string()), who.roles.join(" "))
            });
            let expected =
                expected.map(|(plan, roles)| (plan.map(str::to_owned), roles.to_owned()));
            assert_eq!(judged, expected, "{fields:?}");
        }
    }

    #[test]
    fn only_a_post_to_the_path_of_the_log_out_is_one() {
        for (method, target, expected) in [
            ("POST", "/auth/logout", true),
            ("POST", "/auth/logout?next=/", true),
            ("GET", "/auth/logout", false),
            ("POST", "/auth/logout/", false),
            ("POST", "/auth", false),
        ] {
            let request = Request::builder().method(method).uri(target);
            let parts = request.body(()).unwrap().into_parts().0;
            assert_eq!(session().is_logout(&parts), expected, "{method} {target}");
        }
    }
}
