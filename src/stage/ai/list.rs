//! Gemini's streams as REST gives them where `alt=sse` is not asked for: one list of JSON, item by item.

use super::sse::Decoder;
use bytes::Bytes;

/// Makes items of events.
pub struct List {
    decoder: Decoder,
    begun: bool,
}

impl Default for List {
    fn default() -> Self {
        Self {
            // What comes is at hand already, and was measured before.
            decoder: Decoder::new(usize::MAX),
            begun: false,
        }
    }
}

impl List {
    /// Whole events, as items. Comments are none.
    pub fn items(&mut self, events: Bytes) -> Bytes {
        self.decoder.push(events);
        let mut out = Vec::new();
        while let Ok(Some(frame)) = self.decoder.next() {
            if frame.data.is_empty() {
                continue;
            }
            out.extend_from_slice(if self.begun { b",\r\n" } else { b"[" });
            self.begun = true;
            out.extend_from_slice(&frame.data);
        }
        out.into()
    }

    /// What ends the list.
    pub fn end(self) -> Bytes {
        Bytes::from_static(if self.begun { b"]" } else { b"[]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn listed(pieces: &[&'static str]) -> Value {
        let mut list = List::default();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&list.items(Bytes::from_static(piece.as_bytes())));
        }
        out.extend_from_slice(&list.end());
        serde_json::from_slice(&out).expect("JSON")
    }

    #[test]
    fn events_become_the_items_of_one_list() {
        for (pieces, expected) in [
            (&[][..], json!([])),
            (&["data: {\"a\":1}\n\n"], json!([{"a": 1}])),
            (
                &[
                    "data: {\"a\":1}\r\n\r\n: awake\n\n",
                    "data: {\"a\":\ndata: 2}\n\ndata: 3\n\n",
                ],
                json!([{"a": 1}, {"a": 2}, 3]),
            ),
        ] {
            assert_eq!(listed(pieces), expected, "{pieces:?}");
        }
    }
}
