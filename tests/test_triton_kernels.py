"""The kernels for GPUs, without one: interpreted on CPU tensors, and compiled for three kinds of GPU."""

import importlib.util
import re
import subprocess

import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, value_and_gradient

if BACKEND != "torch":
    pytest.skip("PyTorch alone calls Triton", allow_module_level=True)

import torch
from test_random import KERNELS, key_of

from keras_dropouts import Dropout, GaussianDropout, UniformDropout, random
from keras_dropouts.random import bits, compilation, multiply

triton = pytest.importorskip("triton")
tl = importlib.import_module("triton.language")

PRODUCTS = {
    "drop": [(rate, rescale) for rate in (0.0, 0.3, 1 - 2**-17, 1.0) for rescale in (True, False)],
    "times_normal": [(0.5,), (0.0,)],
    "times_uniform": [(0.3,), (1.0,)],
}
DRAWING = [*(getattr(bits, name) for name in KERNELS), *(getattr(multiply, name) for name in PRODUCTS)]
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
KEYS = [(1, 2, 0), (2**31 + 5, 2**32 - 1, 2**32 - 2)]


def loaded():
    """The kernels' module once more, as `TRITON_INTERPRET` has it now."""
    spec = importlib.util.find_spec("keras_dropouts.random.triton_kernels")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def interpreted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield loaded()


@pytest.fixture
def in_use(interpreted, monkeypatch):
    """What is for GPUs, interpreted, in place of Numba's loops, and the names of what was called."""
    called = []

    def noted(name):
        def call(*args):
            called.append(name)
            return getattr(interpreted, name)(*args)

        return call

    for function in DRAWING:
        monkeypatch.setitem(function.loops, "cpu", noted(function.loops["cuda"].__name__))
    return called


def same(x, y):
    return x.shape == y.shape and x.dtype == y.dtype and torch.equal(x.nan_to_num(nan=0.125), y.nan_to_num(nan=0.125))


def as_expected(name, x, *args):
    """What the operations make of `x`, cut off and not rounded for bfloat16, as Triton's interpreter does it."""
    with torch.no_grad():
        function = getattr(multiply, name).__wrapped__
        if x.dtype != torch.bfloat16:
            return function(x, *args)
        return (function(x.float(), *args).view(torch.int32) & -(2**16)).view(torch.float32).bfloat16()


def test_draws_are_the_oracles(interpreted):
    # The first two words are known answers of Random123 after 13 rounds, the others after 20.
    zeros = interpreted.uniform(key_of(0, 0), torch.tensor(0.0), torch.tensor(1.0), 1, 1)
    words = zeros.to(torch.int16).numpy().view("<u4").ravel().tolist()
    assert words == [0x9D1C5EC6, 0x8BD50731, 0x6B200159, 0x99BA4EFE]
    for key in KEYS:
        drawn = interpreted.uniform(key_of(*key), torch.tensor(0.0), torch.tensor(1.0), 3, 5)
        np.testing.assert_array_equal(drawn.view(3, 40), oracle.draws(*key[:2], (3, 40), key[2]))


@pytest.mark.parametrize("function", DRAWING, ids=lambda function: function.__name__)
def test_gpus_have_a_kernel_for_each_draw(function):
    loop = function.loops["cuda"]
    assert loop and loop is getattr(compilation.triton_kernels, function.__name__.strip("_"))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("samples, blocks", [(1, 300), (300, 1), (5, 33), (1, 1), (2, 0), (0, 2)])
