"""A figure's target; the packages compared with; programs compiled for a chip that is not there."""

import importlib.util

import cases
import command
import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxscape as js
from experiments.benchmark.__main__ import main, missed
from experiments.benchmark.hlo import Text


@pytest.mark.parametrize(
    ("values", "target", "word"),
    [
        ([0.8, 0.9, 0.84], ">= 0.85", ", missed"),
        ([0.8, 0.9, 0.86], ">= 0.85", ""),
        ([29.0], "<= 30", ""),
        ([31.0, 33.0, 20.0], "<= 30", ", missed"),
        ([5.0], "", ""),
    ],
)
def test_a_missed_target_is_marked_by_the_median(values, target, word):
    assert missed(values, target) == word


@pytest.mark.parametrize("name", ["eigenpairs", "curvlinops", "hessian_eigenthings"])
def test_eigenpairs_of_other_packages_are_those_of_the_same_hessian(name):
    pytest.importorskip("torch")
    if name != "eigenpairs":
        pytest.importorskip(name)
    from experiments.benchmark.pytorch import Rival

    layers, data = cases.mlp_problem()
    params = {f"Dense_{i}": {"kernel": w, "bias": b} for i, (w, b) in enumerate(layers)}

    def loss(params, batch):
        layers = [(params[name]["kernel"], params[name]["bias"]) for name in sorted(params)]
        return cases.mlp_loss(layers, batch)

    values, vectors = getattr(Rival(params, data, 40), name)(4, 1e-4)  # the last chunk has 21
    ours = js.top_eigenpairs(
        jax.random.key(0), js.hessian_operator(loss, params, data), params, 4, find_repeated=False
    )
    np.testing.assert_allclose(values, ours.values, rtol=1e-3)

    flat, unravel = ravel_pytree(params)
    dense = jax.hessian(lambda w: loss(unravel(w), data).mean())(flat)
    dense = np.asarray(dense, np.float64)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(dense)[:-5:-1], rtol=1e-3)
    gaps = np.linalg.norm(vectors @ dense - values[:, None] * vectors, axis=1)
    assert (gaps < 2e-4 * values).all()  # rows are in the order of the parameters
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)


PROGRAM = """\
HloModule jit_f
%body (p: (s32[], f32[60,4])) -> (s32[], f32[60,4]) {
  %p = (s32[]{:T(128)}, f32[60,4]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[60,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %some = f32[6,4]{1,0:T(8,128)S(1)} fusion(%x, %i), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"10"}
  ROOT %t = (s32[]{:T(128)}, f32[60,4]{1,0:T(8,128)}) tuple(%i, %x)
}

%inner (a: f32[60,4], b: s32[]) -> f32[6,4] {
  %a = f32[60,4]{1,0:T(8,128)} parameter(0)
  %b = s32[]{:T(128)S(6)} parameter(1)
  ROOT %cut = f32[6,4]{1,0:T(8,128)} dynamic-slice(%a, %b, %b), dynamic_slice_sizes={6,4}
}

%until (q: (s32[], f32[60,4])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[60,4]{1,0:T(8,128)}) parameter(0)
  %end = s32[]{:T(128)} constant(7)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %end), direction=LT
}

ENTRY %main (x: (s32[], f32[60,4]), y: f32[4,5]) -> f32[60,5] {
  %x.1 = (s32[]{:T(128)}, f32[60,4]{1,0:T(8,128)}) parameter(0)
  %y = f32[4,5]{1,0:T(8,128)} parameter(1)
  %loop = (s32[]{:T(128)}, f32[60,4]{1,0:T(8,128)}) while(%x.1), condition=%until, body=%body
  %z = f32[60,4]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  %all = f32[60,4]{1,0:T(8,128)} all-reduce(%z), replica_groups={}, to_apply=%add
  ROOT %out = f32[60,5]{1,0:T(8,128)} convolution(%all, %y), dim_labels=bf_io->bf, backend_config={"estimated_cycles":"100"}
}
"""  # noqa: E501


