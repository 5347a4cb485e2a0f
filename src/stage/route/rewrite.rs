//! Where to: the path that is forwarded, and the target of a redirect.
//!
//! Invariant: a result is made of printable ASCII without spaces, and its path begins with
//! exactly one `/`. Only the operator's text names a site: nothing a caller sends can lead elsewhere,
//! save `{host}`, which is the host asked for.

use super::host::Host;
use super::path::normalise;
use super::pattern::Pattern;
use super::settings::Redirect;
use super::settings::Settings;
use super::table::Match;
use super::template::Part;
use super::template::Template;
use super::template::escape_unless;
use crate::base::fault::Faults;
use crate::base::fault::KeyPath;
use crate::base::reject::Reject;
use crate::base::reject::RejectKind;
use std::fmt::Display;

/// What is wrong, and what to write instead.
type Bad = (String, String);

/// How the path of a forwarded request is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// The path that was matched.
    Keep,
    /// Without this at its front.
    Strip(Prefix),
    /// This one instead.
    Replace(PathTemplate),
}

/// A path without a slash at its end, with which each pattern of the route begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(Box<str>);

/// A template that always makes a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Template);

/// The target of a redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Absent: the same site.
    site: Option<Site>,
    path: PathTemplate,
    query: Template,
    fragment: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    /// `http` or `https`.
    scheme: Box<str>,
    authority: Template,
}

impl Rewrite {
    /// From `strip_prefix` and `rewrite_path`. `None` if something is wrong; then `faults` says what.
    pub fn compile(name: &str, settings: &Settings, faults: &mut Faults) -> Option<Self> {
        let at = KeyPath::root().key("routes").key(name);
        let patterns = patterns(settings)?;
        let (key, compiled) = match (&settings.strip_prefix, &settings.rewrite_path) {
            (None, None) => return Some(Self::Keep),
            (Some(_), Some(_)) => (
                "rewrite_path",
                Err(bad(
                    "`rewrite_path` and `strip_prefix` both set the path",
                    "keep one of them",
                )),
            ),
            (Some(prefix), None) => (
                "strip_prefix",
                Prefix::parse(prefix, &patterns).map(Self::Strip),
            ),
            (None, Some(path)) => (
                "rewrite_path",
                PathTemplate::parse(path, &patterns).map(Self::Replace),
            ),
        };
        let compiled = match settings.pool {
            Some(_) => compiled,
            None => Err(bad(
                format_args!("`{key}` does nothing: this route forwards to no pool"),
                "remove it; a redirect sets its path in `to`",
            )),
        };
        told(compiled, at.key(key), faults)
    }

    /// The path and query to forward. 400 if the host is needed and the request has none.
    pub fn apply<T>(
        &self,
        found: &Match<'_, '_, T>,
        query: Option<&str>,
    ) -> Result<String, Reject> {
        let mut out = String::with_capacity(found.path.len() + query.map_or(0, str::len) + 16);
        match self {
            Self::Keep => out.push_str(&found.path),
            Self::Strip(prefix) => match found.path.strip_prefix(&*prefix.0) {
                Some(rest) if rest.starts_with('/') => out.push_str(rest),
                Some("") => out.push('/'),
                _ => out.push_str(&found.path),
            },
            Self::Replace(template) => template.write(found, &mut out)?,
        }
        push_query(query, '?', &mut out);
        Ok(out)
    }

    /// Whether the head can be forwarded as the caller wrote it.
    pub fn keeps<T>(&self, found: &Match<'_, '_, T>) -> bool {
        *self == Self::Keep && !found.path_changed
    }
}

