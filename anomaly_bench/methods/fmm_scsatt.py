"""FMM+SCSAtt: reverse distillation with an attentive bottleneck, and masked features that the student regenerates.

Paper       Qi, Chai and Ye, "Unsupervised Industrial Anomaly Detection Based on Feature Mask Generation and Reverse
            Distillation", Chinese Journal of Information Fusion 1(2), 2024.
Flow        x -> frozen teacher -> F_E^1..3 -> MSFF -> SCSAtt -> OCE -> F_B -> decoder -> F_D^1..3       eq. 1
            F_D^i -> 1x1 -> mask (eq. 11) -> 3x3, ReLU, 3x3 -> F_G^i, one module a stage      after eq. 11
SCSAtt      A (default): MSFF's 1x1 -> SCConv -> 1x1 -> SimAM;   B: SCConv -> MSFF's 1x1 -> SimAM;
            C: MSFF's 1x1 -> SimAM -> SCConv                     SCConv eq. 2-8, SimAM eq. 9-10
Map         M^i(h, w) = 1 - cos(F_E^i(h, w), F_G^i(h, w))                                             eq. 12
Loss        L_kd = sum_i mean_hw M^i                             eq. 13; loss_form="pixel" (default)
            L = L_kd + lambda_R sum w^2                          eq. 14, as Adam's weight decay of 2 lambda_R
Shapes      N images of 256x256, wide_resnet50_2: F_E F_D F_G (N, 256, 64, 64) (N, 512, 32, 32) (N, 1024, 16, 16),
            concatenated (N, 3072, 16, 16), after MSFF and SCSAtt (N, 1024, 16, 16), F_B (N, 2048, 8, 8)
Departures  no early stopping: MVTec AD has no validation set, and the paper also names 200 epochs; the last one counts.
            SCSAtt's order is ours, the figure that shows it was not to be had. With FMM off the decoder's features are
            compared; with SCConv off its 1x1 goes too. With everything off, what is left is RD with MSFF's 1x1, this
            paper's loss form, learning rate and weight decay. Mixed precision by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from anomaly_bench.errors import UserError
from anomaly_bench.layers.blocks import initialise, mirror_plan, pointwise
from anomaly_bench.layers.bottleneck import MultiScaleFusion, one_class_embedding
from anomaly_bench.layers.decoder import ReverseDecoder
from anomaly_bench.layers.distance import LossForm, stage_sum
from anomaly_bench.layers.regeneration import Regeneration, random_mask
from anomaly_bench.layers.scconv import Gate, SCConv
from anomaly_bench.layers.simam import SimAM
from anomaly_bench.layers.teacher import Teacher
from anomaly_bench.methods.base import DistillationMethod
from anomaly_bench.methods.options import Ours, Stated, check_idle, check_image_size, check_share, check_stages
from anomaly_bench.methods.protocol import Protocol

Order = Literal["A", "B", "C"]
# Options that mean nothing where a module is off.
DEPENDENT = {
    "fmm": ("mask_rate", "mask_at_test", "mask_rescale"),
    "scconv": ("scsatt_order", "gate"),
    "simam": ("simam_lambda",),
}

PROTOCOL = Protocol(
    teacher="wide_resnet50_2.tv_in1k",
    epochs=200,
    batch_size=16,
    lr=1e-3,
    betas=(0.5, 0.999),  # not stated; RD's
    weight_decay=2e-5,  # eq. 14's lambda_R is not stated: 1e-5, whose gradient 2 lambda_R w is a decay of 2e-5
    image_size=256,
    precision="bf16-mixed",  # not stated
)


def scsatt(
    fused: int, width: int, *, order: Order, scconv: bool, simam_lambda: float | None, gate: Gate
) -> nn.Sequential:
    """MSFF's 1x1 convolution and the SCSAtt module, from the concatenated stages to OCE's input.

    Args:
        fused: channels of the concatenated stages.
        width: channels that MSFF's 1x1 gives.
        order: see the head of this file.
        scconv: whether SCConv is there.
        simam_lambda: eq. 9's lambda, None for no SimAM.
        gate: of SCConv's spatial unit.
    """
    attention = [] if simam_lambda is None else [SimAM(simam_lambda)]
    if not scconv:
        return nn.Sequential(pointwise(fused, width), *attention)

    def reconstruction(channels: int) -> nn.Sequential:
        # SCConv has neither norm nor activation of its own, and the paper names none after it: BN and ReLU are ours.
        return nn.Sequential(SCConv(channels, gate=gate), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

    orders = {
        "A": lambda: [pointwise(fused, width), reconstruction(width), pointwise(width, width), *attention],
        "B": lambda: [reconstruction(fused), pointwise(fused, width), *attention],
        "C": lambda: [pointwise(fused, width), *attention, reconstruction(width)],
    }
    return nn.Sequential(*orders[order]())


def check_divisible(channels: int, order: Order, teacher: Teacher) -> None:
    """Raise UserError where SCConv cannot halve and group what it gets."""
    if channels % 8:
        narrower = "" if order == "B" else f"--set fusion_width={channels + -channels % 8}, "
        raise UserError(
            f"SCConv needs a multiple of 8 channels, not the {channels} that teacher {teacher.architecture} and "
            f"scsatt_order={order} give it; use {narrower}--set scconv=false or another teacher."
        )


class FeatureMaskGeneration(DistillationMethod):
    """A student behind an attentive bottleneck rebuilds the teacher's features although many positions are masked.

    Args:
        teacher: the frozen network.
        protocol: learning rate and the like.
        fmm: whether features are masked and regenerated (Table 5).
        scconv: whether SCSAtt has its SCConv (Table 6).
        simam: whether SCSAtt has its SimAM (Table 6).
        fused_stages: the teacher's stages that are fused and compared (Table 7).
        mask_rate: lambda_M of eq. 11.
        mask_at_test: mask at test as well, every image by one fixed mask a stage.
        mask_rescale: divide what a mask leaves by 1 - mask_rate.
        scsatt_order: see the head of this file.
        gate: what SCConv's spatial unit multiplies positions under its threshold with.
        simam_lambda: eq. 9's lambda.
        fusion_width: channels after MSFF's 1x1, None for those of the deepest stage.
        loss_form: one angle a position ("pixel") or one for a whole stage ("global").
    """

    revision = 1
    protocol = PROTOCOL
    stated = ("teacher", "epochs", "batch_size", "lr", "image_size")

    def __init__(
        self,
        teacher: Teacher,
        protocol: Protocol = PROTOCOL,
        *,
        fmm: Stated[bool] = True,
        scconv: Stated[bool] = True,
        simam: Stated[bool] = True,
        fused_stages: Stated[tuple[int, ...]] = (1, 2, 3),
        mask_rate: Ours[float] = 0.5,  # not stated; within AST-MFR's best, 0.3 and 0.5
        mask_at_test: Ours[bool] = False,  # not stated; off as in AST-MFR, for scores should not be drawn by lot
        mask_rescale: Ours[bool] = False,  # not stated; off as in masked generative distillation
        scsatt_order: Ours[Order] = "A",  # not stated in the text
        gate: Ours[Gate] = "soft",  # the text reads "hard", under which eq. 3's gammas get no gradient
        simam_lambda: Ours[float] = 1e-4,  # not stated; the default of SimAM's authors
        fusion_width: Ours[int | None] = None,  # not stated; "matches the size of the last feature"
        loss_form: Stated[LossForm] = "pixel",
    ) -> None:
        super().__init__(teacher, protocol)
        plan, widths = mirror_plan(teacher.architecture), teacher.widths
        self.stages, self.loss_form = tuple(fused_stages), loss_form
        self.mask_rate, self.mask_at_test, self.mask_rescale = mask_rate, mask_at_test, mask_rescale
        self.fusion = MultiScaleFusion(widths, fused_stages)
        width = fusion_width or widths[-1]
        if scconv:
            check_divisible(self.fusion.out_channels if scsatt_order == "B" else width, scsatt_order, teacher)
        lam = simam_lambda if simam else None
        self.attention = scsatt(
            self.fusion.out_channels, width, order=scsatt_order, scconv=scconv, simam_lambda=lam, gate=gate
        )
        self.embedding = one_class_embedding(width, 2 * widths[-1], plan)
        for part in (self.fusion, self.attention, self.embedding):
            initialise(part)  # not stated; RD's
        self.decoder = ReverseDecoder(widths, plan, fused_stages)
        generated = [widths[stage - 1] for stage in fused_stages] if fmm else []
        self.generation = nn.ModuleList(Regeneration(channels, channels, align=True) for channels in generated)

    @classmethod
    def check(cls, protocol: Protocol, options: Mapping[str, Any]) -> None:
        check_image_size(protocol.image_size)
        check_stages("fused_stages", options["fused_stages"])
        check_share("mask_rate", options["mask_rate"])
        if options["fusion_width"] is not None and options["fusion_width"] < 1:
            raise UserError(f"fusion_width must be at least 1, or null, not {options['fusion_width']}.")
        if options["simam_lambda"] <= 0:
            raise UserError(f"simam_lambda must be above 0, not {options['simam_lambda']:g}.")
        for switch, names in DEPENDENT.items():
            if not options[switch]:
                check_idle(cls, options, names, f"{switch}=false")
        if not options["mask_rate"]:
            check_idle(cls, options, ["mask_at_test", "mask_rescale"], "mask_rate=0")

    def student_features(self, images: Tensor, teacher_features: Sequence[Tensor]) -> list[Tensor]:
        """F_G of the fused stages; the student never sees `images`."""
        z = self.embedding(self.attention(self.fusion(teacher_features)))  # F_B, eq. 1
        decoded = self.decoder(z)  # F_D
        if not self.generation:
            return decoded
        triples = zip(self.generation, decoded, self.stages, strict=True)
        return [generate(features, self.mask(features, stage)) for generate, features, stage in triples]

    def mask(self, features: Tensor, stage: int) -> Tensor | None:
        """M_A of eq. 11 for one stage, (N, 1, H, W); None where nothing is masked."""
        if self.training:
            mask = random_mask(features, self.mask_rate, self.noise.generator(features.device))
        elif self.mask_at_test:
            # One mask for every image, so that a score depends on neither the batch nor its neighbours.
            # Drawn on the CPU: another device must not give other scores.
            fixed = self.noise.fixed("cpu", stage)
            mask = random_mask(features[:1].cpu(), self.mask_rate, fixed).to(features.device)
        else:
            return None
        return mask / (1 - self.mask_rate) if self.mask_rescale else mask

    def loss(self, teacher_features: Sequence[Tensor], student_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """L_kd of eq. 13; eq. 14's other term is the optimiser's weight decay."""
        return {"distillation": stage_sum(teacher_features, student_features, self.loss_form)}


METHOD = FeatureMaskGeneration
