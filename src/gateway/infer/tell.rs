//! When no target has answered: what the caller is told, as a refusal or, once it has its 200, in the stream.

use super::{Failed, Run};
use crate::base::ending::Ending;
use crate::base::reject::{Reject, RejectKind, Said};
use crate::gateway::refuse;
use crate::stage::ai::fault::{Complaint, FaultKind};
use crate::stage::ai::retry::Failure;
use bytes::Bytes;
use std::time::{Duration, Instant};

impl Run<'_> {
    pub async fn tell(&mut self, failed: Failed) {
        if self.caller.begun {
            let ending = reject_of(&failed).kind;
            let ending = crate::gateway::endings::of_reject(ending);
            return self.tell_in_stream(&failed, 0, ending).await;
        }
        if let Some(admission) = &mut self.ctx.admission {
            // A WebSocket that was not opened is a request like any other.
            admission.tunnel = None;
        }
        let mut reject = reject_of(&failed);
        self.say_when(&mut reject);
        let own_words = failed
            .own_words
            .filter(|body| keeps(failed.fault.kind, body));
        refuse::run_with(self.caller, self.ctx, self.timer, reject, own_words).await;
    }

    /// The last event of a stream that is not whole, in the caller's dialect.
    pub async fn tell_in_stream(&mut self, failed: &Failed, sequence: u64, ending: Ending) {
        let mut reject = reject_of(failed);
        self.say_when(&mut reject);
        let request_id = self.ctx.request_id();
        let complaint = Complaint {
            status: reject.status(),
            code: reject.code(),
            message: reject.message(),
            param: None,
            retry_after: reject.retry_after,
            request_id: request_id.to_str().unwrap_or_default(),
        };
        let dialect = self.task.door.dialect.dialect();
        let last = Bytes::from(dialect.write_last_fault(&complaint, sequence));
        let last = match &mut self.list {
            Some(open) => open.items(last),
            None => last,
        };
        self.ctx.traffic.bytes_out += last.len() as u64;
        self.caller.put(last);
        self.end_list();
        self.ctx.reject = Some(reject);
        self.end(ending);
        self.timer.set(self.ctx.idle_limit(), None);
        if refuse::finish(self.caller, self.timer).await.is_err() {
            self.caller.cut();
        }
    }
}

impl Run<'_> {
    /// A refusal that time mends says when to come again: as the provider has said, else when the first target of
    /// the model is known to be free again (breakers, keys that are left alone).
    fn say_when(&self, reject: &mut Reject) {
        let now = Instant::now();
        let known = || {
            let free = self.task.plan.free_at(now);
            free.map(|at| at.saturating_duration_since(now))
        };
        reject.retry_after = when(reject.status(), reject.retry_after, known);
    }
}

/// At least [`SOONEST`] with the statuses that promise an end; `said` stands before what is `known`.
fn when(
    status: u16,
    said: Option<Duration>,
    known: impl FnOnce() -> Option<Duration>,
) -> Option<Duration> {
    if !matches!(status, 429 | 503 | 529) {
        return said;
    }
    let wait = said.or_else(known).unwrap_or_default();
    Some(wait.max(SOONEST))
}

/// Whole seconds are told, and zero would be an invitation to knock at once.
const SOONEST: Duration = Duration::from_secs(1);

/// What is wrong with the gateway's own key is no business of the caller's: it is told that the provider failed.
fn keeps(kind: FaultKind, body: &Bytes) -> bool {
    let ours = matches!(
        kind,
        FaultKind::Authentication | FaultKind::Permission | FaultKind::Payment
    );
    !ours && is_error(body)
}

/// Every dialect has an `error` in its refusals. What is something else, or cut, no SDK would understand.
fn is_error(body: &[u8]) -> bool {
    let body: Result<serde_json::Value, _> = serde_json::from_slice(body);
    body.is_ok_and(|body| body["error"].is_object())
}

fn reject_of(failed: &Failed) -> Reject {
    let fault = &failed.fault;
    let (status, code, message) = match (failed.failure, fault.kind) {
        (_, FaultKind::Authentication | FaultKind::Permission | FaultKind::Payment) => (
            502,
            FaultKind::Server.code(),
            "the provider does not take the gateway's key",
        ),
        (Failure::Full, kind) => (kind.status(), Failure::Full.name(), fault.message.as_str()),
        (_, kind) => (kind.status(), kind.code(), fault.message.as_str()),
    };
    let kind = match (failed.failure, fault.kind) {
        (Failure::NotSaid, _) => RejectKind::BadCall,
        (Failure::Full, _) => RejectKind::QueueFull,
        (
            _,
            FaultKind::InvalidRequest
            | FaultKind::ContextLength
            | FaultKind::ContentPolicy
            | FaultKind::NotFound
            | FaultKind::TooLarge,
        ) => RejectKind::ProviderRefused,
        _ => RejectKind::ProviderFailed,
    };
    Reject {
        retry_after: fault.retry_after,
        said: Some(Box::new(Said {
            status,
            code,
            message: message.to_owned(),
            param: failed.param.clone(),
        })),
        ..kind.because(&failed.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_time_mends_says_when() {
        let seconds = |count| Some(Duration::from_secs(count));
        for (status, said, known, told) in [
            (429, seconds(9), seconds(3), seconds(9)),
            (429, None, seconds(3), seconds(3)),
            (503, None, seconds(0), seconds(1)),
            (503, seconds(0), seconds(5), seconds(1)),
            (529, None, None, seconds(1)),
            (502, None, seconds(3), None),
            (500, seconds(4), seconds(3), seconds(4)),
            (400, None, seconds(3), None),
        ] {
            assert_eq!(when(status, said, || known), told, "{status} {said:?}");
        }
    }
}
