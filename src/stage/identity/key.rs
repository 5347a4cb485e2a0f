//! Keys that verify tokens. Each knows its one algorithm: what a token's header says only selects among
//! keys, it never changes how one verifies.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};

/// A set with more keys than this is not the key set of one issuer.
pub const KEYS_MAX: usize = 64;

/// Of a modulus: 2048 to 8192 bits (RFC 7518 3.3), and perhaps a zero before them.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1025;

/// The algorithms taken (RFC 7518 3.1, RFC 8037 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// As `alg` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// None for `none`, and for whatever else we do not verify. RFC 9864 calls `EdDSA` with this curve `Ed25519`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A key and its name. Never printed.
pub struct Key {
    /// `kid`; a key without one is tried for every token of its algorithm.
    pub id: Option<String>,
    material: Material,
}

enum Material {
    Secret(Box<hmac::Key>),
    Public(Algorithm, ParsedPublicKey),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} key {:?}", self.algorithm().name(), self.id)
    }
}

impl Key {
    /// HS256.
    pub fn secret(secret: &[u8]) -> Self {
        Self {
            id: None,
            material: Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))),
        }
    }

    /// A public key as PEM and certificates carry it (RFC 5280 4.1.2.7); its kind fixes the algorithm.
    fn spki(der: &[u8]) -> Option<Self> {
        let public = |algorithm, verification| {
            let key = ParsedPublicKey::new(verification, der).ok()?;
            Some(Material::Public(algorithm, key))
        };
        let material = public(Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256)
            .or_else(|| public(Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED))
            .or_else(|| public(Algorithm::EdDsa, &signature::ED25519))?;
        Some(Self { id: None, material })
    }

    /// A public key of a set (RFC 7517 4). None for keys that are not for verifying, of other algorithms,
    /// or symmetric: a secret that is published is none.
    fn jwk(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|all| !all.iter().any(|one| one == "verify")) {
            return None;
        }
        let (algorithm, key) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                if !RSA_BYTES.contains(&n.len()) {
                    return None;
                }
                let key = RsaPublicKeyComponents { n, e };
                let key = key.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256);
                (Algorithm::Rs256, key.ok()?)
            }
            ("EC", Some("P-256")) => {
                // SEC 1, 2.3.3: an uncompressed point.
                let point = [
                    vec![4],
                    coordinate(&bytes("x")?)?,
                    coordinate(&bytes("y")?)?,
                ]
                .concat();
                let key = ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                (Algorithm::Es256, key.ok()?)
            }
            ("OKP", Some("Ed25519")) => {
                let key = ParsedPublicKey::new(&signature::ED25519, coordinate(&bytes("x")?)?);
                (Algorithm::EdDsa, key.ok()?)
            }
            _ => return None,
        };
        if text("alg").is_some_and(|name| Algorithm::named(name) != Some(algorithm)) {
            return None;
        }
        Some(Self {
            id: text("kid").map(str::to_owned),
            material: Material::Public(algorithm, key),
        })
    }

    pub fn algorithm(&self) -> Algorithm {
        match &self.material {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Public(algorithm, _) => *algorithm,
        }
    }

    /// Whether this key made the signature. Takes the same time wherever a secret's signature differs.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(_, key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// 32 bytes exactly (RFC 7518 6.2.1.2).
fn coordinate(bytes: &[u8]) -> Option<Vec<u8>> {
    (bytes.len() == 32).then(|| bytes.to_vec())
}

/// Reads a set of keys (RFC 7517 5). Keys that cannot be used are left out, as the RFC asks; a set
/// without any that can, or with more than [`KEYS_MAX`], is an error.
pub fn read_set(json: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(json).map_err(|error| format!("not JSON: {error}"))?;
    let list = set.get("keys").and_then(Value::as_array);
    let list = list.ok_or("there is no list `keys`, as a key set (JWKS) has it")?;
    if list.len() > KEYS_MAX {
        return Err(format!("{} keys, at most {KEYS_MAX} are taken", list.len()));
    }
    let keys = list.iter().filter_map(Value::as_object);
    let keys: Vec<_> = keys.filter_map(Key::jwk).collect();
    if keys.is_empty() {
        return Err(format!(
            "none of its {} keys can be used: RSA (2048 bits or more), EC P-256 or Ed25519, for signatures",
            list.len()
        ));
    }
    Ok(keys)
}