impl Location {
    /// From `redirect.to`. `None` if something is wrong; then `faults` says what.
    pub fn compile(
        name: &str,
        settings: &Settings,
        redirect: &Redirect,
        faults: &mut Faults,
    ) -> Option<Self> {
        let at = KeyPath::root().key("routes").key(name).key("redirect");
        if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
            faults.error(
                at.key("status"),
                format_args!("{} is not the status of a redirect", redirect.status),
                "301, 302, 303, 307 or 308",
            );
        }
        let patterns = patterns(settings)?;
        told(Self::parse(&redirect.to, &patterns), at.key("to"), faults)
    }

    /// The value of `Location`; the caller's query follows the one of the template.
    /// 400 if the host is needed and the request has none.
    pub fn apply<T>(
        &self,
        found: &Match<'_, '_, T>,
        query: Option<&str>,
    ) -> Result<String, Reject> {
        let mut out = String::new();
        if let Some(site) = &self.site {
            need_host(&site.authority, found)?;
            out.push_str(&site.scheme);
            out.push_str("://");
            site.authority.write_authority(found, &mut out);
        }
        let mut path = String::new();
        self.path.write(found, &mut path)?;
        out.push_str(&path);
        let has_query = !self.query.0.is_empty();
        if has_query {
            out.push('?');
            self.query.write_query(found, &mut out);
        }
        push_query(query, if has_query { '&' } else { '?' }, &mut out);
        if let Some(fragment) = &self.fragment {
            out.push('#');
            out.push_str(fragment);
        }
        Ok(out)
    }

    fn parse(to: &str, patterns: &[Pattern]) -> Result<Self, Bad> {
        let (rest, fragment) = match to.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (to, None),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (site, path) = split_site(rest, patterns)?;
        let query = Template::parse(query, patterns)?;
        let plain = |text: &str| text.bytes().all(is_query_byte);
        let fragment_fits = fragment.is_none_or(|text| plain(text) && !text.contains(['{', '}']));
        if !plain(&query.sample("x")) || !fragment_fits {
            return Err(bad(
                format_args!("`{to}` has a character that may not stand in a query or fragment"),
                "escape it, such as `%20` for a space",
            ));
        }
        Ok(Self {
            site,
            path: PathTemplate::parse(path, patterns)?,
            query,
            fragment: fragment.map(Into::into),
        })
    }
}

impl Prefix {
    fn parse(text: &str, patterns: &[Pattern]) -> Result<Self, Bad> {
        let prefix = Pattern::parse(text)?;
        let sound = !prefix.open && prefix.names().next().is_none() && !text.ends_with('/');
        if !sound {
            return Err(bad(
                format_args!("the prefix `{text}` is not a plain path"),
                "write `/api`, without `*`, names, or a slash at the end",
            ));
        }
        let begins = |pattern: &&Pattern| pattern.segments.starts_with(&prefix.segments);
        match patterns.iter().find(|pattern| !begins(pattern)) {
            Some(pattern) => Err(bad(
                format_args!("the path `{pattern}` of this route does not begin with `{text}`"),
                format_args!("write `path: {text}/*`, or remove `strip_prefix`"),
            )),
            None => Ok(Self(prefix.to_string().into())),
        }
    }
}

impl PathTemplate {
    fn parse(text: &str, patterns: &[Pattern]) -> Result<Self, Bad> {
        if !text.starts_with('/') {
            return Err(bad(
                format_args!("`{text}` does not begin with `/`"),
                "write a path such as `/new/{*}`; a redirect may also go to `https://example.com/{*}`",
            ));
        }
        let template = Template::parse(text, patterns)?;
        // What a name takes can begin with any character but is never `.`, `..` or empty.
        for name in ["x", ";x"] {
            let sample = template.sample(name);
            match normalise(&sample) {
                Ok(normal) if normal == sample => {}
                Ok(normal) => {
                    return Err(bad(
                        format_args!("`{text}` is not a path in its one spelling"),
                        format_args!("it would be read as `{normal}`"),
                    ));
                }
                Err(why) => return Err(bad(format_args!("`{text}` is no path: {why}"), "")),
            }
        }
        // They may be empty or end in a slash, and could make `/..` of a `.` beside them.
        for whole in ["{*}", "{host}"] {
            let alone = text.matches(&format!("/{whole}/")).count()
                + usize::from(text.ends_with(&format!("/{whole}")));
            if text.matches(whole).count() != alone {
                return Err(bad(
                    format_args!("`{whole}` must be a whole segment of `{text}`"),
                    format_args!("write `/{whole}` at the end, or `/{whole}/`"),
                ));
            }
        }
        Ok(Self(template))
    }

