//! A rule ready to serve: to whom it applies, how much it allows them, and under which key it counts.

use super::counter::Charge;
use super::quota::Quota;
use super::settings::{Algorithm, Dimension, Per, RuleSettings, WithoutRedis};
use crate::observe::metrics::{Metrics, RuleMetrics};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// Values longer than this are told apart by their hash: whoever sends them does not fill Redis.
const VALUE_BYTES_MAX: usize = 128;

/// What is known of a request when its limits are asked.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Who calls, if that is known.
    pub user: Option<&'a str>,
    pub plan: Option<&'a str>,
    /// The API key's name.
    pub key: Option<&'a str>,
    pub provider: Option<&'a str>,
    pub model: Option<&'a str>,
    pub route: Option<&'a str>,
    /// The caller's address; IPv6 by its /64, which is what one subscriber holds.
    pub address: Option<IpAddr>,
    /// What it is thought to cost. 0: it asks no model, and rules about tokens are not about it.
    pub tokens: u64,
}

/// What a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Requests,
    Tokens,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// A rule.
pub struct Rule {
    pub name: String,
    pub unit: Unit,
    pub quota: Quota,
    pub without_redis: WithoutRedis,
    pub metrics: Arc<RuleMetrics>,
    by: Vec<Dimension>,
    /// Units taken at once; 0 for none in advance.
    prepaid: u64,
    prefix: String,
    keys: BTreeMap<String, u64>,
    users: BTreeMap<String, u64>,
    plans: BTreeMap<String, u64>,
}

impl Rule {
    /// None for settings that give no quota, which the checks have refused already.
    pub fn build(name: &str, settings: &RuleSettings, metrics: &Arc<Metrics>) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            unit: unit(settings),
            quota: quota(settings)?,
            without_redis: settings.without_redis,
            metrics: metrics.rule(name),
            by: settings.by.0.clone(),
            prepaid: settings.prepaid.unwrap_or_default(),
            prefix: settings.prefix(name),
            keys: settings.keys.clone(),
            users: settings.users.clone(),
            plans: settings.plans.clone(),
        })
    }

    /// Whether it counts some callers apart from others.
    pub fn tells_apart(&self) -> bool {
        !self.by.is_empty()
    }

    /// Whether another provider is another count.
    pub fn is_by_provider(&self) -> bool {
        self.by.contains(&Dimension::Provider)
    }

    /// What this request would be charged; none if the rule is not about it.
    pub fn charge(&self, subject: &Subject<'_>) -> Option<Charge> {
        let units = match self.unit {
            Unit::Requests => 1,
            Unit::Tokens if subject.tokens == 0 => return None,
            Unit::Tokens => subject.tokens,
        };
        let mut key = String::with_capacity(self.prefix.len() + 48);
        key.push_str(&self.prefix);
        for dimension in &self.by {
            key.push(':');
            write_value(&mut key, *dimension, subject)?;
        }
        // Windows get their number from the counter's clock. Kinds never share a key.
        match self.quota {
            Quota::Window { .. } => {}
            Quota::Gcra { .. } => key.push_str(":tat"),
            Quota::InFlight { .. } => key.push_str(":held"),
        }
        Some(Charge {
            key,
            quota: self.quota_of(subject),
            units,
            most: units.max(self.prepaid),
            may_change: self.is_by_provider() || self.unit == Unit::Tokens,
        })
    }

    fn quota_of(&self, subject: &Subject<'_>) -> Quota {
        let named = |from: &BTreeMap<String, u64>, name: Option<&str>| {
            name.and_then(|name| from.get(name)).copied()
        };
        let other = named(&self.keys, subject.key)
            .or_else(|| named(&self.users, subject.user))
            .or_else(|| named(&self.plans, subject.plan));
        other.map_or(self.quota, |limit| self.quota.with_limit(limit))
    }
}

fn unit(settings: &RuleSettings) -> Unit {
    match settings.tokens {
        Some(_) => Unit::Tokens,
        None => Unit::Requests,
    }
}

