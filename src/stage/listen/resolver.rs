//! Which certificate answers a handshake: by the name asked for, and by what the caller can verify.

use arc_swap::ArcSwap;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A certificate that was loaded, with its chain and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// What it is valid for, in lower case: DNS names, `*.example.com`, addresses. Never empty.
    pub names: Vec<String>,
    /// Valid from, in seconds since 1970.
    pub not_before: i64,
    /// Valid until, in seconds since 1970. An expired one is served all the same: the caller decides.
    pub not_after: i64,
    pub key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Whether it is not valid at `unix` (seconds since 1970).
    pub fn expired_at(&self, unix: i64) -> bool {
        unix > self.not_after
    }

    /// Cheaper signatures come first; a caller that cannot verify one gets the next.
    fn preference(&self) -> u8 {
        match self.key.key.algorithm() {
            SignatureAlgorithm::ECDSA => 0,
            SignatureAlgorithm::ED25519 => 1,
            _ => 2,
        }
    }
}

/// Certificates for the same name, the preferred kind of key first. Never empty.
type Candidates = Vec<Arc<CertifiedKey>>;

/// All certificates of a listener, indexed by name; immutable.
#[derive(Debug)]
pub struct Certificates {
    exact: HashMap<String, Candidates>,
    /// By what follows `*.`: a star stands for exactly one label (RFC 6125, 6.4.3).
    wildcard: HashMap<String, Candidates>,
    /// For callers that name nobody, or somebody unknown.
    default: Candidates,
    expiries: Vec<(String, i64)>,
}

impl Certificates {
    /// The first is the default, together with those for the very same names that have another kind
    /// of key.
    pub fn new(certificates: Vec<Certificate>) -> Result<Self, String> {
        let Some(first) = certificates.first() else {
            return Err("no certificate; name at least one under `certificates`".to_owned());
        };
        let default_names = sorted(&first.names);
        let expiries = earliest_expiries(&certificates);
        let mut by_preference = certificates;
        // Stable: among equal kinds of key the order of the configuration decides.
        by_preference.sort_by_key(Certificate::preference);
        let mut built = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default: Candidates::new(),
            expiries,
        };
        for certificate in &by_preference {
            built.index(certificate);
            if sorted(&certificate.names) == default_names {
                built.default.push(Arc::clone(&certificate.key));
            }
        }
        Ok(built)
    }

    fn index(&mut self, certificate: &Certificate) {
        for name in &certificate.names {
            let candidates = match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.entry(parent.to_owned()).or_default(),
                None => self.exact.entry(name.clone()).or_default(),
            };
            candidates.push(Arc::clone(&certificate.key));
        }
    }

    /// Each certificate by its first name, with the second (since 1970) in which it expires.
    /// Two with the same first name are one row, the earlier date: a row is a metric.
    pub fn expiries(&self) -> &[(String, i64)] {
        &self.expiries
    }

    /// The best certificate for a name (lower case) and for what the caller can verify.
    fn choose(
        &self,
        name: Option<&str>,
        can_verify: impl Fn(&CertifiedKey) -> bool,
    ) -> Arc<CertifiedKey> {
        let candidates = name
            .and_then(|name| self.named(name))
            .unwrap_or(&self.default);
        let best = match candidates.as_slice() {
            [only] => only,
            // None fits: rustls turns the first into the right alert.
            many => many.iter().find(|key| can_verify(key)).unwrap_or(&many[0]),
        };
        Arc::clone(best)
    }

    fn named(&self, name: &str) -> Option<&Candidates> {
        self.exact.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

fn earliest_expiries(certificates: &[Certificate]) -> Vec<(String, i64)> {
    let mut earliest = BTreeMap::new();
    for certificate in certificates {
        let name = certificate.names.first().cloned().unwrap_or_default();
        let at = earliest.entry(name).or_insert(certificate.not_after);
        *at = (*at).min(certificate.not_after);
    }
    earliest.into_iter().collect()
}

/// Answers handshakes from the certificates of the moment: a reload swaps them under running listeners.
#[derive(Debug)]
pub struct HotResolver {
    current: ArcSwap<Certificates>,
}

impl HotResolver {
    pub fn new(certificates: Arc<Certificates>) -> Self {
        Self {
            current: ArcSwap::new(certificates),
        }
    }

    /// The next handshake sees `certificates`; connections that stand keep what they have.
    pub fn store(&self, certificates: Arc<Certificates>) {
        self.current.store(certificates);
    }

    pub fn load(&self) -> Arc<Certificates> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for HotResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name and lowered its case, and has removed the signature
        // schemes that no cipher suite of this caller can use.
        let can_verify =
            |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        Some(self.current.load().choose(hello.server_name(), can_verify))
    }
}
