//! What only some kinds of providers take: regions, projects, and what they are shown in place of keys.

use super::Report;
use crate::base::fault::KeyPath;
use crate::stage::ai::google::Account;
use crate::stage::ai::provider::{AZURE, BEDROCK, Kind, VERTEX};
use crate::stage::ai::settings::ProviderSettings;
use crate::wire::fetch;

pub(super) fn check(at: &KeyPath, kind: &Kind, settings: &ProviderSettings, report: &mut Report) {
    misplaced(at, kind, settings, report);
    for (key, value) in [
        ("region", &settings.region),
        ("project", &settings.project),
        ("location", &settings.location),
        ("api_version", &settings.api_version),
    ] {
        let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let sound = value.iter().all(|value| value.bytes().all(taken));
        let what = format!("`{key}` has only letters, digits, `-`, `.`, `_` and `:`");
        report.must(sound, at.key(key), what, "write it as the provider does");
    }
    if kind.name == BEDROCK.name {
        bedrock(at, settings, report);
    }
    if kind.name == VERTEX.name {
        vertex(at, settings, report);
    }
}

/// Settings of other kinds, which would do nothing here.
fn misplaced(at: &KeyPath, kind: &Kind, settings: &ProviderSettings, report: &mut Report) {
    for (key, written, only) in [
        ("region", settings.region.is_some(), &BEDROCK),
        ("aws", settings.aws.is_some(), &BEDROCK),
        ("project", settings.project.is_some(), &VERTEX),
        ("location", settings.location.is_some(), &VERTEX),
        (
            "service_account",
            settings.service_account.is_some(),
            &VERTEX,
        ),
        ("api_version", settings.api_version.is_some(), &AZURE),
    ] {
        if written && kind.name != only.name {
            let what = format!("`{key}` is for providers of kind `{}` only", only.name);
            report.key_error(at.key(key), what, "remove it");
        }
    }
}

fn bedrock(at: &KeyPath, settings: &ProviderSettings, report: &mut Report) {
    let Some(aws) = &settings.aws else { return };
    if settings.has_keys() {
        let what = "`aws` has no effect beside `keys`: requests are not signed";
        report.warning(at.key("aws"), what, "keep one of the two");
    }
    let sound = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let id = aws.access_key_id.expose();
    let (secret, here) = (aws.secret_access_key.expose(), at.key("aws"));
    let what = "credentials of AWS have only letters, digits and signs";
    let fix = "remove spaces and line ends";
    report.must(sound(id), here.key("access_key_id"), what, fix);
    report.must(sound(secret), here.key("secret_access_key"), what, fix);
    if let Some(token) = &aws.session_token {
        let token = sound(token.expose());
        report.must(token, here.key("session_token"), what, fix);
    }
    if id.is_empty() != secret.is_empty() {
        let what = "of `access_key_id` and `secret_access_key` one is empty";
        report.error(here, what, "write both, or none");
    }
    let region = settings.region.as_ref();
    let has_place = settings.base_url_of(&BEDROCK).is_some();
    if has_place && region.is_none_or(String::is_empty) && report.sure(at, "region") {
        let what = "requests are signed for a region, and there is none";
        report.error(at.key("aws"), what, "write `region: us-east-1` beside it");
    }
}

fn vertex(at: &KeyPath, settings: &ProviderSettings, report: &mut Report) {
    if !settings.keys.is_empty() {
        let what = "`vertex` takes no keys: it is shown tokens of a service account";
        let fix = "write `service_account: file:/path/to/key.json`";
        report.key_error(at.key("keys"), what, fix);
    }
    for (key, value) in [
        ("project", &settings.project),
        ("location", &settings.location),
    ] {
        if value.as_ref().is_none_or(String::is_empty) && report.sure(at, key) {
            let what = format!("a provider of kind `vertex` needs a `{key}`");
            report.error(at.clone(), what, "write it as Google's console shows it");
        }
    }
    let Some(account) = settings.account() else {
        return;
    };
    let here = at.key("service_account");
    let token_uri = match Account::parse(account) {
        Ok(account) => account.token_uri,
        Err(what) => {
            let fix = "create a JSON key of the service account, and write `file:/path/to/it`";
            return report.error(here, what, fix);
        }
    };
    match fetch::parse(&token_uri) {
        Err(what) => report.error(here, format!("its `token_uri`: {what}"), ""),
        Ok((_, false)) => {
            let what = "its `token_uri` is not reached by TLS: tokens could be read on their way";
            report.warning(here, what, "");
        }
        Ok(_) => {}
    }
}
