//! Tests of `forwarded`.

use super::*;
use proptest::prelude::*;
use std::net::SocketAddr;

fn trusted() -> TrustedProxies {
    let networks = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "192.168.1.1/32",
        "2001:db8:aaaa::/48",
        "::ffff:172.16.0.0/108",
    ];
    TrustedProxies::new(&networks.map(|network| network.parse().unwrap()))
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn peer(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 4711)
}

#[test]
fn networks_hold_what_lies_in_them() {
    for (address, inside) in [
        ("10.0.0.0", true),
        ("10.255.255.255", true),
        ("9.255.255.255", false),
        ("11.0.0.0", false),
        ("192.168.1.1", true),
        ("192.168.1.2", false),
        ("192.168.1.0", false),
        ("::ffff:10.1.2.3", true),
        ("::ffff:11.1.2.3", false),
        ("172.16.0.9", true),
        ("172.32.0.9", false),
        ("2001:db8:aaaa:ffff::1", true),
        ("2001:db8:aaab::1", false),
    ] {
        assert_eq!(
            trusted().contains(address.parse().unwrap()),
            inside,
            "{address}"
        );
    }
    let all_v6 = TrustedProxies::new(&["::/0".parse().unwrap()]);
    assert!(all_v6.contains("2001:db8::1".parse().unwrap()));
    assert!(!all_v6.contains("::ffff:192.0.2.1".parse().unwrap()));
    assert!(!TrustedProxies::default().contains("127.0.0.1".parse().unwrap()));
}

proptest! {
    #[test]
    fn the_search_agrees_with_asking_each_network(
        networks in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..12),
        address: u32,
        near in any::<prop::sample::Index>(),
    ) {
        let networks: Vec<IpNet> = networks
            .into_iter()
            .map(|(bits, prefix)| IpNet::new(IpAddr::V4(bits.into()), prefix).unwrap())
            .collect();
        let trusted = TrustedProxies::new(&networks);
        let mut asked = vec![IpAddr::V4(address.into())];
        if !networks.is_empty() {
            let edge = near.get(&networks);
            asked.extend([edge.network(), edge.broadcast()]);
        }
        for address in asked {
            let one_by_one = networks.iter().any(|network| network.contains(&address));
            prop_assert_eq!(trusted.contains(address), one_by_one, "{}", address);
        }
    }

    #[test]
    fn garbage_never_panics_and_never_speaks_for_a_stranger(lines in prop::collection::vec("[ -~]{0,60}", 0..4)) {
        let mut map = HeaderMap::new();
        for line in &lines {
            for name in [X_FORWARDED_FOR, FORWARDED, X_FORWARDED_PROTO, X_FORWARDED_HOST] {
                map.append(name, line.parse().unwrap());
            }
        }
        for address in ["10.0.0.1", "203.0.113.9"] {
            let client = client(peer(address), &map, &trusted(), false);
            ForwardedHeaders::new(&client, &map, None);
            prop_assert!(client.trusted || client.address.to_string() == "203.0.113.9" && !client.tls);
        }
    }

    #[test]
    fn what_a_trusted_proxy_appends_is_found_whatever_stands_before(left in "[ -~]{0,60}", quoted: bool) {
        let appended = if quoted { "for=\"[2001:db8::7]:1\"" } else { "for=198.51.100.7" };
        let address = if quoted { "2001:db8::7" } else { "198.51.100.7" };
        let map = headers(&[("forwarded", &format!("{left}, {appended}"))]);
        let client = client(peer("10.0.0.1"), &map, &trusted(), false);
        prop_assert_eq!(client.address.to_string(), address);
    }
}

#[test]
fn what_is_no_text_hides_nobody_who_stands_to_its_right() {
    for (lines, address) in [
        (&[&b"\x80, 198.51.100.7"[..]][..], "198.51.100.7"),
        (&[b"\xff\", 198.51.100.7, 10.2.2.2"], "198.51.100.7"),
        (&[b"192.0.2.1, \x80, 10.2.2.2"], "10.2.2.2"),
        (&[b"192.0.2.1, \xc3\xa9"], "10.0.0.1"),
        (&[b"198.51.100.7", b""], "10.0.0.1"),
    ] {
        for name in [X_FORWARDED_FOR, FORWARDED] {
            let mut map = HeaderMap::new();
            for line in lines {
                let mut line = line.to_vec();
                if name == FORWARDED {
                    line = line
                        .split(|byte| *byte == b',')
                        .fold(Vec::new(), |mut all, hop| {
                            if !all.is_empty() {
                                all.push(b',');
                            }
                            if !hop.trim_ascii().is_empty() {
                                all.extend_from_slice(b"for=");
                            }
                            all.extend_from_slice(hop.trim_ascii());
                            all
                        });
                }
                map.append(name.clone(), HeaderValue::from_bytes(&line).unwrap());
            }
            let client = client(peer("10.0.0.1"), &map, &trusted(), false);
            assert_eq!(client.address.to_string(), address, "{map:?}");
        }
    }
}

