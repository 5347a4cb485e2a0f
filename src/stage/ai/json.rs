//! Walks through JSON without building a tree: says where things are, and that all of it is JSON (RFC 8259).

use super::address;
use super::fault::{CallFault, FaultKind};
use super::tokens::Weight;
use memchr::{memchr, memchr2};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

/// Deeper nesting is refused. `serde_json`, which reads what must be translated, stops there too.
pub const DEPTH_MAX: u32 = 128;

/// A position in a text, and what was passed on the way.
pub(super) struct Walk<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    pub weight: Weight,
    /// Whether something passed that may be an address of an unusual kind, and is to be looked at.
    pub odd_address: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number,
    String,
    Array,
    Object,
}

/// A value, by where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub kind: Kind,
    pub span: Range<usize>,
}

/// What is done with a member, its key as it is written between the quotes: it must walk over the value.
pub(super) type OnMember<'a, 'f> = dyn FnMut(&mut Walk<'a>, &'a str) -> Result<(), CallFault> + 'f;

impl<'a> Walk<'a> {
    pub fn new(body: &'a [u8]) -> Result<Self, CallFault> {
        let text = std::str::from_utf8(body).map_err(|fault| {
            refuse(format!(
                "the body is not UTF-8 at byte {}",
                fault.valid_up_to()
            ))
        })?;
        Ok(Self {
            text,
            at: 0,
            depth: 0,
            weight: Weight::default(),
            odd_address: false,
        })
    }

    /// Where it stands.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn written(&self, span: &Range<usize>) -> &'a str {
        &self.text[span.clone()]
    }

    /// What comes next, other than white space.
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Over one value of any kind. `key` is what it is called, if anything.
    pub fn value(&mut self, key: &str) -> Result<Found, CallFault> {
        let next = self.peek();
        let start = self.at;
        let kind = match next {
            Some(b'{') => {
                let mut keys = Keys::default();
                self.object(&mut |walk, key| {
                    if !keys.insert(key) {
                        return Err(twice(key));
                    }
                    walk.value(key).map(drop)
                })?;
                Kind::Object
            }
            Some(b'[') => {
                self.array(key)?;
                Kind::Array
            }
            Some(b'"') => {
                let text = self.string()?;
                self.weight.add(key, text);
                self.odd_address |= is_address(key) && address::may_be_odd(text);
                Kind::String
            }
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Kind::Number
            }
            Some(b't') => self.word("true", Kind::Bool(true))?,
            Some(b'f') => self.word("false", Kind::Bool(false))?,
            Some(b'n') => self.word("null", Kind::Null)?,
            _ => return Err(self.broken("a value is missing")),
        };
        Ok(Found {
            kind,
            span: start..self.at,
        })
    }

    /// Over an object, member by member.
    pub fn object(&mut self, on_member: &mut OnMember<'a, '_>) -> Result<(), CallFault> {
        self.enter()?;
        if self.peek() == Some(b'}') {
            return self.leave();
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.broken("a key is missing"));
            }
            let key = self.string()?;
            self.weight.add("", key);
            if self.peek() != Some(b':') {
                return Err(self.broken("`:` is missing"));
            }
            self.at += 1;
            on_member(self, key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(),
                _ => return Err(self.broken("`,` or `}` is missing")),
            }
        }
    }

    /// That nothing follows.
    pub fn end(&mut self) -> Result<(), CallFault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.broken("something follows the end")),
        }
    }

    pub fn broken(&self, what: &str) -> CallFault {
        refuse(format!(
            "the body is not JSON: {what} at byte {at}",
            at = self.at
        ))
    }

    fn array(&mut self, key: &str) -> Result<(), CallFault> {
        self.enter()?;
        if self.peek() == Some(b']') {
            return self.leave();
        }
        loop {
            self.value(key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return self.leave(),
                _ => return Err(self.broken("`,` or `]` is missing")),
            }
        }
    }

    fn enter(&mut self) -> Result<(), CallFault> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(refuse(format!(
                "the body is nested deeper than {DEPTH_MAX} levels"
            )));
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "its callers end with it")]
    fn leave(&mut self) -> Result<(), CallFault> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// What is between the quotes, escapes and all.
    fn string(&mut self) -> Result<&'a str, CallFault> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        loop {
            let Some(found) = memchr2(b'"', b'\\', &bytes[at..]) else {
                return Err(self.broken("a string has no end"));
            };
            at += found;
            if bytes[at] == b'"' {
                break;
            }
            at += self.escape(&bytes[at + 1..])?;
        }
        let text = &self.text[start..at];
        // By 64, without a branch for each byte: a picture in base64 is one string of megabytes.
        let control = |chunk: &[u8]| {
            chunk
                .iter()
                .fold(0, |found, byte| found | u8::from(*byte < b' '))
                != 0
        };
        if text.as_bytes().chunks(64).any(control) {
            return Err(self.broken("a string has a control character"));
        }
        self.at = at + 1;
        Ok(text)
    }

    /// How long an escape is, its backslash included.
    fn escape(&self, after: &[u8]) -> Result<usize, CallFault> {
        match after {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Ok(2),
            [b'u', hex @ ..] if hex.len() >= 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => {
                Ok(6)
            }
            _ => Err(self.broken("a string has an unknown escape")),
        }
    }

    fn number(&mut self) -> Result<(), CallFault> {
        if self.now() == Some(b'-') {
            self.at += 1;
        }
        if self.now() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.now() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.now() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.now() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), CallFault> {
        let start = self.at;
        while self.now().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.broken("a digit is missing"));
        }
        Ok(())
    }

    fn now(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, CallFault> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.broken("a value is missing"));
        }
        self.at += word.len();
        Ok(kind)
    }
}

