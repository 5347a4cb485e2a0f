//! The chain of methods of a route: the first one that finds its credential decides.
//!
//! Invariant: an absent credential lets the next method try; an invalid one never does. A caller that
//! meant to be known is told that it is not, and is never served as somebody else.

use super::credential::{self, Credential, Places};
use super::jwt::Waiting;
use crate::base::client::Client;
use crate::base::principal::Principal;
use crate::base::reject::RejectKind;
use http::request::Parts;
use std::sync::Arc;
use std::time::Instant;

/// Under this name refusals are counted that no single method has made.
pub const NO_METHOD: &str = "none";

/// One way to tell who is calling.
pub trait Identify: Send + Sync {
    /// Where this method expects credentials.
    fn places(&self) -> Places;

    fn identify(&self, caller: &Caller<'_>) -> Verdict;
}

/// A method under its name in the configuration.
pub struct Method {
    pub name: Arc<str>,
    /// As it is written: `keys`, `jwt`, …
    pub word: &'static str,
    pub identify: Arc<dyn Identify>,
}

/// What a method may look at.
pub struct Caller<'a> {
    pub credential: Option<Credential<'a>>,
    pub client: &'a Client,
    pub clock: Clock,
}

/// The time, as the wall and as the machine count it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Seconds since 1970: for what others have signed.
    pub unix: u64,
    /// For how long ago we did something.
    pub now: Instant,
}

/// What a method says of a caller.
pub enum Verdict {
    /// Nothing here is for this method: the next one may try.
    Absent,
    Known(Arc<Principal>),
    Refused(Reason),
    /// Not known before the issuer's keys have been fetched.
    Waiting(Waiting),
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:literal, $kind:ident;)*) => {
        /// Why a caller is refused: a label of a metric, and the truth for the log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason { $($(#[doc = $doc])+ $variant),* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$variant),*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What the caller is told. It never learns which of several checks has failed, but that a
            /// new credential would help.
            pub const fn kind(self) -> RejectKind {
                match self { $(Self::$variant => RejectKind::$kind),* }
            }
        }
    };
}

reasons! {
    /// No credential, and the chain takes no anonymous callers.
    Missing, "missing", UnknownCaller;
    /// No certificate, and the chain takes nothing else.
    NoCertificate, "no_certificate", CertificateRequired;
    /// A credential that is not one: empty, of another scheme, not text, broken JSON.
    Malformed, "malformed", InvalidCredential;
    /// A credential over 8 KiB.
    TooLarge, "too_large", InvalidCredential;
    /// Two credentials that differ.
    Several, "several", InvalidCredential;
    /// A credential of a kind that no method of the chain takes.
    NotTaken, "not_taken", InvalidCredential;
    /// An API key that is not among those known.
    UnknownKey, "unknown_key", InvalidCredential;
    /// A key that is switched off.
    Disabled, "disabled", InvalidCredential;
    /// A key or token that was good once.
    Expired, "expired", ExpiredCredential;
    /// A token that is not good yet.
    NotYet, "not_yet", InvalidCredential;
    /// A token signed by `none`, or by an algorithm that no key of ours has.
    Algorithm, "algorithm", InvalidCredential;
    /// A token signed by a key that its issuer does not know.
    UnknownSigner, "unknown_signer", InvalidCredential;
    /// A token whose signature is wrong.
    Signature, "signature", InvalidCredential;
    /// A token of another issuer.
    Issuer, "issuer", InvalidCredential;
    /// A token for somebody else.
    Audience, "audience", InvalidCredential;
    /// A credential that names no user, or one that cannot be logged and sent on.
    NoUser, "no_user", InvalidCredential;
    /// A token that cannot be judged now: the keys of its issuer cannot be fetched.
    NoKeys, "no_keys", IdentityUnavailable;
}

/// A refusal: why, and by which method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub method: Arc<str>,
    pub reason: Reason,
}

/// The methods of a route, in order.
pub struct Chain {
    methods: Vec<Arc<Method>>,
    places: Places,
    nobody: Arc<str>,
}

/// Where a request stands after the chain.
pub enum Outcome {
    Known(Arc<Principal>),
    /// Ask [`Waiting::settle`].
    Waiting(Arc<str>, Waiting),
}

impl Chain {
    pub fn new(methods: Vec<Arc<Method>>) -> Self {
        let places = methods.iter().map(|method| method.identify.places());
        Self {
            places: places.fold(Places::default(), Places::and),
            methods,
            nobody: NO_METHOD.into(),
        }
    }

