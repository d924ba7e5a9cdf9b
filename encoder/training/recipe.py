"""One recipe, one model: every choice of a pretraining run, read from a TOML file."""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]


class RecipeInvalid(ValueError):
    """A recipe cannot be followed; the message names the file, the key and what is wrong."""


class Part(BaseModel):
    """A table of the recipe: its values are final, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def choices(self) -> str:
        """The values that are not the defaults, as JSON: what hashes are made of."""
        return self.model_dump_json(exclude_defaults=True)


class Shape(Part):
    """The encoder, in ModernBERT's layout with global attention in every layer."""

    width: PositiveInt = 256
    layers: PositiveInt = 6
    heads: PositiveInt = 4
    inner_width: PositiveInt = 512  # of each half of the GeGLU
    tokens_max: PositiveInt = 512
    rope_theta: PositiveFloat = 10_000.0


class Vocabulary(Part):
    """How the tokenizer is trained."""

    size: Annotated[int, Field(ge=512, le=65_536)] = 16_384  # token ids are stored in 16 bits
    sample_bytes: PositiveInt = 60_000_000
    # What the languages get of the sample; a language that is not named gets what it has.
    languages: dict[str, PositiveFloat] = {}
    pair_share: Share = 0.25  # of the sample, from translations: everyday words live there


class Source(Part):
    """One file of text, or of translation pairs (TSV)."""

    path: str  # below the folder of text
    language: str = ""  # of a pair: "en-de"
    weight: PositiveFloat = 1.0  # how often its tokens are read, against a source of weight 1
    columns: tuple[int, int] | None = None  # which two columns of a TSV


class Aligned(Part):
    """Two files whose lines are translations of one another."""

    paths: tuple[str, str]
    language: str = ""
    weight: PositiveFloat = 1.0


class Evaluation(Part):
    """Files that must not be trained on, and how a training line is recognised as one of theirs."""

    paths: tuple[str, ...]  # globs below the folder of text
    ngram_words: Annotated[int, Field(ge=0, le=64)] = 0  # 0: only whole lines are compared
    format: Literal["lines", "tsv", "jsonl", "wsd"] = "lines"
    columns: tuple[int, ...] | None = None  # of a TSV; all of them unless given


class Text(Part):
    """What becomes of the text before it is packed into rows."""

    lower_cased_share: Share = 0.12  # of the documents, copied in lower case
    pair_share: Share = 0.12  # of the rows
    held_out_every: Annotated[int, Field(ge=2)] = (
        400  # passages; one of so many is never trained on
    )


class Masking(Part):
    """Which tokens are hidden (Devlin et al. 2018; Wettig et al. 2023 for the high first rate)."""

    rate_first: Annotated[float, Field(gt=0, lt=1)] = 0.30
    rate_last: Annotated[float, Field(gt=0, lt=1)] = 0.15
    whole_word_share: Share = 0.5  # of the rows
    keep_share: Share = 0.1  # of the hidden tokens, left as they are
    random_share: Share = 0.1  # of the hidden tokens, replaced by any other


class Reconstruction(Part):
    """RetroMAE's second task (Xiao et al. 2022), in the last part of the run."""

    share: Share = 0.3  # of the run, its end; 0 leaves the task out
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.6
    predict_rate: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of a row's tokens: the head is dear
    weight: NonNegativeFloat = 0.5  # of its loss beside the masked-LM loss


class Optimizer(Part):
    """Muon (Jordan et al. 2024) for the matrices of the layers and AdamW for the rest, or AdamW."""

    name: Literal["muon", "adamw"] = "muon"
    rate: PositiveFloat = 3e-3
    matrix_rate: PositiveFloat = 3e-3  # Muon's, scaled to match the size of AdamW's steps
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat = 1.0
    warm_up_share: Share = 0.02
    decay_share: Share = 0.25
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # of the averaged weights


