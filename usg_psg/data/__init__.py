"""PSG data: reader, registration, mapper, plain dataset and generated scenes."""

from ..images import read_image
from .annotation import reindex_relations
from .panoptic import decode_panoptic_png, encode_panoptic, segment_index_map
from .psg_categories import PSG_PREDICATE_CLASSES, PSG_STUFF_CLASSES, PSG_THING_CLASSES, PSG_VOCABULARY
from .psg_dataset import PSGDataset
from .psg_json import load_psg_json, read_psg_json
from .psg_mapper import PSGDatasetMapper
from .register_psg import bad_record_policy, get_psg_metadata, register_builtin_psg, register_psg, unregister_psg
from .train_loader import PSGTrainLoader, build_psg_train_loader

register_builtin_psg()

__all__ = [
    "PSG_PREDICATE_CLASSES",
    "PSG_STUFF_CLASSES",
    "PSG_THING_CLASSES",
    "PSG_VOCABULARY",
    "PSGDataset",
    "PSGDatasetMapper",
    "PSGTrainLoader",
    "bad_record_policy",
    "build_psg_train_loader",
    "decode_panoptic_png",
    "encode_panoptic",
    "get_psg_metadata",
    "load_psg_json",
    "read_image",
    "read_psg_json",
    "register_builtin_psg",
    "register_psg",
    "reindex_relations",
    "segment_index_map",
    "unregister_psg",
]
