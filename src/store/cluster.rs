//! A Redis Cluster: the server that has a key's slot is asked, and slots are followed where they move.
//!
//! All counts of limits are in one slot, the home: one script can decide about all of them, and the server that has
//! the home decides whether the store is up. Whatever else is kept (sessions) is where its key says.
//! While a slot moves between two servers, no script that touches more than one key can be exact on either of them:
//! the home is gone until it has arrived, and each rule does what its `without_redis` says.

use super::hosts::{addresses, connection_address, login, plain, split_login};
use super::known::{BEAT_PERIOD, FAILURES_MAX, Known, Trouble, reconnect_rest};
use super::link::{Link, client};
use super::redis::{INSTANCES_KEY, Script, Settings, Unavailable};
use super::slots::{Range, pointed_to, read, slot_of};
use ::redis::{Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, RedisError};
use ::redis::{RedisConnectionInfo, ServerErrorKind, Value};
use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout, timeout_at};

/// The part of its key that puts a count into the home slot.
const HOME: &str = "ratelimit";

/// Where a server listens unless the URL says otherwise.
const PORT: u16 = 6379;

/// For one server to say who owns what; then the next is asked.
const ASK_TIME_MAX: Duration = Duration::from_millis(200);

/// Between two looks around, however much there is to see.
const LOOK_REST: Duration = Duration::from_millis(5);

/// Servers that one call may be sent to in turn.
const HOPS_MAX: usize = 4;

/// Servers that calls were pointed to and that nobody has told of yet.
const POINTED_MAX: usize = 16;

/// A key of the home that nobody ever writes. While the home moves, no server answers for a key that is not
/// there; so the sign of life, which names it, fails as long as counting would.
const NEVER_KEY: &str = "never";

/// The prefix of a count's keys as it is written in a Cluster: in the home slot, and `ratelimit:42` reads
/// `{ratelimit}:42`.
pub fn home_prefix(prefix: &str) -> String {
    let rest = match prefix.strip_prefix(HOME) {
        Some("") => return format!("{{{HOME}}}"),
        Some(rest) if rest.starts_with(':') => &rest[1..],
        _ => prefix,
    };
    format!("{{{HOME}}}:{rest}")
}

/// Servers that are asked for the others.
#[derive(Debug, Clone)]
pub struct Seeds {
    addresses: Vec<ConnectionAddr>,
    /// For all servers.
    login: RedisConnectionInfo,
    is_tls: bool,
}

impl Seeds {
    /// None if it cannot be read. `rest` is what follows the scheme.
    pub fn parse(rest: &str, is_tls: bool) -> Option<Self> {
        let (before, hosts) = split_login(rest);
        Some(Self {
            addresses: addresses(hosts, PORT, is_tls)?,
            // A Cluster has one database only.
            login: login(before, "0")?,
            is_tls,
        })
    }

    fn server(&self, (host, port): &Owner) -> Result<ConnectionInfo, String> {
        let address = connection_address(host.clone(), *port, self.is_tls);
        Ok(plain(address)?.set_redis_settings(self.login.clone()))
    }
}

/// Host and port.
type Owner = (String, u16);

/// One server.
struct Node {
    owner: Owner,
    /// None while it is gone.
    link: ArcSwapOption<Link>,
}

/// Who owns what, as far as is known.
#[derive(Default)]
struct Map {
    /// In the order of slots; the last is the place in `nodes`.
    ranges: Vec<(u16, u16, usize)>,
    /// The masters, and servers that calls were pointed to.
    nodes: Vec<Arc<Node>>,
}

impl Map {
    fn owner_of(&self, slot: u16) -> Option<&Arc<Node>> {
        let after = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, at) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *last).then(|| self.nodes.get(*at))?
    }

    fn named(&self, owner: &Owner) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.owner == *owner)
    }
}

pub struct Cluster {
    settings: Settings,
    seeds: Seeds,
    home: u16,
    map: ArcSwap<Map>,
    /// Whether counts can be kept.
    is_up: AtomicBool,
    /// Calls of the home that were answered with an error, in a row.
    failures: AtomicU32,
    /// Something is not where it was.
    changed: Arc<Notify>,
    /// A look around is over.
    looked: Notify,
    pointed: Mutex<Vec<Owner>>,
    pub known: Known,
}

