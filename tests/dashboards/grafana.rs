//! Dashboards as Grafana 10 and newer import them.

use super::panel::{COLUMNS, Dashboard, Filter, Kind, Panel, Query};
use super::promql;
use onemind_gateway::observe::metrics::{Metrics, Row};
use serde_json::{Value, json};

/// Grafana 10 writes this one; newer ones read it.
const SCHEMA: u32 = 39;

/// The instance is a filter of every dashboard.
pub const INSTANCE: Filter = Filter {
    label: "instance",
    of: "onemind_build_info",
};

/// The row of the table behind a name in a query, which may be one of a histogram's parts.
pub fn row_of(name: &str) -> Option<&'static Row> {
    let named = |name: &str| Metrics::ROWS.iter().find(|row| row.name == name);
    let part = ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|part| name.strip_suffix(part));
    let histogram = part.and_then(named).filter(|row| row.kind == "histogram");
    histogram.or_else(|| named(name).filter(|row| row.kind != "histogram"))
}

/// The whole dashboard.
pub fn draw(dashboard: &Dashboard) -> Value {
    let variables: Vec<Value> = std::iter::once(sources())
        .chain(filters(dashboard).map(variable))
        .collect();
    json!({
        "uid": format!("onemind-{}", dashboard.name),
        "title": format!("OneMind / {}", dashboard.title),
        "description": dashboard.about,
        "tags": ["onemind"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "links": [{
            "type": "dashboards", "title": "OneMind", "tags": ["onemind"], "asDropdown": true,
            "keepTime": true, "includeVars": true, "icon": "external link", "targetBlank": false,
        }],
        "annotations": { "list": [
            mark("Configuration read", "blue", "onemind_config_last_reload_timestamp_seconds * 1000"),
            mark("Process started", "orange", "process_start_time_seconds * 1000"),
        ] },
        "templating": { "list": variables },
        "panels": panels(dashboard),
    })
}

fn filters(dashboard: &Dashboard) -> impl Iterator<Item = &Filter> {
    std::iter::once(&INSTANCE).chain(dashboard.filters)
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn sources() -> Value {
    json!({
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
        "current": {}, "hide": 0, "includeAll": false, "multi": false, "options": [], "refresh": 1,
        "regex": "", "skipUrlSync": false,
    })
}

fn variable(filter: &Filter) -> Value {
    let values = format!("label_values({}, {})", filter.of, filter.label);
    json!({
        "name": filter.label, "label": filter.label, "type": "query", "datasource": source(),
        "query": { "query": values, "refId": filter.label }, "definition": values,
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        "includeAll": true, "allValue": ".*", "multi": true, "refresh": 2, "sort": 1, "hide": 0,
        "options": [], "regex": "", "skipUrlSync": false,
    })
}

/// A line in every graph where something happened.
fn mark(name: &str, color: &str, promql: &str) -> Value {
    json!({
        "name": name, "datasource": source(), "enable": true, "hide": false, "iconColor": color,
        "expr": narrowed(promql, &[&INSTANCE]), "step": "60s", "useValueForTime": "on",
        "titleFormat": name, "textFormat": "{{instance}}", "tagKeys": "",
    })
}

/// The query with every filter that its metrics have the label of.
fn narrowed(promql: &str, filters: &[&Filter]) -> String {
    let promql = promql.replace("[~]", "[$__rate_interval]");
    promql::select(&promql, |name| {
        let labels = row_of(name).map_or(&[][..], |row| row.labels);
        let has =
            |filter: &&&Filter| filter.label == INSTANCE.label || labels.contains(&filter.label);
        let selectors = filters
            .iter()
            .filter(has)
            .map(|Filter { label, .. }| format!("{label}=~\"${label}\""));
        selectors.collect()
    })
}

fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let filters: Vec<&Filter> = filters(dashboard).collect();
    let (mut drawn, mut top, mut number) = (Vec::new(), 0, 0);
    let mut next = || {
        number += 1;
        number
    };
    for row in &dashboard.rows {
        drawn.push(json!({
            "id": next(), "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": top, "w": COLUMNS, "h": 1 },
        }));
        top += 1;
        let (mut left, mut height) = (0, 0);
        for panel in &row.panels {
            if left + panel.width > COLUMNS {
                (left, top, height) = (0, top + height, 0);
            }
            let place = json!({ "x": left, "y": top, "w": panel.width, "h": panel.height() });
            drawn.push(picture(panel, next(), place, &filters));
            left += panel.width;
            height = height.max(panel.height());
        }
        top += height;
    }
    drawn
}

fn picture(panel: &Panel, id: u32, place: Value, filters: &[&Filter]) -> Value {
    let instant = panel.kind == Kind::Table;
    let names = 'A'..='Z';
    let targets = panel
        .queries
        .iter()
        .zip(names)
        .map(|(query, name)| target(query, &name.to_string(), instant, filters));
    let kind = match panel.kind {
        Kind::Graph | Kind::Stack => "timeseries",
        Kind::Number => "stat",
        Kind::Table => "table",
    };
    let mut picture = json!({
        "id": id, "type": kind, "title": panel.title, "description": panel.about, "gridPos": place,
        "datasource": source(),
        "targets": targets.collect::<Vec<_>>(),
        "fieldConfig": { "defaults": defaults(panel), "overrides": [] },
        "options": options(panel.kind),
    });
    if instant {
        let hidden = json!({ "Time": true, "__name__": true, "job": true });
        picture["transformations"] = json!([
            { "id": "merge", "options": {} },
            { "id": "organize", "options": { "excludeByName": hidden } },
        ]);
    }
    picture
}

fn target(query: &Query, name: &str, instant: bool, filters: &[&Filter]) -> Value {
    json!({
        "refId": name, "datasource": source(), "editorMode": "code",
        "expr": narrowed(query.promql, filters), "legendFormat": query.legend,
        "instant": instant, "range": !instant, "format": if instant { "table" } else { "time_series" },
    })
}

fn defaults(panel: &Panel) -> Value {
    let mut steps = vec![json!({ "color": "green", "value": null })];
    if let Some((orange, red)) = panel.alarms {
        // Where little is bad, the colours run the other way.
        let colors = if orange <= red {
            ["orange", "red"]
        } else {
            ["orange", "green"]
        };
        if orange > red {
            steps[0]["color"] = json!("red");
        }
        let (low, high) = (orange.min(red), orange.max(red));
        steps.push(json!({ "color": colors[0], "value": low }));
        steps.push(json!({ "color": colors[1], "value": high }));
    }
    let mut defaults = json!({
        "unit": panel.unit, "min": 0,
        "color": { "mode": if panel.kind == Kind::Number { "thresholds" } else { "palette-classic" } },
        "thresholds": { "mode": "absolute", "steps": steps },
    });
    let curves = match panel.kind {
        Kind::Graph => Some((10, "none")),
        Kind::Stack => Some((40, "normal")),
        Kind::Number | Kind::Table => None,
    };
    if let Some((fill, stacking)) = curves {
        let thresholds = if panel.alarms.is_some() {
            "dashed"
        } else {
            "off"
        };
        defaults["custom"] = json!({
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never",
            "spanNulls": false, "stacking": { "mode": stacking, "group": "A" },
            "thresholdsStyle": { "mode": thresholds },
        });
    }
    defaults
}

fn options(kind: Kind) -> Value {
    match kind {
        Kind::Graph | Kind::Stack => json!({
            "legend": { "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"] },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        Kind::Number => json!({
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
            "textMode": "auto",
        }),
        Kind::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
    }
}
