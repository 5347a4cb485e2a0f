//! Calls of models: how fast they begin and go on, what they use, who stands in, and who waits.

use super::panel::{Dashboard, Filter, Row, graph, number, row, stack, table};

pub fn dashboard() -> Dashboard {
    Dashboard {
        name: "ai",
        title: "Models",
        about: "Calls of models by model and provider: time to the first token, tokens, fallbacks, keys, queues.",
        filters: &[
            Filter {
                label: "provider",
                of: "onemind_ai_keys_resting",
            },
            Filter {
                label: "model",
                of: "onemind_ai_attempts_total",
            },
        ],
        rows: vec![now(), calls(), speed(), tokens(), providers(), queue()],
    }
}

fn now() -> Row {
    row(
        "Now",
        [
            number("Calls", "reqps").show("sum(rate(onemind_ai_calls_total[~]))", ""),
            number("Not completed", "percentunit")
                .show(
                    "(sum(rate(onemind_ai_calls_total{ending!~\"completed|tunnel_closed\"}[~])) or vector(0)) / sum(rate(onemind_ai_calls_total[~]))",
                    "",
                )
                .alarms(0.01, 0.05),
            number("p95 to the first token", "s").show(
                "histogram_quantile(0.95, sum by (le) (rate(gen_ai_client_operation_time_to_first_chunk_seconds_bucket[~])))",
                "",
            ),
            number("Tokens out", "short")
                .about("In a second.")
                .show("sum(rate(onemind_ai_tokens_total{class=~\"output.*\"}[~]))", ""),
            number("Another stood in", "percentunit")
                .about("Calls that came to their provider after another one was tried.")
                .show("sum(rate(onemind_ai_fallbacks_total[~])) / sum(rate(onemind_ai_calls_total[~]))", "")
                .alarms(0.05, 0.5),
            number("Waiting", "short").show(
                "sum(onemind_ai_keys_waiting) + sum(onemind_queue_waiting and on (instance, pool) label_replace(onemind_ai_keys_resting, \"pool\", \"$1\", \"provider\", \"(.+)\"))",
                "",
            ),
            number("Left alone", "short")
                .about("Targets whose breaker is open.")
                .show("sum(onemind_ai_breaker_open)", "")
                .alarms(1.0, 2.0),
            number("Keys that rest", "short")
                .show("sum(onemind_ai_keys_resting)", "")
                .alarms(1.0, 2.0),
        ],
    )
}

fn calls() -> Row {
    row(
        "Calls",
        [
            stack("By model", "reqps").show("sum by (model) (rate(onemind_ai_calls_total[~]))", "{{model}}"),
            stack("By operation and how they ended", "reqps").show(
                "sum by (operation, ending) (rate(onemind_ai_calls_total[~]))",
                "{{operation}} {{ending}}",
            ),
            graph("p95 of a call, by model", "s").show(
                "histogram_quantile(0.95, sum by (model, le) (rate(gen_ai_client_operation_duration_seconds_bucket[~])))",
                "{{model}}",
            ),
        ],
    )
}

fn speed() -> Row {
    row(
        "Speed",
        [
            graph("To the first token", "s").quantiles([
                "histogram_quantile(0.5, sum by (le) (rate(gen_ai_client_operation_time_to_first_chunk_seconds_bucket[~])))",
                "histogram_quantile(0.9, sum by (le) (rate(gen_ai_client_operation_time_to_first_chunk_seconds_bucket[~])))",
                "histogram_quantile(0.99, sum by (le) (rate(gen_ai_client_operation_time_to_first_chunk_seconds_bucket[~])))",
            ]),
            graph("p95 to the first token, by provider and model", "s").show(
                "histogram_quantile(0.95, sum by (provider, model, le) (rate(gen_ai_client_operation_time_to_first_chunk_seconds_bucket[~])))",
                "{{provider}} {{model}}",
            ),
            graph("Tokens a second of one call", "short")
                .about("Output tokens over the time that calls took, their first token included.")
                .show(
                    "sum by (provider, model) (rate(gen_ai_client_token_usage_sum{type=\"output\"}[~])) / sum by (provider, model) (rate(gen_ai_client_operation_duration_seconds_sum[~]))",
                    "{{provider}} {{model}}",
                ),
        ],
    )
}

