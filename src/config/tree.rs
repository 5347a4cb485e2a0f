//! The document as a tree in which every key and value knows its place.
//!
//! Invariant: the tree is bounded before it is built. Depth is limited by the parser,
//! copies made for aliases by [`ALIASED_NODES_MAX`], and the text by the caller.

use super::values::{self, Variable};
use crate::base::fault::{Faults, KeyPath};
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StrInput};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Sections inside sections; ours are at most eight deep.
const DEPTH_MAX: usize = 64;
/// Nodes that anchors and aliases may copy in all: a bomb of aliases stops here.
const ALIASED_NODES_MAX: usize = 100_000;

/// Bytes of the text, from (inclusive) and to (exclusive).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// A value.
#[derive(Debug, Clone)]
pub struct Node {
    pub span: Span,
    pub value: Value,
    /// Whether a fault was found here: from then on the value is read as if it were absent.
    pub pruned: Cell<bool>,
}

#[derive(Debug, Clone)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text, and whether it may also be a number, a boolean or null.
#[derive(Debug, Clone)]
pub struct Scalar {
    pub text: String,
    /// Neither quoted nor a block; or one variable, quoted or not.
    pub plain: bool,
    /// What of the text came from the environment; never to be shown.
    pub used: Vec<Variable>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub node: Node,
}

impl Node {
    fn new(span: Span, value: Value) -> Self {
        Self {
            span,
            value,
            pruned: Cell::new(false),
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar(_) => 1,
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|e| e.node.size()).sum::<usize>(),
        }
    }

    /// Notes every scalar in the value as one that is never shown.
    pub fn conceal(&self, secrets: &mut BTreeSet<Span>) {
        match &self.value {
            Value::Scalar(_) => {
                secrets.insert(self.span);
            }
            Value::List(items) => items.iter().for_each(|item| item.conceal(secrets)),
            Value::Map(entries) => entries.iter().for_each(|entry| entry.node.conceal(secrets)),
        }
    }

    /// Whether there is no value at all: `tls:` with nothing behind it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.plain)
            && self.span.start == self.span.end
    }
}

/// What the text holds.
#[derive(Debug, Default)]
pub struct Tree {
    /// None when the text is not YAML, or empty.
    pub root: Option<Node>,
    pub faults: Faults,
    /// Faults whose place is not that of their key path, such as a second key of the same name.
    pub marks: HashMap<(KeyPath, String), Span>,
    /// Values that came from the environment.
    pub variables: Vec<Variable>,
    /// Where secrets seem to be written, by the names of their keys; these bytes are never shown.
    pub secrets: BTreeSet<Span>,
    /// Whether the text is YAML at all; if not, nothing else can be said about it.
    pub broken: bool,
}

/// Reads `text`, going on after duplicate keys and unset variables, but not after broken syntax.
pub fn build(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Tree {
    let options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        disallow_directives: true,
        emit_unresolved_aliases: true,
    };
    let mut builder = Builder {
        text,
        events: Parser::new_from_str_with_options(text, options),
        env,
        path: KeyPath::root(),
        anchors: HashMap::new(),
        copied: 0,
        tree: Tree::default(),
    };
    match builder.document() {
        Ok(root) => builder.tree.root = root,
        Err(Broken) => builder.tree.broken = true,
    }
    builder.tree
}

/// Words in the names of keys whose values are concealed even where the document cannot be read.
pub const SECRET_WORDS: &[&str] = &["secret", "password", "token", "api_key"];

/// Whether the name of a key says that its value is a secret.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// The text ends here for us; why is among the faults.
struct Broken;

