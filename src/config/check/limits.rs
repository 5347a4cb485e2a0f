//! Limits: rules that allow something, that count apart what they say, and that some route takes.

use super::Report;
use crate::base::fault::KeyPath;
use crate::stage::limit::settings::{
    Algorithm, Dimension, Per, QUOTA_MAX, RuleSettings, TOKENS_MAX,
};
use crate::stage::route;
use crate::store::cluster::home_prefix;
use crate::store::redis::Settings;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Names of rules are labels of metrics and stand in headers.
const NAME_BYTES_MAX: usize = 64;

pub(super) fn check(report: &mut Report<'_>) {
    let at = KeyPath::root().key("limits").key("rules");
    let config = report.config;
    for (name, settings) in &config.limits.rules {
        let at = at.key(name);
        rule_name(&at, name, report);
        rule(&at, settings, report);
    }
    if !report.absent.any_below(&KeyPath::root().key("limits")) {
        keys_apart(&at, report);
        names_in_routes(report);
    }
}

fn rule_name(at: &KeyPath, name: &str, report: &mut Report<'_>) {
    let part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(part) {
        let what = format!("`{name}` is not a name that callers can be told");
        let fix = "use at most 64 letters, digits, `-` and `_`";
        report.key_error(at.clone(), what, fix);
    }
}

fn rule(at: &KeyPath, rule: &RuleSettings, report: &mut Report<'_>) {
    let given: Vec<(&str, u64)> = [
        ("requests", rule.requests),
        ("tokens", rule.tokens),
        ("in_flight", rule.in_flight),
    ]
    .into_iter()
    .filter_map(|(key, quota)| Some((key, quota?)))
    .collect();
    match given[..] {
        [] => {
            let sure = ["requests", "tokens", "in_flight"];
            let sure = sure.iter().all(|key| report.sure(at, key));
            report.must(
                !sure,
                at.clone(),
                "the rule limits nothing",
                "write `requests: 30`, `tokens: 10000` or `in_flight: 10`",
            );
        }
        [_] => {}
        [(first, _), (second, _), ..] => report.error(
            at.clone(),
            format!("the rule has `{first}` and `{second}`"),
            "make two rules of it",
        ),
    }
    for (key, quota) in given {
        of_some_size(
            at.key(key),
            key,
            (quota, quota_max(key == "tokens")),
            report,
        );
    }
    let most = quota_max(rule.tokens.is_some());
    for (key, others) in [
        ("keys", &rule.keys),
        ("users", &rule.users),
        ("plans", &rule.plans),
    ] {
        for (name, quota) in others {
            of_some_size(at.key(key).key(name), name, (*quota, most), report);
        }
    }
    burst(at, rule, report);
    prepaid(at, rule, report);
    in_flight_only(at, rule, report);
    told_apart(at, rule, report);
    if let Some(prefix) = &rule.prefix {
        let part = |b: u8| b.is_ascii_graphic();
        report.must(
            (1..=128).contains(&prefix.len()) && prefix.bytes().all(part),
            at.key("prefix"),
            "`prefix` must be 1 to 128 letters, digits and signs",
            "write it without spaces, such as `ratelimit`",
        );
    }
}

fn quota_max(of_tokens: bool) -> u64 {
    if of_tokens { TOKENS_MAX } else { QUOTA_MAX }
}

fn of_some_size(at: KeyPath, what: &str, (quota, max): (u64, u64), report: &mut Report<'_>) {
    report.must(
        (1..=max).contains(&quota),
        at,
        format!("`{what}` must be from 1 to {max}"),
        "",
    );
}

fn burst(at: &KeyPath, rule: &RuleSettings, report: &mut Report<'_>) {
    let Some(burst) = rule.burst else {
        return;
    };
    if rule.algorithm != Algorithm::Gcra {
        let what = "`burst` has no effect: only `gcra` keeps requests for later";
        let sure = report.sure(at, "algorithm");
        report.must(!sure, at.key("burst"), what, "write `algorithm: gcra`");
    }
    let of = if rule.tokens.is_some() {
        "tokens"
    } else {
        "requests"
    };
    let most = rule.in_period().unwrap_or(QUOTA_MAX);
    let what = format!("`burst` must be from 1 to `{of}` ({most})");
    report.must((1..=most).contains(&burst), at.key("burst"), what, "");
}

