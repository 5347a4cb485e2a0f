//! Providers and models as they are written.

use super::price::Price;
use super::provider::{AZURE, AZURE_DATED, BEDROCK, Kind, VERTEX};
use super::sigv4::Credentials;
use crate::base::secret::Secret;
use crate::base::units::{OneOrMany, Percent, Period};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A provider of models. Its name stands in metrics beside those of pools, and before `/` in `provider/model`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderSettings {
    /// `openai`, `anthropic`, `gemini`, `mistral`, `deepseek`, `groq`, `xai`, `together`, `openrouter`, `perplexity`,
    /// `azure`, `cohere`, `bedrock`, `vertex`, or `compatible` for any server that speaks like `OpenAI` (Ollama, vLLM, llama.cpp).
    /// Absent: the provider's own name, if it is one of these.
    pub kind: Option<String>,
    /// Where it is: `https://api.openai.com`, with or without its `/v1`, and without the path of
    /// a call. Absent or empty: where its kind is.
    pub base_url: Option<String>,
    /// One key or several, taken in turn. A provider whose keys are all empty, as from variables that are not set,
    /// is not used; only a `compatible` one may have none. `bedrock` takes keys of its own, or `aws`; `vertex` takes
    /// a `service_account` in place of keys.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub keys: OneOrMany<Secret>,
    /// Where in AWS: `us-east-1`. For `bedrock`, which is found there unless `base_url` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Credentials of AWS, by which requests to `bedrock` are signed where it has no `keys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsSettings>,
    /// The project in Google's cloud, for `vertex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Where in Google's cloud, for `vertex`: `europe-west4`, or `global`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The JSON key file of a service account, for `vertex`: `file:/path`. Its tokens are got from the place that the
    /// file names, beside the calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Secret>,
    /// A dated version of the API of `azure`, such as `2024-10-21`, in which deployments are part of the path.
    /// Absent: its version-less API, where the name of the deployment is that of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Headers to send with each request, such as `OpenAI-Organization`. Never the key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// `http1` or `http2`. Absent: HTTP/2 where the provider agrees to it (only ever over TLS).
    pub protocol: Option<Protocol>,
    /// PEM file of the authorities that sign its certificate, and that of the place where its tokens are got.
    /// Absent: those of the system.
    pub ca: Option<PathBuf>,
    /// Time limits of one attempt.
    pub timeouts: TimeoutSettings,
    /// Requests at once, and the wait for a place.
    pub capacity: CapacitySettings,
    /// When a failed attempt is followed by another.
    pub retry: RetrySettings,
    /// When a model here is left alone because requests to it fail.
    pub breaker: BreakerSettings,
    /// How long a key is left alone after 429 without a word how long, and after 401, 402 and a used-up quota.
    /// Default `1m`.
    pub key_cooldown: KeyCooldown,
}

/// Credentials of AWS.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsSettings {
    /// `AWS_ACCESS_KEY_ID` in the words of AWS's own tools.
    pub access_key_id: Secret,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Secret,
    /// `AWS_SESSION_TOKEN`, of credentials that are good for some hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
}

/// How long a key is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct KeyCooldown(pub Period);

impl Default for KeyCooldown {
    fn default() -> Self {
        Self(Period::seconds(60))
    }
}

/// What is spoken to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Http1,
    /// Over TLS by ALPN; to `http://`, with prior knowledge (h2c).
    Http2,
}

/// Time limits of one attempt at a provider.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutSettings {
    /// To connect, TLS included. Default `5s`.
    pub connect: Period,
    /// From the request sent to the first piece of a streamed answer that says something. An answer that is no stream
    /// may take until `total`. Events that say nothing (`ping`, `response.created`) begin it anew. Default `2m`.
    pub first_token: Period,
    /// Between two pieces of an answer. Default `60s`.
    pub gap: Period,
    /// For the whole attempt. Default `10m`.
    pub total: Period,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            connect: Period::seconds(5),
            first_token: Period::seconds(120),
            gap: Period::seconds(60),
            total: Period::seconds(600),
        }
    }
}

