//! A provider's stream on its way to the caller: read, weighed, and passed on or said in other words.
//!
//! Nothing is given out before the first content has come: until then another provider can take over, and
//! the caller never learns of this one.

use super::dialect::{Dialect, Frame, Framing, Keep, Reader, Wants, Writer};
use super::event::{Event, Stop, StopReason};
use super::eventstream;
use super::fault::{FaultKind, Malformed, ProviderFault};
use super::sse::{self, EVENT_BYTES_MAX};
use crate::base::usage::Usage;
use bytes::Bytes;
use std::collections::VecDeque;

/// What may come before the first content.
const HELD_BYTES_MAX: usize = 2 * EVENT_BYTES_MAX;

/// Events in a row that cannot be read, before the provider is given up.
const MALFORMED_MAX: u32 = 8;

/// Why a stream is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broke {
    /// The provider says so itself.
    Fault(ProviderFault),
    /// It is not of its dialect, or too large.
    Malformed(String),
    /// It ended before it was whole.
    Cut,
}

/// What is known of the answer so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The provider's name for the answer.
    pub id: String,
    /// The model that gives it, as the provider calls it.
    pub model: String,
    pub usage: Option<Usage>,
    pub stop: Option<Stop>,
    /// Bytes of words that came, for an estimate where the provider does not count.
    pub words: u64,
    /// Events that could not be read, and were left out.
    pub malformed: u32,
}

/// Finds events in what comes.
enum Decoder {
    Events(sse::Decoder),
    Messages(eventstream::Decoder),
}

impl Decoder {
    fn new(framing: Framing) -> Self {
        match framing {
            Framing::Events => Self::Events(sse::Decoder::new(EVENT_BYTES_MAX)),
            Framing::Messages => Self::Messages(eventstream::Decoder::new(EVENT_BYTES_MAX)),
        }
    }

    fn push(&mut self, piece: Bytes) {
        match self {
            Self::Events(decoder) => decoder.push(piece),
            Self::Messages(decoder) => decoder.push(&piece),
        }
    }

    fn next(&mut self) -> Result<Option<Frame>, Broke> {
        match self {
            Self::Events(decoder) => decoder
                .next()
                .map_err(|_| Broke::Malformed("an event is too large".to_owned())),
            Self::Messages(decoder) => decoder
                .next()
                .map_err(|broken| Broke::Malformed(broken.to_string())),
        }
    }
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Relay {
    decoder: Decoder,
    reader: Box<dyn Reader>,
    /// None: both sides speak the same dialect, and bytes pass through.
    writer: Option<Box<dyn Writer>>,
    wants: Wants,
    ready: VecDeque<Bytes>,
    held_bytes: usize,
    committed: bool,
    over: bool,
    has_content: bool,
    has_given: bool,
    seen: u64,
    in_a_row: u32,
    events: Vec<Event>,
    pub facts: Facts,
}

impl Relay {
    /// From a provider that speaks `from` to a caller that speaks `to`.
    pub fn new(from: &dyn Dialect, to: Option<&dyn Dialect>, wants: Wants) -> Self {
        Self {
            decoder: Decoder::new(from.framing()),
            reader: from.reader(),
            writer: to.map(|to| to.writer(wants.clone())),
            wants,
            ready: VecDeque::new(),
            held_bytes: 0,
            committed: false,
            over: false,
            has_content: false,
            has_given: false,
            seen: 0,
            in_a_row: 0,
            events: Vec::new(),
            facts: Facts::default(),
        }
    }

    /// More bytes of the stream.
    pub fn push(&mut self, piece: Bytes) -> Result<(), Broke> {
        self.decoder.push(piece);
        while let Some(frame) = self.decoder.next()? {
            self.frame(&frame)?;
        }
        Ok(())
    }

    /// The connection has ended.
    pub fn end(&mut self) -> Result<(), Broke> {
        if !self.over && !self.reader.is_whole() {
            return Err(Broke::Cut);
        }
        if !self.over {
            self.over = true;
            if let Some(writer) = &mut self.writer {
                let mut out = Vec::new();
                writer.write(&Event::End, &mut out);
                self.put(out.into());
            } else if let Some(mark) = self.reader.end_mark() {
                self.put(Bytes::from_static(mark));
            }
        }
        self.committed = true;
        Ok(())
    }

    /// The next bytes for the caller; none before the answer has begun.
    pub fn take(&mut self) -> Option<Bytes> {
        if !self.committed {
            return None;
        }
        let piece = self.ready.pop_front();
        self.has_given |= piece.is_some();
        piece
    }

    /// Whether something is ready to be taken.
    pub fn has_some(&self) -> bool {
        self.committed && !self.ready.is_empty()
    }

