//! Heads, sound, odd, and what is none.

use super::*;
use proptest::prelude::*;

fn parse(text: &[u8]) -> Result<RequestHead, HeadFault> {
    let mut buf = BytesMut::from(text);
    begin_request(&mut buf)?;
    let length = HeadFinder::default().find(&buf, 32 * 1024)?;
    let length = length.ok_or(HeadFault::Malformed("cut"))?;
    parse_request(buf.split_to(length).freeze(), 100)
}

#[test]
fn sound_heads_are_understood() {
    for (text, path, version) in [
        (
            "GET /a?b HTTP/1.1\r\nHost: e.test\r\n\r\n",
            "/a?b",
            Version::HTTP_11,
        ),
        (
            "\r\n\r\nGET / HTTP/1.1\r\nHost:e.test \r\nA:\r\n\r\n",
            "/",
            Version::HTTP_11,
        ),
        ("GET / HTTP/1.0\r\n\r\n", "/", Version::HTTP_10),
        (
            "OPTIONS * HTTP/1.1\r\nhost: e.test\r\n\r\n",
            "*",
            Version::HTTP_11,
        ),
        (
            "GET http://e.test/x HTTP/1.1\r\nhost: E.test\r\n\r\n",
            "/x",
            Version::HTTP_11,
        ),
        (
            "GET http://e.test?a=b HTTP/1.1\r\nhost: e.test\r\n\r\n",
            "/?a=b",
            Version::HTTP_11,
        ),
        (
            "GET //two/slashes HTTP/1.1\r\nhost: e\r\n\r\n",
            "//two/slashes",
            Version::HTTP_11,
        ),
    ] {
        let head = parse(text.as_bytes()).expect(text);
        assert_eq!(head.uri.path_and_query().unwrap(), path, "{text:?}");
        assert_eq!(head.version, version);
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for text in [
        "GET / HTTP/1.1\nHost: e\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\n\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\r\n\n",
        "GET / HTTP/1.1\r\nHost : e\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: e\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\r\nA: b\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\r\nA: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: e\r\n: empty\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "G\tT / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02",
        "\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
    ] {
        let parsed = parse(text.as_bytes());
        assert!(
            matches!(parsed, Err(HeadFault::Malformed(why)) if why != "cut")
                || matches!(parsed, Err(HeadFault::Version)),
            "{text:?}: {parsed:?}"
        );
    }
    for text in [
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap_err(), HeadFault::Version);
    }
}

#[test]
fn size_and_number_are_limited() {
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
        "x".repeat(33_000)
    );
    assert_eq!(parse(long.as_bytes()).unwrap_err(), HeadFault::TooLarge);
    let unfinished = "GET / HTTP/1.1\r\n".to_owned() + &"A: b\r\n".repeat(6000);
    assert_eq!(
        parse(unfinished.as_bytes()).unwrap_err(),
        HeadFault::TooLarge
    );
    for (fields, fine) in [(99, true), (100, false), (300, false)] {
        let many = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "A: b\r\n".repeat(fields)
        );
        let parsed = parse(many.as_bytes());
        assert_eq!(parsed.is_ok(), fine, "{fields}");
        assert!(fine || parsed.is_err_and(|fault| fault == HeadFault::TooManyFields));
    }
}

#[test]
fn answers_are_understood_and_unfolded() {
    let head = parse_response(Bytes::from_static(
        b"HTTP/1.1 299 Odd Words\r\nA: b\r\n c\r\nETag: x\r\n\r\n",
    ))
    .unwrap();
    assert_eq!(head.status, 299);
    assert_eq!(head.reason.as_deref(), Some(&b"Odd Words"[..]));
    let value = head.headers["a"].to_str().unwrap();
    assert_eq!(value.split_whitespace().collect::<Vec<_>>(), ["b", "c"]);
    assert!(parse_response(Bytes::from_static(b"HTTP/1.1 abc\r\n\r\n")).is_err());
    assert!(parse_response(Bytes::from_static(b"SSH-2.0-x\r\n\r\n")).is_err());
}

#[test]
fn a_head_is_written_as_it_was_read() {
    let text = "GET /a HTTP/1.1\r\nHost: e\r\nX-ID: 1\r\naccept: */*\r\n";
    let head = parse(format!("{text}\r\n").as_bytes()).unwrap();
    let mut out = BytesMut::new();
    let fields = (&head.headers, &head.spelling);
    put_request(&mut out, &head.method, "/a", fields, |_| false);
    assert_eq!(std::str::from_utf8(&out).unwrap(), text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn nothing_panics_the_reader(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&text);
        let _ = parse_response(Bytes::from(text));
    }

    #[test]
    fn the_end_is_found_in_whichever_pieces_it_comes(cuts in prop::collection::vec(1_usize..40, 1..60)) {
        let text = b"POST /path HTTP/1.1\r\nHost: e.test\r\nA: b\r\n\r\nbody\r\n\r\n";
        let mut finder = HeadFinder::default();
        let mut given = 0;
        let mut found = None;
        for cut in cuts.iter().chain(std::iter::repeat(&1)) {
            given = (given + cut).min(text.len());
            found = finder.find(&text[..given], 1000).unwrap();
            if found.is_some() || given == text.len() {
                break;
            }
        }
        prop_assert_eq!(found, Some(43));
    }

    #[test]
    fn odd_bytes_in_a_sound_head_never_become_another_field(byte in any::<u8>(), at in 0_usize..40) {
        let mut text = b"GET /abc HTTP/1.1\r\nHost: e.test\r\nA: b\r\n\r\n".to_vec();
        text[at] = byte;
        if let Ok(head) = parse(&text) {
            let mut out = BytesMut::new();
            let target = head.uri.path_and_query().map_or("/", |path| path.as_str());
            let fields = (&head.headers, &head.spelling);
            put_request(&mut out, &head.method, target, fields, |_| false);
            out.put_slice(b"\r\n");
            let again = parse(&out).expect("what was read and written can be read");
            prop_assert_eq!(&again.headers, &head.headers);
        }
    }
}
