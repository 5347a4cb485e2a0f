//! Routes that are in each other's way: found when the configuration is checked, never by a request.
//!
//! Two routes compete only under one host and one shape of path, so routes are grouped by these
//! and never compared pair by pair.

use super::host::HostPattern;
use super::rule::HeaderRule;
use super::rule::Rule;
use super::settings::Settings;
use crate::base::fault::Faults;
use crate::base::fault::KeyPath;
use http::Method;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

/// Header conditions of one form that are compared with those of other forms.
const COMPARED_PER_FORM: usize = 8;
/// Forms of header conditions that are compared under one host and path.
const FORMS_MAX: usize = 16;

/// What is between two routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Some requests fit both, and neither is more specific: an error.
    Tie,
    /// All that `route` takes goes to more specific ones: an error.
    Never,
    /// A request may carry the headers of both, and neither is more specific: a warning.
    Overlap,
    /// `route` names one host and path twice: a warning.
    Twice,
}

/// A conflict; `other` is the route that gets the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub kind: Kind,
    pub route: String,
    pub other: String,
    /// Requests it is about: `GET example.com/api/*`.
    pub example: String,
}

/// All conflicts among routes in the order in which they go into the table. Routes with
/// faults of their own are left out.
pub fn conflicts(routes: &[(&str, &Settings)]) -> Vec<Conflict> {
    let compiled = routes.iter().filter_map(|(name, settings)| {
        let rule = Rule::compile(name, settings, &mut Faults::default())?;
        Some((*name, rule))
    });
    let compiled: Vec<(&str, Rule)> = compiled.collect();
    Finder::new(&compiled).find()
}

impl Conflict {
    /// Tells it at `routes.<route>`.
    pub fn report(&self, faults: &mut Faults) {
        let Self {
            kind,
            route,
            other,
            example,
        } = self;
        let at = KeyPath::root().key("routes").key(route);
        match kind {
            Kind::Tie => faults.error(
                at,
                format_args!("`{route}` and `{other}` both take {example}, and neither is more specific"),
                format_args!(
                    "give `{route}` or `{other}` another host, path, method, header or listener, or remove one"
                ),
            ),
            Kind::Never => faults.error(
                at,
                format_args!("no request can reach `{route}`: all it takes goes to `{other}` ({example})"),
                format_args!("remove `{route}`, or give it a path, method or header that `{other}` does not take"),
            ),
            Kind::Overlap => faults.warning(
                at,
                format_args!("a request for {example} with the headers of both goes to `{other}`, not to `{route}`"),
                format_args!("ask for all of the headers in the route that shall win"),
            ),
            Kind::Twice => faults.warning(
                at,
                format_args!("`{route}` names {example} twice"),
                format_args!("remove one"),
            ),
        }
    }
}

/// A host and the shape of a path.
type Key<'r> = (&'r HostPattern, String);
/// A method and a listener; `None` is any.
type Reach<'r> = (Option<&'r Method>, Option<&'r str>);

struct Finder<'r> {
    routes: &'r [(&'r str, Rule)],
    groups: BTreeMap<usize, (Key<'r>, Vec<usize>)>,
    /// Which group holds a key.
    places: HashMap<Key<'r>, usize>,
    /// A route without conditions, for the keys that have one.
    unconditional: HashMap<usize, usize>,
    /// Keys under which a route can not be reached, and by which route.
    dead: HashMap<usize, (usize, usize)>,
    told: HashSet<(Kind, usize, usize)>,
    found: Vec<Conflict>,
}

