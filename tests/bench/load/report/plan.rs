//! What is done when: phases of a run, each with its users, their traffic, and what is injected.

use serde::Serialize;

/// Something that happens to the gateway or to what stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    BackendKilled,
    BackendBack,
    RedisKilled,
    RedisBack,
    Reload,
    Upgrade,
}

/// What users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// As an application's: pages, forms, calls of a model; half of the users hold a WebSocket.
    Mixed,
    /// Calls of a model, half of them streamed; all users hold a WebSocket.
    Models,
}

/// A stretch of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    pub name: &'static str,
    pub users: u32,
    /// Requests a second of all users together.
    pub rate: f64,
    pub seconds: f64,
    pub traffic: Traffic,
    /// What happens, and at which part of the phase.
    pub events: Vec<(f64, Event)>,
}

/// Phases, one after the other.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub phases: Vec<Phase>,
}

/// A user reads for so long, on average, before the next request.
const THINK_SECONDS: f64 = 4.0;
/// Parts of the whole run that each phase of the first plan gets: 24 in all.
const PARTS: f64 = 24.0;

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Self::BackendKilled => "one of three backends killed",
            Self::BackendBack => "backend back",
            Self::RedisKilled => "Redis killed",
            Self::RedisBack => "Redis back, empty",
            Self::Reload => "configuration changed and reloaded",
            Self::Upgrade => "upgrade: another process takes over",
        }
    }
}

impl Plan {
    /// 100, 500 and 1,000 users; then, with 1,000, a backend killed, Redis killed, a reload, an upgrade.
    pub fn of_everything(seconds: f64) -> Self {
        let phase = |name, users: u32, parts: f64, events: &[(f64, Event)]| Phase {
            name,
            users,
            rate: f64::from(users) / THINK_SECONDS,
            seconds: seconds * parts / PARTS,
            traffic: Traffic::Mixed,
            events: events.to_vec(),
        };
        let backend = [(0.1, Event::BackendKilled), (0.6, Event::BackendBack)];
        let redis = [(0.1, Event::RedisKilled), (0.6, Event::RedisBack)];
        Self {
            phases: vec![
                phase("100 users", 100, 4.0, &[]),
                phase("500 users", 500, 4.0, &[]),
                phase("1,000 users", 1_000, 4.0, &[]),
                phase("a backend dies", 1_000, 3.0, &backend),
                phase("Redis dies", 1_000, 3.0, &redis),
                phase("reload", 1_000, 2.0, &[(0.2, Event::Reload)]),
                phase("upgrade", 1_000, 4.0, &[(0.1, Event::Upgrade)]),
            ],
        }
    }

    /// A busy day of 1,000 users that call models: 50 calls a second, 500 for so many seconds, 50 again.
    pub fn of_a_peak(seconds: f64) -> Self {
        let phase = |name, rate, seconds| Phase {
            name,
            users: 1_000,
            rate,
            seconds,
            traffic: Traffic::Models,
            events: Vec::new(),
        };
        Self {
            phases: vec![
                phase("before", 50.0, seconds / 2.0),
                phase("peak", 500.0, seconds),
                phase("after", 50.0, seconds / 2.0),
            ],
        }
    }

    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    pub fn users(&self) -> u32 {
        let users = self.phases.iter().map(|phase| phase.users);
        users.max().unwrap_or_default()
    }

    /// Phases with the second at which each begins.
    pub fn timed(&self) -> impl Iterator<Item = (f64, &Phase)> {
        self.phases.iter().scan(0.0, |at, phase| {
            let begin = *at;
            *at += phase.seconds;
            Some((begin, phase))
        })
    }

    /// Everything that happens, with its second.
    pub fn events(&self) -> Vec<(f64, Event)> {
        let of = |(begin, phase): (f64, &Phase)| {
            let seconds = phase.seconds;
            let events = phase.events.clone().into_iter();
            events.map(move |(part, event)| (begin + part * seconds, event))
        };
        self.timed().flat_map(of).collect()
    }

    /// The phase of this second; the last one for whatever comes later.
    pub fn phase_at(&self, second: f64) -> usize {
        let begun = self.timed().filter(|(begin, _)| *begin <= second).count();
        begun.saturating_sub(1)
    }
}
