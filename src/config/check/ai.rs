//! Providers and models: kinds that are known, targets that exist, names that can be asked for.

use super::super::suggest;
use super::routes::own_header;
use super::{Report, clouds, words};
use crate::base::fault::KeyPath;
use crate::stage::ai::base_url::BaseUrl;
use crate::stage::ai::provider::{BEDROCK, KINDS, Kind, VERTEX};
use crate::stage::ai::settings::{
    AS_ASKED, BreakerSettings, ModelSettings, Protocol, ProviderSettings, RetrySettings, Strategy,
    TargetSettings,
};
use crate::stage::route::settings::Ai;
use http::uri::Authority;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

/// Headers by which a provider is shown who asks, and those that belong to the call itself.
const OURS: &[&str] = &[
    "authorization",
    "x-amz-date",
    "x-amz-security-token",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "accept",
    "accept-encoding",
    "content-type",
    "content-encoding",
    "cookie",
];

const WEIGHT_MAX: u32 = 1_000;
const ATTEMPTS_MAX: u32 = 8;

pub(super) fn check(report: &mut Report<'_>) {
    let config = report.config;
    let at = KeyPath::root().key("providers");
    for (name, settings) in &config.providers {
        let at = at.key(name);
        if config.pools.contains_key(name) {
            let what =
                format!("the pool `{name}` has the same name: metrics could not tell them apart");
            report.key_error(at.clone(), what, "choose another name");
        }
        if name.contains(['/', '*']) {
            let what = "the name of a provider stands before `/` in `provider/model`";
            report.key_error(at.clone(), what, "write it without `/` and `*`");
        }
        provider(&at, name, settings, report);
    }
    let at = KeyPath::root().key("models");
    for (name, settings) in &config.models {
        let at = at.key(name);
        model_name(&at, name, report);
        model(&at, name, settings, report);
    }
    used(report);
}

/// What is there and never asked for.
fn used(report: &mut Report<'_>) {
    let config = report.config;
    let routes: Vec<_> = config
        .routes
        .values()
        .filter_map(|r| r.ai.as_ref())
        .collect();
    let unsure = ["routes", "models"]
        .iter()
        .any(|key| report.absent.any_below(&KeyPath::root().key(key)));
    if unsure {
        return;
    }
    let targets = config.models.values().flat_map(|model| &model.targets);
    let named: BTreeSet<_> = targets.map(|target| &target.provider).collect();
    let direct = routes.iter().any(|ai| ai.takes_direct());
    let at = KeyPath::root().key("providers");
    for name in config.providers.keys() {
        if routes.is_empty() || (!direct && !named.contains(name)) {
            let what = format!("no route leads to the provider `{name}`");
            let fix = "write `ai: {}` in a route, or remove it";
            report.warning(at.key(name), what, fix);
        }
    }
    let at = KeyPath::root().key("models");
    for name in config.models.keys() {
        let takes = |ai: &&Ai| ai.models.is_empty() || ai.models.iter().any(|one| one == name);
        if !routes.iter().any(takes) {
            let what = format!("no route takes the model `{name}`");
            report.warning(
                at.key(name),
                what,
                "write `ai: {}` in a route, or remove it",
            );
        }
    }
}

