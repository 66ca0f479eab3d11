//! `enxame who-has`, `ls` and `peers`: what the trackers answer, as columns or records.

use std::time::Duration;

use enxame_actors::base::limits::MAX_PAGE_ENTRIES;
use enxame_actors::net::TrackerAddress;
use enxame_actors::peer::tracker_client::{AskError, TrackerClients};
use enxame_actors::wire::Hello;
use enxame_actors::wire::tracker::{Candidate, ListedFile, ListedPeer};
use serde::Serialize;

use super::in_system;
use crate::cli::{LsArgs, PeersArgs, WhoHasArgs};
use crate::exit::Exit;
use crate::failure::{Failure, nobody_has_it, reason_of};
use crate::human::{self, Align, Table};
use crate::json::{CandidateRecord, FileRecord, PeerRecord};
use crate::ui::Ui;

/// `enxame who-has`: the contents that fit, each with its holders.
pub(crate) fn who_has(ui: &Ui, args: &WhoHasArgs) -> Result<Exit, Failure> {
    in_system(async {
        let addresses = args.tracker.addresses();
        let mut trackers = connect(&addresses).await;
        let candidates = trackers.who_has(&args.what).await;
        tell_failures(ui, &trackers)?;
        if candidates.is_empty() {
            return Err(nobody_has_it(args.what.as_str(), &addresses));
        }
        if ui.json {
            ui.records(candidates.iter().map(CandidateRecord::from))?;
        } else {
            ui.result(&candidates.iter().map(candidate_text).collect::<String>())?;
        }
        Ok(Exit::Done)
    })
}

/// `enxame ls`: the catalogue.
pub(crate) fn ls(ui: &Ui, args: &LsArgs) -> Result<Exit, Failure> {
    in_system(async {
        let mut files = Pages::new(ui);
        let mut trackers = connect(&args.tracker.addresses()).await;
        trackers.list(&args.prefix, |file: ListedFile| files.add(file)).await;
        files.end(&trackers, "no file is shared whose name begins so")
    })
}

/// `enxame peers`: who is registered.
pub(crate) fn peers(ui: &Ui, args: &PeersArgs) -> Result<Exit, Failure> {
    in_system(async {
        let mut peers = Pages::new(ui);
        let mut trackers = connect(&args.tracker.addresses()).await;
        trackers.peers(|peer: ListedPeer| peers.add(peer)).await;
        peers.end(&trackers, "no peer is registered")
    })
}

async fn connect(trackers: &[TrackerAddress]) -> TrackerClients {
    // Who only asks is not looked up by its id.
    let id = "asker".parse().expect("these are letters");
    TrackerClients::connect(trackers, &Hello::new(id)).await
}

/// Warns of the trackers that failed. If all did, the command failed: what they told before is shown.
fn tell_failures(ui: &Ui, trackers: &TrackerClients) -> Result<(), Failure> {
    let failures = trackers.failures();
    if trackers.is_none_left() {
        let refused = failures.iter().find(|(_, error)| matches!(error, AskError::Refused { .. }));
        return Err(match refused {
            Some((_, error)) => Failure::new(Exit::Failed, error.to_string()),
            None => {
                let reasons: Vec<_> =
                    failures.iter().map(|(tracker, error)| reason_of(tracker, error)).collect();
                Failure::no_tracker(&reasons)
            }
        });
    }
    for (tracker, error) in failures {
        let (tracker, why) = reason_of(tracker, error);
        let why = human::without_error_numbers(&why);
        ui.note(format_args!("enxame: the tracker {tracker} is left out: {why}"));
    }
    Ok(())
}

/// A line of a list that can be long.
trait Entry {
    const ALIGN: [Align; 4];
    fn row(&self) -> [String; 4];
    fn record(&self) -> impl Serialize;
}

impl Entry for ListedFile {
    const ALIGN: [Align; 4] = [Align::Left, Align::Right, Align::Left, Align::Right];

    fn row(&self) -> [String; 4] {
        let holders = human::count(self.holders.into(), "holder");
        [self.name.to_string(), human::bytes(self.size), self.id.to_string(), holders]
    }

    fn record(&self) -> impl Serialize {
        FileRecord::from(self)
    }
}

impl Entry for ListedPeer {
    const ALIGN: [Align; 4] = [Align::Left, Align::Left, Align::Right, Align::Left];

    fn row(&self) -> [String; 4] {
        let ago = human::duration(Duration::from_millis(self.confirmed_ms));
        let files = human::count(self.files.into(), "file");
        [self.peer.to_string(), self.address.to_string(), files, format!("confirmed {ago} ago")]
    }

