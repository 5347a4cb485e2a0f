//! The four proxies, each told to do the same: two addresses, two upstreams, an access log, numbers for operators.

use crate::process::{PROXY_CORE, Running, find, open_files_max};
use crate::{Fault, Outcome};
use std::fmt;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    Nginx,
    Haproxy,
    Bare,
    Onemind,
}

impl Product {
    pub const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Bare, Self::Onemind];
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Bare => "bare Pingora",
            Self::Onemind => "onemind",
        })
    }
}

/// What all products share: backends, a certificate, a directory that vanishes at the end.
pub struct World {
    folder: TempDir,
    nginx: PathBuf,
    haproxy: Option<PathBuf>,
    onemind: PathBuf,
    files: u16,
    echo: u16,
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
    backends: Vec<Running>,
}

/// A product that runs.
pub struct Proxy {
    pub running: Running,
    pub http: u16,
    pub https: u16,
}

impl World {
    /// Writes certificate and files, starts the backends, looks for the products.
    pub async fn build(onemind: PathBuf, load_cores: &str) -> Outcome<Self> {
        for tool in ["wrk", "h2load"] {
            find(tool).ok_or_else(|| format!("{tool} is not installed"))?;
        }
        let nginx = find("nginx").ok_or("nginx is not installed; it is the backend as well")?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut world = Self {
            folder: tempfile::tempdir()?,
            nginx,
            haproxy: find("haproxy"),
            onemind,
            files: free_port()?,
            echo: free_port()?,
            certificate: rcgen::generate_simple_self_signed(names)?,
            backends: Vec::new(),
        };
        world.write_files()?;
        world.start_backends(load_cores).await?;
        Ok(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.certificate.cert.der().clone()
    }

    /// What is compared, by what the programs say of themselves.
    pub fn versions(&self) -> Vec<String> {
        let haproxy = self.haproxy.as_deref();
        let all = [
            Some((self.nginx.as_path(), "-v")),
            haproxy.map(|file| (file, "-v")),
            Some((self.onemind.as_path(), "--version")),
        ];
        all.into_iter()
            .flatten()
            .filter_map(|(file, flag)| first_line(file, flag))
            .collect()
    }

    /// Starts `product` on fresh ports and waits until it accepts.
    pub async fn start(&self, product: Product) -> Outcome<Proxy> {
        let mut proxy = self.launch(product)?;
        let accepts = proxy.running.accepts(proxy.http).await;
        accepts.map_err(|fault| self.with_log(&fault, product))?;
        Ok(proxy)
    }

    /// Starts `product` and does not wait.
    pub fn launch(&self, product: Product) -> Outcome<Proxy> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let (program, arguments) = self.command(product, ports)?;
        let running = Running::start(PROXY_CORE, &program, &arguments, &self.log(product))?;
        Ok(Proxy {
            running,
            http: ports[0],
            https: ports[1],
        })
    }

    fn log(&self, product: Product) -> PathBuf {
        self.path(&format!("{product}.log"))
    }

    fn with_log(&self, fault: &Fault, product: Product) -> Fault {
        let log = fs::read_to_string(self.log(product)).unwrap_or_default();
        let said = log.lines().last().unwrap_or("nothing");
        format!("{fault}; it said: {said}").into()
    }

    fn write_files(&self) -> Outcome<()> {
        let certificate = self.certificate.cert.pem();
        let key = self.certificate.signing_key.serialize_pem();
        fs::write(self.path("certificate.pem"), &certificate)?;
        fs::write(self.path("key.pem"), &key)?;
        fs::write(self.path("both.pem"), format!("{certificate}{key}"))?;
        fs::create_dir(self.path("www"))?;
        fs::write(self.path("www/1k"), "x".repeat(1 << 10))?;
        fs::write(self.path("www/1m"), "x".repeat(1 << 20))?;
        fs::write(self.path("www/health"), "ok")?;
        let upload = "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 1048576)\n";
        Ok(fs::write(self.path("upload.lua"), upload)?)
    }

    async fn start_backends(&mut self, cores: &str) -> Outcome<()> {
        let files = self.nginx_arguments("files", &self.files_config())?;
        let mut nginx = Running::start(cores, &self.nginx, &files, &self.path("files.log"))?;
        nginx.accepts(self.files).await?;
        let myself = std::env::current_exe()?;
        let echo = ["backend".to_owned(), self.echo.to_string()];
        let mut echo = Running::start(cores, &myself, &echo, &self.path("echo.log"))?;
        echo.accepts(self.echo).await?;
        self.backends = vec![nginx, echo];
        Ok(())
    }

    fn command(&self, product: Product, ports: [u16; 3]) -> Outcome<(PathBuf, Vec<String>)> {
        let text = |path: &str| self.path(path).display().to_string();
        Ok(match product {
            Product::Nginx => {
                let config = self.nginx_config(ports);
                (self.nginx.clone(), self.nginx_arguments("nginx", &config)?)
            }
            Product::Haproxy => {
                let program = self.haproxy.clone().ok_or("haproxy is not installed")?;
                fs::write(self.path("haproxy.cfg"), self.haproxy_config(ports)?)?;
                (
                    program,
                    vec!["-db".into(), "-f".into(), text("haproxy.cfg")],
                )
            }
            Product::Bare => {
                let [http, https, _] = ports;
                let numbers = [http, https, self.files, self.echo].map(|port| port.to_string());
                let mut arguments = vec!["bare".to_owned()];
                arguments.extend(numbers);
                arguments.extend([text("certificate.pem"), text("key.pem")]);
                (std::env::current_exe()?, arguments)
            }
            Product::Onemind => {
                if !self.onemind.is_file() {
                    return Err(format!("{} does not exist", self.onemind.display()).into());
                }
                fs::write(self.path("onemind.yaml"), self.onemind_config(ports))?;
                let arguments = ["run".to_owned(), "-c".to_owned(), text("onemind.yaml")];
                (self.onemind.clone(), arguments.into())
            }
        })
    }

