//! Why a request goes where it goes, in sentences: for `onemind explain METHOD URL`.

use super::host::Host;
use super::host::HostPattern;
use super::path::normalise;
use super::pattern::Pattern;
use super::rule::HeaderRule;
use super::rule::Rule;
use super::table::Match;
use super::table::Table;
use crate::base::reject::Reject;
use crate::base::reject::RejectKind;
use http::Method;
use http::request::Parts;

/// The most routes that are listed; the others are counted.
const LISTED_MAX: usize = 20;

/// Where a request goes, and which routes were in question.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The route that wins, or why there is none.
    pub outcome: Result<String, Reject>,
    /// What was matched, and what happened to the path on the way: one sentence each.
    pub notes: Vec<String>,
    /// The winner, then those that came close, the closest first. At most 20.
    pub candidates: Vec<Candidate>,
    /// Routes that have neither this host nor this path, or were too many to list.
    pub others: usize,
}

/// A route that was in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: String,
    /// A sentence without a full stop: "the method is POST, not GET".
    pub verdict: String,
}

/// How far a route came; the smaller the closer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    First,
    Matched,
    AllButConditions,
    AllButHost,
    AllButPath,
}

/// Explains what `Table::find` decides. Looks at every route: not for the request path.
pub fn explain<T>(table: &Table<T>, parts: &Parts, listener: &str) -> Explanation {
    let refused = |reject| Explanation {
        outcome: Err(reject),
        notes: Vec::new(),
        candidates: Vec::new(),
        others: table.routes.len(),
    };
    let host = match Host::of(parts) {
        Ok(host) => host,
        Err(reject) => return refused(reject),
    };
    let path = match normalise(parts.uri.path()) {
        Ok(path) => path,
        Err(why) => return refused(RejectKind::BadRequest.because(why)),
    };
    let asked = Asked {
        parts,
        host: &host,
        path: &path,
        listener,
    };
    let found = table.find(parts, listener, &host);
    let notes = asked.notes(found.as_ref().ok());
    let outcome = found.map(|found| found.name.to_owned());
    let candidates = asked.candidates(table, outcome.as_deref().ok());
    Explanation {
        others: table.routes.len() - candidates.len(),
        outcome,
        notes,
        candidates,
    }
}

struct Asked<'a> {
    parts: &'a Parts,
    host: &'a Host<'a>,
    path: &'a str,
    listener: &'a str,
}

impl Asked<'_> {
    fn notes<T>(&self, found: Option<&Match<'_, '_, T>>) -> Vec<String> {
        let Self {
            parts,
            host,
            path,
            listener,
        } = self;
        let asked = if host.is_empty() {
            "no host".to_owned()
        } else {
            format!("the host {host}")
        };
        let mut notes = vec![format!(
            "{} asks {asked} for {path} on the listener {listener}",
            parts.method
        )];
        let written = parts.uri.path();
        if *path != written {
            notes.push(format!(
                "{written} is the same as {path}, which is matched and forwarded"
            ));
        }
        let Some(found) = found else {
            return notes;
        };
        notes.push(format!("found by {}", found.why));
        let captures = found.captures();
        notes.extend(captures.map(|(name, taken)| format!("{{{name}}} is {taken}")));
        let rest = found.rest().filter(|rest| !rest.is_empty());
        notes.extend(rest.map(|rest| format!("{{*}} is {rest}")));
        notes
    }

    fn candidates<T>(&self, table: &Table<T>, winner: Option<&str>) -> Vec<Candidate> {
        let winner =
            winner.and_then(|name| table.routes.iter().find(|stored| *stored.name == *name));
        let won = winner.map(|won| (&*won.name, &won.rule));
        let mut judged: Vec<(Came, Candidate)> = Vec::new();
        for stored in &table.routes {
            let judgement = match winner {
                Some(winner) if std::ptr::eq(winner, stored) => {
                    Some((Came::First, "wins".to_owned()))
                }
                _ => self.judge(&stored.rule, won),
            };
            if let Some((came, verdict)) = judgement {
                let name = stored.name.to_string();
                judged.push((came, Candidate { name, verdict }));
            }
        }
        judged.sort_by(|(one, _), (other, _)| one.cmp(other));
        judged.truncate(LISTED_MAX);
        judged.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// `None` if the route has neither the host nor the path.
    fn judge(&self, rule: &Rule, won: Option<(&str, &Rule)>) -> Option<(Came, String)> {
        let host = self.best_host(rule);
        let path = self.best_path(rule);
        match (host, path) {
            (None | Some(HostPattern::Any), None) => None,
            (None, Some(_)) => Some((
                Came::AllButHost,
                format!("the host is not {}", listed(&rule.hosts)),
            )),
            (Some(_), None) => Some((
                Came::AllButPath,
                format!("the path is not {}", listed(&rule.paths)),
            )),
            (Some(host), Some(path)) => Some(match self.unmet(rule) {
                Some(unmet) => (Came::AllButConditions, unmet),
                None => (Came::Matched, self.lost(rule, host, path, won)),
            }),
        }
    }

    fn unmet(&self, rule: &Rule) -> Option<String> {
        let Self {
            parts, listener, ..
        } = self;
        if !rule.takes_listener(listener) {
            let names = rule.listeners.join(" or ");
            return Some(format!("it is served on the listener {names} only"));
        }
        if let Some(header) = rule
            .headers
            .iter()
            .find(|header| !header.takes(&parts.headers))
        {
            return Some(described(header));
        }
        if !rule.takes_method(&parts.method) {
            let methods: Vec<&str> = rule.methods.iter().map(Method::as_str).collect();
            return Some(format!("the method is not {}", methods.join(" or ")));
        }
        None
    }

    /// Why a route that takes the request is not the one.
    fn lost(
        &self,
        rule: &Rule,
        host: &HostPattern,
        path: &Pattern,
        won: Option<(&str, &Rule)>,
    ) -> String {
        let Some((name, winner)) = won else {
            return "takes the request, but another reading of the path leads elsewhere".to_owned();
        };
        let (Some(winning_host), Some(winning_path)) =
            (self.best_host(winner), self.best_path(winner))
        else {
            return format!("`{name}` wins");
        };
        if host != winning_host {
            return format!(
                "also matches, but the host {winning_host} of `{name}` is more specific than {host}"
            );
        }
        if path.shape() != winning_path.shape() {
            return format!(
                "also matches, but the path {winning_path} of `{name}` is more specific than {path}"
            );
        }
        if rule.weight() != winner.weight() {
            return format!(
                "also matches, but `{name}` asks for more (headers, method or listener)"
            );
        }
        if rule.rank() != winner.rank() {
            return format!("also matches, but `{name}` names HEAD");
        }
        format!("also matches and is just as specific, but `{name}` comes first")
    }

    fn best_host<'r>(&self, rule: &'r Rule) -> Option<&'r HostPattern> {
        let fitting = rule.hosts.iter().filter(|host| host.takes(self.host));
        fitting.min_by_key(|host| match host {
            HostPattern::Exact(_) => (0, 0),
            HostPattern::Below(name) => (1, usize::MAX - name.len()),
            HostPattern::Any => (2, 0),
        })
    }

    fn best_path<'r>(&self, rule: &'r Rule) -> Option<&'r Pattern> {
        rule.paths
            .iter()
            .filter(|path| path.takes(self.path))
            .min_by_key(|path| path.order())
    }
}

