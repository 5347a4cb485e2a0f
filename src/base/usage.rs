//! What a request to a model used: classes that never overlap, so that each has its own price.

/// Tokens and other units of one request. A token is in exactly one class: what a provider counts twice
/// (cached tokens within prompt tokens, reasoning within completion tokens) is taken apart when it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens that are in none of the classes below.
    pub input: u64,
    /// Prompt tokens that the provider had in its cache.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache for about five minutes, or for as long as it likes.
    pub cache_write: u64,
    /// Prompt tokens written to the provider's cache for an hour.
    pub cache_write_hour: u64,
    pub input_audio: u64,
    pub input_image: u64,
    /// Tokens of the answer that are in none of the classes below.
    pub output: u64,
    /// Tokens of thought, which are paid like those of the answer.
    pub reasoning: u64,
    pub output_audio: u64,
    pub output_image: u64,
    /// Searches that the provider made.
    pub searches: u64,
    /// Audio heard or spoken, in milliseconds, where the provider counts time and not tokens.
    pub audio_ms: u64,
}

impl Usage {
    /// Each class by its name, as it is logged and counted.
    pub fn classes(&self) -> [(&'static str, u64); 12] {
        [
            ("input", self.input),
            ("cache_read", self.cache_read),
            ("cache_write", self.cache_write),
            ("cache_write_hour", self.cache_write_hour),
            ("input_audio", self.input_audio),
            ("input_image", self.input_image),
            ("output", self.output),
            ("reasoning", self.reasoning),
            ("output_audio", self.output_audio),
            ("output_image", self.output_image),
            ("searches", self.searches),
            ("audio_ms", self.audio_ms),
        ]
    }

    /// Tokens of the prompt, of all classes.
    pub fn total_input(&self) -> u64 {
        [
            self.input,
            self.cache_read,
            self.cache_write,
            self.cache_write_hour,
            self.input_audio,
            self.input_image,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Tokens of the answer, of all classes.
    pub fn total_output(&self) -> u64 {
        [
            self.output,
            self.reasoning,
            self.output_audio,
            self.output_image,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = u64::saturating_add;
        Self {
            input: sum(self.input, other.input),
            cache_read: sum(self.cache_read, other.cache_read),
            cache_write: sum(self.cache_write, other.cache_write),
            cache_write_hour: sum(self.cache_write_hour, other.cache_write_hour),
            input_audio: sum(self.input_audio, other.input_audio),
            input_image: sum(self.input_image, other.input_image),
            output: sum(self.output, other.output),
            reasoning: sum(self.reasoning, other.reasoning),
            output_audio: sum(self.output_audio, other.output_audio),
            output_image: sum(self.output_image, other.output_image),
            searches: sum(self.searches, other.searches),
            audio_ms: sum(self.audio_ms, other.audio_ms),
        }
    }

    pub fn total(&self) -> u64 {
        self.total_input().saturating_add(self.total_output())
    }
}
