//! What a certificate that a caller has shown says about its holder.

use crate::base::client::ShownCertificate;
use aws_lc_rs::digest;
use std::fmt::Write;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// A certificate names its holder in a few ways; one with more names than this is read no further.
const NAMES_MAX: usize = 64;

/// Reads a certificate (DER) that the handshake has verified; none if it is not one after all.
pub fn read(der: &[u8]) -> Option<ShownCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let common_name = certificate.subject().iter_common_name().next();
    let mut shown = ShownCertificate {
        common_name: common_name
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned),
        fingerprint: fingerprint(der),
        ..ShownCertificate::default()
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    for name in names.take(NAMES_MAX) {
        match name {
            GeneralName::DNSName(name) => shown.dns.push((*name).to_owned()),
            GeneralName::URI(uri) => shown.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(email) => shown.emails.push((*email).to_owned()),
            _ => {}
        }
    }
    Some(shown)
}

fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("text grows");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    #[test]
    fn each_name_is_found_where_it_stands() {
        let mut params = CertificateParams::new(vec!["app.internal".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "machine 7");
        for (kind, name) in [
            (SanType::URI as fn(_) -> _, "spiffe://example.org/app"),
            (SanType::Rfc822Name, "ops@example.org"),
        ] {
            let name = name.to_owned().try_into().unwrap();
            params.subject_alt_names.push(kind(name));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let shown = read(certificate.der()).unwrap();
        assert_eq!(shown.common_name.as_deref(), Some("machine 7"));
        assert_eq!(shown.dns, ["app.internal"]);
        assert_eq!(shown.uris, ["spiffe://example.org/app"]);
        assert_eq!(shown.emails, ["ops@example.org"]);
        assert_eq!(shown.fingerprint.len(), 64);
        assert_eq!(read(b"not a certificate"), None);
    }
}
