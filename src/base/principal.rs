//! Who is calling, and by which method that is known.

use http::{HeaderName, HeaderValue};
use std::net::IpAddr;
use std::sync::Arc;

/// The header that tells an endpoint who is calling. Never taken from a caller.
pub const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// A user id longer than this is refused: it is logged, sent on and counted with every request.
pub const USER_BYTES_MAX: usize = 256;

/// A caller whose identity is settled. Shared: the one of an API key is made once, when the key is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user, as the method names it; of an anonymous caller `address:203.0.113.7` or `address:2001:db8::/64`.
    pub user: Arc<str>,
    /// What the user has booked, where the method says so.
    pub plan: Option<Arc<str>>,
    /// What the user may do, where the method says so.
    pub roles: Vec<Arc<str>>,
    /// Name of the API key that was shown.
    pub key: Option<Arc<str>>,
    /// How it is known.
    pub proof: Proof,
    /// Name of the method in the configuration.
    pub method: Arc<str>,
    /// What the endpoint is told: `X-User-Id` and the claims chosen; nothing of an anonymous caller.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What an identity rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    ApiKey,
    Token,
    Certificate,
    /// Only that the caller has an address.
    Address,
}

impl Principal {
    /// A user known by name. None when the name is empty, longer than [`USER_BYTES_MAX`] or has a control character.
    pub fn named(user: &str, proof: Proof, method: &Arc<str>) -> Option<Self> {
        let fits = !user.is_empty() && user.len() <= USER_BYTES_MAX;
        if !fits || user.chars().any(char::is_control) {
            return None;
        }
        let value = HeaderValue::from_bytes(user.as_bytes()).ok()?;
        Some(Self {
            user: user.into(),
            plan: None,
            roles: Vec::new(),
            key: None,
            proof,
            method: Arc::clone(method),
            headers: vec![(X_USER_ID, value)],
        })
    }

    /// A caller of whom only the address is known: see `Client::subscriber`.
    pub fn anonymous(subscriber: IpAddr, method: &Arc<str>) -> Self {
        let user = match subscriber {
            IpAddr::V4(v4) => format!("address:{v4}"),
            IpAddr::V6(v6) => format!("address:{v6}/64"),
        };
        Self {
            user: user.into(),
            plan: None,
            roles: Vec::new(),
            key: None,
            proof: Proof::Address,
            method: Arc::clone(method),
            headers: Vec::new(),
        }
    }

    /// Whether nobody vouches for the caller.
    pub fn is_anonymous(&self) -> bool {
        self.proof == Proof::Address
    }

    /// The user where there is one, and none for an anonymous caller.
    pub fn known_user(&self) -> Option<&str> {
        (!self.is_anonymous()).then_some(&*self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_fits_into_a_header_and_a_line() {
        let method: Arc<str> = "m".into();
        let long = "a".repeat(USER_BYTES_MAX + 1);
        for (user, taken) in [
            ("alice", true),
            ("7f0c-9", true),
            ("jürgen", true),
            (&long[1..], true),
            ("", false),
            ("a\nb", false),
            ("a\u{0}", false),
            ("a\u{85}b", false),
            (&long, false),
        ] {
            let principal = Principal::named(user, Proof::Token, &method);
            assert_eq!(principal.is_some(), taken, "{user:?}");
        }
    }

    #[test]
    fn an_anonymous_caller_has_a_name_to_count_by_but_none_to_tell() {
        for (address, user) in [
            ("203.0.113.7", "address:203.0.113.7"),
            ("2001:db8::", "address:2001:db8::/64"),
        ] {
            let principal = Principal::anonymous(address.parse().unwrap(), &"m".into());
            assert_eq!(&*principal.user, user);
            assert_eq!(principal.known_user(), None);
            assert!(principal.headers.is_empty());
        }
    }
}
