//! From what is written to methods that run: files read, keys parsed, the issuer's place checked.

use super::anonymous::Anonymous;
use super::api_key::ApiKeys;
use super::chain::{Identify, Method};
use super::client_certificate::ClientCertificate;
use super::fetch::HttpFetch;
use super::jwks::{Jwks, Source};
use super::jwt::Jwt;
use super::key;
use super::settings::{JwtSettings, Settings};
use crate::base::fault::{Faults, KeyPath};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// No file of keys is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Builds the method of this name; `at` is its place in the document, and `jwks` gives the keys that are fetched
/// from a source: those at hand, or new ones. None when something is wrong, and then `faults` says what.
pub fn build(
    name: &str,
    settings: &Settings,
    at: &KeyPath,
    jwks: impl FnOnce(Source) -> Arc<Jwks>,
    faults: &mut Faults,
) -> Option<Method> {
    let name: Arc<str> = name.into();
    let identify: Arc<dyn Identify> = match settings {
        Settings::Keys(settings) => Arc::new(ApiKeys::build(&name, settings)?),
        Settings::Jwt(settings) => {
            let at = at.key("jwt");
            Arc::new(jwt(&name, settings, &at, jwks, faults)?)
        }
        Settings::ClientCertificate(settings) => {
            Arc::new(ClientCertificate::new(Arc::clone(&name), settings))
        }
        Settings::Anonymous(settings) => Arc::new(Anonymous::new(Arc::clone(&name), settings)),
    };
    Some(Method {
        name,
        word: settings.word(),
        identify,
    })
}

fn jwt(
    name: &Arc<str>,
    settings: &JwtSettings,
    at: &KeyPath,
    jwks: impl FnOnce(Source) -> Arc<Jwks>,
    faults: &mut Faults,
) -> Option<Jwt> {
    let mut keys = Vec::new();
    if let Some(path) = &settings.key_file {
        let read = read(path).and_then(|content| {
            key::read_file(&content).map_err(|what| format!("{}: {what}", path.display()))
        });
        keys = noted(read, at.key("key_file"), faults)?;
    }
    let source = match &settings.jwks {
        None => None,
        Some(url) => Some(source(url, settings, at, faults)?),
    };
    Jwt::build(Arc::clone(name), settings, keys, source.map(jwks))
}

fn source(url: &str, settings: &JwtSettings, at: &KeyPath, faults: &mut Faults) -> Option<Source> {
    let authorities = match &settings.jwks_ca {
        None => None,
        Some(path) => {
            let read = read(path).and_then(|pem| authorities(path, &pem));
            Some(noted(read, at.key("jwks_ca"), faults)?)
        }
    };
    let source = Source {
        url: url.to_owned(),
        authorities,
        refresh: settings.jwks_refresh.0,
    };
    noted(HttpFetch::new(&source), at.key("jwks"), faults)?;
    Some(source)
}

fn authorities(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{}: no certificate in it", path.display())),
        Err(error) => Err(format!("{}: broken PEM: {error}", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let complain = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    let mut content = Vec::new();
    let file = File::open(path).map_err(complain)?;
    let taken = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content);
    taken.map_err(complain)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("`{}` is larger than 1 MiB", path.display()));
    }
    Ok(content)
}

fn noted<T>(result: Result<T, String>, at: KeyPath, faults: &mut Faults) -> Option<T> {
    result.map_err(|what| faults.error(at, what, "")).ok()
}
