//! What a caller asks of which model: the call is read whole, counted, and its targets are put in order.

use super::record::Inference;
use super::{models, realtime};
use crate::base::reject::{Reject, RejectKind, Said};
use crate::gateway::admit::Next;
use crate::gateway::caller::{Caller, CallerFault};
use crate::gateway::context::RequestContext;
use crate::gateway::timer::Timer;
use crate::gateway::{endings, identify, limit, shed};
use crate::snapshot::{AiRoute, Plan, Route, Target, Targets};
use crate::stage::ai::address;
use crate::stage::ai::call::Call;
use crate::stage::ai::count;
use crate::stage::ai::dialect::InPath;
use crate::stage::ai::door::{self, Door, NoDoor};
use crate::stage::ai::fault::{CallFault, FaultKind};
use crate::stage::ai::form;
use crate::stage::ai::order::Choice;
use crate::stage::ai::peek::Peek;
use crate::stage::ai::provider::Operation;
use crate::stage::ai::settings::FallbackOn;
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::cell::OnceCell;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// It is logged, sent on, and told in headers.
const MODEL_BYTES_MAX: usize = 256;

/// Tokens of an answer whose length the caller did not limit, at a guess, until it is known.
const ANSWER_TOKENS: u64 = 1_000;

/// A call that may be made.
pub struct Task {
    pub door: Door,
    pub stream: bool,
    pub plan: Plan,
    /// What is to be tried, in this order.
    pub targets: Vec<Arc<Target>>,
    pub body: Bytes,
    pub content_type: Option<HeaderValue>,
    /// The top level of a JSON body.
    pub peek: Peek,
    /// Where the model's name stands in a form.
    pub form_model: Option<Range<usize>>,
    /// Tokens of the prompt, at a guess.
    pub prompt_tokens: u64,
    /// How long a stream may be silent before it gets a comment; zero: for ever.
    pub heartbeat: Duration,
    call: OnceCell<Call>,
}

impl Task {
    /// The call in no vendor's words; read once, for the first target that speaks another dialect.
    pub fn call(&self) -> Result<&Call, CallFault> {
        if let Some(call) = self.call.get() {
            return Ok(call);
        }
        let path = InPath {
            model: self.door.model.as_deref(),
            stream: self.stream,
        };
        let call = match self.door.operation.counts() {
            Some(dialect) => count::read_call(dialect, &self.body, &path)?,
            None => self.door.dialect.dialect().read_call(&self.body, &path)?,
        };
        Ok(self.call.get_or_init(|| call))
    }

    /// What the call would use, at a guess, at this target.
    pub fn demand<'t>(&'t self, target: Option<&'t Arc<Target>>) -> limit::Demand<'t> {
        let answer = self.peek.max_tokens.unwrap_or(ANSWER_TOKENS);
        limit::Demand {
            provider: target.map(|target| target.provider.name.as_str()),
            model: &self.plan.model.name,
            tokens: self.prompt_tokens.saturating_add(answer),
        }
    }

    /// No other target will be asked: what only another attempt would need is given back.
    pub fn answered(&mut self) {
        self.body = Bytes::new();
        self.call = OnceCell::new();
    }

    /// Whether the model's configuration wants another target to be tried after this refusal.
    pub fn falls_back(&self, kind: FaultKind) -> bool {
        let on = match kind {
            FaultKind::ContextLength => FallbackOn::ContextLength,
            FaultKind::ContentPolicy => FallbackOn::ContentPolicy,
            _ => return false,
        };
        self.plan
            .model
            .settings
            .fallback_on
            .iter()
            .any(|one| *one == on)
    }
}

/// The door that a request came to. From here on it is refused in the words of its dialect.
pub fn enter(parts: &Parts, ctx: &mut RequestContext) -> Result<Door, Reject> {
    let admission = ctx.admission.as_ref();
    let target = admission.and_then(|admission| admission.target.as_deref());
    let query = match target {
        Some(target) => target.split_once('?').map(|(_, query)| query),
        None => parts.uri.query(),
    };
    let path = target.unwrap_or_else(|| parts.uri.path());
    let path = path.split('?').next().unwrap_or_default();
    let speaks = door::spoken(&parts.headers);
    let found = door::find(&parts.method, path, speaks);
    let (dialect, operation) = match &found {
        Ok(door) => (door.dialect, door.operation),
        Err(_) => (door::dialect_of(path, speaks), Operation::Chat),
    };
    let inference = Inference::new(dialect, operation.name(), ctx.started);
    ctx.inference = Some(Box::new(inference));
    let door = found.map_err(|no| match no {
        NoDoor::Unknown => RejectKind::NoRoute.because("no API of a model has this path"),
        NoDoor::Method(allow) => Reject {
            allow: Some(allow.to_owned()),
            ..RejectKind::MethodNotAllowed.into()
        },
    })?;
    door.in_form_of(query.unwrap_or_default()).map_err(told)
}

