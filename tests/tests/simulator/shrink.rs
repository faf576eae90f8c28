//! Makes a schedule that fails smaller, as long as it fails.

use crate::{
    life::{Report, run},
    plan::{Answer, Plan},
};

/// Schedules that are tried at most.
const TRIES_MAX: u32 = 600;

/// The smallest schedule found that fails, with what it says.
pub fn shrink(plan: &Plan) -> (Plan, Report) {
    let mut shrinking = Shrinking { best: plan.clone(), tries: 0 };
    loop {
        let before = shrinking.tries;
        let changed = shrinking.round();
        if !changed || shrinking.tries >= TRIES_MAX || shrinking.tries == before {
            break;
        }
    }
    let report = run(&shrinking.best, true);
    (shrinking.best, report)
}

struct Shrinking {
    best: Plan,
    tries: u32,
}

impl Shrinking {
    fn attempt(&mut self, plan: Plan) -> bool {
        if self.tries >= TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let fails = run(&plan, false).finding.is_some();
        if fails {
            self.best = plan;
        }
        fails
    }

    fn round(&mut self) -> bool {
        let mut changed = false;
        for half in [2, 4, 8, 1] {
            changed |= self.leave_out(
                half,
                |plan| plan.events.len(),
                |plan, index| {
                    plan.events.remove(index);
                },
            );
            changed |= self.leave_out(
                half,
                |plan| plan.acts.len(),
                |plan, index| {
                    plan.acts.remove(index);
                },
            );
        }
        for index in 0..10 {
            let mut plan = self.best.clone();
            let rates = plan.rates.all();
            if *rates[index].1 > 0 {
                *rates[index].1 = 0;
                changed |= self.attempt(plan);
            }
        }
        for number in self.best.events.iter().map(|event| event.number).collect::<Vec<_>>() {
            let mut plan = self.best.clone();
            if plan.forced.insert(number, Answer::Done).is_none() {
                changed |= self.attempt(plan);
            }
        }
        // The last route of which nothing depends on the place.
        while self.best.routes.len() > 1 {
            let mut plan = self.best.clone();
            plan.routes.pop();
            let routes = plan.routes.len();
            plan.acts.retain(|(_, act)| act.fits(routes));
            if !self.attempt(plan) {
                break;
            }
            changed = true;
        }
        changed
    }

    /// Leaves out parts of a list: with `parts` as 2 halves, with 1 each thing for itself.
    fn leave_out(&mut self, parts: usize, len: impl Fn(&Plan) -> usize, remove: impl Fn(&mut Plan, usize)) -> bool {
        let mut changed = false;
        let all = len(&self.best);
        let size = if parts == 1 { 1 } else { all / parts };
        if size == 0 {
            return false;
        }
        let mut begin = all;
        while begin > 0 {
            let end = begin.min(len(&self.best));
            begin = end.saturating_sub(size);
            if end == 0 {
                break;
            }
            let mut plan = self.best.clone();
            for index in (begin..end).rev() {
                remove(&mut plan, index);
            }
            changed |= self.attempt(plan);
        }
        changed
    }
}
