//! Sticky cookies: only a genuine one leads anywhere, among whatever else is in the header.

use crate::fuzz;
use crate::mutate::mutated;
use onemind_gateway::stage::upstream::endpoint::{Address, Endpoint};
use onemind_gateway::stage::upstream::settings::StickySettings;
use onemind_gateway::stage::upstream::sticky::{Sticky, cookies};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Instant;

const NOW: u64 = 1_800_000_000;
const NAME: &str = "onemind_endpoint";
const WORDS: &[&str] = &[
    ";",
    "; ",
    "=",
    "\"",
    "\\",
    ",",
    " ",
    "\t",
    "v1.",
    "v2.",
    "onemind_endpoint",
    "onemind_endpoint=",
    "a=b; ",
    "\u{0}",
    "é",
    "-",
    "_",
    "+",
    "/",
    "==",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
];

fn sticky() -> Sticky {
    Sticky::new(&StickySettings::default(), &[7; 32])
}

fn members() -> Vec<Arc<Endpoint>> {
    let addresses = [1, 2].map(|last| Address::Ip(([10, 0, 0, last], 80).into()));
    let endpoints = addresses.map(|address| Endpoint::new(address, None, 1, Instant::now()));
    endpoints.map(Arc::new).into()
}

#[test]
fn only_a_genuine_cookie_leads_to_an_endpoint() {
    let (sticky, members) = (sticky(), members());
    let genuine: Vec<String> = members
        .iter()
        .map(|member| sticky.issue("app", member, NOW))
        .collect();
    let others = [sticky.issue("other", &members[0], NOW), "v1.x".to_owned()];
    let seeds = genuine.iter().chain(&others).flat_map(|value| {
        [
            format!("{NAME}={value}"),
            format!("a=1; {NAME}=\"{value}\"; b=2"),
            format!("{NAME}=v1.forged; {NAME}={value}"),
        ]
    });
    let seeds = seeds.map(String::into_bytes).collect();
    let lines = prop::collection::vec(mutated(seeds, WORDS), 0..4);
    fuzz("sticky cookie", 4_000, &lines, |lines| {
        let headers = || lines.iter().map(Vec::as_slice);
        if let Some(kept) = sticky.read(headers(), ("app", &members), NOW) {
            let at = members
                .iter()
                .position(|member| Arc::ptr_eq(member, &kept.endpoint));
            let value = genuine[at.unwrap()].as_bytes();
            let said = cookies(headers(), NAME).any(|said| said == value);
            prop_assert!(said, "led to {} by nothing", kept.endpoint.name);
        }
        prop_assert!(
            sticky
                .read(headers(), ("app", &members), NOW + 366 * 86_400)
                .is_none(),
            "expired"
        );
        for value in cookies(headers(), NAME) {
            prop_assert!(!value.contains(&b';'));
        }
        Ok(())
    });
}
