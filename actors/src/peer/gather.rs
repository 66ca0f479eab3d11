//! Asking several at once, without waiting long for those that are silent.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// One question to one of several.
pub type Asking<T> = Pin<Box<dyn Future<Output = T>>>;

/// Awaits all answers. After each one, `grace` says how long the others may still take, if there is
/// a limit by now; the shortest counts. Who has not answered in the end is `None`; what it was asked is
/// dropped. The answers stand in the order of the questions.
pub async fn gather<T>(asked: Vec<Asking<T>>, grace: impl Fn(&T) -> Option<Duration>) -> Vec<Option<T>> {
    let mut open: Vec<Option<Asking<T>>> = asked.into_iter().map(Some).collect();
    let mut answers: Vec<Option<T>> = open.iter().map(|_| None).collect();
    let mut deadline: Option<Instant> = None;
    loop {
        let next = next_answer(&mut open);
        let next = match deadline {
            Some(deadline) => timeout_at(deadline, next).await.unwrap_or(None),
            None => next.await,
        };
        let Some((position, answer)) = next else { return answers };
        if let Some(grace) = grace(&answer) {
            let until = Instant::now() + grace;
            deadline = Some(deadline.map_or(until, |deadline| deadline.min(until)));
        }
        answers[position] = Some(answer);
    }
}

/// The next answer that comes, and to which question; `None` when there is none to come.
async fn next_answer<T>(open: &mut [Option<Asking<T>>]) -> Option<(usize, T)> {
    poll_fn(|context| {
        for (position, place) in open.iter_mut().enumerate() {
            if let Some(asking) = place
                && let Poll::Ready(answer) = asking.as_mut().poll(context)
            {
                *place = None;
                return Poll::Ready(Some((position, answer)));
            }
        }
        if open.iter().all(Option::is_none) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    fn after(ms: u64, answer: u32) -> Asking<u32> {
        Box::pin(async move {
            sleep(Duration::from_millis(ms)).await;
            answer
        })
    }

    fn silent() -> Asking<u32> {
        Box::pin(std::future::pending())
    }

    /// An even answer is good, an odd one is nothing, 0 is all that is needed.
    fn grace(answer: &u32) -> Option<Duration> {
        match answer {
            0 => Some(Duration::ZERO),
            even if even % 2 == 0 => Some(Duration::from_millis(300)),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_set_of_answers_takes_as_long_as_it_should() {
        for (asked, answers, ms) in [
            (vec![], vec![], 0),
            (vec![after(0, 2)], vec![Some(2)], 0),
            (vec![after(7000, 1)], vec![Some(1)], 7000),
            (vec![after(50, 2), after(40, 4)], vec![Some(2), Some(4)], 50),
            (vec![silent(), after(40, 4)], vec![None, Some(4)], 340),
            (vec![after(500, 2), after(100, 4), after(200, 6)], vec![None, Some(4), Some(6)], 400),
            (vec![after(10, 1), after(5000, 2), after(5299, 3)], vec![Some(1), Some(2), Some(3)], 5299),
            (vec![after(10, 2), after(20, 0), silent()], vec![Some(2), Some(0), None], 20),
            (vec![after(10, 0), silent()], vec![Some(0), None], 10),
        ] {
            let start = Instant::now();
            assert_eq!(gather(asked, grace).await, answers);
            assert_eq!(start.elapsed().as_millis(), ms, "{answers:?}");
        }
    }
}
