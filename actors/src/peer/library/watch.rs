//! Hearing of changes: the system's watcher, and the task that waits until they calm down.

use std::sync::Arc;
use std::time::Duration;

use actix::WeakAddr;
use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Library, Rescan};
use crate::base::limits::{RESERVED_PREFIX, WATCH_QUIET};
use crate::content::folder::Folder;

/// Changes that never calm down (a log that grows) are looked at after this long all the same.
/// What changes all the time is withdrawn within a second.
const WATCH_PATIENCE: Duration = WATCH_QUIET.saturating_mul(5);
/// After a look rests this many times as long as it took: in a huge folder that changes all the
/// time, looking takes at most a fifth of one core.
const REST_FACTOR: u32 = 4;

/// A watcher of one folder and all below it.
pub(super) struct Watch {
    /// Device and inode of the folder: another one under the same path needs another watcher.
    identity: (u64, u64),
    /// `None` if there can be none, which was said once.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// `former` if it watches this folder; otherwise a new one.
    pub(super) fn of(folder: &Folder, former: Option<Watch>, changed: &Arc<Notify>) -> Option<Watch> {
        let identity = folder.identity().ok()?;
        if let Some(former) = former.filter(|former| former.identity == identity) {
            return Some(former);
        }
        let changed = Arc::clone(changed);
        let tell = move |event: notify::Result<Event>| {
            // An error is a hole in what we hear: as good a reason to look as an event.
            if event.as_ref().map_or(true, is_of_interest) {
                changed.notify_one();
            }
        };
        let begin = || {
            let config = Config::default().with_follow_symlinks(false);
            let mut watcher = RecommendedWatcher::new(tell, config)?;
            watcher.watch(folder.path(), RecursiveMode::Recursive)?;
            Ok::<_, notify::Error>(watcher)
        };
        let watcher = begin().inspect_err(|error| {
            log::warn!(
                "{} cannot be watched, so changes are found only when the tracker asks: {error}",
                folder.path().display()
            );
        });
        Some(Watch { identity, _watcher: watcher.ok() })
    }
}

/// Whether an event can mean a change of what is shared. Reading is none (we do it ourselves), nor
/// is what happens to part files, which are written all the time.
fn is_of_interest(event: &Event) -> bool {
    let read_only = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let is_ours = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|leaf| leaf.as_encoded_bytes().starts_with(RESERVED_PREFIX.as_bytes()))
    };
    let only_ours = !event.paths.is_empty() && event.paths.iter().all(is_ours);
    event.need_rescan() || !(read_only || only_ours)
}

/// Has the library look when something changed, once it is quiet for [`WATCH_QUIET`]. However many
/// changes there are, one notification and one look are under way.
pub(super) async fn tell_of_changes(
    changed: Arc<Notify>,
    library: WeakAddr<Library>,
    stop: CancellationToken,
) {
    let looks = async {
        loop {
            changed.notified().await;
            let patience = Instant::now() + WATCH_PATIENCE;
            while Instant::now() < patience
                && timeout_at(Instant::now() + WATCH_QUIET, changed.notified()).await.is_ok()
            {}
            let Some(library) = library.upgrade() else { return };
            let begun = Instant::now();
            if library.send(Rescan).await.is_err() {
                return;
            }
            drop(library);
            sleep(begun.elapsed() * REST_FACTOR).await;
        }
    };
    stop.run_until_cancelled(looks).await;
}
