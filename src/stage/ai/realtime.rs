//! What a provider says it counted on a WebSocket of its realtime API, read in passing.
//!
//! `OpenAI` "Realtime API", server event `response.done`: each answer ends with one, and its `response.usage` is
//! what is charged. Answers that never came to it are charged by nobody's word, and not counted here. Everything
//! else, sound above all, is passed over without being kept.

use crate::base::usage::Usage;
use crate::wire::websocket::payload_of;
use serde::Deserialize;
use std::borrow::Cow;

/// Events name their type at their beginning. One that does not within so many bytes is read to its end.
const BEGINNING_BYTES: usize = 256;

const DONE: &str = "response.done";

/// An event that is longer is not read: it holds words, never sound.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Follows one direction, from server to client.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of all answers so far.
    pub usage: Usage,
    /// Answers that have ended.
    pub answers: u32,
    /// Events of that kind that could not be read.
    pub unreadable: u32,
    /// The beginning of a frame's head that has come.
    head: [u8; 14],
    come: usize,
    /// Its first byte, while its payload comes.
    frame: u8,
    /// Bytes of the payload that are missing.
    left: u64,
    message: Message,
}

/// The message under way, which may come in several frames.
#[derive(Debug, Default)]
enum Message {
    #[default]
    Unwanted,
    /// Too little has come to know.
    Begun(Vec<u8>),
    Wanted(Vec<u8>),
}

impl Tally {
    /// Bytes as they come, wherever they are cut.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            if self.left > 0 {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (part, rest) = bytes.split_at(left.min(bytes.len()));
                self.left -= part.len() as u64;
                self.hear(part);
                bytes = rest;
            } else {
                self.head[self.come] = *first;
                self.come += 1;
                bytes = &bytes[1..];
                let Some(length) = payload_of(&self.head[..self.come]) else {
                    continue;
                };
                self.come = 0;
                self.left = length;
                self.begin(self.head[0]);
            }
            if self.left == 0 {
                self.end();
            }
        }
    }

    fn is_control(&self) -> bool {
        self.frame & 0x08 != 0
    }

    /// RFC 6455 section 5.2: text begins, something else begins, or what has begun goes on.
    fn begin(&mut self, frame: u8) {
        self.frame = frame;
        match frame & 0x4f {
            0x01 => self.message = Message::Begun(Vec::new()),
            0x00 => {}
            _ if self.is_control() => {}
            // Binary, or compressed, which was not agreed to.
            _ => self.message = Message::Unwanted,
        }
    }

    fn hear(&mut self, part: &[u8]) {
        if self.is_control() {
            return;
        }
        let mut part = part;
        if let Message::Begun(begun) = &mut self.message {
            let missing = BEGINNING_BYTES - begun.len();
            let (beginning, rest) = part.split_at(missing.min(part.len()));
            begun.extend_from_slice(beginning);
            part = rest;
            if begun.len() == BEGINNING_BYTES {
                self.decide();
            }
        }
        if let Message::Wanted(event) = &mut self.message {
            if event.len() + part.len() > EVENT_BYTES_MAX {
                self.unreadable += u32::from(is_done(event) == Some(true));
                self.message = Message::Unwanted;
            } else {
                event.extend_from_slice(part);
            }
        }
    }

    fn decide(&mut self) {
        self.message = match std::mem::take(&mut self.message) {
            Message::Begun(begun) if is_done(&begun) != Some(false) => Message::Wanted(begun),
            Message::Wanted(event) => Message::Wanted(event),
            _ => Message::Unwanted,
        };
    }

    fn end(&mut self) {
        let is_last = self.frame & 0x80 != 0;
        if self.is_control() || !is_last {
            return;
        }
        self.decide();
        if let Message::Wanted(event) = std::mem::take(&mut self.message) {
            self.read(&event);
        }
    }

    fn read(&mut self, event: &[u8]) {
        match serde_json::from_slice::<Event<'_>>(event) {
            Ok(event) if event.kind != DONE => {}
            Ok(event) => {
                self.answers = self.answers.saturating_add(1);
                if let Some(counted) = event.response.and_then(|response| response.usage) {
                    self.usage = self.usage.plus(&counted.usage());
                }
            }
            Err(_) => self.unreadable += u32::from(is_done(event) == Some(true)),
        }
    }
}

