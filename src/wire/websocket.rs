//! Where one WebSocket frame ends and the next begins (RFC 6455 section 5.2), so that a last word can be put between them.

use bytes::Bytes;

/// Status 1001: the server is going away (RFC 6455 section 7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

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

/// The length of the payload, when the head is whole.
fn payload_of(head: &[u8]) -> Option<u64> {
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

/// A close frame as servers send it.
pub fn going_away() -> Bytes {
    Bytes::copy_from_slice(&[0x88, 2, GOING_AWAY[0], GOING_AWAY[1]])
}

/// A close frame as clients send it, masked with `mask`.
pub fn going_away_masked(mask: [u8; 4]) -> Bytes {
    let [a, b, c, d] = mask;
    Bytes::copy_from_slice(&[0x88, 0x82, a, b, c, d, GOING_AWAY[0] ^ a, GOING_AWAY[1] ^ b])
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
        assert_eq!(&going_away()[..], [0x88, 2, 0x03, 0xe9]);
        let masked = going_away_masked([1, 2, 3, 4]);
        assert_eq!([masked[6] ^ 1, masked[7] ^ 2], [0x03, 0xe9]);
        let mut tracker = FrameTracker::default();
        tracker.pass(&masked);
        assert!(tracker.is_between_frames());
    }
}
