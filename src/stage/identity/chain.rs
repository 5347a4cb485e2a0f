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
