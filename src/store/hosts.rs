//! Servers as a URL lists them: `a:26379,b,[::1]:7000`.

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// More than this are a mistake.
const HOSTS_MAX: usize = 16;

/// The login that a URL has before its hosts, none if it has none; and what follows.
pub fn split_login(rest: &str) -> (Option<&str>, &str) {
    match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    }
}

/// What the library reads of a login and a database in a plain URL.
pub fn login(login: Option<&str>, database: &str) -> Option<RedisConnectionInfo> {
    let login = login.map(|login| format!("{login}@")).unwrap_or_default();
    let plain = format!("redis://{login}host/{database}").into_connection_info();
    Some(plain.ok()?.redis_settings().clone())
}

/// The hosts of a list; `port` is that of those who name none. None if one cannot be read.
pub fn addresses(hosts: &str, port: u16, is_tls: bool) -> Option<Vec<ConnectionAddr>> {
    let hosts = hosts.split(',').map(|host| address(host, port, is_tls));
    let addresses: Option<Vec<_>> = hosts.collect();
    addresses.filter(|all| all.len() <= HOSTS_MAX)
}

fn address(host: &str, port: u16, is_tls: bool) -> Option<ConnectionAddr> {
    let (name, port) = match host.rsplit_once(':') {
        // An address of IPv6 is written in brackets.
        Some((name, port)) if !port.contains(']') => (name, port.parse().ok()?),
        _ => (host, port),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let is_of_host = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    let is_name = !name.is_empty() && name.bytes().all(is_of_host);
    is_name.then(|| connection_address(name.to_owned(), port, is_tls))
}

pub fn connection_address(host: String, port: u16, is_tls: bool) -> ConnectionAddr {
    if is_tls {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// Without a login.
pub fn plain(address: ConnectionAddr) -> Result<ConnectionInfo, String> {
    let info = address.into_connection_info();
    info.map_err(|error| error.to_string())
}
