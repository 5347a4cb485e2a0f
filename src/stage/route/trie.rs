//! Path patterns as a tree of segments: a look-up costs by the length of the path, not by the number of patterns.
//!
//! Invariant: a look-up visits each node at most once and goes at most `SEGMENTS_MAX` deep,
//! so what it costs is bounded by the table and never by the caller.

use super::pattern::PARAMETERS_MAX;
use super::pattern::Pattern;
use super::pattern::Segment;
use std::collections::HashMap;

/// One pattern of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Index of the route in the table.
    pub route: u32,
    /// Index of the host in the route.
    pub host: u32,
    /// Index of the pattern in the route.
    pub path: u32,
}

/// Where in the path the named segments were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    spans: [(u32, u32); PARAMETERS_MAX],
    len: usize,
}

/// The entry that matched, and what its names and its `*` took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    pub entry: Entry,
    pub spans: Spans,
    /// Where the part that `*` took begins.
    pub rest: Option<usize>,
}

/// The patterns of one host.
#[derive(Debug)]
pub struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, u32>,
    parameter: Option<u32>,
    /// Patterns that end here, the most wanted first.
    full: Vec<Entry>,
    /// Patterns that end here with `/*`, the most wanted first.
    open: Vec<Entry>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Trie {
    pub fn insert(&mut self, pattern: &Pattern, entry: Entry) {
        let mut at = 0;
        for segment in &pattern.segments {
            at = self.child(at, segment);
        }
        let node = &mut self.nodes[at];
        let entries = if pattern.open {
            &mut node.open
        } else {
            &mut node.full
        };
        entries.push(entry);
    }

    /// Puts the entries of each node in the order of `rank`; equal ones stay as inserted.
    pub fn sort_by_key<K: Ord>(&mut self, rank: impl Fn(Entry) -> K) {
        for node in &mut self.nodes {
            node.full.sort_by_key(|entry| rank(*entry));
            node.open.sort_by_key(|entry| rank(*entry));
        }
    }

    /// The most specific accepted entry for a normalised path: one that takes the whole path
    /// (literals beat names from the left), else the longest prefix. Entries are offered to
    /// `accepts` from the most wanted one on; if it accepts none, all that match were offered.
    pub fn find(&self, path: &str, accepts: impl FnMut(Entry) -> bool) -> Option<Hit> {
        let mut search = Search {
            nodes: &self.nodes,
            path,
            accepts,
            spans: Spans::default(),
            prefix: None,
        };
        let whole = search.visit(0, 0, 0);
        whole.or(search.prefix.map(|(_, hit)| hit))
    }

    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let new = u32::try_from(self.nodes.len()).expect("a table holds fewer than 2^32 segments");
        let node = &mut self.nodes[at];
        let child = match segment {
            Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(new),
            Segment::Parameter(_) => *node.parameter.get_or_insert(new),
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child as usize
    }
}

impl Spans {
    /// What the nth name took.
    pub fn get<'p>(&self, path: &'p str, nth: usize) -> Option<&'p str> {
        let (from, to) = *self.spans[..self.len].get(nth)?;
        path.get(from as usize..to as usize)
    }

    fn push(&mut self, from: usize, to: usize) {
        // A path beyond 4 GiB cannot be a request; were it one, the span would be empty.
        let span = (
            u32::try_from(from).unwrap_or(0),
            u32::try_from(to).unwrap_or(0),
        );
        self.spans[self.len] = span;
        self.len += 1;
    }
}

struct Search<'s, F> {
    nodes: &'s [Node],
    path: &'s str,
    accepts: F,
    spans: Spans,
    /// The best prefix so far, and its length in segments.
    prefix: Option<(usize, Hit)>,
}

impl<F: FnMut(Entry) -> bool> Search<'_, F> {
    /// `from` is where the `/` of the next segment stands, or the end of the path.
    fn visit(&mut self, node: u32, from: usize, depth: usize) -> Option<Hit> {
        let nodes = self.nodes;
        let path = self.path;
        let node = &nodes[node as usize];
        self.note_prefix(node, from, depth);
        if from >= path.len() {
            let entry = self.pick(&node.full)?;
            return Some(Hit {
                entry,
                spans: self.spans,
                rest: None,
            });
        }
        if node.literals.is_empty() && node.parameter.is_none() {
            return None;
        }
        let start = from + 1;
        let length = memchr::memchr(b'/', &path.as_bytes()[start..]);
        let end = length.map_or(path.len(), |length| start + length);
        let literal = node.literals.get(&path[start..end]);
        if let Some(hit) = literal.and_then(|child| self.visit(*child, end, depth + 1)) {
            return Some(hit);
        }
        let child = node.parameter.filter(|_| start < end)?;
        self.spans.push(start, end);
        let hit = self.visit(child, end, depth + 1);
        self.spans.len -= 1;
        hit
    }

    /// Literals are visited before names, so of two prefixes of one length the first is the better.
    fn note_prefix(&mut self, node: &Node, from: usize, depth: usize) {
        if node.open.is_empty() || self.prefix.is_some_and(|(longest, _)| depth <= longest) {
            return;
        }
        if let Some(entry) = self.pick(&node.open) {
            let rest = Some((from + 1).min(self.path.len()));
            let spans = self.spans;
            self.prefix = Some((depth, Hit { entry, spans, rest }));
        }
    }

    fn pick(&mut self, entries: &[Entry]) -> Option<Entry> {
        entries.iter().copied().find(|entry| (self.accepts)(*entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(patterns: &[&str]) -> Trie {
        let mut trie = Trie::default();
        for (route, text) in (0..).zip(patterns) {
            let pattern = Pattern::parse(text).expect(text);
            trie.insert(
                &pattern,
                Entry {
                    route,
                    host: 0,
                    path: 0,
                },
            );
        }
        trie
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let patterns = [
            "/*",
            "/users/*",
            "/users/{id}",
            "/users/me",
            "/users/{id}/posts",
            "/users/me/{what}",
            "/{a}/{b}/*",
            "/users/{id}/*",
            "/users/me/",
        ];
        let trie = trie(&patterns);
        for (path, wins) in [
            ("/", "/*"),
            ("/x", "/*"),
            ("/users", "/users/*"),
            ("/users/", "/users/*"),
            ("/users/7", "/users/{id}"),
            ("/users/me", "/users/me"),
            ("/users/me/", "/users/me/"),
            ("/users/7/", "/users/{id}/*"),
            ("/users/me/posts", "/users/me/{what}"),
            ("/users/7/posts", "/users/{id}/posts"),
            ("/users/7/x/y", "/users/{id}/*"),
            ("/x/y/z", "/{a}/{b}/*"),
        ] {
            let hit = trie.find(path, |_| true).expect(path);
            assert_eq!(patterns[hit.entry.route as usize], wins, "{path}");
        }
    }

    #[test]
    fn a_refused_pattern_gives_way_to_the_next_best() {
        let patterns = ["/*", "/users/{id}", "/users/me", "/users/*"];
        let trie = trie(&patterns);
        let mut offered = Vec::new();
        let hit = trie.find("/users/me", |entry| {
            offered.push(entry.route);
            false
        });
        assert_eq!(hit, None);
        offered.sort_unstable();
        assert_eq!(offered, [0, 1, 2, 3]);
        let hit = trie.find("/users/me", |entry| entry.route < 2).unwrap();
        assert_eq!(
            (hit.entry.route, hit.spans.get("/users/me", 0)),
            (1, Some("me"))
        );
    }
}
