//! The table of routes: from a request head to the most specific route that takes it.
//!
//! Of all routes that take a request (host, path, method, headers, listener) wins, in this order:
//!
//! 1. exact host > longest wildcard host > any host;
//! 2. exact path > pattern (literal segments beat names, from the left) > longest prefix
//!    (of two with as many segments, again literals beat names);
//! 3. more header conditions, then more exact values among them; a method given before any;
//!    a listener given before any; `HEAD` by name before `HEAD` through `GET`;
//! 4. what was put in first. `conflict` reports where it comes to that.
//!
//! Because only routes that take the whole request compete, a host with its own routes
//! falls back: what none of them takes goes to its wildcard's routes, then to those without a host.
//!
//! A path with escapes of separators (`%2F`, `%5C`, `%3A`, ...) is looked up a second time as a
//! backend would see it that decodes first. Unless both lead to the same route it is refused (400).

use super::host::Host;
use super::host::HostPattern;
use super::path::loose_reading;
use super::path::normalise;
use super::pattern::PathKind;
use super::pattern::Pattern;
use super::rule::Rule;
use super::settings::Settings;
use super::trie::Entry;
use super::trie::Hit;
use super::trie::Trie;
use crate::base::fault::Faults;
use crate::base::fault::KeyPath;
use crate::base::reject::Reject;
use crate::base::reject::RejectKind;
use http::Method;
use http::request::Parts;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt;

/// The routes of a gateway, indexed; `T` is what is done with a request. Immutable.
#[derive(Debug)]
pub struct Table<T> {
    pub(super) routes: Vec<Stored<T>>,
    exact: HashMap<Box<str>, Trie>,
    below: HashMap<Box<str>, Trie>,
    any: Trie,
}

#[derive(Debug)]
pub(super) struct Stored<T> {
    pub(super) name: Box<str>,
    pub(super) rule: Rule,
    pub(super) route: T,
}

/// The route for a request. `'t` is the table, `'r` the request.
#[derive(Debug)]
pub struct Match<'t, 'r, T> {
    pub route: &'t T,
    pub name: &'t str,
    pub why: Why<'t>,
    /// The host asked for; may be empty.
    pub host: &'r Host<'r>,
    /// The path that was matched: the one to forward.
    pub path: Cow<'r, str>,
    /// Whether `path` differs from what the caller wrote.
    pub path_changed: bool,
    hit: Hit,
}

/// By which of its hosts and paths a route was found.
#[derive(Debug, Clone, Copy)]
pub struct Why<'t> {
    pub host: &'t HostPattern,
    pub path: &'t Pattern,
}

