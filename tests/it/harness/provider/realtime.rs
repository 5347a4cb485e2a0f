//! A small realtime API: a session is told, each `response.create` is answered and counted, the rest comes back.

use super::fault::{Due, Flavour};
use super::openai::INVALID;
use super::refusal::Refusal;
use super::{Asked, Behaviour, text};
use crate::harness::wire::Wire;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// What each answer is said to have cost: tokens of the prompt, of them sound, of the answer, of them sound.
pub const COST: [u64; 4] = [20, 5, 30, 10];

pub fn is_asked(asked: &Asked) -> bool {
    asked.path == "/v1/realtime" && asked.header("upgrade") == Some("websocket")
}

/// Whether it may be opened; the answer itself is [`serve`].
pub fn check(asked: &Asked, behaviour: &Behaviour) -> Result<Due, Refusal> {
    if asked.header("sec-websocket-version") != Some("13") {
        return Err(Refusal::new(400, INVALID, "websocket version 13 expected"));
    }
    match asked.query_value("model") {
        Some(model) if behaviour.knows_model(model, &["gpt-realtime", "gpt-4o-realtime"]) => {
            Ok(Due::json(Flavour::Other, &json!({})))
        }
        _ => Err(Refusal::new(400, INVALID, "no such realtime model").code("invalid_model")),
    }
}

pub async fn serve(mut wire: Wire, asked: &Asked) {
    let accept = derive_accept_key(asked.header("sec-websocket-key").unwrap().as_bytes());
    let offered = asked.header("sec-websocket-protocol").unwrap_or_default();
    let chosen = if offered.split(", ").any(|one| one == "realtime") {
        "sec-websocket-protocol: realtime\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n{chosen}sec-websocket-accept: {accept}\r\nopenai-organization: org-scripted\r\n\r\n"
    );
    if wire.send(head.as_bytes()).await.is_err() {
        return;
    }
    let rest = wire.unused().to_vec();
    let mut socket =
        WebSocketStream::from_partially_read(&mut wire.io, rest, Role::Server, None).await;
    let session =
        json!({ "type": "session.created", "session": { "model": asked.query_value("model") } });
    let _ = socket.send(Message::text(session.to_string())).await;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(said) = message else {
            continue;
        };
        let event: Value = serde_json::from_str(&said).unwrap_or_default();
        let answers = match text(&event["type"]) {
            "response.create" => answer(),
            _ => vec![said.to_string()],
        };
        for answer in answers {
            if socket.send(Message::text(answer)).await.is_err() {
                return;
            }
        }
    }
}

fn answer() -> Vec<String> {
    let [input, heard, output, spoken] = COST;
    let sound = "QUJD".repeat(20_000);
    let events = [
        json!({ "type": "response.created", "response": { "id": "resp_1" } }),
        json!({ "type": "response.output_audio.delta", "delta": sound }),
        json!({ "type": "response.done", "response": { "id": "resp_1", "status": "completed", "usage": {
            "total_tokens": input + output, "input_tokens": input, "output_tokens": output,
            "input_token_details": { "text_tokens": input - heard, "audio_tokens": heard, "cached_tokens": 0 },
            "output_token_details": { "text_tokens": output - spoken, "audio_tokens": spoken },
        } } }),
    ];
    events.map(|event| event.to_string()).to_vec()
}
