"""A data set of one's own: any map-style `Dataset`, here of digits."""

import torch
from sklearn.datasets import load_digits

import quickstudy as qs


class Digits(torch.utils.data.Dataset):
    """The user's own: pictures and labels."""

    def __init__(self) -> None:
        self.x, self.y = load_digits(return_X_y=True)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(self.x[i].reshape(1, 8, 8) / 16, dtype=torch.float32), int(self.y[i])


pool = qs.ClassPool.from_dataset(Digits(), split={"train": range(6), "test": range(6, 10)})
learner = qs.Prototypical(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32)))
qs.fit(learner, qs.Episodes(pool.split("train"), qs.Setting(5, 1, 5)), 20)
print(qs.evaluate(learner, qs.Episodes(pool.split("test"), qs.Setting(4, 1, 5)), 20))
