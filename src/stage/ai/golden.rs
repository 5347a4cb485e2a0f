//! Golden files: what each dialect's calls, answers, streams and refusals become in each other's words.
//!
//! A case is a folder `tests/golden/ai/<dialect>/<case>/` with any of these inputs:
//! - `call.json` (and `path.json`, `{"model", "stream"}`, what Gemini says there) → `call.<dialect>.json` for every
//!   dialect, its own included: `{"body", "dropped"}` or `{"refused", "param"}`; one of its own that cannot be
//!   read at all → `call.refused.json`
//! - `reply.json` → `reply.<dialect>.json`
//! - `stream.sse` → `events.txt`, `stream.<dialect>.sse` as each writes it, and `stream.kept.sse`, which a caller of
//!   the same dialect is given who did not ask for usage
//! - `fault.json` (`{"status", "headers", "body"}`) → `fault.txt`
//!
//! `UPDATE_GOLDEN=1 cargo test --lib golden` writes what is expected; read the difference before you commit it.

use super::dialect::{Dialect, Frame, InPath, Keep, Wants};
use super::event::Event;
use super::fault::{CallFault, Complaint};
use super::sse::{Decoder, EVENT_BYTES_MAX};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ai");

/// Add a dialect here, and its cases are run and all others written in its words.
fn dialects() -> Vec<(&'static str, &'static dyn Dialect)> {
    vec![
        ("chat", &super::dialect::chat::Chat),
        ("responses", &super::dialect::responses::Responses),
        ("messages", &super::dialect::messages::Messages),
        ("gemini", &super::dialect::gemini::Gemini),
    ]
}

/// What is wrong, collected: all of it is shown at once.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn expect(&mut self, path: &Path, found: &str) {
        let expected = fs::read_to_string(path);
        if expected.as_deref().is_ok_and(|expected| expected == found) {
            return;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(path, found).expect("golden files are writable");
            return;
        }
        self.0.push(match expected {
            Ok(expected) => {
                let line = expected
                    .lines()
                    .zip(found.lines())
                    .position(|(a, b)| a != b);
                let line =
                    line.unwrap_or_else(|| expected.lines().count().min(found.lines().count()));
                format!(
                    "{}:{}\n  expected {}\n  found    {}",
                    path.display(),
                    line + 1,
                    expected.lines().nth(line).unwrap_or("the end"),
                    found.lines().nth(line).unwrap_or("the end"),
                )
            }
            Err(_) => format!("{}: write it with UPDATE_GOLDEN=1", path.display()),
        });
    }
}

struct Case {
    dialect: &'static dyn Dialect,
    dir: PathBuf,
}

