//! Clients for what no tool of Debian does: web sockets, full TLS handshakes, the first answer after a start.

use crate::Outcome;
use crate::load::Seen;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use socket2::SockRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

const STEP_DEADLINE: Duration = Duration::from_secs(10);
const HANDSHAKES_AT_ONCE: usize = 16;
const PAYLOAD: usize = 64;

/// A text frame of 64 bytes as a client sends it: final, masked (RFC 6455, 5.2).
fn frame() -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x81, 0x80 | 64];
    frame.extend(mask);
    frame.extend((0..PAYLOAD).map(|i| b'x' ^ mask[i % 4]));
    frame
}

/// Opens `count` web sockets, one after the other.
pub async fn websockets(port: u16, count: usize) -> Outcome<Vec<TcpStream>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(timeout(STEP_DEADLINE, websocket(port)).await??);
    }
    Ok(sockets)
}

async fn websocket(port: u16) -> Outcome<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.set_nodelay(true)?;
    let request = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // byte by byte would be slow and more would eat a frame, but none comes before the first of ours
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await? == 0 {
            return Err("closed during the upgrade".into());
        }
    }
    if head.starts_with(b"HTTP/1.1 101") {
        return Ok(socket);
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default();
    Err(format!("no upgrade: {status}").into())
}

/// Every socket sends and waits for its echo, again and again; returns them with what they saw.
pub async fn echo(sockets: Vec<TcpStream>, time: Duration) -> Outcome<(Vec<TcpStream>, Seen)> {
    let end = Instant::now() + time;
    let mut tasks: JoinSet<std::io::Result<_>> = JoinSet::new();
    for mut socket in sockets {
        tasks.spawn(async move {
            let frame = frame();
            let mut back = [0; 2 + PAYLOAD];
            let mut times = Vec::new();
            while Instant::now() < end {
                let sent = Instant::now();
                socket.write_all(&frame).await?;
                socket.read_exact(&mut back).await?;
                if back[0] != 0x81 || back[2..] != [b'x'; PAYLOAD] {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                times.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok((socket, times))
        });
    }
    let (mut sockets, mut all) = (Vec::new(), Vec::new());
    let collect = async {
        while let Some(done) = tasks.join_next().await {
            let (socket, times) = done??;
            sockets.push(socket);
            all.extend(times);
        }
        Outcome::Ok(())
    };
    timeout(time + STEP_DEADLINE, collect).await??;
    Ok((sockets, Seen::of(all)?))
}

/// Connects, shakes hands in full, hangs up; 16 at a time.
pub async fn handshakes(port: u16, root: CertificateDer<'static>, time: Duration) -> Outcome<Seen> {
    let connector = connector(root)?;
    let end = Instant::now() + time;
    let mut tasks: JoinSet<Outcome<Vec<u32>>> = JoinSet::new();
    for _ in 0..HANDSHAKES_AT_ONCE {
        let connector = connector.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let begun = Instant::now();
                timeout(STEP_DEADLINE, handshake(port, &connector)).await??;
                times.push(u32::try_from(begun.elapsed().as_micros())?);
            }
            Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    Seen::of(all)
}

/// No resumption, and the one key exchange that all products speak, so that all do the same work.
fn connector(root: CertificateDer<'static>) -> Outcome<TlsConnector> {
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots.add(root)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn handshake(port: u16, connector: &TlsConnector) -> Outcome<()> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.set_nodelay(true)?;
    // a reset leaves no port in TIME_WAIT
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    let name = ServerName::try_from("localhost")?;
    let stream = connector.connect(name, socket).await?;
    match stream.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Full) => Ok(()),
        other => Err(format!("not a full handshake: {other:?}").into()),
    }
}

/// Asks every millisecond until the first 200.
pub async fn first_answer(port: u16) -> Outcome<()> {
    let asked = async {
        while ask(port).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(STEP_DEADLINE, asked)
        .await
        .map_err(|_| "no answer 200 within 10 s".into())
}

async fn ask(port: u16) -> Outcome<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
    socket
        .write_all(b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err("no 200".into())
    }
}
