//! Brings a caller back to its endpoint by a signed cookie.
//!
//! Value: `v1.` and, in base64url, 8 bytes that stand for the endpoint, 8 bytes of expiry (Unix
//! seconds), 32 bytes of HMAC-SHA256 over pool, endpoint and expiry. Neither addresses nor pools
//! can be read from it, and one for another pool does not verify.

use super::endpoint::Endpoint;
use super::settings::StickySettings;
use super::siphash::SipHash;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const VERSION: &str = "v1.";
const HEAD_BYTES: usize = 16;
const CODE_BYTES: usize = HEAD_BYTES + 32;
/// 48 bytes in base64.
const TEXT_BYTES: usize = CODE_BYTES / 3 * 4;
/// Cookies of our name that are looked at in one request; each costs one HMAC.
const TRIES_MAX: usize = 4;
/// Cookies of any name that are looked at in one request.
const COOKIES_MAX: usize = 256;

/// Issues and reads the cookies of one pool's settings.
pub struct Sticky {
    name: String,
    max_age: Duration,
    sign: hmac::Key,
    identify: SipHash,
}

impl fmt::Debug for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Where a cookie leads.
#[derive(Debug, Clone)]
pub struct Kept {
    pub endpoint: Arc<Endpoint>,
    /// More than half of its time is over: send a new one with the answer.
    pub renew: bool,
}

impl Sticky {
    /// `made_up` signs when the settings name no secret: random bytes kept for the life of the process.
    pub fn new(settings: &StickySettings, made_up: &[u8; 32]) -> Self {
        let secret = match &settings.secret {
            Some(secret) => secret.expose().as_bytes(),
            None => &made_up[..],
        };
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |purpose: &[u8]| hmac::sign(&root, purpose);
        let sign = derive(b"onemind sticky v1: signature");
        let mut identify = [0; 16];
        identify.copy_from_slice(&derive(b"onemind sticky v1: endpoint").as_ref()[..16]);
        Self {
            name: settings.cookie.clone(),
            max_age: settings.max_age.0,
            sign: hmac::Key::new(hmac::HMAC_SHA256, sign.as_ref()),
            identify: SipHash::from_bytes(identify),
        }
    }

    /// The value of a cookie that leads to this endpoint. `now_unix` in seconds.
    pub fn issue(&self, pool: &str, endpoint: &Endpoint, now_unix: u64) -> String {
        let mut code = [0; CODE_BYTES];
        let expiry = now_unix.saturating_add(self.max_age.as_secs());
        code[..8].copy_from_slice(&self.identity(pool, endpoint).to_be_bytes());
        code[8..HEAD_BYTES].copy_from_slice(&expiry.to_be_bytes());
        let signature = self.signature(pool, &code[..HEAD_BYTES]);
        code[HEAD_BYTES..].copy_from_slice(signature.as_ref());
        let mut value = String::with_capacity(VERSION.len() + TEXT_BYTES);
        value.push_str(VERSION);
        BASE64.encode_string(code, &mut value);
        value
    }

