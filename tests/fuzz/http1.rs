//! Heads and bodies of HTTP/1.1: what is taken means the same to whoever reads it again.

use crate::mutate::mutated;
use bytes::{Bytes, BytesMut};
use onemind_gateway::wire::body::{BodyReader, Framing, Piece};
use onemind_gateway::wire::head::{self, HeadFinder};
use proptest::prelude::*;

const HEADS: &[&[u8]] = &[
    b"GET /a/b?c=d HTTP/1.1\r\nHost: e.test\r\nAccept: */*\r\n\r\n",
    b"POST http://e.test/ HTTP/1.1\r\nHost: e.test\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: e.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nSet-Cookie: c=d; Path=/\r\n\r\n",
];

const BODIES: &[&[u8]] = &[
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1;a=b\r\nx\r\n00a\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET / HTTP/1.1\r\n",
    b"ffff\r\n",
];

/// What the grammars are made of.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    ": ",
    "HTTP/1.1",
    "HTTP/1.0",
    "GET ",
    "Host: e.test\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "\r\n\r\n",
    "0\r\n\r\n",
    "5\r\n",
    ";",
    "\0",
    "\u{a0}",
];

fn seeds(texts: &[&[u8]]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.to_vec()).collect()
}

#[test]
fn heads() {
    crate::fuzz("heads", 4_000, &mutated(seeds(HEADS), WORDS), |text| {
        let _ = head::parse_response(Bytes::from(text.clone()));
        let mut buf = BytesMut::from(&text[..]);
        if head::begin_request(&mut buf).is_err() {
            return Ok(());
        }
        let Ok(Some(length)) = HeadFinder::default().find(&buf, 32 * 1024) else {
            return Ok(());
        };
        let Ok(first) = head::parse_request(buf.split_to(length).freeze(), 100) else {
            return Ok(());
        };
        // What an endpoint would be sent, read by the same rules, is the same request.
        let mut out = BytesMut::new();
        let target = first.uri.path_and_query().map_or("/", |path| path.as_str());
        let fields = (&first.headers, &first.spelling);
        head::put_request(&mut out, &first.method, target, fields, |_| false);
        out.extend_from_slice(b"\r\n");
        if first.method == http::Method::CONNECT || first.version == http::Version::HTTP_10 {
            return Ok(());
        }
        let found = HeadFinder::default().find(&out, 64 * 1024);
        prop_assert_eq!(found, Ok(Some(out.len())));
        let again = head::parse_request(out.freeze(), 100);
        let again = again.map_err(|fault| TestCaseError::fail(format!("{fault:?}")))?;
        prop_assert_eq!(&again.headers, &first.headers);
        prop_assert_eq!(&again.method, &first.method);
        Ok(())
    });
}

/// All of a body, and how many bytes were left, when it comes in pieces of this size.
fn read(text: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
    let mut reader = BodyReader::new(Framing::Chunked);
    let (mut buf, mut body, mut given) = (BytesMut::new(), Vec::new(), 0);
    loop {
        match reader.take(&mut buf).ok()? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::End => return Some((body, text.len() - given + buf.len())),
            Piece::More if given == text.len() => return None,
            Piece::More => {
                let next = (given + step).min(text.len());
                buf.extend_from_slice(&text[given..next]);
                given = next;
            }
        }
    }
}

#[test]
fn bodies() {
    let inputs = (mutated(seeds(BODIES), WORDS), 1_usize..64);
    crate::fuzz("bodies", 4_000, &inputs, |(text, step)| {
        // Cut as it may be, it is the same body and the same next request.
        prop_assert_eq!(read(&text, step), read(&text, usize::MAX / 2));
        Ok(())
    });
}
