//! The statuses that are given.

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 9110; `line` has the numbers")]
pub enum Status {
    Ok,
    Created,
    NoContent,
    PartialContent,
    NotModified,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    Gone,
    LengthRequired,
    PreconditionFailed,
    BodyTooLong,
    TargetTooLong,
    RangeNotSatisfiable,
    ExpectationFailed,
    HeadTooLong,
    InternalError,
    NotImplemented,
    Unavailable,
    VersionNotSupported,
    NoSpace,
}

impl Status {
    /// Returns the status line without the version: number and reason.
    pub const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::Created => "201 Created",
            Self::NoContent => "204 No Content",
            Self::PartialContent => "206 Partial Content",
            Self::NotModified => "304 Not Modified",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::NotAcceptable => "406 Not Acceptable",
            Self::RequestTimeout => "408 Request Timeout",
            Self::Gone => "410 Gone",
            Self::LengthRequired => "411 Length Required",
            Self::PreconditionFailed => "412 Precondition Failed",
            Self::BodyTooLong => "413 Content Too Large",
            Self::TargetTooLong => "414 URI Too Long",
            Self::RangeNotSatisfiable => "416 Range Not Satisfiable",
            Self::ExpectationFailed => "417 Expectation Failed",
            Self::HeadTooLong => "431 Request Header Fields Too Large",
            Self::InternalError => "500 Internal Server Error",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
            Self::NoSpace => "507 Insufficient Storage",
        }
    }

    /// Returns the number.
    pub const fn number(self) -> &'static str {
        self.line().split_at(3).0
    }

    /// Returns the reason.
    pub const fn reason(self) -> &'static str {
        self.line().split_at(4).1
    }
}
