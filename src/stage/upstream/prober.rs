//! Who is probed when: one task for each endpoint of each live pool, all of them in parallel.

use super::endpoint::Endpoint;
use super::health::Transition;
use super::probe::{Probe, ProbeConnector, ProbeError};
use super::settings::HealthCheck;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// Probes at once in the whole process.
const PROBES_MAX: usize = 64;

/// Members are looked at again this often, should nobody have said that they changed.
const SWEEP: Duration = Duration::from_secs(1);

/// A pool, as the prober sees it.
pub trait ProbeTarget: Send + Sync + 'static {
    /// Name of the pool.
    fn pool(&self) -> &str;

    /// Its members now; asked again and again.
    fn endpoints(&self) -> Vec<Arc<Endpoint>>;

    fn probe(&self) -> Arc<Probe>;

    /// After each probe, with what it changed. [`Transition::Returned`] is the moment to end an
    /// ejection and begin a slow start. Must not block.
    fn probed(
        &self,
        endpoint: &Arc<Endpoint>,
        result: &Result<(), ProbeError>,
        transition: Option<Transition>,
    );
}

type Targets = Vec<Arc<dyn ProbeTarget>>;

/// The handle that is shared; the work is done in [`Prober::run`].
pub struct Prober {
    /// None until the first configuration stands.
    targets: watch::Sender<Option<Targets>>,
    changed: Notify,
    first_round: watch::Sender<bool>,
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            targets: watch::Sender::new(None),
            changed: Notify::new(),
            first_round: watch::Sender::new(false),
        }
    }
}

impl Prober {
    /// Nothing is probed before [`Prober::run`] and [`Prober::set_targets`], in either order.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The pools that are live from now on. Endpoints that are in both keep their timers and counts,
    /// and are asked at once only if the question changed.
    pub fn set_targets(&self, targets: Targets) {
        self.targets.send_replace(Some(targets));
        self.changed.notify_one();
    }

    /// Says that some pool has other members: new ones are probed at once, not a second later.
    pub fn members_changed(&self) {
        self.changed.notify_one();
    }

    /// Whether each endpoint of the first targets was probed once, or has left.
    pub fn first_round_done(&self) -> bool {
        *self.first_round.borrow()
    }

    /// Waits for [`Prober::first_round_done`]; for ever, if nothing is ever run.
    pub async fn first_round(&self) {
        let mut done = self.first_round.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = done.wait_for(|done| *done).await;
    }

    /// Probes for ever. Dropping the future ends all probes, also those under way. To be run once.
    pub async fn run(self: Arc<Self>) {
        let mut supervisor = Supervisor {
            connector: Arc::new(ProbeConnector::new()),
            places: Arc::new(Semaphore::new(PROBES_MAX)),
            tasks: HashMap::new(),
            first_round: Some(Arc::new(FirstRound(self.first_round.clone()))),
        };
        loop {
            let targets = self.targets.borrow().clone();
            if let Some(targets) = targets {
                supervisor.reconcile(&targets);
                // From here on only the tasks of the first round hold it.
                supervisor.first_round = None;
            }
            let _ = timeout(SWEEP, self.changed.notified()).await;
        }
    }
}

/// Held by each task until its first probe is over; the last one to let go ends the round.
struct FirstRound(watch::Sender<bool>);

impl Drop for FirstRound {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

struct Supervisor {
    connector: Arc<ProbeConnector>,
    places: Arc<Semaphore>,
    tasks: HashMap<Key, Task>,
    first_round: Option<Arc<FirstRound>>,
}

/// Pool and endpoint, by name.
type Key = (String, String);

/// Runs until it is dropped.
struct Task {
    endpoint: Arc<Endpoint>,
    job: watch::Sender<Job>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// What a task needs of the present configuration.
#[derive(Clone)]
struct Job {
    target: Arc<dyn ProbeTarget>,
    probe: Arc<Probe>,
}

impl Supervisor {
    fn reconcile(&mut self, targets: &[Arc<dyn ProbeTarget>]) {
        let mut old = std::mem::take(&mut self.tasks);
        for target in targets {
            let job = Job {
                target: Arc::clone(target),
                probe: target.probe(),
            };
            for endpoint in target.endpoints() {
                if job.probe.settings().check == HealthCheck::Off {
                    forget(target.pool(), &endpoint);
                    continue;
                }
                let key = (target.pool().to_owned(), endpoint.name.clone());
                let task = match old.remove(&key) {
                    Some(task) if Arc::ptr_eq(&task.endpoint, &endpoint) => {
                        task.update(&job);
                        task
                    }
                    _ => self.start(endpoint, job.clone()),
                };
                self.tasks.insert(key, task);
            }
        }
    }

