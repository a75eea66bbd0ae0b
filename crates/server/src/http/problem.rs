//! What is wrong with a request, as RFC 9457 has it: for a program and for a person.

use impasto_store::Refusal;

use super::{
    Status,
    reply::{decimal, put},
};

/// Why a request is answered without being understood or carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The status of the answer.
    pub status: Status,
    /// What a program can tell it by.
    pub problem: Problem,
    /// What to do about it.
    pub text: &'static str,
    /// What the answer says besides.
    pub extra: Extra,
}

/// A kind of problem that a program may want to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The status says it all.
    Status,
    /// There is no log of that name.
    NoSuchLog,
    /// The record is not there yet.
    NotYet,
    /// The record was trimmed.
    Trimmed,
    /// The region is full.
    Full,
    /// There are as many logs as there can be.
    TooManyLogs,
    /// The medium has failed, and nothing has changed.
    ReadOnly,
    /// The medium has failed, and the request may have taken effect.
    InDoubt,
    /// The stored record is damaged.
    Damaged,
    /// The content is not what its digest says, or no digest that can be told.
    Digest,
    /// A page of another origin has sent the request.
    Origin,
}

/// What an answer says besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// `Allow`: the methods of the target.
    Allow(&'static str),
    /// The member `first`: the oldest record of the log.
    First(u64),
    /// The member `next`: what the next record of the log gets.
    Next(u64),
    /// `Content-Range`: how long the record is.
    Length(u32),
    /// `Want-Content-Digest`: the algorithms that are known.
    Algorithms,
}

impl Problem {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Status,
        Self::NoSuchLog,
        Self::NotYet,
        Self::Trimmed,
        Self::Full,
        Self::TooManyLogs,
        Self::ReadOnly,
        Self::InDoubt,
        Self::Damaged,
        Self::Digest,
        Self::Origin,
    ];

    /// Returns the member `type`: a reference that never changes.
    pub const fn reference(self) -> &'static str {
        match self {
            Self::Status => "about:blank",
            Self::NoSuchLog => "/problems/no-such-log",
            Self::NotYet => "/problems/not-yet",
            Self::Trimmed => "/problems/trimmed",
            Self::Full => "/problems/full",
            Self::TooManyLogs => "/problems/too-many-logs",
            Self::ReadOnly => "/problems/read-only",
            Self::InDoubt => "/problems/in-doubt",
            Self::Damaged => "/problems/damaged",
            Self::Digest => "/problems/digest",
            Self::Origin => "/problems/origin",
        }
    }

    const fn title(self, status: Status) -> &'static str {
        match self {
            Self::Status => status.reason(),
            Self::NoSuchLog => "No such log",
            Self::NotYet => "Not there yet",
            Self::Trimmed => "The record was trimmed",
            Self::Full => "The region is full",
            Self::TooManyLogs => "There are too many logs",
            Self::ReadOnly => "The region is read-only",
            Self::InDoubt => "It may have taken effect or not",
            Self::Damaged => "The stored record is damaged",
            Self::Digest => "The content is not what its digest says",
            Self::Origin => "A page from elsewhere",
        }
    }
}

impl Fault {
    pub(crate) const fn new(status: Status, text: &'static str) -> Self {
        Self { status, problem: Problem::Status, text, extra: Extra::None }
    }

    pub(crate) const fn kind(self, problem: Problem) -> Self {
        Self { problem, ..self }
    }

    pub(crate) const fn with(self, extra: Extra) -> Self {
        Self { extra, ..self }
    }

    /// Writes the document.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self { status, problem, text, extra } = self;
        put(out, "{\"type\":\"");
        put(out, problem.reference());
        put(out, "\",\"title\":\"");
        put(out, problem.title(*status));
        put(out, "\",\"status\":");
        put(out, status.number());
        put(out, ",\"detail\":\"");
        put(out, text);
        put(out, "\"");
        let member = match extra {
            Extra::First(first) => Some(("first", *first)),
            Extra::Next(next) => Some(("next", *next)),
            Extra::Length(bytes) => Some(("bytes", u64::from(*bytes))),
            Extra::None | Extra::Allow(_) | Extra::Algorithms => None,
        };
        if let Some((name, value)) = member {
            put(out, ",\"");
            put(out, name);
            put(out, "\":");
            decimal(out, value);
        }
        put(out, "}\n");
    }
}

/// What a refusal of the store is in HTTP.
impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchLog => NO_SUCH_LOG,
            Refusal::Trimmed { first } => TRIMMED.with(Extra::First(first)),
            Refusal::Future { next } => NOT_YET.with(Extra::Next(next)),
            Refusal::NoSpace => FULL,
            Refusal::NoSpaceToTrim => FULL_OF_TRIMS,
            Refusal::TooManyLogs => TOO_MANY_LOGS,
            Refusal::ReadOnly => READ_ONLY,
            _ => Self::new(Status::InternalError, "refused for a reason that HTTP has no word for"),
        }
    }
}

const NO_SUCH_LOG: Fault =
    Fault::new(Status::NotFound, "there is no log of that name").kind(Problem::NoSuchLog);
const TRIMMED: Fault = Fault::new(
    Status::Gone,
    "the record was dropped: `first` is the oldest one that is there, or the next one",
)
.kind(Problem::Trimmed);
const NOT_YET: Fault =
    Fault::new(Status::NotFound, "the record is not there yet: the next one gets `next`")
        .kind(Problem::NotYet);
const FULL: Fault = Fault::new(
    Status::NoSpace,
    "the region is full: trim logs (DELETE /v1/logs/{log}?before=SEQ) to make room, those with \
     the oldest records above all: they keep the space of what came later",
)
.kind(Problem::Full);
const FULL_OF_TRIMS: Fault = Fault::new(
    Status::NoSpace,
    "the region is full, and so is what is kept for trims that leave records: trim all records of \
     a log (DELETE /v1/logs/{log}?before=SEQ with its `next`), which is always taken, or those of \
     other logs that are the oldest",
)
.kind(Problem::Full);
const TOO_MANY_LOGS: Fault =
    Fault::new(Status::NoSpace, "there are 65536 logs: append to one of them")
        .kind(Problem::TooManyLogs);
const READ_ONLY: Fault = Fault::new(
    Status::Unavailable,
    "the medium has failed: the region is read-only until a restart",
)
.kind(Problem::ReadOnly);

/// The answer to a request whose commit was lost (D7).
pub(crate) const IN_DOUBT: Fault = Fault::new(
    Status::Unavailable,
    "the medium has failed: this request may have taken effect or not, and the region is \
     read-only until a restart",
)
.kind(Problem::InDoubt);

#[cfg(test)]
mod tests {
    use super::*;

    /// What no parser of JSON takes tells a program nothing.
    #[test]
    fn a_problem_is_a_document_with_the_members_of_rfc_9457() {
        let written = |fault: Fault| {
            let mut out = Vec::new();
            fault.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(Refusal::Trimmed { first: 7 }.into()),
            "{\"type\":\"/problems/trimmed\",\"title\":\"The record was trimmed\",\"status\":410,\
             \"detail\":\"the record was dropped: `first` is the oldest one that is there, or the \
             next one\",\"first\":7}\n"
        );
        let plain = Fault::new(Status::HeadTooLong, "too long");
        assert_eq!(
            written(plain),
            "{\"type\":\"about:blank\",\"title\":\"Request Header Fields Too Large\",\
             \"status\":431,\"detail\":\"too long\"}\n"
        );
    }
}
