//! Tokens good, bad and hostile, and issuers that come and go.

use super::*;
use crate::base::client::Client;
use crate::base::secret::Secret;
use crate::base::units::OneOrMany;
use crate::stage::identity::jwks::{Fetch, Fetched, Source};
use crate::stage::identity::key;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use proptest::prelude::*;
use serde_json::json;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "a shared secret of more than thirty-two bytes";

/// Somebody who signs tokens.
enum Signer {
    Hs256(Vec<u8>),
    Rs256(Box<RsaKeyPair>),
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    fn secret(secret: &str) -> Self {
        Self::Hs256(secret.as_bytes().to_vec())
    }

    fn rsa() -> Self {
        Self::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    fn ec() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn ed() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().unwrap())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.unwrap();
                signature
            }
            Self::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn jwk(&self, id: Option<&str>) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Hs256(_) => panic!("a secret is not published"),
            Self::Rs256(pair) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "n": text(&parts.n), "e": text(&parts.e) })
            }
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
            Self::EdDsa(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
        };
        if let Some(id) = id {
            jwk["kid"] = id.into();
        }
        jwk
    }

    fn token(&self, header: &str, claims: &str) -> String {
        let text = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let message = format!("{}.{}", text(header), text(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn plain(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.alg() });
        self.token(&header.to_string(), &claims.to_string())
    }

    fn named(&self, id: &str) -> String {
        let header = json!({ "alg": self.alg(), "kid": id });
        self.token(&header.to_string(), &good().to_string())
    }
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn good() -> Value {
    json!({ "sub": "u-1", "exp": NOW + 60, "iss": "https://issuer.test", "aud": "app" })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn settings() -> JwtSettings {
    JwtSettings {
        issuer: OneOrMany(vec!["https://issuer.test".to_owned()]),
        audience: OneOrMany(vec!["app".to_owned(), "other".to_owned()]),
        plan: Some("app_metadata.plan".to_owned()),
        roles: Some("roles".to_owned()),
        headers: [("x-email".to_owned(), "email".to_owned())].into(),
        ..JwtSettings::default()
    }
}

fn by_secret() -> Jwt {
    let settings = JwtSettings {
        secret: Some(Secret::new(SECRET.to_owned())),
        ..settings()
    };
    Jwt::build("jwt".into(), &settings, Vec::new(), None).unwrap()
}

fn by_keys(keys: &[Value]) -> Jwt {
    let keys = key::read_set(&set(keys)).unwrap();
    Jwt::build("jwt".into(), &settings(), keys, None).unwrap()
}

fn ask(jwt: &Jwt, token: &str) -> Verdict {
    let caller = Caller {
        credential: Some(Credential::new(token.to_owned()).unwrap()),
        parts: &http::Request::new(()).into_parts().0,
        client: &Client::default(),
        clock: Clock {
            unix: NOW,
            now: Instant::now(),
        },
    };
    jwt.identify(&caller)
}

fn said(jwt: &Jwt, token: &str) -> Result<Arc<Principal>, Reason> {
    match ask(jwt, token) {
        Verdict::Known(principal) => Ok(principal),
        Verdict::Refused(reason) => Err(reason),
        Verdict::Absent => panic!("no token: {token}"),
        Verdict::Waiting(_) => panic!("nothing to wait for: {token}"),
    }
}

fn why(jwt: &Jwt, token: &str) -> Option<Reason> {
    said(jwt, token).err()
}

#[test]
fn each_claim_is_checked() {
    let (jwt, signer) = (by_secret(), Signer::secret(SECRET));
    for (claims, expected) in [
        (good(), None),
        (with("exp", json!(NOW - 29)), None),
        (with("exp", json!(NOW - 30)), Some(Reason::Expired)),
        (with("exp", json!(0)), Some(Reason::Expired)),
        (with("exp", json!(-1)), Some(Reason::Expired)),
        (with("exp", json!(1e300)), None),
        (
            with("exp", json!(format!("{}", NOW + 60))),
            Some(Reason::Malformed),
        ),
        (with("exp", json!(null)), Some(Reason::Malformed)),
        (with("nbf", json!(NOW + 30)), None),
        (with("nbf", json!(NOW + 31)), Some(Reason::NotYet)),
        (with("nbf", json!([])), Some(Reason::Malformed)),
        (
            with("iss", json!("https://issuer.test/")),
            Some(Reason::Issuer),
        ),
        (
            with("iss", json!(["https://issuer.test"])),
            Some(Reason::Issuer),
        ),
        (with("aud", json!(["x", "other"])), None),
        (with("aud", json!("App")), Some(Reason::Audience)),
        (with("aud", json!([])), Some(Reason::Audience)),
        (with("aud", json!({ "app": 1 })), Some(Reason::Audience)),
        (with("sub", json!("jürgen")), None),
        (with("sub", json!("\u{1F600}")), None),
        (with("sub", json!(12)), None),
        (with("sub", json!("")), Some(Reason::NoUser)),
        (with("sub", json!("a\r\nx-admin: 1")), Some(Reason::NoUser)),
        (with("sub", json!("a\u{0}")), Some(Reason::NoUser)),
        (with("sub", json!({ "id": 1 })), Some(Reason::NoUser)),
        (with("sub", json!("u".repeat(300))), Some(Reason::NoUser)),
        (
            json!({ "sub": "u", "iss": "https://issuer.test", "aud": "app" }),
            Some(Reason::Expired),
        ),
        (
            json!({ "exp": NOW + 60, "aud": "app" }),
            Some(Reason::Issuer),
        ),
    ] {
        assert_eq!(why(&jwt, &signer.plain(&claims)), expected, "{claims}");
    }
}

#[test]
fn an_asterisk_takes_tokens_for_anybody() {
    let settings = JwtSettings {
        secret: Some(Secret::new(SECRET.to_owned())),
        audience: OneOrMany(vec!["*".to_owned()]),
        ..settings()
    };
    let jwt = Jwt::build("jwt".into(), &settings, Vec::new(), None).unwrap();
    let mut nobody = good();
    nobody.as_object_mut().unwrap().remove("aud");
    for claims in [good(), with("aud", json!("others")), nobody] {
        assert_eq!(why(&jwt, &Signer::secret(SECRET).plain(&claims)), None);
    }
}

#[test]
fn a_token_that_can_be_read_in_two_ways_is_refused() {
    let (jwt, signer) = (by_secret(), Signer::secret(SECRET));
    let hs256 = r#"{"alg":"HS256"}"#;
    let claims = good().to_string();
    let twice = |name: &str| claims.replacen('{', &format!("{{\"{name}\":\"admin\","), 1);
    for (header, claims) in [
        (hs256, twice("sub").as_str()),
        (hs256, &twice("s\\u0075b")),
        (hs256, &twice("exp")),
        (r#"{"alg":"HS256","alg":"HS256"}"#, &claims),
        (r#"{"alg":"none","alg":"HS256"}"#, &claims),
        (r#"{"alg":["HS256"]}"#, &claims),
        (r#"{"alg":"HS256","kid":7}"#, &claims),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, &claims),
        (r#"{"kid":"a"}"#, &claims),
        (hs256, "[]"),
        (hs256, ""),
        (hs256, "\u{feff}{}"),
    ] {
        let token = signer.token(header, claims);
        assert_eq!(
            why(&jwt, &token),
            Some(Reason::Malformed),
            "{header} {claims}"
        );
    }
    let token = signer.plain(&good());
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts");
    };
    for broken in [
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}!"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}..{signature}"),
        format!("{header}.{payload}."),
    ] {
        let refused = why(&jwt, &broken);
        let expected = [Some(Reason::Malformed), Some(Reason::Signature)];
        assert!(expected.contains(&refused), "{broken}: {refused:?}");
    }
}

#[test]
fn only_the_algorithm_of_a_key_verifies() {
    let (rsa, ec, ed) = (Signer::rsa(), Signer::ec(), Signer::ed());
    let published = [rsa.jwk(Some("r")), ec.jwk(Some("e")), ed.jwk(None)];
    let jwt = by_keys(&published);
    let claims = good().to_string();
    for signer in [&rsa, &ec, &ed] {
        assert_eq!(why(&jwt, &signer.plain(&good())), None, "{}", signer.alg());
    }
    assert_eq!(why(&jwt, &rsa.named("r")), None);
    // The oldest trick: the public key, which everybody has, as the secret of HS256.
    let public = published[0]["n"].as_str().unwrap();
    for secret in [
        public.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(public).unwrap(),
    ] {
        let forger = Signer::Hs256(secret);
        for id in ["r", "e", "unheard-of"] {
            assert_eq!(why(&jwt, &forger.named(id)), Some(Reason::Algorithm));
        }
    }
    for (header, expected) in [
        (r#"{"alg":"none"}"#, Reason::Algorithm),
        (r#"{"alg":"None"}"#, Reason::Algorithm),
        (r#"{"alg":""}"#, Reason::Algorithm),
        (r#"{"alg":"rs256"}"#, Reason::Algorithm),
        (r#"{"alg":"RS512"}"#, Reason::Algorithm),
        (r#"{"alg":"ES256","kid":"r"}"#, Reason::Algorithm),
        (r#"{"alg":"RS256","kid":"e"}"#, Reason::Algorithm),
        (
            r#"{"alg":"RS256","jwk":{"kty":"oct"},"jku":"https://evil.test"}"#,
            Reason::Signature,
        ),
    ] {
        let token = Signer::ed().token(header, &claims);
        assert_eq!(why(&jwt, &token), Some(expected), "{header}");
    }
    let unsigned = ed.token(r#"{"alg":"none"}"#, &claims);
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    assert_eq!(why(&jwt, &unsigned), Some(Reason::Algorithm));
}

#[test]
fn a_strangers_signature_is_worth_nothing() {
    let (ours, theirs) = (Signer::ec(), Signer::ec());
    let jwt = by_keys(&[ours.jwk(Some("a"))]);
    assert_eq!(why(&jwt, &theirs.named("a")), Some(Reason::Signature));
    assert_eq!(why(&jwt, &theirs.plain(&good())), Some(Reason::Signature));
    assert_eq!(why(&jwt, &theirs.named("b")), Some(Reason::UnknownSigner));
    assert_eq!(
        why(&by_secret(), &Signer::secret("another").plain(&good())),
        Some(Reason::Signature)
    );
}

#[test]
fn a_principal_is_made_of_the_claims_that_were_chosen() {
    let claims = json!({
        "sub": "u-1", "exp": NOW + 60, "iss": "https://issuer.test", "aud": "app",
        "app_metadata": { "plan": "pro" }, "roles": ["admin", "editor"], "email": "a@b.test",
    });
    let principal = said(&by_secret(), &Signer::secret(SECRET).plain(&claims)).unwrap();
    assert_eq!(&*principal.user, "u-1");
    assert_eq!(principal.plan.as_deref(), Some("pro"));
    assert_eq!(principal.roles, [Arc::from("admin"), Arc::from("editor")]);
    let headers: Vec<_> = principal
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    assert_eq!(
        headers,
        [("x-user-id", b"u-1".as_slice()), ("x-email", b"a@b.test")]
    );
    // What cannot be a header is not sent.
    let hostile = with("email", json!("a\r\nx-admin: 1"));
    let principal = said(&by_secret(), &Signer::secret(SECRET).plain(&hostile)).unwrap();
    assert_eq!(principal.headers.len(), 1);
}

#[test]
fn what_is_no_token_is_for_another_method() {
    for text in ["om_abc", "sk-1.2.3", "eyJ.only", "ey.a.b.c"] {
        assert!(matches!(ask(&by_secret(), text), Verdict::Absent), "{text}");
    }
}

#[test]
fn a_token_that_was_good_is_not_good_for_ever() {
    let (jwt, token) = (by_secret(), Signer::secret(SECRET).plain(&good()));
    let at = |unix| {
        let verdict = jwt.0.judge(&token, unix);
        verdict.map_err(|refused| match refused {
            Refused::For(reason) => reason,
            Refused::Unknown => panic!("the secret is known"),
        })
    };
    let first = at(NOW).unwrap();
    let again = at(NOW + 89).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "not verified twice");
    assert_eq!(at(NOW + 90).err(), Some(Reason::Expired));
    // Other rules have to see for themselves.
    assert_eq!(
        why(&by_keys(&[Signer::ec().jwk(None)]), &token),
        Some(Reason::Algorithm)
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_dies_with_its_key() {
    let (old, new) = (Signer::ec(), Signer::ed());
    let answers = vec![
        Ok(set(&[old.jwk(Some("a"))])),
        Ok(set(&[new.jwk(Some("b"))])),
    ];
    let tokens = [
        old.named("a"),
        old.named("a"),
        new.named("b"),
        old.named("a"),
    ];
    let said = with_issuer(answers, &tokens).await;
    let reasons: Vec<_> = said.into_iter().map(Result::err).collect();
    // Of the last one it cannot be said, since the issuer does not answer any more.
    assert_eq!(reasons, [None, None, None, Some(Reason::NoKeys)]);
}

struct Scripted(Mutex<Vec<Result<Vec<u8>, String>>>);

impl Fetch for Scripted {
    async fn fetch(&self) -> Result<Fetched, String> {
        let next = self.0.lock().unwrap().pop();
        let Some(next) = next else {
            return std::future::pending().await;
        };
        next.map(|body| Fetched {
            body,
            max_age: None,
        })
    }
}

/// What is said of these tokens, one after the other, while the issuer answers like this.
async fn with_issuer(
    answers: Vec<Result<Vec<u8>, String>>,
    tokens: &[String],
) -> Vec<Result<Arc<Principal>, Reason>> {
    let jwks = Arc::new(Jwks::new(Source {
        url: "http://issuer.test/".to_owned(),
        authorities: None,
        refresh: Duration::from_mins(10),
    }));
    let script = Scripted(Mutex::new(answers.into_iter().rev().collect()));
    let jwt = Jwt::build(
        "jwt".into(),
        &settings(),
        Vec::new(),
        Some(Arc::clone(&jwks)),
    )
    .unwrap();
    let asking = async {
        let mut said = Vec::new();
        for token in tokens {
            said.push(match ask(&jwt, token) {
                Verdict::Known(principal) => Ok(principal),
                Verdict::Refused(reason) => Err(reason),
                Verdict::Absent => panic!("it is a token"),
                Verdict::Waiting(waiting) => waiting.settle(NOW).await,
            });
        }
        said
    };
    tokio::select! {
        biased;
        said = asking => said,
        () = jwks.keep_fresh(&script, |_| {}) => panic!("it never ends"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_when_a_token_names_it() {
    let (old, new) = (Signer::ec(), Signer::ed());
    let (first, second) = (
        set(&[old.jwk(Some("a"))]),
        set(&[old.jwk(Some("a")), new.jwk(Some("b"))]),
    );
    let tokens = [
        old.named("a"),
        new.named("b"),
        old.named("a"),
        new.named("b"),
    ];
    let said = with_issuer(vec![Ok(first), Ok(second)], &tokens).await;
    assert!(said.iter().all(Result::is_ok), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_without_a_name_may_be_replaced_too() {
    let (old, new) = (Signer::ec(), Signer::ec());
    let answers = vec![Ok(set(&[old.jwk(None)])), Ok(set(&[new.jwk(None)]))];
    let said = with_issuer(answers, &[old.plain(&good()), new.plain(&good())]).await;
    assert!(said.iter().all(Result::is_ok), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_issuer_known_keys_go_on_and_others_are_nobodys_fault() {
    let (old, new) = (Signer::ec(), Signer::ed());
    let down = || Err("down".to_owned());
    let tokens = [old.named("a"), new.named("b"), old.named("a")];
    let said = with_issuer(vec![Ok(set(&[old.jwk(Some("a"))])), down()], &tokens).await;
    let reasons: Vec<_> = said.into_iter().map(Result::err).collect();
    assert_eq!(reasons, [None, Some(Reason::NoKeys), None]);
    // From the beginning.
    let said = with_issuer(vec![down(), down(), down()], &tokens[..1]).await;
    assert_eq!(said[0].as_ref().err(), Some(&Reason::NoKeys));
    // It is there, but does not know the key.
    let set = || Ok(set(&[old.jwk(Some("a"))]));
    let said = with_issuer(vec![set(), set()], &[old.named("a"), new.named("b")]).await;
    assert_eq!(said[1].as_ref().err(), Some(&Reason::UnknownSigner));
}

#[tokio::test(start_paused = true)]
async fn inventing_names_of_keys_leads_to_few_fetches() {
    let old = Signer::ec();
    let answers: Vec<_> = (0..100).map(|_| Ok(set(&[old.jwk(Some("a"))]))).collect();
    let invented: Vec<_> = (0..50)
        .map(|at| Signer::ed().named(&format!("x{at}")))
        .collect();
    let script = answers.len();
    let said = with_issuer(answers, &invented).await;
    assert!(
        said.iter()
            .all(|one| one.as_ref().err() == Some(&Reason::UnknownSigner))
    );
    assert_eq!(
        script, 100,
        "and nobody had to wait for more than the burst"
    );
}

proptest! {
    #[test]
    fn no_change_of_a_token_survives(at in 0_usize..1000, to in "[A-Za-z0-9_.-]") {
        let token = Signer::secret(SECRET).plain(&good());
        let at = at % token.len();
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        if changed != token && Credential::new(changed.clone()).unwrap().is_token() {
            prop_assert!(why(&by_secret(), &changed).is_some(), "{}", changed);
        }
    }

    #[test]
    fn any_three_parts_are_judged_without_harm(parts in "ey[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
        prop_assert!(why(&by_secret(), &parts).is_some());
    }
}
