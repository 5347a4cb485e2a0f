//! A WebSocket through the gateway.

use super::client::{Answer, Client, Tls};
use super::gateway::Gateway;
use super::in_time;
use super::wire::Io;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The key of RFC 6455, section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An open WebSocket to an upstream that said its name first.
pub struct WebSocket {
    socket: WebSocketStream<Box<dyn Io>>,
    /// The first message: who answered.
    pub name: String,
    pub answer: Answer,
}

impl WebSocket {
    /// Opens one; fails the test when it is refused.
    pub async fn open(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Self {
        match Self::try_open(gateway, target, headers).await {
            Ok(socket) => socket,
            Err(answer) => panic!("refused: {} {}", answer.head, answer.text()),
        }
    }

    pub async fn try_open(
        gateway: &Gateway,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Answer> {
        Self::over(Client::connect(gateway).await, target, headers).await
    }

    pub async fn open_secure(gateway: &Gateway, tls: Tls, target: &str) -> Self {
        let client = Client::secure(gateway, tls).await;
        match Self::over(client, target, &[]).await {
            Ok(socket) => socket,
            Err(answer) => panic!("refused: {} {}", answer.head, answer.text()),
        }
    }

    pub async fn over(
        mut client: Client,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Answer> {
        let mut all = vec![
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        all.extend_from_slice(headers);
        let answer = client.request("GET", target, &all, b"").await;
        if answer.status != 101 {
            return Err(answer);
        }
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some(derive_accept_key(KEY.as_bytes()).as_str())
        );
        let (io, rest) = client.into_parts();
        let mut socket = WebSocketStream::from_partially_read(io, rest, Role::Client, None).await;
        let name = receive(&mut socket).await.expect("a first message");
        Ok(Self {
            socket,
            name,
            answer,
        })
    }

    /// The code of the close frame that comes next; none when the connection ends without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        match in_time("a close frame", self.socket.next()).await {
            Some(Ok(Message::Close(frame))) => frame.map(|frame| frame.code.into()),
            _ => None,
        }
    }

    /// The same with its reason.
    pub async fn close_frame(&mut self) -> Option<(u16, String)> {
        match in_time("a close frame", self.socket.next()).await {
            Some(Ok(Message::Close(frame))) => {
                frame.map(|frame| (frame.code.into(), frame.reason.to_string()))
            }
            _ => None,
        }
    }

    /// Sends a ping and waits for the pong.
    pub async fn ping(&mut self) {
        let ping = self.socket.send(Message::Ping("ping".into()));
        in_time("send", ping).await.unwrap();
        let next = in_time("a pong", self.socket.next()).await;
        assert!(matches!(next, Some(Ok(Message::Pong(_)))), "{next:?}");
    }

    /// Sends a text and waits for the same text.
    pub async fn echo(&mut self, text: &str) {
        self.send(text).await;
        assert_eq!(self.receive().await.as_deref(), Some(text));
    }

    pub async fn send(&mut self, text: &str) {
        in_time("send", self.socket.send(Message::text(text)))
            .await
            .unwrap();
    }

    /// The next message; none when the tunnel has ended.
    pub async fn receive(&mut self) -> Option<String> {
        receive(&mut self.socket).await
    }

    /// The cookie that was set, without its attributes.
    pub fn cookie(&self) -> Option<String> {
        let set = self.answer.header("set-cookie")?;
        set.split(';').next().map(str::to_owned)
    }

    pub async fn close(mut self) {
        let _ = in_time("close", self.socket.close(None)).await;
        while self.receive().await.is_some() {}
    }
}

async fn receive(socket: &mut WebSocketStream<Box<dyn Io>>) -> Option<String> {
    in_time("a message", async {
        loop {
            match socket.next().await? {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    })
    .await
}