@pytest.mark.parametrize("counted", [True, False])
def test_what_a_program_text_says(counted):
    text = (
        PROGRAM
        if counted
        else PROGRAM.replace("s32[]{:T(128)} constant(7)", "s32[]{:T(128)} copy(%q)")
    )
    found = Text(text)
    kernels = 2 if counted else 3  # a fusion, a product; a copy
    cycles, runs, _ = found.totals(() if counted else (7,))
    assert cycles == 7 * 10 + 100
    assert runs == 7 + 1
    assert found.totals(None)[0] == 10 + 100
    assert found.precisions() == {"default": 1}
    assert found.kernels() == (kernels, 1)
    told = PROGRAM.replace("->bf,", "->bf, operand_precision={highest,highest},")
    assert Text(told).precisions() == {"highest": 1}


def test_bytes_of_a_part_are_those_of_the_part():
    """A round of the loop reads and writes 6 rows of 60, and reads an index."""
    cut, product = 2 * 6 * 4 * 4 + 4, (60 * 4 + 4 * 5 + 60 * 5) * 4
    assert Text(PROGRAM).totals()[2] == 7 * cut + product


BRANCHES = """\
%inner (t: f32[4]) -> f32[4] {
  %t = f32[4]{0} parameter(0)
  ROOT %less = f32[4]{0} negate(%t)
}

%one (u: f32[4]) -> f32[4] {
  %u = f32[4]{0} parameter(0)
  ROOT %few = f32[4]{0} fusion(%u), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"10"}
}

%other (v: f32[4]) -> f32[4] {
  %v = f32[4]{0} parameter(0)
  %twice = f32[4]{0} copy(%v)
  ROOT %many = f32[4]{0} fusion(%twice), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"30"}
}

ENTRY %main (w: s32[], x: f32[4]) -> f32[4] {
  ROOT %either = f32[4]{0} conditional(%w, %x, %x), branch_computations={%one, %other}
}
"""  # noqa: E501


def test_of_branches_the_longer_counts():
    np.testing.assert_array_equal(Text(BRANCHES).totals(), [30, 2, 2 * 2 * 4 * 4])


OF_A_GPU = """\
%body (p: (s32[], f32[60,4], f32[4,5], f32[60,5])) -> (s32[], f32[60,4], f32[4,5], f32[60,5]) {
  %p = (s32[], f32[60,4]{1,0}, f32[4,5]{1,0}, f32[60,5]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[60,4]{1,0} get-tuple-element(%p), index=1
  %y = f32[4,5]{1,0} get-tuple-element(%p), index=2
  %z = f32[60,5]{1,0} get-tuple-element(%p), index=3
  %some = f32[6,4]{1,0} fusion(%x, %i), kind=kLoop, calls=%cut, backend_config={"reification_cost":[{"end_to_end_cycles":12.5,"exec_time_us":0.5,"name":""},{"end_to_end_cycles":0,"exec_time_us":0.4,"name":"sol"}]}
  %both = (f32[6,5]{1,0}, s8[4194304]{0}) custom-call(%some, %y), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"precision_config":{"operand_precision":["HIGHEST","HIGHEST"],"algorithm":"ALG_UNSET"}},"reification_cost":[]}
  %own = f32[6,5]{1,0} get-tuple-element(%both), index=0
  %all = f32[60,5]{1,0} fusion(%z, %own, %i), kind=kLoop, calls=%put, backend_config={"reification_cost":[{"end_to_end_cycles":2,"name":""}]}
  ROOT %t = (s32[], f32[60,4]{1,0}, f32[4,5]{1,0}, f32[60,5]{1,0}) tuple(%i, %x, %y, %all)
}

%cut (a: f32[60,4], b: s32[]) -> f32[6,4] {
  %a = f32[60,4]{1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %rows = f32[6,4]{1,0} dynamic-slice(%a, %b, %b), dynamic_slice_sizes={6,4}
}

%put (c: f32[60,5], d: f32[6,5], e: s32[]) -> f32[60,5] {
  %c = f32[60,5]{1,0} parameter(0)
  %d = f32[6,5]{1,0} parameter(1)
  %e = s32[] parameter(2)
  ROOT %new = f32[60,5]{1,0} dynamic-update-slice(%c, %d, %e, %e)
}

%until (q: (s32[], f32[60,4], f32[4,5], f32[60,5])) -> pred[] {
  %q = (s32[], f32[60,4]{1,0}, f32[4,5]{1,0}, f32[60,5]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] fusion(%j), kind=kLoop, calls=%compare
}

ENTRY %main (r: (s32[], f32[60,4], f32[4,5], f32[60,5])) -> f32[6,5] {
  %r = (s32[], f32[60,4]{1,0}, f32[4,5]{1,0}, f32[60,5]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[60,4]{1,0}, f32[4,5]{1,0}, f32[60,5]{1,0}) while(%r), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"10"}}
}
"""  # noqa: E501


