//! Tokens of users, as an application signs them.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub const SECRET: &str = "a secret of a benchmark, of more than thirty-two bytes";

/// HS256 for `user-<nth>` and the audience `bench`, for longer than any run.
pub fn token(nth: usize) -> String {
    let claims = format!(r#"{{"sub":"user-{nth}","aud":"bench","exp":4102444800}}"#);
    let text = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let message = format!(
        "{}.{}",
        text(r#"{"alg":"HS256","typ":"JWT"}"#),
        text(&claims)
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}
