//! The threads that carry traffic: one runtime each, nothing shared between them but the sockets.
//!
//! Why not one runtime over all threads: its queues overflow at a few hundred connections, and
//! what overflows waits behind everything else. A runtime of one thread has one fair queue.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// Threads that may block (name look-ups, file reads), for each runtime.
const BLOCKING_THREADS_MAX: usize = 16;

/// Running workers; they end when told to, and are joined on drop.
pub struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Workers {
    pub fn start(count: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (started, starts) = mpsc::channel();
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let (started, stopped) = (started.clone(), stopped.clone());
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            threads.push(thread.spawn(move || run(&started, stopped))?);
        }
        let handles = threads
            .iter()
            .map(|_| starts.recv().map_err(io::Error::other)?)
            .collect::<io::Result<_>>()?;
        Ok(Self {
            handles,
            threads,
            stop,
        })
    }

    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

fn run(started: &mpsc::Sender<io::Result<Handle>>, mut stopped: watch::Receiver<bool>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // The receiver waits for one answer from each thread.
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(runtime.handle().clone()));
    // An error means that the sender is gone, which is the end as well.
    let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
    // Tasks that still run are dropped here, and report themselves as cut.
}

impl Drop for Workers {
    fn drop(&mut self) {
        // No receiver left means that no worker runs.
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
    }
}
