//! API keys: only their hashes are here, and what each key stands for.
//!
//! Keys are random and long, so one round of SHA-256 keeps them: a slow hash would only add latency.

use super::chain::{Caller, Identify, Reason, Verdict};
use super::credential::{Credential, Places};
use super::settings::{KeySettings, KeysSettings};
use crate::base::principal::{Principal, Proof};
use crate::base::units::Moment;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, rand};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// A shorter pepper could be guessed.
pub const PEPPER_BYTES_MIN: usize = 16;

/// How a hash is written, without a pepper and with one.
const PLAIN: &str = "sha256:";
const PEPPERED: &str = "hmac-sha256:";

/// `om_`, so that a key found somewhere says where it belongs, and the characters that people see of it.
const KEY_BEGINS: &str = "om_";
const PREFIX_CHARS: usize = KEY_BEGINS.len() + 8;
/// 43 characters of 62 hold 256 bits.
const KEY_CHARS: usize = PREFIX_CHARS + 43;

/// Letters and digits alone: a key can stand in a header, a URL and the name of a sub-protocol.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

type Hash = [u8; 32];

/// The keys of one method.
pub struct ApiKeys {
    query: bool,
    plain: Known,
    peppered: Known,
    pepper: Option<hmac::Key>,
}

/// Keys by the beginning of their hash: who could time a look-up by it would still have to find a key
/// for the beginning that was guessed. The whole hash is compared in constant time.
#[derive(Default)]
struct Known(HashMap<[u8; 8], Vec<Entry>>);

struct Entry {
    hash: Hash,
    principal: Arc<Principal>,
    expires: Option<Moment>,
    disabled: bool,
}

impl ApiKeys {
    /// None when a hash, a user or the pepper is not as `check` wants them.
    pub fn build(method: &Arc<str>, settings: &KeysSettings) -> Option<Self> {
        let pepper = settings.pepper.as_ref();
        let mut keys = Self {
            query: settings.query,
            plain: Known::default(),
            peppered: Known::default(),
            pepper: pepper.map(|pepper| pepper_key(pepper.expose())),
        };
        for key in &settings.known {
            let (peppered, hash) = hash_in(key)?;
            let known = if peppered {
                keys.pepper.as_ref()?;
                &mut keys.peppered
            } else {
                &mut keys.plain
            };
            known.add(Entry {
                hash,
                principal: Arc::new(principal(method, key)?),
                expires: key.expires,
                disabled: key.disabled,
            });
        }
        Some(keys)
    }

    fn find(&self, credential: &Credential<'_>) -> Option<&Entry> {
        let key = credential.text().as_bytes();
        let peppered = self.pepper.as_ref().filter(|_| !self.peppered.0.is_empty());
        let peppered = peppered.and_then(|pepper| self.peppered.find(&with_pepper(pepper, key)));
        peppered.or_else(|| self.plain.find(&without_pepper(key)))
    }
}

impl Known {
    fn add(&mut self, entry: Entry) {
        let begins = beginning(&entry.hash);
        self.0.entry(begins).or_default().push(entry);
    }

    fn find(&self, hash: &Hash) -> Option<&Entry> {
        let entries = self.0.get(&beginning(hash))?;
        entries
            .iter()
            .find(|entry| verify_slices_are_equal(&entry.hash, hash).is_ok())
    }
}

fn beginning(hash: &Hash) -> [u8; 8] {
    let mut begins = [0; 8];
    begins.copy_from_slice(&hash[..8]);
    begins
}

fn principal(method: &Arc<str>, key: &KeySettings) -> Option<Principal> {
    let user = key.user.as_ref().unwrap_or(&key.name);
    let principal = Principal::named(user, Proof::ApiKey, method)?;
    Some(Principal {
        plan: key.plan.as_deref().map(Arc::from),
        roles: key.roles.iter().map(|role| role.as_str().into()).collect(),
        key: Some(key.name.as_str().into()),
        ..principal
    })
}

impl Identify for ApiKeys {
    fn places(&self) -> Places {
        Places {
            bearer: true,
            headers: true,
            query: self.query,
        }
    }

    fn identify(&self, caller: &Caller<'_>) -> Verdict {
        let Some(credential) = &caller.credential else {
            return Verdict::Absent;
        };
        let Some(entry) = self.find(credential) else {
            // What looks like a token may be one for another method; where there is none, it is not taken.
            return if credential.is_token() || credential.is_session() {
                Verdict::Absent
            } else {
                Verdict::Refused(Reason::UnknownKey)
            };
        };
        let expired = |moment: Moment| moment.0 <= caller.clock.unix;
        if entry.disabled {
            Verdict::Refused(Reason::Disabled)
        } else if entry.expires.is_some_and(expired) {
            Verdict::Refused(Reason::Expired)
        } else {
            Verdict::Known(Arc::clone(&entry.principal))
        }
    }
}

