//! Limits as they are written.

use crate::base::units::OneOrMany;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest quota of requests.
pub const QUOTA_MAX: u64 = 10_000_000;

/// The largest quota of tokens: the arithmetic of a script in Redis is exact up to there, and far beyond.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// How much a caller may ask for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Rules that need not be written: `standard` is `user` (30 requests a minute of one user),
    /// `user_provider` (10 a minute of one user at one provider) and `global` (10,000 a minute of all
    /// callers together). A rule of the same name in `rules` takes the place of one of them.
    pub preset: Option<Preset>,
    /// Rules by name. The name is told to callers who are refused.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, RuleSettings>,
}

impl Settings {
    /// The rules in force, those of the preset included.
    pub fn rules(&self) -> BTreeMap<String, RuleSettings> {
        let mut rules = match self.preset {
            Some(Preset::Standard) => standard(),
            None => BTreeMap::new(),
        };
        rules.extend(self.rules.clone());
        rules
    }
}

/// A set of rules with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 30 a minute of one user, 10 a minute of one user at one provider, 10,000 a minute of all.
    Standard,
}

/// Their keys are what an application beside the gateway expects: `ratelimit:{user}:{minute}` and
/// `ratelimit:{user}:{provider}:{minute}`. A `*` is in no user's key. All callers together are one key, for which
/// each instance takes a hundredth in advance.
fn standard() -> BTreeMap<String, RuleSettings> {
    let rule = |by: &[Dimension], requests, prefix: &str| RuleSettings {
        by: OneOrMany(by.to_vec()),
        requests: Some(requests),
        prefix: Some(prefix.to_owned()),
        ..RuleSettings::default()
    };
    let (user, provider) = (Dimension::User, Dimension::Provider);
    let global = RuleSettings {
        prepaid: Some(100),
        ..rule(&[], 10_000, "ratelimit:*")
    };
    BTreeMap::from([
        ("user".to_owned(), rule(&[user], 30, "ratelimit")),
        (
            "user_provider".to_owned(),
            rule(&[user, provider], 10, "ratelimit"),
        ),
        ("global".to_owned(), global),
    ])
}

/// One rule: so many requests or tokens in a period, or so many requests at once. A refused request counts for
/// no rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSettings {
    /// What is counted apart. Several: each combination. Empty: all callers together. A request that
    /// lacks one of these is not counted; but while its user is not known, its address stands for `user`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub by: OneOrMany<Dimension>,
    /// Requests in each period. Give exactly one of `requests`, `tokens` and `in_flight`.
    pub requests: Option<u64>,
    /// Tokens of models in each period. A request counts for what it is thought to cost when it comes, and for
    /// what it did cost once its answer has said so; later requests wait for what was more.
    pub tokens: Option<u64>,
    /// The period. Default `minute`.
    pub per: Per,
    /// Requests at once, open `WebSockets` included.
    pub in_flight: Option<u64>,
    /// How a period is counted. Default `sliding_window`.
    pub algorithm: Algorithm,
    /// With `gcra`: requests or tokens that may come at once. Default: the whole quota.
    pub burst: Option<u64>,
    /// For callers with these API keys, by their names, this many instead of `requests`, `tokens` or `in_flight`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, u64>,
    /// For these users, this many instead, unless `keys` names their key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, u64>,
    /// For users of these plans, this many instead, unless `keys` or `users` names them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<String, u64>,
    /// So many of the quota an instance takes from Redis at once, counted there as spent, and then spends by
    /// itself: most requests ask nobody. What it does not spend in time (a sixtieth of a sliding period, the
    /// rest of a fixed one) goes back when it next asks, so at most this many less one are missed for each
    /// instance; never is more granted. Not with `gcra` or `in_flight`; in memory it changes nothing.
    /// Default 1: each request asks.
    pub prepaid: Option<u64>,
    /// What its keys in Redis begin with; the values of `by` and the number of the period follow, all
    /// with `:` between them. Absent: `limit:` and the rule's name.
    pub prefix: Option<String>,
    /// What it does while Redis is gone. Default `local`.
    pub without_redis: WithoutRedis,
}

impl RuleSettings {
    /// What is counted in a period, requests or tokens; none for a rule about requests in flight.
    pub fn in_period(&self) -> Option<u64> {
        self.requests.or(self.tokens)
    }

    /// What its keys begin with.
    pub fn prefix(&self, name: &str) -> String {
        match &self.prefix {
            Some(prefix) => prefix.clone(),
            None => format!("limit:{name}"),
        }
    }
}

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Who calls; the address while that is not known.
    User,
    /// What the caller pays for.
    Plan,
    /// The API key, by its name.
    Key,
    /// Whose model is asked.
    Provider,
    /// Which model is asked.
    Model,
    /// The route, by its name.
    Route,
    /// The caller's address; IPv6 by /64, which is what one subscriber holds.
    Address,
}

/// A period; each begins at a whole multiple of itself since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    Second,
    #[default]
    Minute,
    Hour,
    Day,
}

impl Per {
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// How requests in a period are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// What was counted less than one period ago, to 1/600 of it: no stretch of time as long as the period
    /// ever holds more than the quota.
    #[default]
    SlidingWindow,
    /// This period's count alone: up to twice the quota where two periods meet.
    FixedWindow,
    /// A place comes free every `per` / `requests`, and up to `burst` of them are kept for later.
    Gcra,
}

/// What a rule does while Redis is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutRedis {
    /// Each instance allows its share: the quota over the number of instances that were last alive,
    /// at least 1. One that has never seen Redis takes itself for the only one.
    #[default]
    Local,
    /// Everything is let through.
    Allow,
    /// Everything is refused with 503.
    Refuse,
}