fn provider(at: &KeyPath, name: &str, settings: &ProviderSettings, report: &mut Report<'_>) {
    let kind = kind(at, name, settings, report);
    if let Some(kind) = kind {
        base_url(at, kind, settings, report);
        keys(at, name, kind, settings, report);
        clouds::check(at, kind, settings, report);
    }
    for (index, key) in settings.keys.iter().enumerate() {
        let sound = key.expose().bytes().all(|byte| byte.is_ascii_graphic());
        let what = "a key has only letters, digits and signs";
        report.must(
            sound,
            at.key("keys").key(index),
            what,
            "remove spaces and line ends",
        );
    }
    headers(&at.key("headers"), settings, report);
    if let Some(ca) = &settings.ca {
        report.readable(at.key("ca"), ca);
    }
    let timeouts = &settings.timeouts;
    let limits = at.key("timeouts");
    for (key, period) in [
        ("connect", timeouts.connect),
        ("first_token", timeouts.first_token),
        ("gap", timeouts.gap),
        ("total", timeouts.total),
    ] {
        report.not_zero(&limits, key, period, "");
    }
    let sure = report.sure(&limits, "connect") && report.sure(&limits, "total");
    if timeouts.connect > timeouts.total && !timeouts.total.0.is_zero() && sure {
        let (connect, total) = (timeouts.connect, timeouts.total);
        let what = format!("`connect` ({connect}) is longer than `total` ({total}), which ends it");
        report.warning(limits.key("connect"), what, "make it shorter than `total`");
    }
    let capacity = at.key("capacity");
    report.at_least_one(&capacity, "max_in_flight", settings.capacity.max_in_flight);
    if settings.capacity.queue_max > 0 {
        let fix = "write `queue_max: 0` to refuse at once";
        report.not_zero(
            &capacity,
            "queue_timeout",
            settings.capacity.queue_timeout,
            fix,
        );
    }
    retry(&at.key("retry"), &settings.retry, report);
    breaker(&at.key("breaker"), &settings.breaker, report);
    report.not_zero(at, "key_cooldown", settings.key_cooldown.0, "");
}

fn kind(
    at: &KeyPath,
    name: &str,
    settings: &ProviderSettings,
    report: &mut Report<'_>,
) -> Option<&'static Kind> {
    let found = settings.kind_of(name);
    if found.is_some() || !report.sure(at, "kind") {
        return found;
    }
    let known = KINDS.iter().map(|kind| kind.name);
    if let Some(kind) = &settings.kind {
        let fix = suggest::hint(kind, known);
        let what = format!("no kind of provider is called `{kind}`");
        report.error(at.key("kind"), what, fix);
    } else {
        let fix = match suggest::nearest(name, known) {
            Some(near) => format!("did you mean `{near}`? else write `kind: compatible`"),
            None => "write `kind: compatible` for a server that speaks like OpenAI".to_owned(),
        };
        let what = format!("`{name}` is no known provider, and there is no `kind`");
        report.error(at.clone(), what, fix);
    }
    None
}

fn base_url(at: &KeyPath, kind: &Kind, settings: &ProviderSettings, report: &mut Report<'_>) {
    let here = at.key("base_url");
    let Some(url) = settings.base_url_of(kind) else {
        // The place of `vertex` is asked for on its own.
        if report.sure(at, "base_url") && report.sure(at, "region") && *kind != VERTEX {
            let what = format!("a provider of kind `{}` has no usual place", kind.name);
            let fix = if *kind == BEDROCK {
                "write its `region`"
            } else {
                "write its `base_url`"
            };
            report.error(at.clone(), what, fix);
        }
        return;
    };
    match BaseUrl::parse(&url, kind) {
        // One that is made of another setting is told there.
        Err((what, fix)) if settings.base_url.as_deref() == Some(&*url) => {
            report.error(here, what, fix);
        }
        Ok(base) if kind.whole_path(&base.path).is_some() => {
            let path = kind.whole_path(&base.path).unwrap_or_default();
            let what = format!("`{url}` ends with `{path}`, which is put behind it once more");
            report.error(here, what, "end it before that path");
        }
        Ok(base) if !base.tls => {
            if settings.has_keys() && !is_near(&base.authority) {
                let what = "the keys go over the network unencrypted";
                report.warning(here, what, "write `https://`");
            }
            if settings.ca.is_some() {
                let what = "`ca` has no effect: the provider is not reached by TLS";
                report.warning(at.key("ca"), what, "write `https://`, or remove it");
            }
            if settings.protocol == Some(Protocol::Http2) && kind.base_url.is_some() {
                let what = "without TLS the provider must know beforehand that HTTP/2 comes";
                report.warning(at.key("protocol"), what, "remove it if requests fail");
            }
        }
        Err(_) | Ok(_) => {}
    }
}

