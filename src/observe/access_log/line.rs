//! A record as one line of JSON: fields always in the same order, absent ones `null`.

use super::text::{cut, escaped, ip, millis, number, socket, string, time};
use super::{Attempt, Inference, Record, redact};
use crate::base::client::Peer;
use std::time::Duration;

/// Path and query beyond this many bytes are cut.
const PATH_BYTES_MAX: usize = 2048;
/// Host and user agent.
const HEADER_BYTES_MAX: usize = 256;
/// Names from the configuration, ids, words.
const WORD_BYTES_MAX: usize = 128;
/// Attempts beyond this many are not listed; `retries` still counts them.
const ATTEMPTS_MAX: usize = 16;

/// Appends the line and its end.
pub fn write(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    time(out, record.time);
    out.push(b'"');
    caller(out, record);
    request(out, record);
    upstream(out, record);
    measures(out, record);
    outcome(out, record);
    out.extend_from_slice(b"}\n");
}

fn caller(out: &mut Vec<u8>, record: &Record<'_>) {
    word(out, b",\"request_id\":", record.request_id);
    word(out, b",\"trace_id\":", record.trace_id);
    out.extend_from_slice(b",\"client\":\"");
    ip(out, record.client);
    out.extend_from_slice(b"\",\"peer\":\"");
    match record.peer {
        Peer::Inet(peer) => socket(out, peer),
        Peer::Unix => out.extend_from_slice(b"unix"),
    }
    out.push(b'"');
    word(out, b",\"listener\":", record.listener);
    word(out, b",\"protocol\":", record.protocol);
    maybe_word(out, b",\"tls\":", record.tls);
}

fn request(out: &mut Vec<u8>, record: &Record<'_>) {
    word(out, b",\"method\":", record.method);
    out.extend_from_slice(b",\"host\":");
    string(out, record.host, HEADER_BYTES_MAX);
    out.extend_from_slice(b",\"path\":\"");
    // Cut first: what is cut off needs no redaction, and work stays bounded.
    let (path, was_cut) = cut(record.path, PATH_BYTES_MAX);
    redact::parts(path, |part| escaped(out, part));
    if was_cut {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

fn upstream(out: &mut Vec<u8>, record: &Record<'_>) {
    field(out, b",\"status\":", u64::from(record.status));
    maybe(
        out,
        b",\"upstream_status\":",
        record.upstream_status,
        |out, status| {
            number(out, u64::from(status));
        },
    );
    maybe_word(out, b",\"user\":", record.user);
    maybe_word(out, b",\"key\":", record.key);
    maybe_word(out, b",\"route\":", record.route);
    maybe_word(out, b",\"pool\":", record.pool);
    maybe_word(out, b",\"endpoint\":", record.endpoint);
    let retries = record.attempts.len().saturating_sub(1);
    field(
        out,
        b",\"retries\":",
        u64::try_from(retries).unwrap_or(u64::MAX),
    );
    if retries > 0 {
        attempts(out, record.attempts);
    }
}

fn attempts(out: &mut Vec<u8>, attempts: &[Attempt<'_>]) {
    out.extend_from_slice(b",\"attempts\":[");
    for (at, attempt) in attempts.iter().take(ATTEMPTS_MAX).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        word(out, b"{\"endpoint\":", attempt.endpoint);
        word(out, b",\"reason\":", attempt.reason);
        out.extend_from_slice(b",\"ms\":");
        millis(out, attempt.duration);
        out.push(b'}');
    }
    out.push(b']');
}

fn measures(out: &mut Vec<u8>, record: &Record<'_>) {
    maybe_millis(out, b",\"duration_ms\":", Some(record.duration));
    maybe_millis(out, b",\"connect_ms\":", record.connect);
    maybe_millis(out, b",\"first_byte_ms\":", record.first_byte);
    field(out, b",\"bytes_in\":", record.bytes_in);
    field(out, b",\"bytes_out\":", record.bytes_out);
}

fn outcome(out: &mut Vec<u8>, record: &Record<'_>) {
    maybe(out, b",\"user_agent\":", record.user_agent, |out, agent| {
        string(out, agent, HEADER_BYTES_MAX);
    });
    word(out, b",\"ending\":", record.ending.name());
    maybe_word(out, b",\"code\":", record.code);
    maybe_word(out, b",\"limit\":", record.limit);
    let websocket: &[u8] = if record.websocket { b"true" } else { b"false" };
    out.extend_from_slice(b",\"websocket\":");
    out.extend_from_slice(websocket);
    if let Some(inference) = &record.inference {
        model(out, inference);
    }
}

/// One object, so that lines of other requests are no longer for it.
fn model(out: &mut Vec<u8>, of: &Inference<'_>) {
    word(out, b",\"ai\":{\"operation\":", of.operation);
    word(out, b",\"model\":", of.model);
    maybe_word(out, b",\"provider\":", of.provider);
    maybe_word(out, b",\"provider_model\":", of.provider_model);
    let stream: &[u8] = if of.stream { b"true" } else { b"false" };
    out.extend_from_slice(b",\"stream\":");
    out.extend_from_slice(stream);
    maybe_word(out, b",\"stop\":", of.stop);
    word(out, b",\"usage\":", of.usage_source);
    field(out, b",\"input_tokens\":", of.usage.total_input());
    field(out, b",\"output_tokens\":", of.usage.total_output());
    for (name, units) in of.usage.classes() {
        if units > 0 {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            field(out, b"\":", units);
        }
    }
    maybe_millis(out, b",\"queue_ms\":", of.queued);
    maybe_millis(out, b",\"first_token_ms\":", of.first_token);
    maybe(
        out,
        b",\"tokens_per_second\":",
        of.tokens_per_second,
        |out, rate| {
            out.extend_from_slice(format!("{rate:.1}").as_bytes());
        },
    );
    out.push(b'}');
}

fn field(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    number(out, value);
}

fn word(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    string(out, value.as_bytes(), WORD_BYTES_MAX);
}

fn maybe<T>(out: &mut Vec<u8>, name: &[u8], value: Option<T>, show: impl FnOnce(&mut Vec<u8>, T)) {
    out.extend_from_slice(name);
    match value {
        Some(value) => show(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn maybe_word(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    maybe(out, name, value, |out, value| {
        string(out, value.as_bytes(), WORD_BYTES_MAX);
    });
}

fn maybe_millis(out: &mut Vec<u8>, name: &[u8], value: Option<Duration>) {
    maybe(out, name, value, millis);
}
