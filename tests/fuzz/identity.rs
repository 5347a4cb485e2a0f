//! Credentials and tokens: only a genuine one names anybody, and none is left for the endpoint.

use crate::fuzz;
use crate::mutate::mutated;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Request, header};
use onemind_gateway::base::client::Client;
use onemind_gateway::base::secret::Secret;
use onemind_gateway::stage::identity::chain::{Chain, Clock, Method, Outcome};
use onemind_gateway::stage::identity::credential::{Places, read, strip, target};
use onemind_gateway::stage::identity::jwt::Jwt;
use onemind_gateway::stage::identity::key::{read_file, read_set};
use onemind_gateway::stage::identity::settings::JwtSettings;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Instant;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "a shared secret of more than thirty-two bytes";
const ALL: Places = Places {
    bearer: true,
    headers: true,
    query: true,
};
const WORDS: &[&str] = &[
    "Bearer ",
    "bearer  ",
    "Basic ",
    ",",
    ", ",
    " ",
    "\t",
    ".",
    "..",
    "=",
    "&",
    "key=",
    "k%65y=",
    "%",
    "%00",
    "openai-insecure-api-key.",
    "eyJhbGciOiJub25lIn0",
    "eyJhbGciOiJIUzI1NiJ9",
    "e30",
    "é",
    "\u{0}",
];

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn whatever_is_sent_no_credential_is_left() {
    let values = mutated(
        seeds(&[
            "Bearer om_abcdefgh0123456789",
            "om_abcdefgh0123456789",
            "realtime, openai-insecure-api-key.om_abcdefgh, v1",
            "a=b&key=om_abcdefgh&c",
        ]),
        WORDS,
    );
    let all = prop::collection::vec(values, 4);
    fuzz("credential", 8_000, &all, |values| {
        let path = format!("/p?{}", String::from_utf8_lossy(&values[3]));
        let Ok(request) = Request::builder().uri(&path).body(()) else {
            return Ok(());
        };
        let mut head = request.into_parts().0;
        let names = [
            header::AUTHORIZATION,
            header::SEC_WEBSOCKET_PROTOCOL,
            "x-api-key".parse().unwrap(),
        ];
        for (name, value) in names.into_iter().zip(&values) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                head.headers.append(name, value);
            }
        }
        let _ = read(&head, ALL);
        let stripped = strip(&head.headers, ALL);
        for name in &stripped.remove {
            head.headers.remove(name);
        }
        head.headers.extend(stripped.set);
        if let Some(target) = head
            .uri
            .path_and_query()
            .and_then(|p| target(p.as_str(), ALL))
        {
            let parsed = target.parse();
            prop_assert!(parsed.is_ok(), "{target} is no target");
            head.uri = parsed.unwrap();
        }
        prop_assert_eq!(read(&head, ALL), Ok(None));
        Ok(())
    });
}

fn signed(header: &str, claims: &str) -> String {
    let text = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let message = format!("{}.{}", text(header), text(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn by_tokens() -> Chain {
    let settings = JwtSettings {
        secret: Some(Secret::new(SECRET.to_owned())),
        ..JwtSettings::default()
    };
    let jwt = Jwt::build("users".into(), &settings, Vec::new(), None).unwrap();
    Chain::new(vec![Arc::new(Method {
        name: "users".into(),
        word: "jwt",
        identify: Arc::new(jwt),
    })])
}

/// Who a token names, if anybody.
fn named(chain: &Chain, token: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    let request = Request::builder().header(header::AUTHORIZATION, value);
    let parts = request.body(()).unwrap().into_parts().0;
    let clock = Clock {
        unix: NOW,
        now: Instant::now(),
    };
    match chain.identify(&parts, &Client::default(), clock) {
        Ok(Outcome::Known(principal)) => Some(principal.user.to_string()),
        _ => None,
    }
}

#[test]
fn only_what_was_signed_names_anybody() {
    let chain = by_tokens();
    let claims = |user: &str| format!(r#"{{"sub":"{user}","exp":{}}}"#, NOW + 60);
    let hs256 = r#"{"alg":"HS256","typ":"JWT"}"#;
    let genuine = [
        signed(hs256, &claims("alice")),
        signed(hs256, &claims("bob")),
    ];
    let unsigned = signed(r#"{"alg":"none"}"#, &claims("admin"));
    let tokens: Vec<&str> = genuine
        .iter()
        .chain([&unsigned])
        .map(String::as_str)
        .collect();
    fuzz("token", 4_000, &mutated(seeds(&tokens), WORDS), |token| {
        if let Some(user) = named(&chain, &token) {
            let token = token.trim_ascii();
            let is_genuine = genuine.iter().any(|one| one.as_bytes() == token);
            prop_assert!(is_genuine, "{user} by {}", String::from_utf8_lossy(token));
        }
        Ok(())
    });
}

#[test]
fn whatever_an_issuer_signs_is_read_in_one_way_or_not_at_all() {
    let chain = by_tokens();
    let claims = format!(
        r#"{{"sub":"alice","exp":{},"nbf":0,"a":{{"b":["c",1.5,null,true]}}}}"#,
        NOW + 60
    );
    let words: &[&str] = &[
        "\"sub\":\"admin\",",
        "\"s\\u0075b\":1,",
        "{",
        "}",
        "[",
        "\"",
        ",",
        ":",
        "\\",
        "-",
        "e9",
        "\\u0000",
        "\\ud800",
        "null",
    ];
    fuzz(
        "claims",
        4_000,
        &mutated(seeds(&[&claims]), words),
        |claims| {
            let claims = String::from_utf8_lossy(&claims);
            if let Some(user) = named(&chain, signed(r#"{"alg":"HS256"}"#, &claims).as_bytes()) {
                let plain: serde_json::Value = serde_json::from_str(&claims).unwrap();
                let sub = &plain["sub"];
                let said = sub.as_str().map_or_else(|| sub.to_string(), str::to_owned);
                prop_assert_eq!(&user, &said);
                prop_assert!(!user.chars().any(char::is_control));
            }
            Ok(())
        },
    );
}

#[test]
fn keys_are_read_or_refused() {
    let set = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let words: &[&str] = &[
        "\"", "{", "}", "oct", "RSA", "P-384", "HS256", "-----", "=", "\n",
    ];
    fuzz(
        "keys",
        4_000,
        &mutated(seeds(&[set, pem]), words),
        |content| {
            for keys in [read_set(&content), read_file(&content)]
                .into_iter()
                .flatten()
            {
                prop_assert!(!keys.is_empty());
                for key in keys {
                    prop_assert!(!key.verifies(b"message", b"signature"));
                }
            }
            Ok(())
        },
    );
}
