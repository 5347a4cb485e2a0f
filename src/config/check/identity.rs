//! Methods of identification: keys that can be checked, tokens that can be verified, chains that make sense.

use super::routes::own_header;
use super::{Report, words};
use crate::base::fault::KeyPath;
use crate::base::principal::{USER_BYTES_MAX, X_USER_ID};
use crate::base::secret::Secret;
use crate::base::units::Period;
use crate::stage::identity::api_key::{PEPPER_BYTES_MIN, hash_in, parse_hash};
use crate::stage::identity::chain::NO_METHOD;
use crate::stage::identity::session::HASH_FIELD;
use crate::stage::identity::settings::{
    CertificateSettings, JwtSettings, KeySettings, KeysSettings, SessionSettings, Settings,
};
use crate::stage::route::settings::Settings as RouteSettings;
use crate::store::redis;
use crate::wire::fetch;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Shorter keys of callers could be guessed.
const KEY_BYTES_MIN: usize = 16;
/// RFC 7518 3.2.
const SECRET_BYTES_MIN: usize = 32;

/// More would let a token live on well after its end.
const LEEWAY_MAX: Period = Period::seconds(300);

/// Nobody wants to find out what a store makes of longer times.
const IDLE_MAX: Period = Period::seconds(365 * 24 * 3600);

pub(super) fn check(report: &mut Report<'_>) {
    let at = KeyPath::root().key("identity");
    let config = report.config;
    let routes = config.routes.values();
    let used: BTreeSet<&String> = routes.flat_map(|route| &route.identity).collect();
    let certain = !report.absent.any_below(&KeyPath::root().key("routes"));
    for (name, settings) in &config.identity {
        let at = at.key(name);
        if name == NO_METHOD {
            let what = "`none` stands for no single method in metrics";
            report.key_error(at.clone(), what, "choose another name");
        }
        if certain && !used.contains(name) {
            let what = format!("no route uses the method `{name}`");
            let fix = "name it in `identity` of a route, or remove it";
            report.warning(at.clone(), what, fix);
        }
        let at = at.key(settings.word());
        match settings {
            Settings::Keys(settings) => keys(&at, settings, report),
            Settings::Jwt(settings) => jwt(&at, settings, report),
            Settings::Session(settings) => session(&at, settings, report),
            Settings::ClientCertificate(settings) => certificate(&at, settings, report),
            Settings::Anonymous(settings) => plan(&at, settings.plan.as_ref(), report),
        }
    }
}

fn keys(at: &KeyPath, settings: &KeysSettings, report: &mut Report<'_>) {
    if let Some(pepper) = &settings.pepper {
        let what = format!("the pepper is shorter than {PEPPER_BYTES_MIN} bytes");
        let long = pepper.expose().len() >= PEPPER_BYTES_MIN;
        report.must(
            long,
            at.key("pepper"),
            what,
            "make one: `openssl rand -hex 16`",
        );
    }
    let known = at.key("known");
    report.must(
        !settings.known.is_empty() || !report.sure(at, "known"),
        at.clone(),
        "there is no key: every key would be refused",
        "make one: `onemind key new --name app`",
    );
    let has_pepper = settings.pepper.is_some() || !report.sure(at, "pepper");
    let (mut names, mut hashes) = (HashSet::new(), HashMap::new());
    for (index, key) in settings.known.iter().enumerate() {
        let at = known.key(index);
        let what = format!("the key `{}` is there already", key.name);
        report.must(
            names.insert(&key.name),
            at.key("name"),
            what,
            "give each key a name of its own",
        );
        self::key(&at, key, has_pepper, report);
        let hash = hash_in(key);
        if let Some(other) = hash.and_then(|hash| hashes.insert(hash, &key.name)) {
            let what = format!("the keys `{other}` and `{}` are the same", key.name);
            let place = if key.secret.is_some() {
                "secret"
            } else {
                "hash"
            };
            report.error(
                at.key(place),
                what,
                "make a key for each: `onemind key new`",
            );
        }
    }
}

fn key(at: &KeyPath, key: &KeySettings, has_pepper: bool, report: &mut Report<'_>) {
    user(at.key("name"), &key.name, report);
    if let Some(user) = &key.user {
        self::user(at.key("user"), user, report);
    }
    plan(at, key.plan.as_ref(), report);
    roles(&at.key("roles"), &key.roles.0, report);
    let fix = "`onemind key new` says what to write";
    let sure = report.sure(at, "hash") && report.sure(at, "secret");
    let hash = match (&key.hash, &key.secret) {
        (Some(hash), None) => hash,
        (None, Some(secret)) => return self::secret(&at.key("secret"), secret, report),
        (None, None) => {
            return report.must(!sure, at.clone(), "the key has no `hash`", fix);
        }
        (Some(_), Some(_)) => {
            let what = "the key has `hash` and `secret`";
            return report.error(at.clone(), what, "keep exactly one of them");
        }
    };
    match parse_hash(hash) {
        None => report.error(
            at.key("hash"),
            "the hash of a key is `sha256:` or `hmac-sha256:` and 64 hexadecimal digits",
            fix,
        ),
        Some((true, _)) if !has_pepper => report.error(
            at.key("hash"),
            "the hash was made with a pepper, and there is none",
            "write the `pepper` that it was made with",
        ),
        Some(_) => {}
    }
}

