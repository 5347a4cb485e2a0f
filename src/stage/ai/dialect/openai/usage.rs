//! Usage in the words of `OpenAI`'s two dialects, and of those who speak them.

use super::super::super::fault::Malformed;
use crate::base::usage::Usage;
use serde_json::{Map, Value, json};

/// Usage in either dialect's words, its classes taken apart; none where nothing was counted. A part that is
/// larger than its whole is cut to it, so that the classes always add up to what is charged.
pub fn read_usage(value: &Value) -> Result<Option<Usage>, Malformed> {
    let Some(usage) = value.as_object().filter(|usage| !usage.is_empty()) else {
        return Ok(None);
    };
    let count = |names: &[&str]| count(usage, names);
    let prompt = count(&["prompt_tokens", "input_tokens"])?;
    let mut completion = count(&["completion_tokens", "output_tokens"])?;
    let of_prompt = |name: &str| {
        detail(
            usage,
            &["prompt_tokens_details", "input_tokens_details"],
            name,
        )
    };
    let of_completion = |name: &str| {
        detail(
            usage,
            &["completion_tokens_details", "output_tokens_details"],
            name,
        )
    };
    // DeepSeek's and Mistral's words for what was cached.
    let cached = match of_prompt("cached_tokens")? {
        0 => count(&["prompt_cache_hit_tokens", "num_cached_tokens"])?,
        cached => cached,
    };
    let thought = of_completion("reasoning_tokens")?;
    // xAI may count thoughts beside the answer and not within; the total tells.
    let total = count(&["total_tokens"])?;
    if thought > 0 && total == prompt.saturating_add(completion).saturating_add(thought) {
        completion = completion.saturating_add(thought);
    }

    let mut input = prompt;
    let mut output = completion;
    Ok(Some(Usage {
        cache_read: part(&mut input, cached),
        cache_write: part(&mut input, of_prompt("cache_write_tokens")?),
        input_audio: part(&mut input, of_prompt("audio_tokens")?),
        input_image: part(&mut input, of_prompt("image_tokens")?),
        input,
        reasoning: part(&mut output, thought),
        output_audio: part(&mut output, of_completion("audio_tokens")?),
        output_image: part(&mut output, of_completion("image_tokens")?),
        output,
        searches: count(&["num_search_queries"])?,
        ..Usage::default()
    }))
}

/// Usage in the words of chat completions.
pub fn chat_usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.total_input(),
        "completion_tokens": usage.total_output(),
        "total_tokens": usage.total(),
        "prompt_tokens_details": input_details(usage),
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.output_audio,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// Usage in the words of responses.
pub fn responses_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.total_input(),
        "input_tokens_details": input_details(usage),
        "output_tokens": usage.total_output(),
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total(),
    })
}

fn input_details(usage: &Usage) -> Value {
    json!({
        "cached_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write.saturating_add(usage.cache_write_hour),
        "audio_tokens": usage.input_audio,
    })
}

/// Takes at most what is left.
fn part(left: &mut u64, wanted: u64) -> u64 {
    let taken = wanted.min(*left);
    *left -= taken;
    taken
}

fn detail(usage: &Map<String, Value>, within: &[&str], name: &str) -> Result<u64, Malformed> {
    within
        .iter()
        .find_map(|object| usage.get(*object)?.as_object())
        .map_or(Ok(0), |details| count(details, &[name]))
}

/// The first of these that is there; 0 if none is.
fn count(object: &Map<String, Value>, names: &[&str]) -> Result<u64, Malformed> {
    let Some((name, value)) = names
        .iter()
        .find_map(|name| Some((name, object.get(*name).filter(|value| !value.is_null())?)))
    else {
        return Ok(0);
    };
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..9e15).contains(float);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be whole, not negative and small"
    )]
    let float = || value.as_f64().filter(whole).map(|float| float as u64);
    value
        .as_u64()
        .or_else(float)
        .ok_or_else(|| Malformed(format!("usage counts {value} as {name}")))
}