/// Whether it is the event that tells the usage, as far as its first members say; none: they do not, or what has come
/// is no JSON.
fn is_done(beginning: &[u8]) -> Option<bool> {
    let mut rest = after(beginning, b'{')?;
    loop {
        let (key, value) = string(rest)?;
        let (value, next) = string(after(value, b':')?)?;
        if key == b"type" {
            return Some(value == DONE.as_bytes());
        }
        rest = after(next, b',')?;
    }
}

fn after(text: &[u8], mark: u8) -> Option<&[u8]> {
    text.trim_ascii_start().strip_prefix(&[mark])
}

/// What stands between two quotation marks, as it is written, and what follows.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = after(text, b'"')?;
    let mut at = 0;
    while *text.get(at)? != b'"' {
        at += 1 + usize::from(text[at] == b'\\');
    }
    Some((&text[..at], &text[at + 1..]))
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    usage: Option<Counted>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Counted {
    input_tokens: u64,
    output_tokens: u64,
    input_token_details: Option<Details>,
    output_token_details: Option<Details>,
}

/// Of the tokens of one side; those that were cached are counted once more under their kind.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    audio_tokens: u64,
    image_tokens: u64,
    cached_tokens: u64,
    #[serde(rename = "cached_tokens_details")]
    of_cached: Option<Cached>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cached {
    audio_tokens: u64,
    image_tokens: u64,
}

