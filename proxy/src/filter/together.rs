//! Filters of one exchange that share a VM: where nothing is to be done between their callbacks, these share an entry of it.

use lacis_host::Half;
use lacis_host::abi::BodyAnswer;

use super::run::Run;
use super::seen::Stage;
use super::wasm::{Filter, Place};
use crate::fault::Fault;

impl Run {
    /// Shows content of the response to several filters of one VM, as far as they let it go on. Which of them has it in its
    /// hands then, and its answer.
    pub(super) fn together(
        &self,
        at: usize,
        place: Place,
        count: u32,
        size: usize,
        end: bool,
    ) -> Result<(usize, BodyAnswer), Fault> {
        self.seen.borrow_mut().passing = Some(at);
        let shown = self.filter(at).on_bodies(place, count, size, end);
        let (index, answer) = match &shown {
            Some(Ok((index, answer))) => (*index, *answer),
            Some(Err((index, _))) => (*index, BodyAnswer::Continue),
            None => (0, BodyAnswer::Continue),
        };
        let to = at.saturating_sub(index as usize);
        {
            let mut seen = self.seen.borrow_mut();
            if let Some(from) = seen.passing.take() {
                seen.pass(from, to);
            }
        }
        match shown {
            Some(Ok(_)) => {}
            Some(Err((_, trap))) => self.filter(to).died(&trap)?,
            None => self.filter(to).lost()?,
        }
        Ok((to, answer))
    }

    /// How many filters these are, if all can log and go together: they are in one VM, and it lives.
    fn can_end(&self, stages: &[Stage]) -> Option<u32> {
        let first = stages.first()?;
        let near =
            |(index, stage): (usize, &Stage)| stage.machine == first.machine && stage.place.follows(first.place, index);
        let all = self.filters[first.number].has(first.place) && stages.iter().enumerate().all(near);
        u32::try_from(stages.len()).ok().filter(|_| all)
    }
}

impl Drop for Run {
    /// The exchange is over: all log, then all go (Envoy's order). Of a connection all learn who has closed it; they log
    /// when they go.
    fn drop(&mut self) {
        if self.tcp {
            let by = self.seen.borrow().closed_by();
            let place = |at: usize| self.seen.borrow().stages.get(at).map(|stage| (stage.number, stage.place));
            for (number, place) in (0..).map_while(place) {
                self.filters[number].on_connection_close(place, Half::Request, by);
            }
        }
        // Taken out, as nothing is borrowed while guests run: from here on none has anything in its hands.
        let stages = std::mem::take(&mut self.seen.borrow_mut().stages);
        let together = if self.tcp { None } else { self.can_end(&stages) };
        if let (Some(count), Some(first), false) = (together, stages.first(), self.apart) {
            if let Err((index, trap)) = self.filters[first.number].end(first.place, count)
                && let Some(stage) = stages.get(index as usize)
            {
                // The response is out: a trap now only costs the VM.
                let _ = self.filters[stage.number].died(&trap);
            }
            return;
        }
        let each = |callback: fn(&Filter, Place)| {
            for Stage { number, place, .. } in &stages {
                let filter = &self.filters[*number];
                if together.is_some() {
                    filter.measured();
                }
                callback(filter, *place);
            }
        };
        if !self.tcp {
            each(Filter::log);
        }
        each(Filter::close);
    }
}
