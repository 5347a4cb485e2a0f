//! The models there are, told in the dialect of whoever asks.

use super::prepare::told;
use crate::base::reject::Reject;
use crate::gateway::admit::Next;
use crate::gateway::answer;
use crate::snapshot::AiRoute;
use crate::stage::ai::dialect::DialectName;
use crate::stage::ai::door::Door;
use crate::stage::ai::fault::{CallFault, FaultKind};
use serde_json::{Value, json};

pub fn answer(ai: &AiRoute, door: &Door) -> Result<Next, Reject> {
    let body = match &door.model {
        None => {
            let names: Vec<&str> = ai.listed().map(|model| model.name.as_str()).collect();
            list(door.dialect, &names)
        }
        Some(name) => {
            let known = ai.find(name).filter(|plan| !plan.model.targets.is_empty());
            if known.is_none() {
                return Err(told(CallFault {
                    kind: FaultKind::NotFound,
                    message: format!("there is no model `{name}` here"),
                    param: Some("model".to_owned()),
                }));
            }
            one(door.dialect, name)
        }
    };
    answer::json(&body)
}

/// All at once: there are never so many that pages were worth it.
fn list(dialect: DialectName, names: &[&str]) -> Value {
    let models: Vec<Value> = names.iter().map(|name| one(dialect, name)).collect();
    match dialect {
        // In the last two nobody asks.
        DialectName::Chat
        | DialectName::Responses
        | DialectName::Converse
        | DialectName::Cohere => json!({ "object": "list", "data": models }),
        DialectName::Messages => json!({
            "data": models,
            "has_more": false,
            "first_id": names.first(),
            "last_id": names.last(),
        }),
        DialectName::Gemini => json!({ "models": models }),
    }
}

fn one(dialect: DialectName, name: &str) -> Value {
    match dialect {
        // In the last two nobody asks.
        DialectName::Chat
        | DialectName::Responses
        | DialectName::Converse
        | DialectName::Cohere => json!({
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "onemind",
        }),
        DialectName::Messages => json!({
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "1970-01-01T00:00:00Z",
        }),
        DialectName::Gemini => json!({
            "name": format!("models/{name}"),
            "baseModelId": name,
            "version": "1",
            "displayName": name,
            "supportedGenerationMethods": ["generateContent", "streamGenerateContent", "countTokens"],
        }),
    }
}
