"""The model: importing this package registers its parts with Detectron2."""

from .build import MASK_DECODER_REGISTRY, RELATION_HEAD_REGISTRY
from .mask_decoder import MaskDecoder
from .open_vocab_head import OpenVocabularyHead
from .openclip_convnext import OpenCLIPConvNeXt
from .pixel_decoder import MSDeformAttnPixelDecoder
from .relation_head import RelationHead
from .rpc import RelationProposalConstructor
from .timm_backbone import TimmBackbone
from .usg_par import USGPar

__all__ = [
    "MASK_DECODER_REGISTRY",
    "RELATION_HEAD_REGISTRY",
    "MSDeformAttnPixelDecoder",
    "MaskDecoder",
    "OpenCLIPConvNeXt",
    "OpenVocabularyHead",
    "RelationHead",
    "RelationProposalConstructor",
    "TimmBackbone",
    "USGPar",
]