    /// The member that the first good cookie of our name leads to. None: no such cookie, forged,
    /// expired, of another pool, or its endpoint is gone.
    pub fn read<'a>(
        &self,
        cookie_headers: impl IntoIterator<Item = &'a [u8]>,
        (pool, members): (&str, &[Arc<Endpoint>]),
        now_unix: u64,
    ) -> Option<Kept> {
        cookies(cookie_headers, &self.name)
            .take(TRIES_MAX)
            .find_map(|value| {
                let (identity, expiry) = self.open(value, pool)?;
                let left = expiry.checked_sub(now_unix).filter(|left| *left > 0)?;
                let endpoint = members
                    .iter()
                    .find(|member| self.identity(pool, member) == identity)?;
                Some(Kept {
                    endpoint: Arc::clone(endpoint),
                    renew: left < self.max_age.as_secs() / 2,
                })
            })
    }

    /// The `Set-Cookie` header for a value; `secure` when the caller is on TLS.
    pub fn set_cookie(&self, value: &str, secure: bool) -> String {
        let (name, age) = (&self.name, self.max_age.as_secs());
        let secure = if secure { "; Secure" } else { "" };
        format!("{name}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Lax{secure}")
    }

    fn open(&self, value: &[u8], pool: &str) -> Option<(u64, u64)> {
        let text = value.strip_prefix(VERSION.as_bytes())?;
        // Length first: what is longer is not ours, and need not be decoded.
        if text.len() != TEXT_BYTES {
            return None;
        }
        let mut code = [0; CODE_BYTES];
        let length = BASE64.decode_slice(text, &mut code).ok()?;
        if length != CODE_BYTES {
            return None;
        }
        let (head, signature) = code.split_at(HEAD_BYTES);
        // Compares in constant time.
        hmac::verify(&self.sign, &message(pool, head), signature).ok()?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
        Some((number(&head[..8])?, number(&head[8..])?))
    }

    fn signature(&self, pool: &str, head: &[u8]) -> hmac::Tag {
        hmac::sign(&self.sign, &message(pool, head))
    }

    /// Members are found by it in some 20 ns each, where an HMAC would take half a microsecond.
    fn identity(&self, pool: &str, endpoint: &Endpoint) -> u64 {
        let host = endpoint.host.as_deref().unwrap_or_default();
        let mut text = Vec::with_capacity(pool.len() + endpoint.name.len() + host.len() + 2);
        for part in [pool, &endpoint.name, host] {
            text.extend_from_slice(part.as_bytes());
            // Occurs in none of them, so the parts cannot run into each other.
            text.push(0);
        }
        self.identify.hash(&text)
    }
}

/// The head has a fixed length, so head and pool cannot run into each other.
fn message(pool: &str, head: &[u8]) -> Vec<u8> {
    [head, pool.as_bytes()].concat()
}