impl<'r> Finder<'r> {
    fn new(routes: &'r [(&'r str, Rule)]) -> Self {
        let mut finder = Self {
            routes,
            groups: BTreeMap::new(),
            places: HashMap::new(),
            unconditional: HashMap::new(),
            dead: HashMap::new(),
            told: HashSet::new(),
            found: Vec::new(),
        };
        for (index, (_, rule)) in routes.iter().enumerate() {
            for host in &rule.hosts {
                for path in &rule.paths {
                    finder.place(index, &(host, path.shape()));
                }
            }
        }
        finder
    }

    fn place(&mut self, route: usize, key: &Key<'r>) {
        let next = self.places.len();
        let place = *self.places.entry(key.clone()).or_insert(next);
        let rule = &self.routes[route].1;
        if rule.methods.is_empty() && rule.headers.is_empty() && rule.listeners.is_empty() {
            self.unconditional.entry(place).or_insert(route);
        }
        let (_, members) = self
            .groups
            .entry(place)
            .or_insert_with(|| (key.clone(), Vec::new()));
        if members.last() == Some(&route) {
            // It cannot be reached by this one of its keys, but by the other.
            self.tell((Kind::Twice, route, route), None, key);
            self.dead.entry(route).or_insert((0, route)).0 += 1;
        } else {
            members.push(route);
        }
    }

    fn find(mut self) -> Vec<Conflict> {
        for (key, mut members) in std::mem::take(&mut self.groups).into_values() {
            if let Some(other) = self.covered_by_deeper(&key) {
                for route in members {
                    self.mark_dead(route, other);
                }
            } else if members.len() > 1 {
                members.sort_by_key(|route| self.routes[*route].1.rank());
                self.find_ties(&key, &members);
                self.find_overlaps(&key, &members);
            }
        }
        self.tell_never();
        self.found
    }

    /// Goes from the most wanted route on and notes which methods and listeners are taken.
    fn find_ties(&mut self, key: &Key<'r>, members: &[usize]) {
        let routes = self.routes;
        let mut taken: HashMap<(&[HeaderRule], Reach<'r>), usize> = HashMap::new();
        for route in members {
            let rule = &routes[*route].1;
            let headers = rule.headers.as_slice();
            for reach in reaches(rule) {
                let mut wide = wider(reach).into_iter();
                let by = wide.find_map(|wide| taken.get(&(headers, wide)).copied());
                // `HEAD` through `GET` gives way to `HEAD` by name: that is no tie.
                let by_name = reach.0.is_none_or(|method| rule.methods.contains(method));
                match by {
                    Some(by) if by_name && routes[by].1.weight() == rule.weight() => {
                        self.tell((Kind::Tie, *route, by), reach.0, key);
                    }
                    Some(_) => {}
                    None => {
                        taken.insert((headers, reach), *route);
                    }
                }
            }
        }
    }

    /// Routes of one weight with different header conditions that one request can meet.
    fn find_overlaps(&mut self, key: &Key<'r>, members: &[usize]) {
        let routes = self.routes;
        let weight = |route: &usize| routes[*route].1.weight();
        for run in members.chunk_by(|one, other| weight(one) == weight(other)) {
            let forms = self.forms(run);
            for (at, ones) in forms.iter().enumerate() {
                for others in &forms[at + 1..] {
                    if let Some((one, other)) = self.meeting(ones, others) {
                        let order = |route: usize| (routes[route].1.rank(), route);
                        let first_wins = order(one) < order(other);
                        let (wins, loses) = if first_wins {
                            (one, other)
                        } else {
                            (other, one)
                        };
                        let mut methods = routes[one].1.methods.iter();
                        let method = methods.find(|method| routes[other].1.takes_method(method));
                        self.tell((Kind::Overlap, loses, wins), method, key);
                    }
                }
            }
        }
    }

    /// Some routes of each form of header conditions: which names, and which of them with a value.
    /// Two of one form are no news: they differ in a value that both ask for, or are the same.
    fn forms(&self, run: &[usize]) -> Vec<Vec<usize>> {
        let mut forms: BTreeMap<Vec<(&str, bool)>, Vec<usize>> = BTreeMap::new();
        for route in run {
            let headers = self.routes[*route].1.headers.iter();
            let form = headers.map(|rule| (rule.name.as_str(), rule.value.is_some()));
            let same = forms.entry(form.collect()).or_default();
            if same.len() < COMPARED_PER_FORM {
                same.push(*route);
            }
        }
        forms.into_values().take(FORMS_MAX).collect()
    }

    fn meeting(&self, ones: &[usize], others: &[usize]) -> Option<(usize, usize)> {
        let with_others = |one: &usize| {
            let rule = &self.routes[*one].1;
            let mut others = others.iter();
            let other = others.find(|other| can_meet(rule, &self.routes[**other].1))?;
            Some((*one, *other))
        };
        ones.iter().find_map(with_others)
    }

    /// `/a/*` gets nothing if `/a`, `/a/` and `/a/{x}/*` are taken without conditions.
    fn covered_by_deeper(&self, (host, shape): &Key<'r>) -> Option<usize> {
        let base = shape.strip_suffix("/*")?;
        let unconditional = |shape: String| {
            let place = self.places.get(&(*host, shape))?;
            self.unconditional.get(place).copied()
        };
        if !base.is_empty() {
            unconditional(base.to_owned())?;
        }
        unconditional(format!("{base}/"))?;
        unconditional(format!("{base}/{{}}/*"))
    }

    fn mark_dead(&mut self, route: usize, other: usize) {
        let dead = self.dead.entry(route).or_insert((0, other));
        *dead = (dead.0 + 1, other);
    }

    fn tell_never(&mut self) {
        let dead = std::mem::take(&mut self.dead);
        let mut dead: Vec<(usize, (usize, usize))> = dead.into_iter().collect();
        dead.sort_unstable();
        for (route, (keys, other)) in dead {
            let rule = &self.routes[route].1;
            if route != other && keys == rule.hosts.len() * rule.paths.len() {
                let key = (&rule.hosts[0], rule.paths[0].to_string());
                self.tell((Kind::Never, route, other), rule.methods.first(), &key);
            }
        }
    }

    /// Once for each pair of routes.
    fn tell(&mut self, what: (Kind, usize, usize), method: Option<&Method>, key: &Key<'_>) {
        if !self.told.insert(what) {
            return;
        }
        let (kind, route, other) = what;
        let (host, path) = key;
        let method = method
            .map(|method| format!("{method} "))
            .unwrap_or_default();
        let host = match host {
            HostPattern::Any => String::new(),
            host => host.to_string(),
        };
        self.found.push(Conflict {
            kind,
            route: self.routes[route].0.to_owned(),
            other: self.routes[other].0.to_owned(),
            example: format!("{method}{host}{path}"),
        });
    }
}

