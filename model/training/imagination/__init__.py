"""The embedded worlds by one recipe of stages, within a budget of time: see `driver`."""

from wm_env.model.training.imagination.carried import Carried
from wm_env.model.training.imagination.driver import imagine
from wm_env.model.training.imagination.recipe import RECIPE, Recipe, Stage, read_recipe
from wm_env.model.training.imagination.stages import Place, without_memory

__all__ = ["RECIPE", "Carried", "Place", "Recipe", "Stage", "imagine", "read_recipe", "without_memory"]
