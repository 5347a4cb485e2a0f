//! First look: how much is asked, what fails, how long it takes, and how full the gateway is.

use super::panel::{Dashboard, Filter, Row, graph, number, row, stack};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "overview",
        title: "Overview",
        about: "Requests, failures, durations, and what is used up, of all routes.",
        filters: &[Filter {
            label: "route",
            of: "onemind_requests_ended_total",
        }],
        rows: vec![now(), rate(), failures(), duration(), saturation(), edge()],
    }
}

fn now() -> Row {
    row(
        "Now",
        [
            number("Requests", "reqps").show("sum(rate(onemind_http_requests_total[~]))", ""),
            number("Failed", "percentunit")
                .about("Answers of 5xx as a share of all.")
                .show(
                    "(sum(rate(onemind_http_requests_total{code=~\"5..\"}[~])) or vector(0)) / sum(rate(onemind_http_requests_total[~]))",
                    "",
                )
                .alarms(0.001, 0.01),
            number("p99", "s")
                .show(
                    "histogram_quantile(0.99, sum by (le) (rate(onemind_http_request_duration_seconds_bucket[~])))",
                    "",
                )
                .alarms(0.5, 2.0),
            number("In flight", "short").show("sum(onemind_http_requests_in_flight)", ""),
            number("Connections", "short").show("sum(onemind_connections)", ""),
            number("Processor", "percentunit")
                .about("Of the threads that carry requests.")
                .show("sum(rate(process_cpu_seconds_total[~])) / sum(onemind_workers)", "")
                .alarms(0.7, 0.9),
            number("Memory", "bytes").show("sum(process_resident_memory_bytes)", ""),
            number("Instances", "short").show("count(onemind_build_info)", ""),
        ],
    )
}

fn rate() -> Row {
    row(
        "Rate",
        [
            stack("Requests by route", "reqps").show(
                "sum by (route) (rate(onemind_http_requests_total[~]))",
                "{{route}}",
            ),
            stack("Requests by status", "reqps").show(
                "sum by (code) (rate(onemind_http_requests_total[~]))",
                "{{code}}",
            ),
            graph("Bytes", "Bps")
                .show(
                    "sum(rate(onemind_http_request_bytes_total[~]))",
                    "from callers",
                )
                .show(
                    "sum(rate(onemind_http_response_bytes_total[~]))",
                    "to callers",
                ),
        ],
    )
}

fn failures() -> Row {
    row(
        "Failures",
        [
            stack("How requests ended, but for well", "reqps")
                .about("`unknown` and `internal` are bugs of the gateway.")
                .show(
                    "sum by (ending) (rate(onemind_requests_ended_total{ending!~\"completed|answered|tunnel_closed\"}[~]))",
                    "{{ending}}",
                ),
            graph("Share of 5xx by route", "percentunit")
                .show(
                    "sum by (route) (rate(onemind_http_requests_total{code=~\"5..\"}[~])) / sum by (route) (rate(onemind_http_requests_total[~]))",
                    "{{route}}",
                )
                .alarms(0.001, 0.01),
            stack("Turned away before anything was done", "short")
                .about("Requests and connections that the shield or a time limit stopped.")
                .show("sum by (reason) (rate(onemind_http_requests_shed_total[~]))", "request: {{reason}}")
                .show("sum by (reason) (rate(onemind_connections_rejected_total[~]))", "connection: {{reason}}"),
        ],
    )
}

fn duration() -> Row {
    row(
        "Duration",
        [
            graph("All requests", "s").quantiles([
                "histogram_quantile(0.5, sum by (le) (rate(onemind_http_request_duration_seconds_bucket[~])))",
                "histogram_quantile(0.9, sum by (le) (rate(onemind_http_request_duration_seconds_bucket[~])))",
                "histogram_quantile(0.99, sum by (le) (rate(onemind_http_request_duration_seconds_bucket[~])))",
            ]),
            graph("p99 by route", "s").show(
                "histogram_quantile(0.99, sum by (route, le) (rate(onemind_http_request_duration_seconds_bucket[~])))",
                "{{route}}",
            ),
            graph("p99 to the first byte, by pool", "s")
                .about("What endpoints take: the rest of a request's time is its body, its caller and the gateway.")
                .show(
                    "histogram_quantile(0.99, sum by (pool, le) (rate(onemind_upstream_duration_seconds_bucket{phase=\"first_byte\"}[~])))",
                    "{{pool}}",
                ),
        ],
    )
}

fn saturation() -> Row {
    row(
        "Saturation",
        [
            graph("Processor", "percentunit")
                .about("Of the threads that carry requests.")
                .show(
                    "sum by (instance) (rate(process_cpu_seconds_total[~])) / sum by (instance) (onemind_workers)",
                    "{{instance}}",
                )
                .alarms(0.7, 0.9),
            graph("Memory", "bytes")
                .show("sum by (instance) (process_resident_memory_bytes)", "{{instance}}"),
            graph("Open files, of those allowed", "percentunit")
                .show("process_open_fds / process_max_fds", "{{instance}}")
                .alarms(0.7, 0.9),
            graph("Requests in flight", "short")
                .show("sum by (listener) (onemind_http_requests_in_flight)", "{{listener}}"),
            graph("Waiting for a place at an endpoint", "short")
                .show("sum by (pool) (onemind_queue_waiting)", "{{pool}}"),
            graph("Lines lost, threads", "short")
                .about("Lines of the access log that found its buffer full, and lines of libraries that were held back.")
                .show("sum(rate(onemind_access_log_lines_total{result=\"dropped\"}[~]))", "access lines lost, per second")
                .show("sum(rate(onemind_log_lines_suppressed_total[~]))", "log lines held back, per second")
                .show("sum by (instance) (process_threads)", "threads of {{instance}}"),
        ],
    )
}

fn edge() -> Row {
    row(
        "Edge",
        [
            graph("Connections open", "short")
                .show("sum by (listener) (onemind_connections)", "{{listener}}")
                .show(
                    "sum by (route) (onemind_websocket_connections)",
                    "WebSockets of {{route}}",
                ),
            graph("Connections accepted", "cps").show(
                "sum by (listener) (rate(onemind_connections_accepted_total[~]))",
                "{{listener}}",
            ),
            graph("TLS handshakes", "ops")
                .show(
                    "sum by (result) (rate(onemind_tls_handshakes_total[~]))",
                    "{{result}}",
                )
                .show(
                    "sum by (reason) (rate(onemind_websocket_rejections_total[~]))",
                    "WebSockets refused: {{reason}}",
                ),
        ],
    )
}