fn prepaid(at: &KeyPath, rule: &RuleSettings, report: &mut Report<'_>) {
    let Some(prepaid) = rule.prepaid else {
        return;
    };
    let Some(most) = rule.in_period() else {
        let what = "`prepaid` has no effect: requests in flight are counted as they are";
        report.error(at.key("prepaid"), what, "remove it");
        return;
    };
    let is_window = rule.algorithm != Algorithm::Gcra || !report.sure(at, "algorithm");
    let what = "`prepaid` is for windows: with `gcra` it would let more through at once";
    report.must(is_window, at.key("prepaid"), what, "remove it");
    let what = format!("`prepaid` must be from 1 to {most}");
    report.must((1..=most).contains(&prepaid), at.key("prepaid"), what, "");
}

/// What is said of a period means nothing where none is counted.
fn in_flight_only(at: &KeyPath, rule: &RuleSettings, report: &mut Report<'_>) {
    if rule.in_flight.is_none() || rule.in_period().is_some() {
        return;
    }
    for (key, is_given) in [
        ("per", rule.per != Per::default()),
        ("algorithm", rule.algorithm != Algorithm::default()),
    ] {
        if is_given {
            let what = format!("`{key}` has no effect: requests in flight are counted as they are");
            report.warning(at.key(key), what, "remove it");
        }
    }
}

fn told_apart(at: &KeyPath, rule: &RuleSettings, report: &mut Report<'_>) {
    let by = &rule.by.0;
    for (index, dimension) in by.iter().enumerate() {
        if by[..index].contains(dimension) {
            let what = "this is told apart already";
            report.error(at.key("by").key(index), what, "remove it");
        }
    }
    let sure = report.sure(at, "by");
    let one_of = |wanted: &[Dimension]| by.iter().any(|by| wanted.contains(by));
    let (user, key, plan) = (Dimension::User, Dimension::Key, Dimension::Plan);
    for (of, others, wanted, fix) in [
        ("keys", &rule.keys, &[key, user][..], "write `by: key`"),
        ("users", &rule.users, &[user][..], "write `by: user`"),
        (
            "plans",
            &rule.plans,
            &[user, key, plan][..],
            "write `by: user`",
        ),
    ] {
        let what = format!("`{of}` have quotas of their own, but are not counted apart");
        let fine = others.is_empty() || one_of(wanted) || !sure;
        report.must(fine, at.key(of), what, fix);
    }
}

/// Two rules under one key would count each request twice.
fn keys_apart(at: &KeyPath, report: &mut Report<'_>) {
    let mut seen: HashMap<_, String> = HashMap::new();
    let redis = report.config.redis.as_ref();
    let is_cluster = redis.is_some_and(Settings::is_cluster);
    for (name, rule) in report.config.limits.rules() {
        let kind = match (rule.in_flight, rule.algorithm) {
            (Some(_), _) => "held",
            (None, Algorithm::Gcra) => "tat",
            (None, _) => rule.per.name(),
        };
        let mut prefix = rule.prefix(&name);
        if is_cluster {
            prefix = home_prefix(&prefix);
        }
        let key = (prefix, rule.by.0.len(), kind);
        let Some(other) = seen.get(&key) else {
            seen.insert(key, name);
            continue;
        };
        // One of them is written, for those of a preset are apart.
        let (mine, other) = if report.config.limits.rules.contains_key(&name) {
            (&name, other)
        } else {
            (other, &name)
        };
        let what = format!("this rule and `{other}` would count under the same keys");
        let fix = "give it a `prefix` of its own";
        report.error(at.key(mine).key("prefix"), what, fix);
    }
}

fn names_in_routes(report: &mut Report<'_>) {
    let config = report.config;
    let rules: BTreeMap<String, RuleSettings> = config.limits.rules();
    let mut used = BTreeSet::new();
    for (name, settings) in &config.routes {
        let at = KeyPath::root().key("routes").key(name).key("limits");
        for (index, rule) in settings.limits.iter().flatten().enumerate() {
            if !rules.contains_key(rule) {
                let section = ("limits", "rule");
                report.known(at.key(index), section, rule, rules.keys());
            }
        }
        used.extend(taken_by(settings, rules.keys()));
    }
    if report.absent.any_below(&KeyPath::root().key("routes")) {
        return;
    }
    let at = KeyPath::root().key("limits").key("rules");
    for name in config.limits.rules.keys() {
        if !used.contains(name.as_str()) {
            let what = format!("no route takes the rule `{name}`");
            report.warning(at.key(name), what, "name it in a route, or remove it");
        }
    }
}

/// The rules of a route: those it names, or all of them if it forwards.
pub fn taken_by<'n>(
    route: &'n route::settings::Settings,
    all: impl Iterator<Item = &'n String>,
) -> Vec<&'n str> {
    match &route.limits {
        Some(named) => named.iter().map(String::as_str).collect(),
        None if route.pool.is_some() || route.ai.is_some() => all.map(String::as_str).collect(),
        None => Vec::new(),
    }
}
