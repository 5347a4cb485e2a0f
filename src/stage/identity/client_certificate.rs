//! The certificate that a caller has shown, which the listener has verified.

use super::chain::{Caller, Identify, Reason, Verdict};
use super::credential::Places;
use super::settings::{CertificateName, CertificateSettings};
use crate::base::client::ShownCertificate;
use crate::base::principal::{Principal, Proof};
use std::sync::Arc;

pub struct ClientCertificate {
    method: Arc<str>,
    name: CertificateName,
    plan: Option<Arc<str>>,
    roles: Vec<Arc<str>>,
}

impl ClientCertificate {
    pub fn new(method: Arc<str>, settings: &CertificateSettings) -> Self {
        Self {
            method,
            name: settings.user,
            plan: settings.plan.as_deref().map(Arc::from),
            roles: settings
                .roles
                .iter()
                .map(|role| role.as_str().into())
                .collect(),
        }
    }

    fn user<'c>(&self, shown: &'c ShownCertificate) -> Option<&'c str> {
        let first = |names: &'c [String]| names.first().map(String::as_str);
        match self.name {
            CertificateName::CommonName => shown.common_name.as_deref(),
            CertificateName::Dns => first(&shown.dns),
            CertificateName::Uri => first(&shown.uris),
            CertificateName::Email => first(&shown.emails),
            CertificateName::Fingerprint => Some(&shown.fingerprint),
        }
    }
}

impl Identify for ClientCertificate {
    fn places(&self) -> Places {
        Places::default()
    }

    fn identify(&self, caller: &Caller<'_>) -> Verdict {
        let Some(shown) = &caller.client.certificate else {
            return Verdict::Absent;
        };
        let user = self.user(shown);
        let named = user.and_then(|user| Principal::named(user, Proof::Certificate, &self.method));
        match named {
            Some(principal) => Verdict::Known(Arc::new(Principal {
                plan: self.plan.clone(),
                roles: self.roles.clone(),
                ..principal
            })),
            None => Verdict::Refused(Reason::NoUser),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::client::Client;
    use crate::stage::identity::chain::Clock;
    use std::time::Instant;

    fn shown() -> ShownCertificate {
        ShownCertificate {
            common_name: Some("machine 7".to_owned()),
            dns: vec!["a.internal".to_owned(), "b.internal".to_owned()],
            uris: vec!["spiffe://example.org/app".to_owned()],
            emails: Vec::new(),
            fingerprint: "00ff".to_owned(),
        }
    }

    #[test]
    fn the_holder_is_named_where_the_operator_looks() {
        for (name, certificate, expected) in [
            (
                CertificateName::CommonName,
                Some(shown()),
                Ok(Some("machine 7")),
            ),
            (CertificateName::Dns, Some(shown()), Ok(Some("a.internal"))),
            (
                CertificateName::Uri,
                Some(shown()),
                Ok(Some("spiffe://example.org/app")),
            ),
            (
                CertificateName::Fingerprint,
                Some(shown()),
                Ok(Some("00ff")),
            ),
            (CertificateName::Email, Some(shown()), Err(Reason::NoUser)),
            (CertificateName::CommonName, None, Ok(None)),
        ] {
            let settings = CertificateSettings {
                user: name,
                plan: Some("machines".to_owned()),
                ..CertificateSettings::default()
            };
            let caller = Caller {
                credential: None,
                client: &Client {
                    certificate: certificate.map(Arc::new),
                    ..Client::default()
                },
                clock: Clock {
                    unix: 0,
                    now: Instant::now(),
                },
            };
            let method = ClientCertificate::new("devices".into(), &settings);
            let found = match method.identify(&caller) {
                Verdict::Known(principal) => {
                    assert_eq!(principal.plan.as_deref(), Some("machines"));
                    Ok(Some(principal.user.to_string()))
                }
                Verdict::Refused(reason) => Err(reason),
                Verdict::Absent => Ok(None),
                Verdict::Waiting(_) => panic!("a certificate is at hand"),
            };
            assert_eq!(
                found,
                expected.map(|user| user.map(str::to_owned)),
                "{name:?}"
            );
        }
    }
}
