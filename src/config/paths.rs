//! Paths in the document begin at its folder, wherever the gateway was started.

use super::Config;
use crate::stage::identity::settings::Settings as Identity;
use crate::stage::listen::address::ListenAddress;
use std::path::{Path, PathBuf};

/// Every key whose value is a path, in one place.
pub fn resolve(config: &mut Config, folder: &Path) {
    let log = &mut config.server.access_log;
    if log.is_file() {
        log.to = folder.join(&log.to).to_string_lossy().into_owned();
    }
    for listener in config.listeners.values_mut() {
        for address in &mut listener.address.0 {
            if let ListenAddress::Unix(path) = address
                && !path.as_os_str().is_empty()
            {
                let joined = folder.join(&*path);
                // As systemd names it, and as it is known after an upgrade.
                *path = std::path::absolute(&joined).unwrap_or(joined);
            }
        }
    }
    if let Some(tracing) = &mut config.tracing {
        join(folder, &mut tracing.ca);
    }
    if let Some(redis) = &mut config.redis {
        join(folder, &mut redis.ca);
    }
    let server_tls = config.listeners.values_mut().filter_map(|l| l.tls.as_mut());
    for tls in server_tls {
        for pair in &mut tls.certificates {
            join(folder, [&mut pair.certificate, &mut pair.key]);
        }
        join(folder, tls.client_auth.iter_mut().map(|auth| &mut auth.ca));
    }
    for method in config.identity.values_mut() {
        if let Identity::Jwt(jwt) = method {
            let files = [&mut jwt.jwks_ca, &mut jwt.key_file];
            join(folder, files.into_iter().flatten());
        }
    }
    let providers = config.providers.values_mut();
    join(folder, providers.filter_map(|one| one.ca.as_mut()));
    for pool in config.pools.values_mut() {
        if let Some(tls) = &mut pool.tls {
            let files = [
                &mut tls.ca,
                &mut tls.client_certificate,
                &mut tls.client_key,
            ];
            join(folder, files.into_iter().flatten());
        }
        for endpoint in &mut pool.endpoints {
            if let Some(path) = endpoint.address.strip_prefix("unix:") {
                let path = folder.join(path);
                endpoint.address = format!("unix:{}", path.display());
            }
        }
    }
}

fn join<'a>(folder: &Path, paths: impl IntoIterator<Item = &'a mut PathBuf>) {
    for path in paths {
        *path = folder.join(&*path);
    }
}
