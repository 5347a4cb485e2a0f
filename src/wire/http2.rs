//! Whether a caller of HTTP/2 is in the middle of a head (RFC 9113 sections 4.1 and 6.10), which the library does not say.

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the frames that a caller sends.
#[derive(Debug)]
pub struct HeadWatch {
    /// Bytes of the connection's preface that are missing.
    preface: usize,
    /// The beginning of a frame that has come.
    start: [u8; 9],
    come: usize,
    /// Bytes of its payload that are missing.
    left: usize,
    /// A head has begun, and its last frame has not come.
    open: bool,
}

impl Default for HeadWatch {
    fn default() -> Self {
        Self {
            preface: PREFACE,
            start: [0; 9],
            come: 0,
            left: 0,
            open: false,
        }
    }
}

impl HeadWatch {
    pub fn pass(&mut self, mut bytes: &[u8]) {
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                self.left -= part;
                bytes = &bytes[part..];
            } else {
                self.start[self.come] = bytes[0];
                self.come += 1;
                bytes = &bytes[1..];
                if self.come == self.start.len() {
                    self.begin_frame();
                }
            }
            if self.left == 0 && self.come == 0 {
                self.end_frame();
            }
        }
    }

    /// Whether a head has begun and is not whole.
    pub fn is_within_head(&self) -> bool {
        self.open
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, ..] = self.start;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.come = 0;
        self.open |= kind == HEADERS;
    }

    fn end_frame(&mut self) {
        let [_, _, _, kind, flags, ..] = self.start;
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(vec![7; payload]);
        frame
    }

    #[test]
    fn a_head_is_open_until_its_last_frame_has_come() {
        let mut watch = HeadWatch::default();
        watch.pass(&[b'P'; PREFACE]);
        for (bytes, within) in [
            (frame(4, 0, 0), false),
            (frame(1, 4, 20), false),
            (frame(0, 0, 70_000), false),
            (frame(1, 0, 3), true),
            (frame(9, 0, 300), true),
            (frame(9, 4, 1), false),
            (frame(1, 5, 0), false),
        ] {
            for byte in &bytes {
                watch.pass(&[*byte]);
            }
            assert_eq!(watch.is_within_head(), within, "{:?}", &bytes[..9]);
        }
        let whole = frame(1, 4, 20);
        watch.pass(&whole[..15]);
        assert!(watch.is_within_head());
        watch.pass(&whole[15..]);
        assert!(!watch.is_within_head());
    }
}