    /// Whether something of it was taken: the caller may have seen it.
    pub fn has_given(&self) -> bool {
        self.has_given
    }

    /// Whether content has come: no other provider can take over.
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// Whether the provider's filter has let no word through: another provider may answer.
    pub fn is_filtered(&self) -> bool {
        let stop = self.facts.stop.as_ref();
        stop.is_some_and(|stop| stop.reason == StopReason::ContentFilter) && !self.has_content
    }

    /// Whether the answer is whole: nothing that comes after is waited for.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the caller has all of what has come, so that something else may be said.
    pub fn is_between(&self) -> bool {
        self.committed && self.ready.is_empty()
    }

    /// Events that came so far; comments and empty lines are none.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Where a numbered stream stands.
    pub fn sequence(&self) -> u64 {
        match &self.writer {
            Some(writer) => writer.sequence(),
            None => self.reader.sequence(),
        }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), Broke> {
        if self.over {
            return Ok(());
        }
        if frame.data.is_empty() && frame.event.is_none() {
            // A comment: it keeps a line awake, which is all that it is for.
            if self.writer.is_none() && self.committed {
                self.ready.push_back(frame.raw.clone());
            }
            return Ok(());
        }
        self.seen += 1;
        self.events.clear();
        let mut events = std::mem::take(&mut self.events);
        let read = self.reader.read(frame, &mut events);
        let noted = match read {
            Ok(()) => {
                self.in_a_row = 0;
                self.note(&events, frame)
            }
            Err(Malformed(what)) => self.leave_out(what),
        };
        self.events = events;
        noted
    }

    /// An event that nobody could read is not passed on: it would end the caller's reading as well.
    fn leave_out(&mut self, what: String) -> Result<(), Broke> {
        self.facts.malformed += 1;
        self.in_a_row += 1;
        if self.in_a_row > MALFORMED_MAX {
            return Err(Broke::Malformed(what));
        }
        Ok(())
    }

    fn note(&mut self, events: &[Event], frame: &Frame) -> Result<(), Broke> {
        let mut out = Vec::new();
        let mut commits = false;
        for event in events {
            commits |= self.learn(event)?;
            if let Some(writer) = &mut self.writer {
                writer.write(event, &mut out);
            }
        }
        if self.writer.is_some() {
            self.put(out.into());
        } else {
            match self.reader.keep(frame, &self.wants) {
                Keep::Whole => self.put(frame.raw.clone()),
                Keep::Instead(bytes) => self.put(bytes),
                Keep::Nothing => {}
            }
        }
        self.committed |= commits;
        if !self.committed && self.held_bytes > HELD_BYTES_MAX {
            return Err(Broke::Malformed("nothing but preliminaries".to_owned()));
        }
        Ok(())
    }

    /// Whether the answer has begun with this event.
    fn learn(&mut self, event: &Event) -> Result<bool, Broke> {
        match event {
            Event::Start { id, model } => {
                self.facts.id.clone_from(id);
                self.facts.model.clone_from(model);
            }
            Event::Text(text) | Event::Thought(text) | Event::Refusal(text) => {
                self.facts.words += text.len() as u64;
            }
            Event::ToolCall { call, .. } => {
                self.facts.words += (call.name.len() + call.arguments.len()) as u64;
            }
            Event::ToolArguments { delta, .. } => self.facts.words += delta.len() as u64,
            Event::Usage(usage) => self.facts.usage = Some(*usage),
            Event::Stop(stop) => {
                self.facts.stop = Some(stop.clone());
                return Ok(true);
            }
            Event::Fault(fault) => return Err(Broke::Fault(fault.clone())),
            // A mark of the end without a word why it ends is no whole answer.
            Event::End if self.facts.stop.is_none() => return Err(Broke::Cut),
            Event::End => {
                self.over = true;
                return Ok(true);
            }
            Event::Image(_) | Event::ThoughtSignature(_) | Event::ThoughtEncrypted(_) => {}
        }
        self.has_content |= event.is_content();
        Ok(event.is_content())
    }

    fn put(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            if !self.committed {
                self.held_bytes += bytes.len();
            }
            self.ready.push_back(bytes);
        }
    }
}

impl Broke {
    /// What the caller is told of it, if it must be told.
    pub fn fault(&self) -> ProviderFault {
        let (kind, message) = match self {
            Self::Fault(fault) => return fault.clone(),
            Self::Malformed(_) => (FaultKind::Malformed, "the provider's answer cannot be read"),
            Self::Cut => (FaultKind::Server, "the provider broke off its answer"),
        };
        ProviderFault {
            kind,
            code: None,
            message: message.to_owned(),
            retry_after: None,
        }
    }
}