    fn write<T>(&self, found: &Match<'_, '_, T>, out: &mut String) -> Result<(), Reject> {
        need_host(&self.0, found)?;
        self.0.write_path(found, out);
        Ok(())
    }
}

fn split_site<'s>(text: &'s str, patterns: &[Pattern]) -> Result<(Option<Site>, &'s str), Bad> {
    let Some((scheme, rest)) = text
        .split_once("://")
        .filter(|(scheme, _)| !scheme.contains('/'))
    else {
        return Ok((None, text));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(bad(
            format_args!("`{scheme}` is not a scheme to redirect to"),
            "write `http://` or `https://`",
        ));
    }
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let only_host = authority.replace("{host}", "x");
    if Host::parse(&only_host).is_none_or(|host| host.is_empty()) {
        return Err(bad(
            format_args!("`{authority}` is not a host to redirect to"),
            "write `https://example.com/{*}` or `https://{host}/{*}`; what a caller sends must not choose the site",
        ));
    }
    let authority = Template::parse(authority, patterns)?;
    let scheme = scheme.into();
    Ok((Some(Site { scheme, authority }), path))
}

fn need_host<T>(template: &Template, found: &Match<'_, '_, T>) -> Result<(), Reject> {
    if found.host.is_empty() && template.uses(&Part::Host) {
        return Err(
            RejectKind::BadRequest.because("the route needs a host and the request names none")
        );
    }
    Ok(())
}

fn is_query_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'#')
}

fn push_query(query: Option<&str>, separator: char, out: &mut String) {
    if let Some(query) = query.filter(|query| separator == '?' || !query.is_empty()) {
        out.push(separator);
        escape_unless(is_query_byte, query, out);
    }
}

/// The patterns of a route; `None` if one is faulty, which `Rule::compile` reports.
fn patterns(settings: &Settings) -> Option<Vec<Pattern>> {
    settings
        .path
        .iter()
        .map(|path| Pattern::parse(path).ok())
        .collect()
}

fn told<T>(result: Result<T, Bad>, at: KeyPath, faults: &mut Faults) -> Option<T> {
    result
        .map_err(|(what, fix)| faults.error(at, what, fix))
        .ok()
}

