"""NumPy reference of PowerStep and its quantisation, written from the paper's formulas."""

import numpy as np


def powerstep(theta, grads, lr, gamma=0.9, beta=0.1, weight_decay=0.0):
    """Return θ after a step on each gradient, in float64 (arXiv:2605.10335, Algorithm 1)."""
    theta = np.asarray(theta, np.float64)
    momentum = np.zeros_like(theta)
    for grad in grads:
        momentum = gamma * momentum + np.asarray(grad, np.float64)
        update = np.sign(momentum) * np.abs(momentum) ** beta
        theta = theta - lr * (update + weight_decay * theta)
    return theta


def quantize(x, block_size=128, bits=8):
    """Return int8 codes and fp32 scales, block by block (section 4)."""
    largest = np.float32(2 ** (bits - 1) - 1)
    flat = np.asarray(x, np.float32).ravel()
    codes, scales = [], []
    for start in range(0, flat.size, block_size):
        block = flat[start : start + block_size]
        scale = np.abs(block).max()
        scales.append(scale)
        ratio = block / scale if scale > 0 else np.zeros_like(block)
        codes.append(np.rint(ratio * largest).astype(np.int8))
    return np.concatenate(codes).reshape(np.shape(x)), np.array(scales, np.float32)


def dequantize(codes, scales, block_size=128, bits=8):
    """Return the dequantised values, in float64."""
    per_element = np.repeat(scales.astype(np.float64), block_size)[: codes.size]
    return codes.astype(np.float64) * per_element.reshape(codes.shape) / (2 ** (bits - 1) - 1)
