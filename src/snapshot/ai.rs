//! Providers ready to be asked, and models by the names that callers use.

use super::tokens::{Source, Tokens};
use super::{State, Upstream, at};
use crate::base::fault::{Faults, KeyPath};
use crate::base::units::{OneOrMany, Period};
use crate::config::Config;
use crate::observe::metrics::{Metrics, ModelMetrics};
use crate::stage::ai::base_url::BaseUrl;
use crate::stage::ai::key_ring::KeyRing;
use crate::stage::ai::names::Names;
use crate::stage::ai::order::{self, Candidate, Choice, Order};
use crate::stage::ai::price::Price;
use crate::stage::ai::provider::{BEDROCK, Kind, VERTEX};
use crate::stage::ai::settings::{
    AS_ASKED, By, ModelSettings, Protocol as AiProtocol, ProviderSettings, TargetSettings,
};
use crate::stage::ai::sigv4::Credentials;
use crate::stage::ai::target::TargetState;
use crate::stage::route::settings::Ai;
use crate::stage::upstream::settings::{
    CapacitySettings, EndpointSettings, HealthCheck, HealthSettings, Protocol, RetrySettings,
    Settings as PoolSettings, SlowStart, TlsSettings,
};
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A provider that can be asked: one with a key, or one that wants none.
pub struct Provider {
    pub name: String,
    pub kind: &'static Kind,
    pub settings: ProviderSettings,
    /// Before the path of each way; without a slash at its end.
    pub base_path: String,
    pub tls: bool,
    /// What it is called in `Host`.
    pub host: HeaderValue,
    /// To be sent with each request, besides those that its kind asks for.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub keys: KeyRing,
    /// What is shown where there are no keys.
    pub proof: Option<Proof>,
    /// Behind the path of each way: empty, or with its `?`.
    pub query: String,
    pub upstream: Arc<Upstream>,
}

/// What shows a provider who asks, other than a key.
pub enum Proof {
    /// A signature over each request, for this region.
    Signature(Credentials, String),
    /// A token that is renewed from time to time.
    Tokens(Arc<Tokens>),
}

/// A model of a provider.
pub struct Target {
    /// As it is known in state and status: `openai/gpt-5`, or `openai/*` where the caller names the model.
    pub name: String,
    pub provider: Arc<Provider>,
    pub weight: u32,
    pub price: Option<Price>,
    /// Kept over reloads.
    pub state: Arc<TargetState>,
    /// Of the model at this provider.
    pub metrics: Arc<ModelMetrics>,
    model: String,
}

/// Something callers may ask for.
pub struct Model {
    /// As it stands under `models`: `smart`, `gpt-*`. Of one that was asked for as `provider/model`: `provider/*`.
    pub name: String,
    pub settings: ModelSettings,
    /// Those whose providers can be asked; none when all of them lack a key.
    pub targets: Vec<Arc<Target>>,
    /// Whether it stands under no `models`.
    pub direct: bool,
}

/// A model that a caller asks for, and what it wrote.
pub struct Plan {
    pub model: Arc<Model>,
    /// For targets that take the name as it was asked for.
    as_asked: String,
}

/// Where to go, in this order.
pub struct Targets {
    pub in_order: SmallVec<[Arc<Target>; 4]>,
    /// Where there are none: when the first may be tried; none where no provider has a key.
    pub earliest: Option<Instant>,
}

/// All providers and models of one configuration.
#[derive(Default)]
pub struct Catalogue {
    pub providers: BTreeMap<String, Arc<Provider>>,
    /// Providers that are not used for want of a key.
    pub disabled: Vec<String>,
    /// By the name of the target.
    pub targets: BTreeMap<String, Arc<TargetState>>,
    models: Names<Arc<Model>>,
    listed: Vec<Arc<Model>>,
}

/// Which models a route takes.
pub struct AiRoute {
    catalogue: Arc<Catalogue>,
    settings: Ai,
}

impl AiRoute {
    pub(super) fn new(catalogue: &Arc<Catalogue>, settings: &Ai) -> Self {
        Self {
            catalogue: Arc::clone(catalogue),
            settings: settings.clone(),
        }
    }

