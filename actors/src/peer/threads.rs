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
        DataThreads::start_for(cores)
    }

    fn start_for(cores: usize) -> io::Result<DataThreads> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    use super::*;

    #[test]
    fn there_are_at_most_four_data_threads_however_many_cores_there_are() {
        actix_rt::System::new().block_on(async {
            for (cores, threads) in [(1, 1), (3, 3), (4, MAX_DATA_THREADS), (64, MAX_DATA_THREADS)] {
                let pool = DataThreads::start_for(cores).unwrap();
                assert_eq!(pool.arbiters.len(), threads, "{cores} cores");
                pool.stop().await;
            }
        });
    }

    #[test]
    fn a_data_thread_has_eight_blocking_threads_and_what_is_more_waits() {
        let runtime = runtime().unwrap();
        // As many as the barrier holds have to run at the same time, or nobody gets through it.
        let (all, running) = (Arc::new(Barrier::new(MAX_BLOCKING_THREADS)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<_> = (0..8 * MAX_BLOCKING_THREADS)
            .map(|_| {
                let (all, running) = (Arc::clone(&all), Arc::clone(&running));
                runtime.spawn_blocking(move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    all.wait();
                    running.fetch_sub(1, Ordering::SeqCst);
                    // Whoever comes next finds all of these gone or going.
                    all.wait();
                    now
                })
            })
            .collect();
        let most = runtime.block_on(async {
            let mut most = 0;
            for job in jobs {
                // With fewer threads nobody gets through the barrier.
                most = most.max(tokio::time::timeout(Duration::from_secs(60), job).await.ok()?.ok()?);
            }
            Some(most)
        });
        runtime.shutdown_background();
        assert_eq!(most, Some(MAX_BLOCKING_THREADS));
    }
}