    fn record(&self) -> impl Serialize {
        PeerRecord::from(self)
    }
}

/// A list of any length, shown a page at a time.
struct Pages<'a, E> {
    ui: &'a Ui,
    table: Table<4>,
    page: Vec<E>,
    any: bool,
    shown: Result<(), Failure>,
}

impl<'a, E: Entry> Pages<'a, E> {
    fn new(ui: &'a Ui) -> Pages<'a, E> {
        Pages { ui, table: Table::new(E::ALIGN), page: Vec::new(), any: false, shown: Ok(()) }
    }

    fn add(&mut self, entry: E) {
        self.any = true;
        self.page.push(entry);
        if self.page.len() == MAX_PAGE_ENTRIES {
            self.show();
        }
    }

    fn show(&mut self) {
        if self.shown.is_ok() {
            self.shown = if self.ui.json {
                self.ui.records(self.page.iter().map(E::record))
            } else {
                let rows: Vec<[String; 4]> = self.page.iter().map(E::row).collect();
                self.ui.result(&self.table.lay_out(&rows))
            };
        }
        self.page.clear();
    }

    /// Shows the rest. An empty list is told to people, so that they do not wait for more.
    fn end(mut self, trackers: &TrackerClients, empty: &str) -> Result<Exit, Failure> {
        self.show();
        tell_failures(self.ui, trackers)?;
        if !self.any && !self.ui.json {
            self.ui.note(format_args!("enxame: {empty}"));
        }
        self.shown.map(|()| Exit::Done)
    }
}

fn candidate_text(candidate: &Candidate) -> String {
    let names: Vec<&str> = candidate.names.iter().map(|name| name.as_str()).collect();
    let count = human::count(candidate.holder_count.into(), "holder");
    let mut text =
        format!("{}  {}  {count}  {}\n", candidate.id, human::bytes(candidate.size), names.join(", "));
    let rows: Vec<[String; 3]> = candidate
        .holders
        .iter()
        .map(|holder| {
            let part = if holder.complete { "complete" } else { "partial" };
            [format!("  {}", holder.peer), holder.address.to_string(), part.into()]
        })
        .collect();
    text += &Table::new([Align::Left; 3]).lay_out(&rows);
    // The tracker names a sample of them.
    let more = u64::from(candidate.holder_count).saturating_sub(candidate.holders.len() as u64);
    if more > 0 {
        text += &format!("  and {more} more\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use enxame_actors::base::FileId;
    use enxame_actors::wire::tracker::Holder;

    use super::*;

    fn text<E: Entry>(entries: &[E]) -> String {
        Table::new(E::ALIGN).lay_out(&entries.iter().map(E::row).collect::<Vec<_>>())
    }

    const ID: FileId = FileId::from_bytes([0xab; 32]);

    #[test]
    fn the_catalogue_is_columns_of_name_size_id_and_holders() {
        let file =
            |name: &str, size, holders| ListedFile { name: name.parse().unwrap(), id: ID, size, holders };
        let text = text(&[file("a b/model.bin", 268_435_456, 3), file("x", 1, 1)]);
        let hex = "ab".repeat(32);
        assert_eq!(
            text,
            format!("a b/model.bin  268 MB  {hex}  3 holders\nx                 1 B  {hex}   1 holder\n")
        );
    }

    #[test]
    fn peers_are_listed_with_the_age_of_their_confirmation() {
        let peer = ListedPeer {
            peer: "p1".parse().unwrap(),
            address: "10.0.0.5:4001".parse().unwrap(),
            files: 12,
            confirmed_ms: 4200,
        };
        assert_eq!(text(&[peer]), "p1  10.0.0.5:4001  12 files  confirmed 4.2 s ago\n");
    }

    #[test]
    fn a_candidate_is_followed_by_its_holders_and_how_many_are_not_listed() {
        let holder = |peer: &str, complete| Holder {
            peer: peer.parse().unwrap(),
            address: "10.0.0.5:4001".parse().unwrap(),
            complete,
        };
        let candidate = Candidate {
            id: ID,
            size: 1000,
            names: vec!["a".parse().unwrap(), "b c".parse().unwrap()],
            holder_count: 60,
            holders: vec![holder("p1", true), holder("peer22", false)],
        };
        let hex = "ab".repeat(32);
        assert_eq!(
            candidate_text(&candidate),
            format!(
                "{hex}  1.00 kB  60 holders  a, b c\n  \
                 p1      10.0.0.5:4001  complete\n  \
                 peer22  10.0.0.5:4001  partial\n  \
                 and 58 more\n"
            )
        );
    }
}
