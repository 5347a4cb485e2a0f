//! One look at a gateway: what its admin listener says of this moment.

use crate::admin::Live;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For the whole of it: two seconds without a word are news of their own.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Two hundred rows of each list, with long names, have less.
const BYTES_MAX: u64 = 8 << 20;
/// Of what a stranger says, as much as fits a line.
const LINE_BYTES_MAX: usize = 200;

/// Why not, in words for a line of the screen.
pub async fn ask(place: &str) -> Result<Live, String> {
    match timeout(TIME_MAX, exchange(place)).await {
        Ok(answer) => read(&answer.map_err(|error| error.to_string())?),
        Err(_) => Err(format!("no answer within {} s", TIME_MAX.as_secs())),
    }
}

async fn exchange(place: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(place).await?;
    let request = "GET /status/live HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Result<Live, String> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").ok_or("no answer in HTTP")?;
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    if !head.starts_with(b"HTTP/1.1 200") {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]);
        return Err(format!("is that the admin listener? it says `{line}`"));
    }
    serde_json::from_slice(body).map_err(|error| format!("cannot be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        for (answer, expected) in [
            ("", "no answer in HTTP"),
            ("SSH-2.0-x\r\n", "no answer in HTTP"),
            (
                "HTTP/1.1 404 Not Found\r\na: b\r\n\r\n{}",
                "is that the admin listener? it says `HTTP/1.1 404 Not Found`",
            ),
            ("HTTP/1.1 200 OK\r\n\r\n{\"pid\":", "cannot be understood"),
        ] {
            let why = read(answer.as_bytes()).unwrap_err();
            assert!(why.starts_with(expected), "{answer}: {why}");
        }
        let live = read(b"HTTP/1.1 200 OK\r\n\r\n{\"pid\":7}").unwrap();
        assert_eq!(live.pid, 7);
    }
}
