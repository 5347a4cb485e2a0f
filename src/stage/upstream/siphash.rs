//! SipHash-2-4: a short keyed hash that is the same on every instance and in every build.
//!
//! The standard library's hasher may change between releases of the compiler, and two instances
//! built months apart would then send the same user to two endpoints.

/// Hashes bytes under a key of 128 bits (Aumasson and Bernstein, "`SipHash`: a fast short-input PRF").
#[derive(Clone, Copy)]
pub struct SipHash {
    k0: u64,
    k1: u64,
}

impl SipHash {
    pub const fn new(k0: u64, k1: u64) -> Self {
        Self { k0, k1 }
    }

    pub fn from_bytes(key: [u8; 16]) -> Self {
        let number = u128::from_le_bytes(key);
        let low = u64::try_from(number & u128::from(u64::MAX)).expect("64 bits are left");
        let high = u64::try_from(number >> 64).expect("64 bits are left");
        Self::new(low, high)
    }

    pub fn hash(self, bytes: &[u8]) -> u64 {
        let mut state = [
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ];
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            absorb(&mut state, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The last word carries the length modulo 256 in its top byte.
        last[7] = bytes.len().to_le_bytes()[0];
        absorb(&mut state, u64::from_le_bytes(last));
        state[2] ^= 0xff;
        for _ in 0..4 {
            round(&mut state);
        }
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
}

fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    round(state);
    state[0] ^= word;
}

fn round(state: &mut [u64; 4]) {
    let [a, b, c, d] = state;
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_vectors_of_the_reference_hold() {
        let key: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let input: Vec<u8> = (0..64).collect();
        for (length, expected) in [
            (0, 0x726f_db47_dd0e_0e31),
            (1, 0x74f8_39c5_93dc_67fd),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ] {
            let got = SipHash::from_bytes(key).hash(&input[..length]);
            assert_eq!(got, expected, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        #[expect(deprecated, reason = "the old hasher of the standard library is SipHash-2-4 too")]
        fn it_agrees_with_another_implementation(k0: u64, k1: u64, bytes: Vec<u8>) {
            use std::hash::Hasher as _;
            let mut other = std::hash::SipHasher::new_with_keys(k0, k1);
            other.write(&bytes);
            prop_assert_eq!(SipHash::new(k0, k1).hash(&bytes), other.finish());
        }
    }
}
