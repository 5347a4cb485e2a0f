//! The connections of operators: few, and none of them for long.

use super::{AdminView, router};
use crate::observe::metrics::Metrics;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Open at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// For a request head, and between two requests of one connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// A head larger than this is refused with 431.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After this a connection is asked to end.
const LIFE: Duration = Duration::from_mins(10);
/// For an answer that is under way when its connection must end.
const LAST_WORDS: Duration = Duration::from_secs(70);
/// The same when the process stops.
const LAST_WORDS_AT_STOP: Duration = Duration::from_secs(2);
/// When the process stops, for a request that is on its way: to end a connection now would be to refuse it.
const FIRST_WORDS_AT_STOP: Duration = Duration::from_millis(500);
/// When no connection can be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves operators until `shutdown` turns true or its sender is gone. Requests that are under
/// way then have two seconds.
pub async fn serve(
    listener: TcpListener,
    view: Arc<dyn AdminView>,
    metrics: Arc<Metrics>,
    mut shutdown: watch::Receiver<bool>,
) {
    let router = router(view, metrics);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        // Finished ones leave the set, so that it does not grow.
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                open.spawn(async move {
                    connection(stream, router, shutdown).await;
                    drop(place);
                });
            }
            Err(why) => pause(&why).await,
        }
    }
    // Each has heard of it too.
    let all = async { while open.join_next().await.is_some() {} };
    let _ = timeout(LAST_WORDS_AT_STOP, all).await;
}

async fn pause(why: &io::Error) {
    warn!(%why, "cannot accept a connection on the admin listener");
    sleep(ACCEPT_PAUSE).await;
}

async fn connection(stream: TcpStream, router: Router, mut shutdown: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    // Errors are faults of the caller alone, and it knows.
    let stopped = tokio::select! {
        _ = serving.as_mut() => return,
        () = sleep(LIFE) => false,
        _ = shutdown.wait_for(|stop| *stop) => true,
    };
    let mut last_words = LAST_WORDS;
    if stopped {
        if timeout(FIRST_WORDS_AT_STOP, serving.as_mut()).await.is_ok() {
            return;
        }
        last_words = LAST_WORDS_AT_STOP;
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(last_words, serving).await;
}