/// A key as callers show it.
fn secret(at: &KeyPath, secret: &Secret, report: &mut Report<'_>) {
    let key = secret.expose();
    let sound = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let what = if key.is_empty() {
        "the key is empty"
    } else {
        "a key has only letters, digits and signs"
    };
    let fix = "set the variable to a key: `onemind key new` makes one";
    report.must(sound, at.clone(), what, fix);
    if sound && key.len() < KEY_BYTES_MIN {
        let what = format!("the key is shorter than {KEY_BYTES_MIN} bytes: it could be guessed");
        report.warning(at.clone(), what, "`onemind key new` makes a good one");
    }
}

fn jwt(at: &KeyPath, settings: &JwtSettings, report: &mut Report<'_>) {
    let given = settings.secret.is_some() || settings.jwks.is_some() || settings.key_file.is_some();
    let sources = ["secret", "jwks", "key_file"];
    let sure = sources.iter().all(|key| report.sure(at, key));
    report.must(
        given || !sure,
        at.clone(),
        "there is no key to verify tokens with",
        "write one of `secret`, `jwks` and `key_file`",
    );
    if let Some(secret) = &settings.secret {
        let what =
            format!("the secret is shorter than {SECRET_BYTES_MIN} bytes: it could be guessed");
        if secret.expose().len() < SECRET_BYTES_MIN {
            // Issuers are older than this rule: their tokens must still be read.
            report.warning(at.key("secret"), what, "make one: `openssl rand -hex 32`");
        }
    }
    jwks(at, settings, report);
    if let Some(path) = &settings.key_file {
        report.readable(at.key("key_file"), path);
    }
    if settings.audience.is_empty() && report.sure(at, "audience") {
        let what = "no `audience`: tokens that are meant for others are taken too";
        report.warning(at.clone(), what, "write what `aud` of your tokens says");
    }
    let what = format!("`leeway` is longer than {LEEWAY_MAX}");
    let fix = "tokens would be taken long after their end";
    report.must(settings.leeway <= LEEWAY_MAX, at.key("leeway"), what, fix);
    claim(at.key("user"), &settings.user, report);
    for (key, path) in [("plan", &settings.plan), ("roles", &settings.roles)] {
        if let Some(path) = path {
            claim(at.key(key), path, report);
        }
    }
    headers(&at.key("headers"), settings, report);
}

fn jwks(at: &KeyPath, settings: &JwtSettings, report: &mut Report<'_>) {
    if let Some(path) = &settings.jwks_ca {
        report.readable(at.key("jwks_ca"), path);
        let what = "`jwks_ca` has no effect without `jwks`";
        let has = settings.jwks.is_some() || !report.sure(at, "jwks");
        report.must(has, at.key("jwks_ca"), what, "remove it");
    }
    let second = Period::seconds(1);
    let what = "`jwks_refresh` is shorter than a second";
    report.must(
        settings.jwks_refresh >= second,
        at.key("jwks_refresh"),
        what,
        "",
    );
    let Some(url) = &settings.jwks else { return };
    let at = at.key("jwks");
    match fetch::parse(url) {
        Err(what) => report.error(at, what, "write `https://issuer.example.com/jwks.json`"),
        Ok((uri, is_tls)) if !is_tls && !is_near(uri.host().unwrap_or_default()) => report.warning(
            at,
            "keys that are fetched without TLS can be replaced on their way",
            "write `https://…`",
        ),
        Ok(_) => {}
    }
}

