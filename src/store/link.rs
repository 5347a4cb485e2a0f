//! One connection to one server of Redis: it waits for nothing but us, speaks RESP3 and sends each call at once.

use super::redis::{Script, Settings, fixed_part};
use ::redis::aio::{MultiplexedConnection, SendError};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo,
    PushKind, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// To connect, TLS and log-in included.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(200);

/// Calls that may wait to be written; at 50 ms for each there is no use in more.
const WAITING_CALLS_MAX: usize = 4096;

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

/// A connection, and how many of its last calls failed.
pub struct Link {
    connection: MultiplexedConnection,
    failures: AtomicU32,
    /// Whether Redis has closed it.
    closed: Arc<AtomicBool>,
}

impl Link {
    /// `lost` is told when Redis closes it.
    pub async fn open(client: &Client, lost: &Arc<Notify>) -> Result<Self, String> {
        let closed = Arc::new(AtomicBool::new(false));
        let (flag, lost) = (Arc::clone(&closed), Arc::clone(lost));
        let noticed = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                flag.store(true, Relaxed);
                lost.notify_one();
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
            Ok(Ok(connection)) => Ok(Self {
                connection,
                failures: AtomicU32::new(0),
                closed,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no connection within {CONNECT_TIME_MAX:?}")),
        }
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
        command.query_async(&mut self.connection.clone()).await
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
        let (value,) = both.query_async(&mut self.connection.clone()).await?;
        Ok(value)
    }
}
