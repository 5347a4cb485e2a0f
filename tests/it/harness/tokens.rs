//! Signed tokens, and an issuer that publishes the keys which verify them.

use super::reply::Reply;
use super::upstream::Upstream;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Somebody who signs tokens.
pub enum Signer {
    /// HS256.
    Secret(String),
    /// ES256, and the name of the key.
    Key(String, EcdsaKeyPair),
}

impl Signer {
    pub fn secret(secret: &str) -> Self {
        Self::Secret(secret.to_owned())
    }

    pub fn key(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::Key(id.to_owned(), pair)
    }

    /// A token of this user that is good for a minute.
    pub fn token(&self, user: &str) -> String {
        self.claims(&claims(user))
    }

    pub fn claims(&self, claims: &Value) -> String {
        let header = match self {
            Self::Secret(_) => json!({ "alg": "HS256", "typ": "JWT" }),
            Self::Key(id, _) => json!({ "alg": "ES256", "kid": id }),
        };
        self.raw(&header.to_string(), &claims.to_string())
    }

    /// Signs whatever it is.
    pub fn raw(&self, header: &str, claims: &str) -> String {
        let text = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let message = format!("{}.{}", text(header), text(claims));
        let signature = match self {
            Self::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
            }
            Self::Key(_, pair) => {
                let signed = pair.sign(&SystemRandom::new(), message.as_bytes());
                signed.unwrap().as_ref().to_vec()
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn published(&self) -> Value {
        let Self::Key(id, pair) = self else {
            panic!("a secret is not published");
        };
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = pair.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": id,
            "x": text(&point[1..33]), "y": text(&point[33..]),
        })
    }
}

/// What a good token says.
pub fn claims(user: &str) -> Value {
    json!({ "sub": user, "aud": "app", "exp": unix_now() + 60 })
}

pub fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// The keys of these signers, as a set.
pub fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<_> = signers.iter().map(|signer| signer.published()).collect();
    json!({ "keys": keys }).to_string()
}

/// An upstream that publishes keys.
pub struct KeyIssuer {
    pub upstream: Upstream,
    set: Arc<Mutex<String>>,
}

impl KeyIssuer {
    pub async fn of(signers: &[&Signer]) -> Self {
        let set = Arc::new(Mutex::new(key_set(signers)));
        let shown = Arc::clone(&set);
        let upstream = Upstream::replying(move |_| {
            let json = [("content-type", "application/json")];
            Reply::with_headers(200, &json, shown.lock().unwrap().clone())
        });
        Self {
            upstream: upstream.await,
            set,
        }
    }

    /// Publishes these instead.
    pub fn publish(&self, signers: &[&Signer]) {
        *self.set.lock().unwrap() = key_set(signers);
    }

    pub fn fetches(&self) -> usize {
        self.upstream.count()
    }
}
