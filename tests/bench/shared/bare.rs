//! A Pingora proxy as its guide shows it, with every setting as shipped and one thread: the floor we stand on.

use crate::Outcome;
use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Server, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;
use std::net::SocketAddr;

struct Bare {
    files: SocketAddr,
    echo: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();
    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        (): &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path();
        let to_echo = path.starts_with("/ws") || path.starts_with("/up");
        let address = if to_echo { self.echo } else { self.files };
        Ok(Box::new(HttpPeer::new(address, false, String::new())))
    }
}

/// `bare HTTP_PORT HTTPS_PORT FILES_PORT ECHO_PORT CERTIFICATE KEY`
pub fn run(arguments: &[String]) -> Outcome<()> {
    let [http, https, files, echo, certificate, key] = arguments else {
        return Err("bare HTTP HTTPS FILES ECHO CERTIFICATE KEY".into());
    };
    // an error only says that it was installed before
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let here = |port: &String| -> Outcome<SocketAddr> { Ok(format!("127.0.0.1:{port}").parse()?) };
    let bare = Bare {
        files: here(files)?,
        echo: here(echo)?,
    };
    let mut server = Server::new_with_opt_and_conf(None, ServerConf::default());
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, bare);
    service.add_tcp(&here(http)?.to_string());
    let mut tls = TlsSettings::intermediate(certificate, key)?;
    tls.enable_h2();
    service.add_tls_with_settings(&here(https)?.to_string(), None, tls);
    server.add_service(service);
    server.run_forever()
}
