//! Query parameters whose values are secrets: they are logged as `***`.

/// What stands for a secret.
const STARS: &[u8] = b"***";

/// Names of parameters that carry secrets, in lower case with `-` and `_` left out.
const SECRET_NAMES: &[&str] = &[
    "key",
    "apikey",
    "accesskey",
    "secretkey",
    "token",
    "accesstoken",
    "refreshtoken",
    "idtoken",
    "authtoken",
    "secret",
    "clientsecret",
    "password",
    "passwd",
    "pwd",
    "signature",
    "sig",
    "jwt",
    "authorization",
    "xamzsignature",
    "xamzcredential",
    "xamzsecuritytoken",
    "xgoogsignature",
    "xgoogcredential",
];

/// The longest of them, plus room for one more: longer names need not be looked at.
const NAME_BYTES_MAX: usize = 24;

/// Calls `emit` with the parts of path and query, in order, secrets replaced.
pub fn parts<'a>(path: &'a [u8], mut emit: impl FnMut(&'a [u8])) {
    let Some(query) = memchr::memchr(b'?', path) else {
        return emit(path);
    };
    let (before, mut rest) = path.split_at(query);
    emit(before);
    while !rest.is_empty() {
        let end = memchr::memchr(b'&', &rest[1..]).map_or(rest.len(), |at| at + 1);
        let (parameter, after) = rest.split_at(end);
        match secret_begins(parameter) {
            Some(at) => {
                emit(&parameter[..at]);
                emit(STARS);
            }
            None => emit(parameter),
        }
        rest = after;
    }
}

/// Where the value of a secret begins, in one parameter with the `?` or `&` before it.
/// Some servers separate by `;` too and URLs are nested without being encoded, so a name may also
/// begin after those; a secret always goes on to the next `&`.
fn secret_begins(parameter: &[u8]) -> Option<usize> {
    let mut name_at = 1;
    for (at, byte) in parameter.iter().enumerate().skip(1) {
        match byte {
            b'=' if is_secret(&parameter[name_at..at]) => return Some(at + 1),
            b'=' | b';' | b'?' | b'#' => name_at = at + 1,
            _ => {}
        }
    }
    None
}

/// Compares as the server behind us would: after decoding `%XX`, whatever the case.
fn is_secret(name: &[u8]) -> bool {
    let mut plain = [0; NAME_BYTES_MAX];
    let mut length = 0;
    let mut bytes = name.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            hex(bytes.next()) << 4 | hex(bytes.next())
        } else {
            byte
        };
        // `filter[token]=` and `user.token=` are parameters of the same name to many servers.
        if matches!(byte, b'[' | b'.') {
            length = 0;
            continue;
        }
        if matches!(byte, b'-' | b'_' | b']' | b'+' | b' ') {
            continue;
        }
        if length == NAME_BYTES_MAX {
            return false;
        }
        plain[length] = byte.to_ascii_lowercase();
        length += 1;
    }
    SECRET_NAMES
        .iter()
        .any(|secret| secret.as_bytes() == &plain[..length])
}

/// The value of a hexadecimal digit; 0 for anything else, which then makes no name of ours.
fn hex(digit: Option<u8>) -> u8 {
    let digit = digit.and_then(|digit| char::from(digit).to_digit(16));
    digit
        .and_then(|digit| u8::try_from(digit).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    fn redacted(path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        parts(path, |part| out.extend_from_slice(part));
        out
    }

    #[test]
    fn secrets_become_stars_and_the_rest_stays() {
        for (path, expected) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/key=x", "/key=x"),
            ("/a?b=c&d", "/a?b=c&d"),
            ("/a?key=x", "/a?key=***"),
            ("/a?b=c&api_key=x&d=e", "/a?b=c&api_key=***&d=e"),
            ("/a?API-Key=x", "/a?API-Key=***"),
            ("/a?%6bey=x", "/a?%6bey=***"),
            ("/a?access%5Ftoken=x", "/a?access%5Ftoken=***"),
            ("/a?token=", "/a?token=***"),
            ("/a?token=x=y;z", "/a?token=***"),
            ("/a?b=1;token=x;y&c=2", "/a?b=1;token=***&c=2"),
            ("/a?next=/b?token=x&c=2", "/a?next=/b?token=***&c=2"),
            ("/a?user[password]=x", "/a?user[password]=***"),
            ("/a?X-Amz-Signature=x", "/a?X-Amz-Signature=***"),
            ("/a?monkey=x&tokens=3", "/a?monkey=x&tokens=3"),
            ("/a?&&key=x&&", "/a?&&key=***&&"),
            ("/a?key%=x%", "/a?key%=x%"),
        ] {
            let shown = redacted(path.as_bytes());
            assert_eq!(String::from_utf8_lossy(&shown), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_never_shows(before in "[a-z=;?&/%#]{0,20}", secret in "[A-Z0-9=;?/%#]{1,20}", after in "(&[b-d=]{0,9})?") {
            let path = format!("/p?{before}&signature={secret}{after}");
            let shown = redacted(path.as_bytes());
            let shown = String::from_utf8_lossy(&shown);
            let expected = format!("&signature=***{after}");
            prop_assert!(shown.ends_with(&expected), "{}", shown);
        }

        #[test]
        fn nothing_else_is_changed(path in proptest::collection::vec(any::<u8>(), 0..60)) {
            // None of the names can be spelled without one of these.
            let path: Vec<u8> = path.into_iter().filter(|byte| !b"eEsSwWzZ%".contains(byte)).collect();
            prop_assert_eq!(redacted(&path), path);
        }
    }
}
