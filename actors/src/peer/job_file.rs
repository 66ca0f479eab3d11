//! One file of a job: what is known of it, and what has come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::limits::{
    LOST_PATIENCE, MAX_FILE_HOLDERS, MAX_JOB_HOLDERS, MAX_LOST_PATIENCE, MISSING_PAUSE, MISSING_PAUSE_MAX,
    STANDSTILL_TIMEOUT,
};
use crate::base::{FileId, FileName, Geometry, PeerId, What};
use crate::content::tree::Proof;
use crate::peer::assembler::Place;
use crate::peer::events::{Progress, SourceShare};
use crate::plan::{Backoff, FileIndex, Holders, Rate, SourceId};
use crate::wire::tracker::{Candidate, Holder};

/// First wait before further holders of a file are looked for; doubled up to the longest. Others who
/// began at the same moment are registered by then.
const FIRST_SEARCH_AFTER: Duration = Duration::from_millis(250);
/// Longest wait between two searches for further holders.
const SEARCH_EVERY: Duration = Duration::from_secs(30);

/// First wait before what failed is tried again; doubled up to the longest.
pub(super) const PATIENCE_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait.
pub(super) const PATIENCE_LONGEST: Duration = Duration::from_secs(30);

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// What stands at its place is being looked at.
    Preparing,
    /// It waits until fewer large files are being fetched.
    Queued,
    /// Its manifest or its spans are being fetched.
    Fetching,
    /// All spans are there; it gets its final name.
    Finishing,
    /// The disk refused, and is asked again in a while. What is there is served meanwhile.
    Waiting,
}

/// Where a file of a job goes.
pub(super) enum Target {
    Place(Place),
    /// Taken when the file is begun.
    Stream(Option<Box<dyn Write + Send>>),
}

/// A holder that turned out not to have a file.
struct Lost {
    /// How that was found out.
    why: String,
    /// How often it said so itself.
    times: u32,
    /// From when on it is asked again if a tracker says that it has the file; else it is not.
    again: Option<Instant>,
}

/// One file of a job.
pub(super) struct JobFile {
    /// The index under which it was begun; it has another one with each size that is believed.
    pub attempt: FileIndex,
    /// What was asked for, as it was typed.
    pub what: What,
    pub id: FileId,
    pub name: FileName,
    pub target: Target,
    pub stage: Stage,
    /// Whether it was found in a wanted folder.
    pub is_of_tree: bool,
    /// Who holds it, by the size they state: more than one entry means that somebody errs or lies.
    claims: BTreeMap<u64, BTreeMap<PeerId, bool>>,
    /// Those among them that a source told of: nobody has said which size they state.
    heard: BTreeSet<PeerId>,
    /// The size that is believed: proved by the last span.
    claim: u64,
    pub is_size_proved: bool,
    pub proof: Option<Proof>,
    /// Whether the assembler and the plan have it.
    pub is_begun: bool,
    /// Whether the assembler was told to begin, and has not answered.
    pub is_beginning: bool,
    /// How long to wait when the disk refuses.
    pub patience: Backoff,
    /// Who was asked for the manifest, until it is overdue.
    pub manifest_from: Option<SourceId>,
    /// When that was.
    pub manifest_asked: Instant,
    /// Who was asked what it has.
    pub asked_open: BTreeSet<SourceId>,
    /// Holders that turned out not to have it.
    lost: BTreeMap<PeerId, Lost>,
    /// Until when it is looked for although there is no holder left, and when next.
    patient_until: Option<Instant>,
    next_look: Instant,
    pub delivered: BTreeMap<PeerId, u64>,
    pub fetched_bytes: u64,
    pub kept_bytes: u64,
    pub wasted_bytes: u64,
    pub rate: Rate,
    /// Whether anything came since progress was last told.
    pub has_moved: bool,
    /// When a span last came or was awaited.
    pub alive: Instant,
    pub is_searching: bool,
    /// Whether a search has found nothing new since a holder was last lost.
    pub is_search_exhausted: bool,
    next_search: Instant,
    search_wait: Duration,
}

impl Lost {
    fn may_be_asked(&self, now: Instant) -> bool {
        self.again.is_some_and(|at| now >= at)
    }
}