impl<T> Table<T> {
    /// Builds the index. All faults of all routes are reported, at `routes.<name>`.
    pub fn build<'s>(
        routes: impl IntoIterator<Item = (&'s str, &'s Settings, T)>,
    ) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut stored: Vec<Stored<T>> = Vec::new();
        for (name, settings, route) in routes {
            if let Some(rule) = Rule::compile(name, settings, &mut faults) {
                let name = name.into();
                stored.push(Stored { name, rule, route });
            }
        }
        if u32::try_from(stored.len()).is_err() {
            faults.error(KeyPath::root().key("routes"), "too many routes", "");
        }
        if faults.has_errors() {
            return Err(faults);
        }
        Ok(Self::index(stored))
    }

    /// What the routes lead to, in the order of their names as given.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|stored| &stored.route)
    }

    fn index(routes: Vec<Stored<T>>) -> Self {
        let mut table = Self {
            routes,
            exact: HashMap::new(),
            below: HashMap::new(),
            any: Trie::default(),
        };
        for (route, stored) in (0u32..).zip(&table.routes) {
            for (host, pattern) in (0u32..).zip(&stored.rule.hosts) {
                let trie = match pattern {
                    HostPattern::Exact(name) => table.exact.entry(name.clone()).or_default(),
                    HostPattern::Below(name) => table.below.entry(name.clone()).or_default(),
                    HostPattern::Any => &mut table.any,
                };
                for (path, pattern) in (0u32..).zip(&stored.rule.paths) {
                    trie.insert(pattern, Entry { route, host, path });
                }
            }
        }
        let routes = &table.routes;
        let tries = table.exact.values_mut().chain(table.below.values_mut());
        for trie in tries.chain([&mut table.any]) {
            trie.sort_by_key(|entry| routes[entry.route as usize].rule.rank());
        }
        table
    }

    /// The route for this request head on this listener. Does not allocate, unless the caller's
    /// path is not in its one spelling or has escaped separators.
    ///
    /// Refused with 400 if the path has no single reading, 405 (and the methods to `allow`) if
    /// only the method does not fit, 404 otherwise.
    pub fn find<'t, 'r>(
        &'t self,
        parts: &'r Parts,
        listener: &str,
        host: &'r Host<'r>,
    ) -> Result<Match<'t, 'r, T>, Reject> {
        let written = parts.uri.path();
        let bad = |why| RejectKind::BadRequest.because(why);
        let path = normalise(written).map_err(bad)?;
        let Some(hit) = self.look_up(parts, &path, listener, host) else {
            return Err(self.nothing_found(parts, &path, listener, host));
        };
        if let Some(loose) = loose_reading(&path).map_err(bad)? {
            let again = self.look_up(parts, &loose, listener, host);
            if again.map(|again| again.entry.route) != Some(hit.entry.route) {
                return Err(bad_reading(&path, &loose));
            }
        }
        let stored = &self.routes[hit.entry.route as usize];
        let why = Why {
            host: &stored.rule.hosts[hit.entry.host as usize],
            path: &stored.rule.paths[hit.entry.path as usize],
        };
        Ok(Match {
            route: &stored.route,
            name: &stored.name,
            why,
            host,
            path_changed: *path != *written,
            path,
            hit,
        })
    }

    fn look_up(&self, parts: &Parts, path: &str, listener: &str, host: &Host<'_>) -> Option<Hit> {
        self.levels(host, |trie| {
            trie.find(path, |entry| {
                let rule = &self.routes[entry.route as usize].rule;
                rule.takes_method(&parts.method)
                    && rule.takes_listener(listener)
                    && rule.takes_headers(&parts.headers)
            })
        })
    }

    /// Offers the trees that hold for this host, the most specific first.
    fn levels(&self, host: &Host<'_>, mut offer: impl FnMut(&Trie) -> Option<Hit>) -> Option<Hit> {
        let name = host.as_str();
        if let Some(found) = self.exact.get(name).and_then(&mut offer) {
            return Some(found);
        }
        if !self.below.is_empty() {
            for dot in memchr::memchr_iter(b'.', name.as_bytes()) {
                let trie = self.below.get(&name[dot + 1..]);
                if let Some(found) = trie.and_then(&mut offer) {
                    return Some(found);
                }
            }
        }
        offer(&self.any)
    }

    /// 405 if a route takes all of the request but its method, else 404.
    fn nothing_found(&self, parts: &Parts, path: &str, listener: &str, host: &Host<'_>) -> Reject {
        let mut methods: BTreeSet<&str> = BTreeSet::new();
        self.levels(host, |trie| {
            trie.find(path, |entry| {
                let rule = &self.routes[entry.route as usize].rule;
                if rule.takes_listener(listener) && rule.takes_headers(&parts.headers) {
                    methods.extend(rule.methods.iter().map(Method::as_str));
                }
                false
            })
        });
        if methods.is_empty() {
            return RejectKind::NoRoute.because(format_args!("{host}{path}"));
        }
        if methods.contains("GET") {
            methods.insert("HEAD");
        }
        let allow: Vec<&str> = methods.into_iter().collect();
        let mut reject =
            RejectKind::MethodNotAllowed.because(format_args!("{} {host}{path}", parts.method));
        reject.allow = Some(allow.join(", "));
        reject
    }
}

fn bad_reading(path: &str, loose: &str) -> Reject {
    RejectKind::BadRequest.because(format_args!(
        "{path} leads to another route than {loose}, which a backend may read it as"
    ))
}

impl<T> Match<'_, '_, T> {
    /// What a name of the pattern took, still escaped.
    pub fn capture(&self, name: &str) -> Option<&str> {
        let nth = self.why.path.names().position(|own| own == name)?;
        self.hit.spans.get(&self.path, nth)
    }

    /// All names of the pattern with what they took, from left to right.
    pub fn captures(&self) -> impl Iterator<Item = (&str, &str)> {
        let taken = |(nth, name)| Some((name, self.hit.spans.get(&self.path, nth)?));
        self.why.path.names().enumerate().filter_map(taken)
    }

    /// What `*` took, still escaped and without the slash before it; `None` if the pattern has no `*`.
    pub fn rest(&self) -> Option<&str> {
        self.path.get(self.hit.rest?..)
    }
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.path.kind() {
            PathKind::Exact => "exact path",
            PathKind::Pattern => "pattern",
            PathKind::Prefix => "prefix",
        };
        match self.host {
            HostPattern::Exact(name) => write!(f, "exact host {name}, ")?,
            HostPattern::Below(name) => write!(f, "wildcard host *.{name}, ")?,
            HostPattern::Any => f.write_str("any host, ")?,
        }
        write!(f, "{kind} {}", self.path)
    }
}

#[cfg(test)]
mod tests;