/// The pairs of method and listener that a route takes, `HEAD` through `GET` included.
fn reaches(rule: &Rule) -> Vec<Reach<'_>> {
    let mut methods: Vec<Option<&Method>> = rule.methods.iter().map(Some).collect();
    if methods.is_empty() {
        methods.push(None);
    } else if rule.methods.contains(&Method::GET) && !rule.methods.contains(&Method::HEAD) {
        methods.push(Some(&Method::HEAD));
    }
    let mut listeners: Vec<Option<&str>> =
        rule.listeners.iter().map(|name| Some(&**name)).collect();
    if listeners.is_empty() {
        listeners.push(None);
    }
    let on_each = |method| listeners.iter().map(move |listener| (method, *listener));
    methods.into_iter().flat_map(on_each).collect()
}

fn wider((method, listener): Reach<'_>) -> [Reach<'_>; 4] {
    [
        (method, listener),
        (method, None),
        (None, listener),
        (None, None),
    ]
}

fn can_meet(one: &Rule, other: &Rule) -> bool {
    let share_method = one.methods.is_empty()
        || one
            .methods
            .iter()
            .any(|method| other.methods.contains(method));
    let share_listener = one.listeners.is_empty()
        || one
            .listeners
            .iter()
            .any(|name| other.listeners.contains(name));
    let agree = one.headers.iter().all(|rule| {
        let same = other.headers.iter().find(|other| other.name == rule.name);
        same.is_none_or(|same| {
            same.value.is_none() || rule.value.is_none() || same.value == rule.value
        })
    });
    share_method && share_listener && agree
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fault::Severity;
    use crate::base::units::OneOrMany;

    /// `GET,POST host/path x-v=1 @listener`, each part but the path optional.
    fn route(text: &str) -> Settings {
        let mut settings = Settings::default();
        let list = |text: &str| OneOrMany(text.split(',').map(str::to_owned).collect());
        for word in text.split(' ') {
            if let Some((name, value)) = word.split_once('=') {
                settings.headers.insert(name.to_owned(), value.to_owned());
            } else if let Some(listeners) = word.strip_prefix('@') {
                settings.listener = list(listeners);
            } else if let Some(slash) = word.find('/') {
                if slash > 0 {
                    settings.host = list(&word[..slash]);
                }
                settings.path = list(&word[slash..]);
            } else {
                settings.method = list(word);
            }
        }
        settings
    }

    fn found(routes: &[&str]) -> Vec<Conflict> {
        let name = |(at, text): (usize, &&str)| (format!("r{at}"), route(text));
        let routes: Vec<(String, Settings)> = routes.iter().enumerate().map(name).collect();
        let borrowed: Vec<(&str, &Settings)> =
            routes.iter().map(|(name, s)| (name.as_str(), s)).collect();
        conflicts(&borrowed)
    }

    fn check(routes: &[&str], expected: &[(Kind, &str, &str, &str)]) {
        let found = found(routes);
        let told = |c: &'_ Conflict| (c.kind, c.route.clone(), c.other.clone(), c.example.clone());
        let found: Vec<_> = found.iter().map(told).collect();
        let owned = |(kind, route, other, example): &(Kind, &str, &str, &str)| {
            (
                *kind,
                (*route).to_owned(),
                (*other).to_owned(),
                (*example).to_owned(),
            )
        };
        let expected: Vec<_> = expected.iter().map(owned).collect();
        assert_eq!(found, expected, "{routes:?}");
    }

    #[test]
    fn routes_that_take_the_same_requests_are_a_tie() {
        check(&["/a", "/a"], &[(Kind::Tie, "r1", "r0", "/a")]);
        check(
            &["/u/{id}", "/u/{name}"],
            &[(Kind::Tie, "r1", "r0", "/u/{}")],
        );
        check(
            &["x.com/a,/b", "X.com./b"],
            &[(Kind::Tie, "r1", "r0", "x.com/b")],
        );
        check(
            &["GET,POST /a", "PUT,POST /a"],
            &[(Kind::Tie, "r1", "r0", "POST /a")],
        );
        check(
            &["GET /a", "GET,HEAD /a"],
            &[(Kind::Tie, "r0", "r1", "GET /a")],
        );
        check(&["/a x=1", "/a x=1"], &[(Kind::Tie, "r1", "r0", "/a")]);
        check(
            &["/a @web", "/a @web,other"],
            &[(Kind::Tie, "r1", "r0", "/a")],
        );
        check(
            &["/caf\u{e9}", "/caf%c3%A9"],
            &[(Kind::Tie, "r1", "r0", "/caf%C3%A9")],
        );
    }

    #[test]
    fn a_more_specific_route_is_no_conflict() {
        check(
            &[
                "/*", "/a", "/a/*", "/a/{x}", "x.com/*", "*.com/*", "GET /a", "POST /a", "/a x=1",
                "/a @web", "/a x=*",
            ],
            &[],
        );
        check(&["GET /a", "HEAD /a"], &[]);
        check(&["/a @web", "/a @other"], &[]);
        check(&["/a x=1", "/a x=2"], &[]);
        check(&["/a", "/a/"], &[]);
    }

    #[test]
    fn a_route_that_others_cover_is_told() {
        check(&["/*", "/", "/{x}/*"], &[(Kind::Never, "r0", "r2", "/*")]);
        check(
            &["GET x.com/a/*", "x.com/a,/a/", "x.com/a/{x}/*"],
            &[(Kind::Never, "r0", "r2", "GET x.com/a/*")],
        );
        check(&["/a/*", "/a", "/a/{x}/*"], &[]);
        check(&["/a/*", "/a,/a/", "GET /a/{x}/*"], &[]);
        check(&["/a/*,/b", "/a,/a/", "/a/{x}/*"], &[]);
    }

    #[test]
    fn headers_of_two_routes_on_one_request_are_a_warning() {
        check(&["/a x=1", "/a y=1"], &[(Kind::Overlap, "r1", "r0", "/a")]);
        check(
            &["/a x=1 y=*", "/a x=* y=2"],
            &[(Kind::Overlap, "r1", "r0", "/a")],
        );
        check(
            &["GET /a x=1", "GET,PUT /a y=1"],
            &[(Kind::Overlap, "r1", "r0", "GET /a")],
        );
        check(&["GET /a x=1", "PUT /a y=1"], &[]);
        check(&["/a x=1 z=1", "/a y=1 z=2"], &[]);
        check(&["/a,/a"], &[(Kind::Twice, "r0", "r0", "/a")]);
    }

    #[test]
    fn a_fault_names_both_routes_and_what_to_do() {
        for (kind, severity) in [
            (Kind::Tie, Severity::Error),
            (Kind::Never, Severity::Error),
            (Kind::Overlap, Severity::Warning),
        ] {
            let (route, other, example) = ("b".to_owned(), "a".to_owned(), "/x".to_owned());
            let mut faults = Faults::default();
            Conflict {
                kind,
                route,
                other,
                example,
            }
            .report(&mut faults);
            let fault = &faults.0[0];
            assert_eq!(
                (fault.severity, fault.at.to_string().as_str()),
                (severity, "routes.b")
            );
            let names_both = fault.what.contains("`a`") && fault.what.contains("`b`");
            assert!(names_both && !fault.fix.is_empty(), "{fault:?}");
        }
    }

    /// Compared pair by pair these would be a hundred million comparisons.
    #[test]
    fn ten_thousand_routes_are_checked_group_by_group() {
        let same = vec!["/same"; 10_000];
        assert_eq!(found(&same).len(), 9_999);
        let own: Vec<String> = (0..10_000).map(|n| format!("/same x-{n}=1")).collect();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        assert!(found(&own).len() < 200);
        let valued: Vec<String> = (0..10_000)
            .map(|n| format!("GET h{}.com/p/{n} x={n}", n % 7))
            .collect();
        let valued: Vec<&str> = valued.iter().map(String::as_str).collect();
        assert_eq!(found(&valued), []);
    }
}
