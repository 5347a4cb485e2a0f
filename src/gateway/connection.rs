//! The requests of one connection, one after the other.
//!
//! Why not Pingora's own loop: it keeps a session and 13 KiB of buffers for a caller that thinks. Here a
//! plain HTTP/1.1 connection that rests between two requests is a socket and nothing else.

use super::Gateway;
use crate::stage::listen::conn::Connection;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::time::timeout;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// For the first request, and where a listener is in the configuration no more.
const FIRST_REQUEST_MAX: Duration = Duration::from_mins(1);

/// What ends connections beside their callers.
#[derive(Clone)]
pub struct Closing {
    /// True once the process is about to stop: the next answer is the last on its connection.
    pub soon: watch::Receiver<bool>,
    /// True once those that rest must end.
    pub idle: watch::Receiver<bool>,
}

/// Serves until either side has enough.
pub async fn serve(
    gateway: &Gateway,
    proxy: &Arc<HttpProxy<Gateway>>,
    stream: Stream,
    mut closing: Closing,
) {
    let mut connection = match plain(stream) {
        Ok(connection) => connection,
        Err(stream) => {
            proxy.process_new(stream, &closing.soon).await;
            return;
        }
    };
    let mut kept: Option<HttpPersistentSettings> = None;
    let mut rest = FIRST_REQUEST_MAX;
    while speaks(&connection, rest, &mut closing.idle).await {
        let name = Arc::clone(&connection.facts().listener);
        let mut session = ServerSession::new_http1(connection);
        match kept.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None if *closing.soon.borrow() => session.set_keepalive(None),
            None => session.set_keepalive(Some(FIRST_REQUEST_MAX.as_secs())),
        }
        let served = proxy.process_new_http(session, &closing.soon).await;
        let Some((stream, settings)) = served.map(ReusedHttpStream::consume) else {
            return;
        };
        let Ok(same) = plain(stream) else {
            return;
        };
        connection = same;
        kept = settings;
        rest = gateway.keepalive_of(&name).unwrap_or(FIRST_REQUEST_MAX);
    }
}

/// Our own connection, if it is one that speaks HTTP/1.1 in the clear.
fn plain(stream: Stream) -> Result<Box<Connection>, Stream> {
    if stream.selected_alpn_proto().is_some() || !stream.as_any().is::<Connection>() {
        return Err(stream);
    }
    Ok(stream.into_any().downcast().expect("it was looked at"))
}

/// Waits until the caller says something; false when it is time to hang up.
async fn speaks(connection: &Connection, rest: Duration, idle: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        spoke = timeout(rest, connection.readable()) => spoke.is_ok_and(|ready| ready.is_ok()),
        _ = idle.wait_for(|end| *end) => false,
    }
}
