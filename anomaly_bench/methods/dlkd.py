"""DLKD: a coarse decoder rebuilds the teacher's features from noisy ones, and a second learner refines them.

Paper       Li et al., "A Coarse-Precise Refinement Learning-Based Knowledge Distillation Network for Anomaly
            Detection" (DLKD), ICIC 2025.
Flow        x -> frozen teacher -> T_E^1..3;   x -> its stem + noise -> its stages -> F_E^1..3     (training only)
            F_E (at test T_E) -> MFFM -> z -> up, FRM -> F_CS^3 -> up, FRM -> F_CS^2 -> up, FRM -> F_CS^1    eq. 1-4
            F_PS = Precise(F_CS (1 - M)) M + F_CS (1 - M), M of T_E and F_CS                       eq. 5
Map         M_P^k(h, w) = 1 - cos(T_E^k(h, w), F_PS^k(h, w)); score_from=coarse has F_CS for F_PS     eq. 7
Loss        L = L_CKD + L_PKD + alpha L_con + beta L_AS                                            eq. 6
            L_CKD = sum_k mean_hw M_C^k, L_PKD = sum_k mean_hw M_P^k                               eq. 8
            L_con = 1/K sum_k max(0, cos(F_E^k, F_PS^k) - f)                                       eq. 9
            L_AS = sum over pairs of mean_hw (M_i upsampled - M_j)^2                               eq. 10
Shapes      N images of 256x256, resnet18: T_E F_E F_CS F_PS (N, 64, 64, 64) (N, 128, 32, 32) (N, 256, 16, 16),
            z (N, 512, 8, 8), M (N, 64, 64) (N, 32, 32) (N, 16, 16)
Departures  the paper names its parts and leaves most of their insides open: see layers/frm.py, frfn.py and vss.py. MFFM
            is taken as RD's bottleneck, the scan as VM-UNet's four-way one. With the precise learner off, L_con and
            L_AS are of F_CS. Mixed precision by default.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.layers.blocks import ResidualBlock, initialise, mirror_plan
from anomaly_bench.layers.bottleneck import OneClassBottleneck
from anomaly_bench.layers.distance import LossForm, cosine_map, stage_sum
from anomaly_bench.layers.frm import FRM, Patches, PreciseRefinement, refine
from anomaly_bench.layers.pseudo_anomaly import NoiseMode, add_noise, contrast_loss, noisy_count, similarity_loss
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.options import Ours, Stated, check_idle, check_image_size, check_not_negative
from anomaly_bench.methods.protocol import Protocol

PROTOCOL = Protocol(
    teacher="resnet18.tv_in1k",
    epochs=200,  # not stated; RD's
    batch_size=8,
    lr=5e-3,  # of MFFM and coarse decoder; the precise learner's is an option
    betas=(0.5, 0.999),  # not stated; RD's
    weight_decay=1e-4,
    image_size=256,
    precision="bf16-mixed",  # not stated
)


# Options that mean nothing where a module or a loss is off.
DEPENDENT = {
    "gfrb": ("d_state", "expand"),
    "prl": ("lr_refinement", "detach_map"),
    "contrast_weight": ("margin",),
    "noise_std": ("noise_at", "noise_mode"),  # and not noise_share, which L_con goes by
}


class DualLearning(DistillationMethod):
    """A coarse decoder and a precise learner rebuild the teacher's clean features from noisy ones.

    Args:
        teacher: the frozen network.
        protocol: learning rate and the like.
        gfrb: whether the decoder's modules have their global block (Table 4).
        lfrb: whether they have their local block (Table 4).
        prl: whether there is a precise refinement learner (Table 4).
        contrast_weight: alpha of eq. 6; 0 leaves L_con out (Table 5).
        similarity_weight: beta of eq. 6; 0 leaves L_AS out (Table 5).
        lr_refinement: learning rate of the precise learner.
        noise_std: intensity of the noise.
        noise_at: the teacher's layer whose output gets it.
        noise_mode: whether the intensity is absolute or relative to each sample's own deviation.
        noise_share: of the samples of a batch that get noise.
        margin: f of eq. 9.
        d_state: state size of the scan.
        expand: inner channels of the scan per channel.
        ffn_ratio: hidden channels of the feed-forward networks per channel.
        patches: what the local blocks take for patches: a 2x2 grid, four groups of channels, or none.
        detach_map: whether no gradient flows through eq. 5's M.
        loss_form: one angle a position ("pixel") or one for a whole stage ("global"); L_con's cosine follows it.
    """

    revision = 1
    protocol = PROTOCOL
    stated = ("teacher", "batch_size", "lr", "weight_decay", "image_size")
    maps = ("stage", "coarse")

    def __init__(
        self,
        teacher: Teacher,
        protocol: Protocol = PROTOCOL,
        *,
        gfrb: Stated[bool] = True,
        lfrb: Stated[bool] = True,
        prl: Stated[bool] = True,
        contrast_weight: Stated[float] = 0.02,
        similarity_weight: Stated[float] = 0.05,
        lr_refinement: Stated[float] = 2e-3,
        noise_std: Stated[float] = 0.2,
        noise_at: Ours[Literal["stem", "layer1"]] = "stem",  # "shallow features"; layer1's are a target themselves
        noise_mode: Ours[NoiseMode] = "absolute",  # "intensity"
        noise_share: Ours[float] = 1.0,  # not stated
        margin: Ours[float] = 0.5,  # not stated; RD++ has 0.5 for the same loss
        d_state: Ours[int] = 16,  # not stated; VM-UNet's, as are expand and the four directions
        expand: Ours[int] = 2,  # not stated
        ffn_ratio: Ours[int] = 2,  # not stated; AST's 4 would be costly on ResNet18's wide maps
        patches: Ours[Patches] = "grid",  # neither number nor kind stated
        detach_map: Ours[bool] = True,  # not stated; else the loss can also fall by shaping M
        loss_form: Stated[LossForm] = "pixel",  # eq. 8; for eq. 9, which does not say, it is our choice
    ) -> None:
        super().__init__(teacher, protocol)
        self.weights, self.lr_refinement = (contrast_weight, similarity_weight), lr_refinement
        self.noise_std, self.noise_at, self.noise_mode = noise_std, noise_at, noise_mode
        self.noise_share, self.margin, self.detach_map, self.loss_form = noise_share, margin, detach_map, loss_form
        check_teacher(teacher, noise_at, patches)
        plan, widths = mirror_plan(teacher.architecture), teacher.widths
        self.mffm = OneClassBottleneck(widths, plan)
        module = partial(
            FRM, gfrb=gfrb, lfrb=lfrb, patches=patches, ffn_ratio=ffn_ratio, d_state=d_state, expand=expand
        )
        channels = [2 * widths[2], *reversed(widths)]  # z, then stages 3, 2, 1
        self.upsampling = nn.ModuleList(ResidualBlock(a, b, "up", plan) for a, b in itertools.pairwise(channels))
        initialise(self.upsampling)  # not stated; RD's
        self.reconstruction = nn.ModuleList(module(width) for width in reversed(widths))
        refined = widths if prl else []
        self.precise = nn.ModuleList(PreciseRefinement(w, patches=patches, ffn_ratio=ffn_ratio) for w in refined)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        check_image_size(protocol.image_size)
        for name in ("contrast_weight", "similarity_weight", "noise_std"):
            check_not_negative(name, options[name])
        for switch, names in DEPENDENT.items():
            if not options[switch]:
                check_idle(cls, options, names, f"{switch}={'false' if options[switch] is False else '0'}")
        if not options["noise_std"] and not options["contrast_weight"]:
            check_idle(cls, options, ["noise_share"], "noise_std=0 and contrast_weight=0")
        if not options["lfrb"] and not options["prl"]:
            check_idle(cls, options, ["patches"], "lfrb=false and prl=false")
            if not options["gfrb"]:
                check_idle(cls, options, ["ffn_ratio"], "gfrb=false, lfrb=false and prl=false")
        for name in ("d_state", "expand", "ffn_ratio", "lr_refinement"):
            if options[name] <= 0:
                raise UserError(f"{name} must be above 0, not {options[name]:g}.")
        if not 0 < options["noise_share"] <= 1:
            raise UserError(f"noise_share must be above 0 and at most 1, not {options['noise_share']:g}.")
        if not -1 <= options["margin"] <= 1:
            raise UserError(f"margin must be a cosine, from -1 to 1, not {options['margin']:g}.")

    def pseudo_anomalous(self, images: Tensor) -> list[Tensor]:
        """F_E: the teacher's features of images whose shallow features got noise (sec. 2.1)."""

        def noisy(features: Tensor) -> Tensor:
            generator = self.noise.generator(features.device)
            return add_noise(features, self.noise_std, self.noise_mode, self.noise_share, generator)

        return self.teacher.forward_changed(images, self.noise_at, noisy)

    def coarse_features(self, features: Sequence[Tensor]) -> list[Tensor]:
        """F_CS of stages 1, 2, 3, from the teacher's features, noisy or not (eq. 1-4)."""
        x = self.mffm(features)  # z
        decoded = []
        for upsample, reconstruct in zip(self.upsampling, self.reconstruction, strict=True):
            x = reconstruct(upsample(x))
            decoded.append(x)
        return decoded[::-1]

    def precise_features(self, teacher_features: Sequence[Tensor], coarse: Sequence[Tensor]) -> list[Tensor]:
        """F_PS, eq. 5; F_CS where there is no precise learner."""
        if not self.precise:
            return list(coarse)
        triples = zip(teacher_features, coarse, self.precise, strict=True)
        return [refine(c, cosine_map(t, c), precise, detach=self.detach_map) for t, c, precise in triples]

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """F_PS at test, without noise; the student never sees `images`."""
        return self.precise_features(teacher_features, self.coarse_features(teacher_features))

    def training_terms(self, images: Tensor, teacher_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms of eq. 6; the targets are the clean T_E."""
        anomalous = self.pseudo_anomalous(images)
        coarse = self.coarse_features(anomalous)
        return self.dual_loss(teacher_features, anomalous, coarse, self.precise_features(teacher_features, coarse))

    def dual_loss(
        self,
        teacher_features: Sequence[Tensor],
        anomalous: Sequence[Tensor],
        coarse: Sequence[Tensor],
        precise: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The terms of eq. 6 by name, weighted; each argument holds K tensors (N, C, H, W) of equal shapes."""
        terms = {"coarse": stage_sum(teacher_features, coarse, self.loss_form)}  # L_CKD
        if self.precise:
            terms["precise"] = stage_sum(teacher_features, precise, self.loss_form)  # L_PKD
        alpha, beta = self.weights
        if alpha:
            count = noisy_count(len(precise[0]), self.noise_share)
            noisy, refined = ([features[:count] for features in stages] for stages in (anomalous, precise))
            terms["contrast"] = alpha * contrast_loss(noisy, refined, self.margin, self.loss_form)  # L_con
        if beta:
            maps = [cosine_map(t, p) for t, p in zip(teacher_features, precise, strict=True)]
            terms["similarity"] = beta * similarity_loss(maps)  # L_AS
        return terms

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """`stage<k>` of F_PS and `coarse<k>` of F_CS, eq. 7."""
        teacher_features = self.teacher(images)
        coarse = self.coarse_features(teacher_features)
        precise = self.precise_features(teacher_features, coarse)
        return self.named_maps("stage", teacher_features, precise) | self.named_maps("coarse", teacher_features, coarse)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """MFFM and coarse decoder, the precise learner at its own rate, the scan's A and D without decay."""
        coarse = [*self.mffm.parameters(), *self.upsampling.parameters(), *self.reconstruction.parameters()]
        # Decay on A_log or D would pull decay rates towards 1; Mamba's code excludes them, the paper does not say.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in coarse if not getattr(p, "no_weight_decay", False)]},
            {"params": [p for p in coarse if getattr(p, "no_weight_decay", False)], "weight_decay": 0.0},
            {"params": list(self.precise.parameters()), "lr": self.lr_refinement},
        ]
        return [group for group in groups if group["params"]]


def check_teacher(teacher: Teacher, noise_at: str, patches: Patches) -> None:
    """Raise UserError where noise cannot be put into the teacher, or the patches do not fit its widths."""
    try:
        teacher.forward_changed(torch.zeros(1, 3, 64, 64), noise_at, lambda features: features)
    except LookupError as error:
        raise UserError(
            f"no {noise_at} to add noise to is known in teacher {teacher.architecture}; choose a ResNet or an "
            "EfficientNet with --set teacher=NAME, or --set noise_at=layer1."
        ) from error
    if patches == "channels" and any(width % 4 or width < 16 for width in teacher.widths):
        raise UserError(
            f"patches=channels needs stages of 16, 20, 24 ... channels, not {teacher.widths} as teacher "
            f"{teacher.architecture} has; use --set patches=grid, or another teacher."
        )


METHOD = DualLearning
