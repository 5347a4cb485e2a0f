//! One server at a time: the one that is named, or the one that Sentinels name.

use super::known::{BEAT_PERIOD, FAILURES_MAX, Known, Trouble, reconnect_rest};
use super::link::{Link, client};
use super::redis::{INSTANCES_KEY, Script, Settings, Unavailable};
use super::sentinel::Sentinels;
use ::redis::{Cmd, ConnectionInfo, FromRedisValue};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Where the server is.
pub enum Place {
    Server(Box<ConnectionInfo>),
    /// Behind Sentinels, who know which server is the master.
    Sentinels(Box<Sentinels>),
}

pub struct Single {
    settings: Settings,
    place: Place,
    /// None while Redis is gone.
    link: ArcSwapOption<Link>,
    /// The link was lost.
    lost: Arc<Notify>,
    pub known: Known,
}

impl Single {
    pub fn new(settings: &Settings, place: Place, known: Known) -> Self {
        Self {
            settings: settings.clone(),
            place,
            link: ArcSwapOption::empty(),
            lost: Arc::default(),
            known,
        }
    }

    pub fn is_up(&self) -> bool {
        self.link.load().is_some()
    }

    /// Connects, again and again, as long as the process wants Redis.
    pub async fn keep(self: Arc<Self>) {
        loop {
            match self.connect().await {
                Ok(link) => {
                    self.link.store(Some(Arc::new(link)));
                    if self.beat().await.is_ok() {
                        self.known.found();
                        self.known.set_tried();
                        self.stay().await;
                    } else {
                        self.known.lost(&self.known.last_error());
                    }
                }
                Err(why) => {
                    self.known.lost(&why);
                    self.known.note_error(&why);
                }
            }
            self.link.store(None);
            self.known.set_tried();
            sleep(reconnect_rest()).await;
        }
    }

    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, Unavailable> {
        let started = Instant::now();
        let Some(link) = self.link.load_full() else {
            return Ok(self.known.measure(started, Err(Trouble::NotTried))?);
        };
        let asked = timeout(self.known.timeout, link.ask(script, keys, fill)).await;
        let answer = match asked {
            Ok(answer) => answer.map_err(|error| Trouble::of(&error)),
            Err(_) => Err(Trouble::Late),
        };
        let answer = self.known.measure(started, answer);
        match &answer {
            Ok(_) => link.succeeded(),
            Err(trouble) => self.failed(&link, trouble.is_over(), trouble.why()),
        }
        Ok(answer?)
    }
}

impl Single {
    async fn connect(&self) -> Result<Link, String> {
        let client_of = |address| client(&self.settings, address);
        let server = match &self.place {
            Place::Server(server) => (**server).clone(),
            Place::Sentinels(sentinels) => sentinels.master(client_of).await?,
        };
        Link::open(client_of(server)?, &self.lost).await
    }

    /// Returns when the link is lost.
    async fn stay(&self) {
        while let Some(link) = self.link.load_full() {
            if link.is_closed() {
                return self.failed(&link, true, "it closed the connection");
            }
            drop(link);
            tokio::select! {
                () = self.lost.notified() => {}
                // What failed has been counted.
                () = sleep(BEAT_PERIOD) => drop(self.beat().await),
            }
        }
    }

    async fn beat(&self) -> Result<(), Unavailable> {
        let (alive, told) = self.known.beat();
        let fill = |command: &mut Cmd| {
            command.arg(INSTANCES_KEY);
            told(command);
        };
        let count = self.script(alive, 1, fill).await?;
        self.known.set_instances(count);
        Ok(())
    }

    /// After three failures in a row, or one that no other call can survive, nobody waits any more.
    fn failed(&self, link: &Arc<Link>, is_over: bool, why: &str) {
        self.known.note_error(why);
        if link.failed() < FAILURES_MAX && !is_over {
            return;
        }
        let held = self.link.compare_and_swap(link, None);
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, link)) {
            self.known.lost(why);
            self.lost.notify_one();
        }
    }
}
