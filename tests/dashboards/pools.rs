//! Pools: which endpoints are in rotation, how they answer, and what is done about those that do not.

use super::panel::{Dashboard, Filter, Row, graph, number, row, stack, table};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "pools",
        title: "Pools and health",
        about: "Endpoints in rotation, their answers and their times, retries, ejections and queues.",
        filters: &[Filter {
            label: "pool",
            of: "onemind_endpoint_up",
        }],
        rows: vec![now(), answers(), health(), second_attempts(), capacity()],
    }
}

fn now() -> Row {
    row(
        "Now",
        [
            number("Endpoints in rotation", "percentunit")
                .show("sum(onemind_endpoint_up) / count(onemind_endpoint_up)", "")
                .wide(4)
                .alarms(0.99, 0.5),
            number("Attempts", "reqps")
                .show("sum(rate(onemind_upstream_requests_total[~]))", "")
                .wide(4),
            number("Attempts without an answer", "percentunit")
                .show(
                    "(sum(rate(onemind_upstream_requests_total{code=\"none\"}[~])) or vector(0)) / sum(rate(onemind_upstream_requests_total[~]))",
                    "",
                )
                .wide(4)
                .alarms(0.001, 0.01),
            number("Retries", "reqps").show("sum(rate(onemind_retries_total[~])) or vector(0)", "").wide(4),
            number("Waiting for a place", "short").show("sum(onemind_queue_waiting)", "").wide(4),
            number("Names that cannot be looked up", "short")
                .show("sum(onemind_dns_failing) or vector(0)", "")
                .wide(4)
                .alarms(1.0, 2.0),
        ],
    )
}

fn answers() -> Row {
    row(
        "Answers",
        [
            stack("Attempts by status", "reqps")
                .about("`none`: there was no answer.")
                .show("sum by (code) (rate(onemind_upstream_requests_total[~]))", "{{code}}"),
            stack("Attempts by endpoint", "reqps").show(
                "sum by (pool, endpoint) (rate(onemind_upstream_requests_total[~]))",
                "{{pool}} {{endpoint}}",
            ),
            graph("5xx and no answer, by endpoint", "percentunit")
                .show(
                    "sum by (pool, endpoint) (rate(onemind_upstream_requests_total{code=~\"5..|none\"}[~])) / sum by (pool, endpoint) (rate(onemind_upstream_requests_total[~]))",
                    "{{pool}} {{endpoint}}",
                )
                .alarms(0.01, 0.1),
            graph("p99 to connect", "s").show(
                "histogram_quantile(0.99, sum by (pool, le) (rate(onemind_upstream_duration_seconds_bucket{phase=\"connect\"}[~])))",
                "{{pool}}",
            ),
            graph("p99 to the first byte", "s").show(
                "histogram_quantile(0.99, sum by (pool, le) (rate(onemind_upstream_duration_seconds_bucket{phase=\"first_byte\"}[~])))",
                "{{pool}}",
            ),
            graph("p99 of a whole attempt", "s").show(
                "histogram_quantile(0.99, sum by (pool, le) (rate(onemind_upstream_duration_seconds_bucket{phase=\"total\"}[~])))",
                "{{pool}}",
            ),
        ],
    )
}

fn health() -> Row {
    row(
        "Health",
        [
            table("Endpoints: 1 in rotation, 0 not", "short").show("onemind_endpoint_up", ""),
            graph("Endpoints out of rotation", "short")
                .show("count by (pool) (onemind_endpoint_up == 0) or 0 * count by (pool) (onemind_endpoint_up)", "{{pool}}")
                .wide(12)
                .alarms(1.0, 2.0),
            graph("Health checks", "ops")
                .show("sum by (pool, result) (rate(onemind_health_checks_total[~]))", "{{pool}} {{result}}"),
            graph("Changes of rotation in 15 minutes", "short")
                .about("An endpoint that comes and goes.")
                .show("sum by (pool, endpoint) (changes(onemind_endpoint_up[15m]))", "{{pool}} {{endpoint}}"),
            graph("Ejections", "ops").show(
                "sum by (pool, endpoint, reason) (rate(onemind_endpoint_ejections_total[~]))",
                "{{pool}} {{endpoint}}: {{reason}}",
            ),
        ],
    )
}

fn second_attempts() -> Row {
    row(
        "Retries and names",
        [
            stack("Retries by what came of them", "reqps").show(
                "sum by (pool, outcome) (rate(onemind_retries_total[~]))",
                "{{pool}} {{outcome}}",
            ),
            graph("Retries not made: the budget was used up", "reqps").show(
                "sum by (pool) (rate(onemind_retry_budget_exhausted_total[~]))",
                "{{pool}}",
            ),
            graph("Look-ups of names", "ops").show(
                "sum by (pool, name, result) (rate(onemind_dns_lookups_total[~]))",
                "{{name}} {{result}}",
            ),
        ],
    )
}

fn capacity() -> Row {
    row(
        "Capacity",
        [
            graph("In flight by endpoint", "short").show(
                "sum by (pool, endpoint) (onemind_endpoint_in_flight)",
                "{{pool}} {{endpoint}}",
            ),
            graph("Waiting for a place", "short")
                .show("sum by (pool) (onemind_queue_waiting)", "{{pool}}"),
            graph("Got no place", "reqps").show(
                "sum by (pool, reason) (rate(onemind_queue_rejections_total[~]))",
                "{{pool}}: {{reason}}",
            ),
        ],
    )
}
