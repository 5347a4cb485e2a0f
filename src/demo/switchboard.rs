//! Kills and revives the example backends by `POST /kill/a` and `POST /revive/a`.

use super::backend::Backend;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

type Backends = Arc<Vec<Backend>>;

/// Serves on a free port of the loopback interface.
pub async fn start(backends: Backends) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/kill/{name}", post(kill))
        .route("/revive/{name}", post(revive))
        .with_state(backends);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn kill(State(backends): State<Backends>, Path(name): Path<String>) -> (StatusCode, String) {
    let Some(backend) = backends.iter().find(|backend| backend.name == name) else {
        return unknown(&name);
    };
    backend.kill();
    (StatusCode::OK, format!("backend {name} is dead\n"))
}

async fn revive(
    State(backends): State<Backends>,
    Path(name): Path<String>,
) -> (StatusCode, String) {
    let Some(backend) = backends.iter().find(|backend| backend.name == name) else {
        return unknown(&name);
    };
    match backend.revive() {
        Ok(()) => (StatusCode::OK, format!("backend {name} is back\n")),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "backend {name} cannot listen on {}: {error}\n",
                backend.address
            ),
        ),
    }
}

fn unknown(name: &str) -> (StatusCode, String) {
    (
        StatusCode::NOT_FOUND,
        format!("there is no backend {name}\n"),
    )
}
