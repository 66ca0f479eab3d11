//! The actor that knows what this process can serve: the library's files, and those that are being
//! downloaded, span by span as they come.
//!
//! A file that is being downloaded is told to the tracker at once, as partial, so that downloaders
//! find each other while they download.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::watch;

use crate::base::{FileId, FileName, SpanIndex, SpanSet};
use crate::content::part::PartData;
use crate::content::tree::Proof;
use crate::peer::library::{ListChanged, OpenError, OpenFile, ReadSmall, SharedFile, Suspect};
use crate::wire::tracker::Listing;

/// What is open to be served.
#[derive(Clone, Debug)]
pub enum Served {
    /// A whole file.
    Whole(Arc<SharedFile>),
    /// A file that is being downloaded.
    Part(Arc<PartData>),
}

impl Served {
    /// Id, geometry and manifest.
    pub fn proof(&self) -> &Proof {
        match self {
            Served::Whole(file) => &file.proof,
            Served::Part(part) => part.proof(),
        }
    }

    /// The handle to read from.
    pub fn file(&self) -> &std::fs::File {
        match self {
            Served::Whole(file) => &file.file,
            Served::Part(part) => part.file(),
        }
    }

    /// Whether the file still is what was proved. To be asked before bytes go out.
    pub fn is_unchanged(&self) -> bool {
        match self {
            Served::Whole(file) => file.is_unchanged(),
            Served::Part(part) => part.is_unchanged(),
        }
    }

    /// Whether this span can be served.
    pub fn has(&self, span: SpanIndex) -> bool {
        match self {
            Served::Whole(_) => true,
            Served::Part(part) => part.has(span),
        }
    }

    /// The spans that can be served; `None` for all.
    pub fn spans(&self) -> Option<SpanSet> {
        match self {
            Served::Whole(_) => None,
            Served::Part(part) => Some(part.had()).filter(|had| !had.is_full()),
        }
    }
}

/// [`Served::spans`] as OPENED states them.
pub fn spans_bytes(spans: &Option<SpanSet>) -> Option<Bytes> {
    spans.as_ref().map(|spans| spans.to_bytes().into())
}

/// What a shelf needs of the library of the shared folder.
pub struct SharedFiles {
    /// Opens files.
    pub open: Recipient<OpenFile>,
    /// Reads small ones.
    pub read: Recipient<ReadSmall>,
    /// Hears of those that changed.
    pub suspect: Recipient<Suspect>,
}

/// The actor.
pub struct Shelf {
    library: Option<SharedFiles>,
    parts: HashMap<FileId, (FileName, Arc<PartData>)>,
    tracker: Recipient<ListChanged>,
    /// Counts up whenever a part has got a span, or was given up.
    growth: watch::Sender<u64>,
}

impl Shelf {
    /// Starts the actor; `library` opens the files of the shared folder, if there is one. Also gives
    /// what changes whenever a part has got a span.
    pub fn start(
        library: Option<SharedFiles>,
        tracker: Recipient<ListChanged>,
    ) -> (Addr<Shelf>, watch::Receiver<u64>) {
        let (growth, grown) = watch::channel(0);
        (Shelf { library, parts: HashMap::new(), tracker, growth }.start(), grown)
    }

    fn withdraw(&self, name: &FileName, part: &PartData) {
        let removed = vec![Shelf::listing(name, part.proof(), false)];
        self.tracker.do_send(ListChanged { added: Vec::new(), removed });
    }

    fn listing(name: &FileName, proof: &Proof, complete: bool) -> Listing {
        Listing { name: name.clone(), id: proof.id(), size: proof.geometry().size(), complete }
    }
}

impl Actor for Shelf {
    type Context = Context<Self>;
}

/// Open a file to serve it; [`OpenError::Missing`]: we have nothing of it (any more).
#[derive(Message)]
#[rtype(result = "Result<Served, OpenError>")]
pub struct Open {
    /// The content.
    pub id: FileId,
}

impl Handler<Open> for Shelf {
    type Result = ResponseFuture<Result<Served, OpenError>>;

    fn handle(&mut self, Open { id }: Open, _: &mut Self::Context) -> Self::Result {
        let part = self.parts.get(&id).filter(|(_, part)| part.is_unchanged());
        let ours = part.map(|(_, part)| Served::Part(Arc::clone(part)));
        let library = self.library.as_ref().map(|library| library.open.clone());
        Box::pin(async move {
            // The library first: what it has is whole.
            let whole = match library {
                // Without a library we are about to end.
                Some(library) => library.send(OpenFile { id }).await.unwrap_or(Err(OpenError::Missing)),
                None => Err(OpenError::Missing),
            };
            match (whole, ours) {
                (Ok(whole), _) => Ok(Served::Whole(whole)),
                (Err(_), Some(ours)) => Ok(ours),
                (Err(error), None) => Err(error),
            }
        })
    }
}

/// Whole files of one span are the library's alone.
impl Handler<ReadSmall> for Shelf {
    type Result = ResponseFuture<Vec<Option<Vec<u8>>>>;

    fn handle(&mut self, read: ReadSmall, _: &mut Self::Context) -> Self::Result {
        let library = self.library.as_ref().map(|library| library.read.send(read));
        Box::pin(async move {
            match library {
                Some(read) => read.await.unwrap_or_default(),
                None => Vec::new(),
            }
        })
    }
}

/// A file changed while it was served.
impl Handler<Suspect> for Shelf {
    type Result = ();

    fn handle(&mut self, suspect: Suspect, _: &mut Self::Context) {
        if let Some((name, part)) = self.parts.remove(&suspect.id) {
            self.withdraw(&name, &part);
        }
        if let Some(library) = &self.library {
            library.suspect.do_send(suspect);
        }
    }
}

/// What becomes of a download that others can fetch from.
#[derive(Message)]
#[rtype(result = "()")]
pub enum Lend {
    /// It has begun; what it has is served from now on, and the tracker is told.
    Part {
        /// The name under which it will be shared.
        name: FileName,
        /// Its data.
        part: Arc<PartData>,
    },
    /// Some part has got a span.
    Grown,
    /// It stands under its final name, and the library serves it, if there is one.
    Finished {
        /// The content.
        id: FileId,
    },
    /// It was given up.
    Ended {
        /// The content.
        id: FileId,
    },
}

impl Handler<Lend> for Shelf {
    type Result = ();

    fn handle(&mut self, lend: Lend, _: &mut Self::Context) {
        match lend {
            Lend::Part { name, part } => {
                let listing = Shelf::listing(&name, part.proof(), false);
                self.parts.insert(part.proof().id(), (name, part));
                self.tracker.do_send(ListChanged { added: vec![listing], removed: Vec::new() });
            }
            Lend::Grown => self.growth.send_modify(|spans| *spans = spans.wrapping_add(1)),
            // The library lists it as complete, which replaces the partial entry.
            Lend::Finished { id } if self.library.is_some() => {
                self.parts.remove(&id);
            }
            Lend::Finished { id } => {
                if let Some((name, part)) = self.parts.get(&id) {
                    let added = vec![Shelf::listing(name, part.proof(), true)];
                    self.tracker.do_send(ListChanged { added, removed: Vec::new() });
                }
            }
            Lend::Ended { id } => {
                if let Some((name, part)) = self.parts.remove(&id) {
                    self.withdraw(&name, &part);
                    // Who tells others of it lets go of it.
                    self.growth.send_modify(|spans| *spans = spans.wrapping_add(1));
                }
            }
        }
    }
}

/// Stop.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseShelf;

impl Handler<CloseShelf> for Shelf {
    type Result = ();

    fn handle(&mut self, _: CloseShelf, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