def test_kernels_give_what_the_operations_do(name, samples, blocks, interpreted):
    for key, tensors in zip(KEYS * 4, KERNELS[name], strict=False):
        args = (key_of(*key), *map(torch.from_numpy, map(np.asarray, tensors)), samples, blocks)
        assert same(getattr(interpreted, name.strip("_"))(*args), getattr(bits, name).__wrapped__(*args))


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_products_are_those_of_the_operations(name, dtype, interpreted):
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 5, 7), (2, 8 * 130), (1, 2**11 + 3), (4,), (), (0, 3), (3, 0)]
    for i, shape in enumerate(shapes):
        x = torch.randn(shape, generator=generator).to(dtype)
        if x.numel() > 8:
            x.view(-1)[:4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e-42])
        number, *rest = PRODUCTS[name][i % len(PRODUCTS[name])]
        args = (key_of(*KEYS[i % 2]), torch.tensor(number), *rest)
        assert same(getattr(interpreted, name)(x, *args), as_expected(name, x, *args))


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_strides_of_the_input_do_not_matter(name, interpreted):
    x = torch.randn((2, 5, 3, 4), generator=torch.Generator().manual_seed(1))
    key, (number, *rest) = torch.stack([key_of(1, 2)] * 2, 1)[:, 0], PRODUCTS[name][-2]
    args = (key, torch.tensor([0, number])[1], *rest)
    expected = as_expected(name, x, *args)
    padded = torch.nn.functional.pad(x, (1, 2))[..., 1:-2]
    inputs = [x.contiguous(memory_format=torch.channels_last), x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)]
    for strided in (*inputs, padded):
        assert not strided.is_contiguous()
        assert same(getattr(interpreted, name)(strided, *args), expected)
    ones = torch.ones(()).expand(x.shape)
    assert same(getattr(interpreted, name)(ones, *args), as_expected(name, ones, *args))


# For `test_places_of_large_tensors_have_64_bits`: Triton looks for functions among what is global.
ELEMENTS = None


