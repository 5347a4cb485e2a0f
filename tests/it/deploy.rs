//! The files that put the gateway under systemd and Kubernetes: valid by their own rules, and true of the binary.

use crate::harness::finish;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

// --- systemd ---

/// Every key of our units, by section: what systemd 252 knows (`systemd.directives(7)`). Another key must be looked up
/// before it is put here.
const KEYS: &[(&str, &[&str])] = &[
    ("Unit", &["Description", "Wants", "After"]),
    ("Install", &["WantedBy"]),
    (
        "Socket",
        &["ListenStream", "BindIPv6Only", "Backlog", "NoDelay"],
    ),
    (
        "Service",
        &[
            "AmbientCapabilities",
            "CapabilityBoundingSet",
            "DevicePolicy",
            "ExecReload",
            "ExecStart",
            "Group",
            "KillMode",
            "LimitNOFILE",
            "LockPersonality",
            "LogsDirectory",
            "MemoryDenyWriteExecute",
            "NoNewPrivileges",
            "NotifyAccess",
            "PrivateDevices",
            "PrivateTmp",
            "ProtectClock",
            "ProtectControlGroups",
            "ProtectHome",
            "ProtectHostname",
            "ProtectKernelLogs",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "ProtectProc",
            "ProtectSystem",
            "RemoveIPC",
            "Restart",
            "RestartSec",
            "RestrictAddressFamilies",
            "RestrictNamespaces",
            "RestrictRealtime",
            "RestrictSUIDSGID",
            "RuntimeDirectory",
            "SuccessExitStatus",
            "SystemCallArchitectures",
            "SystemCallErrorNumber",
            "SystemCallFilter",
            "TimeoutStartSec",
            "TimeoutStopSec",
            "Type",
            "UMask",
            "User",
            "WatchdogSec",
        ],
    ),
];

/// A unit as (section, key, value), in its order.
fn unit(name: &str) -> Vec<(String, String, String)> {
    let text = read(&format!("conf/systemd/{name}"));
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .unwrap_or_else(|| panic!("{name}: {line}"));
        lines.push((section.clone(), key.to_owned(), value.to_owned()));
    }
    lines
}

fn values<'a>(unit: &'a [(String, String, String)], key: &str) -> Vec<&'a str> {
    let of_key = unit.iter().filter(|(_, known, _)| known == key);
    of_key.map(|(_, _, value)| value.as_str()).collect()
}

#[test]
fn every_key_of_the_units_is_one_that_systemd_knows() {
    for name in ["onemind.service", "onemind.socket"] {
        for (section, key, value) in unit(name) {
            let known = KEYS.iter().find(|(known, _)| *known == section);
            let (_, keys) = known.unwrap_or_else(|| panic!("{name}: section {section}"));
            assert!(keys.contains(&key.as_str()), "{name}: {section}.{key}");
            assert!(!value.is_empty(), "{name}: {section}.{key} is empty");
        }
    }
}

#[test]
fn the_unit_says_what_the_binary_does() {
    let service = unit("onemind.service");
    assert_eq!(values(&service, "Type"), ["notify"]);
    assert_eq!(values(&service, "NotifyAccess"), ["main"]);
    assert_eq!(values(&service, "SuccessExitStatus"), ["3"]);
    let stop: u64 = values(&service, "TimeoutStopSec")[0].parse().unwrap();
    // The default of `server.drain_deadline`.
    assert!(stop > 30, "systemd would kill what still drains");
    let listeners = read("conf/gateway.yaml");
    for address in values(&unit("onemind.socket"), "ListenStream") {
        assert!(listeners.contains(address), "{address} has no listener");
    }
}