    /// What to do for a caller who writes this; one that writes nothing gets the default. None: there is no such
    /// model here.
    pub fn find(&self, asked: &str) -> Option<Plan> {
        let default = self.settings.default.as_deref();
        let asked = if asked.is_empty() { default? } else { asked };
        self.catalogue.find(asked, |model| self.takes(model))
    }

    /// How long a stream may be silent before it gets a comment; zero: for ever.
    pub fn heartbeat(&self) -> Duration {
        self.settings.heartbeat.0.0
    }

    /// Names that callers may be told: those of models that stand under `models`, without beginnings.
    pub fn listed(&self) -> impl Iterator<Item = &Arc<Model>> {
        let all = self.catalogue.listed.iter();
        all.filter(|model| !model.targets.is_empty() && self.takes(model))
    }

    fn takes(&self, model: &Model) -> bool {
        if model.direct {
            return self.settings.takes_direct();
        }
        let named = &self.settings.models;
        named.is_empty() || named.iter().any(|name| *name == model.name)
    }
}

impl Plan {
    /// What the target's provider calls the model.
    pub fn model_at<'p>(&'p self, target: &'p Target) -> &'p str {
        if target.model == AS_ASKED {
            &self.as_asked
        } else {
            &target.model
        }
    }

    /// The key for [`Choice`]: of the user where the choice is kept for one, else `random`.
    pub fn key(&self, user: &str, random: u64) -> u64 {
        match self.model.settings.by {
            // With the model: who is in the first half for one is not so for all.
            Some(By::User) => order::key_of(format!("{}\n{user}", self.model.name).as_bytes()),
            None => random,
        }
    }

    /// When the first of the targets can be tried again: past what its breaker, and the keys of its provider, are
    /// known to wait for. None: there is no target.
    pub fn free_at(&self, now: Instant) -> Option<Instant> {
        let targets = self.model.targets.iter();
        let free = targets.map(|target| {
            let candidate = target.candidate(self.model_at(target), now, true);
            candidate.closed_until.map_or(now, |until| until.max(now))
        });
        free.min()
    }

    /// Where to go. A target that is left alone, or whose provider has no key for the moment, is not among them as
    /// long as there is another; when all are left alone, the soonest moment for the next try is told.
    pub fn order(&self, choice: &Choice, now: Instant) -> Targets {
        let targets = &self.model.targets;
        let strategy = self.model.settings.strategy;
        let order = |with_keys: bool| {
            let candidates = targets
                .iter()
                .map(|target| target.candidate(self.model_at(target), now, with_keys));
            let candidates: SmallVec<[_; 8]> = candidates.collect();
            order::order(strategy, &candidates, choice)
        };
        let Order { indices, earliest } = Some(order(true))
            .filter(|order| !order.indices.is_empty())
            // Keys that are left alone stop nobody who has nowhere else to go: that is settled when one is picked.
            .unwrap_or_else(|| order(false));
        let in_order = indices.iter().map(|index| Arc::clone(&targets[*index]));
        Targets {
            in_order: in_order.collect(),
            earliest,
        }
    }
}

impl Target {
    /// Where what is learned of this model is kept, which is the target's own name for it or one that was asked for.
    pub fn state_of(&self, model: &str, now: Instant) -> Arc<TargetState> {
        if self.model == AS_ASKED {
            self.state.of(model, now)
        } else {
            Arc::clone(&self.state)
        }
    }

    fn known(&self, model: &str) -> Arc<TargetState> {
        if self.model == AS_ASKED {
            self.state.known(model)
        } else {
            Arc::clone(&self.state)
        }
    }

    /// `with_keys`: without a free key it counts as left alone.
    fn candidate(&self, model: &str, now: Instant, with_keys: bool) -> Candidate<'_> {
        let keys = self.provider.keys.earliest(model, now);
        let keys = keys.filter(|_| with_keys);
        let state = self.known(model);
        Candidate {
            name: &self.name,
            weight: self.weight,
            price: self.price,
            closed_until: state.closed_until(now).max(keys),
            in_flight: state.in_flight(),
            latency: state.latency(now),
        }
    }
}

