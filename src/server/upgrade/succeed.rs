//! The successor's side: prove it, begin to accept when told, be the service.

use super::channel::Message;
use super::heritage::Predecessor;
use crate::server::{Server, StartError};
use std::sync::Arc;
use std::time::Duration;

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// For the predecessor's last word, which only ends what could be ended without it.
const YOURS_MAX: Duration = Duration::from_secs(10);

impl Predecessor {
    /// Says why we will never serve.
    pub(in crate::server) async fn give_up(&self, error: &StartError) {
        let (StartError::Config(why) | StartError::System(why)) = error;
        let why = super::shortened(why.clone());
        // If it has gone as well, there is nobody to tell.
        let _ = self.line.send(&Message::Failed { why }, &[]).await;
    }

    /// Waits until the server is ready, and then until the predecessor lets it begin.
    pub(in crate::server) async fn ask_to_begin(&self, server: &Server) -> Result<(), StartError> {
        tokio::select! {
            () = server.until_ready() => {}
            refused = super::expect(&self.line, &Message::Go) => refused.map_err(gone)?,
        }
        let ready = self.line.send(&Message::Ready, &[]).await;
        ready.map_err(|error| gone(Some(error.to_string())))?;
        super::expect(&self.line, &Message::Go).await.map_err(gone)
    }

    /// We accept: the predecessor may stop.
    pub(in crate::server) async fn take_over(self, server: &Arc<Server>) {
        let told = self.line.send(&Message::Serving, &[]).await;
        let yours = super::expect(&self.line, &Message::Yours);
        let yours = tokio::time::timeout(YOURS_MAX, yours).await;
        if told.is_err() || !matches!(yours, Ok(Ok(()))) {
            tracing::warn!(pid = self.pid, "the older process left without a word");
        }
        tracing::info!(pid = self.pid, "took over");
        server.upgrades.elders.add(self.pid, self.line);
    }
}

fn gone(why: Option<String>) -> StartError {
    let why = why.unwrap_or_else(|| "it has given us up".to_owned());
    StartError::System(format!("not needed any more by the older process: {why}"))
}

impl Server {
    /// Returns when `/readyz` would say so.
    pub(in crate::server) async fn until_ready(&self) {
        while !self.is_ready() {
            tokio::time::sleep(LOOK).await;
        }
    }
}
