//! Listeners: addresses that do not collide, certificates that can be read.

use super::{Report, words};
use crate::base::fault::KeyPath;
use crate::stage::listen::address::{ListenAddress, UNIX_PATH_BYTES_MAX};
use crate::stage::listen::settings::{CertificateSettings, Settings, TlsSettings};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;

pub(super) fn check(report: &mut Report<'_>) {
    let at = KeyPath::root().key("listeners");
    let config = report.config;
    report.must(
        !config.listeners.is_empty() || report.absent.any_below(&at),
        at.clone(),
        "there is no listener: nobody could connect",
        "write `listeners: { http: { address: 0.0.0.0:8080 } }`",
    );
    for (name, settings) in &config.listeners {
        listener(&at.key(name), settings, report);
    }
    addresses(&at, report);
}

fn listener(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    report.must(
        !settings.address.is_empty() || !report.sure(at, "address"),
        at.clone(),
        "the listener has no address",
        "write `address: 0.0.0.0:8080`",
    );
    unix_sockets(at, settings, report);
    if let Some(tls) = &settings.tls {
        self::tls(&at.key("tls"), tls, report);
    }
    if let Some(port) = settings.redirect_to_https {
        let at = at.key("redirect_to_https");
        report.must(
            port > 0,
            at.clone(),
            "port 0 cannot be connected to",
            "write the port of the TLS listener, such as 443",
        );
        let what = "`redirect_to_https` and `tls` exclude each other";
        let fix = "redirect from a listener without `tls`";
        report.must(settings.tls.is_none(), at, what, fix);
    }
    if settings.proxy_protocol
        && settings.address.iter().any(|at| at.port().is_some())
        && report.config.server.trusted_proxies.is_empty()
        && report.sure(&KeyPath::root().key("server"), "trusted_proxies")
    {
        let what =
            "`proxy_protocol` without `server.trusted_proxies`: every connection would be refused";
        let fix = "name the networks of the proxies there";
        report.error(at.key("proxy_protocol"), what, fix);
    }
    report.not_zero(at, "keepalive", settings.keepalive.0, "");
    let head = at.key("head");
    report.not_zero(&head, "timeout", settings.head.timeout, "");
    report.must(
        (256..=HEAD_BYTES_BOUND).contains(&settings.head.bytes.0),
        head.key("bytes"),
        "a head has 256 B to 1 MiB",
        "write a size between them, such as `32KiB`",
    );
    report.must(
        (1..=256).contains(&settings.head.fields),
        head.key("fields"),
        "a head has 1 to 256 fields",
        "write a number between them, such as 100",
    );
}

fn unix_sockets(at: &KeyPath, settings: &Settings, report: &mut Report<'_>) {
    let mut has_one = false;
    for (index, address) in settings.address.iter().enumerate() {
        if let ListenAddress::Unix(path) = address {
            unix_socket(at.key("address").key(index), path, report);
            has_one = true;
        }
    }
    report.must(
        has_one || settings.mode.is_none() || !report.sure(at, "address"),
        at.key("mode"),
        "`mode` is for Unix sockets, and this listener has none",
        "remove it, or write an address such as `unix:/run/onemind/web.sock`",
    );
}

fn unix_socket(at: KeyPath, path: &Path, report: &mut Report<'_>) {
    let Some(folder) = path.parent() else {
        let what = "the path of the Unix socket is missing";
        return report.error(at, what, "write `unix:/run/onemind/web.sock`");
    };
    if path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
        let what = format!("the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes");
        return report.error(at, what, "use a shorter path");
    }
    if path.is_dir() {
        let what = format!("`{}` is a folder", path.display());
        return report.error(at, what, "write the name of the socket behind it");
    }
    if !folder.is_dir() {
        let what = format!("there is no folder `{}`", folder.display());
        report.error(
            at,
            what,
            "make it first, such as by `RuntimeDirectory=` of systemd",
        );
    }
}

/// Each caller may have one head under way: larger ones would be a way to fill the memory.
const HEAD_BYTES_BOUND: u64 = 1 << 20;

fn tls(at: &KeyPath, tls: &TlsSettings, report: &mut Report<'_>) {
    let certificates = at.key("certificates");
    report.must(
        !tls.certificates.is_empty() || !report.sure(at, "certificates"),
        at.clone(),
        "`tls` without certificates",
        "write `certificates: [{ certificate: cert.pem, key: key.pem }]`",
    );
    for (index, pair) in tls.certificates.iter().enumerate() {
        certificate(&certificates.key(index), pair, report);
    }
    if let Some(auth) = &tls.client_auth {
        report.readable(at.key("client_auth").key("ca"), &auth.ca);
    }
}

fn certificate(at: &KeyPath, pair: &CertificateSettings, report: &mut Report<'_>) {
    report.readable(at.key("certificate"), &pair.certificate);
    report.readable(at.key("key"), &pair.key);
}

/// An address can be taken once. On Linux a wildcard and an address of its family collide too,
/// unless both are opened to share the port; who wrote them should know.
fn addresses(at: &KeyPath, report: &mut Report<'_>) {
    let config = report.config;
    let admin = KeyPath::root().key("admin").key("address");
    let mut all = Vec::new();
    if !report.absent.contains(&admin) {
        let address = ListenAddress::from(config.admin.address);
        all.push((admin, "`admin`".to_owned(), address));
    }
    for (name, settings) in &config.listeners {
        for (index, address) in settings.address.iter().enumerate() {
            let at = at.key(name).key("address").key(index);
            all.push((at, format!("listener `{name}`"), address.clone()));
        }
    }
    // Port 0 is a different port each time.
    all.retain(|(_, _, address)| address.port() != Some(0));
    let mut owners: HashMap<&ListenAddress, &str> = HashMap::new();
    for (at, owner, address) in &all {
        if let Some(other) = owners.insert(address, owner) {
            let what = format!("the address `{address}` is taken by {other} already");
            let fix = match address {
                ListenAddress::Inet(_) => "choose another port",
                ListenAddress::Unix(_) => "choose another path",
            };
            report.error(at.clone(), what, fix);
        }
    }
    wildcards(&all, report);
}

fn wildcards(all: &[(KeyPath, String, ListenAddress)], report: &mut Report<'_>) {
    let ports = || {
        all.iter().filter_map(|(at, _, address)| match address {
            ListenAddress::Inet(address) => Some((at, address)),
            ListenAddress::Unix(_) => None,
        })
    };
    let key = |address: &SocketAddr| (address.port(), address.is_ipv6());
    let wildcards = ports().filter(|(_, address)| address.ip().is_unspecified());
    let wildcards: BTreeMap<_, _> = wildcards.map(|(_, at)| (key(at), at)).collect();
    for (at, address) in ports() {
        let wildcard = wildcards.get(&key(address)).copied();
        if let Some(wildcard) = wildcard.filter(|wildcard| *wildcard != address) {
            let what = format!("`{address}` is part of `{wildcard}`, which is listened on too");
            report.warning(at.clone(), what, "remove one of them");
        }
    }
}

/// A name as SNI and `Host` carry it.
pub(super) fn server_name(at: KeyPath, name: &str, report: &mut Report<'_>) {
    report.form(at, words::host(name));
}
