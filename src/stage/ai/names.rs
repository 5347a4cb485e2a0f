//! Names by which callers may ask: exact ones, and beginnings with a `*` at their end.

use std::collections::HashMap;

/// Something by its name. An exact name goes before the longest beginning.
#[derive(Debug)]
pub struct Names<T> {
    exact: HashMap<String, T>,
    /// The longest first.
    beginnings: Vec<(String, T)>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self::new([])
    }
}

impl<T> Names<T> {
    /// Of two entries with the same name, the first one stands.
    pub fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let (mut exact, mut beginnings) = (HashMap::new(), Vec::<(String, T)>::new());
        for (name, entry) in entries {
            match name.strip_suffix('*') {
                Some(beginning) => beginnings.push((beginning.to_owned(), entry)),
                None => {
                    exact.entry(name).or_insert(entry);
                }
            }
        }
        beginnings.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
        Self { exact, beginnings }
    }

    /// The entry for this name that `takes` agrees to; the next best one where it does not.
    pub fn find(&self, name: &str, takes: impl Fn(&T) -> bool) -> Option<&T> {
        let exact = self.exact.get(name).filter(|entry| takes(entry));
        exact.or_else(|| {
            let mut fitting = self.beginnings.iter().filter(|(beginning, _)| {
                name.len() > beginning.len() && name.starts_with(beginning.as_str())
            });
            let found = fitting.find(|(_, entry)| takes(entry));
            found.map(|(_, entry)| entry)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_goes_before_the_longest_beginning() {
        let names = ["gpt-*", "gpt-5", "gpt-5-*", "openai/*", "smart"];
        let names = Names::new(names.map(|name| (name.to_owned(), name)));
        for (asked, found) in [
            ("gpt-5", Some("gpt-5")),
            ("gpt-5-mini", Some("gpt-5-*")),
            ("gpt-4o", Some("gpt-*")),
            ("gpt-", None),
            ("openai/gpt-5", Some("openai/*")),
            ("openai/", None),
            ("smart", Some("smart")),
            ("smarter", None),
            ("", None),
        ] {
            assert_eq!(names.find(asked, |_| true).copied(), found, "{asked}");
        }
        let other = names.find("gpt-5-mini", |name| *name != "gpt-5-*");
        assert_eq!(other, Some(&"gpt-*"));
    }

    #[test]
    fn a_star_alone_takes_what_nothing_else_takes() {
        let names = Names::new(["*", "a*"].map(|name| (name.to_owned(), name)));
        assert_eq!(names.find("abc", |_| true), Some(&"a*"));
        assert_eq!(names.find("b", |_| true), Some(&"*"));
        assert_eq!(names.find("", |_| true), None);
    }

    #[test]
    fn of_two_with_the_same_name_the_first_stands() {
        let names = Names::new([("a*".to_owned(), 1), ("a*".to_owned(), 2)]);
        assert_eq!(names.find("ab", |_| true), Some(&1));
    }
}