fn tokens() -> Row {
    row(
        "Tokens",
        [
            stack("Tokens a second, by class", "short")
                .about("No token is in two classes; `audio_ms` and `searches` are no tokens.")
                .show("sum by (class) (rate(onemind_ai_tokens_total[~]))", "{{class}}"),
            stack("Tokens a second, by model", "short").show(
                "sum by (provider, model) (rate(onemind_ai_tokens_total{class!~\"audio_ms|searches\"}[~]))",
                "{{provider}} {{model}}",
            ),
            graph("p95 of a call", "short").about("Tokens of one call.").show(
                "histogram_quantile(0.95, sum by (type, le) (rate(gen_ai_client_token_usage_bucket[~])))",
                "{{type}}",
            ),
            table("Used in this time", "short")
                .about("What a bill is made of: each class has a price of its own.")
                .wide(24)
                .show("sum by (provider, model, class) (increase(onemind_ai_tokens_total[$__range]))", ""),
        ],
    )
}

fn providers() -> Row {
    row(
        "Providers",
        [
            stack("Attempts by what came of them", "reqps").show(
                "sum by (provider, outcome) (rate(onemind_ai_attempts_total[~]))",
                "{{provider}} {{outcome}}",
            ),
            graph("Share of attempts that failed", "percentunit")
                .show(
                    "sum by (provider) (rate(onemind_ai_attempts_total{outcome!=\"answered\"}[~])) / sum by (provider) (rate(onemind_ai_attempts_total[~]))",
                    "{{provider}}",
                )
                .alarms(0.05, 0.5),
            graph("Calls in which this one stood in", "reqps").show(
                "sum by (model, provider) (rate(onemind_ai_fallbacks_total[~]))",
                "{{model}} at {{provider}}",
            ),
            graph("Targets left alone", "short")
                .show("sum by (target) (onemind_ai_breaker_open)", "{{target}}"),
            graph("Keys left alone", "short")
                .show("sum by (provider) (onemind_ai_keys_resting)", "{{provider}}"),
            graph("Tokens of service accounts, unreadable events", "ops")
                .show("sum by (provider, result) (rate(onemind_ai_token_fetches_total[~]))", "{{provider}} token {{result}}")
                .show("sum by (provider) (rate(onemind_ai_unreadable_events_total[~]))", "{{provider}} unreadable"),
        ],
    )
}

fn queue() -> Row {
    row(
        "Queue",
        [
            graph("p95 of the wait", "s")
                .about("For places and keys, of calls that did not wait as well.")
                .show(
                    "histogram_quantile(0.95, sum by (provider, le) (rate(onemind_ai_queue_seconds_bucket[~])))",
                    "{{provider}}",
                )
                .wide(12),
            graph("Waiting", "short").wide(12).show(
                "sum by (provider) (onemind_ai_keys_waiting)",
                "for a key of {{provider}}",
            ).show(
                "sum by (pool) (onemind_queue_waiting and on (instance, pool) label_replace(onemind_ai_keys_resting, \"pool\", \"$1\", \"provider\", \"(.+)\"))",
                "for a place at {{pool}}",
            ),
            graph("Got no place", "reqps").wide(12).show(
                "sum by (pool, reason) (rate(onemind_queue_rejections_total[~]) and on (instance, pool) label_replace(onemind_ai_keys_resting, \"pool\", \"$1\", \"provider\", \"(.+)\"))",
                "{{pool}}: {{reason}}",
            ),
            graph("In flight", "short").wide(12).show(
                "sum by (pool) (onemind_endpoint_in_flight and on (instance, pool) label_replace(onemind_ai_keys_resting, \"pool\", \"$1\", \"provider\", \"(.+)\"))",
                "{{pool}}",
            ),
        ],
    )
}