/// A key that was just made. It is shown once.
pub struct NewKey {
    pub key: String,
    pub prefix: String,
    /// As `hash` of the key is written.
    pub hash: String,
}

/// Makes a key of 256 random bits, and its hash: with a pepper where there is one.
pub fn new_key(pepper: Option<&str>) -> Result<NewKey, &'static str> {
    let mut key = KEY_BEGINS.to_owned();
    while key.len() < KEY_CHARS {
        let mut bytes = [0_u8; 64];
        rand::fill(&mut bytes).map_err(|_| "the system has no random numbers")?;
        // 248 is the largest multiple of 62: what lies above would make some characters likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let characters = fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        key.extend(characters.take(KEY_CHARS - key.len()));
    }
    Ok(NewKey {
        prefix: key[..PREFIX_CHARS].to_owned(),
        hash: hash_of(&key, pepper),
        key,
    })
}

/// The hash of a key as it is written in the configuration.
pub fn hash_of(key: &str, pepper: Option<&str>) -> String {
    let (mut text, hash) = match pepper {
        Some(pepper) => {
            let hash = with_pepper(&pepper_key(pepper), key.as_bytes());
            (PEPPERED.to_owned(), hash)
        }
        None => (PLAIN.to_owned(), without_pepper(key.as_bytes())),
    };
    for byte in hash {
        write!(text, "{byte:02x}").expect("text grows");
    }
    text
}

/// Whether the hash needs a pepper, and its bytes; none for text that is no hash.
pub fn parse_hash(text: &str) -> Option<(bool, Hash)> {
    let (peppered, digits) = match text.strip_prefix(PEPPERED) {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix(PLAIN)?),
    };
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some((peppered, hash))
}

/// Whether the hash of a key as it is configured needs a pepper, and its bytes.
pub fn hash_in(key: &KeySettings) -> Option<(bool, Hash)> {
    match (&key.hash, &key.secret) {
        (Some(hash), None) => parse_hash(hash),
        (None, Some(secret)) if !secret.expose().is_empty() => {
            Some((false, without_pepper(secret.expose().as_bytes())))
        }
        _ => None,
    }
}

fn pepper_key(pepper: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, pepper.as_bytes())
}

fn with_pepper(pepper: &hmac::Key, key: &[u8]) -> Hash {
    taken(hmac::sign(pepper, key).as_ref())
}

fn without_pepper(key: &[u8]) -> Hash {
    taken(digest::digest(&digest::SHA256, key).as_ref())
}

