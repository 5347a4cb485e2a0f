//! Redis: an address that can be asked, and a file of authorities that can be read.

use super::Report;
use crate::base::fault::KeyPath;
use crate::base::units::Period;

const TIMEOUT_MAX: Period = Period::seconds(10);

pub(super) fn check(report: &mut Report<'_>) {
    let Some(settings) = &report.config.redis else {
        return;
    };
    let at = KeyPath::root().key("redis");
    if let Err(what) = settings.address() {
        let fix = "write `redis://host:6379`, `rediss://user:password@host:6379/0`, \
                   `redis+sentinel://one:26379,two:26379/mymaster`, `redis+cluster://one:6379,two:6379`, or `memory`";
        report.error(at.key("url"), what, fix);
    }
    report.not_zero(&at, "timeout", settings.timeout, "");
    let what = format!("`timeout` ({}) is longer than 10s", settings.timeout);
    let fix = "every request may wait so long while Redis hangs: make it shorter";
    report.must(
        settings.timeout <= TIMEOUT_MAX,
        at.key("timeout"),
        what,
        fix,
    );
    if let Some(ca) = &settings.ca {
        report.readable(at.key("ca"), ca);
        if report.sure(&at, "url") && !settings.is_tls() {
            let what = "`ca` has no effect: the connection to Redis is not encrypted";
            report.warning(at.key("ca"), what, "write `rediss://`, or remove it");
        }
    }
}
