//! What proxies say of the caller: believed as far as they are trusted, and passed on so that the next
//! one comes to the same answer.

use crate::fuzz;
use crate::mutate::mutated;
use http::{HeaderMap, HeaderValue};
use onemind_gateway::stage::listen::forwarded::{ForwardedHeaders, TrustedProxies, claims, client};
use onemind_gateway::stage::listen::trace::Trace;
use proptest::prelude::*;
use std::net::SocketAddr;

const WORDS: &[&str] = &[
    ",",
    ", ",
    ";",
    "\"",
    "\\",
    "\\\"",
    "for=",
    "For = ",
    "proto=https",
    "proto=http",
    "host=a",
    "by=_x",
    "unknown",
    "_hidden",
    "10.0.0.1",
    "192.0.2.1:80",
    "[2001:db8::1]",
    "\"[2001:db8::1]:80\"",
    "::ffff:10.0.0.1",
    "::1",
    "[",
    "]",
    ":",
    "99999",
    "\t",
    "é",
    "https",
    "http",
    "wss",
];
const NAMES: &[&str] = &[
    "x-forwarded-for",
    "forwarded",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x_forwarded_for",
    "x-request-id",
    "traceparent",
    "tracestate",
    "host",
];

fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "192.0.2.1",
        "192.0.2.1, 10.0.0.7",
        "2001:db8::1, 198.51.100.7:4711",
        "https",
        "http, https",
        "example.com",
        "for=192.0.2.1;proto=https;host=example.com",
        "for=\"[2001:db8::1]:80\", for=10.0.0.7;by=10.0.0.1",
        "for=\"_x\\\"y\", for=192.0.2.1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "a=b,c=d",
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let line = (prop::sample::select(NAMES), mutated(seeds(), WORDS));
    prop::collection::vec(line, 0..6).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        headers
    })
}

fn trusted() -> TrustedProxies {
    TrustedProxies::new(&["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()))
}

fn peer(from: &str) -> SocketAddr {
    SocketAddr::new(from.parse().unwrap(), 4711)
}

#[test]
fn a_stranger_speaks_for_nobody() {
    let trusted = trusted();
    fuzz(
        "claims of a stranger",
        3_000,
        &(headers(), any::<bool>()),
        |(headers, tls)| {
            let client = client(peer("203.0.113.9"), &headers, &trusted, tls);
            prop_assert_eq!(
                (client.address, client.trusted, client.tls),
                (peer("203.0.113.9").ip(), false, tls)
            );
            let said = ForwardedHeaders::new(&client, &headers, None);
            prop_assert_eq!(said.forwarded_for, "203.0.113.9");
            prop_assert_eq!(said.real_ip, "203.0.113.9");
            prop_assert!(said.forwarded.as_bytes().starts_with(b"for=203.0.113.9"));
            for name in claims(&headers) {
                prop_assert!(name != "host");
            }
            let trace = Trace::begin(&headers, false, None);
            prop_assert_eq!(trace.request_id(&headers, false).is_empty(), false);
            Ok(())
        },
    );
}

#[test]
fn the_next_proxy_comes_to_the_same_answer() {
    let trusted = trusted();
    let from = prop::sample::select(&["10.0.0.1", "fd00::1", "::ffff:10.0.0.1"][..]);
    fuzz(
        "chain of proxies",
        3_000,
        &(from, headers(), any::<bool>()),
        |(from, headers, tls)| {
            let here = client(peer(from), &headers, &trusted, tls);
            prop_assert!(here.trusted);
            let said = ForwardedHeaders::new(&here, &headers, None);
            let mut passed_on = HeaderMap::new();
            for (name, value) in said.into_pairs() {
                passed_on.insert(name, value);
            }
            // We are trusted by the next as our peer was by us.
            let next = client(peer("10.99.99.99"), &passed_on, &trusted, false);
            prop_assert_eq!(
                (next.address, next.tls),
                (here.address, here.tls),
                "{:?}",
                passed_on
            );
            // And by one that reads `Forwarded` only.
            passed_on.remove("x-forwarded-for");
            passed_on.remove("x-forwarded-proto");
            let next = client(peer("10.99.99.99"), &passed_on, &trusted, here.tls);
            prop_assert_eq!(next.address, here.address, "{:?}", passed_on);
            Trace::begin(&headers, true, None).request_id(&headers, true);
            Ok(())
        },
    );
}
