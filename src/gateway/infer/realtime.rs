//! A WebSocket to a model that hears and speaks: opened at one provider, and with it and one of its keys to the end.
//!
//! Until the provider has agreed, another target may be tried; from then on it is a tunnel. The model is the one of
//! the address: by the API's own rules `session.update` changes anything but that, so it is not looked for.

use super::begin::Trying;
use super::prepare::{self, Read, Task};
use super::send::{self, Question};
use super::{Failed, Run, Tried, headers};
use crate::base::reject::Reject;
use crate::gateway::admit::{self, Next};
use crate::gateway::caller::{Caller, Extent};
use crate::gateway::context::RequestContext;
use crate::gateway::life::Stop;
use crate::gateway::{limit, shed, trace, tunnel};
use crate::snapshot::{AiRoute, Route};
use crate::stage::ai::door::{self, Door};
use crate::stage::ai::fault::CallFault;
use crate::stage::upstream::connector::Purpose;
use crate::wire::fields;
use crate::wire::head::ResponseHead;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::time::Instant;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Finds the model and counts the WebSocket under the limits of its route.
pub async fn enter(
    caller: &Caller,
    ctx: &mut RequestContext,
    (route, ai, door): (&Route, &AiRoute, Door),
) -> Result<Next, Reject> {
    let parts: &Parts = &caller.head;
    // Beyond what all requests may be; once it is open it is counted among its like.
    drop(shed::place(ctx)?);
    let tunnel = admit::open_tunnel(parts, ctx, route)?.ok_or_else(|| {
        let how = "must be `websocket`: open a WebSocket here, by HTTP/1.1";
        prepare::told(CallFault::invalid("upgrade", how))
    })?;
    let asked = model_of(parts, ctx);
    ctx.inference_mut().asked.clone_from(&asked);
    let plan = ai
        .find(&asked)
        .ok_or_else(|| prepare::unknown_model(&asked))?;
    let said = (Bytes::new(), Read::default());
    let task: Task = prepare::order(ctx, door, plan, said, &parts.headers)?;
    limit::acquire(ctx, route, Some(&task.demand(task.targets.first()))).await?;
    if let Some(admission) = &mut ctx.admission {
        admission.tunnel = Some(tunnel);
    }
    Ok(Next::Infer(Box::new(task)))
}

/// `?model=`; empty where there is none.
fn model_of(parts: &Parts, ctx: &RequestContext) -> String {
    let admission = ctx.admission.as_ref();
    let target = admission.and_then(|admission| admission.target.as_deref());
    let query = match target {
        Some(target) => target.split_once('?').map(|(_, query)| query),
        None => parts.uri.query(),
    };
    door::in_query(query.unwrap_or_default(), "model").unwrap_or_default()
}

impl Run<'_> {
    /// Opens it at the target, and lets both sides talk.
    pub async fn open(&mut self, trying: &mut Trying<'_>) -> Result<Tried, Stop> {
        let model = self.task.plan.model_at(trying.target).to_owned();
        let asked = &self.caller.head.headers;
        let target = trying.target;
        let mut question = Question {
            method: Method::GET,
            target: format!(
                "{}{}{}",
                target.provider.base_path,
                trying.way.path(&model, false),
                target.provider.query
            ),
            headers: headers::to_realtime(asked, (target, trying.way)),
            body: Bytes::new(),
            upgrade: Some(WEBSOCKET),
        };
        // This attempt has begun already.
        let nth = self.ctx.attempts.len().saturating_sub(1);
        trace::show(&mut question.headers, self.ctx, nth);
        let shown = (&trying.key, trying.token.as_ref());
        headers::show(&mut question, (target, trying.way), shown);
        let (mut held, _) = self.connect(trying, Purpose::Upgrade).await?;
        self.waiting_since = Some(Instant::now());
        let patience = trying.provider().settings.timeouts.first_token.0;
        let answered = send::ask(self, &mut held, &question, patience).await?;
        self.learn_limits(trying, &answered);
        self.answered(answered.status);
        if answered.status.as_u16() >= 400 {
            return self.receive_fault(trying, &mut held, answered).await;
        }
        let agreed = match agreed(&answered, &self.caller.head.headers) {
            Ok(agreed) => agreed,
            Err(what) => return Ok(Tried::Failed(Failed::malformed(what))),
        };
        self.waited();
        self.opened(trying);
        self.give_head(agreed)?;
        tunnel::run(held, self.caller, self.ctx, self.timer).await;
        self.settle(&std::sync::Arc::clone(trying.provider()), None);
        Ok(Tried::Ended)
    }

    fn give_head(&mut self, mut head: ResponseHead) -> Result<(), Stop> {
        self.ctx.status = head.status.as_u16();
        self.decorate(&mut head.headers);
        let put = self.caller.put_head(head, Extent::Nothing);
        put.map_err(Stop::Caller)
    }
}

/// The head for a caller whose WebSocket stands; or what is wrong with the provider's.
fn agreed(answered: &ResponseHead, asked: &HeaderMap) -> Result<ResponseHead, &'static str> {
    let has = |name, value| fields::lists(&answered.headers, &name, value);
    if answered.status != StatusCode::SWITCHING_PROTOCOLS || !has(header::UPGRADE, "websocket") {
        return Err("no WebSocket");
    }
    if answered
        .headers
        .contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
    {
        return Err("an extension of WebSocket that nobody asked for");
    }
    let accept = answered.headers.get(header::SEC_WEBSOCKET_ACCEPT);
    let accept = accept.ok_or("a WebSocket without `Sec-WebSocket-Accept`")?;
    let mut head = ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS);
    head.headers
        .insert(header::SEC_WEBSOCKET_ACCEPT, accept.clone());
    if let Some(chosen) = answered.headers.get(header::SEC_WEBSOCKET_PROTOCOL) {
        let offered = headers::sub_protocols(asked).any(|one| one.as_bytes() == chosen.as_bytes());
        if !offered {
            return Err("a sub-protocol that was not offered");
        }
        head.headers
            .insert(header::SEC_WEBSOCKET_PROTOCOL, chosen.clone());
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn a_websocket_stands_only_as_it_was_asked_for() {
        let asked = map(&[(
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.k",
        )]);
        let usual = ("upgrade", "WebSocket");
        let accept = ("sec-websocket-accept", "x");
        for (status, headers, protocol) in [
            (101, vec![usual, accept], Ok(None)),
            (
                101,
                vec![usual, accept, ("sec-websocket-protocol", "realtime")],
                Ok(Some("realtime")),
            ),
            (200, vec![usual, accept], Err(())),
            (101, vec![accept], Err(())),
            (101, vec![usual], Err(())),
            (
                101,
                vec![
                    usual,
                    accept,
                    ("sec-websocket-protocol", "openai-insecure-api-key.k"),
                ],
                Err(()),
            ),
            (
                101,
                vec![
                    usual,
                    accept,
                    ("sec-websocket-extensions", "permessage-deflate"),
                ],
                Err(()),
            ),
        ] {
            let mut answered = ResponseHead::new(StatusCode::from_u16(status).unwrap());
            answered.headers = map(&headers);
            let head = agreed(&answered, &asked);
            let chosen = head.as_ref().map(|head| {
                let chosen = head.headers.get("sec-websocket-protocol");
                chosen.map(|chosen| chosen.to_str().unwrap())
            });
            assert_eq!(chosen.map_err(|_| ()), protocol, "{status} {headers:?}");
        }
    }
}
