//! Counters of a fixed rate, derived from virtual time by exact integer arithmetic.

use crate::addr::Ticks;

/// How many cycles of a clock of `hz` have passed at `now`.
pub(super) fn cycles_at(now: Ticks, hz: u64) -> u64 {
    let cycles = u128::from(now.0) * u128::from(hz) / u128::from(Ticks::PER_SECOND);
    u64::try_from(cycles).unwrap_or(u64::MAX)
}

/// The first tick at which a clock of `hz` has made `cycles` cycles; [`Ticks::NEVER`] if that is out of range.
pub(super) fn first_tick_at(cycles: u64, hz: u64) -> Ticks {
    let ticks = (u128::from(cycles) * u128::from(Ticks::PER_SECOND)).div_ceil(u128::from(hz));
    u64::try_from(ticks).map_or(Ticks::NEVER, Ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tick_of_a_cycle_is_exact_at_every_rate() {
        for hz in [32_768, 1_193_182, 3_579_545] {
            for cycles in [1, 2, 3, 1000, 65_536, 1_000_003, 1 << 40] {
                let tick = first_tick_at(cycles, hz);
                assert_eq!(cycles_at(tick, hz), cycles, "{hz} Hz");
                assert_eq!(cycles_at(Ticks(tick.0 - 1), hz), cycles - 1, "{hz} Hz");
            }
        }
    }

    #[test]
    fn the_far_future_saturates() {
        assert_eq!(first_tick_at(u64::MAX, 32_768), Ticks::NEVER);
    }
}