def test_what_the_text_of_a_gpu_says():
    """Ten rounds: rows cut out, a product by cuBLAS with working memory, rows written in place."""
    cycles, runs, moved = Text(OF_A_GPU).totals()
    assert cycles == 10 * (12.5 + 2)  # of XLA's own kernels, by the first of its models
    assert runs == 10 * 3
    cut, product, put = 2 * 6 * 4 + 1, 6 * 4 + 4 * 5 + 6 * 5, 2 * 6 * 5 + 1
    assert moved == 10 * 4 * (cut + product + put)


@pytest.mark.parametrize(
    ("old", "new", "precision"),
    [
        ("HIGHEST", "HIGHEST", "highest"),
        ("HIGHEST", "DEFAULT", "default"),
        ("ALG_UNSET", "ALG_DOT_TF32_TF32_F32", "default"),
        ("__cublas$gemm", "__cublas$lt$matmul", "highest"),
        ('"__cublas$gemm"', '"__cudnn$convForward", operand_precision={high,high}', "high"),
        ("operand_precision", "nothing", "default"),
    ],
)
def test_the_precision_of_a_library_of_a_gpu(old, new, precision):
    assert Text(OF_A_GPU.replace(old, new)).precisions() == {precision: 1}


def test_a_chip_that_is_not_known(capfd):
    assert main(["--compile-for", "v99"]) == 2
    assert "expected --compile-for among v5e, v6e, h100, found v99" in capfd.readouterr().err


def test_a_gpu_without_its_compiler():
    if importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("it is installed")
    done = command.process("-m", "experiments.benchmark", "--compile-for", "h100")
    assert done.returncode == 2
    assert "install it: pip install -e '.[gpu-check]'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chip", "package", "memory", "rate", "bandwidth"),
    [("v5e", "libtpu", 16, 197e12 / 6, 819e9), ("h100", "jax_cuda12_plugin", 80, 67e12, 3.35e12)],
)
def test_the_main_job_compiles_for_an_accelerator(chip, package, memory, rate, bandwidth):
    pytest.importorskip(package)
    done = command.process(
        "-m", "experiments.benchmark", "--compile-for", chip, "--dataset", "glyphs",
        "--hidden", "64", env=command.as_users_have_it() | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line.split() for line in map(str.strip, done.stdout.splitlines())}
    for name in ("eigenpairs", "sweep, a segment", "quadratic model, a segment", "test loss"):
        assert rows[name][-1] == "highest"
        assert 0 < float(rows[name][-9]) < memory
        assert 0 < float(rows[name][-8]) < 1  # s
    work = 2 * 10_000 * (784 * 64 + 64 * 64 + 64 * 10)
    assert float(rows["test loss"][-7]) == pytest.approx(work / rate, rel=0.01)
    inputs, moved = 4 * 10_000 * 784, float(rows["test loss"][-6]) * bandwidth
    assert inputs < moved < 10 * inputs


FAILING = """\
import jax
import jax.numpy as jnp
from experiments.benchmark import compile_for
from experiments.benchmark.__main__ import main

def programs(problem, config, dim):
    square = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    long = jax.ShapeDtypeStruct((11 * 10**9,), jnp.float32)
    for precision in ("highest", "high", "default"):
        product = lambda x: jnp.matmul(x, x, precision=precision)
        yield compile_for.Program(precision, product, (square,))
    yield compile_for.Program("long", jnp.exp, (long,))

compile_for.programs = programs
raise SystemExit(main(["--compile-for", "h100", "--dataset", "glyphs"]))
"""


@pytest.mark.slow
def test_products_below_float32_and_arrays_that_do_not_fit_fail_on_a_gpu():
    pytest.importorskip("jax_cuda12_plugin")
    done = command.process("-c", FAILING, env=command.as_users_have_it())
    assert done.returncode == 1, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("fails: ")]
    assert failed == [
        "fails: high: high, asked for highest",
        "fails: default: default, asked for highest",
        "fails: long: needs 88.0 GB",
    ]
