//! The threads that move data: a fixed pool of arbiters, each with a bounded number of blocking threads.

use std::io;

use actix_rt::{Arbiter, ArbiterHandle};

use crate::base::limits::{MAX_BLOCKING_THREADS, MAX_DATA_THREADS};

/// A pool of arbiters for connections; joined at its end.
pub struct DataThreads {
    arbiters: Vec<Arbiter>,
}

impl DataThreads {
    /// Starts one thread per core, at most [`MAX_DATA_THREADS`]. Has to be called in an actix system.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start() -> io::Result<DataThreads> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let arbiters = (0..cores.min(MAX_DATA_THREADS)).map(|_| Arbiter::try_with_tokio_rt(runtime));
        Ok(DataThreads { arbiters: arbiters.collect::<io::Result<_>>()? })
    }

    /// The threads, to be used in turn.
    pub fn turns(&self) -> Turns {
        Turns { handles: self.arbiters.iter().map(Arbiter::handle).collect(), next: 0 }
    }

    /// Stops the threads and waits for them. What still runs on them is dropped.
    pub async fn stop(self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        // Joining blocks, and what it waits for may need this thread: so it is done beside it.
        let joined = tokio::task::spawn_blocking(move || {
            self.arbiters.into_iter().for_each(|arbiter| {
                if arbiter.join().is_err() {
                    log::error!("a data thread panicked");
                }
            });
        });
        if joined.await.is_err() {
            log::error!("the data threads could not be joined");
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
}

/// Gives out the data threads one after the other.
#[derive(Clone)]
pub struct Turns {
    handles: Vec<ArbiterHandle>,
    next: usize,
}

impl Turns {
    /// The thread whose turn it is.
    pub fn take_turn(&mut self) -> &ArbiterHandle {
        self.next = (self.next + 1) % self.handles.len();
        &self.handles[self.next]
    }
}
