//! Connections to one server of Redis: they wait for nothing but us, speak RESP3 and send each call at once.
//!
//! One is there from the beginning. Each runtime that calls gets its own beside it: a call over another runtime's
//! connection costs two wake-ups of a thread, more than all else that a call costs.

use super::redis::{Script, Settings, fixed_part};
use ::redis::aio::{MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo,
    PushKind, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// To connect, TLS and log-in included.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(200);

/// Calls that may wait to be written; at 50 ms for each there is no use in more.
const WAITING_CALLS_MAX: usize = 4096;

/// Before a runtime tries again to get a connection of its own.
const NEAR_REST: Duration = Duration::from_secs(1);

/// A client of one server.
pub fn client(settings: &Settings, address: ConnectionInfo) -> Result<Client, String> {
    let tcp = address.tcp_settings().clone().set_nodelay(true);
    let login = address.redis_settings().clone();
    let login = login.set_protocol(ProtocolVersion::RESP3);
    let address = address.set_tcp_settings(tcp).set_redis_settings(login);
    let failed = |error: RedisError| fixed_part(&error);
    match &settings.ca {
        Some(ca) if settings.is_tls() => {
            let pem = std::fs::read(ca)
                .map_err(|error| format!("cannot read `{}`: {error}", ca.display()))?;
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem),
            };
            Client::build_with_tls(address, certificates).map_err(failed)
        }
        _ => Client::open(address).map_err(failed),
    }
}

/// The connections, and how many of the last calls failed.
pub struct Link {
    client: Client,
    first: MultiplexedConnection,
    /// What carries the first.
    runtime: Id,
    /// One for each other runtime that has called.
    near: ArcSwap<Vec<Arc<Near>>>,
    failures: AtomicU32,
    /// Whether Redis has closed the first.
    closed: Arc<AtomicBool>,
}

/// The connection of one runtime.
struct Near {
    runtime: Id,
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Whether it is being opened, or was in vain a moment ago.
    is_opening: AtomicBool,
}

impl Near {
    /// Opens it beside the calls; they take the first one meanwhile.
    async fn open(self: Arc<Self>, client: Client) {
        let near = Arc::downgrade(&self);
        let closed = move || {
            if let Some(near) = near.upgrade() {
                near.connection.store(None);
            }
        };
        match connect(&client, closed).await {
            Ok(connection) => self.connection.store(Some(Arc::new(connection))),
            Err(_) => sleep(NEAR_REST).await,
        }
        self.is_opening.store(false, Relaxed);
    }
}

async fn connect(
    client: &Client,
    closed: impl Fn() + Send + Sync + 'static,
) -> Result<MultiplexedConnection, String> {
    let noticed = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            closed();
        }
        Ok::<(), SendError>(())
    };
    let config = AsyncConnectionConfig::new()
        .set_push_sender(noticed)
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(WAITING_CALLS_MAX);
    let connect = client.get_multiplexed_async_connection_with_config(&config);
    match timeout(CONNECT_TIME_MAX, connect).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no connection within {CONNECT_TIME_MAX:?}")),
    }
}

impl Link {
    /// On the runtime that it is called on. `lost` is told when Redis closes it.
    pub async fn open(client: Client, lost: &Arc<Notify>) -> Result<Self, String> {
        let closed = Arc::new(AtomicBool::new(false));
        let (flag, lost) = (Arc::clone(&closed), Arc::clone(lost));
        let noticed = move || {
            flag.store(true, Relaxed);
            lost.notify_one();
        };
        Ok(Self {
            first: connect(&client, noticed).await?,
            client,
            runtime: Handle::current().id(),
            near: ArcSwap::default(),
            failures: AtomicU32::new(0),
            closed,
        })
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Forgets the failures before.
    pub fn succeeded(&self) {
        self.failures.store(0, Relaxed);
    }

    /// Failures in a row, with this one.
    pub fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    pub async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        command.query_async(&mut self.nearest()).await
    }

    /// A script by its hash; with its text where Redis has forgotten it.
    pub async fn ask(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<Value, RedisError> {
        match self.query(&script.by_hash(keys, &fill)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.query(&script.by_text(keys, &fill)).await
            }
            answered => answered,
        }
    }

    /// As `ask`, of a server to which the slot is just being moved.
    pub async fn ask_while_moving(
        &self,
        script: &Script,
        keys: usize,
        fill: impl Fn(&mut Cmd),
    ) -> Result<Value, RedisError> {
        let mut both = ::redis::pipe();
        both.cmd("ASKING").ignore();
        both.add_command(script.by_text(keys, fill));
        let (value,) = both.query_async(&mut self.nearest()).await?;
        Ok(value)
    }

    /// The connection of the runtime that asks, if it has one by now.
    fn nearest(&self) -> MultiplexedConnection {
        let here = Handle::current();
        if here.id() == self.runtime {
            return self.first.clone();
        }
        let known = self.near.load();
        let near = known.iter().find(|near| near.runtime == here.id());
        let near = near.map_or_else(|| self.add(here.id()), Arc::clone);
        let connection = near.connection.load();
        if let Some(connection) = &*connection {
            return MultiplexedConnection::clone(connection);
        }
        if !near.is_opening.swap(true, Relaxed) {
            here.spawn(Arc::clone(&near).open(self.client.clone()));
        }
        self.first.clone()
    }

    /// Only the runtime itself adds its own, and the number of runtimes is that of the processors.
    fn add(&self, runtime: Id) -> Arc<Near> {
        let near = Arc::new(Near {
            runtime,
            connection: ArcSwapOption::empty(),
            is_opening: AtomicBool::new(false),
        });
        self.near.rcu(|known| {
            let mut more = Vec::clone(known);
            more.push(Arc::clone(&near));
            more
        });
        near
    }
}
