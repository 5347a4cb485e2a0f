//! The users: each with an address and a token, on connections of its own, asking when it has read, holding a WebSocket.

use crate::Outcome;
use crate::marks::Marks;
use crate::report::book::{Book, Second, Trouble};
use crate::report::plan::{Event, Phase, Plan, Traffic};
use crate::token::token;
use crate::wire::{self, Answer, Connection};
use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Whoever waits longer has lost patience.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Each WebSocket says something so often, and this many times before it is closed and opened again.
const WORD_EVERY: Duration = Duration::from_secs(5);
const WORDS_MAX: u32 = 10;
/// New users open their WebSockets over this time.
const ARRIVING_SECONDS: f64 = 5.0;
/// A socket that ended with its backend is noticed at its next word.
const MOVED_WITHIN: Duration = Duration::from_secs(6);
/// Before a WebSocket that was refused is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Runs are alike in what is asked when.
const SEED: u64 = 6;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Page,
    Form,
    Call,
    Stream,
}

/// How a request failed, and whether another connection may be tried.
struct Failure {
    trouble: Trouble,
    reason: String,
    /// Nothing of an answer has come.
    unanswered: bool,
}

pub struct Town {
    port: u16,
    begin: Instant,
    tokens: Vec<String>,
    /// Connections that are kept, by user.
    idle: RefCell<Vec<Vec<Connection>>>,
    book: Rc<RefCell<Book>>,
    open: RefCell<JoinSet<()>>,
    backend_killed: Cell<Option<Instant>>,
}

impl Town {
    pub fn new(port: u16, users: u32, begin: Instant, book: Rc<RefCell<Book>>) -> Self {
        Self {
            port,
            begin,
            tokens: (0..users as usize).map(token).collect(),
            idle: RefCell::new((0..users).map(|_| Vec::new()).collect()),
            book,
            open: RefCell::new(JoinSet::new()),
            backend_killed: Cell::new(None),
        }
    }

    /// One of each, so that the run does not begin before everything answers.
    pub async fn warm_up(&self) -> Outcome<()> {
        for ask in [Ask::Page, Ask::Form, Ask::Call] {
            let answer = self.exchange(0, &self.request(ask, 0), |_| {}).await;
            answer.map_err(|failure| format!("{ask:?}: {}", failure.reason))?;
        }
        Ok(())
    }

    pub fn happens(&self, event: Event) {
        if event == Event::BackendKilled {
            self.backend_killed.set(Some(Instant::now()));
        }
    }

    /// Requests of all phases, each when it is due, whatever becomes of those before.
    pub async fn play(self: &Rc<Self>, plan: &Plan) {
        let mut rng = fastrand::Rng::with_seed(SEED);
        let end = self.begin + Duration::from_secs_f64(plan.seconds());
        let mut sockets = 0;
        for (second, phase) in plan.timed() {
            let from = self.begin + Duration::from_secs_f64(second);
            let to = from + Duration::from_secs_f64(phase.seconds);
            let first = sockets..phase.users.max(sockets);
            sockets = first.end;
            self.open_sockets(first, phase, (from, end), &mut rng);
            let mut due = from;
            loop {
                due += Duration::from_secs_f64(-rng.f64().max(1e-9).ln() / phase.rate);
                if due >= to {
                    break;
                }
                sleep_until(due).await;
                let user = rng.u32(0..phase.users) as usize;
                let (town, ask) = (Rc::clone(self), ask(phase.traffic, &mut rng));
                self.spawn(async move { town.ask(user, ask, due).await });
            }
        }
        sleep_until(end).await;
    }

    /// Waits for those who still wait.
    pub async fn all_answered(&self) {
        let mut open = self.open.take();
        while open.join_next().await.is_some() {}
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let mut open = self.open.borrow_mut();
        while open.try_join_next().is_some() {}
        open.spawn_local(work);
    }

    fn open_sockets(
        self: &Rc<Self>,
        users: std::ops::Range<u32>,
        phase: &Phase,
        (from, end): (Instant, Instant),
        rng: &mut fastrand::Rng,
    ) {
        let every = match phase.traffic {
            Traffic::Mixed => 2,
            Traffic::Models => 1,
        };
        for user in users.step_by(every) {
            let arrives = rng.f64() * ARRIVING_SECONDS.min(phase.seconds);
            let first = from + Duration::from_secs_f64(arrives);
            let town = Rc::clone(self);
            let rng = rng.fork();
            self.spawn(async move { town.sit(user as usize, (first, end), rng).await });
        }
    }

