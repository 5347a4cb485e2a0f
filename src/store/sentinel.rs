//! Redis behind Sentinels: who is the master now is asked before each connection.

use super::hosts::{addresses, connection_address, login, plain, split_login};
use ::redis::{Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo};
use std::time::Duration;
use tokio::time::timeout;

/// Where a Sentinel listens unless the URL says otherwise.
const PORT: u16 = 26_379;

/// For one Sentinel to answer; then the next is asked.
const ASK_TIME_MAX: Duration = Duration::from_millis(200);

/// What a URL such as `redis+sentinel://user:password@a:26379,b:26379/mymaster/0` says.
#[derive(Debug, Clone)]
pub struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    /// What the Sentinels call the master.
    service: String,
    /// For the master; Sentinels are asked without a password.
    login: RedisConnectionInfo,
    is_tls: bool,
}

impl Sentinels {
    /// None if it cannot be read. `rest` is what follows the scheme.
    pub fn parse(rest: &str, is_tls: bool) -> Option<Self> {
        let (before, rest) = split_login(rest);
        let (hosts, path) = rest.split_once('/')?;
        let (service, database) = path.split_once('/').unwrap_or((path, "0"));
        let addresses = addresses(hosts, PORT, is_tls)?;
        let part = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_name = !service.is_empty() && service.bytes().all(part);
        is_name.then_some(())?;
        Some(Self {
            addresses,
            service: service.to_owned(),
            login: login(before, database)?,
            is_tls,
        })
    }

    /// The master, as the first Sentinel that answers knows it. `client` makes one of an address.
    pub async fn master(
        &self,
        client: impl Fn(ConnectionInfo) -> Result<Client, String>,
    ) -> Result<ConnectionInfo, String> {
        let mut why = String::new();
        for sentinel in &self.addresses {
            let sentinel_client = client(plain(sentinel.clone())?)?;
            match timeout(ASK_TIME_MAX, ask(&sentinel_client, &self.service)).await {
                Ok(Ok((host, port))) => {
                    let master = plain(connection_address(host, port, self.is_tls))?;
                    return Ok(master.set_redis_settings(self.login.clone()));
                }
                Ok(Err(error)) => why = format!("sentinel {sentinel}: {error}"),
                Err(_) => why = format!("sentinel {sentinel} does not answer"),
            }
        }
        Err(why)
    }
}

async fn ask(client: &Client, service: &str) -> Result<(String, u16), String> {
    let failed = |error: ::redis::RedisError| error.to_string();
    let connection = client.get_multiplexed_async_connection().await;
    let mut connection = connection.map_err(failed)?;
    let mut command = ::redis::cmd("SENTINEL");
    command.arg("get-master-addr-by-name").arg(service);
    let answer = command.query_async(&mut connection).await;
    let master: Option<(String, u16)> = answer.map_err(failed)?;
    master.ok_or_else(|| format!("it knows no master named `{service}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentinel_and_the_login_of_the_master_are_read() {
        for (rest, addresses, service, user, database) in [
            ("a/m", &["a:26379"][..], "m", None, 0),
            (
                "a:1,b,[::1]:2/m/3",
                &["a:1", "b:26379", "::1:2"],
                "m",
                None,
                3,
            ),
            (
                "me:p%40ss@a/my-master",
                &["a:26379"],
                "my-master",
                Some("me"),
                0,
            ),
        ] {
            let read = Sentinels::parse(rest, false).expect(rest);
            let found: Vec<String> = read.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(found, addresses, "{rest}");
            assert_eq!(read.service, service, "{rest}");
            assert_eq!(read.login.username(), user, "{rest}");
            assert_eq!(read.login.db(), database, "{rest}");
        }
        for rest in [
            "", "a", "/m", "a/", "a:b/m", "a,/m", "a/m/x", "a/m n", "a b/m",
        ] {
            assert!(Sentinels::parse(rest, false).is_none(), "{rest}");
        }
    }
}
