//! Knows when the arguments of a call, which come in pieces, are whole.

/// Follows the braces of an object that comes in pieces.
#[derive(Debug, Default)]
pub struct Braces {
    depth: u64,
    begun: bool,
    in_string: bool,
    escaped: bool,
}

impl Braces {
    pub fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => {
                    self.depth += 1;
                    self.begun = true;
                }
                b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// Whether the object has come to its end.
    pub fn are_whole(&self) -> bool {
        self.begun && self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_whole_when_the_first_brace_is_closed() {
        for (pieces, whole) in [
            (&[][..], false),
            (&[" "], false),
            (&["{}"], true),
            (&["{\"a\":", "[1,{}]", "}"], true),
            (&["{\"a\":", "[1,{}]"], false),
            (&["{\"}\\", "\"}\""], false),
            (&["{\"}\\", "\"}\":1}"], true),
        ] {
            let mut braces = Braces::default();
            for piece in pieces {
                braces.add(piece);
            }
            assert_eq!(braces.are_whole(), whole, "{pieces:?}");
        }
    }
}