impl Cluster {
    pub fn new(settings: &Settings, seeds: Seeds, known: Known) -> Self {
        Self {
            settings: settings.clone(),
            seeds,
            home: slot_of(HOME.as_bytes()),
            map: ArcSwap::default(),
            is_up: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            changed: Arc::default(),
            looked: Notify::new(),
            pointed: Mutex::default(),
            known,
        }
    }

    /// Whether counts can be kept. Other keys may be had, or not, all the same.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Looks who owns what and connects to them, as long as the process wants Redis.
    pub async fn keep(self: Arc<Self>) {
        for turn in 0_usize.. {
            let looked = self.look_around(turn).await;
            self.looked.notify_waiters();
            let beat = self.beat().await;
            if beat.is_ok() {
                self.failures.store(0, Relaxed);
                self.is_up.store(true, Relaxed);
                self.known.found();
            } else if !self.is_up() {
                if let Err(why) = &looked {
                    self.known.note_error(why);
                }
                self.known.lost(&self.known.last_error());
            }
            self.known.set_tried();
            self.rest(looked.is_ok() && beat.is_ok()).await;
        }
    }

    /// By the server that has the first key. All keys must be in one slot.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, Unavailable> {
        let slot = self.slot_of_call(script, keys, &fill);
        if slot == self.home && !self.is_up() {
            let started = Instant::now();
            return Ok(self.known.measure(started, Err(Trouble::NotTried))?);
        }
        Ok(self.call(slot, (script, keys), fill).await?)
    }
}

/// What is asked: a script, and how many keys it has.
type Question<'a> = (&'a Script, usize);

impl Cluster {
    fn slot_of_call(&self, script: &Script, keys: usize, fill: &impl Fn(&mut Cmd)) -> u16 {
        let command = script.by_hash(keys, fill);
        // EVALSHA, the hash, the number of keys, the first key.
        let first = command.args_iter().nth(3).filter(|_| keys > 0);
        match first {
            Some(::redis::Arg::Simple(key)) => slot_of(key),
            _ => self.home,
        }
    }

    async fn call<T: FromRedisValue>(
        &self,
        slot: u16,
        question: Question<'_>,
        fill: impl Fn(&mut Cmd),
    ) -> Result<T, Trouble> {
        let started = Instant::now();
        let answer = self.ask(slot, question, fill).await;
        let answer = self.known.measure(started, answer);
        if slot == self.home {
            match &answer {
                Ok(_) => self.failures.store(0, Relaxed),
                Err(trouble) => self.home_failed(trouble),
            }
        }
        answer
    }

    /// Asks the owner, and whomever it points to, all within the time of one call.
    async fn ask(
        &self,
        slot: u16,
        (script, keys): Question<'_>,
        fill: impl Fn(&mut Cmd),
    ) -> Result<Value, Trouble> {
        let due = tokio::time::Instant::now() + self.known.timeout;
        let owner = self.map.load().owner_of(slot).cloned();
        let mut node = owner.ok_or(Trouble::NotTried)?;
        let mut is_moving = false;
        let mut said = None;
        for _ in 0..HOPS_MAX {
            let link = node.link.load_full().ok_or(Trouble::NotTried)?;
            let asked = async {
                if is_moving {
                    link.ask_while_moving(script, keys, &fill).await
                } else {
                    link.ask(script, keys, &fill).await
                }
            };
            let Ok(answer) = timeout_at(due, asked).await else {
                self.node_failed(&node, &link, false);
                return Err(Trouble::Late);
            };
            let error = match answer {
                Ok(answer) => {
                    link.succeeded();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let Some(there) = points_to(&error, script, &node.owner.0) else {
                let trouble = Trouble::of(&error);
                if trouble.is_over() {
                    self.node_failed(&node, &link, true);
                }
                return Err(trouble);
            };
            is_moving = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            said = Some(error);
            let found = timeout_at(due, self.node_at(there, is_moving)).await;
            node = found.map_err(|_| Trouble::Late)?;
        }
        Err(said.map_or(Trouble::NotTried, |error| Trouble::of(&error)))
    }

    /// The server that a call was pointed to; if it is a new one, as soon as it is connected.
    async fn node_at(&self, owner: Owner, is_moving: bool) -> Arc<Node> {
        if !is_moving {
            self.changed.notify_one();
        }
        loop {
            let looked = self.looked.notified();
            let known = self.map.load().named(&owner).cloned();
            if let Some(node) = known.filter(|node| node.link.load().is_some()) {
                return node;
            }
            {
                let pointed = self.pointed.lock();
                let mut pointed = pointed.unwrap_or_else(PoisonError::into_inner);
                if pointed.len() < POINTED_MAX && !pointed.contains(&owner) {
                    pointed.push(owner.clone());
                }
            }
            self.changed.notify_one();
            looked.await;
        }
    }

    /// Until something may be different. Whoever has just lost its counts leaves the servers alone for a while.
    async fn rest(&self, is_whole: bool) {
        if self.is_up() {
            let longest = if is_whole {
                BEAT_PERIOD
            } else {
                reconnect_rest()
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(longest) => {}
            }
        }
        let shortest = if self.is_up() {
            LOOK_REST
        } else {
            reconnect_rest()
        };
        sleep(shortest).await;
    }

    /// After three failures in a row, or one that no other call can survive, nobody waits for this server.
    fn node_failed(&self, node: &Node, link: &Arc<Link>, is_over: bool) {
        if link.failed() < FAILURES_MAX && !is_over {
            return;
        }
        let held = node.link.compare_and_swap(link, None);
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, link)) {
            self.changed.notify_one();
        }
    }