/// The units in a folder of their own, with a program that is there.
fn installed(dir: &TempDir) -> Vec<PathBuf> {
    let names = ["onemind.service", "onemind.socket"];
    let install = names.map(|name| {
        let text = read(&format!("conf/systemd/{name}"));
        let text = text.replace("/usr/local/bin/onemind", env!("CARGO_BIN_EXE_onemind"));
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    install.to_vec()
}

/// With systemd's own eyes, where they are. The keys are checked above wherever they are not.
#[test]
fn systemd_finds_no_fault_with_the_units_and_calls_the_service_safe() {
    let analyze = "/usr/bin/systemd-analyze";
    if !Path::new(analyze).exists() {
        println!("{analyze} is not here: only the names of the keys are checked");
        return every_key_of_the_units_is_one_that_systemd_knows();
    }
    let dir = TempDir::new().unwrap();
    let units = installed(&dir);
    let (status, out, err) = finish(
        Command::new(analyze)
            .args(["verify", "--man=no"])
            .args(&units),
    );
    let of_ours = |line: &&str| line.contains("onemind");
    let faults: Vec<&str> = out.lines().chain(err.lines()).filter(of_ours).collect();
    assert!(status.success() && faults.is_empty(), "{faults:#?}");

    let mut security = Command::new(analyze);
    // In tenths: 2.0 is far into what systemd calls OK; an unhardened service has 9.6.
    security.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
    let (status, out, err) = finish(security.arg(&units[0]));
    assert!(status.success(), "{out}{err}");
}

// --- Kubernetes ---

const MANIFESTS: [&str; 5] = [
    "configmap",
    "deployment",
    "horizontalpodautoscaler",
    "poddisruptionbudget",
    "service",
];

fn manifest(name: &str) -> Value {
    let text = read(&format!("conf/kubernetes/{name}.yaml"));
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| {
        Value::deserialize(document).unwrap_or_else(|error| panic!("{name}: {error}"))
    });
    let documents: Vec<Value> = documents.collect();
    let [document] = &documents[..] else {
        panic!("{name}: {} documents", documents.len());
    };
    document.clone()
}

/// What Kubernetes publishes of this kind (`tests/golden/kubernetes`).
fn schema_of(kind: &str) -> Value {
    let mut all: Value =
        serde_json::from_str(&read("tests/golden/kubernetes/schemas.json")).unwrap();
    let name = all["kinds"][kind]
        .as_str()
        .unwrap_or_else(|| panic!("no schema of {kind}"));
    json!({ "$ref": format!("#/$defs/{name}"), "$defs": all["$defs"].take() })
}

fn faults(document: &Value) -> Vec<String> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let validator = jsonschema::validator_for(&schema_of(kind)).unwrap();
    let errors = validator.iter_errors(document);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn every_manifest_holds_to_the_published_schema() {
    for name in MANIFESTS {
        let document = manifest(name);
        let faults = faults(&document);
        assert!(faults.is_empty(), "{name}: {faults:#?}");
        let kind = document["kind"].as_str().unwrap().to_lowercase();
        assert_eq!(kind, name, "a file has the name of its kind");
    }
    let files = std::fs::read_dir(root().join("conf/kubernetes")).unwrap();
    assert_eq!(files.count(), MANIFESTS.len(), "each file is checked");
}

#[test]
fn a_manifest_with_a_fault_would_be_found() {
    type Change = fn(&mut Value);
    let rows: [(&str, Change); 4] = [
        ("deployment", |all| all["spec"]["replica"] = json!(2)),
        ("deployment", |all| {
            all["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"] =
                json!("sleep 5");
        }),
        ("horizontalpodautoscaler", |all| {
            all["spec"]["maxReplicas"] = json!("five");
        }),
        ("service", |all| all["apiVersion"] = json!("apps/v1")),
    ];
    for (name, change) in rows {
        let mut document = manifest(name);
        change(&mut document);
        assert!(!faults(&document).is_empty(), "{name}: {document}");
    }
}

#[test]
fn the_manifests_agree_with_each_other() {
    let [map, deployment, scaler, budget, service] = MANIFESTS.map(manifest);
    let template = &deployment["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &budget["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
    ] {
        assert_eq!(selector, labels);
    }
    assert_eq!(
        scaler["spec"]["scaleTargetRef"]["name"],
        deployment["metadata"]["name"]
    );
    let volume = &template["spec"]["volumes"][0]["configMap"]["name"];
    assert_eq!(volume, &map["metadata"]["name"]);
    let container = &template["spec"]["containers"][0];
    let ports: BTreeMap<&str, u64> = container["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| {
            (
                port["name"].as_str().unwrap(),
                port["containerPort"].as_u64().unwrap(),
            )
        })
        .collect();
    assert!(ports.contains_key(service["spec"]["ports"][0]["targetPort"].as_str().unwrap()));
    for (probe, path) in [
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
        ("startupProbe", "/livez"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path, "{probe}");
        assert!(ports.contains_key(get["port"].as_str().unwrap()), "{probe}");
    }

    let spec = &scaler["spec"];
    assert_eq!(
        (&spec["minReplicas"], &spec["maxReplicas"]),
        (&json!(2), &json!(5))
    );
    assert_eq!(
        spec["metrics"][0]["resource"]["target"]["averageUtilization"],
        70
    );
    assert_eq!(
        spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"],
        120
    );
    assert_eq!(
        spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"],
        600
    );
    // Without a request there is nothing to measure against.
    assert!(container["resources"]["requests"]["cpu"].is_string());
}

#[test]
fn a_pod_has_the_time_that_its_configuration_asks_for() {
    let [map, deployment] = ["configmap", "deployment"].map(manifest);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("gateway.yaml");
    std::fs::write(&file, map["data"]["gateway.yaml"].as_str().unwrap()).unwrap();
    let onemind = || Command::new(env!("CARGO_BIN_EXE_onemind"));
    let (status, out, err) = finish(onemind().args(["check", "-c"]).arg(&file));
    assert!(status.success(), "{out}{err}");
    assert!(!out.contains("warning"), "{out}");
    let (_, dumped, err) = finish(onemind().args(["dump", "-c"]).arg(&file));
    let config: Value = serde_yaml::from_str(&dumped).unwrap_or_else(|_| panic!("{dumped}{err}"));
    // `onemind dump` writes periods as people do.
    assert_eq!(config["server"]["drain_deadline"], "10m", "{config}");

    let spec = &deployment["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let stop = container["lifecycle"]["preStop"]["exec"]["command"]
        .as_array()
        .unwrap();
    let stop: u64 = stop[1].as_str().unwrap().parse().unwrap();
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > stop + 600, "{grace} s for {stop} s and ten minutes");

    let address = |section: &Value| section["address"].to_string();
    for (port, address) in [
        ("8080", address(&config["listeners"]["web"])),
        ("9090", address(&config["admin"])),
    ] {
        assert!(address.contains(port), "{address}");
        assert!(container["ports"].to_string().contains(port), "{port}");
    }
}
