//! Pictures, sounds and documents, as Gemini writes them.

use super::super::super::call::{Media, Part, Source};
use super::super::super::fault::CallFault;
use super::super::fields::Fields;
use serde_json::{Value, json};

/// Files that Google keeps for its API; other addresses anybody can fetch.
const KEPT: &str = "https://generativelanguage.googleapis.com/";

pub fn read_inline(mut fields: Fields) -> Result<Media, CallFault> {
    Ok(Media {
        media_type: Some(fields.needed_text("mimeType")?),
        source: Source::Base64(fields.needed_text("data")?),
        detail: None,
        name: fields.text("displayName")?,
    })
}

pub fn read_file(mut fields: Fields) -> Result<Media, CallFault> {
    let address = fields.needed_text("fileUri")?;
    Ok(Media {
        media_type: fields.text("mimeType")?,
        source: if address.starts_with(KEPT) || !address.starts_with("http") {
            Source::FileId(address)
        } else {
            Source::Url(address)
        },
        detail: None,
        name: fields.text("displayName")?,
    })
}

/// A part of an answer that is neither words nor a call.
pub fn read_blob(part: &Value) -> Option<Media> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (media_type, source) = if let Some(data) = part.get("inlineData") {
        (
            text(&data["mimeType"]),
            Source::Base64(text(&data["data"])?),
        )
    } else {
        let data = part.get("fileData")?;
        (
            text(&data["mimeType"]),
            Source::Url(text(&data["fileUri"])?),
        )
    };
    Some(Media {
        media_type,
        source,
        detail: None,
        name: None,
    })
}

/// What it is, by its type.
pub fn media_part(media: Media) -> Part {
    let media_type = media.media_type.as_deref().unwrap_or_default();
    if media_type.starts_with("image/") {
        Part::Image(media)
    } else if media_type.starts_with("audio/") {
        Part::Audio(media)
    } else {
        Part::File(media)
    }
}

/// `otherwise` is its type where it does not say one. None: kept by another provider.
pub fn write_media(media: &Media, otherwise: &str) -> Option<Value> {
    let said = media.media_type.as_deref();
    Some(match &media.source {
        Source::Base64(data) => {
            json!({"inlineData": {"mimeType": said.unwrap_or(otherwise), "data": data}})
        }
        Source::Url(url) => {
            let media_type = said.or_else(|| by_extension(url)).unwrap_or(otherwise);
            json!({"fileData": {"mimeType": media_type, "fileUri": url}})
        }
        Source::FileId(_) => return None,
    })
}

fn by_extension(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let (_, extension) = path.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "wav" => "audio/wav",
        "mp3" => "audio/mp3",
        "mp4" => "video/mp4",
        _ => return None,
    })
}
