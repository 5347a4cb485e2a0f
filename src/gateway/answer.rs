//! Answers that a route gives by itself: redirects and fixed responses.

use super::context::RequestContext;
use super::refuse;
use crate::base::ending::Ending;
use bytes::Bytes;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

pub async fn run(
    session: &mut Session,
    ctx: &mut RequestContext,
    head: Box<ResponseHeader>,
    body: Bytes,
) -> Result<bool> {
    refuse::keep_connection_if_cheap(session);
    refuse::send(session, ctx, *head, body).await?;
    ctx.end(Ending::Answered);
    Ok(true)
}
