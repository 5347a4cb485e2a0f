//! Where spans wait to be sent: so many bytes of them, those on their way included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The end at which requests put their spans in.
pub struct Queue {
    sender: UnboundedSender<Traced>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The other end.
pub struct Waiting(UnboundedReceiver<Traced>);

/// The spans of one request; their place in the queue is free when this is gone.
pub struct Traced {
    /// As JSON, with commas between them.
    pub json: Vec<u8>,
    pub spans: u64,
    bytes: Arc<AtomicUsize>,
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.json.len(), Relaxed);
    }
}

/// A queue for at most `bytes_max` bytes.
pub fn make(bytes_max: usize) -> (Queue, Waiting) {
    // Bounded by what is in it, not by how many: some have two spans, some thirty.
    let (sender, receiver) = unbounded_channel();
    let queue = Queue {
        sender,
        bytes: Arc::default(),
        bytes_max,
    };
    (queue, Waiting(receiver))
}

impl Queue {
    /// False: there was no place, or nobody takes anything out any more.
    pub fn put(&self, json: Vec<u8>, spans: u64) -> bool {
        let length = json.len();
        let fits = |bytes: usize| Some(bytes + length).filter(|bytes| *bytes <= self.bytes_max);
        if self.bytes.fetch_update(Relaxed, Relaxed, fits).is_err() {
            return false;
        }
        let traced = Traced {
            json,
            spans,
            bytes: Arc::clone(&self.bytes),
        };
        self.sender.send(traced).is_ok()
    }
}

impl Waiting {
    /// The next one, once there is one; none when none will come any more.
    pub async fn next(&mut self) -> Option<Traced> {
        self.0.recv().await
    }

    /// The next one, if it is here.
    pub fn try_next(&mut self) -> Option<Traced> {
        self.0.try_recv().ok()
    }

    /// From now on nothing is taken in; what is here can still be taken out.
    pub fn close(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_place_is_free_again_when_what_was_in_it_is_gone() {
        let (queue, mut waiting) = make(10);
        assert!(queue.put(vec![0; 6], 1));
        assert!(!queue.put(vec![0; 6], 1), "12 bytes");
        let taken = waiting.try_next();
        assert!(!queue.put(vec![0; 6], 1), "it is on its way");
        drop(taken);
        assert!(queue.put(vec![0; 6], 1));
        waiting.close();
        assert!(!queue.put(vec![0; 1], 1), "closed");
        assert!(waiting.try_next().is_some(), "what is in it stays");
        assert!(queue.bytes.load(Relaxed) == 0);
    }

    proptest! {
        #[test]
        fn it_never_holds_more_than_it_may(sizes in prop::collection::vec((0_usize..50, any::<bool>()), 0..100)) {
            let (queue, mut waiting) = make(100);
            let mut held = 0;
            for (size, take) in sizes {
                if queue.put(vec![0; size], 1) {
                    held += size;
                }
                prop_assert!(held <= 100);
                if take {
                    held -= waiting.try_next().map_or(0, |one| one.json.len());
                }
                prop_assert_eq!(queue.bytes.load(Relaxed), held);
            }
        }
    }
}
