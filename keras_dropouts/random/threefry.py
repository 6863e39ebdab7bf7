"""The cipher that all bits come from."""

from keras_dropouts.random.backend import BACKEND, shift_left, shift_right

if BACKEND == "torch":
    import torch

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA


def _rotate_left(x, distance, spare=None):
    """Rotates the bits of each word; PyTorch puts the result into `spare` where there is one."""
    if BACKEND != "torch":
        return shift_left(x, distance) | shift_right(x, 32 - distance)
    right = torch.bitwise_right_shift(x, 32 - distance, out=spare)
    # The high part is added in the pass that shifts it.
    return right.bitwise_and_((1 << distance) - 1).add_(x, alpha=1 << distance)


def threefry2x32(key, counter, *rounds):
    """Encrypts a pair of counter words with a pair of key words (Salmon et al., SC 2011, section 3.2).

    Args:
        key: Two scalars of 32-bit integers (uint32; int32 on PyTorch).
        counter: Two tensors of 32-bit integers that broadcast against each other.
        rounds: How many, rising: 20 is the authors' recommendation, 13 their fastest Crush-resistant choice.

    Returns:
        A list of two tensors for each number of rounds: what the counter has become after so many. They have the
        counters' common shape and their dtype.
    """
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    # The first round, before which a word has but the entries of its own counter.
    x0 = x0 + x1
    x1 = _rotate_left(x1, ROTATIONS[0]) ^ x0
    spare = torch.empty_like(x1) if BACKEND == "torch" else None
    words = []
    # Augmented assignments: in place on PyTorch, where each new tensor would be a pass over memory.
    for i in range(1, rounds[-1]):
        x0 += x1
        x1, spare = _rotate_left(x1, ROTATIONS[i % 8], spare), x1
        x1 ^= x0
        if i % 4 == 3:
            injection = i // 4 + 1
            x0 += keys[injection % 3]
            x1 += keys[(injection + 1) % 3] + injection
        if i + 1 in rounds:
            words += [x0, x1]
            if BACKEND == "torch" and i + 1 < rounds[-1]:
                x0, x1 = x0.clone(), x1.clone()
    return words
