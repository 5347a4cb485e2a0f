//! What was used by calls that are not for words: embeddings, pictures, sounds.

use crate::base::usage::Usage;
use serde::Deserialize;

/// `usage` of an answer as `OpenAI` has it for all of these, and Gemini's `usageMetadata`.
#[derive(Deserialize)]
struct Answer {
    usage: Option<Counted>,
    #[serde(rename = "usageMetadata")]
    usage_metadata: Option<Metadata>,
    /// Anthropic's `count_tokens`, and Gemini's, cost nothing.
    #[serde(rename = "totalTokens")]
    total_tokens: Option<u64>,
    input_tokens: Option<u64>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Counted {
    prompt_tokens: u64,
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
    /// Seconds of sound, where `type` is `duration`.
    seconds: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    image_tokens: u64,
    audio_tokens: u64,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    prompt_token_count: u64,
}

fn millis(seconds: f64) -> u64 {
    let time = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// None where the answer does not say.
pub fn of_other(body: &[u8]) -> Option<Usage> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    if answer.total_tokens.is_some() || answer.input_tokens.is_some() {
        return Some(Usage::default());
    }
    if let Some(metadata) = answer.usage_metadata {
        return Some(Usage {
            input: metadata.prompt_token_count,
            ..Usage::default()
        });
    }
    let counted = answer.usage?;
    let input = counted.input_tokens_details.unwrap_or_default();
    let output = counted.output_tokens_details.unwrap_or_default();
    let all_input = counted.prompt_tokens.max(counted.input_tokens);
    Some(Usage {
        input: all_input.saturating_sub(input.image_tokens + input.audio_tokens),
        input_image: input.image_tokens,
        input_audio: input.audio_tokens,
        output: counted
            .output_tokens
            .saturating_sub(output.image_tokens + output.audio_tokens),
        output_image: output.image_tokens,
        output_audio: output.audio_tokens,
        // Never negative: what is no number of seconds is none.
        audio_ms: millis(counted.seconds),
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_answer_is_counted() {
        let usage = |input, output| Usage {
            input,
            output,
            ..Usage::default()
        };
        for (body, expected) in [
            (
                r#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
                Some(usage(8, 0)),
            ),
            (
                r#"{"data":[],"usage":{"input_tokens":50,"output_tokens":200,"input_tokens_details":{"text_tokens":10,"image_tokens":40},"output_tokens_details":{"image_tokens":200}}}"#,
                Some(Usage {
                    input_image: 40,
                    output_image: 200,
                    ..usage(10, 0)
                }),
            ),
            (
                r#"{"text":"","usage":{"type":"duration","seconds":1.5}}"#,
                Some(Usage {
                    audio_ms: 1500,
                    ..Usage::default()
                }),
            ),
            (r#"{"input_tokens":12}"#, Some(Usage::default())),
            (r#"{"totalTokens":12}"#, Some(Usage::default())),
            (r#"{"results":[]}"#, None),
            (r#"{"usage":{"input_tokens":-1}}"#, None),
            ("no", None),
        ] {
            assert_eq!(of_other(body.as_bytes()), expected, "{body}");
        }
    }
}