fn taken(digest: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::client::Client;
    use crate::base::secret::Secret;
    use crate::base::units::OneOrMany;
    use crate::stage::identity::chain::Clock;
    use std::time::Instant;

    const PEPPER: &str = "a pepper of sixteen bytes";

    fn settings(name: &str, hash: String) -> KeySettings {
        KeySettings {
            name: name.to_owned(),
            hash: Some(hash),
            secret: None,
            prefix: None,
            user: None,
            plan: None,
            roles: OneOrMany::default(),
            expires: None,
            disabled: false,
        }
    }

    #[test]
    fn a_key_that_is_written_itself_is_taken_like_its_hash() {
        let mut written = settings("written", String::new());
        written.hash = None;
        written.secret = Some(Secret::new("k-written".to_owned()));
        let keys = keys(vec![
            written.clone(),
            settings("other", hash_of("k-other", None)),
        ]);
        for (key, user) in [("k-written", "written"), ("k-other", "other")] {
            let known = ask(&keys, Some(key), 0).unwrap().unwrap();
            assert_eq!(&*known.user, user);
        }
        assert!(ask(&keys, Some("k-writte"), 0).is_err());
        for (hash, secret) in [
            (None, None),
            (None, Some("")),
            (Some(hash_of("k", None)), Some("k")),
        ] {
            written.hash = hash;
            written.secret = secret.map(|secret| Secret::new(secret.to_owned()));
            assert_eq!(hash_in(&written), None, "{written:?}");
        }
    }

    fn keys(known: Vec<KeySettings>) -> ApiKeys {
        let settings = KeysSettings {
            pepper: Some(Secret::new(PEPPER.to_owned())),
            known,
            ..KeysSettings::default()
        };
        ApiKeys::build(&"apps".into(), &settings).unwrap()
    }

    fn ask(keys: &ApiKeys, key: Option<&str>, unix: u64) -> Result<Option<Arc<Principal>>, Reason> {
        let caller = Caller {
            credential: key.map(|key| Credential::new(key.to_owned()).unwrap()),
            parts: &http::Request::new(()).into_parts().0,
            client: &Client::default(),
            clock: Clock {
                unix,
                now: Instant::now(),
            },
        };
        match keys.identify(&caller) {
            Verdict::Known(principal) => Ok(Some(principal)),
            Verdict::Absent => Ok(None),
            Verdict::Refused(reason) => Err(reason),
            Verdict::Waiting(_) => panic!("keys are at hand"),
        }
    }

    #[test]
    fn a_key_stands_for_its_user_until_it_does_not() {
        let mut known = vec![
            settings("plain", hash_of("k-plain", None)),
            settings("peppered", hash_of("k-peppered", Some(PEPPER))),
            settings(
                "other-pepper",
                hash_of("k-other", Some("another pepper here")),
            ),
            settings("off", hash_of("k-off", None)),
            settings("short", hash_of("k-short", None)),
            settings("token", hash_of("eyJ.static.token", None)),
        ];
        known[0].user = Some("alice".to_owned());
        known[0].plan = Some("pro".to_owned());
        known[0].roles = OneOrMany(vec!["admin".to_owned()]);
        known[3].disabled = true;
        known[4].expires = Some(Moment(100));
        let keys = keys(known);
        for (key, at, expected) in [
            (Some("k-plain"), 0, Ok(Some("alice"))),
            (Some("k-peppered"), 0, Ok(Some("peppered"))),
            (Some("k-other"), 0, Err(Reason::UnknownKey)),
            (Some("k-off"), 0, Err(Reason::Disabled)),
            (Some("k-short"), 99, Ok(Some("short"))),
            (Some("k-short"), 100, Err(Reason::Expired)),
            (Some("K-plain"), 0, Err(Reason::UnknownKey)),
            (Some("k-plain2"), 0, Err(Reason::UnknownKey)),
            // The hash itself is no key.
            (
                Some(hash_of("k-plain", None).as_str()),
                0,
                Err(Reason::UnknownKey),
            ),
            (Some("eyJ.static.token"), 0, Ok(Some("token"))),
            (Some("eyJ.any.token"), 0, Ok(None)),
            (Some("oms_alice.secret"), 0, Ok(None)),
            (None, 0, Ok(None)),
        ] {
            let said = ask(&keys, key, at);
            let user = said.map(|found| found.map(|found| found.user.to_string()));
            assert_eq!(
                user,
                expected.map(|user| user.map(str::to_owned)),
                "{key:?}"
            );
        }
        let alice = ask(&keys, Some("k-plain"), 0).unwrap().unwrap();
        assert_eq!(alice.plan.as_deref(), Some("pro"));
        assert_eq!(alice.roles, [Arc::from("admin")]);
        assert_eq!(alice.key.as_deref(), Some("plain"));
        assert_eq!(alice.headers[0].1, "alice");
    }

    #[test]
    fn a_new_key_opens_what_its_hash_guards() {
        for pepper in [None, Some(PEPPER)] {
            let (new, other) = (new_key(pepper).unwrap(), new_key(pepper).unwrap());
            assert_eq!(new.key.len(), KEY_CHARS);
            assert!(new.key.starts_with(&new.prefix));
            assert!(
                new.key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            );
            assert!(!new.hash.contains(&new.key[PREFIX_CHARS..]));
            assert_ne!(new.key, other.key);
            let keys = keys(vec![settings("new", new.hash)]);
            assert!(ask(&keys, Some(&new.key), 0).unwrap().is_some());
            assert_eq!(ask(&keys, Some(&other.key), 0), Err(Reason::UnknownKey));
        }
    }

    #[test]
    fn hashes_are_written_in_two_ways() {
        // FIPS 180-2, B.1.
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_of("abc", None), abc);
        for (text, taken) in [
            (abc, true),
            (&abc.to_uppercase().replace("SHA256", "sha256"), true),
            (&abc.replace("sha256", "hmac-sha256"), true),
            (&abc[..abc.len() - 1], false),
            (&abc.replace("ba78", "xy78"), false),
            (&abc.replace("ba78", "+a78"), false),
            (&abc.replace("sha256", "md5"), false),
            (&abc[7..], false),
        ] {
            assert_eq!(parse_hash(text).is_some(), taken, "{text}");
        }
    }
}