fn described(header: &HeaderRule) -> String {
    match &header.value {
        Some(value) => format!(
            "the header {} is not {}",
            header.name,
            String::from_utf8_lossy(value.as_bytes())
        ),
        None => format!("the header {} is missing", header.name),
    }
}

/// The first three of a list.
fn listed(all: &[impl ToString]) -> String {
    let first: Vec<String> = all.iter().take(3).map(ToString::to_string).collect();
    let more = if all.len() > 3 {
        format!(" or {} more", all.len() - 3)
    } else {
        String::new()
    };
    first.join(" or ") + &more
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::base::units::OneOrMany;
    use http::Request;

    fn settings(host: &[&str], path: &str, method: &[&str]) -> Settings {
        let list = |texts: &[&str]| OneOrMany(texts.iter().map(ToString::to_string).collect());
        Settings {
            host: list(host),
            path: list(&[path]),
            method: list(method),
            ..Settings::default()
        }
    }

    fn head(method: &str, url: &str) -> Parts {
        Request::builder()
            .method(method)
            .uri(url)
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn table() -> Table<()> {
        let mut header = settings(&[], "/api/*", &[]);
        header.headers.insert("x-beta".to_owned(), "1".to_owned());
        let mut listener = settings(&[], "/api/users", &[]);
        listener.listener = OneOrMany(vec!["internal".to_owned()]);
        let routes = [
            ("all", settings(&[], "/*", &[])),
            ("api", settings(&["a.com"], "/api/*", &[])),
            ("beta", header),
            ("far", settings(&["b.com"], "/other", &[])),
            ("internal", listener),
            ("other-host", settings(&["b.com", "c.com"], "/api/*", &[])),
            ("post", settings(&["a.com"], "/api/users", &["POST"])),
            ("shop", settings(&["a.com"], "/shop", &[])),
            ("user", settings(&["a.com"], "/api/{what}", &["GET"])),
        ];
        Table::build(routes.iter().map(|(name, settings)| (*name, settings, ()))).unwrap()
    }

    #[test]
    fn each_route_in_question_says_why_it_won_or_not() {
        let explanation = explain(&table(), &head("GET", "http://a.com//api/users"), "web");
        assert_eq!(explanation.outcome.as_deref().ok(), Some("user"));
        let told: Vec<(&str, &str)> = explanation
            .candidates
            .iter()
            .map(|c| (c.name.as_str(), c.verdict.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("user", "wins"),
                (
                    "all",
                    "also matches, but the host a.com of `user` is more specific than any host"
                ),
                (
                    "api",
                    "also matches, but the path /api/{what} of `user` is more specific than /api/*"
                ),
                ("beta", "the header x-beta is not 1"),
                ("internal", "it is served on the listener internal only"),
                ("post", "the method is not POST"),
                ("other-host", "the host is not b.com or c.com"),
                ("shop", "the path is not /shop"),
            ]
        );
        assert_eq!(explanation.others, 1);
        assert_eq!(
            explanation.notes,
            [
                "GET asks the host a.com for /api/users on the listener web",
                "//api/users is the same as /api/users, which is matched and forwarded",
                "found by exact host a.com, pattern /api/{what}",
                "{what} is users",
            ]
        );
    }

    #[test]
    fn a_refusal_is_explained_too() {
        for (url, status) in [
            ("http://a.com/..", 400),
            ("http://a.com/api%2Fusers", 400),
            ("http://a.b@c/", 400),
        ] {
            let explanation = explain(&table(), &head("GET", url), "web");
            let status_told = explanation.outcome.map_err(|reject| reject.kind.status());
            assert_eq!(status_told, Err(status), "{url}");
        }
    }
}