def test_places_of_large_tensors_have_64_bits(interpreted, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    @triton.jit
    def places(out, first, samples, blocks, size):
        sample, block = tl.load(first) + tl.arange(0, 1)[:, None], tl.load(first + 1) + tl.arange(0, 1)[None, :]
        place, there = ELEMENTS(1, 4, sample, block, samples, blocks, size)
        tl.store(out + tl.arange(0, 4)[None, :], tl.where(there, place, -1))

    monkeypatch.setitem(globals(), "ELEMENTS", interpreted._elements)
    for sample, block, size in ((2**20, 3, 2**14 + 5), (1, 2**29 - 1, 2**33), (2**32, 0, 5), (0, 2**29 - 1, 2**32 + 7)):
        out, blocks = torch.empty(4, dtype=torch.int64), -(-size // 8)
        places[(1,)](out, torch.tensor([sample, block]), sample + 1, blocks, size)
        elements = range(4 * blocks + 4 * block, 4 * blocks + 4 * block + 4)
        assert out.tolist() == [sample * size + element if element < size else -1 for element in elements]


@pytest.mark.parametrize(
    "make, name", [(Dropout, "drop"), (GaussianDropout, "times_normal"), (UniformDropout, "times_uniform")]
)
def test_layers_call_one_kernel_forward_and_one_backward(make, name, in_use, monkeypatch):
    rng = np.random.default_rng(1)
    x, upstream = (rng.standard_normal((3, 5, 7)).astype("float32") for _ in range(2))

    def results(compiled):
        layer = make(0.3, seed=1)
        layer.build(x.shape)
        call = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
        if compiled:
            torch._dynamo.reset()
        return [value_and_gradient(lambda x: call(x, training=True), x, upstream) for _ in range(2)]

    drawn = [results(compiled) for compiled in (False, True)]
    assert in_use == [name] * 8
    monkeypatch.undo()
    np.testing.assert_array_equal(drawn, [results(False)] * 2)


def test_masks_are_drawn_by_the_kernels(in_use, monkeypatch):
    mask = to_numpy(random.keep_mask(random.key(1), (2, 6, 3), 0.3))
    assert in_use == ["keep"]
    monkeypatch.undo()
    np.testing.assert_array_equal(mask, to_numpy(random.keep_mask(random.key(1), (2, 6, 3), 0.3)))


@pytest.mark.parametrize("function", DRAWING, ids=lambda function: function.__name__)
def test_a_kernel_that_draws_otherwise_is_not_used(function, interpreted):
    loop, device = getattr(interpreted, function.loops["cuda"].__name__), torch.device("cpu")

    def other(*args):
        drawn = loop(*args)
        drawn.view(-1)[-1] += 1
        return drawn

    def broken(*args):
        raise FileNotFoundError("no C compiler")

    right = compilation._is_right_on.__wrapped__
    assert right(device, function.__wrapped__, loop)
    with pytest.warns(UserWarning, match="on cpu instead of the loop `other`.*: it does not draw what they draw"):
        assert not right(device, function.__wrapped__, other)
    with pytest.warns(UserWarning, match="on cpu instead of the loop `broken`.*: FileNotFoundError: no C compiler"):
        assert not right(device, function.__wrapped__, broken)


def test_without_a_kernel_that_is_right_the_operations_run(monkeypatch):
    def wrong(first, *args):
        return torch.zeros_like(first)

    key, threshold, x = key_of(1, 2), torch.tensor(19661, dtype=torch.int32), torch.ones(100)
    rate = torch.tensor(0.5)
    expected = bits._keep(key, threshold, 3, 5), multiply.drop(x, key, rate, True)
    monkeypatch.setattr(compilation, "TRIED_LOOPS", ())
    for function in (bits._keep, multiply.drop):
        monkeypatch.setitem(function.loops, "cpu", wrong)
    # Once for each of the two.
    with torch.no_grad(), pytest.warns(UserWarning, match="instead of the loop `wrong`") as warned:
        for _ in range(2):
            assert same(bits._keep(key, threshold, 3, 5), expected[0])
            assert same(multiply.drop(x, key, rate, True), expected[1])
    assert len(warned) == 2


POINTERS = {"key": "*i32", "threshold": "*i32", "kept": "*i32"}
TARGETS = [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]


@pytest.mark.parametrize("name", [*KERNELS, *(f"_{name}" for name in PRODUCTS)])
def test_kernels_compile_without_spills(name, tmp_path, monkeypatch):
    from triton.backends.compiler import GPUTarget

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = loaded()
    kernel = getattr(module, name)
    names = kernel.arg_names
    dtypes = ("fp32", "bf16", "fp32") if "inputs" in names else ("u8" if name == "_rare" else "fp32",) * 2
    # Triton takes a 1 among the sizes for a constant.
    large, small = {"WIDTH": 256, "RESCALE": True}, {"WIDTH": 1, "RESCALE": False, "blocks": 1, "size": 1}
    for dtype, constants in zip(dtypes, [large] * (len(dtypes) - 1) + [small], strict=True):
        pointers = {**POINTERS, **dict.fromkeys(("inputs", "product", "drawn"), f"*{dtype}")}
        sizes = dict.fromkeys(("size", "samples", "blocks", "across"), "i32")
        constexprs = {n: "constexpr" for n in constants}
        signature = {n: {**sizes, **pointers, **constexprs}.get(n, "*fp32") for n in names}
        # As they are for many tensors.
        any_number = {*constants, "samples", "across"}
        even = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in any_number}
        values = {(i,): constants[n] for i, n in enumerate(names) if n in constants}
        source = triton.compiler.ASTSource(kernel, signature, values, even)
        for target in TARGETS:
            compiled = triton.compile(source, target=GPUTarget(*target), options=module.OPTIONS)
            if target[0] == "hip":
                program = compiled.asm["amdgcn"]
                kept = re.findall(r"\.(?:\w+_spill_count|private_segment_fixed_size): +(\d+)", program)
                assert kept == ["0"] * 3
            else:
                program = compiled.asm["ptx"]
                binary = tmp_path / "program"
                binary.write_bytes(compiled.asm["cubin"])
                tool = triton.knobs.nvidia.cuobjdump.path
                usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
                assert re.search(r"STACK:0 SHARED:\d+ LOCAL:0 ", usage), usage
                # All is rounded as elsewhere: products before they are added to, quotients, and the narrow type.
                assert not re.search(r"fma|ftz|approx|div\.full", program)
                assert dtype != "bf16" or "cvt.rn.bf16" in program
            # Each rotation of 32 bits is one instruction, for which some have two names.
            assert len(re.findall(r"shf\.l\.wrap|v_alignbit", program)) >= 19
