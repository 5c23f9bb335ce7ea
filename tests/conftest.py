"""Fixtures for tests that train: a small corpus and small runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings

from experiments.corpus.batches import TokenBatches
from experiments.corpus.build import build
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile

settings.register_profile("untimed", deadline=None)  # a slow machine must not fail a test
settings.load_profile("untimed")

# One thread, as in runs of the pipeline. This also keeps tests fast on a busy machine.
torch.set_num_threads(1)

TEXT = "\n".join(
    f"The {size} {animal} {verb} over {count} {color} hills, and then it {verb} back again."
    for count in range(3, 40)
    for size in ("large", "small", "quick")
    for animal, verb in (("fox", "jumps"), ("dog", "runs"), ("crow", "flies"), ("cat", "walks"))
    for color in ("green", "brown", "blue")
)


def profile_values(text_file, **training):
    """Return the values of a profile of tiny runs on a text file, as read from YAML."""
    return {
        "dataset": "tiny",
        "training": {
            "steps": 12,
            "batch_size": 4,
            "context": 16,
            "lr": 1e-2,
            "warmup_steps": 3,
            "val_every": 4,
            "val_sequences": 6,
        }
        | training,
        "experiments": {
            "comparison": {
                "models": ["tiny"],
                "optimizers": ["adamw", "powerstep-int8"],
                "seeds": [0, 1],
            }
        },
        "models": {
            "tiny": {
                "family": "gpt2",
                "layers": 1,
                "width": 16,
                "heads": 2,
                "context": 16,
                "vocab_size": 300,
            }
        },
        "datasets": {"tiny": {"kind": "text", "files": [str(text_file)], "vocab_size": 300}},
    }


def all_tokens(stream):
    """Return every token of the training or the validation part of a corpus."""
    return stream.windows(np.array([0]), len(stream))[0]


def train_until_power_cut(spec, corpus, folder):
    """Train a run for nine steps, then simulate a power cut."""
    from experiments.training.train import train  # here, because other tests need no Lightning

    whole_batch = TokenBatches.train

    def power_cut(self, seed, step, batch_size):
        if step == 9:
            raise RuntimeError("power cut")
        return whole_batch(self, seed, step, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenBatches, "train", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(spec, corpus, folder)


def write_profile(path: Path, values) -> Path:
    text = yaml.safe_dump(json.loads(json.dumps(values)), allow_unicode=True)  # without aliases
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "hills.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def tiny_plan(tmp_path, text_file):
    """Return a function that plans a tiny profile; keywords override its training settings."""

    def make(**training):
        path = write_profile(tmp_path / "tiny.yaml", profile_values(text_file, **training))
        return plan(load_profile(str(path)))

    return make


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory, text_file):
    """Return the folder of the tokenised text file."""
    folder = tmp_path_factory.mktemp("corpus")
    profile = write_profile(folder / "tiny.yaml", profile_values(text_file))
    corpus = plan(load_profile(str(profile)))[0].spec.corpus
    build(corpus.name, corpus.settings, folder)
    return folder
