//! Limits: what rules say, where they are counted, who is calling, and whom the shield turns away.

use super::panel::{Dashboard, Filter, Row, graph, number, row, stack};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "limits",
        title: "Limits and identity",
        about: "What the rules of `limits` say, the Redis in which they count, and who is calling.",
        filters: &[Filter {
            label: "rule",
            of: "onemind_limit_decisions_total",
        }],
        rows: vec![now(), rules(), store(), identity()],
    }
}

fn now() -> Row {
    row(
        "Now",
        [
            number("Refused", "percentunit")
                .about("Of all decisions of rules.")
                .show(
                    "sum(rate(onemind_limit_decisions_total{result=~\"refused|refused_locally\"}[~])) / sum(rate(onemind_limit_decisions_total[~]))",
                    "",
                )
                .wide(4),
            number("Undecided for want of Redis", "reqps")
                .show("sum(rate(onemind_limit_decisions_total{result=~\"unchecked|unavailable\"}[~]))", "")
                .wide(4)
                .alarms(0.01, 1.0),
            number("Instances without their Redis", "short")
                .show("sum(onemind_limit_mode{mode=\"local\"})", "")
                .wide(4)
                .alarms(1.0, 2.0),
            number("p99 of Redis", "s")
                .show("histogram_quantile(0.99, sum by (le) (rate(onemind_store_duration_seconds_bucket[~])))", "")
                .wide(4)
                .alarms(0.01, 0.05),
            number("Callers refused", "reqps")
                .show("sum(rate(onemind_identity_refusals_total[~])) or vector(0)", "")
                .wide(4),
            number("Turned away by the shield", "reqps")
                .show("sum(rate(onemind_http_requests_shed_total[~])) or vector(0)", "")
                .wide(4),
        ],
    )
}

fn rules() -> Row {
    row(
        "Rules",
        [
            stack("Decisions", "reqps")
                .show("sum by (result) (rate(onemind_limit_decisions_total[~]))", "{{result}}"),
            stack("Refused, by rule", "reqps").show(
                "sum by (rule) (rate(onemind_limit_decisions_total{result=~\"refused|refused_locally\"}[~]))",
                "{{rule}}",
            ),
            graph("Share refused, by rule", "percentunit").show(
                "sum by (rule) (rate(onemind_limit_decisions_total{result=~\"refused|refused_locally\"}[~])) / sum by (rule) (rate(onemind_limit_decisions_total[~]))",
                "{{rule}}",
            ),
        ],
    )
}

fn store() -> Row {
    row(
        "Redis",
        [
            graph("Where instances count", "short")
                .about("`local`: Redis is gone, each instance allows its share.")
                .show("sum by (mode) (onemind_limit_mode)", "{{mode}}")
                .show("sum(onemind_store_up)", "Redis answers"),
            stack("Calls", "ops")
                .show("sum by (result) (rate(onemind_store_calls_total[~]))", "{{result}}"),
            graph("Duration", "s").quantiles([
                "histogram_quantile(0.5, sum by (le) (rate(onemind_store_duration_seconds_bucket[~])))",
                "histogram_quantile(0.9, sum by (le) (rate(onemind_store_duration_seconds_bucket[~])))",
                "histogram_quantile(0.99, sum by (le) (rate(onemind_store_duration_seconds_bucket[~])))",
            ]),
            graph("What was not counted as it should be", "ops")
                .wide(24)
                .show("sum(rate(onemind_limit_uncounted_total[~]))", "charges without room in memory")
                .show("sum(rate(onemind_limit_leases_left_total[~]))", "places not given back at once")
                .show("sum(rate(onemind_limit_corrections_lost_total[~]))", "corrections lost"),
        ],
    )
}

fn identity() -> Row {
    row(
        "Identity",
        [
            stack("Callers known, by method", "reqps").show(
                "sum by (method) (rate(onemind_identity_known_total[~]))",
                "{{method}}",
            ),
            stack("Callers refused", "reqps").show(
                "sum by (method, reason) (rate(onemind_identity_refusals_total[~]))",
                "{{method}}: {{reason}}",
            ),
            graph("Fetches of keys of issuers", "ops").show(
                "sum by (method, result) (rate(onemind_jwks_fetches_total[~]))",
                "{{method}} {{result}}",
            ),
            graph("Age of the keys of issuers", "s")
                .wide(12)
                .show("max by (method) (onemind_jwks_age_seconds)", "{{method}}"),
            graph("Turned away by the shield", "reqps").wide(12).show(
                "sum by (listener, reason) (rate(onemind_http_requests_shed_total[~]))",
                "{{listener}}: {{reason}}",
            ),
        ],
    )
}