    fn start(&self, endpoint: Arc<Endpoint>, job: Job) -> Task {
        let (job, jobs) = watch::channel(job);
        let worker = Worker {
            endpoint: Arc::clone(&endpoint),
            jobs,
            connector: Arc::clone(&self.connector),
            places: Arc::clone(&self.places),
        };
        let handle = tokio::spawn(worker.run(self.first_round.clone()));
        Task {
            endpoint,
            job,
            handle,
        }
    }
}

impl Task {
    fn update(&self, job: &Job) {
        self.job.send_if_modified(|current| {
            let modified = !Arc::ptr_eq(&current.target, &job.target);
            if modified {
                *current = job.clone();
            }
            modified
        });
    }
}

/// Checks were switched off: nothing is known of the endpoint any more.
fn forget(pool: &str, endpoint: &Endpoint) {
    if !endpoint.health.is_up() {
        info!(pool, endpoint = %endpoint.name, "back in rotation: its checks are off");
    }
    if endpoint.health.is_known() {
        endpoint.health.forget();
    }
}

struct Worker {
    endpoint: Arc<Endpoint>,
    jobs: watch::Receiver<Job>,
    connector: Arc<ProbeConnector>,
    places: Arc<Semaphore>,
}

impl Worker {
    async fn run(mut self, first_round: Option<Arc<FirstRound>>) {
        let mut first_round = first_round;
        loop {
            // A copy that ends here: the wait must not keep a configuration alive that is gone.
            let job = self.jobs.borrow_and_update().clone();
            self.probe(&job).await;
            first_round.take();
            let probe = job.probe.fingerprint();
            let delay = self
                .endpoint
                .health
                .next_delay(job.probe.settings(), fastrand::f64());
            drop(job);
            if !self.wait(probe, Instant::now() + delay).await {
                return;
            }
        }
    }

    async fn probe(&self, job: &Job) {
        let Ok(_place) = self.places.acquire().await else {
            return;
        };
        let result = job.probe.run(&self.connector, &self.endpoint).await;
        let verdict = result.as_ref().copied().map_err(|error| error.0.as_str());
        let now = Instant::now().into_std();
        let transition = self
            .endpoint
            .health
            .record(verdict, job.probe.settings(), now);
        tell(job.target.pool(), &self.endpoint, verdict, transition);
        job.target.probed(&self.endpoint, &result, transition);
    }

