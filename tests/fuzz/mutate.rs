//! Good inputs, made bad in a few places: most of what is random is refused at its first byte.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One thing that is done to an input; places count from its start, whatever its length.
#[derive(Debug, Clone)]
enum Edit {
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Change(Index, u8),
    /// A piece of it, or of another input, is put in somewhere.
    Copy(Option<Index>, Index, usize, Index),
    Truncate(Index),
    /// Two pieces change places.
    Swap(Index, Index, usize),
}

/// One of `seeds`, with up to eight edits. `words` are put in more often than chance would.
pub fn mutated(
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec(edit(words), 0..8);
    (any::<Index>(), edits).prop_map(move |(which, edits)| {
        let mut bytes = which.get(&seeds).clone();
        for edit in &edits {
            apply(edit, &mut bytes, &seeds);
        }
        bytes
    })
}

fn edit(words: &'static [&'static str]) -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let word = select(words).prop_map(|word| word.as_bytes().to_vec());
    let garbage = prop::collection::vec(any::<u8>(), 0..6);
    prop_oneof![
        4 => (at(), word).prop_map(|(at, word)| Edit::Insert(at, word)),
        1 => (at(), garbage).prop_map(|(at, garbage)| Edit::Insert(at, garbage)),
        2 => (at(), 1..24_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Change(at, byte)),
        2 => (prop::option::of(at()), at(), 1..200_usize, at())
            .prop_map(|(other, from, length, to)| Edit::Copy(other, from, length, to)),
        1 => at().prop_map(Edit::Truncate),
        1 => (at(), at(), 1..40_usize).prop_map(|(a, b, length)| Edit::Swap(a, b, length)),
    ]
}

fn apply(edit: &Edit, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
    let piece = |from: usize, length: usize, bytes: &[u8]| {
        bytes[from..bytes.len().min(from + length)].to_vec()
    };
    match edit {
        Edit::Insert(at, word) => {
            let at = place(at, bytes);
            bytes.splice(at..at, word.iter().copied());
        }
        Edit::Remove(at, length) => {
            let at = place(at, bytes);
            bytes.drain(at..bytes.len().min(at + length));
        }
        Edit::Change(at, byte) => {
            let at = place(at, bytes);
            if let Some(changed) = bytes.get_mut(at) {
                *changed = *byte;
            }
        }
        Edit::Copy(other, from, length, to) => {
            let source = other.map_or(&*bytes, |other| other.get(seeds));
            let copied = piece(place(from, source), *length, source);
            let to = place(to, bytes);
            bytes.splice(to..to, copied);
        }
        Edit::Truncate(at) => bytes.truncate(place(at, bytes)),
        Edit::Swap(a, b, length) => {
            let (a, b) = (place(a, bytes), place(b, bytes));
            let (first, second) = (a.min(b), a.max(b));
            let later = piece(second, *length, bytes);
            bytes.drain(second..second + later.len());
            bytes.splice(first..first, later);
        }
    }
}
