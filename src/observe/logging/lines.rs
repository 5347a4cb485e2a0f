//! How an event becomes a line: JSON or for people, which may change while the process runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether lines are for people; shared by all that make them.
#[derive(Debug, Clone)]
pub struct Pretty(Arc<AtomicBool>);

impl Pretty {
    pub fn new(pretty: bool) -> Self {
        Self(Arc::new(AtomicBool::new(pretty)))
    }

    pub fn set(&self, pretty: bool) {
        self.0.store(pretty, Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Makes the whole line.
pub struct Lines {
    pretty: Pretty,
    text: Format<Full>,
    json: Format<Json>,
}

impl Lines {
    pub fn new(pretty: Pretty) -> Self {
        let json = tracing_subscriber::fmt::format().json();
        Self {
            pretty,
            text: tracing_subscriber::fmt::format(),
            // Spans are not ours: only libraries have some, and their fields are kept in one of two ways.
            json: json
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.pretty.get() {
            self.text.format_event(context, writer, event)
        } else {
            self.json.format_event(context, writer, event)
        }
    }
}

/// Makes the part with the fields.
pub struct Fields {
    pretty: Pretty,
    text: DefaultFields,
    json: JsonFields,
}

impl Fields {
    pub fn new(pretty: Pretty) -> Self {
        Self {
            pretty,
            text: DefaultFields::new(),
            json: JsonFields::new(),
        }
    }
}

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        if self.pretty.get() {
            self.text.format_fields(writer, fields)
        } else {
            self.json.format_fields(writer, fields)
        }
    }
}
