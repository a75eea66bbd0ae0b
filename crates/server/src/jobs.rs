//! Work of the medium that is under way: bodies being persisted, records being read.

use impasto_media::Ticket;
use impasto_region::{Extent, Span, layout::BLOCK_BYTES};
use impasto_ring::FlowId;
use impasto_store::Load;

/// What a ticket stands for. The extents are the job's as long as it lasts, also if its flow has
/// gone.
#[derive(Debug)]
pub(crate) enum Job {
    /// The body of a flow's append, in reserved blocks.
    Body(Whose, Vec<Extent>),
    /// The body of a flow's append that has not all come: the flow has its extents.
    Filling,
    /// A body that was given up while some of it was in flight.
    Dropped(Vec<Extent>),
    /// Records that a flow asked for, pinned; each with the number of its extents.
    Load(Whose, Vec<(Load, usize)>, Vec<Extent>),
    /// The superblock of this generation.
    Superblock(u64),
}

/// A flow among those of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whose {
    pub(crate) worker: usize,
    pub(crate) flow: FlowId,
}

/// The jobs under way, by ticket.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    by_ticket: Vec<Option<Job>>,
    free: Vec<usize>,
    loads: usize,
    dropped: usize,
    /// Generation of the superblock that is being persisted.
    superblock: Option<u64>,
    /// For the next call of the medium.
    spans: Vec<Span>,
}

impl Jobs {
    pub(crate) fn start(&mut self, job: Job) -> Ticket {
        self.loads += usize::from(matches!(job, Job::Load(..)));
        let index = self.free.pop().unwrap_or_else(|| {
            self.by_ticket.push(None);
            self.by_ticket.len() - 1
        });
        if let Job::Superblock(generation) = job {
            self.superblock = Some(generation);
        }
        self.by_ticket[index] = Some(job);
        Ticket(index as u64)
    }

    /// Returns true if space comes back that a body has given up.
    pub(crate) const fn drops_any(&self) -> bool {
        self.dropped > 0
    }

    /// Changes what a ticket stands for.
    pub(crate) fn change(&mut self, ticket: Ticket, job: Job) {
        let index = usize::try_from(ticket.0).expect("a ticket is an index");
        self.dropped += usize::from(matches!(job, Job::Dropped(_)));
        let before = self.by_ticket[index].replace(job);
        assert!(matches!(before, Some(Job::Filling)), "a body changes while it fills");
    }

    pub(crate) fn end(&mut self, ticket: Ticket) -> Job {
        let index = usize::try_from(ticket.0).expect("a ticket is an index");
        let job = self.by_ticket[index].take().expect("a ticket is ended once");
        self.free.push(index);
        self.loads -= usize::from(matches!(job, Job::Load(..)));
        self.dropped -= usize::from(matches!(job, Job::Dropped(_)));
        if matches!(job, Job::Superblock(_)) {
            self.superblock = None;
        }
        job
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.free.len() == self.by_ticket.len()
    }

    /// Returns the generation of the superblock that is being persisted.
    pub(crate) const fn superblock(&self) -> Option<u64> {
        self.superblock
    }

    /// Returns true if a read under way may write a byte of `extents`.
    pub(crate) fn reads_any(&self, extents: &[Extent]) -> bool {
        self.loads > 0
            && self.by_ticket.iter().flatten().any(|job| match job {
                Job::Load(_, _, loading) => loading.iter().any(|loading| {
                    let loading = blocks(loading.span());
                    extents.iter().any(|extent| loading.overlaps(blocks(extent.span())))
                }),
                _ => false,
            })
    }

    /// Returns the whole blocks that hold `extents`, each block once, in a vector that
    /// [`give_spans`](Self::give_spans) takes back.
    pub(crate) fn spans(&mut self, extents: impl IntoIterator<Item = Extent>) -> Vec<Span> {
        let mut spans = std::mem::take(&mut self.spans);
        spans.extend(extents.into_iter().map(|extent| blocks(extent.span())));
        spans.sort_unstable_by_key(|span| span.at);
        spans.dedup_by(|next, last| {
            let joins = next.at <= last.end();
            if joins {
                last.len = last.end().max(next.end()) - last.at;
            }
            joins
        });
        spans
    }

    pub(crate) fn give_spans(&mut self, mut spans: Vec<Span>) {
        spans.clear();
        self.spans = spans;
    }
}

/// Returns the whole blocks that hold `span`.
const fn blocks(span: Span) -> Span {
    let start = span.at / BLOCK_BYTES * BLOCK_BYTES;
    Span::new(start, span.end().next_multiple_of(BLOCK_BYTES) - start)
}
