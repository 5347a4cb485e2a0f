//! Redis: an address that can be asked, and a file of authorities that can be read.

use super::Report;
use crate::base::fault::KeyPath;

pub(super) fn check(report: &mut Report<'_>) {
    let Some(settings) = &report.config.redis else {
        return;
    };
    let at = KeyPath::root().key("redis");
    if let Err(what) = settings.address() {
        let fix = "write `redis://host:6379`, `rediss://user:password@host:6379/0`, \
                   `redis+sentinel://one:26379,two:26379/mymaster`, or `memory`";
        report.error(at.key("url"), what, fix);
    }
    if let Some(ca) = &settings.ca {
        report.readable(at.key("ca"), ca);
        if report.sure(&at, "url") && !settings.is_tls() {
            let what = "`ca` has no effect: the connection to Redis is not encrypted";
            report.warning(at.key("ca"), what, "write `rediss://`, or remove it");
        }
    }
}
