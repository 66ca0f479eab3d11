//! `enxame who-has`, `ls` and `peers`: what a tracker answers, as columns or records.

use std::time::Duration;

use enxame_actors::wire::tracker::{Candidate, ListedFile, ListedPeer};

use crate::failure::Failure;
use crate::human::{self, Align, Table};
use crate::json::{CandidateRecord, FileRecord, PeerRecord};
use crate::ui::Ui;

/// The pages of the catalogue, one after the other.
pub(crate) struct FileList(Table<4>);

impl FileList {
    /// Before the first page.
    pub(crate) fn new() -> FileList {
        FileList(Table::new([Align::Left, Align::Right, Align::Left, Align::Right]))
    }

    /// Shows a page.
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub(crate) fn show(&mut self, ui: &Ui, files: &[ListedFile]) -> Result<(), Failure> {
        if ui.json { ui.records(files.iter().map(FileRecord::from)) } else { ui.result(&self.text(files)) }
    }

    fn text(&mut self, files: &[ListedFile]) -> String {
        let rows: Vec<[String; 4]> = files
            .iter()
            .map(|file| {
                let holders = human::count(file.holders.into(), "holder");
                [file.name.to_string(), human::bytes(file.size), file.id.to_string(), holders]
            })
            .collect();
        self.0.lay_out(&rows)
    }
}

/// The pages of the registered peers, one after the other.
pub(crate) struct PeerList(Table<4>);

impl PeerList {
    /// Before the first page.
    pub(crate) fn new() -> PeerList {
        PeerList(Table::new([Align::Left, Align::Left, Align::Right, Align::Left]))
    }

    /// Shows a page.
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub(crate) fn show(&mut self, ui: &Ui, peers: &[ListedPeer]) -> Result<(), Failure> {
        if ui.json { ui.records(peers.iter().map(PeerRecord::from)) } else { ui.result(&self.text(peers)) }
    }

    fn text(&mut self, peers: &[ListedPeer]) -> String {
        let rows: Vec<[String; 4]> = peers
            .iter()
            .map(|peer| {
                let ago = human::duration(Duration::from_millis(peer.confirmed_ms));
                let files = human::count(peer.files.into(), "file");
                [peer.peer.to_string(), peer.address.to_string(), files, format!("confirmed {ago} ago")]
            })
            .collect();
        self.0.lay_out(&rows)
    }
}

/// Shows the contents that somebody has, each with its holders.
///
/// # Errors
/// As [`Ui::result`].
pub(crate) fn show_candidates(ui: &Ui, candidates: &[Candidate]) -> Result<(), Failure> {
    if ui.json {
        ui.records(candidates.iter().map(CandidateRecord::from))
    } else {
        ui.result(&candidates.iter().map(candidate_text).collect::<String>())
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

    const ID: FileId = FileId::from_bytes([0xab; 32]);

    #[test]
    fn the_catalogue_is_columns_of_name_size_id_and_holders() {
        let file =
            |name: &str, size, holders| ListedFile { name: name.parse().unwrap(), id: ID, size, holders };
        let text = FileList::new().text(&[file("a b/model.bin", 268_435_456, 3), file("x", 1, 1)]);
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
        assert_eq!(PeerList::new().text(&[peer]), "p1  10.0.0.5:4001  12 files  confirmed 4.2 s ago\n");
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