class Stage(Part):
    """A part of the run with rows of one length and steps of one size."""

    row_tokens: Annotated[int, Field(ge=16, le=8192)]
    step_rows: PositiveInt
    tokens: PositiveInt  # the stage ends with the first step that reaches them

    @property
    def steps(self) -> int:
        """How many steps the stage has, at least one."""
        return -(-self.tokens // (self.row_tokens * self.step_rows))


class Sentences(Part):
    """How the pretrained encoder learns sentence vectors from a teacher's, in `finetune`.

    A step has pairs of one kind: translations, English texts that belong together, or lines
    beside a lower-cased copy.
    """

    width: PositiveInt = 384  # of the vector; the teacher's
    dimensions: tuple[PositiveInt, ...] = (384, 256, 128, 64)  # that a vector may be cut to
    steps: PositiveInt = 8000
    step_pairs: Annotated[int, Field(ge=2)] = 64
    step_tokens: NonNegativeInt = 0  # above 0: a step has about so many, and not `step_pairs`
    micro_tokens: PositiveInt = 4096  # padded, in one pass through the model
    text_tokens_max: PositiveInt = 96  # longer texts are cut
    teacher_tokens_max: PositiveInt | None = None  # as `text_tokens_max` unless given
    optimizer: Literal["adamw", "muon"] = "adamw"
    rate: PositiveFloat = 5e-4
    matrix_rate: PositiveFloat = 1e-3  # Muon's
    warm_up_share: Share = 0.05
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    temperature: PositiveFloat = 0.05  # of similarities
    cosine_weight: NonNegativeFloat = 1.0
    similarity_weight: NonNegativeFloat = 1.0
    contrast_weight: NonNegativeFloat = 0.5
    word_weight: NonNegativeFloat = 0.0  # of the distance from the teacher's vectors of words
    contrast_same_above: PositiveFloat = 2.0  # no negatives: texts whose teacher's cosine is above
    file_pairs_max: PositiveInt = 100_000  # of one file, spread over it
    translation_share: Share = 0.5
    pair_share: Share = 0.2  # the rest of the steps has lines
    pairs: tuple[Source, ...] = ()  # English texts that belong together; language "en-en"
    lines_max: PositiveInt = 200_000
    line_characters: tuple[PositiveInt, PositiveInt] = (20, 400)  # neither heading nor chapter
    sentence_share: Share = 0.0  # of the lines, of which one sentence alone is taken
    masked_share: Share = 0.0  # of the steps, which guess hidden tokens of the text beside
    masked_weight: NonNegativeFloat = 0.5  # of that loss
    masked_rows: PositiveInt = 32
    masked_row_tokens: Annotated[int, Field(ge=16)] = 128


class TranslationPairs(Source):
    """A TSV of translations. weight: how often its pairs are read, against one of weight 1."""

    group: str = ""  # by whose name a stage weighs it; empty: the file's folder


class TranslationAligned(Aligned):
    """Two aligned files of translations."""

    group: str = ""


class TranslationStage(Part):
    """A part of the translator's training, with a warm-up and a fall of the rate of its own."""

    steps: PositiveInt
    rate: PositiveFloat = 1e-3  # AdamW's, of the decoder; and of its tables
    matrix_rate: PositiveFloat = 2e-3  # Muon's, of the decoder
    encoder_share: Share = 0.0  # of those rates, for the encoder's own layers; 0 freezes them
    warm_up_share: Share = 0.05
    decay_share: Share = 0.5
    rate_last: Share = 0.0  # of the rate, at the stage's end
    weights: dict[str, NonNegativeFloat] = {}  # by group, times those of its files; otherwise 1


class Translation(Part):
    """How the encoder is taught to translate, in `train-translation`: every pair both ways."""

    layers: PositiveInt = 2  # of the decoder
    inner_width: PositiveInt = 512
    heads: PositiveInt = 4
    own_layers: NonNegativeInt = 2  # copies of the encoder's last; all of them: its tables too
    own_table: bool = True  # for the decoder; False: the encoder's, which then stays as it is
    tokens_max: PositiveInt = 96  # of a text, in training; longer pairs are left out
    decoder_tokens_max: PositiveInt = 512
    step_tokens: PositiveInt = 8192  # of sources and targets together, padding counted
    micro_tokens: PositiveInt = 8192  # padded, in one pass through the model; sets peak memory
    label_smoothing: Share = 0.1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    merge_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # BPE-dropout (Provilkov et al. 2020)
    optimizer: Literal["muon", "adamw"] = "muon"
    weight_decay: NonNegativeFloat = 0.01
    clip_norm: PositiveFloat = 1.0
    average_share: Share = 0.1  # of the last stage, its end, whose weights are averaged
    stages: tuple[TranslationStage, ...] = (TranslationStage(steps=4000),)
    pairs: tuple[TranslationPairs, ...] = ()
    aligned: tuple[TranslationAligned, ...] = ()
    joined: tuple[str, ...] = ()  # groups whose en-de and en-fr with one English text give de-fr

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return sum(stage.steps for stage in self.stages)


class Recipe(Part):
    """Everything that decides the weights of a run, given the text.

    Without sources, every .txt, .txt.xz, .tsv and .tsv.xz below the folder of text is one.
    """

    name: str = "model"
    seed: int = 1
    model: Shape = Shape()
    vocabulary: Vocabulary = Vocabulary()
    text: Text = Text()
    masking: Masking = Masking()
    reconstruction: Reconstruction = Reconstruction()
    optimizer: Optimizer = Optimizer()
    stages: tuple[Stage, ...] = (
        Stage(row_tokens=64, step_rows=128, tokens=60_000_000),
        Stage(row_tokens=128, step_rows=128, tokens=90_000_000),
        Stage(row_tokens=256, step_rows=96, tokens=50_000_000),
    )
    micro_tokens: PositiveInt = 8192  # in one pass through the model; sets peak memory
    epochs_max: PositiveFloat = 20.0  # a small text shortens the run to so many readings of it
    sources: tuple[Source, ...] = ()
    pairs: tuple[Source, ...] = ()
    aligned: tuple[Aligned, ...] = ()
    evaluation: tuple[Evaluation, ...] = ()
    sentences: Sentences = Sentences()  # a stage of its own: no part of the pretraining's hash
    translation: Translation = Translation()  # the same

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if not self.stages:
            raise ValueError("stages: a run needs at least one")
        for stage in self.stages:
            if stage.row_tokens > self.model.tokens_max:
                raise ValueError(
                    f"stages: rows of {stage.row_tokens} tokens do not fit a model of "
                    f"tokens_max {self.model.tokens_max}"
                )
            if stage.row_tokens > self.micro_tokens:
                raise ValueError(
                    f"micro_tokens {self.micro_tokens} is less than a row of {stage.row_tokens}"
                )
        return self

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return sum(stage.steps for stage in self.stages)

    @property
    def tokens(self) -> int:
        """Of the whole run, padding-free."""
        return sum(stage.steps * stage.step_rows * stage.row_tokens for stage in self.stages)

    @property
    def sha256(self) -> str:
        """Of every value that is not the default: two recipes with one hash give one model.

        So a key that is added later leaves the hash of older runs alone, and they can be
        resumed; in return a default, once published, is never changed.
        """
        later = {"sentences": Sentences(), "translation": Translation()}
        pretraining = self.model_copy(update=later)
        return hashlib.sha256(pretraining.choices().encode()).hexdigest()

    def with_tokens(self, tokens: int) -> "Recipe":
        """The same run with each stage shortened or lengthened to `tokens` in all."""
        share = tokens / sum(stage.tokens for stage in self.stages)
        stages = tuple(
            stage.model_copy(update={"tokens": max(1, round(stage.tokens * share))})
            for stage in self.stages
        )
        return self.model_copy(update={"stages": stages})


def load_recipe(file: Path) -> Recipe:
    """Read a recipe. Raises RecipeInvalid for a file that is missing, not TOML, or wrong."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeInvalid(f"recipe {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeInvalid(f"recipe {file} is not TOML: {error}") from None
    return recipe_from(content, name=str(file))


def recipe_from(content: dict[str, Any], *, name: str) -> Recipe:
    """Check the tables of a recipe. Raises RecipeInvalid; `name` is for its message."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_problem(dict(item)) for item in error.errors())
        raise RecipeInvalid(f"recipe {name}: {problems}") from None


def _problem(error: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {place!r}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
