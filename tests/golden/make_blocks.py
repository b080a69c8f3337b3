#!/usr/bin/env python3
"""Makes blocks.bin: bytes of blocks in every block format of GGUF, and the values that they stand for.

    python3 tests/golden/make_blocks.py

Made with gguf 0.19.0 and numpy, whose dequantisers are the reference. Everything is drawn from one
fixed seed, so it can be run again. For each format the file holds its name (8 bytes, filled up with
zeros), the number of blocks and of values in a block (uint32 each), the blocks, and the values (f32);
all little endian.
"""

import pathlib

import gguf
import numpy as np

FORMATS = "Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL MXFP4 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS".split()
SCALES = {  # byte offsets of the f16 scales in a block
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0],
    "MXFP4": [], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_XS": [0],
}
# Ordinary, negative, the smallest and the largest subnormal, zero, minus zero, the largest.
F16 = [0x2A3C, 0xA9F1, 0x0001, 0x83FF, 0x0000, 0x8000, 0x7BFF, 0x3C00]
EXPONENTS = [0, 1, 2, 126, 127, 128, 254, 255]
HERE = pathlib.Path(__file__).resolve().parent


def blocks_of(name, rng):
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    count = 24 if values == 32 else 6
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    blocks[0], blocks[1] = 0, 255
    if name == "Q8_0":  # every code
        blocks[2:10, 2:] = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for i in range(count):
        for j, at in enumerate(SCALES[name]):
            scale = F16[(i + 3 * j) % len(F16)]
            blocks[i, at], blocks[i, at + 1] = scale & 255, scale >> 8
        if name == "MXFP4":
            blocks[i, 0] = EXPONENTS[i % len(EXPONENTS)]
    return values, blocks


def main():
    rng = np.random.default_rng(4)
    with open(HERE / "blocks.bin", "wb") as out:
        for name in FORMATS:
            values, blocks = blocks_of(name, rng)
            with np.errstate(over="ignore"):
                decoded = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
            assert decoded.shape == (len(blocks), values) and decoded.dtype == np.float32
            out.write(name.encode().ljust(8, b"\0"))
            out.write(np.array([len(blocks), values], dtype="<u4").tobytes())
            out.write(blocks.tobytes())
            out.write(decoded.astype("<f4").tobytes())


main()