struct Builder<'a> {
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    env: &'a dyn Fn(&str) -> Option<String>,
    path: KeyPath,
    anchors: HashMap<usize, Node>,
    copied: usize,
    tree: Tree,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Option<Node>, Broken> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    return self.stop(
                        span,
                        "a second document begins",
                        "keep one document in the file",
                    );
                }
                event => {
                    let node = self.node(event, span)?;
                    // A file of comments only is a document with an empty scalar.
                    root = (!node.is_empty()).then_some(node);
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Broken> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                let range = span.byte_range().unwrap_or_default();
                // Where there is a tag, it is the tag that is complained of.
                let tag = span.tag_start().and_then(|tag| tag.byte_offset());
                let range = tag.unwrap_or(range.start)..range.end;
                Ok((
                    event,
                    Span {
                        start: range.start,
                        end: range.end,
                    },
                ))
            }
            Some(Err(error)) => {
                let start = error.marker().byte_offset().unwrap_or_default();
                let end = start + 1;
                let (what, fix) = self.syntax(&error, start);
                self.stop(Span { start, end }, &what, fix)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn syntax(&self, error: &ScanError, start: usize) -> (String, &'static str) {
        let before = self.text.get(..start).unwrap_or_default();
        let fix = if before.ends_with('$') {
            "put quotes around `${…}` inside `{ }` and `[ ]`"
        } else {
            ""
        };
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => (
                format!("more than {DEPTH_MAX} values inside each other"),
                fix,
            ),
            _ => (error.info(), fix),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Broken> {
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.untagged(tag.is_some(), span)?;
                (anchor, self.scalar(&text, style, span))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.untagged(tag.is_some(), span)?;
                (anchor, self.list(span)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.untagged(tag.is_some(), span)?;
                (anchor, self.map(span)?)
            }
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::UnresolvedAlias(name) => {
                let what = format!("the alias `*{name}` has no anchor above it");
                return self.stop(span, &what, "write the value out");
            }
            _ => return self.stop(span, "a value is missing here", ""),
        };
        if anchor != 0 {
            self.count_copies(&node, span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Node {
        let (expanded, faulty) = match values::expand(text, self.env) {
            Ok(expanded) => (expanded, false),
            Err(complaints) => {
                for (what, fix) in complaints {
                    let at = self.path.clone();
                    self.tree.marks.insert((at.clone(), what.clone()), span);
                    self.tree.faults.error(at, what, fix);
                }
                let text = text.to_owned();
                (
                    values::Expanded {
                        text,
                        used: Vec::new(),
                    },
                    true,
                )
            }
        };
        // Inside `{ }` and `[ ]` a variable must be quoted, whatever it stands for.
        let quoted_variable = values::is_one_variable(text) && !faulty;
        let plain = style == ScalarStyle::Plain || quoted_variable;
        // The parser says `~` where nothing stands; we tell the two apart.
        let absent = style == ScalarStyle::Plain && span.start == span.end;
        let scalar = Scalar {
            text: if absent { String::new() } else { expanded.text },
            plain,
            used: expanded.used.clone(),
        };
        self.tree.variables.extend(expanded.used);
        let node = Node::new(span, Value::Scalar(scalar));
        node.pruned.set(faulty);
        node
    }

    fn list(&mut self, span: Span) -> Result<Node, Broken> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node::new(span, Value::List(items)));
            }
            self.path.0.push(items.len().to_string());
            items.push(self.node(event, at)?);
            self.path.0.pop();
        }
    }

    fn map(&mut self, span: Span) -> Result<Node, Broken> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        loop {
            let (event, key_span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Node::new(span, Value::Map(entries))),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return self.stop(key_span, "a key must be plain text", "quote it"),
            };
            self.path.0.push(key.clone());
            let wanted = self.wanted(&key, key_span, !seen.insert(key.clone()));
            let (event, at) = self.next()?;
            let node = self.node(event, at)?;
            self.path.0.pop();
            if is_secret(&key) {
                node.conceal(&mut self.tree.secrets);
            }
            if wanted {
                entries.push(Entry {
                    key,
                    key_span,
                    node,
                });
            }
        }
    }

    /// Whether this entry is kept: the first of its name is.
    fn wanted(&mut self, key: &str, span: Span, duplicate: bool) -> bool {
        let (what, fix) = if duplicate {
            (
                format!("the key `{key}` is given twice"),
                "keep one of them",
            )
        } else if key == "<<" {
            let fix = "use an alias for the whole value, or write the keys out";
            ("merge keys (`<<`) are not part of YAML 1.2".to_owned(), fix)
        } else {
            return true;
        };
        let at = self.path.clone();
        if self
            .tree
            .marks
            .insert((at.clone(), what.clone()), span)
            .is_none()
        {
            self.tree.faults.error(at, what, fix);
        }
        false
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, Broken> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return self.stop(
                span,
                "an alias stands inside its own anchor",
                "write the value out",
            );
        };
        self.count_copies(&node, span)?;
        Ok(node)
    }

    fn count_copies(&mut self, node: &Node, span: Span) -> Result<(), Broken> {
        self.copied += node.size();
        if self.copied > ALIASED_NODES_MAX {
            let what = format!("aliases stand for more than {ALIASED_NODES_MAX} values");
            return self.stop(span, &what, "write the values out");
        }
        Ok(())
    }

    fn untagged(&mut self, tagged: bool, span: Span) -> Result<(), Broken> {
        if tagged {
            let fix = "remove the word that begins with `!`, or quote the value";
            return self.stop(span, "tags are not used in this document", fix);
        }
        Ok(())
    }

    fn stop<T>(&mut self, span: Span, what: &str, fix: &str) -> Result<T, Broken> {
        let at = self.path.clone();
        self.tree.marks.insert((at.clone(), what.to_owned()), span);
        self.tree.faults.error(at, what, fix);
        Err(Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;
    use std::time::{Duration, Instant};

    fn faults(text: &str) -> Vec<String> {
        let tree = build(text, &|_| None);
        tree.faults.0.into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn what_is_not_plain_yaml_is_named() {
        for (text, part) in [
            ("a: 1\na: 2\na: 3", "the key `a` is given twice"),
            ("a: !x 1", "tags are not used"),
            ("a: 1\n---\nb: 2", "a second document"),
            ("a: &x [*x]", "inside its own anchor"),
            ("a: *x", "has no anchor"),
            ("? [a, b]\n: c", "a key must be plain text"),
            ("a: &x {b: 1}\nc:\n  <<: *x", "merge keys"),
            ("a: ${NONE}", "`NONE` is not set"),
            ("%YAML 1.1\n---\na: 1", "directive"),
        ] {
            let found = faults(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(part), "{text}: {found:?}");
        }
    }

    #[test]
    fn hostile_text_is_refused_at_once() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let below = format!("*a{},", level - 1).repeat(10);
            writeln!(bomb, "a{level}: &a{level} [{below}]").unwrap();
        }
        for text in [
            "[".repeat(100_000),
            "- ".repeat(100_000),
            "{a: ".repeat(100_000),
            bomb,
        ] {
            let began = Instant::now();
            assert_eq!(faults(&text).len(), 1);
            assert!(began.elapsed() < Duration::from_secs(2));
        }
    }

    #[test]
    fn an_empty_document_has_no_root() {
        for text in ["", "# nothing\n", "---\n"] {
            let tree = build(text, &|_| None);
            assert!(tree.root.is_none() && tree.faults.0.is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_tree_or_a_fault(text in "[\\[\\]{}:,&*!|>'\"#%@` a-c\\n\\t$-]{0,64}") {
            let tree = build(&text, &|_| None);
            prop_assert!(!tree.broken || !tree.faults.0.is_empty());
        }
    }
}
