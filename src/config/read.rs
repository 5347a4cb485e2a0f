//! From the tree to the typed document, with every fault on the way.
//!
//! A typed read stops at its first fault. So the value at fault is pruned from the
//! tree and the document is read again, until it reads or [`FAULTS_MAX`] is reached.

use super::problem::{Detail, Kind, Problem};
use super::reader::{Reader, Scope, Trail};
use super::tree::{Node, Span, Value};
use crate::base::fault::{Faults, KeyPath};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::Path;

/// Faults looked for in one document: reading again costs time, and nobody mends more at once.
pub const FAULTS_MAX: usize = 100;

/// What a typed read found.
#[derive(Debug, Default)]
pub struct Read<T> {
    /// None when not even the outermost section could be read.
    pub value: Option<T>,
    pub faults: Faults,
    /// Places of faults, by path and sentence, that are not those of the value at the path.
    pub marks: Vec<((KeyPath, String), Span)>,
    /// Values that are written, but could not be read: whoever misses them is not at fault.
    pub absent: Absent,
    /// Where secrets are written; these bytes are never shown.
    pub secrets: BTreeSet<Span>,
}

/// Key paths of values that are written, but could not be read.
#[derive(Debug, Default)]
pub struct Absent(BTreeSet<KeyPath>);

impl Absent {
    pub fn insert(&mut self, at: KeyPath) {
        self.0.insert(at);
    }

    pub fn contains(&self, at: &KeyPath) -> bool {
        self.0.contains(at)
    }

    /// Whether the value at the path, or anything in it, could not be read.
    pub fn any_below(&self, at: &KeyPath) -> bool {
        let first = self.0.range(at.clone()..).next();
        first.is_some_and(|found| found.0.starts_with(&at.0))
    }
}

/// Reads the tree as `T`; relative paths of `file:` begin at `folder`.
pub fn read<T: DeserializeOwned>(root: &Node, folder: &Path) -> Read<T> {
    let scope = Scope::new(folder);
    absent_values(root, &mut KeyPath::root(), &mut scope.absent.borrow_mut());
    let mut faults = Faults::default();
    let mut marks = Vec::new();
    let mut value = None;
    let trail = Trail::root();
    // Consequences are pruned silently: each follows a fault, rarely more than one.
    for _ in 0..FAULTS_MAX * 2 {
        if root.pruned.get() || faults.0.len() >= FAULTS_MAX {
            break;
        }
        match T::deserialize(Reader::new(root, &trail, &scope)) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(Problem(detail)) => note(*detail, &mut faults, &mut marks),
        }
    }
    Read {
        value,
        faults,
        marks,
        absent: scope.absent.into_inner(),
        secrets: scope.secrets.into_inner(),
    }
}

fn note(detail: Detail, faults: &mut Faults, marks: &mut Vec<((KeyPath, String), Span)>) {
    if detail.kind == Kind::Consequence {
        return;
    }
    let at = detail.at.unwrap_or_default();
    if let Some(span) = detail.span {
        marks.push(((at.clone(), detail.what.clone()), span));
    }
    faults.error(at, detail.what, detail.fix);
}

/// Notes values that were pruned when the tree was built.
fn absent_values(node: &Node, at: &mut KeyPath, absent: &mut Absent) {
    if node.pruned.get() {
        absent.insert(at.clone());
    }
    match &node.value {
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                at.0.push(index.to_string());
                absent_values(item, at, absent);
                at.0.pop();
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                at.0.push(entry.key.clone());
                absent_values(&entry.node, at, absent);
                at.0.pop();
            }
        }
    }
}