impl Case {
    fn input(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    fn json(&self, name: &str) -> Option<Value> {
        let bytes = self.input(name)?;
        let value = serde_json::from_slice(&bytes);
        Some(value.unwrap_or_else(|fault| panic!("{}/{name}: {fault}", self.dir.display())))
    }

    fn call(&self, faults: &mut Faults) {
        let Some(body) = self.input("call.json") else {
            return;
        };
        let path = self.json("path.json").unwrap_or_default();
        let path = InPath {
            model: path["model"].as_str(),
            stream: path["stream"] == true,
        };
        let call = match self.dialect.read_call(&body, &path) {
            Ok(call) => call,
            Err(fault) => {
                return faults.expect(&self.dir.join("call.refused.json"), &refused(&fault));
            }
        };
        for (name, dialect) in dialects() {
            let found = match dialect.write_call(&call) {
                Ok(written) => pretty(&json!({
                    "body": parse(&written.body),
                    "dropped": written.dropped,
                })),
                Err(fault) => refused(&fault),
            };
            faults.expect(&self.dir.join(format!("call.{name}.json")), &found);
        }
    }

    fn reply(&self, faults: &mut Faults) {
        let Some(body) = self.input("reply.json") else {
            return;
        };
        for (name, dialect) in dialects() {
            let found = match self.dialect.read_reply(&body) {
                Ok(reply) => pretty(&parse(&dialect.write_reply(&reply))),
                Err(fault) => format!("malformed: {}\n", fault.0),
            };
            faults.expect(&self.dir.join(format!("reply.{name}.json")), &found);
        }
    }

    fn stream(&self, faults: &mut Faults) {
        let Some(stream) = self.input("stream.sse") else {
            return;
        };
        let read = read(self.dialect, &frames([&stream[..]]));
        faults.expect(&self.dir.join("events.txt"), &read.told);
        faults.expect(
            &self.dir.join("stream.kept.sse"),
            &String::from_utf8_lossy(&read.kept),
        );
        for seed in 0..20 {
            let again = frames(cut(&stream, seed).iter().map(Vec::as_slice));
            if self::read(self.dialect, &again).told != read.told {
                faults.0.push(format!(
                    "{}: cut into chunks by seed {seed} it is another stream",
                    self.dir.display()
                ));
            }
        }
        for (name, dialect) in dialects() {
            let text = String::from_utf8(write(dialect, &read.events)).expect("UTF-8");
            faults.expect(&self.dir.join(format!("stream.{name}.sse")), &text);
        }
    }

    fn fault(&self, faults: &mut Faults) {
        let Some(answer) = self.json("fault.json") else {
            return;
        };
        let mut headers = HeaderMap::new();
        for (name, value) in answer["headers"].as_object().into_iter().flatten() {
            let name = HeaderName::try_from(name.as_str()).expect("a name");
            let value = value.as_str().expect("a text");
            headers.insert(name, HeaderValue::try_from(value).expect("a value"));
        }
        // A body that is no JSON is written as a text.
        let body = match &answer["body"] {
            Value::String(text) => text.clone(),
            body => body.to_string(),
        };
        let status = answer["status"].as_u64().expect("a status");
        let status = u16::try_from(status).expect("a status");
        let fault = self.dialect.read_fault(status, &headers, body.as_bytes());
        faults.expect(&self.dir.join("fault.txt"), &format!("{fault:#?}\n"));
    }
}

#[derive(Default)]
struct Stream {
    events: Vec<Event>,
    /// One event a line, then how it ended.
    told: String,
    kept: Vec<u8>,
}

fn read(dialect: &dyn Dialect, frames: &[Frame]) -> Stream {
    let mut reader = dialect.reader();
    let mut stream = Stream::default();
    for frame in frames {
        let before = stream.events.len();
        let result = reader.read(frame, &mut stream.events);
        for event in &stream.events[before..] {
            writeln!(stream.told, "{event:?}").expect("memory");
        }
        if let Err(fault) = result {
            writeln!(stream.told, "malformed: {}", fault.0).expect("memory");
        }
        match reader.keep(frame, &Wants::default()) {
            Keep::Whole => stream.kept.extend_from_slice(&frame.raw),
            Keep::Nothing => {}
            Keep::Instead(bytes) => stream.kept.extend_from_slice(&bytes),
        }
    }
    let (whole, sequence) = (reader.is_whole(), reader.sequence());
    // Gemini has no mark of its end: where the connection ends and all was said, whoever reads makes one.
    if whole && !stream.events.contains(&Event::End) {
        stream.events.push(Event::End);
    }
    writeln!(stream.told, "whole: {whole}, sequence: {sequence}").expect("memory");
    stream
}

fn write(dialect: &dyn Dialect, events: &[Event]) -> Vec<u8> {
    let mut writer = dialect.writer(Wants {
        usage: true,
        model: "asked".to_owned(),
        created: 1_700_000_000,
        id: "made-up".to_owned(),
    });
    let mut out = Vec::new();
    for event in events {
        if let Event::Fault(fault) = event {
            let complaint = Complaint {
                status: fault.kind.status(),
                code: fault.kind.code(),
                message: &fault.message,
                param: None,
                retry_after: fault.retry_after,
                request_id: "request",
            };
            out.extend(dialect.write_last_fault(&complaint, writer.sequence()));
            break;
        }
        writer.write(event, &mut out);
    }
    out
}

fn frames<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
    let mut decoder = Decoder::new(EVENT_BYTES_MAX);
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(frame) = decoder.next().expect("golden events are short") {
            frames.push(frame);
        }
    }
    frames
}

/// Into chunks of 1 to 24 bytes; at seed 0 of one byte each.
fn cut(stream: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut chunks = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let size = if seed == 0 { 1 } else { random.usize(1..=24) };
        let (chunk, more) = rest.split_at(size.min(rest.len()));
        chunks.push(chunk.to_vec());
        rest = more;
    }
    chunks
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body)
        .unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(body)))
}

fn refused(fault: &CallFault) -> String {
    pretty(&json!({"refused": fault.message, "param": fault.param}))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("entry is readable").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

#[test]
fn each_dialect_becomes_each_other_as_it_was_agreed() {
    let mut faults = Faults::default();
    let mut cases = 0;
    for (name, dialect) in dialects() {
        for dir in folders(&Path::new(ROOT).join(name)) {
            let case = Case { dialect, dir };
            case.call(&mut faults);
            case.reply(&mut faults);
            case.stream(&mut faults);
            case.fault(&mut faults);
            cases += 1;
        }
    }
    assert!(cases > 0, "no cases under {ROOT}");
    assert!(faults.0.is_empty(), "\n{}\n", faults.0.join("\n"));
}
