//! One try at one target: what it needs, a connection, the question, and what comes back.

use super::answer::{self, ANSWER_BYTES_MAX, ERROR_BYTES_MAX};
use super::begin::Trying;
use super::send::{self, Question};
use super::stream::{self, Halt, Limits};
use super::{Failed, Run, Tried};
use crate::base::ending::Ending;
use crate::gateway::attempt::Held;
use crate::gateway::context::Attempt;
use crate::gateway::life::Stop;
use crate::snapshot::{Provider, Target};
use crate::stage::ai::count;
use crate::stage::ai::dialect::{Dialect, Wants};
use crate::stage::ai::fault::{FaultKind, Malformed};
use crate::stage::ai::key_ring::Why;
use crate::stage::ai::provider::{Operation, Way};
use crate::stage::ai::relay::{Broke, Relay};
use crate::stage::ai::retry::Failure;
use crate::stage::upstream::broken::Broken;
use crate::stage::upstream::connector::Purpose;
use crate::stage::upstream::ejection::Outcome;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl<'a> Run<'a> {
    pub async fn attempt(&mut self, target: &Arc<Target>) -> Result<Tried, Stop> {
        let mut trying = match self.begin(target).await? {
            Ok(trying) => trying,
            Err(failed) => return Ok(Tried::Failed(failed)),
        };
        let model = self.task.plan.model_at(target).to_owned();
        let inference = self.ctx.inference_mut();
        inference.provider = Some(target.provider.name.as_str().into());
        inference.model = Some(model);
        let before = inference.metrics.replace(Arc::clone(&target.metrics));
        inference.fallback |= before.is_some_and(|one| !Arc::ptr_eq(&one, &target.metrics));
        let tried = self.ask(&mut trying).await;
        if !matches!(tried, Err(Stop::Caller(_))) {
            self.waiting_since = None;
        }
        let tried = tried.map(|tried| tried.hiding(trying.key.secret()));
        if let Ok(Tried::Failed(failed)) = &tried {
            self.note(&mut trying, failed);
        }
        if let Err(Stop::Endpoint(broken)) = tried {
            let failed = Failed::broken(&broken);
            self.note(&mut trying, &failed);
            return Ok(Tried::Failed(failed));
        }
        tried
    }

    async fn ask(&mut self, trying: &mut Trying<'_>) -> Result<Tried, Stop> {
        if let Err(failed) = self.take_token(trying).await? {
            return Ok(Tried::Failed(failed));
        }
        let shown = (&trying.key, trying.token.as_ref());
        let question = match self.question((trying.target, trying.way), shown) {
            Ok(question) => question,
            Err(failed) => return Ok(Tried::Failed(failed)),
        };
        if let Err(failed) = self.take_place(trying).await? {
            return Ok(Tried::Failed(failed));
        }
        if self.task.door.operation == Operation::Realtime {
            return self.open(trying).await;
        }
        let (mut held, answered) = self.connect_and_send(trying, &question).await?;
        // An answer may take long, and needs nothing of this.
        drop(question);
        self.learn_limits(trying, &answered);
        self.answered(answered.status);
        self.receive(trying, &mut held, answered).await
    }

    /// The head of the answer has come.
    pub fn answered(&mut self, status: StatusCode) {
        if let Some(attempt) = self.ctx.attempts.last_mut() {
            attempt.first_byte = Some(attempt.started.elapsed());
            attempt.status = Some(status.as_u16());
        }
    }

    /// A kept connection may have been closed at its other end: then a new one is tried, once.
    async fn connect_and_send(
        &mut self,
        trying: &Trying<'_>,
        question: &Question,
    ) -> Result<(Held<'a>, ResponseHead), Stop> {
        let mut purpose = Purpose::Usual;
        loop {
            let (mut held, reused) = self.connect(trying, purpose).await?;
            let first_byte = self.patience(trying);
            self.waiting_since = Some(Instant::now());
            match send::ask(self, &mut held, question, first_byte).await {
                Err(Stop::Endpoint(Broken::Closed { heard: false, .. })) if reused => {
                    purpose = Purpose::Fresh;
                }
                Ok(answered) => return Ok((held, answered)),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// How long the head of the answer may take: as long as the first token, or an answer that comes whole.
    fn patience(&self, trying: &Trying<'_>) -> Duration {
        let timeouts = &trying.provider().settings.timeouts;
        let until = if self.task.stream {
            trying.started + timeouts.first_token.0
        } else {
            trying.end()
        };
        until.saturating_duration_since(Instant::now())
    }

    pub async fn connect(
        &mut self,
        trying: &Trying<'_>,
        purpose: Purpose,
    ) -> Result<(Held<'a>, bool), Stop> {
        let provider = Arc::clone(trying.provider());
        let endpoint = match &self.ctx.lease {
            Some(lease) => Arc::clone(lease.endpoint()),
            None => return Err(Stop::Endpoint(Broken::TimedOut)),
        };
        let limit = provider.settings.timeouts.connect.0;
        // The connector has its own limit; this one is for what it may forget.
        self.limit(limit + Duration::from_secs(1));
        let upstream = &provider.upstream;
        let from = Instant::now();
        let connecting = self
            .connector
            .connect(&upstream.peers, &endpoint, purpose, limit);
        let connected = self.meanwhile(connecting).await;
        self.ctx.inference_mut().waited += from.elapsed();
        let connected = connected?.map_err(Stop::Endpoint)?;
        if let Some(attempt) = self.ctx.attempts.last_mut() {
            attempt.reused = connected.reused;
            attempt.connected = (!connected.reused).then(|| from.elapsed());
        }
        let idle = upstream.settings.keepalive.idle.0;
        let held = Held::new(connected.exchange, self.connector, idle);
        Ok((held, connected.reused))
    }

    async fn receive(
        &mut self,
        trying: &mut Trying<'_>,
        held: &mut Held<'_>,
        answered: ResponseHead,
    ) -> Result<Tried, Stop> {
        let status = answered.status.as_u16();
        if status >= 400 {
            return self.receive_fault(trying, held, answered).await;
        }
        if !answered.status.is_success() {
            return Ok(Tried::Failed(Failed::malformed("a status of no answer")));
        }
        if self.task.stream {
            return self.receive_stream(trying, held, answered).await;
        }
        if self.task.door.generates() {
            return self.receive_whole(trying, held, &answered).await;
        }
        self.receive_other(trying, held, answered).await
    }

    pub async fn receive_fault(
        &mut self,
        trying: &Trying<'_>,
        held: &mut Held<'_>,
        answered: ResponseHead,
    ) -> Result<Tried, Stop> {
        let gap = trying.provider().settings.timeouts.gap.0;
        let limits = (gap, trying.end());
        let body = answer::read(self, held, (ERROR_BYTES_MAX, true), limits).await?;
        let status = answered.status.as_u16();
        let mut fault = self
            .dialect_of(trying.way)
            .read_fault(status, &answered.headers, &body);
        let of_status = FaultKind::of_status(status);
        if fault.kind == of_status {
            // The body says nothing better than the status, and some mean something else by it.
            fault.kind = trying.provider().kind.fault_of(status);
        }
        Ok(Tried::Failed(Failed {
            failure: Failure::Said(fault.kind),
            cause: format!("status {status}: {}", fault.message),
            param: None,
            own_words: self.passes_through(trying.way).then_some(body),
            fault: Box::new(fault),
        }))
    }

    /// In whose words this target answers.
    fn dialect_of(&self, way: &Way) -> &'static dyn Dialect {
        let spoken = way.operation.dialect().or(way.operation.counts());
        spoken.unwrap_or(self.task.door.dialect).dialect()
    }

    async fn receive_stream(
        &mut self,
        trying: &mut Trying<'_>,
        held: &mut Held<'_>,
        answered: ResponseHead,
    ) -> Result<Tried, Stop> {
        let dialect = self.dialect_of(trying.way);
        if !is(&answered, dialect.framing().media_type()) {
            return Ok(Tried::Failed(Failed::malformed("no stream of events")));
        }
        // The head holds the buffer that it was read into.
        drop(answered);
        let to = (!self.passes_through(trying.way)).then(|| self.task.door.dialect.dialect());
        let mut relay = Relay::new(dialect, to, self.wants());
        let timeouts = &trying.provider().settings.timeouts;
        let limits = Limits {
            first_token: timeouts.first_token.0,
            gap: timeouts.gap.0,
            end: trying.end(),
        };
        let passed = stream::pass(self, held, &mut relay, limits).await;
        self.learn(trying, &relay);
        match passed {
            Ok(()) => {
                self.succeeded(trying);
                self.end(Ending::Completed);
                Ok(Tried::Ended)
            }
            Err(halt) if relay.has_given() => {
                let sequence = relay.sequence();
                self.break_off(trying, halt, sequence).await;
                Ok(Tried::Ended)
            }
            Err(halt) => match halt.broke() {
                Ok(broke) => Ok(Tried::Failed(Failed::broke(&broke))),
                Err(stop) => Err(stop),
            },
        }
    }

    fn wants(&self) -> Wants {
        let created = crate::snapshot::unix_now();
        Wants {
            usage: !self.counts_by_ourselves() && self.task.peek.include_usage,
            model: self.ctx.inference().asked.clone(),
            created,
            id: self
                .ctx
                .request_id()
                .to_str()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    /// What the stream has told, whole or not.
    fn learn(&mut self, trying: &Trying<'_>, relay: &Relay) {
        let facts = &relay.facts;
        let prompt = self.task.prompt_tokens;
        let names = self.ctx.tracing().is_some();
        let inference = self.ctx.inference_mut();
        inference.answered_by = names.then(|| facts.model.clone());
        inference.malformed += facts.malformed;
        if !relay.is_committed() {
            return;
        }
        if let Some(first_token) = inference.first_token_since(trying.started) {
            trying.trial.first_token(first_token, Instant::now());
        }
        inference.stop = facts.stop.as_ref().map(|stop| stop.reason);
        // With the reason why it ended come the last counts.
        let has_ended = relay.is_over() || facts.stop.is_some();
        match facts.usage.filter(|_| has_ended) {
            Some(usage) => inference.counted(usage),
            None => inference.guessed(facts.usage, prompt, facts.words),
        }
    }

    async fn receive_whole(
        &mut self,
        trying: &mut Trying<'_>,
        held: &mut Held<'_>,
        answered: &ResponseHead,
    ) -> Result<Tried, Stop> {
        let limits = (trying.provider().settings.timeouts.gap.0, trying.end());
        let body = answer::read(self, held, (ANSWER_BYTES_MAX, false), limits).await?;
        let dialect = self.dialect_of(trying.way);
        let read = if is(answered, "application/json") {
            dialect.read_reply(&body)
        } else {
            Err(Malformed("no JSON".to_owned()))
        };
        let reply = match read {
            Ok(reply) => reply,
            Err(malformed) => return Ok(Tried::Failed(Failed::malformed(&malformed.0))),
        };
        let filtered = reply.parts.is_empty()
            && reply.stop.reason == crate::stage::ai::event::StopReason::ContentFilter;
        if filtered && self.task.falls_back(FaultKind::ContentPolicy) {
            let what = "the provider does not answer to this content";
            let failed = Failed::said(FaultKind::ContentPolicy, what, None);
            return Ok(Tried::Failed(failed));
        }
        self.waited();
        let now = Instant::now();
        let mut reply = reply;
        if reply.created == 0 {
            reply.created = crate::snapshot::unix_now();
        }
        let (prompt, words) = (self.task.prompt_tokens, reply.words());
        let names = self.ctx.tracing().is_some();
        let inference = self.ctx.inference_mut();
        inference.begun(now);
        inference.answered_by = names.then(|| reply.model.clone());
        inference.stop = Some(reply.stop.reason);
        match reply.usage {
            Some(usage) => inference.counted(usage),
            None => inference.guessed(None, prompt, words),
        }
        let body = if self.passes_through(trying.way) {
            // Blank lines kept the connection awake while the model was thinking.
            body.slice_ref(body.trim_ascii_start())
        } else {
            Bytes::from(self.task.door.dialect.dialect().write_reply(&reply))
        };
        self.succeeded(trying);
        let json = HeaderValue::from_static("application/json");
        if answer::give(self, answered.status, json, body).await {
            self.end(Ending::Completed);
        }
        Ok(Tried::Ended)
    }

    /// Embeddings, pictures, sounds: JSON is read for its usage, and all of it is passed on as it is.
    async fn receive_other(
        &mut self,
        trying: &mut Trying<'_>,
        held: &mut Held<'_>,
        answered: ResponseHead,
    ) -> Result<Tried, Stop> {
        if !is(&answered, "application/json") {
            if !self.task.door.may_be_no_json() || is(&answered, "text/html") {
                return Ok(Tried::Failed(Failed::malformed("no JSON")));
            }
            self.waited();
            self.ctx.inference_mut().begun(Instant::now());
            return self.pass_raw(trying, held, &answered).await;
        }
        let limits = (trying.provider().settings.timeouts.gap.0, trying.end());
        let body = answer::read(self, held, (ANSWER_BYTES_MAX, false), limits).await?;
        if !crate::stage::ai::json::is_answer(&body) {
            return Ok(Tried::Failed(Failed::malformed("JSON that is no answer")));
        }
        let body = match self.in_callers_words(trying.way, body) {
            Ok(body) => body,
            Err(malformed) => return Ok(Tried::Failed(Failed::malformed(&malformed.0))),
        };
        self.waited();
        let usage = crate::stage::ai::usage::of_other(&body);
        let prompt = self.task.prompt_tokens;
        let inference = self.ctx.inference_mut();
        inference.begun(Instant::now());
        match usage {
            Some(usage) => inference.counted(usage),
            None => inference.guessed(None, prompt, 0),
        }
        self.succeeded(trying);
        let json = HeaderValue::from_static("application/json");
        if answer::give(self, answered.status, json, body).await {
            self.end(Ending::Completed);
        }
        Ok(Tried::Ended)
    }

    /// A count of tokens is told as the caller's SDK reads it; everything else that generates no words is passed on.
    fn in_callers_words(&self, way: &Way, body: Bytes) -> Result<Bytes, Malformed> {
        let door = &self.task.door;
        match way.operation.counts() {
            Some(of) if !self.passes_through(way) => {
                let tokens = count::read(of, &body)?;
                Ok(count::write(door.dialect, tokens).into())
            }
            _ => Ok(body),
        }
    }

    async fn pass_raw(
        &mut self,
        trying: &mut Trying<'_>,
        held: &mut Held<'_>,
        answered: &ResponseHead,
    ) -> Result<Tried, Stop> {
        let gap = trying.provider().settings.timeouts.gap.0;
        let prompt = self.task.prompt_tokens;
        self.ctx.inference_mut().guessed(None, prompt, 0);
        match stream::pass_raw(self, held, answered, (gap, trying.end())).await {
            Ok(()) => {
                self.succeeded(trying);
                self.end(Ending::Completed);
            }
            Err(Stop::Caller(fault)) => return Err(Stop::Caller(fault)),
            Err(Stop::Endpoint(broken)) => {
                self.note(trying, &Failed::broken(&broken));
                self.caller.cut();
                let (ending, reject) =
                    crate::gateway::endings::of_endpoint(&broken, self.ctx, true);
                self.ctx.reject = Some(reject);
                self.end(ending);
            }
        }
        Ok(Tried::Ended)
    }

    /// The answer has begun: the wait for the provider is over.
    pub fn waited(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.ctx.inference_mut().waited += since.elapsed();
        }
    }

    fn succeeded(&mut self, trying: &mut Trying<'_>) {
        self.opened(trying);
        self.settle(&Arc::clone(trying.provider()), None);
    }

    /// The provider has done its part; the place is still held.
    pub fn opened(&mut self, trying: &mut Trying<'_>) {
        let now = Instant::now();
        let provider = trying.provider();
        provider.keys.worked(&trying.key);
        if let Some(lease) = &mut self.ctx.lease {
            provider.upstream.report(lease, Outcome::Success, now);
        }
        let provider = Arc::clone(provider);
        trying.trial.succeeded(&provider.settings.breaker, now);
        trying.target.metrics.attempted(None);
    }

    /// Everybody learns how it failed: the breaker, the key, the endpoint, and the log.
    fn note(&mut self, trying: &mut Trying<'_>, failed: &Failed) {
        let now = Instant::now();
        let provider = Arc::clone(trying.provider());
        let failure = failed.failure;
        let breaker = &provider.settings.breaker;
        if failure.blames_provider() {
            trying.trial.failed(breaker, now);
        } else if matches!(failure, Failure::Said(_)) {
            trying.trial.succeeded(breaker, now);
        }
        let model = self.task.plan.model_at(trying.target).to_owned();
        if let Some(why) = why_cooled(failed.fault.kind).filter(|_| failure.blames_key()) {
            provider
                .keys
                .cool(&trying.key, (why, &model), failed.fault.retry_after, now);
        }
        if let (FaultKind::Authentication, Some(tokens), Some(token)) =
            (failed.fault.kind, provider.tokens(), &trying.token)
        {
            tokens.refused(token, now);
        }
        let outcome = match failure {
            Failure::NotConnected => Some(Outcome::ConnectFailure),
            Failure::Reset | Failure::Silent => Some(Outcome::Error),
            Failure::NotSaid | Failure::Full | Failure::Said(_) => None,
        };
        if let (Some(outcome), Some(lease)) = (outcome, &mut self.ctx.lease) {
            provider.upstream.report(lease, outcome, now);
        }
        trying.target.metrics.attempted(Some(failure.name()));
        self.settle(&provider, Some(failure.name()));
    }

    /// The attempt is over, and its place free.
    pub fn settle(&mut self, provider: &Provider, reason: Option<&'static str>) {
        self.waited();
        if self.ctx.lease.take().is_none() {
            return;
        }
        if let Some(attempt) = self.ctx.attempts.last_mut() {
            attempt.took = attempt.started.elapsed();
            attempt.reason = reason;
        }
        let last = self.ctx.attempts.iter().last();
        provider
            .upstream
            .count_attempts(last.into_iter().map(Attempt::measures));
    }

    /// What has begun cannot be whole any more, and the caller must learn it.
    async fn break_off(&mut self, trying: &mut Trying<'_>, halt: Halt, sequence: u64) {
        let ending = match &halt {
            Halt::Drain => Ending::CutByDrain,
            Halt::Stop(Stop::Endpoint(Broken::TimedOut)) if self.ctx.is_over_total() => {
                Ending::TimedOutTotal
            }
            Halt::Stop(Stop::Endpoint(Broken::TimedOut)) => Ending::TimedOutIdle,
            Halt::Broke(Broke::Fault(_)) => Ending::ProviderFailed,
            Halt::Broke(Broke::Malformed(_)) => Ending::UpstreamMalformed,
            _ => Ending::UpstreamCut,
        };
        let failed = match halt {
            Halt::Stop(Stop::Caller(fault)) => {
                self.settle(&Arc::clone(trying.provider()), None);
                return self.leave(&fault);
            }
            Halt::Stop(Stop::Endpoint(Broken::TimedOut)) => Failed::silent(),
            halt => match halt.broke() {
                Ok(broke) => Failed::broke(&broke),
                Err(Stop::Endpoint(broken)) => Failed::broken(&broken),
                Err(Stop::Caller(fault)) => return self.leave(&fault),
            },
        };
        if ending != Ending::CutByDrain {
            self.note(trying, &failed);
        }
        let failed = failed.hiding(trying.key.secret());
        self.tell_in_stream(&failed, sequence, ending).await;
    }
}

fn why_cooled(kind: FaultKind) -> Option<Why> {
    match kind {
        FaultKind::RateLimited => Some(Why::RateLimited),
        FaultKind::Authentication | FaultKind::Permission => Some(Why::Refused),
        FaultKind::Payment | FaultKind::Quota => Some(Why::Quota),
        _ => None,
    }
}

fn is(answered: &ResponseHead, media_type: &str) -> bool {
    let value = answered.headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let named = value.and_then(|value| value.split(';').next());
    named.is_some_and(|named| named.trim().eq_ignore_ascii_case(media_type))
}