impl Catalogue {
    /// `upstreams` has those of providers among those of pools.
    pub(super) fn build(
        config: &Config,
        upstreams: &BTreeMap<String, Arc<Upstream>>,
        state: &State,
        faults: &mut Faults,
    ) -> Self {
        let before = state.catalogue();
        let mut catalogue = Self::default();
        for (name, settings) in &config.providers {
            let known = before.as_ref().and_then(|one| one.providers.get(name));
            match upstreams.get(name) {
                Some(upstream) => {
                    let provider = Provider::build((name, settings), known, upstream, faults);
                    let provider = provider.map(|provider| (name.clone(), Arc::new(provider)));
                    catalogue.providers.extend(provider);
                }
                None => catalogue.disabled.push(name.clone()),
            }
        }
        let mut models = Vec::new();
        for (name, settings) in &config.models {
            let targets = settings.targets.iter();
            let targets = targets
                .filter_map(|one| catalogue.target(name, one, before.as_deref(), &state.metrics));
            models.push(Arc::new(Model {
                name: name.clone(),
                targets: targets.collect(),
                settings: settings.clone(),
                direct: false,
            }));
        }
        catalogue.listed = models
            .iter()
            .filter(|model| !model.name.ends_with('*'))
            .cloned()
            .collect();
        for name in config.providers.keys() {
            models.push(Arc::new(catalogue.direct(
                name,
                before.as_deref(),
                &state.metrics,
            )));
        }
        let named = models.into_iter().map(|model| (model.name.clone(), model));
        catalogue.models = Names::new(named);
        catalogue
    }

    /// `provider/model`, for whatever the caller calls the model.
    fn direct(&mut self, provider: &str, before: Option<&Self>, metrics: &Arc<Metrics>) -> Model {
        let target = TargetSettings {
            provider: provider.to_owned(),
            model: AS_ASKED.to_owned(),
            weight: 1,
            price: None,
        };
        Model {
            targets: self
                .target(&target.name(), &target, before, metrics)
                .into_iter()
                .collect(),
            name: target.name(),
            settings: ModelSettings {
                targets: OneOrMany(vec![target]),
                ..ModelSettings::default()
            },
            direct: true,
        }
    }

    /// None where the provider is not used.
    fn target(
        &mut self,
        model: &str,
        settings: &TargetSettings,
        before: Option<&Self>,
        metrics: &Arc<Metrics>,
    ) -> Option<Arc<Target>> {
        let provider = Arc::clone(self.providers.get(&settings.provider)?);
        let name = settings.name();
        let known = before.and_then(|before| before.targets.get(&name).cloned());
        let state = self
            .targets
            .entry(name.clone())
            .or_insert_with(|| known.unwrap_or_else(|| Arc::new(TargetState::new(Instant::now()))));
        Some(Arc::new(Target {
            metrics: metrics.model(model, &settings.provider),
            name,
            provider,
            weight: settings.weight,
            price: settings.price,
            state: Arc::clone(state),
            model: settings.model.clone(),
        }))
    }

    /// Gauges that are read, not counted.
    pub fn refresh_metrics(&self, metrics: &Metrics) {
        let now = Instant::now();
        // Names that callers chose are no labels: of those under a wildcard, one that is left alone is enough.
        let targets = self.targets.iter().map(|(name, state)| {
            let mut each = state.each().into_iter();
            let open = state.closed_until(now).is_some()
                || each.any(|(_, one)| one.closed_until(now).is_some());
            (&**name, open)
        });
        let providers = self.providers.iter().map(|(name, provider)| {
            let keys = provider.keys.status(now);
            let resting = keys.iter().filter(|key| key.cooled.is_some()).count();
            (&**name, resting, provider.keys.waiting())
        });
        metrics.models_now(targets, providers);
    }

    fn find(&self, asked: &str, takes: impl Fn(&Model) -> bool) -> Option<Plan> {
        let model = self.models.find(asked, |model| takes(model))?;
        let as_asked = match asked.split_once('/') {
            Some((_, rest)) if model.direct => rest,
            _ => asked,
        };
        Some(Plan {
            model: Arc::clone(model),
            as_asked: as_asked.to_owned(),
        })
    }
}

impl Provider {
    /// Where its tokens come from, if it is shown such.
    pub fn tokens(&self) -> Option<&Arc<Tokens>> {
        match &self.proof {
            Some(Proof::Tokens(tokens)) => Some(tokens),
            _ => None,
        }
    }

