//! One gateway in which everything happens that is measured, and what is seen of it.

mod dashboards;
mod metrics;

use crate::ai::{Speaks, call};
use crate::harness::{
    Answer, Authority, Client, Fault, Gateway, KeyIssuer, LOCATION, PROJECT, PROVIDER_KEY, Port,
    Provider, RedisServer, Reply, Signer, Tls, Trouble, Upstream, WebSocket, eventually,
};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const KEY: &str = "key-of-alice-0123456789";

/// Every section in which something is measured.
const YAML: &str = "
server:
  shield: { rate_per_address: { requests: 5 }, exempt: [127.0.0.1/32] }
listeners:
  web: { address: '{{http}}' }
  secure: { address: '{{https}}', tls: { certificates: [{ certificate: '{{dir}}/site.pem', key: '{{dir}}/site.key' }] } }
identity:
  apps: { keys: { known: [{ name: laptop, user: alice, secret: key-of-alice-0123456789 }] } }
  users: { jwt: { jwks: 'http://{{issuer}}/keys', audience: app } }
redis: { url: '{{redis}}' }
tracing: { endpoint: 'http://{{app}}', every: 50ms, sample: 1.0 }
limits:
  rules:
    user: { by: user, requests: 100000 }
    few: { by: user, requests: 2, per: day }
    slots: { by: user, in_flight: 100 }
    tokens: { by: user, tokens: 100000000 }
pools:
  app: { endpoints: ['{{app}}'], health: { interval: 100ms } }
  half: { endpoints: ['{{dead}}', '{{app}}'], health: { check: off }, retry: { budget: 100% } }
  frail:
    endpoints: ['{{bad}}', '{{worse}}']
    health: { check: off }
    ejection: { enabled: false }
    retry: { attempts: 2, budget: 0%, budget_min: 1, backoff: 1ms }
  busy:
    endpoints: ['{{app}}']
    health: { check: off }
    capacity: { max_in_flight: 1, queue_max: 1, queue_timeout: 20s }
  down: { endpoints: ['{{dead}}', '{{app}}'], health: { interval: 100ms, unhealthy_after: 1 } }
  named: { endpoints: ['localhost:{{port}}', 'no-such-name.invalid:80'], health: { check: off }, dns_refresh: 1s }
providers:
  openai: { base_url: '{{openai}}', keys: ['{{key}}', wrong-key], retry: { backoff: 1ms } }
  failing: { kind: compatible, base_url: '{{failing}}', keys: '{{key}}', retry: { backoff: 1ms }, breaker: { failures: 3, open: 2m } }
  cloud:
    kind: vertex
    base_url: '{{cloud}}'
    project: '{{project}}'
    location: '{{location}}'
    service_account: 'file:key.json'
    capacity: { max_in_flight: 1, queue_max: 1, queue_timeout: 2s }
  spare: { kind: openai, base_url: '{{spare}}', keys: '{{key}}' }
models:
  spared: { targets: spare/gpt-5 }
  gpt: { targets: openai/gpt-5 }
  smart: { targets: [failing/gpt-5, openai/gpt-5] }
  flash: { targets: cloud/gemini-2.5-flash }