/// Reads the call, finds the model, and counts it all under the limits of its route.
pub async fn run(
    caller: &mut Caller,
    ctx: &mut RequestContext,
    timer: &mut Timer,
    (route, ai, door): (&Route, &AiRoute, Door),
) -> Result<Next, Reject> {
    match door.operation {
        Operation::Models => {
            limit::acquire(ctx, route, None).await?;
            return models::answer(ai, &door);
        }
        Operation::Realtime => return realtime::enter(caller, ctx, (route, ai, door)).await,
        _ => {}
    }
    limit::refuse_known(ctx, route)?;
    let place = shed::place(ctx)?;
    let reading = Instant::now();
    let body = match read(caller, ctx, timer, route).await {
        Ok(body) => body,
        Err(fault) => return gone(caller, ctx, &fault),
    };
    ctx.inference_mut().waited += reading.elapsed();
    let mut task = match understand(ctx, (ai, door), body, &caller.head.headers) {
        Ok(task) => task,
        Err(reject) => {
            // It counts like any other, or else mistakes would be free.
            limit::acquire(ctx, route, None).await?;
            return Err(reject);
        }
    };
    take(ctx, route, &mut task).await?;
    ctx.place = Some(place);
    ctx.inference_mut().streamed = task.stream;
    Ok(Next::Infer(Box::new(task)))
}

/// Which model is asked, and where it is to be had.
fn understand(
    ctx: &mut RequestContext,
    (ai, door): (&AiRoute, Door),
    body: Bytes,
    headers: &HeaderMap,
) -> Result<Task, Reject> {
    refuse_encoded(headers)?;
    let read = Read::of(&door, &body, headers).map_err(told)?;
    if read.peek.odd_address && (door.generates() || door.operation.counts().is_some()) {
        address::check(door.dialect, &body).map_err(told)?;
    }
    let asked = door.model.clone().or_else(|| read.model.clone());
    let asked = asked.unwrap_or_default();
    if asked.len() > MODEL_BYTES_MAX {
        return Err(told(CallFault::invalid(
            "model",
            "no model has so long a name",
        )));
    }
    ctx.inference_mut().asked.clone_from(&asked);
    let plan = ai.find(&asked).ok_or_else(|| unknown_model(&asked))?;
    let mut task = order(ctx, door, plan, (body, read), headers)?;
    task.heartbeat = ai.heartbeat();
    Ok(task)
}

/// Counts the call at the first provider whose own limits let it.
async fn take(ctx: &mut RequestContext, route: &Route, task: &mut Task) -> Result<(), Reject> {
    loop {
        let first = task.targets.first();
        let Err(refused) = limit::acquire(ctx, route, Some(&task.demand(first))).await else {
            return Ok(());
        };
        let Some(provider) = first.map(|target| Arc::clone(&target.provider)) else {
            return Err(refused);
        };
        let rule = refused.rule.as_deref().unwrap_or_default();
        if route.limits.is_by_provider(rule) {
            task.targets
                .retain(|target| target.provider.name != provider.name);
        }
        if task.targets.is_empty() || !route.limits.is_by_provider(rule) {
            return Err(refused);
        }
    }
}

/// What must be known of a body.
#[derive(Default)]
pub struct Read {
    peek: Peek,
    model: Option<String>,
    form_model: Option<Range<usize>>,
}

impl Read {
    fn of(door: &Door, body: &Bytes, headers: &HeaderMap) -> Result<Self, CallFault> {
        if door.takes_form() {
            return Self::form(body, headers);
        }
        let peek = Peek::read(body)?;
        Ok(Self {
            model: peek.model.clone(),
            peek,
            form_model: None,
        })
    }

    fn form(body: &Bytes, headers: &HeaderMap) -> Result<Self, CallFault> {
        let content_type = headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let boundary = content_type.and_then(form::boundary).ok_or_else(|| {
            CallFault::invalid(
                "content-type",
                "send a form: multipart/form-data with a boundary",
            )
        })?;
        let place = form::model(body, &boundary);
        let model = place.clone().map(|place| &body[place]);
        let model = model.map(|model| String::from_utf8_lossy(model).into_owned());
        Ok(Self {
            peek: Peek::default(),
            model,
            form_model: place,
        })
    }
}

