//! What the values of a metric count, by the words that end its name.

/// Units are base units: seconds, never milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    /// Seconds since 1970.
    Date,
    Bytes,
    Tokens,
    /// 1 yes, 0 no; or always 1, with what is meant as a label.
    Flag,
    /// Things: requests, connections, lines.
    Count,
}

/// Where the last word of a name does not say it.
const EXCEPTIONS: [(&str, Unit); 11] = [
    ("gen_ai_client_token_usage", Unit::Tokens),
    ("onemind_ai_tokens_total", Unit::Tokens),
    ("onemind_ai_breaker_open", Unit::Flag),
    ("onemind_build_info", Unit::Flag),
    ("onemind_config_last_reload_successful", Unit::Flag),
    ("onemind_dns_failing", Unit::Flag),
    ("onemind_endpoint_up", Unit::Flag),
    ("onemind_limit_mode", Unit::Flag),
    ("onemind_store_up", Unit::Flag),
    ("onemind_tls_cert_not_after_seconds", Unit::Date),
    ("process_start_time_seconds", Unit::Date),
];

impl Unit {
    pub(super) fn of(name: &str) -> Self {
        let known = EXCEPTIONS.iter().find(|(known, _)| *known == name);
        let name = name.strip_suffix("_total").unwrap_or(name);
        match known {
            Some((_, unit)) => *unit,
            None if name.ends_with("_timestamp_seconds") => Self::Date,
            None if name.ends_with("_seconds") => Self::Seconds,
            None if name.ends_with("_bytes") => Self::Bytes,
            None => Self::Count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_unit_is_what_the_name_says() {
        for (name, unit) in [
            ("onemind_http_request_duration_seconds", Unit::Seconds),
            ("process_cpu_seconds_total", Unit::Seconds),
            ("onemind_http_request_bytes_total", Unit::Bytes),
            ("process_resident_memory_bytes", Unit::Bytes),
            ("onemind_config_last_reload_timestamp_seconds", Unit::Date),
            ("onemind_tls_cert_not_after_seconds", Unit::Date),
            ("onemind_connections", Unit::Count),
            ("gen_ai_client_token_usage", Unit::Tokens),
            ("onemind_store_up", Unit::Flag),
        ] {
            assert_eq!(Unit::of(name), unit, "{name}");
        }
    }

    #[test]
    fn every_exception_is_a_metric_and_every_yes_or_no_is_one() {
        for (name, _) in EXCEPTIONS {
            assert!(Metrics::ROWS.iter().any(|row| row.name == name), "{name}");
        }
        for row in Metrics::ROWS {
            let asks = row.help.starts_with("Whether") || row.help.starts_with("Always 1");
            assert_eq!(row.unit() == Unit::Flag, asks, "{row:?}");
        }
    }
}
