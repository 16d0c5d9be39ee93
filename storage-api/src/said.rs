//! What was logged last, so that a state that lasts is logged when it begins and not each time it is looked at.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

/// Subjects that are remembered. With more of them something may be said again.
const MAX: usize = 1024;

/// The state of each subject, as it was said last.
#[derive(Debug)]
pub struct Said<K> {
    last: Mutex<HashMap<K, String>>,
}

impl<K> Default for Said<K> {
    fn default() -> Said<K> {
        Said { last: Mutex::default() }
    }
}

impl<K: Hash + Eq> Said<K> {
    /// Whether a subject is in this state since just now.
    pub fn is_news(&self, subject: K, state: &impl ToString) -> bool {
        let (mut last, state) = (self.last.lock(), state.to_string());
        if last.len() >= MAX && !last.contains_key(&subject) {
            last.clear();
        }
        last.insert(subject, state.clone()).is_none_or(|before| before != state)
    }

    /// The subject is as it should be; whether it was not.
    pub fn is_over(&self, subject: &K) -> bool {
        self.last.lock().remove(subject).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_news_when_it_begins_and_when_it_ends() {
        let said = Said::default();
        assert!(said.is_news("n2", &"down") && !said.is_news("n2", &"down"));
        assert!(said.is_news("n3", &"down") && said.is_news("n2", &"refused"));
        assert!(said.is_over(&"n2") && !said.is_over(&"n2"));
        assert!(said.is_news("n2", &"refused"));
        (0..2 * MAX).for_each(|_| _ = said.is_news("n2", &"refused"));
        let many: Vec<String> = (0..2 * MAX).map(|number| number.to_string()).collect();
        let said = Said::default();
        many.iter().for_each(|subject| _ = said.is_news(subject.as_str(), &"down"));
        assert!(said.last.lock().len() <= MAX);
    }
}
