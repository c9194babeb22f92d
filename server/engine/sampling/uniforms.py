"""Where chance comes from: one number for each draw, a pure function of (seed, choice, position in the output).

The function is fixed for good, so that a seed gives the same draws on every machine and in every release:

    key     = xxh3_64(seed and choice, each as 8 bytes, little-endian)
    state   = key + (position + 1) * 0x9E3779B97F4A7C15         modulo 2^64, as all of this
    state   = (state ^ state >> 30) * 0xBF58476D1CE4E5B9
    state   = (state ^ state >> 27) * 0x94D049BB133111EB
    uniform = ((state ^ state >> 31) >> 11) / 2^53              in [0, 1)

which is SplitMix64, entered at any position. Knows nothing of what is drawn.
"""

import struct

import numpy as np
import numpy.typing as npt
import xxhash


def stream_key(seed: int, choice: int) -> int:
    """Return what names the draws of one choice, from 0 to 2^64 - 1; `seed` and `choice` are in that range too."""
    return xxhash.xxh3_64_intdigest(struct.pack("<QQ", seed, choice))


def uniforms(keys_S: npt.NDArray[np.uint64], positions_S: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each pair of key and position."""
    state_S = keys_S + (positions_S + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state_S = (state_S ^ (state_S >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_S = (state_S ^ (state_S >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state_S ^= state_S >> np.uint64(31)
    numbers_S: npt.NDArray[np.float64] = (state_S >> np.uint64(11)) * 2.0**-53
    return numbers_S
