//! Where faults stand in the text, and how they are shown.

use super::read::FAULTS_MAX;
use super::tree::{Node, SECRET_WORDS, Span, Value};
use super::values::Variable;
use crate::base::fault::{Fault, KeyPath, Severity};
use serde_json::json;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Write};

/// Characters of a source line that are shown; longer ones are cut around the fault.
const LINE_CHARS_MAX: usize = 120;

/// The text that was read, and the places of things in it.
#[derive(Default)]
pub struct Source {
    /// The name of the file, as it was given.
    pub origin: String,
    text: String,
    root: Option<Node>,
    marks: HashMap<(KeyPath, String), Span>,
    secrets: BTreeSet<Span>,
}

impl fmt::Debug for Source {
    /// The text and the tree may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A place in the text, counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Source {
    pub(super) fn new(origin: &str, text: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            text: text.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn with_tree(
        mut self,
        root: Option<Node>,
        marks: HashMap<(KeyPath, String), Span>,
        secrets: BTreeSet<Span>,
    ) -> Self {
        (self.root, self.marks, self.secrets) = (root, marks, secrets);
        self
    }

    /// Line and column of a fault; None when nothing of its path is written.
    pub fn place(&self, fault: &Fault) -> Option<Place> {
        let span = self.span(fault)?;
        let before = &self.text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Some(Place {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        })
    }

    /// Sorted by place, errors before warnings where there are too many to show.
    pub(super) fn arrange(&self, faults: &mut Vec<Fault>) {
        let more = faults.len() >= FAULTS_MAX;
        // Finding a place takes time in proportion to the document; so does an honest list.
        faults.sort_by_key(|fault| Reverse(fault.severity == Severity::Error));
        faults.truncate(FAULTS_MAX);
        faults.sort_by_key(|fault| self.span(fault));
        if more {
            faults.push(Fault {
                severity: Severity::Error,
                at: KeyPath(vec![String::new()]),
                what: format!("only the first {FAULTS_MAX} faults are told"),
                fix: "mend them and check again".to_owned(),
            });
        }
    }

    /// The fault of this sentence is about the key, not about the value.
    pub(super) fn point_at_key(&mut self, at: KeyPath, what: String) {
        let Some((key, section)) = at.0.split_last() else {
            return;
        };
        let (section, _) = self.find(&KeyPath(section.to_vec())).unzip();
        let section = section.or(self.root.as_ref());
        let found = section.and_then(|section| child(section, key));
        if let Some((_, Some(span))) = found {
            self.marks.insert((at, what), span);
        }
    }

    /// Says another sentence at the same place.
    pub(super) fn rephrase(&mut self, fault: &mut Fault, what: String) {
        let before = (fault.at.clone(), std::mem::replace(&mut fault.what, what));
        if let Some(span) = self.marks.remove(&before) {
            let key = (fault.at.clone(), fault.what.clone());
            self.marks.insert(key, span);
        }
    }

    /// What of the value at this path came from the environment.
    pub(super) fn used(&self, at: &KeyPath) -> &[Variable] {
        match self.find(at).map(|(node, _)| &node.value) {
            Some(Value::Scalar(scalar)) => &scalar.used,
            _ => &[],
        }
    }

    fn span(&self, fault: &Fault) -> Option<Span> {
        let key = (fault.at.clone(), fault.what.clone());
        let span = match self.marks.get(&key) {
            Some(span) => *span,
            None => self.find(&fault.at)?.1,
        };
        // The parser may point behind the last character.
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        Some(Span {
            start,
            end: span.end.max(start),
        })
    }

    /// The value at the path, or the innermost section of it that is written, and what to point at:
    /// the value itself where it is a scalar, else its key.
    fn find(&self, at: &KeyPath) -> Option<(&Node, Span)> {
        let mut node = self.root.as_ref()?;
        let mut span = at.0.is_empty().then_some(node.span);
        for key in &at.0 {
            let Some((next, key_span)) = child(node, key) else {
                break;
            };
            node = next;
            span = match node.value {
                Value::Scalar(_) if !node.is_empty() => Some(node.span),
                _ => key_span.or(Some(node.span)),
            };
        }
        Some((node, span?))
    }

    /// The path as it is written: the typed document does not count values that could not be
    /// read, and knows lists where one value may be written.
    pub(super) fn as_written(&self, at: &KeyPath) -> KeyPath {
        let mut written = KeyPath::root();
        let mut node = self.root.as_ref();
        for key in &at.0 {
            let key = match node.map(|node| &node.value) {
                Some(Value::Scalar(_)) => break,
                Some(Value::Map(_))
                    if key.parse::<usize>().is_ok()
                        && node.and_then(|n| child(n, key)).is_none() =>
                {
                    continue;
                }
                Some(Value::List(items)) => live_index(items, key).unwrap_or_else(|| key.clone()),
                _ => key.clone(),
            };
            node = node
                .and_then(|node| child(node, &key))
                .map(|(node, _)| node);
            written.0.push(key);
        }
        written
    }

    /// The line of a fault with secrets blanked, and the caret below it.
    fn snippet(&self, span: Span) -> (String, String) {
        let start = self.text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let rest = &self.text[start..];
        let line = rest.split('\n').next().unwrap_or_default();
        let line = line.trim_end_matches('\r');
        let unread = self.unread_secret(line).map_or(usize::MAX, |at| start + at);
        let mut shown = String::new();
        let mut carets = String::new();
        let caret_at = self.text[start..span.start].chars().count();
        let skip = if line.chars().count() > LINE_CHARS_MAX {
            caret_at.saturating_sub(LINE_CHARS_MAX / 2)
        } else {
            0
        };
        for (at, c) in line.char_indices().skip(skip).take(LINE_CHARS_MAX) {
            let at = start + at;
            shown.push(if at >= unread || self.is_secret(at) {
                '*'
            } else {
                printable(c)
            });
            carets.push(if at == span.start || (at > span.start && at < span.end) {
                '^'
            } else {
                ' '
            });
        }
        let carets = carets.trim_end();
        if carets.is_empty() {
            return (shown, format!("{}^", " ".repeat(caret_at - skip)));
        }
        (shown.trim_end().to_owned(), carets.to_owned())
    }

    /// Where a secret may begin in a line of a document that could not be parsed.
    fn unread_secret(&self, line: &str) -> Option<usize> {
        let line = line.to_ascii_lowercase();
        let words = SECRET_WORDS.iter().filter(|_| self.root.is_none());
        let ends = words.filter_map(|word| line.find(word).map(|at| at + word.len()));
        ends.min()
    }

    fn is_secret(&self, at: usize) -> bool {
        let up_to = Span {
            start: at,
            end: usize::MAX,
        };
        let before = self.secrets.range(..=up_to).next_back();
        before.is_some_and(|secret| at < secret.end)
    }
}

fn child<'a>(node: &'a Node, key: &str) -> Option<(&'a Node, Option<Span>)> {
    match &node.value {
        Value::Scalar(_) => None,
        Value::List(items) => items
            .get(key.parse::<usize>().ok()?)
            .map(|node| (node, None)),
        Value::Map(entries) => entries
            .iter()
            .find(|entry| entry.key == *key)
            .map(|entry| (&entry.node, Some(entry.key_span))),
    }
}

