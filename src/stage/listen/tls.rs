//! TLS towards callers: certificates from files, and the terms of a handshake, both exchangeable
//! while running.

use crate::stage::listen::resolver::{Certificate, Certificates, HotResolver};
use crate::stage::listen::settings::{
    CertificateSettings, ClientAuthSettings, TlsSettings, TlsVersion,
};
use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// A bundle of all public authorities has about 250 KiB; a file larger than this is not a certificate.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// Tickets handed out after a handshake. One is used up by the next connection, which gets new
/// ones; the second serves callers that open two at once. Each costs a key derivation and a
/// sealing, a few hundredths of a full handshake.
const TICKETS: usize = 2;

/// The one source of cryptography of this process, named explicitly: with a second one compiled in,
/// rustls cannot guess.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads a certificate chain and its key.
///
/// Fails, naming the file and the remedy, if either cannot be read or the key belongs to another
/// certificate. An expired certificate is no error here: see `not_after`.
pub fn load_certificate(settings: &CertificateSettings) -> Result<Certificate, String> {
    let chain = read_certificates(&settings.certificate)?;
    let key = read_key(&settings.key)?;
    let (certificate_at, key_at) = (settings.certificate.display(), settings.key.display());
    let facts = chain
        .first()
        .ok_or("a chain is never empty".to_owned())
        .and_then(|leaf| Facts::read(leaf))
        .map_err(|cause| format!("{certificate_at}: {cause}"))?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "the key in {key_at} does not belong to the first certificate in {certificate_at}; \
             put the server's own certificate first, its intermediates after it, and name the key it was made with"
        ),
        other => format!("{certificate_at} with {key_at}: {other}"),
    })?;
    Ok(Certificate {
        names: facts.names,
        not_before: facts.not_before,
        not_after: facts.not_after,
        key: Arc::new(key),
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_pem(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: broken PEM: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!(
            "{}: no certificate in it; PEM with `-----BEGIN CERTIFICATE-----` is expected",
            path.display()
        ));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = read_pem(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let at = path.display();
        if memchr::memmem::find(&pem, b"ENCRYPTED").is_some() {
            return format!("{at}: the private key is encrypted; decrypt it with `openssl pkey -in FILE -out PLAIN`");
        }
        match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                format!("{at}: no private key in it; PEM with `-----BEGIN PRIVATE KEY-----` is expected")
            }
            other => format!("{at}: broken PEM: {other}"),
        }
    })
}

fn read_pem(path: &Path) -> Result<Vec<u8>, String> {
    let read = |mut pem: Vec<u8>| {
        File::open(path)?
            .take(PEM_BYTES_MAX + 1)
            .read_to_end(&mut pem)?;
        Ok(pem)
    };
    match read(Vec::new()) {
        Ok(pem) if pem.len() as u64 > PEM_BYTES_MAX => Err(format!(
            "{}: larger than {PEM_BYTES_MAX} bytes; this is not a PEM file of certificates or keys",
            path.display()
        )),
        Ok(pem) => Ok(pem),
        Err(error) => Err(format!(
            "cannot read {}: {}",
            path.display(),
            reason(&error)
        )),
    }
}