    fn second(&self, time: Instant) -> f64 {
        time.saturating_duration_since(self.begin).as_secs_f64()
    }

    /// An answer has come to what was due then.
    fn note(&self, due: Instant, take: impl FnOnce(&mut Second, u32)) {
        let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut book = self.book.borrow_mut();
        book.done.push(self.second(Instant::now()));
        take(book.at(self.second(due)), took);
    }

    fn fail(&self, due: Instant, failure: &Failure) {
        let second = self.second(due);
        let mut book = self.book.borrow_mut();
        book.fail(second, failure.trouble, &failure.reason);
    }

    fn request(&self, ask: Ask, user: usize) -> Vec<u8> {
        let token = &self.tokens[user];
        let credentials = format!("Authorization: Bearer {token}\r\n");
        match ask {
            Ask::Page => {
                format!("GET /page/{user} HTTP/1.1\r\nHost: localhost\r\n{credentials}\r\n")
                    .into_bytes()
            }
            Ask::Form => wire::request("/form", &credentials, &"x".repeat(1_024)),
            Ask::Call | Ask::Stream => {
                let words = "What is the answer to this question? ".repeat(20);
                let stream = ask == Ask::Stream;
                let body = format!(
                    r#"{{"model":"bench","messages":[{{"role":"user","content":"{words}"}}],"stream":{stream}}}"#
                );
                wire::request("/v1/chat/completions", &credentials, &body)
            }
        }
    }

