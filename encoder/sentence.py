"""The sentence-transformers side of a model directory: pooling, projection, length, prompts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encoder.config import Pooling, UnsupportedModel

# The names that sentence-transformers gives to the three poolings we have, old and new.
_POOLINGS = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "mean": Pooling.MEAN,
    "cls": Pooling.CLS,
    "max": Pooling.MAX,
}
_IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceSettings:
    """How token states become a sentence's vector, and what is written before a text."""

    pooling: Pooling = Pooling.MEAN
    normalized: bool = True
    projection: str = ""  # the folder of a linear layer after pooling; empty for none
    tokens_max: int | None = None  # None: as many as there are positions
    prompts: Mapping[str, str] = field(default_factory=dict)


def read_sentence_settings(directory: Path) -> SentenceSettings:
    """Read `modules.json` and what it names; without one, mean pooling of length 1.

    Raises UnsupportedModel for a module, pooling or activation that is missing here.
    """
    prompts = _json(directory / "config_sentence_transformers.json").get("prompts") or {}
    tokens_max = _json(directory / "sentence_bert_config.json").get("max_seq_length")
    prompts = {name: text for name, text in prompts.items() if text}
    if not (directory / "modules.json").is_file():
        return SentenceSettings(tokens_max=tokens_max, prompts=prompts)
    pooling, projection, normalized = Pooling.MEAN, "", False
    for module in json.loads((directory / "modules.json").read_text("utf-8")):
        kind, folder = module["type"].rsplit(".", 1)[-1], module["path"]
        match kind:
            case "Transformer":
                if folder:
                    raise UnsupportedModel(f"a transformer in a folder ({folder}) is missing here")
            case "Pooling":
                pooling = _pooling(_json(directory / folder / "config.json"))
            case "Dense":
                _check_projection(_json(directory / folder / "config.json"), projection)
                projection = folder
            case "Normalize":
                normalized = True
            case _:
                raise UnsupportedModel(f"sentence-transformers' module {kind} is missing here")
    return SentenceSettings(
        pooling=pooling,
        normalized=normalized,
        projection=projection,
        tokens_max=tokens_max,
        prompts=prompts,
    )


def write_sentence_settings(
    directory: Path,
    settings: SentenceSettings,
    *,
    width: int,
    projected_width: int,
    projection_bias: bool,
) -> None:
    """Write the files with which sentence-transformers loads the same sentence encoder.

    The projection's weights are the caller's to write; `settings.projection` says where.
    """
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    _write(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            **{
                name: pooling is settings.pooling
                for name, pooling in _POOLINGS.items()
                if name.startswith("pooling_mode")
            },
        },
    )
    if settings.projection:
        modules.append(("Dense", settings.projection))
        _write(
            directory / settings.projection / "config.json",
            {
                "in_features": width,
                "out_features": projected_width,
                "bias": projection_bias,
                "activation_function": _IDENTITY,
            },
        )
    if settings.normalized:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    _write(directory / "modules.json", listing)
    if settings.tokens_max:
        limits = {"max_seq_length": settings.tokens_max, "do_lower_case": False}
        _write(directory / "sentence_bert_config.json", limits)
    _write(directory / "config_sentence_transformers.json", {"prompts": dict(settings.prompts)})


def _pooling(config: Mapping[str, Any]) -> Pooling:
    if not config.get("include_prompt", True):
        raise UnsupportedModel("pooling without the prompt's tokens is missing here")
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    named = config.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UnsupportedModel(
            f"pooling by {' and '.join(map(str, modes)) or 'nothing'} is missing here; "
            "mean, cls and max are there"
        )
    return _POOLINGS[modes[0]]


def _check_projection(config: Mapping[str, Any], earlier: str) -> None:
    if earlier:
        raise UnsupportedModel("a second linear layer after pooling is missing here")
    activation = config.get("activation_function", "")
    if not activation.endswith(".Identity"):
        raise UnsupportedModel(
            f"a projection with an activation is missing here: {activation or 'Tanh'}"
        )
    if config.get("use_residual"):
        raise UnsupportedModel("a projection with a residual is missing here")


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_text("utf-8"))
    return content if isinstance(content, dict) else {}


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
