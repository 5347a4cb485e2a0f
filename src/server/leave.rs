//! The life of a process from its first request to its last: signals, reloads, the end.

use super::Server;
use super::listeners::Fate;
use super::upgrade::{Channel, Message};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// For the last words of WebSockets and streams when the drain deadline has passed.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// What may be said to us from outside.
pub(super) struct Signals {
    reload: Signal,
    reopen: Signal,
    upgrade: Signal,
    stop: Stop,
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            stop: Stop {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
        })
    }
}

impl Stop {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How the end came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything was finished.
    Drained,
    /// What still ran was cut at the deadline.
    DeadlinePassed,
    /// Told to stop twice: what still ran was cut.
    AtOnce,
}

/// Why a process drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Told,
    /// Another process accepts in our place.
    HandedOver,
}

impl Server {
    /// Serves until a signal ends it or a successor takes its place, then drains.
    pub async fn run(self: Arc<Self>) -> io::Result<End> {
        let signals = lock(&self.signals).take();
        let mut signals = signals.map_or_else(Signals::listen, Ok)?;
        self.upgrades.elders.watch();
        let beside = tokio::spawn(Arc::clone(&self).tell_the_manager());
        let why = self.serve_on(&mut signals).await;
        beside.abort();
        let end = self.leave(why, &mut signals).await;
        // They are open still if somebody insisted before the delay was over.
        self.close_listeners();
        self.stopped.send_replace(true);
        if end != End::AtOnce {
            tokio::join!(self.finish_admin(), self.exports.finish());
        }
        Ok(end)
    }

    /// Answers to operators have two seconds; the one to `onemind upgrade` is among them.
    async fn finish_admin(&self) {
        let admin = lock(&self.admin).take();
        if let Some(admin) = admin {
            // A panic was told already.
            let _ = admin.await;
        }
    }

    async fn serve_on(self: &Arc<Self>, signals: &mut Signals) -> Why {
        let mut trying = self.upgrades.trying();
        let mut handed_over = self.upgrades.handed_over();
        loop {
            // What a successor was given must stay as it is; a reload waits for the outcome.
            let free = !*trying.borrow_and_update();
            tokio::select! {
                _ = handed_over.wait_for(|done| *done) => return Why::HandedOver,
                () = signals.stop.recv() => return Why::Told,
                _ = signals.reload.recv(), if free => self.reload("SIGHUP").await,
                () = self.watching.changed(), if free => self.reload("file changed").await,
                _ = signals.reopen.recv() => self.reopen().await,
                _ = signals.upgrade.recv() => {
                    let server = Arc::clone(self);
                    // It is told in the log, the metrics and `/status`.
                    tokio::spawn(async move { server.upgrade().await });
                }
                _ = trying.changed() => {}
            }
        }
    }

    /// The access log, and those of the processes before us, which nobody else will tell.
    async fn reopen(&self) {
        self.gateway.reporter.access_log.load().reopen();
        self.upgrades.elders.tell(&Message::Reopen).await;
    }

    /// Ready once, and then alive again and again, as long as every worker answers.
    async fn tell_the_manager(self: Arc<Self>) {
        let ready = async {
            self.until_ready().await;
            self.systemd.ready();
        };
        let alive = async {
            while let Some(period) = self.systemd.watchdog() {
                for worker in self.workers.handles() {
                    // A worker that hangs keeps us from going on, and so from being called alive.
                    let _ = worker.spawn(async {}).await;
                }
                self.systemd.alive();
                sleep(period).await;
            }
        };
        tokio::join!(ready, alive);
    }

    /// Drains, until everything is finished, the deadline passes, or somebody insists.
    async fn leave(&self, why: Why, signals: &mut Signals) -> End {
        let settings = self.gateway.current.load().config.server.clone();
        let limit = match why {
            Why::Told => settings.drain_deadline.0,
            Why::HandedOver => settings.upgrade.drain_deadline.0,
        };
        let mut deadline = Instant::now() + limit;
        let mut told = why == Why::Told;
        if told {
            self.upgrades.elders.tell(&Message::Stop).await;
        }
        let mut successor = self.upgrades.take_line();
        let drained = self.drain(why, settings.drain_delay.0, limit);
        tokio::pin!(drained);
        loop {
            let hurry = tokio::select! {
                () = &mut drained => {
                    tracing::info!("drained");
                    return End::Drained;
                }
                () = sleep_until(deadline) => {
                    tracing::warn!(cut = self.live.count(), "the drain deadline has passed");
                    self.say_goodbye().await;
                    return End::DeadlinePassed;
                }
                () = signals.stop.recv() => {
                    if told {
                        tracing::warn!(cut = self.live.count(), "told to stop twice: leaving now");
                        return End::AtOnce;
                    }
                    told = true;
                    true
                }
                _ = signals.reopen.recv() => {
                    self.reopen().await;
                    false
                }
                said = next(&mut successor) => match said {
                    Message::Reopen => {
                        self.gateway.reporter.access_log.load().reopen();
                        false
                    }
                    said => said == Message::Stop,
                },
            };
            if hurry {
                deadline = deadline.min(Instant::now() + settings.drain_deadline.0);
                tracing::info!("told to stop: the deadline is nearer");
            }
        }
    }

    /// Not ready, but accepting, so that balancers notice; then finish what runs. With a successor there
    /// is nothing to notice: it accepts already.
    async fn drain(&self, why: Why, delay: Duration, deadline: Duration) {
        self.draining.store(true, Relaxed);
        let connections = self.live.count();
        tracing::info!(connections, ?why, ?delay, ?deadline, "draining");
        // From now on each answer is the last on its connection.
        self.switches.soon.send_replace(true);
        match why {
            Why::Told => {
                self.systemd.stopping(connections, deadline);
                sleep(delay).await;
                self.stop_accepting().await;
            }
            Why::HandedOver => {
                self.stopped.send_replace(true);
                lock(&self.admin_socket).take();
                self.stop_accepting().await;
                // Who asks again meanwhile learns that this is the end, which no closing of ours can race.
                tokio::select! {
                    () = sleep(delay) => {}
                    () = self.live.wait_idle() => {}
                }
            }
        }
        self.switches.idle.send_replace(true);
        self.live.wait_idle().await;
    }

    /// WebSockets are told to come back elsewhere, readers of events too.
    async fn say_goodbye(&self) {
        self.switches.cut.send_replace(true);
        // Whoever does not answer in time is cut.
        let _ = timeout(FAREWELL_MAX, self.live.wait_idle()).await;
    }

    /// Returns when no loop accepts any more, so that every connection is known.
    async fn stop_accepting(&self) {
        self.close_listeners();
        self.accepting.wait_idle().await;
    }

    /// The Unix sockets of a successor must stay, however we came to leave.
    fn close_listeners(&self) {
        let fate = if *self.upgrades.handed_over().borrow() {
            Fate::Kept
        } else {
            Fate::Gone
        };
        lock(&self.listeners).close_all(fate);
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the successor says; nothing for ever, when there is none or it has gone.
async fn next(successor: &mut Option<Channel>) -> Message {
    if let Some(line) = successor {
        if let Ok(Some((said, _))) = line.receive().await {
            return said;
        }
        tracing::warn!("the process that followed this one has ended");
        *successor = None;
    }
    std::future::pending().await
}
