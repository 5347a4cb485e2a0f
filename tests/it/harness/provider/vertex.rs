//! Vertex: models of Google and of Anthropic below a project, behind tokens that a service account is given here too.

use super::fault::{Due, Flavour};
use super::refusal::Refusal;
use super::{Answered, Asked, Behaviour, Shared, anthropic, fresh_id, gemini, list, text};
use crate::harness::unix_now;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::sync::OnceLock;

pub const PROJECT: &str = "scripted-project";
pub const LOCATION: &str = "europe-west4";
const EMAIL: &str = "gateway@scripted-project.iam.gserviceaccount.com";

/// One for all: making it takes a moment.
fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate(KeySize::Rsa2048).unwrap())
}

/// The key file of the service account; its tokens are given below this origin.
pub fn key_file(origin: &str) -> String {
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(key()).unwrap();
    let pem = STANDARD.encode(der.as_ref());
    json!({
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "scripted",
        "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
        "client_email": EMAIL,
        "token_uri": format!("{origin}/token"),
    })
    .to_string()
}

/// A token, or what is wrong with who asks.
pub fn token(shared: &Shared, asked: &Asked) -> Due {
    let behaviour = shared.behaviour.lock().unwrap().clone();
    let given = if behaviour.gives_tokens {
        verify(asked)
    } else {
        Err("account disabled".to_owned())
    };
    let body = if let Err(what) = &given {
        json!({"error": "invalid_grant", "error_description": what})
    } else {
        let token = fresh_id("ya29.scripted-");
        shared.issued.lock().unwrap().push(token.clone());
        json!({"access_token": token, "expires_in": behaviour.token_seconds, "token_type": "Bearer"})
    };
    let mut due = Due::json(Flavour::Other, &body);
    due.status = if given.is_ok() { 200 } else { 400 };
    due
}

fn verify(asked: &Asked) -> Result<(), String> {
    if asked.method != "POST" || asked.content_type() != "application/x-www-form-urlencoded" {
        return Err("no form".to_owned());
    }
    let form = String::from_utf8_lossy(&asked.raw).into_owned();
    let start = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let assertion = form.strip_prefix(start).ok_or("another grant")?;
    let (message, signature) = assertion.rsplit_once('.').ok_or("no JWT")?;
    let bytes = |text: &str| {
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|fault| fault.to_string())
    };
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key().public_key().as_ref())
        .verify(message.as_bytes(), &bytes(signature)?)
        .map_err(|_| "Invalid JWT Signature.".to_owned())?;
    let (_, claims) = message.split_once('.').ok_or("no JWT")?;
    let claims: Value =
        serde_json::from_slice(&bytes(claims)?).map_err(|fault| fault.to_string())?;
    let host = asked.header("host").unwrap_or_default();
    let (issued, ends) = (claims["iat"].as_u64(), claims["exp"].as_u64());
    let sound = claims["iss"] == EMAIL
        && claims["aud"] == format!("http://{host}/token")
        && claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        && issued.is_some_and(|at| at.abs_diff(unix_now()) < 60)
        && issued.map(|at| at + 3_600) == ends;
    if sound {
        Ok(())
    } else {
        Err(format!("claims {claims}"))
    }
}

pub fn answer(shared: &Shared, asked: &Asked, behaviour: &Behaviour) -> Answered {
    let shown = asked.header("authorization").unwrap_or_default();
    let token = shown.strip_prefix("Bearer ").unwrap_or_default();
    let known = shared.issued.lock().unwrap().iter().any(|one| one == token);
    if !known {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
        return (
            Flavour::Gemini,
            Err(Refusal::new(401, "UNAUTHENTICATED", message)),
        );
    }
    let base = format!("/v1/projects/{PROJECT}/locations/{LOCATION}/publishers/");
    let rest = asked.path.strip_prefix(&base).unwrap_or_default();
    let (publisher, rest) = rest.split_once("/models/").unwrap_or_default();
    let (model, verb) = rest.rsplit_once(':').unwrap_or_default();
    match publisher {
        "google" => google(asked, behaviour, rest),
        "anthropic" => claude(asked, behaviour, (model, verb)),
        _ => (
            Flavour::Gemini,
            Err(Refusal::new(404, "NOT_FOUND", "Not found.")),
        ),
    }
}

/// The same as Gemini's own API, but that roles must be told.
fn google(asked: &Asked, behaviour: &Behaviour, rest: &str) -> Answered {
    let named = |content: &Value| matches!(text(&content["role"]), "user" | "model");
    if !list(&asked.body["contents"]).iter().all(named) {
        let message = "Please use a valid role: user, model.";
        return (
            Flavour::Gemini,
            Err(Refusal::new(400, "INVALID_ARGUMENT", message)),
        );
    }
    let mut asked = asked.clone();
    asked.path = format!("/v1/models/{rest}");
    let key = behaviour.keys[0].clone();
    asked.headers.push(("x-goog-api-key".to_owned(), key));
    gemini::answer(&asked, behaviour)
}

/// The same as Anthropic's own API, but for the names of model and version.
fn claude(asked: &Asked, behaviour: &Behaviour, (model, verb): (&str, &str)) -> Answered {
    let refuse = |what: &str| {
        let refusal = Refusal::new(400, "invalid_request_error", what);
        (Flavour::Messages, Err(refusal))
    };
    let streams = match verb {
        "rawPredict" => false,
        "streamRawPredict" => true,
        _ => return refuse("no such verb"),
    };
    let mut asked = asked.clone();
    if asked.body["stream"].as_bool().unwrap_or_default() != streams {
        return refuse("stream: another one than the path says");
    }
    if asked.header("anthropic-version").is_some() || asked.body.get("model").is_some() {
        return refuse("model: Extra inputs are not permitted");
    }
    let Some(body) = asked.body.as_object_mut() else {
        return refuse("no object");
    };
    if body.shift_remove("anthropic_version") != Some(json!("vertex-2023-10-16")) {
        return refuse("anthropic_version: Field required");
    }
    body.insert("model".to_owned(), json!(model));
    "/v1/messages".clone_into(&mut asked.path);
    asked.headers.retain(|(name, _)| name != "authorization");
    for (name, value) in [
        ("x-api-key", behaviour.keys[0].as_str()),
        ("anthropic-version", "2023-06-01"),
    ] {
        asked.headers.push((name.to_owned(), value.to_owned()));
    }
    anthropic::answer(&asked, behaviour)
}