/// The values of the cookies of this name, in order (RFC 6265 4.2.1, read tolerantly as browsers
/// and servers do: any white space, quotes, empty pairs). Names are case-sensitive.
pub fn cookies<'a>(
    headers: impl IntoIterator<Item = &'a [u8]>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .into_iter()
        .flat_map(|header| header.split(|byte| *byte == b';'))
        .take(COOKIES_MAX)
        .filter_map(move |pair| {
            let equals = memchr::memchr(b'=', pair)?;
            let value = pair[equals + 1..].trim_ascii();
            (pair[..equals].trim_ascii() == name.as_bytes()).then(|| unquote(value))
        })
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::super::balance::testing::endpoints;
    use super::*;
    use crate::base::secret::Secret;
    use proptest::prelude::*;
    use std::time::Instant;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn sticky(secret: &str) -> Sticky {
        let settings = StickySettings {
            secret: Some(Secret::new(secret.to_owned())),
            ..StickySettings::default()
        };
        Sticky::new(&settings, &[0; 32])
    }

    fn header(value: &str) -> String {
        format!("a=1; onemind_endpoint={value}; b=2")
    }

    #[test]
    fn a_cookie_leads_back_to_its_endpoint() {
        let members = endpoints(&[1, 1, 1], Instant::now());
        let sticky = sticky("a secret of sixteen");
        for endpoint in &members {
            let cookie = header(&sticky.issue("app", endpoint, NOW));
            assert!(!cookie.contains("10.0.0"));
            for (later, renew) in [(0, false), (DAY / 2 + 1, true), (DAY - 1, true)] {
                let kept = sticky
                    .read([cookie.as_bytes()], ("app", &members), NOW + later)
                    .unwrap();
                assert!(Arc::ptr_eq(&kept.endpoint, endpoint));
                assert_eq!(kept.renew, renew, "{later} s later");
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let members = endpoints(&[1, 1, 1], Instant::now());
        let sticky = sticky("a secret of sixteen");
        let good = sticky.issue("app", &members[1], NOW);
        let other_key = super::tests::sticky("another secret!!").issue("app", &members[1], NOW);
        let check = |value: &str, pool: &str, members: &[Arc<Endpoint>], now: u64| {
            sticky
                .read([header(value).as_bytes()], (pool, members), now)
                .is_some()
        };
        assert!(check(&good, "app", &members, NOW));
        assert!(!check(&good, "app", &members, NOW + DAY), "expired");
        assert!(!check(&good, "api", &members, NOW), "another pool");
        assert!(!check(&good, "app", &members[..1], NOW), "endpoint gone");
        assert!(!check(&other_key, "app", &members, NOW), "another secret");
        assert!(!check(&good[3..], "app", &members, NOW), "no version");
        assert!(!check(&format!("{good}A"), "app", &members, NOW), "longer");
        assert!(!check("", "app", &members, NOW), "empty");
    }

    #[test]
    fn the_first_good_one_of_several_counts() {
        let members = endpoints(&[1, 1], Instant::now());
        let sticky = sticky("a secret of sixteen");
        let good = sticky.issue("app", &members[1], NOW);
        let read = |headers: &[&str]| {
            sticky
                .read(headers.iter().map(|h| h.as_bytes()), ("app", &members), NOW)
                .is_some()
        };
        let (forged, good) = (
            "onemind_endpoint=v1.x",
            format!("onemind_endpoint=\"{good}\""),
        );
        assert!(read(&[forged, &good]));
        assert!(read(&[&format!(";;  ; {forged} ;\t{good}")]));
        assert!(read(&[&format!("{};{good}", [forged; 3].join(";"))]));
        assert!(
            !read(&[&format!("{};{good}", [forged; 4].join(";"))]),
            "no more than four"
        );
        assert!(!read(&[&"x=y;".repeat(256), &good]), "no more than 256");
        assert!(!read(&[&good.replace("onemind", "OneMind")]));
    }

    #[test]
    fn the_header_has_all_attributes() {
        let sticky = sticky("a secret of sixteen");
        assert_eq!(
            sticky.set_cookie("v1.x", true),
            "onemind_endpoint=v1.x; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax; Secure"
        );
        assert!(!sticky.set_cookie("v1.x", false).contains("Secure"));
    }

    #[test]
    fn instances_that_share_a_secret_know_each_others_cookies() {
        let members = endpoints(&[1, 1], Instant::now());
        let value = sticky("a secret of sixteen").issue("app", &members[0], NOW);
        let other = sticky("a secret of sixteen");
        let kept = other.read([header(&value).as_bytes()], ("app", &members), NOW);
        assert!(kept.is_some());
        let made_up = |byte| Sticky::new(&StickySettings::default(), &[byte; 32]);
        let value = made_up(1).issue("app", &members[0], NOW);
        let kept = made_up(2).read([header(&value).as_bytes()], ("app", &members), NOW);
        assert!(kept.is_none());
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(headers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let members = endpoints(&[1], Instant::now());
            let headers = headers.iter().map(Vec::as_slice);
            prop_assert!(sticky("a secret of sixteen").read(headers, ("app", &members), NOW).is_none());
        }

        #[test]
        fn pairs_are_found_among_garbage(before in "[^;]{0,20}", value in "[!#-+--:<-~]{0,40}", after in "\\PC{0,20}") {
            let header = format!("{before}; c={value};{after}");
            let found = cookies([header.as_bytes()], "c").any(|got| got == value.as_bytes());
            prop_assert!(found);
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 3_usize..67, to in "[A-Za-z0-9_-]") {
            let members = endpoints(&[1], Instant::now());
            let sticky = sticky("a secret of sixteen");
            let good = sticky.issue("app", &members[0], NOW);
            let mut forged = good.clone();
            forged.replace_range(at..=at, &to);
            prop_assume!(forged != good);
            let kept = sticky.read([header(&forged).as_bytes()], ("app", &members), NOW);
            prop_assert!(kept.is_none());
        }
    }
}
