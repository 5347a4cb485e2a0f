//! Where one WebSocket frame ends and the next begins (RFC 6455 section 5.2), so that a last word can be put between them.

use bytes::Bytes;

/// Why a WebSocket is closed (RFC 6455 section 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The server is going away.
    GoingAway,
    /// A rule was broken: more messages than may be sent.
    TooManyMessages,
}

impl Close {
    /// The status, and a reason of at most 123 bytes for whoever reads it.
    fn words(self) -> (u16, &'static str) {
        match self {
            Self::GoingAway => (1001, ""),
            Self::TooManyMessages => (1008, "too many messages"),
        }
    }

    fn payload(self) -> Vec<u8> {
        let (status, reason) = self.words();
        let mut payload = status.to_be_bytes().to_vec();
        payload.extend(reason.as_bytes());
        payload
    }

    /// A close frame as servers send it.
    pub fn frame(self) -> Bytes {
        let payload = self.payload();
        let mut frame = vec![0x88, length_of(&payload)];
        frame.extend(payload);
        frame.into()
    }

    /// A close frame as clients send it, masked with `mask`.
    pub fn masked_frame(self, mask: [u8; 4]) -> Bytes {
        let payload = self.payload();
        let mut frame = vec![0x88, 0x80 | length_of(&payload)];
        frame.extend(mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        frame.into()
    }
}

fn length_of(payload: &[u8]) -> u8 {
    u8::try_from(payload.len()).expect("a status and a short reason")
}

/// Whether a frame that begins with this byte is the first of a message: text or binary. What continues one,
/// and control frames, are not (RFC 6455 section 5.2).
pub fn begins_message(first: u8) -> bool {
    matches!(first & 0x0f, 1 | 2)
}

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub struct FrameTracker {
    /// The beginning of a frame's head that has come.
    head: [u8; 14],
    come: usize,
    /// Bytes of the payload that are missing.
    left: u64,
}

impl FrameTracker {
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut passed = 0;
        while passed < bytes.len() {
            passed += self.pass_frame(&bytes[passed..]);
        }
    }

    /// Up to the end of the frame that is under way, or all if it does not end here: how many bytes that is.
    pub fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(byte) = bytes.get(passed) {
            if self.left > 0 {
                let rest = bytes.len() - passed;
                let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
                self.left -= part as u64;
                passed += part;
            } else {
                self.head[self.come] = *byte;
                self.come += 1;
                passed += 1;
                if let Some(payload) = payload_of(&self.head[..self.come]) {
                    self.left = payload;
                    self.come = 0;
                }
            }
            if self.is_between_frames() {
                break;
            }
        }
        passed
    }

    /// Whether a frame may be put in here.
    pub fn is_between_frames(&self) -> bool {
        self.come == 0 && self.left == 0
    }
}

/// The length of the payload, when the head of a frame is whole.
pub fn payload_of(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let masked = usize::from(second & 0x80 != 0) * 4;
    let (length, size) = match second & 0x7f {
        126 => (
            u64::from(u16::from_be_bytes(head.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (u64::from_be_bytes(head.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    (head.len() == size + masked).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(mask | u8::try_from(payload).unwrap()),
            126..65536 => {
                frame.push(mask + 126);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0; if masked { 4 } else { 0 } + payload]);
        frame
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn boundaries_are_found_whatever_the_pieces(
            payloads in prop::collection::vec((0_usize..70_000, any::<bool>()), 1..6),
            step in 1_usize..5000,
        ) {
            let mut tracker = FrameTracker::default();
            let mut ends = std::collections::HashSet::new();
            let mut wire = Vec::new();
            for (payload, masked) in payloads {
                wire.extend(frame(payload, masked));
                ends.insert(wire.len());
            }
            let mut given = 0;
            while given < wire.len() {
                let next = (given + step).min(wire.len());
                tracker.pass(&wire[given..next]);
                given = next;
                prop_assert_eq!(tracker.is_between_frames(), ends.contains(&given), "at {}", given);
            }
        }
    }

    #[test]
    fn the_last_word_is_a_close_frame() {
        for (close, status, reason) in [
            (Close::GoingAway, 1001_u16, ""),
            (Close::TooManyMessages, 1008, "too many messages"),
        ] {
            let [high, low] = status.to_be_bytes();
            let mut payload = vec![high, low];
            payload.extend(reason.as_bytes());
            let frame = close.frame();
            assert_eq!(frame[0], 0x88);
            assert_eq!(usize::from(frame[1]), payload.len());
            assert_eq!(frame[2..], payload);
            let masked = close.masked_frame([1, 2, 3, 4]);
            assert_eq!(masked[1], 0x80 | frame[1]);
            let mask = [1, 2, 3, 4].into_iter().cycle();
            let clear: Vec<u8> = masked[6..].iter().zip(mask).map(|(a, b)| a ^ b).collect();
            assert_eq!(clear, payload);
            let mut tracker = FrameTracker::default();
            tracker.pass(&masked);
            assert!(tracker.is_between_frames());
        }
    }

    #[test]
    fn only_text_and_binary_begin_a_message() {
        for (first, begins) in [
            (0x81, true),
            (0x01, true),
            (0x82, true),
            (0xc1, true),
            (0x80, false),
            (0x00, false),
            (0x88, false),
            (0x89, false),
            (0x8a, false),
        ] {
            assert_eq!(begins_message(first), begins, "{first:#x}");
        }
    }
}
