"""Every way in which a run is asked for wrongly in these tests, and the one line that the user is told.

docs/robustness.md quotes some of the messages. {folder} stands for the folder of the case's files: `datasets`,
a data set root with generated scenes, and `run`, the checkpoint of a small model with its config.yaml.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

RECIPE = "configs/quickstart/usg_par_quickstart.yaml"
WEIGHTS = ["MODEL.WEIGHTS", "{folder}/run/model.pth"]


@dataclass(frozen=True)
class BadRun:
    """One mistake.

    Attributes:
        message: exactly what the program says after its name and "error: ".
        overrides: KEY VALUE words of the command line.
        config: content of {folder}/config.yaml, which is then the --config-file, instead of the quickstart's recipe.
        options: further words before the overrides.
        prepare: makes files in the folder.
    """

    message: str
    overrides: list[str] = field(default_factory=list)
    config: str | None = None
    options: list[str] = field(default_factory=list)
    prepare: Callable[[Path], object] = lambda folder: None


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.getcwd, ()


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _damage_weights(folder: Path) -> None:
    whole = (folder / "run" / "model.pth").read_bytes()
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])


def _flip_a_byte(folder: Path) -> None:
    torch.save({"model": {"a": torch.zeros(4096)}}, folder / "flipped.pth")
    content = bytearray((folder / "flipped.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "flipped.pth").write_bytes(content)


def _rename_weights(folder: Path) -> None:
    weights = torch.load(folder / "run" / "model.pth", weights_only=True)["model"]
    renamed = {name.replace("rpc.subject_mlp", "rpc.subjects"): value.contiguous() for name, value in weights.items()}
    (folder / "other").mkdir(exist_ok=True)
    save_file(renamed, folder / "other" / "renamed.safetensors")


def _other_names(folder: Path) -> None:
    content = json.loads((folder / "datasets" / "psg_shapes" / "psg" / "psg.json").read_text())
    (folder / "words.json").write_text(
        json.dumps(
            {
                "thing_classes": ["dragon", *content["thing_classes"][1:]],
                "stuff_classes": content["stuff_classes"],
                "predicate_classes": content["predicate_classes"],
            }
        )
    )


def _used_folder(folder: Path) -> None:
    (folder / "last_checkpoint").unlink(missing_ok=True)  # of another case
    (folder / "losses.jsonl").write_text("{}")


CONFIGURATION = {
    "unknown_key": BadRun(
        "unknown configuration key 'SOLVER.MAX_ITERS'; did you mean SOLVER.MAX_ITER or SOLVER.WARMUP_ITERS?",
        ["SOLVER.MAX_ITERS", "4"],
    ),
    "unknown_key_in_file": BadRun(
        "{folder}/config.yaml: unknown configuration key 'MODEL.USG.HIDEN_DIM'; did you mean MODEL.USG.HIDDEN_DIM or "
        "MODEL.USG.PIXEL_DECODER.FFN_DIM?",
        config="MODEL:\n  USG:\n    HIDEN_DIM: 64\n",
    ),
    "unknown_key_in_base": BadRun(
        "{folder}/base.yaml: unknown configuration key 'SOLVER.BASE_LRR'; did you mean SOLVER.BASE_LR or "
        "SOLVER.BASE_LR_END?",
        config="_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 4\n",
        prepare=_write("base.yaml", "SOLVER:\n  BASE_LRR: 0.1\n"),
    ),
    "no_value": BadRun(
        "SOLVER.MAX_ITER: expected a value after it, as overrides are KEY VALUE or KEY=VALUE; got SOLVER.MAX_ITER",
        ["SOLVER.MAX_ITER"],
    ),
    "wrong_type": BadRun("SOLVER.MAX_ITER: expected a whole number, got 'many'", ["SOLVER.MAX_ITER", "many"]),
    "wrong_type_in_file": BadRun(
        "{folder}/config.yaml: MODEL.CLIP.FREEZE: expected True or False, got 'maybe'",
        config="MODEL:\n  CLIP:\n    FREEZE: maybe\n",
    ),
    "text_for_list": BadRun(
        "DATASETS.TEST: expected a list, such as (1, 2) or ('a',), got 'psg_val', did you mean ('psg_val',)?",
        ["DATASETS.TEST", "psg_val"],
    ),
    "wrong_element": BadRun(
        "MODEL.USG.RELATION_HEAD.FEATURE_LEVELS: expected a whole number at position 1, got 'b'",
        ["MODEL.USG.RELATION_HEAD.FEATURE_LEVELS", "[0, 'b']"],
    ),
    "section": BadRun(
        "MODEL.CLIP is a section of keys and has no value of its own",
        ["MODEL.CLIP", "large"],
    ),
    "broken_yaml": BadRun(
        "{folder}/config.yaml: cannot be read: while parsing a flow node expected the node content, but found '<stream "
        'end>\' in "<unicode string>", line 2, column 1: ^',
        config="MODEL: [1,\n",
    ),
    "repeated_key": BadRun(
        "{folder}/config.yaml: cannot be read: the key 'SOLVER' occurs twice",
        config="SOLVER:\n  MAX_ITER: 4\nSOLVER:\n  BASE_LR: 0.1\n",
    ),
    "no_mapping": BadRun(
        "{folder}/config.yaml: expected configuration keys, got str",
        config="just text\n",
    ),
    "code_in_yaml": BadRun(
        "{folder}/config.yaml: cannot be read: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.getcwd' in \"<unicode string>\", line 1, column 13: OUTPUT_DIR: "
        "!!python/object/apply:os.getcwd [] ^",
        config="OUTPUT_DIR: !!python/object/apply:os.getcwd []\n",
    ),
    "no_base": BadRun(
        "{folder}/config.yaml, _BASE_: there is no file {folder}/absent.yaml",
        config="_BASE_: absent.yaml\n",
    ),
    "base_circle": BadRun(
        "{folder}/config.yaml: its _BASE_ leads back to {folder}/config.yaml",
        config="_BASE_: config.yaml\n",
    ),
    "version": BadRun("{folder}/config.yaml: VERSION: expected 2, got 1", config="VERSION: 1\n"),
    "choice": BadRun(
        "MODEL.USG.MASK_DECODER.LAYER_ORDER: expected 'self_first', 'cross_first', got 'self'",
        ["MODEL.USG.MASK_DECODER.LAYER_ORDER", "self"],
    ),
    "part": BadRun(
        "MODEL.USG.PIXEL_DECODER.NAME: there is no 'PixelDecoder'; did you mean MSDeformAttnPixelDecoder?",
        ["MODEL.USG.PIXEL_DECODER.NAME", "PixelDecoder"],
    ),
    "range": BadRun(
        "SOLVER.BASE_LR: expected a number above 0, got -0.1",
        ["SOLVER.BASE_LR", "-0.1"],
    ),
    "huge": BadRun(
        "SOLVER.MAX_ITER: expected finite numbers, whole ones below 2^31, got 100000000000000000000",
        ["SOLVER.MAX_ITER=100000000000000000000"],
    ),
    "infinite": BadRun(
        "SOLVER.MOMENTUM: expected finite numbers, whole ones below 2^31, got nan",
        config="SOLVER:\n  MOMENTUM: .nan\n",
    ),
    "several": BadRun(
        "INPUT.MIN_SIZE_TEST: expected 1 or more, got 0; TEST.TASK: expected 'sgdet', 'predcls', got 'sgcls'",
        ["TEST.TASK", "sgcls", "INPUT.MIN_SIZE_TEST", "0"],
    ),
    "heads": BadRun(
        "MODEL.USG.RELATION_HEAD.RPC.NUM_HEADS: expected a divisor of MODEL.USG.HIDDEN_DIM 64, got 5",
        ["MODEL.USG.RELATION_HEAD.RPC.NUM_HEADS", "5"],
    ),
    "width": BadRun(
        "MODEL.USG.HIDDEN_DIM: expected a multiple of 8, got 100",
        ["MODEL.USG.HIDDEN_DIM", "100"],
    ),
    "pairs": BadRun(
        "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS: expected 1 to 240 (MODEL.USG.MASK_DECODER.NUM_QUERIES 16 make no more "
        "pairs), got 241",
        ["MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "241"],
    ),
    "levels": BadRun(
        "MODEL.USG.RELATION_HEAD.FEATURE_LEVELS: expected some of 0 (stride 32), 1 (16), 2 (8), got [3]",
        ["MODEL.USG.RELATION_HEAD.FEATURE_LEVELS", "[3]"],
    ),
    "divisibility": BadRun(
        "MODEL.USG.SIZE_DIVISIBILITY: expected -1 or a multiple of 32, got 50",
        ["MODEL.USG.SIZE_DIVISIBILITY", "50"],
    ),
    "batch": BadRun(
        "SOLVER.IMS_PER_BATCH 8: expected a multiple of 3, 1 processes times SOLVER.ACCUMULATION_STEPS 3",
        ["SOLVER.ACCUMULATION_STEPS", "3"],
    ),
    "template": BadRun(
        "MODEL.CLIP.OBJECT_TEMPLATES: expected a prompt with one {{}}, in the name's place, and no other braces, "
        "got 'a photo'",
        ["MODEL.CLIP.OBJECT_TEMPLATES", "['a photo']"],
    ),
    "clip_model": BadRun(
        "MODEL.CLIP.NAME 'convnext_large_d_3200' is not an OpenCLIP model; did you mean convnext_large_d_320?",
        ["MODEL.CLIP.NAME", "convnext_large_d_3200"],
    ),
    "clip_weights": BadRun(
        "MODEL.CLIP.PRETRAINED 'absent.pt' is neither a weight file nor a tag of convnext_large_d_320 (tags: "
        "laion2b_s29b_b131k_ft, laion2b_s29b_b131k_ft_soup); use '' for random weights",
        ["MODEL.CLIP.NAME", "convnext_large_d_320", "MODEL.CLIP.PRETRAINED", "absent.pt"],
    ),
    "device": BadRun("MODEL.DEVICE: expected cuda, cuda:N or cpu, got 'gpu'", ["MODEL.DEVICE", "gpu"]),
    "device_meta": BadRun(
        "MODEL.DEVICE: expected cuda, cuda:N or cpu, got 'meta'",
        ["MODEL.DEVICE=meta"],
    ),
    "imports": BadRun(
        "{folder}/config.yaml: its IMPORTS would run code, and the file is outside the working folder; if you trust "
        "it: --trust-imports, in Python trust_imports=True",
        config="IMPORTS: [my_parts]\n",
    ),
}

SURROUNDINGS = {
    "dataset_name": BadRun(
        "DATASETS.TRAIN: there is no data set 'psg_shape_train'; "
        "did you mean psg_shapes_train or psg_shapes_train_seen?",
        ["DATASETS.TRAIN", "('psg_shape_train',)"],
    ),
    "dataset_file": BadRun(
        "data set 'psg_val': there is no file {folder}/datasets/psg/psg.json (DETECTRON2_DATASETS is "
        "'{folder}/datasets')",
        ["DATASETS.TEST", "('psg_val',)"],
    ),
    "no_dataset": BadRun(
        "DATASETS.TRAIN: expected a data set, such as ('psg_train',), got none",
        ["DATASETS.TRAIN", "()"],
    ),
    "best_metric": BadRun(
        "SOLVER.BEST_METRIC: no evaluation gives 'sgdet/single/R@500' (TEST.TASK sgdet); did you mean "
        "sgdet/single/R@50?; '' keeps no best checkpoint",
        ["SOLVER.BEST_METRIC", "sgdet/single/R@500"],
    ),
    "vocabulary_file": BadRun(
        "there is no vocabulary file {folder}/absent.yaml",
        options=["--vocabulary", "{folder}/absent.yaml"],
    ),
    "vocabulary": BadRun(
        "{folder}/words.json lacks names of the data set 'psg_shapes_train': thing_classes person",
        options=["--vocabulary", "{folder}/words.json"],
        prepare=_other_names,
    ),
    "minutes_of_two_processes": BadRun(
        "--minutes: expected one process, got 2", options=["--num-gpus", "2", "--minutes", "1"]
    ),
    "no_processes": BadRun("--num-gpus: expected 1 or more, got 0", options=["--num-gpus", "0"]),
    "dist_url": BadRun(
        "--dist-url: expected tcp://HOST:PORT, got 'localhost'",
        options=["--num-gpus", "2", "--dist-url", "localhost"],
    ),
    "weights_missing": BadRun(
        "MODEL.WEIGHTS: there is no file {folder}/run/modell.pth; did you mean model.pth?",
        ["MODEL.WEIGHTS", "{folder}/run/modell.pth"],
    ),
    "resume_missing": BadRun(
        "{folder}/last_checkpoint: there is no file {folder}/model_0000004.pth",
        options=["--resume"],
        prepare=_write("last_checkpoint", "model_0000004.pth"),
    ),
    "used_folder": BadRun(
        "OUTPUT_DIR {folder} has the results of an earlier training (losses.jsonl): --resume goes on with it, "
        "--overwrite removes its checkpoints and logs, another OUTPUT_DIR keeps them",
        prepare=_used_folder,
    ),
    "resume_and_overwrite": BadRun(
        "--resume goes on with what --overwrite removes: give one of them",
        options=["--resume", "--overwrite"],
    ),
    "weights_cut": BadRun(
        "checkpoint {folder}/cut.pth cannot be read: it is cut off or damaged",
        ["MODEL.WEIGHTS", "{folder}/cut.pth"],
        prepare=_damage_weights,
    ),
    "weights_flipped": BadRun(
        "checkpoint {folder}/flipped.pth cannot be read: it is damaged: the checksum of its part flipped/data/0 is "
        "wrong",
        ["MODEL.WEIGHTS", "{folder}/flipped.pth"],
        prepare=_flip_a_byte,
    ),
    "weights_nan": BadRun(
        "checkpoint {folder}/nan.pth: a holds values that are not finite",
        ["MODEL.WEIGHTS", "{folder}/nan.pth"],
        prepare=lambda folder: torch.save({"model": {"a": torch.tensor([torch.nan])}}, folder / "nan.pth"),
    ),
    "weights_entry": BadRun(
        "checkpoint {folder}/entry.pth, ema: expected tensors by name",
        ["MODEL.WEIGHTS", "{folder}/entry.pth"],
        prepare=lambda folder: torch.save({"model": {"a": torch.ones(1)}, "ema": 0.9}, folder / "entry.pth"),
    ),
    "weights_format": BadRun(
        "checkpoint {folder}/model.ckpt: expected a file .pth, .pt, .bin, .safetensors",
        ["MODEL.WEIGHTS", "{folder}/model.ckpt"],
        prepare=_write("model.ckpt", ""),
    ),
    "weights_address": BadRun(
        "MODEL.WEIGHTS: expected a file, or an address http:// or https://, got 's3://bucket/model.pth'",
        ["MODEL.WEIGHTS", "s3://bucket/model.pth"],
    ),
    "no_weights": BadRun(
        "MODEL.WEIGHTS: expected a checkpoint to evaluate, got none; TEST.USG.ALLOW_RANDOM_WEIGHTS True evaluates "
        "random weights",
        options=["--eval-only"],
    ),
    "resume_weights": BadRun(
        "checkpoint {folder}/run/model.pth has weights, but no state of a training run: --resume cannot go on from it; "
        "to start from its weights, give it as MODEL.WEIGHTS, without --resume and with another OUTPUT_DIR",
        ["OUTPUT_DIR", "{folder}/run"],
        options=["--resume"],
    ),
    "weights_text": BadRun(
        "checkpoint {folder}/text.pth cannot be read: it is no file of weights, or it is damaged",
        ["MODEL.WEIGHTS", "{folder}/text.pth"],
        prepare=_write("text.pth", "not a checkpoint"),
    ),
    "weights_code": BadRun(
        "checkpoint {folder}/evil.pth cannot be read: it needs posix.getcwd, and only tensors and plain values are "
        "read, nothing that can run code",
        ["MODEL.WEIGHTS", "{folder}/evil.pth"],
        prepare=lambda folder: torch.save({"model": Evil()}, folder / "evil.pth"),
    ),
    "weights_foreign": BadRun(
        "checkpoint {folder}/foreign.pth holds no weights: expected tensors by name, alone or under 'model'",
        ["MODEL.WEIGHTS", "{folder}/foreign.pth"],
        prepare=lambda folder: torch.save({"state_dict": {"a": torch.ones(1)}}, folder / "foreign.pth"),
    ),
    "weights_shape": BadRun(
        "checkpoint {folder}/run/model.pth does not fit the model of this configuration (trained with "
        "{folder}/run/config.yaml): mask_decoder: 2 of another shape (mask_decoder.query_feat.weight (16, 64), the "
        "model's is (20, 64), ...); relation_head.relation_decoder: 1 of another shape "
        "(relation_head.relation_decoder.level_embed.weight (2, 64), the model's is (3, 64)), 18 missing "
        "(relation_head.relation_decoder.layers.2.self_attention.attention.in_proj_weight, ...)",
        [*WEIGHTS, "MODEL.USG.MASK_DECODER.NUM_QUERIES", "20", "MODEL.USG.RELATION_HEAD.NUM_LAYERS", "3"],
    ),
    "weights_names": BadRun(
        "checkpoint {folder}/other/renamed.safetensors does not fit the model of this configuration: "
        "relation_head.rpc: "
        "4 missing (relation_head.rpc.subject_mlp.layers.0.weight, ...), 4 unexpected "
        "(relation_head.rpc.subjects.layers.0.bias, ...)",
        ["MODEL.WEIGHTS", "{folder}/other/renamed.safetensors"],
        prepare=_rename_weights,
    ),
}
