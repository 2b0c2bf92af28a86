use std::io;

/// Secrets and unpredictable numbers.
#[derive(Debug)]
pub(crate) enum Random {
    /// From the operating system.
    Os,
    /// From a seed, for simulations that must repeat (SplitMix64).
    Seeded(u64),
}

impl Random {
    /// Randomness from the operating system, once it is known to answer.
    pub(crate) fn from_os() -> io::Result<Self> {
        getrandom::u64().map_err(io::Error::other)?;
        Ok(Self::Os)
    }

    /// Another source of the same kind.
    pub(crate) fn fork(&mut self) -> Self {
        match self {
            Self::Os => Self::Os,
            Self::Seeded(_) => Self::Seeded(self.u64()),
        }
    }

    pub(crate) fn bytes(&mut self) -> [u8; 16] {
        (u128::from(self.u64()) << 64 | u128::from(self.u64())).to_be_bytes()
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.u64() as u16
    }

    pub(crate) fn u64(&mut self) -> u64 {
        match self {
            Self::Os => getrandom::u64().expect("the operating system's random source has failed"),
            Self::Seeded(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ z >> 31
            }
        }
    }
}
