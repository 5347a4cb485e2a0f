//! The changes a route makes to headers, applied to Pingora's heads.

use crate::snapshot::HeaderChanges;
use http::{HeaderName, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

/// What an endpoint says about its own connection (RFC 9110 section 7.6.1). Framing stays: Pingora needs it.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::UPGRADE,
    header::TE,
];

/// Removes what concerns the connection to the endpoint, and says nothing about the caller's.
pub fn strip_hop_by_hop(head: &mut ResponseHeader) {
    let named: Vec<HeaderName> = head
        .headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // Nearly always it says nothing else, and neither is the name of a header.
        .filter(|name| !matches!(*name, "keep-alive" | "close"))
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name != header::TRANSFER_ENCODING && *name != header::CONTENT_LENGTH)
        .collect();
    for name in named {
        head.remove_header(&name);
    }
    for name in &HOP_BY_HOP {
        if head.headers.contains_key(name) {
            head.remove_header(name);
        }
    }
}

/// Removal comes first, so that a header can be replaced by one of the same name.
pub fn change_request(head: &mut RequestHeader, changes: &HeaderChanges) -> Result<()> {
    for name in &changes.remove {
        head.remove_header(name);
    }
    for (name, value) in &changes.set {
        head.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}

pub fn change_response(head: &mut ResponseHeader, changes: &HeaderChanges) -> Result<()> {
    for name in &changes.remove {
        head.remove_header(name);
    }
    for (name, value) in &changes.set {
        head.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}
