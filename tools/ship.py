"""Put a trained checkpoint into the library: `python -m tools.ship RUN [RUN ...]`.

Each is measured anew on the test settings of its recipe, in the modes of benchmarks.accuracy, and lands in
`src/quickstudy/recipes/shipped/` under the name of its recipe with these figures in its manifest, and they go
into the results as well. Weights are rounded to float16 first; --full keeps them as they are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import accuracy
from benchmarks.rows import read, write
from quickstudy.core import checkpoint
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.recipes import weights as recipes_weights

MODELS = Path(recipes_weights.__file__).parent / "shipped"
LARGEST = 5_000_000
"""Bytes of a model: shipped models come with every installation."""


def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trainings, or checkpoint files.")],
    episodes: Annotated[int, typer.Option(help="Test tasks a setting and mode.")] = 1000,
    full: Annotated[bool, typer.Option("--full", help="Ship the weights in float32, not float16.")] = False,
) -> None:
    """Measure and ship."""
    keep_freed_memory()
    for run in runs:
        learner, manifest = recipes_weights.load_learner(run)
        if manifest.get("trainval"):
            raise SystemExit(f"{run} was trained with trainval, which is for figures of a test")
        weights = learner.state_dict()
        if not full:  # rounded before it is measured
            weights = {k: w.half() if w.is_floating_point() else w for k, w in weights.items()}
            if huge := [k for k, w in weights.items() if not w.isfinite().all()]:
                raise SystemExit(
                    f"{run} has weights beyond float16's range in {huge[0]}: ship it with --full"
                )
            checkpoint.load_weights(learner, weights, str(run))
        size = sum(t.numel() * t.element_size() for t in weights.values())
        if size > LARGEST:
            raise SystemExit(f"{run} takes {size} bytes: at most {LARGEST} are shipped")
        scores = accuracy.scores_of(recipes_weights.recipe_of(manifest), learner, episodes)
        manifest["figures"] = [score.as_dict() for score in scores]
        manifest["data_root"] = None  # a folder of this machine
        if notice := recipes_weights.notice(manifest):
            manifest["notice"] = notice
        path = MODELS / f"{manifest['recipe']}.safetensors"
        checkpoint.save(path, weights, manifest)
        again = f"python -m benchmarks.accuracy --models {path.stem} --episodes {episodes}"
        rows = [replace(row, command=again) for row in accuracy.rows_of(path.stem, manifest, scores)]
        write("accuracy", accuracy.merged(read("accuracy"), rows, recipes_weights.models()))
        print(f"{path.name}: {'; '.join(map(str, scores))}")


if __name__ == "__main__":
    typer.run(main)