/// Whether the host is this machine.
fn is_near(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn claim(at: KeyPath, path: &str, report: &mut Report<'_>) {
    let sound = !path.is_empty() && path.split('.').all(|name| !name.is_empty());
    let fix = "write `sub`, or `app_metadata.plan` for a claim in a claim";
    report.must(sound, at, format!("`{path}` leads to no claim"), fix);
}

fn headers(at: &KeyPath, settings: &JwtSettings, report: &mut Report<'_>) {
    for (name, path) in &settings.headers {
        let at = at.key(name);
        if let Err(words::Wrong { what, fix }) = words::name("header", name) {
            report.key_error(at.clone(), what, fix);
        } else if let Some(fix) = not_for_claims(name) {
            let what = format!("the header `{name}` is not for a claim");
            report.key_error(at.clone(), what, fix);
        }
        claim(at, path, report);
    }
}

fn not_for_claims(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    if name == X_USER_ID.as_str() {
        return Some("it always holds the user: choose its claim by `user`");
    }
    let forwarded = name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip";
    let ours = [
        "authorization",
        "cookie",
        "traceparent",
        "tracestate",
        "x-request-id",
    ];
    if forwarded || ours.contains(&name.as_str()) {
        return Some("choose one that means nothing else, such as `X-User-Email`");
    }
    own_header(&name)
}

fn session(at: &KeyPath, settings: &SessionSettings, report: &mut Report<'_>) {
    let address = report.config.redis.as_ref().map(redis::Settings::address);
    // What is wrong with an address is told at its place.
    let has_none = matches!(address, None | Some(Ok(None)));
    let unsure = report.absent.any_below(&KeyPath::root().key("redis"));
    report.must(
        !has_none || unsure,
        at.clone(),
        "sessions are kept in Redis, and there is none",
        "write `redis: { url: \"redis://host:6379\" }`",
    );
    report.form(at.key("cookie"), words::name("cookie", &settings.cookie));
    if let Some(domain) = &settings.domain {
        report.form(at.key("domain"), words::host(domain));
        let what = "browsers take no cookie `__Host-…` with a domain";
        let sound = !settings.cookie.starts_with("__Host-");
        report.must(sound, at.key("domain"), what, "remove it");
    }
    let sound = settings.idle >= Period::seconds(1) && settings.idle <= IDLE_MAX;
    let what = format!("`idle` ({}) is not between 1s and 365 days", settings.idle);
    report.must(sound, at.key("idle"), what, "write `1h`");
    report.form(at.key("logout"), words::plain_path(&settings.logout));
    for (key, field) in [("plan", &settings.plan), ("roles", &settings.roles)] {
        user(at.key(key), field, report);
        let what = format!("`{HASH_FIELD}` is the field that says which token is right");
        report.must(field != HASH_FIELD, at.key(key), what, "choose another");
    }
}

fn certificate(at: &KeyPath, settings: &CertificateSettings, report: &mut Report<'_>) {
    plan(at, settings.plan.as_ref(), report);
    roles(&at.key("roles"), &settings.roles.0, report);
    let mut listeners = report.config.listeners.values();
    let asked = listeners.any(|one| {
        one.tls
            .as_ref()
            .is_some_and(|tls| tls.client_auth.is_some())
    });
    let unsure = report.absent.any_below(&KeyPath::root().key("listeners"));
    report.must(
        asked || unsure,
        at.clone(),
        "no listener asks callers for a certificate",
        "write `tls.client_auth` of a listener",
    );
}

fn user(at: KeyPath, user: &str, report: &mut Report<'_>) {
    let fits =
        !user.is_empty() && user.len() <= USER_BYTES_MAX && !user.chars().any(char::is_control);
    let what = format!("a name has 1 to {USER_BYTES_MAX} bytes and no control characters");
    report.must(fits, at, what, "");
}

fn plan(at: &KeyPath, plan: Option<&String>, report: &mut Report<'_>) {
    if let Some(plan) = plan {
        user(at.key("plan"), plan, report);
    }
}

fn roles(at: &KeyPath, roles: &[String], report: &mut Report<'_>) {
    for (index, role) in roles.iter().enumerate() {
        user(at.key(index), role, report);
    }
}

/// The chain of a route, and what it may ask of the identified.
pub(super) fn chain(at: &KeyPath, route: &RouteSettings, report: &mut Report<'_>) {
    let known = &report.config.identity;
    let mut seen = HashSet::new();
    for (index, name) in route.identity.iter().enumerate() {
        let at = at.key("identity").key(index);
        match known.get(name) {
            None => report.known(at, ("identity", "method"), name, known.keys()),
            Some(_) if !seen.insert(name) => {
                report.error(
                    at,
                    format!("the method `{name}` is there already"),
                    "remove it",
                );
            }
            Some(Settings::Anonymous(_)) if index + 1 < route.identity.0.len() => report.error(
                at,
                format!("nothing comes after `{name}`, which takes anybody"),
                "put it last",
            ),
            Some(_) => {}
        }
    }
    if !route.allow.is_empty() && route.identity.is_empty() && report.sure(at, "identity") {
        let what = "nobody is identified on this route: `allow` would refuse everybody";
        report.error(
            at.key("allow"),
            what,
            "write `identity`, the methods of this route",
        );
    }
    let allow = at.key("allow");
    for (key, list) in [
        ("user", &route.allow.user),
        ("plan", &route.allow.plan),
        ("role", &route.allow.role),
    ] {
        roles(&allow.key(key), &list.0, report);
    }
    if let Some(settings) = &route.cors {
        cors(&at.key("cors"), settings, report);
    }
}

fn cors(at: &KeyPath, cors: &crate::stage::route::cors::Settings, report: &mut Report<'_>) {
    let fix = "write `origins: https://app.example.com`";
    report.must(
        !cors.origins.is_empty(),
        at.key("origins"),
        "no origin may call",
        fix,
    );
    for (index, origin) in cors.origins.iter().enumerate() {
        let at = at.key("origins").key(index);
        if origin != "*" {
            report.form(at, words::origin(origin));
        } else if cors.credentials {
            let what = "browsers take no `*` together with `credentials`";
            report.error(at, what, "name the origins");
        }
    }
    for (index, method) in cors.methods.iter().enumerate() {
        report.form(at.key("methods").key(index), words::method(method));
    }
    for (key, names) in [("headers", &cors.headers), ("expose", &cors.expose)] {
        for (index, name) in names.iter().enumerate() {
            report.form(at.key(key).key(index), words::name("header", name));
        }
    }
}
