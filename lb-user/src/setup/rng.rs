//! Random numbers to spread port searches with. Not for secrets.

/// SplitMix64 (Steele, Lea and Flood).
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Starts from a seed, which should differ with every start of the agent.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound` (0 if `bound` is 0).
    pub const fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (((z >> 32) * bound as u64) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_below_the_bound_comes_about_as_often() {
        let mut rng = Rng::new(7);
        let mut counts = [0; 10];
        for _ in 0..10_000 {
            counts[rng.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
        assert_eq!(rng.below(0), 0);
    }
}
