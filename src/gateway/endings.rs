//! From what went wrong to the one name under which the request ended.

use super::caller::CallerFault;
use super::context::RequestContext;
use crate::base::ending::Ending;
use crate::base::reject::{Reject, RejectKind};
use crate::stage::upstream::broken::Broken;

/// The ending of a request that we refused.
pub fn of_reject(kind: RejectKind) -> Ending {
    match kind {
        RejectKind::BadRequest
        | RejectKind::BadCall
        | RejectKind::HeadTooLarge
        | RejectKind::VersionNotSupported => Ending::BadRequest,
        RejectKind::NoRoute | RejectKind::UnknownModel | RejectKind::MethodNotAllowed => {
            Ending::NoRoute
        }
        RejectKind::ProviderRefused => Ending::ProviderRefused,
        RejectKind::ProviderFailed => Ending::ProviderFailed,
        RejectKind::UnknownCaller
        | RejectKind::InvalidCredential
        | RejectKind::ExpiredCredential
        | RejectKind::CertificateRequired
        | RejectKind::NotAllowed
        | RejectKind::OriginNotAllowed
        | RejectKind::UpgradeNotAllowed
        | RejectKind::BodyTooLarge
        | RejectKind::TooManyWebSockets
        | RejectKind::LimitReached
        | RejectKind::TooManyTokens
        | RejectKind::LimitsUnavailable
        | RejectKind::TooManyRequests
        | RejectKind::Draining => Ending::Refused,
        RejectKind::IdentityUnavailable => Ending::IdentityUnavailable,
        RejectKind::Overloaded => Ending::Overloaded,
        RejectKind::NoHealthyEndpoint => Ending::NoHealthyEndpoint,
        RejectKind::QueueFull => Ending::QueueFull,
        RejectKind::ConnectFailed => Ending::ConnectFailed,
        RejectKind::UpstreamFailed => Ending::UpstreamReset,
        RejectKind::ConnectTimedOut => Ending::TimedOutConnect,
        RejectKind::FirstByteTimedOut => Ending::TimedOutFirstByte,
        RejectKind::IdleTimedOut => Ending::TimedOutIdle,
        RejectKind::TotalTimedOut => Ending::TimedOutTotal,
        RejectKind::BodyTimedOut | RejectKind::HeadTimedOut => Ending::ClientTimedOut,
        RejectKind::Internal => Ending::Internal,
    }
}

/// An attempt that broke: how the request ends if no other follows, and what the caller is told.
/// `begun`: it has seen part of the answer.
pub fn of_endpoint(broken: &Broken, ctx: &RequestContext, begun: bool) -> (Ending, Reject) {
    let (ending, kind) = match broken {
        Broken::NotConnected {
            timed_out: true, ..
        }
        | Broken::TimedOut
            if ctx.is_over_total() =>
        {
            (Ending::TimedOutTotal, RejectKind::TotalTimedOut)
        }
        Broken::NotConnected {
            timed_out: true, ..
        } => (Ending::TimedOutConnect, RejectKind::ConnectTimedOut),
        Broken::NotConnected { .. } => (Ending::ConnectFailed, RejectKind::ConnectFailed),
        Broken::TimedOut if begun => (Ending::TimedOutIdle, RejectKind::IdleTimedOut),
        Broken::TimedOut => (Ending::TimedOutFirstByte, RejectKind::FirstByteTimedOut),
        Broken::Malformed(_) => (Ending::UpstreamMalformed, RejectKind::UpstreamFailed),
        _ if begun => (Ending::UpstreamCut, RejectKind::UpstreamFailed),
        _ => (Ending::UpstreamReset, RejectKind::UpstreamFailed),
    };
    (ending, kind.because(broken))
}

/// A caller that will not get its answer; with what it is told, if it is still there.
pub fn of_caller(fault: &CallerFault) -> (Ending, Option<Reject>) {
    match fault {
        CallerFault::Left(_) => (Ending::ClientLeft, None),
        CallerFault::TimedOut => {
            let reject = RejectKind::BodyTimedOut.because("the caller stopped sending or reading");
            (Ending::ClientTimedOut, Some(reject))
        }
        CallerFault::Malformed(reason) => (
            Ending::BadRequest,
            Some(RejectKind::BadRequest.because(reason)),
        ),
        CallerFault::BodyTooLarge => (Ending::Refused, Some(RejectKind::BodyTooLarge.into())),
    }
}