    /// Until the next probe is due, or there is something else to ask. False: nobody wants to know
    /// any more.
    async fn wait(&mut self, probe: u64, due: Instant) -> bool {
        loop {
            tokio::select! {
                () = sleep_until(due) => return true,
                changed = self.jobs.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    if self.jobs.borrow_and_update().probe.fingerprint() != probe {
                        return true;
                    }
                }
            }
        }
    }
}

fn tell(
    pool: &str,
    endpoint: &Endpoint,
    verdict: Result<(), &str>,
    transition: Option<Transition>,
) {
    let (endpoint, health) = (&endpoint.name, &endpoint.health);
    match (transition, verdict) {
        (Some(Transition::Left), Err(error)) => {
            let failures = health.report().consecutive_failures;
            warn!(
                pool,
                endpoint, error, failures, "left rotation after failed probes"
            );
        }
        (Some(Transition::Returned), _) => info!(pool, endpoint, "back in rotation"),
        (None, Err(error)) if health.is_up() => {
            info!(pool, endpoint, error, "failed a probe");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::Address;
    use super::super::fake::{Fake, OK, endpoint, eventually, install_crypto, template};
    use super::super::settings::{HealthSettings, Settings};
    use super::*;
    use crate::base::fault::{Faults, KeyPath};
    use crate::base::units::Period;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    struct Pool {
        name: &'static str,
        members: Mutex<Vec<Arc<Endpoint>>>,
        probe: Arc<Probe>,
        /// Name of the endpoint, and what the probe changed.
        seen: Mutex<Vec<(String, Option<Transition>)>>,
    }

    impl ProbeTarget for Pool {
        fn pool(&self) -> &str {
            self.name
        }

        fn endpoints(&self) -> Vec<Arc<Endpoint>> {
            self.members.lock().unwrap().clone()
        }

        fn probe(&self) -> Arc<Probe> {
            Arc::clone(&self.probe)
        }

        fn probed(
            &self,
            endpoint: &Arc<Endpoint>,
            _: &Result<(), ProbeError>,
            transition: Option<Transition>,
        ) {
            let seen = (endpoint.name.clone(), transition);
            self.seen.lock().unwrap().push(seen);
        }
    }

    impl Pool {
        fn new(health: HealthSettings, members: &[Arc<Endpoint>]) -> Arc<Self> {
            Self::named("app", health, members)
        }

        fn named(
            name: &'static str,
            health: HealthSettings,
            members: &[Arc<Endpoint>],
        ) -> Arc<Self> {
            install_crypto();
            let settings = Settings {
                health,
                ..Settings::default()
            };
            let mut faults = Faults::default();
            let peers = template(&settings);
            let probe = Probe::build(&settings, peers, &KeyPath::root(), &mut faults);
            Arc::new(Self {
                name,
                members: Mutex::new(members.to_vec()),
                probe: Arc::new(probe.unwrap()),
                seen: Mutex::default(),
            })
        }

        fn count(&self, endpoint: &Endpoint) -> usize {
            let seen = self.seen.lock().unwrap();
            seen.iter()
                .filter(|(name, _)| *name == endpoint.name)
                .count()
        }

        fn transitions(&self, endpoint: &Endpoint) -> Vec<Transition> {
            let seen = self.seen.lock().unwrap();
            let own = seen.iter().filter(|(name, _)| *name == endpoint.name);
            own.filter_map(|(_, transition)| *transition).collect()
        }
    }

    fn start(targets: Targets) -> (Arc<Prober>, JoinHandle<()>) {
        let prober = Prober::new();
        prober.set_targets(targets);
        let run = tokio::spawn(Arc::clone(&prober).run());
        (prober, run)
    }

    /// Long intervals: what happens in a test is not the timer's doing.
    fn slow() -> HealthSettings {
        HealthSettings {
            interval: Period::seconds(1_000),
            fast_interval: Period::seconds(1_000),
            ..HealthSettings::default()
        }
    }

    fn fast() -> HealthSettings {
        HealthSettings {
            interval: Period::millis(20),
            fast_interval: Period::millis(10),
            ..HealthSettings::default()
        }
    }

    async fn closed_port() -> Address {
        Fake::tcp(OK).await.address.clone()
    }

    #[tokio::test]
    async fn an_endpoint_leaves_when_it_dies_and_returns_when_it_lives() {
        let fake = Fake::tcp(OK).await;
        let Address::Ip(address) = fake.address else {
            panic!("not an address");
        };
        let member = endpoint(fake.address.clone(), None);
        let pool = Pool::new(fast(), &[Arc::clone(&member)]);
        let (_prober, run) = start(vec![Arc::clone(&pool) as _]);
        eventually("known", || member.health.is_known()).await;
        drop(fake);
        eventually("down", || !member.health.is_up()).await;
        let _back = Fake::tcp_at(address, OK).await;
        eventually("up", || member.health.is_up()).await;
        run.abort();
        assert_eq!(
            pool.transitions(&member),
            [
                Transition::Confirmed,
                Transition::Left,
                Transition::Returned
            ]
        );
        assert_eq!(
            member.health.report().last_error.as_deref(),
            Some("connection refused")
        );
    }

    #[tokio::test]
    async fn the_first_round_ends_when_each_endpoint_was_asked_once() {
        let (well, silent) = (Fake::tcp(OK).await, Fake::tcp("").await);
        let members = [
            endpoint(well.address.clone(), None),
            endpoint(closed_port().await, None),
            endpoint(silent.address.clone(), None),
        ];
        let health = HealthSettings {
            timeout: Period::millis(200),
            ..slow()
        };
        let pool = Pool::new(health, &members);
        let (prober, run) = start(vec![Arc::clone(&pool) as _]);
        eventually("two of three", || pool.seen.lock().unwrap().len() == 2).await;
        assert!(!prober.first_round_done());
        prober.first_round().await;
        assert!(prober.first_round_done());
        assert!(members.iter().all(|member| pool.count(member) == 1));
        assert!(members[0].health.is_known() && !members[1].health.is_known());
        run.abort();
    }

    #[tokio::test]
    async fn the_first_round_is_over_where_nothing_is_to_be_asked() {
        let prober = Prober::new();
        let run = tokio::spawn(Arc::clone(&prober).run());
        let pool = Pool::new(slow(), &[]);
        assert!(!prober.first_round_done());
        prober.set_targets(vec![pool as _]);
        prober.first_round().await;
        run.abort();
    }

    #[tokio::test]
    async fn members_that_come_are_probed_and_those_that_left_are_let_go() {
        let fake = Fake::tcp(OK).await;
        let (old, new) = (
            endpoint(fake.address.clone(), None),
            endpoint(fake.address.clone(), Some("app.internal")),
        );
        let pool = Pool::new(slow(), &[Arc::clone(&old)]);
        let (prober, run) = start(vec![Arc::clone(&pool) as _]);
        prober.first_round().await;
        // The same name: it is another endpoint all the same, as after leaving and coming back.
        *pool.members.lock().unwrap() = vec![Arc::clone(&new)];
        prober.members_changed();
        eventually("probed", || new.health.is_known()).await;
        eventually("let go", || Arc::strong_count(&old) == 1).await;
        run.abort();
    }

    #[tokio::test]
    async fn a_reload_asks_again_at_once_only_if_the_question_changed() {
        let fake = Fake::tcp(OK).await;
        let member = endpoint(fake.address.clone(), None);
        let members = [Arc::clone(&member)];
        let first = Pool::new(slow(), &members);
        let (prober, run) = start(vec![Arc::clone(&first) as _]);
        prober.first_round().await;

        let extra = endpoint(fake.address.clone(), None);
        let same = Pool::new(slow(), &members);
        let witness = Pool::named("other", slow(), &[extra]);
        prober.set_targets(vec![Arc::clone(&same) as _, Arc::clone(&witness) as _]);
        // The witness began after the others were told: had they asked again, it would show.
        eventually("witness", || !witness.seen.lock().unwrap().is_empty()).await;
        eventually("old target let go", || Arc::strong_count(&first) == 1).await;
        assert_eq!((fake.heads().len(), same.count(&member)), (2, 0));

        let health = HealthSettings {
            path: "/ready".to_owned(),
            ..slow()
        };
        let changed = Pool::new(health, &members);
        prober.set_targets(vec![Arc::clone(&changed) as _]);
        eventually("asked again", || changed.count(&member) == 1).await;
        assert!(fake.heads()[2].starts_with("GET /ready"));
        run.abort();
    }

    #[tokio::test]
    async fn without_checks_an_endpoint_that_was_down_is_back() {
        let member = endpoint(closed_port().await, None);
        let members = [Arc::clone(&member)];
        let (prober, run) = start(vec![Pool::new(fast(), &members) as _]);
        eventually("down", || !member.health.is_up()).await;
        let off = HealthSettings {
            check: HealthCheck::Off,
            ..fast()
        };
        prober.set_targets(vec![Pool::new(off, &members) as _]);
        eventually("up", || member.health.is_up()).await;
        assert!(!member.health.is_known());
        run.abort();
    }

    #[tokio::test]
    async fn at_most_64_are_asked_at_once_and_all_in_the_end() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let release = watch::Sender::new(false);
        let (counts, gate) = ((Arc::clone(&now), Arc::clone(&most)), release.clone());
        let fake = Fake::accepting("127.0.0.1:0".parse().unwrap(), move |stream, _| {
            let ((now, most), mut gate) = (counts.clone(), gate.subscribe());
            async move {
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                let _ = gate.wait_for(|open| *open).await;
                now.fetch_sub(1, SeqCst);
                drop(stream);
            }
        })
        .await;
        let members: Vec<_> = (0..100)
            .map(|number| {
                let mut member = endpoint(fake.address.clone(), None);
                Arc::get_mut(&mut member).unwrap().name = format!("member {number}");
                member
            })
            .collect();
        let pool = Pool::new(slow(), &members);
        let (prober, run) = start(vec![Arc::clone(&pool) as _]);
        eventually("64", || now.load(SeqCst) >= PROBES_MAX).await;
        release.send_replace(true);
        prober.first_round().await;
        assert_eq!(most.load(SeqCst), PROBES_MAX);
        assert!(members.iter().all(|member| pool.count(member) == 1));
        run.abort();
    }

    #[tokio::test]
    async fn when_the_prober_ends_so_does_every_probe() {
        let silent = Fake::tcp("").await;
        let member = endpoint(silent.address.clone(), None);
        let pool = Pool::new(slow(), &[Arc::clone(&member)]);
        let (prober, run) = start(vec![pool as _]);
        eventually("asked", || silent.heads().len() == 1).await;
        run.abort();
        drop(prober);
        eventually("let go", || Arc::strong_count(&member) == 1).await;
    }
}