/// None unless exactly one of `requests`, `tokens` and `in_flight` is given.
pub fn quota(settings: &RuleSettings) -> Option<Quota> {
    let window_ms = settings.per.seconds() * 1_000;
    match (settings.requests, settings.tokens, settings.in_flight) {
        (Some(limit), None, None) | (None, Some(limit), None) => Some(match settings.algorithm {
            Algorithm::Gcra => Quota::Gcra {
                limit,
                window_ms,
                burst: settings.burst.unwrap_or(limit),
            },
            algorithm => Quota::Window {
                limit,
                window_ms,
                sliding: algorithm == Algorithm::SlidingWindow,
            },
        }),
        (None, None, Some(limit)) => Some(Quota::InFlight { limit }),
        _ => None,
    }
}

/// The rule in one line, as `onemind explain` says it.
pub fn describe(settings: &RuleSettings) -> String {
    let mut text = String::new();
    if let Some(limit) = settings.in_period() {
        let (unit, per): (_, Per) = (unit(settings).name(), settings.per);
        let _ = write!(text, "{limit} {unit} a {}", per.name());
    }
    if let Some(in_flight) = settings.in_flight {
        let _ = write!(text, "{in_flight} requests in flight");
    }
    let by: Vec<String> = settings.by.iter().map(word).collect();
    if by.is_empty() {
        text.push_str(" of all callers together");
    } else {
        let _ = write!(text, " for each {}", by.join(" and "));
    }
    if settings.in_period().is_some() {
        let _ = write!(text, ", by {}", word(&settings.algorithm));
    }
    if let Some(burst) = settings.burst {
        let _ = write!(text, ", {burst} at once");
    }
    if let Some(prepaid) = settings.prepaid.filter(|prepaid| *prepaid > 1) {
        let _ = write!(text, ", {prepaid} taken in advance by each instance");
    }
    let others = settings.keys.len() + settings.users.len() + settings.plans.len();
    if others > 0 {
        let _ = write!(text, ", {others} keys, users or plans have their own");
    }
    let _ = write!(text, "; without Redis: {}", word(&settings.without_redis));
    text
}

/// A word as it is written in the configuration.
fn word(setting: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(setting).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn write_value(key: &mut String, dimension: Dimension, subject: &Subject<'_>) -> Option<()> {
    let value: Cow<'_, str> = match dimension {
        Dimension::User => match (subject.user, subject.address) {
            (Some(user), _) => Cow::Borrowed(user),
            (None, address) => {
                // No user's value begins so: a `~` in one is escaped.
                key.push('~');
                Cow::Owned(address?.to_string())
            }
        },
        Dimension::Plan => Cow::Borrowed(subject.plan?),
        Dimension::Key => Cow::Borrowed(subject.key?),
        Dimension::Provider => Cow::Borrowed(subject.provider?),
        Dimension::Model => Cow::Borrowed(subject.model?),
        Dimension::Route => Cow::Borrowed(subject.route?),
        Dimension::Address => Cow::Owned(subject.address?.to_string()),
    };
    escape(key, &value);
    Some(())
}

