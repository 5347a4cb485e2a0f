//! Tokens that were verified a moment ago: a signature costs more than all else that is done for a request.
//!
//! Each worker remembers its own, so there is no lock; a token is known by its SHA-256. What it was verified
//! under, rules and keys, must still be in force, and its time must not be over.

use crate::base::principal::Principal;
use aws_lc_rs::digest;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Tokens remembered by one worker are twice as many at most: those of this age, and those of the age before.
const AGE_TOKENS_MAX: usize = 4096;

type Name = [u8; 32];

thread_local! {
    static VERIFIED: RefCell<Verified> = RefCell::default();
}

/// The rules and the set of keys under which a token was found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Under {
    /// Never the same for two methods, nor for a method before and after a reload.
    pub rules: u64,
    /// Changes with the keys.
    pub keys: u64,
}

/// A token's name.
#[derive(Debug, Clone, Copy)]
pub struct Token(Name);

impl Token {
    pub fn of(text: &str) -> Self {
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        Self(name)
    }

    /// Who it was found to name, if that still holds.
    pub fn recall(self, under: Under, unix: u64) -> Option<Arc<Principal>> {
        VERIFIED.with_borrow_mut(|verified| verified.recall(self.0, under, unix))
    }

    /// It was found good; it is so until this second, not included.
    pub fn remember(self, under: Under, until: u64, principal: &Arc<Principal>) {
        let good = Good {
            under,
            until,
            principal: Arc::clone(principal),
        };
        VERIFIED.with_borrow_mut(|verified| verified.remember(self.0, good));
    }
}

#[derive(Clone)]
struct Good {
    under: Under,
    until: u64,
    principal: Arc<Principal>,
}

/// Two ages: when the young one is full, the old one is forgotten and the young one grows old. What is still in
/// use comes back from there.
#[derive(Default)]
struct Verified {
    young: HashMap<Name, Good>,
    old: HashMap<Name, Good>,
}

impl Verified {
    fn recall(&mut self, name: Name, under: Under, unix: u64) -> Option<Arc<Principal>> {
        let holds = |good: &&Good| good.under == under && unix < good.until;
        if let Some(good) = self.young.get(&name).filter(holds) {
            return Some(Arc::clone(&good.principal));
        }
        let good = self.old.get(&name).filter(holds)?.clone();
        let principal = Arc::clone(&good.principal);
        self.remember(name, good);
        Some(principal)
    }

    fn remember(&mut self, name: Name, good: Good) {
        if self.young.len() >= AGE_TOKENS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::principal::Proof;

    const UNDER: Under = Under { rules: 1, keys: 1 };

    fn good(until: u64) -> Good {
        let principal = Principal::named("alice", Proof::Token, &"jwt".into()).unwrap();
        Good {
            under: UNDER,
            until,
            principal: Arc::new(principal),
        }
    }

    #[test]
    fn only_what_still_holds_is_recalled() {
        let mut verified = Verified::default();
        verified.remember([1; 32], good(100));
        for (name, under, unix, recalled) in [
            ([1; 32], UNDER, 99, true),
            ([1; 32], UNDER, 100, false),
            ([2; 32], UNDER, 99, false),
            ([1; 32], Under { rules: 2, keys: 1 }, 99, false),
            ([1; 32], Under { rules: 1, keys: 2 }, 99, false),
        ] {
            let found = verified.recall(name, under, unix);
            assert_eq!(found.is_some(), recalled, "{name:?} {under:?} {unix}");
        }
    }

    #[test]
    fn what_is_in_use_stays_and_the_rest_is_forgotten() {
        let mut verified = Verified::default();
        let name = |nth: usize| {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&nth.to_le_bytes());
            name
        };
        for nth in 1..AGE_TOKENS_MAX * 5 {
            verified.remember(name(nth), good(100));
            if nth == 1 {
                verified.remember(name(0), good(100));
            }
            if nth % 1000 == 0 {
                assert!(verified.recall(name(0), UNDER, 1).is_some(), "{nth}");
            }
            assert!(verified.young.len() + verified.old.len() <= 2 * AGE_TOKENS_MAX);
        }
        assert!(verified.recall(name(1), UNDER, 1).is_none());
    }
}