    /// The same for the counts, wherever they are.
    fn home_failed(&self, trouble: &Trouble) {
        self.known.note_error(trouble.why());
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let is_over = trouble.is_over() || matches!(trouble, Trouble::NotTried);
        if failures >= FAILURES_MAX || is_over {
            self.home_is_gone(trouble.why());
        }
    }

    fn home_is_gone(&self, why: &str) {
        if self.is_up.swap(false, Relaxed) {
            self.known.lost(why);
            self.changed.notify_one();
        }
    }

    /// Says that this instance lives, where the counts are. If that is refused, no count can be relied on.
    async fn beat(&self) -> Result<(), Trouble> {
        let (alive, told) = self.known.beat();
        let keys = [INSTANCES_KEY, NEVER_KEY].map(home_prefix);
        let fill = |command: &mut Cmd| {
            command.arg(&keys);
            told(command);
        };
        let question = (alive, keys.len());
        let count = self.call(self.home, question, fill).await;
        if let Err(Trouble::Failed { why, .. }) = &count {
            self.home_is_gone(why);
        }
        self.known.set_instances(count?);
        Ok(())
    }

    /// Asks who owns what, and connects to those who do. What is wrong if the owners of some slots are not
    /// known or not connected.
    async fn look_around(&self, turn: usize) -> Result<(), String> {
        let ranges = self.owners(turn).await?;
        let pointed = {
            let pointed = self.pointed.lock();
            std::mem::take(&mut *pointed.unwrap_or_else(PoisonError::into_inner))
        };
        let before = self.map.load_full();
        let mut map = Map::default();
        for range in ranges {
            let at = map.place_of(range.owner, &before);
            map.ranges.push((range.first, range.last, at));
        }
        let masters = map.nodes.len();
        for owner in pointed {
            map.place_of(owner, &before);
        }
        let connected = join_all(map.nodes.iter().map(|node| self.connect(node))).await;
        self.map.store(Arc::new(map));
        // Of those who own nothing yet, nobody says that they must be there.
        connected.into_iter().take(masters).collect()
    }

    async fn connect(&self, node: &Node) -> Result<(), String> {
        let link = node.link.load_full();
        if link.is_some_and(|link| !link.is_closed()) {
            return Ok(());
        }
        node.link.store(None);
        let client = client(&self.settings, self.seeds.server(&node.owner)?)?;
        let link = Link::open(client, &self.changed).await;
        let (host, port) = &node.owner;
        let link = link.map_err(|why| format!("{host}:{port}: {why}"))?;
        node.link.store(Some(Arc::new(link)));
        Ok(())
    }