/// The targets that can do it, in the order in which they are to be tried.
pub fn order(
    ctx: &RequestContext,
    door: Door,
    plan: Plan,
    (body, read): (Bytes, Read),
    headers: &HeaderMap,
) -> Result<Task, Reject> {
    let stream = door.stream || (door.generates() && read.peek.stream);
    let prompt_tokens = read.peek.weight.estimate();
    let user = identify::counted(ctx).unwrap_or_default();
    let choice = Choice {
        key: plan.key(&user, fastrand::u64(..)),
        input_tokens: prompt_tokens,
        output_tokens: read.peek.max_tokens.unwrap_or(ANSWER_TOKENS),
    };
    let now = Instant::now();
    let Targets { in_order, earliest } = plan.order(&choice, now);
    if in_order.is_empty() {
        return Err(Reject {
            retry_after: earliest.map(|at| at.saturating_duration_since(now)),
            ..RejectKind::NoHealthyEndpoint.because("no target of the model can be tried now")
        });
    }
    let mut targets = in_order.into_vec();
    targets.retain(|target| can(target, plan.model_at(target), &door));
    if targets.is_empty() {
        let operation = door.operation.name();
        return Err(told(CallFault {
            kind: FaultKind::NotFound,
            message: format!("no provider of this model takes {operation}"),
            param: Some("model".to_owned()),
        }));
    }
    Ok(Task {
        stream,
        plan,
        targets,
        body,
        content_type: headers.get(header::CONTENT_TYPE).cloned(),
        peek: read.peek,
        form_model: read.form_model,
        prompt_tokens,
        heartbeat: Duration::ZERO,
        call: OnceCell::new(),
        door,
    })
}

fn can(target: &Target, model: &str, door: &Door) -> bool {
    let kind = target.provider.kind;
    kind.way_for(door.operation, model).is_some()
}

/// What is compressed cannot be looked at, and no SDK sends it so.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), Reject> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(told(CallFault::invalid(
            "content-encoding",
            "send the body as it is, without compression",
        ))),
        _ => Ok(()),
    }
}

/// The whole body.
async fn read(
    caller: &mut Caller,
    ctx: &RequestContext,
    timer: &mut Timer,
    route: &Route,
) -> Result<Bytes, CallerFault> {
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    let mut pace = ctx.pace();
    timer.set(ctx.idle_limit(), ctx.deadline());
    loop {
        let piece = poll_fn(|cx| {
            let polled = caller.poll_body(cx);
            if polled.is_ready() {
                return polled;
            }
            if let Some(patience) = pace.patience(caller.bytes_in, Instant::now()) {
                timer.not_later(patience);
            }
            timer.poll(cx).map(|()| Err(CallerFault::TimedOut))
        })
        .await?;
        let Some(piece) = piece else {
            return Ok(if all.is_empty() { first } else { all.freeze() });
        };
        if caller.bytes_in > route.settings.body_max().0 {
            return Err(CallerFault::BodyTooLarge);
        }
        timer.set(ctx.idle_limit(), ctx.deadline());
        if first.is_empty() && all.is_empty() {
            first = piece;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&piece);
        }
    }
}

/// The caller will not get its answer.
fn gone(
    caller: &mut Caller,
    ctx: &mut RequestContext,
    fault: &CallerFault,
) -> Result<Next, Reject> {
    let (ending, reject) = endings::of_caller(fault);
    ctx.end(ending);
    if let Some(reject) = reject {
        caller.close_after();
        return Err(reject);
    }
    caller.cut();
    Ok(Next::Nothing)
}

pub fn unknown_model(asked: &str) -> Reject {
    if asked.is_empty() {
        return told(CallFault::invalid(
            "model",
            "name a model: there is no default here",
        ));
    }
    told(CallFault {
        kind: FaultKind::NotFound,
        message: format!("there is no model `{asked}` here"),
        param: Some("model".to_owned()),
    })
}

/// A call that cannot be made, as its caller is told.
pub fn told(fault: CallFault) -> Reject {
    let (status, code, kind) = match fault.kind {
        FaultKind::NotFound => (404, "model_not_found", RejectKind::UnknownModel),
        kind => (kind.status(), kind.code(), RejectKind::BadCall),
    };
    let internal = match &fault.param {
        Some(param) => format!("{param}: {}", fault.message),
        None => fault.message.clone(),
    };
    Reject {
        said: Some(Box::new(Said {
            status,
            code,
            message: fault.message,
            param: fault.param,
        })),
        ..kind.because(internal)
    }
}
