//! A new configuration: built whole beside the one that serves, then swapped; or refused.

use super::Server;
use crate::base::fault::{Fault, Faults, KeyPath};
use crate::config::watch::Watch;
use crate::config::{self, Config, Loaded};
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::{event, logging};
use crate::snapshot::{Snapshot, unix_now};
use crate::stage::identity::settings::Settings as Identity;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How the last reload went; empty until there was one.
#[derive(Debug, Default)]
pub struct Report {
    pub faults: Vec<Value>,
}

/// Certificates are looked at this often, for files that change where no event tells of it.
const CERTIFICATE_PERIOD: Duration = Duration::from_hours(1);

impl Server {
    /// Reloads and says so in the log; the caller cannot be told.
    pub(super) async fn reload(&self, why: &str) {
        tracing::info!(why, "reloading");
        // The faults are logged, counted and shown in `/status`.
        let _ = self.try_reload().await;
    }

    /// One reload at a time; the one before serves until the new one stands.
    pub(super) async fn try_reload(&self) -> Result<u64, Value> {
        let _one_at_a_time = self.reloading.lock().await;
        if *self.upgrades.handed_over().borrow() {
            return Err(json!([{ "what": "another process has taken over" }]));
        }
        self.systemd.reloading();
        let loaded = config::load(&self.path, &self.environment);
        let result = self.apply(&loaded);
        let metrics = &self.state.metrics;
        let report = match &result {
            Ok(revision) => {
                event::config_reloaded(metrics, *revision, unix_now());
                Report::default()
            }
            Err(faults) => {
                event::config_refused(metrics, &config::render(&loaded.source, faults));
                let faults = config::faults_json(&loaded.source, faults);
                Report {
                    faults: faults.as_array().cloned().unwrap_or_default(),
                }
            }
        };
        // Whatever came of it: the one before serves on.
        self.systemd.ready();
        let refused = Value::Array(report.faults.clone());
        *self
            .last_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = report;
        result.map_err(|_| refused)
    }

    fn apply(&self, loaded: &Loaded) -> Result<u64, Vec<Fault>> {
        let config = loaded.config.clone().ok_or_else(|| loaded.faults.clone())?;
        self.watching.also(&config);
        let before = self.gateway.current.load_full();
        let mut faults = Faults::default();
        self.check_fixed(&before.config, &config, &mut faults);
        let snapshot = Snapshot::build(config, &self.state, before.revision + 1)?;
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let prepared = listeners.prepare(&snapshot.config, &self.state.metrics, &mut faults);
        drop(listeners);
        let log = self.new_access_log(&before.config, &snapshot.config, &mut faults);
        if faults.has_errors() {
            return Err(faults.0);
        }
        let revision = snapshot.revision;
        if let Some(log) = log {
            let before = self.gateway.reporter.access_log.swap(Arc::new(log));
            AccessLog::retire(before);
        }
        if let Some(log) = logging::control() {
            log.configure(&snapshot.config.server.log);
        }
        // Pools first: the first request of the new snapshot must find its endpoints.
        self.pools.apply(&snapshot);
        self.gateway.current.store(Arc::new(snapshot));
        self.put_in_force(prepared);
        Ok(revision)
    }

    /// What only a restart can change.
    fn check_fixed(&self, before: &Config, after: &Config, faults: &mut Faults) {
        let section = |section, key| KeyPath::root().key(section).key(key);
        if after.admin.address != self.admin_address {
            faults.error(
                section("admin", "address"),
                "the admin address cannot change while the gateway runs",
                format!("restart it, or write `{}`", self.admin_address),
            );
        }
        if after.server.threads != before.server.threads {
            faults.error(
                section("server", "threads"),
                "the number of threads cannot change while the gateway runs",
                "restart it, or write the number from before",
            );
        }
    }

    fn new_access_log(
        &self,
        before: &Config,
        after: &Config,
        faults: &mut Faults,
    ) -> Option<AccessLog> {
        if before.server.access_log == after.server.access_log {
            return None;
        }
        let target = Target::from(&after.server.access_log);
        match AccessLog::open(&target, &self.state.metrics) {
            Ok(log) => Some(log),
            Err(error) => {
                let at = KeyPath::root().key("server").key("access_log");
                faults.error(at, format!("cannot open the access log: {error}"), "");
                None
            }
        }
    }

    pub(super) fn watch_certificates(&self) {
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        for (name, not_after) in listeners.certificate_expiries() {
            event::certificate_seen(&self.state.metrics, &name, not_after, now);
        }
    }

    /// Warns of certificates that are about to expire, as long as the process lives.
    pub(super) async fn watch_expiries(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CERTIFICATE_PERIOD).await;
            self.watch_certificates();
        }
    }
}

/// Says when the configuration or a file that it names has changed.
pub(super) struct Watching {
    watch: Option<Watch>,
    changed: Arc<Notify>,
}

impl Watching {
    pub(super) fn start(path: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let watch = config::watch::watch(path, move |_| wake.notify_one());
        if let Err(error) = &watch {
            tracing::error!(%error, "cannot watch the configuration: SIGHUP reloads it");
        }
        Self {
            watch: watch.ok(),
            changed,
        }
    }

    /// The files of this configuration, to be said before they are read.
    pub(super) fn also(&self, config: &Config) {
        if let Some(watch) = &self.watch {
            watch.also(files_of(config));
        }
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Files whose contents belong to the configuration.
fn files_of(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for tls in config.listeners.values().filter_map(|l| l.tls.as_ref()) {
        for certificate in &tls.certificates {
            files.push(certificate.certificate.clone());
            files.push(certificate.key.clone());
        }
        files.extend(tls.client_auth.as_ref().map(|auth| auth.ca.clone()));
    }
    for tls in config.pools.values().filter_map(|pool| pool.tls.as_ref()) {
        let paths = [&tls.ca, &tls.client_certificate, &tls.client_key];
        files.extend(paths.into_iter().flatten().cloned());
    }
    files.extend(config.providers.values().filter_map(|one| one.ca.clone()));
    for method in config.identity.values() {
        if let Identity::Jwt(jwt) = method {
            files.extend([&jwt.jwks_ca, &jwt.key_file].into_iter().flatten().cloned());
        }
    }
    files.extend(config.tracing.iter().filter_map(|one| one.ca.clone()));
    files.extend(config.redis.iter().filter_map(|redis| redis.ca.clone()));
    files
}
