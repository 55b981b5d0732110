"""A figure's target; the packages compared with; programs compiled for a chip that is not there."""

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
    assert found.cycles(() if counted else (7,)) == 7 * 10 + 100
    assert found.cycles(None) == 10 + 100
    assert found.precisions() == {"default": 1}
    assert found.kernels() == ((2, 1) if counted else (3, 1))  # a fusion, a product; a copy
    told = PROGRAM.replace("->bf,", "->bf, operand_precision={highest,highest},")
    assert Text(told).precisions() == {"highest": 1}


BRANCHES = """\
%one (u: f32[4]) -> f32[4] {
  ROOT %few = f32[4]{0} fusion(%u), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"10"}
}

%other (v: f32[4]) -> f32[4] {
  ROOT %many = f32[4]{0} fusion(%v), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"30"}
}

ENTRY %main (w: s32[], x: f32[4]) -> f32[4] {
  ROOT %either = f32[4]{0} conditional(%w, %x, %x), branch_computations={%one, %other}
}
"""  # noqa: E501


def test_of_branches_the_longer_counts():
    assert Text(BRANCHES).cycles() == 30


def test_a_chip_that_is_not_known(capfd):
    assert main(["--compile-for", "v99"]) == 2
    assert "expected --compile-for among v5e, v6e, found v99" in capfd.readouterr().err


@pytest.mark.slow
def test_the_main_job_compiles_for_a_tpu():
    pytest.importorskip("libtpu")
    done = command.process(
        "-m", "experiments.benchmark", "--compile-for", "v5e", "--dataset", "glyphs",
        "--hidden", "64", env=command.as_users_have_it() | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line.split() for line in map(str.strip, done.stdout.splitlines())}
    for name in ("eigenpairs", "sweep, a segment", "quadratic model, a segment", "test loss"):
        assert rows[name][-1] == "highest"
        assert 0 < float(rows[name][-9]) < 16  # GB
        assert 0 < float(rows[name][-8]) < 1  # s
