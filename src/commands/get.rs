//! `enxame get`: fetches files, and leaves.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use actix::Actor;
use enxame_actors::base::{FileName, PeerId, What};
use enxame_actors::peer::{self, Fetch, FetchConfig, Want, open_folder};

use super::in_system;
use crate::cli::{GetArgs, each_once};
use crate::destination::Destination;
use crate::exit::Exit;
use crate::failure::{Asker, Failure, JobContext};
use crate::reporter::{Outcome, Reporter};
use crate::signals::Signals;
use crate::ui::Ui;

/// Fetches all that was asked for in one job.
pub(crate) fn run(ui: &Ui, args: &GetArgs) -> Result<Exit, Failure> {
    // What is named twice is fetched, and told of, once.
    let what = each_once(args.what.iter().cloned().chain(args.all.then(What::everything)));
    // How many files a folder has, nobody knows yet.
    let files = what.iter().map(|what| if what.tree().is_some() { 2 } else { 1 }).sum();
    let destination = Destination::new(args.output.as_deref(), files, ui.json)?;
    in_system(async {
        let mut signals = Signals::listen()?;
        // Lives until the job is over: then the folder goes again if nothing came into it.
        let _made = destination.make_folder()?;
        let asker = match destination {
            Destination::Stdout => Asker::GetToStdout,
            Destination::Folder(_) | Destination::Here | Destination::File(_) => Asker::Get,
        };
        let config = FetchConfig {
            us: own_id(),
            trackers: args.tracker.addresses(),
            wants: wants(&what, &destination)?,
            overwrite: args.overwrite,
            limits: args.limits.limits(),
        };
        let context = JobContext { trackers: args.tracker.addresses(), asker };
        let reporter = Reporter::new(ui.clone(), context, &what).start();
        let fetch = Fetch::start(config, reporter.clone().recipient())?;

        let job = fetch.job().clone();
        let mut finished = Box::pin(fetch.finish());
        let interrupted = tokio::select! {
            () = &mut finished => false,
            () = signals.next() => {
                job.cancel();
                signals.or_at_once(finished).await;
                true
            }
        };
        let exit = reporter.send(Outcome).await.unwrap_or(Exit::Failed);
        // What was done when the signal came is done.
        Ok(if interrupted && exit != Exit::Done { Exit::Interrupted } else { exit })
    })
}

/// The id under which others fetch from this process while it runs: random, since two machines may
/// have the same process numbers.
fn own_id() -> PeerId {
    format!("get-{:08x}", fastrand::u32(..)).parse().expect("these are letters and digits")
}

fn wants(what: &[What], destination: &Destination) -> Result<Vec<Want>, Failure> {
    let folder = destination.folder().map(open_folder).transpose()?;
    what.iter()
        .map(|what| {
            let to = match (destination, &folder) {
                (Destination::File(path), Some(folder)) => {
                    peer::Destination::File { folder: folder.clone(), name: file_name(path)? }
                }
                (Destination::Here, Some(folder)) if what.tree().is_some_and(|tree| !tree.is_empty()) => {
                    peer::Destination::File { folder: folder.clone(), name: folder_name(what) }
                }
                (_, Some(folder)) => peer::Destination::Folder(folder.clone()),
                (_, None) => peer::Destination::Stream(Box::new(stdout()?)),
            };
            Ok(Want { what: what.clone(), to })
        })
        .collect()
}

/// The last part of the name of a wanted folder.
fn folder_name(what: &What) -> FileName {
    let path = what.as_str().trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or(path);
    last.parse().expect("a part of an accepted name is a name")
}

/// The last part of `-o PATH`. It obeys the rules of shared names, so that it can be shared on.
fn file_name(path: &Path) -> Result<FileName, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.parse().map_err(|error| {
        Failure::new(Exit::Usage, format!("-o {}: no file can have this name: {error}", path.display()))
    })
}

/// Standard output as it is: the library's own looks for line ends in all that it writes.
fn stdout() -> Result<File, Failure> {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    stdout.map(File::from).map_err(|error| Failure::disk("standard output".as_ref(), &error))
}