/// What usually has to be mended, where the system's own words leave it open.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "no such file; correct the path or put the file there".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "permission denied; let the user of this process read it".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What a certificate says about itself.
struct Facts {
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Facts {
    fn read(leaf: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| format!("not an X.509 certificate: {error}"))?;
        let names = names_of(&parsed);
        if names.is_empty() {
            return Err(
                "the certificate names nobody; make one with a subject alternative name".to_owned(),
            );
        }
        let validity = parsed.validity();
        Ok(Self {
            names,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

/// The subject alternative names; the common name only where there are none (RFC 6125, 6.4.4).
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(name_of)
        .collect();
    if names.is_empty() {
        let common = certificate.subject().iter_common_name();
        names.extend(
            common
                .filter_map(|name| name.as_str().ok())
                .map(str::to_ascii_lowercase),
        );
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some(dns.trim_end_matches('.').to_ascii_lowercase()),
        GeneralName::IPAddress(octets) => <[u8; 4]>::try_from(*octets)
            .map(|v4| Ipv4Addr::from(v4).to_string())
            .or_else(|_| <[u8; 16]>::try_from(*octets).map(|v6| Ipv6Addr::from(v6).to_string()))
            .ok(),
        _ => None,
    }
}

/// What a handshake is held to, apart from the certificates; equal terms keep their session tickets
/// valid.
#[derive(Debug, PartialEq)]
struct Terms {
    min_version: TlsVersion,
    http2: bool,
    callers: Option<Callers>,
}

/// Who may call.
#[derive(Debug, PartialEq)]
struct Callers {
    authorities: Vec<CertificateDer<'static>>,
    required: bool,
    ca: std::path::PathBuf,
}

impl Terms {
    fn read(settings: &TlsSettings, http2: bool) -> Result<Self, String> {
        let callers = settings
            .client_auth
            .as_ref()
            .map(Callers::read)
            .transpose()?;
        Ok(Self {
            min_version: settings.min_version,
            http2,
            callers,
        })
    }

    fn config(&self, resolver: Arc<HotResolver>) -> Result<Arc<ServerConfig>, String> {
        let versions: &[_] = match self.min_version {
            TlsVersion::Tls12 => &[&TLS12, &TLS13],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| format!("cannot set up TLS: {error}"))?;
        let builder = match &self.callers {
            Some(callers) => builder.with_client_cert_verifier(callers.verifier()?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = if self.http2 {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        } else {
            vec![b"http/1.1".to_vec()]
        };
        // Sessions live in tickets that callers keep: no memory for each caller, no lock and no
        // eviction when thousands come back at once, as with a cache of fixed size. Keys are
        // random, change every 6 hours, and belong to these terms alone: after a change of the
        // accepted authorities no old session gets around the new ones.
        config.ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|error| format!("cannot make keys for session tickets: {error}"))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        // Early data can be replayed by anybody who saw it.
        config.max_early_data_size = 0;
        // Every suite we have is strong, and a caller without AES in hardware knows that best.
        config.ignore_client_order = false;
        Ok(Arc::new(config))
    }
}

impl Callers {
    fn read(settings: &ClientAuthSettings) -> Result<Self, String> {
        Ok(Self {
            authorities: read_certificates(&settings.ca)?,
            required: settings.required,
            ca: settings.ca.clone(),
        })
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let wrong = |error: &dyn std::fmt::Display| {
            format!(
                "{}: not usable as an authority of callers: {error}",
                self.ca.display()
            )
        };
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots
                .add(authority.clone())
                .map_err(|error| wrong(&error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if self.required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder.build().map_err(|error| wrong(&error))
    }
}

/// The rustls configuration of one listener. Errors name the file and say what to do.
pub fn server_config(
    settings: &TlsSettings,
    http2: bool,
    resolver: Arc<HotResolver>,
) -> Result<Arc<ServerConfig>, String> {
    Terms::read(settings, http2)?.config(resolver)
}

/// TLS of one listener: the accept loop takes what is current for each connection, a reload
/// exchanges it.
#[derive(Debug)]
pub struct TlsSlot {
    resolver: Arc<HotResolver>,
    current: ArcSwap<Agreed>,
}

#[derive(Debug)]
struct Agreed {
    terms: Terms,
    config: Arc<ServerConfig>,
}

/// What a reload will put in place, complete and checked: committing cannot fail.
#[derive(Debug)]
pub struct TlsChange {
    certificates: Arc<Certificates>,
    /// Absent when the terms stay as they are, and with them the keys of session tickets.
    agreed: Option<Arc<Agreed>>,
}

impl TlsSlot {
    pub fn new(
        settings: &TlsSettings,
        http2: bool,
        certificates: Arc<Certificates>,
    ) -> Result<Self, String> {
        let resolver = Arc::new(HotResolver::new(certificates));
        let terms = Terms::read(settings, http2)?;
        let config = terms.config(Arc::clone(&resolver))?;
        Ok(Self {
            resolver,
            current: ArcSwap::from_pointee(Agreed { terms, config }),
        })
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    pub fn certificates(&self) -> Arc<Certificates> {
        self.resolver.load()
    }

    /// First half of a reload: reads and checks everything, changes nothing.
    pub fn prepare(
        &self,
        settings: &TlsSettings,
        http2: bool,
        certificates: Arc<Certificates>,
    ) -> Result<TlsChange, String> {
        let terms = Terms::read(settings, http2)?;
        let agreed = if terms == self.current.load().terms {
            None
        } else {
            let config = terms.config(Arc::clone(&self.resolver))?;
            Some(Arc::new(Agreed { terms, config }))
        };
        Ok(TlsChange {
            certificates,
            agreed,
        })
    }

    /// Second half of a reload: the next handshake sees the change, standing connections do not.
    pub fn commit(&self, change: TlsChange) {
        self.resolver.store(change.certificates);
        if let Some(agreed) = change.agreed {
            self.current.store(agreed);
        }
    }
}

#[cfg(test)]
mod tests;
