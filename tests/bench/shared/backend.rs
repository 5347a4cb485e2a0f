//! The backend for what nginx cannot answer alone: web sockets that echo, uploads that are read and counted,
//! pages that take a moment.

use crate::Outcome;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const HEAD_MAX: usize = 16 * 1024;
/// Frames of the benchmark have a payload below 126 bytes and a mask.
const FRAME_HEAD: usize = 6;
/// What an application answers to `/page…`, and how long it takes for that.
const PAGE_BYTES: usize = 4 * 1024;
const PAGE_AFTER: Duration = Duration::from_millis(5);

pub fn run(arguments: &[String]) -> Outcome<()> {
    let port: u16 = arguments.first().ok_or("backend PORT")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .global_queue_interval(1)
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (caller, _) = listener.accept().await?;
            caller.set_nodelay(true)?;
            tokio::spawn(async move {
                // a caller that leaves is no news here
                let _ = serve(caller).await;
            });
        }
    })
}

async fn serve(mut caller: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    let page = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {PAGE_BYTES}\r\n\r\n{}",
        "x".repeat(PAGE_BYTES)
    );
    loop {
        let Some(end) = read_head(&mut caller, &mut buffer).await? else {
            return Ok(());
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        if let Some(key) = header(&head, "sec-websocket-key") {
            let accept = derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            caller.write_all(answer.as_bytes()).await?;
            return echo(caller).await;
        }
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        skip_body(&mut caller, &mut buffer, length.unwrap_or(0)).await?;
        if head.starts_with("GET /page") {
            tokio::time::sleep(PAGE_AFTER).await;
            caller.write_all(page.as_bytes()).await?;
            continue;
        }
        caller
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await?;
    }
}

/// Reads until the blank line; `None` when the caller left between requests.
async fn read_head(caller: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if buffer.len() > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if caller.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

async fn skip_body(caller: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let mut left = length.saturating_sub(buffer.len());
    buffer.drain(..length.min(buffer.len()));
    let mut scratch = vec![0; 64 * 1024];
    while left > 0 {
        let wanted = left.min(scratch.len());
        let got = caller.read(&mut scratch[..wanted]).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= got;
    }
    Ok(())
}

/// Sends each frame back without its mask, as RFC 6455 asks of a server.
async fn echo(mut caller: TcpStream) -> io::Result<()> {
    let mut frame = [0; FRAME_HEAD + 125];
    loop {
        caller.read_exact(&mut frame[..FRAME_HEAD]).await?;
        let length = usize::from(frame[1] & 0x7f);
        if length > 125 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        caller
            .read_exact(&mut frame[FRAME_HEAD..FRAME_HEAD + length])
            .await?;
        for i in 0..length {
            frame[FRAME_HEAD + i] ^= frame[2 + i % 4];
        }
        frame[4] = frame[0];
        frame[5] = frame[1] & 0x7f;
        caller.write_all(&frame[4..FRAME_HEAD + length]).await?;
    }
}
