//! One clock for one connection: setting it is a store, and only what is really late costs more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::Sleep;

/// When a limit is that far away, it is none.
const FAR: Duration = Duration::from_hours(24 * 365);

pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    due: Instant,
    /// True when what still runs must end, well or badly.
    cut: watch::Receiver<bool>,
    cutting: Option<Signal>,
}

/// Ready when something has been switched on. Waits once, however often it is asked.
pub struct Signal(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Signal {
    pub fn new(mut switch: watch::Receiver<bool>) -> Self {
        Self(Box::pin(async move {
            // An error means that the process is going: that is the end as well.
            let _ = switch.wait_for(|on| *on).await;
        }))
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl Timer {
    pub fn new(cut: watch::Receiver<bool>) -> Self {
        let due = Instant::now() + FAR;
        Self {
            sleep: Box::pin(tokio::time::sleep_until(due.into())),
            due,
            cut,
            cutting: None,
        }
    }

    /// Ready when what would go on for hours must say goodbye. Not to be asked again after that.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let cut = &self.cut;
        self.cutting
            .get_or_insert_with(|| Signal::new(cut.clone()))
            .poll(cx)
    }

    /// Due after `limit`, and not later than `end`.
    pub fn set(&mut self, limit: Duration, end: Option<Instant>) {
        let due = Instant::now() + limit.min(FAR);
        self.due = end.map_or(due, |end| end.min(due));
    }

    /// Due at this moment.
    pub fn set_at(&mut self, due: Instant) {
        self.due = due;
    }

    /// Due after `limit` at the latest.
    pub fn not_later(&mut self, limit: Duration) {
        self.due = self.due.min(Instant::now() + limit.min(FAR));
    }

    /// Ready when it is due. The sleep behind it is moved forth only when it has woken us, or lies too late.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sleep.deadline() > self.due.into() {
                self.sleep.as_mut().reset(self.due.into());
            }
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= self.due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.due.into());
        }
    }

    /// The outcome, if it comes in time.
    pub async fn within<F: Future>(&mut self, limit: Duration, future: F) -> Option<F::Output> {
        self.set(limit, None);
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll(cx).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_setting_counts() {
        let start = tokio::time::Instant::now();
        let (_switch, cut) = watch::channel(false);
        let mut timer = Timer::new(cut);
        // `Instant` of the standard library does not stand still with tokio's, so only order is told here.
        assert!(
            timer
                .within(Duration::ZERO, std::future::pending::<()>())
                .await
                .is_none()
        );
        assert!(
            timer
                .within(Duration::from_hours(1), std::future::ready(()))
                .await
                .is_some()
        );
        timer.set(Duration::from_hours(1), Some(Instant::now()));
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        assert!(start.elapsed() < Duration::from_mins(1));
    }
}