/// Whether a host is this machine, or in a network of one's own: by its address, or by a name that no public DNS has.
fn is_near(authority: &str) -> bool {
    let host = authority
        .parse::<Authority>()
        .map_or_else(|_| authority.to_owned(), |it| it.host().to_owned());
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => {
            let last = bare.rsplit_once('.').map(|(_, last)| last);
            matches!(
                last,
                None | Some("local" | "localhost" | "internal" | "lan" | "svc")
            )
        }
    }
}

fn keys(
    at: &KeyPath,
    name: &str,
    kind: &Kind,
    settings: &ProviderSettings,
    report: &mut Report<'_>,
) {
    if !settings.is_enabled(kind) && report.sure(at, "keys") {
        let what = format!("the provider `{name}` has no key: it is not used");
        let fix = if *kind == VERTEX {
            "write `service_account: file:/path/to/key.json`"
        } else {
            "set the variable that `keys` names, or write `keys: ${NAME}`"
        };
        report.warning(at.clone(), what, fix);
    }
    let mut seen = HashSet::new();
    for (index, key) in settings.keys.iter().enumerate() {
        let key = key.expose();
        if !key.is_empty() && !seen.insert(key) {
            let what = "this key is there already";
            report.error(at.key("keys").key(index), what, "remove it");
        }
    }
}

fn headers(at: &KeyPath, settings: &ProviderSettings, report: &mut Report<'_>) {
    let mut seen = HashSet::new();
    for (name, value) in &settings.headers {
        let at = at.key(name);
        let small = name.to_lowercase();
        if let Err(words::Wrong { what, fix }) = words::name("header", name) {
            report.key_error(at.clone(), what, fix);
        } else if let Some(fix) = own_header(&small) {
            let what = format!("the header `{name}` is not for a rule to set");
            report.key_error(at.clone(), what, fix);
        } else if OURS.contains(&small.as_str()) {
            let what = format!("the header `{name}` is made by the gateway");
            report.key_error(at.clone(), what, "write keys under `keys`");
        }
        if !seen.insert(small) {
            let what = format!("the header `{name}` is set twice, in other letters");
            report.key_error(at.clone(), what, "keep one of them");
        }
        report.form(at, words::header_value(value));
    }
}

fn retry(at: &KeyPath, retry: &RetrySettings, report: &mut Report<'_>) {
    let what = format!("`attempts` must be from 1 to {ATTEMPTS_MAX}");
    let sound = (1..=ATTEMPTS_MAX).contains(&retry.attempts);
    report.must(sound, at.key("attempts"), what, "1 means no retry");
}

fn breaker(at: &KeyPath, breaker: &BreakerSettings, report: &mut Report<'_>) {
    report.at_least_one(at, "failures", breaker.failures);
    report.at_least_one(at, "requests_min", breaker.requests_min);
    report.not_zero(at, "window", breaker.window, "");
    report.not_zero(at, "open", breaker.open, "");
    let (open, max) = (breaker.open, breaker.open_max);
    let what = format!("`open_max` ({max}) is shorter than `open` ({open})");
    let sure = report.sure(at, "open");
    report.must(
        max >= open || !sure,
        at.key("open_max"),
        what,
        "make it longer",
    );
}

fn model_name(at: &KeyPath, name: &str, report: &mut Report<'_>) {
    let stars = name.matches('*').count();
    if stars > 1 || (stars == 1 && !name.ends_with('*')) {
        let what = format!("`{name}` has a `*` that is not its end");
        let fix = "write `gpt-*` for all names that begin so";
        report.key_error(at.clone(), what, fix);
    }
}

