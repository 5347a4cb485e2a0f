//! The changes a route makes to headers, applied to Pingora's heads.

use crate::snapshot::HeaderChanges;
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

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
