"""PPO in a world with TorchRL: frames, networks and losses stay on one device (extra `torchrl`).

    python examples/train_torchrl.py --world twin --frames 4096

About 15 CPU minutes at its settings.
"""

from __future__ import annotations

import argparse

import torch
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from wm_env.torchrl import SanaWMEnv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--world", default="tiny", help='"tiny", "tiny-pure", "twin" or a checkpoint folder')
parser.add_argument("--envs", type=int, default=8, help="slots of one batched world call")
parser.add_argument("--frames", type=int, default=16_384, help="env steps over all slots")
parser.add_argument("--rollout", type=int, default=32, help="env steps of a slot between updates")
parser.add_argument("--epochs", type=int, default=4, help="passes over a batch")
parser.add_argument("--minibatch", type=int, default=128, help="env steps of an update")
parser.add_argument("--device", default="cpu", help="torch device of world and networks")
settings = parser.parse_args()


class Features(nn.Module):
    """Frames uint8 `(..., 64, 64, 3)` and a goal colour to `(..., 128)`."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            nn.Conv2d(3, 16, 8, 4),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(112),
        )
        self.goal = nn.LazyLinear(16)

    def forward(self, image: Tensor, goal: Tensor) -> Tensor:
        x = self.frames(image.flatten(0, -4).movedim(-1, 1) / 255).unflatten(0, image.shape[:-3])
        goal = self.goal(goal.float().flatten(image.ndim - 3))
        return torch.cat([x, goal], -1).relu()


class Critic(nn.Module):
    """The value of what is seen, from features of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.value = Features(), nn.Linear(128, 1)

    def forward(self, image: Tensor, goal: Tensor) -> Tensor:
        return self.value(self.features(image, goal))


torch.manual_seed(0)
env = SanaWMEnv(
    num_envs=settings.envs, world=settings.world, device=settings.device, task="objectnav",
    max_episode_steps=60,
)  # fmt: skip
env.set_seed(0)
seen = ["image", "goal"]
features = TensorDictModule(Features(), in_keys=seen, out_keys=["features"])
logits = TensorDictModule(nn.Linear(128, env.action_spec.n), in_keys=["features"], out_keys=["logits"])
drawn = ProbabilisticTensorDictModule(
    in_keys=["logits"], out_keys=["action"], distribution_class=torch.distributions.Categorical,
    return_log_prob=True,
)  # fmt: skip
actor = ProbabilisticTensorDictSequential(features, logits, drawn).to(settings.device)
critic = TensorDictModule(Critic(), in_keys=seen, out_keys=["state_value"]).to(settings.device)
start = env.reset()
actor(start.clone()), critic(start.clone())  # lazy layers learn their sizes

advantage = GAE(gamma=0.98, lmbda=0.95, value_network=critic)
loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
optimizer = torch.optim.Adam(loss.parameters(), 5e-4)
batch = settings.envs * settings.rollout
collector = Collector(env, actor, frames_per_batch=batch, total_frames=settings.frames)
for number, data in enumerate(collector, 1):
    for _ in range(settings.epochs):
        with torch.no_grad():
            advantage(data)
        flat = data.reshape(-1)
        for rows in torch.randperm(len(flat)).split(settings.minibatch):
            losses = loss(flat[rows])
            total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
    reward = float(data["next", "reward"].mean())
    print(f"{number * batch} steps: mean reward of a step {reward:.4f}", flush=True)
collector.shutdown()