/// Requests in flight at a provider, and the wait for a place.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CapacitySettings {
    /// Requests in flight at each address of the provider. Default 1000.
    pub max_in_flight: u32,
    /// Requests that may wait when it is full. Users take turns, each with its requests in their order; when the
    /// queue is full as well, who has most in it makes room for who has less. As many may wait for a key. Default 1000.
    pub queue_max: u32,
    /// Longest wait; then the next target is asked, or the caller is told when to come back. Default `10s`.
    pub queue_timeout: Period,
}

impl Default for CapacitySettings {
    fn default() -> Self {
        Self {
            max_in_flight: 1_000,
            queue_max: 1_000,
            queue_timeout: Period::seconds(10),
        }
    }
}

/// When a failed attempt at a provider is followed by another one there; what comes after that is the next
/// target's turn.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// Attempts at one target, the first included, 1 to 8. Default 2.
    pub attempts: u32,
    /// Share of requests in the last 10 s that may be retries. Default `20%`.
    pub budget: Percent,
    /// Retries that are always allowed, in one second. Default 10.
    pub budget_min: u32,
    /// First wait before a retry; doubled each time, with full jitter. A provider's own word (`Retry-After`) goes
    /// before. Default `250ms`.
    pub backoff: Period,
    /// A provider that asks for a longer wait is left for the next target. So long a call waits as well for a key of
    /// which the provider has said that no requests, or too few tokens, are left. Default `5s`.
    pub wait_max: Period,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 2,
            budget: Percent(20),
            budget_min: 10,
            backoff: Period::millis(250),
            wait_max: Period::seconds(5),
        }
    }
}

/// When a model of a provider is left alone: by faults that are the provider's, never by a caller's.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    /// Faults in a row that open it. Default 5.
    pub failures: u32,
    /// Share of the attempts of the last `window` that may fail; more open it. Default `50%`.
    pub rate: Percent,
    /// Attempts within `window` below which the share says nothing. Default 20.
    pub requests_min: u32,
    /// Default `30s`.
    pub window: Period,
    /// First time it stays open; doubled when the probe after it fails as well. Default `5s`.
    pub open: Period,
    /// Longest time it stays open. Default `2m`.
    pub open_max: Period,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            rate: Percent(50),
            requests_min: 20,
            window: Period::seconds(30),
            open: Period::seconds(5),
            open_max: Period::seconds(120),
        }
    }
}

/// A model as callers may ask for it: where it is to be had, and in which order to try.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// `provider/model`, or a section with `provider`, `model`, `weight` and `price`.
    pub targets: OneOrMany<TargetSettings>,
    /// How they are ordered. Default `priority`.
    pub strategy: Strategy,
    /// Keep each user with one target, where `weighted` would choose anew for each request. Callers without
    /// identity are told apart by their address.
    pub by: Option<By>,
    /// Refusals of a target after which the next one is tried all the same: of no use without a second one.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub fallback_on: OneOrMany<FallbackOn>,
}

/// One place where a model is to be had; written as a string when only the place matters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetSettings {
    /// Name of a provider.
    pub provider: String,
    /// What the provider calls the model; `*` is the name that the caller wrote.
    pub model: String,
    /// Share beside the others, 1 to 1000.
    pub weight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TargetSection {
    /// Name of a provider.
    provider: String,
    /// What the provider calls the model. `*` or absent: as the caller wrote it.
    #[serde(default = "as_asked")]
    model: String,
    /// Share beside the others under `strategy: weighted`, 1 to 1000. Default 1.
    #[serde(default = "one")]
    weight: u32,
    /// What a million tokens cost here, for `strategy: cheapest`.
    price: Option<Price>,
}

/// Stands for the name that the caller wrote.
pub const AS_ASKED: &str = "*";

