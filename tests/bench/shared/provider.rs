//! A provider of models that costs next to nothing: chat completions as `OpenAI` answers them and messages as Anthropic does,
//! whole (1 KiB, at once) or as a stream of 100 events, one every 20 ms. Each event carries the time at which it was sent.

use crate::Outcome;
use crate::wire::{Connection, now_us};
use memchr::memmem;
use std::fmt::Write;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};

/// Events of content in a stream.
pub const EVENTS: u32 = 100;
pub const EVERY: Duration = Duration::from_millis(20);

const USAGE: &str = r#"{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}"#;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tongue {
    Chat,
    Messages,
}

/// `provider PORT`
pub fn run(arguments: &[String]) -> Outcome<()> {
    let port: u16 = arguments.first().ok_or("provider PORT")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (caller, _) = listener.accept().await?;
            let caller = Connection::of(caller)?;
            // a caller that leaves is no news here
            tokio::spawn(async move { serve(caller).await.ok() });
        }
    })
}

async fn serve(mut caller: Connection) -> Outcome<()> {
    while let Some((target, body)) = caller.request().await? {
        let tongue = if target.contains("/messages") {
            Tongue::Messages
        } else {
            Tongue::Chat
        };
        let asks = |what: &str| {
            let found = memmem::find(&body, format!("\"{what}\"").as_bytes());
            let rest = found
                .map(|at| &body[at + what.len() + 2..])
                .unwrap_or_default();
            let rest: Vec<u8> = rest
                .iter()
                .copied()
                .filter(|byte| *byte != b' ')
                .take(5)
                .collect();
            rest == b":true"
        };
        if asks("stream") {
            stream(&mut caller, tongue, asks("include_usage")).await?;
        } else {
            caller.stream.write_all(whole(tongue).as_bytes()).await?;
        }
    }
    Ok(())
}

fn whole(tongue: Tongue) -> String {
    let words = "word ".repeat(150);
    let body = match tongue {
        Tongue::Chat => format!(
            r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench-1","choices":[{{"index":0,"message":{{"role":"assistant","content":"{words}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{USAGE}}}"#
        ),
        Tongue::Messages => format!(
            r#"{{"id":"msg_bench","type":"message","role":"assistant","model":"claude-1","content":[{{"type":"text","text":"{words}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":200,"output_tokens":150}}}}"#
        ),
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn stream(caller: &mut Connection, tongue: Tongue, usage: bool) -> Outcome<()> {
    let mut out =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                   Transfer-Encoding: chunked\r\n\r\n"
            .to_owned();
    for event in opening(tongue) {
        chunk(&mut out, &event);
    }
    let begin = Instant::now();
    for nth in 0..EVENTS {
        sleep_until(begin + EVERY * nth).await;
        chunk(&mut out, &content(tongue, &format!("@{}#{nth};", now_us())));
        caller.stream.write_all(out.as_bytes()).await?;
        out.clear();
    }
    for event in closing(tongue, usage) {
        chunk(&mut out, &event);
    }
    out.push_str("0\r\n\r\n");
    Ok(caller.stream.write_all(out.as_bytes()).await?)
}

fn chunk(out: &mut String, event: &str) {
    // writing to a string cannot fail
    let _ = write!(out, "{:x}\r\n{event}\r\n", event.len());
}

fn opening(tongue: Tongue) -> Vec<String> {
    match tongue {
        Tongue::Chat => vec![of_chat(r#"{"role":"assistant","content":""}"#, "null")],
        Tongue::Messages => vec![
            of_messages(
                "message_start",
                r#""message":{"id":"msg_bench","type":"message","role":"assistant","model":"claude-1","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":200,"output_tokens":1}}"#,
            ),
            of_messages(
                "content_block_start",
                r#""index":0,"content_block":{"type":"text","text":""}"#,
            ),
        ],
    }
}

fn content(tongue: Tongue, text: &str) -> String {
    match tongue {
        Tongue::Chat => of_chat(&format!(r#"{{"content":"{text}"}}"#), "null"),
        Tongue::Messages => of_messages(
            "content_block_delta",
            &format!(r#""index":0,"delta":{{"type":"text_delta","text":"{text}"}}"#),
        ),
    }
}

fn closing(tongue: Tongue, usage: bool) -> Vec<String> {
    match tongue {
        Tongue::Chat => {
            let mut events = vec![of_chat("{}", "\"stop\"")];
            if usage {
                events.push(format!(
                    "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
                     \"model\":\"bench-1\",\"choices\":[],\"usage\":{USAGE}}}\n\n"
                ));
            }
            events.push("data: [DONE]\n\n".to_owned());
            events
        }
        Tongue::Messages => vec![
            of_messages("content_block_stop", r#""index":0"#),
            of_messages(
                "message_delta",
                r#""delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":150}"#,
            ),
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n".to_owned(),
        ],
    }
}

fn of_chat(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench-1\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn of_messages(kind: &str, rest: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n")
}
