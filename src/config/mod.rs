//! The document: one YAML file, read strictly.

pub mod settings;

pub use settings::Config;