impl Counted {
    fn usage(self) -> Usage {
        let input = self.input_token_details.unwrap_or_default();
        let output = self.output_token_details.unwrap_or_default();
        let cached = input.of_cached.unwrap_or_default();
        let mut usage = Usage {
            input: self.input_tokens,
            output: self.output_tokens,
            ..Usage::default()
        };
        // What is larger than its whole is cut to it, so that the classes add up to what is charged.
        let part = |whole: &mut u64, part: u64| {
            let part = part.min(*whole);
            *whole -= part;
            part
        };
        usage.cache_read = part(&mut usage.input, input.cached_tokens);
        let audio = input.audio_tokens.saturating_sub(cached.audio_tokens);
        let image = input.image_tokens.saturating_sub(cached.image_tokens);
        usage.input_audio = part(&mut usage.input, audio);
        usage.input_image = part(&mut usage.input, image);
        usage.output_audio = part(&mut usage.output, output.audio_tokens);
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As servers send it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(short @ 0..126) => frame.push(u8::try_from(short).unwrap()),
            Ok(length) => {
                frame.push(126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn done(input: u64, output: u64) -> String {
        format!(
            r#"{{"type":"response.done","event_id":"e","response":{{"id":"r","output":[{{"a":"{}"}}],"usage":{{"total_tokens":{},"input_tokens":{input},"output_tokens":{output}}}}}}}"#,
            "word ".repeat(100),
            input + output
        )
    }

    fn totals(wire: &[u8]) -> (u64, u64, u32, u32) {
        let mut tally = Tally::default();
        tally.pass(wire);
        assert!(
            matches!(tally.message, Message::Unwanted),
            "nothing is kept"
        );
        let usage = &tally.usage;
        let (input, output) = (usage.total_input(), usage.total_output());
        (input, output, tally.answers, tally.unreadable)
    }

    fn text(text: &str) -> Vec<u8> {
        frame(0x81, text.as_bytes())
    }

    fn check(name: &str, wire: &[Vec<u8>], counted: (u64, u64, u32, u32)) {
        assert_eq!(totals(&wire.concat()), counted, "{name}");
    }

    #[test]
    fn what_each_answer_says_at_its_end_is_counted() {
        let (one, two) = (text(&done(7, 11)), text(&done(1, 2)));
        let filler = "x".repeat(500);
        let last = format!(
            r#"{{"response":{{"x":"{filler}","usage":{{"input_tokens":3,"output_tokens":4}}}},"type":"response.done"}}"#
        );
        let second = r#"{"event_id":"e","type":"response.done","response":{"usage":{"input_tokens":3,"output_tokens":4}}}"#;
        let failed = r#"{"type":"response.done","response":{"usage":null}}"#;
        check("nothing", &[], (0, 0, 0, 0));
        check("one", std::slice::from_ref(&one), (7, 11, 1, 0));
        check("two", &[one, two.clone()], (8, 13, 2, 0));
        check("empty", &[text(""), two], (1, 2, 1, 0));
        check("the id first", &[text(second)], (3, 4, 1, 0));
        let marks = second.replace("\"e\"", r#""\\\"""#);
        check("marks within", &[text(&marks)], (3, 4, 1, 0));
        check("the type last", &[text(&last)], (3, 4, 1, 0));
        check("one that failed", &[text(failed)], (0, 0, 1, 0));
    }

    #[test]
    fn nothing_else_is_counted() {
        let (one, two) = (done(7, 11), text(&done(1, 2)));
        let sound = format!(
            r#"{{"type":"response.output_audio.delta","delta":"{}"}}"#,
            "QUJD".repeat(100_000)
        );
        let filler = "x".repeat(EVENT_BYTES_MAX);
        let long = format!(r#"{{"type":"response.done","x":"{filler}"}}"#);
        let odd = format!(r#"{{"x":"{filler}","type":"response.done"}}"#);
        let words = r#"{"type":"response.output_text.delta","delta":"\"response.done\"","response":{"usage":{"input_tokens":3}}}"#;
        let absurd = r#"{"type":"response.done","response":{"usage":{"input_tokens":-3}}}"#;
        check("sound", &[text(&sound), two.clone()], (1, 2, 1, 0));
        check("words about it", &[text(words)], (0, 0, 0, 0));
        check(
            "not JSON",
            &[text(r#"{"type":"response.done","#)],
            (0, 0, 0, 1),
        );
        check("no JSON at all", &[text("response.done")], (0, 0, 0, 0));
        check("absurd", &[text(absurd)], (0, 0, 0, 1));
        check("too long", &[text(&long), two.clone()], (1, 2, 1, 1));
        check("long, of no known type", &[text(&odd), two], (1, 2, 1, 0));
        check("binary", &[frame(0x82, one.as_bytes())], (0, 0, 0, 0));
        check("compressed", &[frame(0xc1, one.as_bytes())], (0, 0, 0, 0));
    }

    #[test]
    fn a_message_may_come_in_frames_with_a_ping_between_them() {
        let event = done(7, 11);
        let (one, two) = event.as_bytes().split_at(40);
        let ping = frame(0x89, b"\"response.done\"");
        let wire = [frame(0x01, one), ping, frame(0x00, b""), frame(0x80, two)];
        check("in pieces", &wire, (7, 11, 1, 0));
    }

    #[test]
    fn each_token_is_in_one_class() {
        let event = r#"{"type":"response.done","response":{"usage":{"total_tokens":253,"input_tokens":132,"output_tokens":121,
            "input_token_details":{"text_tokens":119,"audio_tokens":13,"image_tokens":0,"cached_tokens":64,
            "cached_tokens_details":{"text_tokens":60,"audio_tokens":4}},"output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#;
        let mut tally = Tally::default();
        tally.pass(&frame(0x81, event.as_bytes()));
        let expected = Usage {
            input: 59,
            cache_read: 64,
            input_audio: 9,
            output: 30,
            output_audio: 91,
            ..Usage::default()
        };
        assert_eq!(tally.usage, expected);
        assert_eq!(tally.usage.total(), 253);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_same_is_counted(
            events in prop::collection::vec((0..50_u64, 0..50_u64, any::<bool>()), 0..6),
            step in 1..700_usize,
        ) {
            let mut wire = Vec::new();
            for (input, output, sound) in events {
                if sound {
                    wire.extend(frame(0x81, format!(r#"{{"type":"x","delta":"{}"}}"#, "A".repeat(900)).as_bytes()));
                }
                wire.extend(frame(0x81, done(input, output).as_bytes()));
            }
            let mut tally = Tally::default();
            for piece in wire.chunks(step) {
                tally.pass(piece);
            }
            let usage = &tally.usage;
            let counted = (usage.total_input(), usage.total_output(), tally.answers, tally.unreadable);
            prop_assert_eq!(counted, totals(&wire));
        }

        #[test]
        fn no_bytes_break_it(wire in prop::collection::vec(any::<u8>(), 0..600), step in 1..50_usize) {
            let mut tally = Tally::default();
            for piece in wire.chunks(step) {
                tally.pass(piece);
            }
        }
    }
}
