//! What others may see of somebody who works alone and tells later, in order: always a prefix of what was done, and never a shorter one
//! than before.
//!
//! While the one who works lives, others see nothing or all that was acknowledged before they looked. Who sees less has seen the end:
//! nothing comes after that, and nothing of the rest may be acknowledged as kept.

use anyhow::ensure;

/// The states that a list of steps went through.
#[derive(Clone, Debug)]
pub struct Prefixes<S> {
    /// The state before each step, and after the last.
    states: Vec<S>,
    /// Steps that were acknowledged.
    acknowledged: usize,
    /// Of this prefix it is certain that it stays.
    at_least: usize,
    /// Somebody has seen that nothing longer will come.
    at_most: Option<usize>,
}

/// How far things were when somebody began to look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    acknowledged: usize,
    at_least: usize,
}

impl<S> Prefixes<S> {
    /// Before the first step.
    pub fn new(initial: S) -> Self {
        Self {
            states: vec![initial],
            acknowledged: 0,
            at_least: 0,
            at_most: None,
        }
    }

    /// All states that there were, and the one that a step leads to which has begun.
    pub fn states(&self) -> &[S] {
        &self.states
    }

    /// As it is for whoever works.
    pub fn state(&self) -> &S {
        &self.states[self.acknowledged]
    }

    /// A step begins that leads to this state: it may be seen from now on.
    pub fn begin(&mut self, next: S) {
        assert_eq!(
            self.states.len(),
            self.acknowledged + 1,
            "one step at a time"
        );
        self.states.push(next);
    }

    /// The step is acknowledged; its state becomes known wholly.
    pub fn acknowledge(&mut self, complete: impl FnOnce(&mut S)) {
        self.acknowledged += 1;
        complete(&mut self.states[self.acknowledged]);
    }

    /// How many steps were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// It was acknowledged that the first `count` steps stay, whatever happens.
    ///
    /// # Errors
    /// If somebody has seen that they did not.
    pub fn keep(&mut self, count: usize) -> anyhow::Result<()> {
        if let Some(most) = self.at_most {
            ensure!(
                count <= most,
                "{count} steps are acknowledged as kept, but others have seen that only {most} were"
            );
        }
        self.at_least = self.at_least.max(count);
        Ok(())
    }

    /// Somebody begins to look.
    pub fn look(&self) -> Look {
        Look {
            acknowledged: self.acknowledged,
            at_least: self.at_least,
        }
    }

    /// What was seen by who began with `look`: `is_it` tells whether a state can be that.
    ///
    /// # Errors
    /// If nobody can see that.
    pub fn seen(&mut self, look: Look, is_it: impl Fn(&S) -> bool) -> anyhow::Result<()> {
        let most = self.at_most.unwrap_or(self.states.len() - 1);
        let found: Vec<usize> = (look.at_least..=most)
            .filter(|&count| is_it(&self.states[count]))
            .collect();
        let (Some(&least), Some(&last)) = (found.first(), found.last()) else {
            let elsewhere = self.states.iter().position(&is_it);
            anyhow::bail!(
                "not the state after {} to {most} steps ({} acknowledged before the look, {} in all); it is that after {elsewhere:?}",
                look.at_least,
                look.acknowledged,
                self.acknowledged,
            );
        };
        self.at_least = self.at_least.max(least);
        if last < look.acknowledged {
            self.at_most = Some(last);
        }
        let (least, most) = (self.at_least, self.at_most.unwrap_or(usize::MAX));
        ensure!(
            least <= most,
            "{most} steps are seen, but {least} had been before"
        );
        Ok(())
    }

    /// The same of somebody who can only have seen this because nothing comes after it.
    ///
    /// # Errors
    /// If nobody can see that.
    pub fn seen_end(&mut self, look: Look, is_it: impl Fn(&S) -> bool) -> anyhow::Result<()> {
        self.seen(look, &is_it)?;
        let most = self.at_most.unwrap_or(self.states.len() - 1);
        let last = (self.at_least..=most).rfind(|&count| is_it(&self.states[count]));
        self.at_most = last.or(self.at_most);
        Ok(())
    }

    /// Whether somebody has seen the end.
    pub fn is_cut(&self) -> bool {
        self.at_most.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::Prefixes;

    fn five() -> Prefixes<u32> {
        let mut prefixes = Prefixes::new(0);
        for state in 1..=5 {
            prefixes.begin(state);
            prefixes.acknowledge(|_| {});
        }
        prefixes
    }

    #[test]
    fn while_it_goes_on_all_that_was_acknowledged_is_seen() {
        let mut prefixes = five();
        let look = prefixes.look();
        prefixes.begin(6);
        prefixes.seen(look, |&state| state == 6).unwrap();
        prefixes.acknowledge(|state| *state = 60);
        let look = prefixes.look();
        prefixes.seen(look, |&state| state == 60).unwrap();
        assert!(prefixes.seen(look, |&state| state == 5).is_err());
        assert!(prefixes.seen(look, |&state| state == 7).is_err());
        prefixes.keep(6).unwrap();
        assert!(!prefixes.is_cut());
    }

    #[test]
    fn who_sees_less_has_seen_the_end() {
        let mut prefixes = five();
        prefixes.keep(2).unwrap();
        let look = prefixes.look();
        assert!(prefixes.seen(look, |&state| state == 1).is_err(), "lost");
        prefixes.seen(look, |&state| state == 3).unwrap();
        assert!(prefixes.is_cut());
        for other in [2, 4, 5] {
            let look = prefixes.look();
            assert!(prefixes.seen(look, |&state| state == other).is_err());
        }
        assert!(prefixes.keep(4).is_err(), "acknowledged too late");
        prefixes.keep(3).unwrap();
        prefixes.seen(look, |&state| state == 3).unwrap();
    }

    #[test]
    fn who_gets_in_at_the_end_has_seen_all_there_will_be() {
        let mut prefixes = five();
        let look = prefixes.look();
        prefixes.begin(6);
        prefixes.seen_end(look, |&state| state == 5).unwrap();
        prefixes.acknowledge(|_| {});
        assert!(prefixes.keep(6).is_err(), "after the end");
        assert!(prefixes.seen(look, |&state| state == 6).is_err());
        prefixes.seen_end(look, |&state| state == 5).unwrap();
    }

    #[test]
    fn a_look_that_began_early_may_see_less_than_a_later_one() {
        let mut prefixes = five();
        let early = prefixes.look();
        prefixes.begin(6);
        prefixes.acknowledge(|_| {});
        let late = prefixes.look();
        prefixes.seen(late, |&state| state == 6).unwrap();
        prefixes.seen(early, |&state| state == 5).unwrap();
        assert!(!prefixes.is_cut());
    }
}