#[test]
fn the_caller_is_the_right_most_address_that_is_not_trusted() {
    for (from, lines, address) in [
        // Nobody trusts a stranger.
        ("203.0.113.9", vec!["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", vec![], "10.0.0.1"),
        ("10.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
        (
            "::ffff:10.0.0.1",
            vec!["::ffff:198.51.100.7"],
            "198.51.100.7",
        ),
        (
            "10.0.0.1",
            vec!["1.1.1.1, 198.51.100.7, 10.2.2.2"],
            "198.51.100.7",
        ),
        (
            "10.0.0.1",
            vec!["1.1.1.1", "198.51.100.7", "10.2.2.2,10.3.3.3"],
            "198.51.100.7",
        ),
        // All are trusted: the left-most is as far as we know.
        ("10.0.0.1", vec!["10.9.9.9, 10.2.2.2"], "10.9.9.9"),
        ("10.0.0.1", vec!["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", vec!["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", vec!["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", vec!["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", vec!["1.1.1.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, unknown, 10.2.2.2"], "10.2.2.2"),
        ("10.0.0.1", vec!["1.1.1.1, _hidden"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, 300.1.1.1"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, 198.51.100.7:port"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, [2001:db8::7"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, [2001:db8::7]x"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, [1.2.3.4]"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, fe80::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1, \u{e9}"], "10.0.0.1"),
        ("10.0.0.1", vec!["1.1.1.1,"], "10.0.0.1"),
    ] {
        let lines: Vec<_> = lines
            .into_iter()
            .map(|line| ("x-forwarded-for", line))
            .collect();
        let client = client(peer(from), &headers(&lines), &trusted(), false);
        assert_eq!(client.address.to_string(), address, "{from} {lines:?}");
    }
}

#[test]
fn a_chain_is_read_for_32_hops_only() {
    for (proxies, address) in [(31, "198.51.100.7"), (32, "10.2.2.2")] {
        let chain = format!("198.51.100.7{}", ", 10.2.2.2".repeat(proxies));
        let client = client(
            peer("10.0.0.1"),
            &headers(&[("x-forwarded-for", &chain)]),
            &trusted(),
            false,
        );
        assert_eq!(client.address.to_string(), address, "{proxies}");
    }
}

#[test]
fn forwarded_is_read_where_x_forwarded_for_is_absent() {
    for (line, address, tls) in [
        ("for=198.51.100.7", "198.51.100.7", false),
        ("For=\"198.51.100.7:80\"; Proto=HTTPS", "198.51.100.7", true),
        (
            "for=1.1.1.1, for=\"[2001:db8::7]:_port\";proto=https, for=10.2.2.2;proto=http",
            "2001:db8::7",
            true,
        ),
        (
            "for=198.51.100.7;proto=http, for=10.2.2.2;proto=https",
            "198.51.100.7",
            false,
        ),
        ("for=1.1.1.1, for=unknown;proto=https", "10.0.0.1", false),
        ("for=1.1.1.1, by=10.2.2.2", "10.0.0.1", false),
        // What stands in quotes is not structure, and an open quote of a stranger spoils nothing.
        (
            "host=\"x;for=1.1.1.1;y\";for=198.51.100.7",
            "198.51.100.7",
            false,
        ),
        (
            "for=198.51.100.7;host=\"x, for=1.1.1.1\"",
            "198.51.100.7",
            false,
        ),
        (
            "for=198.51.100.7;host=\"x\\\", for=1.1.1.1\"",
            "198.51.100.7",
            false,
        ),
        ("for=\"1.1.1.1, for=198.51.100.7", "198.51.100.7", false),
    ] {
        let client = client(
            peer("10.0.0.1"),
            &headers(&[("forwarded", line)]),
            &trusted(),
            false,
        );
        assert_eq!(
            (client.address.to_string().as_str(), client.tls),
            (address, tls),
            "{line}"
        );
    }
    let both = headers(&[
        ("forwarded", "for=1.1.1.1"),
        ("x-forwarded-for", "198.51.100.7"),
    ]);
    let client = client(peer("10.0.0.1"), &both, &trusted(), false);
    assert_eq!(client.address.to_string(), "198.51.100.7");
}

#[test]
fn the_protocol_is_what_a_trusted_peer_says_about_the_caller() {
    for (from, chain, proto, socket, tls) in [
        ("203.0.113.9", "", "https", false, false),
        ("10.0.0.1", "", "https", false, true),
        ("10.0.0.1", "", "http", true, false),
        ("10.0.0.1", "", "WSS", false, true),
        ("10.0.0.1", "", "gopher", true, true),
        // A list runs parallel to the chain.
        (
            "10.0.0.1",
            "198.51.100.7, 10.2.2.2",
            "https, http",
            false,
            true,
        ),
        ("10.0.0.1", "198.51.100.7, 10.2.2.2", "https", false, true),
        (
            "10.0.0.1",
            "1.1.1.1, 198.51.100.7",
            "https, http",
            false,
            false,
        ),
    ] {
        let map = headers(&[("x-forwarded-for", chain), ("x-forwarded-proto", proto)]);
        let client = client(peer(from), &map, &trusted(), socket);
        assert_eq!(client.tls, tls, "{from} {chain} {proto}");
    }
}

#[track_caller]
fn check_sent(from: &str, lines: &[(&'static str, &str)], expected: [&str; 5]) {
    let map = headers(lines);
    let client = client(peer(from), &map, &trusted(), true);
    let sent = ForwardedHeaders::new(&client, &map, None);
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let host = sent.host.as_ref().map(text).unwrap_or_default();
    let actual = [
        text(&sent.forwarded_for),
        text(&sent.proto),
        host,
        text(&sent.real_ip),
        text(&sent.forwarded),
    ];
    assert_eq!(actual, expected);
}

#[test]
fn a_stranger_is_described_from_scratch() {
    check_sent(
        "203.0.113.9",
        &[
            ("host", "example.com"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=1.1.1.1"),
        ],
        [
            "203.0.113.9",
            "https",
            "example.com",
            "203.0.113.9",
            "for=203.0.113.9;host=example.com;proto=https",
        ],
    );
    check_sent(
        "2001:db8::9",
        &[("host", "example.com:8443")],
        [
            "2001:db8::9",
            "https",
            "example.com:8443",
            "2001:db8::9",
            "for=\"[2001:db8::9]\";host=\"example.com:8443\";proto=https",
        ],
    );
    check_sent(
        "203.0.113.9",
        &[("host", "a\"b")],
        [
            "203.0.113.9",
            "https",
            "a\"b",
            "203.0.113.9",
            "for=203.0.113.9;proto=https",
        ],
    );
}

#[test]
fn a_chain_of_trusted_proxies_goes_on() {
    check_sent(
        "10.0.0.1",
        &[
            ("host", "internal"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-for", "10.2.2.2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-host", "example.com"),
            // Nobody believed this one, so it does not travel on.
            ("forwarded", "for=1.1.1.1"),
        ],
        [
            "198.51.100.7, 10.2.2.2, 10.0.0.1",
            "http",
            "example.com",
            "198.51.100.7",
            "for=198.51.100.7;host=example.com;proto=http, for=10.0.0.1",
        ],
    );
    check_sent(
        "10.0.0.1",
        &[
            ("forwarded", "for=\"[2001:db8::7]\";proto=http"),
            ("forwarded", "for=10.2.2.2"),
        ],
        [
            "2001:db8::7, 10.0.0.1",
            "http",
            "",
            "2001:db8::7",
            "for=\"[2001:db8::7]\";proto=http, for=10.2.2.2, for=10.0.0.1",
        ],
    );
    check_sent(
        "10.0.0.1",
        &[],
        [
            "10.0.0.1",
            "https",
            "",
            "10.0.0.1",
            "for=10.0.0.1;proto=https",
        ],
    );
}

#[test]
fn the_authority_of_http_2_stands_for_the_host() {
    let client = client(peer("203.0.113.9"), &HeaderMap::new(), &trusted(), true);
    let sent = ForwardedHeaders::new(
        &client,
        &HeaderMap::new(),
        Some(HeaderValue::from_static("h2.example")),
    );
    let names: Vec<_> = sent.into_pairs().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_REAL_IP,
            FORWARDED,
            X_FORWARDED_HOST
        ]
    );
}

#[test]
fn claims_are_found_in_either_spelling_and_nothing_else_is() {
    let map = headers(&[
        ("host", "example.com"),
        ("x-forwarded-for", "a"),
        ("x_forwarded_for", "a"),
        ("X-Real_IP", "a"),
        ("traceparent", "a"),
        ("x-forwarded", "a"),
        ("x-custom", "a"),
        ("from", "a"),
    ]);
    let mut found: Vec<_> = claims(&map).iter().map(ToString::to_string).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "traceparent",
            "x-forwarded-for",
            "x-real_ip",
            "x_forwarded_for"
        ]
    );
    assert!(claims(&headers(&[("host", "a"), ("x-custom", "a")])).is_empty());
}

#[test]
fn behind_a_unix_socket_the_word_counts_and_the_process_has_no_address_of_its_own() {
    for (said, address, counted) in [
        (None, "127.0.0.1", None),
        (Some("203.0.113.9"), "203.0.113.9", Some("203.0.113.9")),
        (Some("unknown"), "127.0.0.1", None),
        (Some("127.0.0.1"), "127.0.0.1", None),
    ] {
        let mut map = HeaderMap::new();
        if let Some(said) = said {
            map.insert(X_FORWARDED_FOR, HeaderValue::from_static(said));
        }
        let client = client(Peer::Unix, &map, &TrustedProxies::default(), false);
        assert!(client.trusted);
        assert_eq!(client.address.to_string(), address, "{said:?}");
        let counted = counted.map(|counted| counted.parse().unwrap());
        assert_eq!(client.counted(), counted, "{said:?}");
    }
    let local = client(
        peer("127.0.0.1"),
        &HeaderMap::new(),
        &TrustedProxies::default(),
        false,
    );
    assert!(!local.trusted && local.counted().is_some(), "by TCP it has");
}
