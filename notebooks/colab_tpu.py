# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     provenance: []
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: colab,accelerator
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The whole run on a TPU, in Colab
#
# One command trains a network on 60,000 digits, follows its loss landscape through every prefix
# length $k$, sets the quadratic law beside it, and writes a report.
#
# 1. [Open Colab](https://colab.research.google.com), *File → Upload notebook*, choose this file.
# 2. *Runtime → Change runtime type*, and pick a TPU.
# 3. Set `REPOSITORY` below to the address of your copy of jaxscape. Or upload a zip of it in the
#    file pane, unpack it (`!unzip -q FILE.zip`), and rename the folder inside it to `checkout`.
# 4. *Runtime → Run all*.
#
# The first run compiles its programs, for a minute or two of a CPU core. A second run in the
# same session reads the programs from disk; change `OUT` for it. It takes about ten seconds of the
# host and, by the compiler's estimate, one of the TPU. Training multiplies at the TPU's default
# precision, so it finds another network than a CPU would.
#
# On a machine of your own, with jaxscape installed from a checkout, it runs as it is: on whatever
# device JAX finds.

# %% tags=["parameters"]
REPOSITORY = ""  # what `git clone` takes; not needed where jaxscape is installed already
FLAGS = "--k-max 60000"
OUT = "runs/colab"

# %%
import base64
import html
import importlib.util
import io
import json
import re
from pathlib import Path

import PIL.Image
from IPython.display import HTML, Image

# %% [markdown]
# ## Install
#
# A fresh Colab session has no jaxscape. Where it is installed already, this cell does nothing.

# %%
installed = importlib.util.find_spec("experiments") is not None
if not (installed or REPOSITORY or Path("checkout").is_dir()):
    raise SystemExit("set REPOSITORY above, or upload a copy as the folder checkout")
clone = "true" if Path("checkout").is_dir() else f"git clone -q {REPOSITORY} checkout"
install = f"{clone} && pip install -q -e ./checkout 'jax[tpu]'"
install = "echo jaxscape is installed already" if installed else install
# !{install}

# %% [markdown]
# ## Run
#
# A TPU belongs to one process at a time. So this notebook itself never imports JAX, and the command
# finds the device free.

# %%
# !python -m experiments.sweep {FLAGS} --out {OUT}

# %%
run = Path(OUT)
config = json.loads((run / "config.json").read_text())
summary = json.loads((run / "summary.json").read_text())
print("devices:", ", ".join(config["devices"]))
print("seconds:", ", ".join(f"{stage} {s:.0f}" for stage, s in summary["seconds"].items()))

# %% [markdown]
# **The outputs stored here are those of a CPU**, two cores with other work beside it, as no TPU was
# at hand.
#
# **Products in float32.** A TPU multiplies in bfloat16 unless told otherwise, with eight
# significant bits: too few for the difference of two losses. You need not do anything:
# `sweep` takes `--precision`, whose default `highest` computes each product as six in bfloat16,
# which is as good as float32; `high` makes it of three, and `default` takes one, to see the
# difference. Curvature is always at `highest`, and so are the other commands. Training alone is
# left at the device's default, which gives another network, not a wrong curve. In code of your own
# `js.delta(..., precision="highest")` is the default too.
#
# ## Look
#
# The change of the landscape, scaled: its level is what matters, its flatness is algebra.


# %%
def lighter(png):
    """A picture at half its size in 64 colours, so that the notebook stays a small file."""
    small, out = PIL.Image.open(io.BytesIO(png)).convert("RGB").reduce(2).quantize(64), io.BytesIO()
    small.save(out, "png", optimize=True)
    return out.getvalue()


Image(lighter((run / "figures" / "delta_k2.png").read_bytes()))

# %% [markdown]
# K against the tolerance: markers for this order of the samples, lines for the mean over orders.

# %%
Image(lighter((run / "figures" / "sizes.png").read_bytes()))

# %% [markdown]
# The report, one self-contained file. In Colab, *right click → Download* in the file pane takes it
# along, with `results.npz`, the curves of every $k$.


# %%
def picture(match):
    return base64.b64encode(lighter(base64.b64decode(match[0]))).decode()


page = (run / "report.html").read_text(encoding="utf-8")
page = re.sub(r"(?<=data:image/png;base64,)[\w+/=]+", picture, page)
frame = "width:100%; height:800px; border:1px solid #ccc"
# within a div, for IPython warns of a bare iframe, though its own takes no srcdoc
HTML(f'<div><iframe srcdoc="{html.escape(page)}" style="{frame}"></iframe></div>')
