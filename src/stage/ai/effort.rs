//! How much to think, in both of the words that dialects have for it: the table of [`Reasoning`].

use super::call::{Effort, Reasoning};

const LOW: u64 = 1_024;
const MEDIUM: u64 = 8_192;
const HIGH: u64 = 24_576;

/// The tokens an effort stands for.
pub fn budget_of(effort: Effort) -> u64 {
    match effort {
        Effort::None => 0,
        Effort::Minimal | Effort::Low => LOW,
        Effort::Medium => MEDIUM,
        Effort::High | Effort::XHigh => HIGH,
    }
}

/// The effort a budget stands for: the next above.
pub fn effort_of(budget: u64) -> Effort {
    if budget == 0 {
        Effort::None
    } else if budget <= LOW {
        Effort::Low
    } else if budget <= MEDIUM {
        Effort::Medium
    } else {
        Effort::High
    }
}

impl Reasoning {
    /// Tokens to think with; none where the model is to decide.
    pub fn as_budget(&self) -> Option<u64> {
        self.budget.or_else(|| self.effort.map(budget_of))
    }

    /// As an effort; none where the model is to decide.
    pub fn as_effort(&self) -> Option<Effort> {
        self.effort.or_else(|| self.budget.map(effort_of))
    }

    /// Whether the model is told not to think.
    pub fn is_off(&self) -> bool {
        self.as_budget() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_the_next_effort_above_and_an_effort_comes_back_as_itself() {
        for effort in [Effort::None, Effort::Low, Effort::Medium, Effort::High] {
            assert_eq!(effort_of(budget_of(effort)), effort);
        }
        for (budget, effort) in [
            (1, Effort::Low),
            (1_025, Effort::Medium),
            (8_193, Effort::High),
            (u64::MAX, Effort::High),
        ] {
            assert_eq!(effort_of(budget), effort, "{budget}");
        }
    }
}
