//! What Anthropic's models differ in, by their names.

/// How a model takes what a call says of sampling and thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Before 4.6, and models of others behind this dialect: thinking has a budget.
    Budgeted,
    /// 4.6: thinking takes an effort; a budget is on its way out.
    Adaptive,
    /// From 4.7 on: an effort only, and sampling cannot be set; either is refused with a 400.
    AdaptiveOnly,
}

/// `claude-opus-4-7`, `claude-3-7-sonnet-20250219`, `anthropic.claude-opus-4-6-v1:0`, `claude-sonnet-4@20250514`.
/// A Claude without a number is taken for a new one.
pub fn generation_of(model: &str) -> Generation {
    let Some((_, name)) = model.split_once("claude-") else {
        return Generation::Budgeted;
    };
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    // A long number is a date.
    let mut numbers = words
        .skip_while(|word| !is_number(word))
        .map_while(|word| is_number(word).then(|| word.parse::<u32>().unwrap_or_default()));
    let version = numbers
        .next()
        .map(|major| (major, numbers.next().unwrap_or(0)));
    match version {
        Some(version) if version < (4, 6) => Generation::Budgeted,
        Some((4, 6)) => Generation::Adaptive,
        _ => Generation::AdaptiveOnly,
    }
}

fn is_number(word: &str) -> bool {
    (1..=2).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_says_how_it_thinks() {
        for (model, generation) in [
            ("claude-3-7-sonnet-20250219", Generation::Budgeted),
            ("claude-opus-4-20250514", Generation::Budgeted),
            ("claude-haiku-4-5-20251001", Generation::Budgeted),
            ("claude-sonnet-4@20250514", Generation::Budgeted),
            ("deepseek-reasoner", Generation::Budgeted),
            ("claude-opus-4-6", Generation::Adaptive),
            ("us.anthropic.claude-sonnet-4-6-v1:0", Generation::Adaptive),
            ("claude-opus-4-7", Generation::AdaptiveOnly),
            ("anthropic/claude-opus-4.8", Generation::AdaptiveOnly),
            ("claude-sonnet-5", Generation::AdaptiveOnly),
            ("claude-mythos-preview", Generation::AdaptiveOnly),
        ] {
            assert_eq!(generation_of(model), generation, "{model}");
        }
    }
}
