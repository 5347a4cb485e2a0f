//! The two logs: levels that are levels, files that can be rotated, servers that are named.

use super::Report;
use crate::base::fault::KeyPath;
use crate::observe::logging::Level;
use crate::observe::settings::{AccessLogSettings, LogSettings, RotateSettings, SyslogSettings};
use std::path::Path;

/// A file of less would be renamed all the time.
const ROTATE_BYTES_MIN: u64 = 4096;
const KEEP_MAX: u32 = 1000;
/// Longest name of a program (RFC 5424, 6).
const TAG_BYTES_MAX: usize = 48;

pub fn check(server: &KeyPath, report: &mut Report<'_>) {
    let settings = &report.config.server;
    process(&server.key("log"), &settings.log, report);
    access(&server.key("access_log"), &settings.access_log, report);
}

fn process(at: &KeyPath, log: &LogSettings, report: &mut Report<'_>) {
    if let Err(why) = Level::parse(&log.level) {
        let fix = "such as `info`, or `info,onemind_gateway::stage=trace`";
        report.must(false, at.key("level"), why, fix);
    }
}

fn access(at: &KeyPath, log: &AccessLogSettings, report: &mut Report<'_>) {
    report.must(
        !log.to.is_empty(),
        at.clone(),
        "`access_log` is empty",
        "write `stdout`, `off`, `syslog` or the path of a file",
    );
    report.must(
        !log.is_file() || !Path::new(&log.to).is_dir(),
        at.clone(),
        format!("`{}` is a folder", log.to),
        "write the path of a file in it",
    );
    if let Some(rotate) = &log.rotate {
        let at = at.key("rotate");
        let what = format!("only a file can be rotated, not `{}`", log.to);
        let fix = "remove `rotate`, or write the path of a file in `to`";
        report.must(log.is_file() || log.to.is_empty(), at.clone(), what, fix);
        rotated(&at, *rotate, report);
    }
    if let Some(syslog) = &log.syslog {
        let at = at.key("syslog");
        let what = format!("`syslog` is written, but lines go to `{}`", log.to);
        report.must(log.to == "syslog", at.clone(), what, "write `to: syslog`");
        tagged(&at, syslog, report);
    }
}

fn rotated(at: &KeyPath, rotate: RotateSettings, report: &mut Report<'_>) {
    let what = "`size` must be at least 4KiB";
    let is_sound = rotate.size.0 >= ROTATE_BYTES_MIN;
    report.must(is_sound, at.key("size"), what, "such as `100MB`");
    let what = format!("`keep` must be from 1 to {KEEP_MAX}");
    let is_sound = (1..=KEEP_MAX).contains(&rotate.keep);
    report.must(is_sound, at.key("keep"), what, "");
}

fn tagged(at: &KeyPath, syslog: &SyslogSettings, report: &mut Report<'_>) {
    let tag = &syslog.tag;
    let is_sound =
        (1..=TAG_BYTES_MAX).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_graphic());
    let what = format!("`tag` must be 1 to {TAG_BYTES_MAX} letters, digits and signs of ASCII");
    report.must(is_sound, at.key("tag"), what, "such as `onemind`");
}
