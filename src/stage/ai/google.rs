//! Service accounts of Google's cloud: what they show to be given a token, and what they are given.
//!
//! Sources: <https://developers.google.com/identity/protocols/oauth2/service-account>, RFC 7523.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::time::Duration;

/// What tokens are for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long an assertion is good for; the longest that Google takes.
const GOOD_FOR: u64 = 3_600;
/// The longest token that is taken, in bytes; Google's have some 1,000.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// A token whose end is not told, and the longest that is believed.
const TOKEN_TIME_MAX: Duration = Duration::from_hours(1);

/// Who asks for tokens, as its key file says.
pub struct Account {
    email: String,
    /// Where tokens are given.
    pub token_uri: String,
    key_id: Option<String>,
    key: KeyPair,
}

/// What is given.
#[derive(PartialEq, Eq)]
pub struct Grant {
    pub token: String,
    /// From when it was asked for.
    pub good_for: Duration,
}

#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: Option<String>,
    token_uri: String,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

impl Account {
    /// Of a key file, which is never shown: what is wrong is told without what is in it.
    pub fn parse(file: &str) -> Result<Self, &'static str> {
        let file: KeyFile = serde_json::from_str(file)
            .map_err(|_| "it is not the JSON key file of a service account")?;
        if file.kind != "service_account" {
            return Err("it is the key file of something else than a service account");
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(file.private_key.as_bytes())
            .map_err(|_| "its `private_key` is not a key in PEM")?;
        let key = KeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|_| "its `private_key` is not an RSA key of 2048 bits or more")?;
        Ok(Self {
            email: file.client_email,
            token_uri: file.token_uri,
            key_id: file.private_key_id,
            key,
        })
    }

    /// The form to be posted for a token. `now`: seconds since 1970.
    pub fn form(&self, now: u64) -> Result<String, String> {
        let assertion = self.assertion(now)?;
        // Neither base64url nor dots need to be escaped.
        Ok(format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        ))
    }

    fn assertion(&self, now: u64) -> Result<String, String> {
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now,
            "exp": now + GOOD_FOR,
        });
        let text = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", text(&header), text(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message.as_bytes(),
                &mut signature,
            )
            .map_err(|_| "the key cannot sign".to_owned())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("email", &self.email)
            .field("token_uri", &self.token_uri)
            .finish_non_exhaustive()
    }
}

impl Grant {
    /// Of the answer to the form, or why there is none.
    pub fn read(status: u16, body: &[u8]) -> Result<Self, String> {
        if status != 200 {
            let refused: Option<Refused> = serde_json::from_slice(body).ok();
            let why = refused.map(|refused| match refused.error_description {
                Some(why) => format!(": {}: {why}", refused.error),
                None => format!(": {}", refused.error),
            });
            let why: String = why.unwrap_or_default().chars().take(500).collect();
            return Err(format!("the answer is {status}{why}"));
        }
        let given: Given =
            serde_json::from_slice(body).map_err(|_| "the answer has no token".to_owned())?;
        let kind = given.token_type.as_deref().unwrap_or("Bearer");
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err("the token is not one to be borne".to_owned());
        }
        let token = given.access_token;
        let sound = !token.is_empty()
            && token.len() <= TOKEN_BYTES_MAX
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !sound {
            return Err("the token cannot be sent in a header".to_owned());
        }
        let good_for = given.expires_in.map_or(TOKEN_TIME_MAX, Duration::from_secs);
        Ok(Self {
            token,
            good_for: good_for.min(TOKEN_TIME_MAX),
        })
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token for {:?}", self.good_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::engine::general_purpose::STANDARD;
    use serde_json::Value;

    fn file() -> Value {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
        let pem = STANDARD.encode(der.as_ref());
        json!({
            "type": "service_account",
            "client_email": "gateway@project.iam.gserviceaccount.com",
            "private_key_id": "k1",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
            "token_uri": "https://oauth2.googleapis.com/token",
            "project_id": "project",
        })
    }

    #[test]
    fn an_assertion_says_who_asks_for_what_and_can_be_verified() {
        let account = Account::parse(&file().to_string()).unwrap();
        let form = account.form(1_000).unwrap();
        let (grant, assertion) = form.split_once("&assertion=").unwrap();
        assert_eq!(
            grant,
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"
        );
        let parts: Vec<&str> = assertion.split('.').collect();
        let bytes = |at: usize| URL_SAFE_NO_PAD.decode(parts[at]).unwrap();
        let json = |at: usize| serde_json::from_slice::<Value>(&bytes(at)).unwrap();
        assert_eq!(
            json(0),
            json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" })
        );
        assert_eq!(
            json(1),
            json!({
                "iss": "gateway@project.iam.gserviceaccount.com",
                "scope": "https://www.googleapis.com/auth/cloud-platform",
                "aud": "https://oauth2.googleapis.com/token",
                "iat": 1_000, "exp": 4_600,
            })
        );
        let public = account.key.public_key().as_ref().to_vec();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
        let message = format!("{}.{}", parts[0], parts[1]);
        public.verify(message.as_bytes(), &bytes(2)).unwrap();
    }

    #[test]
    fn what_is_no_key_file_is_told_without_what_is_in_it() {
        for (name, value, part) in [
            ("type", json!("authorized_user"), "something else"),
            ("private_key", json!("hush"), "not a key in PEM"),
            (
                "private_key",
                json!("-----BEGIN PRIVATE KEY-----\naHVzaA==\n-----END PRIVATE KEY-----\n"),
                "not an RSA key",
            ),
            ("client_email", Value::Null, "not the JSON key file"),
            ("token_uri", json!(7), "not the JSON key file"),
        ] {
            let mut file = file();
            file[name] = value;
            let why = Account::parse(&file.to_string()).unwrap_err();
            assert!(why.contains(part) && !why.contains("hush"), "{name}: {why}");
        }
        assert!(Account::parse("hush").is_err());
        let shown = format!("{:?}", Account::parse(&file().to_string()).unwrap());
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }

    #[test]
    fn a_token_is_taken_with_its_time_or_refused_with_its_reason() {
        for (status, body, expected) in [
            (
                200,
                r#"{"access_token":"t","expires_in":3599,"token_type":"Bearer"}"#,
                Ok(3_599),
            ),
            (200, r#"{"access_token":"t"}"#, Ok(3_600)),
            (
                200,
                r#"{"access_token":"t","expires_in":999999999}"#,
                Ok(3_600),
            ),
            (
                200,
                r#"{"access_token":"","expires_in":1}"#,
                Err("in a header"),
            ),
            (200, r#"{"access_token":"a b"}"#, Err("in a header")),
            (
                200,
                r#"{"access_token":"t","token_type":"mac"}"#,
                Err("to be borne"),
            ),
            (200, "{}", Err("no token")),
            (200, "<html>", Err("no token")),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#,
                Err("400: invalid_grant: Invalid JWT Signature."),
            ),
            (503, "", Err("the answer is 503")),
        ] {
            let read = Grant::read(status, body.as_bytes());
            match expected {
                Ok(seconds) => assert_eq!(read.unwrap().good_for.as_secs(), seconds, "{body}"),
                Err(part) => {
                    let why = read.unwrap_err();
                    assert!(why.contains(part), "{body}: {why}");
                }
            }
        }
    }
}