fn live_index(items: &[Node], key: &str) -> Option<String> {
    let index = key.parse().ok()?;
    let live = items
        .iter()
        .enumerate()
        .filter(|(_, node)| !node.pruned.get());
    live.map(|(at, _)| at.to_string()).nth(index)
}

/// Control characters could rewrite what a terminal shows.
fn printable(c: char) -> char {
    if c == '\t' {
        ' '
    } else if c.is_control() {
        '\u{fffd}'
    } else {
        c
    }
}

fn printed(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// Faults for people, as rustc shows them: what, where, the line, and what to write instead.
pub fn render(source: &Source, faults: &[Fault]) -> String {
    let mut out = String::new();
    for fault in faults {
        let severity = severity(fault);
        let (what, fix) = (printed(&fault.what), printed(&fault.fix));
        // A key in quotes may hold anything as well.
        let at = printed(&fault.at.to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{severity}: {what}");
        let (Some(place), Some(span)) = (source.place(fault), source.span(fault)) else {
            let head = format!(" --> {}  {at}", source.origin);
            let _ = writeln!(out, "{}", head.trim_end());
            if !fix.is_empty() {
                let _ = writeln!(out, "  = {fix}");
            }
            out.push('\n');
            continue;
        };
        let Place { line, column } = place;
        let gutter = " ".repeat(line.to_string().len());
        let (text, carets) = source.snippet(span);
        let head = format!("{}:{line}:{column}  {at}", source.origin);
        let _ = writeln!(out, "{gutter}--> {}", head.trim_end());
        let _ = writeln!(out, "{gutter} |\n{line} | {text}");
        let _ = writeln!(out, "{}\n", format!("{gutter} | {carets} {fix}").trim_end());
    }
    out
}

/// Faults for programs: file, line, column, path, what, fix, severity.
pub fn faults_json(source: &Source, faults: &[Fault]) -> serde_json::Value {
    let each = |fault: &Fault| {
        let place = source.place(fault);
        json!({
            "severity": severity(fault),
            "file": source.origin,
            "line": place.map(|place| place.line),
            "column": place.map(|place| place.column),
            "path": fault.at.to_string(),
            "what": fault.what,
            "fix": fault.fix,
        })
    };
    faults.iter().map(each).collect()
}

fn severity(fault: &Fault) -> &'static str {
    match fault.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