impl JobFile {
    pub(super) fn new(
        attempt: FileIndex,
        what: What,
        id: FileId,
        name: FileName,
        target: Target,
        now: Instant,
    ) -> JobFile {
        JobFile {
            attempt,
            what,
            id,
            name,
            target,
            stage: Stage::Preparing,
            is_of_tree: false,
            claims: BTreeMap::new(),
            heard: BTreeSet::new(),
            claim: 0,
            is_size_proved: false,
            proof: None,
            is_begun: false,
            is_beginning: false,
            patience: Backoff::new(PATIENCE_FIRST, PATIENCE_LONGEST),
            manifest_from: None,
            manifest_asked: now,
            asked_open: BTreeSet::new(),
            lost: BTreeMap::new(),
            patient_until: None,
            next_look: now,
            delivered: BTreeMap::new(),
            fetched_bytes: 0,
            kept_bytes: 0,
            wasted_bytes: 0,
            rate: Rate::new(now),
            has_moved: false,
            alive: now,
            is_searching: false,
            is_search_exhausted: false,
            next_search: now + FIRST_SEARCH_AFTER,
            search_wait: FIRST_SEARCH_AFTER,
        }
    }

    /// Where it goes, unless it goes into a stream.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.target {
            Target::Place(place) => Some(place),
            Target::Stream(_) => None,
        }
    }

    /// The size believed, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.claim
    }

    /// The geometry of the size believed; `None` for a size that no file has.
    pub(super) fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.claim)
    }

    /// What proves a file of one span: its id alone.
    pub(super) fn proof_of_single(&self) -> Option<Proof> {
        let geometry = self.geometry().filter(Geometry::is_single)?;
        Proof::new(self.id, geometry, Vec::new()).ok()
    }

    /// Whether it has several spans, and so needs a manifest.
    pub(super) fn is_large(&self) -> bool {
        self.geometry().is_none_or(|geometry| !geometry.is_single())
    }

    /// Whether it is a small file of a wanted folder, which is dealt with together with others.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.is_of_tree && !self.is_large() && self.place().is_some()
    }

    /// Takes in what trackers say of this id, of its size if that is proved; whether there is a holder among
    /// them that was not known and can be tried.
    pub(super) fn learn(&mut self, candidates: &[Candidate], holders: &mut Holders, now: Instant) -> bool {
        let mut is_news = false;
        let id = self.id;
        for candidate in candidates.iter().filter(|candidate| candidate.id == id) {
            if self.is_size_proved && candidate.size != self.claim {
                continue;
            }
            for holder in &candidate.holders {
                let is_lost = self.lost.get(&holder.peer).is_some_and(|lost| !lost.may_be_asked(now));
                // Who is of no use here takes nobody's place among the holders.
                if is_lost && !holders.knows(&holder.peer) {
                    continue;
                }
                if !holders.learn(&holder.peer, holder.address, now) {
                    log::debug!("{} is said to be at {}: not dialled", holder.peer, holder.address);
                } else if !is_lost && self.has_room_for(candidate.size, &holder.peer, holders) {
                    let claim = self.claims.entry(candidate.size).or_default();
                    let is_new = claim.insert(holder.peer.clone(), holder.complete).is_none();
                    is_news |= is_new && holders.is_hopeful(&holder.peer);
                }
            }
        }
        // What proves it proves its size.
        if self.proof.is_none() && self.claims.get(&self.claim).is_none_or(BTreeMap::is_empty) {
            self.believe_most();
        }
        is_news
    }

    /// Whether a holder that states this size can be entered. Once there are [`MAX_FILE_HOLDERS`], one that can
    /// be tried takes the place of one that was given up, or else of one that is not connected: whoever has
    /// what is missing is told of again, and so gets its turn.
    fn has_room_for(&mut self, size: u64, peer: &PeerId, holders: &Holders) -> bool {
        let is_entered = self.claims.get(&size).is_some_and(|claim| claim.contains_key(peer));
        if is_entered || self.holder_count() < MAX_FILE_HOLDERS {
            return true;
        }
        if !holders.is_hopeful(peer) {
            return false;
        }
        let entered = || self.claims.iter().flat_map(|(size, claim)| claim.keys().map(|peer| (*size, peer)));
        // Behind the new one in the order of ids, which is as good as by chance.
        let behind = || entered().filter(|(_, other)| *other > peer).chain(entered());
        let victim = entered()
            .find(|(_, other)| !holders.is_hopeful(other))
            .or_else(|| behind().find(|(_, other)| !holders.is_connected(other)));
        let Some((size, victim)) = victim.map(|(size, victim)| (size, victim.clone())) else { return false };
        if let Some(claim) = self.claims.get_mut(&size) {
            claim.remove(&victim);
        }
        self.claims.retain(|_, claim| !claim.is_empty());
        self.heard.remove(&victim);
        true
    }

    /// Notes which of its holders trackers do not tell of any more, if they tell of all.
    pub(super) fn note_unlisted(&self, candidates: &[Candidate], holders: &mut Holders) {
        let told = || candidates.iter().filter(|candidate| candidate.id == self.id);
        // A holder that asks is counted, and not told of.
        let is_whole = |candidate: &Candidate| candidate.holder_count as usize <= candidate.holders.len() + 1;
        if told().all(is_whole) {
            let is_told = |peer: &PeerId| {
                told().flat_map(|candidate| &candidate.holders).any(|told| told.peer == *peer)
            };
            let known = self.claims.values().flat_map(BTreeMap::keys).chain(self.lost.keys());
            known.filter(|peer| !is_told(peer)).for_each(|peer| holders.unlisted(peer));
        }
    }

    /// Takes in what a source says of others that have this id. It counts less than what a tracker
    /// says: nothing that is known is changed, and who is new has to say itself what it has.
    pub(super) fn hear(&mut self, told: &[Holder], holders: &mut Holders, now: Instant) {
        for holder in told {
            let is_known = self.claims.values().any(|claim| claim.contains_key(&holder.peer));
            if is_known || self.lost.contains_key(&holder.peer) {
                continue;
            }
            // What a source says takes nobody's place.
            let has_room = self.holder_count() < MAX_FILE_HOLDERS;
            if has_room && holders.hear(&holder.peer, holder.address, now) {
                self.claims.entry(self.claim).or_default().insert(holder.peer.clone(), false);
                self.heard.insert(holder.peer.clone());
            } else {
                log::debug!("{} is said to be at {}: not dialled", holder.peer, holder.address);
            }
        }
    }

    /// A holder states another size than the one under which it was entered when a source told of it, and
    /// may be right: who told of it is believed no more than it is. False if it was not entered so, or
    /// the size is proved.
    pub(super) fn restate(&mut self, peer: &PeerId, size: u64) -> bool {
        if self.is_size_proved || !self.heard.remove(peer) {
            return false;
        }
        self.disclaim(peer);
        self.claims.entry(size).or_default().insert(peer.clone(), false);
        true
    }

    /// Takes a size for right that no holder states to us.
    pub(super) fn believe(&mut self, size: u64) {
        self.claim = size;
    }

    /// Believes the size that most holders state.
    fn believe_most(&mut self) {
        if let Some((size, _)) = self.claims.iter().max_by_key(|(_, holders)| holders.len()) {
            self.claim = *size;
        }
    }

    /// Whether this peer is said to have the file, with the size believed: whether it is complete.
    pub(super) fn holder(&self, peer: &PeerId) -> Option<bool> {
        self.claims.get(&self.claim)?.get(peer).copied()
    }

    /// The size that this peer states, if it is another one than the one believed.
    pub(super) fn disagrees(&self, peer: &PeerId) -> Option<u64> {
        if self.holder(peer).is_some() {
            return None;
        }
        self.claims.iter().find(|(_, holders)| holders.contains_key(peer)).map(|(size, _)| *size)
    }

    /// Whether holders state different sizes, and none is proved.
    pub(super) fn is_size_disputed(&self) -> bool {
        self.claims.len() > 1 && !self.is_size_proved
    }

    /// How many peers are said to have it.
    pub(super) fn holder_count(&self) -> usize {
        self.claims.values().map(BTreeMap::len).sum()
    }

    /// The peers that are said to have it, with the size believed.
    pub(super) fn holders(&self) -> impl Iterator<Item = &PeerId> {
        self.claims.get(&self.claim).into_iter().flat_map(BTreeMap::keys)
    }

    /// A holder says that it does not have it (any more). It may be about to look at it anew, so it is
    /// asked again after a while, if a tracker tells of it.
    pub(super) fn lose(&mut self, peer: &PeerId, why: String, now: Instant) {
        self.disclaim(peer);
        let times = self.lost.get(peer).map_or(0, |lost| lost.times);
        let pause = MISSING_PAUSE.saturating_mul(2u32.saturating_pow(times)).min(MISSING_PAUSE_MAX);
        let lost = Lost { why, times: times.saturating_add(1), again: Some(now + pause) };
        if lost.times <= MAX_LOST_PATIENCE {
            self.be_patient(now);
        }
        self.note_lost(peer.clone(), lost);
        self.is_search_exhausted = false;
    }

    /// Remembers at most [`MAX_FILE_HOLDERS`] that turned out not to have it; another one may be asked again.
    fn note_lost(&mut self, peer: PeerId, lost: Lost) {
        if self.lost.len() >= MAX_FILE_HOLDERS && !self.lost.contains_key(&peer) {
            let behind = self.lost.range(&peer..).chain(&self.lost).map(|(other, _)| other.clone()).next();
            if let Some(other) = behind {
                self.lost.remove(&other);
                self.heard.remove(&other);
            }
        }
        self.lost.insert(peer, lost);
    }

    /// A holder was lost that may be back soon: if it was the last one, the file is looked for a while.
    pub(super) fn be_patient(&mut self, now: Instant) {
        self.patient_until = Some(now + LOST_PATIENCE);
    }

    /// Whether it is looked for although there is no holder left.
    pub(super) fn is_patient(&self, now: Instant) -> bool {
        self.patient_until.is_some_and(|until| now < until)
    }

    /// Whether it is time to look for a holder if there is none left, or to stop looking.
    pub(super) fn is_lost_due(&mut self, now: Instant) -> bool {
        let is_patient = self.is_patient(now);
        let is_due = self.patient_until.is_some() && (!is_patient || now >= self.next_look);
        if is_due {
            self.next_look = now + MISSING_PAUSE;
        }
        if !is_patient {
            self.patient_until = None;
        }
        is_due
    }

    /// Whether nothing of it has come, and nothing was awaited, for too long.
    pub(super) fn stands_still(&mut self, is_awaited: bool, now: Instant) -> bool {
        if is_awaited {
            self.alive = now;
        }
        now.saturating_duration_since(self.alive) > STANDSTILL_TIMEOUT
    }

    /// Strikes a holder out, under whichever size it is entered.
    fn disclaim(&mut self, peer: &PeerId) {
        for holders in self.claims.values_mut() {
            holders.remove(peer);
        }
        self.claims.retain(|_, holders| !holders.is_empty());
    }

    /// What came of it is gone, and is fetched again.
    pub(super) fn fetched_in_vain(&mut self) {
        self.wasted_bytes += std::mem::take(&mut self.fetched_bytes);
        self.delivered.clear();
    }

    /// Gives up the size believed for another one that is claimed; whether there is one.
    pub(super) fn believe_another(&mut self) -> bool {
        if self.is_size_proved || self.claims.keys().all(|size| *size == self.claim) {
            return false;
        }
        let holders = self.claims.remove(&self.claim).unwrap_or_default();
        // Those that were told of have not stated it.
        let (heard, stated): (BTreeMap<_, _>, BTreeMap<_, _>) =
            holders.into_iter().partition(|(peer, _)| self.heard.contains(peer));
        let why = format!("states a size ({} bytes) that it could not prove", self.claim);
        let lost = || Lost { why: why.clone(), times: 0, again: None };
        stated.into_keys().for_each(|peer| self.note_lost(peer, lost()));
        self.believe_most();
        self.claims.entry(self.claim).or_default().extend(heard);
        self.proof = None;
        self.is_begun = false;
        self.manifest_from = None;
        self.asked_open.clear();
        (self.is_searching, self.is_search_exhausted) = (false, false);
        true
    }

    /// Why each holder did not deliver.
    pub(super) fn reasons(&self, holders: &Holders) -> Vec<(PeerId, String)> {
        let mut reasons: BTreeMap<PeerId, String> =
            self.lost.iter().map(|(peer, lost)| (peer.clone(), lost.why.clone())).collect();
        for peer in self.claims.values().flat_map(BTreeMap::keys) {
            if let Some(ending) = holders.ending(peer) {
                reasons.insert(peer.clone(), ending.to_string());
            } else if !holders.knows(peer) {
                reasons.insert(peer.clone(), format!("made room: a job knows of {MAX_JOB_HOLDERS} holders"));
            }
        }
        reasons.into_iter().collect()
    }

    /// Whether it is time to look for further holders; the next time is later.
    pub(super) fn is_search_due(&mut self, now: Instant) -> bool {
        if now < self.next_search || self.is_searching {
            return false;
        }
        self.next_search = now + self.search_wait;
        self.search_wait = (self.search_wait * 2).min(SEARCH_EVERY);
        true
    }

    /// When it is time to look for further holders, unless that is being done.
    pub(super) fn next_search(&self) -> Option<Instant> {
        (!self.is_searching).then_some(self.next_search)
    }

    /// A span came from this peer and was used; whether it is the first one.
    pub(super) fn used(&mut self, peer: &PeerId, bytes: u64, now: Instant) -> bool {
        let is_first = !self.delivered.contains_key(peer);
        *self.delivered.entry(peer.clone()).or_default() += bytes;
        self.fetched_bytes += bytes;
        self.rate.add(bytes, now);
        self.has_moved = true;
        is_first
    }

    /// What is to be remembered of a peer that has delivered.
    pub(super) fn held_by(&self, peer: PeerId, address: SocketAddr) -> Candidate {
        let complete = self.holder(&peer).unwrap_or(false);
        let holders = vec![Holder { peer, address, complete }];
        Candidate { id: self.id, size: self.claim, names: vec![self.name.clone()], holder_count: 1, holders }
    }

    /// How far it is.
    pub(super) fn progress(&self, have_bytes: u64, rate_bytes_s: u64) -> Progress {
        Progress {
            id: self.id,
            name: self.name.clone(),
            have_bytes,
            size: self.size(),
            rate_bytes_s,
            sources: self.shares(),
        }
    }

    /// Who delivered how much.
    pub(super) fn shares(&self) -> Vec<SourceShare> {
        self.delivered.iter().map(|(peer, bytes)| SourceShare { peer: peer.clone(), bytes: *bytes }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::content::Folder;

    fn file(now: Instant) -> JobFile {
        let id = FileId::from_bytes([7; 32]);
        JobFile::new(FileIndex(0), What::from(id), id, "x".parse().unwrap(), Target::Stream(None), now)
    }

    #[test]
    fn who_says_it_lacks_the_file_is_asked_again_after_longer_and_longer_pauses() {
        let mut now = Instant::now();
        let (mut file, p) = (file(now), "p".parse::<PeerId>().unwrap());
        for pause in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
            file.lose(&p, "lacks it".into(), now);
            let lost = &file.lost[&p];
            assert!(
                !lost.may_be_asked(now + pause - Duration::from_millis(1)) && lost.may_be_asked(now + pause)
            );
            now += pause;
        }
        assert_eq!((MISSING_PAUSE.as_secs(), MISSING_PAUSE_MAX.as_secs()), (1, 30));
    }

    /// What a tracker says of the file: these holders, who state this size.
    fn told(size: u64, numbers: std::ops::Range<usize>) -> Candidate {
        let holder = |number: usize| Holder {
            peer: format!("p{number:05}").parse().unwrap(),
            address: ([10, 0, 0, 1], 9).into(),
            complete: true,
        };
        let holders: Vec<Holder> = numbers.map(holder).collect();
        let holder_count = holders.len() as u32;
        Candidate { id: FileId::from_bytes([7; 32]), size, names: Vec::new(), holder_count, holders }
    }

    #[test]
    fn a_file_has_so_many_holders_and_those_told_of_later_take_the_places_of_idle_ones() {
        let now = Instant::now();
        let mut holders = Holders::new("us".parse().unwrap(), ([0, 0, 0, 0], 1).into());
        let mut file = file(now);
        file.learn(&[told(5, 0..1)], &mut holders, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let (source, _) = holders.dial(|_| true, now, &mut rng).unwrap();
        // Ever new holders, and ever new sizes.
        for number in 0..100 {
            let of = |size: u64| told(size, 50 * number..50 * (number + 1));
            file.learn(&[of(5), of(6 + number as u64)], &mut holders, now);
            assert!(file.holder_count() <= MAX_FILE_HOLDERS && file.claims.len() <= MAX_FILE_HOLDERS);
            assert_eq!(file.holder(&source), Some(true), "it is connected, and stays");
        }
        assert_eq!(file.holder_count(), MAX_FILE_HOLDERS);
        let last = told(5, 4999..5000).holders.remove(0).peer;
        assert!(file.claims[&105].contains_key(&last), "who is told of last is among them");
        let others = told(5, 9000..9050).holders;
        file.hear(&others, &mut holders, now);
        assert!(others.iter().all(|other| file.holder(&other.peer).is_none()), "sources replace nobody");

        for number in 0..3 * MAX_FILE_HOLDERS {
            file.lose(&told(5, number..number + 1).holders[0].peer, "lacks it".into(), now);
        }
        assert_eq!(file.lost.len(), MAX_FILE_HOLDERS);
    }

    #[test]
    fn who_was_given_up_makes_room_for_who_is_told_of_later_before_anybody_else() {
        let now = Instant::now();
        let mut holders = Holders::new("us".parse().unwrap(), ([0, 0, 0, 0], 1).into());
        let mut file = file(now);
        file.learn(&[told(5, 0..MAX_FILE_HOLDERS)], &mut holders, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let (given_up, _) = holders.dial(|_| true, now, &mut rng).unwrap();
        holders.ended(&given_up, crate::plan::Ending::WrongManifest, now);
        file.learn(&[told(5, MAX_FILE_HOLDERS..MAX_FILE_HOLDERS + 1)], &mut holders, now);
        assert!(file.holder(&given_up).is_none());
        assert_eq!(file.holder_count(), MAX_FILE_HOLDERS);
        assert_eq!(
            told(5, 0..MAX_FILE_HOLDERS)
                .holders
                .iter()
                .filter(|one| file.holder(&one.peer).is_some())
                .count(),
            MAX_FILE_HOLDERS - 1
        );
    }

    #[test]
    fn a_file_without_holders_is_looked_for_for_a_while_which_one_holder_prolongs_a_few_times() {
        let mut now = Instant::now();
        let (mut file, p) = (file(now), "p".parse::<PeerId>().unwrap());
        assert!(!file.is_patient(now) && !file.is_lost_due(now));
        for _ in 0..MAX_LOST_PATIENCE {
            file.lose(&p, "lacks it".into(), now);
            assert!(file.is_patient(now + LOST_PATIENCE - Duration::from_millis(1)) && file.is_lost_due(now));
            assert!(!file.is_lost_due(now), "it was looked for just now");
            now += LOST_PATIENCE;
            assert!(!file.is_patient(now) && file.is_lost_due(now) && !file.is_lost_due(now));
            now += MISSING_PAUSE;
        }
        file.lose(&p, "lacks it".into(), now);
        assert!(!file.is_patient(now));
    }

    #[test]
    fn a_file_of_which_nothing_is_awaited_for_half_a_minute_stands_still() {
        let start = Instant::now();
        let target = Target::Place(Place {
            folder: Arc::new(Folder::open(std::path::Path::new("/")).unwrap()),
            name: "x".parse().unwrap(),
            overwrite: false,
            is_noted: false,
            namesake: None,
        });
        let mut file = JobFile { target, ..file(start) };
        assert!(!file.stands_still(true, start + STANDSTILL_TIMEOUT));
        assert!(!file.stands_still(false, start + 2 * STANDSTILL_TIMEOUT));
        assert!(file.stands_still(false, start + 2 * STANDSTILL_TIMEOUT + Duration::from_millis(1)));
    }
}
