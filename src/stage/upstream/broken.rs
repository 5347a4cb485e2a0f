//! How an exchange with an endpoint can break.

use crate::wire::body::Malformed;
use crate::wire::link::BodyError;
use pingora::{Error, ErrorType};
use std::{fmt, io};

/// What went wrong; the words are for the log.
#[derive(Debug)]
pub enum Broken {
    /// There is no connection: nothing was sent.
    NotConnected {
        timed_out: bool,
        /// We lack descriptors or ports, which is no fault of the endpoint's.
        our_own_want: bool,
        cause: String,
    },
    /// The endpoint closed or reset; `heard`: something of its answer had come.
    Closed { heard: bool, cause: String },
    /// The protocol guarantees that nothing was processed (RFC 9113 section 8.7).
    Unprocessed(String),
    /// What came is not HTTP.
    Malformed(String),
    /// One of our limits on its time has passed.
    TimedOut,
    /// A status after which another endpoint is tried.
    Status(u16),
}

impl Broken {
    pub(super) fn connecting(error: &io::Error, to: impl fmt::Display) -> Self {
        Self::NotConnected {
            timed_out: error.kind() == io::ErrorKind::TimedOut,
            our_own_want: super::socket::is_our_own_want(error),
            cause: format!("connecting to {to}: {error}"),
        }
    }

    /// From Pingora's connector, before anything was sent.
    pub(super) fn of_connector(error: &Error) -> Self {
        let kind = error.etype();
        let io = error.root_cause().downcast_ref::<io::Error>();
        Self::NotConnected {
            timed_out: matches!(
                kind,
                ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout
            ),
            our_own_want: io.is_some_and(super::socket::is_our_own_want),
            cause: error.to_string(),
        }
    }

    pub(super) fn closed(heard: bool, cause: impl ToString) -> Self {
        Self::Closed {
            heard,
            cause: cause.to_string(),
        }
    }

    pub(super) fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::Cut(error) => Self::closed(true, error),
            BodyError::Malformed(Malformed(reason)) => Self::Malformed(reason.to_owned()),
        }
    }

    /// `heard`: the head of the answer has come.
    pub(super) fn of_h2(error: &h2::Error, heard: bool) -> Self {
        use h2::Reason;
        let reason = error.reason();
        let remote = error.is_remote();
        let unprocessed = remote
            && !heard
            && ((error.is_go_away() && reason == Some(Reason::NO_ERROR))
                || (error.is_reset() && reason == Some(Reason::REFUSED_STREAM))
                || reason == Some(Reason::HTTP_1_1_REQUIRED));
        if unprocessed {
            return Self::Unprocessed(error.to_string());
        }
        if error.is_library() && reason == Some(Reason::PROTOCOL_ERROR) {
            return Self::Malformed(error.to_string());
        }
        Self::closed(heard, error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected { cause, .. } => f.write_str(cause),
            Self::Closed {
                heard: false,
                cause,
            } => write!(f, "closed before its answer: {cause}"),
            Self::Closed { heard: true, cause } => write!(f, "closed within its answer: {cause}"),
            Self::Unprocessed(cause) => write!(f, "refused unprocessed: {cause}"),
            Self::Malformed(cause) => write!(f, "not HTTP: {cause}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}