    fn build(
        (name, settings): (&str, &ProviderSettings),
        known: Option<&Arc<Self>>,
        upstream: &Arc<Upstream>,
        faults: &mut Faults,
    ) -> Option<Self> {
        let here = at("providers", name);
        let kind = settings.kind_of(name)?;
        let base = base_url(settings, kind)?;
        let host = HeaderValue::from_str(&base.authority).ok()?;
        let mut headers = Vec::new();
        for (key, value) in &settings.headers {
            let (key, value) = (
                HeaderName::from_bytes(key.as_bytes()),
                HeaderValue::from_str(value),
            );
            match (key, value) {
                (Ok(key), Ok(value)) => headers.push((key, value)),
                _ => faults.error(here.key("headers"), "not a header", ""),
            }
        }
        Some(Self {
            name: name.to_owned(),
            kind,
            base_path: base.path + &settings.below_base(kind),
            query: settings.query(kind),
            proof: proof(settings, kind, known, &here, faults),
            tls: base.tls,
            host,
            headers,
            keys: KeyRing::new(
                &settings.keys.0,
                settings.key_cooldown.0.0,
                known.map(|known| &known.keys),
            ),
            upstream: Arc::clone(upstream),
            settings: settings.clone(),
        })
    }
}

/// What stands in the place of keys, where there are none. Tokens are kept while they come from the same source.
fn proof(
    settings: &ProviderSettings,
    kind: &Kind,
    known: Option<&Arc<Provider>>,
    here: &KeyPath,
    faults: &mut Faults,
) -> Option<Proof> {
    if *kind == BEDROCK && !settings.has_keys() {
        let region = settings.region.clone().unwrap_or_default();
        return Some(Proof::Signature(settings.credentials()?, region));
    }
    let account = settings.account().filter(|_| *kind == VERTEX)?;
    let source = Source::new(account, settings.ca.as_deref());
    let known = known.and_then(|known| known.tokens());
    if let Some(known) = known.filter(|known| known.is_of(&source)) {
        return Some(Proof::Tokens(Arc::clone(known)));
    }
    match Tokens::new(source) {
        Ok(tokens) => Some(Proof::Tokens(Arc::new(tokens))),
        Err(what) => {
            faults.error(here.key("service_account"), what, "");
            None
        }
    }
}

fn base_url(settings: &ProviderSettings, kind: &Kind) -> Option<BaseUrl> {
    BaseUrl::parse(&settings.base_url_of(kind)?, kind).ok()
}

/// The providers that are used, as pools.
pub(super) fn pools(config: &Config) -> impl Iterator<Item = (&String, PoolSettings)> {
    let used = |(name, settings): (&String, &ProviderSettings)| {
        let kind = settings.kind_of(name)?;
        settings.is_enabled(kind).then_some(())?;
        Some(pool(settings, &base_url(settings, kind)?))
    };
    let providers = config.providers.iter();
    providers.filter_map(move |(name, settings)| Some((name, used((name, settings))?)))
}

/// One endpoint, looked up again and again; requests themselves are its only probe.
fn pool(settings: &ProviderSettings, base: &BaseUrl) -> PoolSettings {
    let protocol = match settings.protocol {
        Some(AiProtocol::Http2) => Protocol::Http2,
        None if base.tls => Protocol::Http2,
        Some(AiProtocol::Http1) | None => Protocol::Http1,
    };
    let (capacity, retry) = (&settings.capacity, &settings.retry);
    PoolSettings {
        endpoints: vec![EndpointSettings {
            address: base.address.clone(),
            weight: 1,
        }],
        health: HealthSettings {
            check: HealthCheck::Off,
            ..HealthSettings::default()
        },
        slow_start: SlowStart(Period::seconds(0)),
        capacity: CapacitySettings {
            max_in_flight: capacity.max_in_flight,
            queue_max: capacity.queue_max,
            queue_timeout: capacity.queue_timeout,
        },
        retry: RetrySettings {
            attempts: retry.attempts,
            statuses: Vec::new(),
            budget: retry.budget,
            budget_min: retry.budget_min,
            backoff: retry.backoff,
        },
        protocol,
        tls: base.tls.then(|| TlsSettings {
            ca: settings.ca.clone(),
            ..TlsSettings::default()
        }),
        ..PoolSettings::default()
    }
}

#[cfg(test)]
mod tests;