routes:
  all: { pool: app, limits: [] }
  half: { path: /half, pool: half, limits: [] }
  frail: { path: /frail, pool: frail, limits: [] }
  busy: { path: /busy, pool: busy, limits: [] }
  named: { path: /named, pool: named, limits: [] }
  known: { path: /known, pool: app, identity: [apps, users], limits: [user, slots] }
  few: { path: /few, pool: app, identity: apps, limits: few }
  socket: { path: /ws, pool: app, limits: [], websocket: { max: 1 } }
  down: { path: /down, pool: down, limits: [] }
  fixed: { path: /fixed, respond: { body: ok } }
  ai: { path: [/v1/*, /v1beta/*], identity: apps, limits: [user, tokens], ai: {} }
";

/// A gateway and everything around it.
pub struct World {
    pub gateway: Gateway,
    pub redis: RedisServer,
    app: Upstream,
    bad: [Upstream; 2],
    dead: Port,
    issuer: KeyIssuer,
    signer: Signer,
    authority: Authority,
    openai: Provider,
    failing: Provider,
    cloud: Provider,
    /// Says that its key is used up for a moment, after each call.
    spare: Provider,
    /// Lets go what `/busy` holds.
    release: Arc<Notify>,
}

impl World {
    pub async fn start() -> Self {
        let signer = Signer::key("one");
        let bad = |_: &crate::harness::Seen| Reply::status(503, "busy");
        let (authority, release, dir) = (
            Authority::new(),
            Arc::new(Notify::new()),
            TempDir::new().unwrap(),
        );
        authority.write(dir.path(), "site", &["site.test"]);
        let held = Arc::clone(&release);
        let app = Upstream::replying(move |seen| match seen.target() {
            "/busy" => Reply::held(&held, Reply::ok("late")),
            "/ws" => Reply::websocket("app"),
            _ => Reply::ok("app"),
        });
        let cloud = Provider::vertex().await;
        std::fs::write(dir.path().join("key.json"), cloud.key_file()).unwrap();
        let spare = Provider::openai().await;
        spare.saying(&[
            ("x-ratelimit-limit-requests", "1"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "4s"),
        ]);
        // What has an address must be there before the gateway is, which knows them all.
        let mut world = World {
            redis: RedisServer::start(),
            app: app.await,
            bad: [Upstream::replying(bad).await, Upstream::replying(bad).await],
            dead: Port::reserve(),
            issuer: KeyIssuer::of(&[&signer]).await,
            openai: Provider::openai().await,
            failing: Provider::openai().await,
            gateway: Gateway::start("routes: { all: { respond: {} } }", &[]).await,
            signer,
            authority,
            cloud,
            spare,
            release,
        };
        world.gateway = world.gateway_in(dir).await;
        world
    }

    async fn gateway_in(&self, dir: TempDir) -> Gateway {
        let names = self.names();
        let names: Vec<_> = names
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        Gateway::start_in(dir, YAML, &names).await
    }

    fn names(&self) -> Vec<(&'static str, Box<dyn Display>)> {
        let boxed = |text: String| Box::new(text) as Box<dyn Display>;
        [
            ("issuer", self.issuer.upstream.name()),
            ("redis", self.redis.url()),
            ("app", self.app.name()),
            ("port", self.app.port().to_string()),
            ("bad", self.bad[0].name()),
            ("worse", self.bad[1].name()),
            ("dead", self.dead.to_string()),
            ("openai", self.openai.url()),
            ("failing", self.failing.url()),
            ("cloud", self.cloud.origin()),
            ("spare", self.spare.url()),
            ("key", PROVIDER_KEY.to_owned()),
            ("project", PROJECT.to_owned()),
            ("location", LOCATION.to_owned()),
        ]
        .map(|(name, value)| (name, boxed(value)))
        .into()
    }

    /// The document again, with something after it.
    pub async fn reload_with(&self, more: &str) -> Answer {
        let names = self.names();
        let names: Vec<_> = names
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        self.gateway
            .try_reload(&format!("{YAML}{more}"), &names)
            .await
    }

    /// Everything that goes well; as often as one likes.
    pub async fn round(&self) {
        let mut client = Client::connect(&self.gateway).await;
        client.get("/").await;
        client.post("/", b"12345").await;
        client.get("/fixed").await;
        client.get("/half").await;
        client.get("/frail").await;
        client.get("/named").await;
        self.known(&mut client, "/known", ("x-api-key", KEY)).await;
        let token = format!("Bearer {}", self.signer.token("bob"));
        self.known(&mut client, "/known", ("authorization", &token))
            .await;
        let tls = Tls::to(&self.authority, "site.test");
        Client::secure(&self.gateway, tls).await.get("/").await;
        self.ask("gpt", true).await.unwrap();
        self.ask("smart", true).await.unwrap();
        self.ask("flash", false).await.unwrap();
    }

    async fn known(&self, client: &mut Client, target: &str, credential: (&str, &str)) -> u16 {
        client
            .request("GET", target, &[credential], b"")
            .await
            .status
    }

    /// A call of a model that goes on beside the test.
    fn ask(&self, model: &str, stream: bool) -> JoinHandle<Answer> {
        let (path, body) = call(Speaks::Chat, model, stream, "one two three");
        let connecting = TcpStream::connect(self.gateway.address("http"));
        let sent = self.gateway.sent();
        tokio::spawn(async move {
            let mut client = Client::counted(connecting.await.unwrap(), &sent);
            let headers = [("content-type", "application/json"), ("x-api-key", KEY)];
            client
                .request("POST", &path, &headers, body.to_string().as_bytes())
                .await
        })
    }

    /// Everything that goes wrong; `look` is called while it does.
    pub async fn trouble(&self, mut look: impl AsyncFnMut()) {
        self.refusals().await;
        let socket = WebSocket::open(&self.gateway, "/ws", &[]).await;
        assert!(
            WebSocket::try_open(&self.gateway, "/ws", &[])
                .await
                .is_err()
        );
        look().await;
        drop(socket);
        self.a_full_pool(&mut look).await;
        self.models_fail(&mut look).await;
        let refused = self.reload_with("nonsense: 1\n").await;
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert!(!self.gateway.try_upgrade().await.0, "upgraded to nonsense");
        look().await;
        let reloaded = self.reload_with("# anew\n").await;
        assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        self.redis_leaves(&mut look).await;
    }

    /// Callers who are told no.
    async fn refusals(&self) {
        let mut client = Client::connect(&self.gateway).await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(self.known(&mut client, "/few", ("x-api-key", KEY)).await);
        }
        assert_eq!(statuses, [200, 200, 429]);
        let wrong = ("x-api-key", "wrong");
        assert_eq!(self.known(&mut client, "/known", wrong).await, 401);
        // More than one a second may be tried again.
        for _ in 0..5 {
            client.get("/frail").await;
        }
        let mut stray = Client::direct(self.gateway.address("https")).await;
        stray.send(b"this is no handshake at all\r\n\r\n").await;
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), 0);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from).unwrap();
        let stream = socket.connect(self.gateway.address("http")).await.unwrap();
        let mut greedy = Client::over(&self.gateway, Box::new(stream));
        let mut last = 200;
        for _ in 0..12 {
            last = last.max(greedy.get("/").await.status);
        }
        assert_eq!(last, 429);
    }

    /// One at work, one that waits, one that is refused.
    async fn a_full_pool(&self, look: &mut impl AsyncFnMut()) {
        let address = self.gateway.address("http");
        let get = || {
            let (connecting, sent) = (TcpStream::connect(address), self.gateway.sent());
            tokio::spawn(async move {
                let mut client = Client::counted(connecting.await.unwrap(), &sent);
                client.get("/busy").await
            })
        };
        let at_work = || self.app.seen().iter().any(|seen| seen.target() == "/busy");
        let first = get();
        eventually("the first is at work", async || at_work().then_some(())).await;
        let second = get();
        self.waits("queue_waiting{pool=\"busy\"}").await;
        look().await;
        get().await.unwrap().assert_refused(503, "queue_full");
        for call in [first, second] {
            self.release.notify_one();
            assert_eq!(call.await.unwrap().status, 200);
        }
    }

    async fn waits(&self, gauge: &str) {
        let selector = format!("onemind_{gauge}");
        eventually("one waits", async || {
            (self.gateway.metric(&selector).await > 0.5).then_some(())
        })
        .await;
    }

    /// A provider that is left alone, a key that is, an event that says nothing, and queues for both.
    async fn models_fail(&self, look: &mut impl AsyncFnMut()) {
        self.failing.times(99, &Fault::Error(Trouble::Server));
        for _ in 0..3 {
            assert_eq!(self.ask("smart", false).await.unwrap().status, 200);
        }
        // By now the wrong one of the two keys has had its turn.
        self.ask("gpt", false).await.unwrap();
        self.openai
            .answering("one two three four five six")
            .then(Fault::NotJsonAt(5));
        assert_eq!(self.ask("gpt", true).await.unwrap().status, 200);
        assert_eq!(self.ask("spared", false).await.unwrap().status, 200);
        let spared = self.ask("spared", false);
        self.waits("ai_keys_waiting{provider=\"spare\"}").await;
        let go_on = Arc::new(Notify::new());
        let before = self.cloud.count();
        self.cloud.then(Fault::Held(Arc::clone(&go_on)));
        let first = self.ask("flash", false);
        eventually("the first is there", async || {
            (self.cloud.count() > before).then_some(())
        })
        .await;
        let second = self.ask("flash", false);
        self.waits("queue_waiting{pool=\"cloud\"}").await;
        look().await;
        assert_eq!(second.await.unwrap().status, 503);
        go_on.notify_one();
        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(spared.await.unwrap().status, 200);
    }

    /// Redis dies under a call whose tokens are not settled yet, and comes back.
    async fn redis_leaves(&self, look: &mut impl AsyncFnMut()) {
        let go_on = Arc::new(Notify::new());
        let before = self.openai.count();
        self.openai.then(Fault::Held(Arc::clone(&go_on)));
        let call = self.ask("gpt", false);
        eventually("the call is there", async || {
            (self.openai.count() > before).then_some(())
        })
        .await;
        self.redis.kill();
        go_on.notify_one();
        assert_eq!(call.await.unwrap().status, 200);
        let mut client = Client::connect(&self.gateway).await;
        self.known(&mut client, "/known", ("x-api-key", KEY)).await;
        self.mode_is("local").await;
        self.known(&mut client, "/known", ("x-api-key", KEY)).await;
        look().await;
        self.redis.restart();
        self.mode_is("redis").await;
    }

    pub async fn mode_is(&self, mode: &str) {
        eventually(&format!("limits are counted in {mode}"), async || {
            (self.gateway.status().await["limits"]["mode"] == mode).then_some(())
        })
        .await;
    }
}