fn model(at: &KeyPath, name: &str, settings: &ModelSettings, report: &mut Report<'_>) {
    let targets = at.key("targets");
    report.must(
        !settings.targets.is_empty() || !report.sure(at, "targets"),
        at.clone(),
        "the model has no targets",
        "write `targets: [openai/gpt-5]`",
    );
    let mut seen = HashSet::new();
    for (index, target) in settings.targets.iter().enumerate() {
        let at = targets.key(index);
        self::target(&at, name, target, report);
        if !seen.insert((&target.provider, &target.model)) {
            let what = format!("the target `{}` is given twice", target.name());
            let fix = "use `weight` to give one more of the traffic";
            report.error(at, what, fix);
        }
    }
    if settings.targets.0.len() == 1
        && !settings.fallback_on.is_empty()
        && report.sure(at, "targets")
    {
        let what = "`fallback_on` has no effect: there is no second target";
        report.warning(at.key("fallback_on"), what, "add a target, or remove it");
    }
    for (index, refusal) in settings.fallback_on.iter().enumerate() {
        if settings.fallback_on.0[..index].contains(refusal) {
            let what = "this is there already";
            report.error(at.key("fallback_on").key(index), what, "remove it");
        }
    }
    by_strategy(at, settings, report);
}

/// What only some strategies look at.
fn by_strategy(at: &KeyPath, settings: &ModelSettings, report: &mut Report<'_>) {
    if !report.sure(at, "strategy") {
        return;
    }
    let strategy = settings.strategy;
    if settings.by.is_some() && strategy != Strategy::Weighted {
        let what = "`by` has no effect: only `weighted` chooses by it";
        report.warning(
            at.key("by"),
            what,
            "write `strategy: weighted`, or remove it",
        );
    }
    let weighs = matches!(strategy, Strategy::Weighted | Strategy::LeastBusy);
    for (index, target) in settings.targets.iter().enumerate() {
        let here = at.key("targets").key(index);
        if target.weight > 1 && !weighs {
            let what = "`weight` has no effect with this `strategy`";
            report.warning(here.key("weight"), what, "write `strategy: weighted`");
        }
        match (&target.price, strategy) {
            (None, Strategy::Cheapest) if report.sure(&here, "price") => report.error(
                here,
                "without a price it cannot be told whether it is the cheapest",
                "write `price: { input: 2.50, output: 10 }`, for a million tokens",
            ),
            (Some(_), other) if other != Strategy::Cheapest => {
                let what = "`price` has no effect with this `strategy`";
                report.warning(here.key("price"), what, "write `strategy: cheapest`");
            }
            _ => {}
        }
    }
}

fn target(at: &KeyPath, name: &str, target: &TargetSettings, report: &mut Report<'_>) {
    let providers = &report.config.providers;
    if !providers.contains_key(&target.provider) {
        let section = ("providers", "provider");
        report.known(
            at.key("provider"),
            section,
            &target.provider,
            providers.keys(),
        );
    }
    let here = at.key("model");
    let weight = target.weight;
    let fix = if weight == 0 {
        "remove the target to send it nothing"
    } else {
        ""
    };
    let what = format!("the weight {weight} is not from 1 to {WEIGHT_MAX}");
    let sound = (1..=WEIGHT_MAX).contains(&weight);
    report.must(sound, at.key("weight"), what, fix);
    if target.model == AS_ASKED {
        return;
    }
    let sound = !target.model.is_empty() && !target.model.contains(words::is_unseen);
    let what = "the name of a model must be made of characters that can be seen";
    report.must(
        sound,
        here.clone(),
        what,
        "write what the provider calls it",
    );
    if target.model.contains('*') {
        let what = format!("`{}` has a `*` among other characters", target.model);
        let fix = if name.ends_with('*') {
            format!(
                "write `{}/*` for the name that was asked for",
                target.provider
            )
        } else {
            "write the whole name of one model".to_owned()
        };
        report.error(here, what, fix);
    }
}