    pub fn places(&self) -> Places {
        self.places
    }

    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        self.methods.iter().map(|method| &**method)
    }

    /// Who is calling. Does not wait: for the rare token that must, see [`Outcome::Waiting`].
    pub fn identify(
        &self,
        parts: &Parts,
        client: &Client,
        clock: Clock,
    ) -> Result<Outcome, Refusal> {
        let refused = |method: &Arc<str>, reason| Refusal {
            method: Arc::clone(method),
            reason,
        };
        let credential = credential::read(parts, self.places);
        let caller = Caller {
            credential: credential.map_err(|reason| refused(&self.nobody, reason))?,
            client,
            clock,
        };
        for method in &self.methods {
            match method.identify.identify(&caller) {
                Verdict::Absent => {}
                // The credential is of a kind that no method takes: that is not to be anonymous.
                Verdict::Known(principal)
                    if principal.is_anonymous() && caller.credential.is_some() => {}
                Verdict::Known(principal) => return Ok(Outcome::Known(principal)),
                Verdict::Refused(reason) => return Err(refused(&method.name, reason)),
                Verdict::Waiting(waiting) => {
                    return Ok(Outcome::Waiting(Arc::clone(&method.name), waiting));
                }
            }
        }
        Err(refused(&self.nobody, self.why_nobody(&caller)))
    }

    fn why_nobody(&self, caller: &Caller<'_>) -> Reason {
        if caller.credential.is_some() {
            Reason::NotTaken
        } else if self.places == Places::default() {
            Reason::NoCertificate
        } else {
            Reason::Missing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::principal::Proof;
    use http::Request;
    use std::collections::HashSet;

    /// Says this of each credential, or of its lack.
    struct Fake(Places, fn(Option<&str>) -> Verdict);

    impl Identify for Fake {
        fn places(&self) -> Places {
            self.0
        }

        fn identify(&self, caller: &Caller<'_>) -> Verdict {
            self.1(caller.credential.as_ref().map(Credential::text))
        }
    }

    const BEARER: Places = Places {
        bearer: true,
        headers: false,
        query: false,
    };

    fn known(user: &str, proof: Proof) -> Verdict {
        let principal = Principal::named(user, proof, &"fake".into());
        Verdict::Known(Arc::new(principal.expect("a name")))
    }

    fn method(name: &str) -> Arc<Method> {
        let fake = match name {
            "a" => Fake(BEARER, |credential| match credential {
                Some("a") => known("alice", Proof::ApiKey),
                Some("bad") => Verdict::Refused(Reason::UnknownKey),
                _ => Verdict::Absent,
            }),
            "b" => Fake(BEARER, |credential| match credential {
                Some("b" | "bad") => known("bob", Proof::Token),
                _ => Verdict::Absent,
            }),
            "certificate" => Fake(Places::default(), |_| Verdict::Absent),
            _ => Fake(Places::default(), |_| known("anybody", Proof::Address)),
        };
        Arc::new(Method {
            name: name.into(),
            word: "fake",
            identify: Arc::new(fake),
        })
    }

    #[test]
    fn the_first_that_finds_its_credential_decides() {
        for (chain, bearer, expected) in [
            (&["a", "b"][..], Some("a"), Ok("alice")),
            (&["a", "b"], Some("b"), Ok("bob")),
            // Refused by the first, although the second would take it.
            (&["a", "b"], Some("bad"), Err(("a", Reason::UnknownKey))),
            (&["b", "a"], Some("bad"), Ok("bob")),
            (&["a", "b"], Some("c"), Err(("none", Reason::NotTaken))),
            (&["a", "b"], None, Err(("none", Reason::Missing))),
            (&["certificate"], None, Err(("none", Reason::NoCertificate))),
            (&["certificate", "a"], None, Err(("none", Reason::Missing))),
            (&["a", "anybody"], None, Ok("anybody")),
            (&["a", "anybody"], Some("a"), Ok("alice")),
            (
                &["a", "anybody"],
                Some("bad"),
                Err(("a", Reason::UnknownKey)),
            ),
            // Whoever shows something is never served as nobody.
            (
                &["a", "anybody"],
                Some("c"),
                Err(("none", Reason::NotTaken)),
            ),
            (
                &["anybody", "a"],
                Some("c"),
                Err(("none", Reason::NotTaken)),
            ),
            (
                &["a", "anybody"],
                Some(""),
                Err(("none", Reason::Malformed)),
            ),
            // Where nobody looks for credentials, they are the endpoint's business.
            (&["anybody"], Some("c"), Ok("anybody")),
        ] {
            let mut request = Request::builder();
            if let Some(bearer) = bearer {
                request = request.header("authorization", format!("Bearer {bearer}"));
            }
            let parts = request.body(()).expect("a request").into_parts().0;
            let clock = Clock {
                unix: 1,
                now: Instant::now(),
            };
            let chain_of = Chain::new(chain.iter().map(|name| method(name)).collect());
            let found = match chain_of.identify(&parts, &Client::default(), clock) {
                Ok(Outcome::Known(principal)) => Ok(principal.user.to_string()),
                Ok(Outcome::Waiting(..)) => panic!("nothing to wait for"),
                Err(refusal) => Err((refusal.method.to_string(), refusal.reason)),
            };
            let expected = expected.map(str::to_owned);
            let expected = expected.map_err(|(name, reason)| (name.to_owned(), reason));
            assert_eq!(found, expected, "{chain:?} {bearer:?}");
        }
    }

    #[test]
    fn every_reason_has_a_name_of_its_own_and_a_status_that_fits() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let kind = reason.kind();
            assert!(matches!(kind.status(), 401 | 403 | 503), "{reason:?}");
            assert_eq!(
                kind.challenge().is_some(),
                kind.status() == 401,
                "{reason:?}"
            );
        }
    }
}
