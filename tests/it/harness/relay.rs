//! A door that leads to one gateway now and to another one, or nowhere, later.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Closed when dropped.
pub struct Relay {
    address: SocketAddr,
    leads_to: Arc<Mutex<Option<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Leads nowhere at first: connections are closed as soon as they are made.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let leads_to = Arc::new(Mutex::new(None));
        let task = tokio::spawn(accept(listener, Arc::clone(&leads_to)));
        Self {
            address,
            leads_to,
            task,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn leads_to(&self, place: Option<SocketAddr>) {
        *self.leads_to.lock().unwrap() = place;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, leads_to: Arc<Mutex<Option<SocketAddr>>>) {
    let mut open = JoinSet::new();
    while let Ok((mut here, _)) = listener.accept().await {
        let place = *leads_to.lock().unwrap();
        open.spawn(async move {
            let Some(place) = place else { return };
            if let Ok(mut there) = TcpStream::connect(place).await {
                let _ = copy_bidirectional(&mut here, &mut there).await;
            }
        });
    }
}
