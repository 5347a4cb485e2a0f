//! Requests signed for AWS: Signature Version 4, in the `Authorization` header.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use crate::base::secret::Secret;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use std::fmt::Write;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    /// Of credentials that are good for some hours.
    pub session_token: Option<Secret>,
}

/// For whom it is good.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
}

/// What is signed; it has no query.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// As it is sent, encoded once.
    pub path: &'a str,
    /// As `Host` says it.
    pub host: &'a str,
    pub content_type: Option<&'a str>,
    pub body: &'a [u8],
}

/// Headers to be sent with the request, by their names. `now`: seconds since 1970; AWS takes a signature for five
/// minutes.
pub fn sign(
    credentials: &Credentials,
    scope: Scope<'_>,
    request: &Request<'_>,
    now: u64,
) -> Vec<(&'static str, String)> {
    let time = Time::of(now);
    let token = credentials.session_token.as_ref().map(Secret::expose);
    // In the order of their names, as they must be signed.
    let signed: Vec<(&str, &str)> = [
        request.content_type.map(|value| ("content-type", value)),
        Some(("host", request.host)),
        Some(("x-amz-date", time.whole.as_str())),
        token.map(|value| ("x-amz-security-token", value)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let canonical = canonical(request, &signed, &names);
    let Scope { region, service } = scope;
    let place = format!("{}/{region}/{service}/aws4_request", time.day());
    let hash = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{}\n{place}\n{hash}", time.whole);
    let secret = credentials.secret_access_key.expose();
    let key = signing_key(secret, time.day(), scope);
    let signature = hex(mac(&key, &text).as_ref());
    let id = credentials.access_key_id.expose();
    let authorization = format!(
        "{ALGORITHM} Credential={id}/{place}, SignedHeaders={names}, Signature={signature}"
    );
    let mut headers = vec![
        ("authorization", authorization),
        ("x-amz-date", time.whole.clone()),
    ];
    headers.extend(token.map(|token| ("x-amz-security-token", token.to_owned())));
    headers
}

/// The request as both sides write it down. The path is encoded again, whatever it is already.
fn canonical(request: &Request<'_>, signed: &[(&str, &str)], names: &str) -> String {
    let mut text = format!("{}\n{}\n\n", request.method, encoded(request.path));
    for (name, value) in signed {
        text.push_str(name);
        text.push(':');
        text.push_str(value.trim());
        text.push('\n');
    }
    let body = hex(digest(&SHA256, request.body).as_ref());
    text + "\n" + names + "\n" + &body
}

/// Every byte that RFC 3986 (2.3) does not leave alone, but for the slashes between segments.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len() + 16);
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("text grows");
        }
    }
    if text.is_empty() {
        text.push('/');
    }
    text
}

fn signing_key(secret: &str, day: &str, scope: Scope<'_>) -> hmac::Key {
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    let mut derived = key(format!("AWS4{secret}").as_bytes());
    for part in [day, scope.region, scope.service, "aws4_request"] {
        derived = key(mac(&derived, part).as_ref());
    }
    derived
}

fn mac(key: &hmac::Key, text: &str) -> hmac::Tag {
    hmac::sign(key, text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("text grows");
    }
    text
}

/// A moment in UTC: `20150830T123600Z`.
struct Time {
    whole: String,
}

impl Time {
    fn of(seconds: u64) -> Self {
        let (year, month, day) = date(seconds / 86_400);
        let second = seconds % 86_400;
        let (hour, minute) = (second / 3_600, second / 60 % 60);
        let second = second % 60;
        let whole = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z");
        Self { whole }
    }

    fn day(&self) -> &str {
        self.whole.split('T').next().unwrap_or_default()
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    // Years begin in March here: the leap day is then the last of its year.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month < 3), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2015-08-30 12:36:00, as in all of AWS's vectors.
    const NOW: u64 = 1_440_938_160;
    /// Of the vector `post-sts-header-before`.
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn signed(request: &Request<'_>, token: Option<&str>) -> Vec<(&'static str, String)> {
        let secret = |text: &str| Secret::new(text.to_owned());
        let credentials = Credentials {
            access_key_id: secret("AKIDEXAMPLE"),
            secret_access_key: secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: token.map(secret),
        };
        let scope = Scope {
            region: "us-east-1",
            service: "service",
        };
        sign(&credentials, scope, request, NOW)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a row has seven columns")]
    fn the_vectors_of_aws_are_signed_as_aws_signs_them() {
        let form = "application/x-www-form-urlencoded";
        let charset = "application/x-www-form-urlencoded; charset=utf8";
        let body = "Param1=value1";
        for (name, method, path, kind, body, token, signature) in [
            (
                "get-vanilla",
                "GET",
                "/",
                None,
                "",
                None,
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-utf8",
                "GET",
                "/ሴ",
                None,
                "",
                None,
                "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            ),
            (
                "get-space",
                "GET",
                "/example space/",
                None,
                "",
                None,
                "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
            ),
            (
                "post-vanilla",
                "POST",
                "/",
                None,
                "",
                None,
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-sts-header-before",
                "POST",
                "/",
                None,
                "",
                Some(TOKEN),
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                "/",
                Some(form),
                body,
                None,
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-x-www-form-urlencoded-parameters",
                "POST",
                "/",
                Some(charset),
                body,
                None,
                "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
            ),
        ] {
            let request = Request {
                method,
                path,
                host: "example.amazonaws.com",
                content_type: kind,
                body: body.as_bytes(),
            };
            let headers = signed(&request, token);
            let names = match (kind, token) {
                (Some(_), _) => "content-type;host;x-amz-date",
                (_, Some(_)) => "host;x-amz-date;x-amz-security-token",
                _ => "host;x-amz-date",
            };
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}"
            );
            assert_eq!(headers[0], ("authorization", expected), "{name}");
            assert_eq!(headers[1], ("x-amz-date", "20150830T123600Z".to_owned()));
            let sent = headers.get(2).map(|(_, value)| value.as_str());
            assert_eq!(sent, token, "{name}");
        }
    }

    #[test]
    fn a_path_that_is_encoded_is_encoded_again() {
        for (path, again) in [
            ("", "/"),
            ("/model/a-b_c.d~/converse", "/model/a-b_c.d~/converse"),
            ("/model/x-v1%3A0/converse", "/model/x-v1%253A0/converse"),
            ("/model/x:0", "/model/x%3A0"),
        ] {
            assert_eq!(encoded(path), again);
        }
    }

    #[test]
    fn a_moment_is_written_in_utc() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_827_696, "20000229T123456Z"),
            (NOW, "20150830T123600Z"),
            (4_102_444_799, "20991231T235959Z"),
        ] {
            assert_eq!(Time::of(seconds).whole, text);
        }
    }

    #[test]
    fn what_signs_is_never_shown() {
        let credentials = Credentials {
            access_key_id: Secret::new("AKID".to_owned()),
            secret_access_key: Secret::new("hush".to_owned()),
            session_token: None,
        };
        let shown = format!("{credentials:?}");
        assert!(
            !shown.contains("hush") && !shown.contains("AKID"),
            "{shown}"
        );
    }
}
