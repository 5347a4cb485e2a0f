//! The log as its reader sees it.

use super::*;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, proptest};
use proptest::{prop_assert, prop_assert_eq};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

fn sample() -> Record<'static> {
    Record {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        request_id: "0198c2f0-aaaa",
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        client: "203.0.113.9".parse().expect("an address"),
        peer: Peer::Inet("[::1]:4000".parse().expect("an address")),
        listener: "https",
        protocol: "HTTP/2",
        tls: Some("TLSv1.3"),
        method: "GET",
        host: b"app.example.com",
        path: b"/a/b?q=1&token=secret",
        status: 200,
        upstream_status: Some(200),
        user: Some("alice"),
        key: None,
        route: Some("app"),
        pool: Some("app"),
        endpoint: Some("10.0.0.1:8080"),
        attempts: &[],
        duration: Duration::from_micros(12_345),
        connect: None,
        first_byte: Some(Duration::from_micros(9_001)),
        bytes_in: 0,
        bytes_out: 1024,
        user_agent: Some(b"curl/8.5.0"),
        ending: Ending::Completed,
        code: None,
        limit: None,
        websocket: false,
        inference: None,
    }
}

fn json(record: &Record<'_>) -> Value {
    let mut out = Vec::new();
    line::write(&mut out, record);
    let text = String::from_utf8(out).expect("UTF-8");
    let line = text.strip_suffix('\n').expect("an end of line");
    assert_eq!(line.lines().count(), 1, "{line}");
    serde_json::from_str(line).unwrap_or_else(|why| panic!("{why} in {line}"))
}

#[test]
fn a_line_says_everything_in_a_fixed_order() {
    let mut out = Vec::new();
    line::write(&mut out, &sample());
    assert_eq!(
        String::from_utf8_lossy(&out),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"0198c2f0-aaaa","#,
            r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","client":"203.0.113.9","peer":"[::1]:4000","#,
            r#""listener":"https","protocol":"HTTP/2","tls":"TLSv1.3","method":"GET","host":"app.example.com","#,
            r#""path":"/a/b?q=1&token=***","status":200,"upstream_status":200,"user":"alice","key":null,"route":"app","pool":"app","#,
            r#""endpoint":"10.0.0.1:8080","retries":0,"duration_ms":12.345,"connect_ms":null,"first_byte_ms":9.001,"#,
            r#""bytes_in":0,"bytes_out":1024,"user_agent":"curl/8.5.0","ending":"completed","code":null,"limit":null,"websocket":false}"#,
            "\n"
        )
    );
}

#[test]
fn attempts_are_listed_when_there_was_more_than_one() {
    let attempt = Attempt {
        endpoint: "10.0.0.1:8080",
        reason: "connect_failed",
        duration: Duration::from_micros(1500),
    };
    for (count, listed) in [(0, 0), (1, 0), (2, 2), (40, 16)] {
        let attempts = vec![attempt; count];
        let line = json(&Record {
            attempts: &attempts,
            ..sample()
        });
        assert_eq!(line["retries"], count.saturating_sub(1));
        let shown = line["attempts"].as_array().map_or(0, Vec::len);
        assert_eq!(shown, listed, "{line}");
        if listed > 0 {
            let expected = serde_json::json!({"endpoint": "10.0.0.1:8080", "reason": "connect_failed", "ms": 1.5});
            assert_eq!(line["attempts"][0], expected);
        }
    }
}

#[test]
fn a_line_is_bounded_whatever_the_caller_sends() {
    let long = vec![0xff; 1 << 20];
    let long_text = "\u{1}".repeat(1 << 20);
    let attempts = vec![
        Attempt {
            endpoint: &long_text,
            reason: &long_text,
            duration: Duration::MAX
        };
        1000
    ];
    let record = Record {
        request_id: &long_text,
        trace_id: &long_text,
        user: Some(&long_text),
        key: Some(&long_text),
        method: &long_text,
        host: &long,
        path: &long,
        user_agent: Some(&long),
        attempts: &attempts,
        ..sample()
    };
    let mut out = Vec::new();
    line::write(&mut out, &record);
    assert!(out.len() < 40_000, "{}", out.len());
    json(&record);
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..400)
}

proptest! {
    #[test]
    fn any_input_gives_one_line_of_json(
        words in vec(any::<String>(), 8),
        host in bytes(), path in bytes(), agent in bytes(),
        status: u16, micros: u64, count in 0_usize..4,
    ) {
        let attempts = vec![Attempt { endpoint: &words[0], reason: &words[1], duration: Duration::from_micros(micros) }; count];
        let record = Record {
            request_id: &words[2],
            trace_id: &words[3],
            listener: &words[4],
            protocol: &words[5],
            method: &words[6],
            code: Some(&words[7]),
            limit: Some(&words[7]),
            host: &host,
            path: &path,
            user_agent: Some(&agent),
            status,
            duration: Duration::from_micros(micros),
            attempts: &attempts,
            ..sample()
        };
        let line = json(&record);
        prop_assert_eq!(&line["status"], status);
        if words[6].len() <= 128 {
            prop_assert_eq!(&line["method"], &words[6]);
        }
        prop_assert!(line["host"].is_string() && line["path"].is_string() && line["user_agent"].is_string());
    }
}

fn open(path: &Path, metrics: &Metrics) -> AccessLog {
    AccessLog::open(&Target::File(path.to_owned(), None), metrics).expect("a file")
}

/// Waits until the file holds this many lines, and returns how long that took.
fn wait_for_lines(path: &Path, expected: usize) -> Duration {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == expected {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{text}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_line_reaches_the_file_soon_without_a_flush() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("access.log");
    let metrics = Metrics::new("1.2.3");
    let log = open(&path, &metrics);
    for at in 1..=3 {
        log.write(&sample());
        wait_for_lines(&path, at);
    }
    assert_eq!(metrics.access_log_written.get(), 3);
}

#[test]
fn closing_writes_what_every_thread_has_left() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("access.log");
    let metrics = Metrics::new("1.2.3");
    let log = Arc::new(open(&path, &metrics));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..500).for_each(|_| log.write(&sample())));
        }
    });
    drop(log);
    let text = fs::read_to_string(&path).expect("a file");
    assert_eq!(text.lines().count(), 4000);
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert_eq!(metrics.access_log_written.get(), 4000);
    assert_eq!(metrics.access_log_dropped.get(), 0);
}

#[test]
fn after_a_rename_lines_go_to_the_new_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
    let metrics = Metrics::new("1.2.3");
    let log = open(&path, &metrics);
    log.write(&sample());
    wait_for_lines(&path, 1);
    fs::rename(&path, &old).expect("renamed");
    log.reopen();
    log.write(&sample());
    wait_for_lines(&path, 1);
    assert_eq!(wait_for_lines(&old, 1).as_secs(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_costs_lines_and_nothing_else() {
    let metrics = Metrics::new("1.2.3");
    let log = open(Path::new("/dev/full"), &metrics);
    for _ in 0..10 {
        log.write(&sample());
    }
    drop(log);
    assert_eq!(metrics.access_log_dropped.get(), 10);
    assert_eq!(metrics.access_log_written.get(), 0);
}

#[test]
fn targets_are_read_as_written() {
    let target = |to: &str| Target::from(&AccessLogSettings::to(to));
    assert_eq!(target("off"), Target::Off);
    assert_eq!(target("stdout"), Target::Stdout);
    assert_eq!(target("syslog"), Target::Syslog(SyslogSettings::default()));
    let path = PathBuf::from("/var/log/access.log");
    assert_eq!(target("/var/log/access.log"), Target::File(path, None));
}
