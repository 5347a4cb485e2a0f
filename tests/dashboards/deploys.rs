//! Deploys: which version and configuration each instance has, reloads, upgrades, certificates.

use super::panel::{Dashboard, Row, graph, number, row, stack, table};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "deploys",
        title: "Deploys",
        about: "Versions, configurations, reloads and upgrades of every instance, and its certificates.",
        filters: &[],
        rows: vec![now(), instances(), changes(), meanwhile()],
    }
}

fn now() -> Row {
    row(
        "Now",
        [
            number("Instances", "short")
                .wide(4)
                .show("count(onemind_build_info)", ""),
            number("Versions", "short")
                .about("More than one while a deploy is under way.")
                .wide(4)
                .show("count(count by (version) (onemind_build_info))", ""),
            number("Refused their last configuration", "short")
                .wide(4)
                .show(
                    "count(onemind_config_last_reload_successful == 0) or vector(0)",
                    "",
                )
                .alarms(1.0, 1.0),
            number("Older processes that drain", "short")
                .wide(4)
                .show("sum(onemind_upgrade_draining)", ""),
            number("Configuration read", "dateTimeFromNow")
                .about("By the last instance that read one.")
                .wide(4)
                .show(
                    "max(onemind_config_last_reload_timestamp_seconds) * 1000",
                    "",
                ),
            number("First certificate to expire", "s")
                .wide(4)
                .show("min(onemind_tls_cert_not_after_seconds) - time()", "")
                .alarms(1_209_600.0, 604_800.0),
        ],
    )
}

fn instances() -> Row {
    row(
        "Instances",
        [
            table("Version", "short")
                .wide(8)
                .show("onemind_build_info", ""),
            table("Revision of the configuration", "short")
                .about("1 since the start, one more with each reload that succeeded.")
                .wide(8)
                .show("onemind_config_revision", ""),
            table("Certificates: time left", "s")
                .wide(8)
                .show("sort(onemind_tls_cert_not_after_seconds - time())", ""),
            graph("Running for", "s").show("time() - process_start_time_seconds", "{{instance}}"),
            graph("Age of the configuration", "s").show(
                "time() - onemind_config_last_reload_timestamp_seconds",
                "{{instance}}",
            ),
            stack("Instances by version", "short")
                .show("count by (version) (onemind_build_info)", "{{version}}"),
        ],
    )
}

fn changes() -> Row {
    row(
        "Changes",
        [
            graph("Reloads in 5 minutes", "short").show(
                "sum by (result) (increase(onemind_config_reloads_total[5m]))",
                "{{result}}",
            ),
            graph("Upgrades", "short")
                .about(
                    "Those that went well are counted over all processes that followed each other.",
                )
                .show(
                    "sum by (instance, result) (onemind_upgrades_total)",
                    "{{instance}} {{result}}",
                ),
            graph("Older processes that drain", "short").show(
                "sum by (instance) (onemind_upgrade_draining)",
                "{{instance}}",
            ),
        ],
    )
}

fn meanwhile() -> Row {
    row(
        "Meanwhile",
        [
            graph("Failed", "percentunit")
                .about("Answers of 5xx as a share of all.")
                .show(
                    "(sum(rate(onemind_http_requests_total{code=~\"5..\"}[~])) or vector(0)) / sum(rate(onemind_http_requests_total[~]))",
                    "5xx",
                )
                .alarms(0.001, 0.01),
            graph("Cut off by a drain", "reqps").show(
                "sum(rate(onemind_requests_ended_total{ending=\"cut_by_drain\"}[~])) or vector(0)",
                "requests and WebSockets",
            ),
            graph("Connections and WebSockets", "short")
                .show("sum by (instance) (onemind_connections)", "{{instance}}")
                .show("sum by (instance) (onemind_websocket_connections)", "WebSockets of {{instance}}"),
        ],
    )
}