/// Reads a file of public keys: a set, or PEM.
pub fn read_file(content: &[u8]) -> Result<Vec<Key>, String> {
    if content.trim_ascii_start().starts_with(b"{") {
        return read_set(content);
    }
    let mut keys = Vec::new();
    for der in SubjectPublicKeyInfoDer::pem_slice_iter(content) {
        let der = der.map_err(|error| format!("broken PEM: {error}"))?;
        let key = Key::spki(&der)
            .ok_or("a public key is neither RSA (2048 bits or more) nor EC P-256 nor Ed25519")?;
        keys.push(key);
    }
    match keys.len() {
        0 => Err(
            "no key in it: a JWKS or PEM with `-----BEGIN PUBLIC KEY-----` is expected".to_owned(),
        ),
        1..=KEYS_MAX => Ok(keys),
        many => Err(format!("{many} keys, at most {KEYS_MAX} are taken")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Key, message and signature of RFC 7515 A.3 and RFC 8037 A.
    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ED25519: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn one(jwk: &str) -> Result<Key, String> {
        let mut keys = read_set(format!("{{\"keys\":[{jwk}]}}").as_bytes())?;
        Ok(keys.remove(0))
    }

    fn verifies(key: &Key, token: &str) -> bool {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        key.verifies(message.as_bytes(), &signature)
    }

    #[test]
    fn the_examples_of_the_rfcs_verify() {
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let secret = Key::secret(&URL_SAFE_NO_PAD.decode(secret).unwrap());
        let hs256 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let es256 = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let eddsa = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let (p256, ed25519) = (one(P256).unwrap(), one(ED25519).unwrap());
        for (key, token) in [(&secret, hs256), (&p256, es256), (&ed25519, eddsa)] {
            assert!(verifies(key, token), "{key:?}");
            for other in [hs256, es256, eddsa]
                .iter()
                .filter(|other| **other != token)
            {
                assert!(!verifies(key, other), "{key:?}");
            }
        }
    }

    #[test]
    fn keys_that_cannot_verify_are_left_out() {
        for (jwk, why) in [
            (r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(), "a secret"),
            (P256.replace("P-256", "P-384"), "another curve"),
            (P256.replace('}', r#","use":"enc"}"#), "for encryption"),
            (P256.replace('}', r#","key_ops":["sign"]}"#), "for signing"),
            (P256.replace('}', r#","alg":"ES384"}"#), "another algorithm"),
            (
                P256.replace('}', r#","alg":"HS256"}"#),
                "a confused algorithm",
            ),
            (P256.replace("f83O", "f83P"), "not on the curve"),
            (ED25519.replace("11qY", ""), "too short"),
            (
                r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(),
                "a small modulus",
            ),
            ("1".to_owned(), "no object"),
        ] {
            assert!(one(&jwk).is_err(), "{why}");
            let both = format!("{{\"keys\":[{jwk},{ED25519}]}}");
            assert_eq!(read_set(both.as_bytes()).unwrap().len(), 1, "{why}");
        }
        let many = json!({ "keys": vec![json!({}); KEYS_MAX + 1] }).to_string();
        for broken in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, &many] {
            assert!(read_set(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_file_holds_a_set_or_pem() {
        let pem = |algorithm| {
            rcgen::KeyPair::generate_for(algorithm)
                .unwrap()
                .public_key_pem()
        };
        for (algorithm, expected) in [
            (&rcgen::PKCS_RSA_SHA256, Algorithm::Rs256),
            (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::Es256),
            (&rcgen::PKCS_ED25519, Algorithm::EdDsa),
        ] {
            let keys = read_file(pem(algorithm).as_bytes()).unwrap();
            assert_eq!(keys[0].algorithm(), expected);
        }
        let two = pem(&rcgen::PKCS_ED25519) + &pem(&rcgen::PKCS_ED25519);
        assert_eq!(read_file(two.as_bytes()).unwrap().len(), 2);
        let set = format!("\n {{\"keys\":[{P256}]}}");
        assert_eq!(
            read_file(set.as_bytes()).unwrap()[0].algorithm(),
            Algorithm::Es256
        );
        let p384 = pem(&rcgen::PKCS_ECDSA_P384_SHA384);
        for (content, said) in [
            ("", "no key in it"),
            (
                "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n",
                "broken PEM",
            ),
            (&p384, "neither RSA"),
        ] {
            assert!(
                read_file(content.as_bytes()).unwrap_err().contains(said),
                "{content}"
            );
        }
    }
}