fn bad(what: impl Display, fix: impl Display) -> Bad {
    (what.to_string(), fix.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::*;
    use crate::base::units::OneOrMany;
    use http::Request;
    use http::request::Parts;
    use proptest::prelude::*;

    fn route(path: &str, change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings {
            path: OneOrMany(vec![path.to_owned()]),
            pool: Some("app".to_owned()),
            ..Settings::default()
        };
        change(&mut settings);
        settings
    }

    fn head(host: &str, target: &str) -> Parts {
        Request::builder()
            .uri(target)
            .header("host", host)
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    /// What `apply` makes of a request; the path must match.
    fn applied(
        settings: &Settings,
        host: &str,
        target: &str,
        apply: impl FnOnce(&Match<'_, '_, ()>, Option<&str>) -> Result<String, Reject>,
    ) -> Result<String, u16> {
        let table = Table::build([("r", settings, ())]).expect("a sound route");
        let parts = head(host, target);
        let host = Host::of(&parts).unwrap();
        let found = table
            .find(&parts, "web", &host)
            .map_err(|reject| reject.kind.status())?;
        apply(&found, parts.uri.query()).map_err(|reject| reject.kind.status())
    }

    fn rewritten(settings: &Settings, target: &str) -> Result<String, u16> {
        let mut faults = Faults::default();
        let rewrite = Rewrite::compile("r", settings, &mut faults);
        let rewrite = rewrite.unwrap_or_else(|| unreachable!("{faults:?}"));
        applied(settings, "a.com", target, |found, query| {
            rewrite.apply(found, query)
        })
    }

    fn redirected(path: &str, to: &str, host: &str, target: &str) -> Result<String, u16> {
        let settings = route(path, |_| {});
        let redirect = Redirect {
            to: to.to_owned(),
            status: 308,
        };
        let mut faults = Faults::default();
        let location = Location::compile("r", &settings, &redirect, &mut faults);
        let location = location.unwrap_or_else(|| unreachable!("{faults:?}"));
        applied(&settings, host, target, |found, query| {
            location.apply(found, query)
        })
    }

    #[test]
    fn a_prefix_is_stripped_at_a_segment() {
        for (path, prefix, target, forwarded) in [
            ("/api/*", "/api", "/api", "/"),
            ("/api/*", "/api", "/api/", "/"),
            ("/api/*", "/api", "/api/v1/x?a=1&b", "/v1/x?a=1&b"),
            ("/api/*", "/api", "/%61pi//x", "/x"),
            ("/api/v1/{id}", "/api/v1", "/api/v1/a%20b?", "/a%20b?"),
        ] {
            let settings = route(path, |s| s.strip_prefix = Some(prefix.to_owned()));
            assert_eq!(
                rewritten(&settings, target).as_deref(),
                Ok(forwarded),
                "{target}"
            );
        }
    }

    #[test]
    fn a_path_is_rewritten_from_what_was_matched() {
        for (path, template, target, forwarded) in [
            ("/api/*", "/v2/{*}", "/api/x/y?q", "/v2/x/y?q"),
            ("/api/*", "/v2/{*}", "/api", "/v2/"),
            ("/api/*", "/v2/{*}/end", "/api", "/v2/end"),
            ("/api/*", "/v2/{*}/end", "/api/x/", "/v2/x/end"),
            ("/u/{id}/*", "/{*}/u-{id}", "/u/7", "/u-7"),
            ("/u/{id}/*", "/{host}/{id}", "/u/a%2Fb/", "/a.com/a%2Fb"),
            ("/*", "/fixed", "/any?x=1", "/fixed?x=1"),
        ] {
            let settings = route(path, |s| s.rewrite_path = Some(template.to_owned()));
            assert_eq!(
                rewritten(&settings, target).as_deref(),
                Ok(forwarded),
                "{template} {target}"
            );
        }
    }

    #[test]
    fn a_redirect_keeps_the_query_and_stays_on_its_site() {
        for (path, to, target, location) in [
            (
                "/*",
                "https://{host}/{*}",
                "/a/b?q=1",
                "https://a.com/a/b?q=1",
            ),
            ("/*", "https://{host}:8443/{*}", "/", "https://a.com:8443/"),
            ("/old/*", "/new/{*}", "/old/x", "/new/x"),
            ("/*", "/{*}", "//evil.com", "/evil.com"),
            ("/*", "/{*}", "/%5Cevil.com", "/%5Cevil.com"),
            ("/*", "/{*}", "/\\evil.com", "/%5Cevil.com"),
            ("/*", "/{*}", "/%2F/evil.com", "/%2F/evil.com"),
            ("/{name}/*", "/{*}/{name}", "/evil.com", "/evil.com"),
            ("/{name}/*", "https://b.com", "/x?q", "https://b.com/?q"),
            (
                "/f/{name}",
                "/find?q={name}&all#top",
                "/f/a&b=c%20d?x",
                "/find?q=a%26b%3Dc%20d&all&x#top",
            ),
        ] {
            assert_eq!(
                redirected(path, to, "A.com:80", target).as_deref(),
                Ok(location),
                "{to} {target}"
            );
        }
        assert_eq!(
            redirected("/*", "https://{host}/{*}", "[0::1]:80", "/x").as_deref(),
            Ok("https://[::1]/x")
        );
        assert_eq!(redirected("/*", "https://{host}/{*}", "", "/x"), Err(400));
    }

    #[test]
    fn a_faulty_rewrite_is_told_at_its_key() {
        let place = |settings: &Settings| {
            let mut faults = Faults::default();
            assert_eq!(
                Rewrite::compile("r", settings, &mut faults),
                None,
                "{settings:?}"
            );
            faults.0[0].at.to_string()
        };
        for prefix in ["api", "/api/", "/api/*", "/{x}", "/other", "/", "/api/v1"] {
            let settings = route("/api/*", |s| s.strip_prefix = Some(prefix.to_owned()));
            assert_eq!(place(&settings), "routes.r.strip_prefix", "{prefix}");
        }
        for path in [
            "v2",
            "//v2",
            "/../x",
            "/a b",
            "/a?b",
            "/{id}",
            "/{",
            "/}",
            "/{}",
            "/x{*}",
            "/.{*}",
            "/a{host}",
            "/caf\u{e9}",
            "/{*}x",
            "/\r\n",
        ] {
            let settings = route("/api/*", |s| s.rewrite_path = Some(path.to_owned()));
            assert_eq!(place(&settings), "routes.r.rewrite_path", "{path}");
        }
        let settings = route("/api/{id}", |s| s.rewrite_path = Some("/..{id}".to_owned()));
        assert_eq!(place(&settings), "routes.r.rewrite_path");
        let both = route("/api/*", |s| {
            s.rewrite_path = Some("/x".to_owned());
            s.strip_prefix = Some("/api".to_owned());
        });
        assert_eq!(place(&both), "routes.r.rewrite_path");
        let no_pool = route("/api/*", |s| {
            s.pool = None;
            s.strip_prefix = Some("/api".to_owned());
        });
        assert_eq!(place(&no_pool), "routes.r.strip_prefix");
    }

    #[test]
    fn a_redirect_whose_site_a_caller_could_choose_is_refused() {
        for to in [
            "https://{*}",
            "https://{id}/x",
            "https://{id}.com/",
            "//evil.com",
            "ftp://a.com/",
            "javascript:x",
            "{*}",
            "https:///x",
            "https://u@a.com/",
            "/a b",
            "/a?b c",
            "/a#{id}",
            "https://a.com?q",
            "/x{*}",
        ] {
            let redirect = Redirect {
                to: to.to_owned(),
                status: 302,
            };
            let mut faults = Faults::default();
            let settings = route("/{id}/*", |_| {});
            let location = Location::compile("r", &settings, &redirect, &mut faults);
            let expected = to == "https://a.com?q";
            assert_eq!(location.is_some(), expected, "{to}");
        }
        let redirect = Redirect {
            to: "/".to_owned(),
            status: 200,
        };
        let mut faults = Faults::default();
        Location::compile("r", &route("/*", |_| {}), &redirect, &mut faults);
        assert_eq!(faults.0[0].at.to_string(), "routes.r.redirect.status");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_a_caller_sends_leads_off_the_site(
            path in "/(/|\\.|\\\\|%5c|%2[fFeE]|%0[dDaA]|[a;:@é]|\u{202e}){0,12}",
            query in any::<String>(),
            to in prop::sample::select(&["/{*}", "/{*}/{a}", "/{a}", "/{a}/{*}", "/x?y={a}", "/{a}-{a}/"][..]),
        ) {
            let settings = route("/{a}/*", |s| s.rewrite_path = Some(to.to_owned()));
            let redirect = Redirect { to: to.to_owned(), status: 308 };
            let mut faults = Faults::default();
            let location = Location::compile("r", &settings, &redirect, &mut faults).expect("sound");
            prop_assume!(path.parse::<http::Uri>().is_ok());
            let result = applied(&settings, "a.com", &path, |found, _| location.apply(found, Some(&query)));
            if let Ok(result) = result {
                prop_assert!(result.starts_with('/') && !result.starts_with("//"), "{}", result);
                prop_assert!(result.bytes().all(|byte| byte.is_ascii_graphic()), "{}", result);
                let path = result.split('?').next().unwrap_or("");
                let normal = normalise(path);
                prop_assert_eq!(normal.as_deref(), Ok(path));
            }
        }
    }
}
