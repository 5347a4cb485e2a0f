//! Traces: a collector that can be asked, and figures that make sense.

use super::Report;
use super::words::{self, Wrong};
use crate::base::fault::KeyPath;
use crate::base::secret::Secret;
use crate::base::units::{Bytes, Period};
use crate::observe::trace::settings::Settings;
use crate::wire::fetch;

const QUEUE_MIN: Bytes = Bytes(64 << 10);
const QUEUE_MAX: Bytes = Bytes::mib(256);
const EVERY_MAX: Period = Period::seconds(60);
const TIMEOUT_MAX: Period = Period::seconds(60);

/// What the sender writes itself.
const OURS: [&str; 6] = [
    "host",
    "content-type",
    "content-length",
    "connection",
    "accept",
    "user-agent",
];

pub(super) fn check(report: &mut Report<'_>) {
    let Some(settings) = &report.config.tracing else {
        return;
    };
    let at = KeyPath::root().key("tracing");
    collector(&at, settings, report);
    let (what, fix) = (
        format!("`sample` must be from 0 to 1, not {}", settings.sample),
        "write a share such as `0.01`, for one of a hundred",
    );
    let is_share = (0.0..=1.0).contains(&settings.sample);
    report.must(is_share, at.key("sample"), what, fix);
    if let Some(slow) = settings.slow {
        let fix = "write `sample: 1` for the spans of all requests";
        report.not_zero(&at, "slow", slow, fix);
    }
    let what = "`service` is empty";
    let named = !settings.service.is_empty();
    report.must(named, at.key("service"), what, "remove the key");
    let what = format!("`queue` must be from {QUEUE_MIN} to {QUEUE_MAX}");
    let fits = (QUEUE_MIN.0..=QUEUE_MAX.0).contains(&settings.queue.0);
    report.must(fits, at.key("queue"), what, "");
    for (key, period, max) in [
        ("every", settings.every, EVERY_MAX),
        ("timeout", settings.timeout, TIMEOUT_MAX),
    ] {
        report.not_zero(&at, key, period, "");
        let what = format!("`{key}` ({period}) is longer than {max}");
        report.must(period <= max, at.key(key), what, "");
    }
    let silent = settings.sample <= 0.0
        && !settings.errors
        && settings.slow.is_none()
        && !settings.follow_parent;
    let sure = ["sample", "errors", "slow", "follow_parent"];
    if silent && sure.iter().all(|key| report.sure(&at, key)) {
        let fix = "remove the section, or write `sample: 0.01`";
        report.warning(at, "no spans are ever sent", fix);
    }
}

fn collector(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    let url = &settings.endpoint;
    let named = ["http://", "https://"]
        .iter()
        .any(|one| url.starts_with(one));
    if let Err(what) = fetch::parse(url) {
        let what = if named {
            what
        } else {
            format!("`{url}` does not begin with `http://` or `https://`")
        };
        let fix = "write the address of a collector, such as `http://127.0.0.1:4318`";
        report.error(at.key("endpoint"), what, fix);
    }
    let headers = at.key("headers");
    for (name, value) in &settings.headers {
        header(headers.key(name), (name, value), report);
    }
    if let Some(ca) = &settings.ca {
        report.readable(at.key("ca"), ca);
        if url.starts_with("http://") && report.sure(at, "endpoint") {
            let what = "`ca` has no effect: the connection to the collector is not encrypted";
            report.warning(at.key("ca"), what, "write `https://`, or remove it");
        }
    }
}

fn header(at: KeyPath, (name, value): (&str, &Secret), report: &mut Report<'_>) {
    if let Err(Wrong { what, fix }) = words::name("header", name) {
        return report.key_error(at, what, fix);
    }
    if OURS.iter().any(|one| name.eq_ignore_ascii_case(one)) {
        let what = format!("`{name}` is not for you to set");
        return report.key_error(at, what, "remove it");
    }
    // The value is a secret: what is wrong with it is not shown.
    let good = words::header_value(value.expose()).is_ok();
    let fix = "remove line breaks, and spaces around it";
    report.must(good, at, "this cannot be sent in a header", fix);
}