/// What a route takes.
pub(super) fn route(at: &KeyPath, ai: &Ai, report: &mut Report<'_>) {
    let config = report.config;
    if config.providers.is_empty() && !report.absent.any_below(&KeyPath::root().key("providers")) {
        let what = "there are no providers: every call would be refused";
        report.error(at.clone(), what, "write `providers`");
    }
    let of = at.0.get(1).and_then(|name| config.routes.get(name));
    if of.is_some_and(|route| route.identity.is_empty()) {
        let what =
            "anybody who reaches this route may ask models, and the providers' keys pay for it";
        report.warning(
            at.clone(),
            what,
            "name a method under `identity`: `identity: apps`",
        );
    }
    let mut seen = HashSet::new();
    for (index, name) in ai.models.iter().enumerate() {
        let at = at.key("models").key(index);
        if !config.models.contains_key(name) {
            report.known(at, ("models", "model"), name, config.models.keys());
        } else if !seen.insert(name) {
            let what = format!("the model `{name}` is there already");
            report.error(at, what, "remove it");
        }
    }
    shadowed(at, ai, report);
    if let Some(default) = &ai.default {
        default_model(&at.key("default"), default, ai, report);
    }
}

/// Models whose very names lead to another one here, since the route takes a wildcard and not them.
fn shadowed(at: &KeyPath, ai: &Ai, report: &mut Report<'_>) {
    let config = report.config;
    for (index, pattern) in ai.models.iter().enumerate() {
        let Some(beginning) = pattern.strip_suffix('*') else {
            continue;
        };
        // A wildcard that is longer would take the name first.
        let is_taken = |name: &String| {
            let others = ai.models.iter().filter_map(|one| one.strip_suffix('*'));
            let longest = others.filter(|one| name.starts_with(*one)).map(str::len);
            !ai.models.0.contains(name) && longest.max() == Some(beginning.len())
        };
        // One that no route takes is told of as such.
        let taken = config.routes.values().filter_map(|route| route.ai.as_ref());
        let taken = |name: &String| {
            let mut routes = taken.clone();
            routes.any(|ai| ai.models.is_empty() || ai.models.0.contains(name))
        };
        let mut hidden = config.models.keys().filter(|name| {
            !name.ends_with('*')
                && name.len() > beginning.len()
                && name.starts_with(beginning)
                && taken(name)
        });
        if let Some(name) = hidden.find(|name| is_taken(name)) {
            let what =
                format!("here `{name}` is answered by `{pattern}`, and not by the model `{name}`");
            let fix = format!("name it as well: `models: [{name}, {pattern}]`");
            report.warning(at.key("models").key(index), what, fix);
        }
    }
}

/// As a caller would ask for it: by a name, by one that begins like a name, or by its provider.
fn default_model(at: &KeyPath, name: &str, ai: &Ai, report: &mut Report<'_>) {
    let config = report.config;
    if ["models", "providers"]
        .iter()
        .any(|key| report.absent.any_below(&KeyPath::root().key(key)))
    {
        return;
    }
    if name.contains('*') {
        let what = format!("`{name}` stands for many names: a default is one");
        return report.error(at.clone(), what, "write the whole name of one model");
    }
    let takes = |one: &String| ai.models.is_empty() || ai.models.iter().any(|model| model == one);
    let fits = |one: &String| match one.strip_suffix('*') {
        Some(beginning) => name.len() > beginning.len() && name.starts_with(beginning),
        None => one == name,
    };
    let mut models = config.models.keys();
    let is_model = models.any(|one| takes(one) && fits(one));
    let provider = name.split_once('/').filter(|(_, model)| !model.is_empty());
    let is_direct = ai.takes_direct()
        && provider.is_some_and(|(provider, _)| config.providers.contains_key(provider));
    if is_model || is_direct {
        return;
    }
    let known = config.models.keys().filter(|one| takes(one));
    let fix = suggest::hint(name, known.map(String::as_str));
    report.error(
        at.clone(),
        format!("no model `{name}` can be asked for here"),
        fix,
    );
}