/// Where pictures, sounds and documents are named by their address, in any dialect.
fn is_address(key: &str) -> bool {
    matches!(
        key,
        "url" | "image_url" | "file_url" | "fileUri" | "file_uri"
    )
}

/// The keys of one object. Most have few, which are looked through; of more than [`FEW`] a table is made, so that the
/// time is in proportion to the body whatever is in it.
#[derive(Default)]
struct Keys<'a> {
    /// Without escapes, so that they are as they are written.
    few: SmallVec<[&'a str; FEW]>,
    many: Option<HashSet<Cow<'a, str>>>,
}

const FEW: usize = 8;

impl<'a> Keys<'a> {
    /// False where it is there already, as it is meant.
    fn insert(&mut self, written: &'a str) -> bool {
        let plain = memchr(b'\\', written.as_bytes()).is_none();
        if self.many.is_none() && plain && self.few.len() < FEW {
            let is_new = !self.few.contains(&written);
            self.few.push(written);
            return is_new;
        }
        // Half a character is what it is: whoever reads the value refuses it.
        let key = unescape(written).unwrap_or(Cow::Borrowed(written));
        let few = &mut self.few;
        let many = self
            .many
            .get_or_insert_with(|| few.drain(..).map(Cow::Borrowed).collect());
        many.insert(key)
    }
}

fn twice(written: &str) -> CallFault {
    // A key of a megabyte is not repeated to its sender.
    let key: String = written.chars().take(64).collect();
    let message = format!("the field `{key}` is there twice in one object");
    CallFault::invalid(key, message)
}

/// A string as it is meant. `written` is what stands between its quotes.
pub(super) fn unescape(written: &str) -> Option<Cow<'_, str>> {
    if !written.contains('\\') {
        return Some(Cow::Borrowed(written));
    }
    serde_json::from_str(&format!("\"{written}\""))
        .ok()
        .map(Cow::Owned)
}

pub(super) fn refuse(message: String) -> CallFault {
    CallFault {
        kind: FaultKind::InvalidRequest,
        message,
        param: None,
    }
}

/// Whether this is a JSON object that says nothing of an error.
pub fn is_answer(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Option<serde::de::IgnoredAny>,
    }
    let answer: Result<Answer, _> = serde_json::from_slice(body);
    answer.is_ok_and(|answer| answer.error.is_none())
}