/// Percent-encodes what could be taken for another part of the key: callers choose their values.
fn escape(key: &mut String, value: &str) {
    if value.len() > VALUE_BYTES_MAX {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value.as_bytes());
        key.push('#');
        for byte in digest.as_ref() {
            let _ = write!(key, "{byte:02x}");
        }
        return;
    }
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte) {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::limit::settings::{Preset, Settings};

    fn subject<'a>(user: Option<&'a str>, provider: Option<&'a str>) -> Subject<'a> {
        Subject {
            user,
            plan: Some("pro"),
            key: None,
            provider,
            model: None,
            route: Some("chat"),
            address: "2001:db8::".parse().ok(),
            tokens: 0,
        }
    }

    fn rule(settings: &RuleSettings) -> Rule {
        Rule::build("a", settings, &Metrics::new("0")).unwrap()
    }

    #[test]
    fn the_keys_of_the_preset_are_those_that_applications_read() {
        let settings = Settings {
            preset: Some(Preset::Standard),
            ..Settings::default()
        };
        let rules = settings.rules();
        for (name, user, provider, key) in [
            ("user", Some("42"), None, Some("ratelimit:42")),
            ("user", None, None, Some("ratelimit:~2001%3Adb8%3A%3A")),
            (
                "user_provider",
                Some("42"),
                Some("openai"),
                Some("ratelimit:42:openai"),
            ),
            ("user_provider", Some("42"), None, None),
            ("global", Some("42"), None, Some("ratelimit:*")),
        ] {
            let charge = rule(&rules[name]).charge(&subject(user, provider));
            let found = charge.map(|charge| charge.key);
            assert_eq!(found.as_deref(), key, "{name} of {user:?}");
        }
    }

    #[test]
    fn no_user_can_name_itself_into_the_count_of_another() {
        let by_user = RuleSettings {
            by: vec_of(&[Dimension::User]),
            requests: Some(1),
            ..RuleSettings::default()
        };
        let rule = rule(&by_user);
        let long = "x".repeat(200);
        let mut keys: Vec<String> = ["a", "a:b", "a%3Ab", "~10.0.0.1", "*", "", "é", &long]
            .iter()
            .map(|user| rule.charge(&subject(Some(user), None)).unwrap().key)
            .collect();
        assert!(keys.iter().all(|key| key.len() < 450 && key.is_ascii()));
        assert!(keys.iter().all(|key| key.matches(':').count() == 2));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 8);
    }

    #[test]
    fn a_key_of_its_own_comes_before_its_user_and_that_before_its_plan() {
        let settings = RuleSettings {
            requests: Some(1),
            keys: BTreeMap::from([("ci".to_owned(), 9)]),
            users: BTreeMap::from([("alice".to_owned(), 7)]),
            plans: BTreeMap::from([("pro".to_owned(), 5)]),
            ..RuleSettings::default()
        };
        let limit = |user, plan| {
            let subject = Subject {
                plan,
                key: (user == Some("robot")).then_some("ci"),
                ..subject(user, None)
            };
            rule(&settings).charge(&subject).unwrap().quota.limit()
        };
        assert_eq!(limit(Some("robot"), Some("pro")), 9);
        assert_eq!(limit(Some("alice"), Some("pro")), 7);
        assert_eq!(limit(Some("bob"), Some("pro")), 5);
        assert_eq!(limit(Some("bob"), Some("free")), 1);
        assert_eq!(limit(None, None), 1);
    }

    #[test]
    fn a_rule_about_tokens_is_about_requests_that_cost_some() {
        let settings = RuleSettings {
            tokens: Some(1_000),
            ..RuleSettings::default()
        };
        let rule = rule(&settings);
        let units = |tokens| {
            let subject = Subject {
                tokens,
                ..subject(None, None)
            };
            rule.charge(&subject).map(|charge| charge.units)
        };
        assert_eq!((units(0), units(17)), (None, Some(17)));
        assert_eq!(
            describe(&settings),
            "1000 tokens a minute of all callers together, by sliding_window; without Redis: local"
        );
    }

    #[test]
    fn a_rule_is_told_in_one_line() {
        let settings = RuleSettings {
            by: vec_of(&[Dimension::User, Dimension::Model]),
            requests: Some(30),
            algorithm: Algorithm::Gcra,
            burst: Some(5),
            ..RuleSettings::default()
        };
        assert_eq!(
            describe(&settings),
            "30 requests a minute for each user and model, by gcra, 5 at once; without Redis: local"
        );
        let settings = RuleSettings {
            requests: Some(500),
            prepaid: Some(20),
            ..RuleSettings::default()
        };
        assert_eq!(
            describe(&settings),
            "500 requests a minute of all callers together, by sliding_window, 20 taken in advance by each instance; without Redis: local"
        );
        let charge = rule(&settings).charge(&subject(None, None)).unwrap();
        assert_eq!((charge.units, charge.most), (1, 20));
        let settings = RuleSettings {
            in_flight: Some(4),
            without_redis: WithoutRedis::Refuse,
            ..RuleSettings::default()
        };
        assert_eq!(
            describe(&settings),
            "4 requests in flight of all callers together; without Redis: refuse"
        );
    }

    fn vec_of(by: &[Dimension]) -> crate::base::units::OneOrMany<Dimension> {
        crate::base::units::OneOrMany(by.to_vec())
    }
}
