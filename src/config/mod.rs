//! The document: one YAML file, read strictly, and all its faults told at once.

pub mod check;
pub mod settings;
pub mod source;
pub mod watch;
mod export;
mod paths;
mod problem;
mod read;
mod reader;
mod reference;
mod suggest;
mod tree;
mod values;
#[cfg(test)]
mod golden;

use crate::base::fault::{Fault, Faults, Severity};
use read::Read;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use values::Variable;

pub use export::{dump, schema};
pub use reference::reference;
pub use settings::Config;
pub use source::{Source, faults_json, render};

/// A table of 10,000 short routes takes 0.8 MiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What became of a document.
#[derive(Debug)]
pub struct Loaded {
    /// None when there are errors.
    pub config: Option<Config>,
    /// Everything that is wrong, warnings too, in the order of the text; at most 100, and a last one that says so.
    pub faults: Vec<Fault>,
    /// For [`render`] and [`faults_json`].
    pub source: Source,
}

/// Where `${NAME}` is looked up.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl Loaded {
    /// All faults, as people read them.
    pub fn render(&self) -> String {
        render(&self.source, &self.faults)
    }
}

/// Reads a file of at most 1 MiB; relative paths in it begin at its folder.
pub fn load(path: &Path, environment: &Environment) -> Loaded {
    let origin = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    // Absolute, so that a dump of the document means the same from any folder.
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    match read_text(path) {
        Ok(text) => parse(&text, &origin, &**environment, &folder),
        Err(what) => {
            let mut faults = Faults::default();
            let what = format!("cannot read the configuration: {what}");
            faults.error(crate::base::fault::KeyPath::root(), what, "");
            Loaded {
                config: None,
                faults: faults.0,
                source: Source::new(&origin, ""),
            }
        }
    }
}

/// The environment of the process.
pub fn environment() -> Environment {
    Arc::new(variable)
}

/// What the log shows, from `ONEMIND_LOG` or `RUST_LOG`.
pub fn log_filter() -> Option<String> {
    variable("ONEMIND_LOG").or_else(|| variable("RUST_LOG"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "only `config` reads the environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn read_text(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|b| *b == b'\n').count();
        format!("line {line} is not UTF-8")
    })
}

/// Reads a document. `origin` names it in messages; relative paths in it begin at `folder`.
pub fn parse(
    text: &str,
    origin: &str,
    env: &dyn Fn(&str) -> Option<String>,
    folder: &Path,
) -> Loaded {
    let tree = tree::build(text, env);
    let mut faults = tree.faults.0;
    let mut marks = tree.marks;
    let mut read: Read<Config> = match &tree.root {
        Some(root) => read::read(root, folder),
        None => Read {
            value: (!tree.broken).then(Config::default),
            ..Read::default()
        },
    };
    faults.append(&mut read.faults.0);
    if let Some(config) = &mut read.value {
        paths::resolve(config, folder);
    }
    marks.extend(read.marks);
    read.secrets.extend(tree.secrets);
    let mut source = Source::new(origin, text).with_tree(tree.root, marks, read.secrets);
    if let Some(config) = &read.value {
        let found = check::check(config, &read.absent);
        faults.extend(source.adopt(found));
    }
    source.arrange(&mut faults);
    let failed = faults.iter().any(|fault| fault.severity == Severity::Error);
    source.redact(&mut faults, &tree.variables);
    Loaded {
        config: read.value.filter(|_| !failed),
        faults,
        source,
    }
}

impl Source {
    /// Brings the faults of the checks to the paths as they are written.
    fn adopt(&mut self, found: check::Found) -> Vec<Fault> {
        let mut faults = found.faults.0;
        for fault in &mut faults {
            fault.at = self.as_written(&fault.at);
        }
        for (at, what) in found.at_keys {
            let at = self.as_written(&at);
            self.point_at_key(at, what);
        }
        faults
    }

    /// Takes out of the sentences what came from the environment, and what is too long to be read.
    fn redact(&mut self, faults: &mut [Fault], variables: &[Variable]) {
        for fault in faults {
            let used = self.used(&fault.at);
            let what = values::redact(&fault.what, used, variables);
            fault.fix = values::redact(&fault.fix, used, variables);
            self.rephrase(fault, what);
        }
    }
}
