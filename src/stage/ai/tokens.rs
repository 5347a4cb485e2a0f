//! How many tokens something is, without a tokenizer: for reserving before the provider has counted.

/// Text has about four bytes a token; English has more, source code and other scripts have fewer.
const BYTES_PER_TOKEN: u64 = 4;
/// A picture, a sound or a document: about a picture of 1,024 x 1,024 at the closest look (`OpenAI` 765,
/// Anthropic 1,398, Gemini 1,290).
pub const BLOB_TOKENS: u64 = 1_000;
/// Shorter runs of letters and digits are taken for words, and of longer ones no more is looked at.
const BLOB_BYTES_MIN: usize = 256;

/// What a body weighs: all its strings and keys as they are written, but for pictures and the like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    pub text_bytes: u64,
    /// Strings that are base64, and those called `url`, `image_url` or `fileUri`.
    pub blobs: u64,
}

impl Weight {
    pub(super) fn add(&mut self, key: &str, text: &str) {
        if matches!(key, "url" | "image_url" | "fileUri" | "file_uri") || is_blob(text) {
            self.blobs += 1;
        } else {
            self.text_bytes += text.len() as u64;
        }
    }

    /// Tokens of the prompt: a quarter of the bytes, rounded up, and [`BLOB_TOKENS`] for each blob.
    pub fn estimate(&self) -> u64 {
        of_text(self.text_bytes).saturating_add(self.blobs.saturating_mul(BLOB_TOKENS))
    }
}

/// Tokens of so many bytes of text, such as of an answer that was cut.
pub fn of_text(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Base64, alone or in a `data:` URL.
fn is_blob(text: &str) -> bool {
    if text.len() < BLOB_BYTES_MIN {
        return false;
    }
    let data = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(',').map_or(rest, |(_, data)| data),
        None => text,
    };
    data.bytes().all(|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_' | b'\\')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_weighs_the_same_however_large_it_is() {
        let weigh = |key: &str, text: &str| {
            let mut weight = Weight::default();
            weight.add(key, text);
            weight.estimate()
        };
        assert_eq!(weigh("text", "four tokens here"), 4);
        assert_eq!(weigh("text", "x"), 1);
        assert_eq!(weigh("text", ""), 0);
        assert_eq!(weigh("url", "https://example.com/cat.png"), BLOB_TOKENS);
        for length in [1_000, 100_000] {
            let data = "iVBORw0K".repeat(length);
            assert_eq!(weigh("data", &data), BLOB_TOKENS);
            assert_eq!(
                weigh("x", &format!("data:image/png;base64,{data}")),
                BLOB_TOKENS
            );
        }
        assert_eq!(weigh("text", &"some words ".repeat(100)), 275);
    }
}
