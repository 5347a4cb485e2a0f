//! A `redis-server` of a test's own, on a port that stays its own when it is killed and started again.
//!
//! Stands by itself: unit tests use this file as well.

use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// How long a server of a cluster may be silent before the others take it for dead.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// Killed when dropped.
pub struct RedisServer {
    address: SocketAddr,
    held: Vec<Socket>,
    /// Where servers of one cluster talk to each other.
    bus: u16,
    dir: TempDir,
    arguments: Vec<String>,
    child: Mutex<Child>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more of the command line.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(TempDir::new().unwrap(), arguments)
    }

    /// One that knows nobody and has no slots yet.
    pub fn start_of_cluster() -> Self {
        Self::start_of_cluster_with(&[])
    }

    /// As `start_of_cluster`, with more of the command line.
    pub fn start_of_cluster_with(arguments: &[&str]) -> Self {
        let (bus, held) = hold();
        let port = bus.port().to_string();
        let timeout = NODE_TIMEOUT.as_millis().to_string();
        let of_cluster = [
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &port,
            "--cluster-node-timeout",
            &timeout,
            "--repl-diskless-sync-delay",
            "0",
            "--cluster-replica-validity-factor",
            "0",
        ];
        let mut server = Self::start_with(&[&of_cluster[..], arguments].concat());
        server.held.push(held);
        server.bus = bus.port();
        server
    }

    /// The port for other servers of its cluster.
    pub fn bus(&self) -> u16 {
        self.bus
    }

    fn start_in(dir: TempDir, arguments: &[&str]) -> Self {
        let (address, held) = hold();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let child = Mutex::new(spawn(address, &dir, &arguments));
        let server = Self {
            address,
            held: vec![held],
            bus: 0,
            dir,
            arguments,
            child,
        };
        server.wait_ready();
        server
    }

    /// A copy of another server, ready to take its place.
    pub fn replica_of(master: &Self) -> Self {
        let port = master.address.port().to_string();
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &port]);
        let started = Instant::now();
        while !replica
            .ask("INFO replication")
            .contains("master_link_status:up")
        {
            assert!(started.elapsed() < DEADLINE, "the replica has no master");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        replica
    }

    /// A Sentinel that knows a master by the name `main`, and is a quorum of its own.
    pub fn sentinel_of(master: &Self) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("sentinel.conf");
        let port = master.address.port();
        let text = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        std::fs::write(&file, text).unwrap();
        Self::start_in(dir, &[&file.display().to_string(), "--sentinel"])
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// At once, as when its machine dies; what it knew is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    pub fn restart(&self) {
        *self.child.lock().unwrap() = spawn(self.address, &self.dir, &self.arguments);
        self.wait_ready();
    }

    /// `STOP` lets it hang, `CONT` lets it go on.
    pub fn signal(&self, name: &str) {
        let pid = self.child.lock().unwrap().id().to_string();
        let kill = format!("kill -{name} {pid}");
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success(), "{kill}");
    }

    /// The answer to one command as text: a number, a word, or the lines of a list.
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).expect("redis answers")
    }

    /// The same of a server that may be hanging up on everybody.
    pub fn try_ask(&self, command: &str) -> std::io::Result<String> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        (&stream).write_all(format!("{command}\r\n").as_bytes())?;
        read(&mut BufReader::new(stream))
    }

    fn wait_ready(&self) {
        let started = Instant::now();
        while self.try_ask("PING").ok().as_deref() != Some("PONG") {
            assert!(started.elapsed() < DEADLINE, "redis-server does not answer");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// A port that nobody else is given, and that whoever names it may listen on.
fn hold() -> (SocketAddr, Socket) {
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    held.bind(&any.into()).expect("a free port exists");
    held.set_reuse_address(true).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    (address, held)
}

fn read(from: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at(1.min(line.len()));
    let count = rest.parse().unwrap_or(-1_i64);
    match (kind, usize::try_from(count)) {
        ("$", Ok(length)) => {
            let mut text = vec![0; length + 2];
            from.read_exact(&mut text)?;
            text.truncate(length);
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        ("*", Ok(items)) => {
            let items: Result<Vec<_>, _> = (0..items).map(|_| read(from)).collect();
            Ok(items?.join("\n"))
        }
        ("$" | "*", Err(_)) => Ok(String::new()),
        _ => Ok(rest.to_owned()),
    }
}

fn spawn(address: SocketAddr, dir: &TempDir, arguments: &[String]) -> Child {
    let port = address.port().to_string();
    // A file comes first; and what a Sentinel is, has nothing to save.
    let is_sentinel = arguments.iter().any(|argument| argument == "--sentinel");
    let (file, rest) = arguments.split_at(usize::from(is_sentinel));
    let mut command = Command::new("redis-server");
    command
        .args(file)
        .args(["--port", &port, "--bind", "127.0.0.1"]);
    if !is_sentinel {
        command.args(["--save", "", "--appendonly", "no"]);
    }
    command
        .args(rest)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed: `apt-get install redis-server`")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