    fn nginx_arguments(&self, name: &str, config: &str) -> Outcome<Vec<String>> {
        let file = self.path(&format!("{name}.conf"));
        let folder = self.folder.path().display();
        // one process is one worker, and dies as one
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/{name}.pid;\n\
             error_log stderr warn;\nevents {{ worker_connections 4096; }}\n\
             http {{\n client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;\n \
             fastcgi_temp_path {folder}/{name}.f; uwsgi_temp_path {folder}/{name}.u; scgi_temp_path {folder}/{name}.s;\n \
             keepalive_requests 1000000000; keepalive_timeout 1h;\n{config}}}\n"
        );
        fs::write(&file, config)?;
        let flags = [
            "-p",
            &folder.to_string(),
            "-e",
            "stderr",
            "-c",
            &file.display().to_string(),
        ];
        Ok(flags.map(str::to_owned).into())
    }

    fn files_config(&self) -> String {
        format!(
            " access_log off; sendfile on; tcp_nopush on; open_file_cache max=16;\n \
             server {{ listen 127.0.0.1:{} backlog=4096; root {}; }}\n",
            self.files,
            self.path("www").display()
        )
    }

    fn nginx_config(&self, [http, https, admin]: [u16; 3]) -> String {
        let folder = self.folder.path().display();
        let (files, echo) = (self.files, self.echo);
        format!(
            " access_log {folder}/nginx.access combined buffer=64k flush=1s;\n \
             upstream files {{ server 127.0.0.1:{files}; keepalive 1024; keepalive_requests 1000000000; }}\n \
             upstream echo {{ server 127.0.0.1:{echo}; keepalive 1024; keepalive_requests 1000000000; }}\n \
             map $http_upgrade $connection_up {{ default upgrade; '' ''; }}\n \
             server {{ listen 127.0.0.1:{admin}; location / {{ stub_status; }} }}\n \
             server {{\n  listen 127.0.0.1:{http} backlog=4096;\n  listen 127.0.0.1:{https} ssl http2 backlog=4096;\n  \
             ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;\n  \
             ssl_protocols TLSv1.2 TLSv1.3;\n  client_max_body_size 16m; proxy_request_buffering off;\n  \
             proxy_http_version 1.1; proxy_set_header Host $host;\n  \
             proxy_set_header Connection $connection_up; proxy_set_header Upgrade $http_upgrade;\n  \
             location / {{ proxy_pass http://files; }}\n  \
             location /ws {{ proxy_pass http://echo; proxy_read_timeout 10m; }}\n  \
             location /up {{ proxy_pass http://echo; }}\n }}\n"
        )
    }

    fn haproxy_config(&self, [http, https, admin]: [u16; 3]) -> Outcome<String> {
        let pem = self.path("both.pem");
        let (pem, files, echo) = (pem.display(), self.files, self.echo);
        // two sockets for each connection, and some to spare
        let connections = ((open_files_max()? - 500) / 2).min(8_000);
        Ok(format!(
            "global\n nbthread 1\n maxconn {connections}\n log stdout format raw local0\n \
             tune.pool-high-fd-ratio 90\n tune.pool-low-fd-ratio 80\n \
             ssl-default-bind-options ssl-min-ver TLSv1.2\n\
             defaults\n mode http\n log global\n option httplog\n http-reuse always\n timeout connect 5s\n \
             timeout client 10m\n timeout server 10m\n timeout tunnel 10m\n\
             frontend admin\n bind 127.0.0.1:{admin}\n stats enable\n stats uri /\n\
             frontend all\n bind 127.0.0.1:{http} backlog 4096\n \
             bind 127.0.0.1:{https} backlog 4096 ssl crt {pem} alpn h2,http/1.1\n \
             use_backend echo if {{ path_beg /ws }} || {{ path_beg /up }}\n default_backend files\n\
             backend files\n server files 127.0.0.1:{files}\n\
             backend echo\n server echo 127.0.0.1:{echo}\n"
        ))
    }

    fn onemind_config(&self, [http, https, admin]: [u16; 3]) -> String {
        let folder = self.folder.path().display();
        let (files, echo) = (self.files, self.echo);
        format!(
            "server:\n  threads: 1\n  access_log: {folder}/onemind.access\n  \
             shield: {{ connections_per_address: 4000, in_flight_per_address: 4000 }}\n\
             admin: {{ address: \"127.0.0.1:{admin}\" }}\n\
             listeners:\n  http: {{ address: \"127.0.0.1:{http}\" }}\n  https:\n    address: \"127.0.0.1:{https}\"\n    \
             tls: {{ certificates: [{{ certificate: {folder}/certificate.pem, key: {folder}/key.pem }}] }}\n\
             pools:\n  files:\n    endpoints: [\"127.0.0.1:{files}\"]\n    capacity: {{ max_in_flight: 4000 }}\n  echo:\n    \
             endpoints: [\"127.0.0.1:{echo}\"]\n    capacity: {{ max_in_flight: 4000 }}\n\
             routes:\n  files: {{ pool: files }}\n  upload: {{ path: \"/up/*\", pool: echo }}\n  \
             echo: {{ path: \"/ws/*\", pool: echo, websocket: {{ max_per_user: 4000 }} }}\n"
        )
    }
}

fn first_line(program: &Path, flag: &str) -> Option<String> {
    let said = std::process::Command::new(program)
        .arg(flag)
        .output()
        .ok()?;
    let text = [said.stdout, said.stderr].concat();
    Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
}

/// A port that was free a moment ago.
fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