    /// What the first server that answers says: those that are connected are asked before the seeds, in turn.
    async fn owners(&self, turn: usize) -> Result<Vec<Range>, String> {
        let mut slots = ::redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let map = self.map.load_full();
        let count = map.nodes.len().max(1);
        let mut why = "no server of the cluster answers".to_owned();
        for node in map.nodes.iter().cycle().skip(turn % count).take(count) {
            let Some(link) = node.link.load_full() else {
                continue;
            };
            match timeout(ASK_TIME_MAX, owners_by(&link, &slots, &node.owner.0)).await {
                Ok(Ok(ranges)) => return Ok(ranges),
                Ok(Err(error)) => why = error,
                Err(_) => self.node_failed(node, &link, false),
            }
        }
        for seed in &self.seeds.addresses {
            let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) =
                seed
            else {
                continue;
            };
            let owner = (host.clone(), *port);
            let client = client(&self.settings, self.seeds.server(&owner)?)?;
            let asked = async {
                let link = Link::open(client, &Arc::default()).await?;
                owners_by(&link, &slots, host).await
            };
            match timeout(2 * ASK_TIME_MAX, asked).await {
                Ok(Ok(ranges)) => return Ok(ranges),
                Ok(Err(error)) => why = format!("{seed}: {error}"),
                Err(_) => why = format!("{seed} does not answer"),
            }
        }
        Err(why)
    }
}

impl Map {
    /// Where a server stands among the nodes; one that was known before stays connected.
    fn place_of(&mut self, owner: Owner, before: &Self) -> usize {
        if let Some(at) = self.nodes.iter().position(|node| node.owner == owner) {
            return at;
        }
        let node = before.named(&owner).cloned().unwrap_or_else(|| {
            Arc::new(Node {
                owner,
                link: ArcSwapOption::empty(),
            })
        });
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}

async fn owners_by(link: &Link, slots: &Cmd, host: &str) -> Result<Vec<Range>, String> {
    let answer = link.query(slots).await.map_err(|error| error.to_string())?;
    let ranges = read(&answer, host).ok_or("it does not say who owns what")?;
    if ranges.is_empty() {
        return Err("nobody owns anything in its cluster".to_owned());
    }
    Ok(ranges)
}

/// Where an answer points to, if the script may follow.
fn points_to(error: &RedisError, script: &Script, asked: &str) -> Option<Owner> {
    let follows = match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => true,
        ErrorKind::Server(ServerErrorKind::Ask) => script.is_of_one_key(),
        _ => false,
    };
    let (address, _) = error.redirect_node().filter(|_| follows)?;
    pointed_to(address, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_in_one_slot_whatever_their_prefix() {
        for (prefix, expected) in [
            ("ratelimit", "{ratelimit}"),
            ("ratelimit:*", "{ratelimit}:*"),
            ("ratelimits", "{ratelimit}:ratelimits"),
            ("limit:slots", "{ratelimit}:limit:slots"),
            ("{other}:x", "{ratelimit}:{other}:x"),
        ] {
            let home = home_prefix(prefix);
            assert_eq!(home, expected);
            let key = format!("{home}:42");
            assert_eq!(slot_of(key.as_bytes()), slot_of(HOME.as_bytes()), "{key}");
        }
    }

    #[test]
    fn the_servers_of_a_cluster_are_read() {
        for (rest, seeds, user) in [
            ("a", &["a:6379"][..], None),
            ("a:1,b,[::1]:2", &["a:1", "b:6379", "::1:2"], None),
            ("me:p%40ss@a", &["a:6379"], Some("me")),
        ] {
            let read = Seeds::parse(rest, false).expect(rest);
            let found: Vec<String> = read.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(found, seeds, "{rest}");
            assert_eq!(read.login.username(), user, "{rest}");
        }
        for rest in ["", "me@", "a,", "a:b", "a/0", "a b", "a?x=1"] {
            assert!(Seeds::parse(rest, false).is_none(), "{rest}");
        }
    }

    #[test]
    fn the_owner_of_a_slot_is_found() {
        let before = Map::default();
        let mut map = Map::default();
        for (first, last, host) in [(0, 10, "a"), (11, 20, "b"), (30, 30, "a")] {
            let at = map.place_of((host.to_owned(), 1), &before);
            map.ranges.push((first, last, at));
        }
        assert_eq!(map.nodes.len(), 2);
        for (slot, owner) in [
            (0, Some("a")),
            (10, Some("a")),
            (11, Some("b")),
            (20, Some("b")),
            (21, None),
            (30, Some("a")),
            (31, None),
        ] {
            let found = map.owner_of(slot).map(|node| node.owner.0.as_str());
            assert_eq!(found, owner, "{slot}");
        }
        assert!(before.owner_of(0).is_none());
    }
}