    /// One request to its end.
    async fn ask(&self, user: usize, ask: Ask, due: Instant) {
        let request = self.request(ask, user);
        let mut marks = Marks::default();
        let mut first = None;
        let asked = self.exchange(user, &request, |piece| {
            first.get_or_insert_with(|| due.elapsed());
            if ask == Ask::Stream {
                marks.read(piece);
            }
        });
        let answer = match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(failure)) => return self.fail(due, &failure),
            Err(_) => return self.fail(due, &Failure::answer("no answer in time")),
        };
        self.note(due, |second, took| {
            second.overheads.extend(answer.overhead_us);
            if ask == Ask::Stream {
                let streamed = marks.end();
                let first = first.unwrap_or_default().as_micros();
                second
                    .answers
                    .push(u32::try_from(first).unwrap_or(u32::MAX));
                second.lost_events += streamed.lost;
                second.ways.extend(streamed.transit);
            } else {
                second.answers.push(took);
            }
        });
    }

    /// On a connection that the user kept, or a new one. One that is closed at the very moment at which it is used again
    /// has not seen the request; a browser asks again then, and so do we, once.
    async fn exchange(
        &self,
        user: usize,
        request: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<Answer, Failure> {
        if let Some(connection) = self.kept(user) {
            match self.exchange_on(connection, user, request, &mut body).await {
                Err(failure) if failure.unanswered => {
                    let second = self.second(Instant::now());
                    self.book.borrow_mut().at(second).resent += 1;
                }
                done => return done,
            }
        }
        let connection = self.connect(user).await?;
        self.exchange_on(connection, user, request, &mut body).await
    }

    async fn exchange_on(
        &self,
        mut connection: Connection,
        user: usize,
        request: &[u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<Answer, Failure> {
        let answered = Cell::new(false);
        let done = connection
            .exchange(request, |piece| {
                answered.set(true);
                body(piece);
            })
            .await;
        let answer = done.map_err(|fault| {
            let failure = Failure::connection(&fault.to_string());
            let unanswered = !answered.get() && failure.reason != "closed within an answer";
            Failure {
                unanswered,
                ..failure
            }
        })?;
        if answer.status != 200 {
            return Err(Failure::answer(&format!("status {}", answer.status)));
        }
        if !answer.closes {
            self.idle.borrow_mut()[user].push(connection);
        }
        Ok(answer)
    }

    fn kept(&self, user: usize) -> Option<Connection> {
        let idle = &mut self.idle.borrow_mut()[user];
        idle.retain(Connection::is_open);
        idle.pop()
    }

    /// Each user has an address: limits by address are those of the default.
    async fn connect(&self, user: usize) -> Result<Connection, Failure> {
        let [_, _, high, low] = u32::try_from(user).unwrap_or_default().to_be_bytes();
        let connection = Connection::open_from(Ipv4Addr::new(127, 1, high, low), self.port).await;
        connection.map_err(|fault| Failure {
            trouble: Trouble::Connection,
            reason: format!("connect: {fault}"),
            unanswered: true,
        })
    }

    /// Holds a WebSocket, closes it after some words, opens another.
    async fn sit(&self, user: usize, (first, end): (Instant, Instant), mut rng: fastrand::Rng) {
        let mut due = first;
        while due < end {
            sleep_until(due).await;
            match timeout(PATIENCE, self.open_socket(user)).await {
                Ok(Ok(socket)) => {
                    self.note(due, |second, took| second.answers.push(took));
                    due = self.talk(socket, (due, end), rng.u32(1..=WORDS_MAX)).await;
                }
                Ok(Err(failure)) => self.fail(due, &failure),
                Err(_) => self.fail(due, &Failure::answer("no WebSocket in time")),
            }
            due = due.max(Instant::now()) + PAUSE;
        }
    }

    async fn open_socket(&self, user: usize) -> Result<Connection, Failure> {
        let mut socket = self.connect(user).await?;
        let request = format!(
            "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer {}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.tokens[user]
        );
        let head = async {
            socket.stream.write_all(request.as_bytes()).await?;
            socket.take_head().await
        };
        let head = head.await.map_err(|fault| Failure {
            trouble: Trouble::Connection,
            reason: format!("WebSocket: {fault}"),
            unanswered: true,
        })?;
        if head.starts_with(b"HTTP/1.1 101") {
            return Ok(socket);
        }
        let head = String::from_utf8_lossy(&head);
        let line = head.lines().next().unwrap_or_default();
        Err(Failure::answer(&format!("no WebSocket: {line}")))
    }

    /// Says a word every few seconds and waits for its echo; when it ended.
    async fn talk(
        &self,
        mut socket: Connection,
        (mut due, end): (Instant, Instant),
        words: u32,
    ) -> Instant {
        // a final text frame of four bytes under a mask of zeros (RFC 6455, 5.2)
        let frame = [0x81, 0x84, 0, 0, 0, 0, b'w', b'o', b'r', b'd'];
        for _ in 0..words {
            due += WORD_EVERY;
            if due >= end {
                return end;
            }
            sleep_until(due).await;
            let said = async {
                let mut back = [0; 6];
                socket.stream.write_all(&frame).await?;
                socket.stream.read_exact(&mut back).await?;
                std::io::Result::Ok(back[2..] == frame[6..])
            };
            if !matches!(timeout(PATIENCE, said).await, Ok(Ok(true))) {
                self.cut(due);
                return due;
            }
            self.note(due, |second, took| second.echoes.push(took));
        }
        // a close frame without a body
        let _ = socket.stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await;
        sleep(Duration::ZERO).await;
        due
    }

    /// No gateway can hold a WebSocket whose backend is gone; any other must not end.
    fn cut(&self, due: Instant) {
        let killed = self.backend_killed.get();
        if killed.is_some_and(|killed| killed.elapsed() < MOVED_WITHIN) {
            let second = self.second(due);
            self.book.borrow_mut().at(second).moved += 1;
        } else {
            self.fail(due, &Failure::connection("a WebSocket was cut"));
        }
    }
}

impl Failure {
    fn answer(reason: &str) -> Self {
        Self {
            trouble: Trouble::Answer,
            reason: reason.to_owned(),
            unanswered: false,
        }
    }

    fn connection(reason: &str) -> Self {
        Self {
            trouble: Trouble::Connection,
            ..Self::answer(reason)
        }
    }
}

fn ask(traffic: Traffic, rng: &mut fastrand::Rng) -> Ask {
    match (traffic, rng.u32(0..100)) {
        (Traffic::Mixed, 0..65) => Ask::Page,
        (Traffic::Mixed, 65..75) => Ask::Form,
        (Traffic::Mixed, 75..85) | (Traffic::Models, 0..50) => Ask::Call,
        _ => Ask::Stream,
    }
}
