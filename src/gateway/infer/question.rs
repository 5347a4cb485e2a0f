//! A call as a target is asked it: in its own dialect, with its own name for the model, and its own key.

use super::send::Question;
use super::{Failed, Run, headers};
use crate::gateway::trace;
use crate::snapshot::Target;
use crate::stage::ai::count;
use crate::stage::ai::dialect::DialectName;
use crate::stage::ai::fault::CallFault;
use crate::stage::ai::form;
use crate::stage::ai::key_ring::Picked;
use crate::stage::ai::peek::{Edits, Peek};
use crate::stage::ai::provider::{MaxTokens, Operation, VERTEX, Way};
use bytes::Bytes;
use http::{HeaderValue, Method};

impl Run<'_> {
    /// How a target is asked.
    pub fn way_of<'t>(&self, target: &'t Target) -> Option<&'t Way> {
        let kind = target.provider.kind;
        let operation = self.task.door.operation;
        let model = self.task.plan.model_at(target);
        kind.way_for(operation, model)
    }

    /// Whether the target is asked in the caller's own words.
    pub fn passes_through(&self, way: &Way) -> bool {
        way.operation == self.task.door.operation
    }

    pub fn question(
        &mut self,
        (target, way): (&Target, &Way),
        shown: (&Picked, Option<&HeaderValue>),
    ) -> Result<Question, Failed> {
        let model = self.task.plan.model_at(target).to_owned();
        self.dropped.clear();
        let body = if self.passes_through(way) {
            self.patched((target, way), &model)
        } else {
            self.translated(target, way, &model)
                .map_err(Failed::of_call)?
        };
        let stream = self.task.stream;
        let form = self.task.door.takes_form();
        let content_type = self.task.content_type.as_ref().filter(|_| form);
        let caller = &self.caller.head.headers;
        let provider = &target.provider;
        let path = way.path(&model, stream);
        let mut question = Question {
            method: Method::POST,
            target: format!("{}{path}{}", provider.base_path, provider.query),
            headers: headers::to_provider(caller, (target, way), content_type, stream),
            body,
            upgrade: None,
        };
        trace::show(&mut question.headers, self.ctx, self.ctx.attempts.len());
        headers::show(&mut question, (target, way), shown);
        Ok(question)
    }

    /// The caller's own bytes, but for the model's name and what we must be told in a stream.
    fn patched(&self, (target, way): (&Target, &Way), model: &str) -> Bytes {
        let task = &self.task;
        if task.door.takes_form() {
            return match &task.form_model {
                Some(place) => form::patch(&task.body, place, model),
                None => task.body.clone(),
            };
        }
        if is_claude_on_vertex(target, way) {
            return task.peek.patch(&task.body, &CLAUDE_ON_VERTEX).into();
        }
        let in_path = task.door.dialect == DialectName::Gemini;
        let other = !in_path && task.peek.model.as_deref() != Some(model);
        let counts = self.counts_by_ourselves() && target.provider.kind.habits.include_usage;
        if !other && !counts {
            return task.body.clone();
        }
        let edits = Edits {
            model: other.then_some(model),
            include_usage: counts,
            in_place_of_model: None,
        };
        task.peek.patch(&task.body, &edits).into()
    }

    /// Whether usage must be asked for that the caller did not ask for.
    pub fn counts_by_ourselves(&self) -> bool {
        let task = &self.task;
        task.stream && task.door.dialect == DialectName::Chat && !task.peek.include_usage
    }

    fn translated(&mut self, target: &Target, way: &Way, model: &str) -> Result<Bytes, CallFault> {
        let mut call = self.task.call()?.clone();
        model.clone_into(&mut call.model);
        call.stream = self.task.stream;
        call.include_usage = target.provider.kind.habits.include_usage;
        let counts = way.operation.counts();
        let dialect = way.operation.dialect().or(counts);
        let dialect = dialect.unwrap_or(DialectName::Chat);
        let written = dialect.dialect().write_call(&call)?;
        self.dropped = written.dropped;
        if counts.is_some() {
            let at_top = *target.provider.kind == VERTEX;
            return Ok(count::ask(dialect, &written.body, model, at_top).into());
        }
        let habits = &target.provider.kind.habits;
        if dialect == DialectName::Chat && habits.max_tokens == MaxTokens::Plain {
            return Ok(with_max_tokens(written.body).into());
        }
        if is_claude_on_vertex(target, way) {
            let peek = Peek::read(&written.body)?;
            return Ok(peek.patch(&written.body, &CLAUDE_ON_VERTEX).into());
        }
        Ok(written.body.into())
    }
}

/// Google names the model in the path, and the version of Anthropic's API in the body.
const CLAUDE_ON_VERTEX: Edits<'static> = Edits {
    model: None,
    include_usage: false,
    in_place_of_model: Some(r#""anthropic_version":"vertex-2023-10-16""#),
};

fn is_claude_on_vertex(target: &Target, way: &Way) -> bool {
    *target.provider.kind == VERTEX && way.operation == Operation::Messages
}

/// The longest answer by the name that all but `OpenAI` know it by.
fn with_max_tokens(body: Vec<u8>) -> Vec<u8> {
    const FROM: &str = "max_completion_tokens";
    let Ok(serde_json::Value::Object(mut call)) = serde_json::from_slice(&body) else {
        return body;
    };
    let Some(limit) = call.shift_remove(FROM) else {
        return body;
    };
    call.insert("max_tokens".to_owned(), limit);
    serde_json::Value::Object(call).to_string().into_bytes()
}
