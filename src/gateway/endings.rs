//! From an error of Pingora's to the one name under which the request ended.

use super::context::RequestContext;
use crate::base::ending::Ending;
use crate::base::reject::RejectKind;
use pingora::{Error, ErrorSource, ErrorType};

/// How the request ended, and what the caller is told if it can still be told.
pub fn classify(error: &Error, ctx: &RequestContext, answer_begun: bool) -> (Ending, RejectKind) {
    if let Some(reject) = &ctx.reject {
        let ending = ctx.ending.unwrap_or(of_reject(reject.kind));
        return (ending, reject.kind);
    }
    match error.esource() {
        ErrorSource::Upstream => of_upstream(error, ctx, answer_begun),
        ErrorSource::Downstream => of_client(error, ctx),
        ErrorSource::Internal | ErrorSource::Unset => (Ending::Internal, RejectKind::Internal),
    }
}

/// The ending of a request that we refused.
pub fn of_reject(kind: RejectKind) -> Ending {
    match kind {
        RejectKind::BadRequest | RejectKind::HeadTooLarge => Ending::BadRequest,
        RejectKind::NoRoute | RejectKind::MethodNotAllowed => Ending::NoRoute,
        RejectKind::UnknownCaller
        | RejectKind::InvalidCredential
        | RejectKind::ExpiredCredential
        | RejectKind::CertificateRequired
        | RejectKind::NotAllowed
        | RejectKind::OriginNotAllowed
        | RejectKind::UpgradeNotAllowed
        | RejectKind::BodyTooLarge
        | RejectKind::TooManyWebSockets
        | RejectKind::Draining => Ending::Refused,
        RejectKind::IdentityUnavailable => Ending::IdentityUnavailable,
        RejectKind::NoHealthyEndpoint => Ending::NoHealthyEndpoint,
        RejectKind::QueueFull => Ending::QueueFull,
        RejectKind::ConnectFailed => Ending::ConnectFailed,
        RejectKind::UpstreamFailed => Ending::UpstreamReset,
        RejectKind::ConnectTimedOut => Ending::TimedOutConnect,
        RejectKind::FirstByteTimedOut => Ending::TimedOutFirstByte,
        RejectKind::IdleTimedOut => Ending::TimedOutIdle,
        RejectKind::TotalTimedOut => Ending::TimedOutTotal,
        RejectKind::BodyTimedOut => Ending::ClientTimedOut,
        RejectKind::Internal => Ending::Internal,
    }
}

fn of_upstream(error: &Error, ctx: &RequestContext, begun: bool) -> (Ending, RejectKind) {
    if timed_out(error, ctx) {
        return of_time_out(error, ctx, begun);
    }
    match error.etype() {
        kind if is_connect(kind) => (Ending::ConnectFailed, RejectKind::ConnectFailed),
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 | ErrorType::H1Error => {
            (Ending::UpstreamMalformed, RejectKind::UpstreamFailed)
        }
        _ if begun => (Ending::UpstreamCut, RejectKind::UpstreamFailed),
        _ => (Ending::UpstreamReset, RejectKind::UpstreamFailed),
    }
}

fn of_time_out(error: &Error, ctx: &RequestContext, begun: bool) -> (Ending, RejectKind) {
    if ctx.is_over_total() {
        (Ending::TimedOutTotal, RejectKind::TotalTimedOut)
    } else if is_connect_time_out(error.etype()) {
        (Ending::TimedOutConnect, RejectKind::ConnectTimedOut)
    } else if begun {
        let ending = if ctx.is_tunnel() {
            Ending::TunnelIdle
        } else {
            Ending::TimedOutIdle
        };
        (ending, RejectKind::IdleTimedOut)
    } else {
        (Ending::TimedOutFirstByte, RejectKind::FirstByteTimedOut)
    }
}

fn of_client(error: &Error, ctx: &RequestContext) -> (Ending, RejectKind) {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout if ctx.is_tunnel() => {
            (Ending::TunnelIdle, RejectKind::IdleTimedOut)
        }
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
            (Ending::ClientTimedOut, RejectKind::BodyTimedOut)
        }
        ErrorType::InvalidHTTPHeader | ErrorType::HTTPStatus(_) => {
            (Ending::BadRequest, RejectKind::BadRequest)
        }
        _ => (Ending::ClientLeft, RejectKind::BadRequest),
    }
}

/// Whether a limit on time has passed, ours or Pingora's.
pub fn timed_out(error: &Error, ctx: &RequestContext) -> bool {
    let kind = error.etype();
    matches!(kind, ErrorType::ReadTimedout | ErrorType::WriteTimedout)
        || is_connect_time_out(kind)
        || ctx.was_silenced()
}

fn is_connect_time_out(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout
    )
}

/// Whether the error arose before anything of the request was sent.
pub fn is_connect(kind: &ErrorType) -> bool {
    matches!(
        kind,
        ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::BindError
            | ErrorType::SocketError
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
            | ErrorType::HandshakeError
    )
}
