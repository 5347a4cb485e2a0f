//! Older processes that have handed over and still finish what runs.

use super::channel::{Channel, Message};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// For one of them to take a message.
const TELL_MAX: Duration = Duration::from_secs(1);

/// The line to each of them; a process has left when its line has ended.
#[derive(Debug, Default)]
pub struct Elders {
    draining: Arc<Mutex<Vec<Elder>>>,
}

#[derive(Debug, Clone)]
struct Elder {
    pid: u32,
    line: Arc<Channel>,
}

impl Elders {
    pub fn add(&self, pid: u32, line: Channel) {
        let elder = Elder {
            pid,
            line: Arc::new(line),
        };
        self.lock().push(elder);
    }

    /// Takes each from the list when it leaves.
    pub fn watch(&self) {
        for Elder { pid, line } in self.all() {
            let draining = Arc::clone(&self.draining);
            tokio::spawn(async move {
                // Nothing that they could say matters any more.
                while let Ok(Some(_)) = line.receive().await {}
                let mut draining = draining.lock().unwrap_or_else(PoisonError::into_inner);
                draining.retain(|elder| !Arc::ptr_eq(&elder.line, &line));
                drop(draining);
                tracing::info!(pid, "an older process has left");
            });
        }
    }

    /// Their ids, the oldest first.
    pub fn pids(&self) -> Vec<u32> {
        self.lock().iter().map(|elder| elder.pid).collect()
    }

    pub async fn tell(&self, message: &Message) {
        for elder in self.all() {
            // It may leave at any moment, or be stopped.
            let _ = timeout(TELL_MAX, elder.line.send(message, &[])).await;
        }
    }

    /// Gives the lines to a successor as well.
    pub async fn hand_over(&self, successor: &Channel) -> io::Result<()> {
        for Elder { pid, line } in self.all() {
            successor
                .send(&Message::Elder { pid }, &[line.as_fd()])
                .await?;
        }
        Ok(())
    }

    fn all(&self) -> Vec<Elder> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Elder>> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_elder_is_known_until_it_leaves_and_to_the_successor_as_well() {
        let (elders, heirs) = (Elders::default(), Elders::default());
        let (elder, line) = Channel::pair().unwrap();
        elders.add(7, Channel::new(line).unwrap());
        let (ours, theirs) = Channel::pair().unwrap();
        let successor = Channel::new(theirs).unwrap();
        elders.hand_over(&ours).await.unwrap();
        let (message, mut beside) = successor.receive().await.unwrap().unwrap();
        assert_eq!(message, Message::Elder { pid: 7 });
        heirs.add(7, Channel::new(beside.remove(0)).unwrap());
        heirs.watch();
        assert_eq!(heirs.pids(), [7]);

        heirs.tell(&Message::Reopen).await;
        assert_eq!(elder.receive().await.unwrap().unwrap().0, Message::Reopen);
        drop(elder);
        let gone = async {
            while !heirs.pids().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let within = Duration::from_secs(10);
        timeout(within, gone).await.expect("it left");
    }
}
