//! What Gemini's models differ in, by their names.

/// How a model is told how much to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// From 3 on a level, and calls of tools bear proofs of thought; before, a budget of tokens.
    pub has_levels: bool,
    /// It always thinks.
    pub is_pro: bool,
}

/// `gemini-2.5-flash`, `models/gemini-3-pro-preview`, `gemini-flash-latest`. A name without a number is taken for a
/// new model, and a model of another family for an old one.
pub fn generation_of(model: &str) -> Generation {
    let name = model.split_once("gemini-").map(|(_, name)| name);
    let major = name.map(|name| {
        name.split(|c: char| !c.is_ascii_alphanumeric())
            .find_map(|word| word.parse::<u32>().ok())
            .unwrap_or(u32::MAX)
    });
    Generation {
        has_levels: major.is_some_and(|major| major >= 3),
        is_pro: name.is_some_and(|name| name.split('-').any(|word| word == "pro")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_says_how_it_thinks() {
        for (model, has_levels, is_pro) in [
            ("gemini-2.5-flash", false, false),
            ("models/gemini-2.5-pro", false, true),
            ("gemini-3-pro-preview", true, true),
            ("gemini-3.1-flash-lite", true, false),
            ("gemini-flash-latest", true, false),
            ("gemma-3-27b-it", false, false),
        ] {
            let generation = Generation { has_levels, is_pro };
            assert_eq!(generation_of(model), generation, "{model}");
        }
    }
}