fn as_asked() -> String {
    AS_ASKED.to_owned()
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for TargetSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TargetSettings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`provider/model`, or a section with `provider` and `model`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let (provider, model) = text
                    .split_once('/')
                    .ok_or_else(|| E::custom(format_args!("`{text}` is not `provider/model`")))?;
                Ok(TargetSettings {
                    provider: provider.to_owned(),
                    model: model.to_owned(),
                    weight: 1,
                    price: None,
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let section = TargetSection::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TargetSettings {
                    provider: section.provider,
                    model: section.model,
                    weight: section.weight,
                    price: section.price,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for TargetSettings {
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<TargetSection>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^[^/]+/.+$" }, section] })
    }
}

/// How the targets of a model are ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// As they are written.
    #[default]
    Priority,
    /// At random by their weights.
    Weighted,
    /// The shortest time to the first token goes first, as it was lately; one that was not tried goes before all.
    LeastLatency,
    /// The fewest requests in flight for its weight goes first.
    LeastBusy,
    /// The cheapest for this call goes first, by `price`.
    Cheapest,
}

/// Whom a choice is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The identified user.
    User,
}

/// A refusal after which another target may say yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackOn {
    /// The prompt is too long for this model.
    ContextLength,
    /// The provider does not answer to this content.
    ContentPolicy,
}

impl ProviderSettings {
    /// What kind it is; none where neither `kind` nor its own name is known.
    pub fn kind_of(&self, name: &str) -> Option<&'static Kind> {
        let kind = Kind::find(self.kind.as_deref().unwrap_or(name))?;
        let dated = *kind == AZURE && filled(self.api_version.as_ref()).is_some();
        Some(if dated { &AZURE_DATED } else { kind })
    }

    /// The base URL as it is written, or else where the kind is; none where neither is known.
    pub fn base_url_of(&self, kind: &Kind) -> Option<Cow<'_, str>> {
        if let Some(written) = filled(self.base_url.as_ref()) {
            return Some(written.into());
        }
        if let Some(region) = filled(self.region.as_ref()).filter(|_| *kind == BEDROCK) {
            let china = if region.starts_with("cn-") { ".cn" } else { "" };
            let url = format!("https://bedrock-runtime.{region}.amazonaws.com{china}");
            return Some(url.into());
        }
        if let Some(location) = filled(self.location.as_ref()).filter(|_| *kind == VERTEX) {
            let url = match location {
                "global" => "https://aiplatform.googleapis.com".to_owned(),
                location => format!("https://{location}-aiplatform.googleapis.com"),
            };
            return Some(url.into());
        }
        kind.base_url.map(Cow::Borrowed)
    }

    /// What stands between the base path and the path of each way.
    pub fn below_base(&self, kind: &Kind) -> String {
        match (
            filled(self.project.as_ref()),
            filled(self.location.as_ref()),
        ) {
            (Some(project), Some(location)) if *kind == VERTEX => {
                format!("/v1/projects/{project}/locations/{location}")
            }
            _ => String::new(),
        }
    }

    /// What stands behind the path of each way.
    pub fn query(&self, kind: &Kind) -> String {
        match filled(self.api_version.as_ref()) {
            Some(version) if *kind == AZURE_DATED => format!("?api-version={version}"),
            _ => String::new(),
        }
    }

    /// Whether there is a key to show, or something in its place, or none is needed.
    pub fn is_enabled(&self, kind: &Kind) -> bool {
        self.has_keys()
            || !kind.needs_key()
            || (*kind == BEDROCK && self.credentials().is_some())
            || (*kind == VERTEX && self.account().is_some())
    }

    pub fn has_keys(&self) -> bool {
        self.keys.iter().any(|key| !key.expose().is_empty())
    }

    /// Credentials of AWS, where they are whole.
    pub fn credentials(&self) -> Option<Credentials> {
        let aws = self.aws.as_ref()?;
        let filled = |secret: &Secret| !secret.expose().is_empty();
        let whole = filled(&aws.access_key_id) && filled(&aws.secret_access_key);
        whole.then(|| Credentials {
            access_key_id: aws.access_key_id.clone(),
            secret_access_key: aws.secret_access_key.clone(),
            session_token: aws.session_token.clone().filter(filled),
        })
    }

    /// The key file of a service account.
    pub fn account(&self) -> Option<&str> {
        let account = self.service_account.as_ref().map(Secret::expose);
        account.filter(|account| !account.is_empty())
    }
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

impl TargetSettings {
    /// `provider/model`, by which the target is known.
    pub fn name(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }
}
