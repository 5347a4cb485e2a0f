//! The model's name in a form with files (`multipart/form-data`, RFC 7578), as sounds and pictures are sent.

use bytes::Bytes;
use memchr::memmem;
use std::ops::Range;

/// Names of models are shorter.
const NAME_BYTES_MAX: usize = 256;

/// What separates the parts, as the content type says (RFC 2046 section 5.1.1).
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("boundary");
        is_it.then(|| value.trim().trim_matches('"'))
    })?;
    let fits = !value.is_empty() && value.len() <= 70;
    fits.then(|| value.to_owned())
}

/// Where the value of the field `model` stands; none where there is no such field, or it is no name.
pub fn model(body: &[u8], boundary: &str) -> Option<Range<usize>> {
    field(body, boundary, "model")
}

fn field(body: &[u8], boundary: &str, name: &str) -> Option<Range<usize>> {
    let delimiter = format!("--{boundary}");
    let delimiters = memmem::Finder::new(&delimiter);
    let mut at = delimiters.find(body)? + delimiter.len();
    loop {
        let end = at + delimiters.find(&body[at..])?;
        let part = &body[at..end];
        if let Some(head_length) = memmem::find(part, b"\r\n\r\n") {
            let (from, to) = (at + head_length + 4, end.checked_sub(2)?);
            if names(&part[..head_length], name) && from <= to && to - from <= NAME_BYTES_MAX {
                return std::str::from_utf8(&body[from..to]).ok().map(|_| from..to);
            }
        }
        at = end + delimiter.len();
    }
}

/// `Content-Disposition: form-data; name="model"`, and no file.
fn names(head: &[u8], name: &str) -> bool {
    let Ok(head) = std::str::from_utf8(head) else {
        return false;
    };
    let mut lines = head.split("\r\n");
    let disposition = lines.find_map(|line| {
        let (field, value) = line.split_once(':')?;
        let is_it = field.trim().eq_ignore_ascii_case("content-disposition");
        is_it.then_some(value)
    });
    disposition.is_some_and(|value| {
        let mut parameters = value.split(';').map(str::trim);
        parameters.next() == Some("form-data")
            && parameters.any(|parameter| {
                parameter
                    .strip_prefix("name=")
                    .is_some_and(|value| value.trim_matches('"') == name)
            })
            && !value.contains("filename")
    })
}

/// The body with another name in this place.
pub fn patch(body: &Bytes, place: &Range<usize>, model: &str) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + model.len());
    out.extend_from_slice(&body[..place.start]);
    out.extend_from_slice(model.as_bytes());
    out.extend_from_slice(&body[place.end..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\
        Content-Type: audio/wav\r\n\r\nname=\"model\"\r\n\r\nno\r\n--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n\
        whisper-1\r\n--b--\r\n";

    #[test]
    fn the_model_is_found_and_nothing_else_is_touched() {
        let body = Bytes::from_static(FORM.as_bytes());
        let place = model(&body, "b").unwrap();
        assert_eq!(&FORM[place.clone()], "whisper-1");
        let patched = patch(&body, &place, "tiny");
        assert_eq!(patched, FORM.replace("whisper-1", "tiny"));
        assert_eq!(model(&body, "c"), None);
    }

    #[test]
    fn a_boundary_is_read_from_the_content_type() {
        for (content_type, found) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            (
                "Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"",
                Some("a b"),
            ),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("application/json; boundary=abc", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), found, "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(body in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..FORM.len()) {
            let _ = model(&body, "b");
            let _ = model(&FORM.as_bytes()[..cut], "b");
        }
    }
}
